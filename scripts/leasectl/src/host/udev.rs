// SPDX-License-Identifier: GPL-2.0
//! Answers to the udev rules, the links to members, and uevents for mapped devices.
//!
//! The rules (`scripts/debian/*.rules`) call `udev member` and `udev mapped` and import the output
//! as properties. Device-mapper raises no uevent when a target raises an event, so
//! [`follow`](super::follow) raises one with [`trigger`] when a device has changed its role.

use crate::disk::device::Device;
use crate::disk::member::superblocks;
use crate::kernel::mapped;
use crate::kernel::status::parse;
use anyhow::{Context, Result};
use dm_lease_proto::proto::codec::superblock::{DisplayUuid, Superblock};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The directory of the links that the rules make.
pub const LINKS: &str = "/dev/disk/by-id";
/// The directory of the files of [`Closing`].
const CLOSING: &str = "/run/dm-lease";
/// The prefix of the links' names.
pub const LINK: &str = "dm-lease-";

/// The name of the link to a member of a generation. A replacement has a link of its own, so that
/// no link can lead to the disk that it replaced [R56].
pub fn link(uuid: &[u8; 16], member: u8, generation: u32) -> String {
    let portion = DisplayUuid(uuid);
    match generation {
        1 => format!("{LINK}{portion}-{member}"),
        _ => format!("{LINK}{portion}-{member}-{generation}"),
    }
}

/// `leasectl udev member`: prints the properties of a member. A device with one damaged superblock
/// is still a member, because the copy is as good here. The module does not read the copy, so the
/// damage is printed as well.
pub fn member(path: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let (superblock, damaged) = match superblocks(&Device::observe(path)?)? {
        (Ok(superblock), copy) => (superblock, copy.err().map(|_| "copy")),
        (Err(_), Ok(superblock)) => (superblock, Some("superblock")),
        (Err(_), Err(_)) => return Ok(ExitCode::FAILURE),
    };
    let Superblock {
        uuid,
        name,
        member,
        generation,
        ..
    } = superblock;
    writeln!(out, "ID_FS_TYPE=dm_lease_member")?;
    writeln!(out, "ID_FS_USAGE=other")?;
    writeln!(out, "ID_FS_VERSION=1.{}", superblock.minor)?;
    writeln!(out, "ID_FS_LABEL={name}")?;
    writeln!(out, "ID_FS_UUID={}", DisplayUuid(&uuid))?;
    writeln!(out, "DM_LEASE_PORTION={name}")?;
    writeln!(out, "DM_LEASE_MEMBER={member}")?;
    writeln!(out, "DM_LEASE_GENERATION={generation}")?;
    writeln!(out, "DM_LEASE_LINK={}", link(&uuid, member, generation))?;
    if let Some(which) = damaged {
        writeln!(out, "DM_LEASE_DAMAGED={which}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that marks a portion whose devices are being closed after a loss. While it exists, udev
/// treats them like devices of a secondary. Otherwise the uevent of the last close of a stopped
/// array would assemble the array again.
pub struct Closing(PathBuf);

impl Closing {
    /// Creates the file; dropping the value removes it.
    pub fn begin(portion: &str) -> Result<Closing> {
        let path = Path::new(CLOSING).join(portion);
        fs::create_dir_all(CLOSING).with_context(|| format!("cannot make {CLOSING}"))?;
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Closing(path))
    }

    /// Removes a file that a killed process left.
    pub fn forget(portion: &str) {
        let _ = fs::remove_file(Path::new(CLOSING).join(portion));
    }

    /// The portions that have a file, also of an earlier process.
    pub fn unfinished() -> Vec<String> {
        let files = fs::read_dir(CLOSING).into_iter().flatten().flatten();
        files
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `leasectl udev mapped`: prints the properties of a mapped device, and nothing if it has no table
/// yet.
pub fn mapped(name: &str, out: &mut impl Write) -> Result<()> {
    let text = mapped::dmsetup(&["status", "--target", "lease", name])?;
    // dmsetup prints no name if it was given one.
    let text = format!("{name}: {text}");
    for line in parse(&text)? {
        writeln!(out, "DM_LEASE_PORTION={}", line.status.portion)?;
        writeln!(out, "DM_LEASE_MEMBER={}", line.status.member)?;
        match Path::new(CLOSING).join(line.status.portion).exists() {
            true => writeln!(out, "DM_LEASE_ROLE=closing")?,
            false => writeln!(out, "DM_LEASE_ROLE={}", line.status.role)?,
        }
    }
    Ok(())
}

/// Raises a uevent for a mapped device, so that udev applies its rules again. A device that no
/// longer exists needs none.
pub fn trigger(name: &str) -> Result<()> {
    let all = mapped::all()?;
    let Some(device) = all.iter().find(|device| device.name == name) else {
        return Ok(());
    };
    let path = format!("/sys/block/{}/uevent", device.kernel_name());
    match fs::write(&path, "change") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot write {path}"))
        }
        _ => Ok(()),
    }
}
