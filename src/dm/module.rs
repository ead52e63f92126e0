// SPDX-License-Identifier: GPL-2.0

//! Modules: how one with a target is loaded, and what must have ended before its code goes away.
//!
//! [`target_module!`] declares a module in place of the kernel's `module!`, and is the only way to
//! register a target type. When the module is loaded, it makes the module's own state, a
//! [`TargetModule`], and then registers the target type, last: a table may be loaded as soon as the
//! target type is registered, so that nothing may fail after that. When the module is unloaded, it
//! unregisters the target type (no table exists then, because each of them holds a reference on the
//! module), and drops the state.
//!
//! Other parts of the kernel call code of the module as long as a [`Thread`](super::Thread) or a
//! notifier exists, or an [`IoBuf`](super::IoBuf) is in flight. Each of these holds a [`Use`]. The
//! end of the module, and the end of a failed load, wait until there is none: a value that was
//! forgotten (`core::mem::forget`) makes that wait last for ever, and the log says so.
//!
//! # Locking
//!
//! The kernel loads and unloads a module once, on one thread at a time. Uses are counted by an
//! atomic number; any context may end one.

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
/// The module is being loaded, or is loaded.
const OPEN: u32 = 1;
/// The state of the module was dropped.
const CLOSED: u32 = 2;

static STAGE: Atomic<u32> = Atomic::new(NEW);

/// How many [`Use`]s there are.
static USES: Atomic<i64> = Atomic::new(0);

/// Waits for all uses of the module when it is dropped, which is the last thing that happens in
/// the module.
pub(super) struct Last(());

impl Last {
    /// Begins the life of the module. The kernel's call of [`Loaded::init`] comes before all other
    /// code of the module, so that a later call of it fails here, with `EBUSY`.
    pub(super) fn new() -> Result<Self> {
        match STAGE.cmpxchg(NEW, OPEN, ordering::Full) {
            Ok(_) => Ok(Self(())),
            Err(_) => Err(EBUSY),
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // Either a `Use` that begins now sees this, or it is seen below: both are fully ordered.
        let _ = STAGE.xchg(CLOSED, ordering::Full);
        let mut rounds = 0u32;
        while USES.load(ordering::Acquire) != 0 {
            rounds = rounds.saturating_add(1);
            if rounds == Use::ROUNDS_TO_WARN {
                pr_err!("cannot end: threads, notifiers or transfers were never ended\n");
            }
            // SAFETY: The module is loaded and unloaded in process context.
            unsafe { bindings::msleep(Use::ROUND_MS) };
        }
        // What ended the last use may still be on its way out of this module's code.
        // SAFETY: As above.
        unsafe { bindings::dm_synchronize_rcu_tasks() };
    }
}

/// Something by which the kernel may call code of this module; the module stays while it exists.
///
/// # Invariants
///
/// It is counted in [`USES`].
pub(super) struct Use(());

impl Use {
    const ROUND_MS: u32 = 10;
    const ROUNDS_TO_WARN: u32 = 1000;

    /// Begins a use. Errors: `ENODEV` if the module has ended, or was not declared by
    /// [`target_module!`].
    pub(super) fn new() -> Result<Self> {
        let _ = USES.fetch_add(1, ordering::Full);
        // INVARIANT: It was counted just now. It is given up at once if the module has ended.
        let this = Self(());
        match STAGE.load(ordering::Acquire) {
            OPEN => Ok(this),
            _ => Err(ENODEV),
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        // By the type invariant it is counted.
        let _ = USES.fetch_sub(1, ordering::Full);
    }
}
