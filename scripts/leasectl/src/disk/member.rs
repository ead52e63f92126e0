// SPDX-License-Identifier: GPL-2.0
//! Reads the records of a member: its two superblocks and the mailboxes.
//!
//! A member may be in use while it is read: the owner and every secondary write their mailboxes
//! then. A block that seems torn is therefore read again before it counts as damaged.

use crate::disk::device::Device;
use anyhow::{bail, Result};
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{BLOCK_SECTORS, SECTOR_SIZE};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::ids::{Side, Slot, MAX_CONTROLLERS};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, is_protective, register_offset, PROTECTIVE_OFFSET, SUPERBLOCK_OFFSET,
};
use dm_lease_proto::proto::codec::record::{decode, newest, BlockId, Reading, Record, Reject};
use dm_lease_proto::proto::codec::superblock::{self, Superblock, SuperblockError};
use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often a block that seems torn is read before it counts as damaged.
const ATTEMPTS: usize = 3;

/// One register of a mailbox.
pub struct RegisterView<T> {
    /// The two blocks.
    pub blocks: [Reading<T>; 2],
    /// The record that they hold together.
    pub reading: Reading<T>,
    /// Which block is the newest valid one.
    pub newest: Option<Side>,
}

/// One controller's mailbox.
pub struct Mailbox {
    /// The controller that writes it.
    pub slot: Slot,
    /// The register with its promises.
    pub ballot: RegisterView<BallotRecord>,
    /// The register with its heartbeats.
    pub heartbeat: RegisterView<HeartbeatRecord>,
}

impl Mailbox {
    /// Whether the controller has never written here since the member was formatted.
    pub fn is_blank(&self) -> bool {
        self.ballot.reading.is_blank() && self.heartbeat.reading.is_blank()
    }
}

/// A member as it was read.
pub struct Member {
    /// Where it was read from.
    pub device: Device,
    /// The valid superblock: the one at the start, or the copy if that one is damaged.
    pub superblock: Superblock,
    /// The superblock at the start.
    pub primary: Result<Superblock, SuperblockError>,
    /// The copy at the end.
    pub copy: Result<Superblock, SuperblockError>,
    /// Whether the first block is still the protective one.
    pub is_protected: bool,
    /// The mailboxes of all 64 controllers, formatted or not.
    pub mailboxes: Vec<Mailbox>,
}

impl Member {
    /// Reads a member that may be in use.
    pub fn read(path: &Path) -> Result<Member> {
        let device = Device::observe(path)?;
        let (primary, copy) = superblocks(&device)?;
        let superblock = match (&primary, &copy) {
            (Ok(superblock), _) | (Err(_), Ok(superblock)) => *superblock,
            (Err(error), Err(_)) => bail!("{}: {error}", path.display()),
        };
        let is_protected = is_protective(&device.read_block(PROTECTIVE_OFFSET)?);
        let mailboxes = mailboxes(&device, &superblock)?;
        Ok(Member {
            device,
            superblock,
            primary,
            copy,
            is_protected,
            mailboxes,
        })
    }

    /// The mailboxes of the formatted controllers.
    pub fn used_mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        self.mailboxes
            .iter()
            .filter(|mailbox| mailbox.slot.is_in(self.superblock.controllers))
    }

    /// The highest known generation of each member of the portion: that of this member, and those
    /// that the controllers wrote into its mailboxes [R56].
    pub fn generations(&self) -> Generations {
        let mut known = Generations::NONE;
        known.note(self.superblock.member, self.superblock.generation);
        for mailbox in self.used_mailboxes() {
            let ballot = mailbox.ballot.reading.valid();
            let heartbeat = mailbox.heartbeat.reading.valid();
            let ballot = ballot.map(|record| record.generations);
            let heartbeat = heartbeat.map(|record| record.generations);
            for told in ballot.into_iter().chain(heartbeat) {
                known.merge(&told);
            }
        }
        known
    }

    /// Whether the promises of a controller can be read from this member: both registers are valid,
    /// or blank on a member of the original format. No controller completes a round with only one
    /// valid register.
    pub fn knows_promises_of(&self, mailbox: &Mailbox) -> bool {
        let is_original = !self.superblock.replacement;
        is_known(&mailbox.ballot.reading, is_original)
            && is_known(&mailbox.heartbeat.reading, is_original)
    }
}

fn is_known<T>(reading: &Reading<T>, is_original: bool) -> bool {
    match reading {
        Reading::Valid(_) => true,
        Reading::Blank => is_original,
        Reading::Invalid(_) => false,
    }
}

