// SPDX-License-Identifier: GPL-2.0

//! What the log says: one line for each transition, and for each request that was refused [R47].
//!
//! A lease that was lost without being given up is a warning; everything else is a notice.

use super::{engine::News, events, session::Session};
use crate::{
    dm::trace::Word,
    proto::{
        codec::ids::Slot,
        controller::{Budget, Heartbeat, Transition},
        limit::Limit,
        words::{
            message::Message,
            status::{Charged, Reason, Role},
        },
    },
};
use core::fmt;
use kernel::prelude::*;

/// Whom a line is about.
struct Who<'a>(&'a Session);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} controller {}",
            self.0.superblock.name,
            self.0.controller.controller()
        )
    }
}

/// The owner of an epoch.
struct Owner(Option<Slot>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(slot) => write!(f, "{}", slot.controller()),
            None => f.write_str("-"),
        }
    }
}

/// A reason, if there is one.
struct Because(Reason);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::None => Ok(()),
            reason => write!(f, ": {}", reason.text()),
        }
    }
}

/// Traces a change of role or epoch.
pub fn trace_transition(session: &Session, change: &Transition) {
    events::dm_lease_role(
        &session.superblock.uuid,
        u32::from(session.controller.controller()),
        &Word::new(change.from.token()),
        &Word::new(change.to.token()),
        change.epoch,
        &Word::new(change.reason.token()),
    );
}

/// Whether the portion was lost against its owner's will.
pub fn is_lost(change: &Transition) -> bool {
    change.from.owns() && !change.to.owns() && !change.reason.is_wanted()
}

/// What the herald has to tell.
pub fn news(session: &Session, news: &News) {
    match news {
        News::Transition(change) => transition(session, change),
        News::Budget(change) => budget(session, change),
        News::WentBack(member) => went_back(session, *member),
        News::Unreadable(slots) => unreadable(session, *slots),
        News::Outdated {
            member,
            generation,
            highest,
        } => warn(format_args!(
            "{}: the device of member {member} is a former disk: generation {generation}, the \
             member has {highest}; nothing is read or written there any more",
            Who(session),
        )),
    }
}

/// The numbers of controllers, with a blank before each.
struct Numbers(u64);

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Slot::all_in(self.0).try_for_each(|slot| write!(f, " {}", slot.controller()))
    }
}

/// The set of controllers changed of which a majority of the members shows nothing that can be
/// read.
fn unreadable(session: &Session, slots: u64) {
    match slots {
        0 => notice(format_args!(
            "{}: every mailbox can be read again",
            Who(session)
        )),
        _ => warn(format_args!(
            "{}: the mailboxes of these controllers cannot be read:{}; nobody joins or takes over \
             before they write them again, or leasectl repair does",
            Who(session),
            Numbers(slots),
        )),
    }
}

/// A member shows less than what it acknowledged.
fn went_back(session: &Session, member: u8) {
    warn(format_args!(
        "{}: member {member} lost mailbox records that it had acknowledged: it went back to an \
         earlier state, and does not count until they are written again",
        Who(session),
    ));
}

/// What an owner may have open changed, or what is charged for earlier owners.
fn budget(session: &Session, change: &Budget) {
    let reason = match change.is_exhausted {
        true => Reason::Exhausted,
        false => Reason::None,
    };
    notice(format_args!(
        "{}: limit {}, {} charged{}",
        Who(session),
        Limit::from_wire(change.limit),
        Charged(change.charged),
        Because(reason),
    ));
}

/// The role or the epoch changed.
fn transition(session: &Session, change: &Transition) {
    let say = match is_lost(change) || change.to == Role::Failed {
        true => warn,
        false => notice,
    };
    say(format_args!(
        "{}: {} -> {}, epoch {} of {}{}",
        Who(session),
        change.from,
        change.to,
        change.epoch,
        Owner(change.owner),
        Because(change.reason),
    ));
}

/// A heartbeat succeeded.
pub fn heartbeat(session: &Session, beat: &Heartbeat) {
    events::dm_lease_heartbeat(
        &session.superblock.uuid,
        u32::from(session.controller.controller()),
        beat.hb,
        beat.stamp_ns,
        beat.judged_ns.saturating_sub(beat.stamp_ns),
        beat.expiry_ns.unwrap_or(0),
    );
}

/// The controller does not claim although it could.
pub fn blocked(session: &Session, reason: Reason) {
    notice(format_args!(
        "{}: does not claim: {}",
        Who(session),
        reason.text()
    ));
}

/// The portion could not be released before the session ended or the system went to sleep.
pub fn not_released(session: &Session, why: Reason, refusal: Reason) {
    let who = Who(session);
    notice(format_args!(
        "{who}: {}, but not released: {}",
        why.text(),
        refusal.text()
    ));
}

/// The system must not go to sleep now.
pub fn not_parked(session: &Session) {
    let who = Who(session);
    notice(format_args!(
        "{who}: no system suspend while a mailbox command is under way"
    ));
}

/// A message was refused.
pub fn refused_message(session: &Session, command: Message, reason: Reason) {
    let who = Who(session);
    notice(format_args!(
        "{who}: message {command} refused: {}",
        reason.text()
    ));
}

/// Words that are no message.
pub fn bad_message(session: &Session, text: &str) {
    notice(format_args!("{}: {text}", Who(session)));
}

/// What the portion's lease lacks, once for each session [R10].
pub fn short_lease(session: &Session) {
    if let Some(shortfall) = session.superblock.timing.shortfall() {
        warn(format_args!("{}: {shortfall}", Who(session)));
    }
}

fn notice(line: fmt::Arguments<'_>) {
    pr_notice!("{}\n", line);
}

fn warn(line: fmt::Arguments<'_>) {
    pr_warn!("{}\n", line);
}
