// SPDX-License-Identifier: GPL-2.0
//! The timings of a portion, and the two inequalities that make them safe.
//!
//! Vocabulary (design section 3; all durations are nanoseconds of a local lease clock, see
//! [`super::clocks`]):
//!
//! | symbol | field | meaning |
//! |---|---|---|
//! | L | `lease_ns` | how long a lease lasts, from the stamp of the previous heartbeat |
//! | W | `window_ns` | how long an observer must see silence before it may claim |
//! | D | `device_delay_ns` | longest delay anything below the gate may add to a command |
//! | rho | `drift_ppm` | bound of the error of a clock's *rate*, parts per million |
//! | x | `lost_heartbeats` | heartbeats in a row that may be lost without losing the lease |
//! | P | `period_max_ns` | longest heartbeat period a controller of this portion may choose |
//! | t_err | `error_report_ns` | how long until a lost mailbox write is reported as an error |
//! | d_w | `write_ns` | longest ordinary mailbox write |
//! | d_r | `read_ns` | longest ordinary read of the mailboxes of all formatted controllers |
//! | | `jitter_ns` | longest ordinary delay in issuing a heartbeat |
//!
//! ```text
//! W >= ceil(L * (1 + rho) / (1 - rho)) + ceil((1 + rho) * D)
//! L >  (2 + x) * max(P, t_err) + d_w + d_r + jitter
//! ```
//!
//! The first is safety: an observer whose clock runs fast must not run out of patience before an
//! owner whose clock runs slow has run out of lease, and a command accepted just in time must have
//! left the device queue by then. The second is availability: a lease must outlast `x` lost
//! heartbeats [R11]. Both are checked when a portion is formatted and again when it is opened
//! [R10]; they live in the superblock and are the same for everyone [R25].
//!
//! Integers only, rounded to the safe side (W up). Pure functions: any caller, no locking.

use core::fmt;

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// The largest value any duration of a portion may have: one day. It keeps every sum and product
/// below far away from the end of 64 bits, and nothing longer is a lease.
pub const MAX_DURATION_NS: u64 = 24 * 3600 * 1000 * NS_PER_MS;

/// The shortest heartbeat period: below it heartbeats would be a load, not a sign of life.
pub const MIN_PERIOD_NS: u64 = NS_PER_MS;

/// The largest clock rate error that may be configured (10 %). Real clocks err by less than 0.1 %.
pub const MAX_DRIFT_PPM: u32 = 100_000;

/// The largest number of lost heartbeats that may be configured.
pub const MAX_LOST_HEARTBEATS: u32 = 1000;

/// One million: the denominator of `drift_ppm`.
const MILLION: u64 = 1_000_000;

/// The timings of a portion; see the table at the top. Only a [`Timing::validate`]d one is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// L: the lease time.
    pub lease_ns: u64,
    /// W: the takeover window.
    pub window_ns: u64,
    /// D: the longest delay below the gate.
    pub device_delay_ns: u64,
    /// rho: the bound of the clock rate error, in parts per million.
    pub drift_ppm: u32,
    /// x: lost heartbeats to survive.
    pub lost_heartbeats: u32,
    /// The longest heartbeat period a controller may choose.
    pub period_max_ns: u64,
    /// t_err: time until a lost mailbox write is reported.
    pub error_report_ns: u64,
    /// d_w: the longest ordinary mailbox write.
    pub write_ns: u64,
    /// d_r: the longest ordinary read of all used mailboxes.
    pub read_ns: u64,
    /// The longest ordinary delay in issuing a heartbeat.
    pub jitter_ns: u64,
}

/// Why a set of timings is refused [R10].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimingError {
    /// The lease time is zero.
    LeaseZero,
    /// The takeover window is zero.
    WindowZero,
    /// The longest heartbeat period is below [`MIN_PERIOD_NS`].
    PeriodTooShort,
    /// The named duration is above [`MAX_DURATION_NS`].
    TooLong(Duration),
    /// The drift bound is above [`MAX_DRIFT_PPM`].
    DriftTooLarge,
    /// More lost heartbeats than [`MAX_LOST_HEARTBEATS`].
    LostHeartbeatsTooMany,
    /// The window is below `needed_ns`, so two controllers could hold a lease at once.
    WindowTooShort {
        /// The smallest safe window.
        needed_ns: u64,
    },
    /// The lease is below `needed_ns`, so ordinary delays would lose it.
    LeaseTooShort {
        /// The smallest lease that survives what was asked for.
        needed_ns: u64,
    },
}

