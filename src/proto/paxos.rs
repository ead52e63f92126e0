// SPDX-License-Identifier: GPL-2.0
//! Which controller gets the next epoch: one instance of Disk Paxos for each epoch.
//!
//! Source: E. Gafni and L. Lamport, "Disk Paxos", Distributed Computing 16 (2003). The processors
//! are the controllers, the disks are the members. Instance `e + 1` decides the owner of epoch `e +
//! 1`. A ballot record with `dec.epoch == e` is about instance `e + 1` and no other.
//!
//! ```text
//!          phase 1                        phase 2
//! write mbal in both blocks      write bal := mbal, val := v in both blocks
//! of a majority, read all:       of a majority, read all:
//!   higher mbal -> back off        higher mbal -> back off
//!   else v := val of the           else v is decided: the owner of e + 1
//!   highest bal, or (me, inc)
//! ```
//!
//! [`Promise`] is the image of the own ballot fields. The state machine writes it, and `register`
//! says when it counts. [`Seen`] collects what the other controllers wrote.

use super::codec::ballot::BallotRecord;
use super::codec::charges::{Charge, Charges};
use super::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use super::limit::Limit;

/// The own ballot fields of instance D + 1, where D is the decided epoch. They only grow while D
/// stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The highest ballot begun.
    pub mbal: Ballot,
    /// The heartbeat that offered the epoch, if that ballot was begun on nothing but the offer;
    /// otherwise 0.
    pub offer: u64,
    /// The highest ballot in which a value was proposed.
    pub bal: Ballot,
    /// That value.
    pub val: Option<Value>,
}

impl Promise {
    /// Nothing promised in this instance.
    pub const NONE: Self = Self {
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
    };

    /// The promise that a record carries.
    pub fn of(record: &BallotRecord) -> Self {
        Self {
            mbal: record.mbal,
            offer: record.offer,
            bal: record.bal,
            val: record.val,
        }
    }

    /// Whether `self` was written after `other` by the same register.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.mbal, self.bal) > (other.mbal, other.bal)
    }
}

/// The result of one round about instance `decided.epoch + 1`, over all its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The highest decision that any record knows.
    pub decided: Decided,
    /// The highest `mbal` of the instance after it.
    pub highest: Ballot,
    /// The highest `mbal` of another controller that does not answer an offer: a claim.
    pub foreign: Ballot,
    /// The latest offer that the present successor has answered with a ballot; 0 if there is none.
    pub answered: u64,
    /// Whether a record of the present successor was found, and whether one says that it may claim.
    pub successor: Successor,
    /// The highest `bal` of that instance and its value.
    pub accepted: Option<(Ballot, Value)>,
    /// The charges of the decided epoch.
    pub lists: Lists,
}

/// The result of one round about the budget that is still charged for old owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lists {
    /// The list of the owner of the epoch: it holds.
    owner: Option<Charges>,
    /// The lists of other controllers that know the whole list.
    whole: Option<Charges>,
    /// The lists of all controllers, candidates for the epoch included.
    partial: Charges,
    /// The most that the owner of the epoch may have had open.
    open: u32,
    /// Members that are failed or rebuilding, as reported to the owner of the epoch.
    failed_by_owner: Option<u32>,
    /// The highest such number in any record, candidates for the epoch included.
    failed_by_any: u32,
    /// The owner latched its gate and published after that that no operation is open any more.
    pub drained: bool,
}

impl Lists {
    const NONE: Self = Self {
        owner: None,
        whole: None,
        partial: Charges::NONE,
        open: 0,
        failed_by_owner: None,
        failed_by_any: 0,
        drained: false,
    };

    /// Adds the charges in a record of `decided`, or of a candidate for it.
    fn add(&mut self, record: &BallotRecord, decided: Decided, is_owner: bool) {
        let before = record.dec.epoch.checked_add(1) == Some(decided.epoch);
        if record.dec.epoch != decided.epoch && !(before && record.val.is_some()) {
            return;
        }
        let (list, now) = (&record.charges, record.dec.epoch == decided.epoch);
        self.partial.merge(list);
        self.failed_by_any = self.failed_by_any.max(record.failed);
        // A controller that was also the owner before has one gate for both terms. It may not know
        // of this term.
        if is_owner && record.dec.value == decided.value {
            self.open = self.open.max(Limit::from_wire(record.limit).charge());
        }
        if !now {
            return;
        }
        if is_owner {
            let failed = self.failed_by_owner.unwrap_or(0).max(record.failed);
            self.failed_by_owner = Some(failed);
        }
        // A later incarnation of the owner states how many operations the former one may have had
        // open.
        let owner = |charge: &Charge| {
            let term = Some(Value {
                slot: charge.slot,
                inc: charge.inc,
            });
            charge.epoch == decided.epoch && term == decided.value
        };
        let open = list.iter().filter(owner).map(|charge| charge.amount);
        self.open = open.fold(self.open, u32::max);
        if list.is_partial() {
            return;
        }
        let known = match is_owner {
            true => &mut self.owner,
            false => &mut self.whole,
        };
        known.get_or_insert(Charges::NONE).merge(list);
    }

