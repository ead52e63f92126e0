// SPDX-License-Identifier: GPL-2.0
//! What one controller's host does, in named situations on simulated disks.
//!
//! Every run is watched by the monitor of [`world`], which knows true time and checks the safety
//! rules after each event. The tests here say what must happen *besides*: which controller wins, in
//! which order, after how long (in simulated time, which is exact) and with how many commands.

mod world;

use dm_lease_proto::proto::clocks::LEAP_NS;
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::charge_list::{Charge, Charges};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{
    Ballot, Decided, Incarnation, Register, Side, Slot, Value,
};
use dm_lease_proto::proto::codec::mailbox::Mailboxes;
use dm_lease_proto::proto::controller::{Command, Controller, MemberDevice, Outcome};
use dm_lease_proto::proto::gate::lanes::Place;
use dm_lease_proto::proto::limit::{Redundancy, RedundancyKind, LIMIT_WINDOW};
use dm_lease_proto::proto::words::status::{Reason, Role};
use world::{
    timing, Clock, Config, Io, Mailbox, Path, Payload, Snapshot, Violation, What, World, MS,
};

const SECOND: u64 = 1_000 * MS;

/// A period of the tests' timing.
const PERIOD: u64 = 100 * MS;

/// An ordinary command of the tests' configuration.
const IO: u64 = 2 * MS;

fn slot(index: u8) -> Slot {
    Slot::new(index).unwrap()
}

/// Runs, or fails with the rule that was broken.
#[track_caller]
fn run(world: &mut World, for_ns: u64) {
    if let Err(violation) = world.run(for_ns) {
        panic!("{violation:?}\n{}", world.timeline(200));
    }
}

/// Runs until `done`; fails when that takes longer than `at_most_ns`. Returns how long it took.
#[track_caller]
fn until(world: &mut World, at_most_ns: u64, done: impl Fn(&World) -> bool) -> u64 {
    let from_ns = world.now_ns;
    match world.run_until(at_most_ns, done) {
        Ok(true) => world.now_ns - from_ns,
        Ok(false) => panic!("it never came\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// A world in which all controllers have joined, and controller 1, the home, owns.
fn owned(config: Config) -> World {
    let mut world = World::new(config);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    let last = world.hosts.len() - 1;
    until(&mut world, 10 * SECOND, |w| {
        (1..=last).all(|m| w.role(m) == Role::Secondary)
    });
    run(&mut world, SECOND);
    world
}

/// Tells a host to give its portion back; what is open may take so long to end.
fn release(
    world: &mut World,
    host: usize,
    successor: Option<Slot>,
    within_ns: u64,
) -> Result<Outcome, Reason> {
    let deadline_ns = world.local_ns(host) + within_ns;
    let release = Command::Release {
        successor,
        deadline_ns,
    };
    world.command(host, release)
}

/// The state machine of a host that is on.
fn controller(world: &mut World, host: usize) -> &mut Controller {
    world.hosts[host].controller.as_mut().unwrap()
}

/// An operation of a host that does not end.
fn hold_permit(world: &mut World, host: usize) {
    let local_ns = world.local_ns(host);
    world.hosts[host].gate.enter(Place::ONE, || local_ns);
}

/// An operation that host 0 [holds](hold_permit) ends.
fn end_permit(world: &mut World) {
    world.hosts[0].gate.leave(Place::ONE);
}

/// An operator's word that the owner of the first epoch, host 0, is dead.
const DEAD: Command = Command::ConfirmDead {
    owner: Slot::FIRST,
    epoch: 1,
    force: false,
};

/// An operator's wrong word that the owner of the first epoch, host 0, is dead.
const NOT_DEAD: Command = Command::ConfirmDead {
    owner: Slot::FIRST,
    epoch: 1,
    force: true,
};

/// The newest heartbeat of a slot on a member, if there is a valid one.
fn newest_heartbeat(world: &World, member: usize, index: u8) -> Option<HeartbeatRecord> {
    let mailboxes = Snapshot(world.disks[member].clone());
    mailboxes.heartbeat(slot(index)).reading.valid()
}

/// The same where there is one.
fn heartbeat(world: &World, member: usize, index: u8) -> HeartbeatRecord {
    newest_heartbeat(world, member, index).unwrap()
}

/// The ballot that a slot takes part with on a member, if there is one.
fn ballot(world: &World, member: usize, index: usize) -> Option<Ballot> {
    let record = world.disks[member][index].ballot().valid();
    record
        .map(|record| record.mbal)
        .filter(|mbal| mbal.is_some())
}

/// A ballot that a controller has begun for the next epoch, on every member.
fn put_claim(world: &mut World, index: usize) {
    let highest = |disk: &Vec<Mailbox>| {
        let records = disk.iter().filter_map(|mailbox| mailbox.ballot().valid());
        records.map(|record| record.mbal.round).max().unwrap_or(0)
    };
    let round = world.disks.iter().map(highest).max().unwrap_or(0) + 1;
    for disk in &mut world.disks {
        let mut record = disk[index].ballot().valid().unwrap();
        record.seq += 1;
        record.offer = 0;
        record.mbal = Ballot {
            round,
            slot: slot(index as u8),
            inc: record.inc,
        };
        for side in Side::BOTH {
            disk[index].put(side, &Payload::Ballot(record));
        }
    }
}

fn owners(world: &World) -> Vec<(u64, usize)> {
    world
        .monitor
        .leases
        .iter()
        .map(|&(epoch, host, _)| (epoch, host))
        .collect()
}

#[test]
fn r28_at_a_cold_start_the_home_controller_wins_alone() {
    for (controllers, members) in [(1, 1), (2, 1), (3, 1), (2, 3), (3, 3), (4, 2)] {
        let mut world = World::new(Config::healthy(controllers, members));
        run(&mut world, 10 * SECOND);
        assert_eq!(
            owners(&world),
            [(1, 0)],
            "{controllers} controllers, {members} members"
        );
        assert_eq!(world.monitor.stats.reason(Reason::Outbid), 0);
    }
}

#[test]
fn r28_without_its_home_a_portion_never_written_is_claimed_by_another_controller() {
    let mut world = World::asleep(Config::healthy(3, 1));
    world.start(1);
    world.start(2);
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
    // Home comes late and takes nothing away.
    world.start(0);
    run(&mut world, 10 * SECOND);
    assert_eq!(owners(&world).len(), 1);
}

/// What shows life before the first epoch are the ballots of others.
#[test]
fn r28_a_controller_that_finds_a_ballot_for_the_first_epoch_waits_for_another_window() {
    let mut world = World::asleep(Config::healthy(3, 1));
    world.start(1);
    world.start(2);
    controller(&mut world, 2).set_claim_auto(false);
    until(&mut world, 10 * SECOND, |w| ballot(w, 0, 1).is_some());
    world.crash(1);
    controller(&mut world, 2).set_claim_auto(true);
    let waits_ns = until(&mut world, 10 * SECOND, |w| w.role(2) == Role::Claiming);
    let silence_ns = timing().window_ns + timing().join_listen_ns();
    assert!(waits_ns > silence_ns, "{waits_ns}");
    until(&mut world, SECOND, |w| w.is_valid(2));
}

/// It died with the highest number of all for its ballot.
#[test]
fn r28_a_dead_candidate_is_overbid() {
    let mut world = owned(Config::healthy(3, 1));
    controller(&mut world, 1).set_claim_auto(false);
    world.crash(0);
    until(&mut world, 10 * SECOND, |w| ballot(w, 0, 2).is_some());
    world.crash(2);
    run(&mut world, SECOND);
    controller(&mut world, 1).set_claim_auto(true);
    until(&mut world, SECOND, |w| w.is_valid(1));
    assert_eq!(world.monitor.stats.reason(Reason::Outbid), 0);
}

#[test]
fn r28_a_home_that_finds_another_controller_waits_like_the_others() {
    let mut world = World::asleep(Config::healthy(2, 1));
    world.start(1);
    controller(&mut world, 1).set_claim_auto(false);
    until(&mut world, SECOND, |w| w.role(1) == Role::Secondary);
    world.start(0);
    until(&mut world, SECOND, |w| w.role(0) == Role::Secondary);
    let waits_ns = until(&mut world, 10 * SECOND, |w| w.owner().is_some());
    let silence_ns = timing().window_ns + timing().join_listen_ns();
    assert!(waits_ns > silence_ns, "{waits_ns}");
}

/// Home finds the mailboxes blank, then hears nothing for so long that another one claims, and dies
/// with its ballot written.
#[test]
fn r28_a_home_that_found_the_portion_blank_and_then_a_ballot_waits_like_the_others() {
    let mut world = World::asleep(Config::healthy(2, 1));
    world.start(0);
    until(&mut world, SECOND, |w| w.completions[0] > 0);
    world.set_path(0, 0, Path::Failing);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| ballot(w, 0, 1).is_some());
    world.crash(1);
    run(&mut world, SECOND);
    assert_eq!(world.epoch(0), 0);
    world.set_path(0, 0, Path::Up);
    until(&mut world, 5 * SECOND, |w| w.role(0) == Role::Secondary);
    let waits_ns = until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    let silence_ns = timing().window_ns + timing().join_listen_ns();
    assert!(waits_ns > silence_ns, "{waits_ns}");
}

#[test]
fn r4_healthy_heartbeats_renew_the_lease_for_a_long_time_without_a_gap() {
    let mut world = owned(Config::healthy(2, 1));
    let lost = world.run_until(1_000 * SECOND, |w| !w.is_valid(0)).unwrap();
    assert!(!lost);
    // One heartbeat for each period, one write and one read for each heartbeat.
    let beats = world.hosts[0].controller.as_ref().unwrap().heartbeats();
    let periods = world.now_ns / PERIOD;
    assert!(
        (periods - 20..=periods + 2).contains(&beats),
        "{beats} in {periods}"
    );
    assert!(world.hosts[0].issued <= 2 * beats + 60);
}

#[test]
fn r1_controllers_with_different_periods_work_together() {
    let mut config = Config::healthy(3, 1);
    config.period_ns = vec![90 * MS, 20 * MS, 37 * MS];
    let mut world = owned(config);
    assert!(!world.run_until(60 * SECOND, |w| !w.is_valid(0)).unwrap());
    world.crash(0);
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
    assert_eq!(world.monitor.stats.takeovers, 1);
}

#[test]
fn r24_a_silent_owner_is_replaced_after_the_window_and_soon_after_it() {
    for members in [1, 2, 3] {
        let mut world = owned(Config::healthy(2, members));
        world.crash(0);
        let last_ns = world.last_write_ns[0];
        until(&mut world, 10 * SECOND, |w| w.is_valid(1));
        let took_ns = world.now_ns - last_ns;
        let window_ns = timing().window_ns;
        assert!(took_ns >= window_ns, "{took_ns}");
        assert!(
            took_ns <= window_ns + 2 * PERIOD + 16 * IO,
            "{took_ns}, {members} members"
        );
        assert_eq!(owners(&world), [(1, 0), (2, 1)]);
    }
}

#[test]
fn r24_the_lease_follows_the_confirming_look_within_fourteen_commands_for_a_member() {
    let mut world = owned(Config::healthy(2, 1));
    world.crash(0);
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
    let before = world.completions[1];
    until(&mut world, SECOND, |w| w.is_valid(1));
    // Phase 1 and 2: two copies and two reads each; two heartbeats: a write and a read each; and
    // two copies of the new ballot image, which are written beside the heartbeats.
    let commands = world.completions[1] - before;
    assert!((12..=14).contains(&commands), "{commands}");
}

#[test]
fn r41_a_ballot_is_written_twice_however_long_the_others_take() {
    let mut world = owned(Config::healthy(2, 3));
    world.crash(0);
    let seq = |w: &World| w.disks[0][1].ballot().valid().unwrap().seq;
    let before = seq(&world);
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
    for member in [1, 2] {
        world.set_path(1, member, Path::Hung);
    }
    run(&mut world, PERIOD);
    assert_eq!(world.role(1), Role::Claiming);
    assert_eq!(seq(&world), before + 2);
}

#[test]
fn r27_a_stalled_observer_must_look_again() {
    let mut world = owned(Config::healthy(2, 1));
    // It sleeps for many windows, while the owner lives: its old observation proves nothing.
    world.stall(1, 20 * timing().window_ns);
    assert!(!world
        .run_until(40 * timing().window_ns, |w| w.role(1) == Role::Claiming)
        .unwrap());
    assert!(world.is_valid(0));
}

#[test]
fn r6_an_owner_that_stalls_at_any_step_never_writes_under_the_old_epoch_again() {
    let mut stalled = 0;
    for step in 0..60 {
        let mut world = owned(Config::healthy(2, 1));
        world.stall_at = Some((0, step, 3 * timing().window_ns));
        until(&mut world, 10 * SECOND, |w| w.hosts[0].is_stalled());
        until(&mut world, 10 * SECOND, |w| w.is_valid(1));
        until(&mut world, 10 * SECOND, |w| !w.hosts[0].is_stalled());
        // Everything it had in its hands is done now, and changes nothing [R33].
        let gone = world
            .run_until(20 * SECOND, |w| w.is_valid(0) || !w.is_valid(1))
            .unwrap();
        assert!(!gone, "step {step}");
        assert_eq!(owners(&world), [(1, 0), (2, 1)], "step {step}");
        stalled += 1;
    }
    assert_eq!(stalled, 60);
}

/// A lease that lasts long against the device delay, so that what the clocks do decides.
fn long_lease(controllers: u8) -> Config {
    let mut config = Config::healthy(controllers, 1);
    config.timing.lease_ns = 2 * SECOND;
    config.timing.window_ns = config.timing.needed_window_ns();
    config
}

/// The owner's heartbeats reach no member any more, while its users go on writing. The other
/// controller takes over.
fn cut_off(world: &mut World) -> Result<bool, Violation> {
    world.set_path(0, 0, Path::Failing);
    world.run_until(30 * SECOND, |w| w.is_valid(1))
}

/// A lease clock that may be steered as far as chrony steers by default is not within rho. This is
/// what CLOCK_BOOTTIME was as a lease clock, and the monitor does notice.
#[test]
fn r10_a_lease_clock_that_is_steered_by_a_twelfth_breaks_the_rule_of_time() {
    for (owner_ppm, observer_ppm) in [(-83_333, 83_333), (-83_333, 0), (0, 83_333)] {
        let mut config = long_lease(2);
        config.clocks[0].rate_ppm = owner_ppm;
        config.clocks[1].rate_ppm = observer_ppm;
        let mut world = owned(config);
        let broken = cut_off(&mut world).expect_err("the window ends before the lease does");
        assert!(["S1", "S1'", "S1''"].contains(&broken.rule), "{broken:?}");
    }
}

/// The clock of the timers may be steered as far as the kernel allows, and to either side: it says
/// when to look, and the lease clock says what is seen.
#[test]
fn r10_a_clock_of_timers_that_is_steered_by_a_tenth_changes_no_rule() {
    let rates_ppm = [-100_000, -83_333, 0, 83_333, 100_000];
    for owner_ppm in rates_ppm {
        for observer_ppm in rates_ppm {
            let mut world = owned(long_lease(2));
            world.steer(0, owner_ppm);
            world.steer(1, observer_ppm);
            // No controller loses its lease by it.
            run(&mut world, 20 * SECOND);
            assert_eq!(owners(&world), [(1, 0)]);
            match cut_off(&mut world) {
                Ok(true) => {}
                other => panic!("{owner_ppm} {observer_ppm}: {other:?}"),
            }
            run(&mut world, 5 * SECOND);
            assert_eq!(owners(&world), [(1, 0), (2, 1)]);
        }
    }
}

/// Nothing announced the sleep; the gate refuses before anything has noticed it.
#[test]
fn r43_an_owner_that_sleeps_at_any_step_has_no_lease_when_it_wakes_up() {
    for step in 0..60 {
        for for_ns in [0, MS, 3 * timing().window_ns] {
            let mut world = owned(Config::healthy(2, 1));
            world.stall_is_sleep = true;
            world.stall_at = Some((0, step, for_ns));
            until(&mut world, 10 * SECOND, |w| w.hosts[0].is_stalled());
            let epoch = world.epoch(0);
            until(&mut world, 10 * SECOND, |w| !w.hosts[0].is_stalled());
            assert!(!world.is_valid(0), "step {step}, {for_ns} ns");
            run(&mut world, 10 * SECOND);
            assert!(world.owner().is_some());
            let again = world.monitor.leases.iter().filter(|lease| lease.0 == epoch);
            assert_eq!(again.count(), 1, "step {step}, {for_ns} ns");
        }
    }
}

/// Each sign of a break ends the lease by itself, at the next event of the host, whatever the
/// lease clock says.
#[test]
fn r43_an_owner_whose_clocks_show_a_break_is_latched() {
    let breaks: [fn(&mut World); 4] = [
        |world| world.hosts[0].steering.slept_ns += 1,
        |world| world.hosts[0].steering.leaps_ns += LEAP_NS,
        |world| world.exchange(0),
        |world| {
            // A counter that steps back by less than a lease: the lease looks valid for longer.
            world.hosts[0].clock.offset_ns -= 100 * MS;
            world.hosts[0].forget_reading();
        },
    ];
    for (number, happen) in breaks.into_iter().enumerate() {
        let mut world = owned(Config::healthy(2, 1));
        happen(&mut world);
        let took_ns = until(&mut world, SECOND, |w| !w.is_valid(0));
        assert!(took_ns <= PERIOD, "break {number}: {took_ns}");
        // It knows by itself that its lease is over.
        until(&mut world, SECOND, |w| w.is_valid(0));
        assert_eq!(world.monitor.stats.reason(Reason::Clock), 1, "{number}");
        assert_eq!(owners(&world), [(1, 0), (2, 0)]);
    }
}

/// What an observer has measured before a break is not the silence of a window.
#[test]
fn r43_an_observer_whose_clocks_show_a_break_waits_for_a_whole_window_after_it() {
    let window_ns = timing().window_ns;
    let breaks: [fn(&mut World); 3] = [
        |world| world.sleep(1, 10 * MS),
        |world| world.hosts[1].steering.slept_ns += 1,
        |world| world.exchange(1),
    ];
    for (number, happen) in breaks.into_iter().enumerate() {
        let mut world = owned(Config::healthy(2, 1));
        world.crash(0);
        run(&mut world, window_ns / 2);
        happen(&mut world);
        let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(1));
        assert!(took_ns > window_ns, "break {number}: {took_ns}");
    }
}

/// A leap is longer than any window, and nothing is silent for that.
#[test]
fn r43_an_observer_that_slept_does_not_take_a_living_owner_for_dead() {
    let mut world = owned(Config::healthy(2, 1));
    for _ in 0..20 {
        world.sleep(1, 70 * MS);
        run(&mut world, 150 * MS);
    }
    assert_eq!(owners(&world), [(1, 0)]);
    assert_eq!(controller(&mut world, 1).reason(), Reason::None);
}

/// The lease of a claim counts from a stamp that was taken before its deciding write; a break in
/// between makes that stamp worthless.
#[test]
fn r43_a_claim_is_abandoned_at_a_break() {
    for step in 0..20 {
        let mut world = owned(Config::healthy(2, 1));
        world.crash(0);
        until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
        run(&mut world, step * MS / 2);
        if controller(&mut world, 1).decided().epoch > 1 {
            break;
        }
        world.exchange(1);
        until(&mut world, SECOND, |w| w.role(1) == Role::Secondary);
        assert_eq!(world.epoch(1), 1, "step {step}");
        until(&mut world, SECOND, |w| w.is_valid(1));
    }
}

#[test]
fn r30_a_winner_that_stalls_at_any_step_of_its_claim_is_replaced_or_owns() {
    for step in 0..80 {
        let mut world = owned(Config::healthy(3, 1));
        world.crash(0);
        until(&mut world, 10 * SECOND, |w| {
            w.role(1) == Role::Claiming || w.role(2) == Role::Claiming
        });
        let claimant = if world.role(1) == Role::Claiming {
            1
        } else {
            2
        };
        world.stall_at = Some((claimant, step, 3 * timing().window_ns));
        until(&mut world, 10 * SECOND, |w| w.owner() == Some(3 - claimant));
        run(&mut world, 10 * SECOND);
        assert!(world.owner().is_some());
    }
}

/// Two candidates for one epoch, each stopped at any step of its claim, that go on at any moments
/// of each other. The monitor fails the run if both decide.
#[test]
fn r29_two_candidates_in_any_step_never_both_decide() {
    const STEPS: u64 = 10;
    let (mut met, mut outbid) = (0, 0);
    for (first_step, step) in (0..STEPS).flat_map(|a| (0..STEPS).map(move |b| (a, b))) {
        for later_ns in (0..6 * IO).step_by(IO as usize / 2) {
            let mut world = owned(Config::healthy(3, 1));
            world.crash(0);
            let claims = |w: &World, host| w.role(host) == Role::Claiming;
            until(&mut world, 5 * SECOND, |w| claims(w, 1) || claims(w, 2));
            let first = if claims(&world, 1) { 1 } else { 2 };
            let second = 3 - first;
            let is_stopped = |w: &World, host: usize| w.hosts[host].is_stalled();
            let long_ns = timing().window_ns;
            world.stall_at = Some((first, first_step, long_ns));
            until(&mut world, PERIOD, |w| is_stopped(w, first));
            let comes = world.run_until(long_ns / 2, |w| claims(w, second));
            world.stall_at = Some((second, step, long_ns));
            let stops = world.run_until(PERIOD, |w| is_stopped(w, second));
            if comes.unwrap() && stops.unwrap() && is_stopped(&world, first) {
                met += 1;
                world.stall(first, IO);
                world.stall(second, IO + later_ns);
            }
            until(&mut world, 10 * SECOND, |w| w.owner().is_some());
            outbid += world.monitor.stats.reason(Reason::Outbid);
        }
    }
    assert!(met > 100, "they met {met} times");
    assert!(outbid > 100, "one gave way {outbid} times");
}

#[test]
fn r9_a_demoted_owner_does_not_revive() {
    let mut world = owned(Config::healthy(2, 1));
    // Just longer than the lease: no controller has taken over, and still it must claim an epoch.
    world.stall(0, timing().lease_ns);
    until(&mut world, SECOND, |w| !w.hosts[0].is_stalled());
    until(&mut world, SECOND, |w| w.epoch(0) == 2);
    until(&mut world, SECOND, |w| w.is_valid(0));
    assert_eq!(owners(&world), [(1, 0), (2, 0)]);
    assert!(world.monitor.stats.reason(Reason::Lapse) > 0);
}

#[test]
fn r9_a_lone_owner_that_lapsed_needs_no_proof_that_it_is_silent() {
    let mut world = owned(Config::healthy(1, 1));
    world.stall(0, timing().lease_ns);
    until(&mut world, SECOND, |w| !w.hosts[0].is_stalled());
    let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(0));
    assert!(took_ns < PERIOD, "{took_ns}");
    assert_eq!(owners(&world), [(1, 0), (2, 0)]);
}

