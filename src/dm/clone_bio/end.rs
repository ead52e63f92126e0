// SPDX-License-Identifier: GPL-2.0

//! The bios that `end_io` receives, and its decisions about them.

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

/// The decision of `end_io`. Only a disposition of the [`EndBio`] makes one.
///
/// The outcome is not `Send` and cannot outlive `'ti`. Hence a target cannot store the outcome of
/// one call of `end_io` and return it from another.
///
/// # Invariants
///
/// - The code is `DM_ENDIO_DONE`, `DM_ENDIO_REQUEUE` or `DM_ENDIO_INCOMPLETE`.
/// - If it is `DM_ENDIO_INCOMPLETE`, this value owns an RCU read-side critical section of the
///   current task or interrupt.
#[must_use]
pub struct EndOutcome<'ti>(c_int, PhantomData<fn(&'ti ()) -> &'ti ()>, NotThreadSafe);

impl EndOutcome<'_> {
    fn new(code: u32) -> Self {
        // INVARIANT: The callers pass `DM_ENDIO_DONE` or `DM_ENDIO_REQUEUE`.
        Self(code as c_int, PhantomData, NotThreadSafe)
    }

    /// Makes the outcome for a completion that is about to be held.
    ///
    /// As soon as a held completion exists, another thread may finish it. dm core then no longer
    /// counts the bio and may destroy the table, while `end_io` still uses the data of the target.
    /// dm core waits for RCU readers before it destroys a table (`dm_sync_table()` in
    /// `drivers/md/dm.c`). Therefore the rest of `end_io` runs as an RCU reader.
    fn held() -> Self {
        core::mem::forget(rcu::read_lock());
        // INVARIANT: The critical section was entered just above, and its guard was forgotten.
        Self(
            bindings::DM_ENDIO_INCOMPLETE as c_int,
            PhantomData,
            NotThreadSafe,
        )
    }

    /// Returns the code for dm core (`DM_ENDIO_*`). The target's data must not be used afterwards.
    #[inline(always)]
    pub(in crate::dm) fn into_raw(self) -> c_int {
        // The common path returns a constant, and does not keep the code in a register.
        if self.0 == bindings::DM_ENDIO_DONE as c_int {
            return bindings::DM_ENDIO_DONE as c_int;
        }
        self.into_raw_rare()
    }

    /// Returns a code other than `DM_ENDIO_DONE`.
    ///
    /// The results are constants. If the function returned its argument, the compiler would save
    /// the argument over the call, and the common path would be longer.
    #[cold]
    #[inline(never)]
    fn into_raw_rare(self) -> c_int {
        if self.0 != bindings::DM_ENDIO_INCOMPLETE as c_int {
            return bindings::DM_ENDIO_REQUEUE as c_int;
        }
        // SAFETY: `rcu_read_unlock()` needs a critical section to leave. By the type invariant this
        // value owns one, and the value ends here.
        unsafe { bindings::rcu_read_unlock() };
        bindings::DM_ENDIO_INCOMPLETE as c_int
    }
}

/// A tracked clone whose operation has ended.
///
/// The bio no longer shows its position and size, because the block layer has advanced them. A
/// target that needs them in `end_io` stores them in the per-bio data.
///
/// # Invariants
///
/// - `slot` is the initialised slot of a clone that dm core made for a target of type `T` and has
///   passed to `end_io`. This value owns the clone.
/// - `status` points to the clone's status in the stack frame of `clone_endio()`, which waits for
///   the callback to return.
pub struct EndBio<'ti, T: Target> {
    slot: NonNull<Slot<T::PerBio>>,
    status: NonNull<bindings::blk_status_t>,
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
}

impl<'ti, T: Target> EndBio<'ti, T> {
    /// Takes over an ended clone. Returns `None` if the target must not see it: if its operation is
    /// not tracked, or if a held completion is being finished.
    ///
    /// # Safety
    ///
    /// - The caller must be the `end_io` callback of a target type for `T`, and call this once.
    /// - `bio` must be the bio, and `status` the pointer to its status, that dm core passed to the
    ///   callback.
    pub(in crate::dm) unsafe fn from_raw(
        bio: NonNull<bindings::bio>,
        status: NonNull<bindings::blk_status_t>,
    ) -> Option<Self> {
        // SAFETY: `clone_endio()` gives the clone to the target for the duration of the callback.
        if !T::TRACKED.has(unsafe { bio.cast::<Bio>().as_ref() }) {
            return None;
        }
        // SAFETY: The clone was made for a target of type `T`, for which `TargetBuilder::new` set
        // `per_io_data_size`.
        let slot = unsafe { Slot::<T::PerBio>::of(bio) };
        // SAFETY: `map` has initialised the slot of each tracked clone, and the clone is tracked:
        // neither its operation nor `T::TRACKED` has changed since `map`.
        if unsafe { slot.as_ref().finishing } {
            return None;
        }
        // INVARIANT: By the safety requirements. The slot is initialised, see above.
        Some(Self {
            slot,
            status,
            _brand: PhantomData,
        })
    }

    /// Returns the clone. It is computed from the slot, so that the common path does not have to
    /// keep both in registers.
    fn bio(&self) -> NonNull<bindings::bio> {
        let slot = self.slot.as_ptr().cast();
        let size = size_of::<Slot<T::PerBio>>();
        // SAFETY: By the type invariant this is the slot of a live clone, and the
        // `per_io_data_size` of its target is `size`.
        let bio = unsafe { bindings::dm_bio_from_per_bio_data(slot, size) };
        // SAFETY: `dm_bio_from_per_bio_data()` returns the clone behind the slot, which is not
        // null.
        unsafe { NonNull::new_unchecked(bio) }
    }

    /// Returns the operation. This costs a function call.
    pub fn op(&self) -> Op {
        // SAFETY: `Bio` is a transparent wrapper. By the type invariant the bio is valid and ours.
        unsafe { self.bio().cast::<Bio>().as_ref() }.op()
    }

    /// Returns the status with which the operation ended; see also [`BlkStatus::is_requeue`].
    pub fn status(&self) -> BlkStatus {
        // SAFETY: By the type invariant the pointer is valid during the callback.
        BlkStatus::from_raw(unsafe { *self.status.as_ptr() })
    }

    /// Returns the per-bio data.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised and ours.
        unsafe { &mut self.slot.as_mut().data }
    }

    /// Reports to the submitter the status that the device reported.
    pub fn pass_on(self) -> EndOutcome<'ti> {
        EndOutcome::new(bindings::DM_ENDIO_DONE)
    }

    /// Reports `status` to the submitter instead of the status that the device reported.
    pub fn done(self, status: BlkStatus) -> EndOutcome<'ti> {
        // SAFETY: By the type invariant the pointer is valid during the callback.
        unsafe { *self.status.as_ptr() = status.as_raw() };
        EndOutcome::new(bindings::DM_ENDIO_DONE)
    }

    /// Gives the bio back to dm core, which maps it again after the next resume.
    ///
    /// Use this only during a noflush suspend. At other times dm core reports an I/O error.
    pub fn requeue(self) -> EndOutcome<'ti> {
        EndOutcome::new(bindings::DM_ENDIO_REQUEUE)
    }

    /// Holds the completion. The submitter gets `status`, which may differ from the status that the
    /// device reported, when the completion is finished.
    ///
    /// Another thread may finish the returned completion before `end_io` returns. The data of the
    /// target exists until `end_io` returns all the same. `end_io` must not sleep after this call,
    /// because it is then in an RCU read-side critical section.
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
