// SPDX-License-Identifier: GPL-2.0

//! The lines of the log: one for each transition, and one for each refused request [R47].
//!
//! The loss of a lease that the owner did not give up is a warning, and so is damage of a member or
//! of a mailbox. Everything else is a notice.
//!
//! Any task may print. The portion thread only traces. Locking: none.

use super::events;
use crate::{
    dm::trace::Word,
    proto::{
        codec::{
            ids::Slot,
            superblock::{Name, Superblock}, //
        },
        controller::{Budget, Heartbeat, Notice, Transition},
        limit::Limit,
        time::Timing,
        words::{
            message::Message,
            status::{Charged, Reason, Role}, //
        }, //
    },
};
use core::fmt;
use kernel::prelude::*;

/// The portion and the controller that a line or a trace event is about.
#[derive(Clone, Copy)]
pub struct Identity {
    /// The uuid of the portion.
    pub uuid: [u8; 16],
    /// The name of the portion.
    pub name: Name,
    /// The controller.
    pub controller: Slot,
}

impl Identity {
    /// The identity of a controller on the portion of a superblock.
    pub fn new(superblock: &Superblock, controller: Slot) -> Self {
        Self {
            uuid: superblock.uuid,
            name: superblock.name,
            controller,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} controller {}",
            self.name,
            self.controller.controller()
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
pub fn trace_transition(identity: &Identity, change: &Transition) {
    events::dm_lease_role(
        &identity.uuid,
        u32::from(identity.controller.controller()),
        &Word::new(change.from.token()),
        &Word::new(change.to.token()),
        change.epoch,
        &Word::new(change.reason.token()),
    );
}

/// Whether the owner lost the portion without giving it up.
pub fn is_lost(change: &Transition) -> bool {
    change.from.owns() && !change.to.owns() && !change.reason.is_wanted()
}

/// Writes a notice of the state machine to the log.
pub fn notice(identity: &Identity, notice: &Notice) {
    match notice {
        Notice::Transition(change) => transition(identity, change),
        Notice::Budget(change) => budget(identity, change),
        Notice::WentBack { member } => went_back(identity, *member),
        Notice::Unreadable(slots) => unreadable(identity, *slots),
        Notice::Outdated {
            member,
            generation,
            highest,
        } => print_warning(format_args!(
            "{identity}: the device of member {member} is a former disk: generation {generation}, \
             the member has {highest}; nothing is read or written there any more"
        )),
        // The portion thread traces heartbeats. There is no line for them.
        Notice::Heartbeat(_) => {}
    }
}

/// The numbers of controllers, with a blank before each.
struct Numbers(u64);

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Slot::all_in(self.0).try_for_each(|slot| write!(f, " {}", slot.controller()))
    }
}

/// The set of controllers changed whose mailboxes cannot be read on a majority of the members.
fn unreadable(identity: &Identity, slots: u64) {
    match slots {
        0 => print_notice(format_args!("{identity}: every mailbox can be read again")),
        _ => print_warning(format_args!(
            "{identity}: the mailboxes of these controllers cannot be read:{}; nobody joins or \
             takes over before they write them again, or leasectl repair does",
            Numbers(slots),
        )),
    }
}

/// A member lost records that it had acknowledged.
fn went_back(identity: &Identity, member: u8) {
    print_warning(format_args!(
        "{identity}: member {member} lost mailbox records that it had acknowledged: it went back \
         to an earlier state, and does not count until they are written again"
    ));
}

/// The limit of open permits changed, or the number of permits charged for earlier owners.
fn budget(identity: &Identity, change: &Budget) {
    let reason = match change.is_exhausted {
        true => Reason::Exhausted,
        false => Reason::None,
    };
    print_notice(format_args!(
        "{identity}: limit {}, {} charged{}",
        Limit::from_wire(change.limit),
        Charged(change.charged),
        Because(reason),
    ));
}

/// The role or the epoch changed.
fn transition(identity: &Identity, change: &Transition) {
    let say = match is_lost(change) || change.to == Role::Failed {
        true => print_warning,
        false => print_notice,
    };
    say(format_args!(
        "{identity}: {} -> {}, epoch {} of {}{}",
        change.from,
        change.to,
        change.epoch,
        Owner(change.owner),
        Because(change.reason),
    ));
}

/// A heartbeat succeeded.
pub fn heartbeat(identity: &Identity, beat: &Heartbeat) {
    events::dm_lease_heartbeat(
        &identity.uuid,
        u32::from(identity.controller.controller()),
        beat.hb,
        beat.stamp_ns,
        beat.judged_ns.saturating_sub(beat.stamp_ns),
        beat.expiry_ns.unwrap_or(0),
    );
}

/// The controller does not claim, although the portion is free.
pub fn blocked(identity: &Identity, reason: Reason) {
    print_notice(format_args!(
        "{identity}: does not claim: {}",
        reason.text()
    ));
}

/// The portion could not be released before the session ended or the system went to sleep.
pub fn not_released(identity: &Identity, why: Reason, refusal: Reason) {
    print_notice(format_args!(
        "{identity}: {}, but not released: {}",
        why.text(),
        refusal.text()
    ));
}

/// The system suspend was vetoed.
pub fn not_parked(identity: &Identity) {
    print_notice(format_args!(
        "{identity}: no system suspend while a mailbox command is under way"
    ));
}

/// A message was refused.
pub fn refused_message(identity: &Identity, command: Message, reason: Reason) {
    print_notice(format_args!(
        "{identity}: message {command} refused: {}",
        reason.text()
    ));
}

/// The words of a message could not be parsed.
pub fn bad_message(identity: &Identity, text: &str) {
    print_notice(format_args!("{identity}: {text}"));
}

/// Warns, once for each session, if the lease of the portion is short [R10].
pub fn short_lease(identity: &Identity, timing: &Timing) {
    if let Some(shortfall) = timing.shortfall() {
        print_warning(format_args!("{identity}: {shortfall}"));
    }
}

fn print_notice(line: fmt::Arguments<'_>) {
    pr_notice!("{}\n", line);
}

fn print_warning(line: fmt::Arguments<'_>) {
    pr_warn!("{}\n", line);
}