#[test]
fn r10_a_period_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut world = owned(Config::healthy(1, 1));
    let host = controller(&mut world, 0);
    for period_ns in [0, MS - 1, PERIOD + 1] {
        assert!(!host.set_period(period_ns), "{period_ns}");
        assert_eq!(host.setup().period_ns, PERIOD);
    }
    for period_ns in [MS, PERIOD] {
        assert!(host.set_period(period_ns), "{period_ns}");
        assert_eq!(host.setup().period_ns, period_ns);
    }
}

#[test]
fn r11_as_many_lost_heartbeats_as_configured_are_survived_and_not_many_more() {
    let mut world = owned(Config::healthy(2, 1));
    for _ in 0..20 {
        // At most two heartbeats fail, whatever the phase: one may have begun before.
        world.set_member(0, Path::Failing);
        run(&mut world, 2 * PERIOD - 5 * IO);
        world.set_member(0, Path::Up);
        assert!(!world
            .run_until(SECOND + 7 * MS, |w| !w.is_valid(0))
            .unwrap());
    }
    assert_eq!(owners(&world), [(1, 0)]);
    world.set_member(0, Path::Failing);
    until(&mut world, timing().lease_ns, |w| !w.is_valid(0));
}

#[test]
fn r34_a_release_drains_and_another_takes_over_without_a_window() {
    let mut world = owned(Config::healthy(2, 1));
    assert_eq!(release(&mut world, 0, None, SECOND), Ok(Outcome::Pending));
    let took_ns = until(&mut world, SECOND, |w| w.is_valid(1));
    // At most: the longest operation drains, a period until it is seen, and the claim.
    assert!(took_ns <= 30 * MS + PERIOD + 20 * IO, "{took_ns}");
    assert_eq!(world.hosts[0].answers, [Ok(())]);
    assert!(!world.run_until(20 * SECOND, |w| !w.is_valid(1)).unwrap());
    assert_eq!(owners(&world), [(1, 0), (2, 1)]);
}

#[test]
fn r34_a_released_portion_that_nobody_takes_returns_after_a_window() {
    let mut world = owned(Config::healthy(2, 1));
    world.crash(1);
    release(&mut world, 0, None, SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Secondary);
    let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(0));
    let window_ns = timing().window_ns;
    assert!(
        (window_ns - 2 * PERIOD..window_ns + 3 * PERIOD).contains(&took_ns),
        "{took_ns}"
    );
}

#[test]
fn r34_a_named_successor_comes_first_and_at_once() {
    for successor in [1, 2] {
        let mut world = owned(Config::healthy(3, 3));
        assert_eq!(
            release(&mut world, 0, Some(slot(successor)), SECOND),
            Ok(Outcome::Pending)
        );
        let heir = usize::from(successor);
        // It is prepared when the gate closes: the longest operation drains, and then a write, a
        // look, phase 2 and two heartbeats.
        until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
        assert_eq!(world.role(heir), Role::Claiming);
        let took_ns = until(&mut world, SECOND, |w| w.is_valid(heir));
        assert!(took_ns <= 30 * MS + PERIOD / 8 + 10 * IO, "{took_ns}");
        assert_eq!(owners(&world), [(1, 0), (2, heir)]);
        // Asking again for what is done is a success.
        let again = release(&mut world, 0, Some(slot(successor)), SECOND);
        assert_eq!(again, Ok(Outcome::Done));
    }
}

/// The owner hands over to a host that dies when it is prepared.
fn give_to_one_that_dies(world: &mut World, successor: usize) {
    let asked = release(world, 0, Some(slot(successor as u8)), SECOND);
    assert_eq!(asked, Ok(Outcome::Pending));
    until(world, SECOND, |w| w.role(0) == Role::Releasing);
    world.crash(successor);
    until(world, SECOND, |w| w.role(0) == Role::Secondary);
}

#[test]
fn r34_a_successor_that_dies_delays_by_a_window_and_no_more() {
    let mut world = owned(Config::healthy(3, 1));
    give_to_one_that_dies(&mut world, 2);
    let took_ns = until(&mut world, 3 * SECOND, |w| w.owner().is_some());
    let window_ns = timing().window_ns;
    assert!(
        (window_ns - 2 * PERIOD..window_ns + 3 * PERIOD).contains(&took_ns),
        "{took_ns}"
    );
    assert_eq!(
        owners(&world),
        [(1, 0), (2, 1)],
        "who gave it away goes last"
    );
    // The same without anybody else: a window more, in which the successor may come.
    let mut world = owned(Config::healthy(2, 1));
    give_to_one_that_dies(&mut world, 1);
    let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(0));
    assert!(
        took_ns > window_ns + timing().join_listen_ns() - 2 * PERIOD,
        "{took_ns}"
    );
}

#[test]
fn r34_a_hand_over_that_does_not_drain_leaves_the_lease_where_it_was() {
    let mut world = owned(Config::healthy(3, 3));
    hold_permit(&mut world, 0);
    release(&mut world, 0, Some(slot(1)), 2 * SECOND).unwrap();
    let prepared_ns = until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
    assert!(prepared_ns <= 3 * PERIOD, "{prepared_ns}");
    assert_eq!(world.role(1), Role::Claiming);
    // The successor waits for longer than its claim lasts. Open permits have as long as in a
    // hand-over that does not wait, and no longer.
    assert!(!world
        .run_until(19 * SECOND / 10, |w| !w.is_valid(0))
        .unwrap());
    until(&mut world, SECOND / 5, |w| !w.hosts[0].answers.is_empty());
    assert_eq!(world.hosts[0].answers, [Err(Reason::ReleaseTimeout)]);
    assert_eq!(world.role(0), Role::Owner);
    until(&mut world, SECOND, |w| w.role(1) == Role::Secondary);
    // Its ballot stands, and is no claim.
    assert!(!world.run_until(10 * SECOND, |w| !w.is_valid(0)).unwrap());
    assert_eq!(owners(&world), [(1, 0)]);
}

#[test]
fn r34_a_hand_over_that_was_called_off_does_not_hinder_the_next_one() {
    for next in [1, 2] {
        let mut world = owned(Config::healthy(3, 3));
        hold_permit(&mut world, 0);
        release(&mut world, 0, Some(slot(1)), 200 * MS).unwrap();
        until(&mut world, 2 * SECOND, |w| !w.hosts[0].answers.is_empty());
        until(&mut world, SECOND, |w| w.role(1) == Role::Secondary);
        world.hosts[0].gate.leave(Place::ONE);
        release(&mut world, 0, Some(slot(next)), SECOND).unwrap();
        let next = usize::from(next);
        // Its own ballot from before is no sign that it is prepared, and another's is no claim.
        until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
        assert_eq!(world.role(next), Role::Claiming);
        until(&mut world, SECOND, |w| w.is_valid(next));
        assert_eq!(owners(&world), [(1, 0), (2, next)]);
        assert_eq!(world.monitor.stats.reason(Reason::ClaimSeen), 0);
    }
}

