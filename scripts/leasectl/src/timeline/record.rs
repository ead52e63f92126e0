// SPDX-License-Identifier: GPL-2.0
//! Reads recorded events: lines of JSON of `leasectl events`, and trace events as text.
//!
//! All times are converted to the clock of leases, CLOCK_MONOTONIC_RAW. Lines of JSON contain it,
//! and so do the stamps and ends of leases in trace events. Lines of earlier versions contain only
//! CLOCK_BOOTTIME. The time of a trace event itself is in the clock of the trace, which can be
//! another one. The difference of the two clocks follows from heartbeats, which are traced as soon
//! as they are judged.

use crate::cli::Named;
use anyhow::{anyhow, Context, Result};
use dm_lease_proto::proto::codec::superblock::DisplayUuid;
use dm_lease_proto::proto::words::status::Role;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// All events of one controller on one portion, in nanoseconds of the clock of leases.
#[derive(Debug, Default, PartialEq)]
pub struct Lane {
    /// The roles, each with its begin; `None` while the portion was not mapped.
    pub roles: Vec<(u64, Option<Role>)>,
    /// The leases, each with begin and end.
    pub leases: Vec<(u64, u64)>,
    /// The times at which heartbeats were judged.
    pub heartbeats: Vec<u64>,
    /// The times at which operations were failed, and how many since the time before.
    pub refusals: Vec<(u64, u64)>,
    /// The times at which an epoch became known.
    pub epochs: Vec<(u64, u64)>,
}

/// Lanes by portion and controller.
pub type Lanes = BTreeMap<(String, u8), Lane>;

/// The content of the files.
#[derive(Default)]
pub struct Recording {
    /// The lanes of events, by name of the portion.
    named: Lanes,
    /// The begin of each lease that has not ended in the events so far.
    open: BTreeMap<(String, u8), u64>,
    /// The lanes of traces, by uuid of the portion.
    traced: Lanes,
}

/// A line of `leasectl events`.
#[derive(Deserialize)]
struct Event {
    boot_ns: u64,
    raw_ns: Option<u64>,
    portion: String,
    controller: u8,
    what: String,
    old: Value,
    new: Value,
}

/// A trace event: its time in the clock of the trace, its name, and its fields.
struct Traced<'a> {
    at_ns: u64,
    name: &'a str,
    fields: &'a str,
}

impl Recording {
    /// Reads a file; lines that are of neither kind are skipped.
    pub fn read(&mut self, text: &str) -> Result<()> {
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('{') {
                let event = serde_json::from_str(line);
                let event = event.with_context(|| format!("line {} is no event", index + 1))?;
                self.event(&event);
            }
        }
        let traced: Vec<Traced<'_>> = text.lines().filter_map(Traced::parse).collect();
        let offset_ns = offset(&traced);
        for event in &traced {
            let at_ns = event.at_ns.saturating_add_signed(offset_ns);
            let told = self.trace(event, at_ns);
            told.ok_or_else(|| anyhow!("{} cannot be read: {}", event.name, event.fields))?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        let key = (event.portion.clone(), event.controller);
        let at_ns = event.raw_ns.unwrap_or(event.boot_ns);
        let new = &event.new;
        let lane = self.named.entry(key.clone()).or_default();
        match event.what.as_str() {
            "role" => {
                let role = new.as_str().and_then(Role::from_token);
                lane.roles.push((at_ns, role));
            }
            "epoch" => lane.epochs.extend(new.as_u64().map(|epoch| (at_ns, epoch))),
            "lease" if *new == Value::Bool(true) => {
                self.open.insert(key, at_ns);
            }
            "lease" => lane
                .leases
                .extend(self.open.remove(&key).map(|begin| (begin, at_ns))),
            "refused" | "late" => {
                let before = event.old.as_u64().unwrap_or(0);
                let more = new.as_u64().unwrap_or(0).saturating_sub(before);
                if more > 0 {
                    lane.refusals.push((at_ns, more));
                }
            }
            _ => {}
        }
    }

