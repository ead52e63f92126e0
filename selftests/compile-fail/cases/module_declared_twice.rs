// SPDX-License-Identifier: GPL-2.0

//! A crate declares one module. A second one could be what the kernel loads, while the state of the
//! first is in other hands.

//@ codegen

use crate::dm::TargetModule;
use kernel::prelude::*;

/// The state of a module.
pub struct State;

impl TargetModule for State {
    type Target = crate::Probe;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

//~ registration.rs error symbol `cleanup_module` is already defined
#[cfg(wrong)]
crate::dm::registration::target_module! {
    type: State,
    name: "dm_second",
    authors: ["dm-lease contributors"],
    description: "A second module",
    license: "GPL",
}
