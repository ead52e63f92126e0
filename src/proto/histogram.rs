// SPDX-License-Identifier: GPL-2.0
//! Histograms of the heartbeats of a session: how long they took, and how much of the lease was
//! left.
//!
//! | histogram | one value for each heartbeat of an owner |
//! |---|---|
//! | latency | from its stamp to its judgement: writing the own mailbox and reading all of them |
//! | margin | how much of the lease was left when the heartbeat extended it |
//!
//! | | one value for each of some operations, chosen by chance |
//! |---|---|
//! | check | how much of the lease was left when the gate let the operation pass |
//!
//! A margin that shrinks warns long before a lease is lost. A heartbeat that came too late has no
//! margin: its lease is counted in [`Beats::lost`].
//!
//! Operations run on all processors at once, so each of the first [`SHARDS`] processors counts in
//! words of its own ([`Checks`]). To save time, only one of [`SAMPLED`] operations is counted.
//!
//! Bucket `k` of [`Histogram`] counts the values above `2^(k-1)` and up to `2^k` microseconds. The
//! first bucket counts all values up to 1, the last one all above [`LAST_LIMIT_US`]. So the limits
//! are those of Prometheus (`le`, inclusive), and finding a bucket needs no table and no division
//! except by a constant.
//!
//! ```text
//! timing <lease_ns> <window_ns> <period_ns>
//! lost <leases>
//! latency <count> <sum_ns> <bucket 0> <bucket 1> ...
//! margin <count> <sum_ns> <bucket 0> <bucket 1> ...
//! check <count> <sum_ns> <bucket 0> <bucket 1> ...
//! ```
//!
//! The message `histogram` answers with these lines. Each begins with its name, the numbers have
//! this order, and later versions may add lines. [`Report`] prints and reads the answer.
//!
//! Callers: the engine and the gate count, the message prints, `leasectl metrics` reads. No
//! locking.

use super::gate::word::AtomicWord;
use super::words::table::number;
use core::fmt;
use core::ops::Deref;

/// The number of buckets: those up to 2^26 microseconds (67 s), and one for larger values.
pub const BUCKETS: usize = 28;

/// The limit of the last bucket that has a limit, in microseconds.
pub const LAST_LIMIT_US: u64 = limit_us(BUCKETS - 2);

/// Nanoseconds in a microsecond.
const NS_PER_US: u64 = 1000;

/// The largest value of a bucket, in microseconds; the last bucket has no limit.
pub const fn limit_us(bucket: usize) -> u64 {
    1_u64 << bucket
}

/// The number of durations in each range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The number of values.
    pub count: u64,
    /// Their sum, in nanoseconds. It saturates.
    pub sum_ns: u64,
    /// The number of values in each bucket.
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    /// A histogram without values.
    pub const EMPTY: Self = Self {
        count: 0,
        sum_ns: 0,
        buckets: [0; BUCKETS],
    };

    /// Counts a value.
    pub fn note(&mut self, value_ns: u64) {
        self.count = self.count.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(value_ns);
        if let Some(bucket) = self.buckets.get_mut(bucket(value_ns)) {
            *bucket = bucket.saturating_add(1);
        }
    }
}

/// The bucket of a value.
fn bucket(value_ns: u64) -> usize {
    let above = value_ns.div_ceil(NS_PER_US).saturating_sub(1);
    let bits = u64::BITS.saturating_sub(above.leading_zeros());
    (bits as usize).min(BUCKETS.saturating_sub(1))
}

/// One operation of this many is sampled. The clock value of its check chooses it, which has
/// nothing to do with heartbeats. A power of two.
pub const SAMPLED: u64 = 256;

/// The bits of the clock, in nanoseconds, that are zero in a sample. They are not the lowest bits,
/// because in a clock that counts in tens of nanoseconds some of those never change.
const SAMPLED_BITS: u64 = (SAMPLED - 1) << 8;

/// Whether an operation that was checked at this time is sampled.
#[inline(always)]
pub fn is_sampled(now_ns: u64) -> bool {
    now_ns & SAMPLED_BITS == 0
}

/// The number of processors that have words of their own. Other processors share with one of them.
pub const SHARDS: usize = 16;

/// The distance between two shards, in words. No two share a cache line.
const SHARD_STRIDE: usize = 32;
/// The word with the sum of all values, behind the buckets.
const SUM: usize = BUCKETS;

const _: () = assert!(SUM < SHARD_STRIDE);

/// A histogram in which many processors count at once. `L` holds [`Checks::words`] words, all zero.
pub struct Checks<L> {
    words: L,
}

impl<W: AtomicWord, L: Deref<Target = [W]>> Checks<L> {
    /// How many words it takes on a host with `cpus` CPUs.
    pub fn words(cpus: usize) -> usize {
        cpus.clamp(1, SHARDS).saturating_mul(SHARD_STRIDE)
    }

    /// A histogram without values.
    pub fn new(words: L) -> Self {
        Self { words }
    }

