// SPDX-License-Identifier: GPL-2.0
//! The superblock: the settings that are formatted once and are the same for every controller.
//!
//! Each member has one at the start and a copy at the end (`layout`). It names the portion, the
//! member's index, the number of members and the controllers that may own the portion, and it holds
//! all timings and the redundancy. So no host is configured with them [R25], [R39].
//!
//! The on-disk version is its own: code refuses another *major* version; a *minor* version may add
//! fields behind the known ones. Features have three flag words: unknown `compat` bits have no
//! effect, with unknown `ro_compat` bits the portion can be read but not owned, and unknown
//! `incompat` bits refuse the member.
//!
//! ```text
//!   0 magic 8 | major u16 | minor u16 | compat u32
//!  16 CRC32C u32 over all 4096 | ro_compat u32 | incompat u32 | zero 4
//!  32 portion uuid 16 | name 32, zero padded
//!  80 member u8 | members u8 | replacement u8 | home u8 | zero 4 | controllers u64
//!  96 lease, window, device delay, period, error report, write, read, jitter: 8 x u64 ns
//! 160 drift ppm u32 | lost heartbeats u32
//! 168 kind u8 | parity or copies u8 | detect u8 | exhausted u8 | counting u8 | zero 3
//! 176 batch u32 | chunk sectors u32 | drain u64 ns, 0 = never
//! 192 data offset u64 | data length u64 | member length u64, in sectors
//! 216 generation u32 | zero 4 | formatted u64, seconds since 1970
//! 232 zero
//! ```
//!
//! All numbers are little-endian. [`decode`] accepts what [`encode`] writes and nothing else of
//! this version. Every open checks every range and both inequalities of `time` [R10]. Callers: the
//! constructor of the target, `leasectl`. Pure functions, no locking.

use super::block::{is_blank, is_sealed, seal, Block, BLOCK_SECTORS, SECTOR_SIZE};
use super::bytes::{FieldReader, FieldWriter};
use super::ids::{Slot, MAX_MEMBERS};
use super::layout::{DATA_OFFSET_SECTORS, TAIL_SIZE};
use crate::proto::limit::{Counting, Exhausted, Redundancy, RedundancyError, RedundancyKind};
use crate::proto::time::{Timing, TimingError};
use core::fmt;

/// The magic of a superblock.
pub const SUPERBLOCK_MAGIC: &[u8; 8] = b"dmLsSUPR";

/// The on-disk major version this code reads and writes.
pub const VERSION_MAJOR: u16 = 1;

/// The on-disk minor version this code writes.
pub const VERSION_MINOR: u16 = 0;

/// The longest portion name, in bytes.
pub const NAME_SIZE: usize = 32;

/// `ro_compat` features this code knows.
const KNOWN_RO_COMPAT: u32 = 0;

/// The records in the mailboxes are of version 2: with member generations, marks and an extension
/// area. A member without this feature is of format 1.
pub const INCOMPAT_RECORDS_2: u32 = 1 << 0;

/// An upgrade from format 1 has begun: the records may be of either version, and the member can not
/// be opened before `leasectl upgrade` has finished.
pub const INCOMPAT_UPGRADING: u32 = 1 << 1;

/// The `incompat` features that this code knows. It needs all of them.
pub const KNOWN_INCOMPAT: u32 = INCOMPAT_RECORDS_2;

/// The offset of the checksum in the block.
const CHECKSUM_AT: usize = 16;

/// The name of a portion.
///
/// # Invariants
///
/// 1 to 32 bytes of `A-Z a-z 0-9 _ . -`, the first one a letter or digit, then zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; NAME_SIZE]);

impl Name {
    /// The name, if it is valid: a single token in tables and status lines.
    pub fn new(name: &str) -> Option<Name> {
        let mut bytes = [0; NAME_SIZE];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        // A zero inside the name would end it early.
        Name::from_padded(bytes).filter(|padded| padded.as_str().len() == name.len())
    }

