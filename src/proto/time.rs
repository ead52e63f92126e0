// SPDX-License-Identifier: GPL-2.0
//! The timings of a portion, and the two inequalities that make them safe.
//!
//! All durations are nanoseconds of a local lease clock, see [`super::clocks`]:
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
//! W >  5 * d_w + 3 * d_r + jitter
//! L >  2 * max(P, b) + lost + d_r + b              b = d_w + d_r + jitter: a heartbeat
//!
//! lost = 0                                         x = 0
//! lost = max(x * c - d_r, P + (x - 1) * max(P, c)) c = t_err + max(d_w, d_r) + jitter: a lost one
//! ```
//!
//! The first inequality is safety. The window of an observer whose clock runs fast must not end
//! before the lease of an owner whose clock runs slow, and by then a command that was accepted just
//! in time must have left the device queue. It is checked whenever a superblock is read.
//!
//! The others are availability [R11]. A whole claim must end within the window, or it is abandoned.
//! A lease must outlast `x` lost heartbeats, whichever part of each is lost:
//!
//! * A lease ends `L` after the heartbeat *before* the last successful one. So two ordinary
//!   heartbeats are subtracted from it. Each takes a period, or its write and its reads if they
//!   take longer.
//! * A lost write is reported after `t_err`, and the next heartbeat must read the own blocks before
//!   it writes, which takes `d_r`. A heartbeat whose reads are lost has written before, which took
//!   `d_w`. If neither fits into a period, the next heartbeat is late and begins at once.
//! * The heartbeat that extends the lease takes `b`. If the write of the heartbeat before it was
//!   lost, it must read the own blocks first.
//!
//! `selftests/proto/tests/timing.rs` proves by simulation that the last inequality is enough at its
//! own bound, and that one nanosecond less is not. [`Timing::validate`] requires all of them when a
//! portion is formatted [R10]. A portion that an earlier version formatted with weaker rules can
//! still be opened ([`Timing::check`]), and [`Timing::shortfall`] says what it lacks. The timings
//! are stored in the superblock and are the same for all controllers [R25].
//!
//! All numbers are integers, rounded to the safe side (W up). Pure functions: any caller, no
//! locking.

use core::fmt;

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// The largest value of any duration of a portion: one day. It keeps every sum and product below
/// far from the end of 64 bits, and no useful lease is longer.
pub const MAX_DURATION_NS: u64 = 24 * 3600 * 1000 * NS_PER_MS;

/// The shortest heartbeat period. More frequent heartbeats would mostly be load.
pub const MIN_PERIOD_NS: u64 = NS_PER_MS;

/// The largest clock rate error that may be configured (10 %). Real clocks err by less than 0.1 %.
pub const MAX_DRIFT_PPM: u32 = 100_000;

/// The largest number of lost heartbeats that may be configured.
pub const MAX_LOST_HEARTBEATS: u32 = 1000;

/// One million: the denominator of `drift_ppm`.
const MILLION: u64 = 1_000_000;

/// The timings of a portion; see the table at the top. They are safe only after
/// [`Timing::validate`].
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
    /// x: how many lost heartbeats a lease survives.
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
        /// The smallest lease that survives the configured delays.
        needed_ns: u64,
    },
    /// The lease does not outlast two periods: no heartbeat could ever extend it.
    LeaseBelowPeriods {
        /// The smallest lease that outlasts two periods.
        needed_ns: u64,
    },
    /// The window is below `needed_ns`, so a claim that takes as long as stated would be abandoned.
    WindowBelowClaim {
        /// The smallest window in which a claim ends.
        needed_ns: u64,
    },
}

