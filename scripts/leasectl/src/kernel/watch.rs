// SPDX-License-Identifier: GPL-2.0
//! Shows the state of all portions of this host again and again.
//!
//! Each portion has a line: role, owner, time left as a bar, counters. The status line does not
//! contain the lease time, and members are not read. So the bar is scaled to the longest time left
//! that was seen, which is the lease time less a heartbeat period.
//!
//! On a terminal the view is redrawn in place; otherwise each view is appended.

use crate::cli::Watch;
use crate::kernel::status::{dmsetup, parse, Line};
use anyhow::Result;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

/// Columns of the bar.
const BAR: usize = 20;

/// The longest time left that was seen of each portion.
#[derive(Default)]
struct Scale(BTreeMap<String, u64>);

/// `leasectl watch`
pub fn run(options: &Watch, out: &mut impl Write) -> Result<()> {
    let mut scale = Scale::default();
    let redraw = io::stdout().is_terminal();
    let mut looks = 0;
    loop {
        let text = dmsetup()?;
        let view = view(&parse(&text)?, &mut scale);
        if redraw {
            // Cursor home, then clear to the end. Each line is written once, so nothing flickers.
            write!(out, "\x1b[H\x1b[J")?;
        }
        writeln!(out, "{view}")?;
        out.flush()?;
        looks += 1;
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        // The time left decreases without an event.
        thread::sleep(Duration::from_millis(options.interval_ms));
    }
}

/// One line for each portion, from its first device. A device with another role or epoch gets a
/// line of its own.
fn view(lines: &[Line<'_>], scale: &mut Scale) -> String {
    if lines.is_empty() {
        return String::from("no device of the target lease");
    }
    let mut shown: Vec<&Line<'_>> = Vec::new();
    let mut view = Vec::new();
    for line in lines {
        let same = |other: &&Line<'_>| {
            let (a, b) = (&other.status, &line.status);
            a.portion == b.portion && a.role == b.role && a.epoch == b.epoch
        };
        if shown.iter().any(same) {
            continue;
        }
        shown.push(line);
        let devices = lines.iter().filter(|other| same(other)).count();
        view.push(portion(line, devices, scale));
    }
    view.join("\n")
}

fn portion(line: &Line<'_>, devices: usize, scale: &mut Scale) -> String {
    let status = &line.status;
    let owner = status
        .owner
        .map_or(String::from("-"), |owner| owner.to_string());
    let epoch = status
        .epoch
        .map_or(String::from("-"), |epoch| epoch.to_string());
    format!(
        "{:16} {:9} epoch {epoch:>6} owner {owner:>2} {} open {}/{} pending {} refused {} late {} \
         members {}/{} devices {devices} {}",
        status.portion,
        status.role.token(),
        bar(status.portion, status.lease_ms_left, scale),
        status.open,
        status.limit,
        status.pending,
        status.refused,
        status.late,
        status.members_ok,
        status.members,
        status.reason,
    )
}

fn bar(portion: &str, left_ms: Option<u64>, scale: &mut Scale) -> String {
    let left_ms = left_ms.unwrap_or(0);
    let longest = scale.0.entry(portion.to_owned()).or_insert(0);
    *longest = left_ms.max(*longest);
    let filled = match *longest {
        0 => 0,
        longest => {
            let columns = left_ms.saturating_mul(BAR as u64) / longest;
            usize::try_from(columns).unwrap_or(BAR).min(BAR)
        }
    };
    format!(
        "[{}{}] {left_ms:>6} ms",
        "#".repeat(filled),
        ".".repeat(BAR - filled)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_the_bar_runs_down_from_the_longest_time_seen() {
        let mut scale = Scale::default();
        assert_eq!(
            bar("p", None, &mut scale),
            "[....................]      0 ms"
        );
        assert_eq!(
            bar("p", Some(1000), &mut scale),
            "[####################]   1000 ms"
        );
        assert_eq!(
            bar("p", Some(500), &mut scale),
            "[##########..........]    500 ms"
        );
        assert_eq!(
            bar("q", Some(500), &mut scale),
            "[####################]    500 ms"
        );
        assert_eq!(bar("p", Some(u64::MAX), &mut scale).len(), 20 + 3 + 20 + 3);
    }

    #[test]
    fn r47_devices_of_one_portion_share_a_line() {
        let text = "a: 0 8 lease v 0/2 owner 7 1 400 9 1/2 3 4 5 2 -\n\
                    b: 0 8 lease v 1/2 owner 7 1 400 9 1/2 3 4 5 2 -\n\
                    c: 0 8 lease w 0/1 secondary 7 2 - - 0/0 0 0 0 1 claim_seen\n";
        let view = view(&parse(text).unwrap(), &mut Scale::default());
        let lines: Vec<&str> = view.lines().collect();
        assert_eq!(lines.len(), 2, "{view}");
        assert!(lines[0].contains("devices 2") && lines[0].contains("open 1/2 pending 3"));
        assert!(lines[1].starts_with("w ") && lines[1].ends_with("claim_seen"));
    }
}
