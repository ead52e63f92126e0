// SPDX-License-Identifier: GPL-2.0

//! What the gate sees of a table.
//!
//! The gate handles bios of [`LeaseTarget`], whose callbacks are in [`crate::driver::target`]. It
//! reaches the private data of a table through [`GatedTable`] only.
//!
//! Locking: none. The flags are one atomic word; everything else never changes.

use super::PortionGate;
use crate::{
    dm::{Bio, DmDevice, Word64},
    driver::deferred::Deferred,
    proto::{
        gate::lanes::Unit,
        words::table::{FailWith, FeatureArgs, OnFull},
    },
};

/// The type that stands for the target `lease`.
pub struct LeaseTarget;

/// A table, as the gate sees it.
pub trait GatedTable<'ti> {
    /// The gate of its portion.
    fn gate(&self) -> &PortionGate;

    /// The number of the table among all tables.
    fn id(&self) -> u64;

    /// The device of its member.
    fn device(&self) -> DmDevice<'ti>;

    /// The first sector of a bio on the member.
    fn sector(&self, bio: &Bio) -> u64;

    /// What the table line says about its bios.
    fn rules(&self) -> &Rules;

    /// The flags of the table.
    fn flags(&self) -> &TableFlags;

    /// The deferred bios of the mapped device.
    fn deferred(&self) -> &Deferred;
}

/// What the gate needs to know of a table for each bio.
pub struct Rules {
    /// The member.
    pub member: u8,
    /// What an operation on it counts in a stripe row.
    pub unit: Unit,
    /// State-changing bios are refused whatever the lease says.
    pub read_only: bool,
    /// What happens to a bio beyond the limit.
    pub on_full: OnFull,
    /// How refused and late bios fail.
    pub fail_with: FailWith,
    /// How long they are kept after a lapse.
    pub lapse_hold_ms: u32,
}

impl Rules {
    /// Brings together what the constructor knows.
    pub fn of(member: u8, unit: Unit, features: &FeatureArgs, read_only: bool) -> Self {
        Self {
            member,
            unit,
            read_only,
            on_full: features.on_full,
            fail_with: features.fail_with,
            lapse_hold_ms: features.lapse_hold_ms,
        }
    }
}

/// What is unusual about a table: with any of it, each state-changing bio takes the cold path.
pub struct TableFlags(Word64);

impl TableFlags {
    /// It was loaded read-only.
    pub const READ_ONLY: u64 = 1 << 0;
    /// A noflush suspend has begun and not ended.
    pub const NOFLUSH: u64 = 1 << 1;
    /// Bios may come that were deferred.
    pub const DEFERRED: u64 = 1 << 2;
    /// It was not resumed yet, and the table before it belongs to another session.
    pub const FOREIGN: u64 = 1 << 3;
    /// The device is a disk that was replaced: reads are refused, too [R56].
    pub const OUTDATED: u64 = 1 << 4;

    /// With those of these from the beginning that are true.
    pub fn new(bits: &[(bool, u64)]) -> Self {
        let set = bits.iter().filter(|(is_true, _)| *is_true);
        Self(Word64::new(set.fold(0, |word, (_, bits)| word | bits)))
    }

    /// Whether there is anything.
    #[inline(always)]
    pub fn is_any(&self) -> bool {
        self.0.load() != 0
    }

    /// Whether one of these is there.
    #[inline(always)]
    pub fn has(&self, bits: u64) -> bool {
        self.0.peek() & bits != 0
    }

    /// Adds these.
    pub fn set(&self, bits: u64) {
        self.change(|word| word | bits);
    }

    /// Takes these away.
    pub fn clear(&self, bits: u64) {
        self.change(|word| word & !bits);
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let mut word = self.0.load();
        while let Err(found) = self.0.compare_exchange(word, change(word)) {
            word = found;
        }
    }
}
