// SPDX-License-Identifier: GPL-2.0
//! What a controller does when the records on the members are not what they must be: two owners of
//! one epoch, a second host with its number, a copy of itself, a member that went back [R36,
//! R57, R58].
//!
//! Each of these breaks an assumption that the safety rules rest on, so the monitor of [`world`] is
//! asked only where the rules can hold all the same.

mod world;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Decided, Incarnation, Side, Slot, Value};
use dm_lease_proto::proto::codec::mailbox::Mailboxes;
use dm_lease_proto::proto::controller::{Command, Controller, Outcome};
use dm_lease_proto::proto::gate::lanes::Place;
use dm_lease_proto::proto::limit::{Redundancy, RedundancyKind};
use dm_lease_proto::proto::words::status::{Reason, Role};
use world::{timing, Config, Mailbox, Path, Payload, Snapshot, What, World, MS};

const SECOND: u64 = 1_000 * MS;

/// A period of the tests' timing.
const PERIOD: u64 = 100 * MS;

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

/// Goes on over broken rules; says which they were.
fn go(world: &mut World, for_ns: u64) -> Vec<&'static str> {
    let end_ns = world.now_ns + for_ns;
    let mut broken = Vec::new();
    while world.now_ns < end_ns {
        if let Err(violation) = world.run(end_ns - world.now_ns) {
            broken.push(violation.rule);
        }
    }
    broken.dedup();
    broken
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

fn repairable(controllers: u8, members: u8) -> Config {
    Config {
        redundancy: Redundancy {
            kind: RedundancyKind::Parity(3),
            detect: true,
            batch: 2,
            ..Redundancy::EXTERNAL
        },
        ..Config::healthy(controllers, members)
    }
}

fn controller(world: &mut World, host: usize) -> &mut Controller {
    world.hosts[host].controller.as_mut().unwrap()
}

fn reason(world: &World, host: usize) -> Reason {
    let controller = world.hosts[host].controller.as_ref();
    controller.map_or(Reason::None, |it| it.reason())
}

/// Epoch, controller index, amount and whether it has drained.
fn charged(world: &World, host: usize) -> Vec<(u64, u8, u32, bool)> {
    let controller = world.hosts[host].controller.as_ref().unwrap();
    let charges = controller.charges().iter();
    charges
        .map(|it| (it.epoch, it.slot.index(), it.amount, it.drained))
        .collect()
}

/// An operation of a host that does not end.
fn hold_permit(world: &mut World, host: usize) {
    let local_ns = world.local_ns(host);
    world.hosts[host].gate.enter(Place::ONE, || local_ns);
}

fn newest_heartbeat(world: &World, member: usize, index: u8) -> Option<HeartbeatRecord> {
    let mailboxes = Snapshot(world.disks[member].clone());
    mailboxes.heartbeat(slot(index)).reading.valid()
}

fn heartbeat(world: &World, member: usize, index: u8) -> HeartbeatRecord {
    newest_heartbeat(world, member, index).unwrap()
}

fn ballot(world: &World, member: usize, index: usize) -> BallotRecord {
    world.disks[member][index].ballot().valid().unwrap()
}

/// Half a period after a heartbeat of a host, when nothing of it is under way.
fn quiet_moment(world: &mut World, index: u8) {
    let seq = heartbeat(world, 0, index).seq;
    until(world, SECOND, |w| heartbeat(w, 0, index).seq > seq);
    run(world, PERIOD / 2);
}

/// The registers that a host writes on a member.
fn records(world: &World, member: usize, index: usize) -> (u64, u64) {
    let beat = heartbeat(world, member, index as u8);
    (ballot(world, member, index).seq, beat.seq)
}

