// SPDX-License-Identifier: GPL-2.0
//! Which blocks the state machine writes and reads, and what comes back.
//!
//! A record is built from the present state, at the moment at which its write is returned to the
//! caller. Nothing here decides about roles: a complete round goes to [`super::judge`].

use super::identity::contradict;
use super::phase::{Evidence, Phase};
use super::state::{Member, ReadTag, Sides};
use super::{Controller, MailboxIo};
use crate::proto::codec::ballot::BallotRecord;
use crate::proto::codec::charge_list::Charges;
use crate::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use crate::proto::codec::ids::{Decided, Register, Slot, Value};
use crate::proto::codec::mailbox::{Found, Mailboxes};
use crate::proto::codec::record::Reading;
use crate::proto::observer::member_bit;
use crate::proto::register::Write;
use crate::proto::round::{is_majority, Progress, Round, RoundKind, Stage};
use crate::proto::words::status::Reason;

impl Controller {
    /// A write to an own register has ended.
    pub fn handle_write(&mut self, member: u8, register: Register, ok: bool, now_ns: u64) {
        self.check_time(now_ns);
        let settled_ns = now_ns.saturating_add(self.setup.timing.device_settle_ns());
        let (image, is_counted) = (self.rounds.image, self.counts(member));
        let Some(state) = self.member_mut(member) else {
            return;
        };
        let own = state.register(register);
        match ok {
            true => own.succeeded(),
            false => own.failed(now_ns, settled_ns),
        }
        let more = ok && own.copies(image) < 2;
        let counts = ok && own.counts(image, now_ns);
        // A member that went back counts again after its registers were written anew.
        let beats = ok && !state.ballot.is_void() && !state.heartbeat.is_void();
        let is_first = !ok && state.ballot.is_void();
        let number = match register {
            Register::Ballot => state.ballot_round,
            Register::Heartbeat => state.heartbeat_round,
        };
        // One register may be written while a write of the other one hangs.
        let owes = self.owes_a_write(member);
        self.note_health(member, ok && !owes);
        let Some(round) = self.rounds.current.as_mut() else {
            return;
        };
        let belongs = round.number == number && round.stage == Stage::Writing;
        match (round.kind, register) {
            // A replacement that is not settled is written, and does not count [R56].
            (RoundKind::Heartbeat, Register::Heartbeat) if belongs && !is_counted => {
                round.set_aside(member);
            }
            (RoundKind::Heartbeat, Register::Heartbeat) if belongs => round.wrote(member, beats),
            // The ballot register must be written first, and that write failed.
            (RoundKind::Heartbeat, Register::Ballot) if belongs && is_first => {
                round.given |= member_bit(member);
                round.wrote(member, false);
            }
            (RoundKind::Ballot, Register::Ballot) if belongs && more => {
                round.given &= !member_bit(member);
            }
            (RoundKind::Ballot, Register::Ballot) if belongs && !is_counted => {
                round.set_aside(member)
            }
            (RoundKind::Ballot, Register::Ballot) if belongs => round.wrote(member, counts),
            _ => return,
        }
        self.advance(now_ns);
    }

    /// A read of a member's mailboxes has ended; `None` if it failed.
    pub fn handle_read<M: Mailboxes>(&mut self, member: u8, boxes: Option<&M>, now_ns: u64) {
        self.check_time(now_ns);
        let owes = self.owes_a_write(member);
        self.note_health(member, boxes.is_some() && !owes);
        let Some(tag) = self.member_mut(member).and_then(|state| state.read.take()) else {
            return;
        };
        if self.phase == Phase::Failed {
            return;
        }
        let ok = boxes.is_some();
        let boxes = boxes.filter(|boxes| self.take_in(member, tag, *boxes, now_ns));
        let (majority, is_counted) = (self.majority(), self.counts(member));
        let reading = |round: &&mut Round| round.stage == Stage::Reading;
        match self.rounds.current.as_mut() {
            Some(round) if tag.round == Some(round.number) && reading(&round) => {
                round.looked |= if ok && is_counted {
                    member_bit(member)
                } else {
                    0
                };
                if is_majority(round.looked, majority) {
                    self.identity.seen_ns = Some(round.issued_ns);
                    self.identity.looks_first = false;
                }
                match is_counted {
                    true => round.read(member, boxes.is_some()),
                    false => round.set_aside(member),
                }
                if let Some(boxes) = boxes {
                    self.fold(member, boxes);
                }
            }
            // A look at the own blocks failed: the member cannot be written in this round, and is
            // not read again before the next one.
            Some(round) if tag.is_failed_look(ok) && round.stage == Stage::Writing => {
                round.given |= member_bit(member);
                round.wrote(member, false);
            }
            _ => {}
        }
        self.advance(now_ns);
    }

