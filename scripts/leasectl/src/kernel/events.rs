// SPDX-License-Identifier: GPL-2.0
//! Waiting until something happens to any mapped device.
//!
//! The control device of device-mapper becomes readable when an event was raised after it was
//! armed last. The order is therefore: arm, look at what interests you, wait. What happens between
//! the look and the wait ends the wait at once, so that nothing is missed.

use anyhow::{Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::ioctl::{ioctl, opcode, Updater};
use std::fs::File;
use std::time::Duration;

const CONTROL: &str = "/dev/mapper/control";
/// The interface that device-mapper has had since 2003.
const VERSION: [u32; 3] = [4, 0, 0];
const SIZE: usize = 312;
/// Letter and number of the command `DM_DEV_ARM_POLL`.
const ARM_POLL: (u8, u8) = (0xfd, 16);

/// `struct dm_ioctl`, of which this command uses the beginning alone.
#[repr(C, align(8))]
struct Header {
    version: [u32; 3],
    data_size: u32,
    rest: [u8; SIZE - 16],
}

const _: () = assert!(size_of::<Header>() == SIZE);

/// The control device, open.
pub struct Events(File);

impl Events {
    /// Opens the control device.
    pub fn open() -> Result<Events> {
        let file = File::options().read(true).write(true).open(CONTROL);
        file.map(Events)
            .with_context(|| format!("cannot open {CONTROL}"))
    }

    /// Whatever happens from now on ends the next wait.
    pub fn arm(&self) -> Result<()> {
        const OPCODE: u32 = opcode::read_write::<Header>(ARM_POLL.0, ARM_POLL.1);
        let mut header = Header {
            version: VERSION,
            data_size: SIZE as u32,
            rest: [0; SIZE - 16],
        };
        // SAFETY: the command reads and writes one struct dm_ioctl, whose size and version stand
        // in it; `Header` is as large and aligned.
        let armed = unsafe { ioctl(&self.0, Updater::<OPCODE, Header>::new(&mut header)) };
        armed.context("the kernel cannot tell of device-mapper events")
    }

    /// Waits for an event since the device was armed, and no longer than `longest`.
    pub fn wait(&self, longest: Option<Duration>) -> Result<()> {
        let longest: Option<Timespec> = longest.and_then(|longest| longest.try_into().ok());
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], longest.as_ref()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context(CONTROL),
            }
        }
    }
}
