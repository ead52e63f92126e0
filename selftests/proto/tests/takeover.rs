// SPDX-License-Identifier: GPL-2.0
//! How long no controller can write: takeovers and hand-overs in simulated time, many rounds each.
//!
//! A takeover is measured from the old owner's last completed mailbox write to the first
//! acknowledged write of the new one, which is one command after its lease, for a client that tries
//! all the time. A hand-over is measured from the moment when the old owner's last operation
//! has come back. Rounds differ in the phases of heartbeats and faults, and in the clocks.
//!
//! Where all commands take the same time, every duration is a number of periods and of commands
//! one after the other, so what the bars allow in both is exact; where they differ, the longest
//! counts. The portions are such as an NVMe device has them: `d_max` 2 ms.
//!
//! `ROUNDS=n` runs more of them (100), `MINUTES=n` looks longer for false takeovers (10);
//! with `--nocapture` the tables are printed (`make bench-takeover`).

mod world;

use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::controller::Command;
use dm_lease_proto::proto::time::Timing;
use dm_lease_proto::proto::words::status::{Reason, Role};
use std::collections::BTreeSet;
use world::{Clock, Config, Rng, World, MS};

const SECOND: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * SECOND;

/// An ordinary command.
const IO: u64 = MS;

/// From a tenth of what the fastest plain-disk peer has to what slow disks need.
const WINDOWS_MS: [u64; 7] = [150, 300, 600, 1_000, 2_000, 5_000, 20_000];

/// What a world remembers of longer ones would not fit into the memory.
const PIECE_MINUTES: u64 = 5;

/// What a takeover may send to one member, from its first ballot to its lease.
const COMMANDS: usize = 16;

const OLD: usize = 0;
const NEW: usize = 1;

/// The timings of an NVMe portion with this window: a fifth of it for what the device may hold
/// back, two heartbeats may be lost, and the longest period that leaves.
fn timing(window_ns: u64) -> Timing {
    let mut timing = Timing {
        lease_ns: 0,
        window_ns,
        device_delay_ns: window_ns / 5,
        drift_ppm: 500,
        lost_heartbeats: 2,
        period_max_ns: 0,
        error_report_ns: 0,
        write_ns: 2 * MS,
        read_ns: 2 * MS,
        jitter_ns: 5 * MS,
    };
    let drift = u64::from(timing.drift_ppm);
    let lease_ns = window_ns - timing.device_settle_ns();
    timing.lease_ns = lease_ns - lease_ns * 2 * drift / 1_000_000 - 1;
    timing.period_max_ns = (timing.lease_ns - 24 * MS - 1) / 4;
    timing.error_report_ns = timing.period_max_ns;
    timing.validate().expect("the timings are safe");
    timing
}

fn config(window_ns: u64, members: u8, seed: u64) -> Config {
    let timing = timing(window_ns);
    let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let drift = u64::from(timing.drift_ppm);
    let clocks = (0..2).map(|_| Clock {
        offset_ns: rng.below(1 << 50),
        rate_ppm: rng.between(0, 2 * drift) as i64 - drift as i64,
    });
    Config {
        seed,
        clocks: clocks.collect(),
        timing,
        period_ns: vec![timing.period_max_ns; 2],
        io_ns: (IO, IO),
        ..Config::healthy(2, members)
    }
}

