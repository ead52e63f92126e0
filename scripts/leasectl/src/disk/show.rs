// SPDX-License-Identifier: GPL-2.0
//! Prints the records of members, as text and as JSON.
//!
//! The JSON is an interface: fields are only ever added. Durations are milliseconds if the name
//! ends in `_ms` (fractions are possible), sizes are sectors if it ends in `_sectors`; 128-bit
//! numbers are hexadecimal text.

use crate::cli::Devices;
use crate::disk::member::{Mailbox, Member, RegisterView, COPY_IS_WHOLE};
use crate::text::{controllers, mib, ms, utc};
use anyhow::Result;
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::charge_list::Charge;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Side, Slot};
use dm_lease_proto::proto::codec::record::{Reading, Record};
use dm_lease_proto::proto::codec::superblock::{DisplayUuid, Superblock};
use dm_lease_proto::proto::limit::{Counting, Exhausted, Limit, Redundancy, RedundancyKind};
use dm_lease_proto::proto::time::{Timing, NS_PER_MS};
use dm_lease_proto::proto::words::status::Reason;
use serde::Serialize;
use std::io::Write;

/// `leasectl show`
pub fn run(options: &Devices, out: &mut impl Write) -> Result<()> {
    let mut members = Vec::new();
    for path in &options.devices {
        members.push(Member::read(path)?);
    }
    if options.json {
        let described: Vec<MemberJson> = members.iter().map(MemberJson::new).collect();
        serde_json::to_writer_pretty(&mut *out, &described)?;
        writeln!(out)?;
        return Ok(());
    }
    for member in &members {
        show_superblock(member, out)?;
        for mailbox in member.used_mailboxes() {
            show_mailbox(mailbox, out)?;
        }
    }
    Ok(())
}

fn show_superblock(member: &Member, out: &mut impl Write) -> Result<()> {
    let superblock = &member.superblock;
    writeln!(
        out,
        "{}: member {} of {} of portion {} {}",
        member.device.path.display(),
        superblock.member,
        superblock.members,
        superblock.name,
        DisplayUuid(&superblock.uuid),
    )?;
    writeln!(
        out,
        "  formatted {}{}, generation {}, version 1.{}",
        utc(superblock.formatted_s),
        if superblock.replacement {
            " as a replacement"
        } else {
            ""
        },
        superblock.generation,
        superblock.minor,
    )?;
    for (found, which) in [
        (&member.primary, "superblock"),
        (&member.copy, "superblock copy"),
    ] {
        if let Err(error) = found {
            writeln!(out, "  {which} damaged: {error}")?;
        }
    }
    if member.primary.is_err() {
        writeln!(out, "  {COPY_IS_WHOLE}")?;
    }
    writeln!(
        out,
        "  data area: {} from sector {}, {} sectors",
        mib(superblock.data_length_sectors),
        superblock.data_offset_sectors,
        superblock.data_length_sectors,
    )?;
    writeln!(
        out,
        "  controllers {}, home {}",
        controllers(superblock.controllers),
        superblock.home
    )?;
    let timing = &superblock.timing;
    writeln!(
        out,
        "  lease {}, window {}, device delay {}, heartbeats at least every {}",
        ms(timing.lease_ns),
        ms(timing.window_ns),
        ms(timing.device_delay_ns),
        ms(timing.period_max_ns),
    )?;
    writeln!(
        out,
        "  {} lost heartbeats, drift {} ppm, write {}, read {}, jitter {}, error report {}",
        timing.lost_heartbeats,
        timing.drift_ppm,
        ms(timing.write_ns),
        ms(timing.read_ns),
        ms(timing.jitter_ns),
        ms(timing.error_report_ns),
    )?;
    writeln!(out, "  {}", redundancy_text(&superblock.redundancy))?;
    Ok(())
}

