// SPDX-License-Identifier: GPL-2.0

//! The queue limits of the mapped device, while dm core computes them.
//!
//! dm core combines the limits of all devices of a target and lets the target adjust the result
//! (`Target::io_hints`). Then it combines the limits of all targets of the table.
//!
//! C header: `include/linux/blkdev.h`, `struct queue_limits`; caller: `dm_calculate_queue_limits()`
//! in `drivers/md/dm-table.c`.

use super::bindings;

/// The queue limits of a target.
pub struct QueueLimits<'a>(&'a mut bindings::queue_limits);

impl<'a> QueueLimits<'a> {
    /// Wraps the limits that dm core passed to a callback.
    pub(super) fn from_raw(limits: &'a mut bindings::queue_limits) -> Self {
        Self(limits)
    }

    /// Disables polling for completions. All bios then complete by interrupt.
    pub fn clear_poll(&mut self) {
        self.0.features &= !bindings::BLK_FEAT_POLL;
    }

    /// Disables atomic writes.
    pub fn clear_atomic_writes(&mut self) {
        self.0.features &= !bindings::BLK_FEAT_ATOMIC_WRITES;
    }

    /// Makes the block layer split reads, writes and zeroing at multiples of `sectors`.
    pub fn set_chunk_sectors(&mut self, sectors: u32) {
        self.0.chunk_sectors = sectors;
    }

    /// Returns the logical block size in bytes.
    pub fn logical_block_bytes(&self) -> u32 {
        self.0.logical_block_size
    }

    /// Raises the logical and the physical block size and the minimum size of a request to at least
    /// `bytes`, which must be a power of two.
    pub fn raise_block_bytes(&mut self, bytes: u32) {
        self.0.logical_block_size = self.0.logical_block_size.max(bytes);
        self.0.physical_block_size = self.0.physical_block_size.max(bytes);
        self.0.io_min = self.0.io_min.max(bytes);
    }

    /// Sets the preferred minimum and optimal sizes of a request, in bytes.
    pub fn set_io_sizes(&mut self, min_bytes: u32, optimal_bytes: u32) {
        self.0.io_min = min_bytes;
        self.0.io_opt = optimal_bytes;
    }

    /// Sets the maximum size and the granularity of a discard.
    pub fn set_discard(&mut self, max_sectors: u32, granularity_bytes: u32) {
        self.0.max_hw_discard_sectors = max_sectors;
        self.0.discard_granularity = granularity_bytes;
    }
}
