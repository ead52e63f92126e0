// SPDX-License-Identifier: GPL-2.0

//! The glue: what joins the protocol core to device-mapper.
//!
//! | file | what it holds |
//! |---|---|
//! | [`target`] | the callbacks: a table line becomes a [`target::Instance`] |
//! | [`gate`] | the path of a bio: admitted, held, refused, acknowledged |
//! | [`outbox`] | the way of what has waited to its member |
//! | [`deferred`] | what dm core held back during a suspend |
//! | [`portion`] | a session: one controller on one portion, its machine, its threads |
//! | [`engine`] | what runs the machine: its events and its actions |
//! | [`mailbox`] | one member's preallocated I/O and the thread that submits it |
//! | [`heart`] | the heartbeat timer of a controller |
//! | [`registry`] | all sessions and timers; shutdown and system sleep |
//! | [`message`], [`report`] | what users say; what they are told |
//! | [`events`] | the trace events |
//! | [`bell`] | how threads are woken, from any context |
//! | [`superblock`] | reading the superblock of a member |
//!
//! # Who runs what
//!
//! ```text
//!  hrtimer (hard irq) --tick--> portion thread (FIFO) --request--> member thread (FIFO) --> disk
//!                                  ^      |    ^                                              |
//!   map/end_io --lapse, drained----+      |    +---------------- completion (irq) ------------+
//!   messages, sleep, shutdown: they run   +--latch, lease, limit--> gate
//!   the machine themselves                +--roles--> herald thread: dm events, openers
//!   end_io --room--> dispatcher thread --permit--> a thread of each member: submits held bios
//! ```
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
//! registry > a session's `command` > its `tables` > its `machine` > spinlocks (mailbox state, held
//! bios, outboxes, the bells of a timer, the answer). No bio is disposed of, no event raised and no device
//! opened under a spinlock; `map` and `end_io` take at most the lock of the held bios.

pub mod bell;
pub mod deferred;
pub mod engine;
pub mod events;
pub mod gate;
pub mod heart;
pub mod mailbox;
pub mod message;
pub mod outbox;
pub mod portion;
pub mod registry;
pub mod report;
pub mod superblock;
pub mod target;
