// SPDX-License-Identifier: GPL-2.0
//! The decision whether one state-changing operation may go to the device now.
//!
//! | file | content |
//! |---|---|
//! | [`permits`] | the permits that are open, and the one decision of the gate |
//! | [`waiting`] | the operations that wait for a permit, and their order |
//! | [`backlog`] | the arrival times of the operations that a suspended device held back |

pub mod backlog;
pub mod permits;
pub mod waiting;
