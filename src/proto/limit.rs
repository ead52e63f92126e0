// SPDX-License-Identifier: GPL-2.0
//! The batch limit M: how many strays the redundancy can repair.
//!
//! | symbol | meaning |
//! |---|---|
//! | m | failures that each protection group survives: parity `m`, or mirror copies minus one |
//! | f | members that are failed or rebuilding now (message `degraded`) |
//! | q | budget that is still charged for old terms, until they are drained and repaired |
//! | M | permits that may be open: the most strays that are possible if fencing fails |
//!
//! A stray is a block with old but plausible content. If a layer above recognises strays
//! (`detect`), they are erasures and cost one each. Otherwise they are errors at unknown places and
//! cost two each:
//!
//! ```text
//! detected:    M = m - f - q
//! undetected:  M = floor((m - f) / 2) - q
//! external:    nothing repairs strays, there is no M: only the window protects
//! ```
//!
//! If M is 0, `exhausted` says whether state-changing operations are held (`stop`) or continue
//! under time alone (`window`) [R15]. Pure functions: any caller, no locking.

use super::codec::ballot::LIMIT_UNLIMITED;
use super::codec::block::{BLOCK_SECTORS, SECTOR_SIZE};
use super::time::MAX_DURATION_NS;
use core::fmt;

/// The largest stripe chunk: 1 GiB.
pub const MAX_CHUNK_SECTORS: u32 = (1 << 30) / SECTOR_SIZE as u32;

/// "Under time alone" in a ballot record; a batch limit is never that large.
pub const LIMIT_WINDOW: u32 = LIMIT_UNLIMITED - 1;

/// The redundancy that repairs strays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedundancyKind {
    /// Protection groups with this many parity members.
    Parity(u8),
    /// This many copies of the data.
    Mirror(u8),
    /// No redundancy that this portion knows of repairs strays.
    External,
}

impl RedundancyKind {
    /// m: failures each protection group survives; `None` for [`RedundancyKind::External`].
    pub const fn failures(self) -> Option<u32> {
        match self {
            RedundancyKind::Parity(parity) => Some(parity as u32),
            RedundancyKind::Mirror(copies) => Some(copies.saturating_sub(1) as u32),
            RedundancyKind::External => None,
        }
    }
}

/// How permits are counted against M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counting {
    /// Every open permit counts. Always valid.
    Ops,
    /// The number that counts is that of the members with open permits in one stripe row. For
    /// static placement only.
    Stripe {
        /// The chunk: the length of a row on one member.
        chunk_sectors: u32,
    },
}

/// What happens to state-changing operations while M is 0 [R15].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exhausted {
    /// Operations are held.
    Stop,
    /// Operations continue, protected by time alone.
    Window,
}

/// The redundancy of a portion, as stated when it was formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Redundancy {
    /// The redundancy that repairs strays.
    pub kind: RedundancyKind,
    /// Whether a layer above recognises strays (end-to-end checksums).
    pub detect: bool,
    /// The configured batch limit: at most the M of a healthy portion, and 0 if there is no M or it
    /// is 0.
    pub batch: u32,
    /// How permits are counted.
    pub counting: Counting,
    /// What happens while M is 0.
    pub exhausted: Exhausted,
    /// How long after the end of the old owner's term the term counts as drained; `None` for never.
    /// This is a time of its own, and not D.
    pub drain_ns: Option<u64>,
}

/// Why a redundancy is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedundancyError {
    /// Parity 0.
    NoParity,
    /// A mirror of fewer than two copies.
    NoCopies,
    /// Detection without redundancy that could repair the detected blocks.
    DetectWithoutRedundancy,
    /// A batch limit without redundancy to derive it from.
    BatchWithoutRedundancy,
    /// A batch limit where the formula yields 0.
    BatchWithoutRoom,
    /// Batch limit 0 where the formula yields more.
    BatchZero,
    /// A batch limit above M.
    BatchTooLarge {
        /// M of the healthy portion.
        limit: u32,
    },
    /// Counting by stripe rows without a limit.
    StripeWithoutRedundancy,
    /// A chunk of zero, or one that is not a multiple of a block.
    ChunkNotBlocks,
    /// A chunk above [`MAX_CHUNK_SECTORS`].
    ChunkTooLarge,
    /// A drain time of zero.
    DrainZero,
    /// A drain time above [`MAX_DURATION_NS`].
    DrainTooLong,
}

impl fmt::Display for RedundancyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NoParity => "parity must be at least 1 (without redundancy: external)",
            Self::NoCopies => "a mirror has at least 2 copies (without redundancy: external)",
            Self::DetectWithoutRedundancy => {
                "external redundancy cannot repair strays, detected or not"
            }
            Self::BatchWithoutRedundancy => "external redundancy has no batch limit",
            Self::BatchWithoutRoom => {
                "this redundancy repairs no undetected stray: no batch limit can be set"
            }
            Self::BatchZero => "the batch limit must be at least 1",
            Self::BatchTooLarge { limit } => {
                return write!(
                    f,
                    "the batch limit is above {limit}, the strays that can be repaired"
                );
            }
            Self::StripeWithoutRedundancy => "counting by stripe needs parity or mirror redundancy",
            Self::ChunkNotBlocks => "the stripe chunk is not a multiple of 4 KiB",
            Self::ChunkTooLarge => "the stripe chunk is larger than 1 GiB",
            Self::DrainZero => "the drain time is zero",
            Self::DrainTooLong => "the drain time is longer than one day",
        })
    }
}