/// Names a duration of [`Timing`] in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duration {
    /// `lease_ns`
    Lease,
    /// `window_ns`
    Window,
    /// `device_delay_ns`
    DeviceDelay,
    /// `period_max_ns`
    PeriodMax,
    /// `error_report_ns`
    ErrorReport,
    /// `write_ns`
    Write,
    /// `read_ns`
    Read,
    /// `jitter_ns`
    Jitter,
}

impl Duration {
    /// The words for this duration in messages to users.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Lease => "the lease time",
            Self::Window => "the takeover window",
            Self::DeviceDelay => "the device delay",
            Self::PeriodMax => "the longest heartbeat period",
            Self::ErrorReport => "the error report time",
            Self::Write => "the mailbox write time",
            Self::Read => "the mailbox read time",
            Self::Jitter => "the jitter",
        }
    }
}

impl fmt::Display for TimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LeaseZero => f.write_str("the lease time is zero"),
            Self::WindowZero => f.write_str("the takeover window is zero"),
            Self::PeriodTooShort => f.write_str("the longest heartbeat period is below 1 ms"),
            Self::TooLong(which) => {
                f.write_str(which.text())?;
                f.write_str(" is longer than one day")
            }
            Self::DriftTooLarge => f.write_str("the clock drift bound is above 100000 ppm"),
            Self::LostHeartbeatsTooMany => f.write_str("more than 1000 lost heartbeats"),
            Self::WindowTooShort { needed_ns } => {
                f.write_str("the takeover window is too short: it must be at least ")?;
                write_ms(f, needed_ns)?;
                f.write_str(" (lease time and device delay, widened by the clock drift)")
            }
            Self::LeaseTooShort { needed_ns } => {
                f.write_str("the lease time is too short: it must be at least ")?;
                write_ms(f, needed_ns)?;
                f.write_str(" (heartbeats to survive, write, read and jitter)")
            }
        }
    }
}

/// Writes a duration as milliseconds with as many decimals as it has.
fn write_ms(f: &mut fmt::Formatter<'_>, ns: u64) -> fmt::Result {
    let (whole, mut rest) = (ns / NS_PER_MS, ns % NS_PER_MS);
    write!(f, "{whole}")?;
    if rest != 0 {
        let mut digits = 6_usize;
        while rest % 10 == 0 {
            rest /= 10;
            digits = digits.saturating_sub(1);
        }
        write!(f, ".{rest:0digits$}")?;
    }
    f.write_str(" ms")
}

impl Timing {
    /// No timings: what nobody has.
    pub const NONE: Self = Self {
        lease_ns: 0,
        window_ns: 0,
        device_delay_ns: 0,
        drift_ppm: 0,
        lost_heartbeats: 0,
        period_max_ns: 0,
        error_report_ns: 0,
        write_ns: 0,
        read_ns: 0,
        jitter_ns: 0,
    };

    /// Checks ranges and both inequalities.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold, in the order of [`TimingError`].
    pub fn validate(&self) -> Result<(), TimingError> {
        if self.lease_ns == 0 {
            return Err(TimingError::LeaseZero);
        }
        if self.window_ns == 0 {
            return Err(TimingError::WindowZero);
        }
        if self.period_max_ns < MIN_PERIOD_NS {
            return Err(TimingError::PeriodTooShort);
        }
        for (which, value_ns) in self.durations() {
            if value_ns > MAX_DURATION_NS {
                return Err(TimingError::TooLong(which));
            }
        }
        if self.drift_ppm > MAX_DRIFT_PPM {
            return Err(TimingError::DriftTooLarge);
        }
        if self.lost_heartbeats > MAX_LOST_HEARTBEATS {
            return Err(TimingError::LostHeartbeatsTooMany);
        }
        let needed_ns = self.needed_lease_ns(self.period_max_ns);
        if self.lease_ns < needed_ns {
            return Err(TimingError::LeaseTooShort { needed_ns });
        }
        let needed_ns = self.needed_window_ns();
        if self.window_ns < needed_ns {
            return Err(TimingError::WindowTooShort { needed_ns });
        }
        Ok(())
    }

