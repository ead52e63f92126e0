// SPDX-License-Identifier: GPL-2.0

//! The driver: it joins the protocol core to device-mapper.
//!
//! Imports run one way, from the left to the right and from the top to the bottom:
//!
//! ```text
//!   module ----------------+
//!   target --> message --> registry --> session --> engine --> gate ----> deferred
//!      |                      |            |           |         +------> events
//!      +--> superblock        +--> list    +--> tables +--> mailbox
//!                                                      +--> inbox
//!                                                      +--> report -----> events
//!                                                      +--> view
//!                                                      +--> timer ------> list
//!   engine, gate, inbox, mailbox, timer and those above them --> waker
//! ```
//!
//! A module may import every module that the arrows reach from it. `tables` uses `deferred`,
//! `gate`, `inbox` and `list`. Settings go down as values ([`inbox::Settings`]) and notices come up
//! as values ([`view::Published`]). The gate reaches a table through the trait
//! [`gate::GatedTable`].
//!
//! | file | what it holds |
//! |---|---|
//! | [`module`] | the state of the module: event thread, shutdown, system sleep |
//! | [`target`] | the callbacks: a table line becomes a [`target::LeaseTable`] |
//! | [`message`] | the messages of users |
//! | [`registry`] | all sessions and timers |
//! | [`session`] | a controller on a portion: its tables and threads |
//! | [`tables`] | the tables of a session |
//! | [`engine`] | runs the state machine: its inputs and its actions |
//! | [`gate`] | the path of a bio: admitted, held, refused, acknowledged |
//! | [`deferred`] | the bios that dm core holds back during a suspend |
//! | [`mailbox`] | the preallocated I/O of one member, and the thread that submits it |
//! | [`inbox`] | the requests of tasks to the portion thread |
//! | [`view`] | what other threads see of the state machine |
//! | [`timer`] | the heartbeat timer of a controller |
//! | [`report`], [`events`] | the lines of the log; the trace events |
//! | [`superblock`] | reads the superblock of a member |
//! | [`waker`] | wakes a thread, from any context |
//! | [`list`] | a list that changes without an allocation |
//!
//! # Who runs what
//!
//! ```text
//!  hrtimer (hard irq) --tick--> portion thread (FIFO) --request--> member thread (FIFO) --> disk
//!                                  ^      |    ^                                              |
//!   map/end_io --lapse, drained----+      |    +---------------- completion (irq) ------------+
//!   messages, tables, sleep, shutdown:    +--latch, lease, limit--> gate
//!   requests, through the inbox           +--notices--> event thread: log, dm events, openers
//!   end_io --room--> dispatcher thread --permit--> a thread of each member: submits held bios
//! ```
//!
//! Only the portion thread runs the state machine of a session: it owns the [`engine::Engine`].
//!
//! # Clocks
//!
//! The state machine gets a reading of all clocks with each event, and counts by the raw clock. The
//! deadlines of threads, the hold time of a lapse and the traces use the raw clock too. The gate
//! keeps the end of a lease by the leaping clock. That is the raw clock plus a leap for each sleep
//! of the system (see [`crate::dm::clock`]). Timers run on CLOCK_BOOTTIME.
//!
//! # Locks, outermost first
//!
//! registry > a session's `command` > its `tables` > its inbox's `turn` > spinlocks (mailbox state,
//! held bios, outboxes, the wakers of a timer, the inbox, the published view). Under a spinlock no
//! bio is ended or submitted, no event is raised and no device is opened. `map` and `end_io` take
//! at most the lock of the held bios.
//!
//! Two rules hold for every lock of this folder:
//!
//! 1. *Nothing is allocated under a lock* [R60]. A table becomes live (`preresume`) while its
//!    device is suspended. An allocation may wait for memory that is written back through that
//!    device. If a task allocated under a lock that `preresume` takes, the resume would wait for
//!    the allocation, and the allocation for the resume. So an element of a list is allocated
//!    before the lock is taken ([`list`]) and freed after the lock is released. Lockdep checks the
//!    rule, because `preresume` runs as if it reclaimed memory.
//! 2. *A real-time thread takes no mutex* [R61]. An ordinary task may be preempted while it holds a
//!    mutex, and on a busy host it may then not run for seconds. The portion, member and dispatcher
//!    threads take only spinlocks, whose holders are not preempted. Ordinary tasks send their
//!    requests to the portion thread through its [`inbox`].
//!
//! The mutexes:
//!
//! - The registry mutex is taken by constructors, destructors, the event thread, shutdown, system
//!   sleep and `heartbeat_ms`. It is held while a session is found, added or removed.
//! - `command` is taken by messages. It is held over one command until its answer, which takes
//!   seconds for a release.
//! - `tables` is taken by constructors, `preresume`, destructors and the event thread. It is held
//!   over a change of the tables until the portion thread knows the change.
//! - `turn` is taken by all of these. It is held over one request until the portion thread has
//!   replied.

pub mod deferred;
pub mod engine;
pub mod events;
pub mod gate;
pub mod inbox;
pub mod list;
pub mod mailbox;
pub mod message;
pub mod module;
pub mod registry;
pub mod report;
pub mod session;
pub mod superblock;
pub mod tables;
pub mod target;
pub mod timer;
pub mod view;
pub mod waker;
