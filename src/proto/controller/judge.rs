// SPDX-License-Identifier: GPL-2.0
//! The consequences of a round that is complete, or that has failed.

use super::phase::{Evidence, Pending, Phase, Proposal};
use super::{Controller, GateChange, Heartbeat, Notice};
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Ballot, Decided};
use crate::proto::lease::{Lease, Verdict};
use crate::proto::observer::member_bit;
use crate::proto::paxos::Promise;
use crate::proto::round::{is_majority, Round, RoundKind};
use crate::proto::words::status::Reason;

/// The heartbeats 1 to this number of an epoch are each followed by the next one at once, as long
/// as the gate has no lease.
const BACK_TO_BACK: u64 = 4;

impl Controller {
    /// A round is complete: a majority of the members gave information about each slot that the
    /// round needs. An owner needs its own slot; a controller that watches or announces itself also
    /// needs the owner's; joining and ballots need every slot (`certain_slots`).
    pub(super) fn judge(&mut self, round: &Round, now_ns: u64) {
        let writes = self.phase.is_owner() || self.phase == Phase::Announcing;
        if writes && round.kind == RoundKind::Look {
            // This round only read: when it began, too few members counted, because replacements
            // were not settled. The next round may write.
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

    /// A round has failed. This ends a claim. A release that waits for its publication is answered
    /// with an error.
    pub(super) fn round_failed(&mut self, now_ns: u64) {
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.abandon_claim(now_ns);
        }
        if self.pending == Some(Pending::Publish) {
            self.answer(Err(Reason::NoMajority));
        }
    }

    /// Joining: if no other host has written this controller's mailbox for the listening time, the
    /// controller reads its own promises from a majority and keeps them. It does not take back the
    /// role that its earlier incarnation had [R35].
    fn judge_listening(&mut self, round: &Round) {
        let majority = self.majority();
        // The first complete round shows whether the portion was never written.
        let never_written = *self
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
        // This may be a second listening, after the controller stood still while it announced
        // itself. What it saw of the owner before is no evidence of silence [R27].
        self.forget_epoch();
        self.succession.highest = round.seen.highest;
        let (decided, promise) = round.own_promise;
        self.succession.promise = if decided.epoch == self.term.decided.epoch {
            promise
        } else {
            Promise::NONE
        };
        // The list of charges is partial (see `charges`) until a whole list is read: other records
        // may have more charges than the last own record.
        self.take_over_list(round.own_charges, &round.seen.lists);
        let is_unclaimed =
            self.term.decided == Decided::NEVER && round.seen.highest == Ballot::NONE;
        self.identity.never_written = Some(never_written && is_unclaimed);
        self.note_term();
        self.identity.announced = true;
        if self.reason == Reason::Duplicate {
            self.reason = Reason::None;
        }
        self.phase = Phase::Announcing;
        self.rounds.due = true;
    }

    /// The first record of this incarnation is on a majority. The first ballot waits until the
    /// record has been there for the listening time, so that two controllers with one number that
    /// join at the same time notice each other [R36].
    fn judge_announcement(&mut self, now_ns: u64) {
        self.succession.ballots_from_ns = now_ns.saturating_add(self.setup.timing.join_listen_ns());
        self.phase = Phase::Secondary;
        let never_written =
            self.identity.never_written == Some(true) && self.term.decided == Decided::NEVER;
        if never_written && self.setup.home == self.setup.slot {
            self.succession.evidence = Some(Evidence::NeverWritten);
        }
    }

    fn judge_watch(&mut self, round: &Round) {
        if self.pending == Some(Pending::Publish) && round.kind == RoundKind::Heartbeat {
            self.answer(Ok(()));
        }
        self.note_silence(round);
    }

    /// Phase 1: if no ballot is higher and the epoch is over, this controller puts a value forward.
    /// Until the epoch is over the reads of phase 1 are repeated.
    fn judge_phase_1(&mut self, round: &Round, ballot: Ballot, now_ns: u64) {
        if round.seen.highest > ballot {
            return self.outbid(now_ns);
        }
        self.note_silence(round);
        if self.is_prepared() {
            return self.stay_prepared(now_ns);
        }
        let value = round.seen.value(&self.succession.promise, self.me());
        // The list of charges is in the same record as the value. So if this controller wins and
        // dies, a majority has the list.
        self.charged.list = self.charges_after(&round.seen.lists, value);
        self.limits.failed = self.failed_after(&round.seen.lists);
        self.note_confirmations(now_ns);
        self.succession.promise.bal = ballot;
        self.succession.promise.val = Some(value);
        self.changed_image();
        if let Phase::Claiming { proposal, .. } = &mut self.phase {
            *proposal = Some(Proposal {
                value,
                s0_ns: now_ns,
            });
        }
        self.begin_round(RoundKind::Ballot, now_ns);
    }

    /// Phase 2: if no ballot is higher, the value is decided.
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

    /// A heartbeat of the owner succeeded: extend the lease, or latch.
    fn judge_heartbeat(&mut self, round: &Round, now_ns: u64) {
        if round.seen.decided.epoch == self.term.decided.epoch && round.seen.is_claim() {
            return self.latch(Reason::ClaimSeen, now_ns);
        }
        let before = self.term.lease.expiry_ns();
        let late = self.lapse_reason(Reason::Continuity);
        match self.term.lease.judge(round.stamp_ns, now_ns) {
            Verdict::Broken => return self.latch(late, now_ns),
            // The first heartbeats of an epoch follow each other without a pause.
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

    /// The lease was extended, and the gate gets it. The gate gets the first lease of a term only
    /// after a majority carries the ballot record of this term. A later owner derives its charge
    /// for this term from the limit in that record [R21].
    fn extend(&mut self, before: Option<u64>, to_ns: u64, now_ns: u64) {
        // The gate's clock is the lease clock plus all leaps. A leap is a clock break, which would
        // have ended this lease. So no leap came after the stamps of this lease, and adding the
        // present leaps converts both the former end and the new one.
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
            // The ballot record is being written beside the heartbeats.
            _ => self.rounds.due = self.term.hb <= BACK_TO_BACK,
        }
    }

    /// Whether a majority carries the present ballot record and cannot lose it to a late write. A
    /// record in one block alone can be overwritten: an earlier write to that block, which ended
    /// with an error, may still reach the disk.
    pub(super) fn is_published(&self, now_ns: u64) -> bool {
        let holds = |member: &u8| {
            let state = self.members.each.get(usize::from(*member));
            state.is_some_and(|state| state.ballot.holds(self.rounds.image, now_ns))
        };
        let members = (0..self.setup.members).filter(holds);
        let members = members.fold(0, |set, member| set | member_bit(member));
        is_majority(members & self.counted(), self.majority())
    }
}
