// SPDX-License-Identifier: GPL-2.0

//! The glue: what joins the protocol core to device-mapper.
//!
//! | file | what it holds |
//! |---|---|
//! | [`target`] | the callbacks: a table line becomes a [`target::LeaseTable`] |
//! | [`gate`] | the path of a bio: admitted, held, refused, acknowledged |
//! | [`gate::outbox`] | the way of what has waited to its member |
//! | [`deferred`] | what dm core held back during a suspend |
//! | [`session`] | a session: a controller on a portion, its tables and threads |
//! | [`engine`] | what runs the machine: its events and its actions |
//! | [`inbox`] | how tasks ask the portion thread for something |
//! | [`mailbox`] | one member's preallocated I/O and the thread that submits it |
//! | [`timer`] | the heartbeat timer of a controller |
//! | [`registry`] | all sessions and timers; shutdown and system sleep |
//! | [`message`], [`report`] | what users say; what they are told |
//! | [`events`] | the trace events |
//! | [`waker`] | how threads are woken, from any context |
//! | [`list`] | a list that is changed without allocating |
//! | [`superblock`] | reading the superblock of a member |
//!
//! # Who runs what
//!
//! ```text
//!  hrtimer (hard irq) --tick--> portion thread (FIFO) --request--> member thread (FIFO) --> disk
//!                                  ^      |    ^                                              |
//!   map/end_io --lapse, drained----+      |    +---------------- completion (irq) ------------+
//!   messages, tables, sleep, shutdown:    +--latch, lease, limit--> gate
//!   requests, through the inbox           +--roles--> event thread: dm events, openers
//!   end_io --room--> dispatcher thread --permit--> a thread of each member: submits held bios
//! ```
//!
//! Only the portion thread runs the machine of a session.
//!
//! # Clocks
//!
//! The machine gets a reading of all clocks with each event, and counts by the raw clock; deadlines
//! of threads and the hold time of a lapse are moments of that clock. The end of a lease that a
//! gate has is a moment of the leaping clock, which is the raw clock and leaps at each sleep of the
//! system (see [`crate::dm::clock`]). Timers run on CLOCK_BOOTTIME. Traces print the raw clock.
//!
//! # Locks, outermost first
//!
//! registry > a session's `command` > its `tables` > its inbox's `turn` > spinlocks (mailbox state,
//! held bios, outboxes, the wakers of a timer, the inbox, what is shown). No bio is disposed of, no
//! event raised and no device opened under a spinlock; `map` and `end_io` take at most the lock of
//! the held bios.
//!
//! Two rules hold for every lock of this folder:
//!
//! 1. *Nothing is allocated under a lock* [R60]. A table becomes live (`preresume`) while its
//!    device is suspended. An allocation may wait for memory that is written back through that
//!    device; if it held a lock that `preresume` takes, the resume would wait for the allocation
//!    and the allocation for the resume. So an element of a list is allocated before the lock is
//!    taken ([`list`]), and freed after it is released. Lockdep checks the rule: `preresume` runs
//!    as if memory were being reclaimed.
//! 2. *A real-time thread takes no mutex* [R61]. An ordinary task may be preempted while it holds a
//!    mutex, and then not run for seconds on a busy machine. The portion, member and dispatcher
//!    threads take spinlocks only, whose holders are not preempted. What ordinary tasks want of the
//!    portion thread they ask through its [`inbox`].
//!
//! The mutexes, by whom they are taken, and what they are held over:
//!
//! - registry: constructors, destructors, the herald, shutdown, system sleep and `heartbeat_ms`;
//!   while a session is found, added or removed;
//! - `command`: messages; over one command until its answer, which is seconds for a release;
//! - `tables`: constructors, `preresume`, destructors and the herald; over a change of the tables
//!   until the portion thread knows it;
//! - `turn`: all of those; over one request until the portion thread's reply.

pub mod deferred;
pub mod engine;
pub mod events;
pub mod gate;
pub mod inbox;
pub mod list;
pub mod mailbox;
pub mod message;
pub mod registry;
pub mod report;
pub mod session;
pub mod superblock;
pub mod target;
pub mod timer;
pub mod waker;