    /// Adds a trace event; `None` if a field is missing.
    fn trace(&mut self, event: &Traced<'_>, at_ns: u64) -> Option<()> {
        let portion = event.field("portion")?.to_owned();
        let controller = event.field("controller")?.parse().ok()?;
        let lane = self.traced.entry((portion, controller)).or_default();
        match event.name {
            "dm_lease_role" => {
                let role = Role::from_token(event.field("new")?)?;
                if lane.roles.is_empty() {
                    lane.roles.push((0, Role::from_token(event.field("old")?)));
                }
                lane.roles.push((at_ns, Some(role)));
                lane.epochs.push((at_ns, event.number("epoch")?));
            }
            "dm_lease_heartbeat" => {
                let stamp_ns = event.number("stamp")?;
                let judged_ns = stamp_ns.saturating_add(event.number("latency")?);
                lane.heartbeats.push(judged_ns);
                let expiry_ns = event.number("expiry")?;
                if expiry_ns > judged_ns {
                    lane.leases.push((judged_ns, expiry_ns));
                }
            }
            "dm_lease_refuse" => lane.refusals.push((at_ns, 1)),
            _ => {}
        }
        Some(())
    }

    /// All lanes by the names of portions, as far as they are known. Traces take precedence over
    /// events, because their times are exact.
    pub fn lanes(mut self, names: &[Named]) -> Lanes {
        let last_ns = self.named.values().map(last_of).max().unwrap_or(0);
        for (key, begin_ns) in std::mem::take(&mut self.open) {
            let lane = self.named.entry(key).or_default();
            lane.leases.push((begin_ns, last_ns.max(begin_ns)));
        }
        let known: BTreeSet<&String> = self.named.keys().map(|(name, _)| name).collect();
        let traced: BTreeSet<&String> = self.traced.keys().map(|(uuid, _)| uuid).collect();
        let only = match (known.len(), traced.len()) {
            (1, 1) => known.first().map(|name| name.to_string()),
            _ => None,
        };
        let mut lanes = self.named;
        for ((uuid, controller), lane) in self.traced {
            let named = names
                .iter()
                .find(|named| DisplayUuid(&named.uuid.0).to_string() == uuid);
            let name = named.map(|named| named.name.to_string());
            let name = name.or_else(|| only.clone()).unwrap_or(uuid);
            lanes.entry((name, controller)).or_default().prefer(lane);
        }
        lanes
    }
}

/// The last moment of a lane.
fn last_of(lane: &Lane) -> u64 {
    let roles = lane.roles.iter().map(|(at, _)| *at);
    let leases = lane.leases.iter().map(|(_, end)| *end);
    let marks = lane.refusals.iter().chain(&lane.epochs).map(|(at, _)| *at);
    let all = roles.chain(leases).chain(marks);
    all.chain(lane.heartbeats.iter().copied())
        .max()
        .unwrap_or(0)
}

impl Lane {
    /// Replaces entries by those of a more exact lane.
    fn prefer(&mut self, traced: Lane) {
        // A trace that begins later has no entries of the time before.
        fn replace<T>(place: &mut Vec<T>, traced: Vec<T>, at: impl Fn(&T) -> u64) {
            if let Some(begin) = traced.first().map(&at) {
                place.retain(|known| at(known) < begin);
                place.extend(traced);
            }
        }
        let begin = traced.roles.get(1).map(|(at, _)| *at);
        if let Some(begin) = begin {
            self.roles.retain(|(at, _)| *at < begin);
            self.roles.extend(traced.roles.into_iter().skip(1));
        }
        replace(&mut self.leases, traced.leases, |lease| lease.0);
        replace(&mut self.heartbeats, traced.heartbeats, |at| *at);
        replace(&mut self.refusals, traced.refusals, |refusal| refusal.0);
        replace(&mut self.epochs, traced.epochs, |epoch| epoch.0);
    }
}