/// Host 2 and host 3 both own epoch 2: one member forgot what the others had promised on it, but
/// not what host 3 wrote there, so that no controller could see it in its own slot.
fn split() -> World {
    let mut world = owned(Config::healthy(3, 3));
    world.set_path(1, 2, Path::Failing);
    controller(&mut world, 2).set_claim_auto(false);
    world.crash(0);
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Claiming);
    // Host 2 reads nothing of the decision.
    for member in 0..3 {
        world.set_path(2, member, Path::Failing);
    }
    until(&mut world, 10 * SECOND, |w| {
        w.is_valid(1) && w.epoch(1) == 2
    });
    world.crash(1);
    for member in 1..3 {
        world.set_path(2, member, Path::Up);
    }
    for index in [0, 1] {
        world.disks[1][index] = Mailbox::blank();
    }
    let decided = |w: &World| w.epoch(2) == 2;
    controller(&mut world, 2).set_claim_auto(true);
    controller(&mut world, 2).set_guarded(false);
    // The monitor sees two values for one epoch: that is what it is for.
    let broken = go(&mut world, 5 * SECOND);
    assert!(decided(&world) && world.is_valid(2), "{broken:?}");
    world
}

#[test]
fn r57_an_owner_that_reads_another_value_for_its_epoch_withdraws_for_good() {
    // Whichever register names the other owner.
    for in_ballot in [false, true] {
        for (host, other) in [(0, 1), (2, 1)] {
            let mut world = owned(Config::healthy(3, 1));
            world.crash(1);
            quiet_moment(&mut world, host as u8);
            let epoch = world.epoch(host);
            let dec = Decided {
                epoch,
                value: Some(Value {
                    slot: slot(other),
                    inc: Incarnation(77),
                }),
            };
            let at = usize::from(other);
            let payload = match in_ballot {
                true => Payload::Ballot(BallotRecord {
                    seq: 1_000,
                    inc: Incarnation(77),
                    dec,
                    ..ballot(&world, 0, at)
                }),
                false => Payload::Heartbeat(HeartbeatRecord {
                    seq: 1_000,
                    inc: Incarnation(77),
                    dec,
                    role: RecordRole::Owner,
                    ..heartbeat(&world, 0, other)
                }),
            };
            for side in Side::BOTH {
                world.disks[0][at].put(side, &payload);
            }
            let at_most_ns = 2 * PERIOD;
            until(&mut world, at_most_ns, |w| {
                w.role(host) == Role::Failed && w.role(0) == Role::Failed
            });
            assert_eq!(reason(&world, host), Reason::Split);
            assert!(!world.is_valid(0));
            let issued = world.hosts[host].issued;
            // A message does not bring it back.
            let claim = world.command(host, Command::Claim);
            assert_eq!(claim, Err(Reason::Split));
            run(&mut world, 20 * SECOND);
            assert_eq!(world.hosts[host].issued, issued);
            assert_eq!(world.owner(), None);
        }
    }
}

#[test]
fn r57_two_owners_of_one_epoch_notice_each_other() {
    let mut world = split();
    // Everything is put right, and a controller comes that knows nothing.
    world.start(0);
    for host in 0..3 {
        for member in 0..3 {
            world.set_path(host, member, Path::Up);
        }
    }
    go(&mut world, 2 * PERIOD);
    assert_eq!(
        (world.role(2), reason(&world, 2)),
        (Role::Failed, Reason::Split)
    );
    go(&mut world, 10 * SECOND);
    assert_eq!(
        (world.role(0), reason(&world, 0)),
        (Role::Failed, Reason::Split)
    );
    assert_eq!(
        newest_heartbeat(&world, 0, 0).unwrap().dec.epoch,
        1,
        "the joiner wrote nothing"
    );
    world.start(1);
    go(&mut world, 10 * SECOND);
    assert_eq!(
        (world.role(1), reason(&world, 1)),
        (Role::Failed, Reason::Split)
    );
    assert_eq!(world.owner(), None);
}

#[test]
fn r57_a_higher_epoch_beside_the_other_value_does_not_hide_it() {
    let mut world = owned(Config::healthy(3, 1));
    world.crash(1);
    world.crash(2);
    quiet_moment(&mut world, 0);
    let value = |index, inc| {
        Some(Value {
            slot: slot(index),
            inc: Incarnation(inc),
        })
    };
    let mut put = |index: u8, epoch, value| {
        let record = HeartbeatRecord {
            seq: 1_000,
            dec: Decided { epoch, value },
            ..heartbeat(&world, 0, index)
        };
        world.disks[0][usize::from(index)].put(Side::A, &Payload::Heartbeat(record));
    };
    put(1, 2, value(1, 5));
    put(2, 1, value(2, 6));
    until(&mut world, 2 * PERIOD, |w| w.role(0) == Role::Failed);
    assert_eq!(reason(&world, 0), Reason::Split);
}

