// SPDX-License-Identifier: GPL-2.0
//! Tests of the wait queues, one thread at a time; `selftests/proto/tests/waiting.rs` has threads.

use super::*;
use crate::proto::gate::lanes::Fields;
use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU64;
use std::collections::VecDeque;
use std::vec::Vec;

impl<T> OpList for VecDeque<T> {
    type Op = T;

    fn empty() -> Self {
        VecDeque::new()
    }

    fn push(&mut self, op: T) {
        self.push_back(op);
    }

    fn pop(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn append(&mut self, mut others: Self) {
        VecDeque::append(self, &mut others);
    }

    fn len(&self) -> usize {
        VecDeque::len(self)
    }

    fn is_empty(&self) -> bool {
        VecDeque::is_empty(self)
    }
}

/// An operation: its name, and its place.
type Op = (u32, Place);

struct Portion {
    gate: Gate<AtomicU64, Vec<AtomicU64>>,
    waiting: RefCell<WaitQueues<VecDeque<Op>>>,
    gone: RefCell<Vec<u32>>,
    /// An operation that arrives while the next one goes.
    comes: RefCell<Option<Op>>,
    /// The epoch in which all operations arrived.
    arrived: Cell<u64>,
    outlived: RefCell<Vec<u32>>,
    /// The operation that is called back, and how many times the caller learnt that it waits
    /// again.
    called_back: Cell<Option<u32>>,
    calls: Cell<u32>,
}

impl Dispatcher for Portion {
    type List = VecDeque<Op>;
    type Op = Op;
    type Word = AtomicU64;
    type Lanes = Vec<AtomicU64>;

    fn gate(&self) -> &Gate<AtomicU64, Vec<AtomicU64>> {
        &self.gate
    }

    fn with<R>(&self, f: impl FnOnce(&mut WaitQueues<Self::List>) -> R) -> R {
        f(&mut self.waiting.borrow_mut())
    }

    fn now_ns(&self) -> u64 {
        1_999
    }

    fn place(&self, op: &mut Op) -> Place {
        op.1
    }

    fn arrived(&self, _op: &mut Op) -> u64 {
        self.arrived.get()
    }

    fn is_called_back(&self, op: &Op) -> bool {
        self.called_back.get() == Some(op.0)
    }

    fn call_back(&self) {
        assert!(!self.waiting.borrow().is_empty(), "it waits again");
        self.calls.set(self.calls.get() + 1);
    }

    fn go(&self, op: Op, _epoch: u64, _check: Check) {
        self.gone.borrow_mut().push(op.0);
        if let Some(next) = self.comes.take() {
            waits(self, next);
        }
    }

    fn refuse(&self, _op: Op, _lapsed: bool, _wake: bool) {}

    fn fail_outlived(&self, op: Op, _wake: bool) {
        self.outlived.borrow_mut().push(op.0);
    }

