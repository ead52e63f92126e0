// SPDX-License-Identifier: GPL-2.0
//! Keeps the ANA states of NVMe exports in step with ownership.
//!
//! The namespaces of a portion are in an ANA group of the kernel's NVMe target. The group is
//! `optimized` while this controller owns the portion, and `inaccessible` otherwise, so that
//! clients with native multipath use the path that may write.
//!
//! The order of the steps matters. A client that sees a write fail tries it again: on another path
//! if this one is inaccessible, otherwise on the same path, a few times within milliseconds; then
//! the program gets the error. So the order after a lapse is
//!
//! ```text
//!     lapse --> gate keeps refused writes --> group inaccessible --> message `drop`: they fail
//!               (lapse_hold_ms)                                      and go to the other path
//! ```
//!
//! A lapse shows as a missing lease or as another epoch: the controller may own the portion again
//! before the next reading of its status, and the operations that the gate kept in between must
//! fail, too. `drop` fails the operations that were kept until then. So a group becomes optimized
//! only after three steps: a reading of a lease, `drop`, and a second reading of the same lease. If
//! the lease had ended in between, or while this process was stopped, the second reading would show
//! that.
//!
//! The actions depend only on the status line, and not on actions before a restart. A controller
//! whose status cannot be read counts as no owner.
//!
//! One loop waits for events of device-mapper, reads the status and acts. It also does so every
//! [`LOOK_AGAIN`], for ports that are configured later, because configfs raises no event.

use crate::cli::{Ana, Group};
use crate::kernel::events::Events;
use crate::kernel::mapped;
use crate::kernel::status::{dmsetup, parse, Line};
use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::words::status::Role;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest time between two readings of the status.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The state that clients see for the namespaces of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Optimized,
    Inaccessible,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Optimized => "optimized",
            State::Inaccessible => "inaccessible",
        })
    }
}

/// One reading of the status of a portion.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    device: String,
    /// This controller has a valid lease.
    owns: bool,
    epoch: Option<u64>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Set(State),
    /// Fail the operations that the gate keeps.
    Drop,
}

/// The steps for the reading `now`, in order, after the steps for `before`.
fn steps(before: Option<&Seen>, now: Option<&Seen>) -> &'static [Step] {
    match now {
        None => &[Step::Set(State::Inaccessible)],
        Some(seen) if seen.owns && before == now => &[Step::Set(State::Optimized)],
        Some(_) => &[Step::Set(State::Inaccessible), Step::Drop],
    }
}

/// A portion, and the group of its namespaces.
struct Export {
    group: Group,
    dealt_with: Option<Seen>,
    /// The last error, so that each error is printed once.
    trouble: String,
}

/// `leasectl ana`
pub fn run(options: &Ana, out: &mut impl Write) -> Result<()> {
    let mut exports = exports(&options.groups)?;
    if options.once {
        while look(&mut exports, options, out)? {}
        return Ok(());
    }
    let events = Events::open()?;
    loop {
        events.arm()?;
        match look(&mut exports, options, out) {
            Ok(true) => continue,
            Ok(false) => (),
            Err(error) => {
                let _ = writeln!(io::stderr(), "leasectl: {error:#}");
            }
        }
        events.wait(Some(LOOK_AGAIN))?;
    }
}

fn exports(groups: &[Group]) -> Result<Vec<Export>> {
    for (index, group) in groups.iter().enumerate() {
        let others = groups.get(..index).unwrap_or_default();
        if let Some(other) = others.iter().find(|other| other.number == group.number) {
            bail!(
                "ANA group {} is that of {} and of {}: clients could not tell who owns which",
                group.number,
                other.portion,
                group.portion
            );
        }
    }
    let export = |&group: &Group| Export {
        group,
        dealt_with: None,
        trouble: String::new(),
    };
    Ok(groups.iter().map(export).collect())
}

