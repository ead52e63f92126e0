// SPDX-License-Identifier: GPL-2.0
//! The protocol core: who may change a portion, and until when.
//!
//! Pure `core` Rust. Nothing here reads a clock, takes a lock, allocates or does I/O: time and the
//! results of I/O are inputs (`handle_*`), what is to be done comes out (`poll_*`). The same files
//! are compiled into the kernel module and into a host crate (`selftests/proto`), where they are
//! model-checked, simulated and fuzzed; what is proved there is what runs in the kernel.
//!
//! Where a rule lives:
//!
//! | file | rule |
//! |---|---|
//! | [`clocks`] | which clock counts, and when the time between two readings is not known |
//! | [`time`] | the timings of a portion and the two inequalities that make them safe |
//! | [`codec`] | the blocks on a member: layout, superblock, records, checksum |
//! | [`register`] | how a mailbox is written so that it never goes backwards |
//! | [`lease`] | when the lease begins, is extended, and ends for good |
//! | [`gate`] | how many operations may be open, which one is next, and which may not pass |
//! | [`observer`] | how long a silence is, and what proves it |
//! | [`paxos`] | which controller gets the next epoch |
//! | [`random`] | how long to let another candidate go first |
//! | [`round`] | what one write-then-read of all mailboxes has shown |
//! | [`controller`] | the state machine of one controller for one portion, made of the above |
//! | [`limit`] | how many strays the redundancy can repair |
//! | [`histogram`] | how long heartbeats took, and how close it was |
//! | [`words`] | table line, messages and status: the lines that users write and read |

pub mod clocks;
pub mod codec;
pub mod controller;
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
