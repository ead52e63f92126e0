// SPDX-License-Identifier: GPL-2.0
//! The machine of one controller for one portion: joins, watches, claims, owns, hands over.
//!
//! ```text
//!            own slot quiet, own          majority has
//!            records known                our record
//!  Joining ------------------> Announcing ------------> Secondary <-----------------+
//!     any foreign change                                 |    ^                     |
//!     restarts the listening            evidence that    |    | preempted, failed,  |
//!                                       the epoch is over|    | owner lives after all
//!                                                        v    |                     |
//!                                                      Claiming (phase 1, phase 2)  |
//!                                                        |                          |
//!                                                decided |                          |
//!                                                        v        release            |
//!                                                      Owner ------> Draining ------+
//!                                                        |  \         ^ | released  |
//!                                                        |   \        | |           |
//!                                               handoff  |    Offering  |           |
//!                                                        +-------+------+-----------+
//!                                                          latch: lapse, higher epoch,
//!                                                          claim seen, fence
//!  any --- another machine with this number, a copy of this one, or two owners of one
//!          epoch ---> Failed
//! ```
//!
//! A hand-over is prepared while the owner still writes: it names the successor in its heartbeats
//! (Offering), the successor goes through phase 1 and waits there, and only then the owner closes
//! the gate, drains, and publishes that the epoch is over (`handover`).
//!
//! The files follow the flow: `io` says what is written and read
//! when, `identity` whether what is read can be, `judge` what a complete round leads to, `command`
//! what an operator may ask for. The
//! tables they implement were model-checked (see the README beside this folder).
//!
//! Legal call order: any `handle_*` at any time with a clock value that does not decrease, read
//! *after* the event it reports; after each, [`Controller::poll_action`] until it returns `None`,
//! performing each action in order. The clock value is that of a reading which
//! [`Controller::handle_clocks`] has got just before. Before a stamp matters the clock value is the
//! caller's last reading *before* it issues anything: [`Controller::handle_tick`] stamps the
//! heartbeat with it. [`Controller::poll_timeout_ns`] says when [`Controller::handle_timeout`]
//! wants to be called.
//!
//! Locking: none; the caller serialises the calls for one machine.

mod action;
#[cfg(feature = "model")]
mod canonical;
mod charges;
mod command;
mod generations;
mod handover;
mod identity;
mod io;
mod judge;
mod state;
mod voices;

use action::Queue;
pub use action::{Action, Budget, GateChange, Heartbeat, MailboxIo, Notice, Transition};
pub use command::{Command, Outcome};
use io::Carried;
use state::{
    Charged, Evidence, Identity, Limits, Member, Members, Pending, Phase, Policy, Proposal,
    ReadTag, Reported, Rounds, Sides, Succession, Term,
};

use super::clocks::{Clocks, Now};
use super::codec::heartbeat::RecordRole;
use super::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use super::lease::Lease;
use super::limit::Redundancy;
use super::paxos::{Invitation, Promise};
use super::random::XorShift;
use super::round::{Kind, Round};
use super::time::{majority, Timing};
use super::words::status::{Reason, Role};

/// What is given when a controller joins a portion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The controller's slot.
    pub slot: Slot,
    /// Drawn at random for this session.
    pub inc: Incarnation,
    /// The boot of this machine, for the operator.
    pub boot_id: [u8; 16],
    /// Number of members of the portion.
    pub members: u8,
    /// Members of the original format: a blank slot on them is information [R39].
    pub originals: u16,
    /// The formatted slots, a bit each.
    pub slots: u64,
    /// The controller that may claim a never owned portion at once.
    pub home: Slot,
    /// The timings, the same for every controller [R25].
    pub timing: Timing,
    /// The own heartbeat period.
    pub period_ns: u64,
    /// What repairs strays: the batch limit follows from it [R14].
    pub redundancy: Redundancy,
    /// A lower limit that was asked for.
    pub batch: Option<u32>,
    /// Whether to claim whenever there is evidence, or only when told to.
    pub claim_auto: bool,
}

