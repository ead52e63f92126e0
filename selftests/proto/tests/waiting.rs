// SPDX-License-Identifier: GPL-2.0
//! The wait queues of the gate under every interleaving: the code that `map` runs if there is no
//! room, the dispatcher after a wake-up, and the latch.
//!
//! An operation here is only its place, and it ends as soon as it goes. As in the kernel, several
//! wake-ups of the dispatcher may become one. When all threads and the dispatcher have finished, no
//! operation may still wait [R17].

mod words;

use dm_lease_proto::proto::gate::lanes::{Fields, LaneLayout, Place};
use dm_lease_proto::proto::gate::permits::{Admission, Check, Gate};
use dm_lease_proto::proto::gate::waiting::{
    dispatch, refuse_if_over, wait, Dispatcher, OpList, WaitQueues,
};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::collections::VecDeque;
use words::{model, Kernel};

const L: u64 = 1_000;
const EXPIRY: u64 = 2_000;
const FIELDS: Fields = Fields::new(3);

struct Queue(VecDeque<Place>);

impl OpList for Queue {
    type Op = Place;

    fn empty() -> Self {
        Queue(VecDeque::new())
    }

    fn push(&mut self, op: Place) {
        self.0.push_back(op);
    }

    fn pop(&mut self) -> Option<Place> {
        self.0.pop_front()
    }

    fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Portion {
    gate: Gate<Kernel, Vec<Kernel>>,
    waiting: Mutex<WaitQueues<Queue>>,
    woken: AtomicBool,
    /// Operations that went, and operations that were refused.
    gone: AtomicUsize,
    refused: AtomicUsize,
}

impl Portion {
    /// A gate with a lease that has one lane and a limit of one.
    fn new(layout: LaneLayout) -> Arc<Self> {
        let gate = Gate::new(L, 1, layout, vec![Kernel::zero()]);
        assert!(gate.open_epoch(7, 7, EXPIRY));
        Arc::new(Self {
            gate,
            waiting: Mutex::new(WaitQueues::new()),
            woken: AtomicBool::new(false),
            gone: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        })
    }

    fn wake(&self, wake: bool) {
        if wake {
            self.woken.store(true, Ordering::SeqCst);
        }
    }

    fn leave(&self, place: Place) {
        self.gone.fetch_add(1, Ordering::SeqCst);
        self.wake(self.gate.leave(place).wake);
    }

    /// An operation arrives at the gate.
    fn arrive(&self, place: Place) {
        match self.gate.enter(place, || self.now_ns()) {
            Admission::Granted(_) => self.leave(place),
            Admission::Full { wake } => {
                self.wake(wake);
                let (room, ()) = wait(self, place, || Ok::<_, ()>((place, ()))).unwrap();
                self.wake(room);
            }
            Admission::Refused { wake, .. } => self.refuse(place, false, wake),
            Admission::Outlived { wake } => self.fail_outlived(place, wake),
        }
    }

    /// An operation that holds the only permit until it [leaves](Portion::leave).
    fn enters(&self, place: Place) {
        let admission = self.gate.enter(place, || self.now_ns());
        assert!(matches!(admission, Admission::Granted(_)));
    }

    /// Runs the dispatcher if it was woken. Returns whether it was.
    fn serve(&self) -> bool {
        let was_woken = self.woken.swap(false, Ordering::SeqCst);
        if was_woken {
            dispatch(self);
        }
        was_woken
    }

    fn ends(&self, operations: usize) {
        while self.serve() {}
        let waiting = self.with(|waiting| waiting.len());
        assert_eq!(waiting, 0, "{waiting} operations wait without a wake-up");
        let gone = self.gone.load(Ordering::SeqCst);
        let refused = self.refused.load(Ordering::SeqCst);
        assert_eq!(gone + refused, operations);
    }
}

impl Dispatcher for Portion {
    type List = Queue;
    type Op = Place;
    type Word = Kernel;
    type Lanes = Vec<Kernel>;

    fn gate(&self) -> &Gate<Kernel, Vec<Kernel>> {
        &self.gate
    }

    fn with<R>(&self, f: impl FnOnce(&mut WaitQueues<Queue>) -> R) -> R {
        f(&mut self.waiting.lock().unwrap())
    }

    fn now_ns(&self) -> u64 {
        EXPIRY - 1
    }

