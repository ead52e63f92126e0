// SPDX-License-Identifier: GPL-2.0
//! The blocks on the members: where they stand and what each bit means.
//!
//! | file | content |
//! |---|---|
//! | [`layout`] | the places of superblock, mailboxes and data on a member |
//! | [`superblock`] | the settings that are formatted once and are the same for every controller |
//! | [`record`] | the ballot block and the heartbeat block of a mailbox |
//! | [`crc32c`] | the checksum of every block |

pub mod crc32c;
pub mod layout;
pub mod record;
pub mod superblock;
