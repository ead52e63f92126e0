// SPDX-License-Identifier: GPL-2.0

//! How tasks ask the portion thread for something.
//!
//! Only the portion thread runs the machine. It is a real-time thread, and must not wait for an
//! ordinary task that other tasks keep from running [R61]. So an ordinary task posts a
//! [`Request`], wakes the portion thread, and waits for the reply; the portion thread waits for
//! nobody:
//!
//! ```text
//!   ordinary task     ask: lock `turn` --> post the request --> wait ----------> reply, unlock
//!                                               |                                ^
//!   portion thread                              +--> take --> run the machine --> reply
//! ```
//!
//! A command such as `release` ends later than its reply: the reply carries a ticket, with which
//! the task waits for the answer. At most one command is pending in a machine at a time.
//!
//! Locking: `turn` is a mutex that only ordinary tasks take, one for each request. The state is
//! under an interrupt-disabling spinlock, whose holder cannot be preempted.

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

/// Answers that a slow reader can be behind with.
const ANSWERS: usize = 4;

/// What the live tables of a session mean for its machine.
#[derive(Clone, Copy)]
pub struct Wishes {
    /// A table claims by itself.
    pub claim_auto: bool,
    /// The openers of a table may cache what they read [R31].
    pub guarded: bool,
    /// Nothing may be claimed, because every table is read-only.
    pub read_only: bool,
    /// The lowest limit of open permits that a table asks for.
    pub batch: Option<u32>,
}

/// What the portion thread is asked for.
#[derive(Clone, Copy)]
pub enum Request {
    /// A table came or went.
    Tables(Wishes),
    /// A table became live: its member takes part from now on.
    Member {
        /// What the live tables mean now.
        wishes: Wishes,
        /// The member.
        member: u8,
        /// What its superblock says of its device.
        as_member: MemberDevice,
        /// Whether another device was this member before.
        moved: bool,
    },
    /// No table is live any more: nothing is written or read until one is.
    Rest,
    /// A command for the machine.
    Command(Command),
    /// Nobody has had a device open since this epoch was learnt [R31].
    OpenersGone(u64),
    /// This virtual machine is a copy: join anew, as this incarnation [R58].
    Fork(Incarnation),
}

/// What became of a request.
#[derive(Clone, Copy)]
pub enum Reply {
    /// It is done.
    Done,
    /// It has begun; the answer is waited for with [`Inbox::wait`].
    Pending {
        /// What to wait for.
        ticket: u64,
        /// How long a successor may take to prepare itself before anything else begins.
        prepare_ns: u64,
    },
}

struct State {
    request: Option<Request>,
    reply: Option<Result<Reply, Reason>>,
    /// The portion thread has ended.
    closed: bool,
    /// The number of the last command that did not end with its reply.
    ticket: u64,
    /// Whether its answer is still due.
    pending: bool,
    /// The last answers; that to a ticket is at the ticket's number modulo their count.
    answers: [Result<(), Reason>; ANSWERS],
    /// Why the gate was latched by a task that has not told the machine yet.
    latched: Option<Reason>,
}

/// The requests of one session; see the top.
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

    /// Posts a request and waits until the portion thread has seen to it, which it does at once.
    /// Process context. Allocates nothing.
    ///
    /// # Errors
    ///
    /// Why it was refused. [`Reason::Removed`] if the session has ended.
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

    /// Waits for the end of a command that did not end with its reply, but not longer than until
    /// `deadline_ns`.
    ///
    /// # Errors
    ///
    /// What the command came to, or [`Reason::ReleaseTimeout`] if its answer did not come in time
    /// or was overtaken by several others.
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

    /// Says why the gate is about to be latched by a task other than the portion thread.
    pub fn announce_latch(&self, reason: Reason) {
        self.state.lock().latched = Some(reason);
    }

    /// Why a task has latched the gate, if it has and the machine does not know yet.
    pub fn latched(&self) -> Option<Reason> {
        self.state.lock().latched
    }

    /// The machine knows that the gate is latched.
    pub fn latch_is_known(&self) {
        self.state.lock().latched = None;
    }

    /// The request that was posted. Portion thread.
    pub fn take(&self) -> Option<Request> {
        self.state.lock().request.take()
    }

    /// A command begins that may end later than its reply; returns its ticket. Portion thread,
    /// before the actions that follow are carried out.
    pub fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.ticket = state.ticket.wrapping_add(1);
        state.pending = true;
        state.ticket
    }

    /// The pending command has come to its end. Portion thread.
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

    /// The portion thread ends: nobody is replied to any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.wake_all();
    }
}

impl State {
    /// The answer to a ticket, if it is there.
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