    /// Counts a value on a CPU.
    pub fn note(&self, cpu: u32, value_ns: u64) {
        let shards = self.words.len() / SHARD_STRIDE;
        let shard = (cpu as usize).checked_rem(shards).unwrap_or_default();
        let first = shard.saturating_mul(SHARD_STRIDE);
        for (at, by) in [(bucket(value_ns), 1), (SUM, value_ns)] {
            if let Some(word) = self.words.get(first.saturating_add(at)) {
                word.fetch_add(by);
            }
        }
    }

    /// The sum of what all processors have counted.
    pub fn sum(&self) -> Histogram {
        let mut sum = Histogram::EMPTY;
        for shard in self.words.chunks_exact(SHARD_STRIDE) {
            for (bucket, word) in sum.buckets.iter_mut().zip(shard) {
                let count = word.load();
                *bucket = bucket.saturating_add(count);
                sum.count = sum.count.saturating_add(count);
            }
            let sum_ns = shard.get(SUM).map_or(0, AtomicWord::load);
            sum.sum_ns = sum.sum_ns.saturating_add(sum_ns);
        }
        sum
    }
}

/// The heartbeats of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beats {
    /// How long heartbeats took.
    pub latency: Histogram,
    /// How much of the lease was left when they extended it.
    pub margin: Histogram,
    /// Leases that ended although their owner did not give them up.
    pub lost: u64,
    expiry_ns: Option<u64>,
}

impl Beats {
    /// The state before the first heartbeat.
    pub const NONE: Self = Self {
        latency: Histogram::EMPTY,
        margin: Histogram::EMPTY,
        lost: 0,
        expiry_ns: None,
    };

    /// Counts a heartbeat with this stamp that succeeded when the clock was at `judged_ns`. The
    /// lease is now valid until `expiry_ns`, if there is one.
    pub fn note(&mut self, stamp_ns: u64, judged_ns: u64, expiry_ns: Option<u64>) {
        self.latency.note(judged_ns.saturating_sub(stamp_ns));
        if let Some(before_ns) = self.expiry_ns {
            self.margin.note(before_ns.saturating_sub(judged_ns));
        }
        self.expiry_ns = expiry_ns;
    }

    /// The lease is over: the next one begins without a margin.
    pub fn end_lease(&mut self) {
        self.expiry_ns = None;
    }

    /// Counts a lease that ended although its owner did not give it up.
    pub fn note_lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }
}

/// The answer to the message `histogram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How long a lease lasts.
    pub lease_ns: u64,
    /// How long an owner must be silent before another controller may claim.
    pub window_ns: u64,
    /// The controller's heartbeat period.
    pub period_ns: u64,
    /// Leases that ended although their owner did not give them up.
    pub lost: u64,
    /// How long heartbeats took.
    pub latency: Histogram,
    /// How much of the lease was left when they extended it.
    pub margin: Histogram,
    /// How much of the lease was left when operations passed the gate: one of [`SAMPLED`]
    /// operations.
    pub check: Histogram,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lease_ns,
            window_ns,
            period_ns,
            ..
        } = self;
        writeln!(f, "timing {lease_ns} {window_ns} {period_ns}")?;
        write!(f, "lost {}", self.lost)?;
        for (name, histogram) in [
            ("latency", &self.latency),
            ("margin", &self.margin),
            ("check", &self.check),
        ] {
            write!(f, "\n{name} {} {}", histogram.count, histogram.sum_ns)?;
            for bucket in &histogram.buckets {
                write!(f, " {bucket}")?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// Reads an answer and skips lines of later versions.
    ///
    /// # Errors
    ///
    /// The name of the first line that is missing or cannot be read.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut timing = Numbers::of(text, "timing")?;
        let mut lost = Numbers::of(text, "lost")?;
        let mut latency = Numbers::of(text, "latency")?;
        let mut margin = Numbers::of(text, "margin")?;
        let mut check = Numbers::of(text, "check")?;
        Ok(Self {
            lease_ns: timing.next()?,
            window_ns: timing.next()?,
            period_ns: timing.next()?,
            lost: lost.next()?,
            latency: latency.histogram()?,
            margin: margin.histogram()?,
            check: check.histogram()?,
        })
    }
}

/// The numbers of a line.
struct Numbers<'a> {
    name: &'static str,
    words: core::str::SplitAsciiWhitespace<'a>,
}

