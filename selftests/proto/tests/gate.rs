// SPDX-License-Identifier: GPL-2.0
//! The gate under every interleaving: the very code that `map`, `end_io`, the heartbeat and a
//! release run in the kernel, on loom's words instead of the kernel's.
//!
//! Each test is a handful of calls, since loom tries every order of every access to every word, and
//! what a load may still see of older values.

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

/// A gate with a lease; as many lanes as a test can follow.
fn leased(counting: LaneLayout, lanes: usize, limit: u32) -> Arc<Shipped> {
    let words = (0..lanes).map(|_| Kernel::zero()).collect();
    let gate = Gate::new(L, limit, counting, words);
    assert!(gate.open_epoch(7, 7, EXPIRY));
    Arc::new(gate)
}

fn in_time() -> u64 {
    EXPIRY - 1
}

fn row(member: u8) -> Place {
    // Row 0 has lane 0, the only one there is here.
    Place::row(FIELDS.unit(member), 0)
}

fn granted(admission: Admission) -> Option<Check> {
    match admission {
        Admission::Granted(check) => Some(check),
        _ => None,
    }
}

/// Enters and leaves, and says how many were inside at most.
fn visit(gate: &Shipped, place: Place, inside: &AtomicUsize) -> usize {
    if granted(gate.enter(place, in_time)).is_none() {
        return 0;
    }
    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
    inside.fetch_sub(1, Ordering::SeqCst);
    gate.leave(place);
    now
}

fn never_more_than_one(counting: LaneLayout, charges: [Place; 2]) {
    model(move || {
        let gate = leased(counting, 1, 1);
        let inside = Arc::new(AtomicUsize::new(0));
        let other = {
            let (gate, inside) = (gate.clone(), inside.clone());
            thread::spawn(move || visit(&gate, charges[0], &inside))
        };
        let here = visit(&gate, charges[1], &inside);
        let there = other.join().unwrap();
        assert!(here <= 1 && there <= 1, "two were inside at once");
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
fn r19_nor_a_row_and_an_operation_on_many() {
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
        // As many as may have been there already: the next one finds nothing to note.
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

/// A release closes the gate and waits until it is empty; from then on nobody is inside.
fn drained_is_final(counting: LaneLayout, lanes: usize, charges: &'static [Place]) {
    model(move || {
        let gate = leased(counting, lanes, UNLIMITED.min(4));
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
                    assert_eq!(over.load(Ordering::SeqCst), 0, "inside after the drain");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    gate.leave(place).wake
                })
            })
            .collect();
        gate.set_limit(0);
        let drained = gate.is_drained();
        if drained {
            over.store(1, Ordering::SeqCst);
            assert_eq!(inside.load(Ordering::SeqCst), 0, "drained with one inside");
        }
        let mut woken = false;
        for other in others {
            woken |= other.join().unwrap();
        }
        assert!(gate.is_drained());
        assert!(drained || woken, "nobody says that the gate is empty");
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
fn r9_a_heartbeat_and_whoever_sees_the_end_do_not_overwrite_each_other() {
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
                assert!(extended, "granted under a lease that nobody gave");
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
fn r18_nothing_is_acknowledged_for_an_epoch_that_is_not_the_leases() {
    model(|| {
        let gate = leased(LaneLayout::Single, 1, 4);
        let next = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.latch();
                assert!(gate.open_epoch(8, 7, EXPIRY + L));
            })
        };
        // The clock stands where both leases are valid: only the epoch tells them apart.
        let before = gate.acknowledge_short(&7, in_time) || gate.acknowledge(7, in_time).is_ok();
        next.join().unwrap();
        let after = gate.acknowledge_short(&7, in_time) || gate.acknowledge(7, in_time).is_ok();
        assert!(!after && (before || gate.epoch() == 8));
    });
}

/// The lease of a new reign begins while an operation that arrived in the last one is at the gate.
#[test]
fn r55_nothing_of_an_earlier_reign_passes_when_the_next_one_begins() {
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
        assert!(short.is_none(), "it passed at a glance");
        assert!(granted(long).is_none(), "it passed the long way");
    });
}

/// One operation finds no room and waits, another one leaves: somebody wakes the dispatcher.
fn no_wake_up_is_lost(counting: LaneLayout, lanes: usize, leaver: Place, waiter: Place) {
    model(move || {
        let gate = leased(counting, lanes, if lanes > 1 { UNLIMITED } else { 1 });
        assert!(granted(gate.enter(leaver, in_time)).is_some());
        gate.set_limit(1);
        let other = {
            let gate = gate.clone();
            thread::spawn(move || gate.leave(leaver).wake)
        };
        let woken = match gate.enter(waiter, in_time) {
            Admission::Granted(_) => true,
            // What is woken by the permit that went back comes before the queueing, and is no help.
            Admission::Full { .. } => gate.wait(waiter),
            _ => panic!("the lease is valid"),
        };
        assert!(other.join().unwrap() || woken, "it waits for ever");
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

/// One operation waits for every row, one on a row comes and goes, and does not wait if there is no
/// room: the lane of that row was in use for a moment only.
#[test]
fn r17_no_wake_up_is_lost_to_one_that_steps_back() {
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
        assert!(other.join().unwrap() || goes, "it waits for ever");
    });
}

/// An operation waits for every row: one that comes later goes behind it, on whatever row.
#[test]
fn r17_nobody_overtakes_an_operation_on_many_rows() {
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

/// Two that meet in different words may both step back; then both wait, and whoever stepped back
/// last has woken the dispatcher or found room.
#[test]
fn r17_two_that_step_back_for_each_other_do_not_both_sleep() {
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
