// SPDX-License-Identifier: GPL-2.0
//! The state of all portions of this host, from `dmsetup status --target lease`.

use crate::cli::{Owns, Status as Options};
use crate::kernel::mapped;
use anyhow::{Context, Result};
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::words::status::{Charged, Status};
use serde::Serialize;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// One mapped device of the target.
pub struct Line<'a> {
    /// The mapped device.
    pub device: &'a str,
    /// The status of the target.
    pub status: Status<'a>,
}

/// `leasectl status`
pub fn run(options: &Options, out: &mut impl Write) -> Result<()> {
    let text = match &options.input {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            text
        }
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => dmsetup()?,
    };
    let lines = parse(&text)?;
    if options.json {
        let described: Vec<LineJson> = lines.iter().map(LineJson::new).collect();
        serde_json::to_writer_pretty(&mut *out, &described)?;
        writeln!(out)?;
        return Ok(());
    }
    if lines.is_empty() {
        writeln!(out, "no device of the target lease")?;
        return Ok(());
    }
    table(&rows(&lines), out)
}

/// The mapped devices of a portion on this host.
pub fn devices_of(portion: &str) -> Result<Vec<String>> {
    let text = dmsetup()?;
    let lines = parse(&text)?;
    let of_portion = lines.iter().filter(|line| line.status.portion == portion);
    Ok(of_portion.map(|line| line.device.to_owned()).collect())
}

/// The exit status of `leasectl owns` if the state is unknown.
const CANNOT_TELL: u8 = 3;

/// `leasectl owns`: this host owns the portion if any of its controllers does.
pub fn owns(options: &Owns, out: &mut impl Write) -> Result<ExitCode> {
    let word = match role_word(options.portion.as_str()) {
        Ok((word, true)) => {
            writeln!(out, "{word}")?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok((word, false)) => word,
        Err(error) => {
            let _ = writeln!(io::stderr(), "leasectl: cannot tell: {error:#}");
            return Ok(ExitCode::from(CANNOT_TELL));
        }
    };
    writeln!(out, "{word}")?;
    Ok(ExitCode::FAILURE)
}

/// The role of this host for a portion, and whether it owns the portion with a valid lease.
fn role_word(portion: &str) -> Result<(String, bool)> {
    let text = dmsetup()?;
    let lines = parse(&text)?;
    let of_portion = || lines.iter().filter(|line| line.status.portion == portion);
    let owner = |line: &&Line<'_>| line.status.role.owns() && line.status.lease_ms_left.is_some();
    if let Some(line) = of_portion().find(owner) {
        return Ok((line.status.role.to_string(), true));
    }
    let word = match of_portion().next() {
        Some(line) if line.status.role.owns() => String::from("lapsed"),
        Some(line) => line.status.role.to_string(),
        None => String::from("unmapped"),
    };
    Ok((word, false))
}

/// Runs `dmsetup status --target lease`.
pub fn dmsetup() -> Result<String> {
    mapped::dmsetup(&["status", "--target", "lease"])
}

/// Reads the output of `dmsetup status`: `<device>: <start> <length> lease <fields>`. Lines of
/// other targets are skipped.
///
/// # Errors
///
/// A line that `dmsetup status` never prints, or a status that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Line<'_>>> {
    let mut lines = Vec::new();
    for text in text.lines() {
        if text.trim().is_empty() || text == "No devices found" {
            continue;
        }
        let (device, rest) = device_and_rest(text)
            .with_context(|| format!("{text:?} is no line of dmsetup status"))?;
        let mut words = rest.trim_start().splitn(4, ' ');
        let (_start, _length, target) = (words.next(), words.next(), words.next());
        if target != Some("lease") {
            continue;
        }
        let status = Status::parse(words.next().unwrap_or(""));
        let status = status.map_err(|error| anyhow::anyhow!("{device}: {error}"))?;
        lines.push(Line { device, status });
    }
    Ok(lines)
}

