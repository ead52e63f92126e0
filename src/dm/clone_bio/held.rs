// SPDX-License-Identifier: GPL-2.0

//! Bios and completions that a target keeps back.

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

/// A clone kept back by `map`, directed to where it will go.
///
/// It may be moved to another thread, kept in a [`BioList`] without allocation, and must be
/// submitted or ended later; dropping it fails it with [`BlkStatus::IOERR`].
///
/// While it exists, its table with the target and the devices does too. dm core replaces a table
/// only while the mapped device is suspended, and a suspend waits for all bios. It removes a mapped
/// device only when nobody has it open (`dm_lock_for_deletion()` in `drivers/md/dm.c`), but does
/// not wait for bios then: the submitter of a bio has to keep the device open until the bio ends,
/// as with every block device.
///
/// # Invariants
///
/// `bio` is a clone owned by this value and made for a target of type `T`; `slot` is its
/// initialised slot, whose `target` is set.
pub struct HeldBio<T: Target> {
    pub(super) bio: NonNull<bindings::bio>,
    pub(super) slot: NonNull<Slot<T::PerBio>>,
}

// SAFETY: A bio and its slot belong to whoever holds them; no operation is bound to a thread.
unsafe impl<T: Target> Send for HeldBio<T> {}

impl<T: Target> HeldBio<T> {
    /// Returns the target the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: By the type invariant the slot is initialised.
        let target = unsafe { self.slot.as_ref().target };
        // SAFETY: By the type invariant the target is set.
        let target = unsafe { target.assume_init() };
        // SAFETY: A target lives as long as its bios, see the type.
        unsafe { DmTarget::from_raw(target) }
    }

    /// Calls `f` with the private data of that target.
    ///
    /// The lifetime `'ti` of the data is a different one in each call, so that the devices of two
    /// targets cannot be exchanged.
    pub fn with_data<R>(&self, f: impl for<'ti> FnOnce(&T::Data<'ti>) -> R) -> R {
        // SAFETY: By the type invariant the target is of type `T`. Bios come only to a target that
        // has been constructed, and its destructor does not run while this bio is borrowed.
        f(unsafe { self.target().data::<T>() })
    }

    /// Returns the per-bio data that `map` left.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Sends the bio where `map` directed it.
    ///
    /// May sleep: process context only, never from `map` or `end_io`. In an interrupt the bio fails
    /// with [`BlkStatus::IOERR`].
    pub fn submit(self) {
        // In an interrupt the block layer would use the list of bios of the interrupted task.
        // SAFETY: Has no preconditions.
        let in_task = unsafe { bindings::dm_in_task() };
        if kernel::warn_on!(!in_task) {
            return self.end(BlkStatus::IOERR);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant the bio is ours, and nobody uses it after this.
        unsafe { bindings::dm_submit_bio_remap(this.bio.as_ptr(), core::ptr::null_mut()) };
    }

    /// Completes the bio with `status` without sending it. Any context.
    pub fn end(self, status: BlkStatus) {
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant the bio is ours, and nobody uses it after this.
        unsafe { complete(this.bio, status) };
    }

    /// Gives the bio back to dm core, which maps it again after the next resume. Any context.
    ///
    /// Only during a noflush suspend; otherwise dm core turns it into an I/O error. If it is
    /// tracked, `end_io` runs before this returns.
    pub fn requeue(self) {
        self.end(BlkStatus::DM_REQUEUE);
    }
}

impl<T: Target> Deref for HeldBio<T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        // SAFETY: `Bio` is transparent, and by the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}

impl<T: Target> Drop for HeldBio<T> {
    fn drop(&mut self) {
        // A forgotten bio would hang its submitter for ever; an error is the lesser evil.
        // SAFETY: By the type invariant the bio is ours, and this value ends here.
        unsafe { complete(self.bio, BlkStatus::IOERR) };
    }
}

/// A completion kept back by `end_io`.
///
/// It may be moved to another thread, kept in a [`BioList`], and must be finished later; dropping
/// it reports [`BlkStatus::IOERR`].
///
/// # Invariants
///
/// `bio` is an ended clone owned by this value and made for a target of type `T`; `slot` is its
/// initialised slot.
pub struct HeldEnd<T: Target> {
    pub(super) bio: NonNull<bindings::bio>,
    pub(super) slot: NonNull<Slot<T::PerBio>>,
}

// SAFETY: A bio and its slot belong to whoever holds them; no operation is bound to a thread.
unsafe impl<T: Target> Send for HeldEnd<T> {}

impl<T: Target> HeldEnd<T> {
    /// Reports to the submitter what was said when it was held. Any context. `end_io` does not run
    /// again.
    pub fn finish(self) {
        let mut this = ManuallyDrop::new(self);
        let bio = this.bio;
        this.set_finishing();
        // SAFETY: By the type invariant the bio is ours, and nobody uses it after this.
        unsafe { bindings::bio_endio(bio.as_ptr()) };
    }

    /// Returns the per-bio data.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Lets the `end_io` callback, which runs again for this bio, pass it straight on.
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

/// What a [`BioList`] can hold: [`HeldBio`] and [`HeldEnd`].
pub trait Held: private::Sealed + Sized {
    /// Gives up the value for the bio inside.
    #[doc(hidden)]
    fn into_bio(self) -> NonNull<bindings::bio>;

    /// Takes back what [`Held::into_bio`] gave.
    ///
    /// # Safety
    ///
    /// `bio` must come from [`Held::into_bio`] of the same type, and be taken back only once.
    #[doc(hidden)]
    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self;
}

impl<T: Target> Held for HeldBio<T> {
    fn into_bio(self) -> NonNull<bindings::bio> {
        ManuallyDrop::new(self).bio
    }

    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: The bio comes from a `HeldBio<T>`, whose invariants it still meets.
        let slot = unsafe { Slot::of(bio) };
        // INVARIANT: As above.
        Self { bio, slot }
    }
}

impl<T: Target> Held for HeldEnd<T> {
    fn into_bio(self) -> NonNull<bindings::bio> {
        ManuallyDrop::new(self).bio
    }

    unsafe fn from_bio(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: The bio comes from a `HeldEnd<T>`, whose invariants it still meets.
        let slot = unsafe { Slot::of(bio) };
        // INVARIANT: As above.
        Self { bio, slot }
    }
}
