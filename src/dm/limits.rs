// SPDX-License-Identifier: GPL-2.0

//! The limits of the mapped device's queue, while dm core works them out.
//!
//! dm core combines the limits of all devices below and then lets each target adjust the result
//! ([`Target::io_hints`](super::Target::io_hints)); for a table of several targets the adjusted
//! limits are combined once more.
//!
//! C header: `include/linux/blkdev.h`, `struct queue_limits`; caller: `dm_calculate_queue_limits()`
//! in `drivers/md/dm-table.c`.

use super::bindings;

/// Queue limits under construction.
pub struct QueueLimits<'a>(&'a mut bindings::queue_limits);

impl<'a> QueueLimits<'a> {
    /// Wraps the limits passed to a callback.
    pub(super) fn from_raw(limits: &'a mut bindings::queue_limits) -> Self {
        Self(limits)
    }

    /// Takes away polling for completions: bios then complete by interrupt, and not only when
    /// their submitter gets round to asking.
    pub fn clear_poll(&mut self) {
        self.0.features &= !bindings::BLK_FEAT_POLL;
    }

    /// Takes away atomic writes.
    pub fn clear_atomic_writes(&mut self) {
        self.0.features &= !bindings::BLK_FEAT_ATOMIC_WRITES;
    }

    /// Lets reads, writes and zeroing end at multiples of `sectors` at the latest.
    pub fn set_chunk_sectors(&mut self, sectors: u32) {
        self.0.chunk_sectors = sectors;
    }

    /// Returns the smallest unit that can be addressed, in bytes.
    pub fn logical_block_bytes(&self) -> u32 {
        self.0.logical_block_size
    }

    /// Raises the smallest unit that can be addressed to at least `bytes`, a power of two, and the
    /// other block sizes with it.
    pub fn raise_block_bytes(&mut self, bytes: u32) {
        self.0.logical_block_size = self.0.logical_block_size.max(bytes);
        self.0.physical_block_size = self.0.physical_block_size.max(bytes);
        self.0.io_min = self.0.io_min.max(bytes);
    }

    /// Sets the preferred sizes of requests, in bytes.
    pub fn set_io_sizes(&mut self, min_bytes: u32, optimal_bytes: u32) {
        self.0.io_min = min_bytes;
        self.0.io_opt = optimal_bytes;
    }

    /// Limits discards to `max_sectors` each, in units of `granularity_bytes`.
    pub fn set_discard(&mut self, max_sectors: u32, granularity_bytes: u32) {
        self.0.max_hw_discard_sectors = max_sectors;
        self.0.discard_granularity = granularity_bytes;
    }
}
