// SPDX-License-Identifier: GPL-2.0
//! How a mailbox register is written so that it never goes backwards [R41].
//!
//! A register is two 4 KiB blocks on one member, written alternately by one controller alone.
//!
//! ```text
//!            read both own blocks            issue
//!   Unknown ----------------------> Ready ----------> Writing
//!      ^                              ^                |  |
//!      |                              +----------------+  |
//!      |                                 success          |
//!      +--------------------------------------------------+
//!                                   error
//! ```
//!
//! * Before the first write of an incarnation, and after every error, both blocks are read: the
//!   next write goes to the one that is *not* the newest valid one, and the sequence continues
//!   from the highest valid one. (Alternating by habit after an error destroys the last good
//!   block.)
//! * One write is in flight. A round that ends without this member leaves the write stale: its
//!   completion belongs to its own round and never to a later one.
//! * A ballot change counts here once *two* consecutive writes carried it, so that it is in both
//!   blocks; heartbeats and marks count after one.
//! * After an error the member does not count for ballots until a command that the fabric may
//!   still hold has had its time: the caller passes that moment to [`OwnRegister::failed`].
//! * For [`OwnRegister::holds`] the wait is left out where every command that may still land
//!   carries the very image that is in both blocks: such a command takes nothing back.
//!
//! Caller: [`super::controller`], two for each member.

use super::layout::Side;

/// The state of one own register on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnRegister {
    state: State,
    /// The highest sequence number known to be on the member, or given to a write.
    seq: u64,
    /// The image that the last successful write carried.
    image: u32,
    /// How many consecutive successful writes carried it (2 is enough to know).
    copies: u8,
    /// Ballots do not count here before this local time.
    counts_from_ns: u64,
    /// The one image that all commands carry which may still land before that time; 0 if they
    /// carry several, or if that is not known. Images are numbered from 1.
    doubtful: u32,
    /// Whether this incarnation has a successful write here.
    written: bool,
    /// Whether any write of this incarnation was given to the member.
    given: bool,
    /// The write in flight went to another device than the one that is here now.
    outdated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Unknown,
    Ready { target: Side },
    Writing { target: Side, image: u32 },
}

/// A write that the register allows: where it goes and which sequence number it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The block to write.
    pub side: Side,
    /// The sequence number to put into the record.
    pub seq: u64,
}

impl OwnRegister {
    /// A register of which nothing is known.
    pub const fn new() -> Self {
        Self {
            state: State::Unknown,
            seq: 0,
            image: 0,
            copies: 0,
            counts_from_ns: 0,
            doubtful: 0,
            written: false,
            given: false,
            outdated: false,
        }
    }

    /// Whether both blocks must be read before the next write.
    pub fn is_unknown(&self) -> bool {
        self.state == State::Unknown
    }

