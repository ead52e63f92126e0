// SPDX-License-Identifier: GPL-2.0

//! Open block devices.
//!
//! - [`Bdev`] is any open block device, and shows its properties.
//! - [`DmDevice`] is a device of a table, which dm core opens and closes (`dm_get_device()`). dm
//!   core keeps these devices in a list of the table, which must not change after the table is
//!   complete. Therefore they are closed only after the destructor of the target. A [`DmDevice`] is
//!   a reference that can be copied and cannot outlive `'ti`, the lifetime of the target.
//! - [`BlockDevice`] is a device that the caller opens. It belongs to no table and can be shared in
//!   an `Arc`.
//!
//! Neither excludes other openers. All mapped devices share one claim on the devices of their
//! tables, and a [`BlockDevice`] makes no claim.
//!
//! C headers: `include/linux/device-mapper.h`, `include/linux/blkdev.h`.

use super::bindings;
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    fmt,
    prelude::*,
    types::Opaque, //
};

/// The number of a block device (`dev_t`); prints as `major:minor`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DevT(u32);

impl DevT {
    const MINOR_BITS: u32 = bindings::MINORBITS;

    /// Finds the number of a device by the path of its node, or by `major:minor`.
    ///
    /// May sleep. Errors: those of the path lookup; `ENOTBLK` if the node is no block device;
    /// `EOVERFLOW` if a number is out of range.
    pub fn from_path(path: &CStr) -> Result<Self> {
        let mut dev = 0;
        // SAFETY: `path` is null-terminated and `dev` is valid for writes.
        let ret = unsafe { bindings::dm_devt_from_path(path.as_char_ptr(), &mut dev) };
        kernel::error::to_result(ret).map(|()| Self(dev))
    }

    /// Wraps a `dev_t` of the kernel.
    pub(super) const fn from_raw(dev: u32) -> Self {
        Self(dev)
    }

    /// Returns the major number.
    pub const fn major(self) -> u32 {
        self.0 >> Self::MINOR_BITS
    }

    /// Returns the minor number.
    pub const fn minor(self) -> u32 {
        self.0 & ((1 << Self::MINOR_BITS) - 1)
    }

    /// Returns both numbers in the kernel's encoding.
    pub const fn as_raw(self) -> u32 {
        self.0
    }
}

impl core::fmt::Display for DevT {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

impl fmt::Display for DevT {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// An open block device.
///
/// # Invariants
///
/// While a reference exists, the inner `struct block_device` is open.
#[repr(transparent)]
pub struct Bdev(Opaque<bindings::block_device>);

// SAFETY: The methods only read fields that do not change while the device is open, or that the
// block layer changes atomically.
unsafe impl Sync for Bdev {}

impl Bdev {
    /// Wraps a block device.
    ///
    /// # Safety
    ///
    /// `bdev` must point to a block device that is open during `'a`.
    unsafe fn from_raw<'a>(bdev: *mut bindings::block_device) -> &'a Self {
        // SAFETY: `Bdev` is a transparent wrapper. The rest holds by the safety requirements.
        unsafe { &*bdev.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::block_device {
        self.0.get()
    }

    /// Returns the number of the device.
    pub fn devt(&self) -> DevT {
        // SAFETY: By the type invariant the device is open. `bd_dev` does not change while it is.
        DevT(unsafe { (*self.as_raw()).bd_dev })
    }

    /// Returns the size in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_nr_sectors(self.as_raw()) }
    }

    /// Returns the smallest unit the device can address, in bytes.
    pub fn logical_block_bytes(&self) -> u32 {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_logical_block_size(self.as_raw()) }
    }

    /// Returns the smallest unit the device writes without reading first, in bytes.
    pub fn physical_block_bytes(&self) -> u32 {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_physical_block_size(self.as_raw()) }
    }

    /// Returns whether the device is zoned.
    pub fn is_zoned(&self) -> bool {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_is_zoned(self.as_raw()) }
    }

    /// Returns whether the device is a partition of a disk.
    pub fn is_partition(&self) -> bool {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_is_partition(self.as_raw()) }
    }

    /// Returns whether the device belongs to device-mapper. Process context.
    pub fn is_mapped(&self) -> bool {
        // SAFETY: `dm_get_md()` takes any number. It finds the mapped device if there is one,
        // because dm core neither frees nor deletes an open device.
        let md = unsafe { bindings::dm_get_md(self.devt().as_raw()) };
        if md.is_null() {
            return false;
        }
        // SAFETY: `dm_get_md()` has taken this reference.
        unsafe { bindings::dm_put(md) };
        true
    }

    /// Returns whether the device is marked as read-only. The block layer only warns about a write
    /// to such a device and lets it pass (`bio_check_ro()` in `block/blk-core.c`).
    pub fn is_read_only(&self) -> bool {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_read_only(self.as_raw()) }
    }

    /// Returns whether the device has a volatile write cache.
    pub fn has_write_cache(&self) -> bool {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_write_cache(self.as_raw()) }
    }

    /// Returns whether the device supports FUA. If not, the block layer emulates it with a flush.
    pub fn has_fua(&self) -> bool {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::bdev_fua(self.as_raw()) }
    }

    /// Returns the name that the kernel uses in its log, such as `sda1`.
    pub fn name(&self) -> DeviceName {
        let mut name = DeviceName {
            text: [0; DeviceName::CAPACITY],
        };
        // SAFETY: By the type invariant the device is open. The buffer has the given size.
        unsafe {
            bindings::bdev_name(
                self.as_raw(),
                name.text.as_mut_ptr().cast(),
                name.text.len(),
            )
        };
        name
    }
}

