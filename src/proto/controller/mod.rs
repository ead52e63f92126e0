// SPDX-License-Identifier: GPL-2.0
//! The state machine of one controller for one portion: it joins, watches, claims, owns and hands
//! over.
//!
//! ```text
//!            own slot quiet, own          majority has
//!            records known                our record
//!  Joining ------------------> Announcing ------------> Secondary <-----------------+
//!     a foreign change                                   |    ^                     |
//!     restarts the listening            evidence that    |    | preempted, failed,  |
//!                                       the epoch is over|    | owner lives after all
//!                                                        v    |                     |
//!                                                      Claiming (phase 1, phase 2)  |
//!                                                        |                          |
//!                                                decided |                          |
//!                                                        v        release            |
//!                                                      Owner ------> Draining ------+
//!                                                        |  \         ^ | released  |
//!                                                        |   \ handoff| |           |
//!                                                        |    Offering  |           |
//!                                                        +-------+------+-----------+
//!                                                          latch: lapse, higher epoch,
//!                                                          claim seen, fence
//!  Owner <-- not prepared in time, unwilling, call-off -- Offering
//!  Owner <-- not drained in time -- Draining
//!  any --- records show another controller with this number (Joining listens anew instead), a copy
//!          of this one, or two owners of one epoch ---> Failed
//! ```
//!
//! A hand-over begins while the owner still writes. The owner names the successor in its heartbeats
//! (Offering), and the successor completes phase 1 and waits there. Then the owner closes the gate,
//! drains, and publishes that the epoch is over (see `handover`).
//!
//! # States and inputs
//!
//! The table shows the state after an input: `.` means the same state, `!` that the command is
//! refused, and a blank that the input cannot occur. The test `states.rs` compares the table with
//! the state machine, and prints the right one if they differ. The columns are the states:
//!
//! * `J` Joining, `A` Announcing, `S` Secondary;
//! * `1` Claiming, in phase 1 of the ballot; `W` Claiming as a successor that waits for the end of
//!   the epoch; `2` Claiming, in phase 2;
//! * `N` Owner before the first lease, `O` Owner with a lease, `H` Offering, `D` Draining;
//! * `F` Failed.
//!
//! In the columns `J` to `2`, another controller owns the present epoch. Before the input, that
//! controller is alive in the columns `J`, `A`, `S` and `W`, and dead in `1` and `2`. In the row
//! `time passes`, transfers go on. For a `timeout`, the time of `poll_timeout_ns` comes, and no
//! transfer ends before. For a `read:` input, every member shows such a record, and the test
//! completes one round, or two if the reads of the first one had already been issued. The test
//! stops at the first change of the state.
//!
//! ```text
//!                                            J  A  S  1  W  2  N  O  H  D  F
//! time passes, the other controller is dead  A  S  1  2  2  N  O  .  O  O  .
//! heartbeat timer                            .  .  .  .  .  .  .  .  .  .  .
//! timeout                                    .     .  S  S  S  S  S  S  O
//! lapse seen by the gate                     .  .  .  .  .  .  S  S  S  S  .
//! gate drained                               .  .  .  .  .  .  .  .  .  S  .
//! clock break                                .  .  .  S  S  S  S  S  S  S  .
//! two of three devices gone                  .  .  .  S  S  S  .  .  .  .  .
//! round fails                                .  .  .  S  S  S  .  .  .  .  .
//! round complete, nothing new                .  S  .  2  .  N  O  .  .  .  .
//! read: a later epoch                        .  S  .  S  S  S  S  S  S  S  .
//! read: a higher ballot                      .  S  .  S  S  S  S  S  S  S  .
//! read: the owner's next heartbeat           .  S  .  S  .  S
//! read: the owner released                   .  S  1  2  1  N
//! read: an offer to this controller          .  S  W  S  .  S
//! read: another incarnation in the own slot  .  F  F  F  F  F  F  F  F  F  .
//! read: an own record that was never written F  F  F  F  F  F  F  F  F  F  .
//! read: another owner of the same epoch      F  F  F  F  F  F  F  F  F  F  .
//! the hypervisor announces a copy            .  J  J  J  J  J  J  J  J  J  J
//! command: claim                             .  .  .  .  .  .  .  .  !  !  !
//! command: release                           .  .  .  !  !  !  !  D  !  !  .
//! command: release, to the other one         !  .  .  !  !  !  !  H  !  !  !
//! command: call off                          .  .  .  .  .  .  .  .  O  .  .
//! command: fence                             .  .  .  S  S  S  S  S  S  S  .
//! command: confirm dead, with force          !  .  1  .  1  .  !  !  !  !  !
//! command: leave                             .  .  .  S  S  S  !  D  !  !  .
//! command: stay                              .  .  .  .  .  .  .  .  .  .  .
//! ```
//!
//! # Files
//!
//! | file | content |
//! |---|---|
//! | `phase` | the states, and the evidence for a claim |
//! | `state` | the fields in groups, and which input changes each group |
//! | `action` | the actions that the caller has to perform, and their queue |
//! | `setup` | the configuration |
//! | `timers` | inputs that come with time |
//! | `io` | which blocks are written and read, and what comes back |
//! | `identity` | whether this controller is the only one with its number |
//! | `judge` | the consequences of a complete round |
//! | `claim` | when a claim begins, and how it ends without an epoch |
//! | `term` | how a term begins and ends |
//! | `handover` | how an owner gives its epoch back |
//! | `limits` | the limit of open writes |
//! | `charges` | the budget that is held for writes of earlier owners |
//! | `voices` | signs of life of the present owner and of charged owners |
//! | `generations` | which devices are members |
//! | `command` | what an operator may ask for |
//! | `report` | what the user sees |
//!
//! The protocol in these files was model-checked (see the README in the folder above).
//!
//! # Calls
//!
//! The caller may call any `handle_*` function at any time, with a clock value that does not
//! decrease. The caller reads the clocks *after* the event that the call reports, and passes the
//! whole reading to [`Controller::handle_clocks`] first. Any call may begin a heartbeat, whose
//! stamp is the clock value of the call. The stamp must be from after the event, and from before
//! any transfer that the caller then issues.
//!
//! After each input, which is the clocks and the calls that belong to one event, the caller calls
//! [`Controller::poll_action`] until it returns `None`, and performs each action before it asks for
//! the next one.
//! [`Controller::poll_timeout_ns`] returns the time at which the caller must call
//! [`Controller::handle_timeout`].
//!
//! Locking: none; the caller serialises the calls for one state machine.

