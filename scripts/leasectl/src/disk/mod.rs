// SPDX-License-Identifier: GPL-2.0
//! What is on the members: writing it, reading it, judging it.

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
