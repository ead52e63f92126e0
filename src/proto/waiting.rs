// SPDX-License-Identifier: GPL-2.0
//! What waits at the gate for a permit, and who goes next.
//!
//! An operation that finds no room waits in the queue of its lane; lanes share queues, as far as
//! there are fewer of these. What is charged for every row waits in a queue of its own and goes
//! first: everybody who comes later waits for it, or it would wait for ever. Within a queue the
//! first goes first.
//!
//! ```text
//!   enter: Full --> wait --+--> queue --> dispatch --Granted--> go
//!                          |      ^          |
//!                          |      +--Full----+--Refused--> refuse, and everybody else with it
//!                          +--> room after all: wake the dispatcher
//! ```
//!
//! A lane is marked while something waits for it (`WAITERS`, see [`super::permits`]), so that
//! whoever gives a permit back wakes the dispatcher. Queue and mark change under one lock, in this
//! order: queued, then marked, then looked for room; and a mark is taken away only when nothing
//! waits that it was set for. So an operation that waits is always seen by whoever makes room for
//! it [R17].
//!
//! Callers: the driver's gate; the loom models of `selftests/proto/tests/waiting.rs`, with another
//! lock and another kind of operation. One thread at a time calls [`dispatch`].
//!
//! Locking: [`Lobby::with`] takes the lock of the queues. Nothing is admitted, refused or ended
//! under it.

use super::permits::{Admission, Charge, Check, Counting, Gate, Word};
use core::ops::Deref;

/// Queues for operations that are charged in one lane.
const QUEUES: usize = 16;

/// Some operations, in order.
pub trait Line {
    /// An operation that waits.
    type Op;

    /// None.
    fn empty() -> Self;
    /// Adds the last one.
    fn push(&mut self, op: Self::Op);
    /// Adds the first one.
    fn push_front(&mut self, op: Self::Op);
    /// Takes the first one.
    fn pop(&mut self) -> Option<Self::Op>;
    /// Adds others behind the last one.
    fn append(&mut self, others: Self);
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool;
}

/// The queues of a gate.
pub struct Waiting<L> {
    narrow: [L; QUEUES],
    wide: L,
}

impl<L: Line> Waiting<L> {
    /// Queues in which nothing waits.
    pub fn new() -> Self {
        Self {
            narrow: core::array::from_fn(|_| L::empty()),
            wide: L::empty(),
        }
    }

    /// How many operations wait.
    pub fn len(&self) -> usize {
        let narrow = self.narrow.iter().map(L::len);
        narrow.fold(self.wide.len(), usize::wrapping_add)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.narrow.iter().all(L::is_empty)
    }

    /// Takes everything that waits.
    pub fn take_all(&mut self) -> L {
        let mut all = core::mem::replace(&mut self.wide, L::empty());
        for queue in &mut self.narrow {
            all.append(core::mem::replace(queue, L::empty()));
        }
        all
    }

    /// The queue for what is charged like this.
    fn queue(&mut self, charge: Charge) -> &mut L {
        let queue = charge.lane() as usize % QUEUES;
        match self.narrow.get_mut(queue) {
            Some(narrow) if !charge.is_wide() => narrow,
            _ => &mut self.wide,
        }
    }

    /// The queue with this number; the last of all is that of operations on many rows.
    fn numbered(&mut self, queue: usize) -> &mut L {
        match self.narrow.get_mut(queue) {
            Some(narrow) => narrow,
            None => &mut self.wide,
        }
    }
}

impl<L: Line> Default for Waiting<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where operations wait: the lock of the queues, and what becomes of an operation.
pub trait Lobby {
    /// A queue.
    type Line: Line<Op = Self::Op>;
    /// An operation.
    type Op;
    /// The gate's word and lanes.
    type Word: Word;
    /// The lanes of the gate.
    type Lanes: Deref<Target = [Self::Word]>;

    /// The gate.
    fn gate(&self) -> &Gate<Self::Word, Self::Lanes>;
    /// Calls `f` with the queues, which nobody else touches meanwhile.
    fn with<R>(&self, f: impl FnOnce(&mut Waiting<Self::Line>) -> R) -> R;
    /// The clock.
    fn now_ns(&self) -> u64;
    /// Where the operation is charged.
    fn charge(&self, op: &mut Self::Op) -> Charge;
    /// Whether the operation must not wait any more, but go back to where it came from.
    fn is_called_back(&self, op: &Self::Op) -> bool;
    /// Gives it back.
    fn give_back(&self, op: Self::Op);
    /// It has a permit under the lease of `epoch`.
    fn go(&self, op: Self::Op, epoch: u64, check: Check);
    /// There is no lease for it. `lapsed` and `wake` as in [`Admission::Refused`].
    fn refuse(&self, op: Self::Op, lapsed: bool, wake: bool);
    /// Everything that waits has lost its lease.
    fn refuse_all(&self, ops: Self::Line);
}

