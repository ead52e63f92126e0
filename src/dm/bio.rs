// SPDX-License-Identifier: GPL-2.0

//! The fields of a bio: its operation, flags, position, size and status.
//!
//! This module does not depend on targets. The bios that dm core hands to a target, and the ways to
//! dispose of them, are in [`clone_bio`](super::clone_bio).
//!
//! A [`Bio`] is only ever borrowed. The type that owns the bio decides when it may be read.
//!
//! C headers: `include/linux/blk_types.h`, `include/linux/bio.h`.

use super::{
    bindings,
    device::DevT, //
};
use kernel::types::Opaque;

/// The operation of a bio (`enum req_op`), without the flags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reads sectors. Apart from a `Write` of zero bytes, this is the only operation that is
    /// treated as changing nothing.
    Read,
    /// Writes sectors. An empty flush is a `Write` of zero bytes with the preflush flag.
    Write,
    /// Tells the device that the contents of sectors are no longer needed.
    Discard,
    /// Erases sectors so that their contents cannot be recovered.
    SecureErase,
    /// Writes zeroes. The bio carries no data.
    WriteZeroes,
    /// Another operation, by its number.
    Unknown(u32),
}

impl Op {
    const MASK: u32 = (1 << bindings::REQ_OP_BITS) - 1;

    /// Returns the operation in the field `bi_opf` of a bio.
    #[inline(always)]
    pub(super) const fn from_opf(opf: u32) -> Self {
        match opf & Self::MASK {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_SECURE_ERASE => Op::SecureErase,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
            number => Op::Unknown(number),
        }
    }

    /// Returns the number of the operation, for logs and trace events.
    pub const fn as_raw(self) -> u32 {
        match self {
            Op::Read => bindings::req_op_REQ_OP_READ,
            Op::Write => bindings::req_op_REQ_OP_WRITE,
            Op::Discard => bindings::req_op_REQ_OP_DISCARD,
            Op::SecureErase => bindings::req_op_REQ_OP_SECURE_ERASE,
            Op::WriteZeroes => bindings::req_op_REQ_OP_WRITE_ZEROES,
            Op::Unknown(number) => number,
        }
    }
}

/// The status with which an operation on a block device ended (`blk_status_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlkStatus(u8);

impl BlkStatus {
    /// The operation succeeded.
    pub const OK: BlkStatus = BlkStatus(bindings::BLK_STS_OK as u8);
    /// The device does not support the operation (`EOPNOTSUPP`).
    pub const NOTSUPP: BlkStatus = BlkStatus(bindings::BLK_STS_NOTSUPP);
    /// A reservation of another host forbids the operation (`EBADE`).
    pub const RESV_CONFLICT: BlkStatus = BlkStatus(bindings::BLK_STS_RESV_CONFLICT);
    /// The medium is damaged (`ENODATA`).
    pub const MEDIUM: BlkStatus = BlkStatus(bindings::BLK_STS_MEDIUM);
    /// A resource is temporarily missing (`ENOMEM`).
    pub const RESOURCE: BlkStatus = BlkStatus(bindings::BLK_STS_RESOURCE);
    /// The operation failed for any other reason (`EIO`).
    pub const IOERR: BlkStatus = BlkStatus(bindings::BLK_STS_IOERR);
    /// The operation would have had to wait, which its submitter forbade (`EAGAIN`).
    pub const AGAIN: BlkStatus = BlkStatus(bindings::BLK_STS_AGAIN);
    /// The device is gone or about to go (`ENODEV`).
    pub const OFFLINE: BlkStatus = BlkStatus(bindings::BLK_STS_OFFLINE);

    /// dm core keeps the bio and maps it again after the next resume. This status works only during
    /// a noflush suspend. At other times dm core reports an I/O error (`dm_handle_requeue()` in
    /// `drivers/md/dm.c`).
    pub(super) const DM_REQUEUE: BlkStatus = BlkStatus(bindings::BLK_STS_DM_REQUEUE);

