// SPDX-License-Identifier: GPL-2.0
//! The gate under every interleaving. This is the code that `map`, `end_io`, the heartbeat and a
//! release run in the kernel, with loom's atomic words instead of the kernel's.
//!
//! Each test makes few calls, because loom tries every order of all accesses to every word, and
//! every older value that a load may still see.

mod words;

use dm_lease_proto::proto::gate::lanes::{Fields, LaneLayout, Place, UNLIMITED};
use dm_lease_proto::proto::gate::permits::{Admission, Check, Gate, Taken};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::Arc;
use loom::thread;
use words::{model, Kernel};

const L: u64 = 1_000;
const EXPIRY: u64 = 2_000;
const FIELDS: Fields = Fields::new(3);

type Shipped = Gate<Kernel, Vec<Kernel>>;

/// A gate with a lease, and with only as many lanes as loom can explore.
fn leased(layout: LaneLayout, lanes: usize, limit: u32) -> Arc<Shipped> {
    let words = (0..lanes).map(|_| Kernel::zero()).collect();
    let gate = Gate::new(L, limit, layout, words);
    assert!(gate.open_epoch(7, 7, EXPIRY));
    Arc::new(gate)
}

fn in_time() -> u64 {
    EXPIRY - 1
}

fn row(member: u8) -> Place {
    // Row 0 has lane 0, the only lane here.
    Place::row(FIELDS.unit(member), 0)
}

fn granted(admission: Admission) -> Option<Check> {
    match admission {
        Admission::Granted(check) => Some(check),
        _ => None,
    }
}

/// Enters and leaves; `inside` counts the operations that are inside at once.
fn visit(gate: &Shipped, place: Place, inside: &AtomicUsize) -> usize {
    if granted(gate.enter(place, in_time)).is_none() {
        return 0;
    }
    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
    inside.fetch_sub(1, Ordering::SeqCst);
    gate.leave(place);
    now
}

fn never_more_than_one(layout: LaneLayout, charges: [Place; 2]) {
    model(move || {
        let gate = leased(layout, 1, 1);
        let inside = Arc::new(AtomicUsize::new(0));
        let other = {
            let (gate, inside) = (gate.clone(), inside.clone());
            thread::spawn(move || visit(&gate, charges[0], &inside))
        };
        let here = visit(&gate, charges[1], &inside);
        let there = other.join().unwrap();
        assert!(
            here <= 1 && there <= 1,
            "two operations were inside at once"
        );
        assert_eq!(gate.count().open, 0);
        assert!(gate.count().peak <= 1);
    });
}

#[test]
fn r13_two_operations_do_not_share_the_last_permit() {
    never_more_than_one(LaneLayout::Single, [Place::ONE; 2]);
}

#[test]
fn r16_two_members_of_a_row_are_not_at_risk_at_once() {
    never_more_than_one(LaneLayout::Rows(FIELDS), [row(0), row(1)]);
}

#[test]
fn r19_a_row_and_an_operation_on_many_rows_are_not_at_risk_at_once() {
    never_more_than_one(
        LaneLayout::Rows(FIELDS),
        [row(0), Place::rows(FIELDS.unit(1))],
    );
}

#[test]
fn r13_a_limit_set_later_bounds_all_lanes_together() {
    model(|| {
        let gate = leased(LaneLayout::PerCpu, 16, UNLIMITED);
        gate.set_limit(1);
        let inside = Arc::new(AtomicUsize::new(0));
        let other = {
            let (gate, inside) = (gate.clone(), inside.clone());
            thread::spawn(move || visit(&gate, Place::cpu(1), &inside))
        };
        let here = visit(&gate, Place::cpu(0), &inside);
        assert!(here <= 1 && other.join().unwrap() <= 1);
    });
}

#[test]
fn r14_a_lowered_limit_holds_for_the_next_permit() {
    model(|| {
        let gate = leased(LaneLayout::Single, 1, 2);
        assert!(granted(gate.enter(Place::ONE, in_time)).is_some());
        // Raises the peak to the limit, so that the next operation does not change it.
        assert!(granted(gate.enter(Place::ONE, in_time)).is_some());
        gate.leave(Place::ONE);
        let other = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.set_limit(1);
                gate.count().open
            })
        };
        let second = granted(gate.enter(Place::ONE, in_time)).is_some();
        let open = other.join().unwrap();
        assert!(!second || open == 2, "admitted after the limit was lowered");
    });
}

