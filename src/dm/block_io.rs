// SPDX-License-Identifier: GPL-2.0

//! Reading and writing blocks of a device, without an allocation for each transfer.
//!
//! An [`IoBuf`] is a bio together with the blocks that it transfers. Both are allocated once. A
//! buffer always has exactly one owner:
//!
//! ```text
//!   IoBuf::new --> caller --- submit ---> block layer --- transfer ends ---> Complete::complete
//!                  | ^                                                           |       |
//!                  | +--- Err, if the request is refused                         |       +-- drop
//!                  | +------------------- handed back ---------------------------+
//!                  +--- drop
//! ```
//!
//! Hence no one can access a block while the device does. If a device hangs, the memory of the
//! transfer is not freed. The transfer also holds references on the device, on the context and on
//! this module. The module cannot be unloaded until the transfer has ended. A module that submits a
//! transfer while it is being unloaded, or while its load fails, waits until the transfer has
//! ended.
//!
//! # Context and locking
//!
//! [`IoBuf::submit`] needs process context. It may wait for tags or for a frozen queue. If one
//! device must not delay another, use one thread for each device. The completion runs in the
//! context in which the device completes, which is usually an interrupt; see [`Complete`]. This
//! module takes no locks.

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

/// The number of bytes in a block.
pub const BLOCK_BYTES: usize = 4096;

/// The number of sectors (512 bytes) in a block.
pub const BLOCK_SECTORS: u64 = (BLOCK_BYTES >> kernel::block::SECTOR_SHIFT) as u64;

/// The maximum number of blocks in an [`IoBuf`].
pub const MAX_BLOCKS: usize = bindings::BIO_MAX_VECS as usize;

/// One block of memory. Because of its alignment it lies within one page.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// The operation of a transfer.
///
/// Each transfer is sent as metadata with real-time I/O priority and the flags `REQ_SYNC |
/// REQ_IDLE`. Writeback throttling exempts a bio only if it has both flags (`wbt_should_throttle()`
/// in `block/blk-wbt.c`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// Reads the blocks.
    Read,
    /// Writes the blocks. They may still be in a volatile cache when the write has ended.
    Write,
    /// Writes the blocks durably (`REQ_FUA`). Earlier writes may still be in a volatile cache.
    WriteFua,
    /// Makes all writes that have ended durable, and then writes the blocks durably.
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
    /// The device. It stays open until the transfer has ended.
    pub dev: Arc<BlockDevice>,
    /// The operation.
    pub op: IoOp,
    /// The first sector (512 bytes) on the device; a multiple of its logical block size.
    pub sector: u64,
    /// The blocks of the buffer that are transferred.
    pub blocks: Range<usize>,
    /// Makes the transfer fail with [`BlkStatus::AGAIN`] if `submit` would have to wait.
    pub nowait: bool,
}

/// The context of a transfer, which is called when the transfer ends.
pub trait Complete: Send + Sync + 'static {
    /// Takes the buffer back. `status` is the status of the transfer.
    ///
    /// This runs in any context, including interrupts, and possibly before `submit` has returned.
    /// It must not sleep; wake a thread for the rest of the work. If `self` is the last reference
    /// to the context, the context is dropped here, too. If the context cannot be dropped in an
    /// interrupt, its user must keep another reference until all buffers are back.
    fn complete(self: Arc<Self>, buf: KBox<IoBuf<Self>>, status: BlkStatus)
    where
        Self: Sized;
}

/// A bio with its blocks. `C` is the type of the context.
///
/// # Invariants
///
/// - `vecs` has room for one element for each block.
/// - Between transfers the bio owns no other objects.
/// - During a transfer `bi_private` of the bio points to this allocation, which the bio owns, and
///   `dev`, `context` and `in_flight` are set.
pub struct IoBuf<C: Complete> {
    bio: Opaque<bindings::bio>,
    vecs: KVec<bindings::bio_vec>,
    blocks: KVec<KBox<Block>>,
    dev: Option<Arc<BlockDevice>>,
    context: Option<Arc<C>>,
    in_flight: Option<Use>,
    submitted_ns: u64,
    ended_ns: u64,
    /// A number by which the user tells buffers and transfers apart. It is not used here.
    pub tag: u64,
}

