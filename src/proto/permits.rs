// SPDX-License-Identifier: GPL-2.0
//! The gate: one atomic decision for each state-changing operation.
//!
//! Two words decide. `expiry` is the end of the lease, 0 when there is none. `permits` holds the
//! whole budget, so that taking a permit is one compare-and-swap that can neither exceed the
//! limit nor slip past a gate that is being closed [R13, R16]:
//!
//! ```text
//!  63        62..60   59........40   39.......20   19.........0
//!  waiters   0        peak           limit         open
//! ```
//!
//! * `limit` 0 is a closed gate: operations wait. Release and hand-over close the gate, then wait
//!   for `open` to become 0. Both stand in one word, so "closed and drained" is one load, and it
//!   stays true: nobody can enter a closed gate.
//! * `waiters` says that operations wait for a permit. Whoever gives a permit back sees it, and
//!   whoever sets it sees whether there is room: no wake-up is lost.
//! * `peak` is the highest `open` ever seen, exact because it is written in the same swap.
//!
//! Order in the request path: take a permit, *then* look at the lease (with a clock value taken
//! after the permit), and give the permit back when it is not valid. An operation that passed
//! therefore was counted before its lease was seen valid; one that never completes keeps its
//! permit [R16].
//!
//! The lease word is changed by compare-and-swap only: [`Gate::extend`] by the heartbeat path and
//! whoever first sees the end of it, so that neither overwrites the other [R9].
//! What may go from 0 to a lease is [`Gate::open_epoch`], once for each epoch.
//!
//! Locking: none; every method may be called from any context. `W` is the atomic word of the
//! world: the kernel's on a controller, a model checker's in the tests. All operations of a `W`
//! are fully ordered.

use super::lease::is_within;

/// An atomic 64-bit word whose operations are fully ordered.
pub trait Word {
    /// A word with this value.
    fn new(value: u64) -> Self;
    /// Reads the word, with acquire ordering at least.
    fn load(&self) -> u64;
    /// Writes the word, fully ordered.
    fn store(&self, value: u64);
    /// Replaces `old` by `new`; `Err` carries what was found instead.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64>;
}

/// A limit that is never reached in practice: what `external` redundancy has.
pub const UNLIMITED: u32 = FIELD as u32;

const FIELD: u64 = (1 << 20) - 1;
const LIMIT_SHIFT: u32 = 20;
const PEAK_SHIFT: u32 = 40;
const WAITERS: u64 = 1 << 63;

/// The permits word, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Permits given and not given back.
    pub open: u32,
    /// How many may be open at once; 0 while the gate is closed.
    pub limit: u32,
    /// The highest `open` since the gate was made.
    pub peak: u32,
    /// Whether operations wait for a permit.
    pub waiters: bool,
}

impl Count {
    fn unpack(word: u64) -> Self {
        Self {
            open: (word & FIELD) as u32,
            limit: ((word >> LIMIT_SHIFT) & FIELD) as u32,
            peak: ((word >> PEAK_SHIFT) & FIELD) as u32,
            waiters: word & WAITERS != 0,
        }
    }

    fn pack(self) -> u64 {
        let waiters = if self.waiters { WAITERS } else { 0 };
        waiters
            | ((u64::from(self.peak) & FIELD) << PEAK_SHIFT)
            | ((u64::from(self.limit) & FIELD) << LIMIT_SHIFT)
            | (u64::from(self.open) & FIELD)
    }
}

/// What the gate says to a state-changing operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A permit is held; it must be given back with [`Gate::leave`].
    Granted(Check),
    /// The lease is valid and the limit is reached, or the gate is being closed.
    Full,
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
    Over { lapsed: bool },
}

/// What [`Gate::leave`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Operations wait and there is room (or the gate is closed and empty): wake the dispatcher.
    pub wake: bool,
}

/// The gate of one portion.
pub struct Gate<W> {
    expiry: W,
    epoch: W,
    permits: W,
    length_ns: u64,
}

impl<W: Word> Gate<W> {
    /// A gate without a lease, with `limit` permits and a lease time of `length_ns`.
    pub fn new(length_ns: u64, limit: u32) -> Self {
        let count = Count {
            open: 0,
            limit,
            peak: 0,
            waiters: false,
        };
        Self {
            expiry: W::new(0),
            epoch: W::new(0),
            permits: W::new(count.pack()),
            length_ns,
        }
    }

