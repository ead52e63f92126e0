// SPDX-License-Identifier: GPL-2.0
//! The device gate: a second lock, in the reservations of a member [R48 to R54].
//!
//! A lease trusts the owner's clock, and it trusts that a command reaches the medium within D or
//! never. Disks with persistent reservations need neither: the winner of an epoch *evicts* the
//! earlier owner's key from each member, which also ends that owner's commands there, before it
//! admits a write of its own.
//!
//! | file | what it holds |
//! |---|---|
//! | [`key`] | the key under which an incarnation is registered |
//! | [`command`] | the reservation commands of a member, and their answers |
//! | [`victims`] | the keys that an owner has to shut out of a member |
//! | [`member`] | the state machine of one member: join, evict, open, watch, leave |
//! | [`news`] | what it tells its caller |
//!
//! Pure `core` Rust like all of `proto`: no lock, no clock. The caller carries out one command at a
//! time for each member, in a thread of its own.

pub mod command;
pub mod key;
pub mod member;
pub mod news;
pub mod victims;
