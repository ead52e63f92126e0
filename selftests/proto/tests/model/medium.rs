// SPDX-License-Identifier: GPL-2.0
//! What is on the members, in a few bytes.
//!
//! A record is kept once, in [`Records`], without its sequence number; a block is its fingerprint
//! and the number. What another controller sees of a mailbox, a [`View`], has no numbers at all:
//! it compares nothing but contents.

use crate::print::{print, Shards};
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::ids::{Register, Side, Slot};
use dm_lease_proto::proto::codec::mailbox::{Found, Mailboxes};
use dm_lease_proto::proto::codec::record::{Reading, Record, Reject};

/// One block of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    Blank,
    /// Half old and half new.
    Torn,
    Valid {
        what: u64,
        seq: u16,
    },
}

/// A register as another controller reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    Blank,
    Invalid,
    Valid(u64),
}

/// A mailbox as another controller reads it: its ballot and its heartbeat register.
pub type View = [Sight; 2];

/// What a read brings of each slot but the own one, which counts as blank here.
pub type Sights = [View; 3];

/// The blocks of one controller on one member: of the ballot and of the heartbeat register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    pub blocks: [[Block; 2]; 2],
}

impl Mailbox {
    pub const BLANK: Self = Self {
        blocks: [[Block::Blank; 2]; 2],
    };

    pub fn put(&mut self, register: Register, side: Side, block: Block) {
        self.blocks[register as usize][side.index()] = block;
    }

    /// Leaves only the newest block of a register, in the first place; returns whether it was in
    /// the second. For where no block is ever lost.
    pub fn keep_newest(&mut self, register: Register) -> bool {
        let blocks = &mut self.blocks[register as usize];
        let seq = |block: Block| match block {
            Block::Valid { seq, .. } => seq,
            Block::Blank | Block::Torn => 0,
        };
        let is_second = seq(blocks[1]) > seq(blocks[0]);
        *blocks = [blocks[usize::from(is_second)], Block::Blank];
        is_second
    }

    pub fn is_torn(&self) -> bool {
        self.blocks.iter().flatten().any(|it| *it == Block::Torn)
    }
}

/// Every record that was ever written.
#[derive(Default)]
pub struct Records {
    ballots: Shards<BallotRecord>,
    beats: Shards<HeartbeatRecord>,
}

impl Records {
    /// Keeps a ballot record; returns its fingerprint.
    pub fn ballot(&self, record: &BallotRecord) -> u64 {
        let record = BallotRecord {
            seq: 0,
            // No copy of a host writes here, and no member comes back.
            mark: 0,
            generations: Generations::NONE,
            ..*record
        };
        keep(&self.ballots, record)
    }

    /// Keeps a heartbeat record; returns its fingerprint.
    pub fn beat(&self, record: &HeartbeatRecord) -> u64 {
        // Why it was demoted is for people.
        let record = HeartbeatRecord {
            seq: 0,
            reason: 0,
            mark: 0,
            generations: Generations::NONE,
            ..*record
        };
        keep(&self.beats, record)
    }

    pub fn view(&self, mailbox: &Mailbox) -> View {
        [
            self.found_ballot(mailbox).sight(mailbox, Register::Ballot),
            self.found_beat(mailbox).sight(mailbox, Register::Heartbeat),
        ]
    }

    fn found_ballot(&self, mailbox: &Mailbox) -> Found<BallotRecord> {
        let read = |block| match block {
            Block::Blank => Reading::Blank,
            Block::Torn => Reading::Invalid(Reject::Checksum),
            Block::Valid { what, seq } => Reading::Valid(BallotRecord {
                seq: seq.into(),
                ..get(&self.ballots, what)
            }),
        };
        join(mailbox.blocks[Register::Ballot as usize].map(read))
    }

    fn found_beat(&self, mailbox: &Mailbox) -> Found<HeartbeatRecord> {
        let read = |block| match block {
            Block::Blank => Reading::Blank,
            Block::Torn => Reading::Invalid(Reject::Checksum),
            Block::Valid { what, seq } => Reading::Valid(HeartbeatRecord {
                seq: seq.into(),
                ..get(&self.beats, what)
            }),
        };
        join(mailbox.blocks[Register::Heartbeat as usize].map(read))
    }
}

fn keep<T: Copy + std::hash::Hash>(shards: &Shards<T>, record: T) -> u64 {
    // There are few records: half a fingerprint is enough.
    let what = print(&record) as u64;
    shards.entry(what.into()).or_insert(record);
    what
}

fn get<T: Copy>(shards: &Shards<T>, what: u64) -> T {
    *shards
        .get(&what.into())
        .expect("every record was kept when it was written")
}

fn join<T: Record>([a, b]: [Reading<T>; 2]) -> Found<T> {
    Found::join(a, b)
}

trait Seen {
    fn sight(&self, mailbox: &Mailbox, register: Register) -> Sight;
}

impl<T> Seen for Found<T> {
    fn sight(&self, mailbox: &Mailbox, register: Register) -> Sight {
        let block = |side: Side| mailbox.blocks[register as usize][side.index()];
        match (&self.reading, self.newest.map(block)) {
            (Reading::Valid(_), Some(Block::Valid { what, .. })) => Sight::Valid(what),
            (Reading::Blank, _) => Sight::Blank,
            _ => Sight::Invalid,
        }
    }
}

/// What one read of a member brought: the own mailbox, and each other slot as it was at a moment
/// of its own.
pub struct Answer<'a> {
    pub records: &'a Records,
    pub slot: usize,
    pub own: &'a Mailbox,
    pub others: &'a Sights,
}

impl Answer<'_> {
    fn other(&self, slot: Slot, register: Register) -> Sight {
        self.others[usize::from(slot.index())][register as usize]
    }
}

impl Mailboxes for Answer<'_> {
    fn ballot(&self, slot: Slot) -> Found<BallotRecord> {
        if usize::from(slot.index()) == self.slot {
            return self.records.found_ballot(self.own);
        }
        found(self.other(slot, Register::Ballot), &self.records.ballots)
    }

    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord> {
        if usize::from(slot.index()) == self.slot {
            return self.records.found_beat(self.own);
        }
        found(self.other(slot, Register::Heartbeat), &self.records.beats)
    }
}

fn found<T: Copy>(sight: Sight, shards: &Shards<T>) -> Found<T> {
    match sight {
        Sight::Blank => Found::whole(Reading::Blank, None),
        Sight::Invalid => Found::whole(Reading::Invalid(Reject::Checksum), None),
        Sight::Valid(what) => Found::whole(Reading::Valid(get(shards, what)), Some(Side::A)),
    }
}
