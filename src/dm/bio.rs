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

use super::{
    bindings,
    device::{
        DevT,
        DmDevice, //
    },
    marker::Marker,
    target::{
        DmTarget,
        Instance,
        Target, //
    },
};
use core::{
    marker::PhantomData,
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    sync::rcu,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// What a bio does, without its flags (`enum req_op`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Op(u32);

impl Op {
    /// Reads sectors; the only operation that never changes anything.
    pub const READ: Op = Op(bindings::req_op_REQ_OP_READ);
    /// Writes sectors. An empty flush is a `WRITE` of zero bytes with the preflush flag.
    pub const WRITE: Op = Op(bindings::req_op_REQ_OP_WRITE);
    /// Tells the device that sectors are no longer needed.
    pub const DISCARD: Op = Op(bindings::req_op_REQ_OP_DISCARD);
    /// Erases sectors beyond recovery.
    pub const SECURE_ERASE: Op = Op(bindings::req_op_REQ_OP_SECURE_ERASE);
    /// Writes zeroes without carrying them.
    pub const WRITE_ZEROES: Op = Op(bindings::req_op_REQ_OP_WRITE_ZEROES);

    const MASK: u32 = (1 << bindings::REQ_OP_BITS) - 1;

    /// Returns the number of the operation, for logs and trace events.
    pub const fn as_raw(self) -> u32 {
        self.0
    }
}

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
            Tracked::AllButReads => op.0 != Op::READ.0,
            Tracked::Everything => true,
        }
    }
}

/// How an operation on a block device ended (`blk_status_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlkStatus(u8);

impl BlkStatus {
    /// It succeeded.
    pub const OK: BlkStatus = BlkStatus(bindings::BLK_STS_OK as u8);
    /// The device does not support it (`EOPNOTSUPP`).
    pub const NOTSUPP: BlkStatus = BlkStatus(bindings::BLK_STS_NOTSUPP);
    /// A reservation held by somebody else forbids it (`EBADE`).
    pub const RESV_CONFLICT: BlkStatus = BlkStatus(bindings::BLK_STS_RESV_CONFLICT);
    /// The medium is bad (`ENODATA`).
    pub const MEDIUM: BlkStatus = BlkStatus(bindings::BLK_STS_MEDIUM);
    /// Some resource is missing right now (`ENOMEM`).
    pub const RESOURCE: BlkStatus = BlkStatus(bindings::BLK_STS_RESOURCE);
    /// Anything else went wrong (`EIO`).
    pub const IOERR: BlkStatus = BlkStatus(bindings::BLK_STS_IOERR);
    /// It would have had to wait although it was marked not to (`EAGAIN`).
    pub const AGAIN: BlkStatus = BlkStatus(bindings::BLK_STS_AGAIN);
    /// The device is gone or going (`ENODEV`).
    pub const OFFLINE: BlkStatus = BlkStatus(bindings::BLK_STS_OFFLINE);

    /// dm core keeps the bio and maps it again after the next resume. Honoured only during a
    /// noflush suspend; at other times dm core turns it into an I/O error (`dm_handle_requeue()`).
    const DM_REQUEUE: BlkStatus = BlkStatus(bindings::BLK_STS_DM_REQUEUE);

    /// Returns whether the operation succeeded.
    pub const fn is_ok(self) -> bool {
        self.0 == Self::OK.0
    }

    /// Returns whether the bio is on its way back to dm core, which will map it again: it has
    /// neither succeeded nor failed, and `end_io` must pass the status on.
    pub const fn is_requeue(self) -> bool {
        self.0 == Self::DM_REQUEUE.0
    }

    /// Returns the raw `blk_status_t`, for logs and trace events.
    pub const fn as_raw(self) -> u8 {
        self.0
    }

    /// Wraps the status the block layer left in a bio.
    pub(super) const fn from_raw(status: u8) -> Self {
        Self(status)
    }
}

/// What can be seen of any bio that a target currently owns.
///
/// # Invariants
///
/// The inner `struct bio` is initialised and nobody else changes it while a `&Bio` exists.
#[repr(transparent)]
pub struct Bio(Opaque<bindings::bio>);

