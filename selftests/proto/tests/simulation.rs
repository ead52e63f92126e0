// SPDX-License-Identifier: GPL-2.0
//! Random runs: hosts stall at every step, crash and come back, commands fail, are late or half
//! done, clocks run apart; the monitor checks every safety rule after every event, and when the
//! faults stop a controller owns again within a bounded time.
//!
//! One seed is one run, replayed bit by bit. `SEEDS=n` runs the first n, `SEEDS=a..b` those from a
//! to b, `JOBS=n` n at a time; `make simulate` has a quicker build of the same. The first
//! failure ends it, with the seed, the commit and the end of the timeline.
//!
//! | fault | survived because |
//! |---|---|
//! | stall between any two steps, also after a clock reading | continuity latch; the gate's clock |
//! | write or read fails | nothing is changed; the next one is in time, or the lease lapses |
//! | write fails and lands anyway, at once or within D | own blocks are read again; two copies |
//! | torn block, half a write | the other block is spared; it is neither life nor silence |
//! | read that was issued before a write shows what was there before | timer after the read |
//! | member loses power, for W or longer, and some of what had no FUA | FUA; no lease is left |
//! | command takes up to D, path hangs up to D / 2 | W contains D |
//! | one member of three is what it was a second ago | no promise is lost; own records show it |
//! | a host that claims nothing runs twice, with one memory | each finds what it did not write |
//! | an owner runs twice, with one memory | one of both at most has its lease extended |
//! | a host is put back to a snapshot of its memory | it finds what it wrote later |
//! | the hypervisor says that a host runs twice, or was put back | it joins as another one |
//! | crash and restart, last commands lost or not | promises are on disk, the role is dropped |
//! | path to a member fails for seconds | majority |
//! | clocks differ in rate by up to 2 rho | W contains it |
//! | the clock of the timers is steered, 10 % and back | it only says when to look |
//! | a host sleeps between any two steps, and nothing announces it | the gate's clock leaps |
//! | a host's counter is exchanged | its lease is latched, its timers of silence start anew |
//! | release, fence, claim, confirm_dead at any time | evidence is stable |
//! | confirm_dead of a controller that runs | refused, or taken back when it is heard |
//! | failed members, before and after a takeover; accept_risk | ballot record; charges |
//! | a member is replaced, and its former disk is found again, sooner or later | generations |
//! | operations hang below the gate, or in a host that stands still, beyond D | limit, charges |

mod world;

use dm_lease_proto::proto::limit::{Redundancy, RedundancyKind};
use dm_lease_proto::proto::words::status::Reason;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use world::{Clock, Config, Faults, Rng, Stats, World, MS};

const SECOND: u64 = 1_000 * MS;

/// Seeds in an ordinary test run.
const FEW: u64 = 300;

/// In this number of runs everything happens.
const ENOUGH: u64 = 300;

/// From one word about how far it is to the next.
const REPORT: Duration = Duration::from_secs(10);

