// SPDX-License-Identifier: GPL-2.0
//! What a read of a member's mailboxes brought.
//!
//! Callers: `round` and `controller`, which read; `register`, which compares what it wrote.
//! Pure functions, no locking.

use super::ballot::BallotRecord;
use super::heartbeat::HeartbeatRecord;
use super::ids::{Incarnation, Side, Slot};
use super::record::{newest, Reading, Record};

/// What a read of one member's mailboxes brought, decoded.
pub trait Mailboxes {
    /// The ballot register of a slot.
    fn ballot(&self, slot: Slot) -> Found<BallotRecord>;
    /// The heartbeat register of a slot.
    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord>;
}

/// A register as it was found: what it says, and which block says it.
#[derive(Clone, Copy, Debug)]
pub struct Found<T> {
    /// What the register says.
    pub reading: Reading<T>,
    /// The newest valid block.
    pub newest: Option<Side>,
    /// What each block shows of its last write.
    pub blocks: [Shown; 2],
}

/// What a block shows of its last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No valid record: blank, torn or damaged.
    Nothing,
    /// A record.
    Write {
        /// The writer's incarnation.
        inc: Incarnation,
        /// What tells the write from others of the writer.
        stamp: Stamp,
    },
}

impl Shown {
    /// Whether it is a write of `inc`.
    pub fn is_by(&self, inc: Incarnation) -> bool {
        matches!(self, Self::Write { inc: by, .. } if *by == inc)
    }

    /// A write of `inc`.
    pub const fn of(inc: Incarnation, stamp: Stamp) -> Self {
        Self::Write { inc, stamp }
    }
}

impl<T: Record> Found<T> {
    /// Joins the two blocks of a register.
    pub fn join(a: Reading<T>, b: Reading<T>) -> Self {
        let (reading, newest) = newest(a, b);
        let shown = |block: Reading<T>| match block {
            Reading::Valid(record) => Shown::of(
                record.inc(),
                Stamp {
                    seq: record.seq(),
                    mark: record.mark(),
                },
            ),
            Reading::Blank | Reading::Invalid(_) => Shown::Nothing,
        };
        Self {
            reading,
            newest,
            blocks: [shown(a), shown(b)],
        }
    }
}

impl<T> Found<T> {
    /// A register of which only what it says as a whole is known.
    pub const fn whole(reading: Reading<T>, newest: Option<Side>) -> Self {
        Self {
            reading,
            newest,
            blocks: [Shown::Nothing; 2],
        }
    }

    /// What the block on `side` shows.
    pub fn shown(&self, side: Side) -> Shown {
        match side {
            Side::A => self.blocks[0],
            Side::B => self.blocks[1],
        }
    }
}

/// What tells one write of a register from every other one of the same incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The sequence number.
    pub seq: u64,
    /// The mark: the writer's clock when the round of the write began. A copy of this machine
    /// counts on from the same number, and writes another mark.
    pub mark: u64,
}
