// SPDX-License-Identifier: GPL-2.0
//! The lanes of a gate: where a permit is counted, and how.
//!
//! Pure values: any caller, no locking.

/// A limit that is never reached in practice: the limit of `external` redundancy.
pub const UNLIMITED: u32 = (1 << 20) - 1;

/// The number of lanes of [`LaneLayout::Rows`]: a power of two, and far more than operations are
/// open at once.
pub const ROW_LANES: usize = 1 << ROW_LANE_BITS;

/// The distance between two lanes of [`LaneLayout::PerCpu`], in words. No two lanes share a cache
/// line.
pub const PER_CPU_STRIDE: usize = 8;

const ROW_LANE_BITS: u32 = 10;
const SECTOR_SHIFT: u32 = 9;
/// The bits of a lane that count permits.
pub(super) const COUNT_BITS: u32 = 60;
pub(super) const COUNT: u64 = (1 << COUNT_BITS) - 1;
pub(super) const WATCH: u64 = 1 << 62;
pub(super) const WAITERS: u64 = 1 << 63;
/// In the wide word: the short path does not check a limit like this one.
pub(super) const DETOUR: u64 = 1 << 61;
/// In the wide word: [`Count::peak`](super::permits::Count::peak) is still zero.
pub(super) const FIRST: u64 = 1 << 60;
/// The lane number of the wide word, in which operations on many rows are charged. No lane has it.
const WIDE: usize = usize::MAX;

/// How permits are counted. The variants stand in the order in which code asks for them, so that
/// the first costs least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneLayout {
    /// The number that counts is that of the members with open permits in one stripe row.
    Rows(Fields),
    /// Each open permit counts.
    Single,
    /// As `Single`, with a lane for each CPU, for a portion that has no limit.
    PerCpu,
}

/// The fields of a lane of [`LaneLayout::Rows`], one for each member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    bits: u32,
    /// The bits of the lowest field.
    ones: u64,
    /// The highest bit of every field.
    high: u64,
    /// All other bits of the fields.
    low: u64,
}

impl Fields {
    /// Fields for up to 16 members, as wide as there is room.
    pub const fn new(members: u8) -> Self {
        let members = match members {
            0 => 1,
            1..=16 => members as u32,
            _ => 16,
        };
        let bits = COUNT_BITS / members;
        let (mut high, mut low) = (0, 0);
        let mut shift = 0;
        while shift < members * bits {
            high |= 1 << (shift + bits - 1);
            low |= ((1 << (bits - 1)) - 1) << shift;
            shift += bits;
        }
        let ones = (1 << bits) - 1;
        Self {
            bits,
            ones,
            high,
            low,
        }
    }

    /// How many fields of a lane are not zero.
    #[inline]
    pub(super) fn members(&self, word: u64) -> u32 {
        // Adding ones in all bits below the highest carries into the highest bit if the field is
        // not zero.
        (((word & self.low).wrapping_add(self.low) | word) & self.high).count_ones()
    }

    /// Whether the field of `unit` is at its highest value.
    pub(super) fn is_full(&self, word: u64, unit: Unit) -> bool {
        !word & self.field(unit) == 0
    }

    /// The bits of the field of `unit`.
    #[inline]
    pub(super) fn field(&self, unit: Unit) -> u64 {
        self.ones.wrapping_mul(unit.0)
    }

    /// One operation on a member.
    pub const fn unit(&self, member: u8) -> Unit {
        let shift = (member as u32).wrapping_mul(self.bits);
        Unit(1_u64.wrapping_shl(shift))
    }
}

/// One open permit, as the number that is added to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit(pub(super) u64);

impl Unit {
    /// The unit of layouts in which only the number of permits counts.
    pub const ONE: Unit = Unit(1);
}

/// The length of a stripe row on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    sectors: u64,
    /// For a length that is a power of two: the mask of a sector's place in its row, and the
    /// length. For another length `end` is 0, which no place is below, so rows are found by
    /// division.
    mask: u64,
    end: u64,
}

impl Chunk {
    /// Rows of `sectors` sectors.
    pub fn new(sectors: u32) -> Self {
        let is_power = sectors.is_power_of_two();
        let sectors = u64::from(sectors);
        Self {
            sectors,
            mask: sectors.wrapping_sub(1),
            end: if is_power { sectors } else { 0 },
        }
    }

    /// The first sector of the row that contains all of `bytes` bytes from `sector`; `None` if they
    /// are in more than one row, or if there are none.
    #[inline(always)]
    pub fn row(&self, sector: u64, bytes: u32) -> Option<u64> {
        let place = sector & self.mask;
        // For 0 bytes this wraps around, to a last sector that is in no row with the first.
        let last = u64::from(bytes.wrapping_sub(1) >> SECTOR_SHIFT);
        match place.wrapping_add(last) < self.end {
            true => Some(sector.wrapping_sub(place)),
            false => self.divide(sector, last),
        }
    }

