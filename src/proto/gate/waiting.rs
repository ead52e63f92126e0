// SPDX-License-Identifier: GPL-2.0
//! The wait queues of the gate: the operations that wait for a permit, and their order.
//!
//! An operation that finds no room waits in the queue of its lane. Several lanes share a queue, but
//! operations of different lanes do not wait for each other: within a lane the first goes first,
//! and if it finds no room, operations of other lanes pass it. Operations that are charged for
//! every row wait in a queue of their own, which goes first. Later operations wait for them,
//! because otherwise they would wait for ever.
//!
//! ```text
//!   enter: Full --> wait --+--> queue --> dispatch --Granted--> go
//!                          |      ^          |
//!                          |      +--Full----+--Refused--> refuse, with all others that wait
//!                          +--> room after all: wake the dispatcher
//! ```
//!
//! A lane is marked while operations wait for it (`WAITERS`, see [`super::permits`]), so that an
//! operation that gives a permit back wakes the dispatcher. Queue and mark change under one lock,
//! in this order: queue the operation, set the mark, check for room. A mark is cleared only when no
//! operation waits for which it was set. So an operation that gives room always sees the operations
//! that wait for it [R17].
//!
//! Callers: the driver's gate, and the loom models of `selftests/proto/tests/waiting.rs`, which
//! have another lock and another kind of operation. One thread at a time calls [`dispatch`].
//!
//! Locking: [`Dispatcher::with`] takes the lock of the queues. No operation is admitted, refused or
//! ended under it.

use super::lanes::{LaneLayout, Place, ROW_LANES};
use super::permits::{Admission, Check, Gate};
use super::word::AtomicWord;
use core::ops::Deref;

/// The number of queues for operations that are charged in one lane.
const QUEUES: usize = 16;

/// A list of operations, in order.
pub trait OpList {
    /// An operation that waits.
    type Op;

    /// An empty list.
    fn empty() -> Self;
    /// Adds an operation at the end.
    fn push(&mut self, op: Self::Op);
    /// Takes the first operation.
    fn pop(&mut self) -> Option<Self::Op>;
    /// Adds `others` at the end.
    fn append(&mut self, others: Self);
    /// The number of operations.
    fn len(&self) -> usize;
    /// Whether the list is empty.
    fn is_empty(&self) -> bool;
}

/// The wait queues of a gate.
pub struct WaitQueues<L> {
    narrow: [L; QUEUES],
    wide: L,
    /// The operations that the dispatcher has passed in the queue that it goes through now. They
    /// are older than all that are still in the queue.
    passed: L,
}

/// The lanes of one queue in which an operation found no room, one bit each: a queue has as many
/// lanes as a word has bits.
#[derive(Clone, Copy)]
struct Full(u64);

const _: () = assert!(ROW_LANES <= QUEUES * u64::BITS as usize);

impl Full {
    const fn bit(place: Place) -> u64 {
        1_u64.wrapping_shl((place.lane() / QUEUES) as u32)
    }

    /// Whether an operation at this place waits behind another one.
    const fn has(self, place: Place) -> bool {
        self.0 & Self::bit(place) != 0
    }

    fn add(&mut self, place: Place) {
        self.0 |= Self::bit(place);
    }
}

impl<L: OpList> WaitQueues<L> {
    /// Empty queues.
    pub fn new() -> Self {
        Self {
            narrow: core::array::from_fn(|_| L::empty()),
            wide: L::empty(),
            passed: L::empty(),
        }
    }

    /// The number of operations that wait.
    pub fn len(&self) -> usize {
        let narrow = self.narrow.iter().map(L::len);
        let others = self.wide.len().wrapping_add(self.passed.len());
        narrow.fold(others, usize::wrapping_add)
    }

