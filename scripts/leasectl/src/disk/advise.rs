// SPDX-License-Identifier: GPL-2.0
//! Measures devices and proposes timings for them, with the delays that each choice tolerates.
//!
//! A heartbeat writes one block and reads the mailboxes of all controllers; a ballot waits until
//! its block is on the medium. Both are timed one by one, beside other I/O of the host. The
//! proposals allow for ten times the slowest command: measure under load, or give longer times. The
//! formulas are those that `format` and the module check (`Timing`).
//!
//! How long a command may hang below the gate (D) cannot be measured. The kernel's own timeout for
//! one command is shown; it alone is often longer than an acceptable window.

use crate::cli::{Advise, Timings};
use crate::disk::device::Device;
use crate::disk::member::superblocks;
use crate::disk::plan::{takeover_ns, timing};
use crate::text::ms;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::block::BLOCK_SIZE;
use dm_lease_proto::proto::codec::layout::{HEAD_SIZE, MAILBOX_OFFSET, MAILBOX_SIZE, SPARE_OFFSET};
use dm_lease_proto::proto::time::{Timing, NS_PER_MS};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// The factor by which a mailbox command may be slower than the slowest measured one.
const RESERVE: u32 = 10;

/// The shortest proposed times, in milliseconds.
const LEAST_MS: u64 = 10;
const LEAST_DELAY_MS: u64 = 100;

/// How late a heartbeat may be issued, in milliseconds: the default of `format`.
const JITTER_MS: u64 = 50;

/// Each choice: its name, its heartbeat period, and how many heartbeats may be lost.
const CHOICES: [(&str, u64, u32); 3] = [("quick", 100, 1), ("usual", 500, 1), ("patient", 1000, 3)];

/// The durations of commands, sorted.
struct Times(Vec<Duration>);

/// The slowest of each kind of command on any device.
#[derive(Default)]
struct Slowest {
    read: Duration,
    write: Duration,
    durable: Duration,
    /// The median of durable writes, for the throughput.
    median: Duration,
}

/// `leasectl advise`
pub fn run(options: &Advise, out: &mut impl Write) -> Result<()> {
    let mut slowest = Slowest::default();
    for path in &options.devices {
        measure(options, path, &mut slowest, out)?;
    }
    if !options.write {
        writeln!(
            out,
            "note: writes were not measured (--write): they count as slow as reads"
        )?;
        slowest.write = slowest.read;
    }
    for (name, period_ms, lost) in CHOICES {
        let words = propose(options, &slowest, period_ms, lost);
        explain(name, &words, out).with_context(|| format!("the choice {name}"))?;
    }
    if options.write {
        ceiling(slowest.median, out)?;
    }
    Ok(())
}

fn measure(
    options: &Advise,
    path: &Path,
    slowest: &mut Slowest,
    out: &mut impl Write,
) -> Result<()> {
    let shown = path.display();
    let device = match options.write {
        true => Device::claim(path)?,
        false => Device::observe(path)?,
    };
    if device.size < HEAD_SIZE {
        bail!("{shown} is too small for a member");
    }
    let length = usize::from(options.controllers) * MAILBOX_SIZE as usize;
    let read = Times::of(options.count, || {
        device.read_blocks(MAILBOX_OFFSET, length).map(drop)
    })?;
    writeln!(out, "{shown}: reads of {} KiB: {read}", length / 1024)?;
    slowest.read = slowest.read.max(read.slowest());
    if options.write {
        let offset = scratch(options, &device)?;
        let block = device.read_block(offset)?;
        let write = Times::of(options.count, || device.write_block(offset, &block))?;
        writeln!(out, "{shown}: writes of 4 KiB: {write}")?;
        let durable = Times::of(options.count, || {
            device.write_block(offset, &block)?;
            device.flush()
        })?;
        writeln!(out, "{shown}: writes of 4 KiB and a flush: {durable}")?;
        slowest.write = slowest.write.max(write.slowest());
        slowest.durable = slowest.durable.max(durable.slowest());
        slowest.median = slowest.median.max(write.median());
    }
    if let Some(timeout_ms) = device.command_timeout_ms() {
        writeln!(
            out,
            "{shown}: the kernel waits up to {timeout_ms} ms for one command before it begins \
             error handling: a device delay that covers this is longer"
        )?;
    }
    Ok(())
}