/// The configuration that a seed stands for.
fn config(seed: u64) -> Config {
    let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let controllers = rng.between(2, 4) as u8;
    let members = [1, 1, 2, 3, 3][rng.below(5) as usize];
    let mut config = Config::healthy(controllers, members);
    config.seed = seed;
    config.home = rng.below(u64::from(controllers)) as u8;
    for host in 0..usize::from(controllers) {
        config.period_ns[host] = rng.between(30, 100) * MS;
        config.clocks[host] = Clock {
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
        wrong: rng.below(60),
        risk: rng.below(100),
        between: rng.below(20),
        stuck: rng.below(30),
        power: rng.below(30),
        flush: rng.below(600),
        rewind: rng.below(120),
        copy: 0,
        copy_owner: 0,
        put_back: 0,
        told: 500,
        sleep: rng.below(400),
        steer: rng.below(200),
        steer_ppm: 100_000,
        exchange: rng.below(20),
        replace: rng.below(60),
        returns: rng.below(500),
    };
    config.redundancy = redundancy(&mut rng);
    match rng.below(8) {
        // The last controller claims nothing, and its host may be copied.
        0 | 4 => {
            config = config.with_duplicate_of(controllers - 1);
            (config.faults.copy, config.faults.command) = (100, 0);
        }
        // The home may be copied while it owns.
        1 => {
            let home = config.home;
            config = one_at_a_time(config).with_duplicate_of(home);
            config.faults.copy_owner = 200;
        }
        // Every host may be put back to a snapshot of its memory.
        2 => {
            config = one_at_a_time(config);
            config.faults.put_back = 100;
        }
        _ => {}
    }
    config
}

/// Where one memory runs twice, operations pass two gates, and no limit holds for both; the members
/// forget nothing; and no operator says of one host what is true of another.
fn one_at_a_time(mut config: Config) -> Config {
    config.redundancy = Redundancy::EXTERNAL;
    let faults = &mut config.faults;
    (faults.command, faults.wrong, faults.risk) = (0, 0, 0);
    (faults.power, faults.rewind) = (0, 0);
    config
}

/// One of three runs has nothing that repairs strays; the others are charged for them.
fn redundancy(rng: &mut Rng) -> Redundancy {
    let failures = rng.below(9) as u8;
    let Some(failures) = failures.checked_sub(2).filter(|&m| m > 0) else {
        return Redundancy::EXTERNAL;
    };
    let mut redundancy = Redundancy {
        kind: RedundancyKind::Parity(failures),
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
    let mut world = World::asleep(config(seed));
    if watch {
        world.watch();
    }
    world.forgetful = 0;
    let originals = usize::from(world.config.controllers);
    for host in 0..originals {
        // A host that is copied as a secondary claims nothing.
        let slot = usize::from(world.config.slot_of[world.hosts.len() - 1]);
        world.hosts[host].claims = world.config.faults.copy == 0 || host != slot;
        world.start(host);
    }
    let failed = |world: &World, text| Failure {
        text,
        timeline: world.timeline(lines()),
    };
    let go = |world: &mut World| -> Result<(), String> {
        let broken = |violation: world::Violation| format!("{violation:?}");
        world.run(40 * SECOND).map_err(broken)?;
        world.heal();
        let owned = world
            .run_until(15 * SECOND, |w| w.owner().is_some())
            .map_err(broken)?;
        if !owned && is_for_an_operator(world) {
            return Ok(());
        }
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
        Ok(()) => {
            let mut stats = world.monitor.stats.clone();
            (stats.runs, stats.simulated_ms) = (1, world.now_ns / MS);
            Ok(stats)
        }
        Err(text) => Err(failed(&world, text)),
    }
}

/// Whether no host can read a register that two hosts with one memory wrote. Each of them may tear
/// the only block that the other one left valid. `leasectl repair` writes such a register anew.
fn is_for_an_operator(world: &World) -> bool {
    let stats = &world.monitor.stats;
    let ran_twice = stats.copies + stats.copied_owners + stats.put_back > 0;
    let unreadable = |host: &world::Host| host.unreadable.last().is_some_and(|slots| *slots != 0);
    ran_twice && world.hosts.iter().any(unreadable)
}

/// A run that may also come to its end in the middle of the core.
fn run_safely(seed: u64, watch: bool) -> Result<Stats, Failure> {
    let run = || run(seed, watch);
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(Failure {
            text: "it panicked".into(),
            timeline: String::new(),
        })
    })
}

/// The seeds asked for: `SEEDS=n` are the first n, `SEEDS=a..b` those from a to b.
fn seeds() -> RangeInclusive<u64> {
    let wanted = std::env::var("SEEDS").unwrap_or(FEW.to_string());
    let (first, last) = wanted.split_once("..").unwrap_or(("1", &wanted));
    let number = |text: &str| text.parse().expect("SEEDS is n or a..b");
    number(first)..=number(last)
}

/// How many lines of the timeline a failure prints: `LINES=`.
fn lines() -> usize {
    let wanted = std::env::var("LINES").ok();
    wanted.and_then(|lines| lines.parse().ok()).unwrap_or(400)
}

/// So many runs go on at the same time.
fn jobs() -> usize {
    let jobs = std::env::var("JOBS").ok();
    jobs.and_then(|jobs| jobs.parse().ok()).unwrap_or(1)
}

