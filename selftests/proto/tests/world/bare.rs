// SPDX-License-Identifier: GPL-2.0
//! A controller and its transfers, for tests that need neither a gate nor a monitor. A transfer
//! takes no time; the test decides when it is done and when the controller learns of it.
//!
//! Two controllers share three members. Nothing repairs strays.

use super::{timing, Mailbox, Payload, Snapshot, MS};
use dm_lease_proto::proto::clocks::Now;
use dm_lease_proto::proto::codec::ids::{Incarnation, Register, Slot};
use dm_lease_proto::proto::controller::{Controller, MailboxIo, MemberDevice, Setup};
use dm_lease_proto::proto::limit::Redundancy;

pub const MEMBERS: u8 = 3;
pub const SLOTS: u8 = 2;
pub const PERIOD_NS: u64 = 100 * MS;

/// The mailboxes of each member, by slot.
pub type Disks = Vec<Vec<Mailbox>>;

/// Members that were never written.
pub fn blank() -> Disks {
    vec![vec![Mailbox::blank(); SLOTS.into()]; MEMBERS.into()]
}

/// A reading of the clocks.
pub fn clocks(raw_ns: u64, slept_ns: u64) -> Now {
    Now {
        raw_ns,
        leaps_ns: 0,
        slept_ns,
        source: 1,
    }
}

/// A controller that has all members and no stale openers.
pub fn controller(slot: u8, inc: u128, home: u8, claim_auto: bool) -> Controller {
    let mut controller = Controller::new(Setup {
        slot: Slot::new(slot).unwrap(),
        inc: Incarnation(inc),
        boot_id: [slot + 1; 16],
        members: MEMBERS,
        originals: u16::MAX,
        slots: (1 << SLOTS) - 1,
        home: Slot::new(home).unwrap(),
        timing: timing(),
        period_ns: PERIOD_NS,
        redundancy: Redundancy::EXTERNAL,
        batch: None,
        claim_auto,
    });
    controller.set_guarded(false);
    for member in 0..MEMBERS {
        controller.handle_member(member, Some(MemberDevice::ORIGINAL));
    }
    controller
}

/// A transfer that has ended.
#[derive(Clone)]
pub enum Ended {
    /// A write, and whether it succeeded.
    Write(u8, Register, bool),
    /// A read, and what it brought if it succeeded.
    Read(u8, Option<Snapshot>),
}

impl Ended {
    /// Tells the controller.
    pub fn tell(self, controller: &mut Controller, now_ns: u64) {
        match self {
            Self::Write(member, register, ok) => {
                controller.handle_write(member, register, ok, now_ns);
            }
            Self::Read(member, shown) => controller.handle_read(member, shown.as_ref(), now_ns),
        }
    }
}

/// Does a transfer of a slot. Those of the members in `failing` have no effect.
pub fn transfer(disks: &mut Disks, slot: usize, io: MailboxIo, failing: u16) -> Ended {
    let ok = |member: u8| (failing >> member) & 1 == 0;
    let mut write = |member: u8, side, payload: Payload| {
        if ok(member) {
            disks[usize::from(member)][slot].put(side, &payload);
        }
        Ended::Write(member, payload.register(), ok(member))
    };
    match io {
        MailboxIo::WriteBallot {
            member,
            side,
            record,
        } => write(member, side, Payload::Ballot(record)),
        MailboxIo::WriteHeartbeat {
            member,
            side,
            record,
            fua: _,
        } => write(member, side, Payload::Heartbeat(record)),
        MailboxIo::Read { member } => {
            let shown = Snapshot(disks[usize::from(member)].clone());
            Ended::Read(member, ok(member).then_some(shown))
        }
    }
}
