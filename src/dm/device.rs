// SPDX-License-Identifier: GPL-2.0

//! Block devices: those a table opened for its target, and those opened by oneself.
//!
//! - [`Bdev`] is what can be asked of any open block device.
//! - [`DmDevice`] is opened and closed by dm core as part of a table (`dm_get_device()`). dm core
//!   keeps such devices in a list of the table that must not change once the table is complete, so
//!   they are closed by this crate, after the destructor of the target, and not before; a
//!   [`DmDevice`] is a copyable reference that cannot outlive `'ti`, the life of the target.
//! - [`BlockDevice`] is an open of one's own that belongs to no table and may live in an `Arc`.
//!
//! dm core claims what it opens, but all mapped devices share one claim, and a [`BlockDevice`]
//! makes none: neither keeps another opener away.
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

    /// Finds the number of the device that `path` names, or that it states as `major:minor`.
    ///
    /// May sleep. Errors: those of the path lookup; `ENOTBLK` if it is no block device;
    /// `EOVERFLOW` for impossible numbers.
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

    /// Returns the kernel's encoding of both in one number.
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
/// The inner `struct block_device` stays open while a reference exists.
#[repr(transparent)]
pub struct Bdev(Opaque<bindings::block_device>);

// SAFETY: Everything offered here reads values that are constant or that the block layer changes
// atomically.
unsafe impl Sync for Bdev {}

impl Bdev {
    /// # Safety
    ///
    /// `bdev` must stay open for `'a`.
    unsafe fn from_raw<'a>(bdev: *mut bindings::block_device) -> &'a Self {
        // SAFETY: `Bdev` is transparent; the caller promises the rest.
        unsafe { &*bdev.cast() }
    }

    fn as_raw(&self) -> *mut bindings::block_device {
        self.0.get()
    }

    /// Returns the number of the device.
    pub fn devt(&self) -> DevT {
        // SAFETY: By the type invariant; the field never changes.
        DevT(unsafe { (*self.as_raw()).bd_dev })
    }

    /// Returns the size in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_nr_sectors(self.as_raw()) }
    }

    /// Returns the smallest unit the device can address, in bytes.
    pub fn logical_block_bytes(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_logical_block_size(self.as_raw()) }
    }

    /// Returns the smallest unit the device writes without reading first, in bytes.
    pub fn physical_block_bytes(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_physical_block_size(self.as_raw()) }
    }

    /// Returns whether the device has zones that must be written in sequence.
    pub fn is_zoned(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_is_zoned(self.as_raw()) }
    }

    /// Returns whether the device is marked read-only. Nothing but a warning follows from that:
    /// the block layer lets writes pass (`bio_check_ro()` in `block/blk-core.c`).
    pub fn is_read_only(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_read_only(self.as_raw()) }
    }

    /// Returns whether the device has a write cache that only a flush or FUA gets past.
    pub fn has_write_cache(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_write_cache(self.as_raw()) }
    }

    /// Returns whether the device itself understands FUA; if not, it is emulated by a flush.
    pub fn has_fua(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::bdev_fua(self.as_raw()) }
    }

    /// Returns the name the kernel uses in its log, such as `sda1`.
    pub fn name(&self) -> DeviceName {
        let mut name = DeviceName {
            text: [0; DeviceName::CAPACITY],
        };
        // SAFETY: By the type invariant, and the buffer has the size stated.
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

// SAFETY: The fields of a `struct dm_dev` do not change while it is open.
unsafe impl Send for DmDevice<'_> {}
// SAFETY: As above.
unsafe impl Sync for DmDevice<'_> {}

impl DmDevice<'_> {
    /// Wraps a device of a table.
    ///
    /// # Safety
    ///
    /// The caller must guarantee the type invariant.
    pub(super) unsafe fn from_raw(dev: NonNull<bindings::dm_dev>) -> Self {
        // INVARIANT: The caller's promise.
        Self {
            dev,
            _brand: PhantomData,
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dm_dev {
        self.dev.as_ptr()
    }

    pub(super) fn as_bdev_ptr(&self) -> *mut bindings::block_device {
        // SAFETY: By the type invariant; the field does not change.
        unsafe { (*self.dev.as_ptr()).bdev }
    }

    /// Returns `major:minor`, which is how the device is named in a table line.
    pub fn table_name(&self) -> &CStr {
        // SAFETY: By the type invariant; dm core keeps a null-terminated string in this field.
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

/// What a [`BlockDevice`] is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A block device opened by oneself, not by a table, and claimed by nobody.
///
/// It is opened with the credentials of the kernel, so that it does not pin those of the process
/// that happens to load a table.
///
/// Dropping it closes the device; as the last reference may go away in the completion of an I/O,
/// this may happen in any context, and the rest of closing is then done later by the kernel.
///
/// # Invariants
///
/// `file` is an open block device file, owned by this value.
pub struct BlockDevice {
    file: NonNull<bindings::file>,
}

// SAFETY: A `struct file` is reference-counted and not bound to a thread.
unsafe impl Send for BlockDevice {}
// SAFETY: Nothing offered here changes the file.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens the device with number `dev`. May sleep.
    ///
    /// Errors: `ENXIO` if there is no such device, `EACCES` for writing to a read-only one, and
    /// whatever the driver says.
    pub fn open(dev: DevT, access: Access) -> Result<Self> {
        let mode = match access {
            Access::Read => bindings::BLK_OPEN_READ,
            Access::ReadWrite => bindings::BLK_OPEN_READ | bindings::BLK_OPEN_WRITE,
        };
        // SAFETY: Neither argument is a pointer.
        let file = from_err_ptr(unsafe { bindings::bdev_open_as_kernel(dev.0, mode) })?;
        // INVARIANT: The file was opened just now, and its reference is ours.
        Ok(Self {
            file: NonNull::new(file).ok_or(ENXIO)?,
        })
    }

    pub(super) fn as_bdev_ptr(&self) -> *mut bindings::block_device {
        // SAFETY: By the type invariant it is a block device file.
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
        // There is no claim to yield, hence `fput()`, which is allowed in any context, and not
        // `bdev_fput()`, which would take a mutex for the claim.
        // SAFETY: By the type invariant the reference is ours, and this value ends here.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}
