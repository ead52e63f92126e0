// SPDX-License-Identifier: GPL-2.0
//! The gate: one atomic decision for each state-changing operation.
//!
//! An operation takes a *permit* from a *lane*, **then** reads the lease and after that the clock.
//! If there is no valid lease, the operation gives the permit back. So every operation that passed
//! was counted before its lease was seen valid, and an operation that never completes keeps its
//! permit [R13, R16]. The portion's [`LaneLayout`] says how many lanes there are and what a lane
//! can hold:
//!
//! * `Single`: one lane. A new permit is given while fewer permits than the limit are open.
//! * `PerCpu`: one lane for each CPU, and no limit. If a limit is set later, it is compared with
//!   the sum of all lanes.
//! * `Rows`: many lanes. The hash of a stripe row chooses its lane. A lane counts the members that
//!   have open permits in it. A new permit is given if this number, with the member of the new
//!   permit, is at most the limit.
//!
//! A lane is one word, so one atomic instruction takes a permit. What the word alone cannot show is
//! checked afterwards, see below:
//!
//! ```text
//!  63        62      61       60      59 ............................ 0
//!  waiters   watch   detour   first   open permits, or a field for each member with its open
//!                                     permits in the rows of this lane
//! ```
//!
//! * Two rows that share a lane share its budget. So an operation may have to wait although its own
//!   row has room, but an operation never passes if its own row has no room. An operation on more
//!   than one row (a discard) is counted once, in the *wide word*, which counts for every row
//!   [R19].
//! * An operation that finds room nearly always takes the *short path* ([`Gate::take_short`]): it
//!   takes the permit first. With `PerCpu` and `Rows` it then checks that the wide word is zero.
//!   With `Single` it checks that the count is above neither the limit nor the peak. Only the long
//!   path raises the peak. The bit `detour` in the wide word is set if the present limit cannot be
//!   checked on the short path. With `Rows` the short path admits an operation only if no other
//!   member has a permit in its lane, so that the lane uses 1 of the limit; and it does not record
//!   [`Count::peak`]. So the bit `first` in the wide word sends operations on the long path until
//!   the peak is at least 1. The short check of the lease fails if the gate is closed. If the short
//!   path is inconclusive, the caller continues on the long path.
//! * `waiters` says that operations wait for this lane. An operation that gives a permit back sees
//!   the bit, and the code that sets the bit checks for room, so no wake-up is lost. An operation
//!   on many rows waits for all lanes. It sets the bit in the wide word first, so that new
//!   operations queue behind it. Then it sets the bit in every lane that is in use. The other lanes
//!   have no permit that could be given back.
//! * A bit in the lease word closes the gate, and every operation reads that word after it has
//!   taken a permit. After the closing an operation may still take a permit, but it sees the closed
//!   gate and gives the permit back. So once every lane has been empty after the closing, nothing
//!   is admitted until the gate opens again. With `watch` set, the operation that empties a lane
//!   wakes the caller's threads ([`Left::wake`]).
//!
//! The limit, the operations on many rows and the sum of all lanes are not in the word of the lane.
//! They are checked again after the permit is taken. If two operations take permits at the same
//! time and exceed the limit together, at least one of them sees the other's permit in this second
//! check. That operation gives its own permit back and waits.
//!
//! The lease word is changed by compare-and-swap only, its closing bit included. So neither
//! [`Gate::extend`] on the heartbeat path nor a thread that sees the lease end overwrites what the
//! other one wrote [R9]. Only [`Gate::open_epoch`] turns 0 into a lease, once for each epoch.
//!
//! An operation passes only in the *reign* in which it arrived. A reign is a series of terms of
//! this controller without a term of another controller in between
//! ([`Reign`](super::reign::Reign)). When a reign ends, the layers above give up its operations,
//! and another controller writes the portion: an old operation that was issued now would overwrite
//! newer data [R55]. So an operation carries the epoch in which it arrived. After reading the
//! lease, the gate compares this epoch with the first epoch of the present reign.
//!
//! Locking: none; every method may be called from any context. `W` is an atomic word: the kernel's
//! in the module, a model checker's in the tests. All operations of a `W` that change it are fully
//! ordered.

