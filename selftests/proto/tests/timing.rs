// SPDX-License-Identifier: GPL-2.0
//! The timings that a portion is formatted with, at their own bounds [R10, R11].
//!
//! `time.rs` says how long a lease must be so that it survives `x` lost heartbeats in a row. Here
//! commands take exactly as long as stated, and every combination of losses is tried at several
//! phases. With the stated lease the owner keeps it; with one nanosecond less there is a run in
//! which the owner loses it. `PHASES=n` sets the number of phases (2).

mod world;

use dm_lease_proto::proto::time::Timing;
use world::{Config, Exact, Losses, Lost, World, MS};

/// The longest heartbeat periods, in milliseconds, from shorter than a write to a minute.
const PERIODS_MS: [u64; 13] = [
    10, 50, 99, 100, 117, 150, 200, 250, 300, 500, 1_000, 5_000, 60_000,
];

/// Writes and reads, in milliseconds: the defaults of `format`, and pairs in which one takes much
/// longer than the other.
const COMMANDS_MS: [(u64, u64); 3] = [(100, 100), (200, 30), (30, 200)];

/// The parts of `count` heartbeats in a row that may be lost.
fn losses(count: u32) -> Vec<Vec<Lost>> {
    let longer = |kinds: Vec<Lost>| {
        [Lost::Write, Lost::Read, Lost::Look].map(|kind| [kinds.clone(), vec![kind]].concat())
    };
    let all = (0..count).fold(vec![Vec::new()], |all, _| {
        all.into_iter().flat_map(longer).collect()
    });
    // A read of the own blocks follows only a write, or another such read, that was lost.
    let is_real = |kinds: &Vec<Lost>| {
        let before = [Lost::Read].into_iter().chain(kinds.iter().copied());
        let mut pairs = before.zip(kinds);
        pairs.all(|(before, &kind)| kind != Lost::Look || before != Lost::Read)
    };
    all.into_iter().filter(is_real).collect()
}

