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
mod voices;

use action::Queue;
pub use action::{Action, Budget, GateChange, Heartbeat, MailboxIo, Notice, Transition};
pub use command::{Command, Outcome};
use generations::Standing;

use io::Carried;

use super::clocks::{Clocks, Now};
use super::codec::charges::{Charges, MAX_CHARGES};
use super::codec::generations::Generations;
use super::codec::heartbeat::RecordRole;
use super::codec::ids::{Ballot, Decided, Incarnation, Register, Side, Slot, Value, MAX_MEMBERS};
use super::lease::Lease;
use super::limit::Redundancy;
use super::observer::Observer;
use super::paxos::{Invitation, Promise};
use super::random::XorShift;
use super::register::OwnRegister;
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
    const NOBODY: Self = Self {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Listens to the own slot before the first write.
    Joining,
    /// Writes the first record of this incarnation.
    Announcing,
    /// Watches.
    Secondary,
    /// Phase 1 (`value` is `None`) or phase 2 of a ballot.
    Claiming {
        ballot: Ballot,
        proposal: Option<Proposal>,
        deadline_ns: u64,
    },
    /// Owns the epoch; whether there is a lease says [`Lease`].
    Owner,
    /// Owns the epoch, and waits for the successor to prepare its ballot.
    Offering {
        successor: Slot,
        /// The first heartbeat that may have said so: the successor is prepared when it has
        /// answered this one or a later one.
        since: u64,
        /// When it is waited for no longer.
        until_ns: u64,
        /// How long permits may then take to come back.
        drain_ns: u64,
    },
    /// Owns the epoch with the gate closed, until the last permit came back.
    Draining {
        successor: Option<Slot>,
        reason: Reason,
        deadline_ns: u64,
    },
    /// It has withdrawn: see `identity`.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Proposal {
    value: Value,
    /// Clock before the deciding write: heartbeat 0 of the epoch for continuity.
    s0_ns: u64,
}

impl Phase {
    /// Whether the epoch is owned, with a lease or without.
    fn is_owner(&self) -> bool {
        matches!(
            self,
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. }
        )
    }
}

/// Why this controller may claim epoch D + 1. All of it but the offer is stable: once true of D,
/// true for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Evidence {
    /// The owner of D is about to hand over to this controller, and said so in this heartbeat.
    /// That is good for phase 1 and for nothing else.
    Offered { hb: u64 },
    /// D = 0, and the home controller found every slot blank.
    Virgin,
    /// The owner of D has drained and published that it is over.
    Released,
    /// This incarnation owned D and lost it without being told to.
    OwnLapse,
    /// The owner of D showed no heartbeat for the window (or, for D = 0, nobody a claim).
    Silence,
    /// The operator says so.
    Confirmed,
}

/// What is known and under way on one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    ballot: OwnRegister,
    heartbeat: OwnRegister,
    /// Rounds to which the writes in flight belong.
    ballot_round: u32,
    heartbeat_round: u32,
    read: Option<ReadTag>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ReadTag {
    /// The round it belongs to; `None` for a read that only looks at the own blocks.
    round: Option<u32>,
    /// Whether the own registers were unknown when it was issued.
    ballot_unknown: bool,
    heartbeat_unknown: bool,
    /// Whether this incarnation had written them when it was issued.
    ballot_written: bool,
    heartbeat_written: bool,
    /// The blocks that must show what was acknowledged there: nothing was written to them since.
    ballot_quiet: Sides,
    heartbeat_quiet: Sides,
    /// Whether a register had gone back when it was issued.
    is_void: bool,
    /// The members of which enough others had named the generation when it was issued.
    named: u16,
    /// It goes to a device that is not the member any more.
    outdated: bool,
}

/// Some of the two blocks of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sides {
    a: bool,
    b: bool,
}

impl Sides {
    const NONE: Self = Self { a: false, b: false };

    fn those(holds: impl Fn(Side) -> bool) -> Self {
        Self {
            a: holds(Side::A),
            b: holds(Side::B),
        }
    }

