// SPDX-License-Identifier: GPL-2.0
//! The gate: one atomic decision for each state-changing operation.
//!
//! An operation takes a *permit* out of a *lane*, **then** looks at the lease, with a clock value
//! read after that, and gives the permit back when there is none. So what passed was counted before
//! its lease was seen valid, and what never completes keeps its permit [R13, R16]. How many lanes
//! there are, and what fits into one, is the way of layout:
//!
//! * `Single`: one lane; fewer permits than the limit may be open.
//! * `PerCpu`: a lane for each CPU, and no limit; one that is set later is compared with the sum.
//! * `Rows`: many lanes; a stripe row goes to one by its hash. The members with open permits in a
//!   lane, the new one included, may not be more than the limit.
//!
//! A lane is one word, so taking a permit is one compare-and-swap that cannot exceed the limit:
//!
//! ```text
//!  63        62      61       60      59 ............................ 0
//!  waiters   watch   detour   first   open permits, or a field for each member with its open
//!                                     permits in these rows
//! ```
//!
//! * Rows that share a lane share its budget, which is only stricter. An operation on more rows
//!   than one (a discard) is charged once, in a word that counts for every row [R19].
//! * Nearly every operation finds nobody waiting and no limit near. It goes the *short way*
//!   ([`Gate::take_short`], one atomic instruction) and looks afterwards whether that was allowed:
//!   a bit in the word for many rows says where it is not (`detour`), and a closed gate's lease is
//!   valid at no time. Who is not sure goes on the long way, from there.
//! * `waiters` says that operations wait for this lane. Whoever gives a permit back sees it, and
//!   whoever sets it sees whether there is room: no wake-up is lost. An operation that waits for
//!   all lanes marks the word for many rows, which keeps newcomers back, and then those lanes that
//!   are in use: these alone have anybody who could give a permit back.
//! * The gate is *closed* by a bit in the lease word, which everybody reads after taking a permit.
//!   So with every lane empty once after the gate was closed, nothing is open and nothing can
//!   become so: "drained" stays true. `watch` makes whoever empties a lane say so.
//!
//! Whatever concerns more than one word is taken first and looked at again afterwards: the limit,
//! the operations on many rows, the sum of all lanes. Of two that meet there at least one sees the
//! other, and goes back to wait.
//!
//! The lease word is changed by compare-and-swap only: [`Gate::extend`] by the heartbeat path and
//! whoever first sees the end of it, so that neither overwrites the other [R9].
//! What may go from 0 to a lease is [`Gate::open_epoch`], once for each epoch.
//!
//! An operation passes only in the *reign* in which it arrived. A reign is a row of terms of this
//! controller with no other controller's term in between ([`Reign`]). An operation that arrived in
//! an earlier reign was given up by everybody above when that reign ended, and another controller
//! has written since: issued now it would overwrite newer data [R55]. So an operation carries the
//! epoch in which it arrived, and the gate compares that with the first epoch of the present reign
//! after it has looked at the lease.
//!
//! Locking: none; every method may be called from any context. `W` is the atomic word of the
//! world: the kernel's on a controller, a model checker's in the tests. All operations of a `W`
//! that change it are fully ordered.

use super::lanes::{
    fits, LaneLayout, Place, COUNT, COUNT_BITS, DETOUR, FIRST, UNLIMITED, WAITERS, WATCH,
};
use super::word::{clear_bits, set_bits, AtomicWord};
use crate::proto::lease::is_within;
use core::ops::Deref;

/// The bit of the lease word that closes the gate. As a time it would be 292 years, which is no
/// clock's, so a lease that is compared with the bit in it is over.
const CLOSED: u64 = 1 << 63;
/// What is open, and what may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// What is measured against the limit: permits given and not given back, or the members that
    /// have some in one row, in the row that has most of them.
    pub open: u32,
    /// How many may be open at once; 0 while the gate is closed.
    pub limit: u32,
    /// The highest `open` since the gate was made, of operations that were admitted; not kept for
    /// [`LaneLayout::PerCpu`].
    pub peak: u32,
}