/// Operations take two seconds to end, so long it is prepared, and looks much more often than it
/// heartbeats: others must not take it for dead.
#[test]
fn r34_a_successor_that_waits_for_the_end_goes_on_with_its_heartbeats() {
    let mut world = owned(Config::healthy(2, 1));
    hold_permit(&mut world, 0);
    release(&mut world, 0, Some(slot(1)), 3 * SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
    let (before, issued) = (heartbeat(&world, 0, 1).seq, world.hosts[1].issued);
    run(&mut world, 2 * SECOND);
    assert_eq!(world.role(1), Role::Claiming);
    let beats = heartbeat(&world, 0, 1).seq - before;
    let periods = 2 * SECOND / PERIOD;
    assert!((periods - 2..=periods + 1).contains(&beats), "{beats}");
    let looks = world.hosts[1].issued - issued - 2 * beats;
    assert!((8 * periods..=16 * periods).contains(&looks), "{looks}");
}

/// The operator's word ends the epoch: a look, phase 2, and nothing in between.
#[test]
fn r34_a_prepared_successor_that_learns_of_the_end_otherwise_goes_on_at_once() {
    let mut world = owned(Config::healthy(2, 1));
    hold_permit(&mut world, 0);
    release(&mut world, 0, Some(slot(1)), 3 * SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
    world.crash(0);
    // Long enough for the operator's word, and too short for a window.
    run(&mut world, timing().lease_elsewhere_ns() + 2 * IO);
    let before = heartbeat(&world, 0, 1).seq;
    until(&mut world, SECOND, |w| heartbeat(w, 0, 1).seq > before);
    run(&mut world, PERIOD / 10);
    let before = heartbeat(&world, 0, 1).seq;
    assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
    let took_ns = until(&mut world, PERIOD / 2, |w| w.epoch(1) == 2);
    assert_eq!(heartbeat(&world, 0, 1).seq, before);
    assert!(took_ns <= 5 * IO, "{took_ns}");
}

/// The last heartbeat of a dead owner says that it hands over, on the first member; on the others
/// the same heartbeat does not say so yet.
#[test]
fn r34_an_offer_is_not_withdrawn_by_the_rest_of_its_own_heartbeat() {
    let mut world = owned(Config::healthy(2, 3));
    world.crash(0);
    let offer = HeartbeatRecord {
        role: RecordRole::HandingOver { successor: slot(1) },
        ..heartbeat(&world, 1, 0)
    };
    for side in Side::BOTH {
        world.disks[0][0].put(side, &Payload::Heartbeat(offer));
    }
    until(&mut world, 3 * PERIOD, |w| w.role(1) == Role::Claiming);
    let gives_up = |w: &World| w.role(1) != Role::Claiming;
    assert!(!world.run_until(timing().window_ns / 2, gives_up).unwrap());
}

/// An owner that gave its epoch back takes the next one, too; its ballots say so, its heartbeats
/// are late. What it said at the end of the former one is not said of this one.
/// A winner's heartbeats hang at the only member, which goes on taking ballots.
#[test]
fn r42_a_controller_whose_heartbeats_hang_leaves_the_portion_to_another_one() {
    let mut world = owned(Config::healthy(2, 1));
    world.swallow = Some(|io| match &io.what {
        What::Write { payload, .. } => io.host == 0 && matches!(payload, Payload::Heartbeat(_)),
        What::Read { .. } => false,
    });
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    run(&mut world, 20 * SECOND);
    assert!(world.is_valid(1));
    assert_eq!(world.epoch(1), 2);
}

#[test]
fn r34_the_end_of_an_epoch_says_nothing_of_the_next_one_of_the_same_owner() {
    let mut world = owned(Config::healthy(2, 1));
    controller(&mut world, 1).set_claim_auto(false);
    release(&mut world, 0, None, SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Secondary);
    world.swallow = Some(|io| match &io.what {
        What::Write {
            payload: Payload::Heartbeat(record),
            ..
        } => io.host == 0 && record.dec.epoch == 2,
        _ => false,
    });
    until(&mut world, 5 * SECOND, |w| w.epoch(1) == 2);
    let last = heartbeat(&world, 0, 0);
    assert_eq!(last.dec.epoch, 1);
    assert_eq!(last.role, RecordRole::Released { successor: None });
    controller(&mut world, 1).set_claim_auto(true);
    let waits_ns = until(&mut world, 5 * SECOND, |w| w.role(1) == Role::Claiming);
    assert!(waits_ns + 2 * PERIOD > timing().window_ns, "{waits_ns}");
}

#[test]
fn r29_a_later_ballot_of_a_former_successor_is_a_claim() {
    let mut world = owned(Config::healthy(2, 1));
    hold_permit(&mut world, 0);
    release(&mut world, 0, Some(slot(1)), 200 * MS).unwrap();
    until(&mut world, 2 * SECOND, |w| !w.hosts[0].answers.is_empty());
    until(&mut world, SECOND, |w| w.role(1) == Role::Secondary);
    run(&mut world, SECOND);
    assert_eq!(world.monitor.stats.reason(Reason::ClaimSeen), 0);
    put_claim(&mut world, 1);
    until(&mut world, SECOND, |w| {
        w.monitor.stats.reason(Reason::ClaimSeen) > 0
    });
}

#[test]
fn r34_a_controller_that_leaves_does_not_wait_for_a_successor() {
    let mut world = owned(Config::healthy(3, 1));
    world.crash(1);
    assert_eq!(
        release(&mut world, 0, Some(slot(1)), SECOND),
        Ok(Outcome::Pending)
    );
    assert_eq!(world.command(0, Command::CallOff), Ok(Outcome::Done));
    assert_eq!(world.hosts[0].answers, [Err(Reason::Busy)]);
    assert_eq!(world.role(0), Role::Owner);
    let leave = Command::Leave {
        reason: Reason::Suspend,
        deadline_ns: world.local_ns(0) + SECOND,
    };
    assert_eq!(world.command(0, leave), Ok(Outcome::Pending));
    let took_ns = until(&mut world, SECOND, |w| w.is_valid(2));
    assert!(took_ns <= 30 * MS + PERIOD + 20 * IO, "{took_ns}");
}

#[test]
fn r34_a_release_without_an_epoch_is_refused_or_already_done() {
    let mut world = owned(Config::healthy(3, 1));
    let to = |world: &mut World, host, index| release(world, host, Some(slot(index)), SECOND);
    assert_eq!(to(&mut world, 0, 0), Ok(Outcome::Done), "it has it");
    assert_eq!(release(&mut world, 1, None, SECOND), Ok(Outcome::Done));
    assert_eq!(to(&mut world, 1, 0), Ok(Outcome::Done), "that one has it");
    assert_eq!(to(&mut world, 1, 2), Err(Reason::NotOwner));
    assert_eq!(world.role(0), Role::Owner);
    // Given to one that does not come.
    give_to_one_that_dies(&mut world, 2);
    run(&mut world, PERIOD);
    assert_eq!(
        to(&mut world, 0, 2),
        Ok(Outcome::Done),
        "it was told before"
    );
    assert_eq!(to(&mut world, 0, 1), Err(Reason::NotOwner));
    // Lost, and not given to anybody.
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    let fence = Command::Fence(Reason::Fence);
    assert_eq!(world.command(1, fence), Ok(Outcome::Done));
    assert_eq!(to(&mut world, 1, 1), Err(Reason::NotOwner));
}

/// The epoch is decided, and the heartbeats that bring the lease are still to come.
#[test]
fn r34_an_owner_without_a_lease_cannot_release() {
    let mut world = World::new(Config::healthy(2, 1));
    until(&mut world, 10 * SECOND, |w| w.epoch(0) == 1);
    assert!(!world.is_valid(0));
    assert_eq!(release(&mut world, 0, None, SECOND), Err(Reason::Busy));
    until(&mut world, SECOND, |w| w.is_valid(0));
    assert_eq!(release(&mut world, 0, None, SECOND), Ok(Outcome::Pending));
}

#[test]
fn fence_changes_nothing_without_a_lease() {
    let mut world = owned(Config::healthy(2, 1));
    let fence = Command::Fence(Reason::Fence);
    assert_eq!(world.command(1, fence), Ok(Outcome::Done));
    assert_eq!(controller(&mut world, 1).reason(), Reason::None);
    assert!(world.is_valid(0));
}

#[test]
fn r34_a_successor_has_two_periods_and_three_rounds_to_prepare_itself() {
    let mut world = owned(Config::healthy(3, 1));
    world.crash(1);
    let asked = release(&mut world, 0, Some(slot(1)), SECOND);
    assert_eq!(asked, Ok(Outcome::Pending));
    let took_ns = until(&mut world, SECOND, |w| !w.hosts[0].answers.is_empty());
    assert_eq!(world.hosts[0].answers, [Err(Reason::Unprepared)]);
    // A round: its write is reported as lost within a period, the next one and a read follow.
    let prepares_ns = 2 * PERIOD + 3 * (PERIOD + 20 * MS + 20 * MS);
    assert!(
        (prepares_ns..prepares_ns + 4 * IO).contains(&took_ns),
        "{took_ns}"
    );
}

#[test]
fn r34_a_reason_to_stay_away_is_not_undone_by_the_end_of_another() {
    let reasons = [Reason::Removed, Reason::Suspend, Reason::Reboot];
    let leave = |world: &mut World, reason| {
        let deadline_ns = world.local_ns(0) + SECOND;
        let leave = Command::Leave {
            reason,
            deadline_ns,
        };
        assert!(world.command(0, leave).is_ok());
        run(world, SECOND);
        assert_eq!(world.role(0), Role::Secondary);
        assert!(world.command(0, Command::Claim).is_err());
    };
    for kept in reasons {
        let mut world = owned(Config::healthy(1, 1));
        leave(&mut world, kept);
        assert_eq!(world.command(0, Command::Stay(kept)), Ok(Outcome::Done));
        until(&mut world, 10 * SECOND, |w| w.is_valid(0));
        for ended in reasons.into_iter().filter(|&reason| reason != kept) {
            let mut world = owned(Config::healthy(1, 1));
            leave(&mut world, kept);
            leave(&mut world, ended);
            assert_eq!(world.command(0, Command::Stay(ended)), Ok(Outcome::Done));
            run(&mut world, 20 * SECOND);
            assert_eq!(world.owner(), None, "{kept:?}, {ended:?}");
            assert_eq!(world.command(0, Command::Stay(kept)), Ok(Outcome::Done));
            until(&mut world, 10 * SECOND, |w| w.is_valid(0));
        }
    }
}

#[test]
fn r34_an_offer_by_an_owner_that_dies_is_no_permission() {
    let mut world = owned(Config::healthy(3, 3));
    release(&mut world, 0, Some(slot(1)), SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(1) == Role::Claiming);
    world.crash(0);
    let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(1));
    assert!(took_ns + 2 * PERIOD >= timing().window_ns, "{took_ns}");
    assert!(
        took_ns <= 2 * timing().window_ns + 2 * PERIOD + 30 * IO,
        "{took_ns}"
    );
    assert_eq!(owners(&world), [(1, 0), (2, 1)]);
}

#[test]
fn r29_an_owner_that_hands_over_to_one_latches_on_the_claim_of_another() {
    let mut world = owned(Config::healthy(3, 3));
    hold_permit(&mut world, 0);
    release(&mut world, 0, Some(slot(1)), 5 * SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Releasing);
    put_claim(&mut world, 2);
    until(&mut world, SECOND, |w| !w.is_valid(0));
    assert_eq!(world.hosts[0].answers, [Err(Reason::Lapse)]);
}

#[test]
fn r34_a_permit_that_does_not_close_makes_release_fail_and_the_owner_keeps() {
    let mut world = owned(Config::healthy(2, 1));
    hold_permit(&mut world, 0);
    // Whenever that is: not only when a heartbeat is due.
    for within_ns in [210 * MS, 250 * MS, 290 * MS] {
        release(&mut world, 0, None, within_ns).unwrap();
        let took_ns = until(&mut world, SECOND, |w| !w.hosts[0].answers.is_empty());
        assert!(
            (within_ns..within_ns + 2 * IO).contains(&took_ns),
            "{took_ns}"
        );
        let answers = std::mem::take(&mut world.hosts[0].answers);
        assert_eq!(answers, [Err(Reason::ReleaseTimeout)]);
    }
    // The gate is open again.
    let granted = world.monitor.stats.granted;
    until(&mut world, SECOND, |w| w.monitor.stats.granted > granted);
    assert!(!world.run_until(10 * SECOND, |w| !w.is_valid(0)).unwrap());
    assert_eq!(owners(&world), [(1, 0)]);
}

#[test]
fn r34_a_lease_that_lapses_while_draining_makes_release_fail() {
    let mut world = owned(Config::healthy(2, 1));
    hold_permit(&mut world, 0);
    release(&mut world, 0, None, 10 * SECOND).unwrap();
    world.set_member(0, Path::Failing);
    until(&mut world, SECOND, |w| !w.hosts[0].answers.is_empty());
    assert_eq!(world.hosts[0].answers, [Err(Reason::Lapse)]);
}

#[test]
fn fence_latches_at_once_and_is_not_undone_by_itself() {
    let mut world = owned(Config::healthy(2, 1));
    assert_eq!(
        world.command(0, Command::Fence(Reason::Fence)),
        Ok(Outcome::Done)
    );
    assert!(!world.is_valid(0), "no disk is needed");
    let took_ns = until(&mut world, 5 * SECOND, |w| w.owner().is_some());
    assert!(took_ns + 2 * PERIOD >= timing().window_ns, "{took_ns}");
    assert_eq!(
        world.command(0, Command::Fence(Reason::Fence)),
        Ok(Outcome::Done)
    );
}

/// A lapse says that the own epoch is over; an operator's word that it shall stay so takes that
/// back, and nothing else.
#[test]
fn r9_fence_after_a_lapse_waits_like_a_fence_before_it() {
    for fenced in [false, true] {
        let mut world = owned(Config::healthy(1, 1));
        controller(&mut world, 0).set_claim_auto(false);
        let from_ns = world.now_ns;
        world.stall(0, timing().lease_ns);
        until(&mut world, SECOND, |w| !w.hosts[0].is_stalled());
        until(&mut world, SECOND, |w| w.role(0) == Role::Secondary);
        if fenced {
            let fence = Command::Fence(Reason::Fence);
            assert_eq!(world.command(0, fence), Ok(Outcome::Done));
        }
        controller(&mut world, 0).set_claim_auto(true);
        until(&mut world, 5 * SECOND, |w| w.is_valid(0));
        let took_ns = world.now_ns - from_ns;
        let has_waited = took_ns + PERIOD > timing().window_ns;
        assert_eq!(has_waited, fenced, "{took_ns}");
    }
    // What others say of their epoch it does not touch.
    let mut world = owned(Config::healthy(2, 1));
    controller(&mut world, 1).set_claim_auto(false);
    release(&mut world, 0, None, SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(0) == Role::Secondary);
    run(&mut world, 3 * PERIOD);
    let fence = Command::Fence(Reason::Fence);
    assert_eq!(world.command(1, fence), Ok(Outcome::Done));
    controller(&mut world, 1).set_claim_auto(true);
    let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(1));
    assert!(took_ns < 2 * PERIOD, "{took_ns}");
}

