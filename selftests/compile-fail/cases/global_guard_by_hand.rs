// SPDX-License-Identifier: GPL-2.0

//! Only `install` makes the guard of a global value.

use crate::dm::global::{
    module_global,
    Installed,
    Place, //
};

module_global! {
    /// A place.
    pub struct PLACE(u32);
}

static OTHER: Place<u32> = Place::new();

/// Code can make a place without the macro.
#[cfg(right)]
pub fn install() -> kernel::error::Result<Installed<u32>> {
    OTHER.install(1)
}

/// Safe code makes the guard of a place that has no value.
#[cfg(wrong)]
pub fn without_value() -> PLACE {
    PLACE {
        //~ E0423 cannot initialize a tuple struct which contains private fields
        _installed: Installed(&OTHER),
    }
}