    fn has(self, side: Side) -> bool {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
    }

    fn remove(&mut self, side: Side) {
        match side {
            Side::A => self.a = false,
            Side::B => self.b = false,
        }
    }
}

impl ReadTag {
    /// The read goes to a device that is not the member any more: it belongs to no round, and what
    /// it brings is no information.
    fn outdate(&mut self) {
        *self = Self {
            round: Some(0),
            ballot_unknown: false,
            heartbeat_unknown: false,
            ballot_written: false,
            heartbeat_written: false,
            ballot_quiet: Sides::NONE,
            heartbeat_quiet: Sides::NONE,
            is_void: false,
            named: 0,
            outdated: true,
        };
    }

    #[cfg(feature = "model")]
    fn quiet_mut(&mut self, register: Register) -> &mut Sides {
        match register {
            Register::Ballot => &mut self.ballot_quiet,
            Register::Heartbeat => &mut self.heartbeat_quiet,
        }
    }

    /// Whether a read that was to look at the own blocks came to nothing.
    fn is_failed_look(&self, ok: bool) -> bool {
        self.round.is_none() && !ok
    }
}

/// A machine; see the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    setup: Setup,
    phase: Phase,

    // The image: what every own record is built from.
    decided: Decided,
    promise: Promise,
    role: RecordRole,
    hb: u64,
    open: u32,
    limit: u32,
    /// The most that may be open until the gate was seen to hold no more than its limit.
    exposed: u32,
    charges: Charges,
    /// What is known of the charged terms, by the local clock.
    watched: [Option<charges::Watched>; MAX_CHARGES],
    /// What is heard of the present owner and of those that are charged.
    voices: [Option<voices::Voice>; voices::MAX_VOICES],
    /// When the reads were issued of the last round that was complete.
    sight_ns: Option<u64>,
    /// The epoch whose owner an operator confirmed to be dead, as long as nothing contradicts that;
    /// 0 for none.
    confirmed: u64,
    /// The epoch in which an operator lets operations go on under time alone; 0 for none.
    risked: u64,
    /// Members failed or rebuilding, as the owner was told.
    failed: u32,
    /// The same, as this controller was told while another one owned.
    said: u32,
    /// The highest generation of each member that is known [R56].
    generations: Generations,
    /// Members whose device is of a lower generation, and those of which the caller was told.
    outdated: u16,
    told_outdated: u16,
    /// What is under way was begun with a device that is no member.
    broken_off: bool,
    /// Counts the changes of what the ballot register says; starts at 1.
    image: u32,

    clocks: Clocks,
    lease: Lease,
    /// Whether the gate has the lease. It follows the majority that has this epoch's ballot record.
    opened: bool,
    /// The limit the gate has when it is not closed.
    gate_limit: u32,
    /// Watches the owner's heartbeats, or the ballots of epoch 0.
    owner: Observer,
    /// Watches the own slot while joining.
    own_slot: Observer,
    evidence: Option<Evidence>,
    /// Whether every slot was blank when this controller came; unknown before the first round.
    virgin: Option<bool>,
    /// The highest ballot seen of instance D + 1.
    highest: Ballot,
    /// To which controllers this one has offered the next epoch: their answers are no claims.
    invitation: Invitation,

    members: [Member; MAX_MEMBERS as usize],
    /// Members that have a device.
    present: u16,
    /// Members whose last I/O succeeded.
    healthy: u16,
    round: Option<Round>,
    rounds: u32,
    /// A heartbeat is due as soon as the present round has ended.
    due: bool,
    last_round_ns: u64,
    last_look_ns: u64,
    /// When the last reads were issued that showed the own slot on a majority, and nothing wrong.
    own_seen_ns: Option<u64>,
    /// A claim waits for such reads.
    looks_first: bool,
    /// Whether a write of this incarnation may have been given out.
    announced: bool,
    /// The highest decision that a joiner has read.
    heard: Decided,

    /// No ballot before this local time.
    ballots_from_ns: u64,
    backoff_until_ns: u64,
    attempts: u8,
    random: XorShift,

    claim_auto: bool,
    claim_requested: bool,
    blocked: Option<Reason>,
    /// Whether somebody may hold a mapped device open and cache what it read.
    guarded: bool,
    /// A device may be open since before an epoch of another controller [R31].
    stale: bool,
    /// Why it does not claim for now, a bit for each reason.
    leaving: u8,
    reason: Reason,
    pending: Option<Pending>,
    told: (Role, Decided),
    told_budget: Option<Budget>,
    /// Slots of which the last round that read a majority knew nothing, and what was said of them.
    unreadable: u64,
    told_unreadable: u64,
    queue: Queue,
}

