// SPDX-License-Identifier: GPL-2.0
//! The places on a member.
//!
//! ```text
//!     0            4 KiB        8 KiB     1 MiB       2 MiB .. 8 MiB
//!   +------------+------------+---------+-----------+----------------+
//!   | protective | superblock | zero    | mailboxes | zero           |  head, 8 MiB
//!   +------------+------------+---------+-----------+----------------+
//!   | data area: the content of the mapped device                    |
//!   +-----------------+----------------------------------------------+
//!   | superblock copy | zero                                         |  tail, 8 MiB + 4 KiB
//!   +-----------------+----------------------------------------------+
//! ```
//!
//! Head and tail are so large that no tool recognises the content of the mapped device on the raw
//! member: the default first partition of a partition table starts at 1 MiB, and md 1.0, GPT and
//! ZFS keep metadata within the last megabyte. A mailbox is the 16 KiB that one controller alone
//! writes: ballot block A, ballot block B, heartbeat block A, heartbeat block B.
//!
//! Offsets are bytes unless the name says `_sectors` (512 bytes each). Pure functions: any caller,
//! no locking.

use super::block::{Block, BLOCK, SECTOR_SIZE, ZERO_BLOCK};
use super::bytes::FieldWriter;
use super::ids::{Register, Side, Slot};

/// Bytes reserved at the start of a member; the data area starts here.
pub const HEAD_SIZE: u64 = 8 << 20;

/// Bytes reserved at the end of a member.
pub const TAIL_SIZE: u64 = (8 << 20) + BLOCK;

/// The offset of the protective block.
pub const PROTECTIVE_OFFSET: u64 = 0;

/// The offset of the superblock.
pub const SUPERBLOCK_OFFSET: u64 = BLOCK;

/// The offset of the mailbox of the first controller.
pub const MAILBOX_OFFSET: u64 = 1 << 20;

/// Bytes of one controller's mailbox.
pub const MAILBOX_SIZE: u64 = 4 * BLOCK;

/// The offset of the unused part of the head. It is zero and reaches to [`HEAD_SIZE`].
pub const SPARE_OFFSET: u64 = 2 << 20;

/// [`HEAD_SIZE`] in sectors: where the data area starts.
pub const DATA_OFFSET_SECTORS: u64 = HEAD_SIZE / SECTOR_SIZE;

/// The offset of the mailbox of a controller.
pub const fn mailbox_offset(slot: Slot) -> u64 {
    // At most 63 * 16 KiB are added: no overflow.
    MAILBOX_OFFSET + slot.index() as u64 * MAILBOX_SIZE
}

/// The offset of one block of a controller's register.
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

/// The offset of the tail, which begins with the copy of the superblock, on a member of `size`
/// bytes. `None` if the member is too small to have head and tail.
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

/// The first bytes of a member, for people who look at it with `hexdump` or `file`.
///
/// The block has no boot signature (bytes 510 and 511 are zero), so no tool takes it for a
/// partition table or a boot sector.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::ids::MAX_CONTROLLERS;

    const MIB: u64 = 1 << 20;

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
}
