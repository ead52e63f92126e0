// SPDX-License-Identifier: GPL-2.0
//! The fields of the state machine, in groups.
//!
//! Each group says which inputs change it. "Commands" are [`super::Controller::handle_command`],
//! "transfers" are [`super::Controller::handle_write`] and [`super::Controller::handle_read`],
//! "timers" are [`super::Controller::handle_tick`] and [`super::Controller::handle_timeout`]. A
//! clock break ([`super::Controller::handle_clocks`]), a lapse
//! ([`super::Controller::handle_lapse`]) and a fork ([`super::Controller::handle_fork`]) change
//! what their functions say.

use super::generations::Standing;
use super::phase::Evidence;
use super::{charges, voices};
use crate::proto::codec::charge_list::{Charges, MAX_CHARGES};
use crate::proto::codec::generations::Generations;
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Ballot, Decided, Register, Side, MAX_MEMBERS};
use crate::proto::lease::Lease;
use crate::proto::observer::Observer;
use crate::proto::paxos::{Invitation, Promise};
use crate::proto::random::XorShift;
use crate::proto::register::OwnRegister;
use crate::proto::round::Round;
use crate::proto::words::status::{Reason, Role};

/// The present term: the highest decided epoch that is known, and what this controller is in it.
///
/// A read changes it when it shows a later decision, the last transfer of a round when it completes
/// a ballot or a heartbeat. A latch ends the lease: a lapse, a clock break, a command or a fork.
///
/// Invariant: while `gate_open` holds, `lease` has an end and the phase owns the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Term {
    pub(super) decided: Decided,
    /// The role in the epoch, as the heartbeat record says it.
    pub(super) role: RecordRole,
    /// The number of the last own heartbeat of the epoch.
    pub(super) hb: u64,
    pub(super) lease: Lease,
    /// Whether the gate has the lease. It gets the lease when a majority of the members has the
    /// ballot record of this epoch.
    pub(super) gate_open: bool,
}

impl Term {
    pub(super) const NONE: Self = Self {
        decided: Decided::NEVER,
        role: RecordRole::Secondary,
        hb: 0,
        lease: Lease::none(0),
        gate_open: false,
    };
}

/// What this controller knows, and has promised, about the epoch after the present one.
///
/// Reads change what is known. Timers, commands and complete rounds begin and end claims. A new
/// epoch resets all but `ballots_from_ns` and `random`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Succession {
    /// Watches the owner's heartbeats, or the ballots for epoch 1.
    pub(super) owner: Observer,
    /// Why the next epoch may be claimed, if it may.
    pub(super) evidence: Option<Evidence>,
    /// The own ballot and the accepted value, as the ballot record says them.
    pub(super) promise: Promise,
    /// The highest ballot for the next epoch that any record showed.
    pub(super) highest: Ballot,
    /// The controllers to which this one has offered the next epoch. Their answers are no claims.
    pub(super) invitation: Invitation,
    /// This controller begins no ballot before this local time.
    pub(super) ballots_from_ns: u64,
    /// The end of the back-off after a claim that failed.
    pub(super) backoff_until_ns: u64,
    /// How often the back-off has grown.
    pub(super) attempts: u8,
    pub(super) random: XorShift,
}

impl Succession {
    pub(super) const NONE: Self = Self {
        owner: Observer::new(),
        evidence: None,
        promise: Promise::NONE,
        highest: Ballot::NONE,
        invitation: Invitation::NONE,
        ballots_from_ns: u64::MAX,
        backoff_until_ns: 0,
        attempts: 0,
        random: XorShift::new(0),
    };
}

/// How many operations may be open, and what that depends on.
///
/// [`super::Controller::note_open`] counts. A change of charges, of failed members or of the
/// configured batch changes the published limit. A complete heartbeat raises the limit of the gate.
///
/// Invariant: `gate <= published`. A lower limit holds at once, a higher one when a majority has
/// it [R14].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    /// Open permits.
    pub(super) open: u32,
    /// The limit in force, as the ballot record says it.
    pub(super) published: u32,
    /// The limit of the gate while it is not closed.
    pub(super) gate: u32,
    /// While more permits may be open than a lowered limit allows: the higher limit from before,
    /// which the ballot record still says. Otherwise 0.
    pub(super) exposed: u32,
    /// The number of members that are failed or rebuilding, as an owner was told.
    pub(super) failed: u32,
    /// The number that this controller was told while it was not the owner. It counts from the
    /// claim of this controller on.
    pub(super) failed_at_claim: u32,
    /// The epoch in which operations continue although redundancy is exhausted, because an operator
    /// accepted the risk; 0 for none. Only the takeover window protects from strays then.
    pub(super) risked_epoch: u64,
}

