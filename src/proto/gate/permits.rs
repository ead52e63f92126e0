// SPDX-License-Identifier: GPL-2.0
//! The gate: one atomic decision for each state-changing operation.
//!
//! An operation takes a *permit* out of a *lane*, **then** looks at the lease, with a clock value
//! read after that, and gives the permit back when there is none. So what passed was counted before
//! its lease was seen valid, and what never completes keeps its permit [R13, R16]. How many lanes
//! there are, and what fits into one, is the way of counting:
//!
//! * `Ops`: one lane; fewer permits than the limit may be open.
//! * `Spread`: a lane for each CPU, and no limit; one that is set later is compared with the sum.
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

use crate::proto::lease::is_within;
use core::ops::Deref;

/// An atomic 64-bit word whose changes are fully ordered.
pub trait Word {
    /// A word with this value.
    fn new(value: u64) -> Self;
    /// Reads the word, with acquire ordering at least.
    fn load(&self) -> u64;
    /// Writes the word, fully ordered.
    fn store(&self, value: u64);
    /// Replaces `old` by `new`; `Err` carries what was found instead.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64>;
    /// Adds, wrapping around; returns the value before.
    fn fetch_add(&self, value: u64) -> u64;
}

/// A limit that is never reached in practice: what `external` redundancy has.
pub const UNLIMITED: u32 = (1 << 20) - 1;

/// Lanes of [`Counting::Rows`]: a power of two, many more than operations are open at once.
pub const ROW_LANES: usize = 1 << ROW_LANE_BITS;

/// From one lane of [`Counting::Spread`] to the next, in words: no two share a cache line.
pub const SPREAD_STRIDE: usize = 8;

const ROW_LANE_BITS: u32 = 10;
const SECTOR_SHIFT: u32 = 9;
/// Bits of a lane that count.
const COUNT_BITS: u32 = 60;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const WATCH: u64 = 1 << 62;
const WAITERS: u64 = 1 << 63;
/// In the word for many rows: the limit is one that the short way does not look at.
const DETOUR: u64 = 1 << 61;
/// There, too: nobody has had a permit yet that counts for [`Count::peak`].
const FIRST: u64 = 1 << 60;
/// The bit of the lease word that closes the gate. As a time it would be 292 years, which is no
/// clock's, so a lease that is compared with the bit in it is over.
const CLOSED: u64 = 1 << 63;
/// The word that is charged for operations on many rows is no lane.
const WIDE: usize = usize::MAX;

/// How permits are counted. What comes first here is asked for first, and costs least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// What counts is how many members have open permits in one stripe row.
    Rows(Fields),
    /// Each open permit counts.
    Ops,
    /// As `Ops`, with a lane for each CPU, for a portion that has no limit.
    Spread,
}

/// The fields of a lane of [`Counting::Rows`], one for each member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    bits: u32,
    /// The bits of the lowest one.
    ones: u64,
    /// The highest bit of every field, and all bits below it.
    high: u64,
    low: u64,
}

impl Fields {
    /// Fields for up to 16 members, as wide as there is room.
    pub const fn new(members: u8) -> Self {
        let members = match members {
            0 => 1,
            1..=16 => members as u32,
            _ => 16,
        };
        let bits = COUNT_BITS / members;
        let (mut high, mut low) = (0, 0);
        let mut shift = 0;
        while shift < members * bits {
            high |= 1 << (shift + bits - 1);
            low |= ((1 << (bits - 1)) - 1) << shift;
            shift += bits;
        }
        let ones = (1 << bits) - 1;
        Self {
            bits,
            ones,
            high,
            low,
        }
    }

    /// How many fields of a lane are not zero.
    #[inline]
    fn members(&self, word: u64) -> u32 {
        // All ones below the highest bit carry into it from every field that is not zero.
        (((word & self.low).wrapping_add(self.low) | word) & self.high).count_ones()
    }

    /// Whether the field of `unit` cannot count any further.
    fn is_full(&self, word: u64, unit: Unit) -> bool {
        !word & self.field(unit) == 0
    }

    /// The bits of the field of `unit`.
    #[inline]
    fn field(&self, unit: Unit) -> u64 {
        self.ones.wrapping_mul(unit.0)
    }

    /// One operation on a member.
    pub const fn unit(&self, member: u8) -> Unit {
        let shift = (member as u32).wrapping_mul(self.bits);
        Unit(1_u64.wrapping_shl(shift))
    }
}

/// One open permit, in the place of a lane where it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit(u64);

impl Unit {
    /// Where only the number of permits counts.
    pub const ONE: Unit = Unit(1);
}

/// How long a stripe row is on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    sectors: u64,
    /// What is left of a sector's number in its row, and where that ends: if the length is a power
    /// of two. Else nothing ends in time, and rows are found by a division.
    mask: u64,
    end: u64,
}