/// The place where writes are measured.
fn scratch(options: &Advise, device: &Device) -> Result<u64> {
    let shown = device.path.display();
    let (primary, copy) = superblocks(device)?;
    let is_formatted = primary.or(copy).is_ok();
    let Some(offset) = options.scratch else {
        match is_formatted {
            true => return Ok(SPARE_OFFSET),
            false => bail!("{shown} is not formatted: --scratch says where it may be written"),
        }
    };
    if is_formatted {
        bail!("{shown} is formatted: it is written where nothing is kept, without --scratch");
    }
    let block = BLOCK_SIZE as u64;
    if offset % block != 0 || offset.saturating_add(block) > device.size {
        bail!("{shown}: the offset must be a multiple of {block}, and on the device");
    }
    Ok(offset)
}

impl Times {
    fn of(count: u32, mut command: impl FnMut() -> Result<()>) -> Result<Times> {
        let mut times = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            command()?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(Times(times))
    }

    /// The duration that this percentage of the commands does not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        self.percentile(50)
    }

    fn slowest(&self) -> Duration {
        self.percentile(100)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "median {:.2} ms, 99 % {:.2} ms, slowest {:.2} ms of {}",
            ms(self.median()),
            ms(self.percentile(99)),
            ms(self.slowest()),
            self.0.len(),
        )
    }
}

/// Milliseconds with the reserve, at least the given number, rounded up to tens.
fn with_reserve(time: Duration, least_ms: u64) -> u64 {
    let time_ms = (time * RESERVE).as_nanos().div_ceil(NS_PER_MS.into());
    let time_ms = u64::try_from(time_ms).unwrap_or(u64::MAX);
    time_ms.max(least_ms).div_ceil(10).saturating_mul(10)
}

/// The options of `format` for a choice.
fn propose(options: &Advise, slowest: &Slowest, period_ms: u64, lost: u32) -> Timings {
    let write_ms = with_reserve(slowest.write, LEAST_MS);
    let read_ms = with_reserve(slowest.read, LEAST_MS);
    // A heartbeat that usually takes longer than a period would delay the next one.
    let heartbeat_ms = period_ms.max(write_ms.saturating_add(read_ms));
    let stall_ms = options.stall_ms.unwrap_or(0);
    let lost_heartbeats = Timing::lost_heartbeats_for(stall_ms, heartbeat_ms).max(lost);
    let durable = slowest.durable.max(slowest.write);
    let delay_ms = with_reserve(durable, LEAST_DELAY_MS);
    Timings {
        device_delay_ms: options.device_delay_ms.or(Some(delay_ms)),
        heartbeat_ms,
        lost_heartbeats,
        lease_ms: None,
        window_ms: None,
        drift_ppm: 1000,
        write_ms,
        read_ms,
        jitter_ms: JITTER_MS,
        error_report_ms: None,
    }
}

fn explain(name: &str, words: &Timings, out: &mut impl Write) -> Result<()> {
    let timing = timing(words)?;
    let period_ns = timing.period_max_ns;
    writeln!(
        out,
        "\n{name}: lease {}, window {}, another controller writes about {} after the last \
         heartbeat",
        ms(timing.lease_ns),
        ms(timing.window_ns),
        ms(takeover_ns(&timing)),
    )?;
    writeln!(
        out,
        "  --heartbeat-ms {} --lost-heartbeats {} --write-ms {} --read-ms {} --jitter-ms {} \
         --device-delay-ms {}",
        words.heartbeat_ms,
        words.lost_heartbeats,
        words.write_ms,
        words.read_ms,
        words.jitter_ms,
        words.device_delay_ms.unwrap_or(0),
    )?;
    let stall_ns = timing.survived_stall_ns(period_ns);
    writeln!(
        out,
        "  survives a stall of the host, or a failover of its paths, shorter than {}, and {} \
         lost heartbeats",
        ms(stall_ns),
        timing.lost_heartbeats,
    )?;
    writeln!(
        out,
        "  survives heartbeats that take up to {}; operations that hang below the gate for more \
         than {} are covered by the limit alone",
        ms(stall_ns
            .saturating_add(timing.write_ns)
            .saturating_add(timing.read_ns)),
        ms(timing.device_delay_ns),
    )?;
    Ok(())
}

/// The throughput that a limit allows if each operation takes the measured time.
fn ceiling(median: Duration, out: &mut impl Write) -> Result<()> {
    let latency_ns = median.as_nanos().max(1);
    let rate = |limit: u128| limit * 1_000_000_000 / latency_ns;
    writeln!(
        out,
        "\nthroughput ceiling, M / latency: {} writes per second with M = 1, {} with 2, {} with 4; \
         with --count stripe, as many in each stripe row",
        rate(1),
        rate(2),
        rate(4),
    )?;
    Ok(())
}
