// SPDX-License-Identifier: GPL-2.0
//! The lease of one epoch: arithmetic and the continuity latch.
//!
//! Source: US 10,348,675 B1 claim 1 (the lease is extended from the time of the *previous*
//! heartbeat) and the rules of `controller` for what counts as a successful heartbeat.
//!
//! ```text
//!           first judged in time           judged in time
//!   Fresh ------------------------> Held(no expiry) -----> Held(expiry) --+
//!     |                                  |                    |  ^        |
//!     | not judged before s0 + L         | prev + L passed    |  +--------+
//!     v                                  v                    v   judged in time
//!   Latched <----------------------------+--------------------+
//! ```
//!
//! `s_k` is the stamp of the local lease clock ([`super::clocks`]) taken before heartbeat `k` was
//! issued. On success of `k` the expiry becomes `s_(k-1) + L`: never more than one lease time after
//! a heartbeat that was *followed* by another one, so a stall between two heartbeats yields a lease
//! that has already expired when it is granted [R4]. `Latched` is final for the epoch [R9].
//!
//! Callers: [`super::controller`]. The hot path does not come here; it compares the clock with
//! the expiry word of [`super::gate::permits`], which is set from what [`Lease::judge`] returns.

/// The lease of the epoch that a controller owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The lease time L of the portion, in nanoseconds.
    length_ns: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The epoch was decided; no heartbeat of it has succeeded yet. `s0_ns` is the stamp taken
    /// before the deciding write and counts as heartbeat 0 for continuity only.
    Fresh { s0_ns: u64 },
    /// At least one heartbeat succeeded; `previous_ns` is the stamp of the last one.
    Held {
        previous_ns: u64,
        expiry_ns: Option<u64>,
    },
    /// Lost for this epoch, for ever.
    Latched,
}

/// The result of judging a successful heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Continuity holds and there is no lease yet: this was the first heartbeat of the epoch [R5].
    NoLeaseYet,
    /// Continuity holds; the lease now ends at this local time.
    Extended {
        /// The new end.
        expiry_ns: u64,
    },
    /// Continuity is broken: the lease is latched, no later heartbeat revives it.
    Broken,
}

impl Lease {
    /// A lease for an epoch won just now, with `s0_ns` the stamp taken before the deciding write.
    pub fn fresh(length_ns: u64, s0_ns: u64) -> Self {
        Self {
            length_ns,
            state: State::Fresh { s0_ns },
        }
    }

    /// No lease, and no way to get one: the state of a secondary.
    pub const fn none(length_ns: u64) -> Self {
        Self {
            length_ns,
            state: State::Latched,
        }
    }

    /// The local time at which the lease ends; `None` if there is no lease.
    pub fn expiry_ns(&self) -> Option<u64> {
        match self.state {
            State::Held { expiry_ns, .. } => expiry_ns,
            _ => None,
        }
    }

    /// Whether the lease is valid at `now_ns`. `now == expiry` is invalid [R7].
    pub fn is_valid(&self, now_ns: u64) -> bool {
        self.expiry_ns()
            .is_some_and(|expiry| is_within(now_ns, expiry, self.length_ns))
    }

    /// Whether this epoch has no lease and can never have one (again).
    pub fn is_latched(&self) -> bool {
        self.state == State::Latched
    }

    /// The local time at which continuity breaks unless a heartbeat is judged before it.
    ///
    /// Before the first heartbeat it is `s_0 + L`. After that it is the expiry or, as long as there
    /// is no expiry, the end that the next success would grant.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.state {
            State::Fresh { s0_ns } => Some(s0_ns.saturating_add(self.length_ns)),
            State::Held {
                previous_ns,
                expiry_ns,
            } => Some(expiry_ns.unwrap_or_else(|| previous_ns.saturating_add(self.length_ns))),
            State::Latched => None,
        }
    }

    /// Whether continuity is already lost at `now_ns`, whatever heartbeat is judged later [R9].
    pub fn has_lapsed(&self, now_ns: u64) -> bool {
        self.deadline_ns()
            .is_some_and(|deadline| !is_within(now_ns, deadline, self.length_ns))
    }

    /// Judges the success of the heartbeat with the stamp `stamp_ns`, at `now_ns`: a clock value
    /// taken *after* the reads of the round.
    ///
    /// Latches if the lease is no longer valid, or if the lease that this heartbeat grants would
    /// not end in the future ([R4], [R6], [R9]). For the first heartbeat `s_0 + L` takes the place
    /// of the lease.
    pub fn judge(&mut self, stamp_ns: u64, now_ns: u64) -> Verdict {
        if self.is_latched() || self.has_lapsed(now_ns) {
            return self.broken();
        }
        match self.state {
            State::Held { previous_ns, .. } => {
                let expiry_ns = previous_ns.saturating_add(self.length_ns);
                if !is_within(now_ns, expiry_ns, self.length_ns) {
                    return self.broken();
                }
                self.state = State::Held {
                    previous_ns: stamp_ns,
                    expiry_ns: Some(expiry_ns),
                };
                Verdict::Extended { expiry_ns }
            }
            State::Fresh { .. } => {
                self.state = State::Held {
                    previous_ns: stamp_ns,
                    expiry_ns: None,
                };
                Verdict::NoLeaseYet
            }
            State::Latched => Verdict::Broken,
        }
    }

    /// Ends the lease for this epoch.
    pub fn latch(&mut self) {
        self.state = State::Latched;
    }

    fn broken(&mut self) -> Verdict {
        self.latch();
        Verdict::Broken
    }
}