// SAFETY: Between transfers `bio` and `vecs` point only to memory that this value owns. During a
// transfer the block layer has the value. Nothing is bound to a thread.
unsafe impl<C: Complete> Send for IoBuf<C> {}
// SAFETY: A shared reference gives access to the blocks and times only for reading.
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
            // SAFETY: `__GFP_ZERO` has zeroed the allocation, and zeroes are a valid `Block`.
            blocks.push(unsafe { block.assume_init() }, GFP_KERNEL)?;
        }
        // INVARIANT: `vecs` has room for `count` elements. There is no transfer, and the bio is
        // zeroed.
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

    /// Returns the number of blocks.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Returns a block.
    pub fn block(&self, index: usize) -> Option<&[u8; BLOCK_BYTES]> {
        self.blocks.get(index).map(|block| &block.0)
    }

    /// Returns a block for writing.
    pub fn block_mut(&mut self, index: usize) -> Option<&mut [u8; BLOCK_BYTES]> {
        self.blocks.get_mut(index).map(|block| &mut block.0)
    }

    /// Returns the time at which the last transfer was submitted, in nanoseconds of
    /// `CLOCK_MONOTONIC_RAW`.
    pub fn submitted_ns(&self) -> u64 {
        self.submitted_ns
    }

    /// Returns the time at which the last transfer ended, in nanoseconds of `CLOCK_MONOTONIC_RAW`.
    pub fn ended_ns(&self) -> u64 {
        self.ended_ns
    }

    /// Starts a transfer. May sleep; see the module documentation.
    ///
    /// The buffer comes back exactly once: through [`Complete::complete`] of `context`, or at once
    /// with an error, without a transfer.
    ///
    /// Errors: `EINVAL` for a range of blocks that is empty or not in the buffer, and for sectors
    /// beyond the end of the device; `EDEADLK` in an interrupt; `ENODEV` if the module has ended.
    pub fn submit(
        mut buf: KBox<Self>,
        request: Request,
        context: Arc<C>,
    ) -> Result<(), (KBox<Self>, Error)> {
        if !buf.accepts(&request) {
            return Err((buf, EINVAL));
        }
        // In an interrupt `submit_bio()` would use `current->bio_list` of the interrupted task.
        // SAFETY: `in_task()` may be called in any context.
        if !unsafe { bindings::dm_in_task() } {
            return Err((buf, EDEADLK));
        }
        buf.in_flight = match Use::new() {
            Ok(used) => Some(used),
            Err(error) => return Err((buf, error)),
        };
        // SAFETY: `accepts` has checked the request above. No transfer is going on, because the
        // caller owns the buffer.
        unsafe { buf.prepare(&request) };
        buf.submitted_ns = raw_ns();
        buf.dev = Some(request.dev);
        buf.context = Some(context);
        let bio = buf.bio.get();
        let owner = KBox::into_raw(buf);
        // SAFETY: `prepare` has initialised the bio, which has not been submitted.
        unsafe { (*bio).bi_private = owner.cast() };
        // SAFETY: `prepare` has initialised the bio, which has not been submitted.
        unsafe { (*bio).bi_end_io = Some(Self::end_io) };
        // While the reference is held, the module cannot be unloaded. `in_flight` keeps the module
        // also when it is being unloaded already.
        // SAFETY: `__module_get()` needs a module that cannot go away during the call. The module
        // exists while its code runs here. `end_io` drops the reference.
        unsafe { bindings::dm_hold_this_module() };
        // SAFETY: The bio is complete. The bio, the blocks and the device exist until `end_io`,
        // because the bio owns the buffer.
        unsafe { bindings::submit_bio(bio) };
        Ok(())
    }

    /// Returns whether the buffer has the blocks, and the device the sectors, of a request.
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
    /// - [`IoBuf::accepts`] must have accepted the request.
    /// - No transfer of the buffer may be going on.
    unsafe fn prepare(&mut self, request: &Request) {
        let bio = self.bio.get();
        let mut opf = request.op.opf();
        if request.nowait {
            opf |= bindings::REQ_NOWAIT;
        }
        // SAFETY: `bio_init()` needs memory for a bio that owns no other objects, which holds by
        // the type invariant, and an open device. `vecs` has room for one element for each block.
        // There are at most `MAX_BLOCKS` blocks, so that the cast keeps the number.
        unsafe {
            bindings::bio_init(
                bio,
                request.dev.as_bdev_ptr(),
                self.vecs.as_mut_ptr(),
                self.blocks.len() as u16,
                opf,
            )
        };
        // SAFETY: The bio was initialised above and is ours.
        unsafe { (*bio).bi_iter.bi_sector = request.sector };
        // SAFETY: The bio was initialised above and is ours.
        unsafe { (*bio).bi_ioprio = bindings::DM_IOPRIO_RT };
        for block in self
            .blocks
            .get_mut(request.blocks.clone())
            .unwrap_or_default()
        {
            // SAFETY: `bio_add_virt_nofail()` needs room in `vecs`, which has an element for each
            // block, and memory of the direct mapping. The block was allocated by `kmalloc()` and
            // exists until `end_io`.
            unsafe {
                bindings::bio_add_virt_nofail(bio, (&raw mut block.0).cast(), BLOCK_BYTES as u32)
            };
        }
    }

    /// Hands the buffer to the context.
    ///
    /// # Safety
    ///
    /// Only `bio_endio()` may call this. `bio` must be a bio that [`IoBuf::submit`] has submitted,
    /// and that has ended.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // The end of the module waits for `in_flight`. Afterwards `synchronize_rcu_tasks()` waits
        // for RCU readers and for tasks that were preempted in the module's code, and thus for the
        // rest of this function.
        let _rcu = rcu::read_lock();
        // SAFETY: `submit` has stored the address of the box here, and gave the box up.
        let mut buf = unsafe { KBox::from_raw((*bio).bi_private.cast::<Self>()) };
        // SAFETY: The bio is part of the buffer, which is ours again.
        let status = BlkStatus::from_raw(unsafe { (*bio).bi_status });
        // SAFETY: The bio has ended and is ours again. `bio_uninit()` drops the objects that the
        // block layer has attached to it.
        unsafe { bindings::bio_uninit(bio) };
        buf.ended_ns = raw_ns();
        buf.dev = None;
        let in_flight = buf.in_flight.take();
        // By the type invariant `context` is set.
        if let Some(context) = buf.context.take() {
            context.complete(buf, status);
        }
        // SAFETY: `submit` has taken this reference.
        unsafe { bindings::dm_release_this_module() };
        drop(in_flight);
    }
}

// `bio_add_virt_nofail()` takes memory within one page.
static_assert!(kernel::page::PAGE_SIZE % BLOCK_BYTES == 0);
static_assert!(align_of::<Block>() == BLOCK_BYTES);
