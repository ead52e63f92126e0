// SPDX-License-Identifier: GPL-2.0

//! Bios in `map`, and what it decides about them.

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
    device::DmDevice,
    marker::Marker,
    target::{
        DmTarget,
        Instance,
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

/// What `map` decided; can only be made by disposing of the [`MapBio`].
///
/// It is neither `Send` nor can it outlive `'ti`, so the outcome of one call cannot be kept and
/// returned by another.
#[must_use]
pub struct MapOutcome<'ti>(c_int, PhantomData<fn(&'ti ()) -> &'ti ()>, NotThreadSafe);

impl MapOutcome<'_> {
    fn new(code: u32) -> Self {
        Self(code as c_int, PhantomData, NotThreadSafe)
    }

    /// Returns the code for dm core.
    pub(in crate::dm) fn into_raw(self) -> c_int {
        self.0
    }
}

/// A clone that dm core asks the target to map.
///
/// # Invariants
///
/// `bio` is a clone owned by the caller of `map` and made for the target of `instance`; nobody uses
/// its slot, which need not be initialised.
pub struct MapBio<'ti, T: Target> {
    bio: NonNull<bindings::bio>,
    instance: &'ti Instance<'ti, T>,
}

impl<'ti, T: Target> MapBio<'ti, T> {
    /// Takes over a clone from dm core.
    ///
    /// # Safety
    ///
    /// Must be called by the `map` callback of a target type registered for `T`, once, with the
    /// instance of the target and the bio that it got.
    pub(in crate::dm) unsafe fn from_raw(
        instance: &'ti Instance<'ti, T>,
        bio: NonNull<bindings::bio>,
    ) -> Self {
        // INVARIANT: By the safety requirements.
        Self { bio, instance }
    }

    /// Returns the target the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: An instance exists no longer than its target.
        unsafe { DmTarget::from_raw(self.instance.target()) }
    }

    /// Returns the first sector (512 bytes) relative to the start of the target; it means nothing
    /// for a bio without data.
    pub fn sector(&self) -> u64 {
        // dm core only sends sectors inside of the target; wrapping keeps a panic path out of map.
        self.device_sector()
            .wrapping_sub(self.target().begin_sectors())
    }

    /// Makes the bio complete by interrupt even if its submitter asked to poll.
    ///
    /// A polled bio that is held would be polled for while it is not submitted, and one that is
    /// submitted completes only when its submitter gets round to polling.
    pub fn clear_polled(&mut self) {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_opf &= !(1 << bindings::req_flag_bits___REQ_POLLED) };
    }

    /// Returns whether the bio is `marker`, which is to be [ended](Self::end).
    pub fn is_marker(&self, marker: &Marker) -> bool {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_io_vec == marker.vec_ptr() }
    }

    /// Directs the bio to `sector` of `dev`. Of a bio without data the position means nothing
    /// there either; `linear_map()` in `drivers/md/dm-linear.c` sets it, too.
    fn point_to(&mut self, dev: DmDevice<'ti>, sector: u64) {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector = sector };
        // SAFETY: The bio is ours and is directed only once, because its `MapBio` ends with that;
        // the device is open for the life of the target.
        unsafe { set_dev(self.bio, dev.as_bdev_ptr()) };
    }

    /// Gives a tracked bio the per-bio data that it has if the target says nothing.
    fn track(&mut self) {
        if T::TRACKED.has(self.op()) {
            // SAFETY: The clone belongs to a target registered with the size of this slot.
            let slot = unsafe { Slot::<T::PerBio>::of(self.bio) };
            // SAFETY: By the type invariant nobody uses the slot.
            unsafe { Slot::fill(slot, T::PerBio::default()) };
        }
    }

    /// Passes the bio on to `sector` of `dev` at once.
    pub fn remap(mut self, dev: DmDevice<'ti>, sector: u64) -> MapOutcome<'ti> {
        self.track();
        self.point_to(dev, sector);
        MapOutcome::new(bindings::DM_MAPIO_REMAPPED)
    }

    /// Finds where the per-bio data will be. Costs a call, over which the less has to be remembered
    /// the earlier it comes.
    pub fn locate(self) -> LocatedBio<'ti, T> {
        // SAFETY: The clone belongs to a target registered with the size of this slot.
        let slot = unsafe { Slot::of(self.bio) };
        // INVARIANT: It is the slot of this bio.
        LocatedBio { bio: self, slot }
    }

    /// Completes the bio with `status`.
    ///
    /// If it is tracked, `end_io` runs before this returns, with default per-bio data.
    pub fn end(mut self, status: BlkStatus) -> MapOutcome<'ti> {
        self.track();
        // SAFETY: By the type invariant the bio is ours, and `self` is consumed.
        unsafe { complete(self.bio, status) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Tells a submitter that does not want to wait that it would have had to.
    ///
    /// If the bio is tracked, `end_io` runs before this returns, with default per-bio data.
    pub fn would_block(mut self) -> MapOutcome<'ti> {
        self.track();
        // SAFETY: By the type invariant the bio is ours, and `self` is consumed.
        unsafe { bindings::bio_wouldblock_error(self.bio.as_ptr()) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Gives the bio back to dm core, which maps it again after the next resume.
    ///
    /// Only during a noflush suspend ([`DmTarget::noflush_suspending`]); otherwise dm core turns it
    /// into an I/O error. `end_io` does not run.
    pub fn requeue(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REQUEUE)
    }
}

