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
//! * Before the first write of an incarnation, and after every error, both blocks are read. The
//!   next write goes to the block that is *not* the newest valid one, and the sequence continues
//!   from the highest valid number. (Simple alternation after an error would destroy the last good
//!   block.)
//! * One write is in flight. If a round ends without this member, the write becomes stale: its
//!   completion belongs to its own round and never to a later one.
//! * A ballot change counts on the member once *two* consecutive writes carried it, so that it is
//!   in both blocks. Heartbeats and marks count after one write.
//! * After an error the fabric may still hold the failed command. The member does not count for
//!   ballots until no such command can land. The caller passes that time to
//!   [`OwnRegister::failed`].
//! * [`OwnRegister::holds`] does not wait for that time if every command that may still land
//!   carries the same image as both blocks: such a command changes nothing.
//! * Between two ballot writes the register is read [R58]. A host that was put back to an earlier
//!   memory overwrites one block with an earlier ballot, then finds the records of its later life
//!   in the other block, and stops. So its latest promise stays on the member.
//!
//! A read of the own register is compared with the acknowledged writes [R58]. A read can judge a
//! block only if the block was *quiet*: acknowledged before the read was issued, not written since,
//! and without a failed command that may still land. The read shows one of these:
//!
//! * The acknowledged write: the register is intact.
//! * A write of this incarnation that this session never issued: another host runs with a copy
//!   of this host's memory ([`Verdict::Copy`]).
//! * A write of another incarnation, later than the first write of this one: another host has
//!   this controller number ([`Verdict::Foreign`]).
//! * Anything else, if the block was quiet: the member went back to an earlier state
//!   ([`Verdict::Back`]).
//!
//! A register that went back is *void*: all knowledge about it is dropped, and the member does not
//! count until the register is written anew, the ballot register in both blocks.
//!
//! Caller: [`super::controller`], two for each member.

use super::codec::ids::{Incarnation, Register, Side};
use super::codec::mailbox::{Shown, Stamp};

/// The state of one own register on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnRegister {
    state: State,
    /// The highest sequence number known to be on the member, or given to a write.
    seq: u64,
    /// The image that the last successful write carried.
    image: u32,
    /// How many consecutive successful writes carried `image`; not counted beyond 2.
    copies: u8,
    /// Ballots do not count here before this local time.
    counts_from_ns: u64,
    /// The image of all failed commands that may still land before `counts_from_ns`; 0 if they
    /// carry different images, or if the image is unknown. Images are numbered from 1.
    doubtful: u32,
    /// The acknowledged write of this incarnation in each block, if no later write to the block
    /// failed.
    acked: [Option<Stamp>; 2],
    /// The last write that was issued.
    last: Option<Stamp>,
    /// The last write that was reported as failed: it may have landed, or land late.
    lost: Option<Stamp>,
    /// The first of the failed writes that may still land.
    lost_from: u64,
    /// The highest sequence number before the first write of this incarnation.
    floor: u64,
    /// How many more successful writes a register needs that went back, before it counts again.
    void: u8,
    /// Whether this incarnation has a successful write here.
    written: bool,
    /// Whether any write of this incarnation was issued to the member.
    given: bool,
    /// The write in flight went to the device that was here before.
    outdated: bool,
    /// Whether no read that was issued after the last successful write has succeeded yet.
    unread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Unknown,
    Ready { target: Side },
    Writing { target: Side, image: u32 },
}

/// What a read shows of one block of an own register; see the list at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The block is as it must be, or the read cannot judge it.
    Fine,
    /// The block is older than the acknowledged write, because a failed command landed late.
    Late,
    /// The block is blank, unreadable, or older than the acknowledged write.
    Back,
    /// The block has a later write of another incarnation.
    Foreign,
    /// The block has a write of this incarnation that this session never issued.
    Copy,
}

/// A write that the register allows: its block and its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The block to write.
    pub side: Side,
    /// The sequence number to put into the record.
    pub seq: u64,
}

impl OwnRegister {
    /// A register about which nothing is known.
    pub const fn new() -> Self {
        Self {
            state: State::Unknown,
            seq: 0,
            image: 0,
            copies: 0,
            counts_from_ns: 0,
            doubtful: 0,
            acked: [None; 2],
            last: None,
            lost: None,
            lost_from: 0,
            floor: 0,
            void: 0,
            written: false,
            given: false,
            outdated: false,
            unread: false,
        }
    }