impl Bio {
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariant the bio is valid and not changed by others.
        unsafe { (*self.0.get()).bi_opf }
    }

    fn has(&self, flag_bit: u32) -> bool {
        self.opf() & (1 << flag_bit) != 0
    }

    /// Returns the operation.
    pub fn op(&self) -> Op {
        Op(self.opf() & Op::MASK)
    }

    /// Returns whether the device must empty its write cache before the data (`REQ_PREFLUSH`).
    pub fn is_preflush(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_PREFLUSH)
    }

    /// Returns whether the data must be durable on completion (`REQ_FUA`).
    pub fn is_fua(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FUA)
    }

    /// Returns whether the submitter must not be made to wait (`REQ_NOWAIT`).
    pub fn is_nowait(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_NOWAIT)
    }

    /// Returns whether the write must happen completely or not at all (`REQ_ATOMIC`).
    pub fn is_atomic(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_ATOMIC)
    }

    /// Returns whether the submitter polls for the completion (`REQ_POLLED`).
    pub fn is_polled(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_POLLED)
    }

    /// Returns whether the bio pages memory out or in (`REQ_SWAP`).
    pub fn is_swap(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_SWAP)
    }

    /// Returns the bytes still to be transferred; zero for an empty flush.
    pub fn size_bytes(&self) -> u32 {
        // SAFETY: By the type invariant. The field of the packed struct is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_size }
    }

    /// Returns the sectors (512 bytes) still to be transferred.
    pub fn sectors(&self) -> u32 {
        self.size_bytes() >> kernel::block::SECTOR_SHIFT
    }

    /// Returns the first sector, counted on the device the bio currently points to; it means
    /// nothing for a bio without data.
    pub fn device_sector(&self) -> u64 {
        // SAFETY: By the type invariant. The field of the packed struct is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_sector }
    }

    /// Returns the number of the device the bio currently points to.
    pub fn devt(&self) -> DevT {
        // SAFETY: By the type invariant.
        let bdev = unsafe { (*self.0.get()).bi_bdev };
        // SAFETY: A bio on its way points to an open device; the field never changes.
        DevT::from_raw(unsafe { (*bdev).bd_dev })
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
    unsafe { (*bio.as_ptr()).bi_status = status.0 };
    // SAFETY: The caller owns the bio and gives it up here.
    unsafe { bindings::bio_endio(bio.as_ptr()) };
}

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
    pub(super) fn into_raw(self) -> c_int {
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
    pub(super) unsafe fn from_raw(
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
    bio: NonNull<bindings::bio>,
    slot: NonNull<Slot<T::PerBio>>,
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
    pub(super) fn into_raw(self) -> c_int {
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
    pub(super) unsafe fn from_raw(
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
        unsafe { *self.status.as_ptr() = status.0 };
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
        unsafe { (*bio.as_ptr()).bi_status = status.0 };
        // INVARIANT: The bio is ours, and its slot is initialised.
        let held = HeldEnd {
            bio,
            slot: self.slot,
        };
        (held, outcome)
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
    bio: NonNull<bindings::bio>,
    slot: NonNull<Slot<T::PerBio>>,
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

/// A first-in first-out list of held bios, linked through the bios themselves.
///
/// Dropping the list drops what is in it, that is, fails it with [`BlkStatus::IOERR`].
///
/// # Invariants
///
/// `head` starts a chain of `len` bios linked by `bi_next` and ended by null, of which `tail` is
/// the last; each was given up by [`Held::into_bio`] of `H` and belongs to the list. Both are
/// `None` if and only if the list is empty.
pub struct BioList<H: Held> {
    head: Option<NonNull<bindings::bio>>,
    tail: Option<NonNull<bindings::bio>>,
    len: usize,
    _held: PhantomData<H>,
}

// SAFETY: The list owns its bios, and whoever may own one on another thread may own many.
unsafe impl<H: Held + Send> Send for BioList<H> {}

impl<H: Held> BioList<H> {
    /// Makes an empty list.
    pub const fn new() -> Self {
        // INVARIANT: No bio at all.
        Self {
            head: None,
            tail: None,
            len: 0,
            _held: PhantomData,
        }
    }

    /// Returns how many bios are in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Returns the bio that [`BioList::pop`] would remove.
    pub fn front(&self) -> Option<&Bio> {
        // SAFETY: `Bio` is transparent; the bio belongs to the list, which is borrowed.
        self.head.map(|bio| unsafe { bio.cast().as_ref() })
    }

    /// Adds a bio at the end.
    pub fn push(&mut self, held: H) {
        let bio = held.into_bio();
        // SAFETY: The bio is ours now.
        unsafe { (*bio.as_ptr()).bi_next = core::ptr::null_mut() };
        match self.tail {
            // SAFETY: The last bio belongs to the list.
            Some(tail) => unsafe { (*tail.as_ptr()).bi_next = bio.as_ptr() },
            None => self.head = Some(bio),
        }
        // INVARIANT: The bio is the new last one and ends the chain.
        self.tail = Some(bio);
        self.len = self.len.wrapping_add(1);
    }

    /// Puts a bio in front of all others.
    pub fn push_front(&mut self, held: H) {
        let bio = held.into_bio();
        let first = self.head.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: The bio is ours now.
        unsafe { (*bio.as_ptr()).bi_next = first };
        // INVARIANT: The bio is the new first one, and the last one if there was none.
        self.head = Some(bio);
        self.tail = self.tail.or(Some(bio));
        self.len = self.len.wrapping_add(1);
    }

    /// Removes the first bio.
    pub fn pop(&mut self) -> Option<H> {
        let bio = self.head?;
        // SAFETY: The first bio belongs to the list.
        let next =
            unsafe { core::mem::replace(&mut (*bio.as_ptr()).bi_next, core::ptr::null_mut()) };
        // INVARIANT: The chain starts with the second bio now, or is empty.
        self.head = NonNull::new(next);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.wrapping_sub(1);
        // SAFETY: By the type invariant the bio was given up by `H`, and the list forgot it.
        Some(unsafe { H::from_bio(bio) })
    }

    /// Returns all bios and leaves the list empty: the way to dispose of them outside of the lock.
    #[must_use]
    pub fn take_all(&mut self) -> Self {
        core::mem::take(self)
    }

    /// Moves all bios of `other` to the end of this list.
    pub fn append(&mut self, mut other: Self) {
        // INVARIANT: Both chains are joined; `other` forgets its own before it is dropped.
        let Some(head) = other.head.take() else {
            return;
        };
        match self.tail {
            // SAFETY: The last bio belongs to the list.
            Some(tail) => unsafe { (*tail.as_ptr()).bi_next = head.as_ptr() },
            None => self.head = Some(head),
        }
        self.tail = other.tail.take();
        self.len = self.len.wrapping_add(other.len);
        other.len = 0;
    }
}

impl<H: Held> Default for BioList<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Held> Iterator for BioList<H> {
    type Item = H;

    fn next(&mut self) -> Option<H> {
        self.pop()
    }
}

impl<H: Held> Drop for BioList<H> {
    fn drop(&mut self) {
        while let Some(held) = self.pop() {
            drop(held);
        }
    }
}
