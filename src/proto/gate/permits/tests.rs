// SPDX-License-Identifier: GPL-2.0
//! Tests of the gate, one thread at a time; `selftests/proto/tests/gate.rs` has the threads.

use super::*;
use crate::proto::gate::lanes::Fields;
use core::sync::atomic::AtomicU64;

const L: u64 = 1_000;

fn is_granted(admission: Admission) -> bool {
    matches!(admission, Admission::Granted(_))
}

type Lanes = std::vec::Vec<AtomicU64>;

fn counted(layout: LaneLayout, cpus: usize, limit: u32) -> Gate<AtomicU64, Lanes> {
    let lanes = (0..layout.words(cpus)).map(|_| AtomicU64::new(0));
    let gate = Gate::new(L, limit, layout, lanes.collect());
    assert!(gate.open_epoch(7, 7, 2_000));
    gate
}

fn leased(limit: u32) -> Gate<AtomicU64, Lanes> {
    counted(LaneLayout::Single, 1, limit)
}

const ONE: Place = Place::ONE;
const FULL: Admission = Admission::Full { wake: false };

#[test]
fn r13_the_limit_bounds_the_open_permits() {
    let gate = leased(2);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert_eq!(gate.enter(ONE, || 1_500), FULL);
    assert!(!gate.wait(ONE));
    assert!(gate.leave(ONE).wake);
    assert_eq!(gate.enter(ONE, || 1_500), FULL, "others wait already");
    assert!(is_granted(gate.enter_waiting(ONE, 7, || 1_500)));
    gate.no_waiters(ONE);
    assert_eq!(gate.count().peak, 2);
}

#[test]
fn r13_the_clock_is_read_with_the_permit_taken() {
    let gate = leased(2);
    for open in 1..=2 {
        let counted = || {
            assert_eq!(gate.count().open, open);
            1_500
        };
        assert!(is_granted(gate.enter(ONE, counted)));
    }
    let gate = rows(2);
    for open in 1..=2 {
        let counted = || {
            assert_eq!(gate.count().open, open);
            1_500
        };
        // The second operation does not find the lane empty: it takes the long path.
        assert!(is_granted(gate.enter(row(9, open as u8), counted)));
    }
}

#[test]
fn r6_an_expired_lease_refuses_and_latches() {
    let gate = leased(2);
    assert!(!gate.is_latched());
    assert_eq!(
        gate.enter(ONE, || 2_000),
        Admission::Refused {
            lapsed: true,
            wake: false
        }
    );
    assert!(gate.is_latched());
    assert_eq!(
        gate.enter(ONE, || 1_500),
        Admission::Refused {
            lapsed: false,
            wake: false
        }
    );
    assert_eq!(gate.count().open, 0);
    assert!(!gate.extend(2_000, 3_000));
}

#[test]
fn r6_a_full_gate_refuses_once_the_lease_is_gone() {
    let gate = leased(1);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert_eq!(
        gate.enter(ONE, || 2_500),
        Admission::Refused {
            lapsed: true,
            wake: false
        }
    );
    assert_eq!(gate.count().open, 1);
}

#[test]
fn r18_success_counts_only_for_the_epoch_and_time_of_the_lease() {
    let gate = leased(1);
    assert!(gate.acknowledge(7, || 1_999).is_ok());
    assert!(gate.acknowledge_short(&7, || 1_999));
    assert!(gate.acknowledge(6, || 1_999).is_err());
    assert!(!gate.acknowledge_short(&6, || 1_999));
    assert!(!gate.acknowledge_short(&7, || 2_000));
    assert_eq!(gate.acknowledge(7, || 2_000), Err(Lapsed(true)));
    gate.latch();
    assert!(gate.acknowledge(7, || 1_999).is_err());
    assert!(!gate.acknowledge_short(&7, || 1_999));
    assert!(gate.open_epoch(8, 7, 2_500));
    assert!(gate.acknowledge(7, || 1_999).is_err());
    assert!(!gate.acknowledge_short(&7, || 1_999));
}

