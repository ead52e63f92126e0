// SPDX-License-Identifier: GPL-2.0

//! The bios that `map` receives, and its decisions about them.

use super::{
    complete,
    set_dev,
    HeldBio,
    Slot, //
};
use crate::dm::{
    bindings,
    bio::{
        Bio,
        BlkStatus, //
    },
    builder::Instance,
    device::DmDevice,
    marker::Marker,
    target::{
        DmTarget,
        Target, //
    },
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

/// The decision of `map`. Only a disposition of the [`MapBio`] makes one.
///
/// The outcome is not `Send` and cannot outlive `'ti`. Hence a target cannot store the outcome of
/// one call of `map` and return it from another.
#[must_use]
pub struct MapOutcome<'ti>(c_int, PhantomData<fn(&'ti ()) -> &'ti ()>, NotThreadSafe);

impl MapOutcome<'_> {
    fn new(code: u32) -> Self {
        Self(code as c_int, PhantomData, NotThreadSafe)
    }

    /// Returns the code for dm core (`DM_MAPIO_*`).
    pub(in crate::dm) fn into_raw(self) -> c_int {
        self.0
    }
}

/// A clone that dm core asks the target to map.
///
/// # Invariants
///
/// - `bio` is a clone that dm core made for the target of `instance`, and this value owns it.
/// - The clone still points to the mapped device.
/// - No reference to the clone's slot exists. The slot may be uninitialised.
pub struct MapBio<'ti, T: Target> {
    bio: NonNull<bindings::bio>,
    instance: &'ti Instance<'ti, T>,
}

impl<'ti, T: Target> MapBio<'ti, T> {
    /// Takes over a clone from dm core.
    ///
    /// # Safety
    ///
    /// - The caller must be the `map` callback of a target type for `T`, and call this once.
    /// - `bio` must be the bio that dm core passed to the callback.
    /// - `instance` must be the private data of the target that dm core passed to the callback.
    pub(in crate::dm) unsafe fn from_raw(
        instance: &'ti Instance<'ti, T>,
        bio: NonNull<bindings::bio>,
    ) -> Self {
        // INVARIANT: `__map_bio()` hands the clone over to the target when it calls `map`, and has
        // not directed it to another device (see `needs_bio_set_dev`).
        Self { bio, instance }
    }

    /// Returns the target that the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: The instance is freed in `dtr`, which gets a valid target (`dm_table_destroy()`).
        // Hence the target exists as long as the instance is borrowed.
        unsafe { DmTarget::from_raw(self.instance.target()) }
    }

    /// Returns the first sector (512 bytes) relative to the start of the target. The value has no
    /// meaning for a bio without data.
    pub fn sector(&self) -> u64 {
        // dm core sends only sectors inside of the target. The wrapping subtraction avoids the code
        // of an overflow check in `map`.
        self.device_sector()
            .wrapping_sub(self.target().begin_sectors())
    }

    /// Makes the bio complete by interrupt, even if its submitter asked to poll (`REQ_POLLED`).
    ///
    /// Otherwise the submitter polls in vain while the target holds the bio, and after the submit
    /// the bio completes only when the submitter polls.
    pub fn clear_polled(&mut self) {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_opf &= !(1 << bindings::req_flag_bits___REQ_POLLED) };
    }

    /// Returns whether the bio is a clone of `marker`. The target must then [end](Self::end) it.
    pub fn is_marker(&self, marker: &Marker) -> bool {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_io_vec == marker.vec_ptr() }
    }

    /// Directs the bio to `sector` of `dev`, as `linear_map()` in `drivers/md/dm-linear.c` does.
    /// The position has no meaning for a bio without data.
    fn point_to(&mut self, dev: DmDevice<'ti>, sector: u64) {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector = sector };
        // SAFETY: By the type invariant the bio is ours and points to the mapped device. The
        // callers consume the `MapBio`, so that the bio is directed once. `dev` is open as
        // long as the target exists, and the target exists as long as its clones, see `HeldBio`.
        unsafe { set_dev(self.bio, dev.as_bdev_ptr()) };
    }

    /// Gives a tracked bio the default per-bio data.
    fn track(&mut self) {
        if T::TRACKED.has(self) {
            // SAFETY: By the type invariant the clone was made for a target of type `T`, for which
            // `TargetBuilder::new` set `per_io_data_size`.
            let slot = unsafe { Slot::<T::PerBio>::of(self.bio) };
            // SAFETY: The slot is that of our clone. By the type invariant no reference to it
            // exists.
            unsafe { Slot::fill(slot, T::PerBio::default()) };
        }
    }

    /// Passes the bio on to `sector` of `dev`, with default per-bio data if it is tracked.
    pub fn remap(mut self, dev: DmDevice<'ti>, sector: u64) -> MapOutcome<'ti> {
        self.track();
        self.point_to(dev, sector);
        MapOutcome::new(bindings::DM_MAPIO_REMAPPED)
    }

    /// Finds the place of the per-bio data.
    ///
    /// This costs a function call. Call it early, while few values have to be saved over the call.
    pub fn locate(self) -> LocatedBio<'ti, T> {
        // SAFETY: By the type invariant the clone was made for a target of type `T`, for which
        // `TargetBuilder::new` set `per_io_data_size`.
        let slot = unsafe { Slot::of(self.bio) };
        // INVARIANT: The slot was computed from this bio.
        LocatedBio { bio: self, slot }
    }

    /// Completes the bio with `status`.
    ///
    /// If it is tracked, `end_io` runs before this returns, with default per-bio data.
    pub fn end(mut self, status: BlkStatus) -> MapOutcome<'ti> {
        self.track();
        // SAFETY: By the type invariant the bio is ours. `self` is consumed, so that no one uses
        // the bio afterwards.
        unsafe { complete(self.bio, status) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Completes a [nowait](Bio::is_nowait) bio because it would have to wait
    /// (`bio_wouldblock_error()`).
    ///
    /// If the bio is tracked, `end_io` runs before this returns, with default per-bio data.
    pub fn would_block(mut self) -> MapOutcome<'ti> {
        self.track();
        // SAFETY: By the type invariant the bio is ours. `self` is consumed, so that no one uses
        // the bio afterwards.
        unsafe { bindings::bio_wouldblock_error(self.bio.as_ptr()) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Gives the bio back to dm core, which maps it again after the next resume.
    ///
    /// Use this only during a noflush suspend ([`DmTarget::noflush_suspending`]). At other times dm
    /// core reports an I/O error. `end_io` does not run.
    pub fn requeue(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REQUEUE)
    }
}