    /// Takes from a read what counts without a complete round. Returns whether the read is
    /// information about the member.
    fn take_in<M: Mailboxes>(&mut self, member: u8, tag: ReadTag, boxes: &M, now_ns: u64) -> bool {
        if tag.outdated {
            return false;
        }
        let shown = self.take_generations(boxes);
        self.break_off(now_ns);
        if !self.is_present(member) {
            return false;
        }
        self.learn_own_registers(member, tag, boxes);
        let counts = self.check_own_slot(member, tag, boxes, now_ns);
        if self.phase == Phase::Failed {
            return false;
        }
        // A decision is final, so it counts on any member.
        self.absorb(boxes, now_ns);
        if !counts || self.phase == Phase::Failed {
            self.discount(member);
            return false;
        }
        if self.phase != Phase::Joining {
            self.listen(member, boxes, now_ns);
            self.watch_charges(boxes, now_ns);
            self.settle(member, tag.named, &shown, boxes);
        }
        // Silence on a replacement is measured from the moment at which the replacement counts
        // [R56].
        if self.counts(member) {
            self.watch(member, boxes, now_ns);
        }
        true
    }

    pub(super) fn begin_due_round(&mut self, now_ns: u64) {
        if !self.rounds.due || self.rounds.current.is_some() {
            return;
        }
        if self.must_look(now_ns) {
            return self.look_first(now_ns);
        }
        self.rounds.due = false;
        match self.phase {
            Phase::Joining => self.begin_round(RoundKind::Look, now_ns),
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. } => {
                self.term.hb = self.term.hb.saturating_add(1);
                self.begin_round(RoundKind::Heartbeat, now_ns);
            }
            Phase::Announcing | Phase::Secondary => self.begin_round(RoundKind::Heartbeat, now_ns),
            // A heartbeat between two reads of a phase 1 that waits for the end of the epoch.
            Phase::Claiming { .. } if self.is_prepared() => {
                self.begin_round(RoundKind::Heartbeat, now_ns);
            }
            Phase::Claiming { .. } => self.begin_round(RoundKind::Look, now_ns),
            Phase::Failed => {}
        }
    }

    pub(super) fn begin_round(&mut self, kind: RoundKind, now_ns: u64) {
        // If replacements that are not settled leave no majority, only reads can settle them.
        let is_short = !is_majority(self.counted(), self.majority());
        // A ballot that cannot be written fails. It must not become a look, which would be
        // complete.
        let kind = match kind {
            RoundKind::Heartbeat if is_short => RoundKind::Look,
            kind => kind,
        };
        self.rounds.number = self.rounds.number.wrapping_add(1);
        self.rounds.last_look_ns = now_ns;
        let mut round = Round::new(self.rounds.number, kind, self.known(), now_ns);
        round.certain = self.certain_slots();
        self.rounds.current = Some(round);
        self.note_hanging();
        // Without enough members the round fails at once, and the next tick tries again.
        self.advance(now_ns);
    }

    /// Ends the round and the claim that began with a device which turned out to be no member
    /// [R56].
    pub(super) fn break_off(&mut self, now_ns: u64) {
        if core::mem::take(&mut self.members.broken_off) {
            self.end_round_in_failure(now_ns);
        }
    }

    /// The round has failed. If the timer fired meanwhile, the next heartbeat is late already and
    /// begins at once: a lost heartbeat costs the time that it took, not whole periods [R11].
    pub(super) fn end_round_in_failure(&mut self, now_ns: u64) {
        if let Some(round) = self.rounds.current.take() {
            self.note_unreadable(&round);
            // If a look must come before the next write, and fails, the next tick repeats it.
            self.rounds.due &= round.kind != RoundKind::Look || !self.must_look(now_ns);
        }
        self.round_failed(now_ns);
        self.begin_due_round(now_ns);
    }

    /// The slots about which a round must have information. An owner needs its own slot, which
    /// shows whether it is alone with its number. A controller that watches needs the owner's slot,
    /// too. Joining and ballots need every slot.
    fn certain_slots(&self) -> u64 {
        let owner = self.term.decided.value.map_or(0, |value| value.slot.bit());
        match self.phase {
            Phase::Announcing | Phase::Secondary => self.setup.slot.bit() | owner,
            phase if phase.is_owner() => self.setup.slot.bit(),
            _ => u64::MAX,
        }
    }

    /// Notes the slots about which a round that read a majority has no information.
    fn note_unreadable(&mut self, round: &Round) {
        let majority = self.majority();
        if round.has_read(majority) {
            self.rounds.unreadable = round.unknown(self.setup.slots, majority);
        }
    }

    /// Advances the round, and acts on the result.
    fn advance(&mut self, now_ns: u64) {
        let (slots, majority, held) = (self.setup.slots, self.majority(), self.held_reads());
        let Some(round) = self.rounds.current.as_mut() else {
            return self.begin_due_round(now_ns);
        };
        match round.advance(now_ns, slots, self.members.present, held, majority) {
            Progress::Waiting => {}
            Progress::Failed => self.end_round_in_failure(now_ns),
            Progress::Complete => {
                if let Some(round) = self.rounds.current.take() {
                    self.rounds.last_took_ns = now_ns.saturating_sub(round.stamp_ns);
                    self.rounds.last_look_ns = round.issued_ns;
                    self.rounds.sight_ns = Some(round.issued_ns);
                    self.note_unreadable(&round);
                    self.judge(&round, now_ns);
                    self.try_claim(now_ns);
                    self.begin_due_round(now_ns);
                }
            }
        }
    }

    /// The members whose read of the present round waits for a ballot write, a bit each.
    fn held_reads(&self) -> u16 {
        let Some(Round { kind, number, .. }) = self.rounds.current.as_ref() else {
            return 0;
        };
        let present = self.members.present;
        let waits = |&member: &u8| {
            present & member_bit(member) != 0 && self.waits_for_ballot(member, *kind, *number)
        };
        let held = (0..self.setup.members).filter(waits);
        held.fold(0, |set, member| set | member_bit(member))
    }

    /// The next transfer of the present round.
    pub(super) fn poll_io(&mut self) -> Option<MailboxIo> {
        let round = self.rounds.current.as_ref()?;
        let (kind, stage, number, given) = (round.kind, round.stage, round.number, round.given);
        let present = self.members.present;
        (0..self.setup.members)
            .filter(|&member| present & member_bit(member) != 0)
            .find_map(|member| match stage {
                Stage::Reading if given & member_bit(member) != 0 => None,
                Stage::Reading if self.waits_for_ballot(member, kind, number) => None,
                Stage::Reading => self.give_read(member, Some(number)),
                Stage::Writing => self.give_write(member, kind, number, given),
            })
    }

    /// Whether the read of this round waits for a ballot write of the same round. A read that is
    /// issued earlier does not show that write, and the next ballot write would need one more
    /// read.
    ///
    /// A heartbeat of an owner waits only until the gate has its first lease, which needs the
    /// ballot record on a majority anyway, and only until the next heartbeat is due. Heartbeats
    /// of other controllers do not wait.
    fn waits_for_ballot(&self, member: u8, kind: RoundKind, number: u32) -> bool {
        let is_wanted = match kind {
            RoundKind::Ballot => true,
            RoundKind::Heartbeat => {
                self.phase.is_owner() && !self.term.gate_open && !self.rounds.due
            }
            RoundKind::Look => false,
        };
        let state = self.members.each.get(usize::from(member));
        let is_writing = |it: &Member| it.ballot.is_writing() && it.ballot_round == number;
        is_wanted && state.is_some_and(is_writing)
    }

    fn give_write(
        &mut self,
        member: u8,
        kind: RoundKind,
        number: u32,
        given: u16,
    ) -> Option<MailboxIo> {
        let wanted = given & member_bit(member) == 0;
        let image = self.rounds.image;
        let state = self.member_mut(member)?;
        let is_void = state.ballot.is_void();
        let needs_look = state.ballot.is_unknown()
            || state.heartbeat.is_unknown()
            || (kind == RoundKind::Ballot || is_void) && state.ballot.is_unread();
        let stale_ballot = state.ballot.copies(image) < 2;
        if wanted && needs_look && state.read.is_none() {
            return self.give_read(member, None);
        }
        match kind {
            RoundKind::Heartbeat => {
                // An outdated ballot record is written as well; only the heartbeat counts for the
                // round.
                let ballot = if stale_ballot {
                    self.give_ballot(member, number)
                } else {
                    None
                };
                // A ballot register that went back is written before a heartbeat that counts.
                ballot.or_else(|| {
                    if wanted && !is_void {
                        self.give_heartbeat(member, number)
                    } else {
                        None
                    }
                })
            }
            RoundKind::Ballot if wanted => self.give_ballot(member, number),
            RoundKind::Ballot | RoundKind::Look => None,
        }
    }

    fn give_ballot(&mut self, member: u8, number: u32) -> Option<MailboxIo> {
        let (image, mark) = (self.rounds.image, self.mark());
        let state = self.member_mut(member)?;
        if state.ballot.is_unread() {
            return None;
        }
        let Write { side, seq } = state.ballot.begin(image, mark)?;
        state.ballot_round = number;
        if let Some(tag) = state.read.as_mut() {
            tag.ballot_at_rest = false;
            tag.ballot_quiet.remove(side);
        }
        self.mark_given(member, RoundKind::Ballot);
        Some(MailboxIo::WriteBallot {
            member,
            side,
            record: self.ballot_record(seq),
        })
    }

    fn give_heartbeat(&mut self, member: u8, number: u32) -> Option<MailboxIo> {
        let mark = self.mark();
        let state = self.member_mut(member)?;
        let Write { side, seq } = state.heartbeat.begin(number, mark)?;
        state.heartbeat_round = number;
        if let Some(tag) = state.read.as_mut() {
            tag.heartbeat_quiet.remove(side);
        }
        self.mark_given(member, RoundKind::Heartbeat);
        let record = self.heartbeat_record(seq);
        let fua = matches!(
            record.role,
            RecordRole::Lapsed | RecordRole::Released { .. }
        );
        Some(MailboxIo::WriteHeartbeat {
            member,
            side,
            fua,
            record,
        })
    }

    fn give_read(&mut self, member: u8, round: Option<u32>) -> Option<MailboxIo> {
        // The read is not issued before this time.
        let issued_ns = self
            .rounds
            .current
            .as_ref()
            .map_or(0, |round| round.issued_ns);
        let named = self.named();
        let state = self.member_mut(member)?;
        if state.read.is_some() {
            return None;
        }
        state.read = Some(ReadTag {
            round,
            ballot_unknown: state.ballot.is_unknown(),
            heartbeat_unknown: state.heartbeat.is_unknown(),
            ballot_written: state.ballot.is_written(),
            heartbeat_written: state.heartbeat.is_written(),
            ballot_at_rest: !state.ballot.is_writing(),
            ballot_quiet: Sides::those(|side| state.ballot.is_quiet(side, issued_ns)),
            heartbeat_quiet: Sides::those(|side| state.heartbeat.is_quiet(side, issued_ns)),
            is_void: state.ballot.is_void() || state.heartbeat.is_void(),
            named,
            outdated: false,
        });
        if round.is_some() {
            if let Some(round) = self.rounds.current.as_mut() {
                round.given |= member_bit(member);
            }
        }
        Some(MailboxIo::Read { member })
    }

    fn mark_given(&mut self, member: u8, kind: RoundKind) {
        if let Some(round) = self.rounds.current.as_mut() {
            if round.kind == kind {
                round.given |= member_bit(member);
            }
        }
    }

    fn ballot_record(&self, seq: u64) -> BallotRecord {
        BallotRecord {
            seq,
            inc: self.setup.inc,
            boot_id: self.setup.boot_id,
            dec: self.term.decided,
            mbal: self.succession.promise.mbal,
            offer: self.succession.promise.offer,
            bal: self.succession.promise.bal,
            val: self.succession.promise.val,
            limit: self.limits.published.max(self.limits.exposed),
            charges: self.charged.list,
            failed: self.limits.failed,
            mark: self.mark(),
            generations: self.members.generations,
        }
    }

    fn heartbeat_record(&self, seq: u64) -> HeartbeatRecord {
        HeartbeatRecord {
            seq,
            inc: self.setup.inc,
            dec: self.term.decided,
            role: self.term.role,
            hb: self.term.hb,
            open: self.limits.open,
            period_ns: self.setup.period_ns,
            reason: self.reason as u8,
            mark: self.mark(),
            generations: self.members.generations,
            may_claim: self.wants_claim()
                && self.rounds.unreadable == 0
                && self.phase != Phase::Failed,
        }
    }

    /// A mark that distinguishes a write of this host from a write of a copy of it: two hosts do
    /// not begin a round in the same nanosecond.
    fn mark(&self) -> u64 {
        self.rounds
            .current
            .as_ref()
            .map_or(0, |round| round.stamp_ns)
    }

    fn learn_own_registers<M: Mailboxes>(&mut self, member: u8, tag: ReadTag, boxes: &M) {
        let slot = self.setup.slot;
        let Some(state) = self.member_mut(member) else {
            return;
        };
        if tag.ballot_at_rest {
            state.ballot.was_read();
        }
        if tag.ballot_unknown || state.ballot.is_fresh() {
            let found = boxes.ballot(slot);
            state
                .ballot
                .learned(newest_seq(&found, |record| record.seq));
        }
        if tag.heartbeat_unknown || state.heartbeat.is_fresh() {
            let found = boxes.heartbeat(slot);
            state
                .heartbeat
                .learned(newest_seq(&found, |record| record.seq));
        }
    }

    /// Takes the decisions that a read shows. Two values for one epoch contradict each other [R57].
    fn absorb<M: Mailboxes>(&mut self, boxes: &M, now_ns: u64) {
        let known = self.known();
        let (mut best, mut carried, mut split) = (known, Carried::default(), false);
        for slot in Slot::all_in(self.setup.slots) {
            let ballot = boxes.ballot(slot).reading.valid();
            let cached = boxes
                .heartbeat(slot)
                .reading
                .valid()
                .map(|record| record.dec);
            let dec = ballot.map(|record| record.dec);
            for decided in [dec, cached].into_iter().flatten() {
                split |= contradict(&decided, &known) || contradict(&decided, &best);
                if decided.epoch > best.epoch {
                    best = decided;
                    carried = Carried::default();
                }
            }
            if let Some(record) = ballot.filter(|record| record.dec == best) {
                carried.add(&record);
            }
        }
        if split {
            return self.fail(Reason::Split, now_ns);
        }
        // A joiner takes a decision from a majority, at the end of its listening.
        if self.phase == Phase::Joining {
            self.identity.heard = best;
            return;
        }
        self.learn(best, &carried, now_ns);
        self.complete_list(carried.list);
        self.note_confirmations(now_ns);
    }

    /// Tells the observers what a member shows.
    fn watch<M: Mailboxes>(&mut self, member: u8, boxes: &M, now_ns: u64) {
        if self.phase == Phase::Joining {
            if let Some(value) = self.own_slot_value(member, boxes) {
                if self.identity.own_slot.saw(member, Some(value), now_ns) {
                    self.reason = Reason::Duplicate;
                }
            }
        }
        let Some(value) = self.owner_value(member, boxes) else {
            return;
        };
        let changed = self.succession.owner.saw(member, value, now_ns);
        // Epoch 0 has no owner whose heartbeats could disprove evidence.
        let Some(owner) = self.term.decided.value else {
            return;
        };
        let evidence = self.succession.evidence;
        let is_silence = matches!(evidence, Some(Evidence::Silence | Evidence::Confirmed));
        if changed && is_silence {
            self.owner_lives(now_ns);
        }
        let record = boxes.heartbeat(owner.slot).reading.valid();
        let speaks =
            |r: &HeartbeatRecord| r.inc == owner.inc && r.dec.epoch == self.term.decided.epoch;
        if let Some(record) = record.filter(speaks).filter(|_| !self.is_mine()) {
            self.heed_owner(&record, now_ns);
        }
    }

    /// The content of the own slot, as one number that changes with each write.
    fn own_slot_value<M: Mailboxes>(&self, member: u8, boxes: &M) -> Option<u64> {
        let slot = self.setup.slot;
        let ballot = self.info(member, boxes.ballot(slot).reading)?;
        let beat = self.info(member, boxes.heartbeat(slot).reading)?;
        let ballot = ballot.map_or(0, |record| record.seq);
        Some(ballot.wrapping_add(beat.map_or(0, |record| record.seq)))
    }

    /// The value that shows life in the present term: the owner's heartbeats, or, when no epoch was
    /// decided yet, the claims. `None` is no information. `Some(None)` says that the owner's
    /// incarnation has written nothing of this term there.
    fn owner_value<M: Mailboxes>(&self, member: u8, boxes: &M) -> Option<Option<u64>> {
        let Decided { epoch, value } = self.term.decided;
        if let Some(owner) = value {
            let record = self.info(member, boxes.heartbeat(owner.slot).reading)?;
            let speaks = |r: &HeartbeatRecord| r.inc == owner.inc && r.dec.epoch == epoch;
            return Some(record.filter(speaks).map(|record| record.hb));
        }
        let mut claims = 0_u64;
        for slot in Slot::all_in(self.setup.slots).filter(|&slot| slot != self.setup.slot) {
            let record = self.info(member, boxes.ballot(slot).reading)?;
            claims = claims.wrapping_add(record.map_or(0, |record| record.mbal.round));
        }
        Some(Some(claims))
    }

    /// A reading as information: `None` is no information, `Some(None)` says that nothing was
    /// written.
    fn info<T>(&self, member: u8, reading: Reading<T>) -> Option<Option<T>> {
        match reading {
            Reading::Valid(record) => Some(Some(record)),
            Reading::Blank if self.setup.originals & member_bit(member) != 0 => Some(None),
            Reading::Blank | Reading::Invalid(_) => None,
        }
    }

    /// Adds a member's mailboxes to the present round.
    fn fold<M: Mailboxes>(&mut self, member: u8, boxes: &M) {
        let Some(mut round) = self.rounds.current.take() else {
            return;
        };
        let (own, is_counted) = (self.setup.slot, self.counts(member));
        let mut blank = is_counted;
        for slot in Slot::all_in(self.setup.slots) {
            let ballot = self.info(member, boxes.ballot(slot).reading);
            let beat = self.info(member, boxes.heartbeat(slot).reading);
            blank &= matches!((ballot, beat), (Some(None), Some(None)));
            if let Some(Some(record)) = ballot {
                round
                    .seen
                    .add(slot, &record, own, self.succession.invitation);
            }
            if let Some(Some(record)) = beat {
                round.seen.decided(record.dec);
                round.seen.lists.drained |= has_drained(round.seen.decided, slot, &record);
                if self.succession.invitation.successor == Some(slot) {
                    round.seen.successor = round.seen.successor.with(record.may_claim);
                }
            }
            let (Some(ballot), Some(_)) = (ballot, beat) else {
                continue;
            };
            if is_counted {
                round.informed(slot, member);
            }
            if let Some(record) = ballot.as_ref().filter(|_| slot == own) {
                round.own_ballot(record);
            }
        }
        if blank {
            round.blank |= member_bit(member);
        }
        let watched = match self.phase {
            Phase::Joining => self.own_slot_value(member, boxes).is_some(),
            _ => self.owner_value(member, boxes).is_some(),
        };
        if watched && is_counted {
            round.confirmed |= member_bit(member);
        }
        if round.seen.decided.epoch == self.term.decided.epoch {
            self.succession.highest = self.succession.highest.max(round.seen.highest);
        }
        self.rounds.current = Some(round);
    }

    /// Notes the members that have not answered a transfer of an earlier round.
    fn note_hanging(&mut self) {
        for (member, state) in (0_u8..).zip(&self.members.each) {
            let writes = state.ballot.is_writing() || state.heartbeat.is_writing();
            if writes || state.read.is_some() {
                self.members.healthy &= !member_bit(member);
            }
        }
    }

    /// Whether a write of an earlier round hangs on a member. Such a member is no help for a claim,
    /// even if it can be read.
    fn owes_a_write(&self, member: u8) -> bool {
        let present = self.rounds.current.as_ref().map(|round| round.number);
        let Some(state) = self.members.each.get(usize::from(member)) else {
            return false;
        };
        state.ballot.is_writing() && present != Some(state.ballot_round)
            || state.heartbeat.is_writing() && present != Some(state.heartbeat_round)
    }

    fn note_health(&mut self, member: u8, ok: bool) {
        match ok {
            true => self.members.healthy |= member_bit(member) & self.members.present,
            false => self.members.healthy &= !member_bit(member),
        }
    }

    fn member_mut(&mut self, member: u8) -> Option<&mut Member> {
        self.members.each.get_mut(usize::from(member))
    }
}

