// SPDX-License-Identifier: GPL-2.0
//! The portions of this host: mapping them, raising uevents, switching exports, printing metrics.

pub mod above;
pub mod activate;
pub mod ana;
pub mod config;
pub mod follow;
pub mod metrics;
pub mod udev;