#[test]
fn r58_a_member_whose_records_went_back_counts_again_when_they_are_written_anew() {
    for blank in [true, false] {
        for members in [1, 3] {
            let mut world = World::new(Config::healthy(2, members));
            until(&mut world, 10 * SECOND, |w| {
                (0..2).all(|host| w.role(host) == Role::Secondary)
            });
            // The portion was never owned.
            let before = world.disks[0].clone();
            until(&mut world, 10 * SECOND, |w| w.is_valid(0));
            run(&mut world, 10 * SECOND);
            quiet_moment(&mut world, 0);
            let is = ballot(&world, 0, 0);
            match blank {
                true => world.disks[0].fill(Mailbox::blank()),
                false => world.disks[0] = before,
            }
            let rewritten = |w: &World| {
                let found = w.disks[0][0].ballot().valid();
                found.is_some_and(|it| it.dec == is.dec && it.seq > is.seq + 1)
            };
            until(&mut world, 3 * PERIOD, rewritten);
            // Once for each controller that had written there, and with more members nothing else.
            run(&mut world, 5 * SECOND);
            for host in 0..2 {
                assert_eq!(world.hosts[host].alarms, [0], "host {host}");
            }
            assert!(members == 1 || world.is_valid(0));
            assert!(world.owner().is_some());
        }
    }
}

/// Three members, and two of them go back: no heartbeat counts until a majority was written anew.
#[test]
fn r58_a_heartbeat_does_not_count_on_members_whose_ballots_went_back() {
    let mut world = owned(Config::healthy(2, 3));
    quiet_moment(&mut world, 0);
    for member in [0, 1] {
        world.disks[member][0].restore_ballots(&Mailbox::blank());
        // They cannot be written, and everything else can.
        world.swallow = Some(|io| {
            let is_ballot = matches!(
                &io.what,
                What::Write {
                    payload: Payload::Ballot(_),
                    ..
                }
            );
            io.host == 0 && io.member < 2 && is_ballot
        });
    }
    until(&mut world, 10 * PERIOD, |w| !w.is_valid(0));
    assert_eq!(world.hosts[0].alarms, [0, 1]);
}

#[test]
fn r58_an_owner_whose_ballots_went_back_is_charged_all_the_same() {
    let mut world = World::asleep(repairable(2, 1));
    world.start(0);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| w.role(0) == Role::Secondary);
    let before = world.disks[0][0].clone();
    assert_eq!(before.ballot().valid().unwrap().dec.epoch, 0);
    until(&mut world, 10 * SECOND, |w| {
        w.is_valid(0) && w.role(1) == Role::Secondary
    });
    run(&mut world, 5 * SECOND);
    quiet_moment(&mut world, 0);
    world.disks[0][0].restore_ballots(&before);
    run(&mut world, 5 * PERIOD);
    assert_eq!(world.hosts[0].alarms, [0]);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    let (epoch, now) = (world.epoch(0), ballot(&world, 0, 0).dec.epoch);
    assert_eq!(now, epoch, "what was lost is there again");
    // The successor finds what this term may have had open.
    hold_permit(&mut world, 0);
    hold_permit(&mut world, 0);
    world.stall(0, 30 * SECOND);
    until(&mut world, 20 * SECOND, |w| w.is_valid(1));
    assert!(charged(&world, 1).contains(&(epoch, 0, 2, false)));
}

