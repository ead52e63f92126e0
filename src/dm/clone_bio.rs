// SPDX-License-Identifier: GPL-2.0

//! The bios that dm core hands to a target, and the ways to dispose of them.
//!
//! # Vocabulary
//!
//! - A *clone* is the bio that dm core makes for the target from a bio sent to the mapped device.
//! - A *disposition* is a decision of the target about a clone. Inside `map` and `end_io` each
//!   disposition is a method that takes the bio by value and returns an outcome. `map` and `end_io`
//!   must return an outcome, and only a disposition makes one. So code that disposes of a bio
//!   twice, or not at all, does not compile. A held bio that is dropped ends with an error.
//! - A bio is *tracked* if its operation is among [`Target::TRACKED`]. A tracked bio has per-bio
//!   data, and its completion passes [`Target::end_io`].
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
//! A clone that the target ends itself ([`MapBio::end`], [`HeldBio::end`]) also passes `end_io`
//! (`clone_endio()` in `drivers/md/dm.c`). `end_io` then runs *inside* the call that ends the
//! clone. So the target must first store everything that `end_io` needs, and only then end the
//! clone.
//!
//! # One bio, one target
//!
//! A bio cannot be disposed of through another target. [`MapBio`], [`LocatedBio`], [`AimedBio`],
//! [`EndBio`] and their outcomes carry the lifetime `'ti` of the target in this callback. Each call
//! of a callback has another `'ti`. [`HeldBio`] and [`HeldEnd`] outlive the callback, so they find
//! the target in the bio. [`HeldBio::with_data`] lends the data of that target to a closure.
//!
//! # Cost
//!
//! These values pass through `map` and `end_io` of every bio. Each but [`LocatedBio`] has at most
//! two words and fits into two registers. [`LocatedBio`] has three words, so the target should aim
//! it at once or turn it back into a [`MapBio`].
//!
//! # Locking
//!
//! This module takes no locks. The user of a [`BioList`] protects it, with an interrupt-disabling
//! lock if `end_io` uses the list. Do not dispose of a bio with such a lock held: ending a bio runs
//! the completions of all layers above it.
//!
//! C header: `include/linux/device-mapper.h`; callers: `__map_bio()` and `clone_endio()` in
//! `drivers/md/dm.c`.
//!
//! [`Target::TRACKED`]: super::Target::TRACKED
//! [`Target::end_io`]: super::Target::end_io

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
        Bio,
        BlkStatus, //
    },
};
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// The bios that have per-bio data and pass [`Target::end_io`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tracked {
    /// No bio. The target has neither per-bio data nor `end_io`.
    Nothing,
    /// The bios of all operations except [`Op::Read`](super::Op::Read).
    AllButReads,
    /// All bios.
    Everything,
}

impl Tracked {
    /// Returns whether a bio is tracked.
    #[inline(always)]
    fn has(self, bio: &Bio) -> bool {
        match self {
            Tracked::Nothing => false,
            Tracked::AllButReads => !bio.is_read(),
            Tracked::Everything => true,
        }
    }
}

/// The memory that dm core reserves for the target in front of each clone.
///
/// - `finishing` is set when a held completion is finished. Finishing runs the `end_io` callback a
///   second time, which then does nothing.
/// - `target` is written when a bio is held, and not before.
/// - `data` is the per-bio data of the target.
#[repr(C)]
pub(super) struct Slot<P> {
    finishing: bool,
    target: MaybeUninit<NonNull<bindings::dm_target>>,
    data: P,
}

impl<P: Copy + Default> Slot<P> {
    /// Bytes that dm core must reserve in front of each clone.
    pub(super) const SIZE_BYTES: u32 = {
        // dm core places the slot directly in front of a `struct dm_io` or `struct dm_target_io`.
        // Both have at least the alignment of a pointer, and `size_of` is a multiple of the slot's
        // own alignment. Hence the start of the slot is aligned.
        assert!(align_of::<Self>() <= align_of::<*mut c_void>());
        assert!(size_of::<Self>() <= 4096);
        size_of::<Self>() as u32
    };

