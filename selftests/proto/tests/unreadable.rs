// SPDX-License-Identifier: GPL-2.0
//! A mailbox that cannot be read [R26]: both blocks of its registers are damaged.
//!
//! The owner goes on, because its lease does not depend on what a third controller wrote. No
//! controller joins and none takes over, because both depend on promises. The controller that wrote
//! the mailbox writes it again.

mod world;

use dm_lease_proto::proto::codec::ids::{Ballot, Register, Side, Slot};
use dm_lease_proto::proto::controller::Controller;
use dm_lease_proto::proto::words::status::{Reason, Role};
use world::{timing, Config, Path, Payload, World, MS};

const SECOND: u64 = 1_000 * MS;

/// The controller whose mailbox is damaged.
const THIRD: usize = 2;

#[track_caller]
fn until(world: &mut World, at_most_ns: u64, done: impl Fn(&World) -> bool) {
    match world.run_until(at_most_ns, done) {
        Ok(true) => {}
        Ok(false) => panic!("it never came\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// Runs for so long, and fails when it happens.
#[track_caller]
fn never(world: &mut World, for_ns: u64, what: impl Fn(&World) -> bool) {
    match world.run_until(for_ns, what) {
        Ok(false) => {}
        Ok(true) => panic!("it happened\n{}", world.timeline(200)),
        Err(violation) => panic!("{violation:?}\n{}", world.timeline(200)),
    }
}

/// Three controllers, the first of which owns.
fn owned(members: u8) -> World {
    let mut world = World::new(Config::healthy(3, members));
    until(&mut world, 10 * SECOND, |w| w.is_valid(0));
    until(&mut world, 10 * SECOND, |w| {
        (1..3).all(|host| w.role(host) == Role::Secondary)
    });
    never(&mut world, SECOND, |w| !w.is_valid(0));
    world
}

fn damage(world: &mut World, member: usize, host: usize, register: Register) {
    for side in Side::BOTH {
        world.disks[member][host].tear(side, register);
    }
}

/// On every member.
fn damage_all(world: &mut World, host: usize) {
    for member in 0..world.disks.len() {
        damage(world, member, host, Register::Ballot);
        damage(world, member, host, Register::Heartbeat);
    }
}

fn controller(world: &World, host: usize) -> &Controller {
    world.hosts[host].controller.as_ref().unwrap()
}

/// The ballots that a host has begun.
fn ballots(world: &World, host: usize) -> u64 {
    controller(world, host).ballots()
}

#[test]
fn r26_an_owner_goes_on_while_a_mailbox_cannot_be_read() {
    for members in [1, 3] {
        let mut world = owned(members);
        let whole: Vec<_> = world.disks.iter().map(|disk| disk[THIRD].clone()).collect();
        world.crash(THIRD);
        damage_all(&mut world, THIRD);
        never(&mut world, 60 * SECOND, |w| !w.is_valid(0));
        // Both say which mailbox it is, once, and the observer why it would not claim.
        for host in 0..2 {
            assert_eq!(world.hosts[host].unreadable, [1 << THIRD]);
        }
        assert_eq!(controller(&world, 0).reason(), Reason::None);
        assert_eq!(controller(&world, 1).reason(), Reason::Unreadable);

        // No controller takes over, and none begins a ballot in vain.
        world.crash(0);
        let before = ballots(&world, 1);
        never(&mut world, 20 * timing().window_ns, |w| w.owner().is_some());
        assert_eq!(ballots(&world, 1), before);

        // A tool restores it from what is known.
        for (disk, mailbox) in world.disks.iter_mut().zip(whole) {
            disk[THIRD] = mailbox;
        }
        until(&mut world, SECOND, |w| w.is_valid(1));
        assert_eq!(world.hosts[1].unreadable, [1 << THIRD, 0]);
        assert_eq!(controller(&world, 1).reason(), Reason::None);
    }
}

/// The one whose mailbox it is cannot join, and says why.
#[test]
fn r26_a_controller_that_cannot_read_its_mailbox_does_not_join_and_says_why() {
    let mut world = owned(1);
    world.crash(THIRD);
    damage_all(&mut world, THIRD);
    world.start(THIRD);
    let joins = |w: &World| w.role(THIRD) != Role::Joining;
    never(&mut world, 20 * timing().window_ns, joins);
    assert_eq!(controller(&world, THIRD).reason(), Reason::Unreadable);
    assert!(world.is_valid(0));
}

/// A member that hangs, or fails, is missed besides.
#[test]
fn r26_an_owner_goes_on_while_a_member_is_gone_and_a_mailbox_cannot_be_read() {
    for path in [Path::Hung, Path::Failing] {
        let mut world = owned(3);
        world.crash(THIRD);
        damage(&mut world, 1, THIRD, Register::Ballot);
        world.set_path(0, 2, path);
        never(&mut world, 60 * SECOND, |w| !w.is_valid(0));
        assert_eq!(world.hosts[0].unreadable, [1 << THIRD], "{path:?}");
    }
}

/// One of three members gives no information about a mailbox. The first heartbeats of an owner wait
/// for the reads of the other two, also if such a read waits for a ballot write.
#[test]
fn r26_a_new_owner_reads_every_member_before_it_takes_a_mailbox_for_unreadable() {
    for seed in 1..=100 {
        let mut config = Config::healthy(3, 3);
        config.seed = seed;
        config.io_ns = (MS / 5, 2 * MS);
        let mut world = World::new(config);
        until(&mut world, 10 * SECOND, |w| w.is_valid(0));
        until(&mut world, 10 * SECOND, |w| {
            (1..3).all(|host| w.role(host) == Role::Secondary)
        });
        never(&mut world, SECOND, |w| !w.is_valid(0));
        world.crash(THIRD);
        damage(&mut world, 1, THIRD, Register::Ballot);
        damage(&mut world, 1, THIRD, Register::Heartbeat);
        world.crash(0);
        until(&mut world, 3 * timing().window_ns, |w| w.is_valid(1));
        assert_eq!(world.hosts[1].unreadable, [], "seed {seed}");
    }
}

/// A running controller writes the damaged mailbox again, and then any controller may take over.
#[test]
fn r41_a_mailbox_that_was_damaged_is_written_again_by_its_controller() {
    for members in [1, 3] {
        for host in 0..3 {
            let mut world = owned(members);
            damage_all(&mut world, host);
            let is_whole = |w: &World| {
                let mailboxes = w.disks.iter().map(|disk| &disk[host]);
                let whole = |it: &world::Mailbox| it.ballot().valid().is_some();
                mailboxes.into_iter().all(whole)
            };
            until(&mut world, 3 * 100 * MS, is_whole);
            never(&mut world, SECOND, |w| !w.is_valid(0));
            assert_eq!(controller(&world, 1).reason(), Reason::None);
            world.crash(0);
            until(&mut world, 3 * timing().window_ns, |w| w.owner().is_some());
        }
    }
}

/// What the second layer can see it sees: the claim of one is heeded while another cannot be read.
#[test]
fn r29_a_claim_is_seen_although_another_mailbox_cannot_be_read() {
    let mut world = owned(3);
    world.crash(1);
    world.crash(THIRD);
    damage_all(&mut world, THIRD);
    never(&mut world, SECOND, |w| !w.is_valid(0));
    let mut claim = world.disks[0][1].ballot().valid().unwrap();
    claim.seq += 1;
    claim.mbal = Ballot {
        round: claim.mbal.round + 1,
        slot: Slot::new(1).unwrap(),
        inc: claim.inc,
    };
    for side in Side::BOTH {
        // One member of three has it: the owner reads them all.
        world.disks[2][1].put(side, &Payload::Ballot(claim));
    }
    until(&mut world, SECOND, |w| !w.is_valid(0));
    assert_eq!(world.monitor.stats.reason(Reason::ClaimSeen), 1);
}
