// SPDX-License-Identifier: GPL-2.0
//! The canonical form of a state machine, so that a model check recognises a state that it reached
//! before.
//!
//! * Numbers of rounds and of ballot images are compared with the present number alone. All others
//!   are equal: they are earlier.
//! * Moments are compared with each other and with the present. So the present moment may have a
//!   fixed value, and moments that are long past may be equal.
//! * Members are interchangeable: member 2 may become member 0.
//! * A back-off may end at once: a model calls later where a longer back-off matters.
//!
//! The kernel module does not contain this file.

use core::hash::{Hash, Hasher};

use super::phase::{Evidence, Phase};

use super::state::Sides;
use super::Controller;
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::{Decided, Register};
use crate::proto::observer::{member_bit, Observer};
use crate::proto::random::XorShift;
use crate::proto::round::Stage;
use crate::proto::words::status::Reason;

impl Controller {
    /// A state machine that behaves like this one from `now_ns` on, with small counters and the
    /// shortest back-offs. `seq` maps a sequence number of a register of a member to a smaller one,
    /// and keeps their order. While [`Controller::listens`] holds, it must return the number
    /// itself.
    #[must_use]
    pub fn canonical(&self, now_ns: u64, seq: impl Fn(u8, Register, u64) -> u64) -> Self {
        let mut same = self.clone();
        let present = self.rounds.current.as_ref().map(|round| round.number);
        let short = |number: u32| u32::from(present == Some(number));
        for (member, state) in (0_u8..).zip(&mut same.members.each) {
            state.ballot = state
                .ballot
                .with_image(self.rounds.image)
                .with_seq(|number| seq(member, Register::Ballot, number))
                .without_marks(|floor| below(&seq, member, Register::Ballot, floor))
                .with_counts_from(|at_ns| passed(at_ns, now_ns));
            state.heartbeat = state
                .heartbeat
                .with_image(self.rounds.number)
                .with_seq(|number| seq(member, Register::Heartbeat, number))
                .without_marks(|floor| below(&seq, member, Register::Heartbeat, floor))
                .with_counts_from(|at_ns| passed(at_ns, now_ns));
            state.ballot_round = short(state.ballot_round);
            state.heartbeat_round = short(state.heartbeat_round);
            if let Some(tag) = state.read.as_mut() {
                tag.round = tag.round.map(short);
            }
        }
        if let Some(round) = same.rounds.current.as_mut() {
            round.number = 1;
        }
        same.rounds.number = 1;
        same.rounds.image = 1;
        same.succession.random = XorShift::new(0);
        same.forget(now_ns);
        same
    }

    /// The state, as a column of the table in the documentation of [`super`].
    pub fn state(&self) -> char {
        match self.phase {
            Phase::Joining => 'J',
            Phase::Announcing => 'A',
            Phase::Secondary => 'S',
            Phase::Claiming { .. } if self.is_prepared() => 'W',
            Phase::Claiming { proposal: None, .. } => '1',
            Phase::Claiming {
                proposal: Some(_), ..
            } => '2',
            Phase::Owner if self.expiry_ns().is_none() => 'N',
            Phase::Owner => 'O',
            Phase::Offering { .. } => 'H',
            Phase::Draining { .. } => 'D',
            Phase::Failed => 'F',
        }
    }

    /// Whether the controller still listens to its own slot, and has written nothing.
    pub fn listens(&self) -> bool {
        self.phase == Phase::Joining
    }

    /// Whether an own ballot is under way.
    pub fn is_candidate(&self) -> bool {
        matches!(self.phase, Phase::Claiming { .. })
    }

    /// Whether it is a successor that waits for the end of the epoch.
    pub fn is_waiting(&self) -> bool {
        self.is_prepared() && self.rounds.current.is_none()
    }

    /// Whether it waits for a successor to prepare itself.
    pub fn is_offering(&self) -> bool {
        matches!(self.phase, Phase::Offering { .. })
    }

    /// Whether it has given its epoch back, and knows no later epoch.
    pub fn has_released(&self) -> bool {
        matches!(self.term.role, RecordRole::Released { .. })
    }

    /// The highest ballot number for the next epoch that this state machine wrote or read.
    pub fn ballots(&self) -> u64 {
        self.succession
            .promise
            .mbal
            .max(self.succession.highest)
            .round
    }

    /// Whether the write in flight to a register belongs to the present round.
    pub fn is_awaited(&self, member: u8, register: Register) -> bool {
        let Some(state) = self.members.each.get(usize::from(member)) else {
            return false;
        };
        let number = match register {
            Register::Ballot => state.ballot_round,
            Register::Heartbeat => state.heartbeat_round,
        };
        self.rounds
            .current
            .as_ref()
            .is_some_and(|round| round.number == number && round.stage == Stage::Writing)
    }

    /// The same state machine with the two blocks of one of its registers exchanged.
    #[must_use]
    pub fn with_sides_swapped(mut self, member: u8, register: Register) -> Self {
        if let Some(state) = self.members.each.get_mut(usize::from(member)) {
            let own = state.register(register);
            *own = own.with_sides_swapped();
            if let Some(tag) = state.read.as_mut() {
                let quiet = tag.quiet_mut(register);
                core::mem::swap(&mut quiet.a, &mut quiet.b);
            }
        }
        self
    }