    /// Asks to perform a state-changing operation [R12, R13].
    ///
    /// `now` is read after the permit was taken, so that a stall between the two cannot pass.
    ///
    /// Whoever comes while others wait goes behind them.
    #[inline]
    pub fn enter(&self, now: impl Fn() -> u64) -> Admission {
        self.admit(false, now)
    }

    /// Asks for the operation that has waited longest.
    pub fn enter_waiting(&self, now: impl Fn() -> u64) -> Admission {
        self.admit(true, now)
    }

    #[inline]
    fn admit(&self, has_waited: bool, now: impl Fn() -> u64) -> Admission {
        if !self.take(has_waited) {
            return match self.see(now) {
                Sight::Valid(_) => Admission::Full,
                Sight::Over { lapsed } => Admission::Refused {
                    lapsed,
                    wake: false,
                },
            };
        }
        match self.see(now) {
            Sight::Valid(check) => Admission::Granted(check),
            Sight::Over { lapsed } => Admission::Refused {
                lapsed,
                wake: self.leave().wake,
            },
        }
    }

    /// Looks at the lease and then at the clock, in this order, and latches what has ended.
    ///
    /// A caller that was held up between the two may have seen a lease that was extended since:
    /// then the latch fails, and it looks again. So a valid lease is never taken for an ended one.
    #[inline]
    fn see(&self, now: impl Fn() -> u64) -> Sight {
        loop {
            let expiry = self.expiry.load();
            let now_ns = now();
            if is_within(now_ns, expiry, self.length_ns) {
                return Sight::Valid(Check {
                    now_ns,
                    expiry_ns: expiry,
                });
            }
            if expiry == 0 {
                return Sight::Over { lapsed: false };
            }
            if self.expiry.compare_exchange(expiry, 0).is_ok() {
                return Sight::Over { lapsed: true };
            }
        }
    }

    /// Gives a permit back.
    #[inline]
    pub fn leave(&self) -> Left {
        let count = self.give();
        Left {
            wake: count.waiters || count.limit == 0 && count.open == 0,
        }
    }

    /// Notes that an operation waits. `true` when there is room: wake the dispatcher at once,
    /// because nobody who leaves will.
    ///
    /// The caller has queued the operation, under its own lock, before the call.
    pub fn wait(&self) -> bool {
        self.update(|count| {
            Some(Count {
                waiters: true,
                ..count
            })
        })
        .is_some_and(|count| count.open < count.limit)
    }

    /// Notes that nothing waits any more.
    pub fn no_waiters(&self) {
        self.update(|count| {
            Some(Count {
                waiters: false,
                ..count
            })
        });
    }

    /// Sets the limit; 0 closes the gate. Operations that hold a permit keep it.
    pub fn set_limit(&self, limit: u32) {
        let limit = limit.min(UNLIMITED);
        self.update(|count| Some(Count { limit, ..count }));
    }

    /// The permits as they are now.
    pub fn count(&self) -> Count {
        Count::unpack(self.permits.load())
    }

    /// Whether the gate is closed and every permit has come back.
    pub fn is_drained(&self) -> bool {
        let count = self.count();
        count.limit == 0 && count.open == 0
    }

    /// Whether a success of `epoch` may be acknowledged [R18].
    ///
    /// # Errors
    ///
    /// The lease is over, or it is that of another epoch; `lapsed` when this call latched it.
    #[inline]
    pub fn acknowledge(&self, epoch: u64, now: impl Fn() -> u64) -> Result<(), Lapsed> {
        match self.see(now) {
            Sight::Valid(_) if self.epoch.load() == epoch => Ok(()),
            Sight::Valid(_) => Err(Lapsed(false)),
            Sight::Over { lapsed } => Err(Lapsed(lapsed)),
        }
    }

