// SPDX-License-Identifier: GPL-2.0
//! The actions of the state machine: what the caller has to do after an input.
//!
//! There are four kinds: a change of the gate, a transfer of a mailbox, a notice for the user, and
//! the answer to a command. [`super::Controller::poll_action`] returns them one by one. The caller
//! performs each one before it asks for the next.

use core::convert::Infallible;

use crate::proto::codec::ballot::BallotRecord;
use crate::proto::codec::heartbeat::HeartbeatRecord;
use crate::proto::codec::ids::{Side, Slot};
use crate::proto::words::status::{Reason, Role};

/// What the caller has to do.
///
/// `Io` is the type of a transfer. The state machine queues actions whose `Io` has no value,
/// because it builds a record at the moment at which it returns the write of that record.
// A record is large. It is moved once, from here to the block that is written; a box would
// allocate.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action<Io = MailboxIo> {
    /// Change the gate.
    Gate(GateChange),
    /// Begin a transfer, and report its end with [`super::Controller::handle_write`] or
    /// [`super::Controller::handle_read`].
    Io(Io),
    /// Tell the user.
    Report(Notice),
    /// The pending command has ended with this result.
    Answer(Result<(), Reason>),
}

/// A change of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateChange {
    /// Give the gate its first lease of this epoch. If a latch is in the way, the caller reports
    /// that with [`super::Controller::handle_lapse`].
    OpenEpoch {
        /// The epoch.
        epoch: u64,
        /// When the lease ends, by the clock of the gate.
        expiry_ns: u64,
    },
    /// Move the end of the lease. If the gate was latched meanwhile, the caller reports that with
    /// [`super::Controller::handle_lapse`].
    Extend {
        /// The end so far, by the clock of the gate.
        from_ns: u64,
        /// The new end, by the clock of the gate.
        to_ns: u64,
    },
    /// Latch the gate now. Operations that wait at it fail.
    Latch,
    /// Set the limit of the gate; 0 closes it.
    SetLimit(u32),
}

/// A transfer of mailbox blocks.
// See [`Action`].
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailboxIo {
    /// Write a block of the ballot register, with FUA.
    WriteBallot {
        /// The member to write to.
        member: u8,
        /// Which of the two blocks.
        side: Side,
        /// The content.
        record: BallotRecord,
    },
    /// Write a block of the heartbeat register.
    WriteHeartbeat {
        /// The member to write to.
        member: u8,
        /// Which of the two blocks.
        side: Side,
        /// Whether the block must be durable on completion, because it publishes the end of an
        /// epoch.
        fua: bool,
        /// The content.
        record: HeartbeatRecord,
    },
    /// Read the mailboxes of all slots.
    Read {
        /// The member to read from.
        member: u8,
    },
}

/// Something that the user, or a trace, learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The role or the epoch changed: one line and one event [R47].
    Transition(Transition),
    /// What an owner may have open, or what it is charged with, changed [R15].
    Budget(Budget),
    /// The set of slots whose mailboxes cannot be read on a majority of the members changed, a bit
    /// each. While the set is not empty, no controller joins and none takes over.
    Unreadable(u64),
    /// A heartbeat succeeded: for tracing.
    Heartbeat(Heartbeat),
    /// The device of a member is a disk that was replaced. It is not read and not written any
    /// more, and its data is not that of the portion [R56].
    Outdated {
        /// The member.
        member: u8,
        /// The generation of the device.
        generation: u32,
        /// The generation that the member has.
        highest: u32,
    },
    /// A member does not show what it acknowledged [R58].
    WentBack {
        /// The member.
        member: u8,
    },
}

/// A change of role or epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// The role before.
    pub from: Role,
    /// The role now.
    pub to: Role,
    /// The epoch now.
    pub epoch: u64,
    /// The owner of that epoch.
    pub owner: Option<Slot>,
    /// Why the controller was demoted, or why it does not claim.
    pub reason: Reason,
}

/// What an owner may have open, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The batch limit, as in a ballot record.
    pub limit: u32,
    /// What is charged for earlier terms; `u32::MAX` if one of them had no limit.
    pub charged: u32,
    /// Whether redundancy repairs no stray any more.
    pub is_exhausted: bool,
}

/// A successful heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Its number in the epoch.
    pub hb: u64,
    /// The clock before it was issued.
    pub stamp_ns: u64,
    /// The clock when it was judged.
    pub judged_ns: u64,
    /// The end of the lease that it granted, if it granted one.
    pub expiry_ns: Option<u64>,
}