    fn from_padded(bytes: [u8; NAME_SIZE]) -> Option<Name> {
        let (name, padding) = bytes.split_at_checked(length(&bytes))?;
        let starts_well = name.first().is_some_and(u8::is_ascii_alphanumeric);
        let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let zero = padding.iter().all(|&byte| byte == 0);
        // INVARIANT: just checked.
        (starts_well && name.iter().all(allowed) && zero).then_some(Name(bytes))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let name = self.0.get(..length(&self.0)).unwrap_or(&[]);
        // The invariant makes it ASCII, so the fallback is never taken.
        core::str::from_utf8(name).unwrap_or("")
    }
}

/// Bytes before the first zero.
fn length(bytes: &[u8; NAME_SIZE]) -> usize {
    bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(NAME_SIZE)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Prints a uuid in the usual form, 8-4-4-4-12.
pub struct DisplayUuid<'a>(pub &'a [u8; 16]);

impl fmt::Display for DisplayUuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The superblock of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Superblock {
    /// On-disk minor version; [`VERSION_MINOR`] when written by this code.
    pub minor: u16,
    /// Features that code may not know.
    pub compat: u32,
    /// Features without which code may read the portion but not own it.
    pub ro_compat: u32,
    /// Features without which code must not open the portion.
    pub incompat: u32,
    /// The portion.
    pub uuid: [u8; 16],
    /// The portion's name.
    pub name: Name,
    /// Index of this member, from 0.
    pub member: u8,
    /// How many members the portion has, 1..=16.
    pub members: u8,
    /// Formatted in place of a lost member: a blank mailbox on it is no information until its
    /// controller has written it.
    pub replacement: bool,
    /// The controllers that may own the portion, one bit per slot; only their mailboxes are read.
    pub controllers: u64,
    /// The controller that may claim at once if the portion was never owned.
    pub home: Slot,
    /// The timings.
    pub timing: Timing,
    /// The redundancy.
    pub redundancy: Redundancy,
    /// The start of the data area.
    pub data_offset_sectors: u64,
    /// The length of the data area, and so of the mapped device.
    pub data_length_sectors: u64,
    /// The length of the member when it was formatted.
    pub member_sectors: u64,
    /// How many times this index was formatted: 1 for an original member.
    pub generation: u32,
    /// The time of formatting, in seconds since 1970, for people.
    pub formatted_s: u64,
}

/// Why a superblock is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SuperblockError {
    /// The block is all zeros.
    Blank,
    /// The magic is wrong.
    Magic,
    /// The checksum is wrong.
    Checksum,
    /// The major version is another one.
    Version(u16),
    /// Unknown `incompat` features.
    Incompat(u32),
    /// Format 1: the records in its mailboxes are of version 1.
    Outdated,
    /// An upgrade from format 1 was begun and not ended.
    Upgrading,
    /// The uuid is zero.
    Uuid,
    /// The name is not valid.
    Name,
    /// The number of members is not in 1..=16.
    MemberCount,
    /// The member's index is not below the number of members.
    MemberIndex,
    /// No controller may own the portion.
    NoControllers,
    /// The home controller is not among the controllers.
    Home,
    /// The named field has an unknown value.
    Field(&'static str),
    /// The timings break the rule for the window or for the lease.
    Timing(TimingError),
    /// The redundancy does not fit together.
    Redundancy(RedundancyError),
    /// The data area overlaps head or tail, or is not of whole blocks.
    DataArea,
    /// A byte that must be zero is not.
    Reserved,
}

impl From<TimingError> for SuperblockError {
    fn from(error: TimingError) -> Self {
        Self::Timing(error)
    }
}

