// SPDX-License-Identifier: GPL-2.0

//! A device belongs to the table of one target. Another target could use the device after it was
//! closed.

use crate::{
    dm::*,
    Probe, //
};

/// A target uses its own device while it holds a bio.
#[cfg(right)]
pub fn same_target(bio: &HeldBio<Probe>) {
    bio.with_data(|data| *data.spare.lock() = Some(data.dev));
}

/// The device of one held bio's target is stored in the data of another target.
#[cfg(wrong)]
pub fn move_device(a: &HeldBio<Probe>, b: &HeldBio<Probe>) {
    a.with_data(|a| {
        b.with_data(|b| {
            //~ E0521 borrowed data escapes outside of closure
            *a.spare.lock() = Some(b.dev);
        })
    });
}

/// A bio is sent to the device of another target.
#[cfg(wrong)]
pub fn remap_elsewhere<'a, 'b>(bio: MapBio<'a, Probe>, dev: DmDevice<'b>) -> MapOutcome<'a> {
    //~ error lifetime may not live long enough
    bio.remap(dev, 0)
}

/// A bio is aimed at the device of another target.
#[cfg(wrong)]
pub fn aim_elsewhere<'a, 'b>(bio: MapBio<'a, Probe>, dev: DmDevice<'b>) -> AimedBio<'a, Probe> {
    //~ error lifetime may not live long enough
    bio.locate().aim(dev, 0, 0)
}
