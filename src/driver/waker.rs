// SPDX-License-Identifier: GPL-2.0

//! How a thread is told that there is something to do.
//!
//! A bell has a set of reasons. Ringing adds one and wakes the thread; the thread takes all of
//! them at once. Ringing is allowed in any context and never blocks.

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
    /// A mailbox transfer ended, or there is one to submit.
    pub const IO: Reasons = Reasons(1 << 1);
    /// The gate saw the lease end.
    pub const LAPSE: Reasons = Reasons(1 << 2);
    /// A permit came back and something waits for that.
    pub const PERMIT: Reasons = Reasons(1 << 3);
    /// Something changed that the thread should look at.
    pub const CHANGE: Reasons = Reasons(1 << 4);
    /// A task has posted a request.
    pub const REQUEST: Reasons = Reasons(1 << 5);

    /// Whether `other` is among them.
    pub const fn contains(self, other: Reasons) -> bool {
        self.0 & other.0 != 0
    }
}

/// The bell of one thread.
#[pin_data]
pub struct Bell {
    rung: Atomic<u32>,
    #[pin]
    queue: WaitQueue,
}

impl Bell {
    /// A bell that nobody has rung.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            rung: Atomic::new(0),
            queue <- crate::dm::thread::new_wait_queue!("dm_lease bell"),
        })
    }

    /// Adds a reason and wakes the thread. Any context.
    pub fn ring(&self, reason: Reasons) {
        let mut seen = self.rung.load(ordering::Relaxed);
        while seen & reason.0 == 0 {
            match self.rung.cmpxchg(seen, seen | reason.0, ordering::Full) {
                Ok(_) => return self.queue.wake_all(),
                Err(found) => seen = found,
            }
        }
    }

    /// Waits for a reason, or until `deadline_ns`, or to be stopped. Returns the reasons, and
    /// `None` when the thread is to return.
    pub fn wait(&self, context: &Context, deadline_ns: Option<u64>) -> Option<Reasons> {
        let rung = || self.rung.load(ordering::Acquire) != 0;
        match context.wait(&self.queue, deadline_ns, rung) {
            Wake::Stop => None,
            Wake::Ready | Wake::Timeout => Some(Reasons(self.rung.xchg(0, ordering::Full))),
        }
    }
}
