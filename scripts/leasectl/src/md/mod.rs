// SPDX-License-Identifier: GPL-2.0
//! The md array in the data areas: listing the rows that may carry strays of an old owner, finding
//! the strays, and repairing them.

pub mod array;
pub mod bitmap;
pub mod gf;
pub mod rows;
pub mod suspects;