impl Limits {
    pub(super) const NONE: Self = Self {
        open: 0,
        published: 0,
        gate: 0,
        exposed: 0,
        failed: 0,
        failed_at_claim: 0,
        risked_epoch: 0,
    };
}

/// The terms of earlier owners whose operations may still land, and what is known of these owners.
///
/// Reads add evidence. A claim extends the list. Commands (`confirm_dead`, `repaired`) mark and
/// drop terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Charged {
    /// The list that the ballot record carries.
    pub(super) list: Charges,
    /// For each charged term, what the local clock knows of it.
    pub(super) watched: [Option<charges::Watched>; MAX_CHARGES],
    /// What is heard of the present owner and of the owners of charged terms.
    pub(super) voices: [Option<voices::Voice>; voices::MAX_VOICES],
    /// The epoch whose owner an operator confirmed to be dead, while nothing contradicts that;
    /// otherwise 0.
    pub(super) confirmed_epoch: u64,
}

impl Charged {
    pub(super) const NONE: Self = Self {
        list: Charges::NONE,
        watched: [None; MAX_CHARGES],
        voices: [None; voices::MAX_VOICES],
        confirmed_epoch: 0,
    };
}

/// The members: their devices, their generations, and the own registers on them.
///
/// [`super::Controller::handle_member`] and [`super::Controller::forget_member`] change devices.
/// [`super::Controller::poll_action`] begins transfers, and transfers end them. Reads teach
/// generations.
///
/// Invariants: `healthy` is a subset of `present`, and no member of `outdated` is in `present`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Members {
    pub(super) each: [Member; MAX_MEMBERS as usize],
    /// Members that have a device which is not outdated.
    pub(super) present: u16,
    /// Members whose last transfer succeeded.
    pub(super) healthy: u16,
    /// The highest generation of each member that is known [R56].
    pub(super) generations: Generations,
    /// Members whose device is of a lower generation than the highest.
    pub(super) outdated: u16,
    /// A device was dropped as outdated, and what was begun with it has not been ended yet.
    pub(super) broken_off: bool,
}

impl Members {
    pub(super) const NONE: Self = Self {
        each: [const { Member::new() }; MAX_MEMBERS as usize],
        present: 0,
        healthy: 0,
        generations: Generations::NONE,
        outdated: 0,
        broken_off: false,
    };
}

/// What is known and under way on one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) ballot: OwnRegister,
    pub(super) heartbeat: OwnRegister,
    /// The rounds to which the writes in flight belong.
    pub(super) ballot_round: u32,
    pub(super) heartbeat_round: u32,
    /// The read in flight.
    pub(super) read: Option<ReadTag>,
    pub(super) standing: Standing,
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

    pub(super) fn register(&mut self, register: Register) -> &mut OwnRegister {
        match register {
            Register::Ballot => &mut self.ballot,
            Register::Heartbeat => &mut self.heartbeat,
        }
    }
}

/// What was known when a read was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ReadTag {
    /// The round it belongs to; `None` for a read that only looks at the own blocks.
    pub(super) round: Option<u32>,
    /// Whether the own registers were unknown.
    pub(super) ballot_unknown: bool,
    pub(super) heartbeat_unknown: bool,
    /// Whether this incarnation had written them.
    pub(super) ballot_written: bool,
    pub(super) heartbeat_written: bool,
    /// Whether no write to the own ballot register was in flight when the read was issued, and none
    /// has begun since.
    pub(super) ballot_at_rest: bool,
    /// The blocks to which nothing was written since: they must show what was acknowledged there.
    pub(super) ballot_quiet: Sides,
    pub(super) heartbeat_quiet: Sides,
    /// Whether a register was void.
    pub(super) is_void: bool,
    /// The members whose generation enough other members had already named.
    pub(super) named: u16,
    /// The read goes to a device that is not the member any more.
    pub(super) outdated: bool,
}

impl ReadTag {
    /// Marks a read that goes to a device which is not the member any more: it belongs to no round,
    /// and its result is no information.
    pub(super) fn outdate(&mut self) {
        *self = Self {
            round: Some(0),
            ballot_unknown: false,
            heartbeat_unknown: false,
            ballot_written: false,
            heartbeat_written: false,
            ballot_at_rest: false,
            ballot_quiet: Sides::NONE,
            heartbeat_quiet: Sides::NONE,
            is_void: false,
            named: 0,
            outdated: true,
        };
    }