    #[cold]
    fn divide(&self, sector: u64, last: u64) -> Option<u64> {
        let place = sector.checked_rem(self.sectors)?;
        (place.wrapping_add(last) < self.sectors).then_some(sector.wrapping_sub(place))
    }
}

/// Where an operation is counted: the caller chooses the place once and keeps it until the permit
/// is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) unit: Unit,
    /// As wide as an index, because a narrower type costs an instruction.
    pub(super) lane: usize,
}

impl Place {
    /// The only place of [`LaneLayout::Single`].
    pub const ONE: Place = Place {
        unit: Unit::ONE,
        lane: 0,
    };

    /// The lane of a CPU. Any lane is correct, and the lane of the running CPU is the fastest.
    #[inline]
    pub const fn cpu(cpu: u32) -> Self {
        Self {
            unit: Unit::ONE,
            lane: cpu.wrapping_mul(PER_CPU_STRIDE as u32) as usize,
        }
    }

    /// A member in a stripe row. `row` may be any number that belongs to this row alone.
    #[inline]
    pub const fn row(unit: Unit, row: u64) -> Self {
        // Multiplicative hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
        let hash = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            unit,
            lane: (hash >> (64 - ROW_LANE_BITS)) as usize,
        }
    }

    /// A member in more than one row.
    #[inline]
    pub const fn rows(unit: Unit) -> Self {
        Self { unit, lane: WIDE }
    }

    /// Whether it counts for every row.
    pub const fn is_wide(self) -> bool {
        self.lane == WIDE
    }

    /// The number of the lane, by which the wait queue keeps operations in order.
    pub const fn lane(self) -> usize {
        self.lane
    }
}

impl LaneLayout {
    /// How many words the lanes take on a host with `cpus` CPUs.
    pub const fn words(self, cpus: usize) -> usize {
        match self {
            LaneLayout::Single => 1,
            LaneLayout::PerCpu => cpus.wrapping_mul(PER_CPU_STRIDE),
            LaneLayout::Rows(_) => ROW_LANES,
        }
    }

    /// [`DETOUR`] if the short path cannot check this limit. For `PerCpu` it admits every
    /// operation, for `Rows` one member a row, and for `Single` it compares with the limit itself.
    pub(super) fn detour(self, limit: u32) -> u64 {
        let short = match self {
            LaneLayout::Single => true,
            LaneLayout::PerCpu => limit == UNLIMITED,
            LaneLayout::Rows(_) => limit >= 1,
        };
        match short {
            true => 0,
            false => DETOUR,
        }
    }
}

/// Whether one more permit fits into a lane, by the lane's own word.
pub(super) fn fits(layout: LaneLayout, word: u64, place: Place, limit: u32) -> bool {
    match layout {
        LaneLayout::Single | LaneLayout::PerCpu => word & COUNT < limit.into(),
        LaneLayout::Rows(fields) => {
            !fields.is_full(word, place.unit)
                && fields.members((word & COUNT).wrapping_add(place.unit.0)) <= limit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r19_fields_count_every_member_of_every_width() {
        for members in 1..=16 {
            let fields = Fields::new(members);
            let last = fields.unit(members - 1).0;
            assert!(last <= COUNT && last.leading_zeros() >= 4);
            let top = (1 << fields.bits) - 1;
            let mut word = 0;
            for member in 0..members {
                let unit = fields.unit(member);
                for count in [1, 2, top / 2, top / 2 + 1, top] {
                    let word = word + count * unit.0;
                    assert_eq!(fields.members(word), u32::from(member) + 1);
                    assert_eq!(fields.is_full(word, unit), count == top);
                }
                word += top * unit.0;
                assert_eq!(word & !COUNT, 0);
            }
        }
    }

    #[test]
    fn r19_sectors_are_in_one_row_or_in_more() {
        for sectors in [8, 24, 128, 1000, 1024] {
            let chunk = Chunk::new(sectors);
            let sectors = u64::from(sectors);
            for first in [0, sectors, 7 * sectors, 1_000_003 * sectors] {
                for place in [0, 1, 7, sectors / 2, sectors - 1] {
                    for bytes in [512, 1024, 4096, 512 * sectors as u32, u32::MAX - 511] {
                        let fits = place * 512 + u64::from(bytes) <= sectors * 512;
                        let row = chunk.row(first + place, bytes);
                        assert_eq!(row, fits.then_some(first), "{place} {bytes}");
                    }
                    assert_eq!(chunk.row(first + place, 0), None);
                }
            }
        }
        assert_eq!(Chunk::new(0).row(5, 512), None);
    }
}
