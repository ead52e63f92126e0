// SPDX-License-Identifier: GPL-2.0
//! Restores damaged records of a member: a superblock from its copy, and the registers of a
//! controller from its records on the other members.
//!
//! A register is *unreadable* if both of its blocks are damaged. No controller can claim the
//! portion unless a majority of the members shows the promises of every controller. A controller
//! writes the same image to every member, so the latest image on a majority holds every promise
//! that ever counted. Without a majority a promise may be lost. Then the operator must make sure
//! that this controller is dead and that all others are stopped.
//!
//! Each register is written block by block, first A and then B, with a flush after each. An
//! interrupted run leaves registers that can be read, or that can be repaired again.

use crate::cli::Repair;
use crate::disk::check::highest;
use crate::disk::device::{refuse_twice, Device};
use crate::disk::member::{heartbeating, superblocks, Mailbox, Member, RegisterView};
use crate::text::named_controllers;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::ballot::{BallotRecord, LIMIT_UNLIMITED};
use dm_lease_proto::proto::codec::block::{Block, SECTOR_SIZE, ZERO_BLOCK};
use dm_lease_proto::proto::codec::charge_list::{Charge, Charges};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::ids::{Ballot, Incarnation, Register, Side, Slot};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, is_protective, register_offset, write_protective, PROTECTIVE_OFFSET,
    SUPERBLOCK_OFFSET,
};
use dm_lease_proto::proto::codec::record::{encode, BlockId, Reading, Record, Reject};
use dm_lease_proto::proto::codec::superblock::{self, Superblock, SuperblockError};
use dm_lease_proto::proto::time::majority;
use std::io::Write;

/// `leasectl repair`
pub fn run(options: &Repair, out: &mut impl Write) -> Result<()> {
    refuse_twice(&options.devices)?;
    let claimed: Vec<Device> = options
        .devices
        .iter()
        .map(|path| Device::claim(path))
        .collect::<Result<_>>()?;
    let mut repaired = 0;
    for device in &claimed {
        repaired += repair_superblocks(device, options.dry_run, out)?;
    }
    if let Some(slot) = options.controller {
        repaired += repair_registers(options, &claimed, slot, out)?;
    }
    match (repaired, options.dry_run) {
        (0, _) => writeln!(out, "there is nothing to repair")?,
        (_, true) => writeln!(out, "dry run: nothing was written")?,
        (_, false) => writeln!(out, "repaired and verified")?,
    }
    Ok(())
}

/// Restores the damaged one of the two superblocks from the other one.
fn repair_superblocks(device: &Device, dry_run: bool, out: &mut impl Write) -> Result<u32> {
    let shown = device.path.display();
    let (whole, offset, which) = match superblocks(device)? {
        (Ok(primary), Ok(copy)) if primary == copy => return Ok(0),
        (Ok(primary), Ok(copy)) => bail!(
            "{shown}: both superblocks are whole and differ (generations {} and {}): nothing tells \
             which one is right",
            primary.generation,
            copy.generation
        ),
        (Err(error), Ok(copy)) => {
            refuse_what_is_no_damage(device, error)?;
            (copy, SUPERBLOCK_OFFSET, "superblock")
        }
        (Ok(primary), Err(error)) => {
            refuse_what_is_no_damage(device, error)?;
            (
                primary,
                offset_of_copy(device, &primary)?,
                "superblock copy",
            )
        }
        (Err(error), Err(_)) => bail!("{shown}: neither superblock can be read: {error}"),
    };
    let from = match which {
        "superblock" => "its copy",
        _ => "the superblock",
    };
    writeln!(
        out,
        "{shown}: the {which} of member {} of portion {} is restored from {from}",
        whole.member, whole.name
    )?;
    if dry_run {
        return Ok(1);
    }
    let mut block = ZERO_BLOCK;
    if !is_protective(&device.read_block(PROTECTIVE_OFFSET)?) {
        write_protective(&mut block);
        device.write_block(PROTECTIVE_OFFSET, &block)?;
    }
    superblock::encode(&whole, &mut block);
    device.write_block(offset, &block)?;
    device.flush()?;
    match superblocks(device)? {
        (Ok(primary), Ok(copy)) if primary == whole && copy == whole => Ok(1),
        _ => bail!("{shown} does not return what was written"),
    }
}

/// A superblock of another version is not damaged, and must not be overwritten by an older one.
fn refuse_what_is_no_damage(device: &Device, error: SuperblockError) -> Result<()> {
    let shown = device.path.display();
    match error {
        SuperblockError::Blank | SuperblockError::Magic | SuperblockError::Checksum => Ok(()),
        other => bail!("{shown}: a superblock is not damaged, but cannot be used: {other}"),
    }
}

fn offset_of_copy(device: &Device, superblock: &Superblock) -> Result<u64> {
    let size = superblock.member_sectors.saturating_mul(SECTOR_SIZE);
    copy_offset(size.min(device.size))
        .with_context(|| format!("{} is too small", device.path.display()))
}

