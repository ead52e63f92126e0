// SPDX-License-Identifier: GPL-2.0

//! Which bios are tracked cannot change between `map` and `end_io`, because `end_io` reads the
//! per-bio data that `map` wrote.

use crate::dm::Tracked;
#[cfg(wrong)]
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// A choice made once, when the module is compiled.
#[cfg(right)]
pub const TRACKED: Tracked = match cfg!(MODULE) {
    true => Tracked::Everything,
    false => Tracked::Nothing,
};

#[cfg(wrong)]
static FLIP: Atomic<bool> = Atomic::new(false);

/// A choice that depends on when it is asked.
#[cfg(wrong)]
//~ E0015 cannot call non-const
pub const TRACKED: Tracked = match FLIP.load(Relaxed) {
    true => Tracked::Everything,
    false => Tracked::Nothing,
};
