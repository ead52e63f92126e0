// SPDX-License-Identifier: GPL-2.0
//! Reigns: the terms of one controller that follow each other.
//!
//! Caller: the driver's engine. No locking.

/// Which terms of this controller follow each other without another controller's in between.
///
/// Told of each decided epoch as it becomes known. An epoch that was missed counts as another
/// controller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// The last decided epoch that is known.
    epoch: u64,
    /// The first epoch of the reign it belongs to; 0 if it is another controller's.
    since: u64,
}

impl Reign {
    /// Takes note of the highest decided epoch; `is_mine` if it is this controller's.
    pub fn note(&mut self, epoch: u64, is_mine: bool) {
        let follows = epoch == self.epoch || epoch == self.epoch.wrapping_add(1);
        self.since = match (is_mine, follows && self.since != 0) {
            (true, true) => self.since,
            (true, false) => epoch,
            (false, _) => 0,
        };
        self.epoch = epoch;
    }

    /// The first epoch of the reign that `epoch` belongs to.
    pub fn since(&self, epoch: u64) -> u64 {
        match self.epoch == epoch && self.since != 0 {
            true => self.since,
            false => epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r55_a_reign_ends_with_the_term_of_another_controller() {
        let mut reign = Reign::default();
        let mut since = |epoch, is_mine| {
            reign.note(epoch, is_mine);
            reign.since(epoch)
        };
        assert_eq!(since(4, true), 4, "the first term that is known");
        assert_eq!(since(5, true), 4, "consecutive terms are one reign");
        assert_eq!(since(5, true), 4, "the same term is told of many times");
        assert_eq!(since(6, false), 6);
        assert_eq!(since(7, true), 7, "another controller's was before");
        assert_eq!(since(9, true), 9, "nobody knows whose the one between was");
        assert_eq!(reign.since(10), 10, "a term that was not told of");
    }
}