use super::lanes::{
    fits, LaneLayout, Place, COUNT, COUNT_BITS, DETOUR, FIRST, UNLIMITED, WAITERS, WATCH,
};
use super::word::{clear_bits, set_bits, AtomicWord};
use crate::proto::lease::is_within;
use core::ops::Deref;

/// The bit of the lease word that closes the gate. Read as a time, a word with this bit ends the
/// lease 292 years later. The short check accepts an end only if it is at most one lease time
/// ahead of the clock, so it rejects the lease of a closed gate like an ended one. The long path
/// tells the two apart.
const CLOSED: u64 = 1 << 63;
/// The permits that are open, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The number that is compared with the limit: the open permits. For [`LaneLayout::Rows`] it is
    /// the number of members with open permits in the fullest lane or in the wide word, which
    /// counts for every lane.
    pub open: u32,
    /// How many may be open at once; 0 while the gate is closed.
    pub limit: u32,
    /// The highest `open` at an admission since the gate was made; not kept for
    /// [`LaneLayout::PerCpu`] as long as there is no limit.
    pub peak: u32,
}

/// The answer of the gate to a state-changing operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The operation holds a permit, which must be given back with [`Gate::leave`].
    Granted(Check),
    /// The lease is valid, but the limit is reached, other operations wait ahead of this one, or
    /// the gate is closed.
    Full {
        /// As [`Left::wake`], if this call took a permit and gave it back.
        wake: bool,
    },
    /// The lease is valid, and the operation arrived in an earlier reign: it fails [R55].
    Outlived {
        /// As [`Left::wake`], if this call took a permit and gave it back.
        wake: bool,
    },
    /// There is no valid lease.
    Refused {
        /// This call saw the lease end and latched it; the caller tells the state machine.
        lapsed: bool,
        /// As [`Left::wake`], if this call took a permit and gave it back.
        wake: bool,
    },
}

/// The verdict on an operation that has lost its lease: it must not be submitted, and its success
/// must not be acknowledged. The field is `true` if this call latched the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapsed(pub bool);

/// The two times that showed that a lease is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The clock.
    pub now_ns: u64,
    /// The end of the lease.
    pub expiry_ns: u64,
}

/// The lease, as one look at the lease word and the clock showed it.
enum LeaseState {
    Valid(Check),
    /// The lease is valid, and the gate is closed.
    Closed,
    Over {
        lapsed: bool,
    },
}

/// The result of the short path. After [`Taken::Unsure`] and [`Taken::No`] the caller continues on
/// the long path.
#[must_use]
pub enum Taken {
    /// A permit is held, and no further check of the limit is needed.
    Sure,
    /// A permit is held, and the limit must be checked again.
    Unsure,
    /// No permit is held.
    No,
}

/// The result of [`Gate::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Wake the threads that serve the gate: operations may wait for this permit, or the gate is
    /// closed and the lane is empty.
    pub wake: bool,
}

/// The gate of one portion. `L` holds the lanes in [`LaneLayout::words`] words, all zero at first.
pub struct Gate<W, L> {
    /// The end of the lease, and whether the gate is closed.
    expiry: W,
    epoch: W,
    /// The first epoch of the present reign. It is written before `epoch`, and `epoch` before
    /// `expiry`.
    since: W,
    limit: W,
    peak: W,
    /// The wide word: a lane for operations on many rows, which counts for every row. It is zero if
    /// the short path is allowed.
    wide: W,
    lanes: L,
    length_ns: u64,
    layout: LaneLayout,
}

