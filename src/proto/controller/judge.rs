// SPDX-License-Identifier: GPL-2.0
//! What a complete, or a failed, round leads to.

use super::{Controller, Evidence, GateChange, Heartbeat, Notice, Pending, Phase, Proposal};
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Ballot, Decided};
use crate::proto::lease::{Lease, Verdict};
use crate::proto::observer::member_bit;
use crate::proto::paxos::{next_ballot, Promise};
use crate::proto::round::{is_majority, Kind, Round};
use crate::proto::words::status::Reason;

/// A claim that was preempted waits for a random part of up to 2^this rounds.
const BACKOFF_MAX_SHIFT: u8 = 6;

/// How many heartbeats of an epoch may follow each other at once until the gate has its lease.
const BACK_TO_BACK: u64 = 4;

impl Controller {
    /// A round is complete: every slot is known from a majority.
    pub(super) fn judge(&mut self, round: &Round, now_ns: u64) {
        let writes = self.phase.is_owner() || self.phase == Phase::Announcing;
        if writes && round.kind == Kind::Look {
            // It could not write when it began, and learnt meanwhile that it can.
            self.rounds.due = true;
            return;
        }
        match self.phase {
            Phase::Joining => self.judge_listening(round),
            Phase::Announcing => self.judge_announcement(now_ns),
            Phase::Secondary => self.judge_watch(round),
            Phase::Claiming {
                ballot, proposal, ..
            } => match proposal {
                None => self.judge_phase_1(round, ballot, now_ns),
                Some(proposal) => self.judge_phase_2(round, ballot, proposal, now_ns),
            },
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. } => {
                self.judge_heartbeat(round, now_ns);
            }
            Phase::Failed => {}
        }
    }

    /// A round came to nothing: nothing is changed, except that a claim ends.
    pub(super) fn round_failed(&mut self, now_ns: u64) {
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.abandon_claim(now_ns);
        }
        if self.pending == Some(Pending::Publish) {
            self.answer(Err(Reason::NoMajority));
        }
    }

    /// Joining: the own slot has been quiet for long enough, and a majority told what this
    /// controller promised before. The role is dropped, the promises are kept [R35].
    fn judge_listening(&mut self, round: &Round) {
        let majority = self.majority();
        // The first complete round tells whether this is a portion that nobody ever touched.
        let virgin = *self
            .identity
            .never_written
            .get_or_insert(is_majority(round.blank, majority));
        let listen_ns = self.setup.timing.join_listen_ns();
        if !self
            .identity
            .own_slot
            .is_silent(round.confirmed, round.issued_ns, listen_ns, majority)
        {
            return;
        }
        self.term.decided = round.seen.decided;
        self.succession.highest = round.seen.highest;
        let (decided, promise) = round.own_promise;
        self.succession.promise = if decided.epoch == self.term.decided.epoch {
            promise
        } else {
            Promise::NONE
        };
        // What it carried for others it goes on to carry; whether that is all it does not know.
        self.take_over_list(round.own_charges, &round.seen.lists);
        let untouched = self.term.decided == Decided::NEVER && round.seen.highest == Ballot::NONE;
        self.identity.never_written = Some(virgin && untouched);
        self.changed_image();
        self.succession.owner.reset();
        self.note_term();
        self.identity.announced = true;
        if self.reason == Reason::Duplicate {
            self.reason = Reason::None;
        }
        self.phase = Phase::Announcing;
        self.rounds.due = true;
    }

    /// The first record of this incarnation is on a majority. No ballot before it has been there
    /// for the listening time again, so that two machines that came at once both notice [R36].
    fn judge_announcement(&mut self, now_ns: u64) {
        self.succession.ballots_from_ns = now_ns.saturating_add(self.setup.timing.join_listen_ns());
        self.phase = Phase::Secondary;
        let virgin =
            self.identity.never_written == Some(true) && self.term.decided == Decided::NEVER;
        if virgin && self.setup.home == self.setup.slot {
            self.succession.evidence = Some(Evidence::NeverWritten);
        }
    }

    fn judge_watch(&mut self, round: &Round) {
        if self.pending == Some(Pending::Publish) && round.kind == Kind::Heartbeat {
            self.answer(Ok(()));
        }
        self.note_silence(round);
    }

    fn note_silence(&mut self, round: &Round) {
        let (silence_ns, majority) = (self.silence_ns(), self.majority());
        let silent =
            self.succession
                .owner
                .is_silent(round.confirmed, round.issued_ns, silence_ns, majority);
        if silent {
            self.find(Evidence::Silence);
        }
    }

    /// Takes what says that the epoch is over, unless that is known already.
    pub(super) fn find(&mut self, evidence: Evidence) {
        if matches!(
            self.succession.evidence,
            None | Some(Evidence::Offered { .. })
        ) {
            self.succession.evidence = Some(evidence);
            // Whoever waited for it looks once more and goes on.
            self.rounds.due |= matches!(self.phase, Phase::Claiming { .. });
        }
    }

    /// Phase 1: nobody is ahead, so a value may be put forward, once the epoch is over. Until then
    /// the reads of phase 1 are repeated.
    fn judge_phase_1(&mut self, round: &Round, ballot: Ballot, now_ns: u64) {
        if round.seen.highest > ballot {
            return self.outbid(now_ns);
        }
        self.note_silence(round);
        if self.is_prepared() {
            return self.stay_prepared(now_ns);
        }
        let value = round.seen.value(&self.succession.promise, self.me());
        // Together with the value: a winner that dies leaves the list on a majority.
        self.charged.list = self.charges_after(&round.seen.lists, value);
        self.limits.failed = self.failed_after(&round.seen.lists);
        self.note_words(now_ns);
        self.succession.promise.bal = ballot;
        self.succession.promise.val = Some(value);
        self.changed_image();
        if let Phase::Claiming { proposal, .. } = &mut self.phase {
            *proposal = Some(Proposal {
                value,
                s0_ns: now_ns,
            });
        }
        self.begin_round(Kind::Ballot, now_ns);
    }

    /// Phase 2: nobody is ahead, so the value is decided.
    fn judge_phase_2(&mut self, round: &Round, ballot: Ballot, proposal: Proposal, now_ns: u64) {
        if round.seen.highest > ballot {
            return self.outbid(now_ns);
        }
        let Some(epoch) = self.term.decided.epoch.checked_add(1) else {
            return;
        };
        self.term.decided = Decided {
            epoch,
            value: Some(proposal.value),
        };
        self.succession.promise = Promise::NONE;
        self.term.hb = 0;
        self.term.gate_open = false;
        self.forget_epoch();
        self.renew_limit();
        self.note_term();
        self.policy.claim_requested = false;
        match proposal.value == self.me() {
            true => {
                self.phase = Phase::Owner;
                self.limits.failed_at_claim = 0;
                self.term.role = RecordRole::Owner;
                self.reason = Reason::None;
                self.term.lease = Lease::fresh(self.setup.timing.lease_ns, proposal.s0_ns);
                self.check_lapse(now_ns);
                self.rounds.due = true;
            }
            false => {
                self.phase = Phase::Secondary;
                self.term.role = RecordRole::Secondary;
            }
        }
    }

    /// A heartbeat of the owner succeeded: extend, or latch.
    fn judge_heartbeat(&mut self, round: &Round, now_ns: u64) {
        if round.seen.decided.epoch == self.term.decided.epoch && round.seen.is_claim() {
            return self.latch(Reason::ClaimSeen, now_ns);
        }
        let before = self.term.lease.expiry_ns();
        let late = self.lapse_reason(Reason::Continuity);
        match self.term.lease.judge(round.stamp_ns, now_ns) {
            Verdict::Broken => return self.latch(late, now_ns),
            // The first heartbeats of an epoch are back to back.
            Verdict::NoLeaseYet => self.rounds.due = true,
            Verdict::Extended { expiry_ns } => self.extend(before, expiry_ns, now_ns),
        }
        self.queue.report(Notice::Heartbeat(Heartbeat {
            hb: self.term.hb,
            stamp_ns: round.stamp_ns,
            judged_ns: now_ns,
            expiry_ns: self.expiry_ns(),
        }));
        self.raise_limit(now_ns);
        self.note_prepared(&round.seen, now_ns);
    }

    /// The lease was extended: the gate gets it, at first not before a majority carries what
    /// this term may be charged with [R21].
    fn extend(&mut self, before: Option<u64>, to_ns: u64, now_ns: u64) {
        // Since the stamps of this lease there was no break: all have the leaps of this reading.
        let expiry_ns = self.clocks.gate_ns(to_ns);
        match before.map(|from_ns| self.clocks.gate_ns(from_ns)) {
            Some(from_ns) if self.term.gate_open => self.queue.gate(GateChange::Extend {
                from_ns,
                to_ns: expiry_ns,
            }),
            _ if self.is_published(now_ns) => {
                self.term.gate_open = true;
                self.queue.gate(GateChange::OpenEpoch {
                    epoch: self.term.decided.epoch,
                    expiry_ns,
                });
            }
            // The ballot write is on its way, beside the heartbeats.
            _ => self.rounds.due = self.term.hb <= BACK_TO_BACK,
        }
    }

    /// Whether a majority carries the present ballot record, and goes on carrying it whatever may
    /// still land there: a record that is in one block is gone when an earlier write, which was
    /// reported as lost, lands in that block.
    fn is_published(&self, now_ns: u64) -> bool {
        let holds = |member: &u8| {
            let state = self.members.each.get(usize::from(*member));
            state.is_some_and(|state| state.ballot.holds(self.rounds.image, now_ns))
        };
        let members = (0..self.setup.members).filter(holds);
        let members = members.fold(0, |set, member| set | member_bit(member));
        is_majority(members & self.counted(), self.majority())
    }

    /// A raised limit holds once a majority carries it [R14].
    fn raise_limit(&mut self, now_ns: u64) {
        if self.limits.published > self.limits.gate && self.is_published(now_ns) {
            self.limits.gate = self.limits.published;
            self.queue_limit();
        }
    }

    /// Begins a claim if there is evidence and nothing stands against it.
    pub(super) fn try_claim(&mut self, now_ns: u64) {
        if self.claim_at_ns().is_none_or(|at| at > now_ns) {
            return;
        }
        if self.must_look(now_ns) {
            return self.look_first(now_ns);
        }
        let above = self.succession.highest.max(self.succession.promise.mbal);
        let Some(ballot) = next_ballot(above, self.setup.slot, self.setup.inc) else {
            // The numbers are used up: a damaged register. Nobody can claim any more.
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
        self.begin_round(Kind::Ballot, now_ns);
    }

    /// When the next claim may begin, with what is known now.
    pub(super) fn claim_at_ns(&self) -> Option<u64> {
        let reachable = is_majority(self.members.healthy & self.counted(), self.majority());
        let ready = self.phase == Phase::Secondary
            && reachable
            && self.succession.evidence.is_some()
            && self.wants_claim()
            // A ballot asks every controller: while one cannot be read none is begun.
            && self.rounds.unreadable == 0
            && self.pending.is_none()
            && !self.identity.looks_first;
        ready.then(|| {
            self.succession
                .ballots_from_ns
                .max(self.succession.backoff_until_ns)
        })
    }

    pub(super) fn wants_claim(&self) -> bool {
        (self.policy.claim_auto || self.policy.claim_requested)
            && self.policy.blocked.is_none()
            && !self.policy.stale
            && self.policy.leaving == 0
    }

    /// The owner showed a heartbeat after all: the evidence was wrong [R29].
    pub(super) fn owner_lives(&mut self, now_ns: u64) {
        self.succession.evidence = None;
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.abandon_claim(now_ns);
        }
    }

    /// Another candidate is ahead.
    fn outbid(&mut self, now_ns: u64) {
        self.reason = Reason::Outbid;
        self.abandon_claim(now_ns);
        self.back_off(now_ns);
    }

    /// Ends a claim; the next one begins within a period. What was written stays: a promise cannot
    /// be withdrawn.
    pub(super) fn abandon_claim(&mut self, now_ns: u64) {
        self.phase = Phase::Secondary;
        self.rounds.current = None;
        self.rounds.due = true;
        self.wait_below(self.setup.period_ns, now_ns);
    }

    /// Lets another candidate go first, for a random time that grows with every attempt: two that
    /// go on in step would outbid each other for ever.
    pub(super) fn back_off(&mut self, now_ns: u64) {
        self.succession.attempts = self
            .succession
            .attempts
            .saturating_add(1)
            .min(BACKOFF_MAX_SHIFT);
        self.wait_below(
            self.rounds
                .last_took_ns
                .saturating_mul(1 << self.succession.attempts),
            now_ns,
        );
    }

    fn wait_below(&mut self, bound_ns: u64, now_ns: u64) {
        let wait_ns = self.succession.random.below(bound_ns).saturating_add(1);
        self.succession.backoff_until_ns = now_ns.saturating_add(wait_ns);
    }
}