/// What a device says that it is as a member of the portion, in its superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberDevice {
    /// How often this place among the members was formatted [R56].
    pub generation: u32,
    /// Whether it is of the original format; a blank slot on a replacement says nothing.
    pub original: bool,
}

impl MemberDevice {
    /// A member of the original format.
    pub const ORIGINAL: Self = Self {
        generation: 1,
        original: true,
    };

    /// A member that was formatted in place of a lost one.
    pub const fn replacement(generation: u32) -> Self {
        Self {
            generation,
            original: false,
        }
    }
}

impl Setup {
    const UNCONFIGURED: Self = Self {
        slot: Slot::FIRST,
        inc: Incarnation(0),
        boot_id: [0; 16],
        members: 0,
        originals: 0,
        slots: 0,
        home: Slot::FIRST,
        timing: Timing::NONE,
        period_ns: 0,
        redundancy: Redundancy::EXTERNAL,
        batch: None,
        claim_auto: false,
    };
}

/// The state machine of one controller for one portion. The file `state` describes the groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    /// The configuration; `set_period`, `set_batch`, `handle_member` and `handle_fork` change it.
    setup: Setup,
    phase: Phase,
    /// Why the controller was demoted last.
    reason: Reason,
    /// The last reading of the clocks; `handle_clocks` changes it.
    clocks: Clocks,
    term: Term,
    succession: Succession,
    limits: Limits,
    charged: Charged,
    members: Members,
    rounds: Rounds,
    identity: Identity,
    policy: Policy,
    /// The command whose answer is due. A command sets it; what it waits for clears it.
    pending: Option<Pending>,
    reported: Reported,
    /// Actions that the caller has not taken yet.
    queue: Queue,
}

impl Controller {
    /// An unconfigured state machine. It is large: a caller with a small stack copies it to its place
    /// in memory and calls [`Controller::set_up`] there.
    pub const UNCONFIGURED: Self = Self {
        setup: Setup::UNCONFIGURED,
        phase: Phase::Joining,
        reason: Reason::None,
        clocks: Clocks::new(),
        term: Term::NONE,
        succession: Succession::NONE,
        limits: Limits::NONE,
        charged: Charged::NONE,
        members: Members::NONE,
        rounds: Rounds::NONE,
        identity: Identity::NONE,
        policy: Policy::NONE,
        pending: None,
        reported: Reported::NONE,
        queue: Queue::EMPTY,
    };

    /// The state machine of a controller that joins and has no device yet.
    pub fn new(setup: Setup) -> Self {
        let mut controller = Self::UNCONFIGURED;
        controller.set_up(setup);
        controller
    }

    /// Configures an unconfigured state machine. It has no device yet.
    pub fn set_up(&mut self, setup: Setup) {
        self.succession.random = XorShift::new(setup.inc.0);
        self.term.lease = Lease::none(setup.timing.lease_ns);
        self.limits.published = setup.redundancy.limit(0, 0, setup.batch).to_wire();
        self.limits.gate = self.limits.published;
        self.policy.claim_auto = setup.claim_auto;
        self.setup = setup;
    }

    /// Another device is `member` from now on: nothing is known of its mailboxes any more, and what
    /// is under way says nothing about it.
    pub fn forget_member(&mut self, member: u8, now_ns: u64) {
        let settled_ns = now_ns.saturating_add(self.setup.timing.device_settle_ns());
        let Some(state) = self.members.each.get_mut(usize::from(member)) else {
            return;
        };
        state.ballot.forget(settled_ns);
        state.heartbeat.forget(settled_ns);
        if let Some(tag) = state.read.as_mut() {
            tag.outdate();
        }
    }

    /// So many permits are open now; the next record says so. Every action so far was performed:
    /// what is counted here was counted behind the latch, if there was one.
    pub fn note_open(&mut self, open: u32) {
        self.limits.open = open;
        self.note_exposure();
        self.note_own_drain();
    }

