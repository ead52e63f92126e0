// SPDX-License-Identifier: GPL-2.0
//! Creates the mapped devices of declared portions, and removes them.
//!
//! A member is *here* if its device exists on this host. `activate` waits for the other members as
//! long as the declaration says, and continues with a majority. Members that arrive later are
//! mapped by another run, which does not touch devices that exist already.
//!
//! `deactivate` refuses while a device is open, because the removal of the first device releases
//! the portion. Then it releases the lease and removes the devices.

use crate::cli::{Activate, Deactivate};
use crate::disk::device::Device;
use crate::disk::member::{first_superblock, Member};
use crate::host::above::{describe_use, take_down, Manner};
use crate::host::config::{files, Declaration, DIRECTORY};
use crate::host::udev::{link, trigger, Closing, LINK, LINKS};
use crate::kernel::mapped::{self, Mapped};
use crate::kernel::status;
use crate::kernel::table::line;
use crate::program::program;
use crate::text::list;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::codec::superblock::{DisplayUuid, Name, Superblock};
use dm_lease_proto::proto::time::majority;
use dm_lease_proto::proto::words::status::Role;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How long to wait for udev to finish its work, in seconds.
const SETTLE_S: u32 = 30;

/// A member that is here.
struct Here {
    path: PathBuf,
    superblock: Superblock,
}

/// `leasectl activate`
pub fn activate(options: &Activate, out: &mut impl Write) -> Result<ExitCode> {
    let paths = match options.files.is_empty() {
        true => files(Path::new(DIRECTORY))?,
        false => options.files.clone(),
    };
    if paths.is_empty() {
        bail!("no portion is declared: there is no {DIRECTORY}/*.toml");
    }
    each(&paths, |path| {
        activate_file(path, options.dry_run, out)
            .with_context(|| format!("{} is not activated", path.display()))
    })
}

/// `leasectl deactivate`
pub fn deactivate(options: &Deactivate, out: &mut impl Write) -> Result<ExitCode> {
    let text = status::dmsetup()?;
    let mut portions: BTreeMap<&str, Vec<status::Line<'_>>> = BTreeMap::new();
    for line in status::parse(&text)? {
        let portion = line.status.portion;
        let is_meant = |name: &Name| name.as_str() == portion;
        if options.portions.is_empty() || options.portions.iter().any(is_meant) {
            portions.entry(portion).or_default().push(line);
        }
    }
    for name in &options.portions {
        if portions.contains_key(name.as_str()) {
            continue;
        }
        // A unit may be stopped twice. But a name that is not declared is a mistake.
        if !Path::new(DIRECTORY).join(format!("{name}.toml")).exists() {
            bail!("portion {name} is neither mapped nor declared on this host");
        }
        writeln!(out, "portion {name} is not mapped")?;
    }
    let portions: Vec<_> = portions.into_iter().collect();
    each(&portions, |(portion, lines)| {
        deactivate_portion(portion, lines, options.above, out)
            .with_context(|| format!("portion {portion} is left mapped"))
    })
}