#[test]
fn fence_followed_by_claim_waits_for_evidence() {
    let mut config = Config::healthy(1, 1);
    config.claim_auto = false;
    let mut world = World::new(config);
    world.command(0, Command::Claim).unwrap();
    until(&mut world, 5 * SECOND, |w| w.is_valid(0));
    world.command(0, Command::Fence(Reason::Fence)).unwrap();
    run(&mut world, 10 * SECOND);
    assert_eq!(world.owner(), None, "nobody asked");
    world.command(0, Command::Claim).unwrap();
    until(&mut world, 5 * SECOND, |w| w.is_valid(0));
}

#[test]
fn claim_manual_does_not_replace_a_dead_owner_without_a_command() {
    let mut config = Config::healthy(2, 1);
    config.claim_auto = false;
    let mut world = World::new(config);
    run(&mut world, 10 * SECOND);
    assert_eq!(world.owner(), None);
    world.command(1, Command::Claim).unwrap();
    until(&mut world, 5 * SECOND, |w| w.is_valid(1));
    world.crash(1);
    run(&mut world, 10 * SECOND);
    assert_eq!(world.owner(), None);
    world.command(0, Command::Claim).unwrap();
    until(&mut world, 5 * SECOND, |w| w.is_valid(0));
    assert_eq!(owners(&world), [(1, 1), (2, 0)]);
}

#[test]
fn r35_a_restarted_owner_has_no_role() {
    let mut world = owned(Config::healthy(2, 1));
    world.crash(0);
    world.start(0);
    assert!(!world.is_valid(0));
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
    assert_eq!(
        owners(&world),
        [(1, 0), (2, 1)],
        "its own window is not shorter than the other's"
    );
}

#[test]
fn r35_a_lone_controller_comes_back_after_every_restart() {
    let mut world = World::new(Config::healthy(1, 3));
    for epoch in 1..=5 {
        until(&mut world, 10 * SECOND, |w| w.is_valid(0));
        assert_eq!(world.epoch(0), epoch);
        run(&mut world, SECOND);
        world.crash(0);
        world.start(0);
    }
}

#[test]
fn r35_promises_survive_a_restart_at_any_step_of_a_claim() {
    for steps in 0..12 {
        let mut world = owned(Config::healthy(2, 3));
        world.crash(0);
        until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
        let from = world.completions[1];
        until(&mut world, SECOND, |w| w.completions[1] >= from + steps);
        world.crash(1);
        let before = world
            .disks
            .iter()
            .filter_map(|slots| slots[1].ballot().valid());
        let (dec, mbal) = before.map(|r| (r.dec.epoch, r.mbal)).max().unwrap();
        world.start(1);
        world.start(0);
        // The monitor fails the run if a counted promise is taken back.
        until(&mut world, 10 * SECOND, |w| w.owner().is_some());
        assert!(owners(&world).last().unwrap().0 >= 2, "{dec} {mbal:?}");
    }
}

#[test]
fn r42_with_one_of_three_members_dead_nothing_changes_and_a_takeover_still_happens() {
    let mut world = owned(Config::healthy(2, 3));
    world.set_member(2, Path::Failing);
    assert!(!world.run_until(20 * SECOND, |w| !w.is_valid(0)).unwrap());
    world.crash(0);
    let last_ns = world.last_write_ns[0];
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    assert!(world.now_ns - last_ns <= timing().window_ns + 2 * PERIOD + 16 * IO);
}

#[test]
fn r42_a_hanging_member_of_three_delays_no_controller() {
    let mut world = owned(Config::healthy(2, 3));
    world.set_member(1, Path::Hung);
    assert!(!world.run_until(20 * SECOND, |w| !w.is_valid(0)).unwrap());
    world.set_member(1, Path::Up);
    assert!(!world.run_until(20 * SECOND, |w| !w.is_valid(0)).unwrap());
    world.set_member(1, Path::Hung);
    world.crash(0);
    let last_ns = world.last_write_ns[0];
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    assert!(world.now_ns - last_ns <= timing().window_ns + 2 * PERIOD + 16 * IO);
}

#[test]
fn r42_without_a_majority_the_lease_lapses_and_nobody_takes_over_until_it_returns() {
    let mut world = owned(Config::healthy(2, 3));
    world.set_member(0, Path::Failing);
    world.set_member(1, Path::Failing);
    until(&mut world, timing().lease_ns, |w| !w.is_valid(0));
    assert!(!world
        .run_until(30 * SECOND, |w| w.owner().is_some())
        .unwrap());
    world.set_member(1, Path::Up);
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
}

#[test]
fn r26_an_owner_that_reaches_no_member_is_replaced_and_learns_it_when_it_does() {
    let mut world = owned(Config::healthy(2, 3));
    for member in 0..3 {
        world.set_path(0, member, Path::Failing);
    }
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    for member in 0..3 {
        world.set_path(0, member, Path::Up);
    }
    assert!(!world.run_until(10 * SECOND, |w| !w.is_valid(1)).unwrap());
    assert_eq!(world.epoch(0), 2);
    assert_eq!(owners(&world), [(1, 0), (2, 1)]);
}

#[test]
fn r36_a_joiner_listens_for_a_window_and_looks_when_it_is_over() {
    let mut world = World::asleep(Config::healthy(2, 1));
    world.start(0);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    world.start(1);
    until(&mut world, PERIOD, |w| w.hosts[1].issued > 0);
    let took_ns = until(&mut world, SECOND, |w| w.last_write_ns[1] > 0);
    let listens_ns = timing().join_listen_ns();
    assert!(
        listens_ns % PERIOD + 10 * IO < PERIOD,
        "the next tick is later"
    );
    assert!(
        (listens_ns..listens_ns + 10 * IO).contains(&took_ns),
        "{took_ns}"
    );
}

#[test]
fn r36_a_second_host_with_a_number_in_use_never_joins() {
    let mut world = World::asleep(Config::healthy(2, 1).with_duplicate_of(0));
    world.start(0);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    world.start(2);
    assert!(!world.run_until(30 * SECOND, |w| !w.is_valid(0)).unwrap());
    assert_eq!(world.role(2), Role::Joining);
    let writes = world.last_write_ns[2];
    assert_eq!(writes, 0, "it has written nothing");
    let reason = world.hosts[2].controller.as_ref().unwrap().reason();
    assert_eq!(reason, Reason::Duplicate);
}

#[test]
fn r36_two_hosts_with_one_number_that_start_together_do_not_both_stay() {
    // Most often one host hears the other while it listens. Sometimes both write at once.
    let (mut joining, mut failed) = (0, 0);
    for seed in 1..=200 {
        let mut config = Config::healthy(2, 1).with_duplicate_of(0);
        config.seed = seed;
        let mut world = World::new(config);
        run(&mut world, 20 * SECOND);
        let mut refused = 0;
        for host in [0, 2] {
            let reason = world.hosts[host].controller.as_ref().unwrap().reason();
            match world.role(host) {
                Role::Joining => joining += usize::from(reason == Reason::Duplicate),
                Role::Failed => failed += usize::from(reason == Reason::ForeignIncarnation),
                _ => continue,
            }
            refused += 1;
        }
        assert!(refused > 0, "seed {seed}");
    }
    assert!(joining > 0 && failed > 0, "{joining} and {failed}");
}

#[test]
fn r36_a_read_from_before_the_first_own_write_shows_no_foreign_incarnation() {
    let mut world = owned(Config::healthy(2, 3));
    world.crash(1);
    world.start(1);
    // A read of its former life's record is on its way while it joins over the other members.
    run(&mut world, 300 * MS);
    world.set_path(1, 2, Path::Deaf);
    run(&mut world, PERIOD);
    world.set_path(1, 2, Path::Up);
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Secondary);
    run(&mut world, 500 * MS);
    world.hear();
    run(&mut world, 5 * SECOND);
    assert_eq!(world.role(1), Role::Secondary);
}

/// One register is enough, whichever it is.
#[test]
fn r36_a_record_of_another_incarnation_in_the_own_slot_ends_it() {
    for register in [Register::Ballot, Register::Heartbeat] {
        let mut world = owned(Config::healthy(2, 1));
        let foreign = match register {
            Register::Ballot => Payload::Ballot(BallotRecord {
                seq: 1_000_000,
                inc: Incarnation(7),
                ..world.disks[0][1].ballot().valid().unwrap()
            }),
            Register::Heartbeat => Payload::Heartbeat(HeartbeatRecord {
                seq: 1_000_000,
                inc: Incarnation(7),
                ..heartbeat(&world, 0, 1)
            }),
        };
        // Where the next write of its own does not go.
        let newest = Snapshot(world.disks[0].clone()).heartbeat(slot(1)).newest;
        world.disks[0][1].put(newest.unwrap(), &foreign);
        until(&mut world, 2 * PERIOD, |w| w.role(1) == Role::Failed);
        assert!(world.is_valid(0));
    }
}

#[test]
fn confirm_dead_is_refused_while_the_owner_was_heard_and_saves_the_window_later() {
    let mut world = owned(Config::healthy(2, 1));
    assert_eq!(world.command(1, DEAD), Err(Reason::OwnerAlive));
    let wrong = Command::ConfirmDead {
        owner: slot(0),
        epoch: 7,
        force: false,
    };
    assert_eq!(world.command(1, wrong), Err(Reason::WrongEpoch));
    world.crash(0);
    run(&mut world, PERIOD + timing().lease_elsewhere_ns());
    assert_eq!(world.owner(), None);
    assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
    let took_ns = until(&mut world, SECOND, |w| w.is_valid(1));
    assert!(took_ns <= 16 * IO, "{took_ns}");
}

#[test]
fn r29_an_owner_that_sees_a_claim_latches_and_a_controller_owns_again() {
    let mut world = owned(Config::healthy(2, 1));
    put_claim(&mut world, 1);
    until(&mut world, SECOND, |w| {
        w.monitor.stats.reason(Reason::ClaimSeen) > 0
    });
    until(&mut world, 10 * SECOND, |w| {
        w.owner().is_some() && w.epoch(0) == 2
    });
}

#[test]
fn r31_stale_openers_keep_a_controller_from_claiming() {
    let mut config = Config::healthy(2, 1);
    config.guarded = true;
    let mut world = owned(config);
    world.crash(0);
    run(&mut world, 20 * SECOND);
    assert_eq!(world.owner(), None);
    let reason = world.hosts[1].controller.as_ref().unwrap().reason();
    assert_eq!(reason, Reason::StaleOpeners);
    let host = controller(&mut world, 1);
    assert_eq!(host.waits_for_openers(), Some(1));
    let refused = world.command(1, Command::Claim);
    assert_eq!(refused, Err(Reason::StaleOpeners));
    let host = controller(&mut world, 1);
    host.openers_gone(0);
    assert_eq!(host.waits_for_openers(), Some(1), "that was before");
    host.openers_gone(1);
    assert_eq!(host.waits_for_openers(), None);
    until(&mut world, SECOND, |w| w.is_valid(1));
}

#[test]
fn r31_a_controller_that_must_not_claim_says_why_until_it_may() {
    let mut world = owned(Config::healthy(2, 1));
    let blocked = Some(Reason::ReadOnly);
    controller(&mut world, 1).set_blocked(blocked);
    world.crash(0);
    run(&mut world, 20 * SECOND);
    assert_eq!(world.owner(), None);
    assert_eq!(controller(&mut world, 1).reason(), Reason::ReadOnly);
    controller(&mut world, 1).set_blocked(None);
    until(&mut world, SECOND, |w| w.is_valid(1));
}

#[test]
fn r47_claiming_by_itself_may_be_switched_off_and_on() {
    let mut world = owned(Config::healthy(2, 1));
    controller(&mut world, 1).set_claim_auto(false);
    world.crash(0);
    run(&mut world, 20 * SECOND);
    assert_eq!(world.owner(), None);
    controller(&mut world, 1).set_claim_auto(true);
    until(&mut world, SECOND, |w| w.is_valid(1));
}

#[test]
fn r47_members_that_answer_and_are_there_are_counted() {
    let mut world = owned(Config::healthy(2, 3));
    assert_eq!(controller(&mut world, 0).members_ok(), 3);
    for path in [Path::Failing, Path::Hung] {
        world.set_path(0, 2, path);
        run(&mut world, SECOND);
        assert_eq!(controller(&mut world, 0).members_ok(), 2, "{path:?}");
        world.set_path(0, 2, Path::Up);
        run(&mut world, SECOND);
        assert_eq!(controller(&mut world, 0).members_ok(), 3);
    }
    let before = controller(&mut world, 0).setup().clone();
    controller(&mut world, 0).handle_member(3, Some(MemberDevice::replacement(2)));
    assert_eq!(
        controller(&mut world, 0).setup(),
        &before,
        "there are three"
    );
    controller(&mut world, 0).handle_member(1, None);
    assert_eq!(controller(&mut world, 0).members_ok(), 2);
    controller(&mut world, 0).handle_member(1, Some(MemberDevice::ORIGINAL));
    assert_eq!(
        controller(&mut world, 0).members_ok(),
        2,
        "it must answer first"
    );
    run(&mut world, SECOND);
    assert_eq!(controller(&mut world, 0).members_ok(), 3);
}

#[test]
fn r42_a_member_that_went_is_not_written_and_not_read() {
    let mut world = owned(Config::healthy(2, 3));
    for host in 0..2 {
        controller(&mut world, host).handle_member(1, None);
    }
    run(&mut world, PERIOD);
    let goes_there = |w: &World| w.latest().is_some_and(|io| io.member == 1);
    until(&mut world, PERIOD, |w| {
        w.latest().is_some_and(|io| io.member != 1)
    });
    assert!(!world.run_until(2 * SECOND, goes_there).unwrap());
    assert!(world.is_valid(0));
    world.crash(0);
    assert!(!world.run_until(2 * SECOND, goes_there).unwrap());
    assert!(world.is_valid(1));
}

#[test]
fn r41_a_first_write_that_was_torn_does_not_lock_its_writer_out() {
    for register in [Register::Ballot, Register::Heartbeat] {
        let mut world = World::asleep(Config::healthy(2, 1));
        world.disks[0][1].tear(Side::A, register);
        world.start(0);
        world.start(1);
        until(&mut world, 10 * SECOND, |w| {
            w.is_valid(0) && w.role(1) == Role::Secondary
        });
    }
}

/// A copy of a ballot that was reported as lost may land for a while, over a later one: so long the
/// member does not count.
#[test]
fn r41_a_claim_whose_ballot_failed_waits_until_it_can_land_no_more() {
    for seed in 1..=20 {
        let mut config = Config::healthy(2, 1);
        config.seed = seed;
        let mut world = owned(config);
        world.crash(0);
        until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
        world.set_path(1, 0, Path::Unwritable);
        until(&mut world, PERIOD, |w| w.role(1) != Role::Claiming);
        world.set_path(1, 0, Path::Up);
        let settles_ns = timing().device_settle_ns();
        let took_ns = until(&mut world, 10 * SECOND, |w| w.epoch(1) == 2);
        assert!(took_ns > settles_ns, "{took_ns}");
    }
}

