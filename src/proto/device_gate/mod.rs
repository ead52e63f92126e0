// SPDX-License-Identifier: GPL-2.0
//! The device gate: a second lock, in the reservations of a member [R48 to R54].
//!
//! A lease trusts the owner's clock, and it trusts that a command reaches the medium within D or
//! never. The device gate needs no such trust for a key that it *evicts*: PREEMPT AND ABORT removes
//! the key, and ends the commands of the host that had it. The winner of an epoch evicts the keys
//! of earlier owners from each member before it admits a write there. It waits for D only for
//! commands that no eviction ends: those under a key that is missing already, those of its own
//! earlier term, those of terms that a full list of charges does not name, and those that the
//! member accepted while the reservation was lost.
//!
//! | file | what it holds |
//! |---|---|
//! | [`key`] | the key under which an incarnation is registered |
//! | [`command`] | the reservation commands of a member, and their answers |
//! | [`victims`] | the keys that an owner has to shut out of a member |
//! | [`member`] | the state machine of one member: join, evict, open, watch, leave |
//! | [`news`] | what the state machine tells its caller |
//!
//! Pure `core` Rust like all of `proto`: no lock, no clock. The caller carries out one command at a
//! time for each member, in a thread of its own.

pub mod command;
pub mod key;
pub mod member;
pub mod news;
pub mod victims;
