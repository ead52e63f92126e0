// SPDX-License-Identifier: GPL-2.0

//! Only `target_module!` can declare the state of a module.

use crate::dm::TargetModule;
use kernel::prelude::*;

/// The state of a module that `target_module!` does not declare.
pub struct State;

impl TargetModule for State {
    type Target = crate::Probe;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// The macro implements `IsLoaded` for the state that it declares.
#[cfg(right)]
pub fn declared() -> bool {
    fn is_loaded<T: crate::dm::registration::IsLoaded>() -> bool {
        true
    }
    is_loaded::<crate::Probe>()
}

/// Safe code implements `IsLoaded` for another state.
#[cfg(wrong)]
//~ E0200 the trait `IsLoaded` requires an `unsafe impl` declaration
impl crate::dm::registration::IsLoaded for State {
    fn target_type() -> &'static crate::dm::registration::TargetType<crate::Probe> {
        <crate::Probe as crate::dm::registration::IsLoaded>::target_type()
    }
}