/// The only member of an observer goes back in its sleep, to what the owner wrote before.
#[test]
fn r58_what_a_member_shows_that_went_back_is_no_silence() {
    let mut world = owned(Config::healthy(2, 1));
    let before = world.disks[0].clone();
    run(&mut world, SECOND);
    quiet_moment(&mut world, 1);
    world.stall(1, 2 * timing().window_ns);
    run(&mut world, 2 * timing().window_ns - MS);
    world.disks[0] = before;
    run(&mut world, 5 * SECOND);
    assert_eq!(world.hosts[1].alarms, [0]);
    assert!(world.is_valid(0));
}

/// The owner reaches members 0 and 2. An observer, which hears of members 0 and 1 first, finds that
/// member 0 went back and cannot be written. Member 0 shows the same old record again after a stall
/// of the observer, and the owner has written there in between.
#[test]
fn r58_a_member_that_went_back_proves_no_silence_before_it_is_written_anew() {
    let mut world = owned(Config::healthy(2, 3));
    let mut before = world.disks[0].clone();
    before[1].restore_ballots(&Mailbox::blank());
    world.set_path(0, 1, Path::Failing);
    run(&mut world, SECOND);
    quiet_moment(&mut world, 1);
    world.set_path(1, 0, Path::Unwritable);
    world.disks[0] = before.clone();
    until(&mut world, 2 * PERIOD, |w| w.hosts[1].alarms == [0]);
    world.stall(1, 2 * timing().window_ns);
    run(&mut world, 2 * timing().window_ns - MS);
    assert!(world.is_valid(0), "the owner has written in between");
    world.disks[0] = before;
    for _ in 0..100 {
        run(&mut world, MS);
        assert_eq!(world.role(1), Role::Secondary);
    }
}

/// Of two members, which are a majority together, both go back. A read of such a member is no
/// information, but it shows whether another host has the number of this one.
#[test]
fn r58_a_host_writes_again_after_a_stall_although_no_member_counts() {
    let mut world = owned(Config::healthy(2, 2));
    quiet_moment(&mut world, 1);
    for member in [0, 1] {
        world.disks[member][1].restore_ballots(&Mailbox::blank());
        world.set_path(1, member as u8, Path::Unwritable);
    }
    until(&mut world, 5 * PERIOD, |w| w.hosts[1].alarms.len() == 2);
    world.stall(1, 2 * timing().lease_ns);
    run(&mut world, timing().lease_ns);
    for member in [0, 1] {
        world.set_path(1, member, Path::Up);
    }
    run(&mut world, 2 * timing().lease_ns);
    let before = heartbeat(&world, 0, 1).seq;
    run(&mut world, 5 * PERIOD);
    assert!(heartbeat(&world, 0, 1).seq > before + 2);
    assert!(world.is_valid(0));
}

#[test]
fn r58_a_command_that_was_reported_as_lost_and_lands_late_is_no_alarm() {
    let mut world = owned(Config::healthy(2, 1));
    world.watch();
    quiet_moment(&mut world, 1);
    // One heartbeat of the secondary fails, and it is written anew ...
    world.set_path(1, 0, Path::Failing);
    let sent = |w: &World| {
        let latest = w.latest().filter(|io| io.host == 1);
        latest.is_some_and(|io| matches!(io.what, What::Write { .. }))
    };
    until(&mut world, 2 * PERIOD, sent);
    let lost = world.latest().unwrap().what.clone();
    let issued_ns = world.latest().unwrap().issued_ns;
    run(&mut world, MS);
    world.set_path(1, 0, Path::Up);
    let What::Write { side, payload, .. } = lost else {
        panic!("{lost:?}")
    };
    // ... and lands at the end of its time, over what was written since.
    let delay_ns = timing().device_delay_ns;
    let wait_ns = issued_ns + delay_ns - MS - world.now_ns;
    run(&mut world, wait_ns);
    let seq = heartbeat(&world, 0, 1).seq;
    assert!(seq > payload.seq());
    world.disks[0][1].put(side, &payload);
    run(&mut world, 5 * SECOND);
    assert!(world.hosts[1].alarms.is_empty());
    assert_eq!(world.role(1), Role::Secondary);
    assert!(world.is_valid(0));
}

