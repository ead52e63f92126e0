// SPDX-License-Identifier: GPL-2.0

//! Handles by which code outside of the callbacks reaches a target.
//!
//! # Locking
//!
//! A mutex guards each target's pointer. It is held while a function uses the target, so that the
//! destructor of the target waits for the function. The functions may take locks that the callbacks
//! take: no callback runs with the mutex held.

use super::{
    bindings,
    target::DmTarget, //
};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// A handle by which code outside of the callbacks reaches a target, for instance a thread that
/// raises an event. The handle works from the end of the constructor to the beginning of the
/// destructor. A clone shares the target.
#[derive(Clone)]
pub struct TargetHandle(pub(super) Arc<Link>);

impl TargetHandle {
    /// Calls `f` with the target. Returns `None` if the constructor of the target has not succeeded
    /// yet, or if its destructor has begun. May sleep.
    ///
    /// The destructor waits for `f` to return.
    pub fn with<R>(&self, f: impl FnOnce(&DmTarget) -> R) -> Option<R> {
        let guard = self.0.ti.lock();
        let ti = guard.as_ref()?;
        // SAFETY: `Resources::revoke` removes the pointer at the beginning of the `dtr` callback,
        // and takes the lock for that, which is held here.
        Some(f(unsafe { DmTarget::from_raw(ti.0) }))
    }

    /// Raises an event of the target; see [`DmTarget::event`]. Returns whether the handle reached
    /// the target.
    pub fn event(&self) -> bool {
        self.with(DmTarget::event).is_some()
    }
}

/// A pointer to a target. [`Link`] guards its use.
pub(super) struct TargetPtr(pub(super) NonNull<bindings::dm_target>);

// SAFETY: A `struct dm_target` is not bound to a thread.
unsafe impl Send for TargetPtr {}

/// The part that the clones of one [`TargetHandle`] share.
#[pin_data]
pub(super) struct Link {
    /// The target, from the end of its constructor to the beginning of its destructor.
    #[pin]
    pub(super) ti: Mutex<Option<TargetPtr>>,
}