    /// How many members are failed or rebuilding: the number reported to the owner of the epoch or,
    /// if it is not known, the highest in any record.
    pub fn failed(&self) -> u32 {
        self.failed_by_owner.unwrap_or(self.failed_by_any)
    }

    /// The list of the epoch, and the charge of its owner if the epoch ends now.
    pub fn of_epoch(&self) -> (Charges, u32) {
        let open = if self.drained { 0 } else { self.open };
        let list = self.owner.or(self.whole).unwrap_or(self.partial);
        (list, open)
    }
}

/// The controllers to which the owner of this epoch has offered the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Invitation {
    /// The controller that may prepare its ballot now.
    pub successor: Option<Slot>,
    /// All controllers that were invited in this epoch, a bit each.
    pub slots: u64,
}

impl Invitation {
    /// No controller was invited.
    pub const NONE: Self = Self {
        successor: None,
        slots: 0,
    };

    /// Whether a ballot of `slot` answers an offer of this epoch. Such a ballot is no claim,
    /// whenever it is seen. It may have been on its way when the offer was withdrawn, and it may
    /// become visible much later on a member that could not be reached.
    fn admits(&self, slot: Slot, record: &BallotRecord) -> bool {
        record.offer != 0 && slot.is_in(self.slots)
    }
}

/// What the records of the invited successor say in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// No member shows a record of the successor.
    Unknown,
    /// Every record says that something keeps it from claiming.
    Unwilling,
    /// A record says that it may claim.
    Willing,
}

impl Successor {
    /// Adds a record of the successor. The members may show records of different age, and one
    /// record that says that the successor may claim is enough.
    #[must_use]
    pub const fn with(self, may_claim: bool) -> Self {
        match (self, may_claim) {
            (_, true) | (Self::Willing, _) => Self::Willing,
            _ => Self::Unwilling,
        }
    }
}

impl Seen {
    /// The state before anything was read. `decided` is what this controller knows itself.
    pub fn new(decided: Decided) -> Self {
        Self {
            decided,
            highest: Ballot::NONE,
            foreign: Ballot::NONE,
            answered: 0,
            successor: Successor::Unknown,
            accepted: None,
            lists: Lists::NONE,
        }
    }

    /// Learns of a decision. A later decision makes everything obsolete that was seen of ballots.
    pub fn decided(&mut self, decided: Decided) {
        if decided.epoch > self.decided.epoch {
            *self = Self::new(decided);
        }
    }

    /// Adds a valid ballot record of `slot`. `own` says to which controllers this one has offered
    /// the next epoch.
    pub fn add(&mut self, slot: Slot, record: &BallotRecord, own: Slot, invitation: Invitation) {
        self.decided(record.dec);
        let is_owner = self.decided.value
            == Some(Value {
                slot,
                inc: record.inc,
            });
        self.lists.add(record, self.decided, is_owner);
        if record.dec.epoch != self.decided.epoch {
            return;
        }
        self.highest = self.highest.max(record.mbal);
        if invitation.successor == Some(slot) {
            self.answered = self.answered.max(record.offer);
        }
        if slot != own && !invitation.admits(slot, record) {
            self.foreign = self.foreign.max(record.mbal);
        }
        if let Some(value) = record.val {
            let higher = |&(bal, _): &(Ballot, Value)| record.bal > bal;
            if self.accepted.as_ref().is_none_or(higher) {
                self.accepted = Some((record.bal, value));
            }
        }
    }

    /// Whether a controller claims the next epoch: it has begun a ballot that answers no offer, or
    /// it has proposed a value, invited or not.
    pub fn is_claim(&self) -> bool {
        self.foreign != Ballot::NONE || self.accepted.is_some()
    }

    /// The value to propose in phase 2: that of the highest ballot, the own one included.
    pub fn value(&self, own: &Promise, otherwise: Value) -> Value {
        let mine = own.val.map(|value| (own.bal, value));
        match (self.accepted, mine) {
            (Some(theirs), Some(mine)) if mine.0 > theirs.0 => mine.1,
            (Some(theirs), _) => theirs.1,
            (None, Some(mine)) => mine.1,
            (None, None) => otherwise,
        }
    }
}