impl<T: Target> Deref for MapBio<'_, T> {
    type Target = Bio;

    fn deref(&self) -> &Bio {
        // SAFETY: `Bio` is transparent, and by the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}

/// A clone in `map` that is about to be directed somewhere.
///
/// # Invariants
///
/// `slot` is that of the bio.
pub struct LocatedBio<'ti, T: Target> {
    bio: MapBio<'ti, T>,
    slot: NonNull<Slot<T::PerBio>>,
}

impl<'ti, T: Target> LocatedBio<'ti, T> {
    /// Directs the bio to `sector` of `dev`, where it goes if it goes, and keeps `per_bio` with it
    /// until its completion.
    pub fn aim(mut self, dev: DmDevice<'ti>, sector: u64, per_bio: T::PerBio) -> AimedBio<'ti, T> {
        // SAFETY: By the type invariants this is the slot of our clone, and nobody uses it.
        unsafe { Slot::fill(self.slot, per_bio) };
        self.bio.point_to(dev, sector);
        // INVARIANT: The bio is ours, and the slot has just been initialised.
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

/// A clone in `map` that is directed to where it may go, and has its per-bio data.
///
/// # Invariants
///
/// `bio` is a clone owned by the caller of `map` and made for the target of `instance`; its slot is
/// initialised.
pub struct AimedBio<'ti, T: Target> {
    bio: NonNull<bindings::bio>,
    instance: &'ti Instance<'ti, T>,
}

impl<'ti, T: Target> AimedBio<'ti, T> {
    /// Returns the target the bio was sent to.
    pub fn target(&self) -> &DmTarget {
        // SAFETY: An instance exists no longer than its target.
        unsafe { DmTarget::from_raw(self.instance.target()) }
    }

    fn slot(&self) -> NonNull<Slot<T::PerBio>> {
        // SAFETY: By the type invariant the clone belongs to a target registered for `T`.
        unsafe { Slot::of(self.bio) }
    }

    /// Returns the per-bio data. Costs a call.
    pub fn per_bio(&mut self) -> &mut T::PerBio {
        // SAFETY: By the type invariant the slot is initialised, and it is borrowed through `self`.
        unsafe { &mut self.slot().as_mut().data }
    }

    /// Passes the bio on.
    pub fn pass(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REMAPPED)
    }

    /// Completes the bio with `status`.
    ///
    /// If it is tracked, `end_io` runs before this returns.
    pub fn end(self, status: BlkStatus) -> MapOutcome<'ti> {
        // SAFETY: By the type invariant the bio is ours, and `self` is consumed.
        unsafe { complete(self.bio, status) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Tells a submitter that does not want to wait that it would have had to.
    ///
    /// If the bio is tracked, `end_io` runs before this returns.
    pub fn would_block(self) -> MapOutcome<'ti> {
        // SAFETY: By the type invariant the bio is ours, and `self` is consumed.
        unsafe { bindings::bio_wouldblock_error(self.bio.as_ptr()) };
        MapOutcome::new(bindings::DM_MAPIO_SUBMITTED)
    }

    /// Gives the bio back to dm core; as [`MapBio::requeue`].
    pub fn requeue(self) -> MapOutcome<'ti> {
        MapOutcome::new(bindings::DM_MAPIO_REQUEUE)
    }

    /// Keeps the bio.
    ///
    /// Another thread may dispose of the returned bio before `map` returns.
    pub fn hold(self) -> (HeldBio<T>, MapOutcome<'ti>) {
        let mut slot = self.slot();
        // SAFETY: The slot is initialised and not borrowed, because `self` was moved in.
        unsafe { slot.as_mut().target.write(self.instance.target()) };
        // INVARIANT: The bio is ours, and the slot is initialised and names the target.
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
        // SAFETY: `Bio` is transparent, and by the type invariant the bio is valid and ours.
        unsafe { self.bio.cast().as_ref() }
    }
}