    #[cfg(feature = "model")]
    pub(super) fn quiet_mut(&mut self, register: Register) -> &mut Sides {
        match register {
            Register::Ballot => &mut self.ballot_quiet,
            Register::Heartbeat => &mut self.heartbeat_quiet,
        }
    }

    /// Whether this was a look at the own blocks that failed.
    pub(super) fn is_failed_look(&self, ok: bool) -> bool {
        self.round.is_none() && !ok
    }
}

/// A set of the two blocks of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sides {
    pub(super) a: bool,
    pub(super) b: bool,
}

impl Sides {
    pub(super) const NONE: Self = Self { a: false, b: false };

    pub(super) fn those(holds: impl Fn(Side) -> bool) -> Self {
        Self {
            a: holds(Side::A),
            b: holds(Side::B),
        }
    }

    pub(super) fn has(self, side: Side) -> bool {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
    }

    pub(super) fn remove(&mut self, side: Side) {
        match side {
            Side::A => self.a = false,
            Side::B => self.b = false,
        }
    }
}

/// The rounds of writes and reads.
///
/// Timers, commands and complete rounds begin a round. Transfers and
/// [`super::Controller::poll_action`] advance it. A clock break and an outdated device end it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rounds {
    /// The round that is under way.
    pub(super) current: Option<Round>,
    /// The number of the last round.
    pub(super) number: u32,
    /// Counts the changes of what the ballot record says; starts at 1.
    pub(super) image: u32,
    /// A heartbeat begins as soon as the present round has ended.
    pub(super) due: bool,
    /// How long the last complete round took.
    pub(super) last_took_ns: u64,
    /// When the last round began, or issued its reads.
    pub(super) last_look_ns: u64,
    /// When the last complete round issued its reads.
    pub(super) sight_ns: Option<u64>,
    /// The slots, a bit each, about which the last round that read a majority learnt nothing.
    pub(super) unreadable: u64,
}

impl Rounds {
    pub(super) const NONE: Self = Self {
        current: None,
        number: 0,
        image: 1,
        due: false,
        last_took_ns: 0,
        last_look_ns: 0,
        sight_ns: None,
        unreadable: 0,
    };
}

/// Whether this controller is the only one with its number, and what it found when it joined.
///
/// Reads change it. A clock break resets the observer and `seen_ns`, because the number may have
/// been given to another host meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Watches the own slot while joining.
    pub(super) own_slot: Observer,
    /// When the last reads were issued in which a majority showed no other writer in the own slot.
    pub(super) seen_ns: Option<u64>,
    /// A claim waits for such reads.
    pub(super) looks_first: bool,
    /// Whether a write of this incarnation may have been given out.
    pub(super) announced: bool,
    /// The highest decision that a joiner has read.
    pub(super) heard: Decided,
    /// Whether every slot was blank when this controller came; unknown before the first round.
    pub(super) never_written: Option<bool>,
}

impl Identity {
    pub(super) const NONE: Self = Self {
        own_slot: Observer::new(),
        seen_ns: None,
        looks_first: false,
        announced: false,
        heard: Decided::NEVER,
        never_written: None,
    };
}

/// Whether this controller wants the portion, and what forbids that for now.
///
/// The caller's `set_*` functions and commands change it. A term of another controller sets
/// `stale`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Policy {
    /// Claim whenever there is evidence.
    pub(super) claim_auto: bool,
    /// An operator asked for a claim.
    pub(super) claim_requested: bool,
    /// Why the caller forbids a claim.
    pub(super) blocked: Option<Reason>,
    /// Whether an opener of a mapped device may cache what it read.
    pub(super) guarded: bool,
    /// A mapped device may be open since before an epoch of another controller [R31].
    pub(super) stale: bool,
    /// The reasons to leave that forbid a claim, a bit each.
    pub(super) leaving: u8,
}

impl Policy {
    pub(super) const NONE: Self = Self {
        claim_auto: false,
        claim_requested: false,
        blocked: None,
        guarded: true,
        stale: false,
        leaving: 0,
    };
}

/// What the caller was told last. Only [`super::Controller::poll_action`] changes it; a new device
/// of a member clears its bit in `outdated`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reported {
    pub(super) role: (Role, Decided),
    pub(super) budget: Option<super::Budget>,
    pub(super) unreadable: u64,
    pub(super) outdated: u16,
}

impl Reported {
    pub(super) const NONE: Self = Self {
        role: (Role::Joining, Decided::NEVER),
        budget: None,
        unreadable: 0,
        outdated: 0,
    };
}
