// SPDX-License-Identifier: GPL-2.0
//! One round: write the own register to a majority, and only then read all mailboxes.
//!
//! ```text
//!            majority written                  every slot known from a majority
//!  Writing ------------------> Reading (barrier) ------------------------------> Complete
//!     |                           |
//!     +---------------------------+--> Failed: a majority cannot be reached any more
//! ```
//!
//! No read of a round is issued before a majority of its writes has completed. So if these reads do
//! not show a claim, the claim was written after this controller's own record could be seen. A
//! round that only reads begins at Reading.
//!
//! A majority may give no information about a slot, because its registers are unreadable. A round
//! that decides something (a ballot, or joining) then fails, as Paxos demands. A round that only
//! extends a lease or observes is complete once all its reads have ended. It may miss a claim of
//! that slot, but claims are the second layer [R29], and the controller of the slot cannot claim
//! either as long as its writes are unreadable.
//!
//! A member takes part with one write and one read. I/O of an earlier round that hangs on a member
//! always belongs to that round; the member joins the present round when it is free again.
//!
//! Caller: [`super::controller`], one round at a time.

use super::codec::ballot::BallotRecord;
use super::codec::charge_list::Charges;
use super::codec::ids::{Decided, Slot, MAX_CONTROLLERS};
use super::observer::member_bit;
use super::paxos::{Promise, Seen};

/// What a round writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoundKind {
    /// Nothing: the round only reads.
    Look,
    /// The heartbeat register, once on each member.
    Heartbeat,
    /// The ballot register, until it is in both blocks on each member.
    Ballot,
}

/// The stage of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Writes are in flight or about to be issued.
    Writing,
    /// A majority was written; reads are in flight or about to be issued.
    Reading,
}

/// How a round continues after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The round waits for more completions.
    Waiting,
    /// Every slot is known from a majority: the caller judges the round.
    Complete,
    /// The round cannot be completed any more.
    Failed,
}

/// The state of one round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// The number that tells I/O of this round from that of others.
    pub number: u32,
    /// The register that the round writes, if any.
    pub kind: RoundKind,
    /// The present stage.
    pub stage: Stage,
    /// Clock before the first write was issued [R2].
    pub stamp_ns: u64,
    /// Clock before the first read was issued; meaningless while writing.
    pub issued_ns: u64,
    /// Members to which a write (or, in the stage Reading, a read) of this round was issued.
    pub given: u16,
    /// Members that did their part of the present stage.
    pub done: u16,
    /// Members that failed in the present stage.
    pub failed: u16,
    /// Slots about which a majority must give information. About other slots it may give none.
    pub certain: u64,
    /// Members that did their part of the present stage, but do not count [R56].
    pub aside: u16,
    /// The ballots and decisions that the reads showed.
    pub seen: Seen,
    /// Members that answered and showed no other writer in the own slot, even if it is unreadable.
    pub looked: u16,
    /// Members that showed the value that the observer watches.
    pub confirmed: u16,
    /// Members on which every slot was blank.
    pub blank: u16,
    /// The latest promise found in the own slot, and the decision it stands behind.
    pub own_promise: (Decided, Promise),
    /// The charges in the record of that promise.
    pub own_charges: Charges,
    /// For each slot the members that gave information about it.
    info: [u16; MAX_CONTROLLERS as usize],
}

impl Round {
    /// A round that begins at `now_ns`.
    pub fn new(number: u32, kind: RoundKind, decided: Decided, now_ns: u64) -> Self {
        Self {
            number,
            kind,
            stage: if kind == RoundKind::Look {
                Stage::Reading
            } else {
                Stage::Writing
            },
            stamp_ns: now_ns,
            issued_ns: now_ns,
            given: 0,
            done: 0,
            failed: 0,
            certain: u64::MAX,
            aside: 0,
            seen: Seen::new(decided),
            looked: 0,
            confirmed: 0,
            blank: 0,
            own_promise: (Decided::NEVER, Promise::NONE),
            own_charges: Charges::NONE,
            info: [0; MAX_CONTROLLERS as usize],
        }
    }

    /// A write of this round to `member` ended: `ok` if the member has the image of the round.
    pub fn wrote(&mut self, member: u8, ok: bool) {
        self.ended(member, ok);
    }

    /// A read of this round from `member` ended.
    pub fn read(&mut self, member: u8, ok: bool) {
        self.ended(member, ok);
    }

    /// A member that does not count ended its part: the round does not wait for it [R56].
    pub fn set_aside(&mut self, member: u8) {
        self.aside |= member_bit(member);
    }

    /// Notes that `member` gave information about `slot`.
    pub fn informed(&mut self, slot: Slot, member: u8) {
        if let Some(members) = self.info.get_mut(usize::from(slot.index())) {
            *members |= member_bit(member);
        }
    }