    /// The same state machine for a model in which no member goes back and no other host has its
    /// number. So acknowledged writes need not be compared, and no look must precede a write: a
    /// look only delays the write.
    #[must_use]
    pub fn without_acked(mut self, now_ns: u64) -> Self {
        self.identity.seen_ns = Some(now_ns);
        self.identity.looks_first = false;
        for state in &mut self.members.each {
            state.ballot = state.ballot.without_acked();
            state.heartbeat = state.heartbeat.without_acked();
            if let Some(tag) = state.read.as_mut() {
                tag.ballot_quiet = Sides::NONE;
                tag.heartbeat_quiet = Sides::NONE;
            }
        }
        self
    }

    /// The same state machine for a model in which no operator fences it. Its observation of its
    /// own heartbeats has no other use.
    #[must_use]
    pub fn without_fence(mut self) -> Self {
        let is_own = self.phase.is_owner();
        if is_own || self.succession.evidence == Some(Evidence::OwnLapse) {
            self.succession.owner.reset();
        }
        self
    }

    /// The same state machine for a model in which its heartbeat timer does not fire any more. Then
    /// only the age of an owner's heartbeat matters.
    #[must_use]
    pub fn without_ticks(mut self, now_ns: u64) -> Self {
        let beats = self.phase.is_owner();
        if let Some(round) = self.rounds.current.as_mut().filter(|_| !beats) {
            round.stamp_ns = now_ns;
        }
        self
    }

    /// The same state machine `by_ns` later, with all moments moved so that the present has the
    /// same value as before.
    #[must_use]
    pub fn aged(&self, by_ns: u64) -> Self {
        let mut same = self.clone();
        let aged = |at_ns: u64| match at_ns {
            u64::MAX => u64::MAX,
            _ => at_ns.saturating_sub(by_ns),
        };
        same.succession.ballots_from_ns = aged(self.succession.ballots_from_ns);
        same.succession.backoff_until_ns = aged(self.succession.backoff_until_ns);
        same.rounds.last_look_ns = aged(self.rounds.last_look_ns);
        same.identity.seen_ns = self.identity.seen_ns.map(aged);
        same.succession.owner = self.succession.owner.clone().with_since(aged);
        same.identity.own_slot = self.identity.own_slot.clone().with_since(aged);
        same.term.lease = self.term.lease.aged(by_ns);
        same.phase.with_moments(aged, aged);
        if let Some(round) = same.rounds.current.as_mut() {
            round.stamp_ns = aged(round.stamp_ns);
            round.issued_ns = aged(round.issued_ns);
        }
        for state in &mut same.members.each {
            state.ballot = state.ballot.with_counts_from(aged);
            state.heartbeat = state.heartbeat.with_counts_from(aged);
        }
        for known in same.charged.watched.iter_mut().flatten() {
            known.with_moments(aged);
        }
        same.queue.change_moments(|at_ns| *at_ns = aged(*at_ns));
        same
    }

    /// The same state machine, in which member `n` is what member `from[n]` was.
    #[must_use]
    pub fn with_members(&self, from: &[u8]) -> Self {
        let mut same = self.clone();
        let set = |members: u16| {
            let moved = (0_u8..)
                .zip(from)
                .filter(|(_, &from)| members & member_bit(from) != 0);
            moved.fold(0, |set, (member, _)| set | member_bit(member))
        };
        for (state, &from) in same.members.each.iter_mut().zip(from) {
            if let Some(old) = self.members.each.get(usize::from(from)) {
                *state = old.clone();
            }
        }
        same.setup.originals = set(self.setup.originals);
        same.members.present = set(self.members.present);
        same.members.outdated = set(self.members.outdated);
        same.reported.outdated = set(self.reported.outdated);
        same.members.generations = self.members.generations.with_members(from);
        for state in &mut same.members.each {
            state.standing = state.standing.with_sets(set);
            if let Some(tag) = state.read.as_mut() {
                tag.named = set(tag.named);
            }
        }
        same.members.healthy = set(self.members.healthy);
        same.succession.owner = self.succession.owner.with_members(from);
        same.identity.own_slot = self.identity.own_slot.with_members(from);
        same.rounds.current = self
            .rounds
            .current
            .clone()
            .map(|round| round.with_sets(set));
        same
    }

    /// Hashes what this state machine knows about one member and has under way there.
    pub fn hash_member<H: Hasher>(&self, member: u8, state: &mut H) {
        let bit = member_bit(member);
        self.members.each.get(usize::from(member)).hash(state);
        for members in [
            self.setup.originals,
            self.members.present,
            self.members.healthy,
        ] {
            (members & bit).count_ones().hash(state);
        }
        (
            self.members.generations.of(member),
            self.members.generations.is_settled(member),
        )
            .hash(state);
        self.succession.owner.remembers(member).hash(state);
        self.identity.own_slot.remembers(member).hash(state);
        if let Some(round) = self.rounds.current.clone() {
            let only = |members: u16| u16::from(members & bit != 0);
            round.with_sets(only).hash(state);
        }
    }