    fn durations(&self) -> [(Duration, u64); 8] {
        [
            (Duration::DeviceDelay, self.device_delay_ns),
            (Duration::PeriodMax, self.period_max_ns),
            (Duration::ErrorReport, self.error_report_ns),
            (Duration::Write, self.write_ns),
            (Duration::Read, self.read_ns),
            (Duration::Jitter, self.jitter_ns),
            // Last, because a tool may have computed them from the others.
            (Duration::Lease, self.lease_ns),
            (Duration::Window, self.window_ns),
        ]
    }

    /// The smallest window that is safe for this lease time, device delay and drift.
    /// Saturates for values that [`Timing::validate`] refuses.
    pub fn needed_window_ns(&self) -> u64 {
        self.lease_elsewhere_ns()
            .saturating_add(self.device_settle_ns())
    }

    /// The smallest lease time that survives what was configured, for heartbeats every
    /// `period_ns`. Saturates for values that [`Timing::validate`] refuses.
    pub fn needed_lease_ns(&self, period_ns: u64) -> u64 {
        let step_ns = period_ns.max(self.error_report_ns);
        let steps = 2_u64.saturating_add(u64::from(self.lost_heartbeats));
        step_ns
            .saturating_mul(steps)
            .saturating_add(self.write_ns)
            .saturating_add(self.read_ns)
            .saturating_add(self.jitter_ns)
            // The inequality is strict: a lease that ends at that very moment is invalid [R7].
            .saturating_add(1)
    }

    /// The longest stall of an owner, or of its paths, that its lease outlasts whenever it begins,
    /// with heartbeats every `period_ns` that take as long as they ordinarily do [R11].
    ///
    /// Heartbeat `k+1` is due a period after `k`, while the lease ends `L` after `k-1`: two periods
    /// and the heartbeat itself come off it.
    pub fn survived_stall_ns(&self, period_ns: u64) -> u64 {
        self.lease_ns
            .saturating_sub(period_ns.saturating_mul(2))
            .saturating_sub(self.write_ns)
            .saturating_sub(self.read_ns)
    }

    /// How many heartbeats in a row must be allowed to be lost for a stall of `stall_ns` to be
    /// survived, with heartbeats every `period_ns`.
    pub fn lost_heartbeats_for(stall_ns: u64, period_ns: u64) -> u32 {
        let lost = stall_ns.div_ceil(period_ns.max(1));
        u32::try_from(lost).unwrap_or(u32::MAX)
    }

    /// Whether a controller may heartbeat every `period_ns` on this portion [R1], [R10].
    pub fn period_fits(&self, period_ns: u64) -> bool {
        (MIN_PERIOD_NS..=self.period_max_ns).contains(&period_ns)
            && self.needed_lease_ns(period_ns) <= self.lease_ns
    }

    /// How long a joiner listens to its own slot before its first write [R36]: the window, the
    /// settling time of a former incarnation's commands, or the longest heartbeat period on the
    /// slowest clock, whichever is longest.
    pub fn join_listen_ns(&self) -> u64 {
        self.window_ns
            .max(self.device_settle_ns())
            .max(stretch_ns(self.period_max_ns, self.drift_ppm))
    }

    /// `ceil((1 + rho) * D)`: after this much local time no command accepted before it can still
    /// land. A member counts no ballot for so long after a join or an error [R41].
    pub fn device_settle_ns(&self) -> u64 {
        stretch_ns(self.device_delay_ns, self.drift_ppm)
    }

