// SPDX-License-Identifier: GPL-2.0
//! The geometry of an md array: which block of which member belongs to which row.
//!
//! A *row* consists of one chunk of every member. Mirrors have no chunks: their row consists of
//! [`MIRROR_ROW_SECTORS`] of every copy. A member is given as the device on which md is (a mapped
//! device), as a member of a portion (md is in its data area), or as an image of either.
//!
//! The layouts are md's own defaults, left-symmetric for RAID-5 and RAID-6 (`drivers/md/raid5.c`,
//! `raid5_compute_sector`): with each row the parity moves down by one member, and the data starts
//! behind it.

use crate::disk::device::{refuse_twice, Device};
use crate::disk::md_layout::MdLayout;
use crate::disk::member::superblocks;
use crate::md::gf::Shard;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::block::{BLOCK_SECTORS, SECTOR_SIZE};
use std::ops::Range;
use std::path::PathBuf;

/// The size of a row of a mirror.
pub const MIRROR_ROW_SECTORS: u32 = 128;

/// `ALGORITHM_LEFT_SYMMETRIC`, of RAID-5 and RAID-6.
const LEFT_SYMMETRIC: u32 = 2;

/// The largest chunk that is held in memory, once for each member.
const MAX_CHUNK_SECTORS: u32 = 64 << 11;

/// A member of an md array.
pub struct Component {
    /// The device that holds it.
    pub device: Device,
    /// The start of md's device on it, in bytes.
    pub start: u64,
    /// Whether md is in the data area of a raw member, so that writes would bypass the gate.
    pub is_raw: bool,
    /// The layout in md's superblock.
    pub layout: MdLayout,
}

impl Component {
    /// Looks for an md superblock on a device.
    pub fn new(device: Device) -> Result<Component> {
        let (start, length, is_raw) = match superblocks(&device)? {
            (Ok(superblock), _) | (_, Ok(superblock)) => (
                superblock.data_offset_sectors.saturating_mul(SECTOR_SIZE),
                superblock.data_length_sectors.saturating_mul(SECTOR_SIZE),
                true,
            ),
            _ => (0, device.size, false),
        };
        let layout = MdLayout::find_in(&device, start, length)?
            .with_context(|| format!("{} is no member of an md array", device.path.display()))?;
        Ok(Component {
            device,
            start,
            is_raw,
            layout,
        })
    }

    /// The place of a sector of md's data on the device, in bytes.
    pub fn offset(&self, data_sector: u64) -> u64 {
        let sector = self.layout.data_offset_sectors.saturating_add(data_sector);
        self.start
            .saturating_add(sector.saturating_mul(SECTOR_SIZE))
    }
}

/// The geometry of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The RAID level: 1, 5 or 6.
    pub level: i32,
    /// The number of members.
    pub devices: usize,
    /// The sectors of a row on one member.
    pub chunk_sectors: u64,
    /// The number of rows; the last row of a mirror may be shorter.
    pub rows: u64,
    /// The sectors of data on each member.
    pub size_sectors: u64,
}

impl Geometry {
    /// The geometry of a layout, if this tool knows its rows.
    pub fn new(layout: &MdLayout) -> Result<Geometry> {
        let least = match layout.level {
            1 => 2,
            5 => 3,
            6 => 4,
            level => bail!("rows of md level {level} are not known; they are of 1, 5 and 6"),
        };
        if layout.is_reshaping {
            bail!("an md reshape is under way");
        }
        if layout.level != 1 && layout.layout != LEFT_SYMMETRIC {
            bail!("md layout {} is not left-symmetric", layout.layout);
        }
        let chunk_sectors = match layout.level {
            1 => MIRROR_ROW_SECTORS,
            _ => layout.chunk_sectors,
        };
        let is_whole = u64::from(chunk_sectors) % BLOCK_SECTORS == 0;
        if chunk_sectors == 0 || chunk_sectors > MAX_CHUNK_SECTORS || !is_whole {
            bail!("md chunks of {chunk_sectors} sectors");
        }
        let devices = usize::try_from(layout.devices)?;
        if !(least..=usize::from(u8::MAX)).contains(&devices) {
            bail!("md level {} with {devices} members", layout.level);
        }
        let chunk_sectors = u64::from(chunk_sectors);
        let size_sectors = layout.size_sectors / BLOCK_SECTORS * BLOCK_SECTORS;
        Ok(Geometry {
            level: layout.level,
            devices,
            chunk_sectors,
            rows: match layout.level {
                1 => size_sectors.div_ceil(chunk_sectors),
                _ => size_sectors / chunk_sectors,
            },
            size_sectors,
        })
    }

    /// The number of data shards in a row.
    pub fn data(&self) -> usize {
        match self.level {
            1 => 1,
            5 => self.devices - 1,
            _ => self.devices - 2,
        }
    }