/// Acts on all of them, also after an error, and prints each error.
fn each<T>(things: &[T], mut act: impl FnMut(&T) -> Result<()>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for thing in things {
        if let Err(error) = act(thing) {
            let _ = writeln!(io::stderr(), "leasectl: {error:#}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Prints a warning. Standard error may be closed.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "leasectl: warning: {text}");
}

fn activate_file(path: &Path, dry_run: bool, out: &mut impl Write) -> Result<()> {
    let declaration = Declaration::read(path)?;
    let here = members(&declaration, dry_run)?;
    let first = &here[0].superblock;
    // All lines are made first, so that lines which the module would refuse are found before
    // anything is mapped.
    let mut devices = Vec::new();
    for member in &here {
        let superblock = &member.superblock;
        let table = line(
            &member.path,
            superblock,
            declaration.controller,
            declaration.features(),
        )?;
        let name = declaration.device_name(superblock.member);
        devices.push((name, device_uuid(superblock, declaration.controller), table));
    }
    if dry_run {
        for (name, uuid, table) in devices {
            writeln!(out, "dmsetup create {name} --uuid {uuid} --table '{table}'")?;
        }
        return Ok(());
    }
    Closing::forget(first.name.as_str());
    let mapped = mapped::all()?;
    for (name, uuid, table) in &devices {
        match mapped.iter().find(|device| device.name == *name) {
            Some(device) if device.uuid == *uuid => writeln!(out, "{name} is mapped already")?,
            Some(_) => bail!("{name} is the name of another mapped device"),
            None => {
                let words = ["create", name, "--uuid", uuid, "--table", table];
                mapped::dmsetup(&words)?;
                writeln!(out, "{name} is mapped")?;
            }
        }
    }
    if here.len() < usize::from(first.members) {
        let absent: Vec<String> = absent(first, &here)
            .map(|index| index.to_string())
            .collect();
        warn(&format!(
            "portion {} works without members that are not here: {}",
            first.name,
            list(&absent)
        ));
    }
    Ok(())
}

/// The uuid of a mapped device in device-mapper. The udev rules recognise its prefix.
fn device_uuid(superblock: &Superblock, controller: Slot) -> String {
    let portion = DisplayUuid(&superblock.uuid);
    format!("LEASE-{portion}-{}-{controller}", superblock.member)
}

/// The members of a declared portion that are here. They are a majority and fit each other.
fn members(declaration: &Declaration, dry_run: bool) -> Result<Vec<Here>> {
    let wait_s = if dry_run { 0 } else { declaration.wait_s };
    let here = match &declaration.devices {
        Some(devices) => {
            wait_for(devices, wait_s)?;
            named(declaration, devices)?
        }
        None => recognised_all(declaration, wait_s)?,
    };
    let here = without_former(here);
    let Some((first, rest)) = here.split_first() else {
        bail!("no member of portion {} is here", declaration.portion);
    };
    for (at, member) in rest.iter().enumerate() {
        for other in &here[..=at] {
            let (one, two) = (other.path.display(), member.path.display());
            other
                .superblock
                .fits(&member.superblock)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("{one} and {two}"))?;
        }
    }
    let (count, all) = (here.len(), first.superblock.members);
    if count < usize::from(majority(all)) {
        bail!("{count} of {all} members are here, which is no majority");
    }
    Ok(here)
}

/// Leaves out devices of former members, which were replaced, with a warning [R56].
fn without_former(here: Vec<Here>) -> Vec<Here> {
    let known = generations(&here);
    let is_present = |one: &Here| one.superblock.generation >= known.of(one.superblock.member);
    let (present, former): (Vec<Here>, Vec<Here>) = here.into_iter().partition(is_present);
    for Here { path, superblock } in former {
        warn(&format!(
            "{} is left out: it was member {} of portion {} until that was replaced (generation \
             {}, now {})",
            path.display(),
            superblock.member,
            superblock.name,
            superblock.generation,
            known.of(superblock.member)
        ));
    }
    present
}

/// The highest generation of each member in the records of the devices. A device whose mailboxes
/// cannot be read counts with its own generation.
fn generations(here: &[Here]) -> Generations {
    let mut known = Generations::NONE;
    for Here { path, superblock } in here {
        known.note(superblock.member, superblock.generation);
        if let Ok(member) = Member::read(path) {
            known.merge(&member.generations());
        }
    }
    known
}

fn superblock(path: &Path) -> Result<Superblock> {
    first_superblock(&Device::observe(path)?)
}

fn absent<'a>(portion: &Superblock, here: &'a [Here]) -> impl Iterator<Item = u8> + 'a {
    let is_here = |index: u8| here.iter().any(|one| one.superblock.member == index);
    (0..portion.members).filter(move |&index| !is_here(index))
}

/// The members among the devices that the declaration names.
fn named(declaration: &Declaration, devices: &[PathBuf]) -> Result<Vec<Here>> {
    let mut here = Vec::new();
    for path in devices {
        match superblock(path) {
            Ok(superblock) if is_of(declaration, &superblock) => here.push(Here {
                path: path.clone(),
                superblock,
            }),
            Ok(superblock) => warn(&format!(
                "{} is a member of portion {} {}",
                path.display(),
                superblock.name,
                DisplayUuid(&superblock.uuid)
            )),
            Err(error) => warn(&format!("{error:#}")),
        }
    }
    Ok(here)
}

/// The members that udev recognises, after a wait for the missing ones of the same portion.
fn recognised_all(declaration: &Declaration, wait_s: u32) -> Result<Vec<Here>> {
    settle();
    let here = recognised(declaration)?;
    let Some(first) = here.first().map(|member| &member.superblock) else {
        return Ok(here);
    };
    let known = generations(&here);
    let link_to = |index| link(&first.uuid, index, known.of(index).max(1));
    let absent: Vec<PathBuf> = absent(first, &here)
        .map(|index| Path::new(LINKS).join(link_to(index)))
        .collect();
    wait_for(&absent, wait_s)?;
    recognised(declaration)
}