    /// `ceil(L * (1 + rho) / (1 - rho))`: the longest a lease of another machine can last by the
    /// local clock. A `confirm_dead` is refused while a heartbeat of that owner changed within it.
    pub fn lease_elsewhere_ns(&self) -> u64 {
        let slow = MILLION.saturating_sub(u64::from(self.drift_ppm));
        let excess = u64::from(self.drift_ppm).saturating_mul(2);
        self.lease_ns
            .saturating_add(mul_div_ceil(self.lease_ns, excess, slow))
    }
}

/// `ceil(duration * (1 + rho))`.
fn stretch_ns(duration_ns: u64, drift_ppm: u32) -> u64 {
    duration_ns.saturating_add(mul_div_ceil(duration_ns, u64::from(drift_ppm), MILLION))
}

/// `ceil(a * b / d)` without a 128-bit product, saturating; `d == 0` saturates as well.
///
/// With `a = q*d + r` it is `q*b + ceil(r*b / d)`, exactly: `r < d` and both `b` and `d` are at
/// most two millions here, so `r*b` fits.
fn mul_div_ceil(a: u64, b: u64, d: u64) -> u64 {
    let (Some(q), Some(r)) = (a.checked_div(d), a.checked_rem(d)) else {
        return u64::MAX;
    };
    q.saturating_mul(b)
        .saturating_add(r.saturating_mul(b).div_ceil(d))
}

