// SPDX-License-Identifier: GPL-2.0
//! Computes timings and redundancy from options, and explains their consequences.
//!
//! Nothing here touches a device. Values that the options leave out are computed: the shortest
//! lease that survives the stated delays, the shortest safe window, the default batch limit. Values
//! that the core refuses are refused here with the core's error texts.

use crate::cli::{Count, RedundancyOptions, Timings, WhenExhausted, YesNo};
use crate::text::{controllers, ms, ns, round_up_ms};
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::superblock::Superblock;
use dm_lease_proto::proto::limit::{Counting, Exhausted, Limit, Redundancy, RedundancyKind};
use dm_lease_proto::proto::time::{majority, Timing};
use std::io::{self, Write};

/// The timings that the options ask for.
pub fn timing(options: &Timings) -> Result<Timing> {
    let period_max_ns = ns(options.heartbeat_ms);
    let mut timing = Timing {
        lease_ns: ns(options.lease_ms.unwrap_or(0)),
        window_ns: ns(options.window_ms.unwrap_or(0)),
        device_delay_ns: ns(options.device_delay_ms.unwrap_or(0)),
        drift_ppm: options.drift_ppm,
        lost_heartbeats: options.lost_heartbeats,
        period_max_ns,
        error_report_ns: options.error_report_ms.map_or(period_max_ns, ns),
        write_ns: ns(options.write_ms),
        read_ns: ns(options.read_ms),
        jitter_ns: ns(options.jitter_ms),
    };
    if options.lease_ms.is_none() {
        timing.lease_ns = round_up_ms(timing.needed_lease_ns(period_max_ns));
    }
    if options.window_ms.is_none() {
        let claim_ns = timing.claim_ns().saturating_add(1);
        timing.window_ns = round_up_ms(timing.needed_window_ns().max(claim_ns));
    }
    timing
        .validate()
        .map_err(anyhow::Error::msg)
        .context("unsafe timings")?;
    Ok(timing)
}

/// The redundancy that the options ask for.
pub fn redundancy(options: &RedundancyOptions) -> Result<Redundancy> {
    let kind = options.redundancy.context("no redundancy given")?;
    let counting = match options.count {
        Count::Ops => Counting::Ops,
        Count::Stripe(kib) => match kib.checked_mul(2) {
            Some(chunk_sectors) => Counting::Stripe { chunk_sectors },
            None => bail!("the stripe chunk is larger than 1 GiB"),
        },
    };
    let exhausted = match options.exhausted {
        WhenExhausted::Stop => Exhausted::Stop,
        WhenExhausted::Window => Exhausted::Window,
    };
    let drain_ns = options.drain_ms.map(ns);
    let detect = options.detect == YesNo::Yes;
    let mut redundancy = Redundancy {
        kind,
        detect,
        batch: 0,
        counting,
        exhausted,
        drain_ns,
    };
    redundancy.batch = options.batch.unwrap_or(redundancy.default_batch());
    redundancy
        .validate()
        .map_err(anyhow::Error::msg)
        .context("unusable redundancy")?;
    refuse_unwritable(&redundancy)?;
    Ok(redundancy)
}

/// Refuses a limit of 0 from the start with the policy `stop`: no controller could ever write.
fn refuse_unwritable(redundancy: &Redundancy) -> Result<()> {
    let is_unwritable =
        redundancy.healthy_limit() == Some(0) && redundancy.exhausted == Exhausted::Stop;
    if !is_unwritable {
        return Ok(());
    }
    bail!(
        "this redundancy repairs no stray operation that nothing recognises, so with --exhausted \
         stop (the default) the portion could never be written: say --detect yes if a layer above \
         recognises blocks with old content, or --exhausted window to rely on time alone"
    )
}

/// Compares the redundancy with the number of members: the members that repair strays must all lie
/// in this portion, because each portion has its own limit, and the strays of two portions add up.
pub fn compare(kind: RedundancyKind, members: u8) -> Result<()> {
    let (needed, what) = match kind {
        RedundancyKind::Parity(parity) => (parity.saturating_add(1), format!("parity:{parity}")),
        RedundancyKind::Mirror(copies) => (copies, format!("mirror:{copies}")),
        RedundancyKind::External => return Ok(()),
    };
    if members < needed {
        bail!(
            "--redundancy {what} needs at least {needed} members, and this portion has {members}: \
             if the array has members in other portions, the limits of all of them add up \
             (--force=redundancy goes on)"
        );
    }
    Ok(())
}

/// Explains a portion: its timings, its limit, its throughput ceiling, and notes.
pub fn explain(portion: &Superblock, out: &mut impl Write) -> io::Result<()> {
    explain_timing(portion, out)?;
    explain_limit(&portion.redundancy, out)?;
    for warning in warnings(portion) {
        writeln!(out, "note: {warning}")?;
    }
    Ok(())
}

fn explain_timing(portion: &Superblock, out: &mut impl Write) -> io::Result<()> {
    let timing = &portion.timing;
    writeln!(
        out,
        "controllers: {}; home: {}",
        controllers(portion.controllers),
        portion.home
    )?;
    writeln!(
        out,
        "lease: {}, at least {} for heartbeats every {} of which {} in a row may be lost",
        ms(timing.lease_ns),
        ms(timing.needed_lease_ns(timing.period_max_ns)),
        ms(timing.period_max_ns),
        timing.lost_heartbeats,
    )?;
    writeln!(
        out,
        "window: {}, at least {} for the lease and a device delay of {} at {} ppm clock drift",
        ms(timing.window_ns),
        ms(timing.needed_window_ns()),
        ms(timing.device_delay_ns),
        timing.drift_ppm,
    )?;
    writeln!(
        out,
        "takeover: another controller writes about {} after the owner's last heartbeat, if \
         mailboxes take {} to write and {} to read",
        ms(takeover_ns(timing)),
        ms(timing.write_ns),
        ms(timing.read_ns),
    )
}

