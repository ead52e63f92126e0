// SPDX-License-Identifier: GPL-2.0
//! The words of a message: a request of an operator to a portion.
//!
//! | message | asks to |
//! |---|---|
//! | `claim` | become owner, as soon as the protocol allows it |
//! | `release` | drain, then give the portion up; any controller may claim it |
//! | `handoff <controller>` | drain, then give the portion to this controller [R34] |
//! | `fence` | latch secondary now, without any disk |
//! | `drop` | fail the operations that `lapse_hold_ms` keeps, now |
//! | `confirm_dead <controller> <epoch> [force]` | trust the operator that the owner is gone |
//! | `accept_risk <epoch>` | continue with an exhausted limit under time alone [R15] |
//! | `repaired <epoch>` | stop charging the term of this epoch [R21] |
//! | `degraded <n>` | count n members as failed or rebuilding [R14] |
//! | `heartbeat_ms <n>` | heartbeat at this period [R1] |
//! | `histogram` | report how long heartbeats took: [`crate::proto::histogram`] [R47] |
//!
//! A message is sent to any mapped device of a portion and acts on the portion. Parsing does not
//! say whether the request is granted: if the state of the portion refuses it, the refusal is a
//! [`super::status::Reason`]. Words are lower case. A message that begins with `@` never arrives
//! here, because device-mapper handles it.
//!
//! Callers: the target's message function, which logs the text of an error and answers EINVAL. A
//! [`Message`] prints as it is written. No state, no locking.

use super::table::{number, ranged, slot, NumberError, HEARTBEAT_MS};
use crate::proto::codec::ids::{Slot, MAX_MEMBERS};
use core::fmt;

/// A request of an operator to a portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Become owner.
    Claim,
    /// Drain, then give the portion up.
    Release,
    /// Drain, then give the portion to this controller.
    Handoff(Slot),
    /// Latch secondary now.
    Fence,
    /// Fail the operations that are kept after a lapse.
    Drop,
    /// Treat the owner of an epoch as dead.
    ConfirmDead {
        /// The owner.
        controller: Slot,
        /// Its epoch, at least 1.
        epoch: u64,
        /// Even if it was heard lately.
        force: bool,
    },
    /// Continue with an exhausted limit in this epoch.
    AcceptRisk {
        /// The epoch in which the risk is taken, at least 1.
        epoch: u64,
    },
    /// The strays of the owner of this epoch are repaired.
    Repaired {
        /// The epoch of the term that is charged, at least 1.
        epoch: u64,
    },
    /// This many members of each protection group are failed or rebuilding.
    Degraded(u8),
    /// Heartbeat at this period, in milliseconds.
    HeartbeatMs(u32),
    /// Report how long heartbeats took since the session began.
    Histogram,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The message is empty.
    Empty,
    /// The first word is not the name of a message.
    Unknown,
    /// This argument has this fault.
    Argument(Argument, Fault),
    /// There are more words than the message takes.
    Excess,
}

/// The arguments that messages take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A controller, 1..=64.
    Controller,
    /// An epoch, at least 1: epoch 0 is that of a portion that was never owned.
    Epoch,
    /// The word `force`, or nothing.
    Force,
    /// A number of members, at most [`MAX_MEMBERS`].
    Members,
    /// A period in [`HEARTBEAT_MS`].
    Period,
}

/// The faults of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message ends before the argument.
    Missing,
    /// The word is not a number, or not the expected word.
    Invalid,
    /// The number is out of range.
    Range,
}

