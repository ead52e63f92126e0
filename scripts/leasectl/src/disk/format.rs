// SPDX-License-Identifier: GPL-2.0
//! Formats a portion, or one replacement member of it.
//!
//! ```text
//! plan (options only) -> claim and check every device -> explain
//!      -> wipe heads and tails -> flush -> superblocks -> flush -> read everything back
//! ```
//!
//! Nothing is written before every check of every device has passed. No superblock is written
//! before all zones are wiped and flushed. So an interrupted run leaves unformatted devices, and
//! never a portion with old mailboxes.

use crate::cli::{Force, Format, Uuid};
use crate::disk::device::{refuse_twice, Device};
use crate::disk::member::{heartbeating, superblocks, Member};
use crate::disk::{foreign, plan};
use crate::text::{list, mib, named_controllers};
use anyhow::{anyhow, bail, Context, Result};
use dm_lease_proto::proto::codec::block::{BLOCK_SIZE, SECTOR_SIZE, ZERO_BLOCK};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::ids::{Slot, MAX_MEMBERS};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, data_length_sectors, write_protective, DATA_OFFSET_SECTORS, HEAD_SIZE,
    PROTECTIVE_OFFSET, SUPERBLOCK_OFFSET, TAIL_SIZE,
};
use dm_lease_proto::proto::codec::superblock::{
    self, DisplayUuid, Superblock, SuperblockError, INCOMPAT_RECORDS_2, VERSION_MINOR,
};
use dm_lease_proto::proto::limit::{Counting, Redundancy};
use dm_lease_proto::proto::time::majority;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A device that has passed every check, and the member that it is going to be.
struct Target {
    device: Device,
    superblock: Superblock,
    /// The content that formatting destroys.
    lost: Vec<String>,
}

/// `leasectl format`
pub fn run(options: &Format, out: &mut impl Write) -> Result<()> {
    refuse_twice(&options.devices)?;
    let targets = match options.replace {
        Some(index) => vec![replacement(options, index, out)?],
        None => new_portion(options)?,
    };
    refuse_used(&targets)?;
    explain(&targets, out)?;
    if options.dry_run {
        writeln!(out, "dry run: nothing was written")?;
        return Ok(());
    }
    out.flush()?;
    write(&targets)?;
    verify(&targets)?;
    for target in &targets {
        target.device.reread_partitions();
    }
    writeln!(out, "formatted and verified")?;
    Ok(())
}

fn new_portion(options: &Format) -> Result<Vec<Target>> {
    let timing = plan::timing(&options.timing)?;
    let redundancy = plan::redundancy(&options.redundancy)?;
    let count = options.devices.len();
    let members = match u8::try_from(count) {
        Ok(members) if members <= MAX_MEMBERS => members,
        _ => bail!("a portion has at most {MAX_MEMBERS} members, not {count}"),
    };
    if !options.force.contains(&Force::Redundancy) {
        plan::compare(redundancy.kind, members)?;
    }
    let name = options.name.context("no name given")?;
    let controllers = options.controllers.context("no controllers given")?.0;
    let lowest = Slot::all_in(controllers)
        .next()
        .context("no controllers given")?;
    let home = options.home.unwrap_or(lowest);
    if !home.is_in(controllers) {
        bail!("the home controller {home} is not among the controllers");
    }
    let uuid = match options.uuid {
        Some(Uuid(uuid)) => uuid,
        None => random_uuid()?,
    };
    let formatted_s = now_s();
    let mut targets = Vec::new();
    for (path, member) in options.devices.iter().zip(0..) {
        let (device, lost) = claim(path, &options.force)?;
        let superblock = Superblock {
            minor: VERSION_MINOR,
            compat: 0,
            ro_compat: 0,
            incompat: INCOMPAT_RECORDS_2,
            uuid,
            name,
            member,
            members,
            replacement: false,
            controllers,
            home,
            timing,
            redundancy,
            data_offset_sectors: DATA_OFFSET_SECTORS,
            data_length_sectors: data_length(&device, &redundancy)?,
            member_sectors: device.size / SECTOR_SIZE,
            generation: 1,
            formatted_s,
        };
        targets.push(Target {
            device,
            superblock,
            lost,
        });
    }
    Ok(targets)
}