impl From<RedundancyError> for SuperblockError {
    fn from(error: RedundancyError) -> Self {
        Self::Redundancy(error)
    }
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blank => "no superblock: the block is blank",
            Self::Magic => "no superblock: wrong magic",
            Self::Checksum => "superblock checksum mismatch",
            Self::Version(major) => return write!(f, "unknown on-disk version {major}"),
            Self::Incompat(bits) => {
                return write!(
                    f,
                    "unknown incompatible features {bits:#x}: a newer dm-lease is needed"
                );
            }
            Self::Outdated => {
                "on-disk format 1: stop all controllers and run `leasectl upgrade` on all members"
            }
            Self::Upgrading => "an upgrade was cut short: run `leasectl upgrade` again",
            Self::Uuid => "the portion uuid is zero",
            Self::Name => "the portion name is not 1 to 32 letters, digits, '_', '.' or '-'",
            Self::MemberCount => "the number of members is not 1 to 16",
            Self::MemberIndex => "the member index is not below the number of members",
            Self::NoControllers => "no controller is formatted",
            Self::Home => "the home controller is not among the formatted controllers",
            Self::Field(name) => return write!(f, "impossible value of {name}"),
            Self::Timing(error) => return fmt::Display::fmt(error, f),
            Self::Redundancy(error) => return fmt::Display::fmt(error, f),
            Self::DataArea => "the data area does not lie between head and tail in whole blocks",
            Self::Reserved => "reserved bytes of the superblock are not zero",
        })
    }
}

/// How two members differ that should belong to one portion [R39].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// They belong to two portions.
    Portion,
    /// They describe the portion differently; the word names the first difference.
    Description(&'static str),
    /// They have the same index.
    SameIndex,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portion => f.write_str("members of different portions"),
            Self::Description(what) => write!(f, "members disagree about the portion's {what}"),
            Self::SameIndex => f.write_str("two members with the same index"),
        }
    }
}

impl Superblock {
    /// Checks all rules that do not depend on the encoding.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold.
    pub fn validate(&self) -> Result<(), SuperblockError> {
        ensure(self.uuid != [0; 16], SuperblockError::Uuid)?;
        ensure(
            (1..=MAX_MEMBERS).contains(&self.members),
            SuperblockError::MemberCount,
        )?;
        ensure(self.member < self.members, SuperblockError::MemberIndex)?;
        ensure(self.controllers != 0, SuperblockError::NoControllers)?;
        ensure(self.home.is_in(self.controllers), SuperblockError::Home)?;
        self.timing.check()?;
        self.redundancy.validate()?;
        ensure(self.data_area_fits(), SuperblockError::DataArea)?;
        // A generation has one bit less in a record.
        let generation = 1..=u32::MAX >> 1;
        ensure(
            generation.contains(&self.generation),
            SuperblockError::Field("generation"),
        )
    }

    fn data_area_fits(&self) -> bool {
        let tail_sectors = TAIL_SIZE / SECTOR_SIZE;
        let end = self
            .data_offset_sectors
            .checked_add(self.data_length_sectors)
            .and_then(|end| end.checked_add(tail_sectors));
        self.data_offset_sectors >= DATA_OFFSET_SECTORS
            && self.data_offset_sectors % BLOCK_SECTORS == 0
            && self.data_length_sectors != 0
            && self.data_length_sectors % BLOCK_SECTORS == 0
            && end.is_some_and(|end| end <= self.member_sectors)
    }

    /// Whether this code may own the portion. It may not if there are unknown `ro_compat` features.
    pub const fn may_own(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT == 0
    }

    /// Checks that another member belongs to the same portion [R39].
    ///
    /// # Errors
    ///
    /// The first difference that is not allowed.
    pub fn fits(&self, other: &Superblock) -> Result<(), Mismatch> {
        let same = |same, what| if same { Ok(()) } else { Err(what) };
        same(self.uuid == other.uuid, Mismatch::Portion)?;
        same(self.name == other.name, Mismatch::Description("name"))?;
        same(
            self.members == other.members,
            Mismatch::Description("number of members"),
        )?;
        same(
            self.controllers == other.controllers,
            Mismatch::Description("controllers"),
        )?;
        same(
            self.home == other.home,
            Mismatch::Description("home controller"),
        )?;
        same(
            self.timing == other.timing,
            Mismatch::Description("timings"),
        )?;
        same(
            self.redundancy == other.redundancy,
            Mismatch::Description("redundancy"),
        )?;
        let features = |sb: &Superblock| (sb.compat, sb.ro_compat, sb.incompat);
        same(
            features(self) == features(other),
            Mismatch::Description("features"),
        )?;
        same(self.member != other.member, Mismatch::SameIndex)
    }
}

