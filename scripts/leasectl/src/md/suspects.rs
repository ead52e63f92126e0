// SPDX-License-Identifier: GPL-2.0
//! Lists the rows that may carry strays of an old owner, after a takeover without a clean
//! hand-over.
//!
//! An operation that was open when the old owner stalled may reach the disks at any later time. The
//! new owner does not know which operations were open. But md's bitmap is on the members, and was
//! written before the data, so it shows where the old owner was writing. The last record in the old
//! owner's mailbox, its limit and its charge bound the number of strays.
//!
//! The list must be made before the new owner assembles the array, because md clears the marks
//! then.

use crate::cli::Devices;
use crate::disk::check::highest;
use crate::disk::device::refuse_twice;
use crate::disk::md_layout::MdLayout;
use crate::disk::member::Member;
use crate::md::array::{Component, Geometry};
use crate::md::bitmap::Bitmap;
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::block::SECTOR_SIZE;
use dm_lease_proto::proto::codec::charge_list::Charge;
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::ids::{Decided, Slot};
use dm_lease_proto::proto::limit::Limit;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Consecutive rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The first row.
    pub first: u64,
    /// The number of rows.
    pub count: u64,
}

/// The last record of an old owner.
#[derive(Serialize)]
struct OwnerJson {
    controller: u8,
    role: String,
    epoch: u64,
    owner: bool,
    open: u32,
    limit: Option<String>,
}

#[derive(Serialize)]
struct ChargeJson {
    controller: u8,
    epoch: u64,
    amount: u32,
    drained: bool,
    vouched: bool,
    several: bool,
}

#[derive(Serialize)]
struct RangeJson {
    #[serde(flatten)]
    rows: Rows,
    array_start_sectors: u64,
    array_length_sectors: u64,
}

#[derive(Serialize)]
struct Report {
    portion: String,
    epoch: u64,
    owner: Option<u8>,
    controllers: Vec<OwnerJson>,
    charges: Vec<ChargeJson>,
    level: i32,
    devices: u32,
    row_sectors: u64,
    all_rows: u64,
    /// Whether every row is listed because no bitmap could be read.
    everything: bool,
    notes: Vec<String>,
    suspects: Vec<RangeJson>,
}

/// `leasectl suspects`
pub fn run(options: &Devices, out: &mut impl Write) -> Result<()> {
    refuse_twice(&options.devices)?;
    let mut members = Vec::new();
    for path in &options.devices {
        members.push(Member::read(path)?);
    }
    let report = Report::new(members)?;
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    report.print(out)
}

impl Report {
    fn new(members: Vec<Member>) -> Result<Report> {
        let first = members.first().context("no members given")?;
        let superblock = first.superblock;
        for member in &members {
            if member.superblock.uuid != superblock.uuid {
                bail!("{} is of another portion", member.device.path.display());
            }
        }
        let decided = highest(&members);
        let controllers = Slot::all_in(superblock.controllers);
        let controllers = controllers
            .filter_map(|slot| said(&members, slot))
            .collect();
        let charges = charges(&members, decided);
        let mut notes = Vec::new();
        let components = components(members, &mut notes)?;
        let layout = components.first().context("there is no md array")?.layout;
        let geometry = Geometry::new(&layout)?;
        let marked = marked_rows(&components, &geometry, &mut notes);
        let everything = marked.is_none();
        let all = Rows {
            first: 0,
            count: geometry.rows,
        };
        Ok(Report {
            portion: superblock.name.to_string(),
            epoch: decided.epoch,
            owner: decided.value.map(|value| value.slot.controller()),
            controllers,
            charges,
            level: layout.level,
            devices: layout.devices,
            row_sectors: geometry.chunk_sectors,
            all_rows: geometry.rows,
            everything,
            notes,
            suspects: marked
                .unwrap_or_else(|| vec![all])
                .into_iter()
                .map(|rows| RangeJson::new(rows, &geometry))
                .collect(),
        })
    }

