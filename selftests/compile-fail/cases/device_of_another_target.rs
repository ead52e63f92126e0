// SPDX-License-Identifier: GPL-2.0

//! A device belongs to the table of one target. In the data of another target it would be used
//! after it was closed.

use crate::{
    dm::HeldBio,
    Probe, //
};

/// A device may be used while a bio of its target is held.
#[cfg(right)]
pub fn same_target(bio: &HeldBio<Probe>) {
    bio.with_data(|data| *data.spare.lock() = Some(data.dev));
}

/// The device of one held bio's target goes into the data of another's.
#[cfg(wrong)]
pub fn move_device(a: &HeldBio<Probe>, b: &HeldBio<Probe>) {
    a.with_data(|a| {
        b.with_data(|b| {
            //~ E0521 borrowed data escapes outside of closure
            *a.spare.lock() = Some(b.dev);
        })
    });
}