/// Writes the superblock over all of `block`, without validating it.
pub fn encode(superblock: &Superblock, block: &mut Block) {
    let mut out = FieldWriter::new(block);
    out.bytes(SUPERBLOCK_MAGIC);
    out.u16(VERSION_MAJOR);
    out.u16(superblock.minor);
    out.u32(superblock.compat);
    out.skip(4);
    out.u32(superblock.ro_compat);
    out.u32(superblock.incompat);
    out.skip(4);
    out.bytes(&superblock.uuid);
    out.bytes(&superblock.name.0);
    out.u8(superblock.member);
    out.u8(superblock.members);
    out.u8(u8::from(superblock.replacement));
    out.u8(superblock.home.controller());
    out.skip(4);
    out.u64(superblock.controllers);
    put_timing(&mut out, &superblock.timing);
    put_redundancy(&mut out, &superblock.redundancy);
    out.u64(superblock.data_offset_sectors);
    out.u64(superblock.data_length_sectors);
    out.u64(superblock.member_sectors);
    out.u32(superblock.generation);
    out.skip(4);
    out.u64(superblock.formatted_s);
    seal(block, CHECKSUM_AT);
}

/// Reads and validates a superblock.
///
/// # Errors
///
/// The first error. `Magic`, `Checksum`, `Version` and `Incompat` come first, because without them
/// the other fields have no meaning.
pub fn decode(block: &Block) -> Result<Superblock, SuperblockError> {
    let superblock = decode_any(block)?;
    match superblock.incompat {
        INCOMPAT_RECORDS_2 => Ok(superblock),
        0 => Err(SuperblockError::Outdated),
        _ => Err(SuperblockError::Upgrading),
    }
}

/// As [`decode`], also for members of format 1 and for members whose upgrade from it has begun.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_any(block: &Block) -> Result<Superblock, SuperblockError> {
    ensure(!is_blank(block), SuperblockError::Blank)?;
    let mut from = FieldReader::new(block);
    ensure(from.bytes() == *SUPERBLOCK_MAGIC, SuperblockError::Magic)?;
    ensure(is_sealed(block, CHECKSUM_AT), SuperblockError::Checksum)?;
    let major = from.u16();
    ensure(major == VERSION_MAJOR, SuperblockError::Version(major))?;
    let minor = from.u16();
    let compat = from.u32();
    let _checksum = from.u32();
    let ro_compat = from.u32();
    let incompat = from.u32();
    let unknown = incompat & !(KNOWN_INCOMPAT | INCOMPAT_UPGRADING);
    ensure(unknown == 0, SuperblockError::Incompat(unknown))?;
    ensure(from.is_zero::<4>(), SuperblockError::Reserved)?;
    let uuid = from.bytes();
    let name = Name::from_padded(from.bytes()).ok_or(SuperblockError::Name)?;
    let member = from.u8();
    let members = from.u8();
    let replacement = take_bool(&mut from, "replacement")?;
    let home = Slot::from_controller(from.u8()).ok_or(SuperblockError::Home)?;
    ensure(from.is_zero::<4>(), SuperblockError::Reserved)?;
    let superblock = Superblock {
        minor,
        compat,
        ro_compat,
        incompat,
        uuid,
        name,
        member,
        members,
        replacement,
        controllers: from.u64(),
        home,
        timing: take_timing(&mut from),
        redundancy: take_redundancy(&mut from)?,
        data_offset_sectors: from.u64(),
        data_length_sectors: from.u64(),
        member_sectors: from.u64(),
        generation: from.u32(),
        formatted_s: {
            ensure(from.is_zero::<4>(), SuperblockError::Reserved)?;
            from.u64()
        },
    };
    // A later minor version may have fields here.
    ensure(
        minor > VERSION_MINOR || from.rest_is_zero(),
        SuperblockError::Reserved,
    )?;
    superblock.validate()?;
    Ok(superblock)
}

