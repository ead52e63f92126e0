// SPDX-License-Identifier: GPL-2.0
//! The protocol core of dm-lease, outside the kernel.
//!
//! This crate adds nothing: it mounts `src/proto`, the same files that the module is built from,
//! and forbids what a kernel module must not do. Tests that need more than one file are in
//! `tests/`. Unit tests are at the end of each file of the core, or beside it in `x/tests.rs`.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[path = "../../../src/proto/mod.rs"]
pub mod proto;