#[cfg(feature = "model")]
impl Lease {
    /// The same lease with all its times moved `by_ns` later.
    #[must_use]
    pub fn aged(self, by_ns: u64) -> Self {
        self.with_moments(
            |at_ns| at_ns.saturating_sub(by_ns),
            |at_ns| at_ns.saturating_sub(by_ns),
        )
    }

    /// The same lease from `now_ns` on: a time that has passed becomes `now_ns`.
    #[must_use]
    pub fn settled(self, now_ns: u64) -> Self {
        let stamp_ns = now_ns.saturating_sub(self.length_ns);
        self.with_moments(|at_ns| at_ns.max(stamp_ns), |at_ns| at_ns.max(now_ns))
    }

    fn with_moments(mut self, stamp: impl Fn(u64) -> u64, end: impl Fn(u64) -> u64) -> Self {
        self.state = match self.state {
            State::Fresh { s0_ns } => State::Fresh {
                s0_ns: stamp(s0_ns),
            },
            State::Held {
                previous_ns,
                expiry_ns,
            } => State::Held {
                previous_ns: stamp(previous_ns),
                expiry_ns: expiry_ns.map(end),
            },
            State::Latched => State::Latched,
        };
        self
    }
}

/// Whether `now_ns` lies in the lease time that ends at `expiry_ns`: `expiry - L <= now < expiry`.
///
/// This is one unsigned comparison, so it says "expired" both for a clock that stepped back by more
/// than the lease time and for an expiry of 0, which a latched gate has [R43]. Clock values are
/// below 2^63: those of the kernel are signed, and a negative one is read as 0.
#[inline]
pub fn is_within(now_ns: u64, expiry_ns: u64, length_ns: u64) -> bool {
    now_ns.wrapping_sub(expiry_ns.wrapping_sub(length_ns)) < length_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: u64 = 1_000;

    fn owner(s1: u64, s2: u64) -> Lease {
        let mut lease = Lease::fresh(L, s1 - 10);
        assert_eq!(lease.judge(s1, s1 + 5), Verdict::NoLeaseYet);
        assert_eq!(
            lease.judge(s2, s2 + 5),
            Verdict::Extended { expiry_ns: s1 + L }
        );
        lease
    }

    #[test]
    fn r4_expiry_is_the_previous_stamp_plus_the_lease_time() {
        let mut lease = owner(10_000, 10_100);
        assert_eq!(lease.expiry_ns(), Some(11_000));
        assert_eq!(
            lease.judge(10_200, 10_900),
            Verdict::Extended { expiry_ns: 11_100 }
        );
    }

    #[test]
    fn r5_no_lease_before_the_second_heartbeat() {
        let mut lease = Lease::fresh(L, 10_000);
        assert!(!lease.is_valid(10_001));
        lease.judge(10_010, 10_020);
        assert_eq!(lease.expiry_ns(), None);
        assert!(!lease.is_valid(10_020));
    }

    #[test]
    fn r7_now_equal_to_expiry_is_invalid() {
        let lease = owner(10_000, 10_100);
        assert!(lease.is_valid(10_999));
        assert!(!lease.is_valid(11_000));
    }

    #[test]
    fn r6_a_heartbeat_after_a_stall_is_granted_nothing() {
        let mut lease = owner(10_000, 10_100);
        assert_eq!(lease.judge(12_000, 12_010), Verdict::Broken);
        assert!(lease.is_latched());
    }

    #[test]
    fn r6_a_stall_before_the_judgement_is_granted_nothing() {
        let mut lease = owner(10_000, 10_100);
        assert_eq!(lease.judge(10_200, 11_000), Verdict::Broken);
    }

    #[test]
    fn r9_healthy_heartbeats_do_not_revive_a_latched_lease() {
        let mut lease = owner(10_000, 10_100);
        lease.latch();
        for k in 0..10 {
            let stamp = 10_200 + k * 100;
            assert_eq!(lease.judge(stamp, stamp + 5), Verdict::Broken);
            assert!(!lease.is_valid(stamp + 6));
        }
    }

    #[test]
    fn r30_a_winner_that_stalls_before_its_first_heartbeat_is_latched() {
        let mut lease = Lease::fresh(L, 10_000);
        assert_eq!(lease.judge(10_990, 11_000), Verdict::Broken);
        let mut lease = Lease::fresh(L, 10_000);
        assert_eq!(lease.judge(10_990, 10_999), Verdict::NoLeaseYet);
    }

    #[test]
    fn r9_a_stall_between_first_and_second_heartbeat_is_latched() {
        let mut lease = Lease::fresh(L, 10_000);
        lease.judge(10_010, 10_020);
        assert!(!lease.has_lapsed(11_009));
        assert!(lease.has_lapsed(11_010));
        assert_eq!(lease.judge(11_000, 11_010), Verdict::Broken);
    }

    #[test]
    fn r43_a_clock_that_steps_back_is_an_expired_lease() {
        let lease = owner(10_000, 10_100);
        assert!(!lease.is_valid(9_999));
        assert!(!is_within(0, 0, L));
        assert!(!is_within(i64::MAX as u64, 0, L));
        assert!(!is_within(123_456_789, 0, L));
    }

    #[test]
    fn r8_expiry_increases_only_by_judged_heartbeats() {
        let mut lease = owner(10_000, 10_100);
        let mut last = lease.expiry_ns();
        for stamp in [10_200, 10_250, 10_700] {
            lease.judge(stamp, stamp + 1);
            assert!(lease.expiry_ns() > last);
            last = lease.expiry_ns();
        }
    }
}