/// The sum of all runs, or the first seed that failed.
fn run_all(seeds: RangeInclusive<u64>) -> Result<Stats, u64> {
    let (next, stop) = (AtomicU64::new(*seeds.start()), AtomicBool::new(false));
    let (send, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs() {
            let send = send.clone();
            scope.spawn(|| {
                let send = send;
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if !seeds.contains(&seed) || send.send((seed, run_safely(seed, false))).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(send);
        let sum = gather(&ended);
        stop.store(true, Relaxed);
        sum
    })
}

/// Adds up the runs as they end, and says now and then how far that is.
fn gather(ended: &mpsc::Receiver<(u64, Result<Stats, Failure>)>) -> Result<Stats, u64> {
    let (begun, mut sum) = (Instant::now(), Stats::default());
    let mut report = begun + REPORT;
    while let Ok((seed, stats)) = ended.recv() {
        sum.add(&stats.map_err(|_| seed)?);
        if Instant::now() >= report {
            report += REPORT;
            println!("{}", progress(&sum, begun.elapsed()));
        }
    }
    println!("{}", progress(&sum, begun.elapsed()));
    Ok(sum)
}

fn progress(sum: &Stats, elapsed: Duration) -> String {
    let rate = sum.succeeded as f64 / elapsed.as_secs_f64();
    let (hours, jobs) = (sum.simulated_ms / 3_600_000, jobs());
    format!(
        "{:.0} s: {} runs, {hours} h simulated, {} heartbeats tried, {} reached a majority, \
         {} of them owners' and read back, {} takeovers, {} writes acknowledged, {} strays, \
         {rate:.0} heartbeats/s by {jobs}",
        elapsed.as_secs_f64(),
        sum.runs,
        sum.tried,
        sum.succeeded,
        sum.heartbeats,
        sum.takeovers,
        sum.acknowledged,
        sum.strays,
    )
}

/// The sum as a table for people, and as one line for scripts that add sums up.
fn print_sum(sum: &Stats, seeds: &RangeInclusive<u64>) {
    let mut line = format!("simulated seeds={}..{}", seeds.start(), seeds.end());
    line += &format!(" commit={}", commit());
    for (name, count) in sum.named() {
        let per_mille = count as f64 * 1_000.0 / sum.succeeded.max(1) as f64;
        println!("| {name:<16} | {count:>14} | {per_mille:>12.3} |");
        line += &format!(" {name}={count}");
    }
    println!("(the last column: for each 1000 heartbeats that reached a majority)");
    println!("{line}");
}

fn commit() -> String {
    std::env::var("DM_LEASE_COMMIT").unwrap_or("unknown".into())
}

#[test]
fn r45_random_runs_keep_every_safety_rule_and_come_to_an_owner() {
    let seeds = seeds();
    match run_all(seeds.clone()) {
        Ok(sum) => {
            print_sum(&sum, &seeds);
            if sum.runs >= ENOUGH {
                sometimes(&sum);
            }
        }
        Err(seed) => {
            // The same run once more, now with a timeline.
            let failure = run_safely(seed, true).expect_err("one seed is one run");
            println!("{}", failure.timeline);
            panic!("seed {seed}, commit {}: {}", commit(), failure.text);
        }
    }
}

/// A run in which nothing happens proves nothing. (An owner with a valid lease and a sound clock
/// never sees a claim or a higher epoch: those have tests of their own.)
fn sometimes(stats: &Stats) {
    assert!(stats.heartbeats > 50_000);
    assert!(stats.acknowledged > 100_000 && stats.not_acknowledged > 100);
    assert!(
        stats.overwritten > 10,
        "nothing that was acknowledged met a stray"
    );
    assert!(stats.half > 1_000 && stats.old_reads > 1_000 && stats.broken > 100);
    assert!(stats.power_cuts > 50 && stats.reverted > 50);
    assert!(stats.rewound > 50 && stats.alarms > 50);
    assert!(stats.copies > 20 && stats.withdrew > 20);
    assert!(stats.copied_owners > 5 && stats.put_back > 20 && stats.put_back_owners > 5);
    assert!(stats.noticed > 20 && stats.told_copied > 10);
    assert!(stats.replaced > 50 && stats.returned > 50 && stats.outdated > 50);
    let unowned = stats.replaced - stats.replaced_owned;
    assert!(stats.replaced_owned > 20 && unowned > 5);
    assert!(stats.takeovers > 100);
    assert!(stats.crashes > 100);
    assert!(stats.stalls > 1_000);
    assert!(stats.sleeps > 100 && stats.steered > 100 && stats.exchanged > 10);
    assert!(stats.releases > 20);
    assert!(stats.strays > 20 && stats.charged > 100);
    assert!(stats.repaired > 20 && stats.not_drained > 20);
    assert!(stats.wrong_words > 5 && stats.refused_words > 50);
    assert!(stats.risks > 5 && stats.degraded > 50);
    assert!(stats.errors > 1_000 && stats.torn > 100 && stats.late > 100);
    assert!(stats.error_landed > 100 && stats.slow > 1_000);
    for reason in [
        Reason::Lapse,
        Reason::Clock,
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
    let stats = |_| format!("{:?}", run(7, false).ok().map(|stats| stats.named()));
    assert_eq!(stats(0), stats(1));
}
