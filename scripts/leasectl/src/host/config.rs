// SPDX-License-Identifier: GPL-2.0
//! Declarations: one file for each portion that this host maps.
//!
//! `scripts/debian/portion.toml` shows all settings of a file.
//!
//! A file with a mistake is not used at all, and the error names the line.

use crate::cli::{name, uuid, Uuid};
use anyhow::{anyhow, Context, Result};
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::codec::superblock::Name;
use dm_lease_proto::proto::words::table::{
    Claim, FailWith, FeatureArgs, OnFull, BATCH, HEARTBEAT_MS, LAPSE_HOLD_MS,
};
use serde::de::{Deserialize, Deserializer, Error};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The directory of the files.
pub const DIRECTORY: &str = "/etc/dm-lease";
/// How long to wait for members by default, in seconds.
const WAIT_S: u32 = 30;

/// The declaration of one portion.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The portion's name in the superblock.
    #[serde(deserialize_with = "portion")]
    pub portion: Name,
    /// The controller number of this host.
    #[serde(deserialize_with = "controller")]
    pub controller: Slot,
    /// The uuid that the portion must have, if it is given.
    #[serde(default, deserialize_with = "portion_uuid")]
    pub uuid: Option<Uuid>,
    /// The devices of the members; if none is given, those that udev recognises.
    #[serde(default, deserialize_with = "devices")]
    pub devices: Option<Vec<PathBuf>>,
    #[serde(default, deserialize_with = "mapped")]
    mapped: Option<Name>,
    /// How long to wait for members that are not there yet, in seconds.
    #[serde(default = "wait_s", deserialize_with = "seconds")]
    pub wait_s: u32,
    /// What happens to layers above the devices when the lease is lost.
    #[serde(default)]
    pub on_loss: OnLoss,
    #[serde(default)]
    features: FeatureWords,
}

/// What happens to file systems, volume groups and arrays above a lost portion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// They are taken down, so that this host may own the portion again.
    #[default]
    TakeDown,
    /// They are kept; another program takes care of them.
    Keep,
}

/// The features of the table lines, spelled as in a table line.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FeatureWords {
    #[serde(deserialize_with = "heartbeat_ms")]
    heartbeat_ms: Option<u32>,
    claim: ClaimWord,
    #[serde(deserialize_with = "batch")]
    batch: Option<u32>,
    on_full: OnFullWord,
    fail_with: FailWithWord,
    #[serde(deserialize_with = "lapse_hold_ms")]
    lapse_hold_ms: u32,
    stateless: bool,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClaimWord {
    #[default]
    Auto,
    Manual,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnFullWord {
    #[default]
    Hold,
    Fail,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum FailWithWord {
    #[default]
    ResvConflict,
    Ioerr,
    Medium,
}

impl Declaration {
    /// Reads one file.
    pub fn read(path: &Path) -> Result<Declaration> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        // The error of the parser contains the line, the column and the text.
        toml::from_str(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    /// The name of the mapped device of a member.
    pub fn device_name(&self, member: u8) -> String {
        match &self.mapped {
            Some(prefix) => format!("{}-{member}", prefix.as_str()),
            None => format!("lease-{}-{member}", self.portion.as_str()),
        }
    }

    /// The optional settings of the table lines.
    pub fn features(&self) -> FeatureArgs {
        let words = &self.features;
        FeatureArgs {
            heartbeat_ms: words.heartbeat_ms,
            claim: match words.claim {
                ClaimWord::Auto => Claim::Auto,
                ClaimWord::Manual => Claim::Manual,
            },
            batch: words.batch,
            on_full: match words.on_full {
                OnFullWord::Hold => OnFull::Hold,
                OnFullWord::Fail => OnFull::Fail,
            },
            fail_with: match words.fail_with {
                FailWithWord::ResvConflict => FailWith::ResvConflict,
                FailWithWord::Ioerr => FailWith::IoErr,
                FailWithWord::Medium => FailWith::Medium,
            },
            lapse_hold_ms: words.lapse_hold_ms,
            stateless: words.stateless,
        }
    }
}

/// All files of the directory, in the order of their names; none if there is no directory.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", directory.display()))
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn wait_s() -> u32 {
    WAIT_S
}

// Checks of values beyond their type. The parser adds the position to the error.

fn portion<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    name(&String::deserialize(from)?).map_err(Error::custom)
}

fn mapped<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
    portion(from).map(Some)
}

fn controller<'de, D: Deserializer<'de>>(from: D) -> Result<Slot, D::Error> {
    let number = i64::deserialize(from)?;
    let slot = u8::try_from(number).ok().and_then(Slot::from_controller);
    slot.ok_or_else(|| Error::custom("a controller is a number from 1 to 64"))
}

fn portion_uuid<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Uuid>, D::Error> {
    uuid(&String::deserialize(from)?)
        .map(Some)
        .map_err(Error::custom)
}

fn devices<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let devices = Vec::<PathBuf>::deserialize(from)?;
    if devices.is_empty() {
        return Err(Error::custom("the list of members is empty"));
    }
    if let Some(path) = devices.iter().find(|path| !path.is_absolute()) {
        let shown = path.display();
        return Err(Error::custom(format!("{shown:?} is not an absolute path")));
    }
    Ok(Some(devices))
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 0..=86_400)
}

fn heartbeat_ms<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within(from, HEARTBEAT_MS).map(Some)
}

fn batch<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within(from, BATCH).map(Some)
}

fn lapse_hold_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, LAPSE_HOLD_MS)
}