/// What the gate says to a state-changing operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A permit is held; it must be given back with [`Gate::leave`].
    Granted(Check),
    /// The lease is valid and the limit is reached, or the gate is being closed.
    Full {
        /// As in [`Left`]: a permit was taken and given back.
        wake: bool,
    },
    /// The lease is valid, and the operation arrived in an earlier reign: it fails [R55].
    Outlived {
        /// As in [`Left`]: a permit was taken and given back.
        wake: bool,
    },
    /// There is no valid lease. `lapsed` when this very call saw it end and latched it.
    Refused {
        /// This call latched the lease; the caller tells the controller's machine.
        lapsed: bool,
        /// As in [`Left`]: a permit was taken and given back.
        wake: bool,
    },
}

/// Why a success may not be acknowledged; true when the call that said so latched the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapsed(pub bool);

/// What was compared when a lease was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The clock.
    pub now_ns: u64,
    /// The end of the lease.
    pub expiry_ns: u64,
}

/// What a look at the lease showed.
enum Sight {
    Valid(Check),
    /// The lease is valid, and the gate is closed.
    Closed,
    Over {
        lapsed: bool,
    },
}

/// How far the short way led. Whoever has it asks on.
#[must_use]
pub enum Taken {
    /// A permit is held, and nothing speaks against it.
    Sure,
    /// A permit is held, and has to be looked at again.
    Unsure,
    /// None is held.
    No,
}

/// What [`Gate::leave`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Operations wait for this lane, or it is empty in a closed gate: wake the dispatcher.
    pub wake: bool,
}

/// The gate of one portion. `L` holds the lanes, [`LaneLayout::words`] of them, all zero at first.
pub struct Gate<W, L> {
    /// The end of the lease, and whether the gate is closed.
    expiry: W,
    epoch: W,
    /// The first epoch of the present reign. Written before `epoch`, and `epoch` before `expiry`.
    since: W,
    limit: W,
    peak: W,
    /// A lane for operations on many rows, which counts for every row. Zero if the short way may be
    /// taken.
    wide: W,
    lanes: L,
    length_ns: u64,
    layout: LaneLayout,
}

impl<W: AtomicWord, L: Deref<Target = [W]>> Gate<W, L> {
    /// A gate without a lease, with a lease time of `length_ns`.
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

    /// How permits are counted.
    #[inline]
    pub fn layout(&self) -> LaneLayout {
        self.layout
    }

    /// Asks to perform a state-changing operation that arrives now [R12, R13].
    ///
    /// `now` is read after the permit was taken, so that a stall between the two cannot pass.
    ///
    /// Whoever comes while others wait for the same lane goes behind them.
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

    /// The first half of [`Gate::enter`]: takes a permit the short way, if there is one; mostly
    /// there is. `layout` is that of the gate: a caller who has chosen his place by it knows it
    /// already, and compiles only what is needed for that.
    ///
    /// Where each permit counts: below the limit. Where there is no limit: always, since there is
    /// nothing to exceed; a limit that was set later is looked at with the permit taken. Where
    /// members of a row count: in a lane where this member is the only one, which is empty mostly.
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
                // Whoever waits for all lanes marks this word first.
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

    /// The second half, with a permit that is [`Taken::Sure`]: looks at the lease and the clock,
    /// and then whether the operation, which arrived in the epoch `arrived`, may still pass.
    /// `None`: it takes more than a glance to say how things stand.
    #[inline(always)]
    pub fn check_short(&self, arrived: u64, now: impl Fn() -> u64) -> Option<Check> {
        let check = self.glance(now)?;
        (arrived >= self.since.load()).then_some(check)
    }

    /// Goes on where the short way ended: with what [`Gate::take_short`] returned if that is not
    /// sure, or if [`Gate::check_short`] returned nothing.
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

    /// Asks for the operation that has waited longest for its lane, and arrived in the epoch
    /// `arrived`.
    pub fn enter_waiting(&self, place: Place, arrived: u64, now: impl Fn() -> u64) -> Admission {
        if self.expiry_ns() == 0 {
            return self.refuse_at_once();
        }
        self.decide(place, arrived, self.take(place, true), now)
    }

    /// A controller without a lease, a secondary mostly, need not take what it would give back.
    fn refuse_at_once(&self) -> Admission {
        Admission::Refused {
            lapsed: false,
            wake: false,
        }
    }