    /// Whether both blocks must be read before the next write.
    pub fn is_unknown(&self) -> bool {
        self.state == State::Unknown
    }

    /// Whether the register was not read since its last successful write. A ballot register must be
    /// read before its next write.
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// A read that was issued after the last successful write has ended with success.
    pub fn was_read(&mut self) {
        self.unread = false;
    }

    /// Whether a write is in flight.
    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }

    /// Whether a successful write of this incarnation is on the member.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// Whether no write of this incarnation was ever issued to the member: then the content may be
    /// read again at any time and is current.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Ready { .. }) && !self.given
    }

    /// Both blocks were read. The read was issued while the register was unknown, or the register
    /// is still fresh. `newest` is the newest valid block and its sequence number; `None` if
    /// neither block is valid.
    pub fn learned(&mut self, newest: Option<(Side, u64)>) {
        if !self.is_unknown() && !self.is_fresh() {
            return;
        }
        let target = newest.map_or(Side::A, |(side, _)| side.other());
        self.seq = self.seq.max(newest.map_or(0, |(_, seq)| seq));
        self.state = State::Ready { target };
    }

    /// Begins a write of image number `image` with this mark, if the register is ready for one.
    pub fn begin(&mut self, image: u32, mark: u64) -> Option<Write> {
        let State::Ready { target } = self.state else {
            return None;
        };
        if !self.given {
            self.floor = self.seq;
        }
        self.seq = self.seq.checked_add(1)?;
        self.last = Some(Stamp {
            seq: self.seq,
            mark,
        });
        self.given = true;
        self.state = State::Writing { target, image };
        Some(Write {
            side: target,
            seq: self.seq,
        })
    }

    /// The member has another device now: nothing is known about the register, and ballots do not
    /// count before `settled_ns`.
    pub fn forget(&mut self, settled_ns: u64) {
        let outdated = self.is_writing();
        *self = Self {
            state: self.state,
            outdated,
            // A number is used only once: a write to the device before may land on this one.
            seq: self.seq,
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
        self.void = self.void.saturating_sub(1);
        self.unread = true;
        self.set_acked(target, self.last);
        self.state = State::Ready {
            target: target.other(),
        };
    }

    /// The write in flight failed at `now_ns`: the content of the member is in doubt, and a late
    /// copy of the command may land until `settled_ns`.
    pub fn failed(&mut self, now_ns: u64, settled_ns: u64) {
        let State::Writing { target, image } = self.state else {
            return;
        };
        let settled = now_ns >= self.counts_from_ns;
        let same = settled || self.doubtful == image;
        self.doubtful = if same && !self.outdated { image } else { 0 };
        self.state = State::Unknown;
        self.outdated = false;
        self.copies = 0;
        // An earlier failed write may have landed late, unless both blocks were written after it
        // could. A mark is the time at which the round of the write began.
        let is_later =
            |acked: &Option<Stamp>| acked.is_some_and(|it| it.mark >= self.counts_from_ns);
        let is_overwritten = self.acked.iter().all(is_later);
        if settled && (self.lost.is_none() || is_overwritten) {
            self.lost_from = self.seq;
        }
        self.lost = self.last;
        self.set_acked(target, None);
        self.counts_from_ns = self.counts_from_ns.max(settled_ns);
    }

    /// Whether a read that is issued now, not before `issued_ns`, can judge the block on `side`, if
    /// no write to it begins until the read completes.
    pub fn is_quiet(&self, side: Side, issued_ns: u64) -> bool {
        let writes = matches!(self.state, State::Writing { target, .. } if target == side);
        self.acked(side).is_some() && !writes && issued_ns >= self.counts_from_ns
    }

    /// What a read says that showed `shown` on `side`, for the controller of incarnation `own`.
    /// `quiet` if the block was [quiet](Self::is_quiet) until the read completed. `written` if the
    /// register was [written](Self::is_written) when the read was issued.
    pub fn judge(
        &self,
        side: Side,
        shown: Shown,
        own: Incarnation,
        quiet: bool,
        written: bool,
    ) -> Verdict {
        let back = match quiet && self.acked(side).is_some() {
            false => Verdict::Fine,
            true if self.was_lost(shown, own) || self.is_of_before(side, shown) => Verdict::Late,
            true => Verdict::Back,
        };
        match shown {
            Shown::Write { inc, stamp } if inc == own => match self.acked(side) {
                Some(acked) if acked == stamp => Verdict::Fine,
                _ if self.is_of_a_copy(stamp) => Verdict::Copy,
                _ => back,
            },
            Shown::Write { stamp, .. } if written && stamp.seq > self.floor => Verdict::Foreign,
            Shown::Write { .. } | Shown::Nothing => back,
        }
    }

    /// Whether the block shows one of the writes that were last reported as failed.
    fn was_lost(&self, shown: Shown, own: Incarnation) -> bool {
        match (shown, self.lost) {
            (Shown::Write { inc, stamp }, Some(lost)) => {
                inc == own && (self.lost_from..=lost.seq).contains(&stamp.seq)
            }
            _ => false,
        }
    }

    /// Whether the block shows a write that was issued to the previous device of the member, which
    /// may be the same disk. Such a write may have landed late, over an acknowledged write that
    /// began before `counts_from_ns`.
    fn is_of_before(&self, side: Side, shown: Shown) -> bool {
        let early = |acked: Stamp| acked.mark < self.counts_from_ns;
        match shown {
            Shown::Write { stamp, .. } => {
                stamp.seq <= self.floor && self.acked(side).is_some_and(early)
            }
            Shown::Nothing => false,
        }
    }

    /// Whether this session knows that it never issued this write of its own incarnation. It knows
    /// nothing about writes to the device that was here before.
    fn is_of_a_copy(&self, stamp: Stamp) -> bool {
        let known = self.acked.iter().chain([&self.last, &self.lost]).flatten();
        let mut same = known.filter(|known| known.seq == stamp.seq);
        // Not `self.seq`: a read for looking may have found the copy's numbers and continued from
        // them.
        let is_later = self.last.is_some_and(|last| stamp.seq > last.seq);
        is_later || same.any(|known| known.mark != stamp.mark)
    }

    /// The register went back on the member: all knowledge about it is dropped, and both blocks are
    /// read before the next write. The register counts again after [`writes_to_count`] writes.
    pub fn went_back(&mut self, register: Register) {
        self.acked = [None; 2];
        self.copies = 0;
        self.void = writes_to_count(register);
        match self.state {
            // The block of the write in flight was chosen by knowledge that no longer holds.
            State::Writing { .. } => self.outdated = true,
            State::Unknown | State::Ready { .. } => self.state = State::Unknown,
        }
    }

    /// Whether the register went back and was not yet written anew.
    pub fn is_void(&self) -> bool {
        self.void > 0
    }

    fn acked(&self, side: Side) -> Option<Stamp> {
        self.acked.get(side.index()).copied().flatten()
    }

    fn set_acked(&mut self, side: Side, stamp: Option<Stamp>) {
        if let Some(acked) = self.acked.get_mut(side.index()) {
            *acked = stamp;
        }
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

    /// Whether the member will go on showing image number `image`, whichever command of this
    /// incarnation still lands: both blocks carry it, and so do those commands.
    pub fn holds(&self, image: u32, now_ns: u64) -> bool {
        let same = self.doubtful == image && image != 0;
        self.counts(image, now_ns) || self.copies(image) >= 2 && same
    }
}

/// How many writes a register needs that went back, before it counts again: a promise must be in
/// both blocks.
const fn writes_to_count(register: Register) -> u8 {
    match register {
        Register::Ballot => 2,
        Register::Heartbeat => 1,
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
        for acked in self.acked.iter_mut().flatten() {
            acked.seq = seq(acked.seq);
        }
        self
    }

    /// The same register without marks: no model has copies of a host. The highest number before
    /// the own writes is replaced by `floor` of it.
    #[must_use]
    pub fn without_marks(mut self, floor: impl Fn(u64) -> u64) -> Self {
        (self.last, self.lost, self.lost_from) = (None, None, 0);
        for acked in self.acked.iter_mut().flatten() {
            acked.mark = 0;
        }
        self.floor = floor(self.floor);
        self
    }

    /// The same register without the acknowledged writes: in this model no member goes back.
    #[must_use]
    pub fn without_acked(mut self) -> Self {
        self.acked = [None; 2];
        self
    }

    /// The same register with its two blocks exchanged.
    #[must_use]
    pub fn with_sides_swapped(mut self) -> Self {
        self.acked.swap(0, 1);
        if let State::Ready { target } | State::Writing { target, .. } = &mut self.state {
            *target = target.other();
        }
        self
    }

    /// The same register with the time from which ballots count replaced.
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
mod tests;
