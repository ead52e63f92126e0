// SPDX-License-Identifier: GPL-2.0
//! A block: the unit of all writes to a member, and its checksum.
//!
//! Pure functions: any caller, no locking.

use super::bytes::is_zero;
use super::crc32c::Crc32c;

/// The size of a block: the largest common logical block size.
pub const BLOCK_SIZE: usize = 4096;

/// One block.
pub type Block = [u8; BLOCK_SIZE];

/// A block of zeros, as on a freshly formatted member.
pub const ZERO_BLOCK: Block = [0; BLOCK_SIZE];

/// [`BLOCK_SIZE`] as an offset.
pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;

/// Bytes in a sector, the unit of device-mapper.
pub const SECTOR_SIZE: u64 = 512;

/// Sectors in a block.
pub const BLOCK_SECTORS: u64 = BLOCK / SECTOR_SIZE;

/// Whether a block is all zeros, as formatting leaves it in a mailbox.
pub fn is_blank(block: &Block) -> bool {
    is_zero(block)
}

/// The checksum of `block` as if the four bytes at `at`, where it is stored, were zero.
///
/// If `at` is beyond the block, the checksum covers the block as it is.
pub fn checksum(block: &Block, at: usize) -> u32 {
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
