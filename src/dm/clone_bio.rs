// SPDX-License-Identifier: GPL-2.0

//! The bios that device-mapper core hands to a target, and what becomes of them.
//!
//! # Vocabulary
//!
//! - *clone*: the bio dm core made for the target out of a bio sent to the mapped device.
//! - *disposition*: what the target decides about a clone. Each is a method that takes the bio by
//!   value and returns the only value `map` or `end_io` may return, so that a bio which is disposed
//!   of twice, or never, does not compile.
//! - *tracked*: the operation is among [`Target::TRACKED`]: the bio has per-bio data and its
//!   completion passes [`Target::end_io`].
//!
//! # States
//!
//! ```text
//!            map                                      lower device
//!  MapBio ---------> remap() ---------------------------> in flight ----+
//!     |                                                      ^  ^       |
//!     |-- locate() --> LocatedBio                            |  |       |
//!     |                    | aim()                           |  |       |
//!     |                    v                                 |  |       |
//!     |                AimedBio ---- pass() -----------------+  |       | completion
//!     |                    |-------- hold() --> HeldBio - submit()      v
//!     |                    |                       |          (tracked) EndBio
//!     |                    |                       +-- end() ---+---->  |   |
//!     |                    +-- end(), would_block() ------------+       |   |
//!     |---> end(), would_block() -------------------------------+       |   |
//!     |---> requeue() (all but a LocatedBio have it) ----> dm core      |   |
//!                                                                       |   |
//!        dm core <------- pass_on() / done() / requeue() ---------------+   |
//!           ^                                                               |
//!           +------------- finish() <---- HeldEnd <-------- hold() ---------+
//! ```
//!
//! A clone ended by the target itself ([`MapBio::end`], [`HeldBio::end`]) passes `end_io` as well
//! (`clone_endio()` in `drivers/md/dm.c`), and does so *inside* the call that ends it. Whatever
//! `end_io` needs to know must therefore be in the per-bio data before the disposition.
//!
//! # Cost
//!
//! These values pass through `map` and `end_io` of every bio. Each is at most two words, so that it
//! travels in registers; a [`LocatedBio`], which has three, is to be aimed at once, or turned back
//! into a [`MapBio`]. The slot is written once, whole.
//!
//! # Locking
//!
//! None here. A [`BioList`] belongs to its user, who protects it with an interrupt-disabling lock
//! when `end_io` touches it. No disposition may be called with such a lock held, because ending a
//! bio runs the completion of everything above it.
//!
//! C headers: `include/linux/device-mapper.h`, `include/linux/blk_types.h`.

mod end;
mod held;
mod list;
mod map;

pub use self::{
    end::{
        EndBio,
        EndOutcome, //
    },
    held::{
        Held,
        HeldBio,
        HeldEnd, //
    },
    list::BioList,
    map::{
        AimedBio,
        LocatedBio,
        MapBio,
        MapOutcome, //
    },
};

use super::{
    bindings,
    bio::{
        BlkStatus,
        Op, //
    },
};
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// Which bios have per-bio data and pass [`Target::end_io`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tracked {
    /// None: the target has neither per-bio data nor `end_io`.
    Nothing,
    /// All operations but [`Op::READ`].
    AllButReads,
    /// All operations.
    Everything,
}

impl Tracked {
    /// Returns whether a bio with this operation is tracked.
    #[inline(always)]
    const fn has(self, op: Op) -> bool {
        match self {
            Tracked::Nothing => false,
            Tracked::AllButReads => op.as_raw() != Op::READ.as_raw(),
            Tracked::Everything => true,
        }
    }
}

/// What dm core keeps for us in front of each clone.
///
/// `finishing` belongs to this module: it is set when a held completion is finished, because
/// finishing runs `end_io` a second time. `target` is written only when a bio is held.
#[repr(C)]
pub(super) struct Slot<P> {
    finishing: bool,
    target: MaybeUninit<NonNull<bindings::dm_target>>,
    data: P,
}

impl<P: Copy + Default> Slot<P> {
    /// Bytes that dm core must reserve in front of each clone.
    pub(super) const SIZE_BYTES: u32 = {
        // dm core places the data right in front of a `struct dm_io`, whose alignment is that of a
        // pointer or more; `size_of` is a multiple of the alignment, so the start is aligned too.
        assert!(align_of::<Self>() <= align_of::<*mut c_void>());
        assert!(size_of::<Self>() <= 4096);
        size_of::<Self>() as u32
    };

    /// Returns where the slot of `bio` is.
    ///
    /// # Safety
    ///
    /// `bio` must be a clone made for a target registered with [`Self::SIZE_BYTES`].
    unsafe fn of(bio: NonNull<bindings::bio>) -> NonNull<Self> {
        // SAFETY: By the safety requirements; the result points in front of the clone.
        let slot = unsafe { bindings::dm_per_bio_data(bio.as_ptr(), size_of::<Self>()) };
        // SAFETY: It is the address of a live clone minus a constant, hence not null.
        unsafe { NonNull::new_unchecked(slot.cast()) }
    }

    /// Makes a slot valid.
    ///
    /// # Safety
    ///
    /// `slot` must come from [`Slot::of`], and nobody else may be using it.
    unsafe fn fill(slot: NonNull<Self>, data: P) {
        // SAFETY: The slot has room for a `Self` and is aligned for it, see `SIZE_BYTES`.
        unsafe {
            slot.write(Self {
                finishing: false,
                target: MaybeUninit::uninit(),
                data,
            })
        };
    }
}

/// Directs a clone to a device: `bio_set_dev()` in `include/linux/bio.h`, which is inline there. As
/// a C function of its own it costs three times as much, for each bio.
///
/// # Safety
///
/// The caller must own the clone, which still points to the mapped device as dm core made it (so
/// that `bdev` is another one), and `bdev` must stay open while the clone points to it.
#[inline(always)]
unsafe fn set_dev(bio: NonNull<bindings::bio>, bdev: *mut bindings::block_device) {
    // SAFETY: The bio is the caller's.
    let inner = unsafe { &mut *bio.as_ptr() };
    inner.bi_flags &= !(1 << bindings::BIO_REMAPPED | 1 << bindings::BIO_BPS_THROTTLED);
    inner.bi_bdev = bdev;
    // SAFETY: The bio is the caller's and points to an open device.
    #[cfg(CONFIG_BLK_CGROUP)]
    unsafe {
        bindings::bio_associate_blkg(bio.as_ptr())
    };
}

/// Sets the status of a clone and completes it.
///
/// # Safety
///
/// The caller must own the clone and not use it afterwards.
unsafe fn complete(bio: NonNull<bindings::bio>, status: BlkStatus) {
    // SAFETY: The caller owns the bio.
    unsafe { (*bio.as_ptr()).bi_status = status.as_raw() };
    // SAFETY: The caller owns the bio and gives it up here.
    unsafe { bindings::bio_endio(bio.as_ptr()) };
}
