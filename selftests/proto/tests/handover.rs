// SPDX-License-Identifier: GPL-2.0
//! Hand-overs that come to nothing [R34]: the owner stays the owner.
//!
//! A hand-over is called off because an operator says so, because an operation does not end in
//! time, or because the successor may not claim or does not prepare itself. In each of these runs
//! the ballot of the successor may be on its way at that moment, and may be seen long after it.
//! `RUNS=n` makes each search longer or shorter (200 runs of each kind).

mod world;

use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Side, Slot, Value};
use dm_lease_proto::proto::codec::mailbox::Mailboxes;
use dm_lease_proto::proto::controller::{Command, Controller, Outcome};
use dm_lease_proto::proto::gate::lanes::Place;
use dm_lease_proto::proto::words::status::{Reason, Role};
use world::{Config, Path, Payload, Snapshot, World, MS};

const SECOND: u64 = 1_000 * MS;

const OWNER: usize = 0;
const SUCCESSOR: usize = 1;

fn slot(host: usize) -> Slot {
    Slot::new(host as u8).unwrap()
}

/// Runs until `done`; fails when that takes longer than `at_most_ns`.
#[track_caller]
fn until(world: &mut World, at_most_ns: u64, done: impl Fn(&World) -> bool) {
    match world.run_until(at_most_ns, done) {
        Ok(true) => {}
        Ok(false) => panic!("it never came\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// Runs for so long, and fails when the owner loses its lease.
#[track_caller]
fn keeps_its_lease(world: &mut World, for_ns: u64) {
    match world.run_until(for_ns, |w| !w.is_valid(OWNER)) {
        Ok(false) => {}
        Ok(true) => panic!("the owner lost its lease\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// A world in which the first host owns, and the others are its secondaries.
fn owned(config: Config) -> World {
    let mut world = World::new(config);
    until(&mut world, 10 * SECOND, |w| w.is_valid(OWNER));
    until(&mut world, 10 * SECOND, |w| {
        (1..w.hosts.len()).all(|host| w.role(host) == Role::Secondary)
    });
    keeps_its_lease(&mut world, SECOND);
    world
}

/// Commands the owner to hand over; open permits have `within_ns` to end.
fn hand_over(world: &mut World, within_ns: u64) {
    let release = Command::Release {
        successor: Some(slot(SUCCESSOR)),
        deadline_ns: world.local_ns(OWNER) + within_ns,
    };
    assert_eq!(world.command(OWNER, release), Ok(Outcome::Pending));
}

/// An operation of the owner that does not end.
fn hold_permit(world: &mut World) {
    let local_ns = world.local_ns(OWNER);
    world.hosts[OWNER].gate.enter(Place::ONE, || local_ns);
}

fn controller(world: &mut World, host: usize) -> &mut Controller {
    world.hosts[host].controller.as_mut().unwrap()
}

fn heartbeat(world: &World, member: usize, host: usize) -> HeartbeatRecord {
    let mailboxes = Snapshot(world.disks[member].clone());
    let found = mailboxes.heartbeat(slot(host));
    found.reading.valid().unwrap()
}

/// The highest number of a ballot of the successor on any member.
fn ballots(world: &World) -> u64 {
    let records = world.disks.iter().map(|disk| disk[SUCCESSOR].ballot());
    let rounds = records.filter_map(|record| record.valid().map(|record| record.mbal.round));
    rounds.max().unwrap_or(0)
}

fn is_answered(world: &World) -> bool {
    !world.hosts[OWNER].answers.is_empty()
}

fn runs() -> u64 {
    let text = std::env::var("RUNS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// No fault at all: members whose commands take 1 to 20 ms, and an operation that does not end.
#[test]
fn r34_a_hand_over_that_does_not_drain_costs_no_lease() {
    for (members, low_ms, high_ms) in [(1, 1, 5), (3, 2, 2), (3, 1, 5), (3, 1, 20), (5, 1, 5)] {
        for seed in 1..=runs() {
            let mut world = owned(Config {
                seed,
                io_ns: (low_ms * MS, high_ms * MS),
                ..Config::healthy(2, members)
            });
            hold_permit(&mut world);
            hand_over(&mut world, 300 * MS);
            until(&mut world, 5 * SECOND, is_answered);
            let answers = &world.hosts[OWNER].answers;
            assert_eq!(answers, &[Err(Reason::ReleaseTimeout)]);
            keeps_its_lease(&mut world, 5 * SECOND);
        }
    }
}

/// What else happens during a hand-over that is called off.
#[derive(Clone, Copy, Debug)]
enum Besides {
    Nothing,
    /// From some moment on the owner reaches one member less.
    OwnerLosesAMember,
    /// The commands of the successor to one member, or to all, hang until it is called off.
    SuccessorHangs(u8),
    /// The successor stands still until long after.
    SuccessorStalls,
}

/// The owner calls it off when so much time has gone since the command.
fn called_off(seed: u64, after_ns: u64, besides: Besides) {
    let mut world = owned(Config {
        seed,
        io_ns: (MS, 5 * MS),
        ..Config::healthy(2, 3)
    });
    hold_permit(&mut world);
    hand_over(&mut world, 300 * MS);
    let first_ns = world.rng.below(after_ns + 1);
    keeps_its_lease(&mut world, first_ns);
    match besides {
        Besides::Nothing => {}
        Besides::OwnerLosesAMember => world.set_path(OWNER, 2, Path::Failing),
        Besides::SuccessorHangs(members) => {
            (0..members).for_each(|member| world.set_path(SUCCESSOR, member, Path::Hung));
        }
        Besides::SuccessorStalls => world.stall(SUCCESSOR, SECOND),
    }
    keeps_its_lease(&mut world, after_ns - first_ns);
    // It does nothing once the gate is closed: then the operation that does not end ends it.
    assert_eq!(world.command(OWNER, Command::CallOff), Ok(Outcome::Done));
    until(&mut world, 5 * SECOND, is_answered);
    (0..3).for_each(|member| world.set_path(SUCCESSOR, member, Path::Up));
    keeps_its_lease(&mut world, 5 * SECOND);
    assert!(ballots(&world) <= 3, "{besides:?}: {}", ballots(&world));
}

#[test]
fn r34_a_hand_over_that_is_called_off_at_any_moment_costs_no_lease() {
    let kinds = [
        Besides::Nothing,
        Besides::OwnerLosesAMember,
        Besides::SuccessorHangs(1),
        Besides::SuccessorHangs(3),
        Besides::SuccessorStalls,
    ];
    for besides in kinds {
        for run in 0..runs() {
            called_off(run + 1, run % 200 * MS, besides);
        }
    }
}

/// The ballot of the successor is under way, and nothing of it is on a member yet.
#[test]
fn r34_a_ballot_that_is_on_its_way_when_a_hand_over_is_called_off_is_no_claim() {
    let mut world = owned(Config::healthy(2, 3));
    hand_over(&mut world, 2 * SECOND);
    until(&mut world, SECOND, |w| w.role(SUCCESSOR) == Role::Claiming);
    assert_eq!(ballots(&world), 0);
    assert_eq!(world.command(OWNER, Command::CallOff), Ok(Outcome::Done));
    keeps_its_lease(&mut world, 20 * SECOND);
    assert_eq!(world.role(SUCCESSOR), Role::Secondary);
}

/// One member goes on to show the offer, because the owner does not reach it any more: the
/// successor neither costs the owner its lease nor begins one ballot after the other.
#[test]
fn r34_an_offer_on_a_member_that_lags_is_no_offer() {
    let mut world = owned(Config::healthy(2, 3));
    hold_permit(&mut world);
    hand_over(&mut world, 2 * SECOND);
    until(&mut world, SECOND, |w| w.role(OWNER) == Role::Releasing);
    until(&mut world, SECOND, |w| {
        matches!(heartbeat(w, 2, OWNER).role, RecordRole::HandingOver { .. })
    });
    world.set_path(OWNER, 2, Path::Failing);
    until(&mut world, 4 * SECOND, is_answered);
    until(&mut world, SECOND, |w| w.role(SUCCESSOR) == Role::Secondary);
    let before = ballots(&world);
    keeps_its_lease(&mut world, 20 * SECOND);
    assert_eq!(ballots(&world), before);
    let role = heartbeat(&world, 2, OWNER).role;
    assert!(matches!(role, RecordRole::HandingOver { .. }), "{role:?}");
}

#[test]
fn r34_a_successor_that_stalls_at_any_step_costs_no_lease() {
    for step in 0..40 {
        let mut world = owned(Config::healthy(2, 3));
        hold_permit(&mut world);
        hand_over(&mut world, 500 * MS);
        world.stall_at = Some((SUCCESSOR, step, 5 * SECOND));
        until(&mut world, 4 * SECOND, is_answered);
        keeps_its_lease(&mut world, 20 * SECOND);
    }
}

/// Ballots that hang for longer than the hand-over lasts.
#[test]
fn r34_a_successor_whose_ballot_lands_after_the_hand_over_costs_no_lease() {
    let mut world = owned(Config::healthy(2, 3));
    hold_permit(&mut world);
    hand_over(&mut world, 500 * MS);
    until(&mut world, SECOND, |w| w.role(SUCCESSOR) == Role::Claiming);
    world.stall(SUCCESSOR, 5 * SECOND);
    (0..3).for_each(|member| world.set_path(SUCCESSOR, member, Path::Hung));
    until(&mut world, 4 * SECOND, is_answered);
    (0..3).for_each(|member| world.set_path(SUCCESSOR, member, Path::Up));
    keeps_its_lease(&mut world, 20 * SECOND);
}

/// Whatever keeps the successor from claiming, the owner learns of it from its heartbeats, within
/// the round that makes the offer.
#[test]
fn r34_a_hand_over_to_a_controller_that_may_not_claim_is_refused() {
    let keeps: [fn(&mut World); 4] = [
        |w| controller(w, SUCCESSOR).set_blocked(Some(Reason::ReadOnly)),
        |w| controller(w, SUCCESSOR).set_claim_auto(false),
        |w| {
            let leave = Command::Leave {
                reason: Reason::Removed,
                deadline_ns: 0,
            };
            assert!(w.command(SUCCESSOR, leave).is_ok());
        },
        |w| assert!(controller(w, SUCCESSOR).waits_for_openers().is_some()),
    ];
    for (kind, keep) in keeps.into_iter().enumerate() {
        let mut world = owned(Config {
            guarded: kind == 3,
            ..Config::healthy(2, 3)
        });
        keep(&mut world);
        keeps_its_lease(&mut world, SECOND);
        hand_over(&mut world, SECOND);
        until(&mut world, 20 * MS, is_answered);
        let answers = &world.hosts[OWNER].answers;
        assert_eq!(answers, &[Err(Reason::Unwilling)], "kind {kind}");
        keeps_its_lease(&mut world, 5 * SECOND);
    }
}

/// A controller that claims on command alone takes a hand-over after such a command.
#[test]
fn r34_a_controller_with_a_requested_claim_accepts_a_hand_over() {
    let mut world = owned(Config::healthy(2, 3));
    controller(&mut world, SUCCESSOR).set_claim_auto(false);
    let claim = world.command(SUCCESSOR, Command::Claim);
    assert_eq!(claim, Ok(Outcome::Done));
    keeps_its_lease(&mut world, SECOND);
    hand_over(&mut world, SECOND);
    until(&mut world, SECOND, |w| w.is_valid(SUCCESSOR));
    assert_eq!(world.hosts[OWNER].answers, [Ok(())]);
}

/// One member shows an old record of the successor, from before it was ready.
#[test]
fn r34_a_record_that_lags_does_not_refuse_a_hand_over() {
    let mut world = owned(Config::healthy(2, 3));
    controller(&mut world, SUCCESSOR).set_claim_auto(false);
    keeps_its_lease(&mut world, SECOND);
    world.set_path(SUCCESSOR, 0, Path::Failing);
    controller(&mut world, SUCCESSOR).set_claim_auto(true);
    keeps_its_lease(&mut world, SECOND);
    let shown = [0, 1].map(|member| heartbeat(&world, member, SUCCESSOR).may_claim);
    assert_eq!(shown, [false, true]);
    hand_over(&mut world, SECOND);
    until(&mut world, SECOND, |w| w.is_valid(SUCCESSOR));
}

#[test]
fn r34_a_hand_over_to_a_dead_controller_leaves_the_owner_where_it_was() {
    let mut world = owned(Config::healthy(3, 3));
    world.crash(SUCCESSOR);
    hand_over(&mut world, SECOND);
    until(&mut world, SECOND, is_answered);
    let answers = &world.hosts[OWNER].answers;
    assert_eq!(answers, &[Err(Reason::Unprepared)]);
    keeps_its_lease(&mut world, 20 * SECOND);
}

/// The second layer stands: a former successor that claims on other evidence ends the lease, with a
/// ballot that answers no offer, or with a value for the ballot that did.
#[test]
fn r29_a_successor_that_claims_on_other_evidence_latches_the_owner() {
    for has_value in [false, true] {
        let mut world = owned(Config::healthy(2, 3));
        hold_permit(&mut world);
        hand_over(&mut world, SECOND);
        until(&mut world, SECOND, |w| w.role(OWNER) == Role::Releasing);
        until(&mut world, 2 * SECOND, is_answered);
        until(&mut world, SECOND, |w| w.role(SUCCESSOR) == Role::Secondary);
        keeps_its_lease(&mut world, SECOND);
        world.crash(SUCCESSOR);
        for disk in &mut world.disks {
            let mut claim = disk[SUCCESSOR].ballot().valid().unwrap();
            assert!(claim.offer > 0 && claim.val.is_none());
            claim.seq += 1;
            match has_value {
                true => {
                    claim.bal = claim.mbal;
                    claim.val = Some(Value {
                        slot: slot(SUCCESSOR),
                        inc: claim.inc,
                    });
                }
                false => (claim.offer, claim.mbal.round) = (0, claim.mbal.round + 1),
            }
            for side in Side::BOTH {
                disk[SUCCESSOR].put(side, &Payload::Ballot(claim));
            }
        }
        until(&mut world, SECOND, |w| !w.is_valid(OWNER));
        let reason = world.monitor.stats.reason(Reason::ClaimSeen);
        assert_eq!(reason, 1, "with a value: {has_value}");
    }
}
