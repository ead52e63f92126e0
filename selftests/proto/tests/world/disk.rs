// SPDX-License-Identifier: GPL-2.0
//! The members of the simulated portion: decoded mailbox blocks, no bytes (the codec has tests of
//! its own).

use dm_lease_proto::proto::layout::Side;
use dm_lease_proto::proto::record::{
    newest, BallotRecord, HeartbeatRecord, Reading, Record, Register, Reject, Slot,
};
use dm_lease_proto::proto::round::{Found, Mailboxes};
use std::rc::Rc;

/// What a write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "a few of them, for microseconds")]
pub enum Payload {
    Ballot(BallotRecord),
    Heartbeat(HeartbeatRecord),
}

impl Payload {
    pub fn seq(&self) -> u64 {
        match self {
            Payload::Ballot(record) => record.seq,
            Payload::Heartbeat(record) => record.seq,
        }
    }

    pub fn set_seq(&mut self, seq: u64) {
        match self {
            Payload::Ballot(record) => record.seq = seq,
            Payload::Heartbeat(record) => record.seq = seq,
        }
    }

    pub fn register(&self) -> Register {
        match self {
            Payload::Ballot(_) => Register::Ballot,
            Payload::Heartbeat(_) => Register::Heartbeat,
        }
    }
}

/// The two blocks of one register, and what they say together.
#[derive(Clone, Copy, Debug)]
struct Blocks<T> {
    blocks: [Reading<T>; 2],
    found: Found<T>,
}

impl<T: Record> Blocks<T> {
    fn blank() -> Self {
        Self {
            blocks: [Reading::Blank; 2],
            found: Found {
                reading: Reading::Blank,
                newest: None,
            },
        }
    }

    fn set(&mut self, side: Side, block: Reading<T>) {
        self.blocks[side.index()] = block;
        let (reading, newest) = newest(self.blocks[0], self.blocks[1]);
        self.found = Found { reading, newest };
    }
}

/// The four blocks of one slot on one member. A ballot is large and rarely changes, so copies of a
/// mailbox share it.
#[derive(Clone, Debug)]
pub struct Mailbox {
    ballot: Rc<Blocks<BallotRecord>>,
    heartbeat: Blocks<HeartbeatRecord>,
    /// Counts the changes.
    pub version: u32,
}

impl Mailbox {
    pub fn blank() -> Self {
        Self {
            ballot: Rc::new(Blocks::blank()),
            heartbeat: Blocks::blank(),
            version: 0,
        }
    }

    /// The block on `side` now says what `payload` says.
    pub fn put(&mut self, side: Side, payload: &Payload) {
        self.version += 1;
        match payload {
            Payload::Ballot(record) => self.set_ballot(side, Reading::Valid(*record)),
            Payload::Heartbeat(record) => self.heartbeat.set(side, Reading::Valid(*record)),
        }
    }

    /// The block on `side` is half old and half new.
    pub fn tear(&mut self, side: Side, register: Register) {
        self.version += 1;
        match register {
            Register::Ballot => self.set_ballot(side, Reading::Invalid(Reject::Checksum)),
            Register::Heartbeat => self.heartbeat.set(side, Reading::Invalid(Reject::Checksum)),
        }
    }

    /// The heartbeat block on `side` is again what it was in `durable`; whether that changes it.
    pub fn forget(&mut self, side: Side, durable: &Self) -> bool {
        let before = durable.heartbeat.blocks[side.index()];
        let changes = before != self.heartbeat.blocks[side.index()];
        if changes {
            self.version += 1;
            self.heartbeat.set(side, before);
        }
        changes
    }

    /// What the ballot register says.
    pub fn ballot(&self) -> Reading<BallotRecord> {
        self.ballot.found.reading
    }

    fn set_ballot(&mut self, side: Side, block: Reading<BallotRecord>) {
        Rc::make_mut(&mut self.ballot).set(side, block);
    }
}

/// What one read of a member brought: each slot as it was at a moment of its own.
#[derive(Clone, Debug)]
pub struct Snapshot(pub Vec<Mailbox>);

impl Mailboxes for Snapshot {
    fn ballot(&self, slot: Slot) -> Found<BallotRecord> {
        self.0[usize::from(slot.index())].ballot.found
    }

    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord> {
        self.0[usize::from(slot.index())].heartbeat.found
    }
}