/// Makes an operation that found no room wait, as the last of its queue; whether there is room
/// after all: the caller wakes the dispatcher then, because nobody else will. `op` is called with
/// the queues locked.
///
/// # Errors
///
/// Those of `op`: then nothing waits.
pub fn wait<L: Lobby, T, E>(
    lobby: &L,
    charge: Charge,
    op: impl FnOnce() -> Result<(L::Op, T), E>,
) -> Result<(bool, T), E> {
    let (room, rest) = lobby.with(|waiting| {
        let (op, rest) = op()?;
        waiting.queue(charge).push(op);
        Ok((lobby.gate().wait(charge), rest))
    })?;
    // The lease may have been latched, and all that waited refused, before this one was queued.
    refuse_if_over(lobby);
    Ok((room, rest))
}

/// Queues what came back, as it was, in front of what came meanwhile.
pub fn wait_again<L: Lobby>(lobby: &L, mut ops: L::Line) {
    lobby.with(|waiting| {
        ops.append(waiting.take_all());
        while let Some(mut op) = ops.pop() {
            let charge = lobby.charge(&mut op);
            waiting.queue(charge).push(op);
            lobby.gate().wait(charge);
        }
    });
}

/// Lets go whatever there is room for. Each operation passes the gate with a fresh look at the
/// lease.
pub fn dispatch<L: Lobby>(lobby: &L) {
    // Who waits for every row comes first, or would wait for ever.
    if dispatch_queue(lobby, QUEUES) {
        for queue in 0..QUEUES {
            dispatch_queue(lobby, queue);
        }
    }
}

/// Refuses everything that waits, all together, unless there is a lease [R17].
pub fn refuse_if_over<L: Lobby>(lobby: &L) {
    if lobby.gate().expiry_ns() != 0 {
        return;
    }
    let ops = lobby.with(|waiting| {
        if lobby.gate().expiry_ns() != 0 {
            return L::Line::empty();
        }
        lobby.gate().no_waiters_at_all();
        waiting.take_all()
    });
    lobby.refuse_all(ops);
}

/// Lets go from one queue for as long as there is room; whether it is empty then.
fn dispatch_queue<L: Lobby>(lobby: &L, queue: usize) -> bool {
    loop {
        // It is out of the queue while it is decided about, so nobody else disposes of it.
        let Some(mut op) = lobby.with(|waiting| waiting.numbered(queue).pop()) else {
            return true;
        };
        let charge = lobby.charge(&mut op);
        // Read before the permit is taken: what was held up in between counts for the older epoch.
        let epoch = lobby.gate().epoch();
        match lobby.gate().enter_waiting(charge, || lobby.now_ns()) {
            Admission::Granted(check) => {
                stop_waiting(lobby, charge);
                lobby.go(op, epoch, check);
            }
            Admission::Full { .. } => {
                if !wait_on(lobby, op, charge) {
                    return false;
                }
            }
            Admission::Refused { lapsed, wake } => {
                lobby.refuse(op, lapsed, wake);
                refuse_if_over(lobby);
            }
        }
    }
}

/// If nothing waits any more that this lane, or every lane, is marked for, takes the mark away.
/// A mark that is left too long is found out when the next one has waited for its lane; one that
/// is taken away from under an operation on many rows would cost it its wake-up.
fn stop_waiting<L: Lobby>(lobby: &L, charge: Charge) {
    lobby.with(|waiting| {
        let everywhere = charge.is_wide() || lobby.gate().counting() == Counting::Spread;
        let alone = waiting.wide.is_empty() && waiting.queue(charge).is_empty();
        if alone && (!everywhere || waiting.is_empty()) {
            lobby.gate().no_waiters(charge);
        }
    });
}

/// Puts an operation back where it was; whether the queue may go on after all.
fn wait_on<L: Lobby>(lobby: &L, op: L::Op, charge: Charge) -> bool {
    let room = lobby.with(|waiting| {
        if lobby.is_called_back(&op) {
            return Err(op);
        }
        waiting.queue(charge).push_front(op);
        Ok(lobby.gate().wait(charge))
    });
    match room {
        Err(op) => {
            lobby.give_back(op);
            true
        }
        Ok(room) => {
            refuse_if_over(lobby);
            room
        }
    }
}
