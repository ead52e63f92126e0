// SPDX-License-Identifier: GPL-2.0

//! What the log says: one line for each transition, and for each request that was refused [R47].
//!
//! A lease that was lost without being given up is a warning; everything else is a notice.

use super::portion::Session;
use crate::{
    dm::Op,
    proto::{
        controller::{Heartbeat, Transition},
        message::Command,
        record::Slot,
        status::{Reason, Role}, //
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

/// The role or the epoch changed.
pub fn transition(session: &Session, change: &Transition) {
    let owned = matches!(change.from, Role::Owner | Role::Releasing);
    let lost = owned && !matches!(change.to, Role::Owner | Role::Releasing);
    let say = if lost && !is_wanted(change.reason) {
        warn
    } else {
        notice
    };
    say(format_args!(
        "{}: {} -> {}, epoch {} of {}, {}",
        Who(session),
        change.from,
        change.to,
        change.epoch,
        Owner(change.owner),
        change.reason.text(),
    ));
}

/// A heartbeat succeeded.
pub fn heartbeat(_session: &Session, _beat: &Heartbeat) {}

/// A bio was refused, or completed too late.
pub fn refused(_op: Op, _sector: u64, _sectors: u32, _late: bool) {}

/// The controller does not claim although it could.
pub fn blocked(session: &Session, reason: Reason) {
    notice(format_args!(
        "{}: does not claim: {}",
        Who(session),
        reason.text()
    ));
}

/// A session could not be started when its first table was resumed.
pub fn not_started(session: &Session, error: Error) {
    let errno = error.to_errno();
    pr_err!(
        "{}: cannot start ({})\n",
        format_args!("{}", Who(session)),
        errno
    );
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

/// A message was refused.
pub fn refused_message(session: &Session, command: Command, reason: Reason) {
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

fn notice(line: fmt::Arguments<'_>) {
    pr_notice!("{}\n", line);
}

fn warn(line: fmt::Arguments<'_>) {
    pr_warn!("{}\n", line);
}

fn is_wanted(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Released
            | Reason::Handoff
            | Reason::Fence
            | Reason::Removed
            | Reason::Suspend
            | Reason::Reboot
    )
}
