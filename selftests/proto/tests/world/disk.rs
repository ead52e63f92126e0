// SPDX-License-Identifier: GPL-2.0
//! The members of the simulated portion: decoded mailbox blocks, no bytes (the codec has tests of
//! its own).

use dm_lease_proto::proto::layout::Side;
use dm_lease_proto::proto::record::{
    newest, BallotRecord, HeartbeatRecord, Reading, Record, Register, Reject, Slot,
};
use dm_lease_proto::proto::round::{Found, Mailboxes};

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

/// The four blocks of one slot on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    ballot: [Reading<BallotRecord>; 2],
    heartbeat: [Reading<HeartbeatRecord>; 2],
}

impl Mailbox {
    pub const BLANK: Self = Self {
        ballot: [Reading::Blank; 2],
        heartbeat: [Reading::Blank; 2],
    };

    /// The block on `side` now says what `payload` says.
    pub fn put(&mut self, side: Side, payload: &Payload) {
        match payload {
            Payload::Ballot(record) => self.ballot[side.index()] = Reading::Valid(*record),
            Payload::Heartbeat(record) => self.heartbeat[side.index()] = Reading::Valid(*record),
        }
    }

    /// The block on `side` is half old and half new.
    pub fn tear(&mut self, side: Side, register: Register) {
        match register {
            Register::Ballot => self.ballot[side.index()] = Reading::Invalid(Reject::Checksum),
            Register::Heartbeat => {
                self.heartbeat[side.index()] = Reading::Invalid(Reject::Checksum);
            }
        }
    }

    /// The same for every reader, where no block is ever torn: the older block of each register
    /// is blank, and so is what `side_too` says about which block is the newer one.
    pub fn newest_only(&self, side_too: bool) -> Self {
        let (ballot, heartbeat) = (join(self.ballot), join(self.heartbeat));
        let mut only = Self::BLANK;
        let at = |side: Option<Side>| side.filter(|_| side_too).unwrap_or(Side::A).index();
        only.ballot[at(ballot.newest)] = ballot.reading;
        only.heartbeat[at(heartbeat.newest)] = heartbeat.reading;
        only
    }

    /// The sequence numbers in a register.
    pub fn seqs(&self, register: Register) -> impl Iterator<Item = u64> + use<> {
        match register {
            Register::Ballot => self.ballot.map(|block| block.valid().map(|it| it.seq)),
            Register::Heartbeat => self.heartbeat.map(|block| block.valid().map(|it| it.seq)),
        }
        .into_iter()
        .flatten()
    }

    /// Replaces the sequence numbers in a register.
    pub fn map_seqs(&mut self, register: Register, seq: impl Fn(u64) -> u64) {
        for side in Side::BOTH {
            let at = side.index();
            match (register, self.ballot[at], self.heartbeat[at]) {
                (Register::Ballot, Reading::Valid(it), _) => {
                    let it = BallotRecord {
                        seq: seq(it.seq),
                        ..it
                    };
                    self.ballot[at] = Reading::Valid(it);
                }
                (Register::Heartbeat, _, Reading::Valid(it)) => {
                    let it = HeartbeatRecord {
                        seq: seq(it.seq),
                        ..it
                    };
                    self.heartbeat[at] = Reading::Valid(it);
                }
                _ => {}
            }
        }
    }

    pub fn ballot(&self) -> Reading<BallotRecord> {
        join(self.ballot).reading
    }

    pub fn heartbeat(&self) -> Reading<HeartbeatRecord> {
        join(self.heartbeat).reading
    }
}

fn join<T: Record>([a, b]: [Reading<T>; 2]) -> Found<T> {
    let (reading, newest) = newest(a, b);
    Found { reading, newest }
}

/// What one read of a member brought: each slot as it was at a moment of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot(pub Vec<Mailbox>);

impl Mailboxes for Snapshot {
    fn ballot(&self, slot: Slot) -> Found<BallotRecord> {
        join(self.0[usize::from(slot.index())].ballot)
    }

    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord> {
        join(self.0[usize::from(slot.index())].heartbeat)
    }
}
