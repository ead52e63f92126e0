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
    clone_bio::{
        EndBio,
        EndOutcome,
        MapBio,
        MapOutcome,
        Slot,
        Tracked, //
    },
    device::{
        DevT,
        DmDevice, //
    },
    limits::QueueLimits,
    writer::TextWriter,
};
use core::{
    convert::Infallible,
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    alloc::AllocError,
    error::to_result,
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// Why a constructor refuses a table line.
///
/// dm core prints one line, `<device>: <target>: <message> (<errno>)`, for every failed
/// constructor. There is deliberately no conversion from a bare [`Error`], so that a failure
/// without a message does not compile; use [`OrCtrError`].
pub struct CtrError {
    errno: Error,
    message: &'static CStr,
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
pub struct Features(u64);

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

    /// The device is resumed with this table; bios arrive next.
    fn resume(_data: &Self::Data<'_>, _ti: &DmTarget) {
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

    /// Returns the mapped device as a block device.
    pub(super) fn as_bdev_ptr(&self) -> *mut bindings::block_device {
        // SAFETY: The mapped device outlives its tables.
        unsafe { bindings::dm_target_md_bdev(self.as_raw()) }
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
        // SAFETY: The mapped device outlives its tables.
        DevT::from_raw(unsafe { bindings::dm_target_md_devt(self.as_raw()) })
    }

    /// Returns how many openers the mapped device has: processes, mounts, devices stacked on it.
    ///
    /// The answer may be out of date when it arrives. Who wants to know whether the device was held
    /// open without a break must see zero to believe in a break.
    pub fn open_count(&self) -> u32 {
        // SAFETY: The mapped device outlives its tables.
        unsafe { bindings::dm_target_md_openers(self.as_raw()) }
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
    /// The constructor of type `T` must have succeeded for this target, and the destructor must
    /// not run before the end of `'ti`.
    pub(super) unsafe fn data<'ti, T: Target>(&self) -> &'ti T::Data<'ti> {
        // SAFETY: The caller's promise.
        unsafe { &self.instance::<T>().data }
    }

    /// Returns the private data and what goes with it.
    ///
    /// # Safety
    ///
    /// As for [`DmTarget::data`].
    unsafe fn instance<'ti, T: Target>(&self) -> &'ti Instance<'ti, T> {
        // SAFETY: By the safety requirements `private` points to the instance.
        unsafe { &*(*self.as_raw()).private.cast::<Instance<'ti, T>>() }
    }
}

/// A way to reach a target from outside of its callbacks, for instance to raise an event from a
/// work item. It works from the end of the constructor, which has the target to itself, to the
/// beginning of the destructor. Cloning is cheap.
#[derive(Clone)]
pub struct TargetHandle(Arc<Link>);

impl TargetHandle {
    /// Calls `f` with the target; `None` unless its constructor has succeeded and its destructor
    /// has not begun. May sleep.
    ///
    /// The destructor waits for `f` to return.
    pub fn with<R>(&self, f: impl FnOnce(&DmTarget) -> R) -> Option<R> {
        let guard = self.0.ti.lock();
        let ti = guard.as_ref()?;
        // SAFETY: The pointer is removed before the target goes away, which the lock delays.
        Some(f(unsafe { DmTarget::from_raw(ti.0) }))
    }

    /// Raises an event of the target, see [`DmTarget::event`].
    ///
    /// Returns whether the target could be reached.
    pub fn event(&self) -> bool {
        self.with(DmTarget::event).is_some()
    }
}

/// A pointer to a target that may be sent to another thread, where [`Link`] guards its use.
struct TargetPtr(NonNull<bindings::dm_target>);

// SAFETY: A target is not bound to a thread.
unsafe impl Send for TargetPtr {}

/// What the clones of one [`TargetHandle`] share.
#[pin_data]
struct Link {
    /// `None` until the constructor of the target has succeeded, and once its destructor has begun.
    #[pin]
    ti: Mutex<Option<TargetPtr>>,
}

/// What a target obtained while it was constructed.
///
/// # Invariants
///
/// Each element of `devices` is one reference got by `dm_get_device()` for `ti`, which exists.
struct Resources {
    ti: NonNull<bindings::dm_target>,
    devices: KVec<NonNull<bindings::dm_dev>>,
    handle: Option<TargetHandle>,
}

impl Resources {
    /// Makes all handles reach the target. Its constructor has succeeded.
    fn publish(&self) {
        if let Some(handle) = &self.handle {
            *handle.0.ti.lock() = Some(TargetPtr(self.ti));
        }
    }

    /// Makes all handles forget the target, waiting for those in use.
    fn revoke(&self) {
        if let Some(handle) = &self.handle {
            handle.0.ti.lock().take();
        }
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        self.revoke();
        for dev in &self.devices {
            // SAFETY: By the type invariant; each reference is put once.
            unsafe { bindings::dm_put_device(self.ti.as_ptr(), dev.as_ptr()) };
        }
    }
}

/// What `private` of a `struct dm_target` points to. The data is dropped before the devices, and
/// stays where it is from its initialisation to its drop.
pub(super) struct Instance<'ti, T: Target> {
    data: T::Data<'ti>,
    resources: Resources,
}

impl<T: Target> Instance<'_, T> {
    /// Returns the target itself.
    pub(super) fn target(&self) -> NonNull<bindings::dm_target> {
        self.resources.ti
    }
}

