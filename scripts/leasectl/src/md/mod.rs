// SPDX-License-Identifier: GPL-2.0
//! The md array in the data areas: where strays of an old owner can be, where they are, and their
//! repair.

pub mod array;
pub mod bitmap;
pub mod gf;
pub mod rows;
pub mod suspects;
