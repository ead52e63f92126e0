// SPDX-License-Identifier: GPL-2.0
//! The mailboxes of a member, as a read found them.
//!
//! Callers: `round` and `controller`, which read; `register`, which compares the blocks with its
//! writes. Pure functions, no locking.

use super::ballot::BallotRecord;
use super::heartbeat::HeartbeatRecord;
use super::ids::{Incarnation, Side, Slot};
use super::record::{newest, Reading, Record};

/// The mailboxes of one member, read and decoded.
pub trait Mailboxes {
    /// The ballot register of a slot.
    fn ballot(&self, slot: Slot) -> Found<BallotRecord>;
    /// The heartbeat register of a slot.
    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord>;
}

/// A register as a read found it: its content, and the newest valid block.
#[derive(Clone, Copy, Debug)]
pub struct Found<T> {
    /// The content of the register.
    pub reading: Reading<T>,
    /// The newest valid block.
    pub newest: Option<Side>,
    /// The last write of each block.
    pub blocks: [Shown; 2],
}

/// The last write of a block, as a read found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No valid record: blank, torn or damaged.
    Nothing,
    /// A record.
    Write {
        /// The writer's incarnation.
        inc: Incarnation,
        /// What tells the write from other writes of the same writer.
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
    /// A register of which only the joined content is known.
    pub const fn whole(reading: Reading<T>, newest: Option<Side>) -> Self {
        Self {
            reading,
            newest,
            blocks: [Shown::Nothing; 2],
        }
    }

    /// The last write of the block on `side`.
    pub fn shown(&self, side: Side) -> Shown {
        match side {
            Side::A => self.blocks[0],
            Side::B => self.blocks[1],
        }
    }
}

/// Tells a write of a register from all other writes of the same incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The sequence number.
    pub seq: u64,
    /// The mark: the writer's clock at the beginning of the write's round. A copy of this host
    /// continues from the same sequence number, but writes another mark.
    pub mark: u64,
}
