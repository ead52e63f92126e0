// SPDX-License-Identifier: GPL-2.0
//! What must happen somewhere, so that a model in which nothing happens fails.

use std::sync::atomic::{AtomicU32, Ordering};

/// Things that a model may have to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sometimes {
    /// Another than the former owner has a valid lease.
    Takeover,
    /// Two, or three, are candidates for one epoch at the same time.
    RaceOfTwo,
    RaceOfThree,
    /// A candidate wins, gives up, or finds that the epoch belongs to another.
    ClaimWon,
    ClaimGivenUp,
    ClaimWonByAnother,
    /// A read meets a mailbox of which a block is half written.
    TornRead,
    /// A read is reported that met what was replaced since.
    OldRead,
    /// A write completes when its round has ended long ago.
    StaleCompletion,
    /// A command lands after it was reported as failed, or was forgotten with its host.
    LateLanding,
    /// A lease ends by itself.
    Lapse,
    /// A controller that lost the portion writes heartbeats under the next owner.
    DemotedWrites,
    /// A restarted controller has joined again.
    Rejoined,
    /// After a release or hand-over the next one owns.
    HandedOver,
    /// A successor is through with phase 1 while the owner has its lease.
    Prepared,
    /// An owner has its lease while a register of another node cannot be read.
    Unreadable,
    /// A hand-over is called off when its successor has begun its ballot.
    CalledOff,
    /// After a member was replaced by a blank one there is a takeover.
    TakeoverAfterReplacement,
    /// An owner is charged for an earlier one; one that redundancy leaves nothing may not write.
    Charged,
    Exhausted,
    /// A user's write is acknowledged; lands under a later owner; is then not acknowledged.
    Acknowledged,
    Stray,
    StrayRefused,
}

/// What was reached so far.
#[derive(Default)]
pub struct Tally(AtomicU32);

impl Tally {
    pub fn note(&self, what: Sometimes) {
        let bit = 1 << what as u8;
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub fn missing(&self, wanted: &[Sometimes]) -> Vec<Sometimes> {
        let reached = self.0.load(Ordering::Relaxed);
        let is_missing = |what: &Sometimes| reached & (1 << *what as u8) == 0;
        wanted.iter().copied().filter(is_missing).collect()
    }
}
