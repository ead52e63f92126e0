// SPDX-License-Identifier: GPL-2.0

//! A marker can be sent only while dm core defers the bios of the device, which is in `resume`. At
//! other times dm core would map the marker at once.

use crate::dm::*;
use kernel::sync::Arc;

/// `resume` sends the marker.
#[cfg(right)]
pub fn send(marker: &Arc<Marker>, ti: &Resuming<'_>) {
    marker.send(ti);
}

/// Another callback sends the marker.
#[cfg(wrong)]
pub fn send_in_a_message(marker: &Arc<Marker>, ti: &DmTarget) {
    //~ E0308 mismatched types
    marker.send(ti);
}

/// Another callback makes the proof that `resume` has.
#[cfg(wrong)]
pub fn forge(ti: &DmTarget) -> Resuming<'_> {
    //~ E0423 cannot initialize a tuple struct which contains private fields
    Resuming(ti)
}

/// `resume` keeps the proof until later.
#[cfg(wrong)]
pub fn keep<'a>(ti: Resuming<'a>) -> Resuming<'static> {
    //~ error lifetime may not live long enough
    ti
}
