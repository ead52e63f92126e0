// SPDX-License-Identifier: GPL-2.0
//! The lines that users write and read.
//!
//! | file | content |
//! |---|---|
//! | [`table`] | the arguments of a table line |
//! | [`message`] | the messages to a device |
//! | [`status`] | the status line, and the reasons of refusals and demotions |

pub mod message;
pub mod status;
pub mod table;