/// Another host begins with the memory and the clock of host 0.
fn copy_host(world: &mut World, copy: usize) {
    world.start(copy);
    world.become_copy(0, copy);
}

#[test]
fn r58_at_most_one_of_an_owner_and_its_copy_goes_on() {
    for seed in 1..=10 {
        let mut config = Config::healthy(2, 3).with_duplicate_of(0);
        config.seed = seed;
        let mut world = World::asleep(config);
        world.start(0);
        world.start(1);
        until(&mut world, 10 * SECOND, |w| w.is_valid(0));
        quiet_moment(&mut world, 0);
        copy_host(&mut world, 2);
        // No rule can hold before they have seen each other, within two heartbeats.
        go(&mut world, 3 * PERIOD);
        let valid = [0, 2].map(|host| world.is_valid(host));
        assert_ne!(valid, [true, true], "seed {seed}");
        let failed = |&host: &usize| world.role(host) == Role::Failed;
        assert!([0, 2].iter().any(failed), "seed {seed}");
        for host in [0, 2].into_iter().filter(failed) {
            assert_eq!(reason(&world, host), Reason::Copy, "seed {seed}");
        }
        go(&mut world, 10 * SECOND);
        let valid = (0..3).filter(|&host| world.is_valid(host)).count();
        assert_eq!(valid, 1, "seed {seed}");
    }
}

/// The hypervisor tells the host, before the host notices anything.
#[test]
fn r58_a_host_that_learns_that_it_was_copied_joins_as_another_incarnation() {
    let mut world = World::asleep(repairable(2, 3).with_duplicate_of(0));
    world.start(0);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    quiet_moment(&mut world, 0);
    copy_host(&mut world, 2);
    let local_ns = world.local_ns(2);
    let fork = |world: &mut World, host: usize, inc, local_ns| {
        controller(world, host).handle_fork(Incarnation(inc), local_ns);
        world.hosts[host].inc = inc;
        world.pump(host);
    };
    fork(&mut world, 2, 99, local_ns);
    assert!(!world.is_valid(2));
    // The original goes on; the copy hears it and stays away.
    let lost = world.run_until(20 * SECOND, |w| !w.is_valid(0)).unwrap();
    assert!(!lost);
    assert_eq!(
        (world.role(2), reason(&world, 2)),
        (Role::Joining, Reason::Duplicate)
    );
    assert_eq!(world.last_write_ns[2], 0, "it has written nothing");
    // Now the original gets the message, too, and the copy is gone. It owns again as another
    // incarnation, and its former incarnation is charged.
    world.crash(2);
    world.crash(1);
    let local_ns = world.local_ns(0);
    fork(&mut world, 0, 100, local_ns);
    assert!(!world.is_valid(0));
    until(&mut world, 20 * SECOND, |w| w.is_valid(0));
    let decided = controller(&mut world, 0).decided();
    assert_eq!(decided.value.unwrap().inc, Incarnation(100));
    assert_eq!(charged(&world, 0), [(1, 0, 2, false)]);
}

/// A controller fails because a copy wrote its mailbox. The hypervisor's message comes later.
#[test]
fn r58_a_failed_controller_joins_anew_when_it_learns_that_it_was_copied() {
    let mut world = World::asleep(Config::healthy(2, 1).with_duplicate_of(0));
    world.start(0);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    quiet_moment(&mut world, 0);
    copy_host(&mut world, 2);
    go(&mut world, 3 * PERIOD);
    world.crash(2);
    if world.role(0) != Role::Failed {
        return;
    }
    let local_ns = world.local_ns(0);
    controller(&mut world, 0).handle_fork(Incarnation(101), local_ns);
    world.hosts[0].inc = 101;
    world.pump(0);
    go(&mut world, 10 * SECOND);
    assert_eq!(world.role(0), Role::Secondary);
    assert!(world.is_valid(1));
}

