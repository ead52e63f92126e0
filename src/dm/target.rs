// SPDX-License-Identifier: GPL-2.0

//! The trait that a target implements, and the target as its callbacks see it.
//!
//! # Life of a target
//!
//! ```text
//!  table load        resume              suspend                table replaced, device removed
//!     ctr  --> preresume, resume --> presuspend, postsuspend --> [presuspend, postsuspend,] dtr
//!                   |    ^ ^               ^  |           |
//!                   |    | +---------------|--|-----------+ resumed again
//!                   |    +-----------------|--+ presuspend_undo, if the suspend failed
//!                   +----- map, end_io ----+
//! ```
//!
//! A loaded table may never be resumed. On a reload the destructor of the old target runs *after*
//! the resume of the new one. Therefore a target should become active in `resume` and not in `ctr`.
//!
//! # Ownership
//!
//! The constructor returns an initialiser for the data of the instance. The data is allocated
//! together with the devices and the [`TargetHandle`](super::TargetHandle) that the target has
//! obtained from the [`TargetBuilder`]. The callbacks get shared references to the data, because
//! they run concurrently. After `dtr` the data is dropped first, and the devices are closed then.
//!
//! # Context and locking
//!
//! | callback | context | the instance exists because of |
//! |---|---|---|
//! | `map` | the submitter, or a work queue of dm core | SRCU (`dm_submit_bio()`) |
//! | `end_io` | any, often an interrupt | the pending bio, or RCU after [`EndBio::hold`] |
//! | `status`, `message` | process | SRCU (`dm_get_live_table()`) |
//! | `ctr`, `dtr` and the others | process | `md->suspend_lock` or `md->type_lock` |
//!
//! `map` and `end_io` must not sleep. `dm_sync_table()` waits for SRCU and RCU before `dtr`. A
//! `message` that waits delays each suspend of the device. No lock of this module is held during a
//! callback.
//!
//! C header: `include/linux/device-mapper.h`; callers: `dm.c`, `dm-table.c` and `dm-ioctl.c` in
//! `drivers/md`.

use super::{
    args::Args,
    bindings,
    builder::{
        Instance,
        Private,
        TargetBuilder, //
    },
    callbacks::Visitor,
    clone_bio::{
        EndBio,
        EndOutcome,
        MapBio,
        MapOutcome,
        Tracked, //
    },
    device::DevT,
    limits::QueueLimits,
    writer::TextWriter, //
};
use core::{
    convert::Infallible,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    alloc::AllocError,
    fmt,
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    },
};

/// The reason why a constructor refuses a table line.
///
/// dm core prints one line, `<device>: <target>: <message> (<errno>)`, for each constructor that
/// fails. A bare [`Error`] does not convert into this type, so that a failure without a message
/// does not compile. [`OrCtrError`] adds the message.
pub struct CtrError {
    pub(super) errno: Error,
    pub(super) message: &'static CStr,
}

impl CtrError {
    /// Makes an error from the errno for the ioctl and the message for the log.
    pub const fn new(errno: Error, message: &'static CStr) -> Self {
        Self { errno, message }
    }

    /// Makes an error and logs `detail` in a line of its own, directly before the line of dm core.
    /// dm core keeps only a pointer to the message, which must be constant.
    pub fn with_detail(
        errno: Error,
        message: &'static CStr,
        target: &TargetBuilder<'_>,
        detail: fmt::Arguments<'_>,
    ) -> Self {
        pr_err!("{}: {}\n", target.device_name(), detail);
        Self { errno, message }
    }
}

impl From<AllocError> for CtrError {
    fn from(_: AllocError) -> Self {
        Self::new(ENOMEM, c"Cannot allocate memory")
    }
}

