// SPDX-License-Identifier: GPL-2.0
//! The heartbeat record: a sign of life, no promise.
//!
//! Callers: [`super::record`] for the common head. Pure functions, no locking.

use super::bytes::{FieldReader, FieldWriter};
use super::generations::{take_generations, Generations};
use super::ids::{Decided, Incarnation, Register, Slot};
use super::record::sealed::Fields;
use super::record::{ensure, put_decided, take_decided, Record, Reject};
use core::fmt;

/// The role of a controller on a portion, as its heartbeats state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordRole {
    /// Neither owns the portion nor tries to.
    Secondary,
    /// Has written a claim for epoch `dec.epoch + 1`.
    Claiming,
    /// Owns `dec.epoch`.
    Owner,
    /// Owned `dec.epoch` and has latched.
    Lapsed,
    /// Owned `dec.epoch`, drained it, and gave it back, perhaps to a named successor [R34].
    Released {
        /// The controller that may claim at once. `None`: any controller may.
        successor: Option<Slot>,
    },
    /// Owns `dec.epoch` and is about to give it to this controller, which may prepare its ballot.
    HandingOver {
        /// The controller that may prepare its ballot.
        successor: Slot,
    },
}

/// The heartbeat register: a sign of life, no promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatRecord {
    /// Writes of this register of this member so far, counted over restarts.
    pub seq: u64,
    /// The writer's incarnation.
    pub inc: Incarnation,
    /// The highest epoch the writer knows to be decided (a cache, no promise).
    pub dec: Decided,
    /// The writer's role. A role that is about an epoch is about `dec.epoch`.
    pub role: RecordRole,
    /// The number of heartbeats in the owner role. Observers compare it, because a demoted
    /// controller does not count it up [R32].
    pub hb: u64,
    /// Open permits when the record was built.
    pub open: u32,
    /// The writer's heartbeat period.
    pub period_ns: u64,
    /// The reason of the writer's last demotion; `status` lists the numbers.
    pub reason: u8,
    /// As in [`BallotRecord::mark`](super::ballot::BallotRecord::mark).
    pub mark: u64,
    /// The member generations that the writer knows [R56].
    pub generations: Generations,
    /// Whether the writer is able to claim. An owner hands over only to a controller that is [R34].
    pub may_claim: bool,
}

impl HeartbeatRecord {
    /// Whether it says that the writer's gate is latched for ever in epoch `dec.epoch`, and that no
    /// operation is open. After a latch the state machine never writes a number that was counted
    /// before it.
    pub const fn is_drained(&self) -> bool {
        matches!(self.role, RecordRole::Lapsed | RecordRole::Released { .. }) && self.open == 0
    }
}

impl Record for HeartbeatRecord {
    const REGISTER: Register = Register::Heartbeat;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn inc(&self) -> Incarnation {
        self.inc
    }

    fn mark(&self) -> u64 {
        self.mark
    }

    fn generations(&self) -> &Generations {
        &self.generations
    }
}

impl Fields for HeartbeatRecord {
    fn put(&self, out: &mut FieldWriter<'_>) {
        put_decided(out, &self.dec);
        let (role, successor) = match self.role {
            RecordRole::Secondary => (1, None),
            RecordRole::Claiming => (2, None),
            RecordRole::Owner => (3, None),
            RecordRole::Lapsed => (4, None),
            RecordRole::Released { successor } => (5, successor),
            RecordRole::HandingOver { successor } => (6, Some(successor)),
        };
        out.u8(role);
        out.u8(successor.map_or(0, Slot::controller));
        out.u8(self.reason);
        out.u8(u8::from(self.may_claim));
        out.u32(self.open);
        out.u64(self.hb);
        out.u64(self.period_ns);
    }

    fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject> {
        let dec = take_decided(from)?;
        let role = take_role(from)?;
        // Only a decided epoch can be owned, lost or given back.
        let owned = !matches!(role, RecordRole::Secondary | RecordRole::Claiming);
        ensure(!owned || dec.epoch != 0, Reject::Field)?;
        let reason = from.u8();
        let may_claim = from.u8();
        ensure(may_claim <= 1, Reject::Field)?;
        let open = from.u32();
        let hb = from.u64();
        let period_ns = from.u64();
        let mark = from.u64();
        let generations = take_generations(from);
        Ok(Self {
            seq,
            inc,
            dec,
            role,
            hb,
            open,
            period_ns,
            reason,
            mark,
            generations,
            may_claim: may_claim == 1,
        })
    }
}

/// The name of a role in messages of the tools.
impl fmt::Display for RecordRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secondary => f.write_str("secondary"),
            Self::Claiming => f.write_str("claiming"),
            Self::Owner => f.write_str("owner"),
            Self::Lapsed => f.write_str("lapsed"),
            Self::Released { successor: None } => f.write_str("released"),
            Self::Released {
                successor: Some(slot),
            } => write!(f, "released to {slot}"),
            Self::HandingOver { successor } => write!(f, "handing over to {successor}"),
        }
    }
}

fn take_role(from: &mut FieldReader<'_>) -> Result<RecordRole, Reject> {
    let role = from.u8();
    let successor = match from.u8() {
        0 => None,
        controller => Some(Slot::from_controller(controller).ok_or(Reject::Field)?),
    };
    match (role, successor) {
        (1, None) => Ok(RecordRole::Secondary),
        (2, None) => Ok(RecordRole::Claiming),
        (3, None) => Ok(RecordRole::Owner),
        (4, None) => Ok(RecordRole::Lapsed),
        (5, successor) => Ok(RecordRole::Released { successor }),
        (6, Some(successor)) => Ok(RecordRole::HandingOver { successor }),
        _ => Err(Reject::Field),
    }
}
