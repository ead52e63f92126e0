// SPDX-License-Identifier: GPL-2.0
//! How a term begins and ends at this controller: a decision of another one, and the latch.

use super::io::Carried;
use super::phase::{Evidence, Phase};
use super::{Controller, GateChange};
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Ballot, Decided, Value};
use crate::proto::paxos::{Invitation, Promise};
use crate::proto::time::majority;
use crate::proto::words::status::Reason;

impl Controller {
    /// The highest decided epoch that is known, and its owner.
    pub fn decided(&self) -> Decided {
        self.term.decided
    }

    /// The end of the lease, if the gate has one.
    pub fn expiry_ns(&self) -> Option<u64> {
        self.term.lease.expiry_ns().filter(|_| self.term.gate_open)
    }

    /// The own heartbeats of this epoch so far.
    pub fn heartbeats(&self) -> u64 {
        self.term.hb
    }

    /// The gate, or the clock, has seen the lease end.
    pub fn handle_lapse(&mut self, now_ns: u64) {
        if self.phase.is_owner() {
            self.latch(self.lapse_reason(Reason::Lapse), now_ns);
            self.begin_due_round(now_ns);
        }
    }

    pub(super) fn check_lapse(&mut self, now_ns: u64) {
        if self.term.lease.has_lapsed(now_ns) {
            self.handle_lapse(now_ns);
        }
    }

    /// Takes a decision of a later epoch than the known one.
    pub(super) fn learn(&mut self, decided: Decided, carried: &Carried, now_ns: u64) {
        if decided.epoch <= self.term.decided.epoch {
            return;
        }
        if self.phase.is_owner() {
            self.latch(Reason::HigherEpoch, now_ns);
        }
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.phase = Phase::Secondary;
            self.rounds.current = None;
        }
        self.term.decided = decided;
        let partial = self.charged.list.with_partial(true);
        self.charged.list = carried.list.unwrap_or(partial);
        self.limits.failed = carried.failed.unwrap_or(self.limits.failed);
        self.renew_limit();
        self.succession.promise = Promise::NONE;
        self.term.gate_open = false;
        self.term.role = RecordRole::Secondary;
        self.term.hb = 0;
        self.forget_epoch();
        self.note_term();
        if self.is_mine() {
            // This controller owns in name only: no stamp was taken before the deciding write
            // [R30].
            self.term.role = RecordRole::Lapsed;
            self.reason = Reason::NameOnly;
            self.succession.evidence = Some(Evidence::OwnLapse);
        }
    }

    /// If the new term is one of another controller, a device that is open now may be stale when
    /// the term ends [R31]. Consecutive terms of one controller are exempt.
    pub(super) fn note_term(&mut self) {
        let owner = self.term.decided.value;
        let is_foreign = owner.is_some_and(|value| value.slot != self.setup.slot);
        self.policy.stale |= is_foreign && self.policy.guarded;
    }

    /// Forgets timers, evidence and ballots: they are about one epoch, which has ended.
    pub(super) fn forget_epoch(&mut self) {
        self.changed_image();
        self.succession.owner.reset();
        self.succession.evidence = None;
        self.succession.highest = Ballot::NONE;
        self.succession.invitation = Invitation::NONE;
        self.succession.attempts = 0;
        self.succession.backoff_until_ns = 0;
    }

    /// Ends the lease of the own epoch for ever. A lease that was lost without a command is
    /// evidence that the epoch is over [R9].
    pub(super) fn latch(&mut self, reason: Reason, now_ns: u64) {
        if self.phase.is_owner() {
            self.note_end(reason, now_ns);
        }
        self.term.lease.latch();
        // The last count of open permits is from before the latch, and more may have been given
        // since. So it does not show that the gate has drained. If the limit is lowered before the
        // next count, it does not show either that the gate holds no more than the new limit.
        self.limits.open = self.limits.open.max(1);
        if core::mem::take(&mut self.term.gate_open) {
            self.limits.exposed = self.limits.exposed.max(self.limits.gate);
        }
        self.queue.gate(GateChange::Latch);
        self.queue.gate(GateChange::SetLimit(self.limits.gate));
        self.phase = Phase::Secondary;
        self.term.role = RecordRole::Lapsed;
        self.reason = reason;
        self.rounds.current = None;
        self.rounds.due = true;
        self.succession.evidence = is_own_lapse(reason).then_some(Evidence::OwnLapse);
        if reason == Reason::ClaimSeen {
            self.back_off(now_ns);
        }
        self.answer(Err(Reason::Lapse));
    }

    /// The reason for a latch. If the lease had not begun, the claim was too late.
    pub(super) fn lapse_reason(&self, otherwise: Reason) -> Reason {
        match self.term.lease.expiry_ns() {
            Some(_) => otherwise,
            None => Reason::LateClaim,
        }
    }

    /// Answers the pending command, if there is one.
    pub(super) fn answer(&mut self, answer: Result<(), Reason>) {
        if self.pending.take().is_some() {
            self.queue.answer(answer);
        }
    }

    /// This controller as the value of a ballot.
    pub(super) fn me(&self) -> Value {
        Value {
            slot: self.setup.slot,
            inc: self.setup.inc,
        }
    }

    /// Whether this incarnation owns the decided epoch.
    pub(super) fn is_mine(&self) -> bool {
        self.term.decided.value == Some(self.me())
    }

    pub(super) fn majority(&self) -> u8 {
        majority(self.setup.members)
    }

    /// Notes that the content of the ballot record has changed.
    pub(super) fn changed_image(&mut self) {
        self.rounds.image = self.rounds.image.wrapping_add(1).max(1);
    }
}

/// Whether the owner lost its lease without a command. Only such a loss is evidence for this
/// controller.
fn is_own_lapse(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Lapse | Reason::Continuity | Reason::LateClaim | Reason::ClaimSeen | Reason::Clock
    )
}
