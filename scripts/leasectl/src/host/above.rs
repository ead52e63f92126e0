// SPDX-License-Identifier: GPL-2.0
//! What is stacked on mapped devices, and how it is taken down: mounts, volume groups, arrays.
//!
//! In good order, while the lease is there and everything can still be written; or after it was
//! lost, when nothing can be saved and the devices must be closed before this machine may own the
//! portion again. A portion is then *closing* for udev until the last device is closed, so that
//! what is above it comes back as a whole, and not before.
//!
//! Nobody tells of a last close, so who waits for one has to look again.

use crate::host::config::{files, Declaration, OnLoss, DIRECTORY};
use crate::host::udev::{trigger, Closing};
use crate::kernel::mapped::{self, Mapped};
use crate::kernel::status;
use crate::text::list;
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long programs have to leave what is mounted before it is taken from below them.
const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at what is still open.
const AGAIN: Duration = Duration::from_secs(1);

/// How something is taken down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The lease is there: everything is written first, and work of an array is waited for.
    Orderly,
    /// The lease is lost: what waits for a disk is not waited for.
    Lost,
    /// The same, and what programs still use is unmounted from below them.
    Forced,
}

/// Unmounts what is mounted from the devices and from whatever is stacked on them, then stops that.
/// Everything above all of them goes before the first is removed, which would end the lease. What
/// fails says so, and its device is still open afterwards.
pub fn take_down(devices: &[Mapped], manner: Manner) {
    let open = devices.iter().filter(|device| device.open > 0);
    let (mut holders, mut above) = (BTreeSet::new(), BTreeSet::new());
    for device in open {
        above.insert(device.kernel_name());
        holders.extend(device.holders());
        above.extend(mapped::stacked_on(&device.kernel_name()));
    }
    for name in &above {
        unmount(&format!("/dev/{name}"), manner);
    }
    if !holders.is_empty() {
        let mut command = mapped::program("blkdeactivate");
        command.args(["-u", "-l", "wholevg", "-m", "disablequeueing"]);
        if manner == Manner::Orderly {
            command.args(["-r", "wait"]);
        }
        let paths = holders.iter().map(|name| format!("/dev/{name}"));
        let _ = command.args(paths).status();
    }
}

fn unmount(device: &str, manner: Manner) {
    let mut command = mapped::program("umount");
    command.args(["--quiet", "--all-targets"]);
    if manner == Manner::Forced {
        command.arg("--lazy");
    }
    let _ = command.arg(device).status();
}

/// After this machine has lost a portion: takes down what is above it, if that is declared, and
/// returns when no device is open any more. What happens is told, and where it goes wrong, too.
pub fn lost(portion: &str) {
    if let Err(error) = close_lost(portion) {
        say(portion, &format!("not taken down: {error:#}"));
    }
}

fn close_lost(portion: &str) -> Result<()> {
    if !is_declared(portion)? {
        return Ok(());
    }
    if open(portion)?.is_empty() {
        Closing::forget(portion);
        return Ok(());
    }
    say(portion, "the lease was lost: taking down what is above");
    let closing = Closing::begin(portion)?;
    let (begun, mut manner) = (Instant::now(), Manner::Lost);
    loop {
        let devices = open(portion)?;
        if devices.is_empty() {
            break;
        }
        if manner == Manner::Lost && begun.elapsed() > GRACE {
            manner = Manner::Forced;
            let uses: Vec<String> = devices.iter().map(describe_use).collect();
            say(portion, &format!("by force: {}", list(&uses)));
        }
        take_down(&devices, manner);
        sleep(AGAIN);
    }
    drop(closing);
    say(portion, "nothing is open any more");
    for device in status::devices_of(portion)? {
        trigger(&device)?;
    }
    Ok(())
}

/// Whether a file declares the portion and does not want to keep what is above it.
fn is_declared(portion: &str) -> Result<bool> {
    for path in files(Path::new(DIRECTORY))? {
        let declaration = Declaration::read(&path)?;
        if declaration.portion.as_str() == portion {
            return Ok(declaration.on_loss == OnLoss::TakeDown);
        }
    }
    Ok(false)
}

/// The devices of a portion that somebody has open.
fn open(portion: &str) -> Result<Vec<Mapped>> {
    let names = status::devices_of(portion)?;
    let mut all = mapped::all()?;
    all.retain(|device| device.open > 0 && names.contains(&device.name));
    Ok(all)
}

fn say(portion: &str, what: &str) {
    // Nobody may be there to hear it.
    let _ = writeln!(io::stderr(), "leasectl: {portion}: {what}");
}

/// Who uses a device, as far as the kernel tells: programs and mounts are counted, not named.
pub fn describe_use(device: &Mapped) -> String {
    let names = device.holders();
    match names.is_empty() {
        true => format!("{} is open {} times", device.name, device.open),
        false => format!("{} is open, by {}", device.name, list(&names)),
    }
}
