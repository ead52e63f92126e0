// SPDX-License-Identifier: GPL-2.0
//! Takes down what is stacked on mapped devices: mounts, volume groups, arrays.
//!
//! This happens in good order while the lease is valid and everything can still be written. It also
//! happens after the lease was lost: then nothing can be saved, and the devices must be closed
//! before this host may own the portion again. After a loss the portion is *closing* for udev until
//! nothing is above it any more. So the devices above it return together, and not earlier. Programs
//! that have a mapped device itself open, such as an export, are left alone.
//!
//! The kernel sends no event when a busy device becomes idle, so this code polls.

use crate::host::config::{files, Declaration, OnLoss, DIRECTORY};
use crate::host::udev::{trigger, Closing};
use crate::kernel::mapped::{self, Mapped};
use crate::kernel::status;
use crate::program::program;
use crate::text::list;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MOUNTS: &str = "/proc/self/mountinfo";
/// How long programs may still use a mount after a loss, before it is unmounted by force.
const GRACE: Duration = Duration::from_secs(10);
/// The time between two readings of the open devices.
const AGAIN: Duration = Duration::from_secs(1);

/// How something is taken down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The lease is valid: everything is written first, and a resync of an array is waited for.
    Orderly,
    /// The lease is lost: nothing is waited for.
    Lost,
    /// The lease is lost, and mounts that programs still use are detached (`umount --lazy`).
    Forced,
}

/// Unmounts the file systems on the devices and on everything that is stacked on them, then stops
/// the stacked devices. All devices of a portion are passed at once, because the removal of the
/// first mapped device ends the lease. A command that fails prints its error, and its device stays
/// open.
pub fn take_down(devices: &[Mapped], manner: Manner) {
    for name in at_and_above(devices) {
        unmount(&format!("/dev/{name}"), manner);
    }
    let holders: BTreeSet<String> = devices.iter().flat_map(Mapped::holders).collect();
    if !holders.is_empty() {
        let mut command = program("blkdeactivate");
        command.args(["-u", "-l", "wholevg", "-m", "disablequeueing"]);
        if manner == Manner::Orderly {
            command.args(["-r", "wait"]);
        }
        let paths = holders.iter().map(|name| format!("/dev/{name}"));
        let _ = command.args(paths).status();
    }
}

/// The kernel's names of the devices and of everything that is stacked on them.
fn at_and_above(devices: &[Mapped]) -> BTreeSet<String> {
    let names = devices.iter().map(Mapped::kernel_name);
    names
        .flat_map(|name| {
            let mut all = mapped::stacked_on(&name);
            all.push(name);
            all
        })
        .collect()
}

/// Whether there is a mount or another device above the devices.
fn is_used(devices: &[Mapped], mounts: &str) -> bool {
    let names = at_and_above(devices);
    let number = |name: &String| mapped::number(name);
    let numbers: BTreeSet<String> = names.iter().filter_map(number).collect();
    let is_ours = |mount: Mount<'_>| {
        // A file system on several devices has a device number of its own.
        let device = fs::canonicalize(mount.source).unwrap_or_default();
        let name = device.file_name().map(|name| name.to_string_lossy());
        numbers.contains(mount.number) || name.is_some_and(|name| names.contains(&*name))
    };
    names.len() > devices.len() || mounts.lines().filter_map(Mount::parse).any(is_ours)
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    number: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (before, after) = line.split_once(" - ")?;
        Some(Mount {
            number: before.split(' ').nth(2)?,
            source: after.split(' ').nth(1)?,
        })
    }
}

fn unmount(device: &str, manner: Manner) {
    let mut command = program("umount");
    command.args(["--quiet", "--all-targets"]);
    if manner == Manner::Forced {
        command.arg("--lazy");
    }
    let _ = command.arg(device).status();
}

/// Takes down everything above a portion that this host has lost, if its declaration wants that.
/// Returns when nothing is above it any more. Steps and errors go to standard error.
pub fn lost(portion: &str) {
    if let Err(error) = close_lost(portion) {
        say(portion, &format!("not taken down: {error:#}"));
    }
}

fn close_lost(portion: &str) -> Result<()> {
    if !is_declared(portion)? {
        return Ok(());
    }
    let mut devices = open(portion)?;
    if !is_used(&devices, &mounts()?) {
        Closing::forget(portion);
        return Ok(());
    }
    say(portion, "the lease was lost: taking down everything above");
    let closing = Closing::begin(portion)?;
    let (begun, mut manner) = (Instant::now(), Manner::Lost);
    while is_used(&devices, &mounts()?) {
        if manner == Manner::Lost && begun.elapsed() > GRACE {
            manner = Manner::Forced;
            let uses: Vec<String> = devices.iter().map(describe_use).collect();
            say(portion, &format!("by force: {}", list(&uses)));
        }
        take_down(&devices, manner);
        sleep(AGAIN);
        devices = open(portion)?;
    }
    drop(closing);
    say(portion, "nothing is above any more");
    for device in status::devices_of(portion)? {
        trigger(&device)?;
    }
    Ok(())
}

fn mounts() -> Result<String> {
    fs::read_to_string(MOUNTS).context(MOUNTS)
}

/// Whether a file declares the portion with `on_loss = "take_down"`.
fn is_declared(portion: &str) -> Result<bool> {
    for path in files(Path::new(DIRECTORY))? {
        let declaration = Declaration::read(&path)?;
        if declaration.portion.as_str() == portion {
            return Ok(declaration.on_loss == OnLoss::TakeDown);
        }
    }
    Ok(false)
}

/// The open devices of a portion.
fn open(portion: &str) -> Result<Vec<Mapped>> {
    let names = status::devices_of(portion)?;
    let mut all = mapped::all()?;
    all.retain(|device| device.open > 0 && names.contains(&device.name));
    Ok(all)
}

fn say(portion: &str, what: &str) {
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "leasectl: {portion}: {what}");
}

/// Describes the use of a device: devices above it by name, programs and mounts by their number.
pub fn describe_use(device: &Mapped) -> String {
    let names = device.holders();
    match names.is_empty() {
        true => format!("{} is open {} times", device.name, device.open),
        false => format!("{} is open, by {}", device.name, list(&names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_number_and_source_are_read_from_mountinfo() {
        let line = "40 22 9:127 / /srv rw shared:2 - ext4 /dev/md127 rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.number, mount.source), ("9:127", "/dev/md127"));
        let line = "41 22 0:40 / /data rw - btrfs /dev/mapper/lease-a-0 rw,subvol=/";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(
            (mount.number, mount.source),
            ("0:40", "/dev/mapper/lease-a-0")
        );
        assert!(Mount::parse("what is this").is_none());
    }
}
