// SPDX-License-Identifier: GPL-2.0
//! Random runs: machines stall at every step, crash and come back, commands fail, are late or half
//! done, clocks run apart; the monitor checks every safety rule after every event, and when the
//! faults stop somebody owns again within a bounded time.
//!
//! One seed is one run, replayed bit by bit. `SEEDS=n` runs more of them, `SEED=n` runs one with a
//! timeline. What was broken is printed with its seed and the end of the timeline.
//!
//! | fault | survived because |
//! |---|---|
//! | stall between any two steps, also after a clock reading | continuity latch; the gate's clock |
//! | write or read fails | nothing is changed; the next one is in time, or the lease lapses |
//! | write fails and lands anyway, at once or within D | own blocks are read again; two copies |
//! | torn block | the other block is spared; it is neither life nor silence |
//! | command takes up to D, path hangs up to D / 2 | W contains D |
//! | crash and restart, last commands lost or not | promises are on disk, the role is dropped |
//! | path to a member fails for seconds | majority |
//! | clocks differ in rate by up to 2 rho | W contains it |
//! | release, fence, claim, confirm_dead at any time | evidence is stable |
//! | operations hang below the gate, or in a machine that stands still, beyond D | limit, charges |

mod world;

use dm_lease_proto::proto::limit::{Kind, Redundancy};
use dm_lease_proto::proto::status::Reason;
use std::time::Instant;
use world::{Clock, Config, Faults, Rng, Stats, World, MS};

const SECOND: u64 = 1_000 * MS;

/// Seeds in an ordinary test run.
const FEW: u64 = 300;

/// The configuration that a seed stands for.
fn config(seed: u64) -> Config {
    let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let controllers = rng.between(2, 4) as u8;
    let members = [1, 1, 2, 3, 3][rng.below(5) as usize];
    let mut config = Config::healthy(controllers, members);
    config.seed = seed;
    config.home = rng.below(u64::from(controllers)) as u8;
    for machine in 0..usize::from(controllers) {
        config.period_ns[machine] = rng.between(30, 100) * MS;
        config.clocks[machine] = Clock {
            offset_ns: rng.below(1 << 50),
            rate_ppm: rng.between(0, 2_000) as i64 - 1_000,
        };
    }
    config.io_ns = (MS / 2, rng.between(1, 8) * MS);
    // Some runs are rough, some are nearly healthy: both find things.
    let rough = rng.between(0, 3);
    config.faults = Faults {
        stall: rough * rng.below(4),
        stall_ns: 3 * config.timing.window_ns,
        error: rough * rng.below(8),
        error_landed: rough * rng.below(8),
        torn: rough * rng.below(8),
        late: rough * rng.below(8),
        slow: rng.below(20),
        half: rng.below(300),
        crash: rng.below(60),
        down_ns: 4 * SECOND,
        broken: rng.below(80),
        broken_ns: 2 * SECOND,
        command: rng.below(60),
        repair: rng.below(400),
        degrade: rng.below(100),
        between: rng.below(20),
        stuck: rng.below(30),
    };
    config.redundancy = redundancy(&mut rng);
    config
}

/// One of three runs has nothing that repairs strays; the others are charged for them.
fn redundancy(rng: &mut Rng) -> Redundancy {
    let failures = rng.below(9) as u8;
    let Some(failures) = failures.checked_sub(2).filter(|&m| m > 0) else {
        return Redundancy::EXTERNAL;
    };
    let mut redundancy = Redundancy {
        kind: Kind::Parity(failures),
        detect: rng.below(2) == 0,
        ..Redundancy::EXTERNAL
    };
    redundancy.batch = match redundancy.healthy_limit() {
        Some(limit) if limit > 0 => rng.between(1, u64::from(limit)) as u32,
        _ => 0,
    };
    redundancy
}

/// What went wrong in a run, with its timeline if one was kept.
struct Failure {
    text: String,
    timeline: String,
}

/// One run: faults for a while, then none.
fn run(seed: u64, watch: bool) -> Result<Stats, Failure> {
    let mut world = World::new(config(seed));
    if watch {
        world.watch();
    }
    let failed = |world: &World, text| Failure {
        text,
        timeline: world.timeline(400),
    };
    let go = |world: &mut World| -> Result<(), String> {
        let broken = |violation: world::Violation| format!("{violation:?}");
        world.run(40 * SECOND).map_err(broken)?;
        world.heal();
        let owned = world
            .run_until(15 * SECOND, |w| w.owner().is_some())
            .map_err(broken)?;
        if !owned {
            return Err("nobody owns 15 s after the last fault".into());
        }
        // What stalled before the end of the faults may still take over once.
        world.run(5 * SECOND).map_err(broken)?;
        let lost = world
            .run_until(10 * SECOND, |w| w.owner().is_none())
            .map_err(broken)?;
        match lost {
            true => Err("the lease is lost without a fault".into()),
            false => Ok(()),
        }
    };
    match go(&mut world) {
        Ok(()) => Ok(world.monitor.stats.clone()),
        Err(text) => Err(failed(&world, text)),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn r45_random_runs_keep_every_safety_rule_and_come_to_an_owner() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SEEDS").unwrap_or(FEW) + 1,
    };
    let (begun, many) = (Instant::now(), seeds.end - seeds.start > 1);
    let mut stats = Stats::default();
    for seed in seeds {
        match run(seed, !many) {
            Ok(one) => stats.add(&one),
            Err(failure) => {
                // The same run once more, now with a timeline.
                let again = run(seed, true).err().unwrap_or(failure);
                panic!(
                    "seed {seed}: {}\n{}\nseed {seed}: {}",
                    again.text, again.timeline, again.text
                );
            }
        }
    }
    println!("{stats:#?}\n{:?}", begun.elapsed());
    if many {
        sometimes(&stats);
    }
}

/// A run in which nothing happens proves nothing. (An owner with a valid lease and a sound clock
/// never sees a claim or a higher epoch: those have tests of their own.)
fn sometimes(stats: &Stats) {
    assert!(stats.takeovers > 100);
    assert!(stats.crashes > 100);
    assert!(stats.stalls > 1_000);
    assert!(stats.releases > 20);
    assert!(stats.strays > 20 && stats.charged > 100);
    assert!(stats.repaired > 20 && stats.not_drained > 20);
    assert!(stats.errors > 1_000 && stats.torn > 100 && stats.late > 100);
    assert!(stats.error_landed > 100 && stats.slow > 1_000);
    for reason in [
        Reason::Lapse,
        Reason::LateClaim,
        Reason::NameOnly,
        Reason::Released,
        Reason::Handoff,
        Reason::Fence,
        Reason::Outbid,
    ] {
        assert!(stats.reason(reason) > 0, "{reason:?} never happened");
    }
}

#[test]
fn one_seed_is_one_run() {
    let stats = |_| format!("{:?}", run(7, false).ok().expect("seed 7 is a good run"));
    assert_eq!(stats(0), stats(1));
}
