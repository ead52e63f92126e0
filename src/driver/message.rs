// SPDX-License-Identifier: GPL-2.0

//! The messages of the target (`dmsetup message`).
//!
//! Any device of a portion takes messages for the portion. All messages are idempotent and bounded
//! in time. A refused message fails with an errno, and its reason is in the log, because
//! device-mapper returns no text with an error. Only `histogram` answers with text.
//!
//! Locking: see [`crate::driver`]. A message may wait.

use super::{registry, report, session::Session};
use crate::{
    dm::{Args, Reply, TextWriter},
    proto::{
        controller,
        words::{
            message::Message,
            status::Reason, //
        }, //
    },
};
use core::fmt::Write as _;
use kernel::prelude::*;

/// Performs a message and writes its answer to `out`.
pub fn handle(session: &Session, args: Args<'_>, out: &mut TextWriter<'_>) -> Result<Reply> {
    let words = args.map(|word| word.to_bytes());
    let command = Message::parse(words).map_err(|error| {
        report::bad_message(&session.shared.identity, error.text());
        EINVAL
    })?;
    perform(session, command, out).map_err(|reason| {
        report::refused_message(&session.shared.identity, command, reason);
        errno(reason)
    })
}

fn perform(session: &Session, command: Message, out: &mut TextWriter<'_>) -> Result<Reply, Reason> {
    let done = match command {
        Message::Claim => session.claim(),
        Message::Release => session.release(None),
        Message::Handoff(successor) => session.release(Some(successor)),
        Message::Fence => {
            session.fence(Reason::Fence);
            Ok(())
        }
        Message::Drop => {
            session.shared.gate.drop_held_back();
            Ok(())
        }
        Message::ConfirmDead {
            controller,
            epoch,
            force,
        } => {
            let owner = controller;
            session.command(controller::Command::ConfirmDead {
                owner,
                epoch,
                force,
            })
        }
        Message::AcceptRisk { epoch } => session.command(controller::Command::AcceptRisk { epoch }),
        Message::Repaired { epoch } => session.command(controller::Command::Repaired { epoch }),
        Message::Degraded(failed) => {
            let failed = failed.into();
            session.command(controller::Command::Degraded { failed })
        }
        Message::HeartbeatMs(period_ms) => {
            registry::set_heartbeat_ms(session.controller, period_ms)
        }
        Message::Histogram => {
            let _ = write!(out, "{}", session.histogram());
            return Ok(Reply::Text);
        }
    };
    done.map(|()| Reply::Done)
}

fn errno(reason: Reason) -> Error {
    match reason {
        Reason::UnknownController | Reason::WrongEpoch | Reason::OwnNumber => EINVAL,
        Reason::PeriodUnfit => ERANGE,
        Reason::NotOwner => EPERM,
        Reason::ReleaseTimeout | Reason::Undecided | Reason::Unprepared => ETIMEDOUT,
        Reason::NoMajority | Reason::Lapse => EIO,
        _ => EBUSY,
    }
}
