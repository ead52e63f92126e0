// SPDX-License-Identifier: GPL-2.0
//! What a controller does when its members fail at once, come back, or do not count for now.
//!
//! A reviewer found each of these runs. In this rig transfers take no time, unlike in the simulated
//! world. So a controller that repeats a failed round at once never stops here.

mod world;

use dm_lease_proto::proto::codec::ids::{Register, Slot};
use dm_lease_proto::proto::controller::{Action, Controller, MailboxIo, MemberDevice};
use dm_lease_proto::proto::words::status::Role;
use std::collections::VecDeque;
use world::bare::{blank, clocks, controller, transfer, Disks};
use world::{Payload, Snapshot, MS};

struct Rig {
    c: Controller,
    disks: Disks,
    slot: usize,
    now: u64,
    slept: u64,
    todo: VecDeque<MailboxIo>,
    writes: u64,
    fail: u16,
}

impl Rig {
    fn boot(slot: u8, inc: u128) -> Self {
        Rig {
            c: controller(slot, inc, 0, slot == 0),
            disks: blank(),
            slot: slot.into(),
            now: 0,
            slept: 0,
            todo: VecDeque::new(),
            writes: 0,
            fail: 0,
        }
    }
    fn clocks(&mut self) {
        self.c.handle_clocks(clocks(self.now, self.slept));
    }
    fn pump(&mut self) {
        while let Some(a) = self.c.poll_action() {
            match a {
                Action::Io(io) => {
                    self.writes += u64::from(!matches!(io, MailboxIo::Read { .. }));
                    self.todo.push_back(io);
                }
                Action::Gate(_) | Action::Report(_) | Action::Answer(_) => {}
            }
        }
    }
    /// Completes one command.
    fn complete(&mut self, a: MailboxIo) {
        self.clocks();
        transfer(&mut self.disks, self.slot, a, self.fail).tell(&mut self.c, self.now);
        self.pump();
    }
    fn timers(&mut self) {
        self.clocks();
        if self.now % (100 * MS) == 0 {
            let now = self.now;
            self.c.handle_tick(now);
            self.pump();
        }
        if self.c.poll_timeout_ns().is_some_and(|at| at <= self.now) {
            let now = self.now;
            self.c.handle_timeout(now);
            self.pump();
        }
    }
    fn step(&mut self, at_most: u64) {
        self.now += MS;
        self.timers();
        let mut n = 0;
        while let Some(a) = self.todo.pop_front() {
            self.complete(a);
            n += 1;
            assert!(
                n < at_most,
                "{} commands at {} ms, and no time passes",
                n,
                self.now / MS
            );
        }
    }
    fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.step(1000)
        }
    }
}

/// A controller with another home than itself, five seconds after its start.
fn secondary() -> Rig {
    let mut r = Rig::boot(1, 22);
    r.run(5_000 * MS);
    assert_eq!(r.c.role(), Role::Secondary);
    r
}

/// The home controller, five seconds after its start.
fn owner() -> Rig {
    let mut r = Rig::boot(0, 11);
    r.run(5_000 * MS);
    assert_eq!(r.c.role(), Role::Owner);
    r
}

/// A secondary whose members fail at once.
#[test]
fn r44_a_secondary_whose_members_fail_at_once_waits_for_its_next_tick() {
    let mut r = secondary();
    r.fail = 0b111;
    r.run(5_000 * MS);
}

/// A secondary that is left with fewer devices than a majority.
#[test]
fn r42_a_controller_with_fewer_devices_than_a_majority_goes_on_ticking() {
    let mut r = secondary();
    for m in [0, 1] {
        r.c.handle_member(m, None);
    }
    r.run(5_000 * MS);
}

/// The same device comes back on another path while a command to it may still land.
#[test]
fn r58_a_late_command_to_a_device_that_came_back_is_no_copy() {
    let mut r = owner();
    // A heartbeat is under way to member 2.
    while r.now % (100 * MS) != 99 * MS {
        r.step(1000)
    }
    r.now += MS;
    r.timers();
    let at = r
        .todo
        .iter()
        .position(|a| matches!(a, MailboxIo::WriteHeartbeat { member: 2, .. }))
        .unwrap();
    let late = r.todo.remove(at).unwrap();
    // The path goes: the write is reported as failed, and the fabric still holds it. Another path
    // comes.
    r.clocks();
    let now = r.now;
    r.c.handle_write(2, Register::Heartbeat, false, now);
    r.c.forget_member(2, now);
    r.c.handle_member(2, Some(MemberDevice::ORIGINAL));
    r.pump();
    r.run(150 * MS);
    // It lands within D (200 ms).
    let MailboxIo::WriteHeartbeat {
        member,
        side,
        record,
        ..
    } = late
    else {
        unreachable!()
    };
    r.disks[member as usize][r.slot].put(side, &Payload::Heartbeat(record));
    r.run(300 * MS);
    assert_eq!(r.c.role(), Role::Owner, "{:?}", r.c.reason());
}

