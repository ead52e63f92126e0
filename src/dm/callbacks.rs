// SPDX-License-Identifier: GPL-2.0

//! The callbacks that dm core makes.

use super::{
    args::Args,
    bindings,
    builder::{
        Instance,
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
    prelude::*, //
};

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
pub(super) struct Callbacks<T: Target>(PhantomData<T>);

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
    pub(super) fn target_type() -> bindings::target_type {
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