    fn place(&self, op: &mut Place) -> Place {
        *op
    }

    fn is_called_back(&self, _op: &Place) -> bool {
        false
    }

    fn arrived(&self, _op: &mut Place) -> u64 {
        7
    }

    fn call_back(&self) {}

    fn fail_outlived(&self, _op: Place, _wake: bool) {
        panic!("there is one reign");
    }

    fn go(&self, op: Place, _epoch: u64, _check: Check) {
        self.leave(op);
    }

    fn refuse(&self, _op: Place, _lapsed: bool, wake: bool) {
        self.wake(wake);
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    fn refuse_all(&self, ops: Queue) {
        self.refused.fetch_add(ops.len(), Ordering::SeqCst);
    }
}

fn row(member: u8) -> Place {
    // Row 0 has lane 0, the only lane here.
    Place::row(FIELDS.unit(member), 0)
}

/// One operation is inside and leaves, one waits for it, and one arrives; the dispatcher runs
/// concurrently.
fn no_operation_waits_for_ever(layout: LaneLayout, inside: Place, waits: Place, comes: Place) {
    model(move || {
        let portion = Portion::new(layout);
        portion.enters(inside);
        portion.arrive(waits);
        let leaver = {
            let portion = portion.clone();
            thread::spawn(move || {
                portion.leave(inside);
                portion.serve();
            })
        };
        portion.arrive(comes);
        leaver.join().unwrap();
        portion.ends(3);
    });
}

#[test]
fn r17_no_operation_waits_for_ever() {
    no_operation_waits_for_ever(LaneLayout::Single, Place::ONE, Place::ONE, Place::ONE);
}

#[test]
fn r17_no_operation_waits_for_ever_for_a_row() {
    no_operation_waits_for_ever(LaneLayout::Rows(FIELDS), row(0), row(1), row(2));
}

#[test]
fn r17_an_arriving_operation_on_many_rows_does_not_lose_its_wake_up() {
    no_operation_waits_for_ever(
        LaneLayout::Rows(FIELDS),
        row(0),
        row(1),
        Place::rows(FIELDS.unit(2)),
    );
}

#[test]
fn r17_a_waiting_operation_on_many_rows_does_not_lose_its_wake_up() {
    no_operation_waits_for_ever(
        LaneLayout::Rows(FIELDS),
        row(0),
        Place::rows(FIELDS.unit(1)),
        row(2),
    );
}

#[test]
fn r17_an_operation_that_arrives_during_a_dispatch_does_not_lose_its_wake_up() {
    model(|| {
        let portion = Portion::new(LaneLayout::Rows(FIELDS));
        portion.enters(row(0));
        portion.arrive(row(1));
        portion.leave(row(0));
        let dispatcher = {
            let portion = portion.clone();
            thread::spawn(move || portion.serve())
        };
        // This operation holds a permit of its own for a while, so the arriving one may find no
        // room.
        portion.arrive(Place::rows(FIELDS.unit(2)));
        dispatcher.join().unwrap();
        portion.ends(3);
    });
}

#[test]
fn r17_operations_that_wait_when_the_lease_is_latched_are_refused() {
    model(|| {
        let portion = Portion::new(LaneLayout::Single);
        portion.enters(Place::ONE);
        let heart = {
            let portion = portion.clone();
            thread::spawn(move || {
                portion.gate.latch();
                refuse_if_over(&*portion);
            })
        };
        portion.arrive(Place::ONE);
        heart.join().unwrap();
        // The refusal does not depend on an operation that leaves, which may never happen.
        assert!(portion.with(|waiting| waiting.is_empty()));
        portion.leave(Place::ONE);
        portion.ends(2);
    });
}

#[test]
fn r17_waiting_operations_go_in_order_and_those_on_many_rows_first() {
    model(|| {
        let portion = Portion::new(LaneLayout::Rows(FIELDS));
        portion.enters(row(0));
        let order = [row(1), Place::rows(FIELDS.unit(2)), row(2)];
        order.into_iter().for_each(|place| portion.arrive(place));
        let queued = portion.with(|waiting| waiting.take_all());
        let expected = [Place::rows(FIELDS.unit(2)), row(1), row(2)];
        assert!(queued.0.iter().eq(expected.iter()));
        portion.refuse_all(queued);
        portion.leave(row(0));
        portion.ends(4);
    });
}