    fn print(&self, out: &mut impl Write) -> Result<()> {
        match self.owner {
            Some(owner) => writeln!(
                out,
                "portion {}: epoch {} of controller {owner}",
                self.portion, self.epoch
            )?,
            None => writeln!(out, "portion {}: never owned", self.portion)?,
        }
        for said in &self.controllers {
            said.print(out)?;
        }
        for charge in &self.charges {
            let drained = match (charge.drained, charge.vouched) {
                (true, false) => "drained",
                (true, true) => "drained as an operator said",
                (false, _) => "not known to be drained",
            };
            let several = if charge.several { " and others" } else { "" };
            writeln!(
                out,
                "charged: epoch {} of controller {}{several} with {}, {drained}",
                charge.epoch,
                charge.controller,
                amount_text(charge.amount),
            )?;
        }
        writeln!(
            out,
            "md level {} over {} members, {} rows of {} KiB on each",
            self.level,
            self.devices,
            self.all_rows,
            self.row_sectors / 2,
        )?;
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        for range in &self.suspects {
            let last = range.rows.first + range.rows.count - 1;
            writeln!(
                out,
                "suspect: rows {}..={last}, array sectors {}..{}",
                range.rows.first,
                range.array_start_sectors,
                range.array_start_sectors + range.array_length_sectors,
            )?;
        }
        let count: u64 = self.suspects.iter().map(|range| range.rows.count).sum();
        writeln!(out, "{count} of {} rows are suspect", self.all_rows)?;
        print_recipe(count, out)
    }
}

/// Instructions for the use of the list. They are printed each time, so that the operator need not
/// look them up.
fn print_recipe(count: u64, out: &mut impl Write) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let recipe = [
        "keep this list (--json): md clears its marks as soon as the array is assembled here",
        "write to these rows again only when the old owner is drained and they are repaired: md \
         computes parity from the stored data, also from a stray",
        "when it is drained: stop the array, leasectl rows --repair --within LIST, assemble",
        "never run md's repair before that: it makes a stray permanent",
    ];
    for line in recipe {
        writeln!(out, "next: {line}")?;
    }
    Ok(())
}

fn amount_text(amount: u32) -> String {
    match amount {
        u32::MAX => String::from("more than any redundancy repairs"),
        amount => amount.to_string(),
    }
}

impl RangeJson {
    fn new(rows: Rows, geometry: &Geometry) -> RangeJson {
        let last = rows.first.saturating_add(rows.count).saturating_sub(1);
        let start = geometry.array_sectors(rows.first).start;
        RangeJson {
            rows,
            array_start_sectors: start,
            array_length_sectors: geometry.array_sectors(last).end.saturating_sub(start),
        }
    }
}

impl OwnerJson {
    fn print(&self, out: &mut impl Write) -> Result<()> {
        let of = if self.owner { "its" } else { "another's" };
        write!(
            out,
            "controller {}: {} in {of} epoch {}, {} open when it last said so",
            self.controller, self.role, self.epoch, self.open
        )?;
        match &self.limit {
            Some(limit) => writeln!(out, ", limit {limit}")?,
            None => writeln!(out)?,
        }
        Ok(())
    }
}

/// The last heartbeat record of a controller, on any member.
fn said(members: &[Member], slot: Slot) -> Option<OwnerJson> {
    let mailboxes = || {
        let all = members.iter().flat_map(Member::used_mailboxes);
        all.filter(|mailbox| mailbox.slot == slot)
    };
    let last: HeartbeatRecord = mailboxes()
        .filter_map(|mailbox| mailbox.heartbeat.reading.valid())
        .max_by_key(|record| (record.dec.epoch, record.hb, record.seq))?;
    let ballot = mailboxes()
        .filter_map(|mailbox| mailbox.ballot.reading.valid())
        .max_by_key(|record| (record.dec.epoch, record.seq));
    Some(OwnerJson {
        controller: slot.controller(),
        role: last.role.to_string(),
        epoch: last.dec.epoch,
        owner: last.dec.value.is_some_and(|value| value.slot == slot),
        open: last.open,
        limit: ballot.map(|record| Limit::from_wire(record.limit).to_string()),
    })
}