    fn forget_looks(&mut self, now_ns: u64) {
        let lease_ns = self.setup.timing.lease_ns;
        let is_recent = |at_ns: &u64| now_ns.saturating_sub(*at_ns) < lease_ns;
        // An owner sets this time when its lease ends.
        let matters =
            !self.phase.is_owner() && !self.listens() || self.identity.seen_ns == Some(now_ns);
        self.identity.seen_ns = self.identity.seen_ns.filter(is_recent).filter(|_| matters);
        if !self.listens() {
            self.identity.heard = Decided::NEVER;
        }
    }

    fn forget(&mut self, now_ns: u64) {
        self.succession.ballots_from_ns = passed(self.succession.ballots_from_ns, now_ns);
        self.succession.backoff_until_ns = match passed(self.succession.backoff_until_ns, now_ns) {
            u64::MAX => u64::MAX,
            at_ns => at_ns.min(now_ns.saturating_add(1)),
        };
        self.succession.attempts = 0;
        self.rounds.last_took_ns = 0;
        // No timer of a charged term is longer than the drain time.
        let drain_ns = self.setup.redundancy.drain_ns.unwrap_or(0);
        let drained_ns = now_ns.saturating_sub(drain_ns);
        for known in self.charged.watched.iter_mut().flatten() {
            known.with_moments(|at_ns| at_ns.max(drained_ns));
        }
        // Voices matter for an operator's confirmation alone, which no model contains.
        self.charged.voices = [None; super::voices::MAX_VOICES];
        self.rounds.sight_ns = None;
        // An earlier look is forgotten: one more look changes nothing.
        self.rounds.last_look_ns = passed(self.rounds.last_look_ns, now_ns.saturating_sub(1));
        let lease_ns = self.setup.timing.lease_ns;
        self.forget_looks(now_ns);
        self.term.lease = self.term.lease.settled(now_ns);
        self.reason = Reason::None;
        let silence_ns = self.silence_ns();
        let listen_ns = self.setup.timing.join_listen_ns();
        let stamp_ns = now_ns.saturating_sub(lease_ns.max(self.patience_ns()));
        self.phase.with_moments(
            |end_ns| end_ns.max(now_ns),
            |s0_ns| s0_ns.max(now_ns.saturating_sub(lease_ns)),
        );
        let listens = self.listens();
        let watches = listens || self.phase == Phase::Secondary;
        // Silence depends on the time at which a read is issued, and not on its duration.
        let mut issued_ns = now_ns;
        if let Some(round) = self.rounds.current.as_mut() {
            round.stamp_ns = round.stamp_ns.max(stamp_ns);
            if watches && round.stage == Stage::Reading {
                issued_ns = round.issued_ns;
            }
            round.issued_ns = issued_ns.max(now_ns.saturating_sub(1));
        }
        let settle = |observer: &Observer, window_ns: u64| {
            let ripe_ns = issued_ns.saturating_sub(window_ns);
            let shown_ns = issued_ns.max(now_ns.saturating_sub(1));
            observer
                .clone()
                .with_since(|since_ns| match since_ns <= ripe_ns {
                    true => shown_ns.saturating_sub(window_ns),
                    false => since_ns.max(now_ns.saturating_sub(window_ns)),
                })
        };
        match listens {
            true => {
                self.identity.own_slot = settle(&self.identity.own_slot, listen_ns);
                self.succession.owner.reset();
            }
            false => {
                self.succession.owner = settle(&self.succession.owner, silence_ns);
                self.identity.own_slot.reset();
                if self.phase != Phase::Announcing {
                    self.identity.never_written = None;
                }
            }
        }
    }
}

/// The mapped value of a number that is no sequence number of a write. A sequence number is above
/// the number if and only if its mapped value is above the mapped number.
fn below(seq: impl Fn(u8, Register, u64) -> u64, member: u8, register: Register, at: u64) -> u64 {
    seq(member, register, at.saturating_add(1)).saturating_sub(1)
}

/// A moment, or 0 when it has passed.
fn passed(at_ns: u64, now_ns: u64) -> u64 {
    if at_ns <= now_ns {
        0
    } else {
        at_ns
    }
}

impl Phase {
    fn with_moments(&mut self, end: impl Fn(u64) -> u64, stamp: impl Fn(u64) -> u64) {
        match self {
            Phase::Claiming {
                proposal,
                deadline_ns,
                ..
            } => {
                *deadline_ns = end(*deadline_ns);
                if let Some(proposal) = proposal {
                    proposal.s0_ns = stamp(proposal.s0_ns);
                }
            }
            Phase::Offering {
                until_ns: at_ns, ..
            }
            | Phase::Draining {
                deadline_ns: at_ns, ..
            } => *at_ns = end(*at_ns),
            Phase::Joining
            | Phase::Announcing
            | Phase::Secondary
            | Phase::Owner
            | Phase::Failed => {}
        }
    }
}
