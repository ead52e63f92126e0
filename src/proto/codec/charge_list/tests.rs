// SPDX-License-Identifier: GPL-2.0
//! Tests of the charges: joining, making room, and the way through a record.

use super::*;
use crate::proto::codec::ids::*;

fn value(slot: u8, inc: u128) -> Value {
    Value {
        slot: Slot::new(slot).unwrap(),
        inc: Incarnation(inc),
    }
}

fn charge(epoch: u64, slot: u8, amount: u32) -> Charge {
    Charge::new(epoch, value(slot, u128::from(epoch)), amount)
}

#[test]
fn r21_two_records_of_one_term_are_joined() {
    let state = |drained, several, amount| Charge {
        drained,
        several,
        ..charge(1, 0, amount)
    };
    for (one, other, joined) in [
        (
            state(true, false, 2),
            state(false, false, 7),
            state(true, false, 7),
        ),
        (
            state(true, true, 2),
            state(false, true, 7),
            state(true, true, 7),
        ),
        (
            state(true, true, 2),
            state(false, false, 7),
            state(true, true, 7),
        ),
        // That the last term has drained says nothing about the terms before it.
        (
            state(true, false, 2),
            state(false, true, 7),
            state(false, true, 7),
        ),
    ] {
        for (first, second) in [(one, other), (other, one)] {
            let mut charges = Charges::NONE;
            charges.add(first);
            charges.add(second);
            assert!(charges.iter().eq([joined]), "{first:?} {second:?}");
        }
    }
    assert!(!state(true, false, 2).shows_drained(&state(false, true, 7)));
    assert!(state(true, true, 2).shows_drained(&state(false, true, 7)));
}

#[test]
fn r21_an_operators_word_holds_where_both_records_have_it_and_evidence_in_one_is_enough() {
    let says = |drained, vouched| Charge {
        drained,
        vouched,
        ..charge(1, 0, 2)
    };
    let (open, word, shown) = (says(false, false), says(true, true), says(true, false));
    for (one, other, joined) in [
        (open, word, open),
        (word, word, word),
        (open, shown, shown),
        (word, shown, shown),
    ] {
        for pair in [[one, other], [other, one]] {
            let mut charges = Charges::NONE;
            pair.into_iter().for_each(|charge| charges.add(charge));
            assert!(charges.iter().eq([joined]), "{pair:?}");
        }
    }
}

/// An operator's word about one of two owners could not be withdrawn any more, so it does not count
/// for both.
#[test]
fn r21_an_operators_word_does_not_make_room() {
    let mut charges = full(&[], false);
    charges.update(|charge| {
        (charge.drained, charge.vouched) = (charge.epoch < 3, charge.epoch < 3);
    });
    charges.add(charge(9, 1, 2));
    let both = Charge {
        several: true,
        ..charge(2, 1, 4)
    };
    assert!(charges.iter().any(|charge| charge == both));
}

/// The next owner reads whether evidence or an operator says that a term is drained.
#[test]
fn r21_charges_are_kept_until_they_are_taken_off() {
    let mut charges = Charges::NONE;
    for epoch in 1..=MAX_CHARGES as u64 {
        charges.add(charge(epoch, 1, 2));
    }
    assert_eq!((charges.len(), charges.total()), (8, 16));
    // The same term again: the larger amount counts, once.
    charges.add(charge(3, 1, 5));
    charges.add(charge(3, 1, 1));
    assert_eq!((charges.len(), charges.total()), (8, 19));
    charges.retain(|charge| charge.epoch % 2 == 0);
    assert!(charges.iter().map(|charge| charge.epoch).eq([2, 4, 6, 8]));
    charges.add(charge(11, 1, u32::MAX));
    assert_eq!(charges.total(), u32::MAX);
    charges.retain(|_| false);
    assert!(charges.is_empty());
}

/// A full list of terms of different incarnations, `drained` if their epoch is among these.
fn full(drained: &[u64], reversed: bool) -> Charges {
    let mut charges = Charges::NONE;
    for number in 1..=MAX_CHARGES as u64 {
        let epoch = if reversed { 9 - number } else { number };
        charges.add(Charge {
            drained: drained.contains(&epoch),
            ..charge(epoch, 1, 2)
        });
        assert_eq!(charges.len() as u64, number, "none becomes one so far");
    }
    charges
}

fn epochs(charges: &Charges) -> Vec<u64> {
    let mut epochs: Vec<u64> = charges.iter().map(|charge| charge.epoch).collect();
    epochs.sort_unstable();
    epochs
}

#[test]
fn r21_in_a_full_list_two_drained_terms_become_one() {
    for reversed in [false, true] {
        let mut charges = full(&[2, 5], reversed);
        charges.add(charge(3, 1, 1));
        assert_eq!(charges, full(&[2, 5], reversed), "it has its place already");
        charges.add(charge(9, 1, 2));
        let both = Charge {
            drained: true,
            ..charge(5, 1, 4)
        };
        assert!(charges.iter().any(|charge| charge == both));
        assert_eq!(epochs(&charges), [1, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(charges.total(), 18);
    }
}

/// What drains the later of two terms of one incarnation drains the earlier one as well.
#[test]
fn r21_in_a_full_list_two_terms_of_one_incarnation_become_one() {
    let same = Charge {
        epoch: 9,
        ..charge(4, 1, 3)
    };
    let mut charges = full(&[], false);
    charges.add(same);
    let both = Charge { amount: 5, ..same };
    assert!(charges.iter().any(|charge| charge == both));
    assert_eq!(epochs(&charges), [1, 2, 3, 5, 6, 7, 8, 9]);
    // Drained is what both are: the later term may have more under way.
    let mut charges = full(&[4], false);
    charges.add(same);
    assert!(charges.iter().any(|charge| charge == both));
}

/// Nothing fits: two terms become one, which the evidence of neither drains.
#[test]
fn r21_a_full_list_takes_one_charge_more_and_charges_as_much() {
    for reversed in [false, true] {
        let mut charges = full(&[7], reversed);
        charges.add(charge(9, 1, 2));
        let both = Charge {
            several: true,
            ..charge(2, 1, 4)
        };
        assert!(charges.iter().any(|charge| charge == both));
        assert_eq!(epochs(&charges), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(charges.total(), 18);
        // It goes on like that, and what stood for two stands for three.
        charges.add(charge(10, 1, u32::MAX - 1));
        assert_eq!((charges.len(), charges.total()), (8, u32::MAX));
        assert!(charges.iter().any(|it| it.several && it.amount == 6));
    }
}

#[test]
fn r21_lists_of_any_terms_are_joined_without_loss() {
    let (mut one, other) = (full(&[2, 3], false), full(&[5], true));
    let mut later = Charges::NONE;
    for charge in other.iter() {
        later.add(Charge {
            epoch: charge.epoch + 20,
            inc: Incarnation(u128::from(charge.epoch + 20)),
            ..charge
        });
    }
    one.merge(&later);
    assert_eq!((one.len(), one.total()), (8, 32));
}