/// The lowest ballot of this incarnation that is higher than all in `above`. `None` if the numbers
/// are used up; only a damaged register says so, because no controller counts to 2^64.
pub fn next_ballot(above: Ballot, slot: Slot, inc: Incarnation) -> Option<Ballot> {
    let same_round = Ballot {
        round: above.round,
        slot,
        inc,
    };
    if above != Ballot::NONE && same_round > above {
        return Some(same_round);
    }
    Some(Ballot {
        round: above.round.checked_add(1)?,
        slot,
        inc,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::generations::Generations;

    fn slot(index: u8) -> Slot {
        Slot::new(index).unwrap()
    }

    fn ballot(round: u64, index: u8) -> Ballot {
        Ballot {
            round,
            slot: slot(index),
            inc: Incarnation(u128::from(index) + 1),
        }
    }

    fn value(index: u8) -> Value {
        Value {
            slot: slot(index),
            inc: Incarnation(u128::from(index) + 1),
        }
    }

    fn decided(epoch: u64) -> Decided {
        Decided {
            epoch,
            value: Some(value(0)),
        }
    }

    /// An invitation of this controller, after others of the same epoch that were withdrawn.
    fn invited(index: u8, before: &[u8]) -> Invitation {
        let bits = before.iter().map(|&index| slot(index).bit());
        Invitation {
            successor: Some(slot(index)),
            slots: bits.fold(slot(index).bit(), |set, bit| set | bit),
        }
    }

    fn answer(ballot: Ballot, offer: u64) -> BallotRecord {
        BallotRecord {
            offer,
            ..record(4, ballot, None)
        }
    }

    fn record(epoch: u64, mbal: Ballot, accepted: Option<(Ballot, Value)>) -> BallotRecord {
        BallotRecord {
            seq: 1,
            inc: mbal.inc,
            boot_id: [0; 16],
            dec: decided(epoch),
            mbal,
            offer: 0,
            bal: accepted.map_or(Ballot::NONE, |(bal, _)| bal),
            val: accepted.map(|(_, value)| value),
            limit: 1,
            charges: Charges::NONE,
            failed: 0,
            mark: 0,
            generations: Generations::NONE,
        }
    }

    #[test]
    fn r28_the_next_ballot_is_higher_than_every_one_seen_and_never_used_before() {
        let inc = Incarnation(2);
        let next = |above| next_ballot(above, slot(1), inc).unwrap();
        assert_eq!(next(Ballot::NONE), ballot(1, 1));
        // A lower slot's ballot is overtaken in the same round, a higher slot's in the next.
        assert_eq!(next(ballot(3, 0)), ballot(3, 1));
        assert_eq!(next(ballot(3, 2)), ballot(4, 1));
        assert_eq!(next(ballot(3, 1)), ballot(4, 1));
        for above in [ballot(3, 0), ballot(3, 1), ballot(3, 2)] {
            assert!(next(above) > above);
        }
        assert_eq!(next_ballot(ballot(u64::MAX, 2), slot(1), inc), None);
    }

    #[test]
    fn r28_the_value_of_the_highest_ballot_is_put_forward() {
        let mine = |bal| Promise::of(&record(4, ballot(5, 1), Some((bal, value(2)))));
        let nobody = Seen::new(decided(4));
        assert_eq!(nobody.value(&Promise::NONE, value(1)), value(1));
        assert_eq!(nobody.value(&mine(ballot(1, 1)), value(1)), value(2));
        let low = record(4, ballot(2, 2), Some((ballot(1, 2), value(2))));
        let high = record(4, ballot(2, 3), Some((ballot(2, 3), value(3))));
        for records in [[(2, low), (3, high)], [(3, high), (2, low)]] {
            let mut seen = Seen::new(decided(4));
            for (index, record) in records {
                seen.add(slot(index), &record, slot(1), Invitation::NONE);
            }
            assert_eq!(seen.value(&Promise::NONE, value(1)), value(3));
            // The own image counts as every other record does.
            assert_eq!(seen.value(&mine(ballot(3, 1)), value(1)), value(2));
            assert_eq!(seen.value(&mine(ballot(1, 1)), value(1)), value(3));
        }
    }

    #[test]
    fn r21_the_open_operations_of_an_owner_are_in_its_record_and_in_that_of_its_next_incarnation() {
        let open = |record: BallotRecord| {
            let mut seen = Seen::new(decided(4));
            seen.add(slot(0), &record, slot(1), Invitation::NONE);
            seen.lists.of_epoch().1
        };
        let by_owner = BallotRecord {
            inc: value(0).inc,
            limit: 7,
            ..record(4, Ballot::NONE, None)
        };
        assert_eq!(open(by_owner), 7);
        let with_charge = |epoch, of, amount| {
            let mut restarted = BallotRecord {
                inc: Incarnation(99),
                ..by_owner
            };
            let charge = Charge::new(epoch, of, amount);
            restarted.charges.add(charge);
            open(restarted)
        };
        assert_eq!(with_charge(4, value(0), 7), 7);
        assert_eq!(with_charge(3, value(0), 7), 0, "another term");
        assert_eq!(with_charge(4, value(2), 7), 0, "another owner");
    }

    #[test]
    fn r21_the_owners_number_of_failed_members_goes_before_that_of_others() {
        let by = |inc, epoch, accepted, failed| BallotRecord {
            inc,
            failed,
            ..record(epoch, ballot(9, 2), accepted)
        };
        let (owner, other) = (value(0).inc, value(2).inc);
        let failed = |records: &[(u8, BallotRecord)]| {
            let mut seen = Seen::new(decided(4));
            for (index, record) in records {
                seen.add(slot(*index), record, slot(1), Invitation::NONE);
            }
            seen.lists.failed()
        };
        let candidate = Some((ballot(9, 2), value(2)));
        assert_eq!(failed(&[]), 0);
        // Two members may have records of the owner that differ in age.
        let two = [(0, by(owner, 4, None, 1)), (0, by(owner, 4, None, 2))];
        assert_eq!(failed(&two), 2);
        for others in [(2, by(other, 4, None, 3)), (2, by(other, 3, candidate, 3))] {
            assert_eq!(failed(&[others]), 3);
            assert_eq!(failed(&[others, two[0]]), 1);
            assert_eq!(failed(&[two[0], others]), 1);
        }
        assert_eq!(failed(&[(2, by(other, 3, None, 3))]), 0, "it knows nothing");
        assert_eq!(
            failed(&[(0, by(Incarnation(9), 4, None, 3))]),
            3,
            "restarted"
        );
    }

    #[test]
    fn r28_records_of_another_instance_say_nothing_about_this_one() {
        let mut seen = Seen::new(decided(4));
        let old = record(3, ballot(9, 2), Some((ballot(9, 2), value(2))));
        seen.add(slot(2), &old, slot(1), Invitation::NONE);
        assert_eq!(seen, Seen::new(decided(4)));
    }

    /// Two partial lists have ten terms in all. None is lost, although there is room for eight, and
    /// the lists of others do not weaken the owner's list.
    #[test]
    fn r21_lists_that_do_not_fit_together_become_one_that_charges_as_much() {
        let half = |index: u8| {
            let mut half = record(4, ballot(1, index), None);
            half.charges = Charges::NONE.with_partial(true);
            for epoch in 1..=5 {
                half.charges.add(Charge::new(epoch, value(index), 1));
            }
            half
        };
        let mut seen = Seen::new(decided(4));
        let mut add = |slot, record| seen.add(slot, &record, slot, Invitation::NONE);
        add(slot(1), half(1));
        add(slot(2), half(2));
        assert_eq!(seen.lists.of_epoch().0.total(), 10);
        let owner = BallotRecord {
            inc: value(0).inc,
            ..record(4, ballot(1, 0), None)
        };
        seen.add(slot(0), &owner, slot(1), Invitation::NONE);
        assert_eq!(seen.lists.of_epoch(), (Charges::NONE, 1));
    }

    /// A controller that proposed a value for the epoch wrote the list in the same record.
    #[test]
    fn r21_only_candidates_know_the_charges_of_the_epoch_before() {
        let charge = Charge::new(1, value(2), 7);
        let charges_of = |epoch, accepted| {
            let mut old = record(epoch, ballot(9, 2), accepted);
            old.charges.add(charge);
            let mut seen = Seen::new(decided(4));
            seen.add(slot(2), &old, slot(1), Invitation::NONE);
            let (list, _) = seen.lists.of_epoch();
            list.iter().collect::<Vec<_>>()
        };
        let candidate = Some((ballot(9, 2), value(2)));
        assert_eq!(charges_of(4, None), [charge]);
        assert_eq!(charges_of(3, candidate), [charge]);
        assert_eq!(charges_of(3, None), []);
        assert_eq!(charges_of(2, candidate), []);
    }

    #[test]
    fn r33_a_later_decision_makes_all_ballots_seen_obsolete() {
        let mut seen = Seen::new(decided(4));
        let claim = record(4, ballot(2, 2), Some((ballot(2, 2), value(2))));
        seen.add(slot(2), &claim, slot(1), Invitation::NONE);
        seen.decided(decided(5));
        assert_eq!(seen, Seen::new(decided(5)));
        seen.add(slot(2), &claim, slot(1), Invitation::NONE);
        assert_eq!(seen.highest, Ballot::NONE);
    }

    #[test]
    fn r29_a_claim_in_the_own_slot_is_no_claim_of_another_controller() {
        let mut seen = Seen::new(decided(4));
        seen.add(
            slot(1),
            &record(4, ballot(7, 1), None),
            slot(1),
            Invitation::NONE,
        );
        assert_eq!((seen.highest, seen.foreign), (ballot(7, 1), Ballot::NONE));
        seen.add(
            slot(2),
            &record(4, ballot(6, 2), None),
            slot(1),
            Invitation::NONE,
        );
        assert_eq!((seen.highest, seen.foreign), (ballot(7, 1), ballot(6, 2)));
        // A ballot that answers an offer is no claim either, and hides no claim of another
        // controller.
        seen.add(slot(3), &answer(ballot(8, 3), 11), slot(1), invited(3, &[]));
        assert_eq!((seen.highest, seen.foreign), (ballot(8, 3), ballot(6, 2)));
        assert_eq!(seen.answered, 11);
    }

    #[test]
    fn r29_an_answer_to_an_offer_is_no_claim_and_everything_else_is() {
        let claims = |index, record: BallotRecord, invitation| {
            let mut seen = Seen::new(decided(4));
            seen.add(slot(index), &record, slot(1), invitation);
            seen.is_claim()
        };
        let answers = answer(ballot(7, 3), 11);
        let value = BallotRecord {
            offer: 11,
            ..record(4, ballot(7, 3), Some((ballot(7, 3), value(3))))
        };
        assert!(!Seen::new(decided(4)).is_claim());
        assert!(!claims(3, answers, invited(3, &[])));
        assert!(claims(3, value, invited(3, &[])), "a value");
        assert!(claims(3, record(4, ballot(7, 3), None), invited(3, &[])));
        assert!(claims(2, record(4, ballot(7, 2), None), invited(3, &[])));
        assert!(!claims(1, record(4, ballot(7, 1), None), invited(3, &[])));
        // The offer is withdrawn: the ballot that answered it is still no claim, whichever
        // controller is invited next.
        let called_off = Invitation {
            successor: None,
            ..invited(3, &[])
        };
        assert!(!claims(3, answers, called_off));
        assert!(!claims(3, answers, invited(2, &[3])));
        assert!(claims(3, value, called_off), "a value");
        assert!(claims(3, record(4, ballot(8, 3), None), called_off));
        // The answer is to an offer that this owner did not make.
        assert!(claims(3, answers, Invitation::NONE));
        assert!(claims(3, answers, invited(2, &[])));
    }

    #[test]
    fn r34_only_the_present_successor_answers() {
        let answered = |index, invitation| {
            let mut seen = Seen::new(decided(4));
            seen.add(slot(index), &answer(ballot(7, 3), 11), slot(1), invitation);
            seen.answered
        };
        assert_eq!(answered(3, invited(3, &[])), 11);
        assert_eq!(answered(3, invited(2, &[3])), 0);
    }

    #[test]
    fn r34_one_record_that_says_it_may_claim_is_enough() {
        use Successor::{Unknown, Unwilling, Willing};
        assert_eq!(Unknown.with(false), Unwilling);
        assert_eq!(Unknown.with(true), Willing);
        assert_eq!(Unwilling.with(true), Willing);
        assert_eq!(Willing.with(false), Willing);
    }

    #[test]
    fn r35_a_promise_is_later_by_its_ballot_then_by_its_accepted_ballot() {
        let promise = |mbal, accepted| Promise::of(&record(4, mbal, accepted));
        let claimed = promise(ballot(2, 1), None);
        let accepted = promise(ballot(2, 1), Some((ballot(2, 1), value(1))));
        let again = promise(ballot(3, 1), None);
        assert!(claimed.is_later_than(&Promise::NONE));
        assert!(accepted.is_later_than(&claimed));
        assert!(again.is_later_than(&accepted));
        assert!(!accepted.is_later_than(&accepted));
    }
}
