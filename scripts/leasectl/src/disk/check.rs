// SPDX-License-Identifier: GPL-2.0
//! Checks members: every checksum, every reserved byte, and whether the members fit together.
//!
//! An *error* keeps a portion from working safely or at all. A *warning* is a fault that the
//! protocol tolerates and that an operator should know. The command exits with 1 if there is an
//! error. Members may be in use while they are checked.

use crate::cli::Devices;
use crate::disk::device::Device;
use crate::disk::md_layout::MdLayout;
use crate::disk::member::{Mailbox, Member, RegisterView};
use crate::disk::show::MemberJson;
use crate::text::list;
use anyhow::Result;
use dm_lease_proto::proto::codec::block::{BLOCK_SIZE, SECTOR_SIZE};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::ids::{Decided, Slot, Value, MAX_CONTROLLERS};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, HEAD_SIZE, MAILBOX_OFFSET, MAILBOX_SIZE, TAIL_SIZE,
};
use dm_lease_proto::proto::codec::record::{Reading, Record};
use dm_lease_proto::proto::codec::superblock::Superblock;
use dm_lease_proto::proto::limit::Counting;
use dm_lease_proto::proto::time::majority;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

#[derive(Serialize)]
struct Finding {
    severity: Severity,
    /// The device, or the portion's name.
    place: String,
    text: String,
}