#[test]
fn r17_a_delayed_thread_does_not_end_a_lease_that_was_extended_meanwhile() {
    let gate = leased(2);
    // The clock is read after the lease; by then another thread has extended it.
    let late = || {
        gate.extend(2_000, 3_000);
        2_500
    };
    assert!(is_granted(gate.enter(ONE, late)));
    let late = || {
        gate.extend(3_000, 4_000);
        3_500
    };
    assert!(gate.acknowledge(7, late).is_ok());
    assert_eq!(gate.expiry_ns(), 4_000);
}

#[test]
fn r34_a_permit_that_is_given_back_at_once_wakes_the_thread_that_waits_for_the_drain() {
    let gate = leased(1);
    let closing = || {
        gate.set_limit(0);
        2_500
    };
    let refused = Admission::Refused {
        lapsed: true,
        wake: true,
    };
    assert_eq!(gate.enter(ONE, closing), refused);
}

#[test]
fn r55_no_operation_passes_in_a_later_reign_than_it_arrived_in() {
    let gate = leased(1);
    gate.latch();
    assert!(gate.open_epoch(9, 9, 2_500));
    let outlived = Admission::Outlived { wake: false };
    assert_eq!(gate.enter_waiting(ONE, 7, || 2_000), outlived);
    assert_eq!(gate.enter_waiting(ONE, 8, || 2_000), outlived);
    assert_eq!(gate.enter_long(ONE, 7, Taken::No, || 2_000), outlived);
    assert!(matches!(
        gate.take_short(LaneLayout::Single, ONE),
        Taken::Unsure
    ));
    assert_eq!(gate.check_short(7, || 2_000), None);
    assert_eq!(gate.enter_long(ONE, 7, Taken::Sure, || 2_000), outlived);
    assert_eq!(gate.count().open, 0, "its permit was given back");

    assert!(is_granted(gate.enter_waiting(ONE, 9, || 2_000)));
    assert_eq!(
        gate.enter_waiting(ONE, 8, || 2_000),
        outlived,
        "it does not wait for room either"
    );
    gate.set_limit(0);
    assert_eq!(gate.enter_waiting(ONE, 8, || 2_000), outlived);
}

#[test]
fn r55_an_operation_of_an_earlier_term_of_the_same_reign_passes() {
    let gate = leased(1);
    gate.latch();
    assert!(gate.open_epoch(8, 7, 2_500));
    assert!(is_granted(gate.enter_waiting(ONE, 7, || 2_000)));
    assert!(gate.check_short(7, || 2_000).is_some());
}

#[test]
fn r34_a_closed_gate_admits_no_operation_and_drains() {
    let gate = leased(2);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    gate.set_limit(0);
    assert_eq!(gate.enter(ONE, || 1_500), FULL);
    assert!(!gate.is_drained());
    assert!(gate.leave(ONE).wake);
    assert!(gate.is_drained());
}

#[test]
fn no_wake_up_is_lost_when_room_appears_while_queueing() {
    let gate = leased(1);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert_eq!(gate.enter(ONE, || 1_500), FULL);
    assert!(!gate.leave(ONE).wake);
    assert!(
        gate.wait(ONE),
        "there is room, and no operation left that would wake the waiter"
    );
}

#[test]
fn r13_a_limit_that_is_lowered_while_a_permit_is_taken_is_not_exceeded() {
    let gate = leased(2);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    gate.set_limit(1);
    assert_eq!(gate.enter(ONE, || 1_500), FULL);
    gate.set_limit(2);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert_eq!((gate.count().open, gate.count().peak), (2, 2));
}

#[test]
fn r34_a_closed_gate_keeps_its_lease_and_stays_closed_over_a_latch() {
    let gate = leased(2);
    let closing = || {
        gate.set_limit(0);
        1_500
    };
    // The clock is read after the lease: this operation passed before the gate was closed.
    assert!(is_granted(gate.enter(ONE, closing)));
    assert!(!gate.is_drained());
    assert_eq!(gate.enter(ONE, || 1_500), FULL);
    assert!(gate.leave(ONE).wake && gate.is_drained());
    assert!(gate.extend(2_000, 2_500), "a closed gate keeps its lease");
    gate.latch();
    assert!(gate.is_drained(), "a latched one stays closed");
    assert!(gate.open_epoch(8, 7, 3_000));
    assert_eq!(gate.enter(ONE, || 2_500), FULL);
}

const MEMBERS: u8 = 3;
const FIELDS: Fields = Fields::new(MEMBERS);

