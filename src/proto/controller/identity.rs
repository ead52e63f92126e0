// SPDX-License-Identifier: GPL-2.0
//! Whether this controller is the only one with its number, and the records are as it wrote them.
//!
//! The own slot, as a member shows it, may differ from what this session wrote:
//!
//! * A foreign incarnation: two controllers have one number; `failed` [R36].
//! * The own incarnation, with a write that this session never issued: a copy of this host's memory
//!   runs; `failed` [R58].
//! * An older state than was acknowledged: the member was restored, exchanged or damaged, or it
//!   lost a write. It does not count until it is written anew [R58].
//!
//! If any slot shows another owner for a decided epoch than the known one, agreement is broken:
//! `failed` [R57].
//!
//! The state `failed` is final for a session: the controller latches, writes nothing and claims
//! nothing. Only [`Controller::handle_fork`] leads out of it, with a new incarnation.
//!
//! A host that stood still does not know whether its number was given to another host meanwhile. A
//! joiner listens to its slot for at least a window, and a window is longer than a lease. So a
//! controller that has not read its own slot for the length of a lease reads it, on a majority,
//! before it writes anything [R36].

use super::phase::Phase;
use super::state::ReadTag;
use super::{Controller, Notice};
use crate::proto::codec::charge_list::{Charges, MAX_CHARGES};
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Decided, Incarnation, Register, Side};
use crate::proto::codec::mailbox::{Found, Mailboxes};
use crate::proto::lease::Lease;
use crate::proto::observer::member_bit;
use crate::proto::paxos::Promise;
use crate::proto::random::XorShift;
use crate::proto::register::Verdict;
use crate::proto::round::{RoundKind, Stage};
use crate::proto::words::status::Reason;

/// The verdicts of [`OwnRegister::judge`](crate::proto::register::OwnRegister::judge) about both
/// registers of the own slot on one member: the worst one of each register.
struct Verdicts {
    ballot: Verdict,
    heartbeat: Verdict,
}

impl Controller {
    /// The hypervisor says that this host's memory was copied, or was put back to an earlier state.
    /// A copy may run with the same incarnation, and what this host knows may be outdated. The gate
    /// is latched, and the controller joins anew as `inc`. The caller still reports the end of
    /// transfers that are under way.
    pub fn handle_fork(&mut self, inc: Incarnation, now_ns: u64) {
        self.latch(Reason::Fork, now_ns);
        self.setup.inc = inc;
        self.succession.random = XorShift::new(inc.0);
        self.listen_anew(now_ns);
        self.term.decided = Decided::NEVER;
        self.identity.heard = Decided::NEVER;
        self.succession.promise = Promise::NONE;
        self.term.role = RecordRole::Secondary;
        self.term.hb = 0;
        self.charged.list = Charges::NONE;
        self.charged.watched = [None; MAX_CHARGES];
        (self.rounds.sight_ns, self.identity.seen_ns) = (None, None);
        (self.charged.confirmed_epoch, self.limits.risked_epoch) = (0, 0);
        self.term.lease = Lease::none(self.setup.timing.lease_ns);
        self.identity.never_written = None;
        self.forget_epoch();
        self.succession.ballots_from_ns = u64::MAX;
        self.policy.claim_requested = false;
        self.identity.announced = false;
        // Another host may have written as this controller.
        self.policy.stale = self.policy.guarded;
        self.renew_limit();
    }

    /// Begins to listen once more. The registers that the controller wrote before become unknown.
    /// Otherwise a member that lost one would never count again: it counts when the register is
    /// written anew, and a joiner writes nothing.
    fn listen_anew(&mut self, now_ns: u64) {
        self.phase = Phase::Joining;
        self.identity.own_slot.reset();
        self.charged.voices = [None; super::voices::MAX_VOICES];
        for member in 0..self.setup.members {
            self.forget_member(member, now_ns);
        }
    }

    /// Latches, and leaves the portion for the rest of the session.
    pub(super) fn fail(&mut self, reason: Reason, now_ns: u64) {
        if self.phase == Phase::Failed {
            return;
        }
        self.latch(reason, now_ns);
        self.phase = Phase::Failed;
        self.succession.evidence = None;
        self.policy.claim_requested = false;
    }

    /// Compares the own slot on a member with the acknowledged writes. Returns whether the read is
    /// information about the member.
    pub(super) fn check_own_slot<M: Mailboxes>(
        &mut self,
        member: u8,
        tag: ReadTag,
        boxes: &M,
        now_ns: u64,
    ) -> bool {
        let verdicts = self.verdicts(member, tag, boxes);
        match verdicts.ballot.max(verdicts.heartbeat) {
            Verdict::Copy => self.fail(Reason::Copy, now_ns),
            Verdict::Foreign => self.fail(Reason::ForeignIncarnation, now_ns),
            Verdict::Back | Verdict::Late | Verdict::Fine => {
                self.note_back(member, &verdicts);
                return !tag.is_void && !self.is_void(member);
            }
        }
        false
    }

