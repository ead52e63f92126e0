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
//! Phase 1 of the successor's ballot runs while the gate is still open. Writes pause from the
//! closing of the gate to the successor's first lease. In this time the owner drains and writes one
//! record; then the successor reads that record, runs phase 2 and sends two heartbeats.
//!
//! An offer does not end the epoch, so it permits phase 1 only. Disk Paxos lets a candidate wait
//! between its phases for any time. The next epoch is decided after the present one has ended, as
//! in any other claim. If a hand-over fails, the owner keeps the epoch.
//!
//! The owner latches on any claim [R29]. A ballot that names an offer of this epoch and carries no
//! value is an answer to that offer, not a claim. This holds even if the owner reads the ballot
//! after it has called the offer off. A ballot with a value is always a claim.

use super::phase::{Evidence, Pending, Phase};
use super::Controller;
use crate::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use crate::proto::codec::ids::Slot;
use crate::proto::paxos::{Seen, Successor};
use crate::proto::words::status::Reason;

/// How often a prepared successor reads the mailboxes in one of its periods. It reads more often if
/// [`LOOK_NS`] is shorter, and less often if a read takes longer.
const LOOKS: u64 = 16;

/// The longest pause between two such reads.
const LOOK_NS: u64 = 10_000_000;

impl Controller {
    /// How long a successor may take to prepare itself: two periods and three times the longest
    /// duration of a round. The successor reads the offer within a period. It writes its ballot
    /// into both blocks and reads after each; these commands take at most as long as three rounds.
    /// The owner reads the ballot within another period. A period is at most `period_max_ns`. The
    /// message `handoff` waits for this time, and then for that of a release.
    pub fn preparation_ns(&self) -> u64 {
        let rounds_ns = self.patience_ns().saturating_mul(3);
        let periods_ns = self.setup.timing.period_max_ns.saturating_mul(2);
        periods_ns.saturating_add(rounds_ns)
    }

    /// Begins to give the epoch back. If a successor is named, the owner offers the epoch to it
    /// first.
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

    /// If the successor is prepared, the gate closes. If the successor says that it may not claim,
    /// the owner keeps the epoch.
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

    /// Ends a release or a hand-over without success: the owner keeps the epoch.
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

    /// Ends the epoch and publishes its end. The gate is closed and empty.
    pub(super) fn finish_release(&mut self, successor: Option<Slot>, reason: Reason, now_ns: u64) {
        let pending = self.pending.take();
        self.latch(reason, now_ns);
        self.term.role = RecordRole::Released { successor };
        self.limits.open = 0;
        self.pending = pending.map(|_| Pending::Publish);
        self.begin_due_round(now_ns);
    }

    /// Takes a heartbeat of the owner as evidence about the end of the epoch. A member may show an
    /// older record than another member showed before. So an offer counts only if no later
    /// heartbeat was seen. A release is final, so it counts at any age, if it names this controller
    /// or no successor.
    pub(super) fn heed_owner(&mut self, record: &HeartbeatRecord, now_ns: u64) {
        let own = self.setup.slot;
        match (record.role, self.succession.evidence) {
            (RecordRole::Released { successor }, _) if successor.is_none_or(|slot| slot == own) => {
                self.find(Evidence::Released);
            }
            // A member that the owner does not reach any more may show an outdated offer.
            (RecordRole::HandingOver { successor }, None)
                if successor == own && self.succession.owner.latest() <= Some(record.hb) =>
            {
                self.succession.evidence = Some(Evidence::Offered { hb: record.hb });
            }
            // The owner keeps the epoch, or gives it to another controller.
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

    /// Whether this controller is a successor whose phase 2 waits for the end of the epoch. If so,
    /// and if no round is under way, phase 1 is complete.
    pub(super) fn is_prepared(&self) -> bool {
        let first = matches!(self.phase, Phase::Claiming { proposal: None, .. });
        first && matches!(self.succession.evidence, Some(Evidence::Offered { .. }))
    }

    /// Extends the deadline of the claim, so that the same ballot remains the answer to the offer
    /// until the owner ends the epoch or calls the offer off.
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