mod action;
#[cfg(feature = "model")]
mod canonical;
mod charges;
mod claim;
mod command;
mod generations;
mod handover;
mod identity;
mod io;
mod judge;
mod limits;
mod phase;
mod report;
mod setup;
mod state;
mod term;
mod timers;
mod voices;

use super::clocks::Clocks;
use super::words::status::Reason;
use action::Queue;
use phase::{Pending, Phase};
use state::{Charged, Identity, Limits, Members, Policy, Reported, Rounds, Succession, Term};

pub use action::{Action, Budget, GateChange, Heartbeat, MailboxIo, Notice, Transition};
pub use command::{Command, Outcome};
pub use setup::{MemberDevice, Setup};

/// The state machine of one controller for one portion. The file `state` describes the groups of
/// fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    /// The configuration; `set_period`, `set_batch`, `handle_member` and `handle_fork` change it.
    setup: Setup,
    phase: Phase,
    /// Why the controller was demoted, or why its joining or its last claim did not succeed.
    reason: Reason,
    /// The last reading of the clocks; only `handle_clocks` changes it.
    clocks: Clocks,
    term: Term,
    succession: Succession,
    limits: Limits,
    charged: Charged,
    members: Members,
    rounds: Rounds,
    identity: Identity,
    policy: Policy,
    /// The command whose answer is due. A command sets it, a drain turns `Drain` into `Publish`,
    /// and the answer clears it.
    pending: Option<Pending>,
    reported: Reported,
    /// Actions that the caller has not taken yet.
    queue: Queue,
}

impl Controller {
    /// An unconfigured state machine. It is large: a caller with a small stack copies it to its
    /// place in memory and calls [`Controller::set_up`] there.
    pub const UNCONFIGURED: Self = Self {
        setup: Setup::UNCONFIGURED,
        phase: Phase::Joining,
        reason: Reason::None,
        clocks: Clocks::new(),
        term: Term::NONE,
        succession: Succession::NONE,
        limits: Limits::NONE,
        charged: Charged::NONE,
        members: Members::NONE,
        rounds: Rounds::NONE,
        identity: Identity::NONE,
        policy: Policy::NONE,
        pending: None,
        reported: Reported::NONE,
        queue: Queue::EMPTY,
    };

    /// The next action, or `None` if there is nothing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.queue.has_overflowed() {
            self.withdraw();
        }
        self.queue
            .pop()
            .or_else(|| self.poll_notice().map(Action::Report))
            .or_else(|| self.poll_io().map(Action::Io))
    }
}