/// A release closes the gate and waits until it is empty. After that no operation is inside.
fn drained_is_final(layout: LaneLayout, lanes: usize, charges: &'static [Place]) {
    model(move || {
        let gate = leased(layout, lanes, UNLIMITED.min(4));
        let (inside, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let others: Vec<_> = charges
            .iter()
            .map(|&place| {
                let (gate, inside, over) = (gate.clone(), inside.clone(), over.clone());
                thread::spawn(move || {
                    match gate.enter(place, in_time) {
                        Admission::Granted(_) => {}
                        Admission::Full { wake } => return wake,
                        _ => panic!("the lease is valid"),
                    }
                    inside.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(
                        over.load(Ordering::SeqCst),
                        0,
                        "an operation is inside after the drain"
                    );
                    inside.fetch_sub(1, Ordering::SeqCst);
                    gate.leave(place).wake
                })
            })
            .collect();
        gate.set_limit(0);
        let drained = gate.is_drained();
        if drained {
            over.store(1, Ordering::SeqCst);
            assert_eq!(
                inside.load(Ordering::SeqCst),
                0,
                "drained with an operation inside"
            );
        }
        let mut woken = false;
        for other in others {
            woken |= other.join().unwrap();
        }
        assert!(gate.is_drained());
        assert!(drained || woken, "no thread reports that the gate is empty");
    });
}

#[test]
fn r34_a_drained_gate_stays_empty() {
    static CHARGES: [Place; 2] = [Place::ONE; 2];
    drained_is_final(LaneLayout::Single, 1, &CHARGES);
}

#[test]
fn r34_a_drained_gate_with_a_lane_for_each_cpu_stays_empty() {
    static CHARGES: [Place; 1] = [Place::cpu(1)];
    drained_is_final(LaneLayout::PerCpu, 9, &CHARGES);
}

#[test]
fn r34_a_drained_gate_that_counts_rows_stays_empty() {
    static CHARGES: [Place; 1] = [Place::rows(FIELDS.unit(2))];
    drained_is_final(LaneLayout::Rows(FIELDS), 1, &CHARGES);
}

#[test]
fn r9_a_heartbeat_and_the_thread_that_sees_the_end_do_not_overwrite_each_other() {
    model(|| {
        let gate = leased(LaneLayout::Single, 1, 4);
        let heart = {
            let gate = gate.clone();
            thread::spawn(move || gate.extend(EXPIRY, EXPIRY + L))
        };
        let admission = gate.enter(Place::ONE, || EXPIRY + 1);
        let extended = heart.join().unwrap();
        match admission {
            Admission::Granted(check) => {
                assert!(extended, "granted under a lease that was not given");
                assert_eq!(check.expiry_ns, EXPIRY + L);
            }
            Admission::Refused { lapsed, .. } => {
                assert!(lapsed && !extended, "a latched lease was revived");
                assert_eq!(gate.expiry_ns(), 0);
            }
            _ => panic!("there was room, and it has just come"),
        }
    });
}

#[test]
fn r18_no_success_is_acknowledged_for_another_epoch_than_that_of_the_lease() {
    model(|| {
        let gate = leased(LaneLayout::Single, 1, 4);
        let next = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.latch();
                assert!(gate.open_epoch(8, 7, EXPIRY + L));
            })
        };
        // Both leases are valid at this time, so only the epoch tells them apart.
        let before = gate.acknowledge_short(&7, in_time) || gate.acknowledge(7, in_time).is_ok();
        next.join().unwrap();
        let after = gate.acknowledge_short(&7, in_time) || gate.acknowledge(7, in_time).is_ok();
        assert!(!after && (before || gate.epoch() == 8));
    });
}

/// The lease of a new reign begins while an operation of the last reign is at the gate.
#[test]
fn r55_no_operation_of_an_earlier_reign_passes_when_the_next_one_begins() {
    model(|| {
        let gate = leased(LaneLayout::Single, 1, 4);
        gate.latch();
        let next = {
            let gate = gate.clone();
            thread::spawn(move || assert!(gate.open_epoch(9, 9, EXPIRY)))
        };
        let short = match gate.take_short(LaneLayout::Single, Place::ONE) {
            Taken::No => None,
            Taken::Sure | Taken::Unsure => gate.check_short(7, in_time),
        };
        let long = gate.enter_waiting(Place::ONE, 7, in_time);
        next.join().unwrap();
        assert!(short.is_none(), "the operation passed on the short path");
        assert!(
            granted(long).is_none(),
            "the operation passed on the long path"
        );
    });
}

