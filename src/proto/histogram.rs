// SPDX-License-Identifier: GPL-2.0
//! What heartbeats were like since the session began: how long they took, and how close it was.
//!
//! | histogram | one value for each heartbeat of an owner |
//! |---|---|
//! | latency | from its stamp to its judgement: writing the own mailbox and reading all of them |
//! | margin | how much of the lease was left when the heartbeat extended it |
//!
//! | | one for each of some operations, chosen by chance |
//! |---|---|
//! | check | how much of the lease was left when the gate let the operation pass |
//!
//! A margin that shrinks warns long before a lease is lost. A heartbeat that came too late has no
//! margin: it is counted with the leases that were [`Beats::lost`].
//!
//! Operations come on all processors at once, so each of the first [`SHARDS`] counts in words of
//! its own ([`Checks`]), and they are so many that few do: [`SAMPLED`] says which.
//!
//! Bucket `k` of [`Histogram`] counts the values above `2^(k-1)` and up to `2^k` microseconds, the
//! first one everything up to one, the last one everything above [`LAST_LIMIT_US`]. So the limits
//! are those of Prometheus (`le`, inclusive), and no value needs a table or a division by anything
//! but a constant.
//!
//! ```text
//! timing <lease_ns> <window_ns> <period_ns>
//! lost <leases>
//! latency <count> <sum_ns> <bucket 0> <bucket 1> ...
//! margin <count> <sum_ns> <bucket 0> <bucket 1> ...
//! check <count> <sum_ns> <bucket 0> <bucket 1> ...
//! ```
//!
//! That is what the message `histogram` answers: lines by name, to which more may be added, and
//! numbers in this order. [`Report`] prints and reads it.
//!
//! Who calls: the engine and the gate note, the message prints, `leasectl metrics` reads. No
//! locking.

use super::gate::word::AtomicWord;
use super::words::table::number;
use core::fmt;
use core::ops::Deref;

/// How many buckets a histogram has: up to 2^26 microseconds (67 s), and what is above.
pub const BUCKETS: usize = 28;

/// The limit of the last bucket that has one, in microseconds.
pub const LAST_LIMIT_US: u64 = limit_us(BUCKETS - 2);

/// Nanoseconds in a microsecond.
const NS_PER_US: u64 = 1000;

/// The largest value of a bucket, in microseconds; the last bucket has none.
pub const fn limit_us(bucket: usize) -> u64 {
    1_u64 << bucket
}

/// How often a duration was in which range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// How many values there were.
    pub count: u64,
    /// Their sum, in nanoseconds; it stays at the largest number.
    pub sum_ns: u64,
    /// How many of them were in each bucket.
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    /// One without values.
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

/// Of so many operations one is sampled, by the time at which it was checked, which has nothing to
/// do with heartbeats. A power of two.
pub const SAMPLED: u64 = 256;

/// The bits of the clock, in nanoseconds, that are zero then. Not the last ones: a clock that
/// counts in tens has some of them always or never.
const SAMPLED_BITS: u64 = (SAMPLED - 1) << 8;

/// Whether an operation that was checked at this time is sampled.
#[inline(always)]
pub fn is_sampled(now_ns: u64) -> bool {
    now_ns & SAMPLED_BITS == 0
}

/// Processors that count for themselves; others share with one of them.
pub const SHARDS: usize = 16;

/// From one shard to the next, in words: no two share a cache line.
const SHARD_STRIDE: usize = 32;
/// The word with the sum of all values, behind the buckets.
const SUM: usize = BUCKETS;

const _: () = assert!(SUM < SHARD_STRIDE);

/// A histogram in which many processors count at once. `L` holds [`Checks::words`] words, all zero.
pub struct Checks<L> {
    words: L,
}

impl<W: AtomicWord, L: Deref<Target = [W]>> Checks<L> {
    /// How many words it takes on a machine with so many CPUs.
    pub fn words(cpus: usize) -> usize {
        cpus.clamp(1, SHARDS).saturating_mul(SHARD_STRIDE)
    }

    /// One without values.
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

    /// What all processors have counted.
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

/// What is kept of the heartbeats of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beats {
    /// How long heartbeats took.
    pub latency: Histogram,
    /// How much of the lease was left when they extended it.
    pub margin: Histogram,
    /// Leases that ended without being given up.
    pub lost: u64,
    expiry_ns: Option<u64>,
}

impl Beats {
    /// Before the first heartbeat.
    pub const NONE: Self = Self {
        latency: Histogram::EMPTY,
        margin: Histogram::EMPTY,
        lost: 0,
        expiry_ns: None,
    };

    /// A heartbeat with this stamp succeeded when the clock was at `judged_ns`; the lease is valid
    /// until `expiry_ns` now, if there is one.
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

    /// It was lost against its owner's will.
    pub fn note_lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }
}

/// The answer to the message `histogram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How long a lease lasts.
    pub lease_ns: u64,
    /// How long an owner must be silent.
    pub window_ns: u64,
    /// The controller's heartbeat period.
    pub period_ns: u64,
    /// Leases that ended without being given up.
    pub lost: u64,
    /// How long heartbeats took.
    pub latency: Histogram,
    /// How much of the lease was left when they extended it.
    pub margin: Histogram,
    /// How much of it was left when operations passed the gate: of one in [`SAMPLED`].
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
    /// Reads an answer; lines of later versions are skipped.
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
    fn r47_a_margin_is_what_was_left_of_the_lease_before() {
        let mut beats = Beats::NONE;
        // The first heartbeat of an epoch grants no lease, the second one has none to extend.
        beats.note(1_000, 3_000, None);
        beats.note(10_000, 11_000, Some(101_000));
        assert_eq!((beats.latency.count, beats.latency.sum_ns), (2, 3_000));
        assert_eq!(beats.margin, Histogram::EMPTY);
        beats.note(20_000, 21_000, Some(110_000));
        assert_eq!((beats.margin.count, beats.margin.sum_ns), (1, 80_000));
        assert_eq!(beats.margin.buckets[bucket(80_000)], 1);
        // A lease that ended is not extended by the next term's.
        beats.end_lease();
        beats.note_lost();
        beats.note(30_000, 31_000, Some(200_000));
        assert_eq!((beats.margin.count, beats.lost), (1, 1));
        // A clock that stepped back makes no huge number.
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
    fn r47_what_all_processors_counted_is_told_together() {
        for cpus in [1, 2, 16, 500] {
            let (checks, mut expected) = (checks(cpus), Histogram::EMPTY);
            for cpu in 0..40_u32 {
                let value_ns = 1_000 << (cpu % 30);
                checks.note(cpu, value_ns);
                expected.note(value_ns);
            }
            assert_eq!(checks.sum(), expected);
        }
        // Each of the first has its own cache lines.
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
        // Whatever a clock counts in, and wherever it begins.
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
