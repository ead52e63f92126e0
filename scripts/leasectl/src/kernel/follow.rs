// SPDX-License-Identifier: GPL-2.0
//! Prints changes of this host's portions as lines of JSON, to be kept, sent on or drawn
//! (`timeline`).
//!
//! Device-mapper reports *that* an event happened. The change is the difference between two
//! readings of the status. Two changes between two readings are one line, with the first old and
//! the last new value; the epoch shows that there were more.
//!
//! | `what` | values |
//! |---|---|
//! | `role`, `epoch`, `owner`, `reason`, `limit`, `charged`, `members_ok` | as in the status line |
//! | `lease` | whether the controller has a valid lease |
//! | `refused`, `late` | the number of operations since the session began |
//! | `lost` | the lease ended without an order: the role it had, and the reason |

use crate::cli::Events as Options;
use crate::kernel::events::Events;
use crate::kernel::sessions::{Key, Look};
use crate::text::rfc3339;
use anyhow::Result;
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::words::status::{Charged, Reason, Role, Status};
use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The values of a session in one reading.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    role: Role,
    reason: Reason,
    values: Vec<(&'static str, Value)>,
}

/// One change.
#[derive(Debug, PartialEq, Serialize)]
struct Change<'a> {
    portion: &'a str,
    controller: u8,
    what: &'static str,
    old: Value,
    new: Value,
}

/// A change, and the time at which it was seen.
#[derive(Serialize)]
struct Stamped<'a> {
    time: &'a str,
    boot_ns: u64,
    raw_ns: u64,
    #[serde(flatten)]
    change: Change<'a>,
}

/// `leasectl events`
pub fn run(options: &Options, out: &mut impl Write) -> Result<()> {
    let events = Events::open()?;
    let mut before = BTreeMap::new();
    let mut looks = 0;
    loop {
        events.arm()?;
        let look = Look::take()?;
        let now = seen(&look)?;
        let (time, boot_ns, raw_ns) = clocks();
        for change in changes(&before, &now) {
            let line = Stamped {
                time: &time,
                boot_ns,
                raw_ns,
                change,
            };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
        out.flush()?;
        before = now;
        looks += 1;
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        events.wait(Some(Duration::from_millis(options.interval_ms)))?;
    }
}

/// The time of day, the time since boot, and the clock that leases and trace events use.
fn clocks() -> (String, u64, u64) {
    let day = SystemTime::now().duration_since(UNIX_EPOCH);
    let day = rfc3339(day.unwrap_or_default());
    (day, ns(ClockId::Boottime), ns(ClockId::MonotonicRaw))
}

/// The time of a clock, in nanoseconds.
fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest_ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(rest_ns)
}

fn seen(look: &Look) -> Result<BTreeMap<Key, Seen>> {
    let sessions = look.sessions()?.into_iter();
    Ok(sessions
        .map(|(key, line)| (key, Seen::of(&line.status)))
        .collect())
}

impl Seen {
    fn of(status: &Status<'_>) -> Seen {
        let values = vec![
            ("epoch", json!(status.epoch)),
            ("owner", json!(status.owner.map(Slot::controller))),
            ("lease", json!(status.lease_ms_left.is_some())),
            ("limit", json!(status.limit.to_string())),
            ("charged", json!(Charged(status.charged).to_string())),
            ("members_ok", json!(status.members_ok)),
            ("refused", json!(status.refused)),
            ("late", json!(status.late)),
            ("reason", json!(status.reason.token())),
        ];
        Seen {
            role: status.role,
            reason: status.reason,
            values,
        }
    }

    /// Whether a lease that was held before ended without an order.
    fn has_lost(&self, before: &Seen) -> bool {
        before.role.owns() && !self.role.owns() && !self.reason.is_wanted()
    }
}

/// The changes, session by session: the role first, because it explains the others.
fn changes<'a>(
    before: &'a BTreeMap<Key, Seen>,
    now: &'a BTreeMap<Key, Seen>,
) -> impl Iterator<Item = Change<'a>> {
    let gone = before.keys().filter(|key| !now.contains_key(key));
    let gone = gone.map(|key| {
        let role = before.get(key).map(|seen| seen.role.token());
        change(key, "role", json!(role), Value::Null)
    });
    let differ = now
        .iter()
        .flat_map(|(key, seen)| of_session(key, before.get(key), seen));
    gone.chain(differ)
}

fn of_session<'a>(key: &'a Key, before: Option<&Seen>, now: &Seen) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let role = before.map(|seen| seen.role);
    if role != Some(now.role) {
        let old = json!(role.map(Role::token));
        changes.push(change(key, "role", old, json!(now.role.token())));
    }
    if let Some(before) = before.filter(|before| now.has_lost(before)) {
        let old = json!(before.role.token());
        changes.push(change(key, "lost", old, json!(now.reason.token())));
    }
    for (index, (what, new)) in now.values.iter().enumerate() {
        let old = before.and_then(|seen| seen.values.get(index));
        let old = old.map_or(Value::Null, |(_, old)| old.clone());
        if old != *new {
            changes.push(change(key, what, old, new.clone()));
        }
    }
    changes
}

fn change<'a>(key: &'a Key, what: &'static str, old: Value, new: Value) -> Change<'a> {
    Change {
        portion: &key.portion,
        controller: key.controller,
        what,
        old,
        new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "a: 0 8 lease 8:16 1\n";

    fn look(status: &str) -> BTreeMap<Key, Seen> {
        seen(&Look::of(TABLE, format!("a: 0 8 lease v {status}\n"))).unwrap()
    }

    fn told(before: &BTreeMap<Key, Seen>, now: &BTreeMap<Key, Seen>) -> Vec<String> {
        let line = |change: Change<'_>| format!("{} {} {}", change.what, change.old, change.new);
        changes(before, now).map(line).collect()
    }

    #[test]
    fn r47_what_there_is_at_the_beginning_is_told() {
        let now = look("0/1 owner 7 1 400 9 1/2 3 4 5 1 -");
        let lines = told(&BTreeMap::new(), &now);
        assert_eq!(lines.first().unwrap(), "role null \"owner\"");
        for line in [
            "epoch null 7",
            "owner null 1",
            "lease null true",
            "limit null \"2\"",
        ] {
            assert!(lines.iter().any(|told| told == line), "{line}: {lines:?}");
        }
        assert_eq!(told(&now, &now), [""; 0]);
        // The time left and the number of open permits are not reported.
        assert_eq!(
            told(&now, &look("0/1 owner 7 1 100 10 2/2 0 4 5 1 -")),
            [""; 0]
        );
    }

    #[test]
    fn r47_a_lapse_is_told_apart_from_what_was_wanted() {
        let owner = look("0/1 owner 7 1 400 9 1/2 3 4 5 1 -");
        let lapsed = told(&owner, &look("0/1 secondary 7 1 - 9 1/2 3 6 5 1 lapse"));
        let wanted = [
            "role \"owner\" \"secondary\"",
            "lost \"owner\" \"lapse\"",
            "lease true false",
            "refused 4 6",
            "reason \"-\" \"lapse\"",
        ];
        assert_eq!(lapsed, wanted);
        let fenced = told(&owner, &look("0/1 secondary 7 1 - 9 1/2 3 4 5 1 fence"));
        assert!(
            !fenced.iter().any(|line| line.starts_with("lost")),
            "{fenced:?}"
        );
        assert_eq!(told(&owner, &BTreeMap::new()), ["role \"owner\" null"]);
    }
}