/// How long after the owner's last heartbeat another controller writes.
pub fn takeover_ns(timing: &Timing) -> u64 {
    // The silence is noticed within a period. Then come four ballot writes with two reads, and two
    // heartbeats.
    let rounds_ns = timing
        .write_ns
        .saturating_mul(6)
        .saturating_add(timing.read_ns.saturating_mul(4));
    timing
        .window_ns
        .saturating_add(timing.period_max_ns)
        .saturating_add(rounds_ns)
}

fn explain_limit(redundancy: &Redundancy, out: &mut impl Write) -> io::Result<()> {
    let Some(failures) = redundancy.kind.failures() else {
        writeln!(
            out,
            "redundancy: external: nothing repairs a stray operation"
        )?;
        return writeln!(out, "limit: none; the throughput is not limited");
    };
    let (what, count) = match redundancy.kind {
        RedundancyKind::Parity(parity) => ("parity", parity),
        RedundancyKind::Mirror(copies) => ("mirror", copies),
        RedundancyKind::External => ("external", 0),
    };
    let healthy = redundancy.healthy_limit().unwrap_or(0);
    let formula = if redundancy.detect {
        format!("recognised as old, they cost one each: M = {failures}")
    } else {
        format!("not recognised as old, they cost two each: M = floor({failures} / 2) = {healthy}")
    };
    writeln!(
        out,
        "redundancy: {what} {count} survives {failures} failure{}; stray operations, {formula}",
        if failures == 1 { "" } else { "s" },
    )?;
    if healthy == 0 {
        return match redundancy.exhausted {
            Exhausted::Stop => writeln!(out, "limit: 0; every state-changing operation is held"),
            Exhausted::Window => writeln!(out, "limit: none can be kept; time alone protects"),
        };
    }
    let batch = u64::from(redundancy.batch);
    let unit = match redundancy.counting {
        Counting::Ops => String::from("state-changing operations open at once"),
        Counting::Stripe { chunk_sectors } => {
            format!(
                "members with open operations in one stripe row of {} KiB",
                chunk_sectors / 2
            )
        }
    };
    writeln!(out, "limit: {batch} {unit} (M allows {healthy})")?;
    let per = match redundancy.counting {
        Counting::Ops => "",
        Counting::Stripe { .. } => " in each stripe row",
    };
    writeln!(
        out,
        "throughput ceiling: {batch} / latency{per}: {} operations per second at 0.1 ms, {} at \
         1 ms, {} at 10 ms; larger operations raise the bandwidth",
        batch * 10_000,
        batch * 1000,
        batch * 100,
    )
}

/// Notes for the operator who formats the portion.
fn warnings(portion: &Superblock) -> Vec<String> {
    let mut notes = Vec::new();
    let timing = &portion.timing;
    let delay = ms(timing.device_delay_ns);
    let redundancy = &portion.redundancy;
    let batch = Limit::Count(redundancy.batch);
    match (redundancy.healthy_limit(), redundancy.exhausted) {
        (None, _) => notes.push(format!(
            "only the window protects: an operation that is held for more than {delay} below a \
             stalled controller can overwrite what its successor wrote"
        )),
        (Some(0), Exhausted::Stop) => notes.push(String::from(
            "this portion can be written only while an operator accepts the risk (message \
             accept_risk)",
        )),
        (Some(0), Exhausted::Window) => notes.push(format!(
            "this redundancy repairs no unrecognised stray: only the window protects, as far as \
             commands take at most {delay}"
        )),
        (Some(_), exhausted) => {
            notes.push(format!(
                "operations held for more than {delay} are covered by the limit alone, as long as \
                 strays are repaired before more members fail"
            ));
            if redundancy.limit(0, batch.charge(), None) != batch {
                notes.push(format!(
                    "after an unclean takeover the old owner is charged {batch}: until it is \
                     drained and repaired, {}",
                    exhausted_text(redundancy.limit(0, batch.charge(), None), exhausted)
                ));
            }
            if redundancy.limit(1, 0, None) != batch {
                notes.push(format!(
                    "while one member is failed or rebuilt (message degraded 1), {}",
                    exhausted_text(redundancy.limit(1, 0, None), exhausted)
                ));
            }
        }
    }
    if let Some(drain_ns) = redundancy.drain_ns {
        notes.push(format!(
            "an old owner counts as drained after {}: that cannot cover an operation that a \
             stalled controller has checked but not yet issued",
            ms(drain_ns)
        ));
    }
    match portion.members {
        1 => notes.push(String::from("with one member, its loss ends every lease")),
        2 => notes.push(String::from(
            "with two members a majority is both: the loss of one ends every lease",
        )),
        members => notes.push(format!(
            "a majority is {} of {members} members: the loss of {} changes nothing",
            majority(members),
            members - majority(members),
        )),
    }
    notes
}

fn exhausted_text(limit: Limit, exhausted: Exhausted) -> String {
    match (limit, exhausted) {
        (Limit::Count(0), _) => String::from("state-changing operations are held"),
        (Limit::Window, _) => String::from("state-changing operations go on under time alone"),
        (limit, _) => format!("the limit is {limit}"),
    }
}