    /// Whether no operation waits.
    pub fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.passed.is_empty() && self.narrow.iter().all(L::is_empty)
    }

    /// Takes all operations that wait.
    pub fn take_all(&mut self) -> L {
        let mut all = core::mem::replace(&mut self.wide, L::empty());
        all.append(core::mem::replace(&mut self.passed, L::empty()));
        for queue in &mut self.narrow {
            all.append(core::mem::replace(queue, L::empty()));
        }
        all
    }

    /// The queue for operations at this place.
    fn queue(&mut self, place: Place) -> &mut L {
        let queue = place.lane() % QUEUES;
        match self.narrow.get_mut(queue) {
            Some(narrow) if !place.is_wide() => narrow,
            _ => &mut self.wide,
        }
    }

    /// The queue with this number. The highest number is that of operations on many rows.
    fn numbered(&mut self, queue: usize) -> &mut L {
        match self.narrow.get_mut(queue) {
            Some(narrow) => narrow,
            None => &mut self.wide,
        }
    }

    /// Takes the next operation of a queue that does not wait behind another one, and passes the
    /// others.
    fn next(
        &mut self,
        queue: usize,
        full: Full,
        place: impl Fn(&mut L::Op) -> Place,
    ) -> Option<L::Op> {
        while let Some(mut op) = self.numbered(queue).pop() {
            if !full.has(place(&mut op)) {
                return Some(op);
            }
            self.passed.push(op);
        }
        None
    }

    /// Puts the passed operations back. The queue is empty by then.
    fn end_pass(&mut self, queue: usize) {
        let passed = core::mem::replace(&mut self.passed, L::empty());
        self.numbered(queue).append(passed);
    }
}

impl<L: OpList> Default for WaitQueues<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// The environment of the wait queues: their lock, the gate, and the functions that end the wait of
/// an operation.
pub trait Dispatcher {
    /// A list of operations.
    type List: OpList<Op = Self::Op>;
    /// An operation.
    type Op;
    /// The atomic word of the gate.
    type Word: AtomicWord;
    /// The lanes of the gate.
    type Lanes: Deref<Target = [Self::Word]>;

    /// The gate.
    fn gate(&self) -> &Gate<Self::Word, Self::Lanes>;
    /// Calls `f` with the queues, under their lock.
    fn with<R>(&self, f: impl FnOnce(&mut WaitQueues<Self::List>) -> R) -> R;
    /// The clock.
    fn now_ns(&self) -> u64;
    /// Where the operation is counted.
    fn place(&self, op: &mut Self::Op) -> Place;
    /// The epoch in which the operation arrived.
    fn arrived(&self, op: &mut Self::Op) -> u64;
    /// Whether the operation must go back to its sender instead of waiting: see
    /// [`Dispatcher::call_back`].
    fn is_called_back(&self, op: &Self::Op) -> bool;
    /// An operation that is called back is in a queue again. The caller looked for it there while
    /// the dispatcher had it, and must look again.
    fn call_back(&self);
    /// The operation has a permit under the lease of `epoch`.
    fn go(&self, op: Self::Op, epoch: u64, check: Check);
    /// The operation has no lease. `lapsed` and `wake` as in [`Admission::Refused`].
    fn refuse(&self, op: Self::Op, lapsed: bool, wake: bool);
    /// The operation arrived in an earlier reign. `wake` as in [`Admission::Outlived`].
    fn fail_outlived(&self, op: Self::Op, wake: bool);
    /// All these operations waited, and have no lease any more.
    fn refuse_all(&self, ops: Self::List);
}

/// Queues an operation that found no room, as the last of its queue. The first result is `true` if
/// there is room after all: then the caller wakes the dispatcher, because perhaps no operation
/// leaves after this. `op` is called with the queues locked.
///
/// # Errors
///
/// Those of `op`; then nothing is queued.
pub fn wait<D: Dispatcher, T, E>(
    dispatcher: &D,
    place: Place,
    op: impl FnOnce() -> Result<(D::Op, T), E>,
) -> Result<(bool, T), E> {
    let (room, rest) = dispatcher.with(|waiting| {
        let (op, rest) = op()?;
        waiting.queue(place).push(op);
        Ok((dispatcher.gate().wait(place), rest))
    })?;
    // The lease may have been latched, and all waiting operations refused, before this one was
    // queued.
    refuse_if_over(dispatcher);
    Ok((room, rest))
}

/// Queues operations that came back, in their old order, in front of those that came meanwhile.
pub fn wait_again<D: Dispatcher>(dispatcher: &D, mut ops: D::List) {
    dispatcher.with(|waiting| {
        ops.append(waiting.take_all());
        while let Some(mut op) = ops.pop() {
            let place = dispatcher.place(&mut op);
            waiting.queue(place).push(op);
            dispatcher.gate().wait(place);
        }
    });
    // The lease may have been latched while they were away.
    refuse_if_over(dispatcher);
}