impl Chunk {
    /// Rows of so many sectors.
    pub fn new(sectors: u32) -> Self {
        let is_power = sectors.is_power_of_two();
        let sectors = u64::from(sectors);
        Self {
            sectors,
            mask: sectors.wrapping_sub(1),
            end: if is_power { sectors } else { 0 },
        }
    }

    /// The first sector of the only row that some bytes are in; `None` if there are more rows, or
    /// no bytes.
    #[inline(always)]
    pub fn row(&self, sector: u64, bytes: u32) -> Option<u64> {
        let place = sector & self.mask;
        // Of no bytes the last one is very far away.
        let last = u64::from(bytes.wrapping_sub(1) >> SECTOR_SHIFT);
        match place.wrapping_add(last) < self.end {
            true => Some(sector.wrapping_sub(place)),
            false => self.divide(sector, last),
        }
    }

    #[cold]
    fn divide(&self, sector: u64, last: u64) -> Option<u64> {
        let place = sector.checked_rem(self.sectors)?;
        (place.wrapping_add(last) < self.sectors).then_some(sector.wrapping_sub(place))
    }
}

/// Where an operation is charged: chosen once, remembered until its permit comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    unit: Unit,
    /// As wide as an index: what is narrower costs an instruction.
    lane: usize,
}

impl Charge {
    /// The only lane there is.
    pub const ONE: Charge = Charge {
        unit: Unit::ONE,
        lane: 0,
    };

    /// The lane of a CPU; any will do, the one that runs is the fastest.
    #[inline]
    pub const fn cpu(cpu: u32) -> Self {
        Self {
            unit: Unit::ONE,
            lane: cpu.wrapping_mul(SPREAD_STRIDE as u32) as usize,
        }
    }

    /// A member in a stripe row, which may be named by any number of its own.
    #[inline]
    pub const fn row(unit: Unit, row: u64) -> Self {
        // Multiplicative hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
        let hash = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            unit,
            lane: (hash >> (64 - ROW_LANE_BITS)) as usize,
        }
    }

    /// A member in more rows than one.
    #[inline]
    pub const fn rows(unit: Unit) -> Self {
        Self { unit, lane: WIDE }
    }

    /// Whether it counts for every row.
    pub const fn is_wide(self) -> bool {
        self.lane == WIDE
    }

    /// The lane, to keep what waits for it in order.
    pub const fn lane(self) -> usize {
        self.lane
    }
}

impl Counting {
    /// How many words the lanes take on a machine with so many CPUs.
    pub const fn words(self, cpus: usize) -> usize {
        match self {
            Counting::Ops => 1,
            Counting::Spread => cpus.wrapping_mul(SPREAD_STRIDE),
            Counting::Rows(_) => ROW_LANES,
        }
    }

    /// [`DETOUR`] if the short way does not do for this limit: it takes whoever comes, or one
    /// member for a row; where each permit counts it looks at the limit itself.
    fn detour(self, limit: u32) -> u64 {
        let short = match self {
            Counting::Ops => true,
            Counting::Spread => limit == UNLIMITED,
            Counting::Rows(_) => limit >= 1,
        };
        match short {
            true => 0,
            false => DETOUR,
        }
    }
}

/// What is open, and what may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// What is measured against the limit: permits given and not given back, or the members that
    /// have some in one row, in the row that has most of them.
    pub open: u32,
    /// How many may be open at once; 0 while the gate is closed.
    pub limit: u32,
    /// The highest `open` since the gate was made, of operations that were admitted; not kept for
    /// [`Counting::Spread`].
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

/// The gate of one portion. `L` holds the lanes, [`Counting::words`] of them, all zero at first.
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
    counting: Counting,
}

impl<W: Word, L: Deref<Target = [W]>> Gate<W, L> {
    /// A gate without a lease, with a lease time of `length_ns`.
    pub fn new(length_ns: u64, limit: u32, counting: Counting, lanes: L) -> Self {
        let closed = if limit == 0 { CLOSED } else { 0 };
        let first = match counting {
            Counting::Rows(_) => FIRST,
            Counting::Ops | Counting::Spread => 0,
        };
        let limit = limit.min(UNLIMITED);
        Self {
            expiry: W::new(closed),
            epoch: W::new(0),
            since: W::new(0),
            limit: W::new(limit.into()),
            peak: W::new(0),
            wide: W::new(first | counting.detour(limit)),
            lanes,
            length_ns,
            counting,
        }
    }

    /// How permits are counted.
    #[inline]
    pub fn counting(&self) -> Counting {
        self.counting
    }

    /// Asks to perform a state-changing operation that arrives now [R12, R13].
    ///
    /// `now` is read after the permit was taken, so that a stall between the two cannot pass.
    ///
    /// Whoever comes while others wait for the same lane goes behind them.
    pub fn enter(&self, charge: Charge, now: impl Fn() -> u64) -> Admission {
        let arrived = self.epoch();
        let taken = self.take_short(self.counting, charge);
        if let Taken::Sure = taken {
            if let Some(check) = self.check_short(arrived, &now) {
                return Admission::Granted(check);
            }
        }
        self.enter_long(charge, arrived, taken, now)
    }

