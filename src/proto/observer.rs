// SPDX-License-Identifier: GPL-2.0
//! How long a silence lasts, and what proves it.
//!
//! An observer watches one value on each member: the owner's heartbeat counter, its own mailbox
//! while joining, or the ballots of a portion that no controller has owned yet. It compares values,
//! never the clocks of two hosts, and measures their age by the local clock alone.
//!
//! ```text
//! unknown --first read that shows a value--> since r_m --the same value--> since r_m
//!                                              ^   |
//!                                              +---+ another value: r_m := completion of that read
//! ```
//!
//! * `r_m` is taken *after completion* of the read that first showed the value [R24, R27].
//! * A read that failed or was not valid is no information, so the caller does not report it [R26].
//! * Silence is proved by *one* read round that shows, on every member of a majority Q, the value
//!   that started `r_m`; the whole round is issued at or after `r_m + W` for every member of Q
//!   [R24].
//! * All timers are reset when the epoch changes: [`Observer::reset`].
//!
//! Caller: [`super::controller`], with one observer for each watched value.

use super::codec::ids::MAX_MEMBERS;

/// The timers of one watched value, one for each member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observer {
    seen: [Option<Seen>; MAX_MEMBERS as usize],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    value: u64,
    since_ns: u64,
}

impl Observer {
    /// An observer that has seen nothing.
    pub const fn new() -> Self {
        Self {
            seen: [None; MAX_MEMBERS as usize],
        }
    }

    /// Forgets all timers: the epoch changed, or the evidence was disproved.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Resets the timer of a member, because the value that it showed may be long past.
    pub fn forget(&mut self, member: u8) {
        if let Some(seen) = self.seen.get_mut(usize::from(member)) {
            *seen = None;
        }
    }

    /// A read of `member` completed at `completed_ns` and showed `value`. `None` if the record has
    /// no such value: the watched controller has not written there, or its next incarnation has
    /// (after it listened to the same silence).
    ///
    /// Returns whether the value replaced an earlier one on this member. The first observation also
    /// starts a timer, but is no sign of life.
    pub fn saw(&mut self, member: u8, value: Option<u64>, completed_ns: u64) -> bool {
        let Some(seen) = self.seen.get_mut(usize::from(member)) else {
            return false;
        };
        match seen {
            Some(old) if value.is_none_or(|value| old.value == value) => false,
            _ => {
                let value = value.unwrap_or(0);
                seen.replace(Seen {
                    value,
                    since_ns: completed_ns,
                })
                .is_some()
            }
        }
    }

    /// Whether a round proves a silence of `window_ns`. The round was issued at `issued_ns`, and
    /// each of the `confirmed` members (a bit each) showed its watched value.
    pub fn is_silent(&self, confirmed: u16, issued_ns: u64, window_ns: u64, majority: u8) -> bool {
        let quorum = (0u8..).zip(&self.seen).filter(|(member, seen)| {
            confirmed & member_bit(*member) != 0
                && seen.is_some_and(|seen| ripe_at(seen, window_ns) <= issued_ns)
        });
        quorum.count() >= usize::from(majority)
    }

    /// The earliest local time after `after_ns` at which a round may be issued that can prove the
    /// silence, if no value changes until then.
    ///
    /// A round ends with the first majority that answers, and a member of it may still be within
    /// its window. If the round proved nothing, the next time is that at which the window of one
    /// more member has passed.
    pub fn ripe_ns(&self, window_ns: u64, majority: u8, after_ns: u64) -> Option<u64> {
        let ripe = |seen: &Seen| ripe_at(*seen, window_ns);
        let times = || self.seen.iter().flatten().map(ripe);
        let enough = |at: &u64| times().filter(|time| time <= at).count() >= usize::from(majority);
        times().filter(|&at| at > after_ns).filter(enough).min()
    }

    /// The highest value that any member shows; `None` if no value was ever seen. For a value that
    /// only counts up it is the latest one.
    pub fn latest(&self) -> Option<u64> {
        self.seen.iter().flatten().map(|seen| seen.value).max()
    }

    /// The local time of the last change on any member; `None` if no value was ever seen.
    pub fn last_change_ns(&self) -> Option<u64> {
        self.seen.iter().flatten().map(|seen| seen.since_ns).max()
    }
}

#[cfg(feature = "model")]
impl Observer {
    /// The same observer with the time of every change replaced.
    #[must_use]
    pub fn with_since(mut self, since: impl Fn(u64) -> u64) -> Self {
        for seen in self.seen.iter_mut().flatten() {
            seen.since_ns = since(seen.since_ns);
        }
        self
    }

