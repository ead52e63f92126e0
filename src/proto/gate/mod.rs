// SPDX-License-Identifier: GPL-2.0
//! The decision whether one state-changing operation may go to the device now.
//!
//! | file | content |
//! |---|---|
//! | [`permits`] | the permits that are open, and the one decision of the gate |
//! | [`lanes`] | where a permit is counted, and how |
//! | [`reign`] | which terms of this controller follow each other |
//! | [`waiting`] | the operations that wait for a permit, and their order |
//! | [`backlog`] | the arrival times of the operations that a suspended device held back |
//! | [`word`] | the atomic words that the gate is made of |

pub mod backlog;
pub mod lanes;
pub mod permits;
pub mod reign;
pub mod waiting;
pub mod word;