fn redundancy_text(redundancy: &Redundancy) -> String {
    let kind = match redundancy.kind {
        RedundancyKind::Parity(parity) => format!("parity {parity}"),
        RedundancyKind::Mirror(copies) => format!("mirror {copies}"),
        RedundancyKind::External => String::from("external redundancy"),
    };
    let detect = if redundancy.detect {
        "detected"
    } else {
        "undetected"
    };
    let limit = match redundancy.limit(0, 0, None) {
        Limit::Count(count) => format!("limit {count}"),
        Limit::Unlimited => String::from("no limit"),
        Limit::Window => String::from("time alone"),
    };
    let counting = match redundancy.counting {
        Counting::Ops => String::from("operations counted"),
        Counting::Stripe { chunk_sectors } => format!("stripe rows of {} KiB", chunk_sectors / 2),
    };
    let exhausted = match redundancy.exhausted {
        Exhausted::Stop => "stop",
        Exhausted::Window => "window",
    };
    let drain = match redundancy.drain_ns {
        Some(drain_ns) => format!("drained after {}", ms(drain_ns)),
        None => String::from("no drain time"),
    };
    format!("{kind}, strays {detect}, {limit}, {counting}, when exhausted {exhausted}, {drain}")
}

fn show_mailbox(mailbox: &Mailbox, out: &mut impl Write) -> Result<()> {
    if mailbox.is_blank() {
        writeln!(out, "  controller {}: blank", mailbox.slot)?;
        return Ok(());
    }
    write!(out, "  controller {}: ", mailbox.slot)?;
    match &mailbox.heartbeat.reading {
        Reading::Blank => writeln!(out, "no heartbeat yet")?,
        Reading::Invalid(reject) => writeln!(out, "heartbeat unreadable: {reject}")?,
        Reading::Valid(record) => writeln!(
            out,
            "{}, {}, heartbeat {} (write {}), open {}, period {}, reason {}, incarnation {}",
            record.role,
            decided_text(&record.dec),
            record.hb,
            record.seq,
            record.open,
            ms(record.period_ns),
            reason_text(record.reason),
            record.inc,
        )?,
    }
    match &mailbox.ballot.reading {
        Reading::Blank => writeln!(out, "    no ballot yet")?,
        Reading::Invalid(reject) => writeln!(out, "    ballot unreadable: {reject}")?,
        Reading::Valid(record) => writeln!(
            out,
            "    ballot (write {}): {}, promised {}, accepted {}, limit {}, degraded {}, \
             charged {}",
            record.seq,
            decided_text(&record.dec),
            ballot_text(&record.mbal),
            ballot_text(&record.bal),
            Limit::from_wire(record.limit),
            record.failed,
            charges_text(record),
        )?,
    }
    Ok(())
}

fn decided_text(decided: &Decided) -> String {
    match decided.value {
        Some(value) => format!("epoch {} of controller {}", decided.epoch, value.slot),
        None => String::from("no epoch"),
    }
}

fn ballot_text(ballot: &Ballot) -> String {
    match ballot.is_none() {
        true => String::from("none"),
        false => format!("{}.{}", ballot.round, ballot.slot),
    }
}

fn charges_text(record: &BallotRecord) -> String {
    let charges: Vec<String> = record
        .charges
        .iter()
        .map(|charge| {
            let amount = match charge.amount {
                u32::MAX => String::from("everything"),
                amount => amount.to_string(),
            };
            let drained = match (charge.drained, charge.vouched) {
                (false, _) => "",
                (true, false) => ", drained",
                (true, true) => ", drained as an operator said",
            };
            let several = if charge.several { " and others" } else { "" };
            format!(
                "{amount} for epoch {} of controller {}{several}{drained}",
                charge.epoch, charge.slot
            )
        })
        .chain(
            record
                .charges
                .is_partial()
                .then(|| String::from("perhaps more")),
        )
        .collect();
    crate::text::list(&charges)
}

/// The word of a reason code, or the number of a code that is not known.
fn reason_text(code: u8) -> String {
    Reason::from_code(code).map_or(code.to_string(), |reason| reason.token().to_owned())
}

/// A member in JSON.
#[derive(Serialize)]
pub struct MemberJson {
    device: String,
    portion: String,
    uuid: String,
    member: u8,
    members: u8,
    replacement: bool,
    generation: u32,
    formatted_s: u64,
    minor: u16,
    controllers: Vec<u8>,
    home: u8,
    data_offset_sectors: u64,
    data_length_sectors: u64,
    member_sectors: u64,
    superblock: DamageJson,
    superblock_copy: DamageJson,
    protected: bool,
    timing: TimingJson,
    redundancy: RedundancyJson,
    mailboxes: Vec<MailboxJson>,
}

