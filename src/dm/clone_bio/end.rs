// SPDX-License-Identifier: GPL-2.0

//! Bios in `end_io`, and what it decides about them.

use super::{
    HeldEnd,
    Slot, //
};
use crate::dm::{
    bindings,
    bio::{
        Bio,
        BlkStatus,
        Op, //
    },
    target::Target,
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    sync::rcu,
    types::NotThreadSafe, //
};

/// What `end_io` decided; can only be made by disposing of the [`EndBio`].
///
/// It is neither `Send` nor can it outlive `'ti`, so the outcome of one call cannot be kept and
/// returned by another.
///
/// # Invariants
///
/// If the code is `DM_ENDIO_INCOMPLETE`, an RCU read-side section of this task or interrupt belongs
/// to this value.
#[must_use]
pub struct EndOutcome<'ti>(c_int, PhantomData<fn(&'ti ()) -> &'ti ()>, NotThreadSafe);

impl EndOutcome<'_> {
    fn new(code: u32) -> Self {
        // INVARIANT: `code` is not `DM_ENDIO_INCOMPLETE`.
        Self(code as c_int, PhantomData, NotThreadSafe)
    }

    /// Makes the outcome of a completion that is about to be kept back.
    ///
    /// As soon as a held completion exists, another thread may finish it. dm core then no longer
    /// counts the bio and may take the table away, while `end_io` still uses the data of the
    /// target. dm core waits for RCU readers before it destroys a table (`dm_sync_table()` in
    /// `drivers/md/dm.c`), so the rest of `end_io` becomes such a reader.
    fn held() -> Self {
        core::mem::forget(rcu::read_lock());
        // INVARIANT: The section was just entered.
        Self(
            bindings::DM_ENDIO_INCOMPLETE as c_int,
            PhantomData,
            NotThreadSafe,
        )
    }

    /// Returns the code for dm core, after the last use of the target's data.
    #[inline(always)]
    pub(in crate::dm) fn into_raw(self) -> c_int {
        // One constant, or what the C function returns: no code is kept in a register over a call,
        // which would cost the usual path instructions.
        if self.0 == bindings::DM_ENDIO_DONE as c_int {
            return bindings::DM_ENDIO_DONE as c_int;
        }
        // SAFETY: By the type invariant the section was entered if the code is that of a held
        // completion. It belongs to this value, which ends here.
        unsafe { bindings::dm_end_held(self.0) }
    }
}

/// A tracked clone whose operation has ended.
///
/// How much of it was to be transferred, and where, can no longer be seen; what `end_io` needs of
/// that belongs into the per-bio data.
///
/// # Invariants
///
/// `slot` is the initialised slot of a clone passed to `end_io` and made for a target of type `T`;
/// `status` is where dm core keeps its status during the callback.
pub struct EndBio<'ti, T: Target> {
    slot: NonNull<Slot<T::PerBio>>,
    status: NonNull<bindings::blk_status_t>,
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
}

impl<'ti, T: Target> EndBio<'ti, T> {
    /// Takes over an ended clone, unless the target is not to see it: because the operation is
    /// not tracked, or because a held completion is being finished.
    ///
    /// # Safety
    ///
    /// Must be called by the `end_io` callback of a target type registered for `T`, with its
    /// arguments, once.
    pub(in crate::dm) unsafe fn from_raw(
        bio: NonNull<bindings::bio>,
        status: NonNull<bindings::blk_status_t>,
    ) -> Option<Self> {
        // SAFETY: The bio is valid and ours for the duration of this call.
        let op = unsafe { bio.cast::<Bio>().as_ref() }.op();
        if !T::TRACKED.has(op) {
            return None;
        }
        // SAFETY: The clone belongs to a target registered with the size of this slot.
        let slot = unsafe { Slot::<T::PerBio>::of(bio) };
        // SAFETY: Neither the operation of a bio nor the constant changes, so `map` initialised the
        // slot.
        if unsafe { slot.as_ref().finishing } {
            return None;
        }
        // INVARIANT: By the safety requirements, and the slot is initialised.
        Some(Self {
            slot,
            status,
            _brand: PhantomData,
        })
    }

    /// The clone: found again, so that it need not be kept over all of `end_io`.
    fn bio(&self) -> NonNull<bindings::bio> {
        let slot = self.slot.as_ptr().cast();
        let size = size_of::<Slot<T::PerBio>>();
        // SAFETY: By the type invariant this is the slot of a clone, and has this size.
        let bio = unsafe { bindings::dm_bio_from_per_bio_data(slot, size) };
        // SAFETY: By the type invariant there is a clone behind the slot.
        unsafe { NonNull::new_unchecked(bio) }
    }

    /// Returns the operation. Costs a call.
    pub fn op(&self) -> Op {
        // SAFETY: `Bio` is transparent, and by the type invariant the bio is valid and ours.
        unsafe { self.bio().cast::<Bio>().as_ref() }.op()
    }

    /// Returns how the operation ended; see also [`BlkStatus::is_requeue`].
    pub fn status(&self) -> BlkStatus {
        // SAFETY: By the type invariant.
        BlkStatus::from_raw(unsafe { *self.status.as_ptr() })
    }

    /// Returns the per-bio data.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Reports to the submitter what the device reported.
    pub fn pass_on(self) -> EndOutcome<'ti> {
        EndOutcome::new(bindings::DM_ENDIO_DONE)
    }

    /// Reports `status` to the submitter, whatever the device reported.
    pub fn done(self, status: BlkStatus) -> EndOutcome<'ti> {
        // SAFETY: By the type invariant.
        unsafe { *self.status.as_ptr() = status.as_raw() };
        EndOutcome::new(bindings::DM_ENDIO_DONE)
    }

    /// Gives the bio back to dm core, which maps it again after the next resume.
    ///
    /// Only during a noflush suspend; otherwise dm core turns it into an I/O error.
    pub fn requeue(self) -> EndOutcome<'ti> {
        EndOutcome::new(bindings::DM_ENDIO_REQUEUE)
    }

    /// Keeps the completion back; the submitter hears nothing until it is finished, and then
    /// `status`, which need not be the one the device reported.
    ///
    /// Another thread may finish the returned completion before `end_io` returns. The data of the
    /// target exists until then all the same, but `end_io` must not sleep from here on: it is in an
    /// RCU read-side section.
    pub fn hold(self, status: BlkStatus) -> (HeldEnd<T>, EndOutcome<'ti>) {
        let bio = self.bio();
        let outcome = EndOutcome::held();
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*bio.as_ptr()).bi_status = status.as_raw() };
        // INVARIANT: The bio is ours, and its slot is initialised.
        let held = HeldEnd {
            bio,
            slot: self.slot,
        };
        (held, outcome)
    }
}