impl<'a> Numbers<'a> {
    fn of(text: &'a str, name: &'static str) -> Result<Self, &'static str> {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() == Some(name) {
                return Ok(Self { name, words });
            }
        }
        Err(name)
    }

    fn next(&mut self) -> Result<u64, &'static str> {
        let word = self.words.next().ok_or(self.name)?;
        number(word.as_bytes()).map_err(|_| self.name)
    }

    fn histogram(&mut self) -> Result<Histogram, &'static str> {
        let mut histogram = Histogram {
            count: self.next()?,
            sum_ns: self.next()?,
            ..Histogram::EMPTY
        };
        for bucket in &mut histogram.buckets {
            *bucket = self.next()?;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn r47_a_value_is_counted_in_the_bucket_whose_limit_it_does_not_exceed() {
        for (value_ns, expected) in [
            (0, 0),
            (1, 0),
            (1000, 0),
            (1001, 1),
            (2000, 1),
            (2001, 2),
            (4000, 2),
            (1_000_000, 10),
            (1_024_000, 10),
            (1_024_001, 11),
            (LAST_LIMIT_US * NS_PER_US, BUCKETS - 2),
            (LAST_LIMIT_US * NS_PER_US + 1, BUCKETS - 1),
            (u64::MAX, BUCKETS - 1),
        ] {
            assert_eq!(bucket(value_ns), expected, "{value_ns}");
        }
        for bucket_of in 0..BUCKETS - 1 {
            let limit_ns = limit_us(bucket_of) * NS_PER_US;
            assert_eq!(bucket(limit_ns), bucket_of);
            assert_eq!(bucket(limit_ns + 1), bucket_of + 1);
        }
    }

    #[test]
    fn r47_a_margin_is_the_rest_of_the_lease_before() {
        let mut beats = Beats::NONE;
        // The first heartbeat of an epoch grants no lease, and the second one has no lease to
        // extend.
        beats.note(1_000, 3_000, None);
        beats.note(10_000, 11_000, Some(101_000));
        assert_eq!((beats.latency.count, beats.latency.sum_ns), (2, 3_000));
        assert_eq!(beats.margin, Histogram::EMPTY);
        beats.note(20_000, 21_000, Some(110_000));
        assert_eq!((beats.margin.count, beats.margin.sum_ns), (1, 80_000));
        assert_eq!(beats.margin.buckets[bucket(80_000)], 1);
        // The next term does not extend a lease that ended.
        beats.end_lease();
        beats.note_lost();
        beats.note(30_000, 31_000, Some(200_000));
        assert_eq!((beats.margin.count, beats.lost), (1, 1));
        // A clock that stepped back does not cause a huge number.
        beats.note(50_000, 40_000, Some(200_000));
        assert_eq!(beats.latency.sum_ns, 3_000 + 1_000 + 1_000);
    }

    #[test]
    fn r47_an_answer_is_read_as_it_was_printed() {
        let mut report = Report {
            lease_ns: 1_750_000_001,
            window_ns: 1_854_605_506,
            period_ns: 500_000_000,
            lost: 3,
            latency: Histogram::EMPTY,
            margin: Histogram::EMPTY,
            check: Histogram::EMPTY,
        };
        for value_ns in [0, 1_500, 2_000_000, u64::MAX] {
            report.latency.note(value_ns);
        }
        report.margin.note(1_200_000_000);
        report.check.note(1_300_000_000);
        let text = report.to_string();
        assert_eq!(Report::parse(&text), Ok(report));
        assert_eq!(
            Report::parse(&std::format!("new 1 2\n{text}\n")),
            Ok(report)
        );
        for name in ["timing", "lost", "latency", "margin", "check"] {
            assert_eq!(Report::parse(&text.replace(name, "x")), Err(name));
            let wrong = text.replace(&std::format!("{name} "), &std::format!("{name} x"));
            assert_eq!(Report::parse(&wrong), Err(name));
        }
        let (short, _) = text.rsplit_once(' ').unwrap();
        assert_eq!(Report::parse(short), Err("check"));
    }

    fn checks(cpus: usize) -> Checks<Vec<AtomicU64>> {
        let words = Checks::<Vec<AtomicU64>>::words(cpus);
        Checks::new((0..words).map(|_| AtomicWord::new(0)).collect())
    }

    #[test]
    fn r47_the_counts_of_all_processors_are_reported_together() {
        for cpus in [1, 2, 16, 500] {
            let (checks, mut expected) = (checks(cpus), Histogram::EMPTY);
            for cpu in 0..40_u32 {
                let value_ns = 1_000 << (cpu % 30);
                checks.note(cpu, value_ns);
                expected.note(value_ns);
            }
            assert_eq!(checks.sum(), expected);
        }
        // Each of the first processors has its own cache lines.
        let checks = checks(500);
        checks.note(3, 1);
        checks.note(4, 1);
        let used: Vec<_> = (0..checks.words.len())
            .filter(|&at| AtomicWord::load(&checks.words[at]) != 0)
            .collect();
        assert_eq!(used, [96, 96 + SUM, 128, 128 + SUM]);
    }

    #[test]
    fn r47_one_time_in_so_many_is_sampled() {
        // For any unit in which a clock counts, and for any start value.
        for (step, offset) in [(1, 0), (10, 0), (10, 5), (70, 3), (100, 0), (100, 99)] {
            let times = (0..1 << 20).map(|tick: u64| 7_000_000_000 + offset + tick * step);
            let sampled = times.filter(|&now_ns| is_sampled(now_ns)).count() as u64;
            let expected = (1 << 20) / SAMPLED;
            assert!(
                sampled.abs_diff(expected) < expected / 20,
                "{step}: {sampled}"
            );
        }
    }
}