/// A hung host is replaced by a spare with the same number; it has operations past its gate.
fn hung_and_replaced() -> World {
    let mut world = World::asleep(repairable(2, 1).with_duplicate_of(0));
    world.start(0);
    world.start(1);
    until(&mut world, 10 * SECOND, |w| {
        w.is_valid(0) && w.role(1) == Role::Secondary
    });
    run(&mut world, SECOND);
    quiet_moment(&mut world, 0);
    hold_permit(&mut world, 0);
    world.stall(0, 60 * SECOND);
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    world.start(2);
    until(&mut world, 10 * SECOND, |w| w.role(2) == Role::Secondary);
    world
}

#[test]
fn r21_a_spare_with_the_number_of_a_hung_host_shows_no_drain() {
    let mut world = hung_and_replaced();
    run(&mut world, 20 * SECOND);
    assert_eq!(charged(&world, 1), [(1, 0, 2, false)]);
    let repaired = Command::Repaired { epoch: 1 };
    assert_eq!(world.command(1, repaired), Err(Reason::NotDrained));
    // The operator has switched the hung host off, and says so.
    world.crash(0);
    let dead = Command::ConfirmDead {
        owner: slot(0),
        epoch: 1,
        force: false,
    };
    assert_eq!(world.command(1, dead), Ok(Outcome::Done));
    assert_eq!(world.command(1, repaired), Ok(Outcome::Done));
    assert!(charged(&world, 1).is_empty());
}

#[test]
fn r36_a_hung_host_whose_number_was_given_away_writes_nothing_when_it_goes_on() {
    let mut world = hung_and_replaced();
    let issued = world.last_write_ns[0];
    until(&mut world, 60 * SECOND, |w| w.role(0) == Role::Failed);
    assert_eq!(world.last_write_ns[0], issued);
    assert_eq!(reason(&world, 0), Reason::ForeignIncarnation);
    run(&mut world, 20 * SECOND);
    assert_eq!(world.last_write_ns[0], issued);
    assert_eq!((world.role(2), world.is_valid(1)), (Role::Secondary, true));
}

/// The same for one that owned nothing, and for one that was about to claim.
#[test]
fn r36_a_secondary_whose_number_was_given_away_writes_nothing_when_it_goes_on() {
    for owner_dies in [false, true] {
        let mut world = World::asleep(Config::healthy(3, 3).with_duplicate_of(1));
        for host in 0..3 {
            world.start(host);
        }
        until(&mut world, 10 * SECOND, |w| {
            w.is_valid(0) && w.role(1) == Role::Secondary && w.role(2) == Role::Secondary
        });
        run(&mut world, SECOND);
        quiet_moment(&mut world, 1);
        if owner_dies {
            world.crash(0);
        }
        world.stall(1, 30 * SECOND);
        run(&mut world, 5 * SECOND);
        world.start(3);
        until(&mut world, 10 * SECOND, |w| w.role(3) == Role::Secondary);
        let written = world.last_write_ns[1];
        until(&mut world, 40 * SECOND, |w| w.role(1) == Role::Failed);
        assert_eq!(world.last_write_ns[1], written);
        run(&mut world, 10 * SECOND);
        assert_eq!(world.role(3), Role::Secondary);
    }
}

/// It stands still between the end of its listening and its first write, and another comes.
#[test]
fn r36_a_joiner_that_stood_still_before_its_first_write_listens_anew() {
    let mut world = World::asleep(Config::healthy(2, 1).with_duplicate_of(1));
    world.start(0);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    world.start(1);
    // Its only write is lost.
    world.set_path(1, 0, Path::Failing);
    world.set_path(1, 0, Path::Up);
    world.swallow = Some(|io| io.host == 1 && matches!(io.what, What::Write { .. }));
    run(&mut world, 2 * timing().join_listen_ns());
    assert_eq!(world.role(1), Role::Joining);
    world.stall(1, 20 * SECOND);
    world.start(2);
    until(&mut world, 10 * SECOND, |w| w.role(2) == Role::Secondary);
    until(&mut world, 30 * SECOND, |w| !w.hosts[1].is_stalled());
    run(&mut world, 10 * SECOND);
    assert_eq!(
        (world.role(1), reason(&world, 1)),
        (Role::Joining, Reason::Duplicate)
    );
    assert_eq!(world.role(2), Role::Secondary);
}