/// The charges of the present owner for old ones.
fn charges(members: &[Member], decided: Decided) -> Vec<ChargeJson> {
    let ballots = members.iter().flat_map(Member::used_mailboxes);
    let of_owner =
        ballots.filter(|mailbox| decided.value.is_some_and(|it| it.slot == mailbox.slot));
    let newest = of_owner
        .filter_map(|mailbox| mailbox.ballot.reading.valid())
        .max_by_key(|record| (record.dec.epoch, record.seq));
    let json = |charge: Charge| ChargeJson {
        controller: charge.slot.controller(),
        epoch: charge.epoch,
        amount: charge.amount,
        drained: charge.drained,
        vouched: charge.vouched,
        several: charge.several,
    };
    newest.map_or_else(Vec::new, |record| record.charges.iter().map(json).collect())
}

/// The members of the md array, with a note for each device without an md superblock.
fn components(members: Vec<Member>, notes: &mut Vec<String>) -> Result<Vec<Component>> {
    let mut components: Vec<Component> = Vec::new();
    for member in members {
        let shown = member.device.path.display().to_string();
        let start = member
            .superblock
            .data_offset_sectors
            .saturating_mul(SECTOR_SIZE);
        let Some(layout) = MdLayout::find(&member.device, &member.superblock)? else {
            notes.push(format!("{shown} has no md superblock"));
            continue;
        };
        if components
            .iter()
            .any(|other| other.layout.uuid != layout.uuid)
        {
            bail!("{shown} is a member of another md array than the first device");
        }
        components.push(Component {
            device: member.device,
            start,
            is_raw: true,
            layout,
        });
    }
    Ok(components)
}

/// The rows with a mark on any member; `None` if no member has a valid bitmap.
fn marked_rows(
    components: &[Component],
    geometry: &Geometry,
    notes: &mut Vec<String>,
) -> Option<Vec<Rows>> {
    let newest = components
        .iter()
        .map(|component| component.layout.events)
        .max();
    let mut marked = Vec::new();
    let mut counted = 0;
    for component in components {
        // An older md superblock is itself a stray, or md has dropped this member.
        let bitmap = match Some(component.layout.events) == newest {
            true => Bitmap::read(component),
            false => Err(anyhow::anyhow!(
                "md's superblock is older than those of others"
            )),
        };
        match bitmap {
            Ok(bitmap) => {
                counted += 1;
                let rows = bitmap.marked().filter(|range| !range.is_empty());
                marked.extend(rows.map(|range| {
                    let first = range.start / geometry.chunk_sectors;
                    (first, range.end.div_ceil(geometry.chunk_sectors))
                }));
            }
            Err(error) => {
                notes.push(format!("{}: {error}", component.device.path.display()));
            }
        }
    }
    if counted == 0 {
        notes.push(String::from("no bitmap can be read: every row is suspect"));
        return None;
    }
    Some(merge(marked, geometry.rows))
}

/// Joins ranges that overlap or touch, and cuts them at the last row.
fn merge(mut ranges: Vec<(u64, u64)>, rows: u64) -> Vec<Rows> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, end) in ranges {
        let end = end.min(rows);
        match merged.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ if first < end => merged.push((first, end)),
            _ => {}
        }
    }
    let count = |(first, end): (u64, u64)| Rows {
        first,
        count: end - first,
    };
    merged.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r21_ranges_are_joined_and_cut() {
        let rows = |first, count| Rows { first, count };
        assert_eq!(
            merge(vec![(7, 9), (0, 1), (1, 2), (8, 12)], 10),
            [rows(0, 2), rows(7, 3)]
        );
        assert_eq!(merge(vec![(10, 12)], 10), []);
    }
}