/// Splits a line behind the device's name. The name may contain a colon, but no blank, because
/// dmsetup mangles blanks. After the name come the first sector and the length of a target, or
/// nothing if the device has no table.
fn device_and_rest(line: &str) -> Option<(&str, &str)> {
    let without_table = || Some((line.trim_end().strip_suffix(':')?, ""));
    let (device, rest) = line.split_once(": ").or_else(without_table)?;
    let mut words = rest.split_ascii_whitespace();
    let is_number = |word: &str| word.parse::<u64>().is_ok();
    let is_table = words.next().is_none_or(is_number) && words.next().is_none_or(is_number);
    is_table.then_some((device, rest))
}

const HEADINGS: [&str; 13] = [
    "DEVICE", "PORTION", "MEMBER", "ROLE", "EPOCH", "OWNER", "LEFT/MS", "OPEN", "CHARGED",
    "PENDING", "REFUSED", "LATE", "REASON",
];

fn rows(lines: &[Line<'_>]) -> Vec<[String; 13]> {
    let mut rows = vec![HEADINGS.map(String::from)];
    for Line { device, status } in lines {
        rows.push([
            device.to_string(),
            status.portion.to_owned(),
            format!(
                "{}/{} ({} ok)",
                status.member, status.members, status.members_ok
            ),
            status.role.to_string(),
            or_dash(status.epoch),
            or_dash(status.owner),
            or_dash(status.lease_ms_left),
            format!("{}/{}", status.open, status.limit),
            Charged(status.charged).to_string(),
            status.pending.to_string(),
            status.refused.to_string(),
            status.late.to_string(),
            status.reason.to_string(),
        ]);
    }
    rows
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::from("-"), |value| value.to_string())
}

/// Prints rows in columns.
fn table<const N: usize>(rows: &[[String; N]], out: &mut impl Write) -> Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct LineJson<'a> {
    device: &'a str,
    portion: &'a str,
    member: u8,
    members: u8,
    role: &'static str,
    epoch: Option<u64>,
    owner: Option<u8>,
    lease_ms_left: Option<u64>,
    heartbeat_seq: Option<u64>,
    open: u32,
    limit: String,
    charged: String,
    peak: u32,
    degraded: u32,
    pending: u64,
    refused: u64,
    late: u64,
    members_ok: u8,
    reason: &'static str,
    reason_text: &'static str,
}

impl<'a> LineJson<'a> {
    fn new(line: &Line<'a>) -> LineJson<'a> {
        let status = &line.status;
        LineJson {
            device: line.device,
            portion: status.portion,
            member: status.member,
            members: status.members,
            role: status.role.token(),
            epoch: status.epoch,
            owner: status.owner.map(Slot::controller),
            lease_ms_left: status.lease_ms_left,
            heartbeat_seq: status.heartbeat_seq,
            open: status.open,
            limit: status.limit.to_string(),
            charged: Charged(status.charged).to_string(),
            peak: status.peak,
            degraded: status.degraded,
            pending: status.pending,
            refused: status.refused,
            late: status.late,
            members_ok: status.members_ok,
            reason: status.reason.token(),
            reason_text: status.reason.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_lease_proto::proto::words::status::Role;

    #[test]
    fn r47_lines_of_dmsetup_are_read() {
        let text = "a:b: 0 81920 lease v 0/3 owner 7 1 412 9 1/2 3 4 5 3 -\n\
                    other: 0 8 linear \n\
                    c: 0 8 lease v 1/3 secondary 7 2 - - 0/unlimited 0 0 0 2 lapse 0 0 0 later\n";
        let lines = parse(text).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].device, lines[0].status.role),
            ("a:b", Role::Owner)
        );
        assert_eq!(
            (lines[1].device, lines[1].status.role),
            ("c", Role::Secondary)
        );
        assert!(parse("No devices found\n").unwrap().is_empty());
    }

    #[test]
    fn r47_a_wrong_line_names_device_and_field() {
        let error = parse("d: 0 8 lease v 0/3 boss").err().unwrap().to_string();
        assert_eq!(error, "d: field role cannot be read in the status line");
        let error = parse("d: 0 8 lease").err().unwrap().to_string();
        assert_eq!(error, "d: field portion is missing from the status line");
    }
}