#[derive(Serialize)]
struct DamageJson {
    valid: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct TimingJson {
    lease_ms: f64,
    window_ms: f64,
    device_delay_ms: f64,
    drift_ppm: u32,
    lost_heartbeats: u32,
    period_max_ms: f64,
    error_report_ms: f64,
    write_ms: f64,
    read_ms: f64,
    jitter_ms: f64,
}

#[derive(Serialize)]
struct RedundancyJson {
    kind: &'static str,
    failures: Option<u32>,
    detect: bool,
    batch: u32,
    limit: String,
    counting: &'static str,
    chunk_sectors: Option<u32>,
    exhausted: &'static str,
    drain_ms: Option<f64>,
}

#[derive(Serialize)]
struct MailboxJson {
    controller: u8,
    ballot: RegisterJson<BallotJson>,
    heartbeat: RegisterJson<HeartbeatJson>,
}

#[derive(Serialize)]
struct RegisterJson<T> {
    state: &'static str,
    error: Option<String>,
    newest: Option<&'static str>,
    seq: Option<u64>,
    incarnation: Option<String>,
    record: Option<T>,
}

#[derive(Serialize)]
struct DecidedJson {
    epoch: u64,
    owner: Option<u8>,
    incarnation: Option<String>,
}

#[derive(Serialize)]
struct BallotNumberJson {
    round: u64,
    controller: u8,
    incarnation: String,
}

#[derive(Serialize)]
struct ChargeJson {
    epoch: u64,
    controller: u8,
    incarnation: String,
    amount: u32,
    drained: bool,
    vouched: bool,
    several: bool,
}

#[derive(Serialize)]
struct BallotJson {
    boot_id: String,
    decided: DecidedJson,
    promised: Option<BallotNumberJson>,
    /// The heartbeat of the owner that the ballot answers, if it is a hand-over.
    answers_offer: Option<u64>,
    accepted: Option<BallotNumberJson>,
    accepted_owner: Option<u8>,
    limit: String,
    degraded: u32,
    charges: Vec<ChargeJson>,
    charges_partial: bool,
}

#[derive(Serialize)]
struct HeartbeatJson {
    decided: DecidedJson,
    role: &'static str,
    successor: Option<u8>,
    heartbeat: u64,
    open: u32,
    period_ms: f64,
    reason: String,
    may_claim: bool,
}

impl MemberJson {
    /// Describes a member.
    pub fn new(member: &Member) -> MemberJson {
        let superblock = &member.superblock;
        MemberJson {
            device: member.device.path.display().to_string(),
            portion: superblock.name.to_string(),
            uuid: DisplayUuid(&superblock.uuid).to_string(),
            member: superblock.member,
            members: superblock.members,
            replacement: superblock.replacement,
            generation: superblock.generation,
            formatted_s: superblock.formatted_s,
            minor: superblock.minor,
            controllers: Slot::all_in(superblock.controllers)
                .map(Slot::controller)
                .collect(),
            home: superblock.home.controller(),
            data_offset_sectors: superblock.data_offset_sectors,
            data_length_sectors: superblock.data_length_sectors,
            member_sectors: superblock.member_sectors,
            superblock: damage(&member.primary),
            superblock_copy: damage(&member.copy),
            protected: member.is_protected,
            timing: timing_json(&superblock.timing),
            redundancy: redundancy_json(&superblock.redundancy),
            mailboxes: member.used_mailboxes().map(mailbox_json).collect(),
        }
    }
}

fn damage<E: ToString>(found: &Result<Superblock, E>) -> DamageJson {
    DamageJson {
        valid: found.is_ok(),
        error: found.as_ref().err().map(E::to_string),
    }
}

fn float_ms(ns: u64) -> f64 {
    ns as f64 / NS_PER_MS as f64
}

fn timing_json(timing: &Timing) -> TimingJson {
    TimingJson {
        lease_ms: float_ms(timing.lease_ns),
        window_ms: float_ms(timing.window_ns),
        device_delay_ms: float_ms(timing.device_delay_ns),
        drift_ppm: timing.drift_ppm,
        lost_heartbeats: timing.lost_heartbeats,
        period_max_ms: float_ms(timing.period_max_ns),
        error_report_ms: float_ms(timing.error_report_ns),
        write_ms: float_ms(timing.write_ns),
        read_ms: float_ms(timing.read_ns),
        jitter_ms: float_ms(timing.jitter_ns),
    }
}

fn redundancy_json(redundancy: &Redundancy) -> RedundancyJson {
    let (counting, chunk_sectors) = match redundancy.counting {
        Counting::Ops => ("ops", None),
        Counting::Stripe { chunk_sectors } => ("stripe", Some(chunk_sectors)),
    };
    RedundancyJson {
        kind: match redundancy.kind {
            RedundancyKind::Parity(_) => "parity",
            RedundancyKind::Mirror(_) => "mirror",
            RedundancyKind::External => "external",
        },
        failures: redundancy.kind.failures(),
        detect: redundancy.detect,
        batch: redundancy.batch,
        limit: redundancy.limit(0, 0, None).to_string(),
        counting,
        chunk_sectors,
        exhausted: match redundancy.exhausted {
            Exhausted::Stop => "stop",
            Exhausted::Window => "window",
        },
        drain_ms: redundancy.drain_ns.map(float_ms),
    }
}

fn mailbox_json(mailbox: &Mailbox) -> MailboxJson {
    MailboxJson {
        controller: mailbox.slot.controller(),
        ballot: register_json(&mailbox.ballot, ballot_json),
        heartbeat: register_json(&mailbox.heartbeat, heartbeat_json),
    }
}

fn register_json<T: Record, J>(view: &RegisterView<T>, json: fn(&T) -> J) -> RegisterJson<J> {
    let (state, error) = match &view.reading {
        Reading::Blank => ("blank", None),
        Reading::Invalid(reject) => ("invalid", Some(reject.to_string())),
        Reading::Valid(_) => ("valid", None),
    };
    let record = view.reading.valid();
    RegisterJson {
        state,
        error,
        newest: view.newest.map(|side| match side {
            Side::A => "A",
            Side::B => "B",
        }),
        seq: record.map(|record| record.seq()),
        incarnation: record.map(|record| record.inc().to_string()),
        record: record.as_ref().map(json),
    }
}

fn decided_json(decided: &Decided) -> DecidedJson {
    DecidedJson {
        epoch: decided.epoch,
        owner: decided.value.map(|value| value.slot.controller()),
        incarnation: decided.value.map(|value| value.inc.to_string()),
    }
}

fn number_json(ballot: &Ballot) -> Option<BallotNumberJson> {
    ballot.is_some().then(|| BallotNumberJson {
        round: ballot.round,
        controller: ballot.slot.controller(),
        incarnation: ballot.inc.to_string(),
    })
}

fn charge_json(charge: Charge) -> ChargeJson {
    ChargeJson {
        epoch: charge.epoch,
        controller: charge.slot.controller(),
        incarnation: charge.inc.to_string(),
        amount: charge.amount,
        drained: charge.drained,
        vouched: charge.vouched,
        several: charge.several,
    }
}

fn ballot_json(record: &BallotRecord) -> BallotJson {
    BallotJson {
        boot_id: DisplayUuid(&record.boot_id).to_string(),
        decided: decided_json(&record.dec),
        promised: number_json(&record.mbal),
        answers_offer: Some(record.offer).filter(|&offer| offer != 0),
        accepted: number_json(&record.bal),
        accepted_owner: record.val.map(|value| value.slot.controller()),
        limit: Limit::from_wire(record.limit).to_string(),
        degraded: record.failed,
        charges: record.charges.iter().map(charge_json).collect(),
        charges_partial: record.charges.is_partial(),
    }
}

fn heartbeat_json(record: &HeartbeatRecord) -> HeartbeatJson {
    let successor = match record.role {
        RecordRole::Released { successor } => successor.map(Slot::controller),
        RecordRole::HandingOver { successor } => Some(successor.controller()),
        _ => None,
    };
    HeartbeatJson {
        decided: decided_json(&record.dec),
        role: match record.role {
            RecordRole::Secondary => "secondary",
            RecordRole::Claiming => "claiming",
            RecordRole::Owner => "owner",
            RecordRole::Lapsed => "lapsed",
            RecordRole::Released { .. } => "released",
            RecordRole::HandingOver { .. } => "handing-over",
        },
        successor,
        heartbeat: record.hb,
        open: record.open,
        period_ms: float_ms(record.period_ns),
        reason: reason_text(record.reason),
        may_claim: record.may_claim,
    }
}