    /// Whether a write is in flight.
    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }

    /// Whether a successful write of this incarnation is on the member.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// Whether nothing of this incarnation was ever given to the member: what is on it is the
    /// truth, however often it is read.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Ready { .. }) && !self.given
    }

    /// Both blocks were read by a read that was issued while the register was unknown, or is fresh
    /// still: `newest` is the newest valid one and its sequence number, `None` when neither is
    /// valid.
    pub fn learned(&mut self, newest: Option<(Side, u64)>) {
        if !self.is_unknown() && !self.is_fresh() {
            return;
        }
        let target = newest.map_or(Side::A, |(side, _)| side.other());
        self.seq = self.seq.max(newest.map_or(0, |(_, seq)| seq));
        self.state = State::Ready { target };
    }

    /// Begins a write of image number `image`, if the register is ready for one.
    pub fn begin(&mut self, image: u32) -> Option<Write> {
        let State::Ready { target } = self.state else {
            return None;
        };
        self.seq = self.seq.checked_add(1)?;
        self.given = true;
        self.state = State::Writing { target, image };
        Some(Write {
            side: target,
            seq: self.seq,
        })
    }

    /// Another device is here: nothing is known of the register, and ballots do not count before
    /// `settled_ns`.
    pub fn forget(&mut self, settled_ns: u64) {
        let outdated = self.is_writing();
        *self = Self {
            state: self.state,
            outdated,
            counts_from_ns: self.counts_from_ns.max(settled_ns),
            ..Self::new()
        };
        if !outdated {
            self.state = State::Unknown;
        }
    }

    /// The write in flight succeeded.
    pub fn succeeded(&mut self) {
        let State::Writing { target, image } = self.state else {
            return;
        };
        if core::mem::take(&mut self.outdated) {
            self.state = State::Unknown;
            return;
        }
        self.copies = if image == self.image {
            self.copies.saturating_add(1).min(2)
        } else {
            1
        };
        self.image = image;
        self.written = true;
        self.state = State::Ready {
            target: target.other(),
        };
    }

    /// The write in flight failed at `now_ns`: what is on the member is in doubt, and a late copy
    /// of the command may land until `settled_ns`.
    pub fn failed(&mut self, now_ns: u64, settled_ns: u64) {
        let State::Writing { image, .. } = self.state else {
            return;
        };
        let settled = now_ns >= self.counts_from_ns;
        let same = settled || self.doubtful == image;
        self.doubtful = if same && !self.outdated { image } else { 0 };
        self.state = State::Unknown;
        self.outdated = false;
        self.copies = 0;
        self.counts_from_ns = self.counts_from_ns.max(settled_ns);
    }

    /// How many consecutive writes carried image number `image` so far (at most 2).
    pub fn copies(&self, image: u32) -> u8 {
        if self.image == image {
            self.copies
        } else {
            0
        }
    }

    /// Whether a ballot change that is image number `image` counts on this member.
    pub fn counts(&self, image: u32, now_ns: u64) -> bool {
        self.copies(image) >= 2 && now_ns >= self.counts_from_ns
    }

    /// Whether the member goes on saying what image number `image` says, whatever of this
    /// incarnation's commands may still land: both blocks say it, and so do those commands.
    pub fn holds(&self, image: u32, now_ns: u64) -> bool {
        let same = self.doubtful == image && image != 0;
        self.counts(image, now_ns) || self.copies(image) >= 2 && same
    }
}

#[cfg(feature = "model")]
impl OwnRegister {
    /// The same register when the image in force is called 1 and every other one 0.
    #[must_use]
    pub fn with_image(mut self, present: u32) -> Self {
        if let State::Writing { image, .. } = &mut self.state {
            *image = u32::from(*image == present);
        }
        self.copies = self.copies(present);
        self.image = u32::from(self.image == present);
        self.doubtful = u32::from(self.doubtful == present);
        self
    }

    /// The same register with its sequence number replaced.
    #[must_use]
    pub fn with_seq(mut self, seq: impl Fn(u64) -> u64) -> Self {
        self.seq = seq(self.seq);
        self
    }

    /// The same register with its two blocks exchanged.
    #[must_use]
    pub fn with_sides_swapped(mut self) -> Self {
        if let State::Ready { target } | State::Writing { target, .. } = &mut self.state {
            *target = target.other();
        }
        self
    }

    /// The same register with the moment from which ballots count replaced.
    #[must_use]
    pub fn with_counts_from(mut self, moment: impl Fn(u64) -> u64) -> Self {
        self.counts_from_ns = moment(self.counts_from_ns);
        if self.counts_from_ns == 0 {
            self.doubtful = 0;
        }
        self
    }
}

impl Default for OwnRegister {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(newest: Option<(Side, u64)>) -> OwnRegister {
        let mut register = OwnRegister::new();
        register.learned(newest);
        register
    }

    #[test]
    fn r41_nothing_is_written_before_both_blocks_were_read() {
        assert_eq!(OwnRegister::new().begin(1), None);
    }

    #[test]
    fn r41_the_sequence_continues_and_the_newest_block_is_spared() {
        let mut register = ready(Some((Side::B, 41)));
        assert_eq!(
            register.begin(1),
            Some(Write {
                side: Side::A,
                seq: 42
            })
        );
        assert_eq!(register.begin(1), None, "one write in flight");
        register.succeeded();
        assert_eq!(
            register.begin(1),
            Some(Write {
                side: Side::B,
                seq: 43
            })
        );
    }

    #[test]
    fn r36_what_lands_while_a_joiner_listens_is_continued_from() {
        let mut register = ready(Some((Side::A, 7)));
        // A command of the former incarnation lands late, and the next read shows it.
        register.learned(Some((Side::B, 8)));
        assert_eq!(
            register.begin(1),
            Some(Write {
                side: Side::A,
                seq: 9
            })
        );
        register.learned(Some((Side::B, 99)));
        register.succeeded();
        register.learned(Some((Side::B, 99)));
        assert_eq!(
            register.begin(1),
            Some(Write {
                side: Side::B,
                seq: 10
            })
        );
    }

