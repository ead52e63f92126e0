// SPDX-License-Identifier: GPL-2.0
//! The members: formatting, reading, checking and repairing them.

pub mod advise;
pub mod check;
pub mod device;
pub mod foreign;
pub mod format;
pub mod md_layout;
pub mod member;
pub mod plan;
pub mod repair;
pub mod show;
pub mod upgrade;