#[test]
fn r17_in_a_closed_gate_the_last_one_to_leave_wakes_the_dispatcher() {
    let gate = leased(2);
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    assert!(is_granted(gate.enter(ONE, || 1_500)));
    gate.set_limit(0);
    assert!(!gate.leave(ONE).wake);
    assert!(gate.leave(ONE).wake);
}

/// Whether an operation passes on the short path alone. Its permit stays open.
fn is_short(gate: &Gate<AtomicU64, Lanes>, place: Place) -> bool {
    let taken = gate.take_short(gate.layout(), place);
    matches!(taken, Taken::Sure) && gate.check_short(7, || 1_500).is_some()
}

/// The gate after its first operation, which takes the long path to set the peak.
fn used(gate: Gate<AtomicU64, Lanes>, place: Place) -> Gate<AtomicU64, Lanes> {
    assert!(is_granted(gate.enter(place, || 1_500)));
    assert!(!gate.leave(place).wake);
    gate
}

#[test]
fn r13_members_of_a_row_are_counted_with_those_of_all_rows_once_each() {
    let gate = rows(2);
    let takes = |place, open| {
        assert!(is_granted(gate.enter(place, || 1_500)));
        assert_eq!(gate.count().open, open);
    };
    takes(row(9, 2), 1);
    takes(Place::rows(FIELDS.unit(2)), 1);
    takes(row(9, 1), 2);
    takes(row(other(9), 1), 2);
}

#[test]
fn r13_a_member_with_permits_in_a_row_and_in_all_rows_leaves_no_room_for_another() {
    let all = |member| Place::rows(FIELDS.unit(member));
    let open = |limit, places: &[Place]| {
        let gate = rows(limit);
        for place in places {
            assert!(is_granted(gate.enter(*place, || 1_500)));
        }
        gate
    };
    let gate = open(1, &[row(9, 2), all(2)]);
    assert!(!is_granted(gate.enter(row(9, 1), || 1_500)));
    let gate = open(2, &[row(9, 0), row(9, 1), all(0)]);
    assert!(!is_granted(gate.enter(all(2), || 1_500)));
    let gate = open(2, &[row(9, 0), all(0), all(1)]);
    assert!(!is_granted(gate.enter(row(9, 2), || 1_500)));
}

#[test]
fn r13_an_ordinary_operation_takes_the_short_path() {
    let gate = used(leased(2), ONE);
    assert!(is_short(&gate, ONE));
    assert!(!is_short(&gate, ONE), "more than ever before");

    let lane = Place::cpu(1);
    let gate = used(counted(LaneLayout::PerCpu, 2, UNLIMITED), lane);
    assert!((0..3).all(|_| is_short(&gate, lane)));
    gate.set_limit(8);
    assert!(
        !is_short(&gate, lane),
        "the limit is checked on the long path"
    );
    gate.set_limit(UNLIMITED);
    assert!(is_short(&gate, lane));

    let gate = used(rows(1), row(9, 0));
    assert!((0..3).all(|_| is_short(&gate, row(9, 0))), "one member");
    assert!(
        !is_short(&gate, row(9, 1)),
        "another member of the same row"
    );
    assert!(is_short(&gate, row(other(9), 1)), "another row");
}

fn rows(limit: u32) -> Gate<AtomicU64, Lanes> {
    counted(LaneLayout::Rows(FIELDS), 1, limit)
}

fn row(row: u64, member: u8) -> Place {
    Place::row(FIELDS.unit(member), row)
}

/// A row that has another lane than `first`.
fn other(first: u64) -> u64 {
    let lane = row(first, 0).lane();
    (first + 1..).find(|&it| row(it, 0).lane() != lane).unwrap()
}

#[test]
fn r19_many_operations_on_one_member_of_a_row_put_one_member_at_risk() {
    let gate = rows(1);
    for _ in 0..20 {
        assert!(is_granted(gate.enter(row(9, 1), || 1_500)));
    }
    assert_eq!(gate.enter(row(9, 0), || 1_500), FULL);
    assert_eq!(gate.enter(row(9, 2), || 1_500), FULL);
    assert!(
        is_granted(gate.enter(row(other(9), 0), || 1_500)),
        "rows are independent"
    );
    assert_eq!((gate.count().open, gate.count().peak), (1, 1));
    for _ in 0..20 {
        assert!(!gate.leave(row(9, 1)).wake);
    }
    assert!(is_granted(gate.enter(row(9, 0), || 1_500)));
}

