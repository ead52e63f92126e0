// SPDX-License-Identifier: GPL-2.0
//! The interface to the kernel: calls of `dmsetup`, its output, and the events of device-mapper.

pub mod events;
pub mod fence;
pub mod follow;
pub mod mapped;
pub mod sessions;
pub mod status;
pub mod table;
pub mod watch;
