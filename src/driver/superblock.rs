// SPDX-License-Identifier: GPL-2.0

//! Reads the superblock of a member.
//!
//! The constructor of a table calls this in process context. It waits for the device.
//!
//! Locking: an interrupt-disabling spinlock protects the result of the read.

use crate::{
    dm::{BlkStatus, BlockDevice, Complete, IoBuf, IoOp, Request, WaitQueue},
    proto::codec::{
        block::{BLOCK_SECTORS, SECTOR_SIZE},
        layout::SUPERBLOCK_OFFSET,
        superblock::{decode, Superblock, SuperblockError},
    },
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{Arc, SpinLockIrq},
};

/// Why a superblock could not be read.
pub enum Unreadable {
    /// The device could not be read.
    Io(Error),
    /// The content is not a superblock that this version understands.
    Invalid(SuperblockError),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Unreadable::Io(error)
    }
}

/// A transfer with the task that waits for it.
#[pin_data]
struct Waiter {
    #[pin]
    ended: SpinLockIrq<Option<(KBox<IoBuf<Waiter>>, BlkStatus)>>,
    #[pin]
    queue: WaitQueue,
}

impl Complete for Waiter {
    fn complete(self: Arc<Self>, buf: KBox<IoBuf<Self>>, status: BlkStatus) {
        *self.ended.lock() = Some((buf, status));
        self.queue.wake_all();
    }
}

/// Reads and decodes the superblock of a member.
///
/// # Errors
///
/// See [`Unreadable`].
pub fn read(dev: Arc<BlockDevice>) -> Result<Superblock, Unreadable> {
    let waiter = Arc::pin_init(
        pin_init!(Waiter {
            ended <- new_spinlock_irq!(None, "dm_lease superblock"),
            queue <- crate::dm::thread::new_wait_queue!("dm_lease superblock"),
        }),
        GFP_KERNEL,
    )?;
    let buf = IoBuf::new(1, 0)?;
    let request = Request {
        dev,
        op: IoOp::Read,
        sector: SUPERBLOCK_OFFSET / SECTOR_SIZE,
        blocks: 0..1,
        nowait: false,
    };
    const _: () = assert!(BLOCK_SECTORS == crate::dm::block_io::BLOCK_SECTORS);
    IoBuf::submit(buf, request, waiter.clone()).map_err(|(_, error)| error)?;
    waiter.queue.wait(|| waiter.ended.lock().is_some());
    let ended = waiter.ended.lock().take();
    match ended {
        Some((buf, status)) if status.is_ok() => {
            let block = buf.block(0).ok_or(EIO)?;
            decode(block).map_err(Unreadable::Invalid)
        }
        _ => Err(Unreadable::Io(EIO)),
    }
}