/// Opens a device exclusively and refuses content that must not be overwritten. Returns the content
/// that will be lost, because `--force` named its kind.
fn claim(path: &Path, force: &[Force]) -> Result<(Device, Vec<String>)> {
    let device = Device::claim(path)?;
    let shown = path.display();
    let (primary, copy) = superblocks(&device)?;
    let portion = [primary, copy].into_iter().find_map(|found| match found {
        Ok(found) => Some(format!("member {} of portion {}", found.member, found.name)),
        Err(SuperblockError::Blank | SuperblockError::Magic) => None,
        Err(error) => Some(format!("a damaged portion ({error})")),
    });
    if let Some(portion) = &portion {
        if !force.contains(&Force::Member) {
            bail!("{shown} holds {portion} already: --force=member destroys it");
        }
    }
    let signatures = foreign::find(&device)?;
    if !signatures.is_empty() && !force.contains(&Force::Signature) {
        let what = list(&signatures);
        bail!("{shown} holds {what}: --force=signature destroys it");
    }
    let lost = portion.into_iter().chain(signatures).collect();
    Ok((device, lost))
}

/// The size of the data area: a multiple of the physical block, and of the chunk if rows are
/// counted.
fn data_length(device: &Device, redundancy: &Redundancy) -> Result<u64> {
    let mut unit = device.physical_block;
    if let Counting::Stripe { chunk_sectors } = redundancy.counting {
        let chunk = u64::from(chunk_sectors) * SECTOR_SIZE;
        if chunk % unit != 0 {
            bail!(
                "the stripe chunk is not a multiple of the physical block of {}, {unit} bytes",
                device.path.display()
            );
        }
        unit = chunk;
    }
    data_length_sectors(device.size, unit).ok_or_else(|| {
        let needed = HEAD_SIZE + TAIL_SIZE + unit;
        anyhow!(
            "{} is too small: {} bytes, at least {needed} are needed",
            device.path.display(),
            device.size
        )
    })
}

fn random_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0_u8; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    let drawn = rustix::rand::getrandom(&mut uuid, flags).context("cannot draw a uuid")?;
    if drawn != uuid.len() {
        bail!("cannot draw a uuid: too few random bytes");
    }
    // Version 4, variant 1 (RFC 9562): random.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Plans the first device as member `index` of the portion to which the other devices belong.
fn replacement(options: &Format, index: u8, out: &mut impl Write) -> Result<Target> {
    let (path, rest) = options.devices.split_first().context("no device given")?;
    let left = members_left(rest)?;
    let portion = left.first().context("no members")?.superblock;
    if index >= portion.members {
        bail!(
            "portion {} has no member {index}, only 0 to {}",
            portion.name,
            portion.members - 1
        );
    }
    if let Some(present) = left.iter().find(|left| left.superblock.member == index) {
        let present = present.device.path.display();
        bail!("member {index} is not lost: it is {present}");
    }
    let unknown = unknown_promises(&left, &portion);
    if unknown != 0 {
        let text = format!(
            "the promises of {} are not known from a majority without member {index}",
            named_controllers(unknown)
        );
        if !options.force.contains(&Force::Promises) {
            bail!(
                "{text}: name all members that are left, and let these controllers write their \
                 mailboxes on earlier replacements first; --force=promises continues without them"
            );
        }
        writeln!(out, "note: {text}")?;
    }
    refuse_unsettled(&left, &portion, &options.force)?;
    // Heartbeats are written without FUA. If a member lost a record in a power failure after this
    // replacement relied on it, too few members would know the registers of that controller.
    for member in &left {
        member.device.flush()?;
    }
    let (device, lost) = claim(path, &options.force)?;
    let data_length_sectors = data_length(&device, &portion.redundancy)?;
    let lengths = left.iter().map(|left| left.superblock.data_length_sectors);
    let is_smaller = lengths.min() > Some(data_length_sectors);
    if is_smaller && !options.force.contains(&Force::Smaller) {
        bail!(
            "{} is smaller than every member that is left: --force=smaller takes it all the same",
            path.display()
        );
    }
    // Higher than the generation of the lost member [R56].
    let known = |left: &Member| left.superblock.generation.max(left.generations().of(index));
    let generations = left.iter().map(known);
    let superblock = Superblock {
        member: index,
        replacement: true,
        data_length_sectors,
        member_sectors: device.size / SECTOR_SIZE,
        generation: generations.max().unwrap_or(0).saturating_add(1),
        formatted_s: now_s(),
        ..portion
    };
    Ok(Target {
        device,
        superblock,
        lost,
    })
}