    #[test]
    fn r41_an_error_is_followed_by_a_read_not_by_habit() {
        let mut register = ready(None);
        register.begin(1);
        register.succeeded();
        register.begin(1);
        register.failed(400, 500);
        assert_eq!(register.begin(1), None);
        // The failed write tore block B: A is still the newest valid one.
        register.learned(Some((Side::A, 1)));
        assert_eq!(
            register.begin(1),
            Some(Write {
                side: Side::B,
                seq: 3
            })
        );
    }

    #[test]
    fn r28_a_ballot_counts_when_it_is_in_both_blocks() {
        let mut register = ready(None);
        register.begin(7);
        register.succeeded();
        assert!(!register.counts(7, 0));
        register.begin(7);
        register.succeeded();
        assert!(register.counts(7, 0));
        register.begin(8);
        register.succeeded();
        assert!(!register.counts(8, 0));
        assert!(!register.counts(7, 0));
    }

    #[test]
    fn r41_a_write_to_a_device_that_went_says_nothing_of_the_one_that_came() {
        let mut register = ready(Some((Side::A, 7)));
        register.begin(7);
        register.forget(1_000);
        assert!(register.is_writing() && register.begin(7).is_none());
        register.succeeded();
        assert!(register.is_unknown() && !register.is_written());
        register.learned(Some((Side::B, 3)));
        assert_eq!(
            register.begin(7),
            Some(Write {
                side: Side::A,
                seq: 4
            })
        );
    }

    #[test]
    fn r39_another_device_is_unknown_whatever_was_known_of_the_one_before() {
        let mut register = ready(Some((Side::A, 7)));
        register.begin(7);
        register.succeeded();
        register.forget(1_000);
        assert!(register.is_unknown() && !register.is_writing());
        assert!(!register.is_written() && register.begin(7).is_none());
        // A write to the one before may have been given on to this one.
        register.learned(None);
        for _ in 0..2 {
            register.begin(7);
            register.succeeded();
        }
        assert!(!register.counts(7, 999) && register.counts(7, 1_000));
    }

    /// Writes image 7 twice at 900, after writes of `failed` images that are reported as lost.
    fn in_doubt(failed: &[(u32, u64)]) -> OwnRegister {
        let mut register = ready(None);
        for &(image, at_ns) in failed {
            register.begin(image);
            register.failed(at_ns, at_ns + 1_000);
            register.learned(None);
        }
        for _ in 0..2 {
            assert!(!register.holds(7, 900), "one copy may be taken back");
            register.begin(7);
            register.succeeded();
        }
        register
    }

    #[test]
    fn r21_an_image_holds_at_once_where_only_that_image_may_still_land() {
        for (failed, at_once) in [
            (&[][..], true),
            (&[(7, 0)], true),
            (&[(7, 0), (7, 10)], true),
            (&[(6, 0)], false),
            (&[(6, 0), (7, 10)], false),
            (&[(7, 0), (6, 10)], false),
        ] {
            let register = in_doubt(failed);
            assert_eq!(register.holds(7, 900), at_once, "{failed:?}");
            assert_eq!(register.counts(7, 900), failed.is_empty(), "{failed:?}");
            assert!(register.holds(7, 1_010) && register.counts(7, 1_010));
            assert!(!register.holds(6, 2_000), "another image");
        }
        // What failed long ago can land no more.
        let mut register = in_doubt(&[(6, 0)]);
        register.begin(7);
        register.failed(1_000, 2_000);
        register.learned(None);
        for _ in 0..2 {
            register.begin(7);
            register.succeeded();
        }
        assert!(register.holds(7, 1_500) && !register.counts(7, 1_500));
    }

    #[test]
    fn r39_what_another_device_was_given_may_carry_anything() {
        let mut register = ready(None);
        register.begin(7);
        register.forget(1_000);
        register.failed(10, 1_010);
        register.learned(None);
        for _ in 0..2 {
            register.begin(7);
            register.succeeded();
        }
        assert!(!register.holds(7, 999) && register.holds(7, 1_010));
    }

    #[test]
    fn r41_after_an_error_the_member_counts_only_when_late_commands_have_had_their_time() {
        let mut register = ready(None);
        register.begin(7);
        register.failed(800, 1_000);
        register.learned(None);
        for _ in 0..2 {
            register.begin(7);
            register.succeeded();
        }
        assert!(!register.counts(7, 999));
        assert!(register.counts(7, 1_000));
    }
}