    /// Notes the promise in a record of the own slot; the latest promise holds.
    pub fn own_ballot(&mut self, record: &BallotRecord) {
        let found = (record.dec, Promise::of(record));
        if found == self.own_promise {
            // A member that is behind may show an earlier list.
            self.own_charges.merge(&record.charges);
        }
        let later = found.0.epoch > self.own_promise.0.epoch
            || found.0.epoch == self.own_promise.0.epoch
                && found.1.is_later_than(&self.own_promise.1);
        if later {
            self.own_promise = found;
            self.own_charges = record.charges;
        }
    }

    /// Begins the reads, at `now_ns`.
    fn begin_reading(&mut self, now_ns: u64) {
        self.stage = Stage::Reading;
        self.issued_ns = now_ns;
        self.given = 0;
        self.done = 0;
        self.failed = 0;
        self.aside = 0;
    }

    /// How the round continues at `now_ns`, if `reachable` members could still take part. The reads
    /// of the members in `held` are not issued yet, but they will be.
    pub fn advance(
        &mut self,
        now_ns: u64,
        slots: u64,
        reachable: u16,
        held: u16,
        majority: u8,
    ) -> Progress {
        if self.stage == Stage::Writing && is_majority(self.done, majority) {
            self.begin_reading(now_ns);
        }
        let unknown = self.unknown(slots, majority);
        let is_enough =
            unknown == 0 || unknown & self.certain == 0 && self.has_read_all(held, majority);
        if self.stage == Stage::Reading && is_enough {
            return Progress::Complete;
        }
        let possible = (reachable & !self.failed & !self.aside) | self.done;
        let all_read = self.stage == Stage::Reading && possible & !self.done == 0;
        // Even a read that is no information can show another writer in the own slot. So a look
        // waits for every read that was issued.
        let looks = self.kind == RoundKind::Look && possible & self.given & !self.done != 0;
        match (is_majority(possible, majority) || looks) && !all_read {
            true => Progress::Waiting,
            false => Progress::Failed,
        }
    }

    /// Whether a majority has answered without completing the round, and the other members have had
    /// `patience_ns`: to wait longer for a member that hangs would only delay the next round.
    pub fn is_stuck(&self, majority: u8, patience_ns: u64, now_ns: u64) -> bool {
        is_majority(self.done | self.failed | self.aside, majority)
            && now_ns.saturating_sub(self.stamp_ns) >= patience_ns
    }

    /// The slots about which no majority has given information, a bit each.
    pub fn unknown(&self, slots: u64, majority: u8) -> u64 {
        let is_unknown = |slot: &Slot| {
            let members = self.info.get(usize::from(slot.index()));
            !is_majority(members.copied().unwrap_or(0), majority)
        };
        let unknown = Slot::all_in(slots).filter(is_unknown);
        unknown.fold(0, |set, slot| set | slot.bit())
    }

    /// Whether a majority was read, so that slots that are still unknown are unreadable.
    pub fn has_read(&self, majority: u8) -> bool {
        self.stage == Stage::Reading && is_majority(self.done, majority)
    }

    /// Whether a majority was read, and no read that was issued or is held is outstanding.
    fn has_read_all(&self, held: u16, majority: u8) -> bool {
        let asked = self.given | held;
        self.has_read(majority) && asked & !(self.done | self.failed | self.aside) == 0
    }

    fn ended(&mut self, member: u8, ok: bool) {
        match ok {
            true => self.done |= member_bit(member),
            false => self.failed |= member_bit(member),
        }
    }
}

#[cfg(feature = "model")]
impl Round {
    /// The same round with every set of members replaced.
    #[must_use]
    pub fn with_sets(mut self, set: impl Fn(u16) -> u16) -> Self {
        for members in [
            &mut self.given,
            &mut self.done,
            &mut self.failed,
            &mut self.looked,
            &mut self.aside,
            &mut self.confirmed,
            &mut self.blank,
        ] {
            *members = set(*members);
        }
        for members in &mut self.info {
            *members = set(*members);
        }
        self
    }
}