fn phases() -> u64 {
    let text = std::env::var("PHASES").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// The timings that `format` makes of these numbers, in milliseconds, without rounding.
fn timing(period_ms: u64, commands_ms: (u64, u64), lost_heartbeats: u32) -> Timing {
    let mut timing = Timing {
        lease_ns: 0,
        window_ns: 0,
        device_delay_ns: 1_000 * MS,
        drift_ppm: 1_000,
        lost_heartbeats,
        period_max_ns: period_ms * MS,
        error_report_ns: period_ms * MS,
        write_ns: commands_ms.0 * MS,
        read_ns: commands_ms.1 * MS,
        jitter_ns: 0,
    };
    set_lease(&mut timing, 0);
    timing
}

/// Sets the shortest lease less `less_ns`, and the shortest window for it.
fn set_lease(timing: &mut Timing, less_ns: u64) {
    timing.lease_ns = timing.needed_lease_ns(timing.period_max_ns) - less_ns;
    timing.window_ns = timing.needed_window_ns().max(timing.claim_ns() + 1);
}

/// One controller whose commands take exactly as long as stated.
fn config(timing: Timing, members: u8) -> Config {
    Config {
        timing,
        period_ns: vec![timing.period_max_ns],
        exact: Some(Exact {
            write_ns: timing.write_ns,
            read_ns: timing.read_ns,
            error_ns: timing.error_report_ns,
            late_ns: timing.jitter_ns,
        }),
        ..Config::healthy(1, members)
    }
}

fn is_valid(world: &World) -> bool {
    world.is_valid(0)
}

/// A world in which the owner has its lease and keeps it; `None` if the owner loses it.
fn owned(config: Config) -> Option<World> {
    let timing = config.timing;
    // The controller listens twice, waits for the next heartbeat, claims, and heartbeats at least
    // twice.
    let round_ns = timing.write_ns + timing.read_ns + timing.jitter_ns;
    let step_ns = timing.period_max_ns.max(round_ns);
    let within_ns = 2 * timing.join_listen_ns() + timing.claim_ns() + 8 * step_ns;
    let mut world = World::new(config);
    let came = world.run_until(within_ns, is_valid).expect("it is safe");
    let kept = came && stays(&mut world, 20 * step_ns + timing.lease_ns);
    kept.then_some(world)
}

/// Whether the owner keeps its lease for `for_ns`.
fn stays(world: &mut World, for_ns: u64) -> bool {
    !world
        .run_until(for_ns, |w| !is_valid(w))
        .expect("it is safe")
}

/// The losses that cost the owner its lease, or `None`.
fn costly(config: &Config) -> Option<(u64, Vec<Lost>)> {
    let timing = config.timing;
    for phase in 0..phases() {
        for kinds in losses(timing.lost_heartbeats) {
            let Some(mut world) = owned(config.clone()) else {
                return Some((phase, Vec::new()));
            };
            let hb = world.hosts[0].controller.as_ref().unwrap().heartbeats();
            world.losses = Losses::new(hb + 1 + phase, &kinds);
            if !stays(&mut world, 2 * timing.lease_ns + 8 * timing.period_max_ns) {
                return Some((phase, kinds));
            }
        }
    }
    None
}

/// All timings whose bound is tested.
fn all_timings() -> Vec<Timing> {
    let mut all = Vec::new();
    for lost in 0..=3 {
        for period_ms in PERIODS_MS {
            for commands_ms in COMMANDS_MS {
                all.push(timing(period_ms, commands_ms, lost));
            }
        }
    }
    // Errors that are reported long before the next period, and long after it.
    for lost in 1..=3 {
        for (period_ms, error_ms) in [(1_000, 50), (300, 150), (70, 100), (100, 2_000)] {
            for commands_ms in COMMANDS_MS {
                let mut it = timing(period_ms, commands_ms, lost);
                it.error_report_ns = error_ms * MS;
                set_lease(&mut it, 0);
                all.push(it);
            }
        }
    }
    all
}

#[test]
fn r11_as_many_lost_heartbeats_as_stated_never_cost_the_lease() {
    for timing in all_timings() {
        assert_eq!(timing.validate(), Ok(()));
        for members in [1, 3] {
            let costly = costly(&config(timing, members));
            assert_eq!(costly, None, "{members} members, {timing:?}");
        }
    }
}

/// The timings of `format` with only the period and `x` given: with the default jitter, whole
/// milliseconds, and every heartbeat as late as the jitter allows.
#[test]
fn r11_the_timings_of_format_survive_late_and_lost_heartbeats() {
    for lost in 0..=3 {
        for period_ms in PERIODS_MS {
            let mut timing = timing(period_ms, (100, 100), lost);
            timing.jitter_ns = 50 * MS;
            set_lease(&mut timing, 0);
            timing.lease_ns = timing.lease_ns.div_ceil(MS) * MS;
            timing.window_ns = timing.needed_window_ns().div_ceil(MS) * MS;
            assert_eq!(timing.validate(), Ok(()));
            assert_eq!(costly(&config(timing, 1)), None, "{timing:?}");
        }
    }
}

/// A lease that is one nanosecond shorter is too short, so the bound is not looser than necessary.
/// If no heartbeat may be lost, the bound also covers one read of the own blocks of a member, and
/// is longer by one read.
#[test]
fn r11_a_lease_one_nanosecond_shorter_is_lost() {
    for mut timing in all_timings() {
        let spare_ns = match timing.lost_heartbeats {
            0 => timing.read_ns,
            _ => 0,
        };
        set_lease(&mut timing, spare_ns + 1);
        let costly = costly(&config(timing, 1));
        assert!(costly.is_some(), "{timing:?}");
    }
}

/// The rule of the first version, `(2 + x) * max(P, t_err) + d_w + d_r`: one lost heartbeat cost
/// the lease, and a portion with a short period was never owned.
#[test]
fn r11_the_first_rule_was_too_weak() {
    let old = |period_ms: u64| {
        let mut timing = timing(period_ms, (100, 100), 1);
        timing.lease_ns = 3 * timing.period_max_ns + timing.write_ns + timing.read_ns + 1;
        timing.window_ns = timing.needed_window_ns();
        timing
    };
    for period_ms in [100, 150, 250, 500, 60_000] {
        let timing = old(period_ms);
        assert!(costly(&config(timing, 1)).is_some(), "{period_ms}");
        let shortfall = timing.shortfall().expect("it is too short");
        assert_eq!(shortfall.is_hopeless, period_ms < 134, "{shortfall:?}");
        assert_eq!(timing.check(), Ok(()), "it can be opened");
    }
    let hopeless = old(10);
    assert!(owned(config(hopeless, 1)).is_none());
}
