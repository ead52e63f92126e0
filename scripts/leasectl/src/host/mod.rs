// SPDX-License-Identifier: GPL-2.0
//! What a machine does with its portions: mapping them, telling udev, switching exports.

pub mod above;
pub mod activate;
pub mod ana;
pub mod config;
pub mod follow;
pub mod metrics;
pub mod udev;