/// A command whose answer is still due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    /// The permits have not all come back.
    Drain,
    /// `released` is being written.
    Publish,
}

impl Controller {
    /// A machine of nobody. It is large: whoever has a small stack copies it to where it shall live
    /// and calls [`Controller::set_up`] there.
    pub const NOBODY: Self = Self {
        phase: Phase::Joining,
        decided: Decided::NEVER,
        promise: Promise::NONE,
        role: RecordRole::Secondary,
        hb: 0,
        open: 0,
        limit: 0,
        exposed: 0,
        charges: Charges::NONE,
        watched: [None; MAX_CHARGES],
        voices: [None; voices::MAX_VOICES],
        sight_ns: None,
        confirmed: 0,
        risked: 0,
        failed: 0,
        said: 0,
        generations: Generations::NONE,
        outdated: 0,
        told_outdated: 0,
        broken_off: false,
        image: 1,
        clocks: Clocks::new(),
        lease: Lease::none(0),
        opened: false,
        gate_limit: 0,
        owner: Observer::new(),
        own_slot: Observer::new(),
        evidence: None,
        virgin: None,
        highest: Ballot::NONE,
        invitation: Invitation::NONE,
        members: [const { Member::new() }; MAX_MEMBERS as usize],
        present: 0,
        healthy: 0,
        round: None,
        rounds: 0,
        due: false,
        last_round_ns: 0,
        last_look_ns: 0,
        own_seen_ns: None,
        looks_first: false,
        announced: false,
        heard: Decided::NEVER,
        ballots_from_ns: u64::MAX,
        backoff_until_ns: 0,
        attempts: 0,
        random: XorShift::new(0),
        claim_auto: false,
        claim_requested: false,
        blocked: None,
        guarded: true,
        stale: false,
        leaving: 0,
        reason: Reason::None,
        pending: None,
        told: (Role::Joining, Decided::NEVER),
        told_budget: None,
        unreadable: 0,
        told_unreadable: 0,
        queue: Queue::EMPTY,
        setup: Setup::NOBODY,
    };

    /// A machine that has just come and has no device yet.
    pub fn new(setup: Setup) -> Self {
        let mut machine = Self::NOBODY;
        machine.set_up(setup);
        machine
    }

    /// Makes a machine of nobody that of a controller that has just come and has no device yet.
    pub fn set_up(&mut self, setup: Setup) {
        self.random = XorShift::new(setup.inc.0);
        self.lease = Lease::none(setup.timing.lease_ns);
        self.limit = setup.redundancy.limit(0, 0, setup.batch).to_wire();
        self.gate_limit = self.limit;
        self.claim_auto = setup.claim_auto;
        self.setup = setup;
    }

