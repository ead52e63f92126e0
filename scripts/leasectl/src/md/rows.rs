// SPDX-License-Identifier: GPL-2.0
//! Finds the stray in each row of an md array by its content alone, and repairs it.
//!
//! md's own `check` counts inconsistent rows, and its `repair` makes them consistent by computing
//! parity from the stored data: a stray among the data becomes permanent. This code first finds the
//! shard that does not fit the others. That needs all members, and at most as many strays in a row
//! as half its redundancy (`floor(m / 2)`): one in RAID-6, one of three copies. If a layer above
//! knows which blocks are old and names them, redundancy repairs twice as many.
//!
//! | level | without names | blocks named (`--old`) |
//! |---|---|---|
//! | 1 | the majority of the copies | - (the layer above must read every copy) |
//! | 5 | - | one data block from parity; if none is old, parity from the data |
//! | 6 | one shard from P and Q | two data blocks from P and Q; if none is old, P and Q |
//!
//! If one block of a RAID-6 row is named and a parity shard is a stray, too, the two parities give
//! different contents for the block, and only the layer above can recognise the right one. `--by`
//! uses one parity and does not change either, so that the other one can be tried afterwards.
//!
//! A row is judged as a whole, because the limit bounds the *members* of a row that carry strays.

use crate::cli;
use crate::md::array::{Array, Geometry};
use crate::md::gf::{Differences, Located, Shard};
use crate::md::suspects::Rows;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::block::{Block, BLOCK_SECTORS, BLOCK_SIZE, SECTOR_SIZE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::ExitCode;

/// One chunk of every member, in the order of their roles.
type Chunks = Vec<Vec<u8>>;

/// The knowledge of a layer above.
struct Known {
    /// The data blocks that are old: row, data shard, block in the chunk.
    old: BTreeSet<(u64, usize, usize)>,
    /// The parity to use if the two disagree.
    by: Option<cli::Parity>,
}

impl Known {
    fn shards(&self, row: u64, block: usize, data: usize) -> Vec<usize> {
        let is_old = |shard: &usize| self.old.contains(&(row, *shard, block));
        (0..data).filter(is_old).collect()
    }
}

/// A block with wrong content.
struct Stale {
    role: usize,
    /// The number of the 4 KiB block in the chunk.
    block: usize,
    right: Vec<u8>,
}

/// The result for an inconsistent row.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The stale members are known.
    Located,
    /// The stale members are known and have been rewritten.
    Repaired,
    /// More members are wrong than their content can show.
    Undecided,
}

#[derive(Serialize)]
struct RowJson {
    row: u64,
    array_start_sectors: u64,
    outcome: Outcome,
    /// The members whose shard does not fit the others.
    stale: Vec<StaleJson>,
}

#[derive(Serialize)]
struct StaleJson {
    role: usize,
    device: String,
    shard: String,
    blocks: usize,
}

/// The results of all rows that were read.
#[derive(Serialize)]
struct Report {
    level: i32,
    checked: u64,
    consistent: u64,
    rows: Vec<RowJson>,
}

/// The part of the output of `suspects --json` that is needed here.
#[derive(Deserialize)]
struct Within {
    suspects: Vec<Rows>,
}

