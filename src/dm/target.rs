// SPDX-License-Identifier: GPL-2.0

//! Targets: what implements one, how it is registered, and the callbacks dm core makes.
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
//! A table that is loaded may never be resumed, and on a reload the destructor of the old target
//! runs *after* the resume of the new one: activity belongs between `resume` and `dtr`, not into
//! `ctr`.
//!
//! # Ownership
//!
//! The constructor returns an initialiser for the private data. This module puts the data into an
//! allocation of its own together with what the target obtained through the [`TargetBuilder`]
//! (devices, a [`TargetHandle`]), and hands out shared references to the data only, because the
//! callbacks of one target run concurrently. After `dtr` it drops the data first, then closes the
//! devices.
//!
//! # Locking, context
//!
//! `map` runs in the context of the submitter, or in that of dm core's work queue, inside an SRCU
//! section of dm core (`dm_submit_bio()`): the instance exists until `map` returns, also if the bio
//! has ended before. `end_io` often runs in interrupt context; the instance exists until `end_io`
//! returns, because the bio is pending until then, or, once it was held, because of an RCU section
//! (see [`EndBio::hold`]). Neither may sleep or allocate. `status` and `message` run in process
//! context inside the same SRCU section, so that a message that waits delays every suspend of the
//! device. The others run in process context under `md->suspend_lock` or `md->type_lock`. No lock
//! of this module is held during a callback.
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

/// Why a constructor refuses a table line.
///
/// dm core prints one line, `<device>: <target>: <message> (<errno>)`, for every failed
/// constructor. There is deliberately no conversion from a bare [`Error`], so that a failure
/// without a message does not compile; use [`OrCtrError`].
pub struct CtrError {
    pub(super) errno: Error,
    pub(super) message: &'static CStr,
}

impl CtrError {
    /// States the errno for the ioctl and the message for the log.
    pub const fn new(errno: Error, message: &'static CStr) -> Self {
        Self { errno, message }
    }

    /// States also what no constant text can say; it is logged in a line of its own, just before
    /// that of dm core, which keeps only a pointer to constant text.
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

/// Gives an error the message a constructor needs.
pub trait OrCtrError<T> {
    /// Turns the error into a [`CtrError`] with `message`; an absent value into `EINVAL`.
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
    /// None of the below.
    pub const NONE: Features = Features(0);
    /// The target must be the only one of its table.
    pub const SINGLETON: Features = Features(bindings::DM_TARGET_SINGLETON as u64);
    /// The target cannot be part of a read-only table.
    pub const ALWAYS_WRITEABLE: Features = Features(bindings::DM_TARGET_ALWAYS_WRITEABLE as u64);
    /// A device with this target never gets a table with another one.
    pub const IMMUTABLE: Features = Features(bindings::DM_TARGET_IMMUTABLE as u64);
    /// `map` does not block for bios marked [nowait](super::Bio::is_nowait).
    pub const NOWAIT: Features = Features(bindings::DM_TARGET_NOWAIT as u64);
    /// Atomic writes may be passed on.
    pub const ATOMIC_WRITES: Features = Features(bindings::DM_TARGET_ATOMIC_WRITES as u64);

    /// Returns both sets together.
    pub const fn and(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

/// What a status line is wanted for (`status_type_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StatusKind {
    /// `dmsetup status`: the current state. Must not block.
    Info,
    /// `dmsetup table`: the arguments; fed back to the constructor they must make the same target.
    Table,
    /// The measurement for the IMA log: `name=value` pairs separated by commas. Name and version
    /// of the target have already been written.
    Ima,
}

/// What a message handler answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// The text it has written.
    Text,
}

/// A device-mapper target.
///
/// The implementing type itself is only a name for the set of functions; what a target instance
/// consists of is [`Target::Data`]. See the documentation of the parent module for an example.
#[vtable]
pub trait Target: Sized + 'static {
    /// The name in table lines.
    const NAME: &'static CStr;

    /// Major, minor and patch level, as shown by `dmsetup targets`.
    const VERSION: [u32; 3];

