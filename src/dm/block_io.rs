// SPDX-License-Identifier: GPL-2.0

//! Reading and writing blocks of a device on one's own account, without allocation.
//!
//! An [`IoBuf`] is a bio and the blocks it transfers, both allocated once. It always has exactly
//! one owner:
//!
//! ```text
//!   IoBuf::new --> you --- submit ---> the block layer --- the end ---> Complete::complete
//!                  | ^                                                      |       |
//!                  | +--- Err, if the request makes no sense                |       +--- drop
//!                  | +----------------- handed back ------------------------+
//!                  +--- drop
//! ```
//!
//! So nobody can touch a block while the device does, and memory under a device that hangs is never
//! freed: it stays with the I/O, which also holds a reference on the device, on the context, and on
//! this module: an `rmmod` is refused as busy until the I/O comes back, and a module that submits
//! I/O while it is unloaded, or while its load fails, ends when that has come back.
//!
//! # Context, locking
//!
//! [`IoBuf::submit`] may block, for tags or because the queue is frozen: process context, and one
//! thread per device if one device must not delay another. Completion runs in whatever context the
//! device completes in, usually interrupt; see [`Complete`].

use super::{
    bindings,
    bio::BlkStatus,
    clock::raw_ns,
    device::BlockDevice,
    module::Use, //
};
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::{
        rcu,
        Arc, //
    },
    types::Opaque, //
};

/// Bytes in one block.
pub const BLOCK_BYTES: usize = 4096;

/// Sectors (512 bytes) in one block.
pub const BLOCK_SECTORS: u64 = (BLOCK_BYTES >> kernel::block::SECTOR_SHIFT) as u64;

/// Most blocks in one [`IoBuf`].
pub const MAX_BLOCKS: usize = bindings::BIO_MAX_VECS as usize;

/// One block of memory, aligned so that it never straddles a page.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// What to do with the blocks, and how urgent it is.
///
/// Everything is sent as synchronous, idle-marked metadata of real-time I/O priority. `REQ_SYNC`
/// alone would not do: writeback throttling exempts only `REQ_SYNC | REQ_IDLE`
/// (`wbt_should_throttle()` in `block/blk-wbt.c`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// Read the blocks.
    Read,
    /// Write the blocks; they may still be in a volatile cache when the write completes.
    Write,
    /// Write the blocks durably (`REQ_FUA`), without regard to what was written before.
    WriteFua,
    /// Make everything completed so far durable, then write the blocks durably.
    WriteFlushFua,
}

impl IoOp {
    fn opf(self) -> u32 {
        let urgent = bindings::REQ_SYNC | bindings::REQ_IDLE | bindings::REQ_META;
        urgent
            | match self {
                IoOp::Read => bindings::req_op_REQ_OP_READ,
                IoOp::Write => bindings::req_op_REQ_OP_WRITE,
                IoOp::WriteFua => bindings::req_op_REQ_OP_WRITE | bindings::REQ_FUA,
                IoOp::WriteFlushFua => {
                    bindings::req_op_REQ_OP_WRITE | bindings::REQ_FUA | bindings::REQ_PREFLUSH
                }
            }
    }
}

/// One transfer.
#[derive(Clone)]
pub struct Request {
    /// The device, kept open until the transfer has ended.
    pub dev: Arc<BlockDevice>,
    /// The operation.
    pub op: IoOp,
    /// The first sector (512 bytes) on the device; a multiple of its logical block size.
    pub sector: u64,
    /// Which blocks of the buffer are transferred.
    pub blocks: Range<usize>,
    /// Fail with [`BlkStatus::AGAIN`] rather than block in `submit`.
    pub nowait: bool,
}

/// Who is told of the end of a transfer.
pub trait Complete: Send + Sync + 'static {
    /// Takes the buffer back. `status` says how the transfer ended.
    ///
    /// Called in any context, interrupts included, and possibly before `submit` has returned: do
    /// not sleep, hand over to a thread. If this holds the last reference to the context, the
    /// context is dropped here too; a context that cannot be dropped in interrupt context must be
    /// kept by somebody who waits for its buffers.
    fn complete(self: Arc<Self>, buf: KBox<IoBuf<Self>>, status: BlkStatus)
    where
        Self: Sized;
}

