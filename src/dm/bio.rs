// SPDX-License-Identifier: GPL-2.0

//! What any bio shows: its operation, flags, position and status.
//!
//! Nothing here knows of targets. What becomes of the bios that dm core hands to a target is in
//! [`clone_bio`](super::clone_bio).
//!
//! C header: `include/linux/blk_types.h`.

use super::{
    bindings,
    device::DevT, //
};
use kernel::types::Opaque;

/// What a bio does, without its flags (`enum req_op`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Op(u32);

impl Op {
    /// Reads sectors; the only operation that never changes anything.
    pub const READ: Op = Op(bindings::req_op_REQ_OP_READ);
    /// Writes sectors. An empty flush is a `WRITE` of zero bytes with the preflush flag.
    pub const WRITE: Op = Op(bindings::req_op_REQ_OP_WRITE);
    /// Tells the device that sectors are no longer needed.
    pub const DISCARD: Op = Op(bindings::req_op_REQ_OP_DISCARD);
    /// Erases sectors beyond recovery.
    pub const SECURE_ERASE: Op = Op(bindings::req_op_REQ_OP_SECURE_ERASE);
    /// Writes zeroes without carrying them.
    pub const WRITE_ZEROES: Op = Op(bindings::req_op_REQ_OP_WRITE_ZEROES);

    const MASK: u32 = (1 << bindings::REQ_OP_BITS) - 1;

    /// Returns the number of the operation, for logs and trace events.
    pub const fn as_raw(self) -> u32 {
        self.0
    }
}

/// How an operation on a block device ended (`blk_status_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlkStatus(u8);

impl BlkStatus {
    /// It succeeded.
    pub const OK: BlkStatus = BlkStatus(bindings::BLK_STS_OK as u8);
    /// The device does not support it (`EOPNOTSUPP`).
    pub const NOTSUPP: BlkStatus = BlkStatus(bindings::BLK_STS_NOTSUPP);
    /// A reservation held by somebody else forbids it (`EBADE`).
    pub const RESV_CONFLICT: BlkStatus = BlkStatus(bindings::BLK_STS_RESV_CONFLICT);
    /// The medium is bad (`ENODATA`).
    pub const MEDIUM: BlkStatus = BlkStatus(bindings::BLK_STS_MEDIUM);
    /// Some resource is missing right now (`ENOMEM`).
    pub const RESOURCE: BlkStatus = BlkStatus(bindings::BLK_STS_RESOURCE);
    /// Anything else went wrong (`EIO`).
    pub const IOERR: BlkStatus = BlkStatus(bindings::BLK_STS_IOERR);
    /// It would have had to wait although it was marked not to (`EAGAIN`).
    pub const AGAIN: BlkStatus = BlkStatus(bindings::BLK_STS_AGAIN);
    /// The device is gone or going (`ENODEV`).
    pub const OFFLINE: BlkStatus = BlkStatus(bindings::BLK_STS_OFFLINE);

    /// dm core keeps the bio and maps it again after the next resume. Honoured only during a
    /// noflush suspend; at other times dm core turns it into an I/O error (`dm_handle_requeue()`).
    pub(super) const DM_REQUEUE: BlkStatus = BlkStatus(bindings::BLK_STS_DM_REQUEUE);

    /// Returns whether the operation succeeded.
    pub const fn is_ok(self) -> bool {
        self.0 == Self::OK.0
    }

    /// Returns whether the bio is on its way back to dm core, which will map it again: it has
    /// neither succeeded nor failed, and `end_io` must pass the status on.
    pub const fn is_requeue(self) -> bool {
        self.0 == Self::DM_REQUEUE.0
    }

    /// Returns the raw `blk_status_t`, for logs and trace events.
    pub const fn as_raw(self) -> u8 {
        self.0
    }

    /// Wraps the status the block layer left in a bio.
    pub(super) const fn from_raw(status: u8) -> Self {
        Self(status)
    }
}

/// What can be seen of any bio that a target currently owns.
///
/// # Invariants
///
/// The inner `struct bio` is initialised and nobody else changes it while a `&Bio` exists.
#[repr(transparent)]
pub struct Bio(Opaque<bindings::bio>);

impl Bio {
    fn opf(&self) -> u32 {
        // SAFETY: By the type invariant the bio is valid and not changed by others.
        unsafe { (*self.0.get()).bi_opf }
    }

    fn has(&self, flag_bit: u32) -> bool {
        self.opf() & (1 << flag_bit) != 0
    }

    /// Returns the operation.
    pub fn op(&self) -> Op {
        Op(self.opf() & Op::MASK)
    }

    /// Returns whether the device must empty its write cache before the data (`REQ_PREFLUSH`).
    pub fn is_preflush(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_PREFLUSH)
    }

    /// Returns whether the data must be durable on completion (`REQ_FUA`).
    pub fn is_fua(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FUA)
    }

    /// Returns whether the submitter must not be made to wait (`REQ_NOWAIT`).
    pub fn is_nowait(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_NOWAIT)
    }

    /// Returns whether the write must happen completely or not at all (`REQ_ATOMIC`).
    pub fn is_atomic(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_ATOMIC)
    }

    /// Returns whether the submitter polls for the completion (`REQ_POLLED`).
    pub fn is_polled(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_POLLED)
    }

    /// Returns whether the bio pages memory out or in (`REQ_SWAP`).
    pub fn is_swap(&self) -> bool {
        self.has(bindings::req_flag_bits___REQ_SWAP)
    }

    /// Returns the bytes still to be transferred; zero for an empty flush.
    pub fn size_bytes(&self) -> u32 {
        // SAFETY: By the type invariant. The field of the packed struct is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_size }
    }

    /// Returns the sectors (512 bytes) still to be transferred.
    pub fn sectors(&self) -> u32 {
        self.size_bytes() >> kernel::block::SECTOR_SHIFT
    }

    /// Returns the first sector, counted on the device the bio currently points to; it means
    /// nothing for a bio without data.
    pub fn device_sector(&self) -> u64 {
        // SAFETY: By the type invariant. The field of the packed struct is copied, not borrowed.
        unsafe { (*self.0.get()).bi_iter.bi_sector }
    }

    /// Returns the number of the device the bio currently points to.
    pub fn devt(&self) -> DevT {
        // SAFETY: By the type invariant.
        let bdev = unsafe { (*self.0.get()).bi_bdev };
        // SAFETY: A bio on its way points to an open device; the field never changes.
        DevT::from_raw(unsafe { (*bdev).bd_dev })
    }
}
