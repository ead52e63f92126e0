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
//! | [`layout`] | where superblock, mailboxes and data stand on a member |
//! | [`superblock`] | what is formatted once and is the same for every controller |
//! | [`record`] | what a mailbox says: ballot and heartbeat blocks, bit by bit |
//! | [`register`] | how a mailbox is written so that it never goes backwards |
//! | [`lease`] | when the lease begins, is extended, and ends for good |
//! | [`permits`] | how many operations may be open, and the one decision of the gate |
//! | [`waiting`] | who goes next when there is room again |
//! | [`backlog`] | when the operations arrived that a suspended device held back |
//! | [`observer`] | how long a silence is, and what proves it |
//! | [`paxos`] | who gets the next epoch |
//! | [`random`] | how long to let another candidate go first |
//! | [`round`] | what one write-then-read of all mailboxes has shown |
//! | [`controller`] | the machine that joins all of these for one controller and one portion |
//! | [`limit`] | how many strays the redundancy can repair |
//! | [`histogram`] | how long heartbeats took, and how close it was |
//! | [`table`], [`message`], [`status`] | the words users say and read |

pub mod backlog;
pub mod clocks;
pub mod controller;
pub mod crc32c;
pub mod histogram;
pub mod layout;
pub mod lease;
pub mod limit;
pub mod message;
pub mod observer;
pub mod paxos;
pub mod permits;
pub mod random;
pub mod record;
pub mod register;
pub mod round;
pub mod status;
pub mod superblock;
pub mod table;
pub mod time;
pub mod waiting;
