// SPDX-License-Identifier: GPL-2.0

//! Bios and completions that a target holds.

use super::{
    complete,
    Slot, //
};
use crate::dm::{
    bindings,
    bio::{
        Bio,
        BlkStatus, //
    },
    target::{
        DmTarget,
        Target, //
    },
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

/// A clone that `map` holds, and that already points to its device.
///
/// A held bio can be moved to another thread or put into a [`BioList`](super::BioList) without an
/// allocation. It must be submitted or ended later. Dropping it ends it with [`BlkStatus::IOERR`].
///
/// The table of the bio, with its target and devices, exists as long as the held bio. dm core
/// replaces a table only while the mapped device is suspended, and a suspend waits for all bios
/// (`dm_wait_for_completion()` in `drivers/md/dm.c`). dm core removes a mapped device only when no
/// one has it open (`dm_lock_for_deletion()`), and does not wait for bios then. As with every block
/// device, the submitter of a bio keeps the device open until the bio ends.
///
/// # Invariants
///
/// - `bio` is a clone that dm core made for a target of type `T`, and this value owns it.
/// - `slot` is the initialised slot of the clone, including `target`.
pub struct HeldBio<T: Target> {
    pub(super) bio: NonNull<bindings::bio>,
    pub(super) slot: NonNull<Slot<T::PerBio>>,
}

// SAFETY: The value owns the bio and its slot, whose data is `Send`. Neither is bound to a thread.
unsafe impl<T: Target> Send for HeldBio<T> {}

impl<T: Target> HeldBio<T> {
    /// Returns the target that the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: By the type invariant the slot is initialised.
        let target = unsafe { self.slot.as_ref().target };
        // SAFETY: By the type invariant `target` is initialised.
        let target = unsafe { target.assume_init() };
        // SAFETY: The target exists as long as the held bio, see the documentation of the type.
        unsafe { DmTarget::from_raw(target) }
    }

    /// Calls `f` with the private data of the target that the bio was sent to.
    ///
    /// The lifetime `'ti` of the data is a different one in each call. Hence `f` can neither keep
    /// the data nor exchange the devices of two targets.
    pub fn with_data<R>(&self, f: impl for<'ti> FnOnce(&T::Data<'ti>) -> R) -> R {
        // SAFETY: By the type invariant the target is of type `T`. dm core sends bios only to a
        // target that has been constructed, and does not call its destructor while this bio exists,
        // see the documentation of the type.
        f(unsafe { self.target().data::<T>() })
    }

    /// Returns the per-bio data that `map` stored.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Sends the bio to the device that `map` directed it to.
    ///
    /// This may sleep. Call it only in process context, and not from `map` or `end_io`. In an
    /// interrupt the bio fails with [`BlkStatus::IOERR`].
    pub fn submit(self) {
        // In an interrupt `submit_bio_noacct()` would use `current->bio_list` of the interrupted
        // task.
        // SAFETY: `in_task()` may be called in any context.
        let in_task = unsafe { bindings::dm_in_task() };
        if kernel::warn_on!(!in_task) {
            return self.end(BlkStatus::IOERR);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `dm_submit_bio_remap()` needs a clone of a target that sets
        // `accounts_remapped_io`, which `TargetBuilder::new` does. By the type invariant the clone
        // is ours, and no one uses it afterwards.
        unsafe { bindings::dm_submit_bio_remap(this.bio.as_ptr(), core::ptr::null_mut()) };
    }

    /// Completes the bio with `status` without sending it. Works in any context.
    pub fn end(self, status: BlkStatus) {
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant the bio is ours, and no one uses it afterwards.
        unsafe { complete(this.bio, status) };
    }

    /// Gives the bio back to dm core, which maps it again after the next resume. Works in any
    /// context.
    ///
    /// Use this only during a noflush suspend. At other times dm core reports an I/O error. If the
    /// bio is tracked, `end_io` runs before this returns.
    pub fn requeue(self) {
        self.end(BlkStatus::DM_REQUEUE);
    }
}