#[test]
fn r42_a_member_that_fails_at_once_is_not_asked_again_and_again() {
    let mut config = Config::healthy(1, 3);
    // It fails faster than the others answer.
    config.timing.error_report_ns = MS / 100;
    let mut world = World::asleep(config);
    world.set_path(0, 2, Path::Failing);
    world.start(0);
    run(&mut world, 20 * SECOND);
    assert!(world.is_valid(0));
    // Two members take a write and a read for each heartbeat, the third at most two tries.
    let beats = 20 * SECOND / PERIOD;
    assert!(
        world.hosts[0].issued < 7 * beats,
        "{}",
        world.hosts[0].issued
    );
}

#[test]
fn r8_a_heartbeat_that_hangs_and_completes_later_counts_for_its_own_round_only() {
    let mut world = owned(Config::healthy(2, 3));
    for _ in 0..50 {
        world.set_path(0, 0, Path::Hung);
        run(&mut world, 130 * MS);
        world.set_path(0, 0, Path::Up);
        world.set_path(0, 1, Path::Hung);
        run(&mut world, 130 * MS);
        world.set_path(0, 1, Path::Up);
    }
    // The monitor checks each heartbeat's stamp, its majority and the reads after it.
    assert!(world.is_valid(0));
    assert_eq!(owners(&world), [(1, 0)]);
}

/// A heartbeat that hung on member 2 completes while the next one is on its way to member 1: only
/// member 0 has that one, and the monitor says so if it counts as a success.
#[test]
fn r8_a_heartbeat_that_completes_during_the_next_one_does_not_count_for_that() {
    let writes = |io: &Io| io.host == 0 && matches!(io.what, What::Write { .. });
    for at_us in (0..=2_000).step_by(100) {
        let mut world = owned(Config::healthy(2, 3));
        world.set_path(0, 2, Path::Hung);
        run(&mut world, PERIOD);
        world.set_path(0, 1, Path::Hung);
        until(&mut world, 2 * PERIOD, |w| w.latest().is_some_and(writes));
        run(&mut world, at_us * MS / 1_000);
        world.set_path(0, 2, Path::Up);
        run(&mut world, PERIOD);
        world.set_path(0, 1, Path::Up);
        run(&mut world, SECOND);
        assert!(world.is_valid(0));
        assert_eq!(owners(&world), [(1, 0)]);
    }
}

#[test]
fn r24_clocks_that_run_apart_within_the_bound_are_safe_both_ways() {
    for (owner_ppm, observer_ppm) in [(1_000, -1_000), (-1_000, 1_000), (0, 1_000), (-1_000, 0)] {
        let mut config = Config::healthy(2, 1);
        config.clocks[0] = Clock {
            offset_ns: 1,
            rate_ppm: owner_ppm,
        };
        config.clocks[1] = Clock {
            offset_ns: 1 << 40,
            rate_ppm: observer_ppm,
        };
        let mut world = owned(config);
        world.stall(0, 3 * SECOND);
        until(&mut world, 10 * SECOND, |w| w.is_valid(1));
        run(&mut world, 10 * SECOND);
        assert_eq!(owners(&world), [(1, 0), (2, 1)]);
    }
}

#[test]
fn r24_the_window_begins_after_the_read_completed_not_when_it_was_issued() {
    for hangs_ms in [100, 300, 500, 650] {
        let mut world = owned(Config::healthy(2, 1));
        // The observer's write is on its way; the read that follows it hangs, and in the end it
        // shows a heartbeat of just now, the owner's last.
        let writes = |io: &Io| io.host == 1 && matches!(io.what, What::Write { .. });
        until(&mut world, SECOND, |w| w.latest().is_some_and(writes));
        world.set_path(1, 0, Path::Hung);
        run(&mut world, hangs_ms * MS);
        world.stall(0, 5 * SECOND);
        world.set_path(1, 0, Path::Up);
        // The monitor fails the run if the owner's lease is still valid, or was less than D ago.
        until(&mut world, 5 * SECOND, |w| w.is_valid(1));
    }
}

/// Wherever in the observer's period the window ends: the look that confirms the silence begins
/// after it.
#[test]
fn r24_a_look_that_began_within_the_window_does_not_confirm_the_silence() {
    let looks = |io: &Io| io.host == 1 && matches!(io.what, What::Read { .. });
    for later_ms in 0..PERIOD / MS {
        let mut config = Config::healthy(2, 1);
        config.timing.window_ns += later_ms * MS;
        let window_ns = config.timing.window_ns;
        let mut world = owned(config);
        let before_ns = world.last_write_ns[0];
        until(&mut world, SECOND, |w| w.last_write_ns[0] > before_ns);
        world.stall(0, 5 * SECOND);
        until(&mut world, SECOND, |w| w.latest().is_some_and(looks));
        // The first look at the last heartbeat, and one that is a window later.
        let claims = |w: &World| w.role(1) == Role::Claiming;
        let took_ns = until(&mut world, 5 * SECOND, claims);
        assert!(took_ns >= IO + window_ns + IO, "{took_ns} {window_ns}");
    }
}

/// An observer stands still while the owner goes on, until their one member loses power and with it
/// all that the observer has not seen; it is away for so long.
fn member_forgets(seed: u64, away_ns: u64) -> Result<(), Violation> {
    let mut config = Config::healthy(2, 1);
    config.seed = seed;
    let mut world = owned(config);
    let window_ns = timing().window_ns;
    let before = world.completions[1];
    until(&mut world, SECOND, |w| w.completions[1] >= before + 2);
    world.flush(0);
    world.stall(1, 2 * window_ns);
    world.run(2 * window_ns - seed * MS)?;
    world.cut_power(0, away_ns);
    world.run(10 * SECOND)
}

#[test]
fn r24_a_member_that_forgets_heartbeats_is_away_for_the_window_or_breaks_the_first_rule() {
    let broken = |away_ns| (1..100).filter_map(move |seed| member_forgets(seed, away_ns).err());
    assert_eq!(broken(timing().window_ns).count(), 0);
    // Back at once it shows an old heartbeat, and so silence, under a lease that is valid.
    let at_once: Vec<_> = broken(0).collect();
    assert!(!at_once.is_empty());
    assert!(at_once
        .iter()
        .all(|violation| violation.rule.starts_with("S1")));
}

/// The owner goes on with members 0 and 1, the observer reads members 1 and 2. Errors come sooner
/// than answers, so a round is not complete before them.
#[test]
fn r26_a_member_that_cannot_be_read_is_not_silent() {
    let mut config = Config::healthy(2, 3);
    config.timing.error_report_ns = MS;
    let mut world = owned(config);
    world.set_path(0, 2, Path::Failing);
    world.set_path(1, 0, Path::Failing);
    let claims = |w: &World| w.role(1) == Role::Claiming || !w.is_valid(0);
    assert!(!world.run_until(10 * timing().window_ns, claims).unwrap());
}

/// One of three members was replaced and one does not answer: what the third says alone is not what
/// a majority says.
#[test]
fn r39_a_blank_replacement_is_no_information_about_promises() {
    let mut config = Config::healthy(2, 3);
    config.originals = 0b011;
    let mut world = World::new(config);
    world.set_member(0, Path::Failing);
    assert!(!world
        .run_until(10 * timing().window_ns, |w| w.role(0) != Role::Joining)
        .unwrap());
    world.set_member(0, Path::Up);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
}

/// Another device becomes member 1, while a read of the owner's own blocks is on its way to the one
/// that went, or while none is. What the old one held, and what is still heard of it, says nothing
/// about what to write to the new one, and where.
#[test]
fn r39_another_device_is_read_before_it_is_written() {
    for is_asked in [false, true] {
        let mut world = owned(Config::healthy(2, 3));
        if is_asked {
            world.set_path(0, 1, Path::Failing);
            run(&mut world, 2 * PERIOD);
            world.set_path(0, 1, Path::Deaf);
            run(&mut world, 2 * PERIOD);
        }
        let before = heartbeat(&world, 0, 0).seq;
        until(&mut world, 2 * PERIOD, |w| heartbeat(w, 0, 0).seq > before);
        run(&mut world, PERIOD / 2);
        for host in 0..2 {
            let local_ns = world.local_ns(host);
            let controller = controller(&mut world, host);
            controller.handle_member(1, Some(MemberDevice::replacement(2)));
            controller.forget_member(1, local_ns);
        }
        world.disks[1].fill(Mailbox::blank());
        if is_asked {
            world.set_path(0, 1, Path::Up);
            world.hear();
        }
        let is_written = |w: &World| newest_heartbeat(w, 1, 0).is_some();
        until(&mut world, PERIOD, is_written);
        // A number is used once, on whichever device: a late command may land on this one.
        assert!(heartbeat(&world, 1, 0).seq > 1);
        assert!(!world.run_until(SECOND, |w| !w.is_valid(0)).unwrap());
    }
}

/// Two controllers, and a portion of which member 1 was replaced: the owner has the new disk, the
/// other one not yet.
fn replaced(seed: u64) -> (World, usize) {
    let mut config = Config::healthy(2, 3);
    config.seed = seed;
    config.io_ns = (MS, 5 * MS);
    let mut world = owned(config);
    let former = world.replace(1);
    world.attach(0, 1);
    (world, former)
}

/// Both controllers have used the replacement for a while. Then one restarts and finds the former
/// disk, and the path of the owner to another member breaks.
#[test]
fn r56_a_former_member_that_is_found_again_is_dropped() {
    for seed in 1..=40 {
        let (mut world, former) = replaced(seed);
        world.attach(1, 1);
        run(&mut world, 10 * SECOND);
        world.crash(1);
        world.start(1);
        world.give_device(1, 1, Some(former));
        until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Secondary);
        assert_eq!(world.monitor.stats.outdated, 1, "seed {seed}");
        world.set_path(0, 2, Path::Failing);
        run(&mut world, 30 * SECOND);
        assert_eq!(owners(&world), [(1, 0)], "seed {seed}");
        assert!(world.is_valid(0), "seed {seed}");
    }
}

/// The same with a broken path of each: neither has a majority with the former disk.
#[test]
fn r56_a_former_member_and_two_broken_paths_make_no_second_owner() {
    let (mut world, former) = replaced(1);
    world.attach(1, 1);
    run(&mut world, 60 * SECOND);
    world.crash(1);
    world.start(1);
    world.give_device(1, 1, Some(former));
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Secondary);
    world.set_path(0, 2, Path::Failing);
    world.set_path(1, 0, Path::Failing);
    run(&mut world, 60 * SECOND);
    assert!(world.is_valid(0) && !world.is_valid(1));
    assert_eq!(controller(&mut world, 1).generations().of(1), 2);
}

/// Three controllers: one finds the former disk, each of the others has a broken path, and the
/// owner dies. The two that are left must not own one epoch, and with the right disk one owns.
#[test]
fn r56_a_former_member_does_not_let_two_controllers_own_one_epoch() {
    let mut world = owned(Config::healthy(3, 3));
    let former = world.replace(1);
    for host in 0..3 {
        world.attach(host, 1);
    }
    run(&mut world, 60 * SECOND);
    world.crash(2);
    world.start(2);
    world.give_device(2, 1, Some(former));
    until(&mut world, 10 * SECOND, |w| w.role(2) == Role::Secondary);
    world.set_path(1, 2, Path::Failing);
    world.set_path(2, 0, Path::Failing);
    world.crash(0);
    run(&mut world, 10 * SECOND);
    assert!(world.is_valid(1) && !world.is_valid(2));
    for host in 1..3 {
        world.attach(host, 1);
        for member in 0..3 {
            world.set_path(host, member, Path::Up);
        }
    }
    run(&mut world, 60 * SECOND);
    assert!(world.is_valid(1) && !world.is_valid(2));
    assert_eq!((world.epoch(1), world.epoch(2)), (2, 2));
}

/// The path of the owner to member 2 is broken when member 1 is replaced: nothing on member 2 says
/// so. The other controller has the former disk and does not reach member 0. The owner must not
/// count the replacement, or there are two majorities that share no disk.
#[test]
fn r56_a_replacement_counts_when_enough_other_members_know_of_it() {
    let mut world = owned(Config::healthy(2, 3));
    world.set_path(0, 2, Path::Failing);
    world.set_path(1, 0, Path::Failing);
    let former = world.replace(1);
    world.attach(0, 1);
    world.give_device(1, 1, Some(former));
    run(&mut world, 30 * SECOND);
    assert!(
        !world.is_valid(0),
        "the owner counts a disk that others do not know"
    );
    // With the paths both see the same members again, and the former disk is dropped.
    world.set_path(0, 2, Path::Up);
    world.set_path(1, 0, Path::Up);
    until(&mut world, 10 * SECOND, |w| w.monitor.stats.outdated == 1);
    world.attach(1, 1);
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
    run(&mut world, 10 * SECOND);
    // Now it counts: another member may fail.
    world.set_member(2, Path::Failing);
    run(&mut world, 10 * SECOND);
    assert!(world.owner().is_some());
}

/// Once it is settled, a controller that starts believes those that know it, although it cannot
/// read it from all other members: one of them is lost.
#[test]
fn r56_a_settled_replacement_counts_for_every_controller_that_joins() {
    let (mut world, _) = replaced(1);
    world.attach(1, 1);
    run(&mut world, 5 * SECOND);
    world.set_member(2, Path::Failing);
    for host in 0..2 {
        world.crash(host);
    }
    for host in 0..2 {
        world.start(host);
    }
    until(&mut world, 20 * SECOND, |w| w.owner().is_some());
}

/// A controller with the former disk has put a value forward when the replacement is named: it may
/// be decided already, on the former disk and a member that the owner does not read again.
#[test]
fn r56_a_replacement_does_not_settle_over_a_value_that_may_be_decided() {
    let mut world = owned(Config::healthy(2, 3));
    let former = world.replace(1);
    world.give_device(1, 1, Some(former));
    // The value of controller 2 for the next epoch is on member 2.
    let value = Value {
        slot: slot(1),
        inc: Incarnation(world.hosts[1].inc),
    };
    let accepted = Ballot {
        round: 7,
        slot: value.slot,
        inc: value.inc,
    };
    world.crash(1);
    let record = BallotRecord {
        seq: 1_000,
        mbal: accepted,
        bal: accepted,
        val: Some(value),
        ..world.disks[2][1].ballot().valid().unwrap()
    };
    for side in Side::BOTH {
        world.disks[2][1].put(side, &Payload::Ballot(record));
    }
    controller(&mut world, 0).set_claim_auto(false);
    world.attach(0, 1);
    run(&mut world, 5 * SECOND);
    assert!(world.disks.iter().all(|disk| {
        let record = disk[0].ballot().valid();
        record.is_none_or(|record| !record.generations.is_settled(1))
    }));
    // When the epoch is decided there is nothing in the way any more.
    controller(&mut world, 0).set_claim_auto(true);
    until(&mut world, 20 * SECOND, |w| w.epoch(0) >= 2);
    let settled = |w: &World| {
        let record = w.disks[0][0].ballot().valid();
        record.is_some_and(|record| record.generations.is_settled(1))
    };
    until(&mut world, 20 * SECOND, settled);
}