/// The shortfall of a portion whose timings are safe, but whose lease is shorter than it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shortfall {
    /// The lease time of the portion.
    pub lease_ns: u64,
    /// How many lost heartbeats in a row it was formatted to survive.
    pub lost_heartbeats: u32,
    /// The smallest lease that survives what the portion was formatted for.
    pub needed_lease_ns: u64,
    /// Whether even healthy heartbeats do not extend the lease, if their writes and reads take as
    /// long as stated.
    pub is_hopeless: bool,
    /// The longest heartbeat period for which the lease is long enough, if there is one.
    pub fitting_period_ns: Option<u64>,
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
            Self::LeaseBelowPeriods { needed_ns } => {
                f.write_str("the lease time is below two heartbeat periods: it must be at least ")?;
                write_ms(f, needed_ns)
            }
            Self::WindowBelowClaim { needed_ns } => {
                f.write_str("the takeover window is shorter than a claim: it must be at least ")?;
                write_ms(f, needed_ns)?;
                f.write_str(" (five mailbox writes, three reads and jitter)")
            }
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lease time is too short for what the portion was formatted to survive: ")?;
        write_ms(f, self.lease_ns)?;
        f.write_str(" instead of ")?;
        write_ms(f, self.needed_lease_ns)?;
        match self.is_hopeless {
            true => f.write_str("; heartbeats that take as long as was stated never extend it")?,
            false => write!(f, " for {} lost heartbeats in a row", self.lost_heartbeats)?,
        }
        match self.fitting_period_ns {
            Some(period_ns) => {
                f.write_str("; it is long enough for a heartbeat period of ")?;
                write_ms(f, period_ns)
            }
            None => f.write_str("; format the portion anew, or expect less delay"),
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
    /// No timings: those of an unconfigured state machine.
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

    /// Checks all rules: the timings are safe, and they survive what they state. A portion is
    /// formatted with such timings.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold.
    pub fn validate(&self) -> Result<(), TimingError> {
        self.check_ranges()?;
        let needed_ns = self.needed_lease_ns(self.period_max_ns);
        if self.lease_ns < needed_ns {
            return Err(TimingError::LeaseTooShort { needed_ns });
        }
        self.check_window()?;
        let needed_ns = self.claim_ns().saturating_add(1);
        if self.window_ns < needed_ns {
            return Err(TimingError::WindowBelowClaim { needed_ns });
        }
        Ok(())
    }

    /// Checks the rules that make the timings safe, and that a lease can be extended at all. A
    /// portion is opened with such timings: a lease that is lost more easily than it should be is
    /// better than none, as long as [its shortfall](Self::shortfall) is reported.
    ///
    /// # Errors
    ///
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), TimingError> {
        self.check_ranges()?;
        let needed_ns = self.period_max_ns.saturating_mul(2).saturating_add(1);
        if self.lease_ns < needed_ns {
            return Err(TimingError::LeaseBelowPeriods { needed_ns });
        }
        self.check_window()
    }

    /// The shortfall of the lease; `None` if it survives what it was formatted for.
    pub fn shortfall(&self) -> Option<Shortfall> {
        let needed_lease_ns = self.needed_lease_ns(self.period_max_ns);
        if self.lease_ns >= needed_lease_ns {
            return None;
        }
        let beat_ns = self.beat_ns();
        let ordinary_ns = self.period_max_ns.max(beat_ns).saturating_mul(2);
        Some(Shortfall {
            lease_ns: self.lease_ns,
            lost_heartbeats: self.lost_heartbeats,
            needed_lease_ns,
            is_hopeless: self.lease_ns <= ordinary_ns.saturating_add(beat_ns),
            fitting_period_ns: self.fitting_period_ns(),
        })
    }

    /// The longest period, in whole milliseconds, for which this lease is long enough.
    fn fitting_period_ns(&self) -> Option<u64> {
        let fits = |period_ms: &u64| {
            let period_ns = period_ms.saturating_mul(NS_PER_MS);
            self.needed_lease_ns(period_ns) <= self.lease_ns
        };
        // The needed lease grows with the period, so bisection finds the longest period that fits.
        let (mut fitting, mut above) = (0, self.period_max_ns.div_ceil(NS_PER_MS));
        while above.saturating_sub(fitting) > 1 {
            let middle = fitting.midpoint(above);
            match fits(&middle) {
                true => fitting = middle,
                false => above = middle,
            }
        }
        let longest = Some(fitting).filter(|&period_ms| period_ms > 0 && fits(&period_ms));
        longest.map(|period_ms| period_ms.saturating_mul(NS_PER_MS))
    }

    fn check_window(&self) -> Result<(), TimingError> {
        let needed_ns = self.needed_window_ns();
        match self.window_ns < needed_ns {
            true => Err(TimingError::WindowTooShort { needed_ns }),
            false => Ok(()),
        }
    }

    fn check_ranges(&self) -> Result<(), TimingError> {
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
            // The last one, because a tool may have computed it from the others.
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

    /// The smallest lease time that survives the configured delays, for heartbeats every
    /// `period_ns`; the formula is at the top. Saturates for values that [`Timing::validate`]
    /// refuses.
    pub fn needed_lease_ns(&self, period_ns: u64) -> u64 {
        let beat_ns = self.beat_ns();
        // One step for each heartbeat between the two whose difference counts.
        let ordinary_ns = period_ns.max(beat_ns).saturating_mul(2);
        ordinary_ns
            .saturating_add(self.lost_ns(period_ns))
            .saturating_add(self.read_ns)
            .saturating_add(beat_ns)
            // The inequality is strict: a lease that ends at exactly that time is invalid [R7].
            .saturating_add(1)
    }

    /// How long an ordinary heartbeat takes, from the time at which it is due.
    fn beat_ns(&self) -> u64 {
        self.write_ns
            .saturating_add(self.read_ns)
            .saturating_add(self.jitter_ns)
    }

    /// How much later, at worst, the lost heartbeats make the heartbeat that extends the lease.
    fn lost_ns(&self, period_ns: u64) -> u64 {
        let lost = u64::from(self.lost_heartbeats);
        let Some(further) = lost.checked_sub(1) else {
            return 0;
        };
        let each_ns = self
            .error_report_ns
            .saturating_add(self.write_ns.max(self.read_ns))
            .saturating_add(self.jitter_ns);
        // Either they follow each other directly, or the first one fits into its period and the
        // reads that it makes necessary delay the others.
        let together_ns = each_ns.saturating_mul(lost).saturating_sub(self.read_ns);
        let in_turn_ns = period_ns.max(each_ns).saturating_mul(further);
        together_ns.max(period_ns.saturating_add(in_turn_ns))
    }

    /// How long a claim takes at worst: a read of the own blocks, a write that is still in flight,
    /// and two writes and a read in each of the two phases.
    pub fn claim_ns(&self) -> u64 {
        self.write_ns
            .saturating_mul(5)
            .saturating_add(self.read_ns.saturating_mul(3))
            .saturating_add(self.jitter_ns)
    }

    /// The longest stall of an owner, or of its paths, that its lease outlasts at any time, with
    /// heartbeats every `period_ns` that take their ordinary time [R11].
    ///
    /// Heartbeat `k+1` is due a period after `k`, while the lease ends `L` after `k-1`. So two
    /// periods and the heartbeat itself are subtracted from it.
    pub fn survived_stall_ns(&self, period_ns: u64) -> u64 {
        let beat_ns = self.write_ns.saturating_add(self.read_ns);
        self.lease_ns
            .saturating_sub(period_ns.max(beat_ns).saturating_mul(2))
            .saturating_sub(beat_ns)
    }

    /// How many lost heartbeats in a row a portion must survive so that it survives a stall of
    /// `stall_ns`, with heartbeats every `period_ns`.
    pub fn lost_heartbeats_for(stall_ns: u64, period_ns: u64) -> u32 {
        let lost = stall_ns.div_ceil(period_ns.max(1));
        u32::try_from(lost).unwrap_or(u32::MAX)
    }

    /// Whether a controller may heartbeat every `period_ns` on this portion [R1], [R10]. If the
    /// lease is long enough for the longest period, every period fits. If it is not, [the
    /// shortfall](Self::shortfall) says so.
    pub fn period_fits(&self, period_ns: u64) -> bool {
        (MIN_PERIOD_NS..=self.period_max_ns).contains(&period_ns)
    }

    /// How long a joiner listens to its own slot before its first write [R36]: the window, the
    /// settling time of a former incarnation's commands, or the longest heartbeat period on the
    /// slowest clock, whichever is longest.
    pub fn join_listen_ns(&self) -> u64 {
        self.window_ns
            .max(self.device_settle_ns())
            .max(stretch_ns(self.period_max_ns, self.drift_ppm))
    }

    /// `ceil((1 + rho) * D)`: after this much local time no command that was accepted before can
    /// still land. After a join or an error a member counts no ballot for this time [R41].
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

        // 2 * 500, one lost one of 500 + 100 + 50, and 100 + 100 + 50: 1900 ms is not enough, one
        // nanosecond more is.
        let with_lease = |lease_ns| Timing { lease_ns, ..good };
        let needed_ns = 1_900 * MS + 1;
        let refused = Err(TimingError::LeaseTooShort { needed_ns });
        assert_eq!(with_lease(1_900 * MS).validate(), refused);
        assert_eq!(with_lease(1_900 * MS + 1).validate(), Ok(()));
    }

    #[test]
    fn r10_a_slow_error_report_counts_like_a_slow_period() {
        let good = example();
        let slow = Timing {
            error_report_ns: 700 * MS,
            ..good
        };
        let needed_ns = 2 * 500 * MS + (700 + 150) * MS + 250 * MS + 1;
        assert_eq!(
            slow.validate(),
            Err(TimingError::LeaseTooShort { needed_ns })
        );
    }

    #[test]
    fn r11_a_heartbeat_may_take_longer_than_a_period() {
        let short = |lost_heartbeats| {
            let timing = Timing {
                period_max_ns: 10 * MS,
                error_report_ns: 10 * MS,
                lost_heartbeats,
                ..example()
            };
            timing.needed_lease_ns(timing.period_max_ns)
        };
        // Two heartbeats of 250 ms, the lost ones of 10 + 100 + 50 each, a read, and the last one.
        assert_eq!(short(0), (2 * 250 + 100 + 250) * MS + 1);
        assert_eq!(short(1), (2 * 250 + 160 + 250) * MS + 1);
        assert_eq!(short(3), (2 * 250 + 3 * 160 + 250) * MS + 1);
    }

    #[test]
    fn r11_a_lost_heartbeat_may_fit_into_its_period() {
        let quick = |lost_heartbeats| {
            let timing = Timing {
                error_report_ns: 100 * MS,
                lost_heartbeats,
                ..example()
            };
            timing.needed_lease_ns(timing.period_max_ns)
        };
        // Each takes a period, and the read that the last one makes necessary is added.
        assert_eq!(quick(1), (3 * 500 + 100 + 250) * MS + 1);
        assert_eq!(quick(3), (5 * 500 + 100 + 250) * MS + 1);
    }

    #[test]
    fn r10_a_window_that_is_shorter_than_a_claim_is_refused() {
        let slow = Timing {
            device_delay_ns: 0,
            drift_ppm: 0,
            lost_heartbeats: 0,
            period_max_ns: 10 * MS,
            error_report_ns: 10 * MS,
            write_ns: 1_000 * MS,
            read_ns: 10 * MS,
            jitter_ns: 0,
            lease_ns: 3_100 * MS,
            window_ns: 3_100 * MS,
        };
        let needed_ns = (5 * 1_000 + 3 * 10) * MS + 1;
        let refused = Err(TimingError::WindowBelowClaim { needed_ns });
        assert_eq!(slow.validate(), refused);
        let long = Timing {
            window_ns: needed_ns,
            ..slow
        };
        assert_eq!(long.validate(), Ok(()));
    }

    /// Timings of an earlier version can be opened, and their shortfall is reported.
    #[test]
    fn r10_a_lease_that_is_short_is_opened_and_one_that_is_hopeless_too() {
        let with_lease = |lease_ns| Timing {
            lease_ns,
            ..example()
        };
        assert_eq!(example().shortfall(), None);
        let shipped = with_lease(1_751 * MS);
        assert_eq!(shipped.check(), Ok(()));
        let shortfall = Shortfall {
            lease_ns: 1_751 * MS,
            lost_heartbeats: 1,
            needed_lease_ns: 1_900 * MS + 1,
            is_hopeless: false,
            // 2 * 425 + 650 + 250 is less than 1751, and one millisecond more is not.
            fitting_period_ns: Some(425 * MS),
        };
        assert_eq!(shipped.shortfall(), Some(shortfall));
        let hopeless = with_lease(1_250 * MS).shortfall().unwrap();
        assert!(hopeless.is_hopeless);
        assert!(!with_lease(1_250 * MS + 1).shortfall().unwrap().is_hopeless);
        assert_eq!(hopeless.fitting_period_ns, None);
        let needed_ns = 1_000 * MS + 1;
        let refused = Err(TimingError::LeaseBelowPeriods { needed_ns });
        assert_eq!(with_lease(1_000 * MS).check(), refused);
        assert_eq!(with_lease(1_000 * MS + 1).check(), Ok(()));
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
        // A day is not too long; another rule refuses it.
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
    fn r1_a_period_fits_when_it_is_in_the_range_of_the_portion() {
        let timing = Timing {
            error_report_ns: 0,
            ..example()
        };
        assert!(timing.period_fits(500 * MS));
        assert!(timing.period_fits(MS));
        assert!(!timing.period_fits(MS - 1));
        assert!(!timing.period_fits(500 * MS + 1));
        assert!(!timing.period_fits(0));
    }

    /// So a lease that carries the longest period carries every one that fits.
    #[test]
    fn r1_a_shorter_period_needs_no_longer_lease() {
        for error_report_ns in [0, 300 * MS, 2_000 * MS] {
            for lost_heartbeats in 0..4 {
                let timing = Timing {
                    error_report_ns,
                    lost_heartbeats,
                    ..example()
                };
                let needed = (1..=500).map(|period_ms| timing.needed_lease_ns(period_ms * MS));
                assert!(needed.is_sorted());
            }
        }
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
        let shipped = Timing {
            lease_ns: 1_751 * MS,
            ..example()
        };
        let text = shipped.shortfall().unwrap().to_string();
        let numbers = "1751 ms instead of 1900.000001 ms for 1 lost heartbeats in a row";
        assert!(text.contains(numbers), "{text}");
        assert!(text.ends_with("period of 425 ms"), "{text}");
        let hopeless = Timing {
            lease_ns: 1_100 * MS,
            ..example()
        };
        let text = hopeless.shortfall().unwrap().to_string();
        assert!(text.contains("never extend it; format"), "{text}");
        let text = TimingError::LeaseBelowPeriods {
            needed_ns: 1_000_000_001,
        }
        .to_string();
        assert!(text.contains("at least 1000.000001 ms"), "{text}");
        let text = TimingError::WindowBelowClaim {
            needed_ns: 800_000_000,
        }
        .to_string();
        assert!(text.contains("at least 800 ms"), "{text}");
        let text = TimingError::TooLong(Duration::Read).to_string();
        assert_eq!(text, "the mailbox read time is longer than one day");
    }

    /// The rule is the lease's own: a heartbeat that stalls for this time is judged in time, and
    /// one that stalls longer is not.
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
        // A lease that ends at exactly that time is invalid [R7].
        assert_eq!(after(stall), Verdict::Broken);
        for stall in [1, period, period + 1, 7 * period] {
            let mut timing = example();
            timing.lost_heartbeats = Timing::lost_heartbeats_for(stall, period);
            timing.lease_ns = timing.needed_lease_ns(period);
            assert!(timing.survived_stall_ns(period) > stall, "{stall}");
        }
    }
}