    fn verdicts<M: Mailboxes>(&self, member: u8, tag: ReadTag, boxes: &M) -> Verdicts {
        let slot = self.setup.slot;
        Verdicts {
            ballot: self.verdict(member, Register::Ballot, tag, &boxes.ballot(slot)),
            heartbeat: self.verdict(member, Register::Heartbeat, tag, &boxes.heartbeat(slot)),
        }
    }

    fn verdict<T>(&self, at: u8, register: Register, tag: ReadTag, found: &Found<T>) -> Verdict {
        let Some(member) = self.members.each.get(usize::from(at)) else {
            return Verdict::Fine;
        };
        let (own, quiet, written) = match register {
            Register::Ballot => (&member.ballot, tag.ballot_quiet, tag.ballot_written),
            Register::Heartbeat => (
                &member.heartbeat,
                tag.heartbeat_quiet,
                tag.heartbeat_written,
            ),
        };
        let inc = self.setup.inc;
        let of = |side: Side| {
            let shown = found.shown(side);
            if shown.is_by(inc) && !self.identity.announced {
                // Only a copy of this session can have written as this incarnation.
                return Verdict::Copy;
            }
            own.judge(side, shown, inc, quiet.has(side), written)
        };
        of(Side::A).max(of(Side::B))
    }

    /// Makes a register that went back void, and forgets what the member showed of the owner: the
    /// member may show an outdated state.
    fn note_back(&mut self, member: u8, verdicts: &Verdicts) {
        let worst = verdicts.ballot.max(verdicts.heartbeat);
        if worst == Verdict::Fine {
            return;
        }
        let was_void = self.is_void(member);
        let Some(state) = self.members.each.get_mut(usize::from(member)) else {
            return;
        };
        if verdicts.ballot != Verdict::Fine {
            state.ballot.went_back(Register::Ballot);
        }
        if verdicts.heartbeat != Verdict::Fine {
            state.heartbeat.went_back(Register::Heartbeat);
        }
        self.succession.owner.forget(member);
        if worst == Verdict::Back && !was_void {
            self.queue.report(Notice::WentBack { member });
        }
    }

    /// Whether a register on a member went back and has not been written anew.
    pub(super) fn is_void(&self, member: u8) -> bool {
        let state = self.members.each.get(usize::from(member));
        state.is_some_and(|state| state.ballot.is_void() || state.heartbeat.is_void())
    }

    /// Whether the own slot was last read so long ago that another host may have this number by
    /// now. An owner reads it with each heartbeat, or its lease has lapsed.
    pub(super) fn must_look(&self, now_ns: u64) -> bool {
        let lease_ns = self.setup.timing.lease_ns;
        let is_recent = |at_ns: u64| now_ns.saturating_sub(at_ns) < lease_ns;
        let writes =
            !self.phase.is_owner() && !matches!(self.phase, Phase::Joining | Phase::Failed);
        writes && !self.identity.seen_ns.is_some_and(is_recent)
    }

    /// Begins the look that must precede the next write.
    pub(super) fn look_first(&mut self, now_ns: u64) {
        self.identity.looks_first = true;
        if self.rounds.current.is_some() {
            return;
        }
        if self.phase == Phase::Announcing {
            // It has no own write yet by which it would notice another host, so it listens anew.
            self.identity.heard = self.term.decided;
            self.listen_anew(now_ns);
        }
        self.begin_round(RoundKind::Look, now_ns);
    }

    /// Notes the end of the lease. If reads caused the end, or a command while the lease was valid,
    /// the own slot was read recently. After any other end it must be read before the next write.
    pub(super) fn note_end(&mut self, reason: Reason, now_ns: u64) {
        let is_sure = match reason {
            Reason::ClaimSeen | Reason::HigherEpoch | Reason::Continuity => true,
            Reason::Fence => false,
            other => other.is_wanted(),
        };
        self.identity.seen_ns = is_sure.then_some(now_ns);
    }

    /// Ends a round that the host began to write before it stood still: its other writes are not
    /// issued.
    pub(super) fn check_stale_round(&mut self, now_ns: u64) {
        let writes = |round: &crate::proto::round::Round| round.stage == Stage::Writing;
        if self.rounds.current.as_ref().is_some_and(writes) && self.must_look(now_ns) {
            self.end_round_in_failure(now_ns);
        }
    }

    /// The highest decision that is known. A joiner has not taken one yet, but has read one.
    pub(super) fn known(&self) -> Decided {
        match self.phase {
            Phase::Joining => self.identity.heard,
            _ => self.term.decided,
        }
    }

    /// The member counts as not healthy, although its last transfer succeeded.
    pub(super) fn discount(&mut self, member: u8) {
        self.members.healthy &= !member_bit(member);
    }
}

/// Whether two decisions contradict each other: one epoch has one owner [R57].
pub(super) fn contradict(one: &Decided, other: &Decided) -> bool {
    one.epoch == other.epoch && one.value != other.value
}
