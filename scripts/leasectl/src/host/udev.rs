// SPDX-License-Identifier: GPL-2.0
//! What udev is told: which devices are members, and when a mapped device changes its role.
//!
//! The rules (`scripts/debian/*.rules`) ask with `udev member` and `udev mapped` and import the
//! answers as properties. Device-mapper raises no uevent when a target raises an event, so `udev
//! follow` waits for events and has udev look again at every device whose role is another one.
//! Where the lease was lost it also takes down what is above ([`above`]).

use crate::cli::Udev;
use crate::disk::device::Device;
use crate::disk::member::superblocks;
use crate::host::above;
use crate::kernel::events::Events;
use crate::kernel::mapped;
use crate::kernel::status::{dmsetup, parse, Line};
use anyhow::{Context, Result};
use dm_lease_proto::proto::codec::superblock::{DisplayUuid, Superblock};
use dm_lease_proto::proto::words::status::Role;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{spawn, JoinHandle};

/// The directory of the links that the rules make.
pub const LINKS: &str = "/dev/disk/by-id";
/// One file for each portion that is being taken down.
const CLOSING: &str = "/run/dm-lease";
/// What the names of the links begin with.
pub const LINK: &str = "dm-lease-";

/// `leasectl udev`
pub fn run(what: &Udev, out: &mut impl Write) -> Result<ExitCode> {
    match what {
        Udev::Member { device } => return member(device, out),
        Udev::Mapped { name } => state(name, out)?,
        Udev::Follow => follow()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of the link to a member of a generation. A replacement has a link of its own, so that
/// no link can lead to the disk that it replaced [R56].
pub fn link(uuid: &[u8; 16], member: u8, generation: u32) -> String {
    let portion = DisplayUuid(uuid);
    match generation {
        1 => format!("{LINK}{portion}-{member}"),
        _ => format!("{LINK}{portion}-{member}-{generation}"),
    }
}

/// A damaged superblock does not turn a member into a free disk: the copy is as good here. The
/// module does not read the copy, so the damage is told as well.
fn member(path: &Path, out: &mut impl Write) -> Result<ExitCode> {
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

/// While there is one, udev takes the devices of a portion for those of a secondary: the event of
/// the last close of an array that was stopped would have it assembled again.
pub struct Closing(PathBuf);

impl Closing {
    /// From now on.
    pub fn begin(portion: &str) -> Result<Closing> {
        let path = Path::new(CLOSING).join(portion);
        fs::create_dir_all(CLOSING).with_context(|| format!("cannot make {CLOSING}"))?;
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Closing(path))
    }

    /// Ends one whose process was killed.
    pub fn forget(portion: &str) {
        let _ = fs::remove_file(Path::new(CLOSING).join(portion));
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Nothing is printed for a device that has no table yet.
fn state(name: &str, out: &mut impl Write) -> Result<()> {
    let text = mapped::dmsetup(&["status", "--target", "lease", name])?;
    // With a name in the question there is none in the answer.
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

fn follow() -> Result<()> {
    let events = Events::open()?;
    let mut roles = BTreeMap::new();
    // One that was being taken down when its process ended is taken up again.
    let mut closing: Vec<_> = unfinished().into_iter().map(close_beside).collect();
    let mut owned = BTreeMap::new();
    loop {
        events.arm()?;
        let text = dmsetup()?;
        let lines = parse(&text)?;
        let now: BTreeMap<String, Role> = lines
            .iter()
            .map(|line| (line.device.to_owned(), line.status.role))
            .collect();
        for portion in lost(&mut owned, &lines) {
            closing.push(close_beside(portion));
        }
        for name in changed(&roles, &now) {
            trigger(name)?;
        }
        roles = now;
        closing.retain(|thread| !thread.is_finished());
        events.wait(None)?;
    }
}

/// The portions with a file of [`Closing`].
fn unfinished() -> Vec<String> {
    let files = fs::read_dir(CLOSING).into_iter().flatten().flatten();
    files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Unmounting may take its time, and other portions do not wait for it.
fn close_beside(portion: String) -> JoinHandle<()> {
    spawn(move || above::lost(&portion))
}

/// The portions that were owned and are not any more, or that are owned in another epoch: between
/// two looks both may happen. `owned` has the epoch of each portion that is owned.
fn lost(owned: &mut BTreeMap<String, u64>, lines: &[Line<'_>]) -> Vec<String> {
    let mut now = BTreeMap::new();
    for line in lines {
        let status = &line.status;
        if let Some(epoch) = status.epoch.filter(|_| status.role.owns()) {
            now.insert(status.portion.to_owned(), epoch);
        }
    }
    let is_mapped = |portion: &str| lines.iter().any(|line| line.status.portion == portion);
    let lost = owned
        .iter()
        .filter(|(portion, epoch)| is_mapped(portion) && now.get(*portion) != Some(epoch))
        .map(|(portion, _)| portion.clone())
        .collect();
    *owned = now;
    lost
}

/// The devices whose role is another one than before, or that were not there.
fn changed<'a>(
    before: &BTreeMap<String, Role>,
    now: &'a BTreeMap<String, Role>,
) -> impl Iterator<Item = &'a str> {
    let differ: Vec<&str> = now
        .iter()
        .filter(|(name, role)| before.get(*name) != Some(role))
        .map(|(name, _)| name.as_str())
        .collect();
    differ.into_iter()
}

/// Has udev look at a mapped device again; one that is gone meanwhile needs no look.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_a_new_role_and_a_new_device_are_told() {
        let roles = |pairs: &[(&str, Role)]| -> BTreeMap<String, Role> {
            let owned = pairs.iter().map(|&(name, role)| (name.to_owned(), role));
            owned.collect()
        };
        let before = roles(&[("a", Role::Owner), ("b", Role::Owner), ("c", Role::Joining)]);
        let now = roles(&[
            ("a", Role::Owner),
            ("b", Role::Secondary),
            ("d", Role::Joining),
        ]);
        assert_eq!(changed(&before, &now).collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(changed(&now, &now).count(), 0);
    }

    #[test]
    fn r47_a_lost_portion_is_one_that_was_owned_in_that_epoch() {
        let mut owned = BTreeMap::new();
        let mut look = |status: &str| {
            let text = format!("a: 0 8 lease v 0/1 {status} 1 400 9 1/2 3 4 5 1 -\n");
            lost(&mut owned, &parse(&text).unwrap())
        };
        assert_eq!(look("secondary 6"), [""; 0]);
        assert_eq!(look("owner 7"), [""; 0]);
        // It still has its lease, and may keep it.
        assert_eq!(look("releasing 7"), [""; 0]);
        assert_eq!(look("owner 7"), [""; 0]);
        assert_eq!(look("secondary 7"), ["v"]);
        assert_eq!(look("claiming 7"), [""; 0]);
        assert_eq!(look("owner 8"), [""; 0]);
        // Lost and won between two looks.
        assert_eq!(look("owner 10"), ["v"]);
        assert_eq!(lost(&mut owned, &[]), [""; 0]);
    }
}