    /// The same observer with the members renumbered: member `n` was `from[n]`.
    #[must_use]
    pub fn with_members(&self, from: &[u8]) -> Self {
        let mut same = self.clone();
        for (seen, &from) in same.seen.iter_mut().zip(from) {
            *seen = self.of_member(from);
        }
        same
    }

    /// The value and time of one member, as numbers to compare.
    pub fn remembers(&self, member: u8) -> Option<(u64, u64)> {
        self.of_member(member)
            .map(|seen| (seen.value, seen.since_ns))
    }

    fn of_member(&self, member: u8) -> Option<Seen> {
        self.seen.get(usize::from(member)).copied().flatten()
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

fn ripe_at(seen: Seen, window_ns: u64) -> u64 {
    seen.since_ns.saturating_add(window_ns)
}

/// The bit of a member in a set of members; 0 for a number that is no member.
pub const fn member_bit(member: u8) -> u16 {
    if member < MAX_MEMBERS {
        1 << member
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r42_a_member_has_a_bit_of_its_own_and_other_numbers_none() {
        let all = (0..MAX_MEMBERS).map(member_bit);
        assert_eq!(all.sum::<u16>(), u16::MAX);
        assert_eq!([MAX_MEMBERS, u8::MAX].map(member_bit), [0, 0]);
    }

    const W: u64 = 1_000;

    #[test]
    fn r24_silence_needs_a_round_issued_past_the_window() {
        let mut observer = Observer::new();
        observer.saw(0, Some(7), 100);
        assert!(!observer.is_silent(0b1, 1_099, W, 1));
        assert!(observer.is_silent(0b1, 1_100, W, 1));
    }

    #[test]
    fn r27_the_first_observation_starts_the_timer_and_a_change_restarts_it() {
        let mut observer = Observer::new();
        assert!(!observer.saw(0, Some(7), 100));
        assert!(!observer.saw(0, Some(7), 600));
        assert!(observer.saw(0, Some(8), 700));
        assert!(!observer.is_silent(0b1, 1_600, W, 1));
        assert!(observer.is_silent(0b1, 1_700, W, 1));
    }

    #[test]
    fn r35_a_record_of_the_next_incarnation_is_no_sign_of_life() {
        let mut observer = Observer::new();
        observer.saw(0, Some(7), 100);
        assert!(!observer.saw(0, None, 900));
        assert!(observer.is_silent(0b1, 1_100, W, 1));
        // A value that was never seen is silence as well.
        let mut observer = Observer::new();
        observer.saw(0, None, 100);
        assert!(observer.is_silent(0b1, 1_100, W, 1));
        assert!(observer.saw(0, Some(1), 1_200));
    }

    #[test]
    fn r26_a_dead_member_neither_starts_nor_stops_a_timer() {
        let mut observer = Observer::new();
        observer.saw(0, Some(7), 100);
        observer.saw(1, Some(7), 120);
        assert_eq!(observer.ripe_ns(W, 2, 0), Some(1_120));
        assert!(observer.is_silent(0b011, 1_120, W, 2));
    }

    #[test]
    fn r24_confirmations_of_different_rounds_do_not_add_up() {
        let mut observer = Observer::new();
        for member in 0..3 {
            observer.saw(member, Some(7), 100);
        }
        assert!(!observer.is_silent(0b001, 1_100, W, 2));
        observer.saw(0, Some(8), 1_150);
        assert!(!observer.is_silent(0b011, 1_200, W, 2));
    }

    #[test]
    fn r42_a_minority_proves_nothing() {
        let mut observer = Observer::new();
        observer.saw(0, Some(7), 100);
        assert!(!observer.is_silent(0b1, 9_999, W, 2));
        assert_eq!(observer.ripe_ns(W, 2, 0), None);
    }

    #[test]
    fn r24_a_round_that_proved_nothing_is_repeated_when_one_member_more_is_ripe() {
        let mut observer = Observer::new();
        for (member, at_ns) in [(0, 100), (1, 120), (2, 150)] {
            observer.saw(member, Some(7), at_ns);
        }
        assert_eq!(observer.ripe_ns(W, 2, 0), Some(1_120));
        assert!(
            !observer.is_silent(0b101, 1_120, W, 2),
            "the third came first"
        );
        assert_eq!(observer.ripe_ns(W, 2, 1_120), Some(1_150));
        assert!(observer.is_silent(0b101, 1_150, W, 2));
        assert_eq!(observer.ripe_ns(W, 2, 1_150), None);
    }
}