/// The batch limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No limit, because no redundancy repairs strays: `external`.
    Unlimited,
    /// M is 0, and the portion was formatted to continue under time alone.
    Window,
    /// At most this many permits; 0 holds all operations.
    Count(u32),
}

impl Limit {
    /// The limit as a ballot record stores it.
    pub const fn to_wire(self) -> u32 {
        match self {
            Limit::Unlimited => LIMIT_UNLIMITED,
            Limit::Window => LIMIT_WINDOW,
            Limit::Count(count) if count < LIMIT_WINDOW => count,
            Limit::Count(_) => LIMIT_WINDOW - 1,
        }
    }

    /// The limit that a ballot record stores.
    pub const fn from_wire(limit: u32) -> Limit {
        match limit {
            LIMIT_UNLIMITED => Limit::Unlimited,
            LIMIT_WINDOW => Limit::Window,
            count => Limit::Count(count),
        }
    }

    /// The charge of a term under this limit that ended uncleanly: the number of strays that it may
    /// have had open. Without a limit that is more than any redundancy repairs.
    pub const fn charge(self) -> u32 {
        match self {
            Limit::Count(count) => count,
            Limit::Unlimited | Limit::Window => u32::MAX,
        }
    }
}

/// Prints the limit as the status line has it.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Unlimited => f.write_str("unlimited"),
            Limit::Window => f.write_str("window"),
            Limit::Count(count) => fmt::Display::fmt(count, f),
        }
    }
}

/// M by the formula at the top, from m, f and q; never below 0.
pub const fn formula(m: u32, f: u32, q: u32, detect: bool) -> u32 {
    let left = m.saturating_sub(f);
    let strays = if detect { left } else { left / 2 };
    strays.saturating_sub(q)
}

impl Redundancy {
    /// No redundancy repairs strays: there is no limit, and no term is charged.
    pub const EXTERNAL: Self = Self {
        kind: RedundancyKind::External,
        detect: false,
        batch: 0,
        counting: Counting::Ops,
        exhausted: Exhausted::Stop,
        drain_ns: None,
    };

    /// M while no member has failed and no term is charged; `None` for external redundancy.
    pub const fn healthy_limit(&self) -> Option<u32> {
        match self.kind.failures() {
            Some(m) => Some(formula(m, 0, 0, self.detect)),
            None => None,
        }
    }

    /// The default batch limit of a format: half of M, so that a new owner can write while one old
    /// owner is undrained, but at least one if the formula yields more than 0.
    pub const fn default_batch(&self) -> u32 {
        match self.healthy_limit() {
            None | Some(0) => 0,
            Some(1) => 1,
            Some(limit) => limit / 2,
        }
    }

    /// The limit in force [R14], with `failed` members failed or rebuilding (f) and `charged`
    /// budget for old owners (q). `batch` is the limit of the table line, which can only lower it.
    pub const fn limit(&self, failed: u32, charged: u32, batch: Option<u32>) -> Limit {
        let Some(m) = self.kind.failures() else {
            return match batch {
                Some(batch) => Limit::Count(batch),
                None => Limit::Unlimited,
            };
        };
        let mut limit = formula(m, failed, charged, self.detect);
        if limit == 0 {
            return match self.exhausted {
                Exhausted::Stop => Limit::Count(0),
                Exhausted::Window => Limit::Window,
            };
        }
        if self.batch < limit {
            limit = self.batch;
        }
        match batch {
            Some(batch) if batch < limit => Limit::Count(batch),
            _ => Limit::Count(limit),
        }
    }

    /// Checks that the parts fit each other.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold, in the order of [`RedundancyError`].
    pub fn validate(&self) -> Result<(), RedundancyError> {
        match self.kind {
            RedundancyKind::Parity(0) => return Err(RedundancyError::NoParity),
            RedundancyKind::Mirror(0 | 1) => return Err(RedundancyError::NoCopies),
            RedundancyKind::External if self.detect => {
                return Err(RedundancyError::DetectWithoutRedundancy);
            }
            _ => {}
        }
        match (self.healthy_limit(), self.batch) {
            (None, 0) | (Some(0), 0) => {}
            (None, _) => return Err(RedundancyError::BatchWithoutRedundancy),
            (Some(0), _) => return Err(RedundancyError::BatchWithoutRoom),
            (Some(_), 0) => return Err(RedundancyError::BatchZero),
            (Some(limit), batch) if batch > limit => {
                return Err(RedundancyError::BatchTooLarge { limit });
            }
            _ => {}
        }
        self.validate_counting()?;
        match self.drain_ns {
            Some(0) => Err(RedundancyError::DrainZero),
            Some(drain_ns) if drain_ns > MAX_DURATION_NS => Err(RedundancyError::DrainTooLong),
            _ => Ok(()),
        }
    }

    fn validate_counting(&self) -> Result<(), RedundancyError> {
        let Counting::Stripe { chunk_sectors } = self.counting else {
            return Ok(());
        };
        if self.kind == RedundancyKind::External {
            return Err(RedundancyError::StripeWithoutRedundancy);
        }
        if chunk_sectors == 0 || u64::from(chunk_sectors) % BLOCK_SECTORS != 0 {
            return Err(RedundancyError::ChunkNotBlocks);
        }
        if chunk_sectors > MAX_CHUNK_SECTORS {
            return Err(RedundancyError::ChunkTooLarge);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
