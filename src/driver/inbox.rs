// SPDX-License-Identifier: GPL-2.0

//! The inbox of a portion thread: the requests of ordinary tasks.
//!
//! Only the portion thread runs the state machine. It is a real-time thread, and must not wait for
//! an ordinary task, which may be preempted for a long time [R61]. So an ordinary task posts a
//! [`Request`], wakes the portion thread, and waits for the reply. The portion thread never waits
//! for a task:
//!
//! ```text
//!   ordinary task     ask: lock `turn` --> post the request --> wait ----------> reply, unlock
//!                                               |                                ^
//!   portion thread                              +--> take --> state machine -----+
//! ```
//!
//! A command such as `release` ends later than its reply. Its reply carries a ticket, and the task
//! waits for the answer with that ticket. A state machine has at most one pending command.
//!
//! Locking: `turn` is a mutex that only ordinary tasks take, one of them for each request. An
//! interrupt-disabling spinlock, whose holder cannot be preempted, protects the state.

use super::waker::{Reasons, Waker};
use crate::{
    dm::WaitQueue,
    proto::{
        codec::ids::Incarnation,
        controller::{Command, MemberDevice},
        words::status::Reason,
    },
};
use kernel::{
    new_mutex, new_spinlock_irq,
    prelude::*,
    sync::{Arc, Mutex, SpinLockIrq},
};

/// The number of answers that are kept for slow readers.
const ANSWERS: usize = 4;

/// The settings of the live tables of a session for its state machine.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Whether the controller claims without a message.
    pub claim_auto: bool,
    /// Whether the openers of a table may cache what they read [R31].
    pub guarded: bool,
    /// Whether the controller may not claim, for example because every table is read-only.
    pub read_only: bool,
    /// The lowest limit of open permits of a table.
    pub batch: Option<u32>,
}

/// A request to the portion thread.
#[derive(Clone, Copy)]
pub enum Request {
    /// The set of live tables changed.
    Tables(Settings),
    /// A table became live, and its member takes part from now on.
    Member {
        /// The settings of the live tables now.
        settings: Settings,
        /// The member.
        member: u8,
        /// What the superblock says of the device as a member.
        as_member: MemberDevice,
        /// Whether another device was this member before.
        moved: bool,
    },
    /// No table is live any more. The session submits nothing until a table becomes live.
    Rest,
    /// A command for the state machine.
    Command(Command),
    /// Every device was closed since this epoch was learnt [R31].
    OpenersGone(u64),
    /// This virtual machine is a copy, so join anew as this incarnation [R58].
    Fork(Incarnation),
}

/// The result of a request.
#[derive(Clone, Copy)]
pub enum Reply {
    /// The request is done.
    Done,
    /// The command has begun. [`Inbox::wait`] waits for its answer.
    Pending {
        /// The ticket to wait with.
        ticket: u64,
        /// How long the successor may take to prepare itself before the release begins.
        prepare_ns: u64,
    },
}

struct State {
    request: Option<Request>,
    reply: Option<Result<Reply, Reason>>,
    /// The portion thread has ended.
    closed: bool,
    /// The ticket of the last command that did not end with its reply.
    ticket: u64,
    /// Whether that command is pending.
    pending: bool,
    /// The last answers. The answer to a ticket is at the index `ticket % ANSWERS`.
    answers: [Result<(), Reason>; ANSWERS],
    /// The reason for which a task latched the gate, until the state machine knows it.
    latched: Option<Reason>,
}

/// The inbox of one session.
#[pin_data]
pub struct Inbox {
    waker: Arc<Waker>,
    #[pin]
    turn: Mutex<()>,
    #[pin]
    state: SpinLockIrq<State>,
    #[pin]
    changed: WaitQueue,
}

