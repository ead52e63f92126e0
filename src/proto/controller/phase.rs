// SPDX-License-Identifier: GPL-2.0
//! The states, and what belongs to one state alone.

use crate::proto::codec::ids::{Ballot, Slot, Value};
use crate::proto::words::status::Reason;

/// The state; the diagram is at the top of [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Listens to the own slot before the first write.
    Joining,
    /// Writes the first record of this incarnation.
    Announcing,
    /// Watches the owner.
    Secondary,
    /// Runs a ballot: phase 1 while there is no proposal, then phase 2.
    Claiming {
        ballot: Ballot,
        proposal: Option<Proposal>,
        deadline_ns: u64,
    },
    /// Owns the epoch, with or without a lease.
    Owner,
    /// Owns the epoch, and waits for the successor to prepare its ballot.
    Offering {
        successor: Slot,
        /// The first heartbeat that may have carried the offer. The successor is prepared when it
        /// has answered this heartbeat or a later one.
        since: u64,
        /// When the owner stops waiting.
        until_ns: u64,
        /// How long permits may then take to come back.
        drain_ns: u64,
    },
    /// Owns the epoch with the gate closed, until the last permit has come back.
    Draining {
        successor: Option<Slot>,
        reason: Reason,
        deadline_ns: u64,
    },
    /// Has withdrawn; see `identity`.
    Failed,
}

/// The value that a candidate puts forward in phase 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proposal {
    pub(super) value: Value,
    /// The clock before the deciding write: heartbeat 0 of the epoch for continuity.
    pub(super) s0_ns: u64,
}

impl Phase {
    /// Whether this controller owns the epoch, with a lease or without.
    pub(super) fn is_owner(&self) -> bool {
        matches!(
            self,
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. }
        )
    }
}

/// Why this controller may claim epoch D + 1, where D is the highest decided epoch. All evidence
/// but an offer is stable: it stays true of D for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Evidence {
    /// The owner of D is about to hand over to this controller, and said so in heartbeat `hb`. This
    /// is enough for phase 1 and for nothing else.
    Offered { hb: u64 },
    /// D = 0, and the home controller found every slot blank.
    NeverWritten,
    /// The owner of D has drained and published the end of D.
    Released,
    /// This incarnation owned D and lost its lease without a command to give it up.
    OwnLapse,
    /// The owner of D showed no heartbeat for the window. For D = 0, no controller showed a claim.
    Silence,
    /// An operator confirmed that the owner of D is dead.
    Confirmed,
}

/// A command whose answer is still due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    /// The permits have not all come back.
    Drain,
    /// `released` is being written.
    Publish,
}