    /// Returns whether the operation succeeded.
    pub const fn is_ok(self) -> bool {
        self.0 == Self::OK.0
    }

    /// Returns whether the status is [`Self::DM_REQUEUE`]. The operation has neither succeeded nor
    /// failed so far: dm core decides whether it maps the bio again. `end_io` must pass the status
    /// on.
    pub const fn is_requeue(self) -> bool {
        self.0 == Self::DM_REQUEUE.0
    }

    /// Returns the raw `blk_status_t`, for logs and trace events.
    pub const fn as_raw(self) -> u8 {
        self.0
    }

    /// Wraps the status that the block layer stored in a bio.
    pub(super) const fn from_raw(status: u8) -> Self {
        Self(status)
    }
}

/// A borrowed bio, whose fields may be read.
///
/// # Invariants
///
/// While a `&Bio` exists,
///
/// - the inner `struct bio` is initialised, and its `bi_bdev` is an open block device;
/// - no other thread and no C code changes its fields.
#[repr(transparent)]
pub struct Bio(Opaque<bindings::bio>);

impl Bio {
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariant the bio is initialised and not changed by others.
        unsafe { (*self.0.get()).bi_opf }
    }

    fn has(&self, flag_bit: u32) -> bool {
        self.opf() & (1 << flag_bit) != 0
    }

    /// Returns the operation.
    #[inline(always)]
    pub fn op(&self) -> Op {
        Op::from_opf(self.opf())
    }

    /// Returns whether the operation is [`Op::Read`].
    #[inline(always)]
    pub fn is_read(&self) -> bool {
        self.opf() & Op::MASK == bindings::req_op_REQ_OP_READ
    }

    /// Returns whether the device must flush its write cache before it writes the data
    /// (`REQ_PREFLUSH`).
    pub fn is_preflush(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_PREFLUSH)
    }

    /// Returns whether the data must be durable on completion (`REQ_FUA`).
    pub fn is_fua(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FUA)
    }

    /// Returns whether the bio must fail instead of waiting (`REQ_NOWAIT`).
    pub fn is_nowait(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_NOWAIT)
    }

    /// Returns whether the device must write either all of the data or nothing (`REQ_ATOMIC`).
    pub fn is_atomic(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_ATOMIC)
    }

    /// Returns whether the submitter polls for the completion (`REQ_POLLED`).
    pub fn is_polled(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_POLLED)
    }

    /// Returns whether the bio belongs to swapping (`REQ_SWAP`).
    pub fn is_swap(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_SWAP)
    }

    /// Returns how many bytes remain to be transferred. An empty flush has zero.
    pub fn size_bytes(&self) -> u32 {
        // SAFETY: By the type invariant the bio is initialised and not changed by others. The field
        // of the packed `struct bvec_iter` is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_size }
    }

    /// Returns how many sectors (512 bytes) remain to be transferred.
    pub fn sectors(&self) -> u32 {
        self.size_bytes() >> kernel::block::SECTOR_SHIFT
    }

    /// Returns the first sector on the device that the bio currently points to. The value has no
    /// meaning for a bio of zero bytes (an empty flush).
    pub fn device_sector(&self) -> u64 {
        // SAFETY: By the type invariant the bio is initialised and not changed by others. The field
        // of the packed `struct bvec_iter` is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_sector }
    }

    /// Returns the number of the device that the bio currently points to.
    pub fn devt(&self) -> DevT {
        // SAFETY: By the type invariant the bio is initialised and not changed by others.
        let bdev = unsafe { (*self.0.get()).bi_bdev };
        // SAFETY: By the type invariant `bdev` is open. `bd_dev` is set when the device is added
        // (`bdev_add()`), before it can be opened, and does not change afterwards.
        DevT::from_raw(unsafe { (*bdev).bd_dev })
    }
}