impl<W: AtomicWord, L: Deref<Target = [W]>> Gate<W, L> {
    /// A gate without a lease. A lease that is set later is valid for the last `length_ns` before
    /// its end.
    pub fn new(length_ns: u64, limit: u32, layout: LaneLayout, lanes: L) -> Self {
        let closed = if limit == 0 { CLOSED } else { 0 };
        let first = match layout {
            LaneLayout::Rows(_) => FIRST,
            LaneLayout::Single | LaneLayout::PerCpu => 0,
        };
        let limit = limit.min(UNLIMITED);
        Self {
            expiry: W::new(closed),
            epoch: W::new(0),
            since: W::new(0),
            limit: W::new(limit.into()),
            peak: W::new(0),
            wide: W::new(first | layout.detour(limit)),
            lanes,
            length_ns,
            layout,
        }
    }

    /// How the permits of this gate are counted.
    #[inline]
    pub fn layout(&self) -> LaneLayout {
        self.layout
    }

    /// Admits a state-changing operation that arrives now, or says why not [R12, R13].
    ///
    /// `now` is called after the permit was taken, so that no stall between the two goes unnoticed.
    /// If other operations wait for the same lane, the operation goes behind them.
    pub fn enter(&self, place: Place, now: impl Fn() -> u64) -> Admission {
        let arrived = self.epoch();
        let taken = self.take_short(self.layout, place);
        if let Taken::Sure = taken {
            if let Some(check) = self.check_short(arrived, &now) {
                return Admission::Granted(check);
            }
        }
        self.enter_long(place, arrived, taken, now)
    }

    /// The first half of [`Gate::enter`]: takes a permit on the short path if that is possible,
    /// which it nearly always is if there is room. `layout` must be that of the gate: a caller that
    /// knows the layout at compile time compiles only the branch that it needs.
    ///
    /// * `Single`: takes a permit below the limit.
    /// * `PerCpu`: always takes a permit, because there is no limit to exceed; a limit that was set
    ///   later is checked with the permit taken.
    /// * `Rows`: takes a permit in a lane in which no other member has one; most lanes are empty.
    #[inline(always)]
    pub fn take_short(&self, layout: LaneLayout, place: Place) -> Taken {
        let Some(lane) = self.lanes.get(place.lane) else {
            return Taken::No;
        };
        let unit = place.unit.0;
        let sure = match layout {
            LaneLayout::Single => {
                let word = lane.load();
                let next = word.wrapping_add(unit);
                if word >= self.limit.load() || lane.compare_exchange(word, next).is_err() {
                    return Taken::No;
                }
                next <= self.limit.load() && next <= self.peak.load()
            }
            LaneLayout::PerCpu => {
                lane.fetch_add(unit);
                // An operation that waits for all lanes sets a bit in this word first.
                self.wide.load() == 0
            }
            LaneLayout::Rows(fields) => {
                if let Err(word) = lane.compare_exchange(0, unit) {
                    let next = word.wrapping_add(unit);
                    let others = next & !fields.field(place.unit);
                    if others != 0 || lane.compare_exchange(word, next).is_err() {
                        return Taken::No;
                    }
                }
                self.wide.load() == 0
            }
        };
        match sure {
            true => Taken::Sure,
            false => Taken::Unsure,
        }
    }

    /// The second half of [`Gate::enter`], with a permit that is [`Taken::Sure`]: reads the lease
    /// and the clock, and then checks whether the operation, which arrived in the epoch `arrived`,
    /// may still pass. `None` if the short path is inconclusive.
    #[inline(always)]
    pub fn check_short(&self, arrived: u64, now: impl Fn() -> u64) -> Option<Check> {
        let check = self.check_lease_short(now)?;
        (arrived >= self.since.load()).then_some(check)
    }

    /// The long path. It continues with the result of [`Gate::take_short`] if that is not
    /// [`Taken::Sure`], or if [`Gate::check_short`] returned `None`.
    #[cold]
    pub fn enter_long(
        &self,
        place: Place,
        arrived: u64,
        taken: Taken,
        now: impl Fn() -> u64,
    ) -> Admission {
        let taken = match taken {
            Taken::Sure | Taken::Unsure => self.keep(place),
            Taken::No if self.expiry_ns() == 0 => return self.refuse_at_once(),
            Taken::No => self.take(place, false),
        };
        self.decide(place, arrived, taken, now)
    }

