// SPDX-License-Identifier: GPL-2.0
//! The clocks of this host, and when the time between two readings is unknown.
//!
//! All times and durations in this folder are nanoseconds of the *lease clock*: the counter of the
//! host, converted at a constant rate (CLOCK_MONOTONIC_RAW). Programs that correct the time of
//! day steer CLOCK_MONOTONIC and CLOCK_BOOTTIME by ten percent and more; they cannot steer this
//! clock. The remaining error is that of the oscillator, which `drift_ppm` of
//! [`super::time::Timing`] bounds.
//!
//! The lease clock stands still while the host sleeps. That makes the waits of an observer
//! longer, which is safe, and the lease of an owner longer, which is not. So a reading has more
//! than the lease clock, and [`Clocks::take`] compares it with the reading before:
//!
//! | in a reading | what it is | changes when |
//! |---|---|---|
//! | `raw_ns` | the lease clock | time passes; a step back says that the counter is broken |
//! | `leaps_ns` | how far the gate's clock is ahead of it | the host wakes up, at once |
//! | `slept_ns` | CLOCK_BOOTTIME less CLOCK_MONOTONIC | the kernel adds the time of a sleep |
//! | `source` | which counter is behind the clocks | the kernel exchanges it |
//!
//! CLOCK_BOOTTIME and CLOCK_MONOTONIC are steered alike, so their difference is exact.
//!
//! A change of one of the last three, or a step back, is a *break*: the time since the reading
//! before is unknown. A break ends a lease that was granted before it and a claim whose stamps are
//! from before it, and the timers of an observer start anew.
//!
//! For each operation the gate compares one clock only: the lease clock plus all leaps. Each leap
//! is longer than any lease, so after a sleep the gate refuses even before the state machine has
//! noticed the break.
//!
//! Caller: [`super::controller`].

use super::time::MAX_DURATION_NS;

/// How far the clock of the gate leaps when the host wakes up: more than any lease lasts.
pub const LEAP_NS: u64 = 2 * MAX_DURATION_NS;

/// The counters of two processors may differ by less than this; a larger step back is a fault.
const STEP_NS: u64 = 1_000_000;

/// One reading of the clocks; see the table at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Now {
    /// The lease clock.
    pub raw_ns: u64,
    /// How far the clock of the gate was ahead of the lease clock, at this reading or before.
    pub leaps_ns: u64,
    /// How long the host has slept since it was booted, as far as the kernel knows.
    pub slept_ns: u64,
    /// The number of the counter behind the clocks.
    pub source: u8,
}

/// The last reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clocks {
    last: Option<Now>,
}

impl Clocks {
    /// Clocks before the first reading.
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// Takes a reading. Returns whether there was a break since the reading before.
    #[must_use]
    pub fn take(&mut self, now: Now) -> bool {
        let before = self.last.replace(now);
        before.is_some_and(|before| is_break(&before, &now))
    }

    /// The time of the gate's clock that corresponds to `at_ns` of the lease clock, by the last
    /// reading.
    pub fn gate_ns(&self, at_ns: u64) -> u64 {
        let leaps_ns = self.last.map_or(0, |now| now.leaps_ns);
        at_ns.saturating_add(leaps_ns)
    }
}

impl Default for Clocks {
    fn default() -> Self {
        Self::new()
    }
}

fn is_break(before: &Now, now: &Now) -> bool {
    let woke = before.leaps_ns != now.leaps_ns;
    let slept = before.slept_ns != now.slept_ns;
    let exchanged = before.source != now.source;
    let stepped_back = now.raw_ns.saturating_add(STEP_NS) < before.raw_ns;
    woke || slept || exchanged || stepped_back
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        raw_ns: 5_000_000_000,
        leaps_ns: 0,
        slept_ns: 7,
        source: 3,
    };

    fn breaks(before: Now, now: Now) -> bool {
        let mut clocks = Clocks::new();
        assert!(!clocks.take(before), "there is nothing to compare with");
        clocks.take(now)
    }

    #[test]
    fn r43_time_that_passes_is_no_break() {
        let later = |raw_ns| Now { raw_ns, ..NOW };
        assert!(!breaks(NOW, NOW));
        assert!(!breaks(NOW, later(5_000_000_001)));
        assert!(!breaks(NOW, later(u64::MAX)));
        // Two processors may read the counter a little apart.
        assert!(!breaks(NOW, later(4_999_000_000)));
    }

    #[test]
    fn r43_each_sign_of_a_sleep_is_a_break_by_itself() {
        let leaps_ns = LEAP_NS;
        assert!(breaks(NOW, Now { leaps_ns, ..NOW }));
        assert!(breaks(NOW, Now { slept_ns: 8, ..NOW }));
        // The kernel may also have counted too much, and take some of it back.
        assert!(breaks(NOW, Now { slept_ns: 6, ..NOW }));
    }

    #[test]
    fn r43_another_counter_and_a_step_back_are_breaks() {
        assert!(breaks(NOW, Now { source: 4, ..NOW }));
        let raw_ns = 4_998_999_999;
        assert!(breaks(NOW, Now { raw_ns, ..NOW }));
    }

    #[test]
    fn r43_a_break_is_told_once() {
        let mut clocks = Clocks::new();
        let woken = Now {
            leaps_ns: LEAP_NS,
            ..NOW
        };
        assert!(!clocks.take(NOW));
        assert!(clocks.take(woken));
        assert!(!clocks.take(woken));
    }

    #[test]
    fn r43_a_lease_of_the_gate_from_before_a_sleep_is_over_after_it() {
        use crate::proto::lease::is_within;
        let mut clocks = Clocks::new();
        let _ = clocks.take(NOW);
        assert_eq!(clocks.gate_ns(100), 100);
        // The longest lease, begun just before the sleep.
        let (length_ns, expiry_ns) = (MAX_DURATION_NS, NOW.raw_ns + MAX_DURATION_NS);
        assert!(is_within(NOW.raw_ns, clocks.gate_ns(expiry_ns), length_ns));
        let gate_ns = NOW.raw_ns + LEAP_NS;
        assert!(!is_within(gate_ns, clocks.gate_ns(expiry_ns), length_ns));
        let _ = clocks.take(Now {
            leaps_ns: LEAP_NS,
            ..NOW
        });
        assert!(is_within(gate_ns, clocks.gate_ns(expiry_ns), length_ns));
    }
}