/// What the records of one epoch on one member say about charges and failed members.
#[derive(Clone, Copy, Default)]
pub(super) struct Carried {
    /// The owner's list; without it, the first whole list.
    pub(super) list: Option<Charges>,
    /// What the owner was told; without it, the highest number in any record.
    pub(super) failed: Option<u32>,
    by_owner: bool,
}

impl Carried {
    fn add(&mut self, record: &BallotRecord) {
        let by_owner = record
            .dec
            .value
            .is_some_and(|owner| owner.inc == record.inc);
        let whole = Some(record.charges).filter(|list| !list.is_partial());
        self.list = match by_owner {
            true => whole.or(self.list),
            false => self.list.or(whole),
        };
        if by_owner {
            self.failed = Some(record.failed);
        } else if !self.by_owner {
            self.failed = self.failed.max(Some(record.failed));
        }
        self.by_owner |= by_owner;
    }
}

/// Whether a record says that the owner of the decided epoch has drained. Then none of its
/// operations can land in a later epoch.
fn has_drained(decided: Decided, slot: Slot, record: &HeartbeatRecord) -> bool {
    let writer = Value {
        slot,
        inc: record.inc,
    };
    record.dec == decided && decided.value == Some(writer) && record.is_drained()
}

fn newest_seq<T: Copy>(
    found: &Found<T>,
    seq: impl Fn(&T) -> u64,
) -> Option<(crate::proto::codec::ids::Side, u64)> {
    match (found.reading, found.newest) {
        (Reading::Valid(record), Some(side)) => Some((side, seq(&record))),
        _ => None,
    }
}
