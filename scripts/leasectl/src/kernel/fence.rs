// SPDX-License-Identifier: GPL-2.0
//! Latches the portions that a device lies on. Lock managers and file systems use this when they
//! lose the right to write: they know a device, and not a portion.
//!
//! The message `fence` needs no disk, and the devices below are read from sysfs. So nothing here
//! waits for storage that may have failed.

use crate::cli::Fence;
use crate::kernel::mapped;
use crate::kernel::status;
use anyhow::{bail, Context, Result};
use rustix::fs::{major, minor};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `leasectl fence`
pub fn run(options: &Fence, out: &mut impl Write) -> Result<()> {
    let text = status::dmsetup()?;
    let lines = status::parse(&text)?;
    let mapped = mapped::all()?;
    // A message to any device of a portion is enough.
    let mut portions = BTreeMap::new();
    for path in &options.devices {
        let below = at_and_below(path)?;
        let is_below = |name: &str| {
            let device = mapped.iter().find(|device| device.name == name);
            device.is_some_and(|device| below.contains(&device.kernel_name()))
        };
        let mut found = lines.iter().filter(|line| is_below(line.device)).peekable();
        if found.peek().is_none() {
            bail!("{} lies on no device of the target lease", path.display());
        }
        portions.extend(found.map(|line| (line.status.portion, line.device)));
    }
    let mut result = Ok(());
    for (portion, device) in portions {
        match mapped::dmsetup(&["message", device, "0", "fence"]) {
            Ok(_) => writeln!(out, "{portion} is fenced")?,
            // The other portions are fenced nevertheless.
            Err(error) => result = Err(error),
        }
    }
    result
}

/// The kernel's names of a block device and of all devices that it is stacked on, over any number
/// of levels.
fn at_and_below(path: &Path) -> Result<BTreeSet<String>> {
    let shown = path.display();
    let data = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
    if !data.file_type().is_block_device() {
        bail!("{shown} is not a block device");
    }
    let number = data.rdev();
    let link = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let mut found = BTreeSet::new();
    let mut open = vec![fs::canonicalize(&link).with_context(|| link.clone())?];
    while let Some(device) = open.pop() {
        if found.insert(kernel_name(&device)) {
            open.extend(slaves(&device));
        }
    }
    Ok(found)
}

fn kernel_name(device: &Path) -> String {
    let name = device.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The devices that a device is stacked on; a partition is stacked on its disk.
fn slaves(device: &Path) -> Vec<PathBuf> {
    if device.join("partition").exists() {
        return device.parent().map(Path::to_owned).into_iter().collect();
    }
    let entries = fs::read_dir(device.join("slaves"));
    let paths = entries.into_iter().flatten().flatten();
    paths
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .collect()
}