impl Inbox {
    /// An empty inbox for the thread that waits at `waker`.
    pub fn new(waker: Arc<Waker>) -> impl PinInit<Self> {
        pin_init!(Self {
            waker,
            turn <- new_mutex!((), "dm_lease inbox turn"),
            state <- new_spinlock_irq!(
                State {
                    request: None,
                    reply: None,
                    closed: false,
                    ticket: 0,
                    pending: false,
                    answers: [Ok(()); ANSWERS],
                    latched: None,
                },
                "dm_lease inbox"
            ),
            changed <- crate::dm::thread::new_wait_queue!("dm_lease inbox"),
        })
    }

    /// Posts a request and waits for the reply of the portion thread, which replies at once.
    /// Process context. Allocates nothing.
    ///
    /// # Errors
    ///
    /// The reason of a refusal. [`Reason::Removed`] if the session has ended.
    pub fn ask(&self, request: Request) -> Result<Reply, Reason> {
        let _turn = self.turn.lock();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Reason::Removed);
            }
            state.reply = None;
            state.request = Some(request);
        }
        self.waker.wake(Reasons::REQUEST);
        let mut reply = None;
        self.changed.wait(|| {
            let mut state = self.state.lock();
            reply = state.reply.take();
            reply.is_some() || state.closed
        });
        reply.unwrap_or(Err(Reason::Removed))
    }

    /// Waits for the answer to a pending command, but not longer than until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// The reason for which the command failed. [`Reason::ReleaseTimeout`] if the answer did not
    /// come in time, or if newer answers have replaced it.
    pub fn wait(&self, ticket: u64, deadline_ns: u64) -> Result<(), Reason> {
        let mut answer = None;
        self.changed.wait_until(deadline_ns, || {
            let state = self.state.lock();
            answer = state.answer_to(ticket);
            answer.is_some() || state.closed
        });
        answer.unwrap_or(Err(Reason::ReleaseTimeout))
    }

    /// Waits until no command is pending, but not longer than until `deadline_ns`. Returns whether
    /// none is.
    pub fn wait_idle(&self, deadline_ns: u64) -> bool {
        self.changed.wait_until(deadline_ns, || {
            let state = self.state.lock();
            !state.pending || state.closed
        })
    }

    /// Whether no command is pending.
    pub fn is_idle(&self) -> bool {
        !self.state.lock().pending
    }

    /// Notes why a task other than the portion thread is about to latch the gate.
    pub fn announce_latch(&self, reason: Reason) {
        self.state.lock().latched = Some(reason);
    }

    /// Why a task has latched the gate, if the state machine does not know it yet.
    pub fn latched(&self) -> Option<Reason> {
        self.state.lock().latched
    }

    /// Notes that the state machine knows of the latch.
    pub fn latch_is_known(&self) {
        self.state.lock().latched = None;
    }

    /// Takes the posted request. Portion thread.
    pub fn take(&self) -> Option<Request> {
        self.state.lock().request.take()
    }

    /// Begins a command that may end later than its reply, and returns its ticket. Portion thread,
    /// before it performs the actions of the command.
    pub fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.ticket = state.ticket.wrapping_add(1);
        state.pending = true;
        state.ticket
    }

    /// Ends the pending command. Portion thread.
    pub fn answer(&self, answer: Result<(), Reason>) {
        let mut state = self.state.lock();
        let place = place_of(state.ticket);
        if let Some(place) = state.answers.get_mut(place) {
            *place = answer;
        }
        state.pending = false;
        drop(state);
        self.changed.wake_all();
    }

    /// Replies to the request that was taken. Portion thread.
    pub fn reply(&self, reply: Result<Reply, Reason>) {
        self.state.lock().reply = Some(reply);
        self.changed.wake_all();
    }

    /// Closes the inbox, because the portion thread ends. No request is replied to any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.wake_all();
    }
}

impl State {
    /// The answer to a ticket, if there is one.
    fn answer_to(&self, ticket: u64) -> Option<Result<(), Reason>> {
        match self.ticket.wrapping_sub(ticket) {
            0 if self.pending => None,
            later if later < ANSWERS as u64 => self.answers.get(place_of(ticket)).copied(),
            _ => Some(Err(Reason::ReleaseTimeout)),
        }
    }
}

fn place_of(ticket: u64) -> usize {
    (ticket % ANSWERS as u64) as usize
}
