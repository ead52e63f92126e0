// SPDX-License-Identifier: GPL-2.0
//! The common head of the ballot record and the heartbeat record.
//!
//! Each controller has two single-writer *registers* on each member. Each register is two blocks
//! that are written alternately (`register` says how):
//!
//! * The **ballot** register carries promises: the highest decided epoch that the writer knows, its
//!   Disk Paxos state of the next epoch (Gafni & Lamport 2003), the batch limit in force, and the
//!   charges of old owners. It is written with FUA and must never go backwards.
//! * The **heartbeat** register carries signs of life: role, heartbeat counter, open permits. It
//!   carries no promise and may be lost.
//!
//! A block that fails any check is *no information* about its member: it proves neither life nor
//! silence [R26]. So [`decode`] has three results: [`Reading::Blank`] (zeros, as formatting leaves
//! them), [`Reading::Invalid`] and [`Reading::Valid`]. [`newest`] joins the two blocks of a
//! register: of two valid blocks the one with the higher sequence number is the newest.
//!
//! ```text
//!  0  magic     8 bytes, one per register        24  portion uuid  16 bytes
//!  8  version   u16                              40  sequence      u64
//! 10  register  u8                               48  incarnation   u128
//! 11  member    u8                               64  fields of the register
//! 12  slot      u8, then 3 zero                  ..  mark, generations, zero up to 3072
//! 16  CRC32C    u32 over all 4096              3072  extension area up to 4096
//! 20  generation u32 of the member
//! ```
//!
//! All numbers are little-endian. Controllers are stored by number (1..=64), and 0 is "none".
//! Outside of the extension area every record has exactly one encoding, and all others are refused.
//! The extension area is for later versions of this code: it is written as zeros, the checksum
//! covers it, and its content is ignored.
//!
//! The superblock's feature [`super::superblock::INCOMPAT_RECORDS_2`] says that the records of a
//! member are of this version. Version 1 had neither generations nor marks.
//!
//! Callers: `register`, `round` and `controller` in the module, `leasectl check` and `show`. Pure
//! functions, no locking.

use super::block::{is_blank, is_sealed, seal, Block, BLOCK_SIZE};
use super::bytes::{FieldReader, FieldWriter};
use super::generations::Generations;
use super::ids::{Decided, Incarnation, Register, Side, Slot, Value};
use core::fmt;

/// The version of both records. A block of another version is no information.
pub const RECORD_VERSION: u16 = 2;

/// The offset of the extension area of a record block, which reaches to the end of the block.
pub const EXTENSION_AT: usize = BLOCK_SIZE - 1024;

/// The offset of the checksum in a record block.
const CHECKSUM_AT: usize = 16;

/// The identity of a block: it must state all of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// The portion.
    pub uuid: [u8; 16],
    /// Index of the member.
    pub member: u8,
    /// The generation of the member, as stated in its superblock [R56].
    pub generation: u32,
    /// The controller to which the mailbox belongs.
    pub slot: Slot,
}

/// The result of reading one block, or one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading<T> {
    /// Zeros: the block was never written since the member was formatted.
    Blank,
    /// No information.
    Invalid(Reject),
    /// A record.
    Valid(T),
}

impl<T> Reading<T> {
    /// The record, if there is a valid one.
    pub fn valid(self) -> Option<T> {
        match self {
            Reading::Valid(record) => Some(record),
            Reading::Blank | Reading::Invalid(_) => None,
        }
    }

    /// Whether the block was never written since the member was formatted.
    pub const fn is_blank(&self) -> bool {
        matches!(self, Reading::Blank)
    }
}

