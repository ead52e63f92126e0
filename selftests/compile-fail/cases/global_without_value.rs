// SPDX-License-Identifier: GPL-2.0

//! Safe code cannot make the guard of a global value. Dropping it would use a mutex that was never
//! initialised.

use crate::dm::global::module_global;
#[cfg(right)]
use kernel::prelude::*;

module_global! {
    /// A place.
    pub struct PLACE(u32);
}

/// Code installs a value and reads it.
#[cfg(right)]
pub fn install() -> Result<Option<u32>> {
    let installed = PLACE::install(1)?;
    let value = PLACE::with(|value| *value);
    drop(installed);
    Ok(value)
}

/// Safe code makes a guard without a value.
#[cfg(wrong)]
pub fn without_value() {
    //~ E0423 expected function, tuple struct or tuple variant, found struct `PLACE`
    drop(PLACE(()));
}
