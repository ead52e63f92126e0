// SPDX-License-Identifier: GPL-2.0

//! That a module was declared by `target_module!` is said by that macro, and by nothing else.

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

/// What the macro says of the state that it declares.
#[cfg(right)]
pub fn declared() -> bool {
    fn is_loaded<T: crate::dm::registration::IsLoaded>() -> bool {
        true
    }
    is_loaded::<crate::Probe>()
}

/// Says the same of another one.
#[cfg(wrong)]
//~ E0200 the trait `IsLoaded` requires an `unsafe impl` declaration
impl crate::dm::registration::IsLoaded for State {}