    /// Admits the operation that has waited longest for its lane and arrived in the epoch
    /// `arrived`, or says why not.
    pub fn enter_waiting(&self, place: Place, arrived: u64, now: impl Fn() -> u64) -> Admission {
        if self.expiry_ns() == 0 {
            return self.refuse_at_once();
        }
        self.decide(place, arrived, self.take(place, true), now)
    }

    /// Refuses without taking a permit first: there is no lease that could admit the operation.
    fn refuse_at_once(&self) -> Admission {
        Admission::Refused {
            lapsed: false,
            wake: false,
        }
    }

    /// Decides by the lease. `taken` is the permit, or says that there is no room for one.
    fn decide(
        &self,
        place: Place,
        arrived: u64,
        taken: Result<u32, Left>,
        now: impl Fn() -> u64,
    ) -> Admission {
        let lease = self.check_lease(now);
        // The first epoch of the reign is read after the lease, so it belongs to the reign of this
        // lease or to a later one. A later reign refuses more operations, never fewer.
        let is_outlived = self.since.load() > arrived;
        match (taken, lease) {
            (taken, LeaseState::Valid(_) | LeaseState::Closed) if is_outlived => {
                Admission::Outlived {
                    wake: taken.map_or_else(|left| left.wake, |_| self.leave(place).wake),
                }
            }
            (Ok(used), LeaseState::Valid(check)) => {
                self.note_peak(used);
                Admission::Granted(check)
            }
            (Ok(_), LeaseState::Closed) => Admission::Full {
                wake: self.leave(place).wake,
            },
            (Ok(_), LeaseState::Over { lapsed }) => Admission::Refused {
                lapsed,
                wake: self.leave(place).wake,
            },
            (Err(Left { wake }), LeaseState::Valid(_) | LeaseState::Closed) => {
                Admission::Full { wake }
            }
            (Err(Left { wake }), LeaseState::Over { lapsed }) => {
                Admission::Refused { lapsed, wake }
            }
        }
    }

    /// Reads the lease and then the clock, in this order. `None` if the lease is not plainly valid:
    /// [`Gate::check_lease`] finds out more.
    #[inline(always)]
    fn check_lease_short(&self, now: impl Fn() -> u64) -> Option<Check> {
        let expiry_ns = self.expiry.load();
        let now_ns = now();
        is_within(now_ns, expiry_ns, self.length_ns).then_some(Check { now_ns, expiry_ns })
    }

    /// Reads the lease and then the clock, in this order, and latches a lease that has ended.
    ///
    /// If the caller was delayed between the two reads, the lease may have been extended since.
    /// Then the latch fails and the loop reads again, so a valid lease is never taken for an ended
    /// one.
    fn check_lease(&self, now: impl Fn() -> u64) -> LeaseState {
        loop {
            let word = self.expiry.load();
            let expiry_ns = word & !CLOSED;
            let now_ns = now();
            if is_within(now_ns, expiry_ns, self.length_ns) {
                return match word & CLOSED {
                    0 => LeaseState::Valid(Check { now_ns, expiry_ns }),
                    _ => LeaseState::Closed,
                };
            }
            if expiry_ns == 0 {
                return LeaseState::Over { lapsed: false };
            }
            if self.expiry.compare_exchange(word, word & CLOSED).is_ok() {
                return LeaseState::Over { lapsed: true };
            }
        }
    }

    /// Gives a permit back.
    pub fn leave(&self, place: Place) -> Left {
        self.leave_short(place)
            .unwrap_or_else(|| self.leave_wide(place))
    }

    /// As [`Gate::leave`], but for a permit in the wide word it returns `None` and does nothing.
    #[inline(always)]
    pub fn leave_short(&self, place: Place) -> Option<Left> {
        let lane = self.lanes.get(place.lane)?;
        let word = lane.fetch_add(place.unit.0.wrapping_neg());
        // The bits above the count are marks, and few lanes have one.
        let wake = word >> COUNT_BITS != 0 && wakes(word.wrapping_sub(place.unit.0));
        Some(Left { wake })
    }

