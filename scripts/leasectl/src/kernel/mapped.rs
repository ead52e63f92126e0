// SPDX-License-Identifier: GPL-2.0
//! The mapped devices of this host, by `dmsetup` and sysfs.

use crate::program::program;
use anyhow::{bail, Context, Result};
use std::fs;

/// One mapped device, of any target.
pub struct Mapped {
    /// Its number: the kernel calls it `dm-<minor>`.
    pub minor: u32,
    /// How often it is open.
    pub open: u32,
    /// Its uuid in device-mapper, often empty.
    pub uuid: String,
    /// Its name below `/dev/mapper`.
    pub name: String,
}

impl Mapped {
    /// The name that the kernel gives it.
    pub fn kernel_name(&self) -> String {
        format!("dm-{}", self.minor)
    }

    /// The kernel's names of the devices that are stacked on it.
    pub fn holders(&self) -> Vec<String> {
        holders(&self.kernel_name())
    }
}

fn holders(kernel_name: &str) -> Vec<String> {
    let holders = fs::read_dir(format!("/sys/block/{kernel_name}/holders"));
    let names = holders.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The number of a device, `<major>:<minor>`.
pub fn number(kernel_name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/block/{kernel_name}/dev"));
    text.ok().map(|text| text.trim().to_owned())
}

/// The kernel's names of everything that is stacked on a device, over any number of levels.
pub fn stacked_on(kernel_name: &str) -> Vec<String> {
    let mut found = holders(kernel_name);
    let mut at = 0;
    while let Some(name) = found.get(at) {
        for next in holders(name) {
            if !found.contains(&next) {
                found.push(next);
            }
        }
        at += 1;
    }
    found
}

/// All mapped devices.
pub fn all() -> Result<Vec<Mapped>> {
    let text = dmsetup(&[
        "info",
        "-c",
        "--noheadings",
        "--separator",
        "\t",
        "-o",
        "minor,open,uuid,name",
    ])?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Parses a line of `dmsetup info`; `None` for a line without a device, such as "No devices found".
fn parse(line: &str) -> Option<Mapped> {
    let words: Vec<&str> = line.split('\t').collect();
    let [minor, open, uuid, name] = words[..] else {
        return None;
    };
    Some(Mapped {
        minor: minor.parse().ok()?,
        open: open.parse().ok()?,
        uuid: uuid.to_owned(),
        name: name.to_owned(),
    })
}

/// Runs `dmsetup` and returns what it prints.
pub fn dmsetup(words: &[&str]) -> Result<String> {
    let output = program("dmsetup").args(words).output();
    let output = output.context("cannot run dmsetup")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("dmsetup {} failed: {}", words.join(" "), reason.trim());
    }
    String::from_utf8(output.stdout).context("the output of dmsetup is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_dmsetup_info_are_read() {
        let mapped = parse("3\t1\tLEASE-0-0\tlease-a-0").unwrap();
        assert_eq!((mapped.minor, mapped.open), (3, 1));
        assert_eq!(mapped.kernel_name(), "dm-3");
        assert_eq!((&*mapped.uuid, &*mapped.name), ("LEASE-0-0", "lease-a-0"));
        assert!(parse("3\t0\t\tx").is_some_and(|mapped| mapped.uuid.is_empty()));
        assert!(parse("No devices found").is_none());
    }
}