/// A target under construction.
///
/// Numbers not set are those of the C side: one flush bio is asked for, everything else is off.
///
/// # Invariants
///
/// `resources.ti` is a target whose constructor is running, and which exists for `'ti`.
pub struct TargetBuilder<'ti> {
    resources: Resources,
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
    _local: NotThreadSafe,
}

/// Makes a setter for a field of `struct dm_target` that only a constructor may change.
macro_rules! setter {
    ($(#[$doc:meta])* $name:ident: $type:ty => |$ti:ident, $value:ident| $set:expr) => {
        $(#[$doc])*
        pub fn $name(&mut self, $value: $type) -> &mut Self {
            // SAFETY: By the type invariant the target exists. Nobody else uses it yet: dm core
            // waits for the constructor, and handles do not reach the target before its end.
            let $ti = unsafe { self.resources.ti.as_mut() };
            $set;
            self
        }
    };
}

impl<'ti> TargetBuilder<'ti> {
    /// # Safety
    ///
    /// Must be called by the `ctr` callback with its argument, for a target that outlives `'ti`.
    unsafe fn new<T: Target>(mut ti: NonNull<bindings::dm_target>) -> Self {
        // SAFETY: dm core does not use the target before the constructor has returned.
        let raw = unsafe { ti.as_mut() };
        raw.num_flush_bios = 1;
        raw.per_io_data_size = Slot::<T::PerBio>::SIZE_BYTES;
        // dm core must not touch a clone after `map` gave it away, and does not if told that the
        // target accounts for remapped I/O, which `HeldBio::submit` does.
        raw.set_accounts_remapped_io(true);
        // INVARIANT: The caller's promise; there are no devices yet.
        Self {
            resources: Resources {
                ti,
                devices: KVec::new(),
                handle: None,
            },
            _brand: PhantomData,
            _local: NotThreadSafe,
        }
    }

    fn target(&self) -> &DmTarget {
        // SAFETY: By the type invariant.
        unsafe { DmTarget::from_raw(self.resources.ti) }
    }

    /// Returns the first sector of the target on the mapped device.
    pub fn begin_sectors(&self) -> u64 {
        self.target().begin_sectors()
    }

    /// Returns how many sectors the target has.
    pub fn len_sectors(&self) -> u64 {
        self.target().len_sectors()
    }

    /// Returns whether the table is loaded as read-only, see [`DmTarget::is_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.target().is_read_only()
    }

    /// Returns `major:minor` of the mapped device.
    pub fn device_name(&self) -> &CStr {
        self.target().device_name()
    }

    /// Returns the number of the mapped device.
    pub fn device_number(&self) -> DevT {
        self.target().device_number()
    }

    /// Opens a device for the life of the target, in the mode of the table.
    ///
    /// `path` is that of a device node or `major:minor`. dm core checks after the constructor that
    /// the ranges shown by [`Target::iterate_devices`] exist.
    pub fn get_device(&mut self, path: &CStr) -> Result<DmDevice<'ti>> {
        self.resources.devices.reserve(1, GFP_KERNEL)?;
        let ti = self.resources.ti.as_ptr();
        let mut dev = core::ptr::null_mut();
        // SAFETY: A target is part of a table for its whole life.
        let mode = unsafe { bindings::dm_table_get_mode((*ti).table) };
        // SAFETY: The constructor of `ti` is running, and the other pointers are valid.
        let ret = unsafe { bindings::dm_get_device(ti, path.as_char_ptr(), mode, &mut dev) };
        to_result(ret)?;
        let dev = NonNull::new(dev).ok_or(ENODEV)?;
        // INVARIANT: This is the reference we just got. There is room for it.
        if self.resources.devices.push_within_capacity(dev).is_err() {
            // SAFETY: The reference is ours and was not stored.
            unsafe { bindings::dm_put_device(ti, dev.as_ptr()) };
            return Err(ENOMEM);
        }
        // SAFETY: The reference is kept in `resources`, which the instance keeps until after `dtr`.
        Ok(unsafe { DmDevice::from_raw(dev) })
    }

    /// Returns a handle to reach the target from outside of its callbacks. It does not reach the
    /// target before the constructor has succeeded.
    pub fn handle(&mut self) -> Result<TargetHandle> {
        if let Some(handle) = &self.resources.handle {
            return Ok(handle.clone());
        }
        let link = Arc::pin_init(
            pin_init!(Link {
                ti <- new_mutex!(None, "dm target handle"),
            }),
            GFP_KERNEL,
        )?;
        let handle = TargetHandle(link);
        self.resources.handle = Some(handle.clone());
        Ok(handle)
    }

    setter! {
        /// Split reads and writes at multiples of this many sectors; other operations are not
        /// split by it. Zero: do not split.
        set_max_io_sectors: u32 => |ti, sectors| ti.max_io_len = sectors
    }
    setter! {
        /// How many empty flushes the target wants to see for each flush of the device.
        set_num_flush_bios: u32 => |ti, count| ti.num_flush_bios = count
    }
    setter! {
        /// How many bios the target wants to see for each discard; zero: discards are not offered.
        set_num_discard_bios: u32 => |ti, count| ti.num_discard_bios = count
    }
    setter! {
        /// As [`Self::set_num_discard_bios`], for secure erase.
        set_num_secure_erase_bios: u32 => |ti, count| ti.num_secure_erase_bios = count
    }
    setter! {
        /// As [`Self::set_num_discard_bios`], for writing zeroes.
        set_num_write_zeroes_bios: u32 => |ti, count| ti.num_write_zeroes_bios = count
    }
    setter! {
        /// Offer discards even if no device supports them.
        set_discards_supported: bool => |ti, on| ti.set_discards_supported(on)
    }
    setter! {
        /// Accept flushes even if no device has a write cache.
        set_flush_supported: bool => |ti, on| ti.set_flush_supported(on)
    }
    setter! {
        /// Split discards at multiples of the discard limit set in [`Target::io_hints`].
        set_split_discards: bool => |ti, on| ti.set_max_discard_granularity(on)
    }
    setter! {
        /// Let dm core send empty flushes straight to the devices. They then pass neither `map` nor
        /// `end_io`, and a write with preflush saves a detour through a work queue.
        set_flush_bypasses_map: bool => |ti, on| ti.set_flush_bypasses_map(on)
    }
    setter! {
        /// Limit how many swapping bios are in flight, for a target that may hold them.
        set_limit_swap_bios: bool => |ti, on| ti.set_limit_swap_bios(on)
    }
}