impl MessageError {
    /// The text for the operator.
    pub fn text(&self) -> &'static str {
        use Argument::*;
        use Fault::*;
        match self {
            Self::Empty => "message is empty",
            Self::Unknown => "unknown message",
            Self::Excess => "more words than the message takes",
            Self::Argument(Controller, Missing) => "controller number is missing",
            Self::Argument(Controller, Invalid) => "controller must be a number from 1 to 64",
            Self::Argument(Controller, Range) => "controller is out of range: from 1 to 64",
            Self::Argument(Epoch, Missing) => "epoch is missing",
            Self::Argument(Epoch, Invalid) => "epoch must be a number",
            Self::Argument(Epoch, Range) => "epoch is out of range: at least 1, below 2^64",
            Self::Argument(Force, _) => "only the word force may stand behind the epoch",
            Self::Argument(Members, Missing) => "number of degraded members is missing",
            Self::Argument(Members, Invalid) => "degraded members must be a number from 0 to 16",
            Self::Argument(Members, Range) => "degraded members are out of range: from 0 to 16",
            Self::Argument(Period, Missing) => "period is missing",
            Self::Argument(Period, Invalid) => "period must be a number from 1 to 60000",
            Self::Argument(Period, Range) => "period is out of range: from 1 to 60000",
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Message {
    /// Parses the words of a message, as split by device-mapper.
    ///
    /// # Errors
    ///
    /// The first error, from left to right.
    pub fn parse<'a, I>(words: I) -> Result<Self, MessageError>
    where
        I: IntoIterator<Item = &'a [u8]>,
    {
        let mut words = Words(words.into_iter());
        let command = match words.0.next().ok_or(MessageError::Empty)? {
            b"claim" => Self::Claim,
            b"release" => Self::Release,
            b"handoff" => Self::Handoff(words.controller()?),
            b"fence" => Self::Fence,
            b"drop" => Self::Drop,
            b"confirm_dead" => Self::ConfirmDead {
                controller: words.controller()?,
                epoch: words.epoch()?,
                force: words.force()?,
            },
            b"accept_risk" => Self::AcceptRisk {
                epoch: words.epoch()?,
            },
            b"repaired" => Self::Repaired {
                epoch: words.epoch()?,
            },
            b"degraded" => Self::Degraded(words.members()?),
            b"heartbeat_ms" => Self::HeartbeatMs(words.period_ms()?),
            b"histogram" => Self::Histogram,
            _ => return Err(MessageError::Unknown),
        };
        match words.0.next() {
            Some(_) => Err(MessageError::Excess),
            None => Ok(command),
        }
    }
}

/// The words that are still unread.
struct Words<I>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Words<I> {
    /// Reads the next word with `read`. An error is one of `argument`.
    fn argument<T>(
        &mut self,
        argument: Argument,
        read: impl FnOnce(&[u8]) -> Result<T, NumberError>,
    ) -> Result<T, MessageError> {
        let word = self
            .0
            .next()
            .ok_or(MessageError::Argument(argument, Fault::Missing))?;
        let fault = |error: NumberError| error.pick(Fault::Invalid, Fault::Range);
        read(word).map_err(|error| MessageError::Argument(argument, fault(error)))
    }

    fn controller(&mut self) -> Result<Slot, MessageError> {
        self.argument(Argument::Controller, slot)
    }

    fn epoch(&mut self) -> Result<u64, MessageError> {
        self.argument(Argument::Epoch, |word| match number(word)? {
            0 => Err(NumberError::Range),
            epoch => Ok(epoch),
        })
    }

    fn members(&mut self) -> Result<u8, MessageError> {
        self.argument(Argument::Members, |word| {
            let members = ranged(word, 0..=u32::from(MAX_MEMBERS))?;
            u8::try_from(members).map_err(|_| NumberError::Range)
        })
    }

    fn period_ms(&mut self) -> Result<u32, MessageError> {
        self.argument(Argument::Period, |word| ranged(word, HEARTBEAT_MS))
    }

    fn force(&mut self) -> Result<bool, MessageError> {
        match self.0.next() {
            None => Ok(false),
            Some(b"force") => Ok(true),
            Some(_) => Err(MessageError::Argument(Argument::Force, Fault::Invalid)),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim => f.write_str("claim"),
            Self::Release => f.write_str("release"),
            Self::Handoff(controller) => write!(f, "handoff {controller}"),
            Self::Fence => f.write_str("fence"),
            Self::Drop => f.write_str("drop"),
            Self::ConfirmDead {
                controller,
                epoch,
                force,
            } => {
                let force = if *force { " force" } else { "" };
                write!(f, "confirm_dead {controller} {epoch}{force}")
            }
            Self::AcceptRisk { epoch } => write!(f, "accept_risk {epoch}"),
            Self::Repaired { epoch } => write!(f, "repaired {epoch}"),
            Self::Degraded(members) => write!(f, "degraded {members}"),
            Self::HeartbeatMs(period) => write!(f, "heartbeat_ms {period}"),
            Self::Histogram => f.write_str("histogram"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    fn read(line: &str) -> Result<Message, MessageError> {
        Message::parse(line.split_ascii_whitespace().map(str::as_bytes))
    }

    fn controller(number: u8) -> Slot {
        Slot::from_controller(number).unwrap()
    }

    #[test]
    fn each_message_is_read_and_printed() {
        let dead = |controller, epoch, force| Message::ConfirmDead {
            controller,
            epoch,
            force,
        };
        for (line, command) in [
            ("claim", Message::Claim),
            ("release", Message::Release),
            ("handoff 64", Message::Handoff(controller(64))),
            ("fence", Message::Fence),
            ("drop", Message::Drop),
            ("confirm_dead 1 7", dead(controller(1), 7, false)),
            ("confirm_dead 1 7 force", dead(controller(1), 7, true)),
            (
                "accept_risk 18446744073709551615",
                Message::AcceptRisk { epoch: u64::MAX },
            ),
            ("repaired 1", Message::Repaired { epoch: 1 }),
            ("degraded 0", Message::Degraded(0)),
            ("degraded 16", Message::Degraded(16)),
            ("heartbeat_ms 60000", Message::HeartbeatMs(60_000)),
            ("histogram", Message::Histogram),
        ] {
            assert_eq!(read(line), Ok(command), "{line}");
            assert_eq!(command.to_string(), line);
        }
    }

    #[test]
    fn each_wrong_message_has_its_own_refusal() {
        use Argument::*;
        use Fault::*;
        use MessageError::{Argument as Wrong, Empty, Excess, Unknown};
        for (line, error) in [
            ("", Empty),
            ("Claim", Unknown),
            ("claims", Unknown),
            ("claim 1", Excess),
            ("drop all", Excess),
            ("histogram latency", Excess),
            ("confirm_dead 1 7 force now", Excess),
            ("degraded 1 1", Excess),
            ("handoff", Wrong(Controller, Missing)),
            ("handoff me", Wrong(Controller, Invalid)),
            ("handoff -1", Wrong(Controller, Invalid)),
            ("handoff 0", Wrong(Controller, Range)),
            ("handoff 65", Wrong(Controller, Range)),
            ("handoff 257", Wrong(Controller, Range)),
            ("confirm_dead", Wrong(Controller, Missing)),
            ("confirm_dead 1", Wrong(Epoch, Missing)),
            ("confirm_dead 1 last", Wrong(Epoch, Invalid)),
            ("confirm_dead 1 0", Wrong(Epoch, Range)),
            ("confirm_dead 1 18446744073709551616", Wrong(Epoch, Range)),
            ("confirm_dead 1 7 Force", Wrong(Force, Invalid)),
            ("accept_risk", Wrong(Epoch, Missing)),
            ("repaired 0", Wrong(Epoch, Range)),
            ("degraded", Wrong(Members, Missing)),
            ("degraded one", Wrong(Members, Invalid)),
            ("degraded 17", Wrong(Members, Range)),
            ("heartbeat_ms", Wrong(Period, Missing)),
            ("heartbeat_ms 1.5", Wrong(Period, Invalid)),
            ("heartbeat_ms 0", Wrong(Period, Range)),
            ("heartbeat_ms 60001", Wrong(Period, Range)),
        ] {
            assert_eq!(read(line), Err(error), "{line}");
        }
    }

    #[test]
    fn all_texts_differ_and_name_their_limits() {
        let mut errors = std::vec![
            MessageError::Empty,
            MessageError::Unknown,
            MessageError::Excess,
            MessageError::Argument(Argument::Force, Fault::Invalid),
        ];
        let numbers = [
            Argument::Controller,
            Argument::Epoch,
            Argument::Members,
            Argument::Period,
        ];
        for argument in numbers {
            let faults = [Fault::Missing, Fault::Invalid, Fault::Range];
            errors.extend(faults.map(|fault| MessageError::Argument(argument, fault)));
        }
        let texts: BTreeSet<_> = errors.iter().map(MessageError::text).collect();
        assert_eq!(texts.len(), errors.len());
        let ends = |argument, end: &str| {
            let text = MessageError::Argument(argument, Fault::Range).text();
            assert!(text.ends_with(end), "{text}");
        };
        ends(Argument::Members, &std::format!("to {MAX_MEMBERS}"));
        let (low, high) = (HEARTBEAT_MS.start(), HEARTBEAT_MS.end());
        ends(Argument::Period, &std::format!("from {low} to {high}"));
    }
}