/// Of two members both are a majority, whatever became of one of them.
#[test]
fn r56_with_an_even_number_of_members_a_replacement_counts_at_once() {
    let mut world = owned(Config::healthy(2, 2));
    let former = world.replace(1);
    world.attach(0, 1);
    world.give_device(1, 1, Some(former));
    until(&mut world, 10 * SECOND, |w| w.monitor.stats.outdated == 1);
    world.attach(1, 1);
    until(&mut world, 10 * SECOND, |w| w.owner().is_some());
}

#[test]
fn r26_an_unreadable_record_is_neither_life_nor_silence() {
    let mut world = owned(Config::healthy(2, 1));
    for _ in 0..1_000 {
        for side in Side::BOTH {
            world.disks[0][0].tear(side, Register::Heartbeat);
        }
        run(&mut world, 3 * MS);
    }
    assert_eq!(
        world.owner(),
        None,
        "the owner cannot know who else is there"
    );
    assert_eq!(
        owners(&world),
        [(1, 0)],
        "and nobody takes that for its death"
    );
    until(&mut world, 5 * SECOND, |w| w.owner().is_some());
}

/// Both blocks of a register are damaged, which a torn write cannot do. If that is on one of three
/// members, the others are a majority. With fewer members it is unknown what the controller wrote,
/// so no controller can claim, whether that one was the owner or an observer.
#[test]
fn r26_a_register_that_is_damaged_as_a_whole_is_no_information() {
    for (members, is_enough) in [(3, true), (2, false), (1, false)] {
        for (damaged, register) in [
            (0, Register::Heartbeat),
            (0, Register::Ballot),
            (2, Register::Ballot),
        ] {
            let mut world = owned(Config::healthy(3, members));
            world.crash(0);
            world.crash(2);
            for side in Side::BOTH {
                world.disks[0][damaged].tear(side, register);
            }
            let case = format!("{members} members, {register:?} of {damaged}");
            let is_replaced = world.run_until(20 * timing().window_ns, |w| w.is_valid(1));
            assert_eq!(is_replaced.unwrap(), is_enough, "{case}");
            world.start(damaged);
            let has_joined = |w: &World| w.role(damaged) != Role::Joining;
            let is_back = world.run_until(20 * timing().window_ns, has_joined);
            assert_eq!(is_back.unwrap(), is_enough, "{case}");
        }
    }
}

/// Of three members one has lost what the other controller wrote, and another one what the joiner
/// itself wrote in its former life: about each there is a majority, and the joiner is as patient as
/// ever and no more.
#[test]
fn r26_a_joiner_listens_where_its_own_slot_can_be_read() {
    let mut world = owned(Config::healthy(2, 3));
    world.crash(0);
    world.crash(1);
    for side in Side::BOTH {
        world.disks[0][0].tear(side, Register::Ballot);
        world.disks[2][1].tear(side, Register::Heartbeat);
    }
    world.start(1);
    let took_ns = until(&mut world, 5 * SECOND, |w| w.role(1) != Role::Joining);
    let listens_ns = timing().join_listen_ns();
    assert!(
        (listens_ns..listens_ns + 3 * PERIOD).contains(&took_ns),
        "{took_ns}"
    );
}

#[test]
fn r29_an_owner_whose_clock_stood_still_finds_the_later_epoch_with_its_first_heartbeat() {
    let mut world = owned(Config::healthy(2, 1));
    // The host is paused and its clock with it, so no rule of time can detect the pause.
    world.monitor.clocks_are_sound = false;
    let paused_ns = 3 * SECOND;
    world.stall(0, paused_ns);
    world.hosts[0].clock.offset_ns -= paused_ns;
    until(&mut world, paused_ns, |w| w.is_valid(1));
    until(&mut world, paused_ns, |w| !w.hosts[0].is_stalled());
    assert!(world.is_valid(0), "that is the danger");
    let took_ns = until(&mut world, SECOND, |w| !w.is_valid(0));
    assert!(took_ns <= PERIOD + 4 * IO, "{took_ns}");
    let reason = world.hosts[0].controller.as_ref().unwrap().reason();
    assert_eq!(reason, Reason::HigherEpoch);
    // What it wrote meanwhile changes neither owner nor epoch [R33].
    assert!(!world
        .run_until(10 * SECOND, |w| w.is_valid(0) || !w.is_valid(1))
        .unwrap());
}

/// A portion whose redundancy repairs `failures` strays, with a batch limit of `batch`.
fn repairable(controllers: u8, failures: u8, batch: u32) -> Config {
    Config {
        redundancy: Redundancy {
            kind: RedundancyKind::Parity(failures),
            detect: true,
            batch,
            ..Redundancy::EXTERNAL
        },
        ..Config::healthy(controllers, 3)
    }
}

/// The charges that a host knows: epoch, controller, amount, drained.
fn charged(world: &World, host: usize) -> Vec<(u64, u8, u32, bool)> {
    let controller = world.hosts[host].controller.as_ref().unwrap();
    let charge = |c: Charge| (c.epoch, c.slot.index(), c.amount, c.drained);
    controller.charges().iter().map(charge).collect()
}

fn limit(world: &World, host: usize) -> u32 {
    world.hosts[host].controller.as_ref().unwrap().limit()
}

#[test]
fn r21_stale_owners_in_a_row_never_have_more_than_redundancy_repairs() {
    let mut world = owned(repairable(3, 3, 2));
    assert_eq!(limit(&world, 0), 2);
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.owner().is_some());
    let second = world.owner().unwrap();
    assert_eq!(charged(&world, second), [(1, 0, 2, false)]);
    assert_eq!(limit(&world, second), 1);
    world.crash(second);
    let third = 3 - second;
    until(&mut world, 20 * SECOND, |w| w.is_valid(third));
    let terms = [(1, 0, 2, false), (2, second as u8, 1, false)];
    assert_eq!(charged(&world, third), terms);
    assert_eq!(limit(&world, third), 0);
}

#[test]
fn r21_a_clean_hand_over_charges_nothing_and_carries_the_list() {
    let mut world = owned(repairable(3, 3, 2));
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.owner().is_some());
    let owner = world.owner().unwrap();
    let heir = 3 - owner;
    assert_eq!(
        release(&mut world, owner, Some(slot(heir as u8)), SECOND),
        Ok(Outcome::Pending)
    );
    until(&mut world, 20 * SECOND, |w| w.is_valid(heir));
    assert_eq!(charged(&world, heir), [(1, 0, 2, false)]);
}

#[test]
fn r21_an_owner_that_said_it_has_drained_is_not_charged() {
    let mut world = owned(repairable(2, 3, 2));
    assert_eq!(
        world.command(0, Command::Fence(Reason::Fence)),
        Ok(Outcome::Done)
    );
    run(&mut world, 300 * MS);
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), []);
}

#[test]
fn r21_an_owner_that_said_it_has_drained_is_not_charged_by_its_next_incarnation() {
    let mut world = owned(repairable(1, 3, 2));
    assert_eq!(
        world.command(0, Command::Fence(Reason::Fence)),
        Ok(Outcome::Done)
    );
    run(&mut world, 300 * MS);
    world.crash(0);
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.role(0) != Role::Joining);
    assert_eq!(charged(&world, 0), []);
}

#[test]
fn r21_a_charge_is_dropped_when_it_is_drained_and_repaired() {
    let mut world = owned(repairable(2, 3, 2));
    // It stalls beyond the window, wakes up, and publishes behind its latch that nothing is open.
    world.stall(0, 3 * timing().window_ns);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    let repaired = Command::Repaired { epoch: 1 };
    assert_eq!(world.command(1, repaired), Err(Reason::NotDrained));
    until(&mut world, 20 * SECOND, |w| {
        charged(w, 1) == [(1, 0, 2, true)]
    });
    assert_eq!(limit(&world, 1), 1, "drained is not repaired");
    assert_eq!(
        world.command(1, Command::Repaired { epoch: 3 }),
        Err(Reason::WrongEpoch)
    );
    assert_eq!(world.command(0, repaired), Err(Reason::NotOwner));
    assert_eq!(world.command(1, repaired), Ok(Outcome::Done));
    assert_eq!(world.command(1, repaired), Ok(Outcome::Done));
    assert_eq!(charged(&world, 1), []);
    assert_eq!(limit(&world, 1), 2);
}

/// Wherever in a heartbeat the operator says so: the gate's limit rises after the mailboxes say so.
/// The monitor looks at every rise.
#[test]
fn r14_a_raised_limit_holds_when_a_majority_carries_it() {
    for at_ns in (0..PERIOD).step_by(MS as usize) {
        let mut world = owned(repairable(2, 3, 2));
        world.stall(0, 3 * timing().window_ns);
        until(&mut world, 20 * SECOND, |w| {
            w.is_valid(1) && charged(w, 1) == [(1, 0, 2, true)]
        });
        run(&mut world, at_ns);
        let gate = |w: &World| w.hosts[1].gate.count().limit;
        assert_eq!(gate(&world), 1);
        let repaired = Command::Repaired { epoch: 1 };
        assert_eq!(world.command(1, repaired), Ok(Outcome::Done));
        assert_eq!(gate(&world), 1, "nobody else can know of it yet");
        until(&mut world, SECOND, |w| gate(w) == 2);
    }
}

/// The limit falls, and the write that says so is reported as lost; then the limit rises again. The
/// gate keeps to the lower limit until that write can land no more.
#[test]
fn r14_a_raised_limit_holds_when_no_earlier_write_can_take_it_back() {
    let mut config = repairable(2, 3, 2);
    (config.members, config.originals) = (1, 1);
    let mut world = owned(config);
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    let (side, record, issued_ns) = lower_and_raise(&mut world);
    until(&mut world, SECOND, |w| w.hosts[0].gate.count().limit == 2);
    assert!(world.now_ns > issued_ns + timing().device_delay_ns);
    let limit_on_disk = |w: &World| w.disks[0][0].ballot().valid().map(|r| r.limit);
    assert_eq!(limit_on_disk(&world), Some(2));
    // If it landed all the same, it would destroy one block of two.
    world.disks[0][0].put(side, &Payload::Ballot(record));
    assert_eq!(limit_on_disk(&world), Some(2));
}

/// The same when the second block that says so is never written.
#[test]
fn r14_a_raised_limit_holds_when_both_blocks_of_a_register_carry_it() {
    let swallow: [fn(&Io) -> bool; 2] = [
        |io| is_raised_limit_on(io, Side::A),
        |io| is_raised_limit_on(io, Side::B),
    ];
    let mut one_copy = 0;
    for swallow in swallow {
        let mut config = repairable(2, 3, 2);
        (config.members, config.originals) = (1, 1);
        let mut world = owned(config);
        world.swallow = Some(swallow);
        lower_and_raise(&mut world);
        let rises = |w: &World| w.hosts[0].gate.count().limit == 2;
        assert!(!world.run_until(2 * timing().window_ns, rises).unwrap());
        let limit_on_disk = world.disks[0][0].ballot().valid().map(|r| r.limit);
        one_copy += usize::from(limit_on_disk == Some(2));
    }
    assert!(one_copy > 0, "the other block was written first");
}

/// A ballot write of controller 1 that says a limit of 2, which is the second time in that epoch.
fn is_raised_limit_on(io: &Io, wanted: Side) -> bool {
    match &io.what {
        What::Write {
            side,
            payload: Payload::Ballot(record),
            ..
        } => *side == wanted && io.host == 0 && record.limit == 2 && record.seq > 8,
        _ => false,
    }
}

/// Host 0 gets the message that two members failed, which lowers its limit to 1. The write of that
/// limit is reported as lost, and is returned with the time of its issue. Then the members are
/// back.
fn lower_and_raise(world: &mut World) -> (Side, BallotRecord, u64) {
    world.log = Some(Vec::new());
    world.set_path(0, 0, Path::Failing);
    world.set_failed(0, 2);
    let lost = |w: &World| w.log.iter().flatten().find_map(lowered_limit);
    until(world, 20 * SECOND, |w| lost(w).is_some());
    run(world, timing().error_report_ns + MS);
    world.set_path(0, 0, Path::Up);
    world.set_failed(0, 0);
    lost(world).unwrap()
}

/// A ballot write of controller 1 that says a limit of 1.
fn lowered_limit(io: &Io) -> Option<(Side, BallotRecord, u64)> {
    match &io.what {
        What::Write {
            side,
            payload: Payload::Ballot(record),
            ..
        } if io.host == 0 && record.limit == 1 => Some((*side, *record, io.issued_ns)),
        _ => None,
    }
}

/// Two operations are open when the limit falls to one. A controller that takes over then reads
/// that there may be two.
#[test]
fn r14_a_lowered_limit_is_published_when_no_more_is_open() {
    for (ended, charge) in [(0, 2), (1, 1)] {
        let mut world = owned(repairable(2, 3, 2));
        until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
        hold_permit(&mut world, 0);
        hold_permit(&mut world, 0);
        run(&mut world, 2 * PERIOD);
        world.set_failed(0, 2);
        assert_eq!(limit(&world, 0), 1);
        run(&mut world, PERIOD);
        (0..ended).for_each(|_| end_permit(&mut world));
        run(&mut world, SECOND);
        world.crash(0);
        until(&mut world, 20 * SECOND, |w| w.is_valid(1));
        assert_eq!(charged(&world, 1), [(1, 0, charge, false)]);
    }
}

/// The limit falls to one after the permits were counted. No record may say so while permits are
/// open that were given after the count.
#[test]
fn r14_a_limit_that_falls_after_the_count_is_not_published_yet() {
    let mut world = owned(repairable(2, 3, 2));
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    world.hosts[0].note_open();
    hold_permit(&mut world, 0);
    hold_permit(&mut world, 0);
    world.set_failed(0, 2);
    run(&mut world, SECOND);
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
}

/// Controller 1 stalls, comes back after the owner in between has died, and lapses once more: what
/// it left behind the first time stays on the list, and counts though it is drained.
#[test]
fn r21_an_owner_does_not_forget_its_own_earlier_term() {
    let mut world = owned(repairable(2, 5, 2));
    world.stall(0, 3 * timing().window_ns);
    until(&mut world, 20 * SECOND, |w| {
        w.is_valid(1) && charged(w, 1) == [(1, 0, 2, true)]
    });
    world.crash(1);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    let terms = [(1, 0, 2, true), (2, 1, 2, false)];
    assert_eq!(charged(&world, 0), terms);
    assert_eq!(limit(&world, 0), 1, "drained is not repaired");
    world.stall(0, timing().lease_ns);
    until(&mut world, 5 * SECOND, |w| w.epoch(0) == 4 && w.is_valid(0));
    assert_eq!(charged(&world, 0), terms);
    assert_eq!(limit(&world, 0), 1);
    // What is repaired is dropped, and what came later is not.
    let repaired = Command::Repaired { epoch: 1 };
    assert_eq!(world.command(0, repaired), Ok(Outcome::Done));
    assert_eq!(charged(&world, 0), terms[1..]);
}