/// Reads the status of all portions and does their steps. Returns whether another reading is due at
/// once. The errors are those that were not printed yet.
fn look(exports: &mut [Export], options: &Ana, out: &mut impl Write) -> Result<bool> {
    let text = dmsetup();
    let lines = match &text {
        Ok(text) => parse(text).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    let mut news = Vec::new();
    let mut again = false;
    for export in exports {
        let seen = match &lines {
            Ok(lines) => find(lines, &export.group),
            Err(_) => None,
        };
        let done = export.act(seen, &options.nvmet, out);
        let trouble = match (&lines, done) {
            (Err(error), _) => error.clone(),
            (Ok(_), Err(error)) => format!("{error:#}"),
            (Ok(_), Ok(unsettled)) => {
                again |= unsettled;
                String::new()
            }
        };
        if trouble != export.trouble && !trouble.is_empty() && !news.contains(&trouble) {
            news.push(trouble.clone());
        }
        export.trouble = trouble;
    }
    out.flush()?;
    match news.is_empty() {
        true => Ok(again),
        false => bail!("{}", news.join("; ")),
    }
}

/// The reading of a portion, from its first device; all its devices agree.
fn find(lines: &[Line<'_>], group: &Group) -> Option<Seen> {
    let portion = group.portion.as_str();
    let line = lines.iter().find(|line| line.status.portion == portion)?;
    Some(Seen {
        device: line.device.to_owned(),
        owns: line.status.role == Role::Owner && line.status.lease_ms_left.is_some(),
        epoch: line.status.epoch,
    })
}

impl Export {
    /// Does the steps for a reading. Returns whether the controller owns the portion and its
    /// clients do not see that yet. After an error all steps are repeated next time.
    fn act(&mut self, now: Option<Seen>, nvmet: &Path, out: &mut impl Write) -> Result<bool> {
        let before = self.dealt_with.take();
        let unsettled = before != now && now.as_ref().is_some_and(|seen| seen.owns);
        for step in steps(before.as_ref(), now.as_ref()) {
            match step {
                Step::Set(state) => self.set(*state, nvmet, out)?,
                Step::Drop => {
                    if let Some(seen) = &now {
                        drop_kept(&seen.device)?;
                    }
                }
            }
        }
        self.dealt_with = now;
        Ok(unsettled)
    }

    /// Sets the state of the group on every port that has it. Each write informs every client.
    fn set(&self, state: State, nvmet: &Path, out: &mut impl Write) -> Result<()> {
        let Group { portion, number } = &self.group;
        let mut ports = Vec::new();
        for (port, file) in group_files(nvmet, *number)? {
            let shown = file.display();
            let is = fs::read_to_string(&file).with_context(|| format!("cannot read {shown}"))?;
            if is.trim() != state.to_string() {
                fs::write(&file, format!("{state}\n"))
                    .with_context(|| format!("cannot write {shown}"))?;
                ports.push(port);
            }
        }
        if !ports.is_empty() {
            let ports = ports.join(",");
            writeln!(out, "{portion}: group {number} {state} on port {ports}")?;
        }
        Ok(())
    }
}

/// The ports that have a group, and the file with its state on each port.
fn group_files(nvmet: &Path, group: u32) -> Result<Vec<(String, PathBuf)>> {
    let ports = nvmet.join("ports");
    let shown = ports.display();
    let mut found = Vec::new();
    for entry in fs::read_dir(&ports).with_context(|| format!("no NVMe target at {shown}"))? {
        let entry = entry.with_context(|| format!("cannot list {shown}"))?;
        let file = entry.path().join(format!("ana_groups/{group}/ana_state"));
        if file.exists() {
            found.push((entry.file_name().to_string_lossy().into_owned(), file));
        }
    }
    found.sort();
    Ok(found)
}

/// Fails the operations that the gate keeps, for the portion of a device.
fn drop_kept(device: &str) -> Result<()> {
    mapped::dmsetup(&["message", device, "0", "drop"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(owns: bool, epoch: u64) -> Option<Seen> {
        Some(Seen {
            device: String::from("d"),
            owns,
            epoch: Some(epoch),
        })
    }

    /// Tries every sequence of readings: the group is inaccessible whenever kept operations fail,
    /// and becomes optimized only after a `drop` that followed a reading of the same lease.
    #[test]
    fn r17_clients_come_only_where_a_lapse_will_be_kept() {
        let looks = [
            None,
            seen(false, 1),
            seen(true, 1),
            seen(false, 2),
            seen(true, 2),
        ];
        for before in &looks {
            for now in &looks {
                let steps = steps(before.as_ref(), now.as_ref());
                let owns = now.as_ref().is_some_and(|seen| seen.owns);
                let optimized = steps.contains(&Step::Set(State::Optimized));
                assert_eq!(optimized, owns && before == now, "{before:?} {now:?}");
                // Kept operations of a lapse fail, unless there is no device for the message.
                let drops = steps.contains(&Step::Drop);
                assert_eq!(drops, now.is_some() && !optimized, "{before:?} {now:?}");
                if !optimized {
                    assert_eq!(steps.first(), Some(&Step::Set(State::Inaccessible)));
                }
            }
        }
    }

    #[test]
    fn a_group_has_one_portion() {
        let group = |portion, number| Group {
            portion: dm_lease_proto::proto::codec::superblock::Name::new(portion).unwrap(),
            number,
        };
        assert!(exports(&[group("alpha", 2), group("beta", 3)]).is_ok());
        let twice = exports(&[group("alpha", 2), group("beta", 2)]).err();
        let said = twice.unwrap().to_string();
        assert!(said.starts_with("ANA group 2 is that of alpha"), "{said}");
    }
}