impl Action<Infallible> {
    /// The same action, in the type that the caller gets.
    fn widen(self) -> Action {
        match self {
            Action::Gate(change) => Action::Gate(change),
            Action::Report(notice) => Action::Report(notice),
            Action::Answer(answer) => Action::Answer(answer),
        }
    }
}

/// Actions that are not transfers, in order. The caller empties the queue after each input, and no
/// input adds more than eleven: a lapse, a higher epoch and a foreign incarnation add two or three
/// each, and a member that went back and a complete round add the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Queue {
    items: [Option<Action<Infallible>>; Self::ROOM],
    /// An action found no room.
    overflow: bool,
}

impl Queue {
    pub(super) const ROOM: usize = 16;

    pub(super) const EMPTY: Self = Self {
        items: [None; Self::ROOM],
        overflow: false,
    };

    pub(super) fn gate(&mut self, change: GateChange) {
        self.push(Action::Gate(change));
    }

    pub(super) fn report(&mut self, notice: Notice) {
        self.push(Action::Report(notice));
    }

    pub(super) fn answer(&mut self, answer: Result<(), Reason>) {
        self.push(Action::Answer(answer));
    }

    fn push(&mut self, action: Action<Infallible>) {
        match self.items.iter_mut().find(|place| place.is_none()) {
            Some(free) => *free = Some(action),
            None => self.overflow = true,
        }
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        let first = self.items.first_mut()?.take()?;
        self.items.rotate_left(1);
        Some(first.widen())
    }

    /// Whether an action found no room.
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflow
    }

    /// Changes every moment that a queued action names.
    #[cfg(feature = "model")]
    pub(super) fn change_moments(&mut self, change: impl Fn(&mut u64)) {
        for action in self.items.iter_mut().flatten() {
            match action {
                Action::Io(never) => match *never {},
                Action::Gate(GateChange::OpenEpoch { expiry_ns, .. }) => change(expiry_ns),
                Action::Gate(GateChange::Extend { from_ns, to_ns }) => {
                    change(from_ns);
                    change(to_ns);
                }
                Action::Report(Notice::Heartbeat(beat)) => {
                    change(&mut beat.stamp_ns);
                    change(&mut beat.judged_ns);
                    if let Some(expiry_ns) = &mut beat.expiry_ns {
                        change(expiry_ns);
                    }
                }
                Action::Gate(GateChange::Latch | GateChange::SetLimit(_))
                | Action::Report(
                    Notice::Transition(_)
                    | Notice::Budget(_)
                    | Notice::Unreadable(_)
                    | Notice::Outdated { .. }
                    | Notice::WentBack { .. },
                )
                | Action::Answer(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Controller, Phase};
    use super::*;

    #[test]
    fn r47_an_action_that_finds_no_room_latches_and_says_so() {
        for failed_before in [false, true] {
            let mut controller = Controller::UNCONFIGURED;
            if failed_before {
                controller.phase = Phase::Failed;
            }
            for _ in 0..Queue::ROOM {
                controller.queue.gate(GateChange::Extend {
                    from_ns: 1,
                    to_ns: 2,
                });
            }
            assert!(!controller.queue.has_overflowed());
            controller.queue.gate(GateChange::SetLimit(1));
            let actions: std::vec::Vec<Action> =
                core::iter::from_fn(|| controller.poll_action()).collect();
            assert_eq!(actions.first(), Some(&Action::Gate(GateChange::Latch)));
            let gives_a_lease = |it: &Action| match it {
                Action::Gate(GateChange::OpenEpoch { .. } | GateChange::Extend { .. }) => true,
                Action::Gate(GateChange::Latch | GateChange::SetLimit(_))
                | Action::Io(_)
                | Action::Report(_)
                | Action::Answer(_) => false,
            };
            assert!(!actions.iter().any(gives_a_lease));
            let is_reported = |it: &Action| match it {
                Action::Report(Notice::Transition(change)) => change.to == Role::Failed,
                Action::Report(_) | Action::Gate(_) | Action::Io(_) | Action::Answer(_) => false,
            };
            assert!(actions.iter().any(is_reported));
            assert_eq!(controller.role(), Role::Failed);
            if !failed_before {
                assert_eq!(controller.reason(), Reason::Overflow);
            }
        }
    }
}
