// SPDX-License-Identifier: GPL-2.0
//! What the user sees: role, reason, and a notice for each change of them [R47].

use super::action::Queue;
use super::phase::Phase;
use super::{Budget, Controller, GateChange, Notice, Transition};
use crate::proto::codec::ids::Decided;
use crate::proto::words::status::{Reason, Role};

impl Controller {
    /// The role as users see it. A controller without a lease is no owner.
    pub fn role(&self) -> Role {
        match self.phase {
            Phase::Joining | Phase::Announcing => Role::Joining,
            Phase::Secondary => Role::Secondary,
            Phase::Claiming { .. } => Role::Claiming,
            Phase::Owner if self.expiry_ns().is_none() => Role::Claiming,
            Phase::Owner | Phase::Offering { .. } => Role::Owner,
            Phase::Draining { .. } => Role::Releasing,
            Phase::Failed => Role::Failed,
        }
    }

    /// Why the controller was demoted last, or why it does not claim.
    pub fn reason(&self) -> Reason {
        match (self.phase, self.policy.blocked) {
            (Phase::Secondary, Some(blocked)) => blocked,
            (Phase::Secondary, None) if self.policy.stale => Reason::StaleOpeners,
            (Phase::Joining | Phase::Secondary, _) if self.rounds.unreadable != 0 => {
                Reason::Unreadable
            }
            (Phase::Owner | Phase::Offering { .. }, _) if self.is_exhausted() => Reason::Exhausted,
            _ => self.reason,
        }
    }

    /// How many members answered last time.
    pub fn members_ok(&self) -> u32 {
        (self.members.healthy & self.members.present).count_ones()
    }

    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        self.poll_outdated()
            .or_else(|| self.poll_transition())
            .or_else(|| self.poll_budget())
            .or_else(|| self.poll_unreadable())
    }

    fn poll_transition(&mut self) -> Option<Notice> {
        let role = self.role();
        // A joiner still gathers decisions. It reports the result when it has joined.
        let decided = match role {
            Role::Joining => Decided::NEVER,
            _ => self.term.decided,
        };
        let before = core::mem::replace(&mut self.reported.role, (role, decided));
        (before != (role, decided)).then_some(Notice::Transition(Transition {
            from: before.0,
            to: role,
            epoch: decided.epoch,
            owner: decided.value.map(|value| value.slot),
            reason: self.reason,
        }))
    }

    /// Reports what an owner may have open when it has changed. The first budget of a term is
    /// reported only if something restricts it.
    fn poll_budget(&mut self) -> Option<Notice> {
        let budget = Budget {
            limit: self.limits.published,
            charged: self.charged.list.total(),
            is_exhausted: self.is_exhausted(),
        };
        let now = (self.role() == Role::Owner).then_some(budget);
        let before = core::mem::replace(&mut self.reported.budget, now);
        let is_whole = budget.charged == 0 && !budget.is_exhausted;
        now.filter(|_| now != before && !(before.is_none() && is_whole))
            .map(Notice::Budget)
    }

    fn poll_unreadable(&mut self) -> Option<Notice> {
        let now = self.rounds.unreadable;
        let before = core::mem::replace(&mut self.reported.unreadable, now);
        (before != now).then_some(Notice::Unreadable(now))
    }

    /// An action found no room in the queue, which is a bug: the gate and the user know less than
    /// the state machine. It latches, reports that, and withdraws for good.
    pub(super) fn withdraw(&mut self) {
        self.queue = Queue::EMPTY;
        // The time 0 does no harm: this reason begins no back-off, and nothing else uses the time.
        self.fail(Reason::Overflow, 0);
        // If the controller had failed before, `fail` did nothing, and a latch may be lost.
        self.queue.gate(GateChange::Latch);
    }
}
