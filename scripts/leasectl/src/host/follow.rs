// SPDX-License-Identifier: GPL-2.0
//! Follows changes of role: udev applies its rules again, and a lost portion is closed.
//!
//! `leasectl udev follow` waits for events of device-mapper and compares the roles of all mapped
//! devices with those before. Each device with another role gets a uevent ([`udev`]). If the lease
//! of a portion was lost, the mounts and arrays above its devices are taken down ([`above`]).

use crate::host::above;
use crate::host::udev::{self, Closing};
use crate::kernel::events::Events;
use crate::kernel::status::{dmsetup, parse, Line};
use anyhow::Result;
use dm_lease_proto::proto::words::status::Role;
use std::collections::BTreeMap;
use std::thread::{spawn, JoinHandle};

/// `leasectl udev follow`
pub fn run() -> Result<()> {
    let events = Events::open()?;
    let mut roles = BTreeMap::new();
    // An earlier process may have ended before it had closed a portion.
    let unfinished = Closing::unfinished().into_iter();
    let mut closing: Vec<_> = unfinished.map(close_in_background).collect();
    let mut owned = BTreeMap::new();
    loop {
        events.arm()?;
        let text = dmsetup()?;
        let lines = parse(&text)?;
        let now: BTreeMap<String, Role> = lines
            .iter()
            .map(|line| (line.device.to_owned(), line.status.role))
            .collect();
        for portion in lost(&mut owned, &lines) {
            closing.push(close_in_background(portion));
        }
        for name in changed(&roles, &now) {
            udev::trigger(name)?;
        }
        roles = now;
        closing.retain(|thread| !thread.is_finished());
        events.wait(None)?;
    }
}

/// Closes a lost portion in a thread of its own: unmounting may take long, and other portions do
/// not wait for it.
fn close_in_background(portion: String) -> JoinHandle<()> {
    spawn(move || above::lost(&portion))
}

/// The portions that were owned before and are not owned now, or are owned in another epoch,
/// because a portion may be lost and won between two readings. `owned` has the epoch of each owned
/// portion.
fn lost(owned: &mut BTreeMap<String, u64>, lines: &[Line<'_>]) -> Vec<String> {
    let mut now = BTreeMap::new();
    for line in lines {
        let status = &line.status;
        if let Some(epoch) = status.epoch.filter(|_| status.role.owns()) {
            now.insert(status.portion.to_owned(), epoch);
        }
    }
    let is_mapped = |portion: &str| lines.iter().any(|line| line.status.portion == portion);
    let lost = owned
        .iter()
        .filter(|(portion, epoch)| is_mapped(portion) && now.get(*portion) != Some(epoch))
        .map(|(portion, _)| portion.clone())
        .collect();
    *owned = now;
    lost
}

/// The devices that have another role than before, and new devices.
fn changed<'a>(
    before: &BTreeMap<String, Role>,
    now: &'a BTreeMap<String, Role>,
) -> impl Iterator<Item = &'a str> {
    let differ: Vec<&str> = now
        .iter()
        .filter(|(name, role)| before.get(*name) != Some(role))
        .map(|(name, _)| name.as_str())
        .collect();
    differ.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_a_new_role_and_a_new_device_are_reported() {
        let roles = |pairs: &[(&str, Role)]| -> BTreeMap<String, Role> {
            let owned = pairs.iter().map(|&(name, role)| (name.to_owned(), role));
            owned.collect()
        };
        let before = roles(&[("a", Role::Owner), ("b", Role::Owner), ("c", Role::Joining)]);
        let now = roles(&[
            ("a", Role::Owner),
            ("b", Role::Secondary),
            ("d", Role::Joining),
        ]);
        assert_eq!(changed(&before, &now).collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(changed(&now, &now).count(), 0);
    }

    #[test]
    fn r47_a_lost_portion_is_one_that_was_owned_in_that_epoch() {
        let mut owned = BTreeMap::new();
        let mut look = |status: &str| {
            let text = format!("a: 0 8 lease v 0/1 {status} 1 400 9 1/2 3 4 5 1 -\n");
            lost(&mut owned, &parse(&text).unwrap())
        };
        assert_eq!(look("secondary 6"), [""; 0]);
        assert_eq!(look("owner 7"), [""; 0]);
        // The controller still has its lease, and may keep it.
        assert_eq!(look("releasing 7"), [""; 0]);
        assert_eq!(look("owner 7"), [""; 0]);
        assert_eq!(look("secondary 7"), ["v"]);
        assert_eq!(look("claiming 7"), [""; 0]);
        assert_eq!(look("owner 8"), [""; 0]);
        // The portion was lost and won between two readings.
        assert_eq!(look("owner 10"), ["v"]);
        assert_eq!(lost(&mut owned, &[]), [""; 0]);
    }
}