/// Whether a set of members is a majority.
pub const fn is_majority(members: u16, majority: u8) -> bool {
    members.count_ones() >= majority as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::generations::Generations;
    use crate::proto::codec::ids::{Ballot, Incarnation, Value};

    /// Two controllers.
    const SLOTS: u64 = 0b11;

    /// Three members.
    const ALL: u16 = 0b111;

    fn beat() -> Round {
        Round::new(1, RoundKind::Heartbeat, Decided::NEVER, 100)
    }

    fn both_known(round: &mut Round, member: u8) {
        round.read(member, true);
        for slot in Slot::all_in(SLOTS) {
            round.informed(slot, member);
        }
    }

    #[test]
    fn r3_no_read_begins_before_a_majority_is_written() {
        let mut round = beat();
        round.given = ALL;
        round.wrote(0, true);
        assert_eq!(round.advance(110, SLOTS, ALL, 0, 2), Progress::Waiting);
        assert_eq!(round.stage, Stage::Writing);
        round.wrote(2, true);
        assert_eq!(round.advance(120, SLOTS, ALL, 0, 2), Progress::Waiting);
        assert_eq!((round.stage, round.given), (Stage::Reading, 0));
        // The stamp is from the beginning of the round, and the reads were issued now [R2].
        assert_eq!((round.stamp_ns, round.issued_ns), (100, 120));
    }

    #[test]
    fn r3_a_round_is_complete_when_every_slot_is_known_from_a_majority() {
        let mut round = Round::new(1, RoundKind::Look, Decided::NEVER, 100);
        both_known(&mut round, 0);
        assert_eq!(round.advance(110, SLOTS, ALL, 0, 2), Progress::Waiting);
        // One slot is unreadable on the second member, so the third one is needed.
        round.read(1, true);
        round.informed(Slot::FIRST, 1);
        assert_eq!(round.advance(120, SLOTS, ALL, 0, 2), Progress::Waiting);
        both_known(&mut round, 2);
        assert_eq!(round.advance(130, SLOTS, ALL, 0, 2), Progress::Complete);
    }

    #[test]
    fn r26_a_slot_that_no_majority_knows_fails_the_round() {
        let mut round = Round::new(1, RoundKind::Look, Decided::NEVER, 100);
        for member in 0..3 {
            round.read(member, true);
            round.informed(Slot::FIRST, member);
        }
        assert_eq!(round.advance(110, SLOTS, ALL, 0, 2), Progress::Failed);
    }

    #[test]
    fn r26_an_unreadable_slot_fails_no_round_that_only_watches() {
        let other = Slot::new(1).unwrap();
        let mut round = Round::new(1, RoundKind::Look, Decided::NEVER, 100);
        round.certain = Slot::FIRST.bit();
        round.given = ALL;
        for member in 0..2 {
            round.read(member, true);
            round.informed(Slot::FIRST, member);
        }
        // The third member may know more, so the round waits for it.
        assert_eq!(round.advance(110, SLOTS, ALL, 0, 2), Progress::Waiting);
        let mut hanging = round.clone();
        hanging.given = 0b011;
        assert_eq!(hanging.advance(110, SLOTS, ALL, 0, 2), Progress::Complete);
        // It also waits for a read that is not issued yet.
        assert_eq!(
            hanging.advance(110, SLOTS, ALL, 0b100, 2),
            Progress::Waiting
        );
        assert_eq!(hanging.unknown(SLOTS, 2), other.bit());
        round.read(2, false);
        assert_eq!(round.advance(120, SLOTS, ALL, 0, 2), Progress::Complete);
        // The own slot must be known, and a majority must be read.
        round.certain = other.bit();
        assert_eq!(round.advance(120, SLOTS, ALL, 0, 2), Progress::Failed);
        let mut minority = Round::new(1, RoundKind::Look, Decided::NEVER, 100);
        minority.certain = 0;
        minority.given = ALL;
        minority.read(0, true);
        minority.read(1, false);
        assert_eq!(minority.advance(110, SLOTS, ALL, 0, 2), Progress::Waiting);
        minority.read(2, false);
        assert_eq!(minority.advance(110, SLOTS, ALL, 0, 2), Progress::Failed);
    }

    #[test]
    fn r42_a_round_fails_when_a_majority_can_no_longer_be_reached() {
        let mut round = beat();
        round.wrote(0, false);
        assert_eq!(round.advance(110, SLOTS, ALL, 0, 2), Progress::Waiting);
        round.wrote(1, false);
        assert_eq!(round.advance(120, SLOTS, ALL, 0, 2), Progress::Failed);
        // With too few devices the round fails before it begins.
        assert_eq!(beat().advance(100, SLOTS, 0b1, 0, 2), Progress::Failed);
    }

    #[test]
    fn r42_a_hanging_member_makes_a_round_stuck_only_when_the_others_were_not_enough() {
        let mut round = beat();
        round.wrote(0, true);
        assert!(!round.is_stuck(2, 50, 1_000), "one of three has answered");
        round.wrote(1, false);
        assert!(!round.is_stuck(2, 50, 149), "the third still has time");
        assert!(round.is_stuck(2, 50, 150));
    }

    #[test]
    fn r35_the_latest_own_promise_is_the_one_behind_the_latest_decision() {
        let promise = |epoch, number| {
            let value = Value {
                slot: Slot::FIRST,
                inc: Incarnation(1),
            };
            BallotRecord {
                seq: 1,
                inc: Incarnation(1),
                boot_id: [0; 16],
                dec: Decided {
                    epoch,
                    value: Some(value),
                },
                mbal: Ballot {
                    round: number,
                    slot: Slot::FIRST,
                    inc: Incarnation(1),
                },
                offer: 0,
                bal: Ballot::NONE,
                val: None,
                limit: 1,
                charges: Charges::NONE,
                failed: 0,
                mark: 0,
                generations: Generations::NONE,
            }
        };
        let mut round = beat();
        let written = [(3, 9), (4, 1), (4, 3), (4, 2), (3, 10)];
        for record in written.map(|(epoch, number)| promise(epoch, number)) {
            round.own_ballot(&record);
        }
        let (decided, kept) = round.own_promise;
        assert_eq!((decided.epoch, kept.mbal.round), (4, 3));
    }
}