    /// What the clocks say now. The caller reads them before each of the other calls, and gives
    /// those the `raw_ns` of this reading.
    ///
    /// After a break the time since the reading before is not known: a lease that was granted
    /// before is over, and a claim is abandoned with the stamp that its lease would begin with.
    /// Timers of silence start anew; what else waits goes on waiting, because the lease clock
    /// counts too little of a sleep and never too much.
    pub fn handle_clocks(&mut self, now: Now) {
        if !self.clocks.take(now) {
            return;
        }
        self.succession.owner.reset();
        self.identity.own_slot.reset();
        // What was read before says nothing of now.
        (self.rounds.sight_ns, self.identity.seen_ns) = (None, None);
        match self.phase {
            phase if phase.is_owner() => {
                self.latch(Reason::Clock, now.raw_ns);
                self.begin_due_round(now.raw_ns);
            }
            Phase::Claiming { .. } => self.abandon_claim(now.raw_ns),
            // Its reads may be from before.
            _ => self.end_round_in_failure(now.raw_ns),
        }
    }

    /// The heartbeat timer fired. The clock value is the stamp of the heartbeat that this
    /// begins [R2].
    pub fn handle_tick(&mut self, now_ns: u64) {
        self.check_time(now_ns);
        let (majority, patience_ns) = (self.majority(), self.patience_ns());
        let stuck = |round: &Round| round.is_stuck(majority, patience_ns, now_ns);
        if self.rounds.current.as_ref().is_some_and(stuck) {
            self.end_round_in_failure(now_ns);
        }
        self.rounds.due = true;
        self.begin_due_round(now_ns);
    }

    /// The gate, or the clock, has seen the lease end.
    pub fn handle_lapse(&mut self, now_ns: u64) {
        if self.phase.is_owner() {
            self.latch(self.lapse_reason(Reason::Lapse), now_ns);
            self.begin_due_round(now_ns);
        }
    }

    /// The gate is closed and every permit has come back.
    pub fn handle_drained(&mut self, now_ns: u64) {
        if let Phase::Draining {
            successor, reason, ..
        } = self.phase
        {
            self.finish_release(successor, reason, now_ns);
        }
    }

    /// A time that [`Controller::poll_timeout_ns`] named has come.
    pub fn handle_timeout(&mut self, now_ns: u64) {
        self.check_time(now_ns);
        if self.rounds.current.is_none() && self.look_ns().is_some_and(|at| at <= now_ns) {
            self.begin_round(Kind::Look, now_ns);
        }
        self.try_claim(now_ns);
        self.begin_due_round(now_ns);
    }