impl From<Infallible> for CtrError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Adds the message that a [`CtrError`] needs.
pub trait OrCtrError<T> {
    /// Converts an error into a [`CtrError`] with `message`, and `None` into one with `EINVAL`.
    fn or_ctr(self, message: &'static CStr) -> Result<T, CtrError>;
}

impl<T, E: Into<Error>> OrCtrError<T> for Result<T, E> {
    fn or_ctr(self, message: &'static CStr) -> Result<T, CtrError> {
        self.map_err(|error| CtrError::new(error.into(), message))
    }
}

impl<T> OrCtrError<T> for Option<T> {
    fn or_ctr(self, message: &'static CStr) -> Result<T, CtrError> {
        self.ok_or(CtrError::new(EINVAL, message))
    }
}

/// Properties of a target type (`DM_TARGET_*`).
#[derive(Clone, Copy)]
pub struct Features(pub(super) u64);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// The target must be the only target of its table.
    pub const SINGLETON: Features = Features(bindings::DM_TARGET_SINGLETON as u64);
    /// The target cannot be part of a read-only table.
    pub const ALWAYS_WRITEABLE: Features = Features(bindings::DM_TARGET_ALWAYS_WRITEABLE as u64);
    /// A device with this target never gets a table with another target.
    pub const IMMUTABLE: Features = Features(bindings::DM_TARGET_IMMUTABLE as u64);
    /// `map` does not block for bios marked [nowait](super::Bio::is_nowait).
    pub const NOWAIT: Features = Features(bindings::DM_TARGET_NOWAIT as u64);
    /// Atomic writes may be passed on.
    pub const ATOMIC_WRITES: Features = Features(bindings::DM_TARGET_ATOMIC_WRITES as u64);

    /// Returns the features of both sets.
    pub const fn and(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

/// The purpose of a status line (`status_type_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StatusKind {
    /// The current state, for `dmsetup status`. Writing it must not block.
    Info,
    /// The arguments of the table line, for `dmsetup table`. The constructor must make the same
    /// target from them.
    Table,
    /// The measurement for the IMA log: `name=value` pairs, separated by commas. The name and
    /// version of the target have already been written.
    Ima,
}

/// The answer of a message handler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Success, without text.
    Done,
    /// Success, with the text that the handler has written.
    Text,
}