/// Why a block is no information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// The magic is not that of the register.
    Magic,
    /// The checksum is wrong: the block is torn or damaged.
    Checksum,
    /// The version is unknown to this code.
    Version,
    /// The block states that it is of the other register.
    Register,
    /// The block states that it is of another portion.
    Portion,
    /// The block states that it is of another member.
    Member,
    /// The block was written for another generation of the member: for a disk that was replaced, or
    /// before this one was formatted [R56].
    Generation,
    /// The block states that it is of another controller.
    Slot,
    /// A field has a value that no writer writes.
    Field,
    /// A byte that must be zero is not.
    Reserved,
    /// The two blocks of a register have the same sequence number and different content.
    Clash,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a mailbox block of this register",
            Self::Checksum => "checksum mismatch",
            Self::Version => "unknown record version",
            Self::Register => "block of the other register",
            Self::Portion => "block of another portion",
            Self::Member => "block of another member",
            Self::Generation => "block of another generation of the member",
            Self::Slot => "block of another controller",
            Self::Field => "impossible field",
            Self::Reserved => "reserved bytes are not zero",
            Self::Clash => "two different blocks with one sequence number",
        })
    }
}

/// The common part of both records.
pub trait Record: Copy + Eq + sealed::Fields {
    /// The register of this record.
    const REGISTER: Register;

    /// The number of writes of its register so far.
    fn seq(&self) -> u64;

    /// The writer's incarnation.
    fn inc(&self) -> Incarnation;

    /// Tells two writes with the same sequence number apart.
    fn mark(&self) -> u64;

    /// The member generations that the writer knows.
    fn generations(&self) -> &Generations;
}

impl Register {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Register::Ballot => b"dmLsBALT",
            Register::Heartbeat => b"dmLsBEAT",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Register::Ballot => 1,
            Register::Heartbeat => 2,
        }
    }
}

/// Writes `record` over all of `block`.
pub fn encode<T: Record>(record: &T, id: &BlockId, block: &mut Block) {
    let mut out = FieldWriter::new(block);
    out.bytes(T::REGISTER.magic());
    out.u16(RECORD_VERSION);
    out.u8(T::REGISTER.code());
    out.u8(id.member);
    out.u8(id.slot.controller());
    out.skip(3);
    out.skip(4);
    out.u32(id.generation);
    out.bytes(&id.uuid);
    out.u64(record.seq());
    out.u128(record.inc().0);
    record.put(&mut out);
    out.u64(record.mark());
    for generation in record.generations().iter() {
        out.u32(generation);
    }
    seal(block, CHECKSUM_AT);
}

/// Reads a block of register `T` from the place that `id` names.
pub fn decode<T: Record>(block: &Block, id: &BlockId) -> Reading<T> {
    if is_blank(block) {
        return Reading::Blank;
    }
    match decode_written(block, id) {
        Ok(record) => Reading::Valid(record),
        Err(reject) => Reading::Invalid(reject),
    }
}

/// As [`decode`], for a block that may also be of version 1, as `leasectl upgrade` finds it. Such a
/// record has neither generations nor a mark.
pub fn decode_any<T: Record>(block: &Block, id: &BlockId) -> Reading<T> {
    let of_version_1 = BlockId {
        generation: 0,
        ..*id
    };
    match decode_version(block, &of_version_1, 1) {
        Ok(record) => Reading::Valid(record),
        Err(_) => decode(block, id),
    }
}

fn decode_written<T: Record>(block: &Block, id: &BlockId) -> Result<T, Reject> {
    decode_version(block, id, RECORD_VERSION)
}

fn decode_version<T: Record>(block: &Block, id: &BlockId, version: u16) -> Result<T, Reject> {
    let mut from = FieldReader::new(block);
    ensure(from.bytes() == *T::REGISTER.magic(), Reject::Magic)?;
    // The checksum comes before all other fields, because they mean nothing in a damaged block.
    ensure(is_sealed(block, CHECKSUM_AT), Reject::Checksum)?;
    ensure(from.u16() == version, Reject::Version)?;
    ensure(from.u8() == T::REGISTER.code(), Reject::Register)?;
    let member = from.u8();
    let slot = from.u8();
    ensure(from.is_zero::<3>(), Reject::Reserved)?;
    let _checksum = from.u32();
    let generation = from.u32();
    ensure(from.bytes() == id.uuid, Reject::Portion)?;
    ensure(member == id.member, Reject::Member)?;
    ensure(slot == id.slot.controller(), Reject::Slot)?;
    ensure(generation == id.generation, Reject::Generation)?;
    let seq = from.u64();
    let inc = Incarnation(from.u128());
    let record = T::take(seq, inc, &mut from)?;
    ensure(from.is_zero_before(EXTENSION_AT), Reject::Reserved)?;
    Ok(record)
}

