// SPDX-License-Identifier: GPL-2.0

//! What `dmsetup message` may ask.
//!
//! Any device of a portion takes messages for the portion. All of them are idempotent and bounded
//! in time. A message that is refused fails with an errno, and the reason stands in the log,
//! because device-mapper passes no text along with an error. The answer of `histogram` is text, all
//! others are done or not.

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

/// Carries out a message; an answer goes to `out`.
pub fn handle(session: &Session, args: Args<'_>, out: &mut TextWriter<'_>) -> Result<Reply> {
    let words = args.map(|word| word.to_bytes());
    let command = Message::parse(words).map_err(|error| {
        report::bad_message(session, error.text());
        EINVAL
    })?;
    carry_out(session, command, out).map_err(|reason| {
        report::refused_message(session, command, reason);
        errno(reason)
    })
}

fn carry_out(
    session: &Session,
    command: Message,
    out: &mut TextWriter<'_>,
) -> Result<Reply, Reason> {
    let done = match command {
        Message::Claim => session.claim(),
        Message::Release => session.release(None),
        Message::Handoff(successor) => session.release(Some(successor)),
        Message::Fence => {
            session.fence(Reason::Fence);
            Ok(())
        }
        Message::Drop => {
            session.gate.drop_kept();
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