/// Runs until `done`; fails when that takes longer than `at_most_ns`.
fn until(world: &mut World, at_most_ns: u64, done: impl Fn(&World) -> bool) {
    match world.run_until(at_most_ns, done) {
        Ok(true) => {}
        Ok(false) => panic!("it never came\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// A world in which the one owns, the other one may follow, and a random part of a period has gone.
fn owned(config: Config) -> World {
    let (window_ns, period_ns) = (config.timing.window_ns, config.period_ns[OLD]);
    let mut world = World::new(config);
    until(&mut world, 10 * window_ns, |w| w.is_valid(OLD));
    until(&mut world, 10 * window_ns, |w| {
        w.role(NEW) == Role::Secondary
    });
    let rest_ns = 2 * window_ns + world.rng.below(period_ns);
    let valid = world.run_until(rest_ns, |w| !w.is_valid(OLD));
    assert!(!valid.expect("healthy hosts are safe"));
    world
}

/// What a round took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pause {
    /// All of it, the first acknowledged write included.
    took_ns: u64,
    /// Commands of the new owner one after the other, from the first of its claim to the lease.
    steps: usize,
    /// Commands of the new owner to the member that got the most, in the same time.
    commands: usize,
}

/// Waits for the lease of the new owner, after the old one's last sign of life at `from_ns`.
fn follow(world: &mut World, from_ns: impl Fn(&World) -> u64) -> Pause {
    let at_most_ns = 3 * world.config.timing.window_ns;
    world.issues = Some(Vec::new());
    until(world, at_most_ns, |w| w.role(NEW) == Role::Claiming);
    let claimed_ns = world.now_ns;
    until(world, at_most_ns, |w| w.is_valid(NEW));
    let issues = world.issues.iter().flatten();
    // The last step is the owner's next heartbeat, which begins with its lease.
    let in_claim = claimed_ns..world.now_ns;
    let claim: Vec<_> = issues
        .filter(|(host, _, at_ns)| *host == NEW && in_claim.contains(at_ns))
        .collect();
    // Commands to different members, or registers, that go out together are one step.
    let steps: BTreeSet<u64> = claim.iter().map(|(_, _, at_ns)| *at_ns).collect();
    let to = |member| claim.iter().filter(|(_, it, _)| *it == member).count();
    Pause {
        took_ns: world.now_ns + world.config.io_ns.1 - from_ns(world),
        steps: steps.len(),
        commands: (0..world.config.members).map(to).max().unwrap_or(0),
    }
}

/// The owner loses power, or stands still for longer than anybody waits.
fn take_over(config: Config, seed: u64) -> Pause {
    let window_ns = config.timing.window_ns;
    let mut world = owned(config);
    match seed % 2 {
        0 => world.crash(OLD),
        _ => world.stall(OLD, 10 * window_ns),
    }
    follow(&mut world, |w| w.last_write_ns[OLD])
}

/// Commands the owner to hand over, with operations open.
fn hand_over(config: Config, _seed: u64) -> Pause {
    let mut world = owned(config);
    let release = Command::Release {
        successor: Slot::new(NEW as u8),
        deadline_ns: u64::MAX,
    };
    world
        .command(OLD, release)
        .expect("the owner may hand over");
    let at_most_ns = world.config.timing.window_ns;
    until(&mut world, at_most_ns, |w| w.role(OLD) == Role::Releasing);
    until(&mut world, SECOND, |w| w.role(OLD) != Role::Releasing);
    let from_ns = world.now_ns;
    follow(&mut world, |_| from_ns)
}

fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|it| it.parse().ok()).unwrap_or(otherwise)
}

/// The median and the worst of many rounds, the most steps, and the most commands to one member.
struct Figures {
    median_ns: u64,
    worst_ns: u64,
    steps: usize,
    commands: usize,
}