impl<'a> Traced<'a> {
    /// `<task> [<cpu>] <flags> <seconds>: <event>: <fields>`; the clock of the trace may count
    /// nanoseconds without a point.
    fn parse(line: &'a str) -> Option<Traced<'a>> {
        let at = line.find(": dm_lease_")?;
        let (before, rest) = line.split_at(at);
        let (name, fields) = rest.get(2..)?.split_once(": ")?;
        let seconds = before.split_ascii_whitespace().next_back()?;
        let at_ns = match seconds.split_once('.') {
            Some((whole, part)) => {
                let digits = format!("{part:0<9}");
                let whole: u64 = whole.parse().ok()?;
                let part: u64 = digits.get(..9)?.parse().ok()?;
                whole.checked_mul(1_000_000_000)?.checked_add(part)?
            }
            None => seconds.parse().ok()?,
        };
        Some(Traced {
            at_ns,
            name,
            fields: fields.trim_start(),
        })
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        let fields = self.fields.split_ascii_whitespace();
        let mut values = fields.filter_map(|field| field.split_once('='));
        values
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// How far the clock of leases is ahead of the trace's clock: the largest difference of all
/// heartbeats, because a heartbeat can be traced late, but never early.
fn offset(traced: &[Traced<'_>]) -> i64 {
    let judged = |event: &Traced<'_>| {
        (event.name == "dm_lease_heartbeat")
            .then(|| event.number("stamp")?.checked_add(event.number("latency")?))
            .flatten()
    };
    let ahead = traced.iter().filter_map(|event| {
        let judged = i64::try_from(judged(event)?).ok()?;
        judged.checked_sub(i64::try_from(event.at_ns).ok()?)
    });
    ahead.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn trace() -> String {
        format!(
            "# tracer: nop\n\
             dm_lease-7  [001] ..... 10.000100: dm_lease_heartbeat: portion={UUID} controller=1 \
             seq=4 stamp=1009999000000 latency=1000000 expiry=1011500000000\n\
             sh-9 [000] ..... 10.2: dm_lease_role: portion={UUID} controller=1 old=owner \
             new=secondary epoch=3 reason=fence\n\
             sh-9 [000] ..... 10.300000000: dm_lease_refuse: portion={UUID} controller=1 \
             member=8:16 op=1 sector=16392 sectors=8 refused\n"
        )
    }

    #[test]
    fn r47_trace_events_are_put_on_the_clock_of_leases() {
        let mut recording = Recording::default();
        recording.read(&trace()).unwrap();
        let lanes = recording.lanes(&[]);
        let lane = &lanes[&(String::from(UUID), 1)];
        // The heartbeat was judged at 1010 s, and traced at 10.0001 s.
        assert_eq!(lane.heartbeats, [1_010_000_000_000]);
        assert_eq!(lane.leases, [(1_010_000_000_000, 1_011_500_000_000)]);
        let secondary = (1_010_199_900_000, Some(Role::Secondary));
        assert_eq!(lane.roles.last(), Some(&secondary));
        assert_eq!(lane.epochs, [(1_010_199_900_000, 3)]);
        assert_eq!(lane.refusals, [(1_010_299_900_000, 1)]);
    }

    #[test]
    fn r47_events_and_traces_of_one_portion_share_a_lane() {
        let event = |raw_ns: u64, what: &str, old: &str, new: &str| {
            format!(
                "{{\"time\":\"-\",\"boot_ns\":7,\"raw_ns\":{raw_ns},\"portion\":\"alpha\",\
                 \"controller\":1,\"what\":\"{what}\",\"old\":{old},\"new\":{new}}}\n"
            )
        };
        let events = event(1_000, "role", "null", "\"owner\"")
            + &event(1_000, "epoch", "null", "2")
            + &event(1_000, "lease", "null", "true")
            + &event(2_000, "refused", "3", "5")
            + &event(3_000, "lease", "true", "false");
        let mut recording = Recording::default();
        recording.read(&events).unwrap();
        let alone = recording.lanes(&[]);
        let lane = &alone[&(String::from("alpha"), 1)];
        assert_eq!(lane.roles, [(1_000, Some(Role::Owner))]);
        assert_eq!(
            (lane.leases[0], lane.refusals[0]),
            ((1_000, 3_000), (2_000, 2))
        );

        let mut recording = Recording::default();
        recording.read(&events).unwrap();
        recording.read(&trace()).unwrap();
        let both = recording.lanes(&[]);
        assert_eq!(both.len(), 1);
        let lane = &both[&(String::from("alpha"), 1)];
        assert_eq!(lane.roles.len(), 2);
        assert_eq!(lane.heartbeats.len(), 1);
        // Entries from before the trace are kept.
        assert_eq!(lane.epochs, [(1_000, 2), (1_010_199_900_000, 3)]);
        assert_eq!((lane.leases.len(), lane.refusals.len()), (2, 2));

        let mut recording = Recording::default();
        recording.read(&trace()).unwrap();
        let named = cli::Named {
            uuid: cli::uuid(UUID).unwrap(),
            name: cli::name("beta").unwrap(),
        };
        assert!(recording
            .lanes(&[named])
            .contains_key(&(String::from("beta"), 1)));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_line() {
        let refused = |text: &str| format!("{:#}", Recording::default().read(text).unwrap_err());
        assert!(refused("\n{\"what\": 1}\n").starts_with("line 2 is no event"));
        let text = "sh-9 [000] ..... 10.2: dm_lease_role: controller=1 new=owner\n";
        assert!(refused(text).starts_with("dm_lease_role cannot be read"));
        assert!(Recording::default().read("no line of ours\n").is_ok());
    }
}