/// Passes the devices of a target to whoever iterates over them.
pub struct Visitor<'ti> {
    ti: NonNull<bindings::dm_target>,
    callout: Callout,
    data: *mut c_void,
    result: c_int,
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
}

impl<'ti> Visitor<'ti> {
    /// Shows `len_sectors` of `dev` from `start_sector`, unless the iteration has already ended.
    pub fn visit(&mut self, dev: DmDevice<'ti>, start_sector: u64, len_sectors: u64) {
        if self.result != 0 {
            return;
        }
        let ti = self.ti.as_ptr();
        let dev = dev.as_raw();
        // SAFETY: Callout and data belong together and come from the caller of `iterate_devices`;
        // target and device exist.
        self.result = unsafe { (self.callout)(ti, dev, start_sector, len_sectors, self.data) };
    }
}

/// A registered target type, which is unregistered when this is dropped.
///
/// Tables point to it, and each holds a reference on the module. So it must exist until there are
/// no such references; [`super::module`] sees to that.
///
/// # Invariants
///
/// `inner` is a `struct target_type` registered with dm core.
#[pin_data(PinnedDrop)]
pub(super) struct Registration<T: Target> {
    #[pin]
    inner: Opaque<bindings::target_type>,
    _target: PhantomData<T>,
}

// SAFETY: A target type may be unregistered on another thread than it was registered on.
unsafe impl<T: Target> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers the target type. Errors: `EBUSY` if the name is taken.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::target_type| {
                // SAFETY: The slot is valid for writes.
                unsafe { slot.write(Callbacks::<T>::target_type()) };
                // SAFETY: The target type is filled in, and stays where it is until it is
                // unregistered, because it is pinned.
                to_result(unsafe { bindings::dm_register_target(slot) })
            }),
            _target: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::dm_unregister_target(self.inner.get()) };
    }
}

