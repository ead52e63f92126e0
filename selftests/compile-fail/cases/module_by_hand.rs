// SPDX-License-Identifier: GPL-2.0

//! The module type that `target_module!` makes cannot be used for another state. Such a state could
//! be forgotten, or its load could fail after the registration.

use crate::dm::TargetModule;
use kernel::{
    prelude::*,
    InPlaceModule, //
};

/// The state of a module that `target_module!` does not declare.
pub struct State;

impl TargetModule for State {
    type Target = crate::Probe;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// Safe code can name the declared module. A second load fails with `EBUSY`.
#[cfg(right)]
pub fn load_again(module: &'static ThisModule) -> Result {
    let loaded = crate::LocalModule::init(module);
    KBox::pin_init(loaded, GFP_KERNEL).map(drop)
}

/// Safe code loads another state.
#[cfg(wrong)]
pub fn load(module: &'static ThisModule) -> Result {
    //~ E0277 the trait bound `Loaded<State>: InPlaceModule` is not satisfied
    let loaded = <crate::dm::registration::Loaded<State> as InPlaceModule>::init(module);
    KBox::pin_init(loaded, GFP_KERNEL).map(drop)
}