    fn refuse_all(&self, _ops: Self::List) {}
}

const FIELDS: Fields = Fields::new(3);

/// A gate that counts rows, with a limit of one.
fn portion() -> Portion {
    let layout = LaneLayout::Rows(FIELDS);
    let lanes = (0..layout.words(1)).map(|_| AtomicU64::new(0));
    let gate = Gate::new(1_000, 1, layout, lanes.collect());
    assert!(gate.open_epoch(7, 7, 2_000));
    Portion {
        gate,
        waiting: RefCell::new(WaitQueues::new()),
        gone: RefCell::default(),
        comes: RefCell::default(),
        arrived: Cell::new(7),
        outlived: RefCell::default(),
        called_back: Cell::default(),
        calls: Cell::default(),
    }
}

/// A row of another lane than row 0, which waits in the same queue.
fn neighbour() -> u64 {
    let lane = |row| Place::row(FIELDS.unit(0), row).lane();
    let queue = |row| lane(row) % QUEUES;
    (1..)
        .find(|&row| queue(row) == queue(0) && lane(row) != lane(0))
        .unwrap()
}

fn enters(portion: &Portion, place: Place) {
    let admission = portion.gate.enter(place, || 1_999);
    assert!(matches!(admission, Admission::Granted(_)));
}

fn waits(portion: &Portion, op: Op) {
    assert!(wait(portion, op.1, || Ok::<_, ()>((op, ()))).is_ok());
}

#[test]
fn r17_rows_that_share_a_queue_do_not_wait_for_each_other() {
    let portion = portion();
    let (stuck, other) = (0, neighbour());
    enters(&portion, Place::row(FIELDS.unit(0), stuck));
    enters(&portion, Place::row(FIELDS.unit(0), other));
    for (name, row) in [(1, stuck), (2, other), (3, stuck)] {
        waits(&portion, (name, Place::row(FIELDS.unit(1), row)));
    }
    assert_eq!(portion.with(|waiting| waiting.len()), 3);
    // The second row gets room. The first one never does.
    portion.gate.leave(Place::row(FIELDS.unit(0), other));
    dispatch(&portion);
    assert_eq!(*portion.gone.borrow(), [2]);
    waits(&portion, (4, Place::row(FIELDS.unit(2), stuck)));
    portion.gate.leave(Place::row(FIELDS.unit(0), stuck));
    dispatch(&portion);
    // The two operations on one member fit together. The third one is on another member.
    assert_eq!(*portion.gone.borrow(), [2, 1, 3]);
    assert_eq!(portion.with(|waiting| waiting.len()), 1);
    assert!(!portion.with(|waiting| waiting.is_empty()));
    portion.gate.leave(Place::row(FIELDS.unit(1), stuck));
    portion.gate.leave(Place::row(FIELDS.unit(1), stuck));
    dispatch(&portion);
    assert_eq!(*portion.gone.borrow(), [2, 1, 3, 4]);
    assert!(portion.with(|waiting| waiting.is_empty()));
}

#[test]
fn r17_passed_operations_stay_in_front_of_later_ones() {
    let portion = portion();
    let (stuck, other) = (0, neighbour());
    enters(&portion, Place::row(FIELDS.unit(0), stuck));
    waits(&portion, (1, Place::row(FIELDS.unit(1), stuck)));
    waits(&portion, (2, Place::row(FIELDS.unit(1), other)));
    *portion.comes.borrow_mut() = Some((3, Place::row(FIELDS.unit(1), stuck)));
    dispatch(&portion);
    portion.gate.leave(Place::row(FIELDS.unit(0), stuck));
    dispatch(&portion);
    assert_eq!(*portion.gone.borrow(), [2, 1, 3]);
}

#[test]
fn r17_an_operation_on_many_rows_goes_before_those_on_one() {
    let portion = portion();
    enters(&portion, Place::row(FIELDS.unit(0), 0));
    waits(&portion, (1, Place::row(FIELDS.unit(1), 0)));
    waits(&portion, (2, Place::rows(FIELDS.unit(1))));
    portion.gate.leave(Place::row(FIELDS.unit(0), 0));
    dispatch(&portion);
    assert_eq!(*portion.gone.borrow(), [2, 1]);
}

#[test]
fn r17_within_a_row_no_operation_is_passed() {
    let portion = portion();
    enters(&portion, Place::row(FIELDS.unit(0), 0));
    // The second operation would fit beside the open one, but the first one came earlier.
    waits(&portion, (1, Place::row(FIELDS.unit(1), 0)));
    waits(&portion, (2, Place::row(FIELDS.unit(0), 0)));
    dispatch(&portion);
    assert!(portion.gone.borrow().is_empty());
    portion.gate.leave(Place::row(FIELDS.unit(0), 0));
    dispatch(&portion);
    assert_eq!(*portion.gone.borrow(), [1]);
}

#[test]
fn r55_an_operation_of_an_earlier_reign_fails_and_others_do_not_wait_for_it() {
    let portion = portion();
    let stuck = Place::row(FIELDS.unit(0), 0);
    enters(&portion, stuck);
    waits(&portion, (1, Place::row(FIELDS.unit(1), 0)));
    waits(&portion, (2, Place::row(FIELDS.unit(1), 0)));
    // The dispatcher was delayed: it saw neither the latch nor the term of another controller.
    portion.gate.latch();
    assert!(portion.gate.open_epoch(9, 9, 2_000));
    dispatch(&portion);
    assert_eq!(*portion.outlived.borrow(), [1, 2]);
    assert!(portion.gone.borrow().is_empty());
    portion.gate.leave(stuck);
    portion.arrived.set(9);
    enters(&portion, stuck);
    assert!(
        !portion.gate.leave(stuck).wake,
        "no lane is marked for what has failed"
    );
}

#[test]
fn r55_the_caller_learns_when_an_operation_that_it_called_back_waits_again() {
    let portion = portion();
    enters(&portion, Place::row(FIELDS.unit(0), 0));
    for name in [1, 2] {
        waits(&portion, (name, Place::row(FIELDS.unit(1), 0)));
    }
    dispatch(&portion);
    assert_eq!(portion.calls.get(), 0);
    portion.called_back.set(Some(1));
    dispatch(&portion);
    assert_eq!(portion.calls.get(), 1);
    assert_eq!(portion.waiting.borrow().len(), 2);
}
