// SPDX-License-Identifier: GPL-2.0
//! Where everything stands on a member, and how fields stand in a block.
//!
//! ```text
//!     0            4 KiB        8 KiB     1 MiB       2 MiB .. 8 MiB
//!   +------------+------------+---------+-----------+----------------+
//!   | protective | superblock | zero    | mailboxes | zero           |  head, 8 MiB
//!   +------------+------------+---------+-----------+----------------+
//!   | data area: what the mapped device shows                        |
//!   +-----------------+----------------------------------------------+
//!   | superblock copy | zero                                         |  tail, 8 MiB + 4 KiB
//!   +-----------------+----------------------------------------------+
//! ```
//!
//! Both reserves are that large so that nothing a user puts on the mapped device is recognised on
//! the raw member: a partition table's default first partition starts at 1 MiB, and md 1.0, GPT
//! and ZFS keep metadata within the last megabyte. A mailbox is the 16 KiB that one controller
//! alone writes: ballot block A, ballot block B, heartbeat block A, heartbeat block B.
//!
//! Offsets are bytes unless the name says `_sectors` (512 bytes each). Pure functions: any
//! caller, no locking.

use super::record::{Register, Slot};

/// The unit of everything this project writes: one block, the largest common logical block size.
pub const BLOCK_SIZE: usize = 4096;

/// One block.
pub type Block = [u8; BLOCK_SIZE];

/// A block of zeros, as a freshly formatted member has them.
pub const ZERO_BLOCK: Block = [0; BLOCK_SIZE];

/// [`BLOCK_SIZE`] as an offset.
const BLOCK: u64 = BLOCK_SIZE as u64;

/// Bytes in a sector, the unit of device-mapper.
pub const SECTOR_SIZE: u64 = 512;

/// Sectors in a block.
pub const BLOCK_SECTORS: u64 = BLOCK / SECTOR_SIZE;

/// The most controllers a portion can have.
pub const MAX_CONTROLLERS: u8 = 64;

/// The most members a portion can have.
pub const MAX_MEMBERS: u8 = 16;

/// Bytes reserved at the start of a member; the data area starts here.
pub const HEAD_SIZE: u64 = 8 << 20;

/// Bytes reserved at the end of a member.
pub const TAIL_SIZE: u64 = (8 << 20) + BLOCK;

/// Where the protective block is.
pub const PROTECTIVE_OFFSET: u64 = 0;

/// Where the superblock is.
pub const SUPERBLOCK_OFFSET: u64 = BLOCK;

/// Where the mailbox of the first controller is.
pub const MAILBOX_OFFSET: u64 = 1 << 20;

/// Bytes of one controller's mailbox.
pub const MAILBOX_SIZE: u64 = 4 * BLOCK;

/// Where the part of the head begins that nothing uses; it is zero, and up to [`HEAD_SIZE`].
pub const SPARE_OFFSET: u64 = 2 << 20;

/// [`HEAD_SIZE`] in sectors: where the data area starts.
pub const DATA_OFFSET_SECTORS: u64 = HEAD_SIZE / SECTOR_SIZE;

/// Which of the two blocks of a register, written alternately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The first block.
    A,
    /// The second block.
    B,
}

impl Side {
    /// Both, in the order in which they stand on the member.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// The other block of the same register.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// 0 for A, 1 for B.
    pub const fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

/// Where the mailbox of a controller starts.
pub const fn mailbox_offset(slot: Slot) -> u64 {
    // At most 63 * 16 KiB are added: no overflow.
    MAILBOX_OFFSET + slot.index() as u64 * MAILBOX_SIZE
}

/// Where one block of a controller's register is.
pub const fn register_offset(slot: Slot, register: Register, side: Side) -> u64 {
    let first = match register {
        Register::Ballot => 0,
        Register::Heartbeat => 2,
    };
    mailbox_offset(slot) + (first + side.index() as u64) * BLOCK
}

/// [`mailbox_offset`] in sectors.
pub const fn mailbox_sector(slot: Slot) -> u64 {
    mailbox_offset(slot) / SECTOR_SIZE
}

/// [`register_offset`] in sectors.
pub const fn register_sector(slot: Slot, register: Register, side: Side) -> u64 {
    register_offset(slot, register, side) / SECTOR_SIZE
}

/// Where the tail, and with it the copy of the superblock, starts on a member of `size` bytes.
/// `None` if the member is too small to have head and tail.
pub const fn copy_offset(size: u64) -> Option<u64> {
    match (size - size % BLOCK).checked_sub(TAIL_SIZE) {
        Some(offset) if offset >= HEAD_SIZE => Some(offset),
        _ => None,
    }
}

/// Length of the data area, in sectors, of a member of `size` bytes whose data area must be a
/// multiple of `unit` bytes (the physical block size, 4096, or the stripe chunk, whichever is
/// largest). `None` if nothing is left, or if `unit` is not a multiple of a block.
pub const fn data_length_sectors(size: u64, unit: u64) -> Option<u64> {
    if unit == 0 || unit % BLOCK != 0 {
        return None;
    }
    let Some(end) = copy_offset(size) else {
        return None;
    };
    // `copy_offset` is never below HEAD_SIZE.
    let room = end - HEAD_SIZE;
    match room - room % unit {
        0 => None,
        length => Some(length / SECTOR_SIZE),
    }
}

/// Whether a block holds nothing but zeros, which is what formatting leaves in a mailbox.
pub fn is_blank(block: &Block) -> bool {
    is_zero(block)
}

/// Whether all bytes are zero, a cache line at a time: a heartbeat round looks through every block
/// that it has read.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let mut lines = bytes.chunks_exact(64);
    lines.by_ref().all(|line| any(line) == 0) && any(lines.remainder()) == 0
}