/// Joins the two blocks of a register: its content, and which block is the newest valid one.
///
/// A torn write leaves one invalid block. Beside a valid block, the valid one counts. Beside a
/// blank one the torn write was the first of all, and it did not succeed. So its content never
/// counted (a promise counts in both blocks, and a heartbeat of an owner follows earlier writes),
/// and the register is blank. If it were no information, its writer could never join again.
pub fn newest<T: Record>(a: Reading<T>, b: Reading<T>) -> (Reading<T>, Option<Side>) {
    match (a, b) {
        (Reading::Valid(x), Reading::Valid(y)) if x.seq() == y.seq() => {
            if x == y {
                (a, Some(Side::A))
            } else {
                (Reading::Invalid(Reject::Clash), None)
            }
        }
        (Reading::Valid(x), Reading::Valid(y)) if x.seq() > y.seq() => (a, Some(Side::A)),
        (_, Reading::Valid(_)) => (b, Some(Side::B)),
        (Reading::Valid(_), _) => (a, Some(Side::A)),
        (Reading::Blank, _) | (_, Reading::Blank) => (Reading::Blank, None),
        (Reading::Invalid(_), Reading::Invalid(_)) => (a, None),
    }
}

/// The block to write next: never the newest valid one (rule 1 of the register).
pub const fn target(newest: Option<Side>) -> Side {
    match newest {
        Some(side) => side.other(),
        None => Side::A,
    }
}

pub(super) fn ensure(condition: bool, reject: Reject) -> Result<(), Reject> {
    if condition {
        Ok(())
    } else {
        Err(reject)
    }
}

/// The fields of each register behind the common head.
pub(super) mod sealed {
    use super::*;

    /// The codec of one register's own fields. Sealed, because there are exactly two registers.
    pub trait Fields: Sized {
        /// Writes the fields.
        fn put(&self, out: &mut FieldWriter<'_>);
        /// Reads the fields. `seq` and `inc` are from the head.
        fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject>;
    }
}

/// Writes a controller number and an incarnation; `None` is 0 and 0.
pub(super) fn put_value(out: &mut FieldWriter<'_>, value: Option<Value>) {
    out.u8(value.map_or(0, |value| value.slot.controller()));
    out.skip(7);
    out.u128(value.map_or(0, |value| value.inc.0));
}

pub(super) fn take_value(from: &mut FieldReader<'_>) -> Result<Option<Value>, Reject> {
    let controller = from.u8();
    ensure(from.is_zero::<7>(), Reject::Reserved)?;
    let inc = Incarnation(from.u128());
    if controller == 0 {
        ensure(inc == Incarnation(0), Reject::Field)?;
        return Ok(None);
    }
    let slot = Slot::from_controller(controller).ok_or(Reject::Field)?;
    Ok(Some(Value { slot, inc }))
}

pub(super) fn put_decided(out: &mut FieldWriter<'_>, dec: &Decided) {
    out.u64(dec.epoch);
    put_value(out, dec.value);
}

pub(super) fn take_decided(from: &mut FieldReader<'_>) -> Result<Decided, Reject> {
    let epoch = from.u64();
    let value = take_value(from)?;
    ensure((epoch == 0) == value.is_none(), Reject::Field)?;
    Ok(Decided { epoch, value })
}

#[cfg(test)]
mod tests;