/// `leasectl rows`
pub fn run(options: &cli::Rows, out: &mut impl Write) -> Result<ExitCode> {
    let array = Array::open(&options.devices, options.repair)?;
    let geometry = &array.geometry;
    let known = match &options.old {
        Some(sectors) if geometry.level == 1 && !sectors.0.is_empty() => {
            bail!("a block of a mirror does not say which copy is old: read every copy")
        }
        Some(sectors) => Some(Known {
            old: blocks(geometry, &sectors.0)?,
            by: options.by,
        }),
        None => None,
    };
    let mut report = Report {
        level: geometry.level,
        checked: 0,
        consistent: 0,
        rows: Vec::new(),
    };
    for rows in within(options, geometry)? {
        for row in rows.first..rows.first.saturating_add(rows.count).min(geometry.rows) {
            report.checked += 1;
            match judge(&array, row, known.as_ref(), options.repair)? {
                Some(found) => report.rows.push(found),
                None => report.consistent += 1,
            }
        }
    }
    if options.repair {
        for component in &array.components {
            component.device.flush()?;
        }
    }
    print(options.json, &report, out)?;
    let is_done = report
        .rows
        .iter()
        .all(|row| row.outcome == Outcome::Repaired);
    Ok(match is_done {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The rows to check: those of a list, or all.
fn within(options: &cli::Rows, geometry: &Geometry) -> Result<Vec<Rows>> {
    let Some(path) = &options.within else {
        return Ok(vec![Rows {
            first: 0,
            count: geometry.rows,
        }]);
    };
    let shown = path.display();
    let text = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let within: Within = serde_json::from_slice(&text)
        .with_context(|| format!("{shown} is not an output of leasectl suspects --json"))?;
    Ok(within.suspects)
}

/// The data blocks that the layer above calls old: row, data shard, block in the chunk.
fn blocks(geometry: &Geometry, sectors: &[u64]) -> Result<BTreeSet<(u64, usize, usize)>> {
    let mut blocks = BTreeSet::new();
    for &sector in sectors {
        let (row, shard, within) = geometry.place(sector);
        if row >= geometry.rows {
            bail!("array sector {sector} is behind the end");
        }
        blocks.insert((row, shard, usize::try_from(within / BLOCK_SECTORS)?));
    }
    Ok(blocks)
}

/// Reads a row, judges it, and repairs it on request; `None` for a consistent row.
fn judge(array: &Array, row: u64, known: Option<&Known>, repair: bool) -> Result<Option<RowJson>> {
    let chunks = read(array, row)?;
    let stale = match known {
        Some(known) => by_name(&array.geometry, row, &chunks, known),
        None => by_content(&array.geometry, row, &chunks),
    };
    let (outcome, stale) = match stale {
        Some(stale) if stale.is_empty() => return Ok(None),
        Some(stale) if repair => {
            rewrite(array, row, &stale)?;
            (Outcome::Repaired, stale)
        }
        Some(stale) => (Outcome::Located, stale),
        None => (Outcome::Undecided, Vec::new()),
    };
    Ok(Some(describe(array, row, outcome, &stale)))
}

fn read(array: &Array, row: u64) -> Result<Chunks> {
    let sectors = array.geometry.member_sectors(row);
    let length = usize::try_from((sectors.end - sectors.start) * SECTOR_SIZE)?;
    let read = |component: &crate::md::array::Component| {
        let offset = component.offset(sectors.start);
        component.device.read_blocks(offset, length)
    };
    array.components.iter().map(read).collect()
}

/// Rewrites stale blocks and reads them back.
fn rewrite(array: &Array, row: u64, stale: &[Stale]) -> Result<()> {
    let start = array.geometry.member_sectors(row).start;
    for stale in stale {
        let component = array.components.get(stale.role).context("no such member")?;
        let sector = start + stale.block as u64 * BLOCK_SECTORS;
        let right: &Block = stale.right.as_slice().try_into()?;
        let offset = component.offset(sector);
        component.device.write_block(offset, right)?;
        if component.device.read_block(offset)? != *right {
            bail!(
                "{} does not keep what is written",
                component.device.path.display()
            );
        }
    }
    Ok(())
}

/// The blocks that do not fit the others; `None` if the content does not show which.
fn by_content(geometry: &Geometry, row: u64, chunks: &Chunks) -> Option<Vec<Stale>> {
    let mut stale = Vec::new();
    for block in 0..block_count(chunks) {
        let view = View::new(geometry, row, chunks, block);
        stale.extend(match geometry.level {
            1 => view.majority()?,
            5 => view.parity_holds().then(Vec::new)?,
            _ => view.located()?,
        });
    }
    let members: BTreeSet<usize> = stale.iter().map(|stale| stale.role).collect();
    let survived = geometry.devices - geometry.data();
    (members.len() <= survived / 2).then_some(stale)
}

/// The blocks that do not fit the right data. The layer above guarantees all data but the old
/// blocks.
fn by_name(geometry: &Geometry, row: u64, chunks: &Chunks, known: &Known) -> Option<Vec<Stale>> {
    if geometry.level == 1 {
        return by_content(geometry, row, chunks);
    }
    let mut stale = Vec::new();
    for block in 0..block_count(chunks) {
        let old = known.shards(row, block, geometry.data());
        let view = View::new(geometry, row, chunks, block);
        stale.extend(view.rebuilt(&old, known.by)?);
    }
    Some(stale)
}

fn block_count(chunks: &Chunks) -> usize {
    chunks.first().map_or(0, |chunk| chunk.len() / BLOCK_SIZE)
}

/// One block of every member of a row.
struct View<'a> {
    geometry: &'a Geometry,
    row: u64,
    block: usize,
    shards: Vec<&'a [u8]>,
}

impl<'a> View<'a> {
    fn new(geometry: &'a Geometry, row: u64, chunks: &'a Chunks, block: usize) -> View<'a> {
        let cut = |chunk: &'a Vec<u8>| {
            let start = block * BLOCK_SIZE;
            chunk.get(start..start + BLOCK_SIZE).unwrap_or_default()
        };
        View {
            geometry,
            row,
            block,
            shards: chunks.iter().map(cut).collect(),
        }
    }

    fn role(&self, shard: Shard) -> Option<usize> {
        (0..self.geometry.devices).find(|&role| self.geometry.shard(self.row, role) == shard)
    }

    fn shard(&self, shard: Shard) -> Option<&'a [u8]> {
        self.shards.get(self.role(shard)?).copied()
    }

    fn stale(&self, shard: Shard, right: Vec<u8>) -> Option<Stale> {
        Some(Stale {
            role: self.role(shard)?,
            block: self.block,
            right,
        })
    }

    /// The copies that differ from the content of more than half of them.
    fn majority(&self) -> Option<Vec<Stale>> {
        let votes = |copy: &&[u8]| self.shards.iter().filter(|other| *other == copy).count();
        let right = self
            .shards
            .iter()
            .find(|copy| votes(copy) * 2 > self.shards.len())?;
        let wrong = self
            .shards
            .iter()
            .enumerate()
            .filter(|(_, copy)| *copy != right);
        let stale = wrong.map(|(role, _)| Stale {
            role,
            block: self.block,
            right: right.to_vec(),
        });
        Some(stale.collect())
    }

    /// The sum of all data, which equals P if nothing is wrong.
    fn sum(&self) -> Option<Vec<u8>> {
        let mut sum = vec![0; BLOCK_SIZE];
        for number in 0..self.geometry.data() {
            let shard = self.shard(Shard::Data(number))?;
            sum.iter_mut()
                .zip(shard)
                .for_each(|(sum, byte)| *sum ^= byte);
        }
        Some(sum)
    }

    fn parity_holds(&self) -> bool {
        self.sum().as_deref() == self.shard(Shard::P)
    }

    fn differences(&self) -> Option<Differences> {
        let data: Option<Vec<&[u8]>> = (0..self.geometry.data())
            .map(|number| self.shard(Shard::Data(number)))
            .collect();
        Some(Differences::new(
            &data?,
            self.shard(Shard::P)?,
            self.shard(Shard::Q)?,
        ))
    }

    /// The one shard that is wrong according to P and Q.
    fn located(&self) -> Option<Vec<Stale>> {
        let differences = self.differences()?;
        match differences.locate(self.geometry.data()) {
            Located::Consistent => Some(Vec::new()),
            Located::Wrong(shard) => {
                let right = differences.corrected(shard, self.shard(shard)?);
                Some(vec![self.stale(shard, right)?])
            }
            Located::Several => None,
        }
    }

    /// The shards to rewrite if all data but the old shards is right.
    fn rebuilt(&self, old: &[usize], by: Option<cli::Parity>) -> Option<Vec<Stale>> {
        match (self.geometry.level, old) {
            (5, []) if self.parity_holds() => Some(Vec::new()),
            (5, []) => Some(vec![self.stale(Shard::P, self.sum()?)?]),
            (5, &[one]) => {
                let (data, p) = (self.shard(Shard::Data(one))?, self.shard(Shard::P)?);
                let sum = self.sum()?;
                let right = data
                    .iter()
                    .zip(p)
                    .zip(&sum)
                    .map(|((data, p), sum)| data ^ p ^ sum);
                self.changed(Shard::Data(one), right.collect())
            }
            (6, []) => self.parity_rebuilt(),
            (6, &[one]) => {
                let differences = self.differences()?;
                let stored = self.shard(Shard::Data(one))?;
                let right = match by {
                    _ if differences.agree_on(one) => {
                        differences.corrected(Shard::Data(one), stored)
                    }
                    Some(cli::Parity::P) => differences.corrected(Shard::Data(one), stored),
                    Some(cli::Parity::Q) => differences.corrected_by_q(one, stored),
                    None => return None,
                };
                self.changed(Shard::Data(one), right)
            }
            (6, &[first, second]) => {
                let (by_first, by_second) = self.differences()?.solve(first, second);
                let mut stale = Vec::new();
                for (number, by) in [(first, by_first), (second, by_second)] {
                    let data = self.shard(Shard::Data(number))?;
                    let right = data.iter().zip(by).map(|(byte, by)| byte ^ by).collect();
                    stale.extend(self.changed(Shard::Data(number), right)?);
                }
                Some(stale)
            }
            _ => None,
        }
    }

    fn parity_rebuilt(&self) -> Option<Vec<Stale>> {
        let differences = self.differences()?;
        let mut stale = Vec::new();
        for shard in [Shard::P, Shard::Q] {
            let right = differences.corrected(shard, self.shard(shard)?);
            stale.extend(self.changed(shard, right)?);
        }
        Some(stale)
    }

    /// The right content of a shard, if it has another one.
    fn changed(&self, shard: Shard, right: Vec<u8>) -> Option<Vec<Stale>> {
        match self.shard(shard)? == right {
            true => Some(Vec::new()),
            false => Some(vec![self.stale(shard, right)?]),
        }
    }
}

