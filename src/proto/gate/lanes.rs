// SPDX-License-Identifier: GPL-2.0
//! The lanes of a gate: where a permit is counted, and how.
//!
//! Pure values: any caller, no locking.

/// A limit that is never reached in practice: what `external` redundancy has.
pub const UNLIMITED: u32 = (1 << 20) - 1;

/// Lanes of [`LaneLayout::Rows`]: a power of two, many more than operations are open at once.
pub const ROW_LANES: usize = 1 << ROW_LANE_BITS;

/// From one lane of [`LaneLayout::PerCpu`] to the next, in words: no two share a cache line.
pub const PER_CPU_STRIDE: usize = 8;

const ROW_LANE_BITS: u32 = 10;
const SECTOR_SHIFT: u32 = 9;
/// Bits of a lane that count.
pub(super) const COUNT_BITS: u32 = 60;
pub(super) const COUNT: u64 = (1 << COUNT_BITS) - 1;
pub(super) const WATCH: u64 = 1 << 62;
pub(super) const WAITERS: u64 = 1 << 63;
/// In the word for many rows: the limit is one that the short way does not look at.
pub(super) const DETOUR: u64 = 1 << 61;
/// There, too: nobody has had a permit yet that counts for [`Count::peak`].
pub(super) const FIRST: u64 = 1 << 60;
/// The word that is charged for operations on many rows is no lane.
const WIDE: usize = usize::MAX;

/// How permits are counted. What comes first here is asked for first, and costs least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneLayout {
    /// What counts is how many members have open permits in one stripe row.
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
    /// The bits of the lowest one.
    ones: u64,
    /// The highest bit of every field, and all bits below it.
    high: u64,
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
        // All ones below the highest bit carry into it from every field that is not zero.
        (((word & self.low).wrapping_add(self.low) | word) & self.high).count_ones()
    }

    /// Whether the field of `unit` cannot count any further.
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

/// One open permit, in the place of a lane where it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit(pub(super) u64);

impl Unit {
    /// Where only the number of permits counts.
    pub const ONE: Unit = Unit(1);
}

/// How long a stripe row is on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    sectors: u64,
    /// What is left of a sector's number in its row, and where that ends: if the length is a power
    /// of two. Else nothing ends in time, and rows are found by a division.
    mask: u64,
    end: u64,
}

impl Chunk {
    /// Rows of so many sectors.
    pub fn new(sectors: u32) -> Self {
        let is_power = sectors.is_power_of_two();
        let sectors = u64::from(sectors);
        Self {
            sectors,
            mask: sectors.wrapping_sub(1),
            end: if is_power { sectors } else { 0 },
        }
    }

    /// The first sector of the only row that some bytes are in; `None` if there are more rows, or
    /// no bytes.
    #[inline(always)]
    pub fn row(&self, sector: u64, bytes: u32) -> Option<u64> {
        let place = sector & self.mask;
        // Of no bytes the last one is very far away.
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

/// Where an operation is charged: chosen once, remembered until its permit comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) unit: Unit,
    /// As wide as an index: what is narrower costs an instruction.
    pub(super) lane: usize,
}

impl Place {
    /// The only lane there is.
    pub const ONE: Place = Place {
        unit: Unit::ONE,
        lane: 0,
    };

    /// The lane of a CPU; any will do, the one that runs is the fastest.
    #[inline]
    pub const fn cpu(cpu: u32) -> Self {
        Self {
            unit: Unit::ONE,
            lane: cpu.wrapping_mul(PER_CPU_STRIDE as u32) as usize,
        }
    }

    /// A member in a stripe row, which may be named by any number of its own.
    #[inline]
    pub const fn row(unit: Unit, row: u64) -> Self {
        // Multiplicative hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
        let hash = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            unit,
            lane: (hash >> (64 - ROW_LANE_BITS)) as usize,
        }
    }

    /// A member in more rows than one.
    #[inline]
    pub const fn rows(unit: Unit) -> Self {
        Self { unit, lane: WIDE }
    }

    /// Whether it counts for every row.
    pub const fn is_wide(self) -> bool {
        self.lane == WIDE
    }

    /// The lane, to keep what waits for it in order.
    pub const fn lane(self) -> usize {
        self.lane
    }
}

impl LaneLayout {
    /// How many words the lanes take on a machine with so many CPUs.
    pub const fn words(self, cpus: usize) -> usize {
        match self {
            LaneLayout::Single => 1,
            LaneLayout::PerCpu => cpus.wrapping_mul(PER_CPU_STRIDE),
            LaneLayout::Rows(_) => ROW_LANES,
        }
    }

    /// [`DETOUR`] if the short way does not do for this limit: it takes whoever comes, or one
    /// member for a row; where each permit counts it looks at the limit itself.
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

/// Whether one more fits into a lane, as far as the lane itself says.
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
