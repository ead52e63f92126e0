// SPDX-License-Identifier: GPL-2.0
//! The protocol core: which controller may change a portion, and until when.
//!
//! Pure `core` Rust. No function here reads a clock, takes a lock, allocates or does I/O: time and
//! the results of I/O are inputs (`handle_*`), and the actions to take are outputs (`poll_*`). The
//! same files are compiled into the kernel module and into a host crate (`selftests/proto`), which
//! model-checks, simulates and fuzzes them. So the proofs are about the code that runs in the
//! kernel.
//!
//! Where a rule lives:
//!
//! | file | rule |
//! |---|---|
//! | [`clocks`] | which clock counts, and when the time between two readings is unknown |
//! | [`time`] | the timings of a portion and the two inequalities that make them safe |
//! | [`codec`] | the blocks on a member: layout, superblock, records, checksum |
//! | [`register`] | how a mailbox is written so that it never goes backwards |
//! | [`lease`] | when the lease begins, is extended, and ends for good |
//! | [`gate`] | how many operations may be open, which one is next, and which may not pass |
//! | [`observer`] | how long a silence lasts, and what proves it |
//! | [`paxos`] | which controller gets the next epoch |
//! | [`random`] | how long to let another candidate go first |
//! | [`round`] | what one write-then-read of all mailboxes has shown |
//! | [`controller`] | the state machine of one controller for one portion, made of the above |
//! | `device_gate` | the device gate: how an owner shuts earlier ones out of a member |
//! | [`limit`] | how many strays the redundancy can repair |
//! | [`histogram`] | how long heartbeats took, and how much of the lease was left |
//! | [`words`] | table line, messages and status: the lines that users write and read |

pub mod clocks;
pub mod codec;
pub mod controller;
// The kernel module does not use it yet.
#[cfg(feature = "model")]
pub mod device_gate;
pub mod gate;
pub mod histogram;
pub mod lease;
pub mod limit;
pub mod observer;
pub mod paxos;
pub mod random;
pub mod register;
pub mod round;
pub mod time;
pub mod words;
