// SPDX-License-Identifier: GPL-2.0

//! The construction of a target, and the instance that results from it.
//!
//! A [`TargetBuilder`] is the target during its constructor. The instance is the private data of
//! the target (`ti->private`): the data that the target has made, and the devices and handles that
//! it has obtained from the builder.

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

/// The devices and the handle that a target obtained while it was constructed.
///
/// # Invariants
///
/// - `ti` is a target that exists.
/// - Each element of `devices` is one reference that `dm_get_device()` has returned for `ti`.
pub(super) struct Resources {
    ti: NonNull<bindings::dm_target>,
    devices: KVec<NonNull<bindings::dm_dev>>,
    handle: Option<TargetHandle>,
}

impl Resources {
    /// Makes all handles reach the target, after its constructor has succeeded.
    pub(super) fn publish(&self) {
        if let Some(handle) = &self.handle {
            *handle.0.ti.lock() = Some(TargetPtr(self.ti));
        }
    }

    /// Makes all handles forget the target. Waits for the functions that are using one.
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
            // SAFETY: `dm_put_device()` needs a reference of this target. By the type invariant
            // `dev` is one, and it is put once. dm core calls `ctr` and `dtr` while no one else
            // uses the list of the table's devices.
            unsafe { bindings::dm_put_device(self.ti.as_ptr(), dev.as_ptr()) };
        }
    }
}

/// The private data of a target and the resources that the data may refer to. The data is dropped
/// before the resources.
pub(super) struct Instance<'ti, T: Target> {
    pub(super) data: T::Data<'ti>,
    pub(super) resources: Resources,
}

/// The owner of an instance. `ctr` stores it in `private` of the `struct dm_target` as a
/// [`ForeignOwnable`](kernel::types::ForeignOwnable), and `dtr` takes it back.
pub(super) type Private<'ti, T> = Pin<KBox<Instance<'ti, T>>>;

impl<T: Target> Instance<'_, T> {
    /// Returns the target.
    pub(super) fn target(&self) -> NonNull<bindings::dm_target> {
        self.resources.ti
    }
}

/// A target under construction.
///
/// By default the target gets one bio for each flush, and none for discards and the other
/// operations that have a setter. All flags are off.
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
            // SAFETY: By the type invariant the constructor is running. `dm_table_add_target()`
            // waits for it, and handles do not reach the target before its end. So no one else uses
            // the target.
            let $ti = unsafe { self.resources.ti.as_mut() };
            $set;
            self
        }
    };
}

impl<'ti> TargetBuilder<'ti> {
    /// Begins the construction of a target.
    ///
    /// # Safety
    ///
    /// - The caller must be the `ctr` callback of a target type for `T`.
    /// - `ti` must be the target that dm core passed to the callback.
    /// - `'ti` must end when the `dtr` callback of the target ends, or earlier.
    pub(super) unsafe fn new<T: Target>(mut ti: NonNull<bindings::dm_target>) -> Self {
        // SAFETY: By the safety requirements the constructor of `ti` is running, for which
        // `dm_table_add_target()` waits.
        let raw = unsafe { ti.as_mut() };
        raw.num_flush_bios = 1;
        raw.per_io_data_size = Slot::<T::PerBio>::SIZE_BYTES;
        // dm core must not touch a clone that `map` has held. It does not if the target accounts
        // for remapped I/O, which `HeldBio::submit` does.
        raw.set_accounts_remapped_io(true);
        // INVARIANT: By the safety requirements. There are no devices yet.
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
        // SAFETY: By the type invariant the target exists while `self` does.
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

    /// Returns whether the table is loaded as read-only; see [`DmTarget::is_read_only`].
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
    /// `path` is the path of a device node, or `major:minor`. After the constructor dm core checks
    /// that the devices have the ranges that [`Target::iterate_devices`] shows.
    pub fn get_device(&mut self, path: &CStr) -> Result<DmDevice<'ti>> {
        self.resources.devices.reserve(1, GFP_KERNEL)?;
        let ti = self.resources.ti.as_ptr();
        let mut dev = core::ptr::null_mut();
        // SAFETY: `dm_table_add_target()` sets `table` before it calls the constructor.
        let mode = unsafe { bindings::dm_table_get_mode((*ti).table) };
        // SAFETY: `dm_get_device()` may be called in the constructor of `ti`, which is running by
        // the type invariant. `path` is null-terminated, and `dev` is valid for writes.
        let ret = unsafe { bindings::dm_get_device(ti, path.as_char_ptr(), mode, &mut dev) };
        to_result(ret)?;
        let dev = NonNull::new(dev).ok_or(ENODEV)?;
        // INVARIANT: `dm_get_device()` has just returned this reference. `reserve` has made room.
        if self.resources.devices.push_within_capacity(dev).is_err() {
            // SAFETY: `dm_get_device()` has just returned this reference, and it was not stored.
            unsafe { bindings::dm_put_device(ti, dev.as_ptr()) };
            return Err(ENOMEM);
        }
        // SAFETY: The reference is kept in `resources`, which is dropped after the data of the
        // target, at the end of `dtr`. So the device is open for `'ti`.
        Ok(unsafe { DmDevice::from_raw(dev) })
    }

    /// Returns a handle by which code outside of the callbacks reaches the target. The handle does
    /// not reach the target before the constructor has succeeded.
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
        /// Lets dm core split reads and writes at multiples of `sectors`. Other operations are not
        /// split. Zero means that nothing is split.
        set_max_io_sectors: u32 => |ti, sectors| ti.max_io_len = sectors
    }
    setter! {
        /// Sets how many empty flushes the target gets for each flush of the mapped device.
        set_num_flush_bios: u32 => |ti, count| ti.num_flush_bios = count
    }
    setter! {
        /// Sets how many bios the target gets for each discard. With zero the mapped device does
        /// not offer discards.
        set_num_discard_bios: u32 => |ti, count| ti.num_discard_bios = count
    }
    setter! {
        /// Sets the same as [`Self::set_num_discard_bios`], for secure erase.
        set_num_secure_erase_bios: u32 => |ti, count| ti.num_secure_erase_bios = count
    }
    setter! {
        /// Sets the same as [`Self::set_num_discard_bios`], for writing zeroes.
        set_num_write_zeroes_bios: u32 => |ti, count| ti.num_write_zeroes_bios = count
    }
    setter! {
        /// Offers discards even if no device of the target supports them.
        set_discards_supported: bool => |ti, on| ti.set_discards_supported(on)
    }
    setter! {
        /// Accepts flushes even if no device of the target has a write cache.
        set_flush_supported: bool => |ti, on| ti.set_flush_supported(on)
    }
    setter! {
        /// Lets dm core split discards at multiples of the limit that [`Target::io_hints`] sets.
        set_split_discards: bool => |ti, on| ti.set_max_discard_granularity(on)
    }
    setter! {
        /// Lets dm core send empty flushes directly to the devices. They then pass neither `map`
        /// nor `end_io`. On a table of one device, a write with preflush avoids a work queue.
        set_flush_bypasses_map: bool => |ti, on| ti.set_flush_bypasses_map(on)
    }
    setter! {
        /// Limits the number of swapping bios in flight. A target that may hold bios needs this.
        set_limit_swap_bios: bool => |ti, on| ti.set_limit_swap_bios(on)
    }
}