/// One operation finds no room and waits, and another one leaves: one of the two wakes the
/// dispatcher.
fn no_wake_up_is_lost(layout: LaneLayout, lanes: usize, leaver: Place, waiter: Place) {
    model(move || {
        let gate = leased(layout, lanes, if lanes > 1 { UNLIMITED } else { 1 });
        assert!(granted(gate.enter(leaver, in_time)).is_some());
        gate.set_limit(1);
        let other = {
            let gate = gate.clone();
            thread::spawn(move || gate.leave(leaver).wake)
        };
        let woken = match gate.enter(waiter, in_time) {
            Admission::Granted(_) => true,
            // The wake-up for the permit that was given back comes before the queueing, so it does
            // not help.
            Admission::Full { .. } => gate.wait(waiter),
            _ => panic!("the lease is valid"),
        };
        assert!(
            other.join().unwrap() || woken,
            "the operation waits for ever"
        );
    });
}

#[test]
fn r17_no_wake_up_is_lost() {
    no_wake_up_is_lost(LaneLayout::Single, 1, Place::ONE, Place::ONE);
}

#[test]
fn r17_no_wake_up_is_lost_in_a_row() {
    no_wake_up_is_lost(LaneLayout::Rows(FIELDS), 1, row(0), row(1));
}

#[test]
fn r17_no_wake_up_is_lost_behind_an_operation_on_many_rows() {
    no_wake_up_is_lost(
        LaneLayout::Rows(FIELDS),
        1,
        Place::rows(FIELDS.unit(0)),
        row(1),
    );
}

#[test]
fn r17_no_wake_up_is_lost_before_an_operation_on_many_rows() {
    no_wake_up_is_lost(
        LaneLayout::Rows(FIELDS),
        1,
        row(0),
        Place::rows(FIELDS.unit(1)),
    );
}

#[test]
fn r17_no_wake_up_is_lost_across_lanes() {
    no_wake_up_is_lost(LaneLayout::PerCpu, 9, Place::cpu(1), Place::cpu(0));
}

/// One operation waits for every row. Another one, on a row, takes a permit and gives it back, and
/// does not wait if there is no room: the lane of that row was in use for a moment only.
#[test]
fn r17_no_wake_up_is_lost_to_an_operation_that_gives_its_permit_back() {
    model(|| {
        let gate = leased(LaneLayout::Rows(FIELDS), 1, 1);
        let other = {
            let gate = gate.clone();
            thread::spawn(move || match gate.enter(row(0), in_time) {
                Admission::Granted(_) => gate.leave(row(0)).wake,
                Admission::Full { wake } => wake,
                _ => panic!("the lease is valid"),
            })
        };
        let wide = Place::rows(FIELDS.unit(1));
        let goes = match gate.enter(wide, in_time) {
            Admission::Granted(_) => true,
            Admission::Full { .. } => gate.wait(wide),
            _ => panic!("the lease is valid"),
        };
        assert!(
            other.join().unwrap() || goes,
            "the operation waits for ever"
        );
    });
}

/// An operation waits for every row. A later one goes behind it, whatever its row is.
#[test]
fn r17_no_operation_overtakes_one_on_many_rows() {
    model(|| {
        let gate = leased(LaneLayout::Rows(FIELDS), 1, 1);
        let wide = Place::rows(FIELDS.unit(1));
        assert!(gate.wait(wide), "the lane is empty");
        let short = gate.take_short(LaneLayout::Rows(FIELDS), row(0));
        assert!(!matches!(short, Taken::Sure));
        assert!(granted(gate.enter_long(row(0), 7, short, in_time)).is_none());
        assert!(granted(gate.enter_long(row(0), 7, Taken::No, in_time)).is_none());
        assert_eq!(gate.count().open, 0);
    });
}

/// Two operations that meet in different words may both give their permits back. Then both wait,
/// and the last of them has woken the dispatcher or found room.
#[test]
fn r17_two_operations_that_give_way_to_each_other_do_not_both_sleep() {
    model(|| {
        let gate = leased(LaneLayout::Rows(FIELDS), 1, 1);
        let try_or_wait = |gate: &Shipped, place| match gate.enter(place, in_time) {
            Admission::Granted(_) => {
                gate.leave(place);
                true
            }
            Admission::Full { .. } => gate.wait(place),
            _ => panic!("the lease is valid"),
        };
        let other = {
            let gate = gate.clone();
            thread::spawn(move || try_or_wait(&gate, Place::rows(FIELDS.unit(1))))
        };
        let here = try_or_wait(&gate, row(0));
        assert!(
            other.join().unwrap() || here,
            "both wait, and nobody wakes them"
        );
    });
}