fn describe(array: &Array, row: u64, outcome: Outcome, stale: &[Stale]) -> RowJson {
    let roles: BTreeSet<usize> = stale.iter().map(|stale| stale.role).collect();
    let stale = roles.into_iter().map(|role| StaleJson {
        role,
        device: array
            .components
            .get(role)
            .map_or_else(String::new, |it| it.device.path.display().to_string()),
        shard: match (array.geometry.level, array.geometry.shard(row, role)) {
            (1, _) => format!("copy {role}"),
            (_, Shard::Data(number)) => format!("data {number}"),
            (_, Shard::P) => String::from("parity P"),
            (_, Shard::Q) => String::from("parity Q"),
        },
        blocks: stale.iter().filter(|stale| stale.role == role).count(),
    });
    RowJson {
        row,
        array_start_sectors: array.geometry.array_sectors(row).start,
        outcome,
        stale: stale.collect(),
    }
}

fn print(json: bool, report: &Report, out: &mut impl Write) -> Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
        return Ok(());
    }
    for row in &report.rows {
        let place = format!("row {} (array sector {})", row.row, row.array_start_sectors);
        if row.outcome == Outcome::Undecided {
            writeln!(
                out,
                "{place}: undecided: its content does not say which member is stale"
            )?;
        }
        for stale in &row.stale {
            writeln!(
                out,
                "{place}: {} on {}: {} block{} of 4 KiB {}",
                stale.shard,
                stale.device,
                stale.blocks,
                if stale.blocks == 1 { "" } else { "s" },
                if row.outcome == Outcome::Repaired {
                    "repaired"
                } else {
                    "stale"
                },
            )?;
        }
    }
    let count = |outcome| {
        report
            .rows
            .iter()
            .filter(|row| row.outcome == outcome)
            .count()
    };
    writeln!(
        out,
        "{} rows checked: {} consistent, {} stale, {} repaired, {} undecided",
        report.checked,
        report.consistent,
        count(Outcome::Located),
        count(Outcome::Repaired),
        count(Outcome::Undecided),
    )?;
    Ok(())
}