    /// Another device is `member` from now on: nothing is known of its mailboxes any more, and what
    /// is under way says nothing about it.
    pub fn forget_member(&mut self, member: u8, now_ns: u64) {
        let settled_ns = now_ns.saturating_add(self.setup.timing.device_settle_ns());
        let Some(state) = self.members.get_mut(usize::from(member)) else {
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
        self.open = open;
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
        self.owner.reset();
        self.own_slot.reset();
        // What was read before says nothing of now.
        (self.sight_ns, self.own_seen_ns) = (None, None);
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
        if self.round.as_ref().is_some_and(stuck) {
            self.end_round_in_failure(now_ns);
        }
        self.due = true;
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
        if self.round.is_none() && self.look_ns().is_some_and(|at| at <= now_ns) {
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
        let look = if self.round.is_none() {
            self.look_ns()
        } else {
            None
        };
        [deadline, self.lease.deadline_ns(), look, self.claim_at_ns()]
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
        self.blocked = blocked;
    }

    /// Whether openers of the mapped devices may cache what they read [R31].
    pub fn set_guarded(&mut self, guarded: bool) {
        self.guarded = guarded;
        self.stale &= guarded;
    }

    /// Nobody had a mapped device open at some moment after `epoch` was learnt.
    pub fn openers_gone(&mut self, epoch: u64) {
        if epoch == self.decided.epoch {
            self.stale = false;
        }
    }

    /// The epoch for which a claim waits for [`Controller::openers_gone`], if it does.
    pub fn waits_for_openers(&self) -> Option<u64> {
        self.stale.then_some(self.decided.epoch)
    }

    /// Whether to claim by itself.
    pub fn set_claim_auto(&mut self, auto: bool) {
        self.claim_auto = auto;
    }

    /// The batch limit that was set last.
    pub fn limit(&self) -> u32 {
        self.limit
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
        self.decided
    }

    /// The end of the lease, if the gate has one.
    pub fn expiry_ns(&self) -> Option<u64> {
        self.lease.expiry_ns().filter(|_| self.opened)
    }

    /// Heartbeats of this epoch so far.
    pub fn heartbeats(&self) -> u64 {
        self.hb
    }

    /// How many members answered last time.
    pub fn members_ok(&self) -> u32 {
        (self.healthy & self.present).count_ones()
    }

    /// Why the controller was demoted last, or why it does not claim.
    pub fn reason(&self) -> Reason {
        match (self.phase, self.blocked) {
            (Phase::Secondary, Some(blocked)) => blocked,
            (Phase::Secondary, None) if self.stale => Reason::StaleOpeners,
            (Phase::Joining | Phase::Secondary, _) if self.unreadable != 0 => Reason::Unreadable,
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
        self.decided.value == Some(self.me())
    }

    fn majority(&self) -> u8 {
        majority(self.setup.members)
    }

    fn changed_image(&mut self) {
        self.image = self.image.wrapping_add(1).max(1);
    }

    fn queue_limit(&mut self) {
        let limit = match self.phase {
            Phase::Draining { .. } => 0,
            _ => self.gate_limit,
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
        let (from, decided) = self.told;
        let role = self.role();
        // A joiner only gathers what is known; what it takes from that it says when it has joined.
        let known = match role {
            Role::Joining => Decided::NEVER,
            _ => self.decided,
        };
        let now = (role, known);
        if (from, decided) == now {
            return None;
        }
        self.told = now;
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
            limit: self.limit,
            charged: self.charges.total(),
            is_exhausted: self.is_exhausted(),
        };
        let now = (self.role() == Role::Owner).then_some(budget);
        let before = core::mem::replace(&mut self.told_budget, now);
        let is_whole = budget.charged == 0 && !budget.is_exhausted;
        now.filter(|_| now != before && !(before.is_none() && is_whole))
            .map(Notice::Budget)
    }

    fn poll_unreadable(&mut self) -> Option<Notice> {
        let before = core::mem::replace(&mut self.told_unreadable, self.unreadable);
        (before != self.unreadable).then_some(Notice::Unreadable(self.unreadable))
    }

    /// Learns that an epoch higher than the own knowledge was decided.
    fn learn(&mut self, decided: Decided, carried: &Carried, now_ns: u64) {
        if decided.epoch <= self.decided.epoch {
            return;
        }
        if self.phase.is_owner() {
            self.latch(Reason::HigherEpoch, now_ns);
        }
        if matches!(self.phase, Phase::Claiming { .. }) {
            self.phase = Phase::Secondary;
            self.round = None;
        }
        self.decided = decided;
        let partial = self.charges.with_partial(true);
        self.charges = carried.list.unwrap_or(partial);
        self.failed = carried.failed.unwrap_or(self.failed);
        self.renew_limit();
        self.promise = Promise::NONE;
        self.opened = false;
        self.role = RecordRole::Secondary;
        self.hb = 0;
        self.forget_epoch();
        self.note_term();
        if self.is_mine() {
            // Owner in name only: no stamp was taken before the deciding write [R30].
            self.role = RecordRole::Lapsed;
            self.reason = Reason::NameOnly;
            self.evidence = Some(Evidence::OwnLapse);
        }
    }

    /// A term of another controller begins, or was found: what is open now may be stale when it
    /// ends [R31]. Consecutive terms of one controller are exempt.
    fn note_term(&mut self) {
        let foreign = self
            .decided
            .value
            .is_some_and(|value| value.slot != self.setup.slot);
        self.stale |= foreign && self.guarded;
    }

    /// Timers, evidence and ballots speak of one epoch and die with it.
    fn forget_epoch(&mut self) {
        self.changed_image();
        self.owner.reset();
        self.evidence = None;
        self.highest = Ballot::NONE;
        self.invitation = Invitation::NONE;
        self.attempts = 0;
        self.backoff_until_ns = 0;
    }

    /// Ends the lease of the own epoch for ever. What was lost without being asked for is
    /// evidence that the epoch is over [R9].
    fn latch(&mut self, reason: Reason, now_ns: u64) {
        if self.phase.is_owner() {
            self.note_end(reason, now_ns);
        }
        self.lease.latch();
        // What was counted before the latch is no evidence: not of a drained gate, and not of one
        // that holds no more than a limit that falls before the next count.
        self.open = self.open.max(1);
        if core::mem::take(&mut self.opened) {
            self.exposed = self.exposed.max(self.gate_limit);
        }
        self.queue.gate(GateChange::Latch);
        self.queue.gate(GateChange::SetLimit(self.gate_limit));
        self.phase = Phase::Secondary;
        self.role = RecordRole::Lapsed;
        self.reason = reason;
        self.round = None;
        self.due = true;
        self.evidence = is_own_lapse(reason).then_some(Evidence::OwnLapse);
        if reason == Reason::ClaimSeen {
            self.back_off(now_ns);
        }
        self.answer(Err(Reason::Lapse));
    }

    fn check_lapse(&mut self, now_ns: u64) {
        if self.lease.has_lapsed(now_ns) {
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
            Phase::Joining => (&self.own_slot, self.setup.timing.join_listen_ns()),
            Phase::Secondary if self.evidence.is_none() && self.wants_claim() => {
                (&self.owner, self.silence_ns())
            }
            Phase::Claiming { .. } if self.is_prepared() => return Some(self.next_look_ns()),
            _ => return None,
        };
        observer.ripe_ns(silence_ns, self.majority(), self.last_look_ns)
    }

    /// How long a silence must be. On a portion that nobody owned yet the home controller goes
    /// first: everybody has the listening time between announcement and first ballot, the others
    /// wait for a window more. So does who gave the portion to a successor, which may have come
    /// just before.
    fn silence_ns(&self) -> u64 {
        let timing = &self.setup.timing;
        let own = Some(self.setup.slot);
        match self.role {
            _ if self.decided.epoch == 0 => {
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
        match self.lease.expiry_ns() {
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

impl Member {
    const fn new() -> Self {
        Self {
            ballot: OwnRegister::new(),
            heartbeat: OwnRegister::new(),
            ballot_round: 0,
            heartbeat_round: 0,
            read: None,
            standing: Standing::NONE,
        }
    }

    fn register(&mut self, register: Register) -> &mut OwnRegister {
        match register {
            Register::Ballot => &mut self.ballot,
            Register::Heartbeat => &mut self.heartbeat,
        }
    }
}
