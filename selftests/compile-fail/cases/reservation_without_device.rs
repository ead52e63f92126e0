// SPDX-License-Identifier: GPL-2.0

//! The device of a reservation command is open while the device has the command.

use crate::dm::{
    reservation::{
        Answer,
        Command,
        Failure,
        OnAnswer,
        Reservations,
        Worker, //
    },
    Access,
    BlockDevice,
    DevT,
    DmDevice,
    Priority, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
    }, //
};

/// The commands borrow the device.
#[cfg(right)]
pub fn borrow(dev: &BlockDevice) -> Result<Reservations<'_>> {
    Ok(Reservations::of(dev)?)
}

/// The commands outlive the device.
#[cfg(wrong)]
pub fn outlive<'a>(dev: DevT) -> Result<Reservations<'a>> {
    let dev = BlockDevice::open(dev, Access::ReadWrite)?;
    //~ E0515 cannot return value referencing local variable `dev`
    Ok(Reservations::of(&dev)?)
}

/// The device is closed before a command.
#[cfg(wrong)]
pub fn close(dev: BlockDevice) -> Result {
    let reservations = Reservations::of(&dev)?;
    //~ E0505 cannot move out of `dev` because it is borrowed
    drop(dev);
    let _ = reservations.is_mapped();
    Ok(())
}

/// A handler that owns its data.
pub struct Owning(pub Arc<Atomic<u64>>);

impl OnAnswer for Owning {
    fn answer(&self, tag: u64, _command: Command, _answer: Result<Answer<'_>, Failure>) {
        self.0.store(tag, Relaxed);
    }
}

/// A worker shares a device.
#[cfg(right)]
pub fn start(dev: Arc<BlockDevice>, handler: Owning) -> Result<Worker<Owning>> {
    Worker::new(dev, c"worker", Priority::Normal, 8, handler)
}

/// A worker uses the device of a table, which is closed with the table. A command may hang longer.
#[cfg(wrong)]
pub fn use_table(dev: DmDevice<'_>, handler: Owning) -> Result<Worker<Owning>> {
    //~ E0308 mismatched types
    Worker::new(dev, c"worker", Priority::Normal, 8, handler)
}

/// A handler that borrows its data. A command that hangs calls it when the data may be gone.
#[cfg(wrong)]
pub struct Borrowing<'a>(pub &'a Atomic<u64>);

#[cfg(wrong)]
//~ E0478 lifetime bound not satisfied
//~ E0495 cannot infer an appropriate lifetime
impl OnAnswer for Borrowing<'_> {
    fn answer(&self, tag: u64, _command: Command, _answer: Result<Answer<'_>, Failure>) {
        self.0.store(tag, Relaxed);
    }
}

/// A handler that keeps the list of keys. The worker uses the list for the next command.
#[cfg(wrong)]
pub struct Keeping(pub kernel::sync::Mutex<Option<Answer<'static>>>);

#[cfg(wrong)]
impl OnAnswer for Keeping {
    fn answer(&self, _tag: u64, _command: Command, answer: Result<Answer<'_>, Failure>) {
        if let Ok(answer) = answer {
            //~ E0521 borrowed data escapes outside of method
            *self.0.lock() = Some(answer);
        }
    }
}