fn within<'de, D: Deserializer<'de>>(from: D, range: RangeInclusive<u32>) -> Result<u32, D::Error> {
    let number = i64::deserialize(from)?;
    let fits = u32::try_from(number).ok().filter(|n| range.contains(n));
    fits.ok_or_else(|| {
        let (first, last) = range.into_inner();
        Error::custom(format!("must be a number from {first} to {last}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "portion = \"alpha\"\ncontroller = 2\n";

    fn parse(text: &str) -> Result<Declaration, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// The error for a text, and the line that it names.
    fn wrong(text: &str) -> (usize, String) {
        let error = parse(text).err().unwrap();
        let line = error.split_once("at line ").unwrap().1;
        let line = line.split(',').next().unwrap().parse().unwrap();
        (line, error.lines().last().unwrap().to_owned())
    }

    #[test]
    fn r39_the_least_file_takes_every_default() {
        let declaration = parse(LEAST).unwrap();
        assert_eq!(declaration.portion.as_str(), "alpha");
        assert_eq!(declaration.controller.controller(), 2);
        assert_eq!(declaration.features(), FeatureArgs::DEFAULT);
        assert_eq!(declaration.device_name(1), "lease-alpha-1");
        assert_eq!(declaration.wait_s, 30);
        assert!(declaration.devices.is_none() && declaration.uuid.is_none());
    }

    #[test]
    fn r39_the_example_is_one_and_shows_the_defaults() {
        let text = include_str!("../../../debian/portion.toml");
        assert!(parse(text).unwrap().devices.is_none());
        // The settings that are commented out there are the defaults.
        let declaration = parse(&text.replace("\n# ", "\n")).unwrap();
        assert_eq!(declaration.devices.as_ref().unwrap().len(), 3);
        assert_eq!(declaration.device_name(0), "lease-alpha-0");
        assert_eq!(declaration.wait_s, WAIT_S);
        assert_eq!(declaration.on_loss, OnLoss::default());
        let features = FeatureArgs {
            heartbeat_ms: None,
            batch: None,
            ..declaration.features()
        };
        assert_eq!(features, FeatureArgs::DEFAULT);
    }

    #[test]
    fn r39_every_setting_is_taken() {
        let text = format!(
            "{LEAST}uuid = \"01234567-89ab-cdef-0123-456789abcdef\"\ndevices = [\"/dev/a\"]\n\
             mapped = \"x.y\"\nwait_s = 0\non_loss = \"keep\"\n[features]\n\
             heartbeat_ms = 250\nclaim = \"manual\"\n\
             batch = 3\non_full = \"fail\"\nfail_with = \"medium\"\nlapse_hold_ms = 900\n\
             stateless = true\n"
        );
        let declaration = parse(&text).unwrap();
        let expected = FeatureArgs {
            heartbeat_ms: Some(250),
            claim: Claim::Manual,
            batch: Some(3),
            on_full: OnFull::Fail,
            fail_with: FailWith::Medium,
            lapse_hold_ms: 900,
            stateless: true,
        };
        assert_eq!(declaration.features(), expected);
        assert_eq!(declaration.device_name(0), "x.y-0");
        assert_eq!((declaration.wait_s, declaration.on_loss), (0, OnLoss::Keep));
        assert_eq!(declaration.devices, Some(vec![PathBuf::from("/dev/a")]));
        assert_eq!(declaration.uuid.unwrap().0[..2], [0x01, 0x23]);
    }

    #[test]
    fn r39_whatever_is_wrong_is_told_with_its_line() {
        for (text, line, says) in [
            ("portion = \"alpha\"\n", 1, "missing field `controller`"),
            ("controller = 1\n", 1, "missing field `portion`"),
            (
                "portion = \"a b\"\ncontroller = 1\n",
                1,
                "a name is 1 to 32",
            ),
            ("portion = \"a\"\ncontroller = 0\n", 2, "from 1 to 64"),
            ("portion = \"a\"\ncontroller = 65\n", 2, "from 1 to 64"),
            (
                "portion = \"a\"\ncontroller = \"1\"\n",
                2,
                "invalid type: string",
            ),
            ("portion = \"a\"\nportion = \"b\"\n", 2, "duplicate key"),
        ] {
            let (at, said) = wrong(text);
            assert!(at == line && said.contains(says), "{text}: {at}: {said}");
        }
        for (more, line, says) in [
            ("colour = 1\n", 3, "unknown field `colour`"),
            ("uuid = \"12\"\n", 3, "32 hexadecimal digits"),
            ("devices = []\n", 3, "is empty"),
            (
                "devices = [\"sdb\"]\n",
                3,
                "\"sdb\" is not an absolute path",
            ),
            ("mapped = \"a/b\"\n", 3, "a name is 1 to 32"),
            ("wait_s = -1\n", 3, "from 0 to 86400"),
            ("on_loss = \"umount\"\n", 3, "unknown variant `umount`"),
            ("[features]\nheartbeat_ms = 0\n", 4, "from 1 to 60000"),
            ("[features]\nbatch = 65536\n", 4, "from 1 to 65535"),
            (
                "[features]\nlapse_hold_ms = 600001\n",
                4,
                "from 0 to 600000",
            ),
            (
                "[features]\nclaim = \"never\"\n",
                4,
                "expected `auto` or `manual`",
            ),
            ("[features]\non_full = 1\n", 4, "wanted string"),
            (
                "[features]\nfail_with = \"eio\"\n",
                4,
                "unknown variant `eio`",
            ),
            ("[features]\nstateless = \"yes\"\n", 4, "expected a boolean"),
            ("[feature]\n", 3, "unknown field `feature`"),
        ] {
            let text = format!("{LEAST}{more}");
            let (at, said) = wrong(&text);
            assert!(at == line && said.contains(says), "{text}: {at}: {said}");
        }
    }
}