    /// Gives back the permit of an operation on many rows. Operations of any row may wait for it.
    fn leave_wide(&self, place: Place) -> Left {
        self.wide.fetch_add(place.unit.0.wrapping_neg());
        Left { wake: true }
    }

    /// Notes that an operation waits. `true` if there is room after all: then the caller wakes the
    /// dispatcher, because perhaps no operation leaves after this.
    ///
    /// The caller has queued the operation, under its own lock, before the call.
    pub fn wait(&self, place: Place) -> bool {
        let limit = self.limit();
        let fits = match self.waits_for_all(place) {
            true => self.wait_for_all(place, limit),
            false => self.wait_for_lane(place, limit),
        };
        fits && !self.is_closed()
    }

    /// Sets the mark of the operation's lane, and says whether the operation fits.
    fn wait_for_lane(&self, place: Place, limit: u32) -> bool {
        let Some(lane) = self.lanes.get(place.lane) else {
            return true;
        };
        let word = set_bits(lane, WAITERS);
        let next = word.wrapping_add(place.unit.0);
        fits(self.layout, word, place, limit) && self.used(self.layout, place, next, limit) <= limit
    }

    /// Sets the mark of every lane that is in use, and says whether an operation fits beside them.
    /// A lane that was found empty gets no mark. If a permit is taken there later, its return wakes
    /// no thread. So this function does not count such a permit. If it did, the operation could
    /// wait for ever. This function reads every lane and changes few.
    fn wait_for_all(&self, place: Place, limit: u32) -> bool {
        let wide = set_bits(&self.wide, WAITERS);
        let own = match place.is_wide() {
            true => wide.wrapping_add(place.unit.0),
            false => wide,
        };
        let mut used = match self.layout {
            LaneLayout::Rows(fields) => fields.members(own & COUNT),
            LaneLayout::Single | LaneLayout::PerCpu => 1,
        };
        for lane in self.lanes.iter().filter(|lane| lane.load() & COUNT != 0) {
            let word = set_bits(lane, WAITERS);
            used = match self.layout {
                LaneLayout::Rows(fields) => used.max(fields.members((word | own) & COUNT)),
                LaneLayout::Single | LaneLayout::PerCpu => {
                    used.saturating_add((word & COUNT) as u32)
                }
            };
        }
        let is_full = match self.layout {
            LaneLayout::Rows(fields) => fields.is_full(wide, place.unit),
            LaneLayout::Single | LaneLayout::PerCpu => false,
        };
        used <= limit && !is_full
    }

    /// Notes that no operation waits for this lane any more or, if the place waits for all lanes,
    /// for any lane.
    pub fn no_waiters(&self, place: Place) {
        match self.waits_for_all(place) {
            true => self.no_waiters_at_all(),
            false => self
                .lanes
                .get(place.lane)
                .into_iter()
                .for_each(|lane| clear_bits(lane, WAITERS)),
        }
    }

    /// Notes that no operation waits for any lane.
    pub fn no_waiters_at_all(&self) {
        for lane in self.all().filter(|lane| lane.load() & WAITERS != 0) {
            clear_bits(lane, WAITERS);
        }
    }

    /// Sets the limit; 0 closes the gate. Operations that hold a permit keep it.
    pub fn set_limit(&self, limit: u32) {
        let limit = limit.min(UNLIMITED);
        self.limit.store(limit.into());
        match self.layout.detour(limit) {
            0 => clear_bits(&self.wide, DETOUR),
            bits => {
                set_bits(&self.wide, bits);
            }
        }
        match limit {
            0 => {
                set_bits(&self.expiry, CLOSED);
                for lane in self.all() {
                    set_bits(lane, WATCH);
                }
            }
            _ => {
                self.all().for_each(|lane| clear_bits(lane, WATCH));
                clear_bits(&self.expiry, CLOSED);
            }
        }
    }

