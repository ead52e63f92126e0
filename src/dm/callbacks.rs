// SPDX-License-Identifier: GPL-2.0

//! The callbacks that dm core makes.

use super::{
    args::Args,
    bindings,
    builder::{
        Instance,
        Private,
        TargetBuilder, //
    },
    clone_bio::{
        EndBio,
        MapBio, //
    },
    device::DmDevice,
    limits::QueueLimits,
    target::{
        CtrError,
        DmTarget,
        Reply,
        Resuming,
        StatusKind,
        Target, //
    },
    writer::TextWriter, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    fmt,
    prelude::*,
    str::as_char_ptr_in_const_context,
    types::ForeignOwnable, //
};

/// Passes the devices of a target to a function of dm core, one after the other.
///
/// # Invariants
///
/// - `ti` is the target whose `iterate_devices` callback is running.
/// - `callout` and `data` are the function and its argument that dm core passed to the callback.
pub struct Visitor<'ti> {
    ti: NonNull<bindings::dm_target>,
    callout: Callout,
    data: *mut c_void,
    result: c_int,
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
}

impl<'ti> Visitor<'ti> {
    /// Shows the range of `len_sectors` that begins at `start_sector` of `dev`. This does nothing
    /// if the function of dm core has already ended the iteration.
    pub fn visit(&mut self, dev: DmDevice<'ti>, start_sector: u64, len_sectors: u64) {
        if self.result != 0 {
            return;
        }
        let ti = self.ti.as_ptr();
        let dev = dev.as_raw();
        // SAFETY: By the type invariant `callout` may be called with `ti` and `data` until the
        // callback returns. `dev` is a device of this target, because it has the same `'ti`.
        self.result = unsafe { (self.callout)(ti, dev, start_sector, len_sectors, self.data) };
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

/// `dm_iterate_devices_fn`, with a callout that is not null. A kernel with CFI compares the type of
/// a function with its type in C, and the callout as an `Option` would make another type.
type IterateDevices = unsafe extern "C" fn(*mut bindings::dm_target, Callout, *mut c_void) -> c_int;

/// The callbacks that dm core makes, one for each entry of `struct target_type`.
///
/// dm core keeps these rules (`dm_table_add_target()`, `dm_table_destroy()` and the other functions
/// named below, in `drivers/md`), which the callbacks depend on:
///
/// - `ctr` is the first callback of a target. If it fails, it is also the last one.
/// - `dtr` is the last callback. It runs after `dm_sync_table()` has waited for all users of the
///   table.
/// - A target exists, and does not move, from the beginning of `ctr` to the end of `dtr`.
pub(super) struct Callbacks<T: Target>(PhantomData<T>);

/// Borrows target and data of a constructed target, inside of a callback.
macro_rules! borrow {
    ($ti:ident => $target:ident, $data:ident) => {
        // SAFETY: By the safety requirements `$ti` is a target that exists during the callback.
        let $target = unsafe { DmTarget::from_raw(NonNull::new_unchecked($ti)) };
        // SAFETY: By the safety requirements `ctr` has succeeded, and `dtr` does not run during
        // another callback.
        let $data = unsafe { $target.data::<T>() };
    };
}

impl<T: Target> Callbacks<T> {
    /// Returns the target type, to be registered for `module`.
    ///
    /// Callbacks that the target does not implement are null, so that dm core does not call them.
    pub(super) const fn target_type(module: *mut bindings::module) -> bindings::target_type {
        /// Returns `$callback` if the target implements the function.
        macro_rules! optional {
            ($has:ident, $callback:ident) => {
                if T::$has {
                    Some(Self::$callback)
                } else {
                    None
                }
            };
        }
        bindings::target_type {
            features: T::FEATURES.0,
            name: as_char_ptr_in_const_context(T::NAME),
            module,
            version: T::VERSION,
            ctr: Some(Self::ctr),
            dtr: Some(Self::dtr),
            map: Some(Self::map),
            end_io: optional!(HAS_END_IO, end_io),
            presuspend: optional!(HAS_PRESUSPEND, presuspend),
            presuspend_undo: optional!(HAS_PRESUSPEND_UNDO, presuspend_undo),
            postsuspend: optional!(HAS_POSTSUSPEND, postsuspend),
            preresume: optional!(HAS_PRERESUME, preresume),
            resume: optional!(HAS_RESUME, resume),
            status: Some(Self::status),
            message: optional!(HAS_MESSAGE, message),
            // SAFETY: Both are types of the C function. They differ only in whether the callout may
            // be null, and the callers of `iterate_devices` in `drivers/md` never pass null.
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
            io_hints: optional!(HAS_IO_HINTS, io_hints),
            // SAFETY: Zero is a valid value of each field: an integer, a pointer that may be null,
            // or an optional function.
            ..unsafe { core::mem::zeroed() }
        }
    }

    /// # Safety
    ///
    /// Only `dm_table_add_target()` may call this.
    ///
    /// - `ti` must be a new target of type `T`, which is not part of a complete table yet.
    /// - `argv` must be an array of `argc` null-terminated strings that exist during the call.
    unsafe extern "C" fn ctr(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: By the safety requirements `ti` is a target, hence not null.
        let ti = unsafe { NonNull::new_unchecked(ti) };
        // SAFETY: By the safety requirements `argv` has `argc` strings, which exist during the
        // call.
        let args = unsafe { Args::from_raw(argc, argv) };
        // SAFETY: This is the `ctr` callback of `ti`. The instance that is made here ends in `dtr`.
        let builder = unsafe { TargetBuilder::new::<T>(ti) };
        match Self::construct(builder, args) {
            Ok(instance) => {
                // SAFETY: dm core does not use the target before `ctr` has returned.
                unsafe { (*ti.as_ptr()).private = instance.into_foreign() };
                // SAFETY: The instance was stored just above. `dtr` does not run before `ctr`
                // returns.
                let instance = unsafe { DmTarget::from_raw(ti).instance::<T>() };
                instance.resources.publish();
                0
            }
            Err(error) => {
                // SAFETY: dm core does not use the target before `ctr` has returned. It only reads
                // the message, which is static (`tgt->error` in `dm_table_add_target()`).
                unsafe { (*ti.as_ptr()).error = error.message.as_char_ptr().cast_mut() };
                error.errno.to_errno()
            }
        }
    }

    /// Makes the instance in its final place.
    fn construct<'ti>(
        mut builder: TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<Private<'ti, T>, CtrError> {
        let mut space = KBox::<Instance<'ti, T>>::new_uninit(GFP_KERNEL)?;
        let slot = space.as_mut_ptr();
        let data = T::ctr(&mut builder, args)?;
        // SAFETY: The slot is valid for writes, and after an error it is freed without being used.
        // The data does not move afterwards, because the box becomes a pinned box below.
        unsafe { ::pin_init::raw_try_init(&raw mut (*slot).data, data)? };
        // SAFETY: The slot is valid for writes, because the box was just allocated.
        unsafe { (&raw mut (*slot).resources).write(builder.resources) };
        // SAFETY: Both fields were initialised just above.
        Ok(KBox::into_pin(unsafe { space.assume_init() }))
    }

    /// # Safety
    ///
    /// Only `dm_table_destroy()` may call this. `ti` must be a constructed target of type `T`, for
    /// which this is the last callback.
    unsafe extern "C" fn dtr(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` stored the instance here. This is the last callback, so that no borrow of
        // the instance is left.
        let instance = unsafe { Private::<'_, T>::from_foreign((*ti).private) };
        // From here on no handle reaches the target. Hence a thread that the target waits for in
        // its `dtr` cannot be using a handle.
        instance.resources.revoke();
        if T::HAS_DTR {
            // SAFETY: By the safety requirements `ti` is a target that exists during the callback.
            let target = unsafe { DmTarget::from_raw(NonNull::new_unchecked(ti)) };
            T::dtr(&instance.data, target);
        }
        drop(instance);
    }

    /// # Safety
    ///
    /// Only `__map_bio()` may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `bio` must be a clone that was made for `ti`, and that is given to the target by this
    ///   call.
    unsafe extern "C" fn map(ti: *mut bindings::dm_target, bio: *mut bindings::bio) -> c_int {
        // SAFETY: By the safety requirements both pointers are valid, hence not null.
        let (ti, bio) = unsafe { (NonNull::new_unchecked(ti), NonNull::new_unchecked(bio)) };
        // SAFETY: By the safety requirements `ti` is a target that exists during the callback.
        let target = unsafe { DmTarget::from_raw(ti) };
        // SAFETY: `ctr` has succeeded, and `dtr` waits for `map` to return: `dm_submit_bio()` runs
        // in the SRCU section that `dm_sync_table()` waits for.
        let instance = unsafe { target.instance::<T>() };
        // SAFETY: This is the `map` callback, and these are its arguments. The bio is wrapped once.
        let bio = unsafe { MapBio::from_raw(instance, bio) };
        T::map(&instance.data, bio).into_raw()
    }

    /// # Safety
    ///
    /// Only `clone_endio()` may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `bio` must be a clone that was passed to the `map` callback of `ti` and has ended.
    /// - `error` must point to the status of the clone, which no one else uses during the call.
    unsafe extern "C" fn end_io(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> c_int {
        // SAFETY: By the safety requirements the pointer is valid, hence not null.
        let bio = unsafe { NonNull::new_unchecked(bio) };
        // SAFETY: By the safety requirements the pointer is valid, hence not null.
        let status = unsafe { NonNull::new_unchecked(error) };
        // SAFETY: This is the `end_io` callback, and these are its arguments. The bio is wrapped
        // once.
        let Some(bio) = (unsafe { EndBio::from_raw(bio, status) }) else {
            return bindings::DM_ENDIO_DONE as c_int;
        };
        borrow!(ti => _target, data);
        T::end_io(data, bio).into_raw()
    }

    /// # Safety
    ///
    /// Only dm core may call this. `ti` must be a constructed target of type `T`.
    unsafe extern "C" fn presuspend(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::presuspend(data, target);
    }

    /// # Safety
    ///
    /// Only dm core may call this. `ti` must be a constructed target of type `T`.
    unsafe extern "C" fn presuspend_undo(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::presuspend_undo(data, target);
    }

    /// # Safety
    ///
    /// Only dm core may call this. `ti` must be a constructed target of type `T`.
    unsafe extern "C" fn postsuspend(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        T::postsuspend(data, target);
    }

    /// # Safety
    ///
    /// Only dm core may call this. `ti` must be a constructed target of type `T`.
    unsafe extern "C" fn preresume(ti: *mut bindings::dm_target) -> c_int {
        borrow!(ti => target, data);
        // The device is suspended, and memory reclaim may have to write through it before an
        // allocation succeeds. So lockdep shall report an allocation in `preresume` that waits for
        // reclaim, and a lock taken there that is elsewhere held over such an allocation.
        // SAFETY: `fs_reclaim_acquire()` only informs lockdep. The call below ends what it begins.
        unsafe { bindings::dm_reclaim_waits_begin() };
        let ret = kernel::error::from_result(|| T::preresume(data, target).map(|()| 0));
        // SAFETY: `fs_reclaim_release()` ends what the call above began.
        unsafe { bindings::dm_reclaim_waits_end() };
        ret
    }

    /// # Safety
    ///
    /// Only dm core may call this. `ti` must be a constructed target of type `T`.
    unsafe extern "C" fn resume(ti: *mut bindings::dm_target) {
        borrow!(ti => target, data);
        // dm core defers all bios until the `resume` of the last target has returned, see
        // `dm_queue_flush()` in `__dm_resume()`.
        T::resume(data, &Resuming::new(target));
    }

    /// # Safety
    ///
    /// Only dm core may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `result` must be a buffer of `maxlen` bytes that no one else uses during the call.
    unsafe extern "C" fn status(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: c_uint,
        result: *mut c_char,
        maxlen: c_uint,
    ) {
        use fmt::Write as _;

        borrow!(ti => target, data);
        // SAFETY: By the safety requirements `result` is a buffer of `maxlen` bytes for this call.
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
    /// Only `target_message()` may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `argv` must be an array of `argc` null-terminated strings that exist during the call.
    /// - `result` must be a buffer of `maxlen` bytes that no one else uses during the call.
    unsafe extern "C" fn message(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
        result: *mut c_char,
        maxlen: c_uint,
    ) -> c_int {
        borrow!(ti => target, data);
        // SAFETY: By the safety requirements `argv` has `argc` strings, which exist during the
        // call.
        let args = unsafe { Args::from_raw(argc, argv) };
        // SAFETY: By the safety requirements `result` is a buffer of `maxlen` bytes for this call.
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
    /// Only dm core may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `callout` must be a function that may be called with `ti`, any device of `ti` and
    ///   `callout_data` during the call.
    unsafe extern "C" fn iterate_devices(
        ti: *mut bindings::dm_target,
        callout: Callout,
        callout_data: *mut c_void,
    ) -> c_int {
        borrow!(ti => target, data);
        // INVARIANT: These are the arguments of the `iterate_devices` callback, which is running.
        let mut visitor = Visitor {
            // SAFETY: By the safety requirements `ti` is a target, hence not null.
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
    /// Only `dm_calculate_queue_limits()` may call this.
    ///
    /// - `ti` must be a constructed target of type `T`.
    /// - `limits` must point to limits that no one else uses during the call.
    unsafe extern "C" fn io_hints(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        borrow!(ti => target, data);
        // SAFETY: By the safety requirements no one else uses the limits during the call.
        let mut limits = unsafe { QueueLimits::from_raw(&mut *limits) };
        T::io_hints(data, target, &mut limits);
    }
}
