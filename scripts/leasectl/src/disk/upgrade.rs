// SPDX-License-Identifier: GPL-2.0
//! Converts a portion of on-disk format 1 to the present format, while no controller runs.
//!
//! ```text
//! read every member -> nobody writes a mailbox -> superblocks say "being upgraded" -> flush
//!      -> each register: the other block, flush, the newest block, flush -> superblocks -> flush
//! ```
//!
//! An interrupted run is repeated from the beginning, with the same members. Until then no
//! controller opens a member: an earlier module refuses the feature "being upgraded" as unknown,
//! and the present one refuses it by name. A register always has a valid block: the newest block is
//! overwritten only when the other one holds the same record, converted, with a higher number.

use crate::cli::Upgrade;
use crate::disk::device::{refuse_twice, Device};
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{SECTOR_SIZE, ZERO_BLOCK};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::ids::{Side, Slot};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, register_offset, MAILBOX_OFFSET, SPARE_OFFSET, SUPERBLOCK_OFFSET,
};
use dm_lease_proto::proto::codec::record::{decode_any, encode, newest, BlockId, Reading, Record};
use dm_lease_proto::proto::codec::superblock::{
    self, Superblock, INCOMPAT_RECORDS_2, INCOMPAT_UPGRADING,
};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A member of format 1, of the present format, or of an interrupted upgrade.
struct Old {
    device: Device,
    superblock: Superblock,
}

impl Old {
    fn claim(path: &Path) -> Result<Self> {
        let device = Device::claim(path)?;
        let primary = superblock::decode_any(&device.read_block(SUPERBLOCK_OFFSET)?);
        let at = copy_offset(device.size);
        let copy = at.map(|at| device.read_block(at)).transpose()?;
        let copy = copy.and_then(|block| superblock::decode_any(&block).ok());
        match (primary, copy) {
            (Ok(superblock), _) | (Err(_), Some(superblock)) => Ok(Self { device, superblock }),
            (Err(error), None) => bail!("{}: {error}", path.display()),
        }
    }

    fn is_new(&self) -> bool {
        self.superblock.incompat == INCOMPAT_RECORDS_2
    }

    /// Its superblock, in either format.
    fn portion(&self) -> Superblock {
        Superblock {
            incompat: INCOMPAT_RECORDS_2,
            ..self.superblock
        }
    }

    /// Writes both superblocks, the one at the start last, because that one counts.
    fn write_superblocks(&mut self, incompat: u32) -> Result<()> {
        self.superblock.incompat = incompat;
        let mut block = ZERO_BLOCK;
        superblock::encode(&self.superblock, &mut block);
        let formatted = self.superblock.member_sectors.saturating_mul(SECTOR_SIZE);
        let copy = copy_offset(formatted).context("the member is too small")?;
        self.device.write_block(copy, &block)?;
        self.device.flush()?;
        self.device.write_block(SUPERBLOCK_OFFSET, &block)?;
        self.device.flush()
    }

    fn mailboxes(&self) -> Result<Vec<u8>> {
        let length = usize::try_from(SPARE_OFFSET - MAILBOX_OFFSET)?;
        self.device.read_blocks(MAILBOX_OFFSET, length)
    }

    /// Converts the newest record of a register, and writes it to both blocks.
    fn convert<T: Record>(&self, slot: Slot, renew: impl Fn(T, u64) -> T) -> Result<()> {
        let id = BlockId {
            uuid: self.superblock.uuid,
            member: self.superblock.member,
            generation: self.superblock.generation,
            slot,
        };
        let place = |side| register_offset(slot, T::REGISTER, side);
        let [a, b] = Side::BOTH.map(|side| {
            let block = self.device.read_block(place(side))?;
            anyhow::Ok(decode_any::<T>(&block, &id))
        });
        let (Reading::Valid(record), Some(side)) = newest(a?, b?) else {
            // A blank or an unreadable register means the same in both formats.
            return Ok(());
        };
        for (more, side) in [(1, side.other()), (2, side)] {
            let seq = record.seq().checked_add(more).context("no number left")?;
            let mut block = ZERO_BLOCK;
            encode(&renew(record, seq), &id, &mut block);
            self.device.write_block(place(side), &block)?;
            self.device.flush()?;
        }
        Ok(())
    }
}

/// `leasectl upgrade`
pub fn run(options: &Upgrade, out: &mut impl Write) -> Result<()> {
    refuse_twice(&options.devices)?;
    let paths = options.devices.iter();
    let mut members = paths
        .map(|path| Old::claim(path))
        .collect::<Result<Vec<_>>>()?;
    let portion = whole_portion(&members)?;
    let name = portion.name;
    if members.iter().all(Old::is_new) {
        writeln!(
            out,
            "portion {name} has the present format: nothing was written"
        )?;
        return Ok(());
    }
    refuse_used(&members, &portion)?;
    // A disk that was replaced before keeps format 1, and is never a member again.
    let mut generations = Generations::NONE;
    for Old { superblock, .. } in &members {
        generations.note(superblock.member, superblock.generation);
        generations.settle(superblock.member);
    }
    for member in members.iter_mut().filter(|member| !member.is_new()) {
        member.write_superblocks(INCOMPAT_UPGRADING)?;
    }
    for member in members.iter().filter(|member| !member.is_new()) {
        for slot in Slot::all_in(!0) {
            member.convert(slot, |record: BallotRecord, seq| BallotRecord {
                seq,
                generations,
                ..record
            })?;
            member.convert(slot, |record: HeartbeatRecord, seq| HeartbeatRecord {
                seq,
                generations,
                ..record
            })?;
        }
    }
    for member in members.iter_mut().filter(|member| !member.is_new()) {
        member.write_superblocks(INCOMPAT_RECORDS_2)?;
    }
    writeln!(out, "portion {name} is upgraded: {} members", members.len())?;
    Ok(())
}

/// All members of the portion must be given: a member that is left out could never be used again.
fn whole_portion(members: &[Old]) -> Result<Superblock> {
    let portion = members.first().context("no devices given")?.portion();
    for (at, member) in members.iter().enumerate() {
        for other in members.iter().take(at) {
            if let Err(mismatch) = other.portion().fits(&member.portion()) {
                let (one, two) = (other.device.path.display(), member.device.path.display());
                bail!("{one} and {two}: {mismatch}");
            }
        }
    }
    if members.len() != usize::from(portion.members) {
        bail!(
            "portion {} has {} members, and {} are named: an upgrade needs all of them; replace a \
             lost one first, with the leasectl that formatted the portion",
            portion.name,
            portion.members,
            members.len()
        );
    }
    Ok(portion)
}

/// Refuses if a controller writes a mailbox. A controller writes a heartbeat at least once in the
/// longest period, and this can be seen only on the disk.
fn refuse_used(members: &[Old], portion: &Superblock) -> Result<()> {
    let look = || {
        members
            .iter()
            .map(Old::mailboxes)
            .collect::<Result<Vec<_>>>()
    };
    let before = look()?;
    thread::sleep(Duration::from_nanos(
        portion.timing.period_max_ns.saturating_mul(2),
    ));
    for (member, (before, after)) in members.iter().zip(before.iter().zip(look()?)) {
        if *before != after {
            bail!(
                "{} is in use: a mailbox on it changes; stop all controllers of portion {} first",
                member.device.path.display(),
                portion.name
            );
        }
    }
    Ok(())
}
