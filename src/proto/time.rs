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

    /// `ceil(L * (1 + rho) / (1 - rho))`: the longest a lease of another host can last by the
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
mod tests;
