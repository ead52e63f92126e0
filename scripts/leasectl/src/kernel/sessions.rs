// SPDX-License-Identifier: GPL-2.0
//! The sessions of this host: one for each pair of controller and portion, with any number of
//! devices.
//!
//! The status line does not say which controller a device belongs to; the table line does.

use crate::kernel::mapped;
use crate::kernel::status::{dmsetup, parse, Line};
use anyhow::{Context, Result};
use dm_lease_proto::proto::words::table::TableLine;
use std::collections::BTreeMap;

/// The identity of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The portion's name.
    pub portion: String,
    /// The controller's number.
    pub controller: u8,
}

/// One reading of `dmsetup`, as text.
pub struct Look {
    status: String,
    controllers: BTreeMap<String, u8>,
}

impl Look {
    /// Runs `dmsetup`.
    pub fn take() -> Result<Look> {
        // A device that is removed between the two has no status, and a new one has no table here.
        let table = mapped::dmsetup(&["table", "--target", "lease"])?;
        Ok(Look::of(&table, dmsetup()?))
    }

    /// From the output of `dmsetup table` and `dmsetup status`.
    pub fn of(table: &str, status: String) -> Look {
        let controllers = table.lines().filter_map(controller).collect();
        Look {
            status,
            controllers,
        }
    }

    /// Each session with the status of its first device.
    pub fn sessions(&self) -> Result<BTreeMap<Key, Line<'_>>> {
        let mut sessions = BTreeMap::new();
        for line in parse(&self.status).context("dmsetup status")? {
            if let Some(&controller) = self.controllers.get(line.device) {
                let portion = line.status.portion.to_owned();
                let key = Key {
                    portion,
                    controller,
                };
                sessions.entry(key).or_insert(line);
            }
        }
        Ok(sessions)
    }
}

/// Device and controller of a table line: `<device>: <start> <length> lease <member> <controller>`.
fn controller(line: &str) -> Option<(String, u8)> {
    let (device, rest) = line.split_once(": ")?;
    let words = rest.split_ascii_whitespace();
    let arguments = words.skip_while(|word| *word != "lease").skip(1);
    let line = TableLine::parse(arguments.map(str::as_bytes)).ok()?;
    Some((device.to_owned(), line.controller.controller()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_a_session_is_named_by_portion_and_controller() {
        let table = "a: 0 8 lease 8:16 1\n\
                     b: 0 8 lease 8:16 2 1 stateless\n\
                     c: 0 8 lease 8:32 2 1 stateless\n\
                     x: 0 8 linear 8:16 0\n";
        let status = "a: 0 8 lease v 0/2 owner 7 1 400 9 1/2 3 4 5 2 -\n\
                      b: 0 8 lease v 0/2 secondary 7 1 - - 0/2 0 0 0 2 -\n\
                      c: 0 8 lease v 1/2 secondary 7 1 - - 0/2 0 0 0 2 -\n\
                      d: 0 8 lease v 1/2 joining - - - - 0/2 0 0 0 0 -\n";
        let look = Look::of(table, status.to_owned());
        let sessions = look.sessions().unwrap();
        let seen: Vec<_> = sessions
            .iter()
            .map(|(key, line)| (key.portion.as_str(), key.controller, line.device))
            .collect();
        assert_eq!(seen, [("v", 1, "a"), ("v", 2, "b")]);
    }
}
