// SPDX-License-Identifier: GPL-2.0
//! Tests of Disk Paxos, of invitations, and of the lists of charges.

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
    let none = Seen::new(decided(4));
    assert_eq!(none.value(&Promise::NONE, value(1)), value(1));
    assert_eq!(none.value(&mine(ballot(1, 1)), value(1)), value(2));
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