/// The host sleeps between two reads of a round.
#[test]
fn r36_a_sleep_between_two_reads_is_followed_by_a_look() {
    let mut r = secondary();
    while r.now % (100 * MS) != 99 * MS {
        r.step(1000)
    }
    r.now += MS;
    r.timers();
    // The heartbeat is written, the reads are out and have been answered by the members.
    while r.todo.iter().any(|a| !matches!(a, MailboxIo::Read { .. })) {
        let at = r
            .todo
            .iter()
            .position(|a| !matches!(a, MailboxIo::Read { .. }))
            .unwrap();
        let a = r.todo.remove(at).unwrap();
        r.complete(a);
    }
    assert!(r.todo.len() >= 2, "{:?}", r.todo.len());
    let before = r.disks.clone();
    let reads: Vec<u8> = r
        .todo
        .drain(..)
        .map(|a| match a {
            MailboxIo::Read { member } => member,
            _ => unreachable!(),
        })
        .collect();
    // The host sleeps for an hour, and a spare host gets its number.
    r.slept += 3_600_000 * MS;
    r.now += MS;
    let writes = r.writes;
    for m in reads {
        r.clocks();
        let now = r.now;
        r.c.handle_read(m, Some(&Snapshot(before[m as usize].clone())), now);
        r.pump();
    }
    for _ in 0..300 {
        r.now += MS;
        r.timers();
        if r.writes != writes {
            panic!("it writes without a look: {:?}", r.todo)
        }
        let reads: Vec<MailboxIo> = r.todo.drain(..).collect();
        for a in reads {
            let looks = matches!(a, MailboxIo::Read { .. });
            r.complete(a);
            if looks {
                return;
            }
        }
    }
}

/// A member goes, and comes back, between the two phases of a ballot.
#[test]
fn r28_a_ballot_that_no_member_has_decides_nothing() {
    let mut r = Rig::boot(0, 11);
    // Until the first read of phase 1 of epoch 1.
    let mut swapped = false;
    loop {
        r.now += MS;
        r.timers();
        let mut gone = false;
        while let Some(a) = r.todo.pop_front() {
            // Member 2 hangs as soon as the ballot is on the others.
            if r.c.role() == Role::Claiming {
                if !swapped {
                    swapped = true;
                    let now = r.now;
                    r.c.forget_member(2, now);
                    r.c.handle_member(2, Some(MemberDevice::replacement(2)));
                    r.disks[2] = blank()[0].clone();
                }
                if let MailboxIo::Read { member } = a {
                    match member {
                        0 if !gone => {
                            r.complete(a);
                            r.c.handle_member(0, None);
                            r.pump();
                            gone = true;
                            continue;
                        }
                        2 => continue,
                        _ => {}
                    }
                    r.complete(a);
                    if gone {
                        r.c.handle_member(0, Some(MemberDevice::ORIGINAL));
                        r.pump();
                        let b4 = r.writes;
                        while let Some(a) = r.todo.pop_front() {
                            if let MailboxIo::Read { member: 2 } = a {
                                continue;
                            }
                            r.complete(a);
                            if r.c.decided().epoch == 1 {
                                break;
                            }
                        }
                        let shown = r
                            .disks
                            .iter()
                            .filter(|d| {
                                d[0].ballot()
                                    .valid()
                                    .is_some_and(|b| b.val.is_some() || b.dec.epoch == 1)
                            })
                            .count();
                        assert!(
                            r.c.decided().epoch == 0 || shown >= 2,
                            "decided with the value on {shown} members, {} writes",
                            r.writes - b4
                        );
                        return;
                    }
                    continue;
                }
            }
            r.complete(a);
        }
        assert!(r.now < 20_000 * MS);
    }
}

/// One member fails, another one was replaced and cannot settle.
#[test]
fn r56_a_failing_member_beside_an_unsettled_one_does_not_make_rounds_spin() {
    let mut r = secondary();
    r.fail = 0b010;
    let now = r.now;
    r.c.forget_member(2, now);
    r.c.handle_member(2, Some(MemberDevice::replacement(2)));
    r.disks[2] = blank()[0].clone();
    r.run(5_000 * MS);
}

/// An owner whose members fail at once.
#[test]
fn r44_an_owner_whose_members_fail_at_once_waits_for_its_next_tick() {
    let mut r = owner();
    r.fail = 0b110;
    r.run(5_000 * MS);
}

/// A mailbox that cannot be read, beside a replacement that is not settled.
#[test]
fn r26_a_mailbox_that_cannot_be_read_beside_an_unsettled_member_ends_no_round() {
    use dm_lease_proto::proto::codec::ids::Decided;
    use dm_lease_proto::proto::round::{Progress, Round, RoundKind};
    let mut round = Round::new(1, RoundKind::Look, Decided::NEVER, 100);
    round.certain = Slot::FIRST.bit();
    round.given = 0b111;
    round.set_aside(2);
    for member in 0..2 {
        round.read(member, true);
        round.informed(Slot::FIRST, member);
    }
    assert_eq!(round.advance(110, 0b11, 0b111, 0, 2), Progress::Complete);
}

/// A replacement was set aside, is settled since, and another member hangs.
#[test]
fn r56_a_round_with_a_member_set_aside_does_not_wait_for_one_that_hangs() {
    use dm_lease_proto::proto::codec::ids::Decided;
    use dm_lease_proto::proto::round::{Round, RoundKind};
    let mut round = Round::new(1, RoundKind::Heartbeat, Decided::NEVER, 100);
    round.given = 0b111;
    round.set_aside(2);
    round.wrote(0, true);
    assert!(round.is_stuck(2, 50, 1_000));
}
