// SPDX-License-Identifier: GPL-2.0

//! The answer of a reservation command must be used.

use crate::dm::{
    reservation::{
        Failure,
        Key,
        Reservations, //
    },
    thread::Context, //
};

/// The answer is used.
#[cfg(right)]
pub fn register(to: &Reservations<'_>, context: &Context, new: Key) -> Result<(), Failure> {
    to.register(context, None, new)
}

/// The answer is ignored.
#[cfg(wrong)]
#[deny(unused_must_use)]
pub fn ignore(to: &Reservations<'_>, context: &Context, new: Key) {
    //~ error unused `core::result::Result` that must be used
    to.register(context, None, new);
}