impl<T: Target> Deref for MapBio<'_, T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        // SAFETY: `Bio` is a transparent wrapper. By the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}

/// A clone in `map` whose per-bio data is about to be written.
///
/// # Invariants
///
/// `slot` is the slot of `bio`.
pub struct LocatedBio<'ti, T: Target> {
    bio: MapBio<'ti, T>,
    slot: NonNull<Slot<T::PerBio>>,
}

impl<'ti, T: Target> LocatedBio<'ti, T> {
    /// Directs the bio to `sector` of `dev`, without passing it on yet, and stores `per_bio` with
    /// it until its completion.
    pub fn aim(mut self, dev: DmDevice<'ti>, sector: u64, per_bio: T::PerBio) -> AimedBio<'ti, T> {
        // SAFETY: By the type invariants this is the slot of our clone, and no reference to it
        // exists.
        unsafe { Slot::fill(self.slot, per_bio) };
        self.bio.point_to(dev, sector);
        // INVARIANT: The bio is ours, and its slot was initialised just above.
        AimedBio {
            bio: self.bio.bio,
            instance: self.bio.instance,
        }
    }
}

impl<'ti, T: Target> From<LocatedBio<'ti, T>> for MapBio<'ti, T> {
    fn from(located: LocatedBio<'ti, T>) -> Self {
        located.bio
    }
}

impl<T: Target> Deref for LocatedBio<'_, T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        &self.bio
    }
}

/// A clone in `map` that points to its device and has its per-bio data.
///
/// # Invariants
///
/// - `bio` is a clone that dm core made for the target of `instance`, and this value owns it.
/// - The clone's slot is initialised, and no reference to it exists.
pub struct AimedBio<'ti, T: Target> {
    bio: NonNull<bindings::bio>,
    instance: &'ti Instance<'ti, T>,
}

impl<'ti, T: Target> AimedBio<'ti, T> {
    /// Returns the target that the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: The instance is freed in `dtr`, which gets a valid target (`dm_table_destroy()`).
        // Hence the target exists as long as the instance is borrowed.
        unsafe { DmTarget::from_raw(self.instance.target()) }
    }

    fn slot(&self) -> NonNull<Slot<T::PerBio>> {
        // SAFETY: By the type invariant the clone was made for a target of type `T`, for which
        // `TargetBuilder::new` set `per_io_data_size`.
        unsafe { Slot::of(self.bio) }
    }

    /// Returns the per-bio data. This costs a function call.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised. The reference borrows `self`.
        unsafe { &mut self.slot().as_mut().data }
    }

    /// Passes the bio on to the device that [`LocatedBio::aim`] directed it to.
    pub fn pass(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REMAPPED)
    }

    /// Completes the bio with `status`.
    ///
    /// If it is tracked, `end_io` runs before this returns.
    pub fn end(self, status: BlkStatus) -> MapOutcome<'ti> {
        // SAFETY: By the type invariant the bio is ours. `self` is consumed, so that no one uses
        // the bio afterwards.
        unsafe { complete(self.bio, status) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Completes a [nowait](Bio::is_nowait) bio because it would have to wait.
    ///
    /// If the bio is tracked, `end_io` runs before this returns.
    pub fn would_block(self) -> MapOutcome<'ti> {
        // SAFETY: By the type invariant the bio is ours. `self` is consumed, so that no one uses
        // the bio afterwards.
        unsafe { bindings::bio_wouldblock_error(self.bio.as_ptr()) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Gives the bio back to dm core, as [`MapBio::requeue`].
    pub fn requeue(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REQUEUE)
    }

    /// Holds the bio, so that it can be submitted or ended later.
    ///
    /// Another thread may dispose of the returned bio before `map` returns.
    pub fn hold(self) -> (HeldBio<T>, MapOutcome<'ti>) {
        let mut slot = self.slot();
        // SAFETY: By the type invariant the slot is initialised. No borrow of it is left, because
        // `self` was moved in.
        unsafe { slot.as_mut().target.write(self.instance.target()) };
        // INVARIANT: The bio is ours, and its slot is initialised, including `target`.
        let held = HeldBio {
            bio: self.bio,
            slot,
        };
        (held, MapOutcome::new(bindings::DM_MAPIO_SUBMITTED))
    }
}

impl<T: Target> Deref for AimedBio<'_, T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        // SAFETY: `Bio` is a transparent wrapper. By the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}