    /// The shard of a row that a member holds.
    pub fn shard(&self, row: u64, role: usize) -> Shard {
        let devices = self.devices;
        let behind = (role + devices - self.p_role(row)) % devices;
        match (self.level, behind) {
            (1, _) => Shard::Data(0),
            (_, 0) => Shard::P,
            (5, behind) => Shard::Data(behind - 1),
            (_, 1) => Shard::Q,
            (_, behind) => Shard::Data(behind - 2),
        }
    }

    fn p_role(&self, row: u64) -> usize {
        let turn = usize::try_from(row % self.devices as u64).unwrap_or(0);
        self.devices - 1 - turn
    }

    /// The sectors of a row in each member's data.
    pub fn member_sectors(&self, row: u64) -> Range<u64> {
        let start = row.saturating_mul(self.chunk_sectors);
        start
            ..start
                .saturating_add(self.chunk_sectors)
                .min(self.size_sectors)
    }

    /// The sectors of a row in the array.
    pub fn array_sectors(&self, row: u64) -> Range<u64> {
        let member = self.member_sectors(row);
        let data = self.data() as u64;
        member.start.saturating_mul(data)..member.end.saturating_mul(data)
    }

    /// The place of a sector of the array: row, data shard, sector in the chunk.
    pub fn place(&self, array_sector: u64) -> (u64, usize, u64) {
        let (chunk, within) = (
            array_sector / self.chunk_sectors,
            array_sector % self.chunk_sectors,
        );
        let data = self.data() as u64;
        let shard = usize::try_from(chunk % data).unwrap_or(0);
        (chunk / data, shard, within)
    }
}

/// An array with all its members, in the order of their roles.
pub struct Array {
    /// Its geometry.
    pub geometry: Geometry,
    /// Its members.
    pub components: Vec<Component>,
}

impl Array {
    /// Opens all members of one array, for reading, or for writing if they are not in use.
    pub fn open(paths: &[PathBuf], to_change: bool) -> Result<Array> {
        refuse_twice(paths)?;
        let mut components = Vec::with_capacity(paths.len());
        for path in paths {
            let device = match to_change {
                true => Device::claim(path)?,
                false => Device::observe(path)?,
            };
            components.push(Component::new(device)?);
        }
        let first = components.first().context("no members given")?;
        let geometry = Geometry::new(&first.layout)?;
        if to_change && components.iter().any(|component| component.is_raw) {
            bail!("members are changed through the mapped devices of the portion's owner only");
        }
        components.sort_by_key(|component| component.layout.role);
        judge_members(&components, &geometry)?;
        Ok(Array {
            geometry,
            components,
        })
    }
}

/// Checks the members: a wrong shard can be found only if every member is given, complete, and of
/// the same array.
fn judge_members(components: &[Component], geometry: &Geometry) -> Result<()> {
    let Some(first) = components.first() else {
        return Ok(());
    };
    for (role, component) in components.iter().enumerate() {
        let layout = &component.layout;
        let shown = component.device.path.display();
        let theirs = Geometry::new(layout)?;
        if layout.uuid != first.layout.uuid || theirs != *geometry {
            bail!("{shown} is a member of another array than the first device");
        }
        if layout.is_rebuilding {
            bail!("{shown} is being rebuilt: nothing can be located meanwhile");
        }
        if layout.role.map(usize::from) != Some(role) {
            bail!("{shown} has no role of its own in the array, or another member is missing");
        }
    }
    if components.len() != geometry.devices {
        bail!(
            "{} of {} members were given: all are needed",
            components.len(),
            geometry.devices
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(level: i32, devices: usize) -> Geometry {
        Geometry {
            level,
            devices,
            chunk_sectors: 128,
            rows: 100,
            size_sectors: 12_800,
        }
    }

    /// Rows as tables of shards, in the order of the members.
    fn rows(geometry: &Geometry, count: u64) -> Vec<String> {
        let name = |shard| match shard {
            Shard::Data(number) => number.to_string(),
            Shard::P => String::from("P"),
            Shard::Q => String::from("Q"),
        };
        let row = |row| (0..geometry.devices).map(move |role| name(geometry.shard(row, role)));
        (0..count).map(|number| row(number).collect()).collect()
    }

    #[test]
    fn r20_rows_are_left_symmetric() {
        assert_eq!(
            rows(&geometry(5, 4), 5),
            ["012P", "12P0", "2P01", "P012", "012P"]
        );
        assert_eq!(
            rows(&geometry(6, 5), 5),
            ["Q012P", "012PQ", "12PQ0", "2PQ01", "PQ012"]
        );
        assert_eq!(rows(&geometry(1, 3), 2), ["000", "000"]);
    }

    #[test]
    fn r20_sectors_of_the_array_have_a_row_and_a_shard() {
        let geometry = geometry(6, 5);
        assert_eq!(geometry.place(0), (0, 0, 0));
        assert_eq!(geometry.place(128 * 3 * 7 + 128 * 2 + 5), (7, 2, 5));
        assert_eq!(geometry.array_sectors(7), 128 * 3 * 7..128 * 3 * 8);
        assert_eq!(geometry.member_sectors(7), 896..1024);
    }
}