/// A bio with its blocks. `C` is who is told when a transfer ends.
///
/// # Invariants
///
/// `vecs` has room for one element per block. Between transfers the bio owns nothing. During one,
/// the bio points to this allocation, and `dev`, `context` and `in_flight` are set.
pub struct IoBuf<C: Complete> {
    bio: Opaque<bindings::bio>,
    vecs: KVec<bindings::bio_vec>,
    blocks: KVec<KBox<Block>>,
    dev: Option<Arc<BlockDevice>>,
    context: Option<Arc<C>>,
    in_flight: Option<Use>,
    submitted_ns: u64,
    ended_ns: u64,
    /// For the owner to tell buffers and transfers apart; not used here.
    pub tag: u64,
}

// SAFETY: The pointers in `bio` and `vecs` point to what this value owns, or, during a transfer,
// when nobody has this value, to what the block layer uses; nothing is bound to a thread.
unsafe impl<C: Complete> Send for IoBuf<C> {}
// SAFETY: Shared references give access to the blocks and the times for reading only.
unsafe impl<C: Complete> Sync for IoBuf<C> {}

impl<C: Complete> IoBuf<C> {
    /// Allocates a buffer of `count` zeroed blocks, at most [`MAX_BLOCKS`]. May sleep.
    pub fn new(count: usize, tag: u64) -> Result<KBox<Self>> {
        if count == 0 || count > MAX_BLOCKS {
            return Err(EINVAL);
        }
        let mut blocks = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let block = KBox::<Block>::new_uninit(GFP_KERNEL | __GFP_ZERO)?;
            // SAFETY: The allocation was zeroed, and any bytes are a valid block.
            blocks.push(unsafe { block.assume_init() }, GFP_KERNEL)?;
        }
        // INVARIANT: There is room for `count` elements, and no transfer.
        Ok(KBox::new(
            Self {
                bio: Opaque::zeroed(),
                vecs: KVec::with_capacity(count, GFP_KERNEL)?,
                blocks,
                dev: None,
                context: None,
                in_flight: None,
                submitted_ns: 0,
                ended_ns: 0,
                tag,
            },
            GFP_KERNEL,
        )?)
    }

    /// Returns how many blocks the buffer has.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Returns a block.
    pub fn block(&self, index: usize) -> Option<&[u8; BLOCK_BYTES]> {
        self.blocks.get(index).map(|block| &block.0)
    }

    /// Returns a block to be changed.
    pub fn block_mut(&mut self, index: usize) -> Option<&mut [u8; BLOCK_BYTES]> {
        self.blocks.get_mut(index).map(|block| &mut block.0)
    }

    /// Returns when the last transfer was submitted, in nanoseconds of `CLOCK_MONOTONIC_RAW`.
    pub fn submitted_ns(&self) -> u64 {
        self.submitted_ns
    }

    /// Returns when the last transfer ended, in nanoseconds of `CLOCK_MONOTONIC_RAW`.
    pub fn ended_ns(&self) -> u64 {
        self.ended_ns
    }

    /// Starts a transfer. May block; see the module documentation.
    ///
    /// The buffer comes back through [`Complete::complete`] of `context`, exactly once. If the
    /// request makes no sense (an empty or impossible range of blocks, or sectors beyond the end of
    /// the device) it comes back at once with `EINVAL`, and nothing happens; with `EDEADLK` if this
    /// is an interrupt; with `ENODEV` if the module has ended.
    pub fn submit(
        mut buf: KBox<Self>,
        request: Request,
        context: Arc<C>,
    ) -> Result<(), (KBox<Self>, Error)> {
        if !buf.accepts(&request) {
            return Err((buf, EINVAL));
        }
        // In an interrupt the block layer would use the list of bios of the interrupted task.
        // SAFETY: Has no preconditions.
        if !unsafe { bindings::dm_in_task() } {
            return Err((buf, EDEADLK));
        }
        buf.in_flight = match Use::new() {
            Ok(used) => Some(used),
            Err(error) => return Err((buf, error)),
        };
        // SAFETY: The request was checked just above, and no transfer is going on.
        unsafe { buf.prepare(&request) };
        buf.submitted_ns = raw_ns();
        buf.dev = Some(request.dev);
        buf.context = Some(context);
        let bio = buf.bio.get();
        let owner = KBox::into_raw(buf);
        // SAFETY: The bio was initialised by `prepare` and has not been submitted.
        unsafe { (*bio).bi_private = owner.cast() };
        // SAFETY: As above.
        unsafe { (*bio).bi_end_io = Some(Self::end_io) };
        // This makes `rmmod` fail; `in_flight` is what keeps the module.
        // SAFETY: This code is running, so that the module is there to be held. The reference is
        // given back at the end of `end_io`.
        unsafe { bindings::dm_hold_this_module() };
        // SAFETY: The bio is complete, and bio, blocks and device live until `end_io`.
        unsafe { bindings::submit_bio(bio) };
        Ok(())
    }

    /// Returns whether the buffer and the device have what the request asks for.
    fn accepts(&self, request: &Request) -> bool {
        let range = &request.blocks;
        let sectors = (range.len() as u64).saturating_mul(BLOCK_SECTORS);
        !range.is_empty()
            && range.end <= self.blocks.len()
            && request
                .sector
                .checked_add(sectors)
                .is_some_and(|end| end <= request.dev.capacity_sectors())
    }

    /// Initialises the bio for a request.
    ///
    /// # Safety
    ///
    /// The request must be accepted by [`IoBuf::accepts`], and no transfer may be going on.
    unsafe fn prepare(&mut self, request: &Request) {
        let bio = self.bio.get();
        let mut opf = request.op.opf();
        if request.nowait {
            opf |= bindings::REQ_NOWAIT;
        }
        // SAFETY: The bio owns nothing that would be lost, and `vecs` has room for as many elements
        // as there are blocks (at most `MAX_BLOCKS`, hence the cast).
        unsafe {
            bindings::bio_init(
                bio,
                request.dev.as_bdev_ptr(),
                self.vecs.as_mut_ptr(),
                self.blocks.len() as u16,
                opf,
            )
        };
        // SAFETY: The bio was initialised just above and is ours.
        unsafe { (*bio).bi_iter.bi_sector = request.sector };
        // SAFETY: As above.
        unsafe { (*bio).bi_ioprio = bindings::DM_IOPRIO_RT };
        for block in self
            .blocks
            .get_mut(request.blocks.clone())
            .unwrap_or_default()
        {
            // SAFETY: There is room for each block, and the block is kmalloc memory that stays
            // where it is until `end_io`.
            unsafe {
                bindings::bio_add_virt_nofail(bio, (&raw mut block.0).cast(), BLOCK_BYTES as u32)
            };
        }
    }

    /// Hands the buffer to the context.
    ///
    /// # Safety
    ///
    /// Only for the block layer: `bio` was submitted by [`IoBuf::submit`] and has ended.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // The module waits for `in_flight`, and then for RCU readers and for tasks that were
        // preempted in its code; that covers the rest of this function.
        let _rcu = rcu::read_lock();
        // SAFETY: `submit` stored the address of the box it gave up.
        let mut buf = unsafe { KBox::from_raw((*bio).bi_private.cast::<Self>()) };
        // SAFETY: The bio is part of the buffer, which is ours again.
        let status = BlkStatus::from_raw(unsafe { (*bio).bi_status });
        // SAFETY: As above; drops what the block layer attached to the bio.
        unsafe { bindings::bio_uninit(bio) };
        buf.ended_ns = raw_ns();
        buf.dev = None;
        let in_flight = buf.in_flight.take();
        // By the type invariant there is a context.
        if let Some(context) = buf.context.take() {
            context.complete(buf, status);
        }
        // SAFETY: `submit` took this reference.
        unsafe { bindings::dm_release_this_module() };
        drop(in_flight);
    }
}

// The block layer copies `bio_vec`s of kernel memory by the page they are in.
static_assert!(kernel::page::PAGE_SIZE % BLOCK_BYTES == 0);
static_assert!(align_of::<Block>() == BLOCK_BYTES);
