// SPDX-License-Identifier: GPL-2.0

//! The set of tracked bios cannot change between `map` and `end_io`, because `end_io` reads the
//! per-bio data that `map` has written.

use crate::dm::Tracked;
#[cfg(wrong)]
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The set depends on the configuration of the kernel.
#[cfg(right)]
pub const TRACKED: Tracked = match cfg!(MODULE) {
    true => Tracked::Everything,
    false => Tracked::Nothing,
};

#[cfg(wrong)]
static FLIP: Atomic<bool> = Atomic::new(false);

/// The set depends on a variable.
#[cfg(wrong)]
//~ E0015 cannot call non-const
pub const TRACKED: Tracked = match FLIP.load(Relaxed) {
    true => Tracked::Everything,
    false => Tracked::Nothing,
};
