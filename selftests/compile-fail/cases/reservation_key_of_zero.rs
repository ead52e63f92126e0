// SPDX-License-Identifier: GPL-2.0

//! A key is never zero. The driver of NVMe sends CLEAR and RELEASE with the key zero as "whatever
//! the key is", and a preempt of the key zero removes all other hosts.

use crate::dm::{
    reservation::{
        Failure,
        Key,
        Preempt,
        Reservations, //
    },
    thread::Context, //
};

/// A number may be zero, and is checked.
#[cfg(right)]
pub fn clear(to: &Reservations<'_>, context: &Context, own: u64) -> Result<(), Failure> {
    match Key::new(own) {
        Some(own) => to.clear(context, own),
        None => Ok(()),
    }
}

/// A number is used as a key.
#[cfg(wrong)]
pub fn clear_number(to: &Reservations<'_>, context: &Context) -> Result<(), Failure> {
    //~ E0308 mismatched types
    to.clear(context, 0)
}

/// A key is made by hand.
#[cfg(wrong)]
pub fn by_hand() -> Key {
    //~ E0423 cannot initialize a tuple struct which contains private fields
    Key(core::num::NonZeroU64::MIN)
}

/// The victim of a preempt is left out.
#[cfg(wrong)]
pub fn without_victim(own: Key, kind: crate::dm::reservation::Kind) -> Preempt {
    //~ E0063 missing field `victim` in initializer
    Preempt {
        own,
        kind,
        abort: true,
    }
}
