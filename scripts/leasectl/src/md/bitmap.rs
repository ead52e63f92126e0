// SPDX-License-Identifier: GPL-2.0
//! The write-intent bitmap of an md array, read from one member.
//!
//! md marks a part of the array on every member before it writes there, and clears the mark some
//! time after the write. So a part without a mark on any member was not being written.
//! `drivers/md/md-bitmap.h` describes the format.

use crate::disk::md_layout::MdLayout;
use crate::md::array::Component;
use anyhow::{bail, ensure, Context, Result};
use dm_lease_proto::proto::codec::block::{BLOCK_SIZE, SECTOR_SIZE};
use std::ops::Range;

const MAGIC: u32 = 0x6d74_6962;

/// The versions in which bit n of the map is part n.
const VERSIONS: Range<u32> = 3..5;

/// The length of the header; the bits follow.
const HEADER: usize = 256;

/// Bits of the state: out of date, or a member failed to write it.
const IN_DOUBT: u32 = (1 << 1) | (1 << 2);

/// The longest bitmap that is read. No array has more parts.
const MAX_BYTES: u64 = 64 << 20;

/// The bitmap of one member.
pub struct Bitmap {
    /// The sectors of each member that one bit covers.
    pub chunk_sectors: u64,
    /// The sectors of each member that the bitmap covers.
    pub size_sectors: u64,
    bits: Vec<u8>,
}

impl Bitmap {
    /// Reads the bitmap of a member. An error says why the bitmap cannot be used.
    pub fn read(component: &Component) -> Result<Bitmap> {
        let at = component.layout.bitmap_at.context("md keeps no bitmap")?;
        let at = component.start.saturating_add(at);
        let header = component.device.read_blocks(at, BLOCK_SIZE)?;
        let mut bitmap = Bitmap::parse(&header, &component.layout)?;
        let bytes = bitmap.parts().div_ceil(8);
        ensure!(bytes <= MAX_BYTES, "a bitmap of {bytes} bytes");
        let length = (HEADER + usize::try_from(bytes)?).next_multiple_of(BLOCK_SIZE);
        bitmap.bits = component.device.read_blocks(at, length)?.split_off(HEADER);
        Ok(bitmap)
    }

    fn parse(header: &[u8], layout: &MdLayout) -> Result<Bitmap> {
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk::<4>);
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        ensure!(word(0) == MAGIC, "there is no bitmap where md says");
        if !VERSIONS.contains(&word(4)) {
            bail!("bitmap version {} is not known", word(4));
        }
        ensure!(
            header.get(8..24) == Some(&layout.uuid),
            "the bitmap is of another array"
        );
        ensure!(
            long(24) >= layout.events,
            "the bitmap is older than md's superblock"
        );
        ensure!(
            word(48) & IN_DOUBT == 0,
            "md says that the bitmap is out of date"
        );
        let chunk_sectors = u64::from(word(52)) / SECTOR_SIZE;
        ensure!(chunk_sectors != 0, "a bitmap of nothing");
        Ok(Bitmap {
            chunk_sectors,
            size_sectors: long(40),
            bits: Vec::new(),
        })
    }

    fn parts(&self) -> u64 {
        self.size_sectors.div_ceil(self.chunk_sectors)
    }

    /// The marked parts, in sectors of each member's data, in order.
    pub fn marked(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..self.parts())
            .filter(|part| {
                let byte = usize::try_from(part / 8)
                    .ok()
                    .and_then(|at| self.bits.get(at));
                byte.is_none_or(|byte| (byte >> (part % 8)) & 1 != 0)
            })
            .map(|part| {
                let start = part.saturating_mul(self.chunk_sectors);
                start
                    ..start
                        .saturating_add(self.chunk_sectors)
                        .min(self.size_sectors)
            })
    }
}