    /// The epoch of the lease that was given last.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load()
    }

    /// Whether the lease is valid at `now_ns`.
    pub fn is_valid(&self, now_ns: u64) -> bool {
        is_within(now_ns, self.expiry.load(), self.length_ns)
    }

    /// The end of the lease as the gate sees it; 0 when there is none.
    pub fn expiry_ns(&self) -> u64 {
        self.expiry.load()
    }

    /// Begins the lease of a new epoch. Only the heartbeat path calls it, once an epoch, and only
    /// while no lease stands: an epoch follows a latch.
    pub fn open_epoch(&self, epoch: u64, expiry_ns: u64) -> bool {
        self.epoch.store(epoch);
        self.expiry.compare_exchange(0, expiry_ns).is_ok()
    }

    /// Moves the end of the lease from `from_ns` to `to_ns`; `false` when it was latched meanwhile.
    pub fn extend(&self, from_ns: u64, to_ns: u64) -> bool {
        from_ns != 0 && self.expiry.compare_exchange(from_ns, to_ns).is_ok()
    }

    /// Latches the lease, whatever it is.
    pub fn latch(&self) {
        self.expiry.store(0);
    }

    #[inline]
    fn take(&self, has_waited: bool) -> bool {
        self.update(|count| {
            let open = count.open.wrapping_add(1);
            let peak = count.peak.max(open);
            let may = count.open < count.limit && (has_waited || !count.waiters);
            may.then_some(Count {
                open,
                peak,
                ..count
            })
        })
        .is_some()
    }

    #[inline]
    fn give(&self) -> Count {
        self.update(|count| {
            Some(Count {
                open: count.open.saturating_sub(1),
                ..count
            })
        })
        .unwrap_or_else(|| self.count())
    }

    /// Changes the permits word in one step; `None` when `change` declined. Returns what it became.
    #[inline]
    fn update(&self, change: impl Fn(Count) -> Option<Count>) -> Option<Count> {
        let mut seen = self.permits.load();
        loop {
            let next = change(Count::unpack(seen))?;
            match self.permits.compare_exchange(seen, next.pack()) {
                Ok(_) => return Some(next),
                Err(found) => seen = found,
            }
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
    }

    const L: u64 = 1_000;

    fn is_granted(admission: Admission) -> bool {
        matches!(admission, Admission::Granted(_))
    }

    fn leased(limit: u32) -> Gate<AtomicU64> {
        let gate = Gate::new(L, limit);
        assert!(gate.open_epoch(7, 2_000));
        gate
    }

    #[test]
    fn r13_the_limit_bounds_the_open_permits() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(|| 1_500)));
        assert!(is_granted(gate.enter(|| 1_500)));
        assert_eq!(gate.enter(|| 1_500), Admission::Full);
        assert!(!gate.wait());
        assert!(gate.leave().wake);
        assert_eq!(gate.enter(|| 1_500), Admission::Full, "others wait already");
        assert!(is_granted(gate.enter_waiting(|| 1_500)));
        gate.no_waiters();
        assert_eq!(gate.count().peak, 2);
    }

    #[test]
    fn r6_an_expired_lease_refuses_and_latches() {
        let gate = leased(2);
        assert_eq!(
            gate.enter(|| 2_000),
            Admission::Refused {
                lapsed: true,
                wake: false
            }
        );
        assert_eq!(
            gate.enter(|| 1_500),
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
        assert!(is_granted(gate.enter(|| 1_500)));
        assert_eq!(
            gate.enter(|| 2_500),
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
        assert!(gate.acknowledge(6, || 1_999).is_err());
        assert_eq!(gate.acknowledge(7, || 2_000), Err(Lapsed(true)));
        gate.latch();
        assert!(gate.acknowledge(7, || 1_999).is_err());
        assert!(gate.open_epoch(8, 2_500));
        assert!(gate.acknowledge(7, || 1_999).is_err());
    }

    #[test]
    fn r17_whoever_is_held_up_does_not_end_a_lease_that_was_extended_meanwhile() {
        let gate = leased(2);
        // The clock is read after the lease; by then another thread has extended it.
        let late = || {
            gate.extend(2_000, 3_000);
            2_500
        };
        assert!(is_granted(gate.enter(late)));
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
        assert_eq!(gate.enter(closing), refused);
    }

    #[test]
    fn r34_a_closed_gate_lets_nobody_in_and_drains() {
        let gate = leased(2);
        assert!(is_granted(gate.enter(|| 1_500)));
        gate.set_limit(0);
        assert_eq!(gate.enter(|| 1_500), Admission::Full);
        assert!(!gate.is_drained());
        assert!(gate.leave().wake);
        assert!(gate.is_drained());
    }

    #[test]
    fn no_wake_up_is_lost_when_room_appears_while_queueing() {
        let gate = leased(1);
        assert!(is_granted(gate.enter(|| 1_500)));
        assert_eq!(gate.enter(|| 1_500), Admission::Full);
        assert!(!gate.leave().wake);
        assert!(
            gate.wait(),
            "there is room, and nobody left to notice the waiter"
        );
    }

    #[test]
    fn unlimited_is_wide_enough() {
        let gate = leased(UNLIMITED);
        for _ in 0..1_000 {
            assert!(is_granted(gate.enter(|| 1_500)));
        }
        assert_eq!(gate.count().limit, UNLIMITED);
    }
}