/// The members that udev recognises now.
fn recognised(declaration: &Declaration) -> Result<Vec<Here>> {
    let mut here: Vec<Here> = Vec::new();
    let Ok(links) = fs::read_dir(LINKS) else {
        return Ok(here);
    };
    for entry in links {
        let entry = entry.context(LINKS)?;
        if !entry.file_name().to_string_lossy().starts_with(LINK) {
            continue;
        }
        let path = entry.path();
        // The device may have been formatted after the link was made.
        let Ok(superblock) = superblock(&path) else {
            continue;
        };
        if is_of(declaration, &superblock) {
            here.push(Here { path, superblock });
        }
    }
    here.sort_by_key(|member| member.superblock.member);
    if let Some((one, two)) = two_portions(&here) {
        bail!(
            "there are two portions {}: say whether uuid {} or {} is meant",
            declaration.portion,
            DisplayUuid(one),
            DisplayUuid(two)
        );
    }
    Ok(here)
}

fn two_portions(here: &[Here]) -> Option<(&[u8; 16], &[u8; 16])> {
    let first = &here.first()?.superblock.uuid;
    let mut uuids = here.iter().map(|member| &member.superblock.uuid);
    uuids
        .find(|uuid| *uuid != first)
        .map(|other| (first, other))
}

fn is_of(declaration: &Declaration, superblock: &Superblock) -> bool {
    let uuid = declaration.uuid.map(|uuid| uuid.0);
    superblock.name.as_str() == declaration.portion.as_str()
        && uuid.is_none_or(|uuid| uuid == superblock.uuid)
}

/// Waits until all paths exist or the time is up. The caller finds out which ones exist.
fn wait_for(paths: &[PathBuf], wait_s: u32) -> Result<()> {
    let absent: Vec<&str> = paths
        .iter()
        .filter(|path| !path.exists())
        .map(|path| path.to_str().context("a path is not text"))
        .collect::<Result<_>>()?;
    if !absent.is_empty() && wait_s > 0 {
        let timeout = format!("--timeout={wait_s}");
        let mut words = vec!["wait", &timeout];
        words.extend(absent);
        udevadm(&words);
    }
    Ok(())
}

/// Runs udevadm. Without udev there is nothing to wait for, so errors are ignored.
fn udevadm(words: &[&str]) {
    let _ = program("udevadm").args(words).status();
}

fn settle() {
    udevadm(&["settle", &format!("--timeout={SETTLE_S}")]);
}

fn deactivate_portion(
    portion: &str,
    lines: &[status::Line<'_>],
    above: bool,
    out: &mut impl Write,
) -> Result<()> {
    let closing = above.then(|| Closing::begin(portion)).transpose()?;
    let result = close(lines, above, out);
    drop(closing);
    if above && result.is_err() {
        // A device that stays mapped may be used again.
        for line in lines {
            trigger(line.device)?;
        }
    }
    result
}

fn close(lines: &[status::Line<'_>], above: bool, out: &mut impl Write) -> Result<()> {
    let look = || -> Result<Vec<Mapped>> {
        let mut all = mapped::all()?;
        all.retain(|device| lines.iter().any(|line| line.device == device.name));
        Ok(all)
    };
    let mut mapped = look()?;
    if above && mapped.iter().any(|device| device.open > 0) {
        take_down(&mapped, Manner::Orderly);
        mapped = look()?;
    }
    if mapped.iter().any(|device| device.open > 0) {
        // udev opens each device for a moment after it was closed by a writer.
        settle();
        mapped = look()?;
    }
    let open: Vec<String> = mapped
        .iter()
        .filter(|device| device.open > 0)
        .map(describe_use)
        .collect();
    if !open.is_empty() {
        bail!("{}", list(&open));
    }
    if let Some(owner) = lines.iter().find(|line| line.status.role == Role::Owner) {
        if let Err(error) = mapped::dmsetup(&["message", owner.device, "0", "release"]) {
            warn(&format!("the lease is not released: {error:#}"));
        }
    }
    for device in &mapped {
        mapped::dmsetup(&["remove", "--retry", &device.name])?;
        writeln!(out, "{} is removed", device.name)?;
    }
    Ok(())
}