    /// Returns the address of the slot of `bio`.
    ///
    /// # Safety
    ///
    /// - `bio` must be a clone that dm core has passed to a callback of a target, and that dm core
    ///   has not freed.
    /// - The `per_io_data_size` of that target must be [`Self::SIZE_BYTES`].
    unsafe fn of(bio: NonNull<bindings::bio>) -> NonNull<Self> {
        // SAFETY: By the safety requirements `bio` is part of a `struct dm_target_io`. The bio sets
        // of the table reserve the slot in front of it (`dm_table_alloc_md_mempools()`).
        let slot = unsafe { bindings::dm_per_bio_data(bio.as_ptr(), size_of::<Self>()) };
        // SAFETY: `dm_per_bio_data()` subtracts a constant from the address of a live clone. The
        // result lies in the same allocation and is not null.
        unsafe { NonNull::new_unchecked(slot.cast()) }
    }

    /// Initialises a slot. `target` stays uninitialised.
    ///
    /// # Safety
    ///
    /// - `slot` must be the result of [`Slot::of`] for a clone that the caller owns.
    /// - No reference to the slot may exist.
    unsafe fn fill(slot: NonNull<Self>, data: P) {
        // SAFETY: By the safety requirements no one else uses the slot. It is large enough and
        // aligned, see `SIZE_BYTES`.
        unsafe {
            slot.write(Self {
                finishing: false,
                target: MaybeUninit::uninit(),
                data,
            })
        };
    }
}

/// Directs a clone to a device, as `bio_set_dev()` does.
///
/// `bio_set_dev()` is an inline function in `include/linux/bio.h`. Calling it through a C function
/// would cost 11 instructions more for each bio on x86-64, so this function repeats it:
///
/// ```c
/// static inline void bio_set_dev(struct bio *bio, struct block_device *bdev)
/// {
///     bio_clear_flag(bio, BIO_REMAPPED);
///     if (bio->bi_bdev != bdev)
///         bio_clear_flag(bio, BIO_BPS_THROTTLED);
///     bio->bi_bdev = bdev;
///     bio_associate_blkg(bio);
/// }
/// ```
///
/// The condition always holds here, because the clone still points to the mapped device.
/// `selftests/compile-fail` fails if the kernel's function has changed.
///
/// # Safety
///
/// - `bio` must be a clone that the caller owns and that has not been directed to a device yet.
/// - `bdev` must be an open block device, and stay open until the clone has ended.
#[inline(always)]
unsafe fn set_dev(bio: NonNull<bindings::bio>, bdev: *mut bindings::block_device) {
    // SAFETY: By the safety requirements the caller owns the clone.
    let inner = unsafe { &mut *bio.as_ptr() };
    inner.bi_flags &= !(1 << bindings::BIO_REMAPPED | 1 << bindings::BIO_BPS_THROTTLED);
    inner.bi_bdev = bdev;
    // SAFETY: `bio_associate_blkg()` needs a bio of the caller's that points to an open device. It
    // was directed to `bdev` just above.
    #[cfg(CONFIG_BLK_CGROUP)]
    unsafe {
        bindings::bio_associate_blkg(bio.as_ptr())
    };
}

/// Sets the status of a clone and completes it.
///
/// # Safety
///
/// - `bio` must be a clone that the caller owns.
/// - The caller must not use `bio` afterwards: `clone_endio()` may free it.
unsafe fn complete(bio: NonNull<bindings::bio>, status: BlkStatus) {
    // SAFETY: By the safety requirements the caller owns the clone.
    unsafe { (*bio.as_ptr()).bi_status = status.as_raw() };
    // SAFETY: By the safety requirements the caller owns the clone and does not use it afterwards.
    unsafe { bindings::bio_endio(bio.as_ptr()) };
}
