// SPDX-License-Identifier: GPL-2.0

//! What the gate sees of a table.
//!
//! The gate handles bios of [`LeaseTarget`], whose callbacks are in [`crate::driver::target`]. It
//! reaches the private data of a table through [`GatedTable`] only.
//!
//! Locking: none. The flags are one atomic word; everything else never changes.

use super::PortionGate;
use crate::{
    dm::{Bio, BlkStatus, DmDevice, Word64},
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

    /// The rules for its bios.
    fn rules(&self) -> &Rules;

    /// The flags of the table.
    fn flags(&self) -> &TableFlags;

    /// The deferred bios of the mapped device.
    fn deferred(&self) -> &Deferred;
}

/// What the table line and the superblock say about the bios of a table.
pub struct Rules {
    /// The member.
    pub member: u8,
    /// How much an operation on the member counts in a stripe row.
    pub unit: Unit,
    /// Whether state-changing bios are refused even under a valid lease.
    pub read_only: bool,
    /// What happens to a bio beyond the limit.
    pub on_full: OnFull,
    /// How refused and late bios fail.
    pub fail_with: FailWith,
    /// How long refused and late bios are held back after a lapse. A refused bio that must not wait
    /// (`REQ_NOWAIT`) fails at once.
    pub lapse_hold_ms: u32,
}

impl Rules {
    /// The rules of a table of `member` with these features.
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

/// The flags of a table. If any flag is set, each state-changing bio takes the slow path.
pub struct TableFlags(Word64);

impl TableFlags {
    /// The table was loaded read-only.
    pub const READ_ONLY: u64 = 1 << 0;
    /// A noflush suspend has begun and not ended.
    pub const NOFLUSH: u64 = 1 << 1;
    /// Deferred bios may come.
    pub const DEFERRED: u64 = 1 << 2;
    /// The table was not resumed yet, and the table before it belongs to another session.
    pub const FOREIGN: u64 = 1 << 3;
    /// The device is a former disk of its member, so reads are refused too [R56].
    pub const OUTDATED: u64 = 1 << 4;

    /// The flags whose condition is true.
    pub fn new(bits: &[(bool, u64)]) -> Self {
        let set = bits.iter().filter(|(is_true, _)| *is_true);
        Self(Word64::new(set.fold(0, |word, (_, bits)| word | bits)))
    }

    /// Whether any flag is set.
    #[inline(always)]
    pub fn is_any(&self) -> bool {
        self.0.load() != 0
    }

    /// Whether one of these flags is set.
    #[inline(always)]
    pub fn has(&self, bits: u64) -> bool {
        self.0.peek() & bits != 0
    }

    /// Sets these flags.
    pub fn set(&self, bits: u64) {
        self.change(|word| word | bits);
    }

    /// Clears these flags.
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

/// The status of a bio that is refused or late.
pub(super) fn status_of(fail_with: FailWith) -> BlkStatus {
    match fail_with {
        FailWith::ResvConflict => BlkStatus::RESV_CONFLICT,
        FailWith::IoErr => BlkStatus::IOERR,
        FailWith::Medium => BlkStatus::MEDIUM,
    }
}