/// The kernel's name of a block device.
pub struct DeviceName {
    text: [u8; Self::CAPACITY],
}

impl DeviceName {
    const CAPACITY: usize = 48;

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        CStr::from_bytes_until_nul(&self.text)
            .ok()
            .and_then(|name| name.to_str().ok())
            .unwrap_or("?")
    }
}

impl core::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A device that dm core opened for a target.
///
/// # Invariants
///
/// `dev` is in the device list of the table of the target that lives for `'ti`, and stays there
/// until after the destructor of that target.
#[derive(Clone, Copy)]
pub struct DmDevice<'ti> {
    dev: NonNull<bindings::dm_dev>,
    // The function pointer makes the lifetime invariant, so that the devices of two targets cannot
    // be exchanged.
    _brand: PhantomData<fn(&'ti ()) -> &'ti ()>,
}

// SAFETY: The fields of a `struct dm_dev` do not change while the device is open.
unsafe impl Send for DmDevice<'_> {}
// SAFETY: The fields of a `struct dm_dev` do not change while the device is open.
unsafe impl Sync for DmDevice<'_> {}

impl DmDevice<'_> {
    /// Wraps a device of a table.
    ///
    /// # Safety
    ///
    /// `dev` must be a reference that `dm_get_device()` has returned, and that is not put before
    /// the end of `'ti`.
    pub(super) unsafe fn from_raw(dev: NonNull<bindings::dm_dev>) -> Self {
        // INVARIANT: By the safety requirements `dev` is an open device of the table during `'ti`.
        Self {
            dev,
            _brand: PhantomData,
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dm_dev {
        self.dev.as_ptr()
    }

    pub(super) fn as_bdev_ptr(&self) -> *mut bindings::block_device {
        // SAFETY: By the type invariant the device is open. The field does not change while it is.
        unsafe { (*self.dev.as_ptr()).bdev }
    }

    /// Returns the name of the device in a table line, which is `major:minor`.
    pub fn table_name(&self) -> &CStr {
        // SAFETY: By the type invariant the device is open. dm core has stored a null-terminated
        // string in this field (`dm_get_device()`).
        unsafe { CStr::from_char_ptr((&raw const (*self.dev.as_ptr()).name).cast()) }
    }
}

impl Deref for DmDevice<'_> {
    type Target = Bdev;

    fn deref(&self) -> &Bdev {
        // SAFETY: By the type invariant the device is open.
        unsafe { Bdev::from_raw(self.as_bdev_ptr()) }
    }
}

/// The access for which a [`BlockDevice`] is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Access for reading.
    Read,
    /// Access for reading and writing.
    ReadWrite,
}

/// A block device that the caller has opened, without a claim.
///
/// The device is opened with the credentials of the kernel. Otherwise it would hold those of the
/// process that loads a table.
///
/// Dropping the value closes the device. This works in any context, because the completion of a
/// transfer may drop the last reference. The kernel then does the rest in process context
/// (`fput()`).
///
/// # Invariants
///
/// `file` is an open file of a block device, on which this value owns a reference.
pub struct BlockDevice {
    file: NonNull<bindings::file>,
}

// SAFETY: A reference on a `struct file` is not bound to a thread.
unsafe impl Send for BlockDevice {}
// SAFETY: The methods only read the file.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens the device with number `dev`. May sleep.
    ///
    /// Errors: `ENXIO` if there is no such device; `EACCES` for write access to a read-only device;
    /// those of the driver.
    pub fn open(dev: DevT, access: Access) -> Result<Self> {
        let mode = match access {
            Access::Read => bindings::BLK_OPEN_READ,
            Access::ReadWrite => bindings::BLK_OPEN_READ | bindings::BLK_OPEN_WRITE,
        };
        // SAFETY: `bdev_file_open_by_dev()` needs process context. Neither argument is a pointer.
        let file = from_err_ptr(unsafe { bindings::bdev_open_as_kernel(dev.0, mode) })?;
        // INVARIANT: The file was opened just above, and its reference is ours.
        Ok(Self {
            file: NonNull::new(file).ok_or(ENXIO)?,
        })
    }

    pub(super) fn as_bdev_ptr(&self) -> *mut bindings::block_device {
        // SAFETY: By the type invariant `file` is an open file of a block device.
        unsafe { bindings::file_bdev(self.file.as_ptr()) }
    }
}

impl Deref for BlockDevice {
    type Target = Bdev;

    fn deref(&self) -> &Bdev {
        // SAFETY: By the type invariant the device is open.
        unsafe { Bdev::from_raw(self.as_bdev_ptr()) }
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // `bdev_fput()` would take a mutex to end the claim. There is no claim, so `fput()`
        // suffices, which works in any context.
        // SAFETY: By the type invariant the reference is ours, and this value ends here.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}