    /// The permits as they are now. This reads every lane.
    pub fn count(&self) -> Count {
        let wide = self.wide.load();
        let mut open = 0_u32;
        for lane in self.lanes.iter() {
            let word = lane.load();
            open = match self.layout {
                LaneLayout::Rows(fields) => open.max(fields.members((word | wide) & COUNT)),
                _ => open.saturating_add((word & COUNT) as u32),
            };
        }
        Count {
            open,
            limit: if self.is_closed() { 0 } else { self.limit() },
            peak: self.peak.load() as u32,
        }
    }

    /// Whether the gate is closed and every permit was given back.
    pub fn is_drained(&self) -> bool {
        self.is_closed() && self.all().all(|lane| lane.load() & COUNT == 0)
    }

    /// Whether a success of `epoch` may be acknowledged [R18].
    ///
    /// # Errors
    ///
    /// The lease is over, or it is that of another epoch. `Lapsed(true)` if this call latched it.
    pub fn acknowledge(&self, epoch: u64, now: impl Fn() -> u64) -> Result<(), Lapsed> {
        match self.check_lease(now) {
            LeaseState::Over { lapsed } => Err(Lapsed(lapsed)),
            _ if self.epoch.load() == epoch => Ok(()),
            _ => Err(Lapsed(false)),
        }
    }

    /// As [`Gate::acknowledge`], on the short path. `false` if the short path is inconclusive.
    /// `epoch` is a reference because the epoch is stored with the operation and is not needed
    /// before the clock was read.
    #[inline(always)]
    pub fn acknowledge_short(&self, epoch: &u64, now: impl Fn() -> u64) -> bool {
        self.check_lease_short(now).is_some() && self.epoch.load() == *epoch
    }