    /// Properties of the target type.
    const FEATURES: Features = Features::NONE;

    /// The private data of one instance, shared by concurrent callbacks. `'ti` is its life from
    /// `ctr` to `dtr`, and that of its [devices](DmDevice).
    type Data<'ti>: Send + Sync;

    /// What is kept for each tracked bio from `map` to `end_io`; plain data without destructor.
    type PerBio: Copy + Default + Send + 'static;

    /// Which bios have per-bio data and pass [`Target::end_io`]. It is a constant because `map` and
    /// `end_io` must agree on every bio: `end_io` reads what `map` wrote.
    const TRACKED: Tracked;

    /// Makes an instance out of the arguments of a table line.
    ///
    /// Returns an initialiser of the data: `try_init!(... ? CtrError)`, or `try_pin_init!` if there
    /// are pinned fields such as locks. Runs under `md->type_lock` and should not wait for anything
    /// slow.
    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<impl PinInit<Self::Data<'ti>, CtrError>, CtrError>;

    /// Stops what the instance has going on; afterwards its data is dropped.
    fn dtr(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Decides what becomes of a bio.
    fn map<'ti>(data: &Self::Data<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti>;

    /// Sees the end of a tracked bio, including those the target ended itself.
    fn end_io<'ti>(_data: &Self::Data<'ti>, _bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// A suspend begins. Bios still arrive, of frozen filesystems for instance, and dm core will
    /// wait for those that are held; see [`DmTarget::noflush_suspending`].
    fn presuspend(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The suspend announced by `presuspend` failed.
    fn presuspend_undo(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device is suspended and no bio is in flight (except when the device is being removed).
    fn postsuspend(_data: &Self::Data<'_>, _ti: &DmTarget) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device is about to be resumed with this table; an error keeps it suspended.
    ///
    /// Must neither allocate memory nor take a lock that is held over an allocation, as long as
    /// the allocation may wait for I/O: the I/O may be one to this very device, which is suspended.
    fn preresume(_data: &Self::Data<'_>, _ti: &DmTarget) -> Result {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device is about to be resumed with this table. dm core still defers all bios. They
    /// arrive after this function has returned.
    fn resume(_data: &Self::Data<'_>, _ti: &Resuming<'_>) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Writes a status line. Must not block on I/O.
    fn status(data: &Self::Data<'_>, ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>);

    /// Handles `dmsetup message`. Text reaches user space only with [`Reply::Text`].
    fn message(
        _data: &Self::Data<'_>,
        _ti: &DmTarget,
        _args: Args<'_>,
        _out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Shows `visitor` each range of each device that the target uses.
    fn iterate_devices<'ti>(data: &Self::Data<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>);

    /// Adjusts the limits that dm core derived from the devices.
    fn io_hints(_data: &Self::Data<'_>, _ti: &DmTarget, _limits: &mut QueueLimits<'_>) {
        build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }
}

/// A target in a table, as its callbacks see it.
///
/// # Invariants
///
/// The inner `struct dm_target` is part of a table that exists while the reference does, and its
/// constructor has been called.
#[repr(transparent)]
pub struct DmTarget(Opaque<bindings::dm_target>);

impl DmTarget {
    /// # Safety
    ///
    /// The type invariant must hold for `'a`.
    pub(super) unsafe fn from_raw<'a>(ti: NonNull<bindings::dm_target>) -> &'a Self {
        // SAFETY: `DmTarget` is transparent; the caller promises the rest.
        unsafe { ti.cast().as_ref() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dm_target {
        self.0.get()
    }

    /// Returns the disk of the mapped device.
    pub(super) fn disk(&self) -> *mut bindings::gendisk {
        // SAFETY: `dm_disk()` needs a mapped device, which outlives its tables (`__unbind()` in
        // `free_dev()`).
        unsafe { bindings::dm_disk(self.md()) }
    }

    fn table(&self) -> *mut bindings::dm_table {
        // SAFETY: By the type invariant; the field never changes.
        unsafe { (*self.as_raw()).table }
    }

    fn md(&self) -> *mut bindings::mapped_device {
        // SAFETY: A target is part of a table for its whole life.
        unsafe { bindings::dm_table_get_md(self.table()) }
    }

    /// Returns the first sector of the target on the mapped device.
    pub fn begin_sectors(&self) -> u64 {
        // SAFETY: By the type invariant; the field never changes.
        unsafe { (*self.as_raw()).begin }
    }

    /// Returns how many sectors the target has.
    pub fn len_sectors(&self) -> u64 {
        // SAFETY: By the type invariant; the field never changes.
        unsafe { (*self.as_raw()).len }
    }

    /// Returns whether the table was loaded as read-only.
    ///
    /// dm core marks the mapped device so, but neither it nor the block layer keeps writes from
    /// arriving at the target.
    pub fn is_read_only(&self) -> bool {
        // SAFETY: A target is part of a table for its whole life.
        let mode = unsafe { bindings::dm_table_get_mode(self.table()) };
        mode & bindings::BLK_OPEN_WRITE == 0
    }

    /// Returns `major:minor` of the mapped device, which is also its name in messages of dm core.
    pub fn device_name(&self) -> &CStr {
        // SAFETY: The mapped device outlives its tables.
        let name = unsafe { bindings::dm_device_name(self.md()) };
        // SAFETY: It is null-terminated and part of the mapped device.
        unsafe { CStr::from_char_ptr(name) }
    }

    /// Returns the number of the mapped device.
    pub fn device_number(&self) -> DevT {
        // SAFETY: `disk_devt()` needs a disk. That of the mapped device outlives its tables.
        DevT::from_raw(unsafe { bindings::disk_devt(self.disk()) })
    }

    /// Returns how many openers the mapped device has: processes, mounts, devices stacked on it.
    ///
    /// The answer may be out of date when it arrives. Who wants to know whether the device was held
    /// open without a break must see zero to believe in a break.
    pub fn open_count(&self) -> u32 {
        // SAFETY: `disk_openers()` needs a disk. That of the mapped device outlives its tables.
        unsafe { bindings::disk_openers(self.disk()) }
    }

    /// Returns whether a noflush suspend is going on: bios may be requeued and must not be waited
    /// for. Otherwise a suspend must let all bios pass.
    pub fn noflush_suspending(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::dm_noflush_suspending(self.as_raw()) != 0 }
    }

    /// Returns whether the device is suspended.
    pub fn is_suspended(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::dm_suspended(self.as_raw()) != 0 }
    }

    /// Returns whether the calling thread is a worker of dm core's own for this device. All bios
    /// that were deferred while the device was suspended are mapped by one of these; few others
    /// are. Any context.
    pub fn is_own_worker(&self) -> bool {
        // A `struct mapped_device` is smaller, and its work items are part of it.
        const AT_MOST_BYTES: usize = 16 << 10;
        // SAFETY: May be called in any context.
        let work = unsafe { bindings::current_work() };
        (work as usize).wrapping_sub(self.md() as usize) < AT_MOST_BYTES
    }

    /// Raises an event: wakes `dmsetup wait` and pollers of the control device.
    ///
    /// Takes a mutex shared by all of device-mapper, whose holders may allocate memory and thereby
    /// write through this very target: process context only, with no lock held that `map` or
    /// `end_io` takes, and nothing a bio waits for may wait for it. Does nothing unless the table
    /// is the live one.
    pub fn event(&self) {
        // SAFETY: A target is part of a table for its whole life.
        unsafe { bindings::dm_table_event(self.table()) };
    }

    /// Returns the private data.
    ///
    /// # Safety
    ///
    /// - The target must be of type `T`, and its constructor must have succeeded.
    /// - The destructor of the target must not run before the end of `'ti`.
    pub(super) unsafe fn data<'ti, T: Target>(&self) -> &'ti T::Data<'ti> {
        // SAFETY: By the safety requirements.
        unsafe { &self.instance::<T>().data }
    }

    /// Returns the private data and what goes with it.
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