/// The limit falls after the latch, before anybody has counted what passed the gate until then.
#[test]
fn r21_a_limit_that_falls_after_the_latch_is_published_when_no_more_is_open() {
    for (ended, charge) in [(0, 2), (1, 1)] {
        let mut world = owned(repairable(2, 3, 2));
        until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
        hold_permit(&mut world, 0);
        hold_permit(&mut world, 0);
        let fence = Command::Fence(Reason::Fence);
        assert_eq!(world.command(0, fence), Ok(Outcome::Done));
        world.set_failed(0, 2);
        assert_eq!(limit(&world, 0), 1);
        (0..ended).for_each(|_| end_permit(&mut world));
        run(&mut world, 300 * MS);
        world.crash(0);
        until(&mut world, 20 * SECOND, |w| w.is_valid(1));
        assert_eq!(charged(&world, 1), [(1, 0, charge, false)]);
    }
}

/// The same when it was counted behind the latch already that no more is open than could be.
#[test]
fn r21_a_limit_that_falls_after_the_count_of_a_latched_gate_is_not_published_yet() {
    let mut world = owned(repairable(2, 3, 2));
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    hold_permit(&mut world, 0);
    hold_permit(&mut world, 0);
    let fence = Command::Fence(Reason::Fence);
    assert_eq!(world.command(0, fence), Ok(Outcome::Done));
    run(&mut world, 300 * MS);
    world.set_failed(0, 2);
    assert_eq!(limit(&world, 0), 1);
    run(&mut world, 300 * MS);
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
}

#[test]
fn r21_a_permit_that_was_not_counted_before_the_latch_is_not_drained() {
    let mut world = owned(repairable(2, 3, 2));
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    world.lapse_behind_the_count(0);
    // What it has written by now is the last that is heard of it, for a while.
    world.stall(0, 6 * timing().window_ns);
    assert_eq!(world.hosts[0].ops.len(), 1);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    run(&mut world, SECOND);
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    until(&mut world, 20 * SECOND, |w| {
        charged(w, 1) == [(1, 0, 2, true)]
    });
    assert!(world.hosts[0].ops.is_empty());
}

/// A ballot record of epoch 2 by controller 2.
fn is_second_decision(io: &Io) -> bool {
    let dec = match &io.what {
        What::Write {
            payload: Payload::Ballot(record),
            ..
        } => record.dec.epoch,
        _ => 0,
    };
    io.host == 1 && dec == 2
}

/// Whether controller 2 has won that epoch and says so.
fn heartbeats_in_second_epoch(world: &World) -> bool {
    newest_heartbeat(world, 0, 1).is_some_and(|record| record.dec.epoch == 2)
}

#[test]
fn r21_a_decision_that_is_learnt_without_its_list_forgets_no_charge() {
    decision_without_list(true);
    decision_without_list(false);
}

/// Controller 3 learns of it when it joins, or when it goes on after a stall.
fn decision_without_list(joins: bool) {
    let mut world = owned(repairable(3, 3, 2));
    world.crash(0);
    match joins {
        true => world.crash(2),
        false => world.stall(2, 6 * timing().window_ns),
    }
    // Controller 2 wins, says so in a heartbeat, and is heard no more: what it decided together
    // with the charges stands in its ballots alone.
    world.swallow = Some(is_second_decision);
    until(&mut world, 20 * SECOND, heartbeats_in_second_epoch);
    world.crash(1);
    if joins {
        world.start(2);
    }
    until(&mut world, 20 * SECOND, |w| w.is_valid(2));
    assert_eq!(world.epoch(2), 3);
    assert_eq!(charged(&world, 2), [(1, 0, 2, false)]);
}

/// The heartbeats of a winner arrive, and its ballots do not. No other controller could know what
/// to charge it with.
#[test]
fn r21_the_gate_stays_closed_until_a_majority_knows_the_limit() {
    let mut world = owned(repairable(2, 3, 2));
    world.crash(0);
    world.swallow = Some(is_second_decision);
    until(&mut world, 20 * SECOND, heartbeats_in_second_epoch);
    let opens = |w: &World| w.is_valid(1) || w.hosts[1].gate.count().open > 0;
    let before = heartbeat(&world, 0, 1).hb;
    assert!(!world.run_until(2 * timing().window_ns, opens).unwrap());
    // The first heartbeats follow each other at once; it does not go on like that.
    let beats = heartbeat(&world, 0, 1).hb - before;
    let periods = 2 * timing().window_ns / PERIOD;
    assert!((periods..periods + 5).contains(&beats), "{beats}");
    // It has its lease, and the gate does not: there is nothing to give back either.
    assert_eq!(release(&mut world, 1, None, SECOND), Err(Reason::Busy));
}

/// Whether a command writes that record to this side of the register.
fn is_second_decision_on(io: &Io, wanted: Side) -> bool {
    is_second_decision(io) && matches!(io.what, What::Write { side, .. } if side == wanted)
}

/// One block of each register says what the winner may have open, and the other one does not: an
/// earlier write that was reported as lost could still land on the first.
#[test]
fn r21_the_gate_stays_closed_while_one_block_of_a_register_knows_the_limit() {
    let swallow: [fn(&Io) -> bool; 2] = [
        |io| is_second_decision_on(io, Side::A),
        |io| is_second_decision_on(io, Side::B),
    ];
    for members in [1, 3] {
        let mut one_copy = 0;
        for swallow in swallow {
            let mut world = owned(Config {
                members,
                ..repairable(2, 3, 2)
            });
            world.crash(0);
            world.swallow = Some(swallow);
            until(&mut world, 20 * SECOND, heartbeats_in_second_epoch);
            let opens = |w: &World| w.is_valid(1);
            assert!(!world.run_until(2 * timing().window_ns, opens).unwrap());
            let says = |disk: &&Vec<Mailbox>| {
                disk[1].ballot().valid().map(|record| record.dec.epoch) == Some(2)
            };
            // A member that was the last in each round has its blocks the other way round.
            let saying = world.disks.iter().filter(says).count();
            one_copy += usize::from(saying > usize::from(members) / 2);
        }
        assert!(one_copy > 0, "the other block was written first");
    }
}

/// The write with the limit of a winner is reported as lost. Whenever it lands, it says the same as
/// the later ones, so the winner need not wait for it.
#[test]
fn r21_a_winner_does_not_wait_for_a_lost_write_that_says_the_same() {
    for fails_ns in (10 * MS..=90 * MS).step_by(10 * MS as usize) {
        let mut config = repairable(2, 3, 2);
        (config.members, config.originals) = (1, 1);
        let mut world = owned(config);
        world.crash(0);
        until(&mut world, 20 * SECOND, |w| w.epoch(1) == 2);
        world.set_path(1, 0, Path::Failing);
        run(&mut world, fails_ns);
        world.set_path(1, 0, Path::Up);
        let took_ns = until(&mut world, 5 * SECOND, |w| w.is_valid(1));
        // The reported loss, and two heartbeats that wait for the timer.
        let most_ns = timing().error_report_ns + PERIOD + 8 * IO;
        assert!(took_ns < most_ns, "{took_ns} after {fails_ns}");
    }
}

#[test]
fn r21_an_owner_is_charged_for_a_term_that_another_decided_for_it() {
    let mut world = owned(repairable(2, 3, 2));
    world.lapse_behind_the_count(0);
    // It stalls with its next claim written: controller 2 completes that, waits, and ends it.
    until(&mut world, SECOND, |w| {
        w.disks.iter().all(|disk| {
            let ballot = Snapshot(disk.clone()).ballot(slot(0)).reading.valid();
            ballot.is_some_and(|record| record.val.is_some())
        })
    });
    world.stall(0, 8 * timing().window_ns);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(world.epoch(1), 3);
    assert_eq!(charged(&world, 1), [(2, 0, 2, false)]);
}

#[test]
fn r21_a_restarted_owner_is_charged_by_itself_until_its_former_incarnation_is_confirmed_dead() {
    for controllers in [1, 2] {
        let mut world = owned(repairable(controllers, 3, 2));
        world.crash(0);
        world.start(0);
        until(&mut world, 30 * SECOND, |w| w.owner().is_some());
        let owner = world.owner().unwrap();
        // That it came back says nothing of the host that was: it may be a spare.
        run(&mut world, 30 * SECOND);
        assert_eq!(charged(&world, owner), [(1, 0, 2, false)]);
        assert_eq!(world.command(owner, DEAD), Ok(Outcome::Done));
        assert_eq!(charged(&world, owner), [(1, 0, 2, true)]);
        assert_eq!(limit(&world, owner), 1);
    }
}

/// An operation of its first term is still open when it owns again, two epochs later.
#[test]
fn r21_an_own_earlier_term_is_drained_when_its_last_permit_came_back() {
    let mut world = owned(repairable(2, 6, 2));
    hold_permit(&mut world, 0);
    run(&mut world, PERIOD);
    world.stall(0, 3 * timing().window_ns);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    world.crash(1);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    let of_first = |w: &World| charged(w, 0)[0];
    assert_eq!(of_first(&world), (1, 0, 2, false));
    run(&mut world, 5 * SECOND);
    assert_eq!(of_first(&world), (1, 0, 2, false));
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    end_permit(&mut world);
    world.hosts[0].note_open();
    assert_eq!(of_first(&world), (1, 0, 2, true), "no disk is needed");
}

/// What the new incarnation has open says nothing about the former one, whose commands have a
/// settling time from the moment at which the new one shows that it is there.
#[test]
fn r21_a_restarted_owner_learns_the_whole_list_and_does_not_vouch_for_its_former_self() {
    let mut world = owned(repairable(2, 3, 2));
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.role(0) == Role::Secondary);
    until(&mut world, SECOND, |w| !charged(w, 0).is_empty());
    assert_eq!(charged(&world, 0), [(1, 0, 2, false)]);
    let whole = |w: &World| {
        let host = w.hosts[0].controller.as_ref().unwrap();
        !host.charges().is_partial()
    };
    until(&mut world, SECOND, whole);
    run(&mut world, 10 * SECOND);
    assert_eq!(charged(&world, 0), [(1, 0, 2, false)]);
}

/// Lists of other controllers on a member whose former owner, controller 1, restarts: `terms` are
/// charged in the list of the owner, and as many in that of another controller, from `others` on.
fn crowded(controllers: u8, terms: u64, others: u64) -> World {
    let mut config = repairable(controllers, 30, 2);
    (config.members, config.originals) = (1, 1);
    let mut world = World::asleep(config);
    let owner = Value {
        slot: slot(0),
        inc: Incarnation(77),
    };
    let list = |from: u64| {
        let mut list = Charges::NONE;
        for epoch in from..from + terms {
            let inc = Incarnation(epoch.into());
            let slot = slot(1);
            list.add(Charge::new(epoch, Value { slot, inc }, 1));
        }
        list
    };
    let by_owner = BallotRecord {
        seq: 5,
        inc: owner.inc,
        boot_id: [0; 16],
        dec: Decided {
            epoch: 20,
            value: Some(owner),
        },
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
        limit: 2,
        charges: list(1),
        failed: 0,
        mark: 0,
        generations: Generations::NONE,
    };
    let by_other = BallotRecord {
        inc: Incarnation(88),
        charges: list(others).with_partial(true),
        ..by_owner
    };
    for side in Side::BOTH {
        world.disks[0][0].put(side, &Payload::Ballot(by_owner));
        world.disks[0][1].put(side, &Payload::Ballot(by_other));
    }
    world
}

/// The charges that a restarted owner finds may not fit into one list. Its own former term is known
/// to no other controller once it has written.
#[test]
fn r21_a_restarted_owner_charges_itself_whatever_it_finds() {
    for (terms, others) in [(3, 1), (7, 1), (7, 8), (8, 1), (8, 9)] {
        let mut world = crowded(3, terms, others);
        world.start(0);
        until(&mut world, 10 * SECOND, |w| w.role(0) != Role::Joining);
        let total = controller(&mut world, 0).charges().total();
        assert_eq!(u64::from(total), terms + 2, "{terms} {others}");
        let own = charged(&world, 0).into_iter().find(|it| it.1 == 0);
        assert_eq!(own, Some((20, 0, 2, false)));
    }
}

/// Eight terms are charged, none of them drained, and the owner dies. The portion is owned again,
/// all of them are charged, and an operator gets rid of every charge.
#[test]
fn r21_a_full_list_locks_no_controller_out() {
    let mut world = crowded(2, 8, 1);
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    run(&mut world, SECOND);
    let total = controller(&mut world, 0).charges().total();
    assert!(total >= 8 + 2, "{total}");
    let all_repaired = Command::Repaired { epoch: 20 };
    let dead = |&(epoch, owner, ..): &(u64, u8, u32, bool), force| Command::ConfirmDead {
        owner: slot(owner),
        epoch,
        force,
    };
    let listed = charged(&world, 0);
    for term in listed.iter().filter(|term| !term.3) {
        assert_eq!(world.command(0, all_repaired), Err(Reason::NotDrained));
        let is_several = |c: &Charge| c.epoch == term.0 && c.several;
        let several = controller(&mut world, 0)
            .charges()
            .iter()
            .any(|c| is_several(&c));
        if several {
            assert_eq!(
                world.command(0, dead(term, false)),
                Err(Reason::SeveralTerms)
            );
        }
        assert_eq!(world.command(0, dead(term, several)), Ok(Outcome::Done));
    }
    assert_eq!(listed.len(), 8, "two terms share one place");
    assert_eq!(world.command(0, all_repaired), Ok(Outcome::Done));
    assert_eq!(charged(&world, 0), []);
}

/// Controller 1 lapses with an operation under way, has a claim of its next term on the members,
/// and dies. Its next incarnation finishes that claim: the dead incarnation owned both terms.
#[test]
fn r21_a_dead_incarnation_that_wins_its_next_term_stays_charged() {
    let mut world = owned(repairable(2, 3, 2));
    controller(&mut world, 1).set_claim_auto(false);
    world.lapse_behind_the_count(0);
    until(&mut world, SECOND, |w| {
        w.disks.iter().all(|disk| {
            let ballot = Snapshot(disk.clone()).ballot(slot(0)).reading.valid();
            ballot.is_some_and(|record| record.val.is_some())
        })
    });
    world.crash(0);
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    assert_eq!(world.epoch(0), 3);
    assert_eq!(charged(&world, 0), [(2, 0, 2, false)]);
}

/// The number of failed members that a host counts with.
fn degraded(world: &World, host: usize) -> u32 {
    let controller = world.hosts[host].controller.as_ref();
    controller.unwrap().degraded()
}