/// A device-mapper target.
///
/// The implementing type is a name for the set of functions and has no values. An instance consists
/// of [`Target::Data`]. The documentation of the parent module has an example.
#[vtable]
pub trait Target: Sized + 'static {
    /// The name in table lines.
    const NAME: &'static CStr;

    /// Major, minor and patch level, as shown by `dmsetup targets`.
    const VERSION: [u32; 3];

    /// Properties of the target type.
    const FEATURES: Features = Features::NONE;

    /// The data of one instance. Concurrent callbacks share it. `'ti` is the lifetime of the
    /// instance from `ctr` to `dtr`, and of its [devices](super::DmDevice).
    type Data<'ti>: Send + Sync;

    /// The data of one tracked bio, from `map` to `end_io`. It has no destructor.
    type PerBio: Copy + Default + Send + 'static;

    /// The bios that have per-bio data and pass [`Target::end_io`]. This is a constant, because
    /// `end_io` reads the data that `map` has written, and both must agree about each bio.
    const TRACKED: Tracked;

    /// Makes an instance from the arguments of a table line.
    ///
    /// Returns an initialiser of the data: `try_init!(... ? CtrError)`, or `try_pin_init!` if the
    /// data has pinned fields such as locks. This runs under `md->type_lock` and should not wait
    /// long.
    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<impl PinInit<Self::Data<'ti>, CtrError>, CtrError>;

    /// Stops the activities of the instance. Its data is dropped afterwards.
    fn dtr(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Disposes of a bio.
    fn map<'ti>(data: &Self::Data<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti>;

    /// Disposes of a tracked bio that has ended. This includes bios that the target itself has
    /// ended.
    fn end_io<'ti>(_data: &Self::Data<'ti>, _bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Prepares for a suspend. Bios still arrive, for instance from a file system that is being
    /// frozen. dm core waits for held bios later; see [`DmTarget::noflush_suspending`].
    fn presuspend(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Undoes `presuspend` after the suspend has failed.
    fn presuspend_undo(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Completes a suspend. No bio is in flight, except when the device is being removed.
    fn postsuspend(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Prepares for a resume with this table. After an error the device stays suspended.
    ///
    /// This must not allocate memory in a way that waits for I/O, and must not take a lock that is
    /// held elsewhere over such an allocation. The allocation could wait for I/O to this device,
    /// which is suspended.
    fn preresume(_data: &Self::Data<'_>, _ti: &DmTarget) -> Result {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Becomes active with this table. dm core still defers all bios. They arrive after this
    /// function has returned.
    fn resume(_data: &Self::Data<'_>, _ti: &Resuming<'_>) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Writes a status line. This must not wait for I/O.
    fn status(data: &Self::Data<'_>, ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>);

    /// Handles `dmsetup message`. User space gets the written text only after [`Reply::Text`].
    fn message(
        _data: &Self::Data<'_>,
        _ti: &DmTarget,
        _args: Args<'_>,
        _out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Shows `visitor` each range of a device that the target uses.
    fn iterate_devices<'ti>(data: &Self::Data<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>);

    /// Adjusts the queue limits that dm core has derived from the devices.
    fn io_hints(_data: &Self::Data<'_>, _ti: &DmTarget, _limits: &mut QueueLimits<'_>) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }
}

/// A target in a table, as its callbacks see it.
///
/// # Invariants
///
/// While a reference exists, the inner `struct dm_target` is part of a table that exists, and its
/// constructor has been called.
#[repr(transparent)]
pub struct DmTarget(Opaque<bindings::dm_target>);

impl DmTarget {
    /// Wraps a target of dm core.
    ///
    /// # Safety
    ///
    /// `ti` must be a target whose `ctr` callback has begun, and whose `dtr` callback does not end
    /// before the end of `'a`.
    pub(super) unsafe fn from_raw<'a>(ti: NonNull<bindings::dm_target>) -> &'a Self {
        // SAFETY: `DmTarget` is a transparent wrapper. The rest holds by the safety requirements.
        unsafe { ti.cast().as_ref() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dm_target {
        self.0.get()
    }

    /// Returns the disk of the mapped device.
    pub(super) fn disk(&self) -> *mut bindings::gendisk {
        // SAFETY: The mapped device outlives its tables (`free_dev()` comes after `__unbind()`).
        unsafe { bindings::dm_disk(self.md()) }
    }

    fn table(&self) -> *mut bindings::dm_table {
        // SAFETY: By the type invariant the target exists. The field does not change after
        // `dm_table_add_target()` has set it.
        unsafe { (*self.as_raw()).table }
    }

    fn md(&self) -> *mut bindings::mapped_device {
        // SAFETY: A target is part of a table from its constructor to its destructor.
        unsafe { bindings::dm_table_get_md(self.table()) }
    }

    /// Returns the first sector of the target on the mapped device.
    pub fn begin_sectors(&self) -> u64 {
        // SAFETY: By the type invariant the target exists. The field does not change after
        // `dm_table_add_target()` has set it.
        unsafe { (*self.as_raw()).begin }
    }

    /// Returns how many sectors the target has.
    pub fn len_sectors(&self) -> u64 {
        // SAFETY: By the type invariant the target exists. The field does not change after
        // `dm_table_add_target()` has set it.
        unsafe { (*self.as_raw()).len }
    }

    /// Returns whether the table was loaded as read-only.
    ///
    /// dm core marks the mapped device as read-only. Writes can reach the target all the same,
    /// because neither dm core nor the block layer refuses them (`bio_check_ro()`).
    pub fn is_read_only(&self) -> bool {
        // SAFETY: A target is part of a table from its constructor to its destructor.
        let mode = unsafe { bindings::dm_table_get_mode(self.table()) };
        mode & bindings::BLK_OPEN_WRITE == 0
    }

    /// Returns `major:minor` of the mapped device. dm core uses this name in its messages.
    pub fn device_name(&self) -> &CStr {
        // SAFETY: The mapped device outlives its tables (`free_dev()` comes after `__unbind()`).
        let name = unsafe { bindings::dm_device_name(self.md()) };
        // SAFETY: The name is a null-terminated string in the mapped device (`md->name`).
        unsafe { CStr::from_char_ptr(name) }
    }

    /// Returns the number of the mapped device.
    pub fn device_number(&self) -> DevT {
        // SAFETY: `disk_devt()` needs a disk. That of the mapped device outlives its tables.
        DevT::from_raw(unsafe { bindings::disk_devt(self.disk()) })
    }

    /// Returns the number of openers of the mapped device: processes, mounts, and devices above it.
    ///
    /// The number can change at any time. Only a zero proves that the device was not open without
    /// interruption.
    pub fn open_count(&self) -> u32 {
        // SAFETY: `disk_openers()` needs a disk. That of the mapped device outlives its tables.
        unsafe { bindings::disk_openers(self.disk()) }
    }

    /// Returns whether a noflush suspend has begun. The target must then requeue its held bios.
    /// During other suspends the target must pass or end them.
    pub fn noflush_suspending(&self) -> bool {
        // SAFETY: By the type invariant the target exists, and its table belongs to a mapped
        // device.
        unsafe { bindings::dm_noflush_suspending(self.as_raw()) != 0 }
    }

    /// Returns whether the device is suspended.
    pub fn is_suspended(&self) -> bool {
        // SAFETY: By the type invariant the target exists, and its table belongs to a mapped
        // device.
        unsafe { bindings::dm_suspended(self.as_raw()) != 0 }
    }

    /// Returns whether the current thread runs a work item of dm core for this device. Such a
    /// thread maps all bios that were deferred while the device was suspended, and few others.
    /// Works in any context.
    pub fn is_own_worker(&self) -> bool {
        // The work items are part of `struct mapped_device`, which is smaller than this.
        const AT_MOST_BYTES: usize = 16 << 10;
        // SAFETY: `current_work()` may be called in any context and returns null outside of work
        // items.
        let work = unsafe { bindings::current_work() };
        (work as usize).wrapping_sub(self.md() as usize) < AT_MOST_BYTES
    }

    /// Raises an event, which wakes `dmsetup wait` and pollers of the control device. Does nothing
    /// if the table is not the live one.
    ///
    /// This takes a mutex of dm core (`_event_lock`). A holder of the mutex may allocate memory,
    /// and the allocation may write through this target. Call this only in process context and
    /// without a lock that `map` or `end_io` takes. A bio must not wait for the call.
    pub fn event(&self) {
        // SAFETY: A target is part of a table from its constructor to its destructor.
        unsafe { bindings::dm_table_event(self.table()) };
    }

    /// Returns the data of the instance.
    ///
    /// # Safety
    ///
    /// - The target must be of type `T`, and its constructor must have succeeded.
    /// - The destructor of the target must not run before the end of `'ti`.
    pub(super) unsafe fn data<'ti, T: Target>(&self) -> &'ti T::Data<'ti> {
        // SAFETY: The safety requirements are the same.
        unsafe { &self.instance::<T>().data }
    }

    /// Returns the instance.
    ///
    /// # Safety
    ///
    /// As for [`DmTarget::data`].
    pub(super) unsafe fn instance<'ti, T: Target>(&self) -> &'ti Instance<'ti, T> {
        // SAFETY: `ctr` has stored the instance in `private`, which does not change afterwards. By
        // the safety requirements `dtr` does not take it back before the end of `'ti`.
        unsafe { Private::<'ti, T>::borrow((*self.as_raw()).private) }.get_ref()
    }
}

/// A target during [`Target::resume`].
///
/// It proves that dm core still defers the bios of the mapped device: `__dm_resume()` in
/// `drivers/md/dm.c` calls `dm_queue_flush()` after the `resume` callbacks of all targets.
///
/// # Invariants
///
/// The `resume` callback of the target runs while the value exists.
pub struct Resuming<'a>(&'a DmTarget);

impl<'a> Resuming<'a> {
    /// Wraps the target of a `resume` callback.
    ///
    /// Only [`Callbacks`](super::callbacks::Callbacks) calls this, for the duration of the
    /// callback.
    pub(super) fn new(target: &'a DmTarget) -> Self {
        // INVARIANT: The caller is the `resume` callback.
        Self(target)
    }
}

impl Deref for Resuming<'_> {
    type Target = DmTarget;

    fn deref(&self) -> &DmTarget {
        self.0
    }
}