/// The bits that are set anywhere in `bytes`, eight bytes at a time.
#[inline(always)]
fn any(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |it| u64::from_ne_bytes(*it));
    let whole = words.by_ref().fold(0, |any, bytes| any | word(bytes));
    let rest = words.remainder().iter();
    rest.fold(whole, |any, &byte| any | u64::from(byte))
}

/// What the first block of a member says to whoever looks with `hexdump` or `file`.
///
/// It carries no boot signature (bytes 510 and 511 are zero), so no tool takes it for a partition
/// table or a boot sector.
pub const PROTECTIVE_MAGIC: &[u8; 8] = b"DMLEASE\n";

/// The protective text after [`PROTECTIVE_MAGIC`].
const PROTECTIVE_TEXT: &[u8] =
    b"This disk is a member of a dm-lease portion and is shared by several machines.\n\
    Do not partition, format, mount or write it: other machines are using it now.\n\
    Use it only through the device-mapper target `lease`.\n\
    `leasectl show` on this device says which portion it belongs to.\n";

/// Fills the protective block.
pub fn write_protective(block: &mut Block) {
    let mut fields = FieldWriter::new(block);
    fields.bytes(PROTECTIVE_MAGIC);
    fields.bytes(PROTECTIVE_TEXT);
}

/// Whether a block is exactly the protective block of this version.
pub fn is_protective(block: &Block) -> bool {
    let mut wanted = ZERO_BLOCK;
    write_protective(&mut wanted);
    *block == wanted
}

/// Writes fields one behind the other into a block, little-endian; the rest becomes zero.
///
/// Fields beyond the end are dropped; the codecs' sizes are constants, and their tests would see
/// a field that did not come back.
pub struct FieldWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> FieldWriter<'a> {
    /// Clears `block` and starts at its first byte.
    pub fn new(block: &'a mut Block) -> Self {
        *block = ZERO_BLOCK;
        Self { rest: block }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((field, rest)) = rest.split_at_mut_checked(bytes.len()) {
            field.copy_from_slice(bytes);
            self.rest = rest;
        }
    }

    /// Leaves `count` bytes zero.
    pub fn skip(&mut self, count: usize) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((_, rest)) = rest.split_at_mut_checked(count) {
            self.rest = rest;
        }
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 128-bit number.
    pub fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }
}

/// Reads fields one behind the other from a block; the mirror image of [`FieldWriter`].
///
/// Reading beyond the end yields zeros, which no codec does (their sizes are constants).
pub struct FieldReader<'a> {
    block: &'a Block,
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    /// Starts at the first byte of `block`.
    pub const fn new(block: &'a Block) -> Self {
        Self { block, rest: block }
    }

    /// Takes `N` bytes as they are.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => {
                self.rest = &[];
                [0; N]
            }
        }
    }

    /// Takes a byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// Takes a 16-bit number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// Takes a 32-bit number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// Takes a 64-bit number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Takes a 128-bit number.
    pub fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.bytes())
    }

    /// Takes `N` bytes and says whether all of them are zero, as reserved bytes must be.
    pub fn is_zero<const N: usize>(&mut self) -> bool {
        self.bytes::<N>().iter().all(|&byte| byte == 0)
    }

    /// Whether everything that was not read is zero.
    pub fn rest_is_zero(&self) -> bool {
        is_zero(self.rest)
    }

    /// Whether everything that was not read is zero, up to the byte `end` of the block.
    pub fn is_zero_before(&self, end: usize) -> bool {
        let behind = self.block.len().saturating_sub(end);
        let length = self.rest.len().saturating_sub(behind);
        is_zero(self.rest.get(..length).unwrap_or(&[]))
    }
}

/// The checksum of `block` as if the four bytes at `at` were zero, which is where it is stored.
///
/// `at` beyond the block covers the block as it is.
pub fn checksum(block: &Block, at: usize) -> u32 {
    use super::crc32c::Crc32c;
    let (head, tail) = block.split_at_checked(at).unwrap_or((block, &[]));
    let behind = tail.get(4..).unwrap_or(&[]);
    Crc32c::new()
        .update(head)
        .update(&[0; 4])
        .update(behind)
        .finish()
}

/// Stores the [`checksum`] of `block` in its place.
pub fn seal(block: &mut Block, at: usize) {
    let sum = checksum(block, at);
    if let Some(field) = block
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    {
        *field = sum.to_le_bytes();
    }
}

