// SPDX-License-Identifier: GPL-2.0
//! The blocks on the members: where they stand and what each bit means.
//!
//! | file | content |
//! |---|---|
//! | [`ids`] | the names of things: controllers, incarnations, ballots, epochs, registers |
//! | [`bytes`] | fields one behind the other, and the test for zeros |
//! | [`crc32c`] | the checksum of every block |
//! | [`block`] | a block and its seal |
//! | [`layout`] | the places of superblock, mailboxes and data on a member |
//! | [`superblock`] | the settings that are formatted once and are the same for every controller |
//! | [`record`] | the head that both records of a mailbox have in common |
//! | [`ballot`], [`heartbeat`] | the two records |
//! | [`charge_list`], [`generations`] | the lists that the records carry |
//! | [`mailbox`] | what a read of the mailboxes of a member brought |

pub mod ballot;
pub mod block;
pub mod bytes;
pub mod charge_list;
pub mod crc32c;
pub mod generations;
pub mod heartbeat;
pub mod ids;
pub mod layout;
pub mod mailbox;
pub mod record;
pub mod superblock;