/// `iterate_devices_callout_fn` that is not null.
type Callout = unsafe extern "C" fn(
    *mut bindings::dm_target,
    *mut bindings::dm_dev,
    bindings::sector_t,
    bindings::sector_t,
    *mut c_void,
) -> c_int;

/// `dm_iterate_devices_fn`, with a callout that is not null: kernels with CFI compare the type of a
/// function with that in C, where an `Option` would be another type.
type IterateDevices = unsafe extern "C" fn(*mut bindings::dm_target, Callout, *mut c_void) -> c_int;

/// The callbacks that dm core makes, one for each entry of `struct target_type`.
struct Callbacks<T: Target>(PhantomData<T>);

/// Borrows target and data of a constructed target, inside of a callback.
macro_rules! borrow {
    ($ti:ident => $target:ident, $data:ident) => {
        // SAFETY: dm core passes a target of a table that exists during the callback.
        let $target = unsafe { DmTarget::from_raw(NonNull::new_unchecked($ti)) };
        // SAFETY: dm core makes this callback only between a successful `ctr` and `dtr`.
        let $data = unsafe { $target.data::<T>() };
    };
}

impl<T: Target> Callbacks<T> {
    fn target_type() -> bindings::target_type {
        bindings::target_type {
            features: T::FEATURES.0,
            name: T::NAME.as_char_ptr(),
            // SAFETY: Has no preconditions.
            module: unsafe { bindings::dm_this_module() },
            version: T::VERSION,
            ctr: Some(Self::ctr),
            dtr: Some(Self::dtr),
            map: Some(Self::map),
            end_io: T::HAS_END_IO.then_some(Self::end_io),
            presuspend: T::HAS_PRESUSPEND.then_some(Self::presuspend),
            presuspend_undo: T::HAS_PRESUSPEND_UNDO.then_some(Self::presuspend_undo),
            postsuspend: T::HAS_POSTSUSPEND.then_some(Self::postsuspend),
            preresume: T::HAS_PRERESUME.then_some(Self::preresume),
            resume: T::HAS_RESUME.then_some(Self::resume),
            status: Some(Self::status),
            message: T::HAS_MESSAGE.then_some(Self::message),
            // SAFETY: Both types are those of the C function. They differ in whether the callout
            // may be null, which dm core never passes.
            iterate_devices: Some(unsafe {
                core::mem::transmute::<
                    IterateDevices,
                    unsafe extern "C" fn(
                        *mut bindings::dm_target,
                        bindings::iterate_devices_callout_fn,
                        *mut c_void,
                    ) -> c_int,
                >(Self::iterate_devices)
            }),
            io_hints: T::HAS_IO_HINTS.then_some(Self::io_hints),
            ..bindings::target_type::default()
        }
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a new target, `argv` has `argc` strings, both for this call.
    unsafe extern "C" fn ctr(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: dm core passes a valid target.
        let ti = unsafe { NonNull::new_unchecked(ti) };
        // SAFETY: By the safety requirements.
        let args = unsafe { Args::from_raw(argc, argv) };
        // SAFETY: This is the `ctr` callback; the instance made here ends in `dtr`.
        let builder = unsafe { TargetBuilder::new::<T>(ti) };
        match Self::construct(builder, args) {
            Ok(instance) => {
                let instance = KBox::into_raw(instance);
                // SAFETY: dm core does not use the target before this returns.
                unsafe { (*ti.as_ptr()).private = instance.cast() };
                // SAFETY: The instance was just given up, and exists until `dtr`.
                unsafe { &*instance }.resources.publish();
                0
            }
            Err(error) => {
                // SAFETY: As above; the message lives for ever, and dm core only reads it.
                unsafe { (*ti.as_ptr()).error = error.message.as_char_ptr().cast_mut() };
                error.errno.to_errno()
            }
        }
    }

    /// Makes the instance in its final place.
    fn construct<'ti>(
        mut builder: TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<KBox<Instance<'ti, T>>, CtrError> {
        let mut space = KBox::<Instance<'ti, T>>::new_uninit(GFP_KERNEL)?;
        let slot = space.as_mut_ptr();
        let data = T::ctr(&mut builder, args)?;
        // SAFETY: The slot is valid for writes; on an error it is given up untouched. What is in a
        // box that only callbacks see does not move until `dtr` drops it.
        unsafe { ::pin_init::raw_try_init(&raw mut (*slot).data, data)? };
        // SAFETY: The slot is valid for writes.
        unsafe { (&raw mut (*slot).resources).write(builder.resources) };
        // SAFETY: Both fields have been initialised.
        Ok(unsafe { space.assume_init() })
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, for which this is the last callback.
    unsafe extern "C" fn dtr(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` stored this pointer, and nobody uses it any more.
        let instance = unsafe { KBox::from_raw((*ti).private.cast::<Instance<'_, T>>()) };
        // From here on no handle reaches the target, so that a thread the target is about to wait
        // for cannot be in the middle of using one.
        instance.resources.revoke();
        if T::HAS_DTR {
            // SAFETY: dm core passes a target of a table that exists during the callback.
            let target = unsafe { DmTarget::from_raw(NonNull::new_unchecked(ti)) };
            T::dtr(&instance.data, target);
        }
        drop(instance);
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, and `bio` a clone given to it.
    unsafe extern "C" fn map(ti: *mut bindings::dm_target, bio: *mut bindings::bio) -> c_int {
        // SAFETY: dm core passes valid pointers.
        let (ti, bio) = unsafe { (NonNull::new_unchecked(ti), NonNull::new_unchecked(bio)) };
        // SAFETY: dm core passes a target of a table that exists during the callback.
        let target = unsafe { DmTarget::from_raw(ti) };
        // SAFETY: dm core makes this callback only between a successful `ctr` and `dtr`.
        let instance = unsafe { target.instance::<T>() };
        // SAFETY: This is the `map` callback, and these are its arguments.
        let bio = unsafe { MapBio::from_raw(instance, bio) };
        T::map(&instance.data, bio).into_raw()
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, `bio` a clone that was given to it and has
    /// ended, and `error` its status.
    unsafe extern "C" fn end_io(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> c_int {
        // SAFETY: dm core passes a valid pointer.
        let bio = unsafe { NonNull::new_unchecked(bio) };
        // SAFETY: dm core passes a valid pointer.
        let status = unsafe { NonNull::new_unchecked(error) };
        // SAFETY: This is the `end_io` callback, and these are its arguments.
        let Some(bio) = (unsafe { EndBio::from_raw(bio, status) }) else {
            return bindings::DM_ENDIO_DONE as c_int;
        };
        borrow!(ti => _target, data);
        T::end_io(data, bio).into_raw()
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target.
    unsafe extern "C" fn presuspend(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::presuspend(data, target);
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target.
    unsafe extern "C" fn presuspend_undo(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::presuspend_undo(data, target);
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target.
    unsafe extern "C" fn postsuspend(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::postsuspend(data, target);
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target.
    unsafe extern "C" fn preresume(ti: *mut bindings::dm_target) -> c_int {
        borrow!(ti => target, data);
        // The device is suspended, and memory may have to be written back through it before any
        // allocation succeeds: lockdep shall complain of an allocation that may wait for that, and
        // of a lock that somebody holds over one.
        // SAFETY: Only tells lockdep something, which the call below takes back.
        unsafe { bindings::dm_reclaim_waits_begin() };
        let ret = kernel::error::from_result(|| T::preresume(data, target).map(|()| 0));
        // SAFETY: As above.
        unsafe { bindings::dm_reclaim_waits_end() };
        ret
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target.
    unsafe extern "C" fn resume(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::resume(data, target);
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, and `result` a buffer of `maxlen` bytes.
    unsafe extern "C" fn status(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: c_uint,
        result: *mut c_char,
        maxlen: c_uint,
    ) {
        use fmt::Write as _;

        borrow!(ti => target, data);
        // SAFETY: By the safety requirements.
        let mut out = unsafe { TextWriter::from_raw(result, maxlen) };
        let kind = match kind {
            bindings::status_type_t::STATUSTYPE_INFO => StatusKind::Info,
            bindings::status_type_t::STATUSTYPE_TABLE => StatusKind::Table,
            bindings::status_type_t::STATUSTYPE_IMA => StatusKind::Ima,
            _ => return,
        };
        if kind != StatusKind::Ima {
            T::status(data, target, kind, &mut out);
            return;
        }
        let [major, minor, patch] = T::VERSION;
        out.push_bytes(b"target_name=");
        out.push_bytes(T::NAME.to_bytes());
        // Writing to a `TextWriter` never fails.
        let _ = write!(out, ",target_version={major}.{minor}.{patch},");
        T::status(data, target, kind, &mut out);
        out.push_bytes(b";");
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, `argv` has `argc` strings, and `result` is a
    /// buffer of `maxlen` bytes.
    unsafe extern "C" fn message(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
        result: *mut c_char,
        maxlen: c_uint,
    ) -> c_int {
        borrow!(ti => target, data);
        // SAFETY: By the safety requirements.
        let args = unsafe { Args::from_raw(argc, argv) };
        // SAFETY: By the safety requirements.
        let mut out = unsafe { TextWriter::from_raw(result, maxlen) };
        kernel::error::from_result(|| {
            // dm core delivers the text only if the result is exactly one.
            Ok(match T::message(data, target, args, &mut out)? {
                Reply::Done => 0,
                Reply::Text => 1,
            })
        })
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, and `callout` may be called with `data`.
    unsafe extern "C" fn iterate_devices(
        ti: *mut bindings::dm_target,
        callout: Callout,
        callout_data: *mut c_void,
    ) -> c_int {
        borrow!(ti => target, data);
        let mut visitor = Visitor {
            // SAFETY: dm core passes a valid pointer.
            ti: unsafe { NonNull::new_unchecked(ti) },
            callout,
            data: callout_data,
            result: 0,
            _brand: PhantomData,
        };
        T::iterate_devices(data, target, &mut visitor);
        visitor.result
    }

    /// # Safety
    ///
    /// Only for dm core: `ti` is a constructed target, and `limits` may be changed.
    unsafe extern "C" fn io_hints(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        borrow!(ti => target, data);
        // SAFETY: By the safety requirements.
        let mut limits = unsafe { QueueLimits::from_raw(&mut *limits) };
        T::io_hints(data, target, &mut limits);
    }
}
