// SPDX-License-Identifier: GPL-2.0
//! The common part of the fuzz targets: the properties, which the tests with random input share,
//! and how an input becomes blocks.

#[path = "../../tests/properties/blocks.rs"]
pub mod blocks;
#[path = "../../tests/properties/lines.rs"]
pub mod lines;
#[path = "../../tests/properties/refusals.rs"]
mod refusals;

use dm_lease_proto::proto::codec::block::{seal, Block, BLOCK_SIZE, ZERO_BLOCK};

/// The bytes of a block that its fields fill, at most.
const HEAD: usize = 620;

/// Where the checksum is, in superblocks and records alike.
const CHECKSUM_AT: usize = 16;

/// An input as two blocks: the heads of both, then the end of the first one.
pub fn blocks_of(input: &[u8]) -> [Block; 2] {
    let mut blocks = [ZERO_BLOCK; 2];
    let (heads, end) = input.split_at(input.len().min(2 * HEAD));
    for (block, head) in blocks.iter_mut().zip(heads.chunks(HEAD)) {
        block[..head.len()].copy_from_slice(head);
    }
    let end = &end[..end.len().min(BLOCK_SIZE - HEAD)];
    blocks[0][BLOCK_SIZE - end.len()..].copy_from_slice(end);
    blocks
}

/// The blocks with valid checksums, so that the code behind the check is reached, too.
pub fn sealed(blocks: [Block; 2]) -> [Block; 2] {
    blocks.map(|mut block| {
        seal(&mut block, CHECKSUM_AT);
        block
    })
}
