// SPDX-License-Identifier: GPL-2.0
//! The layout of an md array on the members, read from md's superblock in a data area.
//!
//! `check` uses it to find out whether rows can be counted; `suspects` and `rows` use it to assign
//! each block of each member to a row.
//!
//! Counting by stripe rows is sound only while each row of chunks stays at one place, at the same
//! offset on every member. md's superblock, version 1.x (`include/uapi/linux/raid/md_p.h`),
//! contains the layout. It is at one of three places of md's device, which is here the data area of
//! a member.

use crate::disk::device::Device;
use anyhow::Result;
use dm_lease_proto::proto::codec::block::{Block, SECTOR_SIZE};
use dm_lease_proto::proto::codec::superblock::Superblock;

const MD_MAGIC: u32 = 0xa92b_4efc;

/// `MD_FEATURE_BITMAP_OFFSET`: there is a write-intent bitmap on the member itself.
const BITMAP_OFFSET: u32 = 1;

/// `MD_FEATURE_RECOVERY_OFFSET`: the member is being rebuilt.
const RECOVERY_OFFSET: u32 = 2;

/// `MD_FEATURE_RESHAPE_ACTIVE`: the layout is being changed.
const RESHAPE_ACTIVE: u32 = 4;

/// The layout of an md member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MdLayout {
    /// The uuid of the array.
    pub uuid: [u8; 16],
    /// RAID level; negative for the special ones.
    pub level: i32,
    /// The layout within the level.
    pub layout: u32,
    /// The sectors of a row on one member; 0 if the level has no rows.
    pub chunk_sectors: u32,
    /// The start of the data, from the start of the data area.
    pub data_offset_sectors: u64,
    /// The sectors of data on each member.
    pub size_sectors: u64,
    /// How many members the array has.
    pub devices: u32,
    /// The number of this member among them; `None` for a spare or a failed member.
    pub role: Option<u16>,
    /// Counts the changes of md's superblock.
    pub events: u64,
    /// The start of the write-intent bitmap, in bytes from the start of the data area.
    pub bitmap_at: Option<u64>,
    /// Whether the layout is being changed.
    pub is_reshaping: bool,
    /// Whether this member is being rebuilt.
    pub is_rebuilding: bool,
}

impl MdLayout {
    /// Looks for an md superblock in the data area of a member.
    pub fn find(device: &Device, superblock: &Superblock) -> Result<Option<MdLayout>> {
        let start = superblock.data_offset_sectors.saturating_mul(SECTOR_SIZE);
        let length = superblock.data_length_sectors.saturating_mul(SECTOR_SIZE);
        MdLayout::find_in(device, start, length)
    }

    /// Looks for an md superblock in a part of a device; start and length are in bytes.
    pub fn find_in(device: &Device, start: u64, length: u64) -> Result<Option<MdLayout>> {
        // Version 1.2, 1.1, 1.0.
        let places = [Some(4096), Some(0), length.checked_sub(8192)];
        for place in places.into_iter().flatten() {
            let offset = start.saturating_add(place);
            // `check` reports a device that has shrunk.
            if place.saturating_add(4096) > length || offset.saturating_add(4096) > device.size {
                continue;
            }
            if let Some(layout) = MdLayout::parse(&device.read_block(offset)?, place) {
                return Ok(Some(layout));
            }
        }
        Ok(None)
    }