/// A joiner stands still while it writes for the first time, and listens anew. Meanwhile the owner
/// releases the epoch, and another controller owns the next one.
#[test]
fn r27_a_joiner_that_listens_anew_claims_nothing_beside_the_next_owner() {
    let mut world = World::asleep(Config::healthy(3, 1));
    world.watch();
    world.start(0);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    world.start(1);
    until(&mut world, 10 * SECOND, |w| w.role(1) == Role::Secondary);
    run(&mut world, 2 * timing().join_listen_ns());
    world.start(2);
    until(&mut world, 10 * SECOND, |w| {
        let latest = w.latest().filter(|io| io.host == 2);
        latest.is_some_and(|io| matches!(io.what, What::Write { .. }))
    });
    world.stall(2, 2 * timing().lease_ns);
    run(&mut world, 2 * timing().lease_ns + 2 * PERIOD);
    assert_eq!(world.role(2), Role::Joining);
    let release = Command::Release {
        successor: None,
        deadline_ns: world.local_ns(0) + SECOND,
    };
    assert_eq!(world.command(0, release), Ok(Outcome::Pending));
    until(&mut world, 10 * SECOND, |w| w.is_valid(1));
    until(&mut world, 10 * SECOND, |w| w.role(2) == Role::Secondary);
    // S1' is checked after every event.
    run(&mut world, 10 * SECOND);
    assert!(world.is_valid(1));
    assert_eq!(world.role(2), Role::Secondary);
}

/// The host has a new ballot record to write when the snapshot is taken. Its later life decides
/// another epoch, which nobody else learns.
#[test]
fn r58_a_host_that_is_put_back_leaves_the_promises_of_its_later_life_on_the_members() {
    let mut world = owned(Config::healthy(2, 1));
    world.crash(1);
    quiet_moment(&mut world, 0);
    let failed = Command::Degraded { failed: 1 };
    assert_eq!(world.command(0, failed), Ok(Outcome::Done));
    world.take_snapshot(0);
    world.set_path(0, 0, Path::Failing);
    until(&mut world, 10 * SECOND, |w| !w.is_valid(0));
    world.set_path(0, 0, Path::Up);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    quiet_moment(&mut world, 0);
    assert_eq!(ballot(&world, 0, 0).dec.epoch, 2);
    world.put_back(0);
    assert_eq!((world.role(0), world.epoch(0)), (Role::Owner, 1));
    until(&mut world, 3 * SECOND, |w| w.role(0) == Role::Failed);
    assert_eq!(reason(&world, 0), Reason::Copy);
    run(&mut world, 10 * SECOND);
    assert_eq!(ballot(&world, 0, 0).dec.epoch, 2);
}

/// The only member acknowledges the first records of a joiner, answers no read for longer than a
/// lease, and forgets the records meanwhile.
#[test]
fn r58_a_joiner_whose_first_records_were_lost_listens_anew_and_joins() {
    let mut world = World::asleep(Config::healthy(2, 1));
    world.start(0);
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    world.start(1);
    until(&mut world, 10 * SECOND, |w| {
        newest_heartbeat(w, 0, 1).is_some()
    });
    // The records have landed, and will be acknowledged.
    world.set_path(1, 0, Path::Failing);
    world.disks[0][1] = Mailbox::blank();
    run(&mut world, 3 * timing().lease_ns);
    assert_eq!(world.role(1), Role::Joining);
    world.set_path(1, 0, Path::Up);
    until(&mut world, 20 * SECOND, |w| w.role(1) == Role::Secondary);
    assert!(world.is_valid(0));
}

/// What stands still is short: nothing is looked at before it is written.
#[test]
fn r36_a_short_stall_costs_no_look() {
    let mut world = owned(Config::healthy(2, 1));
    quiet_moment(&mut world, 1);
    world.stall(1, timing().lease_ns / 2);
    until(&mut world, SECOND, |w| !w.hosts[1].is_stalled());
    let before = records(&world, 0, 1);
    until(&mut world, 5 * MS, |w| records(w, 0, 1) != before);
}