    /// The epoch of the lease that was given last.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load()
    }

    /// Whether the lease is valid at `now_ns`.
    pub fn is_valid(&self, now_ns: u64) -> bool {
        is_within(now_ns, self.expiry_ns(), self.length_ns)
    }

    /// Whether there is no lease, by one load. The answer is `false` for a latched gate that is
    /// closed as well.
    #[inline(always)]
    pub fn is_latched(&self) -> bool {
        self.expiry.load() == 0
    }

    /// The end of the lease as the gate sees it; 0 when there is none.
    #[inline]
    pub fn expiry_ns(&self) -> u64 {
        self.expiry.load() & !CLOSED
    }

    /// Begins the lease of a new epoch, in the reign that began with the epoch `since`. Only the
    /// heartbeat path calls it, once for each epoch, and only after the lease of the epoch before
    /// was latched. `false` if there still is a lease: then its end stays, but the gate has the new
    /// `epoch` and `since`. The caller latches it.
    pub fn open_epoch(&self, epoch: u64, since: u64, expiry_ns: u64) -> bool {
        self.since.store(since);
        self.epoch.store(epoch);
        self.change_lease(|lease| (lease == 0).then_some(expiry_ns))
    }

    /// Moves the end of the lease from `from_ns` to `to_ns`. `false` if the lease was latched
    /// meanwhile.
    pub fn extend(&self, from_ns: u64, to_ns: u64) -> bool {
        from_ns != 0 && self.change_lease(|lease| (lease == from_ns).then_some(to_ns))
    }

    /// Latches the lease, whatever it is.
    pub fn latch(&self) {
        self.change_lease(|_| Some(0));
    }

    /// Changes the end of the lease in one step and leaves the gate closed or open as it is.
    /// `false` if `change` declined.
    fn change_lease(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        let mut word = self.expiry.load();
        loop {
            let Some(lease) = change(word & !CLOSED) else {
                return false;
            };
            let next = word & CLOSED | lease & !CLOSED;
            match self.expiry.compare_exchange(word, next) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.expiry.load() & CLOSED != 0
    }

    #[inline(always)]
    fn limit(&self) -> u32 {
        self.limit.load() as u32
    }

    fn lane(&self, place: Place) -> Option<&W> {
        match place.is_wide() {
            false => self.lanes.get(place.lane),
            true => Some(&self.wide),
        }
    }

    fn all(&self) -> impl Iterator<Item = &W> {
        self.lanes.iter().chain(core::iter::once(&self.wide))
    }

    /// Whether a permit that returns to any lane can make room for the operation: it is on many
    /// rows, or the limit is compared with the sum of all lanes.
    fn waits_for_all(&self, place: Place) -> bool {
        place.is_wide() || self.layout == LaneLayout::PerCpu
    }

    /// Whether an operation that arrives at a lane with this word must go behind waiting
    /// operations.
    fn is_waited_for(&self, word: u64) -> bool {
        (word | self.wide.load()) & WAITERS != 0
    }

    /// Takes a permit. The number is how much of the limit is used then, see `used`.
    fn take(&self, place: Place, has_waited: bool) -> Result<u32, Left> {
        let no = Left { wake: false };
        let (Some(lane), limit) = (self.lane(place), self.limit()) else {
            return Err(no);
        };
        let mut word = lane.load();
        loop {
            let goes_behind = !has_waited && self.is_waited_for(word);
            if goes_behind || !fits(self.layout, word, place, limit) {
                return Err(no);
            }
            let next = word.wrapping_add(place.unit.0);
            match lane.compare_exchange(word, next) {
                // This check sees the mark in the wide word if it was set before the exchange. An
                // operation that sets it later finds this lane in use, and marks the lane.
                Ok(_) if !has_waited && self.is_waited_for(word) => return Err(self.leave(place)),
                Ok(_) => return self.confirm(place, next),
                Err(found) => word = found,
            }
        }
    }

    /// Checks again a permit that was taken on the short path. As on the long path, the operation
    /// goes behind those that wait.
    fn keep(&self, place: Place) -> Result<u32, Left> {
        match self.lane(place).map(W::load) {
            Some(word) if !self.is_waited_for(word) => self.confirm(place, word),
            _ => Err(self.leave(place)),
        }
    }

    /// Checks the limit again after a permit was taken. `word` is the word of the lane with that
    /// permit. The limit may have been lowered meanwhile, and other words may have changed.
    fn confirm(&self, place: Place, word: u64) -> Result<u32, Left> {
        let limit = self.limit();
        match self.used(self.layout, place, word, limit) {
            used if used <= limit => Ok(used),
            _ => Err(self.leave(place)),
        }
    }

    /// How much of the limit is used when the lane of `place` has the word `word`.
    fn used(&self, layout: LaneLayout, place: Place, word: u64, limit: u32) -> u32 {
        match layout {
            LaneLayout::Single => (word & COUNT) as u32,
            LaneLayout::PerCpu if limit == UNLIMITED => 0,
            LaneLayout::PerCpu => self.count().open,
            LaneLayout::Rows(fields) if place.is_wide() => self
                .lanes
                .iter()
                .map(|lane| fields.members((lane.load() | word) & COUNT))
                .fold(fields.members(word & COUNT), u32::max),
            LaneLayout::Rows(fields) => fields.members((word | self.wide.load()) & COUNT),
        }
    }

    fn note_peak(&self, used: u32) {
        if used == 0 {
            return;
        }
        let used = u64::from(used);
        let mut peak = self.peak.load();
        while peak < used {
            match self.peak.compare_exchange(peak, used) {
                Ok(_) => break,
                Err(found) => peak = found,
            }
        }
        if self.wide.load() & FIRST != 0 {
            clear_bits(&self.wide, FIRST);
        }
    }
}

/// Whether an operation that leaves a lane with this word must wake threads ([`Left::wake`]).
#[cold]
#[inline(never)]
fn wakes(word: u64) -> bool {
    word & WAITERS != 0 || word & WATCH != 0 && word & COUNT == 0
}

#[cfg(test)]
mod tests;