/// Reads both superblocks of a device: the one at the start, and the copy at the end of the device.
/// The first superblock contains the size that the device had when it was formatted; without it,
/// the present size counts.
pub fn superblocks(
    device: &Device,
) -> Result<(
    Result<Superblock, SuperblockError>,
    Result<Superblock, SuperblockError>,
)> {
    let primary = match device.size >= SUPERBLOCK_OFFSET + SECTOR_SIZE * BLOCK_SECTORS {
        true => superblock::decode(&device.read_block(SUPERBLOCK_OFFSET)?),
        false => Err(SuperblockError::Blank),
    };
    let formatted_size = match &primary {
        Ok(superblock) => superblock.member_sectors.saturating_mul(SECTOR_SIZE),
        Err(_) => device.size,
    };
    let copy = match copy_offset(formatted_size.min(device.size)) {
        Some(offset) => superblock::decode(&device.read_block(offset)?),
        None => Err(SuperblockError::Blank),
    };
    Ok((primary, copy))
}

/// The superblock that the module would read, which is the one at the start.
///
/// # Errors
///
/// The damage, and the remedy if the copy at the end is valid.
pub fn first_superblock(device: &Device) -> Result<Superblock> {
    let shown = device.path.display();
    match superblocks(device)? {
        (Ok(superblock), _) => Ok(superblock),
        (Err(error), Ok(_)) => bail!("{shown}: {error}; {COPY_IS_WHOLE}"),
        (Err(error), Err(_)) => bail!("{shown}: {error}"),
    }
}

/// The remedy for a damaged superblock.
pub const COPY_IS_WHOLE: &str =
    "the copy at the end of the device is whole: leasectl repair restores the superblock from it";

/// Reads the mailboxes of all controllers.
pub fn mailboxes(device: &Device, superblock: &Superblock) -> Result<Vec<Mailbox>> {
    let mut mailboxes = Vec::with_capacity(usize::from(MAX_CONTROLLERS));
    for slot in Slot::all_in(!0) {
        let id = BlockId {
            uuid: superblock.uuid,
            member: superblock.member,
            generation: superblock.generation,
            slot,
        };
        let ballot = register(device, &id)?;
        let heartbeat = register(device, &id)?;
        mailboxes.push(Mailbox {
            slot,
            ballot,
            heartbeat,
        });
    }
    Ok(mailboxes)
}

fn register<T: Record>(device: &Device, id: &BlockId) -> Result<RegisterView<T>> {
    let a = block(device, id, Side::A)?;
    let b = block(device, id, Side::B)?;
    let (reading, newest) = newest(a, b);
    Ok(RegisterView {
        blocks: [a, b],
        reading,
        newest,
    })
}

fn block<T: Record>(device: &Device, id: &BlockId, side: Side) -> Result<Reading<T>> {
    let offset = register_offset(id.slot, T::REGISTER, side);
    let mut reading = decode(&device.read_block(offset)?, id);
    for _ in 1..ATTEMPTS {
        if !matches!(reading, Reading::Invalid(Reject::Checksum)) {
            break;
        }
        reading = decode(&device.read_block(offset)?, id);
    }
    Ok(reading)
}

/// The controllers that heartbeat on each of the members, as bits. This takes two of the longest
/// periods, because the heartbeats of other hosts can be seen only on the disk.
pub fn heartbeating(members: &[(&Device, Superblock)]) -> Result<Vec<u64>> {
    let look = || -> Result<Vec<BTreeSet<(Slot, u64, u128)>>> {
        let boxes = members
            .iter()
            .map(|(device, superblock)| mailboxes(device, superblock));
        boxes.map(|boxes| Ok(beats(&boxes?))).collect()
    };
    let periods = members.iter().map(|(_, old)| old.timing.period_max_ns);
    let wait_ns = periods.max().unwrap_or(0).saturating_mul(2);
    let before = look()?;
    thread::sleep(Duration::from_nanos(wait_ns));
    let after = look()?;
    let alive = |(after, before): (&BTreeSet<_>, &BTreeSet<_>)| {
        let slots = after
            .difference(before)
            .map(|&(slot, ..): &(Slot, u64, u128)| slot);
        slots.fold(0, |bitmap, slot| bitmap | slot.bit())
    };
    Ok(after.iter().zip(&before).map(alive).collect())
}

/// The last heartbeat of each controller.
fn beats(mailboxes: &[Mailbox]) -> BTreeSet<(Slot, u64, u128)> {
    let last = |mailbox: &Mailbox| match mailbox.heartbeat.reading {
        Reading::Valid(record) => Some((mailbox.slot, record.seq, record.inc.0)),
        Reading::Blank | Reading::Invalid(_) => None,
    };
    mailboxes.iter().filter_map(last).collect()
}