/// How many of `members` are a majority: more than half [R3], [R42].
pub const fn majority(members: u8) -> u8 {
    members / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;

    /// A textbook portion: 500 ms heartbeats, one of them may be lost.
    fn example() -> Timing {
        let mut timing = Timing {
            lease_ns: 2_000 * MS,
            window_ns: 0,
            device_delay_ns: 1_000 * MS,
            drift_ppm: 500,
            lost_heartbeats: 1,
            period_max_ns: 500 * MS,
            error_report_ns: 500 * MS,
            write_ns: 100 * MS,
            read_ns: 100 * MS,
            jitter_ns: 50 * MS,
        };
        timing.window_ns = timing.needed_window_ns();
        timing
    }

    #[test]
    fn r10_both_inequalities_are_met_exactly_or_refused() {
        let good = example();
        assert_eq!(good.validate(), Ok(()));
        // 2 s * 1.0005 / 0.9995 = 2.002001000500250... s, and 1 s * 1.0005.
        assert_eq!(good.lease_elsewhere_ns(), 2_002_001_001);
        assert_eq!(good.device_settle_ns(), 1_000_500_000);
        assert_eq!(good.window_ns, 3_002_501_001);

        let short = Timing {
            window_ns: good.window_ns - 1,
            ..good
        };
        let needed_ns = good.window_ns;
        assert_eq!(
            short.validate(),
            Err(TimingError::WindowTooShort { needed_ns })
        );

        // (2 + 1) * 500 + 100 + 100 + 50 = 1750 ms is not enough, one nanosecond more is.
        let with_lease = |lease_ns| Timing { lease_ns, ..good };
        let needed_ns = 1_750 * MS + 1;
        let refused = Err(TimingError::LeaseTooShort { needed_ns });
        assert_eq!(with_lease(1_750 * MS).validate(), refused);
        assert_eq!(with_lease(1_750 * MS + 1).validate(), Ok(()));
    }

    #[test]
    fn r10_a_slow_error_report_counts_like_a_slow_period() {
        let good = example();
        let slow = Timing {
            error_report_ns: 700 * MS,
            ..good
        };
        let needed_ns = 3 * 700 * MS + 250 * MS + 1;
        assert_eq!(
            slow.validate(),
            Err(TimingError::LeaseTooShort { needed_ns })
        );
    }

    #[test]
    fn r10_the_last_value_of_every_range_is_accepted() {
        let safe = |mut timing: Timing| {
            let needed_ns = timing.needed_lease_ns(timing.period_max_ns);
            timing.lease_ns = timing.lease_ns.max(needed_ns);
            timing.window_ns = timing.needed_window_ns();
            timing.validate()
        };
        let with_drift = |drift_ppm| {
            safe(Timing {
                drift_ppm,
                ..example()
            })
        };
        assert_eq!(with_drift(MAX_DRIFT_PPM), Ok(()));
        let with_lost = |lost_heartbeats| {
            safe(Timing {
                lost_heartbeats,
                ..example()
            })
        };
        assert_eq!(with_lost(MAX_LOST_HEARTBEATS), Ok(()));
        let with_period = |period_max_ns| {
            safe(Timing {
                period_max_ns,
                ..example()
            })
        };
        assert_eq!(with_period(MIN_PERIOD_NS), Ok(()));
        // A day is not too long; what is wrong with it is something else.
        let day = Timing {
            lease_ns: MAX_DURATION_NS,
            ..example()
        };
        let needed_ns = day.needed_window_ns();
        assert_eq!(
            day.validate(),
            Err(TimingError::WindowTooShort { needed_ns })
        );
    }

    #[test]
    fn r10_every_range_has_its_own_error() {
        let good = example();
        let check = |timing: Timing, error| assert_eq!(timing.validate(), Err(error));
        check(
            Timing {
                lease_ns: 0,
                ..good
            },
            TimingError::LeaseZero,
        );
        check(
            Timing {
                window_ns: 0,
                ..good
            },
            TimingError::WindowZero,
        );
        check(
            Timing {
                period_max_ns: MS - 1,
                ..good
            },
            TimingError::PeriodTooShort,
        );
        check(
            Timing {
                drift_ppm: 100_001,
                ..good
            },
            TimingError::DriftTooLarge,
        );
        check(
            Timing {
                lost_heartbeats: 1001,
                ..good
            },
            TimingError::LostHeartbeatsTooMany,
        );
        assert_eq!(MAX_DURATION_NS, 86_400_000_000_000, "a day");
        let long = MAX_DURATION_NS + 1;
        let too_long = TimingError::TooLong;
        check(
            Timing {
                lease_ns: long,
                ..good
            },
            too_long(Duration::Lease),
        );
        check(
            Timing {
                window_ns: long,
                ..good
            },
            too_long(Duration::Window),
        );
        check(
            Timing {
                device_delay_ns: long,
                ..good
            },
            too_long(Duration::DeviceDelay),
        );
        check(
            Timing {
                period_max_ns: long,
                ..good
            },
            too_long(Duration::PeriodMax),
        );
        check(
            Timing {
                error_report_ns: long,
                ..good
            },
            too_long(Duration::ErrorReport),
        );
        check(
            Timing {
                write_ns: long,
                ..good
            },
            too_long(Duration::Write),
        );
        check(
            Timing {
                read_ns: u64::MAX,
                ..good
            },
            too_long(Duration::Read),
        );
        check(
            Timing {
                jitter_ns: u64::MAX,
                ..good
            },
            too_long(Duration::Jitter),
        );
    }

    #[test]
    fn r10_nothing_wraps_at_the_ends_of_the_ranges() {
        let all = |ns, ppm| Timing {
            lease_ns: ns,
            window_ns: ns,
            device_delay_ns: ns,
            drift_ppm: ppm,
            lost_heartbeats: u32::MAX,
            period_max_ns: ns,
            error_report_ns: ns,
            write_ns: ns,
            read_ns: ns,
            jitter_ns: ns,
        };
        for ppm in [0, 1, MAX_DRIFT_PPM, 999_999, 1_000_000, u32::MAX] {
            for ns in [0, 1, MAX_DURATION_NS, u64::MAX - 1, u64::MAX] {
                let timing = all(ns, ppm);
                assert!(timing.validate().is_err());
                assert!(timing.needed_window_ns() >= ns);
                assert!(timing.needed_lease_ns(ns) > ns || ns == u64::MAX);
                assert!(timing.join_listen_ns() >= ns);
            }
        }
    }

    #[test]
    fn r10_rounding_is_never_below_the_exact_value() {
        // Checked against 128-bit arithmetic, which the module may not use.
        for ppm in [0_u32, 1, 7, 500, 99_999, MAX_DRIFT_PPM] {
            for ns in [
                1_u64,
                999_999,
                1_000_000,
                1_000_001,
                86_400_000_000_000,
                123_456_789_012,
            ] {
                let timing = Timing {
                    lease_ns: ns,
                    drift_ppm: ppm,
                    ..example()
                };
                let (n, p) = (u128::from(ns), u128::from(ppm));
                let exact = (n * (1_000_000 + p)).div_ceil(1_000_000 - p);
                assert_eq!(u128::from(timing.lease_elsewhere_ns()), exact);
                let exact = (n * (1_000_000 + p)).div_ceil(1_000_000);
                assert_eq!(u128::from(stretch_ns(ns, ppm)), exact);
            }
        }
    }

    #[test]
    fn r1_a_period_fits_when_its_own_inequality_holds() {
        let timing = Timing {
            error_report_ns: 0,
            ..example()
        };
        assert!(timing.period_fits(500 * MS));
        assert!(timing.period_fits(MS));
        assert!(!timing.period_fits(MS - 1));
        assert!(!timing.period_fits(500 * MS + 1));
        assert!(!timing.period_fits(0));
        // A longest period that the lease cannot carry does not make the period fit.
        let loose = Timing {
            period_max_ns: 10_000 * MS,
            ..timing
        };
        assert!(!loose.period_fits(600 * MS));
        assert!(loose.period_fits(583 * MS));
    }

    #[test]
    fn r36_a_joiner_listens_for_the_longest_of_the_three() {
        let timing = example();
        assert_eq!(timing.join_listen_ns(), timing.window_ns);
        let slow = Timing {
            device_delay_ns: 60_000 * MS,
            ..timing
        };
        assert_eq!(slow.join_listen_ns(), 60_030 * MS);
        let rare = Timing {
            period_max_ns: 60_000 * MS,
            ..timing
        };
        assert_eq!(rare.join_listen_ns(), 60_030 * MS);
    }

    #[test]
    fn r42_a_majority_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5, 16].map(majority), [1, 2, 2, 3, 3, 9]);
        for members in 1..=16 {
            assert!(2 * majority(members) > members);
            assert!(2 * (majority(members) - 1) <= members);
        }
    }

    #[test]
    fn r10_texts_name_the_number_that_would_do() {
        extern crate std;
        use std::string::ToString;
        let text = TimingError::WindowTooShort {
            needed_ns: 3_002_501_001,
        }
        .to_string();
        assert!(text.contains("at least 3002.501001 ms"), "{text}");
        let text = TimingError::LeaseTooShort {
            needed_ns: 1_750_500_000,
        }
        .to_string();
        assert!(text.contains("at least 1750.5 ms"), "{text}");
        let text = TimingError::TooLong(Duration::Read).to_string();
        assert_eq!(text, "the mailbox read time is longer than one day");
    }

    /// The rule is the lease's own: a heartbeat that stalls so long is judged in time, one that
    /// stalls any longer is not.
    #[test]
    fn r11_a_stall_is_survived_exactly_as_long_as_it_says() {
        use crate::proto::lease::{Lease, Verdict};
        let timing = example();
        let (period, length) = (timing.period_max_ns, timing.lease_ns);
        let takes = timing.write_ns + timing.read_ns;
        let stall = timing.survived_stall_ns(period);
        assert_eq!(stall, length - 2 * period - takes);
        let after = |stall_ns: u64| {
            let mut lease = Lease::fresh(length, 0);
            for k in 1..=3 {
                let stamp = k * period;
                assert_ne!(lease.judge(stamp, stamp + takes), Verdict::Broken);
            }
            let stamp = 4 * period + stall_ns;
            lease.judge(stamp, stamp + takes)
        };
        assert!(matches!(after(stall - 1), Verdict::Extended { .. }));
        // A lease that ends at that very moment is invalid [R7].
        assert_eq!(after(stall), Verdict::Broken);
        for stall in [1, period, period + 1, 7 * period] {
            let mut timing = example();
            timing.lost_heartbeats = Timing::lost_heartbeats_for(stall, period);
            timing.lease_ns = timing.needed_lease_ns(period);
            assert!(timing.survived_stall_ns(period) > stall, "{stall}");
        }
    }
}
