// SPDX-License-Identifier: GPL-2.0
//! When this controller claims the next epoch, and how it gives a claim up.

use super::phase::{Evidence, Phase};
use super::Controller;
use crate::proto::paxos::next_ballot;
use crate::proto::round::{is_majority, Round, RoundKind};
use crate::proto::words::status::Reason;

/// A claim that was preempted waits for a random part of up to 2^this rounds.
const BACKOFF_MAX_SHIFT: u8 = 6;

impl Controller {
    /// Whether this controller wants the next epoch, and nothing forbids it to claim.
    pub(super) fn wants_claim(&self) -> bool {
        (self.policy.claim_auto || self.policy.claim_requested)
            && self.policy.blocked.is_none()
            && !self.policy.stale
            && self.policy.leaving == 0
    }

    /// Takes evidence that the epoch is over. It replaces an offer, and nothing else.
    pub(super) fn find(&mut self, evidence: Evidence) {
        if matches!(
            self.succession.evidence,
            None | Some(Evidence::Offered { .. })
        ) {
            self.succession.evidence = Some(evidence);
            // A candidate that waited for it reads once more, and goes on to phase 2.
            self.rounds.due |= matches!(self.phase, Phase::Claiming { .. });
        }
    }

    /// If the reads of this round prove the owner's silence, that is evidence.
    pub(super) fn note_silence(&mut self, round: &Round) {
        let (silence_ns, majority) = (self.silence_ns(), self.majority());
        let silent =
            self.succession
                .owner
                .is_silent(round.confirmed, round.issued_ns, silence_ns, majority);
        if silent {
            self.find(Evidence::Silence);
        }
    }

    /// The owner showed a heartbeat after all: the evidence was wrong [R29].
    pub(super) fn owner_lives(&mut self, now_ns: u64) {
        self.succession.evidence = None;
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.abandon_claim(now_ns);
        }
    }

    /// When the next claim may begin, as far as is known now.
    pub(super) fn claim_at_ns(&self) -> Option<u64> {
        let reachable = is_majority(self.members.healthy & self.counted(), self.majority());
        let ready = self.phase == Phase::Secondary
            && reachable
            && self.succession.evidence.is_some()
            && self.wants_claim()
            // A ballot needs information from every controller.
            && self.rounds.unreadable == 0
            && self.pending.is_none()
            && !self.identity.looks_first;
        let succession = &self.succession;
        ready.then(|| succession.ballots_from_ns.max(succession.backoff_until_ns))
    }

    /// Begins a claim if there is evidence and nothing forbids it.
    pub(super) fn try_claim(&mut self, now_ns: u64) {
        if self.claim_at_ns().is_none_or(|at| at > now_ns) {
            return;
        }
        if self.must_look(now_ns) {
            return self.look_first(now_ns);
        }
        let above = self.succession.highest.max(self.succession.promise.mbal);
        let Some(ballot) = next_ballot(above, self.setup.slot, self.setup.inc) else {
            // A damaged register has used up the ballot numbers. No controller can claim any more.
            self.succession.backoff_until_ns = u64::MAX;
            return;
        };
        self.succession.promise.mbal = ballot;
        self.succession.promise.offer = match self.succession.evidence {
            Some(Evidence::Offered { hb }) => hb,
            _ => 0,
        };
        self.changed_image();
        let deadline_ns = now_ns.saturating_add(self.setup.timing.window_ns);
        self.phase = Phase::Claiming {
            ballot,
            proposal: None,
            deadline_ns,
        };
        self.begin_round(RoundKind::Ballot, now_ns);
    }

    /// Another candidate has a higher ballot.
    pub(super) fn outbid(&mut self, now_ns: u64) {
        self.reason = Reason::Outbid;
        self.abandon_claim(now_ns);
        self.back_off(now_ns);
    }

    /// Ends a claim; the next one begins within a period. The ballot on the members stays, because
    /// a promise cannot be withdrawn.
    pub(super) fn abandon_claim(&mut self, now_ns: u64) {
        self.phase = Phase::Secondary;
        self.rounds.current = None;
        self.rounds.due = true;
        self.wait_below(self.setup.period_ns, now_ns);
    }

    /// Lets another candidate go first, for a random time that grows with every attempt. Two
    /// candidates in step would outbid each other for ever.
    pub(super) fn back_off(&mut self, now_ns: u64) {
        let attempts = self.succession.attempts.saturating_add(1);
        self.succession.attempts = attempts.min(BACKOFF_MAX_SHIFT);
        let rounds = 1 << self.succession.attempts;
        self.wait_below(self.rounds.last_took_ns.saturating_mul(rounds), now_ns);
    }

    fn wait_below(&mut self, bound_ns: u64, now_ns: u64) {
        let wait_ns = self.succession.random.below(bound_ns).saturating_add(1);
        self.succession.backoff_until_ns = now_ns.saturating_add(wait_ns);
    }
}