    /// Looks at the lease, with a permit or without room for one.
    fn decide(
        &self,
        place: Place,
        arrived: u64,
        taken: Result<u32, Left>,
        now: impl Fn() -> u64,
    ) -> Admission {
        let sight = self.see(now);
        // Looked at after the lease: the reign of that lease, or a later one, which is stricter.
        let is_outlived = self.since.load() > arrived;
        match (taken, sight) {
            (taken, Sight::Valid(_) | Sight::Closed) if is_outlived => Admission::Outlived {
                wake: taken.map_or_else(|left| left.wake, |_| self.leave(place).wake),
            },
            (Ok(used), Sight::Valid(check)) => {
                self.note_peak(used);
                Admission::Granted(check)
            }
            (Ok(_), Sight::Closed) => Admission::Full {
                wake: self.leave(place).wake,
            },
            (Ok(_), Sight::Over { lapsed }) => Admission::Refused {
                lapsed,
                wake: self.leave(place).wake,
            },
            (Err(Left { wake }), Sight::Valid(_) | Sight::Closed) => Admission::Full { wake },
            (Err(Left { wake }), Sight::Over { lapsed }) => Admission::Refused { lapsed, wake },
        }
    }

    /// Looks at the lease and then at the clock, in this order; `None` if it takes more than that
    /// to say how things stand.
    #[inline(always)]
    fn glance(&self, now: impl Fn() -> u64) -> Option<Check> {
        let expiry_ns = self.expiry.load();
        let now_ns = now();
        is_within(now_ns, expiry_ns, self.length_ns).then_some(Check { now_ns, expiry_ns })
    }

    /// Looks at the lease and then at the clock, in this order, and latches what has ended.
    ///
    /// A caller that was held up between the two may have seen a lease that was extended since:
    /// then the latch fails, and it looks again. So a valid lease is never taken for an ended one.
    fn see(&self, now: impl Fn() -> u64) -> Sight {
        loop {
            let word = self.expiry.load();
            let expiry_ns = word & !CLOSED;
            let now_ns = now();
            if is_within(now_ns, expiry_ns, self.length_ns) {
                return match word & CLOSED {
                    0 => Sight::Valid(Check { now_ns, expiry_ns }),
                    _ => Sight::Closed,
                };
            }
            if expiry_ns == 0 {
                return Sight::Over { lapsed: false };
            }
            if self.expiry.compare_exchange(word, word & CLOSED).is_ok() {
                return Sight::Over { lapsed: true };
            }
        }
    }

    /// Gives a permit back.
    pub fn leave(&self, place: Place) -> Left {
        self.leave_short(place)
            .unwrap_or_else(|| self.leave_wide(place))
    }

    /// As [`Gate::leave`], for an operation in one row; `None`, and nothing done, for another.
    #[inline(always)]
    pub fn leave_short(&self, place: Place) -> Option<Left> {
        let lane = self.lanes.get(place.lane)?;
        let word = lane.fetch_add(place.unit.0.wrapping_neg());
        // All bits above those that count are marks, which few lanes have.
        let wake = word >> COUNT_BITS != 0 && wakes(word.wrapping_sub(place.unit.0));
        Some(Left { wake })
    }

    /// Whoever waits, for whatever row, may wait for this.
    fn leave_wide(&self, place: Place) -> Left {
        self.wide.fetch_add(place.unit.0.wrapping_neg());
        Left { wake: true }
    }

    /// Notes that an operation waits. `true` when there is room: wake the dispatcher at once,
    /// because nobody who leaves will.
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

    /// Marks the lane of an operation, and says whether it fits.
    fn wait_for_lane(&self, place: Place, limit: u32) -> bool {
        let Some(lane) = self.lanes.get(place.lane) else {
            return true;
        };
        let word = set_bits(lane, WAITERS);
        let next = word.wrapping_add(place.unit.0);
        fits(self.layout, word, place, limit) && self.used(self.layout, place, next, limit) <= limit
    }

    /// Marks all lanes that are in use, and says whether an operation fits beside them. What came
    /// to a lane after it was found empty does not count, because its end would wake nobody. Looks
    /// at every lane, and changes few.
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

