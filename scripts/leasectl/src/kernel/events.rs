// SPDX-License-Identifier: GPL-2.0
//! Waiting for an event of any mapped device.
//!
//! The control device of device-mapper becomes readable when an event was raised after it was
//! armed last. The order is therefore: arm, read the state, wait. An event between the reading and
//! the wait ends the wait at once, so that no event is missed.

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

/// `struct dm_ioctl`. This command uses only its first fields.
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

    /// Arms the device: from now on any event ends the next wait.
    pub fn arm(&self) -> Result<()> {
        const OPCODE: u32 = opcode::read_write::<Header>(ARM_POLL.0, ARM_POLL.1);
        let mut header = Header {
            version: VERSION,
            data_size: SIZE as u32,
            rest: [0; SIZE - 16],
        };
        // SAFETY: the command reads and writes one struct dm_ioctl, which contains its own size and
        // version; `Header` has the same size and alignment.
        let armed = unsafe { ioctl(&self.0, Updater::<OPCODE, Header>::new(&mut header)) };
        armed.context("the kernel cannot report device-mapper events")
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
