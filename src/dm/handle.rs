// SPDX-License-Identifier: GPL-2.0

//! Handles by which code outside of the callbacks reaches a target.

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

/// A way to reach a target from outside of its callbacks, for instance to raise an event from a
/// work item. It works from the end of the constructor, which has the target to itself, to the
/// beginning of the destructor. Cloning is cheap.
#[derive(Clone)]
pub struct TargetHandle(pub(super) Arc<Link>);

impl TargetHandle {
    /// Calls `f` with the target; `None` unless its constructor has succeeded and its destructor
    /// has not begun. May sleep.
    ///
    /// The destructor waits for `f` to return.
    pub fn with<R>(&self, f: impl FnOnce(&DmTarget) -> R) -> Option<R> {
        let guard = self.0.ti.lock();
        let ti = guard.as_ref()?;
        // SAFETY: The pointer is removed before the target goes away, which the lock delays.
        Some(f(unsafe { DmTarget::from_raw(ti.0) }))
    }

    /// Raises an event of the target, see [`DmTarget::event`].
    ///
    /// Returns whether the target could be reached.
    pub fn event(&self) -> bool {
        self.with(DmTarget::event).is_some()
    }
}

/// A pointer to a target that may be sent to another thread, where [`Link`] guards its use.
pub(super) struct TargetPtr(pub(super) NonNull<bindings::dm_target>);

// SAFETY: A target is not bound to a thread.
unsafe impl Send for TargetPtr {}

/// What the clones of one [`TargetHandle`] share.
#[pin_data]
pub(super) struct Link {
    /// `None` until the constructor of the target has succeeded, and once its destructor has begun.
    #[pin]
    pub(super) ti: Mutex<Option<TargetPtr>>,
}