    /// Notes that nothing waits for this lane any more.
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

    /// Notes that nothing waits for any lane.
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

    /// The permits as they are now. Looks at every lane.
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

    /// Whether the gate is closed and every permit has come back.
    pub fn is_drained(&self) -> bool {
        self.is_closed() && self.all().all(|lane| lane.load() & COUNT == 0)
    }

    /// Whether a success of `epoch` may be acknowledged [R18].
    ///
    /// # Errors
    ///
    /// The lease is over, or it is that of another epoch; `lapsed` when this call latched it.
    pub fn acknowledge(&self, epoch: u64, now: impl Fn() -> u64) -> Result<(), Lapsed> {
        match self.see(now) {
            Sight::Over { lapsed } => Err(Lapsed(lapsed)),
            _ if self.epoch.load() == epoch => Ok(()),
            _ => Err(Lapsed(false)),
        }
    }

    /// As [`Gate::acknowledge`], at a glance; `false`: it takes more than that to say. The epoch
    /// lies with the operation, and is not needed before the clock was read.
    #[inline(always)]
    pub fn acknowledge_short(&self, epoch: &u64, now: impl Fn() -> u64) -> bool {
        self.glance(now).is_some() && self.epoch.load() == *epoch
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

    /// Whether there is no lease, at a glance: a latched gate that is closed as well may say no.
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
    /// heartbeat path calls it, once an epoch, and only while no lease stands: an epoch follows a
    /// latch.
    pub fn open_epoch(&self, epoch: u64, since: u64, expiry_ns: u64) -> bool {
        self.since.store(since);
        self.epoch.store(epoch);
        self.change_lease(|lease| (lease == 0).then_some(expiry_ns))
    }

    /// Moves the end of the lease from `from_ns` to `to_ns`; `false` when it was latched meanwhile.
    pub fn extend(&self, from_ns: u64, to_ns: u64) -> bool {
        from_ns != 0 && self.change_lease(|lease| (lease == from_ns).then_some(to_ns))
    }

    /// Latches the lease, whatever it is.
    pub fn latch(&self) {
        self.change_lease(|_| Some(0));
    }

    /// Changes the end of the lease in one step and leaves the gate closed or open as it is;
    /// `false` when `change` declined.
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

    /// Whether an operation may wait for whoever leaves any lane: for the sum of all, or for a row.
    fn waits_for_all(&self, place: Place) -> bool {
        place.is_wide() || self.layout == LaneLayout::PerCpu
    }

    /// Whether an operation that comes to a lane with this word goes behind others.
    fn is_waited_for(&self, word: u64) -> bool {
        (word | self.wide.load()) & WAITERS != 0
    }

    /// Takes a permit; the number is what is used now, as [`Count::open`].
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
                // Who marks the word for many rows from now on sees this lane in use.
                Ok(_) if !has_waited && self.is_waited_for(word) => return Err(self.leave(place)),
                Ok(_) => return self.confirm(place, next),
                Err(found) => word = found,
            }
        }
    }

    /// Looks again at a permit that was taken the short way. As whoever takes the long way it goes
    /// behind those that wait.
    fn keep(&self, place: Place) -> Result<u32, Left> {
        match self.lane(place).map(W::load) {
            Some(word) if !self.is_waited_for(word) => self.confirm(place, word),
            _ => Err(self.leave(place)),
        }
    }

    /// With the permit taken, and the lane `word`: looks at a limit that was lowered meanwhile, and
    /// at what other words hold.
    fn confirm(&self, place: Place, word: u64) -> Result<u32, Left> {
        let limit = self.limit();
        match self.used(self.layout, place, word, limit) {
            used if used <= limit => Ok(used),
            _ => Err(self.leave(place)),
        }
    }

    /// What is used of the limit when the lane of `charge` is `word`.
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

/// Whether a lane is marked in a way that makes whoever leaves it like this wake the dispatcher.
#[cold]
#[inline(never)]
fn wakes(word: u64) -> bool {
    word & WAITERS != 0 || word & WATCH != 0 && word & COUNT == 0
}

#[cfg(test)]
mod tests;
