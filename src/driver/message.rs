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
            message::Command,
            status::Reason, //
        }, //
    },
};
use core::fmt::Write as _;
use kernel::prelude::*;

/// Carries out a message; an answer goes to `out`.
pub fn handle(session: &Session, args: Args<'_>, out: &mut TextWriter<'_>) -> Result<Reply> {
    let words = args.map(|word| word.to_bytes());
    let command = Command::parse(words).map_err(|error| {
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
    command: Command,
    out: &mut TextWriter<'_>,
) -> Result<Reply, Reason> {
    let done = match command {
        Command::Claim => session.claim(),
        Command::Release => session.release(None),
        Command::Handoff(successor) => session.release(Some(successor)),
        Command::Fence => {
            session.fence(Reason::Fence);
            Ok(())
        }
        Command::Drop => {
            session.gate.drop_kept();
            Ok(())
        }
        Command::ConfirmDead {
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
        Command::AcceptRisk { epoch } => session.command(controller::Command::AcceptRisk { epoch }),
        Command::Repaired { epoch } => session.command(controller::Command::Repaired { epoch }),
        Command::Degraded(failed) => {
            let failed = failed.into();
            session.command(controller::Command::Degraded { failed })
        }
        Command::HeartbeatMs(period_ms) => {
            registry::set_heartbeat_ms(session.controller, period_ms)
        }
        Command::Histogram => {
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