impl<T: Target> Deref for HeldBio<T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        // SAFETY: `Bio` is a transparent wrapper. By the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}

impl<T: Target> Drop for HeldBio<T> {
    fn drop(&mut self) {
        // Without an end the submitter would wait for ever, so the bio ends with an error.
        // SAFETY: By the type invariant the bio is ours, and this value ends here.
        unsafe { complete(self.bio, BlkStatus::IOERR) };
    }
}

/// A completion that `end_io` holds.
///
/// A held completion can be moved to another thread or put into a [`BioList`](super::BioList). It
/// must be finished later. Dropping it reports [`BlkStatus::IOERR`].
///
/// # Invariants
///
/// - `bio` is a clone that dm core made for a target of type `T`, whose operation has ended. This
///   value owns the clone.
/// - `slot` is the initialised slot of the clone.
pub struct HeldEnd<T: Target> {
    pub(super) bio: NonNull<bindings::bio>,
    pub(super) slot: NonNull<Slot<T::PerBio>>,
}

// SAFETY: The value owns the bio and its slot, whose data is `Send`. Neither is bound to a thread.
unsafe impl<T: Target> Send for HeldEnd<T> {}

impl<T: Target> HeldEnd<T> {
    /// Reports to the submitter the status that was given to [`EndBio::hold`]. Works in any
    /// context. The target's `end_io` does not run again.
    ///
    /// [`EndBio::hold`]: super::EndBio::hold
    pub fn finish(self) {
        let mut this = ManuallyDrop::new(self);
        let bio = this.bio;
        this.set_finishing();
        // SAFETY: By the type invariant the bio is ours, and no one uses it afterwards.
        // `bio_endio()` may be called again for a clone whose `end_io` returned
        // `DM_ENDIO_INCOMPLETE`.
        unsafe { bindings::bio_endio(bio.as_ptr()) };
    }

    /// Returns the per-bio data.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Marks the clone, so that the second run of the `end_io` callback passes it straight on.
    fn set_finishing(&mut self) {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { self.slot.as_mut().finishing = true };
    }
}

impl<T: Target> Drop for HeldEnd<T> {
    fn drop(&mut self) {
        self.set_finishing();
        // SAFETY: By the type invariant the bio is ours, and this value ends here.
        unsafe { complete(self.bio, BlkStatus::IOERR) };
    }
}

mod private {
    pub trait Sealed {}
    impl<T: super::Target> Sealed for super::HeldBio<T> {}
    impl<T: super::Target> Sealed for super::HeldEnd<T> {}
}

/// The two types of elements that a [`BioList`](super::BioList) can have: [`HeldBio`] and
/// [`HeldEnd`].
pub trait Held: private::Sealed + Sized {
    /// Converts the value into its bio, without ending the bio.
    #[doc(hidden)]
    fn into_bio(self) -> NonNull<bindings::bio>;

    /// Converts a bio back into the value.
    ///
    /// # Safety
    ///
    /// - `bio` must be a result of [`Held::into_bio`] of the same type.
    /// - Each result of [`Held::into_bio`] must be converted back at most once.
    /// - No one may have completed or submitted the bio since.
    #[doc(hidden)]
    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self;
}

impl<T: Target> Held for HeldBio<T> {
    fn into_bio(self) -> NonNull<bindings::bio> {
        ManuallyDrop::new(self).bio
    }

    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: By the safety requirements the bio comes from a `HeldBio<T>`, so that it is a
        // live clone of a target of type `T`.
        let slot = unsafe { Slot::of(bio) };
        // INVARIANT: The bio and its slot have not changed since `into_bio`.
        Self { bio, slot }
    }
}

impl<T: Target> Held for HeldEnd<T> {
    fn into_bio(self) -> NonNull<bindings::bio> {
        ManuallyDrop::new(self).bio
    }

    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: By the safety requirements the bio comes from a `HeldEnd<T>`, so that it is a
        // live clone of a target of type `T`.
        let slot = unsafe { Slot::of(bio) };
        // INVARIANT: The bio and its slot have not changed since `into_bio`.
        Self { bio, slot }
    }
}