    /// The first half of [`Gate::enter`]: takes a permit the short way, if there is one; mostly
    /// there is. `counting` is that of the gate: a caller who has chosen his charge by it knows it
    /// already, and compiles only what is needed for that.
    ///
    /// Where each permit counts: below the limit. Where there is no limit: always, since there is
    /// nothing to exceed; a limit that was set later is looked at with the permit taken. Where
    /// members of a row count: in a lane where this member is the only one, which is empty mostly.
    #[inline(always)]
    pub fn take_short(&self, counting: Counting, charge: Charge) -> Taken {
        let Some(lane) = self.lanes.get(charge.lane) else {
            return Taken::No;
        };
        let unit = charge.unit.0;
        let sure = match counting {
            Counting::Ops => {
                let word = lane.load();
                let next = word.wrapping_add(unit);
                if word >= self.limit.load() || lane.compare_exchange(word, next).is_err() {
                    return Taken::No;
                }
                next <= self.limit.load() && next <= self.peak.load()
            }
            Counting::Spread => {
                lane.fetch_add(unit);
                // Whoever waits for all lanes marks this word first.
                self.wide.load() == 0
            }
            Counting::Rows(fields) => {
                if let Err(word) = lane.compare_exchange(0, unit) {
                    let next = word.wrapping_add(unit);
                    let others = next & !fields.field(charge.unit);
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
        charge: Charge,
        arrived: u64,
        taken: Taken,
        now: impl Fn() -> u64,
    ) -> Admission {
        let taken = match taken {
            Taken::Sure | Taken::Unsure => self.keep(charge),
            Taken::No if self.expiry_ns() == 0 => return self.refuse_at_once(),
            Taken::No => self.take(charge, false),
        };
        self.decide(charge, arrived, taken, now)
    }

    /// Asks for the operation that has waited longest for its lane, and arrived in the epoch
    /// `arrived`.
    pub fn enter_waiting(&self, charge: Charge, arrived: u64, now: impl Fn() -> u64) -> Admission {
        if self.expiry_ns() == 0 {
            return self.refuse_at_once();
        }
        self.decide(charge, arrived, self.take(charge, true), now)
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
        charge: Charge,
        arrived: u64,
        taken: Result<u32, Left>,
        now: impl Fn() -> u64,
    ) -> Admission {
        let sight = self.see(now);
        // Looked at after the lease: the reign of that lease, or a later one, which is stricter.
        let is_outlived = self.since.load() > arrived;
        match (taken, sight) {
            (taken, Sight::Valid(_) | Sight::Closed) if is_outlived => Admission::Outlived {
                wake: taken.map_or_else(|left| left.wake, |_| self.leave(charge).wake),
            },
            (Ok(used), Sight::Valid(check)) => {
                self.note_peak(used);
                Admission::Granted(check)
            }
            (Ok(_), Sight::Closed) => Admission::Full {
                wake: self.leave(charge).wake,
            },
            (Ok(_), Sight::Over { lapsed }) => Admission::Refused {
                lapsed,
                wake: self.leave(charge).wake,
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
    pub fn leave(&self, charge: Charge) -> Left {
        self.leave_short(charge)
            .unwrap_or_else(|| self.leave_wide(charge))
    }

    /// As [`Gate::leave`], for an operation in one row; `None`, and nothing done, for another.
    #[inline(always)]
    pub fn leave_short(&self, charge: Charge) -> Option<Left> {
        let lane = self.lanes.get(charge.lane)?;
        let word = lane.fetch_add(charge.unit.0.wrapping_neg());
        // All bits above those that count are marks, which few lanes have.
        let wake = word >> COUNT_BITS != 0 && wakes(word.wrapping_sub(charge.unit.0));
        Some(Left { wake })
    }

    /// Whoever waits, for whatever row, may wait for this.
    fn leave_wide(&self, charge: Charge) -> Left {
        self.wide.fetch_add(charge.unit.0.wrapping_neg());
        Left { wake: true }
    }

    /// Notes that an operation waits. `true` when there is room: wake the dispatcher at once,
    /// because nobody who leaves will.
    ///
    /// The caller has queued the operation, under its own lock, before the call.
    pub fn wait(&self, charge: Charge) -> bool {
        let limit = self.limit();
        let fits = match self.waits_for_all(charge) {
            true => self.wait_for_all(charge, limit),
            false => self.wait_for_lane(charge, limit),
        };
        fits && !self.is_closed()
    }

    /// Marks the lane of an operation, and says whether it fits.
    fn wait_for_lane(&self, charge: Charge, limit: u32) -> bool {
        let Some(lane) = self.lanes.get(charge.lane) else {
            return true;
        };
        let word = set_bits(lane, WAITERS);
        let next = word.wrapping_add(charge.unit.0);
        fits(self.counting, word, charge, limit)
            && self.used(self.counting, charge, next, limit) <= limit
    }

    /// Marks all lanes that are in use, and says whether an operation fits beside them. What came
    /// to a lane after it was found empty does not count, because its end would wake nobody. Looks
    /// at every lane, and changes few.
    fn wait_for_all(&self, charge: Charge, limit: u32) -> bool {
        let wide = set_bits(&self.wide, WAITERS);
        let own = match charge.is_wide() {
            true => wide.wrapping_add(charge.unit.0),
            false => wide,
        };
        let mut used = match self.counting {
            Counting::Rows(fields) => fields.members(own & COUNT),
            Counting::Ops | Counting::Spread => 1,
        };
        for lane in self.lanes.iter().filter(|lane| lane.load() & COUNT != 0) {
            let word = set_bits(lane, WAITERS);
            used = match self.counting {
                Counting::Rows(fields) => used.max(fields.members((word | own) & COUNT)),
                Counting::Ops | Counting::Spread => used.saturating_add((word & COUNT) as u32),
            };
        }
        let is_full = match self.counting {
            Counting::Rows(fields) => fields.is_full(wide, charge.unit),
            Counting::Ops | Counting::Spread => false,
        };
        used <= limit && !is_full
    }

    /// Notes that nothing waits for this lane any more.
    pub fn no_waiters(&self, charge: Charge) {
        match self.waits_for_all(charge) {
            true => self.no_waiters_at_all(),
            false => self
                .lanes
                .get(charge.lane)
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
        match self.counting.detour(limit) {
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
            open = match self.counting {
                Counting::Rows(fields) => open.max(fields.members((word | wide) & COUNT)),
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

    fn lane(&self, charge: Charge) -> Option<&W> {
        match charge.is_wide() {
            false => self.lanes.get(charge.lane),
            true => Some(&self.wide),
        }
    }

    fn all(&self) -> impl Iterator<Item = &W> {
        self.lanes.iter().chain(core::iter::once(&self.wide))
    }

    /// Whether an operation may wait for whoever leaves any lane: for the sum of all, or for a row.
    fn waits_for_all(&self, charge: Charge) -> bool {
        charge.is_wide() || self.counting == Counting::Spread
    }

    /// Whether an operation that comes to a lane with this word goes behind others.
    fn is_waited_for(&self, word: u64) -> bool {
        (word | self.wide.load()) & WAITERS != 0
    }

    /// Takes a permit; the number is what is used now, as [`Count::open`].
    fn take(&self, charge: Charge, has_waited: bool) -> Result<u32, Left> {
        let no = Left { wake: false };
        let (Some(lane), limit) = (self.lane(charge), self.limit()) else {
            return Err(no);
        };
        let mut word = lane.load();
        loop {
            let goes_behind = !has_waited && self.is_waited_for(word);
            if goes_behind || !fits(self.counting, word, charge, limit) {
                return Err(no);
            }
            let next = word.wrapping_add(charge.unit.0);
            match lane.compare_exchange(word, next) {
                // Who marks the word for many rows from now on sees this lane in use.
                Ok(_) if !has_waited && self.is_waited_for(word) => return Err(self.leave(charge)),
                Ok(_) => return self.confirm(charge, next),
                Err(found) => word = found,
            }
        }
    }

    /// Looks again at a permit that was taken the short way. As whoever takes the long way it goes
    /// behind those that wait.
    fn keep(&self, charge: Charge) -> Result<u32, Left> {
        match self.lane(charge).map(W::load) {
            Some(word) if !self.is_waited_for(word) => self.confirm(charge, word),
            _ => Err(self.leave(charge)),
        }
    }

    /// With the permit taken, and the lane `word`: looks at a limit that was lowered meanwhile, and
    /// at what other words hold.
    fn confirm(&self, charge: Charge, word: u64) -> Result<u32, Left> {
        let limit = self.limit();
        match self.used(self.counting, charge, word, limit) {
            used if used <= limit => Ok(used),
            _ => Err(self.leave(charge)),
        }
    }

    /// What is used of the limit when the lane of `charge` is `word`.
    fn used(&self, counting: Counting, charge: Charge, word: u64, limit: u32) -> u32 {
        match counting {
            Counting::Ops => (word & COUNT) as u32,
            Counting::Spread if limit == UNLIMITED => 0,
            Counting::Spread => self.count().open,
            Counting::Rows(fields) if charge.is_wide() => self
                .lanes
                .iter()
                .map(|lane| fields.members((lane.load() | word) & COUNT))
                .fold(fields.members(word & COUNT), u32::max),
            Counting::Rows(fields) => fields.members((word | self.wide.load()) & COUNT),
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

/// Whether one more fits into a lane, as far as the lane itself says.
fn fits(counting: Counting, word: u64, charge: Charge, limit: u32) -> bool {
    match counting {
        Counting::Ops | Counting::Spread => word & COUNT < limit.into(),
        Counting::Rows(fields) => {
            !fields.is_full(word, charge.unit)
                && fields.members((word & COUNT).wrapping_add(charge.unit.0)) <= limit
        }
    }
}

/// Returns the word with the bits set.
fn set_bits<W: Word>(word: &W, bits: u64) -> u64 {
    change(word, |value| value | bits)
}

fn clear_bits<W: Word>(word: &W, bits: u64) {
    change(word, |value| value & !bits);
}

/// Changes a word, or makes sure with full ordering that it is so already; returns what it is then.
fn change<W: Word>(word: &W, change: impl Fn(u64) -> u64) -> u64 {
    let mut seen = word.load();
    loop {
        let next = change(seen);
        match word.compare_exchange(seen, next) {
            Ok(_) => return next,
            Err(found) => seen = found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

    impl Word for AtomicU64 {
        fn new(value: u64) -> Self {
            AtomicU64::new(value)
        }
        fn load(&self) -> u64 {
            AtomicU64::load(self, SeqCst)
        }
        fn store(&self, value: u64) {
            AtomicU64::store(self, value, SeqCst);
        }
        fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
            AtomicU64::compare_exchange(self, old, new, SeqCst, SeqCst)
        }
        fn fetch_add(&self, value: u64) -> u64 {
            AtomicU64::fetch_add(self, value, SeqCst)
        }
    }

    const L: u64 = 1_000;

    fn is_granted(admission: Admission) -> bool {
        matches!(admission, Admission::Granted(_))
    }

    type Lanes = std::vec::Vec<AtomicU64>;

    fn counted(counting: Counting, cpus: usize, limit: u32) -> Gate<AtomicU64, Lanes> {
        let lanes = (0..counting.words(cpus)).map(|_| AtomicU64::new(0));
        let gate = Gate::new(L, limit, counting, lanes.collect());
        assert!(gate.open_epoch(7, 7, 2_000));
        gate
    }

    fn leased(limit: u32) -> Gate<AtomicU64, Lanes> {
        counted(Counting::Ops, 1, limit)
    }

    const ONE: Charge = Charge::ONE;
    const FULL: Admission = Admission::Full { wake: false };

    #[test]
    fn r13_the_limit_bounds_the_open_permits() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert_eq!(gate.enter(ONE, || 1_500), FULL);
        assert!(!gate.wait(ONE));
        assert!(gate.leave(ONE).wake);
        assert_eq!(gate.enter(ONE, || 1_500), FULL, "others wait already");
        assert!(is_granted(gate.enter_waiting(ONE, 7, || 1_500)));
        gate.no_waiters(ONE);
        assert_eq!(gate.count().peak, 2);
    }

    #[test]
    fn r13_the_clock_is_read_with_the_permit_taken() {
        let gate = leased(2);
        for open in 1..=2 {
            let counted = || {
                assert_eq!(gate.count().open, open);
                1_500
            };
            assert!(is_granted(gate.enter(ONE, counted)));
        }
        let gate = rows(2);
        for open in 1..=2 {
            let counted = || {
                assert_eq!(gate.count().open, open);
                1_500
            };
            // The second one does not find the lane empty: it goes the long way.
            assert!(is_granted(gate.enter(row(9, open as u8), counted)));
        }
    }

    #[test]
    fn r6_an_expired_lease_refuses_and_latches() {
        let gate = leased(2);
        assert!(!gate.is_latched());
        assert_eq!(
            gate.enter(ONE, || 2_000),
            Admission::Refused {
                lapsed: true,
                wake: false
            }
        );
        assert!(gate.is_latched());
        assert_eq!(
            gate.enter(ONE, || 1_500),
            Admission::Refused {
                lapsed: false,
                wake: false
            }
        );
        assert_eq!(gate.count().open, 0);
        assert!(!gate.extend(2_000, 3_000));
    }

    #[test]
    fn r6_a_full_gate_refuses_once_the_lease_is_gone() {
        let gate = leased(1);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert_eq!(
            gate.enter(ONE, || 2_500),
            Admission::Refused {
                lapsed: true,
                wake: false
            }
        );
        assert_eq!(gate.count().open, 1);
    }

    #[test]
    fn r18_success_counts_only_for_the_epoch_and_time_of_the_lease() {
        let gate = leased(1);
        assert!(gate.acknowledge(7, || 1_999).is_ok());
        assert!(gate.acknowledge_short(&7, || 1_999));
        assert!(gate.acknowledge(6, || 1_999).is_err());
        assert!(!gate.acknowledge_short(&6, || 1_999));
        assert!(!gate.acknowledge_short(&7, || 2_000));
        assert_eq!(gate.acknowledge(7, || 2_000), Err(Lapsed(true)));
        gate.latch();
        assert!(gate.acknowledge(7, || 1_999).is_err());
        assert!(!gate.acknowledge_short(&7, || 1_999));
        assert!(gate.open_epoch(8, 7, 2_500));
        assert!(gate.acknowledge(7, || 1_999).is_err());
        assert!(!gate.acknowledge_short(&7, || 1_999));
    }

    #[test]
    fn r17_whoever_is_held_up_does_not_end_a_lease_that_was_extended_meanwhile() {
        let gate = leased(2);
        // The clock is read after the lease; by then another thread has extended it.
        let late = || {
            gate.extend(2_000, 3_000);
            2_500
        };
        assert!(is_granted(gate.enter(ONE, late)));
        let late = || {
            gate.extend(3_000, 4_000);
            3_500
        };
        assert!(gate.acknowledge(7, late).is_ok());
        assert_eq!(gate.expiry_ns(), 4_000);
    }

    #[test]
    fn r34_a_permit_that_is_given_back_at_once_wakes_who_waits_for_an_empty_gate() {
        let gate = leased(1);
        let closing = || {
            gate.set_limit(0);
            2_500
        };
        let refused = Admission::Refused {
            lapsed: true,
            wake: true,
        };
        assert_eq!(gate.enter(ONE, closing), refused);
    }

    #[test]
    fn r55_nothing_passes_in_a_later_reign_than_it_arrived_in() {
        let gate = leased(1);
        gate.latch();
        assert!(gate.open_epoch(9, 9, 2_500));
        let outlived = Admission::Outlived { wake: false };
        assert_eq!(gate.enter_waiting(ONE, 7, || 2_000), outlived);
        assert_eq!(gate.enter_waiting(ONE, 8, || 2_000), outlived);
        assert_eq!(gate.enter_long(ONE, 7, Taken::No, || 2_000), outlived);
        assert!(matches!(gate.take_short(Counting::Ops, ONE), Taken::Unsure));
        assert_eq!(gate.check_short(7, || 2_000), None);
        assert_eq!(gate.enter_long(ONE, 7, Taken::Sure, || 2_000), outlived);
        assert_eq!(gate.count().open, 0, "its permit went back");

        assert!(is_granted(gate.enter_waiting(ONE, 9, || 2_000)));
        assert_eq!(
            gate.enter_waiting(ONE, 8, || 2_000),
            outlived,
            "it does not wait for room either"
        );
        gate.set_limit(0);
        assert_eq!(gate.enter_waiting(ONE, 8, || 2_000), outlived);
    }

    #[test]
    fn r55_what_arrived_in_an_earlier_term_of_the_same_reign_passes() {
        let gate = leased(1);
        gate.latch();
        assert!(gate.open_epoch(8, 7, 2_500));
        assert!(is_granted(gate.enter_waiting(ONE, 7, || 2_000)));
        assert!(gate.check_short(7, || 2_000).is_some());
    }

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

    #[test]
    fn r34_a_closed_gate_lets_nobody_in_and_drains() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        gate.set_limit(0);
        assert_eq!(gate.enter(ONE, || 1_500), FULL);
        assert!(!gate.is_drained());
        assert!(gate.leave(ONE).wake);
        assert!(gate.is_drained());
    }

    #[test]
    fn no_wake_up_is_lost_when_room_appears_while_queueing() {
        let gate = leased(1);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert_eq!(gate.enter(ONE, || 1_500), FULL);
        assert!(!gate.leave(ONE).wake);
        assert!(
            gate.wait(ONE),
            "there is room, and nobody left to notice the waiter"
        );
    }

    #[test]
    fn unlimited_is_wide_enough() {
        let gate = leased(UNLIMITED);
        for _ in 0..1_000 {
            assert!(is_granted(gate.enter(ONE, || 1_500)));
        }
        assert_eq!(gate.count().limit, UNLIMITED);
    }

    #[test]
    fn r13_a_limit_that_is_lowered_while_a_permit_is_taken_is_not_exceeded() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        gate.set_limit(1);
        assert_eq!(gate.enter(ONE, || 1_500), FULL);
        gate.set_limit(2);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert_eq!((gate.count().open, gate.count().peak), (2, 2));
    }

    #[test]
    fn r34_a_closed_gate_keeps_its_lease_and_stays_closed_over_a_latch() {
        let gate = leased(2);
        let closing = || {
            gate.set_limit(0);
            1_500
        };
        // The clock is read after the lease: this one was let in before the gate was closed.
        assert!(is_granted(gate.enter(ONE, closing)));
        assert!(!gate.is_drained());
        assert_eq!(gate.enter(ONE, || 1_500), FULL);
        assert!(gate.leave(ONE).wake && gate.is_drained());
        assert!(gate.extend(2_000, 2_500), "a closed gate keeps its lease");
        gate.latch();
        assert!(gate.is_drained(), "a latched one stays closed");
        assert!(gate.open_epoch(8, 7, 3_000));
        assert_eq!(gate.enter(ONE, || 2_500), FULL);
    }

    const MEMBERS: u8 = 3;
    const FIELDS: Fields = Fields::new(MEMBERS);

    #[test]
    fn r17_in_a_closed_gate_the_last_one_to_leave_wakes_the_dispatcher() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        assert!(is_granted(gate.enter(ONE, || 1_500)));
        gate.set_limit(0);
        assert!(!gate.leave(ONE).wake);
        assert!(gate.leave(ONE).wake);
    }

    /// Whether an operation goes the short way all along; its permit is kept.
    fn is_short(gate: &Gate<AtomicU64, Lanes>, charge: Charge) -> bool {
        let taken = gate.take_short(gate.counting(), charge);
        matches!(taken, Taken::Sure) && gate.check_short(7, || 1_500).is_some()
    }

    /// The first operation goes the long way, which notes that there was one.
    fn used(gate: Gate<AtomicU64, Lanes>, charge: Charge) -> Gate<AtomicU64, Lanes> {
        assert!(is_granted(gate.enter(charge, || 1_500)));
        assert!(!gate.leave(charge).wake);
        gate
    }

    #[test]
    fn r13_members_of_a_row_are_counted_with_those_of_all_rows_once_each() {
        let gate = rows(2);
        let takes = |charge, open| {
            assert!(is_granted(gate.enter(charge, || 1_500)));
            assert_eq!(gate.count().open, open);
        };
        takes(row(9, 2), 1);
        takes(Charge::rows(FIELDS.unit(2)), 1);
        takes(row(9, 1), 2);
        takes(row(other(9), 1), 2);
    }

    #[test]
    fn r13_a_member_that_is_open_for_a_row_and_for_all_leaves_no_room_for_another() {
        let all = |member| Charge::rows(FIELDS.unit(member));
        let open = |limit, charges: &[Charge]| {
            let gate = rows(limit);
            for charge in charges {
                assert!(is_granted(gate.enter(*charge, || 1_500)));
            }
            gate
        };
        let gate = open(1, &[row(9, 2), all(2)]);
        assert!(!is_granted(gate.enter(row(9, 1), || 1_500)));
        let gate = open(2, &[row(9, 0), row(9, 1), all(0)]);
        assert!(!is_granted(gate.enter(all(2), || 1_500)));
        let gate = open(2, &[row(9, 0), all(0), all(1)]);
        assert!(!is_granted(gate.enter(row(9, 2), || 1_500)));
    }

    #[test]
    fn r13_an_ordinary_operation_goes_the_short_way() {
        let gate = used(leased(2), ONE);
        assert!(is_short(&gate, ONE));
        assert!(!is_short(&gate, ONE), "as many as never before");

        let lane = Charge::cpu(1);
        let gate = used(counted(Counting::Spread, 2, UNLIMITED), lane);
        assert!((0..3).all(|_| is_short(&gate, lane)));
        gate.set_limit(8);
        assert!(!is_short(&gate, lane), "there is a limit to look at");
        gate.set_limit(UNLIMITED);
        assert!(is_short(&gate, lane));

        let gate = used(rows(1), row(9, 0));
        assert!((0..3).all(|_| is_short(&gate, row(9, 0))), "one member");
        assert!(!is_short(&gate, row(9, 1)), "another one of the same row");
        assert!(is_short(&gate, row(other(9), 1)), "of another row");
    }

    fn rows(limit: u32) -> Gate<AtomicU64, Lanes> {
        counted(Counting::Rows(FIELDS), 1, limit)
    }

    fn row(row: u64, member: u8) -> Charge {
        Charge::row(FIELDS.unit(member), row)
    }

    /// Another row than `first` that has a lane of its own.
    fn other(first: u64) -> u64 {
        let lane = row(first, 0).lane();
        (first + 1..).find(|&it| row(it, 0).lane() != lane).unwrap()
    }

    #[test]
    fn r19_fields_count_every_member_of_every_width() {
        for members in 1..=16 {
            let fields = Fields::new(members);
            let last = fields.unit(members - 1).0;
            assert!(last <= COUNT && last.leading_zeros() >= 4);
            let top = (1 << fields.bits) - 1;
            let mut word = 0;
            for member in 0..members {
                let unit = fields.unit(member);
                for count in [1, 2, top / 2, top / 2 + 1, top] {
                    let word = word + count * unit.0;
                    assert_eq!(fields.members(word), u32::from(member) + 1);
                    assert_eq!(fields.is_full(word, unit), count == top);
                }
                word += top * unit.0;
                assert_eq!(word & !COUNT, 0);
            }
        }
    }

    #[test]
    fn r19_sectors_are_in_one_row_or_in_more() {
        for sectors in [8, 24, 128, 1000, 1024] {
            let chunk = Chunk::new(sectors);
            let sectors = u64::from(sectors);
            for first in [0, sectors, 7 * sectors, 1_000_003 * sectors] {
                for place in [0, 1, 7, sectors / 2, sectors - 1] {
                    for bytes in [512, 1024, 4096, 512 * sectors as u32, u32::MAX - 511] {
                        let fits = place * 512 + u64::from(bytes) <= sectors * 512;
                        let row = chunk.row(first + place, bytes);
                        assert_eq!(row, fits.then_some(first), "{place} {bytes}");
                    }
                    assert_eq!(chunk.row(first + place, 0), None);
                }
            }
        }
        assert_eq!(Chunk::new(0).row(5, 512), None);
    }

    #[test]
    fn r19_many_operations_on_one_member_of_a_row_put_one_shard_at_risk() {
        let gate = rows(1);
        for _ in 0..20 {
            assert!(is_granted(gate.enter(row(9, 1), || 1_500)));
        }
        assert_eq!(gate.enter(row(9, 0), || 1_500), FULL);
        assert_eq!(gate.enter(row(9, 2), || 1_500), FULL);
        assert!(
            is_granted(gate.enter(row(other(9), 0), || 1_500)),
            "rows are independent"
        );
        assert_eq!((gate.count().open, gate.count().peak), (1, 1));
        for _ in 0..20 {
            assert!(!gate.leave(row(9, 1)).wake);
        }
        assert!(is_granted(gate.enter(row(9, 0), || 1_500)));
    }

    #[test]
    fn r16_a_row_never_has_more_members_at_risk_than_the_limit() {
        let gate = rows(2);
        assert!(is_granted(gate.enter(row(9, 0), || 1_500)));
        assert!(is_granted(gate.enter(row(9, 1), || 1_500)));
        assert_eq!(gate.enter(row(9, 2), || 1_500), FULL);
        assert!(!gate.wait(row(9, 2)));
        assert!(gate.leave(row(9, 0)).wake);
        assert!(is_granted(gate.enter_waiting(row(9, 2), 7, || 1_500)));
        assert_eq!(gate.count().peak, 2);
    }

    #[test]
    fn r19_an_operation_on_many_rows_counts_for_every_row() {
        let gate = rows(1);
        let wide = |member| Charge::rows(FIELDS.unit(member));
        assert!(is_granted(gate.enter(wide(1), || 1_500)));
        assert_eq!(gate.enter(row(9, 0), || 1_500), FULL);
        assert!(
            is_granted(gate.enter(row(9, 1), || 1_500)),
            "the same shard"
        );
        assert_eq!(gate.enter(wide(2), || 1_500), FULL);
        assert!(gate.leave(wide(1)).wake, "whoever waits may wait for this");
        assert_eq!(
            gate.enter(wide(2), || 1_500),
            Admission::Full { wake: true },
            "a row is in use by another member: the permit goes back"
        );
        assert!(!gate.wait(wide(2)));
        let marked = gate.all().filter(|lane| Word::load(*lane) & WAITERS != 0);
        assert_eq!(marked.count(), 2, "the row in use, and the word for all");
        assert_eq!(
            gate.enter(row(other(9), 2), || 1_500),
            FULL,
            "nobody overtakes it"
        );
        assert!(!is_short(&gate, row(other(9), 2)), "nor the short way");
        assert_eq!(
            gate.enter_long(row(other(9), 2), 7, Taken::Unsure, || 1_500),
            FULL
        );
        assert!(gate.leave(row(9, 1)).wake);
        assert!(is_granted(gate.enter_waiting(wide(2), 7, || 1_500)));
        gate.no_waiters(wide(2));
        assert!(gate.all().all(|lane| Word::load(lane) & WAITERS == 0));
        gate.set_limit(0);
        assert!(!gate.is_drained());
        gate.leave(wide(2));
        assert!(gate.is_drained());
    }

    #[test]
    fn r13_a_limit_that_is_set_later_bounds_the_sum_of_all_lanes() {
        let gate = counted(Counting::Spread, 4, UNLIMITED);
        for cpu in 0..4 {
            assert!(is_granted(gate.enter(Charge::cpu(cpu), || 1_500)));
        }
        assert_eq!((gate.count().open, gate.count().peak), (4, 0));
        gate.set_limit(4);
        assert!(matches!(
            gate.enter(Charge::cpu(0), || 1_500),
            Admission::Full { .. }
        ));
        assert!(!gate.wait(Charge::cpu(0)));
        assert!(gate.leave(Charge::cpu(3)).wake, "it waits for every lane");
        assert_eq!(
            gate.enter(Charge::cpu(1), || 1_500),
            Admission::Full { wake: true },
            "there is room, and somebody waits for it already"
        );
        assert!(is_granted(gate.enter_waiting(Charge::cpu(0), 7, || 1_500)));
        gate.no_waiters_at_all();
        assert!(gate.all().all(|lane| Word::load(lane) & WAITERS == 0));
        gate.set_limit(0);
        for cpu in [0, 0, 1, 2] {
            assert!(!gate.is_drained());
            gate.leave(Charge::cpu(cpu));
        }
        assert!(gate.is_drained());
    }
}