fn figures(round: impl Fn(u64) -> Pause) -> Figures {
    let mut all: Vec<Pause> = (1..=number("ROUNDS", 100)).map(round).collect();
    all.sort_unstable();
    Figures {
        median_ns: all[all.len() / 2].took_ns,
        worst_ns: all[all.len() - 1].took_ns,
        steps: all.iter().map(|it| it.steps).max().unwrap_or(0),
        commands: all.iter().map(|it| it.commands).max().unwrap_or(0),
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Measures every window, prints the table, and checks the median and the worst time against a
/// number of periods and commands, and the silence that a window asks for.
fn check(
    what: &str,
    commands: [u64; 2],
    periods: [u64; 2],
    silence_ns: impl Fn(u64) -> u64,
    round: impl Fn(Config, u64) -> Pause,
) {
    println!("{what}, ms");
    println!("members   io       W       P   median    worst   steps  commands");
    for (members, io_ns) in [(1, (IO, IO)), (3, (IO, IO)), (3, (IO / 5, 2 * IO))] {
        for window_ms in WINDOWS_MS {
            let window_ns = window_ms * MS;
            let pauses = figures(|seed| {
                let config = Config {
                    io_ns,
                    ..config(window_ns, members, seed)
                };
                round(config, seed)
            });
            let period_ns = timing(window_ns).period_max_ns;
            let (median_ns, worst_ns) = (pauses.median_ns, pauses.worst_ns);
            println!(
                "{members:>7} {:>4.1} {window_ms:>7} {:>7.1} {:>8.1} {:>8.1} {:>7} {:>9}",
                ms(io_ns.1),
                ms(period_ns),
                ms(median_ns),
                ms(worst_ns),
                pauses.steps,
                pauses.commands,
            );
            let [most_ns, worst_most_ns] = [0, 1].map(|bar| {
                silence_ns(window_ns) + periods[bar] * period_ns + commands[bar] * io_ns.1
            });
            assert!(median_ns <= most_ns, "W {window_ms} ms: {median_ns} ns");
            assert!(worst_ns <= worst_most_ns, "W {window_ms} ms: {worst_ns} ns");
            let to_one = pauses.commands;
            assert!(to_one <= COMMANDS, "W {window_ms} ms: {to_one} commands");
        }
    }
}

/// The window on the slowest clock.
fn longest(window_ns: u64) -> u64 {
    window_ns + window_ns * u64::from(timing(window_ns).drift_ppm) / 1_000_000
}

#[test]
fn r24_a_takeover_takes_the_window_a_period_and_a_dozen_commands() {
    let what = "from the last mailbox write to the first acknowledged write";
    check(what, [12, 16], [1, 2], longest, take_over);
}

#[test]
fn r34_a_hand_over_takes_a_dozen_commands_and_no_window() {
    // The bar: six commands and a period of the successor, and the first write.
    let what = "from the last operation that came back to the first acknowledged write";
    check(what, [7, 7], [1, 1], |_| 0, hand_over);
}

/// How often the lease is lost or the owner changes in some minutes without a fault, when commands
/// take up to `io_ns`.
fn losses(io_ns: u64, minutes: u64) -> u64 {
    let pieces = (0..minutes.div_ceil(PIECE_MINUTES)).map(|seed| {
        let mut world = owned(config(1_000 * MS, 3, seed));
        world.config.io_ns = (io_ns / 2, io_ns);
        let end = world.run(PIECE_MINUTES * MINUTE);
        assert!(end.is_ok(), "{end:?}");
        let takeovers = world.monitor.leases.len() as u64 - 1;
        let lapses = [Reason::Lapse, Reason::Continuity].map(|it| world.monitor.stats.reason(it));
        takeovers + lapses.iter().sum::<u64>()
    });
    pieces.sum()
}

#[test]
fn r11_slow_heartbeats_cost_no_lease_while_the_inequality_holds() {
    // An ordinary command takes a tenth of what the portion was formatted for.
    let (nominal_ns, promised_ns) = (MS / 5, timing(1_000 * MS).write_ns);
    let minutes = number("MINUTES", 10);
    println!("leases lost and takeovers in {minutes} minutes of healthy hosts, W 1000 ms");
    for factor in 2..=10 {
        assert!(factor * nominal_ns <= promised_ns);
        let losses = losses(factor * nominal_ns, minutes);
        println!("{factor:>3} times the latency: {losses}");
        assert_eq!(losses, 0, "{factor} times the latency");
    }
    // This can see them: commands that take longer than was promised by far cost the lease.
    assert!(losses(200 * promised_ns, PIECE_MINUTES) > 0);
}