#[test]
fn r21_what_an_owner_was_told_of_failed_members_holds_for_the_next_one() {
    for restarts in [false, true] {
        let mut world = owned(repairable(2, 2, 2));
        world.set_failed(0, 1);
        run(&mut world, SECOND);
        assert_eq!(limit(&world, 0), 1);
        world.crash(0);
        if restarts {
            // Its next incarnation overwrites what it said.
            world.start(0);
            until(&mut world, 20 * SECOND, |w| w.role(0) == Role::Secondary);
            assert_eq!(degraded(&world, 0), 1);
            controller(&mut world, 0).set_claim_auto(false);
        }
        until(&mut world, 20 * SECOND, |w| w.is_valid(1));
        assert_eq!(charged(&world, 1)[0].2, 1);
        assert_eq!((degraded(&world, 1), limit(&world, 1)), (1, 0));
        // The members are back, and that goes on as well.
        world.set_failed(1, 0);
        assert_eq!((degraded(&world, 1), limit(&world, 1)), (0, 1));
    }
}

/// Controllers 2 and 3 have learnt that a member failed. That it is back was said to the owner
/// alone: what the others still have in their registers does not stick.
#[test]
fn r21_the_owner_decides_the_number_of_failed_members() {
    let mut world = owned(repairable(3, 8, 2));
    world.set_failed(0, 2);
    run(&mut world, SECOND);
    assert_eq!(
        release(&mut world, 0, Some(slot(1)), SECOND),
        Ok(Outcome::Pending)
    );
    until(&mut world, SECOND, |w| w.is_valid(1));
    until(&mut world, SECOND, |w| degraded(w, 2) == 2);
    world.set_failed(1, 0);
    run(&mut world, SECOND);
    assert_eq!(degraded(&world, 2), 2, "it reads that when it claims");
    assert_eq!(world.disks[0][2].ballot().valid().unwrap().failed, 2);
    world.crash(1);
    until(&mut world, 20 * SECOND, |w| w.owner().is_some());
    assert_eq!(degraded(&world, world.owner().unwrap()), 0);
}

#[test]
fn r21_what_another_controller_is_told_of_failed_members_counts_when_that_one_claims() {
    for claims in [1, 2] {
        let mut world = owned(repairable(3, 8, 2));
        controller(&mut world, 3 - claims).set_claim_auto(false);
        world.set_failed(0, 1);
        world.set_failed(1, 3);
        run(&mut world, SECOND);
        assert_eq!((degraded(&world, 0), degraded(&world, 1)), (1, 3));
        world.crash(0);
        until(&mut world, 20 * SECOND, |w| w.is_valid(claims));
        let expected = if claims == 1 { 3 } else { 1 };
        assert_eq!(degraded(&world, claims), expected);
        // From then on it is the owner's word.
        world.set_failed(claims, 0);
        assert_eq!(degraded(&world, claims), 0);
    }
}

/// The owner gets the message, and lapses before it writes the number. It claims again, and knows
/// it.
#[test]
fn r21_an_owner_that_lapses_does_not_forget_what_it_was_told() {
    let mut world = owned(repairable(2, 8, 2));
    world.set_failed(0, 3);
    world.lapse_behind_the_count(0);
    world.set_failed(0, 1);
    until(&mut world, 5 * SECOND, |w| w.epoch(0) == 2 && w.is_valid(0));
    assert_eq!(degraded(&world, 0), 1);
}

#[test]
fn r9_r21_the_same_incarnation_is_not_charged_for_its_own_lapse() {
    let mut world = owned(repairable(2, 3, 2));
    world.stall(0, timing().lease_ns);
    until(&mut world, 5 * SECOND, |w| w.epoch(0) == 2 && w.is_valid(0));
    assert_eq!(charged(&world, 0), []);
}

#[test]
fn r15_an_exhausted_limit_is_named_and_the_risk_can_be_accepted() {
    let mut world = owned(repairable(2, 2, 2));
    let accept = |epoch| Command::AcceptRisk { epoch };
    assert_eq!(world.command(0, accept(1)), Err(Reason::NotExhausted));
    assert_eq!(controller(&mut world, 0).reason(), Reason::None);
    assert_eq!(world.monitor.stats.budgets, 0);
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    let reason = |w: &World| w.hosts[1].controller.as_ref().unwrap().reason();
    assert_eq!((limit(&world, 1), reason(&world)), (0, Reason::Exhausted));
    assert_eq!(world.monitor.stats.budgets, 1);
    run(&mut world, SECOND);
    assert_eq!(world.hosts[1].ops.len(), 0, "nothing is admitted");
    assert!(world.is_valid(1), "and nothing is lost");
    assert_eq!(world.command(1, accept(1)), Err(Reason::WrongEpoch));
    assert_eq!(world.command(1, accept(2)), Ok(Outcome::Done));
    assert_eq!(world.command(1, accept(2)), Ok(Outcome::Done));
    assert_eq!(limit(&world, 1), LIMIT_WINDOW);
    until(&mut world, SECOND, |w| !w.hosts[1].ops.is_empty());
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)], "kept and shown");
    // The next owner cannot know how much is under way now.
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.role(0) == Role::Secondary);
    world.crash(1);
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    let amounts: Vec<u32> = charged(&world, 0).iter().map(|charge| charge.2).collect();
    assert_eq!(amounts, [2, u32::MAX]);
    assert_eq!(
        limit(&world, 0),
        0,
        "the word of the operator was for one epoch"
    );
}

#[test]
fn r21_an_operator_may_confirm_that_a_charged_term_is_dead() {
    let mut world = owned(repairable(2, 3, 2));
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
    assert_eq!(charged(&world, 1), [(1, 0, 2, true)]);
    assert_eq!(
        world.command(1, Command::Repaired { epoch: 1 }),
        Ok(Outcome::Done)
    );
    assert_eq!(limit(&world, 1), 2);
}

/// A controller that cannot read any mailbox hears no owner.
#[test]
fn r21_a_controller_that_cannot_read_a_majority_does_not_take_an_owner_for_dead() {
    let mut world = owned(repairable(2, 3, 2));
    for member in [0, 1] {
        world.set_path(1, member, Path::Failing);
    }
    run(&mut world, SECOND);
    assert!(world.is_valid(0));
    assert_eq!(world.command(1, DEAD), Err(Reason::Blind));
    for member in [0, 1] {
        world.set_path(1, member, Path::Up);
    }
    run(&mut world, 3 * PERIOD);
    assert_eq!(world.command(1, DEAD), Err(Reason::OwnerAlive));
    assert!(world.is_valid(0));
}

/// What was read before a sleep says nothing of the time after it.
#[test]
fn r21_a_controller_that_slept_does_not_take_an_owner_for_dead_before_it_has_read() {
    let mut world = owned(repairable(2, 3, 2));
    world.crash(0);
    run(&mut world, 2 * PERIOD + timing().lease_elsewhere_ns());
    world.sleep(1, 70 * MS);
    until(&mut world, SECOND, |w| !w.hosts[1].is_stalled());
    assert_eq!(world.command(1, DEAD), Err(Reason::Blind));
    run(&mut world, 2 * PERIOD);
    assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
}

/// An operator is wrong, is disproved, and the owner fails much later with an operation under way.
#[test]
fn r21_a_disproved_confirmation_says_nothing_about_a_later_end() {
    let mut world = owned(repairable(2, 3, 2));
    for member in 0..3 {
        world.set_path(1, member, Path::Failing);
    }
    run(&mut world, SECOND);
    assert_eq!(world.command(1, NOT_DEAD), Ok(Outcome::Done));
    for member in 0..3 {
        world.set_path(1, member, Path::Up);
    }
    let lost = world.run_until(10 * SECOND, |w| !w.is_valid(0));
    assert!(!lost.unwrap(), "the owner was heard in time");
    until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
    hold_permit(&mut world, 0);
    world.stall(0, 20 * SECOND);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    let repaired = Command::Repaired { epoch: 1 };
    assert_eq!(world.command(1, repaired), Err(Reason::NotDrained));
}

/// A window after its lapse controller 1 still has an operation open and says so: it is alive,
/// whether its term is charged already or is the last one.
#[test]
fn r21_an_owner_that_says_what_it_has_open_is_not_dead_even_with_force() {
    for charged_already in [false, true] {
        let mut world = owned(repairable(2, 3, 2));
        controller(&mut world, 1).set_claim_auto(charged_already);
        until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
        hold_permit(&mut world, 0);
        let fence = Command::Fence(Reason::Fence);
        controller(&mut world, 0).set_claim_auto(false);
        assert_eq!(world.command(0, fence), Ok(Outcome::Done));
        run(&mut world, 3 * SECOND);
        assert_eq!(world.is_valid(1), charged_already);
        assert_eq!(world.command(1, DEAD), Err(Reason::OwnerAlive));
        assert_eq!(world.command(1, NOT_DEAD), Err(Reason::OwnerOpen));
        // It is heard no more, and what it said last grows old.
        world.crash(0);
        run(&mut world, 2 * PERIOD + timing().lease_elsewhere_ns());
        assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
        until(&mut world, SECOND, |w| w.is_valid(1));
        assert_eq!(charged(&world, 1), [(1, 0, 2, true)]);
    }
}

/// An operator confirms that a host is dead which only stands still. The confirmation holds until
/// the host goes on, for the controller that got it and for the controller that takes over from it.
#[test]
fn r21_the_confirmation_about_a_charged_term_is_taken_back_when_its_owner_is_heard() {
    for handed_over in [false, true] {
        let mut world = owned(repairable(3, 6, 2));
        controller(&mut world, 2).set_claim_auto(false);
        until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
        hold_permit(&mut world, 0);
        world.stall(0, 10 * SECOND);
        until(&mut world, 20 * SECOND, |w| w.is_valid(1));
        assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
        run(&mut world, SECOND);
        let mut owner = 1;
        if handed_over {
            controller(&mut world, 2).set_claim_auto(true);
            // The owner reads that the other controller may claim now.
            run(&mut world, 2 * PERIOD);
            release(&mut world, 1, Some(slot(2)), SECOND).unwrap();
            until(&mut world, SECOND, |w| w.is_valid(2));
            owner = 2;
        }
        let of_first = |w: &World| charged(w, owner).first().copied();
        assert_eq!(of_first(&world), Some((1, 0, 2, true)));
        until(&mut world, 20 * SECOND, |w| !w.hosts[0].is_stalled());
        until(&mut world, SECOND, |w| {
            of_first(w) == Some((1, 0, 2, false))
        });
        let repaired = Command::Repaired { epoch: 1 };
        assert_eq!(world.command(owner, repaired), Err(Reason::NotDrained));
        // What it says behind its latch with nothing open is evidence, for ever.
        end_permit(&mut world);
        until(&mut world, SECOND, |w| of_first(w) == Some((1, 0, 2, true)));
        assert_eq!(world.command(owner, repaired), Ok(Outcome::Done));
    }
}

/// The owner is heard between the operator's word and the end of the claim that follows from it.
#[test]
fn r21_a_confirmation_that_is_disproved_during_the_claim_drains_nothing() {
    for step in 0..40 {
        let mut world = owned(repairable(2, 3, 2));
        until(&mut world, SECOND, |w| w.hosts[0].ops.is_empty());
        hold_permit(&mut world, 0);
        world.stall(
            0,
            timing().lease_elsewhere_ns() + 2 * PERIOD + step * IO / 4,
        );
        run(&mut world, timing().lease_elsewhere_ns() + 3 * PERIOD / 2);
        let told = world.command(1, DEAD);
        until(&mut world, 20 * SECOND, |w| {
            w.owner().is_some() && !w.hosts[0].is_stalled()
        });
        run(&mut world, SECOND);
        assert_eq!(told, Ok(Outcome::Done), "{step}");
        if world.is_valid(1) {
            assert_eq!(charged(&world, 1), [(1, 0, 2, false)], "{step}");
        }
    }
}

/// One owner got the confirmation. The controller that takes over from it read the list before
/// that.
#[test]
fn r21_what_an_owner_was_told_is_known_to_the_next_one() {
    let mut world = owned(repairable(3, 6, 2));
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.owner().is_some());
    let owner = world.owner().unwrap();
    let heir = 3 - owner;
    until(&mut world, SECOND, |w| !charged(w, heir).is_empty());
    run(&mut world, SECOND);
    assert_eq!(world.command(owner, DEAD), Ok(Outcome::Done));
    run(&mut world, SECOND);
    assert_eq!(charged(&world, heir), [(1, 0, 2, false)]);
    world.crash(owner);
    until(&mut world, 20 * SECOND, |w| w.role(heir) == Role::Claiming);
    assert_eq!(world.command(heir, DEAD), Err(Reason::Busy));
    until(&mut world, SECOND, |w| w.is_valid(heir));
    let terms = [(1, 0, 2, true), (2, owner as u8, 2, false)];
    assert_eq!(charged(&world, heir), terms);
}

/// The owner got a message after the others had read its list. The next owner reads the new list,
/// and does not use what the others still have.
#[test]
fn r21_the_list_of_an_epoch_is_the_owners() {
    let mut world = owned(repairable(4, 6, 2));
    for other in [2, 3] {
        controller(&mut world, other).set_claim_auto(false);
    }
    world.crash(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    until(&mut world, SECOND, |w| !charged(w, 2).is_empty());
    assert_eq!(world.command(1, DEAD), Ok(Outcome::Done));
    run(&mut world, SECOND);
    world.crash(3);
    world.start(3);
    until(&mut world, 20 * SECOND, |w| w.role(3) == Role::Secondary);
    run(&mut world, 5 * SECOND);
    assert_eq!(charged(&world, 2), [(1, 0, 2, false)]);
    assert_eq!(charged(&world, 3), [(1, 0, 2, true)]);
}

/// Controller 1 comes back and says that nothing of it is open, while another one has a ballot on
/// its way: the list that goes with a ballot is not changed under it.
#[test]
fn r21_a_list_does_not_change_while_its_ballot_is_written() {
    let mut world = owned(repairable(3, 6, 2));
    world.stall(0, 4 * timing().window_ns);
    until(&mut world, 20 * SECOND, |w| {
        w.owner().is_some_and(|o| o > 0)
    });
    let owner = world.owner().unwrap();
    let heir = 3 - owner;
    // The hand-over waits for an operation, and the heir with its ballot for the hand-over.
    hold_permit(&mut world, owner);
    release(&mut world, owner, Some(slot(heir as u8)), 10 * SECOND).unwrap();
    until(&mut world, SECOND, |w| w.role(owner) == Role::Releasing);
    until(&mut world, 20 * SECOND, |w| {
        charged(w, owner) == [(1, 0, 2, true)]
    });
    run(&mut world, SECOND);
    assert_eq!(world.role(heir), Role::Claiming);
    assert_eq!(charged(&world, heir), [(1, 0, 2, false)]);
    // The operation does not end in time, and so neither does the epoch.
    until(&mut world, 10 * SECOND, |w| w.role(heir) == Role::Secondary);
    until(&mut world, SECOND, |w| {
        charged(w, heir) == [(1, 0, 2, true)]
    });
}

#[test]
fn r21_external_redundancy_charges_no_term() {
    let mut world = owned(Config::healthy(2, 3));
    world.crash(0);
    world.start(0);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), []);
    until(&mut world, 20 * SECOND, |w| w.role(0) != Role::Joining);
    assert_eq!(charged(&world, 0), []);
}