/// Reads the members of a portion that are left. They must agree about the portion.
fn members_left(paths: &[PathBuf]) -> Result<Vec<Member>> {
    if paths.is_empty() {
        bail!("name the members that are left behind the replacement: its settings are theirs");
    }
    let mut left: Vec<Member> = Vec::new();
    for path in paths {
        let member = Member::read(path)?;
        for other in &left {
            if let Err(mismatch) = other.superblock.fits(&member.superblock) {
                let other = other.device.path.display();
                bail!("{other} and {}: {mismatch}", path.display());
            }
        }
        left.push(member);
    }
    Ok(left)
}

/// Refuses a second replacement before the first one is settled: it does not count until then
/// [R56]. Otherwise the former disks of both members could form a majority without any record of
/// either replacement.
fn refuse_unsettled(left: &[Member], portion: &Superblock, force: &[Force]) -> Result<()> {
    if portion.members % 2 == 0 || force.contains(&Force::Promises) {
        return Ok(());
    }
    let mut known = Generations::NONE;
    left.iter().for_each(|member| {
        known.merge(&member.generations());
    });
    let is_unsettled = |member: &&Member| {
        let index = member.superblock.member;
        known.of(index) > 1 && !known.is_settled(index)
    };
    match left.iter().find(is_unsettled) {
        None => Ok(()),
        Some(member) => bail!(
            "member {} is a replacement that no controller counts yet: let a controller that \
             reaches all members run for some heartbeats first; --force=promises goes on without",
            member.superblock.member
        ),
    }
}

/// The controllers whose promises are known from fewer than a majority of the members. One more
/// member without these promises would allow a second owner of one epoch to be decided.
fn unknown_promises(left: &[Member], portion: &Superblock) -> u64 {
    let knows = |member: &Member, slot: Slot| {
        let mut used = member.used_mailboxes();
        used.any(|mailbox| mailbox.slot == slot && member.knows_promises_of(mailbox))
    };
    Slot::all_in(portion.controllers)
        .filter(|&slot| {
            let telling = left.iter().filter(|member| knows(member, slot)).count();
            telling < usize::from(majority(portion.members))
        })
        .fold(0, |bitmap, slot| bitmap | slot.bit())
}

/// Refuses members on which a controller still heartbeats. No --force allows that.
fn refuse_used(targets: &[Target]) -> Result<()> {
    let mut watched = Vec::new();
    for target in targets {
        let (primary, copy) = superblocks(&target.device)?;
        if let Ok(old) = primary.or(copy) {
            watched.push((&target.device, old));
        }
    }
    let alive = heartbeating(&watched)?;
    for ((device, old), alive) in watched.iter().zip(alive) {
        if alive != 0 {
            bail!(
                "{} is in use: {} heartbeating on it for portion {}",
                device.path.display(),
                named_controllers(alive),
                old.name
            );
        }
    }
    Ok(())
}