/// Dispatches every operation for which there is room. Each operation passes the gate with a fresh
/// check of the lease.
pub fn dispatch<D: Dispatcher>(dispatcher: &D) {
    // Operations on many rows go first, because otherwise they would wait for ever.
    if dispatch_queue(dispatcher, QUEUES) {
        for queue in 0..QUEUES {
            dispatch_queue(dispatcher, queue);
        }
    }
}

/// Refuses all waiting operations together, unless there is a lease [R17].
pub fn refuse_if_over<D: Dispatcher>(dispatcher: &D) {
    if dispatcher.gate().expiry_ns() != 0 {
        return;
    }
    let ops = dispatcher.with(|waiting| {
        if dispatcher.gate().expiry_ns() != 0 {
            return D::List::empty();
        }
        dispatcher.gate().no_waiters_at_all();
        waiting.take_all()
    });
    dispatcher.refuse_all(ops);
}

/// Dispatches the operations of one queue for which there is room. `true` if the queue is empty
/// then.
fn dispatch_queue<D: Dispatcher>(dispatcher: &D, queue: usize) -> bool {
    while pass(dispatcher, queue) {}
    dispatcher.with(|waiting| waiting.numbered(queue).is_empty())
}

/// Goes through one queue. `true` if the caller must repeat it, because there is room after all.
fn pass<D: Dispatcher>(dispatcher: &D, queue: usize) -> bool {
    let (mut full, mut again) = (Full(0), false);
    loop {
        // The operation is out of the queue until its fate is decided, so no other thread ends it.
        let next = |waiting: &mut WaitQueues<D::List>| {
            let next = waiting.next(queue, full, |op| dispatcher.place(op));
            if next.is_none() {
                waiting.end_pass(queue);
            }
            next
        };
        let Some(mut op) = dispatcher.with(next) else {
            return again;
        };
        let (place, arrived) = (dispatcher.place(&mut op), dispatcher.arrived(&mut op));
        // Read before the permit is taken: an operation that is delayed in between counts for the
        // older epoch.
        let epoch = dispatcher.gate().epoch();
        let admission = dispatcher
            .gate()
            .enter_waiting(place, arrived, || dispatcher.now_ns());
        match admission {
            Admission::Granted(check) => {
                stop_waiting(dispatcher, place);
                dispatcher.go(op, epoch, check);
            }
            Admission::Full { .. } => {
                full.add(place);
                again |= wait_on(dispatcher, op, place);
            }
            Admission::Outlived { wake } => {
                stop_waiting(dispatcher, place);
                dispatcher.fail_outlived(op, wake);
            }
            Admission::Refused { lapsed, wake } => {
                dispatcher.refuse(op, lapsed, wake);
                refuse_if_over(dispatcher);
            }
        }
    }
}

/// Clears the mark of this lane, or of all lanes, if no operation waits any more for which it was
/// set. A mark that stays too long is found when the next operation has waited for its lane. A mark
/// that is cleared while an operation on many rows waits would cost that operation its wake-up.
fn stop_waiting<D: Dispatcher>(dispatcher: &D, place: Place) {
    dispatcher.with(|waiting| {
        let everywhere = place.is_wide() || dispatcher.gate().layout() == LaneLayout::PerCpu;
        let alone =
            waiting.wide.is_empty() && waiting.passed.is_empty() && waiting.queue(place).is_empty();
        if alone && (!everywhere || waiting.is_empty()) {
            dispatcher.gate().no_waiters(place);
        }
    });
}

/// Passes an operation. `true` if there is room for it after all.
fn wait_on<D: Dispatcher>(dispatcher: &D, op: D::Op, place: Place) -> bool {
    let is_called_back = dispatcher.is_called_back(&op);
    let room = dispatcher.with(|waiting| {
        waiting.passed.push(op);
        dispatcher.gate().wait(place)
    });
    if is_called_back {
        dispatcher.call_back();
    }
    refuse_if_over(dispatcher);
    room
}

#[cfg(test)]
mod tests;
