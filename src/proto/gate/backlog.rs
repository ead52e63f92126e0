// SPDX-License-Identifier: GPL-2.0
//! The arrival time of the operations that a suspended device has held back.
//!
//! While a mapped device is suspended, dm core keeps the operations that are sent to it in a list.
//! After the resume it hands them to the gate as if they had just arrived. If another controller
//! owned the portion meanwhile, they must not pass [R55]. The operations do not say when they
//! arrived. But the epoch in which the device began to hold them back is known: no held operation
//! arrived in an earlier reign than that of this epoch. The gate treats all of them as if they had
//! arrived in it.
//!
//! ```text
//!   nothing --- begin(epoch): a suspend begins ---> held since that epoch
//!      ^                                              |    ^
//!      |                                              |    | begin: the first epoch stays
//!      +--- end(): dm core has mapped all of them ----+----+
//! ```
//!
//! The operations that the gate itself sent back to dm core are among them. They had waited for a
//! permit, so they arrived in the reign of that epoch; otherwise the gate would have refused them.
//!
//! Callers: the suspend hooks, one at a time, and the path of a bio ([`Backlog::arrived`]).
//! Locking: none.

use super::word::AtomicWord;

/// No operation is held back.
const NOTHING: u64 = u64::MAX;

/// A bit beside the epoch: more operations came back since the mark was sent.
const AGAIN: u64 = 1 << 63;

/// The operations that a mapped device has held back and not handed over yet.
pub struct Backlog<W> {
    /// The epoch in which it began to hold them back, or [`NOTHING`].
    since: W,
}

impl<W: AtomicWord> Backlog<W> {
    /// A device that has never been suspended.
    pub fn new() -> Self {
        Self {
            since: W::new(NOTHING),
        }
    }

    /// The device holds operations back from now on. `epoch` is that of the last lease.
    pub fn begin(&self, epoch: u64) {
        self.change(|since| match since {
            NOTHING => epoch & !AGAIN,
            // Operations of the earlier suspend may still be held back, and they are older.
            older => older | AGAIN,
        });
    }

    /// Notes that a mark is sent behind all operations that are held back now.
    pub fn mark(&self) {
        self.change(|since| match since {
            NOTHING => NOTHING,
            since => since & !AGAIN,
        });
    }

    /// Notes that the mark has arrived: no operation is held back any more, unless more came back
    /// behind the mark.
    pub fn end(&self) {
        self.change(|since| match since & AGAIN {
            0 => NOTHING,
            _ => since,
        });
    }

    /// Notes that the held operations were sent to another portion or controller, whose epochs mean
    /// nothing here.
    pub fn disown(&self) {
        if self.is_any() {
            self.since.store(0);
        }
    }

    /// Whether operations may be held back.
    pub fn is_any(&self) -> bool {
        self.since.load() != NOTHING
    }

    /// The epoch in which an operation arrived that comes to the gate in `epoch`. `was_held` if it
    /// may have been held back.
    pub fn arrived(&self, epoch: u64, was_held: bool) -> u64 {
        match was_held {
            true => (self.since.load() & !AGAIN).min(epoch),
            false => epoch,
        }
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let mut word = self.since.load();
        while let Err(found) = self.since.compare_exchange(word, change(word)) {
            word = found;
        }
    }
}

impl<W: AtomicWord> Default for Backlog<W> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn r55_held_operations_arrived_when_the_suspend_began() {
        let backlog = Backlog::<AtomicU64>::new();
        assert!(!backlog.is_any());
        assert_eq!(backlog.arrived(9, true), 9, "nothing was held back");
        backlog.begin(7);
        assert!(backlog.is_any());
        assert_eq!(backlog.arrived(9, true), 7);
        assert_eq!(backlog.arrived(9, false), 9, "it came from elsewhere");
        backlog.end();
        assert_eq!(backlog.arrived(9, true), 9);
    }

    #[test]
    fn r55_a_second_suspend_does_not_make_held_operations_younger() {
        let backlog = Backlog::<AtomicU64>::new();
        backlog.begin(7);
        backlog.begin(9);
        assert_eq!(backlog.arrived(9, true), 7);
    }

    #[test]
    fn r55_the_mark_of_the_last_suspend_does_not_end_operations_that_came_back_since() {
        let backlog = Backlog::<AtomicU64>::new();
        backlog.begin(7);
        backlog.mark();
        // A noflush suspend begins while the mark is on its way, and an operation goes back.
        backlog.begin(7);
        backlog.end();
        assert_eq!(backlog.arrived(9, true), 7);
        backlog.mark();
        backlog.end();
        assert!(!backlog.is_any());
    }

    #[test]
    fn r55_operations_for_another_controller_arrived_before_every_epoch() {
        let backlog = Backlog::<AtomicU64>::new();
        backlog.disown();
        assert_eq!(backlog.arrived(9, true), 9, "nothing was held back");
        backlog.begin(7);
        backlog.disown();
        assert_eq!(backlog.arrived(9, true), 0);
    }
}