    /// The next local time at which something must be done without an event.
    pub fn poll_timeout_ns(&self) -> Option<u64> {
        let deadline = match self.phase {
            Phase::Claiming { deadline_ns, .. } | Phase::Draining { deadline_ns, .. } => {
                Some(deadline_ns)
            }
            Phase::Offering { until_ns, .. } => Some(until_ns),
            _ => None,
        };
        let look = if self.rounds.current.is_none() {
            self.look_ns()
        } else {
            None
        };
        [
            deadline,
            self.term.lease.deadline_ns(),
            look,
            self.claim_at_ns(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do; see the order of calls at the top.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.queue.has_overflowed() {
            self.withdraw();
        }
        self.queue
            .pop()
            .or_else(|| self.poll_notice().map(Action::Report))
            .or_else(|| self.poll_io().map(Action::Io))
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.poll_outdated()
            .or_else(|| self.poll_transition())
            .or_else(|| self.poll_budget())
            .or_else(|| self.poll_unreadable())
    }

    /// Changes the heartbeat period; `false` when it does not fit the timings [R10].
    pub fn set_period(&mut self, period_ns: u64) -> bool {
        let fits = self.setup.timing.period_fits(period_ns);
        if fits {
            self.setup.period_ns = period_ns;
        }
        fits
    }

    /// Says why this controller must not claim for now, or that it may [R31].
    pub fn set_blocked(&mut self, blocked: Option<Reason>) {
        self.policy.blocked = blocked;
    }

    /// Whether openers of the mapped devices may cache what they read [R31].
    pub fn set_guarded(&mut self, guarded: bool) {
        self.policy.guarded = guarded;
        self.policy.stale &= guarded;
    }

    /// Nobody had a mapped device open at some moment after `epoch` was learnt.
    pub fn openers_gone(&mut self, epoch: u64) {
        if epoch == self.term.decided.epoch {
            self.policy.stale = false;
        }
    }

    /// The epoch for which a claim waits for [`Controller::openers_gone`], if it does.
    pub fn waits_for_openers(&self) -> Option<u64> {
        self.policy.stale.then_some(self.term.decided.epoch)
    }

    /// Whether to claim by itself.
    pub fn set_claim_auto(&mut self, auto: bool) {
        self.policy.claim_auto = auto;
    }

    /// The batch limit that was set last.
    pub fn limit(&self) -> u32 {
        self.limits.published
    }

    /// The role as users see it: an owner is who may write.
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

    /// The highest decided epoch known, and its owner.
    pub fn decided(&self) -> Decided {
        self.term.decided
    }

    /// The end of the lease, if the gate has one.
    pub fn expiry_ns(&self) -> Option<u64> {
        self.term.lease.expiry_ns().filter(|_| self.term.gate_open)
    }

    /// Heartbeats of this epoch so far.
    pub fn heartbeats(&self) -> u64 {
        self.term.hb
    }

    /// How many members answered last time.
    pub fn members_ok(&self) -> u32 {
        (self.members.healthy & self.members.present).count_ones()
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

    /// What was given at the start.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    fn me(&self) -> Value {
        Value {
            slot: self.setup.slot,
            inc: self.setup.inc,
        }
    }

    /// How long an ordinary round may take, with a write that is reported as lost.
    fn patience_ns(&self) -> u64 {
        let timing = &self.setup.timing;
        let lost_ns = self.setup.period_ns.max(timing.error_report_ns);
        lost_ns
            .saturating_add(timing.write_ns)
            .saturating_add(timing.read_ns)
    }

    fn is_mine(&self) -> bool {
        self.term.decided.value == Some(self.me())
    }

    fn majority(&self) -> u8 {
        majority(self.setup.members)
    }

    fn changed_image(&mut self) {
        self.rounds.image = self.rounds.image.wrapping_add(1).max(1);
    }

    fn queue_limit(&mut self) {
        let limit = match self.phase {
            Phase::Draining { .. } => 0,
            _ => self.limits.gate,
        };
        self.queue.gate(GateChange::SetLimit(limit));
    }

    /// An action found no room, which is a fault of this code: what the gate and the user know is
    /// no longer what the machine knows. It latches, says so, and withdraws for good.
    fn withdraw(&mut self) {
        self.queue = Queue::EMPTY;
        // The moment is that of a back-off, which does not follow from this reason.
        self.fail(Reason::Overflow, 0);
        // It may have withdrawn before, with a latch among what found no room.
        self.queue.gate(GateChange::Latch);
    }

    fn poll_transition(&mut self) -> Option<Notice> {
        let (from, decided) = self.reported.role;
        let role = self.role();
        // A joiner only gathers what is known; what it takes from that it says when it has joined.
        let known = match role {
            Role::Joining => Decided::NEVER,
            _ => self.term.decided,
        };
        let now = (role, known);
        if (from, decided) == now {
            return None;
        }
        self.reported.role = now;
        Some(Notice::Transition(Transition {
            from,
            to: now.0,
            epoch: now.1.epoch,
            owner: now.1.value.map(|value| value.slot),
            reason: self.reason,
        }))
    }

    /// An owner says what it may have open when that changed, at first only if it is not all.
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
        let before = core::mem::replace(&mut self.reported.unreadable, self.rounds.unreadable);
        (before != self.rounds.unreadable).then_some(Notice::Unreadable(self.rounds.unreadable))
    }

    /// Learns that an epoch higher than the own knowledge was decided.
    fn learn(&mut self, decided: Decided, carried: &Carried, now_ns: u64) {
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
            // Owner in name only: no stamp was taken before the deciding write [R30].
            self.term.role = RecordRole::Lapsed;
            self.reason = Reason::NameOnly;
            self.succession.evidence = Some(Evidence::OwnLapse);
        }
    }