fn put_timing(out: &mut FieldWriter<'_>, timing: &Timing) {
    out.u64(timing.lease_ns);
    out.u64(timing.window_ns);
    out.u64(timing.device_delay_ns);
    out.u64(timing.period_max_ns);
    out.u64(timing.error_report_ns);
    out.u64(timing.write_ns);
    out.u64(timing.read_ns);
    out.u64(timing.jitter_ns);
    out.u32(timing.drift_ppm);
    out.u32(timing.lost_heartbeats);
}

fn take_timing(from: &mut FieldReader<'_>) -> Timing {
    // Struct fields are evaluated in the order of this expression.
    Timing {
        lease_ns: from.u64(),
        window_ns: from.u64(),
        device_delay_ns: from.u64(),
        period_max_ns: from.u64(),
        error_report_ns: from.u64(),
        write_ns: from.u64(),
        read_ns: from.u64(),
        jitter_ns: from.u64(),
        drift_ppm: from.u32(),
        lost_heartbeats: from.u32(),
    }
}

fn put_redundancy(out: &mut FieldWriter<'_>, redundancy: &Redundancy) {
    let (kind, amount) = match redundancy.kind {
        RedundancyKind::Parity(parity) => (1, parity),
        RedundancyKind::Mirror(copies) => (2, copies),
        RedundancyKind::External => (3, 0),
    };
    let (counting, chunk_sectors) = match redundancy.counting {
        Counting::Ops => (1, 0),
        Counting::Stripe { chunk_sectors } => (2, chunk_sectors),
    };
    out.u8(kind);
    out.u8(amount);
    out.u8(u8::from(redundancy.detect));
    out.u8(match redundancy.exhausted {
        Exhausted::Stop => 1,
        Exhausted::Window => 2,
    });
    out.u8(counting);
    out.skip(3);
    out.u32(redundancy.batch);
    out.u32(chunk_sectors);
    out.u64(redundancy.drain_ns.unwrap_or(0));
}

fn take_redundancy(from: &mut FieldReader<'_>) -> Result<Redundancy, SuperblockError> {
    let kind = match (from.u8(), from.u8()) {
        (1, parity) => RedundancyKind::Parity(parity),
        (2, copies) => RedundancyKind::Mirror(copies),
        (3, 0) => RedundancyKind::External,
        _ => return Err(SuperblockError::Field("redundancy")),
    };
    let detect = take_bool(from, "detect")?;
    let exhausted = match from.u8() {
        1 => Exhausted::Stop,
        2 => Exhausted::Window,
        _ => return Err(SuperblockError::Field("exhausted")),
    };
    let counting = from.u8();
    ensure(from.is_zero::<3>(), SuperblockError::Reserved)?;
    let batch = from.u32();
    let counting = match (counting, from.u32()) {
        (1, 0) => Counting::Ops,
        (2, chunk_sectors) => Counting::Stripe { chunk_sectors },
        _ => return Err(SuperblockError::Field("counting")),
    };
    let drain_ns = Some(from.u64()).filter(|&drain_ns| drain_ns != 0);
    Ok(Redundancy {
        kind,
        detect,
        batch,
        counting,
        exhausted,
        drain_ns,
    })
}

fn take_bool(from: &mut FieldReader<'_>, name: &'static str) -> Result<bool, SuperblockError> {
    match from.u8() {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(SuperblockError::Field(name)),
    }
}

fn ensure(condition: bool, error: SuperblockError) -> Result<(), SuperblockError> {
    if condition {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests;