#[test]
fn r16_a_row_never_has_more_members_at_risk_than_the_limit() {
    let gate = rows(2);
    assert!(is_granted(gate.enter(row(9, 0), || 1_500)));
    assert!(is_granted(gate.enter(row(9, 1), || 1_500)));
    assert_eq!(gate.enter(row(9, 2), || 1_500), FULL);
    assert!(!gate.wait(row(9, 2)));
    assert!(gate.leave(row(9, 0)).wake);
    assert!(is_granted(gate.enter_waiting(row(9, 2), 7, || 1_500)));
    assert_eq!(gate.count().peak, 2);
}

#[test]
fn r19_an_operation_on_many_rows_counts_for_every_row() {
    let gate = rows(1);
    let wide = |member| Place::rows(FIELDS.unit(member));
    assert!(is_granted(gate.enter(wide(1), || 1_500)));
    assert_eq!(gate.enter(row(9, 0), || 1_500), FULL);
    assert!(
        is_granted(gate.enter(row(9, 1), || 1_500)),
        "the same member"
    );
    assert_eq!(gate.enter(wide(2), || 1_500), FULL);
    assert!(
        gate.leave(wide(1)).wake,
        "any waiting operation may wait for this"
    );
    assert_eq!(
        gate.enter(wide(2), || 1_500),
        Admission::Full { wake: true },
        "a row is in use by another member: the permit goes back"
    );
    assert!(!gate.wait(wide(2)));
    let marked = gate
        .all()
        .filter(|lane| AtomicWord::load(*lane) & WAITERS != 0);
    assert_eq!(marked.count(), 2, "the row in use, and the wide word");
    assert_eq!(
        gate.enter(row(other(9), 2), || 1_500),
        FULL,
        "no operation overtakes it"
    );
    assert!(!is_short(&gate, row(other(9), 2)), "nor the short path");
    assert_eq!(
        gate.enter_long(row(other(9), 2), 7, Taken::Unsure, || 1_500),
        FULL
    );
    assert!(gate.leave(row(9, 1)).wake);
    assert!(is_granted(gate.enter_waiting(wide(2), 7, || 1_500)));
    gate.no_waiters(wide(2));
    assert!(gate.all().all(|lane| AtomicWord::load(lane) & WAITERS == 0));
    gate.set_limit(0);
    assert!(!gate.is_drained());
    gate.leave(wide(2));
    assert!(gate.is_drained());
}

#[test]
fn r13_a_limit_that_is_set_later_bounds_the_sum_of_all_lanes() {
    let gate = counted(LaneLayout::PerCpu, 4, UNLIMITED);
    for cpu in 0..4 {
        assert!(is_granted(gate.enter(Place::cpu(cpu), || 1_500)));
    }
    assert_eq!((gate.count().open, gate.count().peak), (4, 0));
    gate.set_limit(4);
    assert!(matches!(
        gate.enter(Place::cpu(0), || 1_500),
        Admission::Full { .. }
    ));
    assert!(!gate.wait(Place::cpu(0)));
    assert!(
        gate.leave(Place::cpu(3)).wake,
        "the operation waits for every lane"
    );
    assert_eq!(
        gate.enter(Place::cpu(1), || 1_500),
        Admission::Full { wake: true },
        "there is room, and another operation waits for it already"
    );
    assert!(is_granted(gate.enter_waiting(Place::cpu(0), 7, || 1_500)));
    gate.no_waiters_at_all();
    assert!(gate.all().all(|lane| AtomicWord::load(lane) & WAITERS == 0));
    gate.set_limit(0);
    for cpu in [0, 0, 1, 2] {
        assert!(!gate.is_drained());
        gate.leave(Place::cpu(cpu));
    }
    assert!(gate.is_drained());
}

#[test]
fn unlimited_is_wide_enough() {
    let gate = leased(UNLIMITED);
    for _ in 0..1_000 {
        assert!(is_granted(gate.enter(ONE, || 1_500)));
    }
    assert_eq!(gate.count().limit, UNLIMITED);
}
