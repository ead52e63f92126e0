// SPDX-License-Identifier: GPL-2.0
//! The atomic words of the gate under loom.
//!
//! All changes of a word are fully ordered: in the kernel by value-returning atomics, here by
//! fences around them, because loom has sequential consistency of fences only.

use dm_lease_proto::proto::gate::word::AtomicWord;
use loom::sync::atomic::{fence, AtomicU64, Ordering};

/// The kernel's atomic word.
pub struct Kernel(AtomicU64);

impl Kernel {
    /// A word of value zero.
    pub fn zero() -> Self {
        AtomicWord::new(0)
    }
}

impl AtomicWord for Kernel {
    fn new(value: u64) -> Self {
        Kernel(AtomicU64::new(value))
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        full(|| self.0.swap(value, Ordering::AcqRel));
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        // A compare-and-swap that fails orders nothing.
        fence(Ordering::SeqCst);
        let result = self
            .0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        if result.is_ok() {
            fence(Ordering::SeqCst);
        }
        result
    }

    fn fetch_add(&self, value: u64) -> u64 {
        full(|| self.0.fetch_add(value, Ordering::AcqRel))
    }
}

fn full<R>(change: impl FnOnce() -> R) -> R {
    fence(Ordering::SeqCst);
    let result = change();
    fence(Ordering::SeqCst);
    result
}

/// Tries every order of the accesses of the threads of `test`.
pub fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Enough for every known bug of two threads, and few enough that three threads finish.
    builder.preemption_bound = Some(3);
    builder.check(test);
}
