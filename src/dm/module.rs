// SPDX-License-Identifier: GPL-2.0

//! The wait for the users of a module's code.
//!
//! Other parts of the kernel call code of the module as long as a [`Thread`](super::Thread) or a
//! notifier exists, an [`IoBuf`](super::IoBuf) is in flight, or the thread of a
//! [`Worker`](super::reservation::Worker) runs. Each of them holds a [`Use`]. A module that is
//! being unloaded, or whose load has failed, waits until no [`Use`] is left. A value that was
//! forgotten (`core::mem::forget`) keeps its [`Use`]: the module then waits for ever and logs a
//! line.
//!
//! This module does not depend on targets. [`registration`](super::registration) uses it.
//!
//! # Locking
//!
//! An atomic number counts the uses. A use can end in any context.

use super::bindings;
use kernel::{
    prelude::*,
    sync::atomic::{
        ordering,
        Atomic, //
    },
};

/// No state exists yet.
const NEW: u32 = 0;
/// The module is being loaded or is loaded.
const OPEN: u32 = 1;
/// The state of the module was dropped.
const CLOSED: u32 = 2;

static STAGE: Atomic<u32> = Atomic::new(NEW);

/// The number of [`Use`]s.
static USES: Atomic<i64> = Atomic::new(0);

/// Waits for all uses of the module when it is dropped. The drop is the last action of the module.
pub(super) struct Last(());

impl Last {
    /// Begins the life of the module. The first call is that of the kernel, which comes before all
    /// other code of the module. Each later call fails with `EBUSY`.
    pub(super) fn new() -> Result<Self> {
        match STAGE.cmpxchg(NEW, OPEN, ordering::Full) {
            Ok(_) => Ok(Self(())),
            Err(_) => Err(EBUSY),
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // This and `Use::new` are fully ordered. Either a new use sees `CLOSED`, or the loop sees
        // it.
        let _ = STAGE.xchg(CLOSED, ordering::Full);
        let mut rounds = 0u32;
        while USES.load(ordering::Acquire) != 0 {
            rounds = rounds.saturating_add(1);
            if rounds == Use::ROUNDS_TO_WARN {
                pr_err!("cannot end: threads, notifiers or transfers were never ended\n");
            }
            // SAFETY: `msleep()` needs process context, in which the kernel loads and unloads
            // modules.
            unsafe { bindings::msleep(Use::ROUND_MS) };
        }
        // The function that ended the last use may not have returned yet. It runs in a task, or in
        // an interrupt that has interrupted one, or with RCU locked.
        // SAFETY: `synchronize_rcu_tasks()` needs process context, see above.
        unsafe { bindings::dm_synchronize_rcu_tasks() };
    }
}

/// A use of the module's code by another part of the kernel. The module waits for it before it
/// ends.
///
/// # Invariants
///
/// The value is counted in [`USES`].
pub(super) struct Use(());

impl Use {
    const ROUND_MS: u32 = 10;
    const ROUNDS_TO_WARN: u32 = 1000;

    /// Begins a use. Errors: `ENODEV` if the module has ended, or was not declared by
    /// `target_module!`.
    pub(super) fn new() -> Result<Self> {
        let _ = USES.fetch_add(1, ordering::Full);
        // INVARIANT: It was counted just above. It is dropped at once if the module has ended.
        let this = Self(());
        match STAGE.load(ordering::Acquire) {
            OPEN => Ok(this),
            _ => Err(ENODEV),
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        // By the type invariant the value is counted.
        let _ = USES.fetch_sub(1, ordering::Full);
    }
}
