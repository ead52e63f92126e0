// SPDX-License-Identifier: GPL-2.0

//! The waker of a thread: it wakes the thread and says why.
//!
//! A waker has a set of reasons. [`Waker::wake`] adds a reason and wakes the thread, in any context
//! and without blocking. The thread takes all reasons at once.

use crate::dm::{Context, WaitQueue, Wake};
use kernel::{
    prelude::*,
    sync::atomic::{ordering, Atomic},
};

/// A set of reasons to wake a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reasons(u32);

impl Reasons {
    /// The heartbeat timer fired.
    pub const TICK: Reasons = Reasons(1 << 0);
    /// A mailbox transfer ended, or one is ready to be submitted.
    pub const IO: Reasons = Reasons(1 << 1);
    /// The gate saw the lease end.
    pub const LAPSE: Reasons = Reasons(1 << 2);
    /// A permit was returned, and a bio waits for one.
    pub const PERMIT: Reasons = Reasons(1 << 3);
    /// The thread should look at something that changed.
    pub const CHANGE: Reasons = Reasons(1 << 4);
    /// A task has posted a request.
    pub const REQUEST: Reasons = Reasons(1 << 5);

    /// Whether the set contains a reason of `other`.
    pub const fn contains(self, other: Reasons) -> bool {
        self.0 & other.0 != 0
    }
}

/// The waker of one thread.
#[pin_data]
pub struct Waker {
    reasons: Atomic<u32>,
    #[pin]
    queue: WaitQueue,
}

impl Waker {
    /// A waker without reasons.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            reasons: Atomic::new(0),
            queue <- crate::dm::thread::new_wait_queue!("dm_lease waker"),
        })
    }

    /// Adds a reason and wakes the thread. Any context.
    pub fn wake(&self, reason: Reasons) {
        let mut seen = self.reasons.load(ordering::Relaxed);
        while seen & reason.0 == 0 {
            match self.reasons.cmpxchg(seen, seen | reason.0, ordering::Full) {
                Ok(_) => return self.queue.wake_all(),
                Err(found) => seen = found,
            }
        }
    }

    /// Waits for a reason, until `deadline_ns`, or until the thread is stopped. Returns the
    /// reasons, or `None` when the thread is to return.
    pub fn wait(&self, context: &Context, deadline_ns: Option<u64>) -> Option<Reasons> {
        let has_reasons = || self.reasons.load(ordering::Acquire) != 0;
        match context.wait(&self.queue, deadline_ns, has_reasons) {
            Wake::Stop => None,
            Wake::Ready | Wake::Timeout => Some(Reasons(self.reasons.xchg(0, ordering::Full))),
        }
    }
}