/// The findings so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, place: impl ToString, text: impl ToString) {
        self.add(Severity::Error, place.to_string(), text.to_string());
    }

    fn warning(&mut self, place: impl ToString, text: impl ToString) {
        self.add(Severity::Warning, place.to_string(), text.to_string());
    }

    fn add(&mut self, severity: Severity, place: String, text: String) {
        self.0.push(Finding {
            severity,
            place,
            text,
        });
    }

    fn count(&self, severity: Severity) -> usize {
        self.0
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

/// `leasectl check`
pub fn run(options: &Devices, out: &mut impl Write) -> Result<ExitCode> {
    let mut findings = Findings::default();
    let mut portions: BTreeMap<[u8; 16], Vec<Member>> = BTreeMap::new();
    for path in &options.devices {
        match Member::read(path) {
            Ok(member) => {
                check_member(&member, &mut findings)?;
                portions
                    .entry(member.superblock.uuid)
                    .or_default()
                    .push(member);
            }
            Err(error) => findings.error(path.display(), format!("{error:#}")),
        }
    }
    for members in portions.values_mut() {
        set_former_aside(members, &mut findings);
        check_portion(members, &mut findings)?;
    }
    print(options.json, &portions, &findings, out)?;
    match findings.count(Severity::Error) {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn print(
    json: bool,
    portions: &BTreeMap<[u8; 16], Vec<Member>>,
    findings: &Findings,
    out: &mut impl Write,
) -> Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        ok: bool,
        findings: &'a [Finding],
        members: Vec<MemberJson>,
    }
    let (errors, warnings) = (
        findings.count(Severity::Error),
        findings.count(Severity::Warning),
    );
    if json {
        let members = portions.values().flatten().map(MemberJson::new).collect();
        let report = Report {
            ok: errors == 0,
            findings: &findings.0,
            members,
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    for finding in &findings.0 {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(out, "{severity}: {}: {}", finding.place, finding.text)?;
    }
    for members in portions.values() {
        let Some(first) = members.first() else {
            continue;
        };
        let superblock = &first.superblock;
        let decided = highest(members);
        let epoch = match decided.value {
            Some(value) => format!("epoch {} of controller {}", decided.epoch, value.slot),
            None => String::from("never owned"),
        };
        writeln!(
            out,
            "portion {}: {} of {} members checked, {epoch}",
            superblock.name,
            members.len(),
            superblock.members
        )?;
    }
    writeln!(out, "{errors} errors, {warnings} warnings")?;
    Ok(())
}

/// The highest decided epoch in any record of the portion.
pub fn highest(members: &[Member]) -> Decided {
    decisions(members).fold(Decided::NEVER, |highest, decided| {
        if decided.epoch > highest.epoch {
            decided
        } else {
            highest
        }
    })
}

/// The decisions in all valid records.
fn decisions(members: &[Member]) -> impl Iterator<Item = Decided> + '_ {
    members
        .iter()
        .flat_map(Member::used_mailboxes)
        .flat_map(|mailbox| {
            let ballot = mailbox.ballot.reading.valid().map(|record| record.dec);
            let heartbeat = mailbox.heartbeat.reading.valid().map(|record| record.dec);
            ballot.into_iter().chain(heartbeat)
        })
}

fn check_member(member: &Member, findings: &mut Findings) -> Result<()> {
    let place = member.device.path.display().to_string();
    let superblock = &member.superblock;
    match (&member.primary, &member.copy) {
        (Ok(primary), Ok(copy)) if primary != copy => {
            findings.error(&place, "the superblock and its copy differ");
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) => findings.error(&place, format!("superblock: {error}")),
        (_, Err(error)) => findings.error(&place, format!("superblock copy: {error}")),
    }
    if !member.is_protected {
        findings.warning(&place, "the protective first block was overwritten");
    }
    if let Some(scheduler) = member.device.scheduler().filter(|name| name != "none") {
        findings.warning(
            &place,
            format!(
                "its scheduler is {scheduler}: data may wait behind a mailbox write that hangs; \
                 write none to queue/scheduler"
            ),
        );
    }
    if !superblock.may_own() {
        findings.warning(
            &place,
            "a newer dm-lease formatted it: this one may not own it",
        );
    }
    if let Some(shortfall) = superblock.timing.shortfall() {
        findings.warning(&place, shortfall);
    }
    let sectors = member.device.size / SECTOR_SIZE;
    if sectors < superblock.member_sectors {
        let shrunk = format!(
            "it has shrunk from {} to {sectors} sectors",
            superblock.member_sectors
        );
        findings.error(&place, shrunk);
        return Ok(());
    }
    if sectors > superblock.member_sectors {
        let grown = format!(
            "it has grown from {} to {sectors} sectors",
            superblock.member_sectors
        );
        findings.warning(&place, grown);
    }
    for mailbox in &member.mailboxes {
        check_mailbox(member, mailbox, &place, findings);
    }
    check_reserves(&member.device, superblock, &place, findings)
}

fn check_mailbox(member: &Member, mailbox: &Mailbox, place: &str, findings: &mut Findings) {
    let slot = mailbox.slot;
    if !slot.is_in(member.superblock.controllers) {
        if !mailbox.is_blank() {
            let text = format!("the mailbox of controller {slot}, which is not formatted, is used");
            findings.warning(place, text);
        }
        return;
    }
    check_register(&mailbox.ballot, "ballot", slot, place, findings);
    check_register(&mailbox.heartbeat, "heartbeat", slot, place, findings);
    let ballot = mailbox.ballot.reading.valid();
    let heartbeat = mailbox.heartbeat.reading.valid();
    let owners = [
        ballot.map(|record| record.dec),
        heartbeat.map(|record| record.dec),
    ];
    for value in owners
        .into_iter()
        .flatten()
        .filter_map(|decided| decided.value)
    {
        if !value.slot.is_in(member.superblock.controllers) {
            let owner = value.slot;
            let text = format!("controller {slot} says that {owner}, which is not formatted, owns");
            findings.error(place, text);
        }
    }
    if let (Some(ballot), Some(heartbeat)) = (ballot, heartbeat) {
        if heartbeat.inc != ballot.inc {
            let text = format!("controller {slot}: ballot and heartbeat are of two incarnations");
            findings.warning(place, text);
        }
    }
}

fn check_register<T: Record>(
    view: &RegisterView<T>,
    name: &str,
    slot: Slot,
    place: &str,
    findings: &mut Findings,
) {
    if let Reading::Invalid(reject) = view.reading {
        findings.error(
            place,
            format!("{name} register of controller {slot}: {reject}"),
        );
        return;
    }
    for (block, side) in view.blocks.iter().zip(['A', 'B']) {
        if let Reading::Invalid(reject) = block {
            let text = format!(
                "{name} block {side} of controller {slot}: {reject}; the other block counts"
            );
            findings.warning(place, text);
        }
    }
}

/// Reserved blocks must be as formatting left them: other content was not written by the target.
fn check_reserves(
    device: &Device,
    superblock: &Superblock,
    place: &str,
    findings: &mut Findings,
) -> Result<()> {
    let block = BLOCK_SIZE as u64;
    let mailboxes_end = MAILBOX_OFFSET + MAILBOX_SIZE * u64::from(MAX_CONTROLLERS);
    let mut zones = vec![
        (2 * block, MAILBOX_OFFSET - 2 * block),
        (mailboxes_end, HEAD_SIZE - mailboxes_end),
    ];
    if let Some(copy) = copy_offset(superblock.member_sectors.saturating_mul(SECTOR_SIZE)) {
        zones.push((copy + block, TAIL_SIZE - block));
    }
    let mut used = Vec::new();
    for (offset, length) in zones {
        used.extend(device.used_blocks(offset, length)?);
    }
    if let Some(first) = used.first() {
        let text = format!(
            "something else wrote {} reserved blocks, the first at byte {first}",
            used.len()
        );
        findings.warning(place, text);
    }
    Ok(())
}

/// A member that was replaced is not part of the portion any more. It is an error of its own, and
/// its records are no information about the other members [R56].
fn set_former_aside(members: &mut Vec<Member>, findings: &mut Findings) {
    let mut highest = Generations::NONE;
    for member in members.iter() {
        highest.merge(&member.generations());
    }
    members.retain(|member| {
        let Superblock {
            name,
            member: index,
            generation,
            ..
        } = member.superblock;
        let present = highest.of(index);
        let is_present = generation >= present;
        if !is_present {
            let text = format!(
                "a former member {index} of portion {name}: it is of generation {generation}, and \
                 member {index} was replaced by one of generation {present}; take it away, or \
                 erase it with wipefs and use it for something else"
            );
            findings.error(member.device.path.display(), text);
        }
        is_present
    });
}

fn check_portion(members: &[Member], findings: &mut Findings) -> Result<()> {
    let Some((first, rest)) = members.split_first() else {
        return Ok(());
    };
    let superblock = &first.superblock;
    let place = format!("portion {}", superblock.name);
    for (at, member) in rest.iter().enumerate() {
        for other in &members[..=at] {
            if let Err(mismatch) = other.superblock.fits(&member.superblock) {
                let pair = format!(
                    "{} and {}",
                    other.device.path.display(),
                    member.device.path.display()
                );
                findings.error(pair, mismatch);
            }
        }
    }
    let (checked, count) = (members.len(), usize::from(superblock.members));
    if checked < usize::from(majority(superblock.members)) {
        findings.warning(
            &place,
            format!("{checked} of {count} members are no majority"),
        );
    } else if checked < count {
        findings.warning(&place, format!("{checked} of {count} members were given"));
    }
    check_agreement(members, &place, findings);
    if checked == count {
        check_promises(members, superblock, &place, findings);
    }
    if let Counting::Stripe { chunk_sectors } = superblock.redundancy.counting {
        check_rows(members, chunk_sectors, &place, findings)?;
    }
    Ok(())
}

/// An epoch has one owner. If records name two, the agreement was broken, or a member shows an
/// older state.
fn check_agreement(members: &[Member], place: &str, findings: &mut Findings) {
    let mut owners: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for decided in decisions(members) {
        let values = owners.entry(decided.epoch).or_default();
        values.extend(decided.value.filter(|value| !values.contains(value)));
    }
    for (epoch, values) in owners.iter().filter(|(_, values)| values.len() > 1) {
        let owners: Vec<String> = values
            .iter()
            .map(|value| format!("controller {} ({})", value.slot, value.inc))
            .collect();
        let text = format!(
            "epoch {epoch} has {} owners: {}",
            owners.len(),
            list(&owners)
        );
        findings.error(place, text);
    }
}

/// The promises of each controller must be known from a majority. Otherwise no controller can
/// claim.
fn check_promises(
    members: &[Member],
    superblock: &Superblock,
    place: &str,
    findings: &mut Findings,
) {
    for slot in Slot::all_in(superblock.controllers) {
        let knows = |member: &&Member| {
            let mut used = member.used_mailboxes();
            used.any(|mailbox| mailbox.slot == slot && member.knows_promises_of(mailbox))
        };
        let telling = members.iter().filter(knows).count();
        if telling < usize::from(majority(superblock.members)) {
            let text = format!(
                "the promises of controller {slot} are known from {telling} of {} members: nobody \
                 can claim",
                superblock.members
            );
            findings.error(place, text);
        }
    }
}

/// Counting by stripe rows needs one static layout on all members [R19].
fn check_rows(
    members: &[Member],
    chunk_sectors: u32,
    place: &str,
    findings: &mut Findings,
) -> Result<()> {
    let mut layouts = Vec::new();
    for member in members {
        let shown = member.device.path.display();
        match MdLayout::find(&member.device, &member.superblock)? {
            Some(layout) => {
                if let Some(objection) = layout.objection(chunk_sectors) {
                    findings.error(shown, format!("rows cannot be counted: {objection}"));
                }
                layouts.push(layout);
            }
            None => findings.warning(shown, "rows are counted, but there is no md array to check"),
        }
    }
    let Some((first, rest)) = layouts.split_first() else {
        return Ok(());
    };
    if rest
        .iter()
        .any(|layout| layout.data_offset_sectors != first.data_offset_sectors)
    {
        findings.error(place, "rows cannot be counted: the md data offsets differ");
    }
    if rest.iter().any(|layout| layout.uuid != first.uuid) {
        findings.error(
            place,
            "rows cannot be counted: members of different md arrays",
        );
    }
    Ok(())
}
