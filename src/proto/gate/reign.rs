// SPDX-License-Identifier: GPL-2.0
//! Reigns: the terms of one controller that follow each other.
//!
//! Caller: the driver's engine. No locking.

/// The reign of a controller: which of its terms follow each other without a term of another
/// controller in between.
///
/// The owner calls [`Reign::note`] for each decided epoch that it learns. An epoch that it missed
/// counts as one of another controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// The last decided epoch that is known.
    epoch: u64,
    /// The first epoch of the reign to which `epoch` belongs; 0 if `epoch` is another controller's.
    since: u64,
}

impl Reign {
    /// Notes the highest decided epoch. `is_mine` if this controller owns it.
    pub fn note(&mut self, epoch: u64, is_mine: bool) {
        let follows = epoch == self.epoch || epoch == self.epoch.wrapping_add(1);
        self.since = match (is_mine, follows && self.since != 0) {
            (true, true) => self.since,
            (true, false) => epoch,
            (false, _) => 0,
        };
        self.epoch = epoch;
    }

    /// The first epoch of the reign to which `epoch` belongs.
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
        assert_eq!(since(5, true), 4, "the same term, noted again");
        assert_eq!(since(6, false), 6);
        assert_eq!(since(7, true), 7, "another controller's was before");
        assert_eq!(
            since(9, true),
            9,
            "the owner of the term between is unknown"
        );
        assert_eq!(reign.since(10), 10, "a term that was not noted");
    }
}