    /// Parses a superblock that is `place` bytes behind the start of the data area.
    fn parse(block: &Block, place: u64) -> Option<MdLayout> {
        let word = |at: usize| {
            let bytes = block.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let long = |at: usize| {
            let bytes = block.get(at..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        if word(0)? != MD_MAGIC || word(4)? != 1 {
            return None;
        }
        let features = word(8)?;
        let bitmap_offset = i64::from(word(96)? as i32) * SECTOR_SIZE as i64;
        Some(MdLayout {
            uuid: *block.get(16..)?.first_chunk::<16>()?,
            level: word(72)? as i32,
            layout: word(76)?,
            chunk_sectors: word(88)?,
            data_offset_sectors: long(128)?,
            size_sectors: long(80)?,
            devices: word(92)?,
            role: role(block, word(160)?),
            events: long(200)?,
            bitmap_at: (features & BITMAP_OFFSET != 0)
                .then(|| place.checked_add_signed(bitmap_offset))
                .flatten(),
            is_reshaping: features & RESHAPE_ACTIVE != 0,
            is_rebuilding: features & RECOVERY_OFFSET != 0,
        })
    }

    /// The reason why rows of `chunk_sectors` cannot be counted on this member; `None` if they can.
    pub fn objection(&self, chunk_sectors: u32) -> Option<String> {
        if self.is_reshaping {
            return Some(String::from("an md reshape is under way"));
        }
        match self.level {
            // Mirrors without rows: any chunk describes them.
            1 => None,
            10 if (self.layout >> 8) & 0xff != 1 => {
                Some(String::from("md RAID-10 with a far or offset layout"))
            }
            0 | 4 | 5 | 6 | 10 if self.chunk_sectors == chunk_sectors => None,
            0 | 4 | 5 | 6 | 10 => Some(format!(
                "md chunks of {} KiB, but the portion counts rows of {} KiB",
                self.chunk_sectors / 2,
                chunk_sectors / 2
            )),
            level => Some(format!("md level {level} has no stripe rows")),
        }
    }
}

/// The role of member `number`, if it has one in the array.
fn role(block: &Block, number: u32) -> Option<u16> {
    let at = usize::try_from(number)
        .ok()?
        .checked_mul(2)?
        .checked_add(256)?;
    let role = u16::from_le_bytes(*block.get(at..)?.first_chunk::<2>()?);
    // 0xffff is a spare, 0xfffe a failed member, 0xfffd a journal.
    (role < 0xfffd).then_some(role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_lease_proto::proto::codec::block::ZERO_BLOCK;

    fn md(level: i32, layout: u32, chunk_sectors: u32) -> Block {
        let mut block = ZERO_BLOCK;
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MD_MAGIC.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(72, &level.to_le_bytes());
        put(76, &layout.to_le_bytes());
        put(88, &chunk_sectors.to_le_bytes());
        put(128, &2048_u64.to_le_bytes());
        block
    }

    fn objection(block: &Block) -> Option<String> {
        MdLayout::parse(block, 4096)
            .expect("an md superblock")
            .objection(128)
    }

    #[test]
    fn r19_static_layouts_with_the_chunk_pass() {
        for (level, layout) in [(0, 0), (4, 0), (5, 2), (6, 2), (10, 0x102), (1, 0)] {
            assert_eq!(objection(&md(level, layout, 128)), None, "level {level}");
        }
        assert_eq!(
            MdLayout::parse(&md(6, 2, 128), 4096)
                .unwrap()
                .data_offset_sectors,
            2048
        );
    }

    #[test]
    fn r19_moving_layouts_are_refused() {
        let text = |block: &Block| objection(block).expect("an objection");
        // Two near copies are 0x102, two far copies 0x201, two offset copies 0x10201.
        assert!(text(&md(10, 0x201, 128)).contains("far or offset"));
        assert!(text(&md(10, 0x1_0201, 128)).contains("far or offset"));
        assert!(text(&md(6, 2, 256)).contains("128 KiB"));
        assert!(text(&md(-4, 0, 128)).contains("level -4"));
        let mut reshaping = md(6, 2, 128);
        reshaping[8] = 4;
        assert!(text(&reshaping).contains("reshape"));
    }

    #[test]
    fn r19_other_blocks_are_no_md() {
        assert_eq!(MdLayout::parse(&ZERO_BLOCK, 4096), None);
        let mut old = md(6, 2, 128);
        old[4] = 0;
        assert_eq!(MdLayout::parse(&old, 4096), None);
    }
}