/// Whether the checksum stored at `at` is that of the block.
pub fn is_sealed(block: &Block, at: usize) -> bool {
    let stored = block.get(at..).and_then(|rest| rest.first_chunk::<4>());
    stored.is_some_and(|&stored| u32::from_le_bytes(stored) == checksum(block, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn r26_one_byte_anywhere_is_not_zero() {
        for length in 0..140 {
            let mut bytes = std::vec![0; length];
            assert!(is_zero(&bytes));
            assert_eq!(is_zero(&std::vec![0x80; length]), length == 0);
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn r39_mailboxes_fill_their_mebibyte_without_overlap() {
        let mut expected = MIB;
        for index in 0..MAX_CONTROLLERS {
            let slot = Slot::new(index).unwrap();
            assert_eq!(mailbox_offset(slot), expected);
            assert_eq!(mailbox_sector(slot) * SECTOR_SIZE, expected);
            for register in [Register::Ballot, Register::Heartbeat] {
                for side in Side::BOTH {
                    assert_eq!(register_offset(slot, register, side), expected);
                    assert_eq!(
                        register_sector(slot, register, side) * SECTOR_SIZE,
                        expected
                    );
                    expected += 4096;
                }
            }
        }
        assert_eq!((expected, SPARE_OFFSET), (2 * MIB, 2 * MIB));
        assert!(expected <= HEAD_SIZE);
    }

    #[test]
    fn r39_data_area_never_touches_head_or_tail() {
        for size in [
            16 * MIB + 8192,
            16 * MIB + 8193,
            64 * MIB,
            64 * MIB + 511,
            1 << 40,
            u64::MAX,
        ] {
            for unit in [4096, 8192, 65536, MIB] {
                let copy = copy_offset(size).unwrap();
                assert_eq!(copy % 4096, 0);
                assert!(copy + TAIL_SIZE <= size);
                assert!(size - (copy + TAIL_SIZE) < 4096);
                let Some(length) = data_length_sectors(size, unit) else {
                    assert!(copy - HEAD_SIZE < unit);
                    continue;
                };
                assert!(HEAD_SIZE + length * SECTOR_SIZE <= copy);
                assert!(copy - (HEAD_SIZE + length * SECTOR_SIZE) < unit);
                assert_eq!(length * SECTOR_SIZE % unit, 0);
            }
        }
    }

    #[test]
    fn r39_a_member_without_room_for_data_is_refused() {
        assert_eq!(data_length_sectors(16 * MIB + 8191, 4096), None);
        assert_eq!(data_length_sectors(16 * MIB + 8192, 4096), Some(8));
        assert_eq!(data_length_sectors(16 * MIB + 8192, 8192), None);
        assert_eq!(copy_offset(16 * MIB + 4095), None);
        assert_eq!(copy_offset(0), None);
        assert_eq!(data_length_sectors(64 * MIB, 0), None);
        assert_eq!(data_length_sectors(64 * MIB, 512), None);
    }

    #[test]
    fn r39_protective_block_has_text_and_no_boot_signature() {
        let mut block = ZERO_BLOCK;
        write_protective(&mut block);
        assert!(block.starts_with(PROTECTIVE_MAGIC));
        assert_eq!(block[510..512], [0, 0]);
        assert!(block[8..].windows(8).any(|text| text == b"dm-lease"));
        assert!(is_protective(&block));
        block[700] ^= 1;
        assert!(!is_protective(&block));
    }

    #[test]
    fn r26_fields_come_back_and_the_end_is_no_panic() {
        let mut block = [0xff; BLOCK_SIZE];
        let mut out = FieldWriter::new(&mut block);
        out.u8(1);
        out.u16(0x0203);
        out.u32(0x0405_0607);
        out.u64(0x0809_0a0b_0c0d_0e0f);
        out.u128(7 << 100);
        out.skip(5);
        out.bytes(b"end");
        let mut read = FieldReader::new(&block);
        assert_eq!(read.u8(), 1);
        assert_eq!(read.u16(), 0x0203);
        assert_eq!(read.u32(), 0x0405_0607);
        assert_eq!(read.u64(), 0x0809_0a0b_0c0d_0e0f);
        assert_eq!(read.u128(), 7 << 100);
        assert!(read.is_zero::<5>());
        assert!(!read.rest_is_zero());
        assert_eq!(&read.bytes::<3>(), b"end");
        assert!(read.rest_is_zero());
        read.bytes::<4000>();
        assert_eq!(read.bytes::<4000>(), [0; 4000]);
        let mut out = FieldWriter::new(&mut block);
        out.skip(4095);
        out.u32(9);
        out.u8(9);
        assert!(is_blank(&block));
    }

    #[test]
    fn r26_seal_covers_every_byte_but_its_own_place() {
        let mut block = ZERO_BLOCK;
        block[100] = 1;
        seal(&mut block, 16);
        assert!(is_sealed(&block, 16));
        for at in 0..BLOCK_SIZE {
            block[at] ^= 0x10;
            assert!(!is_sealed(&block, 16));
            block[at] ^= 0x10;
        }
        assert!(!is_sealed(&block, BLOCK_SIZE));
        seal(&mut block, BLOCK_SIZE - 1);
    }
}
