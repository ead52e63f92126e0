// SPDX-License-Identifier: GPL-2.0
//! The table line of a member for a controller, as `dmsetup create` reads it.

use crate::cli::{FailWith as FailWithWord, Table};
use crate::disk::device::Device;
use crate::disk::member::first_superblock;
use crate::text;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::codec::superblock::Superblock;
use dm_lease_proto::proto::limit::Limit;
use dm_lease_proto::proto::words::table::{
    Claim, FailWith, FeatureArgs, OnFull, Surroundings, TableLine,
};
use std::io::Write;
use std::path::Path;

/// `leasectl table`
pub fn run(options: &Table, out: &mut impl Write) -> Result<()> {
    let superblock = first_superblock(&Device::observe(&options.device)?)?;
    let line = line(
        &options.device,
        &superblock,
        options.controller,
        features(options),
    )?;
    writeln!(out, "{line}")?;
    Ok(())
}

/// The line for a member. Everything that the module would refuse is refused here.
pub fn line(
    device: &Path,
    superblock: &Superblock,
    controller: Slot,
    features: FeatureArgs,
) -> Result<String> {
    let line = TableLine {
        device: device.to_str().context("the path is not text")?,
        controller,
        features,
    };
    let length = superblock.data_length_sectors;
    let limit = match superblock.redundancy.limit(0, 0, None) {
        Limit::Count(limit) => Some(limit),
        Limit::Unlimited | Limit::Window => None,
    };
    let surroundings = Surroundings {
        data_sectors: length,
        limit,
        controllers: superblock.controllers,
    };
    line.check(0, length, &surroundings)
        .map_err(anyhow::Error::msg)?;
    if let Some(period_ms) = features.heartbeat_ms {
        if !superblock.timing.period_fits(text::ns(period_ms.into())) {
            bail!(
                "a heartbeat every {period_ms} ms does not fit the portion's timings: at most {}",
                text::ms(superblock.timing.period_max_ns)
            );
        }
    }
    let line = format!("0 {length} lease {line}");
    // The module must be able to parse the line. A path with blanks breaks it.
    let mut words = line.split_ascii_whitespace().skip(3).map(str::as_bytes);
    if TableLine::parse(&mut words).is_err() {
        bail!("{}: a table line cannot hold this path", device.display());
    }
    Ok(line)
}

fn features(options: &Table) -> FeatureArgs {
    FeatureArgs {
        heartbeat_ms: options.heartbeat_ms,
        claim: match options.claim_manual {
            true => Claim::Manual,
            false => Claim::Auto,
        },
        batch: options.batch,
        on_full: match options.on_full_fail {
            true => OnFull::Fail,
            false => OnFull::Hold,
        },
        fail_with: match options.fail_with {
            FailWithWord::ResvConflict => FailWith::ResvConflict,
            FailWithWord::Ioerr => FailWith::IoErr,
            FailWithWord::Medium => FailWith::Medium,
        },
        lapse_hold_ms: options.lapse_hold_ms,
        stateless: options.stateless,
    }
}
