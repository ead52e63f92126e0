// SPDX-License-Identifier: GPL-2.0
//! When the operations arrived that a suspended device has held back.
//!
//! While a mapped device is suspended, dm core keeps the operations that are sent to it in a list,
//! and hands them to the gate after the resume as if they came just then. Another controller may
//! have owned the portion meanwhile, and then they must not pass [R55]. Nothing in such an
//! operation says when it arrived. What is known is the epoch in which the device began to hold
//! operations back: none of them arrived in an earlier reign than that of this epoch, and all of
//! them are treated as if they had arrived in it.
//!
//! ```text
//!   nothing --- begin(epoch): a suspend begins ---> held since that epoch
//!      ^                                              |    ^
//!      |                                              |    | begin: the first epoch stays
//!      +--- end(): dm core has mapped all of them ----+----+
//! ```
//!
//! An operation that the gate itself sent back to dm core is among them. It waited for a permit, so
//! it arrived in the reign of that epoch or it would have been refused.
//!
//! Callers: the suspend hooks, one at a time; [`Backlog::arrived`] the path of a bio.
//! Locking: none.

use super::word::AtomicWord;

/// No operation is held back.
const NOTHING: u64 = u64::MAX;

/// Beside an epoch: more came back since the end of what was held back was marked.
const AGAIN: u64 = 1 << 63;

/// What a mapped device has held back and not handed over yet.
pub struct Backlog<W> {
    /// The epoch in which it began to, or [`NOTHING`].
    since: W,
}

impl<W: AtomicWord> Backlog<W> {
    /// A device that has never been suspended.
    pub fn new() -> Self {
        Self {
            since: W::new(NOTHING),
        }
    }

    /// From now on operations are held back; `epoch` is that of the last lease.
    pub fn begin(&self, epoch: u64) {
        self.change(|since| match since {
            NOTHING => epoch & !AGAIN,
            // What was held back before, and may still be, is older.
            older => older | AGAIN,
        });
    }

    /// A mark comes behind everything that is held back now.
    pub fn mark(&self) {
        self.change(|since| match since {
            NOTHING => NOTHING,
            since => since & !AGAIN,
        });
    }

    /// The mark has come: nothing is held back any more, unless more came back behind it.
    pub fn end(&self) {
        self.change(|since| match since & AGAIN {
            0 => NOTHING,
            _ => since,
        });
    }

    /// What is held back was sent to another portion or controller, whose epochs say nothing here.
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
    /// may be one that was held back.
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
    fn r55_what_was_held_back_arrived_when_the_suspend_began() {
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
    fn r55_a_second_suspend_does_not_make_what_is_still_held_back_younger() {
        let backlog = Backlog::<AtomicU64>::new();
        backlog.begin(7);
        backlog.begin(9);
        assert_eq!(backlog.arrived(9, true), 7);
    }

    #[test]
    fn r55_the_mark_of_the_last_suspend_does_not_end_what_came_back_since() {
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
    fn r55_what_was_sent_to_another_controller_arrived_before_every_epoch() {
        let backlog = Backlog::<AtomicU64>::new();
        backlog.disown();
        assert_eq!(backlog.arrived(9, true), 9, "nothing was held back");
        backlog.begin(7);
        backlog.disown();
        assert_eq!(backlog.arrived(9, true), 0);
    }
}
