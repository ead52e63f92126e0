// SPDX-License-Identifier: GPL-2.0

//! Targets under construction, and the instances that come out of it.

use super::{
    bindings,
    clone_bio::Slot,
    device::{
        DevT,
        DmDevice, //
    },
    handle::{
        Link,
        TargetHandle,
        TargetPtr, //
    },
    target::{
        DmTarget,
        Target, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    new_mutex,
    prelude::*,
    sync::Arc,
    types::NotThreadSafe, //
};

/// What a target obtained while it was constructed.
///
/// # Invariants
///
/// Each element of `devices` is one reference got by `dm_get_device()` for `ti`, which exists.
pub(super) struct Resources {
    ti: NonNull<bindings::dm_target>,
    devices: KVec<NonNull<bindings::dm_dev>>,
    handle: Option<TargetHandle>,
}

impl Resources {
    /// Makes all handles reach the target. Its constructor has succeeded.
    pub(super) fn publish(&self) {
        if let Some(handle) = &self.handle {
            *handle.0.ti.lock() = Some(TargetPtr(self.ti));
        }
    }

    /// Makes all handles forget the target, waiting for those in use.
    pub(super) fn revoke(&self) {
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
    pub(super) data: T::Data<'ti>,
    pub(super) resources: Resources,
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
    pub(super) resources: Resources,
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
    pub(super) unsafe fn new<T: Target>(mut ti: NonNull<bindings::dm_target>) -> Self {
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