    /// A term of another controller begins, or was found: what is open now may be stale when it
    /// ends [R31]. Consecutive terms of one controller are exempt.
    fn note_term(&mut self) {
        let foreign = self
            .term
            .decided
            .value
            .is_some_and(|value| value.slot != self.setup.slot);
        self.policy.stale |= foreign && self.policy.guarded;
    }

    /// Timers, evidence and ballots speak of one epoch and die with it.
    fn forget_epoch(&mut self) {
        self.changed_image();
        self.succession.owner.reset();
        self.succession.evidence = None;
        self.succession.highest = Ballot::NONE;
        self.succession.invitation = Invitation::NONE;
        self.succession.attempts = 0;
        self.succession.backoff_until_ns = 0;
    }

    /// Ends the lease of the own epoch for ever. What was lost without being asked for is
    /// evidence that the epoch is over [R9].
    fn latch(&mut self, reason: Reason, now_ns: u64) {
        if self.phase.is_owner() {
            self.note_end(reason, now_ns);
        }
        self.term.lease.latch();
        // What was counted before the latch is no evidence: not of a drained gate, and not of one
        // that holds no more than a limit that falls before the next count.
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

    fn check_lapse(&mut self, now_ns: u64) {
        if self.term.lease.has_lapsed(now_ns) {
            self.handle_lapse(now_ns);
        }
    }

    /// What has ended by itself, before anything else is looked at.
    fn check_time(&mut self, now_ns: u64) {
        self.break_off(now_ns);
        self.check_lapse(now_ns);
        self.check_deadlines(now_ns);
        self.check_stale_round(now_ns);
    }

    fn check_deadlines(&mut self, now_ns: u64) {
        match self.phase {
            Phase::Claiming { deadline_ns, .. } if now_ns >= deadline_ns => {
                self.abandon_claim(now_ns);
            }
            Phase::Offering { until_ns, .. } if now_ns >= until_ns => {
                self.keep(Reason::Unprepared);
            }
            Phase::Draining { deadline_ns, .. } if now_ns >= deadline_ns => {
                self.keep(Reason::ReleaseTimeout)
            }
            _ => {}
        }
    }

    /// When to look by itself, between two heartbeats, because a silence may be proved then. What
    /// the last look could have proved and did not is left to the next heartbeat.
    fn look_ns(&self) -> Option<u64> {
        let (observer, silence_ns) = match self.phase {
            Phase::Joining => (&self.identity.own_slot, self.setup.timing.join_listen_ns()),
            Phase::Secondary if self.succession.evidence.is_none() && self.wants_claim() => {
                (&self.succession.owner, self.silence_ns())
            }
            Phase::Claiming { .. } if self.is_prepared() => return Some(self.next_look_ns()),
            _ => return None,
        };
        observer.ripe_ns(silence_ns, self.majority(), self.rounds.last_look_ns)
    }

    /// How long a silence must be. On a portion that nobody owned yet the home controller goes
    /// first: everybody has the listening time between announcement and first ballot, the others
    /// wait for a window more. So does who gave the portion to a successor, which may have come
    /// just before.
    fn silence_ns(&self) -> u64 {
        let timing = &self.setup.timing;
        let own = Some(self.setup.slot);
        match self.term.role {
            _ if self.term.decided.epoch == 0 => {
                timing.window_ns.saturating_add(timing.join_listen_ns())
            }
            RecordRole::Released { successor } if successor.is_some() && successor != own => {
                timing.window_ns.saturating_add(timing.join_listen_ns())
            }
            _ => timing.window_ns,
        }
    }

    /// A lease that lapses before it began was claimed too late.
    fn lapse_reason(&self, otherwise: Reason) -> Reason {
        match self.term.lease.expiry_ns() {
            Some(_) => otherwise,
            None => Reason::LateClaim,
        }
    }

    fn answer(&mut self, answer: Result<(), Reason>) {
        if self.pending.take().is_some() {
            self.queue.answer(answer);
        }
    }
}

/// Whether the owner lost its lease without being told to: only that is evidence for itself.
fn is_own_lapse(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Lapse | Reason::Continuity | Reason::LateClaim | Reason::ClaimSeen | Reason::Clock
    )
}