fn explain(targets: &[Target], out: &mut impl Write) -> Result<()> {
    let portion = &targets.first().context("no devices")?.superblock;
    writeln!(
        out,
        "portion {} {}",
        portion.name,
        DisplayUuid(&portion.uuid)
    )?;
    for Target {
        device, superblock, ..
    } in targets
    {
        writeln!(
            out,
            "member {} of {}: {}, data area {} ({} sectors){}",
            superblock.member,
            superblock.members,
            device.path.display(),
            mib(superblock.data_length_sectors),
            superblock.data_length_sectors,
            if superblock.replacement {
                ", replacement"
            } else {
                ""
            },
        )?;
    }
    plan::explain(portion, out)?;
    explain_sizes(targets, out)?;
    for Target { device, lost, .. } in targets {
        if !lost.is_empty() {
            writeln!(
                out,
                "destroys: on {}: {}",
                device.path.display(),
                list(lost)
            )?;
        }
    }
    for Target { device, .. } in targets {
        // By default sd and nvme try a command six times before they fail it.
        let Some(timeout_ms) = device.command_timeout_ms() else {
            continue;
        };
        let longest_ms = timeout_ms.saturating_mul(6);
        if longest_ms > portion.timing.device_delay_ns / 1_000_000 {
            writeln!(
                out,
                "note: {} may hold a command longer than the device delay: \
                 time-out {timeout_ms} ms, 6 attempts",
                device.path.display()
            )?;
        }
    }
    Ok(())
}

/// Prints a note if the members differ in size: a layer above usually uses no more of each member
/// than the smallest one has.
fn explain_sizes(targets: &[Target], out: &mut impl Write) -> Result<()> {
    let lengths = || targets.iter().map(|t| t.superblock.data_length_sectors);
    if let (Some(least), Some(most)) = (lengths().min(), lengths().max()) {
        if least != most {
            let (least, most) = (mib(least), mib(most));
            writeln!(
                out,
                "note: the data areas differ in size: {least} to {most}; an array above uses no \
                 more of each than the smallest has"
            )?;
        }
    }
    Ok(())
}

fn write(targets: &[Target]) -> Result<()> {
    for Target { device, .. } in targets {
        let tail = tail_offset(device)?;
        device.write_zeros(PROTECTIVE_OFFSET, HEAD_SIZE)?;
        device.write_zeros(tail, TAIL_SIZE)?;
        device.flush()?;
    }
    for Target {
        device, superblock, ..
    } in targets
    {
        let mut block = ZERO_BLOCK;
        superblock::encode(superblock, &mut block);
        device.write_block(tail_offset(device)?, &block)?;
        device.write_block(SUPERBLOCK_OFFSET, &block)?;
        write_protective(&mut block);
        device.write_block(PROTECTIVE_OFFSET, &block)?;
        device.flush()?;
    }
    Ok(())
}

/// The start of the tail. The tail ends with the last whole block; an image file may have a few
/// more bytes, which are not used.
fn tail_offset(device: &Device) -> Result<u64> {
    copy_offset(device.size).with_context(|| format!("{} is too small", device.path.display()))
}

/// Reads everything back. This also finds two paths to one disk, because the later member has
/// overwritten the earlier one.
fn verify(targets: &[Target]) -> Result<()> {
    for Target {
        device, superblock, ..
    } in targets
    {
        let shown = device.path.display();
        let member = Member::read(&device.path)?;
        for found in [&member.primary, &member.copy] {
            match found {
                Ok(found) if found == superblock => {}
                Ok(found) if found.uuid == superblock.uuid => bail!(
                    "{shown} reads as member {}, not {}: two of the devices are the same disk; \
                     nothing is formatted properly",
                    found.member,
                    superblock.member
                ),
                Ok(_) | Err(_) => bail!("{shown} does not return what was written"),
            }
        }
        let tail = tail_offset(device)?;
        let mut used = device.used_blocks(PROTECTIVE_OFFSET, HEAD_SIZE)?;
        used.extend(device.used_blocks(tail, TAIL_SIZE)?);
        if !member.is_protected || used != [PROTECTIVE_OFFSET, SUPERBLOCK_OFFSET, tail] {
            bail!("{shown} does not return what was written");
        }
    }
    Ok(())
}

const _: () = assert!(HEAD_SIZE % BLOCK_SIZE as u64 == 0 && TAIL_SIZE % BLOCK_SIZE as u64 == 0);
