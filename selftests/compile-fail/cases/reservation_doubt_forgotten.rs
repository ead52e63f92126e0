// SPDX-License-Identifier: GPL-2.0

//! A user of reservations must consider each kind of failure, also that a command is in doubt.

use crate::dm::{
    reservation::{
        Failure,
        Key,
        Reservations, //
    },
    thread::Context, //
};

/// Each kind of failure is considered.
#[cfg(right)]
pub fn is_open(to: &Reservations<'_>, context: &Context, new: Key) -> Option<bool> {
    match to.register(context, None, new) {
        Ok(()) => Some(true),
        Err(Failure::Conflict | Failure::Unsupported | Failure::Withdrawn) => Some(false),
        Err(Failure::Doubt(_)) => None,
    }
}

/// A command in doubt is forgotten.
#[cfg(wrong)]
pub fn forget_doubt(to: &Reservations<'_>, context: &Context, new: Key) -> bool {
    //~ E0004 non-exhaustive patterns: `Err(Failure::Doubt(_))` not covered
    match to.register(context, None, new) {
        Ok(()) => true,
        Err(Failure::Conflict | Failure::Unsupported | Failure::Withdrawn) => false,
    }
}