/// The valid records of one register of a controller, and the members on which it is unreadable.
struct Survey<T> {
    /// The valid records, by member.
    valid: Vec<T>,
    /// How many members show the register: it is valid, or blank because it was never written.
    telling: usize,
    /// The members on which it is unreadable, as indices into the members that were read.
    unreadable: Vec<usize>,
}

fn survey<'a, T: Record + 'a>(
    members: &'a [Member],
    slot: Slot,
    view: impl Fn(&'a Mailbox) -> &'a RegisterView<T>,
) -> Result<Survey<T>> {
    let mut found = Survey {
        valid: Vec::new(),
        telling: 0,
        unreadable: Vec::new(),
    };
    for (at, member) in members.iter().enumerate() {
        let mailbox = member.used_mailboxes().find(|mailbox| mailbox.slot == slot);
        match mailbox.map(|mailbox| view(mailbox).reading) {
            Some(Reading::Valid(record)) => {
                found.valid.push(record);
                found.telling += 1;
            }
            Some(Reading::Blank) if !member.superblock.replacement => found.telling += 1,
            Some(Reading::Invalid(Reject::Version)) => bail!(
                "{}: a newer dm-lease wrote the registers of controller {slot}",
                member.device.path.display()
            ),
            Some(Reading::Invalid(_)) => found.unreadable.push(at),
            Some(Reading::Blank) | None => {}
        }
    }
    Ok(found)
}

/// Restores the registers of one controller where they are unreadable.
fn repair_registers(
    options: &Repair,
    claimed: &[Device],
    slot: Slot,
    out: &mut impl Write,
) -> Result<u32> {
    let members: Vec<Member> = options
        .devices
        .iter()
        .map(|path| Member::read(path))
        .collect::<Result<_>>()?;
    let portion = portion_of(&members)?;
    if !slot.is_in(portion.controllers) {
        bail!(
            "portion {} is not formatted for controller {slot}",
            portion.name
        );
    }
    let ballots = survey(&members, slot, |mailbox| &mailbox.ballot)?;
    let beats = survey(&members, slot, |mailbox| &mailbox.heartbeat)?;
    if ballots.unreadable.is_empty() && beats.unreadable.is_empty() {
        return Ok(0);
    }
    let is_lost =
        !ballots.unreadable.is_empty() && ballots.telling < usize::from(majority(portion.members));
    if is_lost && !options.promises_lost {
        bail!(
            "the promises of controller {slot} are known from {} of {} members, which is no \
             majority: name all members that are left; if no other member is left, make sure that \
             controller {slot} stays off until the repair has ended, stop the portion on all other \
             controllers, and add --promises-lost",
            ballots.telling,
            portion.members
        );
    }
    refuse_alive(claimed, &members, slot, is_lost)?;
    let ballot = match latest_ballot(&ballots.valid) {
        None if is_lost => Some(unknown_ballot(&members, slot)?),
        latest => latest,
    };
    let beat = latest_beat(&beats.valid);
    let place = Place {
        claimed,
        members: &members,
        slot,
        dry_run: options.dry_run,
    };
    let ballot_block = |id: &BlockId, ahead: u64| {
        let seq = |record: &BallotRecord| record.seq.saturating_add(ahead);
        block_of(
            ballot.map(|record| BallotRecord {
                seq: seq(&record),
                ..record
            }),
            id,
        )
    };
    let beat_block = |id: &BlockId, ahead: u64| {
        let seq = |record: &HeartbeatRecord| record.seq.saturating_add(ahead);
        block_of(
            beat.map(|record| HeartbeatRecord {
                seq: seq(&record),
                ..record
            }),
            id,
        )
    };
    let ballots = place.restore(&ballots, ballot.is_some(), ballot_block, out)?;
    Ok(ballots + place.restore(&beats, beat.is_some(), beat_block, out)?)
}

/// The block of a record; without a record, the block that formatting writes.
fn block_of<T: Record>(record: Option<T>, id: &BlockId) -> Block {
    let mut block = ZERO_BLOCK;
    if let Some(record) = record {
        encode(&record, id, &mut block);
    }
    block
}

/// The portion to which all given members belong.
fn portion_of(members: &[Member]) -> Result<Superblock> {
    let (first, rest) = members.split_first().context("no device given")?;
    for (at, member) in rest.iter().enumerate() {
        for other in &members[..=at] {
            if let Err(mismatch) = other.superblock.fits(&member.superblock) {
                let (one, two) = (other.device.path.display(), member.device.path.display());
                bail!("{one} and {two}: {mismatch}");
            }
        }
    }
    Ok(first.superblock)
}

/// Refuses while the controller heartbeats. If a promise may be lost, refuses while any controller
/// does.
fn refuse_alive(claimed: &[Device], members: &[Member], slot: Slot, is_lost: bool) -> Result<()> {
    let watched: Vec<(&Device, Superblock)> = claimed
        .iter()
        .zip(members)
        .map(|(device, member)| (device, member.superblock))
        .collect();
    let alive = heartbeating(&watched)?
        .into_iter()
        .fold(0, |all, one| all | one);
    let asked = if is_lost { alive } else { alive & slot.bit() };
    if asked != 0 {
        bail!(
            "{} heartbeating: stop the portion there first",
            named_controllers(asked)
        );
    }
    Ok(())
}

/// The latest image of the ballot register. Values of other copies of the same decision are added:
/// the stricter one of each number, and all charges.
fn latest_ballot(valid: &[BallotRecord]) -> Option<BallotRecord> {
    let age = |record: &&BallotRecord| (record.dec.epoch, record.mbal, record.bal, record.seq);
    let mut latest = *valid.iter().max_by_key(age)?;
    for other in valid.iter().filter(|other| other.dec == latest.dec) {
        latest.limit = latest.limit.max(other.limit);
        latest.failed = latest.failed.max(other.failed);
        latest.charges.merge(&other.charges);
        latest.generations.merge(&other.generations);
    }
    latest.seq = valid.iter().map(|record| record.seq).max()?;
    Some(latest)
}

fn latest_beat(valid: &[HeartbeatRecord]) -> Option<HeartbeatRecord> {
    let age = |record: &&HeartbeatRecord| (record.dec.epoch, record.hb, record.seq);
    let mut latest = *valid.iter().max_by_key(age)?;
    latest.seq = valid.iter().map(|record| record.seq).max()?;
    Some(latest)
}

/// The replacement for a ballot register that is unreadable everywhere: no promise, the highest
/// known decision, and, if this controller owned that epoch, a charge for all operations that it
/// may have had open.
fn unknown_ballot(members: &[Member], slot: Slot) -> Result<BallotRecord> {
    let mut charges = Charges::NONE.with_partial(true);
    let mut generations = Generations::NONE;
    for member in members {
        generations.merge(&member.generations());
    }
    let dec = highest(members);
    if let Some(owner) = dec.value.filter(|owner| owner.slot == slot) {
        charges.add(Charge::new(dec.epoch, owner, u32::MAX));
    }
    let mut random = [0_u8; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    let drawn = rustix::rand::getrandom(&mut random, flags).context("cannot draw a number")?;
    if drawn != random.len() {
        bail!("cannot draw a number: too few random bytes");
    }
    Ok(BallotRecord {
        seq: 0,
        inc: Incarnation(u128::from_le_bytes(random)),
        boot_id: [0; 16],
        dec,
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
        limit: LIMIT_UNLIMITED,
        charges,
        failed: 0,
        mark: 0,
        generations,
    })
}

/// The members to which registers are written.
struct Place<'a> {
    claimed: &'a [Device],
    members: &'a [Member],
    slot: Slot,
    dry_run: bool,
}

impl Place<'_> {
    /// Writes the result of `block` to each member with an unreadable register. `is_known` says
    /// whether that is a record; otherwise nothing was ever written.
    fn restore<T: Record>(
        &self,
        survey: &Survey<T>,
        is_known: bool,
        block: impl Fn(&BlockId, u64) -> Block,
        out: &mut impl Write,
    ) -> Result<u32> {
        let name = match T::REGISTER {
            Register::Ballot => "ballot",
            Register::Heartbeat => "heartbeat",
        };
        let from = match (is_known, survey.valid.is_empty()) {
            (true, false) => "restored from the other members",
            (true, true) => "written without any promise",
            (false, _) => "written as blank",
        };
        let mut restored = 0;
        for &at in &survey.unreadable {
            let device = &self.claimed[at];
            let shown = device.path.display();
            writeln!(
                out,
                "{shown}: the {name} register of controller {} is {from}",
                self.slot
            )?;
            restored += 1;
            if self.dry_run {
                continue;
            }
            let Superblock {
                uuid,
                member,
                generation,
                ..
            } = self.members[at].superblock;
            let id = BlockId {
                uuid,
                member,
                generation,
                slot: self.slot,
            };
            for (side, ahead) in [(Side::A, 1), (Side::B, 2)] {
                let offset = register_offset(self.slot, T::REGISTER, side);
                device.write_block(offset, &block(&id, ahead))?;
                device.flush()?;
            }
            if !is_readable(&Member::read(&device.path)?, self.slot, T::REGISTER) {
                bail!("{shown} does not return what was written");
            }
        }
        Ok(restored)
    }
}

fn is_readable(member: &Member, slot: Slot, register: Register) -> bool {
    let reads = |mailbox: &Mailbox| match register {
        Register::Ballot => !matches!(mailbox.ballot.reading, Reading::Invalid(_)),
        Register::Heartbeat => !matches!(mailbox.heartbeat.reading, Reading::Invalid(_)),
    };
    let mut used = member.used_mailboxes();
    used.any(|mailbox| mailbox.slot == slot && reads(mailbox))
}
