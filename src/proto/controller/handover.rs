// SPDX-License-Identifier: GPL-2.0
//! How an owner gives its epoch back, and how a named successor prepares for it [R34].
//!
//! ```text
//!   owner       Owner ---> Offering ------> Draining ------> latched, `released` published
//!                 ^        gate open   |    gate closed  |
//!                 |                    |                 | not drained in time
//!                 +--------------------+-----------------+
//!                   successor not prepared in time, or it may not claim
//!
//!   successor   Secondary ---> Claiming: phase 1 ---> phase 1 read again ---> phase 2 ---> Owner
//!                `handing over` seen                  until `released` is seen
//! ```
//!
//! Everything that can be done before the gate closes is done before: what is left of the pause is
//! the drain, one write of the owner, and of the successor a look, phase 2 and two heartbeats. An
//! offer says nothing about the end of the epoch, so it is good for phase 1 only; Disk Paxos lets
//! a candidate wait between its phases for as long as it likes. The epoch after this one is decided
//! when this one is over, as in any other claim, and a hand-over that comes to nothing leaves the
//! owner where it was.
//!
//! The owner latches on any claim [R29]. A ballot that names an offer of this epoch is an answer
//! and no claim, whenever it is seen; a value that is put forward is always a claim.

use super::state::{Evidence, Pending, Phase};
use super::Controller;
use crate::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use crate::proto::codec::ids::Slot;
use crate::proto::paxos::{Seen, Successor};
use crate::proto::words::status::Reason;

/// A prepared successor looks so often in one of its periods, or more often.
const LOOKS: u64 = 16;

/// The longest pause between two of its looks.
const LOOK_NS: u64 = 10_000_000;

impl Controller {
    /// How long a successor has to prepare itself: it notices within a period, its ballot takes a
    /// round that writes twice, and the owner sees the ballot within a period. The operator waits
    /// for as long. A shorter bound would make every hand-over fail where periods are long.
    pub fn preparation_ns(&self) -> u64 {
        let rounds_ns = self.patience_ns().saturating_mul(3);
        let periods_ns = self.setup.timing.period_max_ns.saturating_mul(2);
        periods_ns.saturating_add(rounds_ns)
    }

    /// Begins to give the epoch back. What another controller shall have is offered to it first.
    pub(super) fn begin_release(
        &mut self,
        successor: Option<Slot>,
        reason: Reason,
        deadline_ns: u64,
        now_ns: u64,
    ) {
        let Some(successor) = successor else {
            return self.close_gate(None, reason, deadline_ns);
        };
        self.phase = Phase::Offering {
            successor,
            since: self.term.hb,
            until_ns: now_ns.saturating_add(self.preparation_ns()),
            drain_ns: deadline_ns.saturating_sub(now_ns),
        };
        self.term.role = RecordRole::HandingOver { successor };
        self.succession.invitation.successor = Some(successor);
        self.succession.invitation.slots |= successor.bit();
        self.rounds.due = true;
        self.begin_due_round(now_ns);
    }

    /// If the successor is prepared, the gate may close; if it says that it may not claim, the
    /// epoch is kept.
    pub(super) fn note_prepared(&mut self, seen: &Seen, now_ns: u64) {
        let Phase::Offering { since, .. } = self.phase else {
            return;
        };
        if seen.answered >= since {
            self.drain(now_ns);
        } else if seen.successor == Successor::Unwilling {
            self.keep(Reason::Unwilling);
        }
    }

    /// Closes the gate: the successor is prepared.
    fn drain(&mut self, now_ns: u64) {
        if let Phase::Offering {
            successor,
            drain_ns,
            ..
        } = self.phase
        {
            let deadline_ns = now_ns.saturating_add(drain_ns);
            self.close_gate(Some(successor), Reason::Handoff, deadline_ns);
        }
    }

    fn close_gate(&mut self, successor: Option<Slot>, reason: Reason, deadline_ns: u64) {
        self.phase = Phase::Draining {
            successor,
            reason,
            deadline_ns,
        };
        self.queue_limit();
    }

    /// Nothing comes of giving it up, for this reason: the epoch is kept.
    pub(super) fn keep(&mut self, reason: Reason) {
        self.phase = Phase::Owner;
        self.term.role = RecordRole::Owner;
        self.succession.invitation.successor = None;
        self.queue_limit();
        self.answer(Err(reason));
    }

    /// The gate is closed, and every permit has come back.
    pub fn handle_drained(&mut self, now_ns: u64) {
        if let Phase::Draining {
            successor, reason, ..
        } = self.phase
        {
            self.finish_release(successor, reason, now_ns);
        }
    }

    /// The gate is closed and empty: end the epoch and say so.
    pub(super) fn finish_release(&mut self, successor: Option<Slot>, reason: Reason, now_ns: u64) {
        let pending = self.pending.take();
        self.latch(reason, now_ns);
        self.term.role = RecordRole::Released { successor };
        self.limits.open = 0;
        self.pending = pending.map(|_| Pending::Publish);
        self.begin_due_round(now_ns);
    }

    /// What the owner of the present epoch says of its end. A member may show an older record than
    /// another one did.
    pub(super) fn heed_owner(&mut self, record: &HeartbeatRecord, now_ns: u64) {
        let own = self.setup.slot;
        match (record.role, self.succession.evidence) {
            (RecordRole::Released { successor }, _) if successor.is_none_or(|slot| slot == own) => {
                self.find(Evidence::Released);
            }
            // What a member shows that the owner does not reach any more is no offer of today.
            (RecordRole::HandingOver { successor }, None)
                if successor == own && self.succession.owner.latest() <= Some(record.hb) =>
            {
                self.succession.evidence = Some(Evidence::Offered { hb: record.hb });
            }
            // Kept, or given to somebody else.
            (role, Some(Evidence::Offered { hb }))
                if record.hb > hb && role != (RecordRole::HandingOver { successor: own }) =>
            {
                self.succession.evidence = None;
                if matches!(self.phase, Phase::Claiming { .. }) {
                    self.abandon_claim(now_ns);
                }
            }
            _ => {}
        }
    }

    /// Whether phase 2 must wait for the end of the epoch; when no round is under way, phase 1 is
    /// through.
    pub(super) fn is_prepared(&self) -> bool {
        let first = matches!(self.phase, Phase::Claiming { proposal: None, .. });
        first && matches!(self.succession.evidence, Some(Evidence::Offered { .. }))
    }

    /// One ballot is enough for one offer, however long the owner takes.
    pub(super) fn stay_prepared(&mut self, now_ns: u64) {
        if let Phase::Claiming { deadline_ns, .. } = &mut self.phase {
            *deadline_ns = now_ns.saturating_add(self.setup.timing.window_ns);
        }
    }

    /// When a prepared successor looks again.
    pub(super) fn next_look_ns(&self) -> u64 {
        let pause_ns = self.setup.period_ns.checked_div(LOOKS).unwrap_or(0);
        self.rounds
            .last_look_ns
            .saturating_add(pause_ns.min(LOOK_NS))
    }
}
