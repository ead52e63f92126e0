// SPDX-License-Identifier: GPL-2.0

//! Only `target_module!` can register a target type. A target type that other code registers could
//! be unregistered while tables use it, or the load of its module could fail after tables were
//! made.

use crate::dm::{
    registration::TargetType,
    Target,
    TargetModule, //
};
use kernel::prelude::*;

/// The state of a module, which names the target by its type.
pub struct State;

#[cfg(right)]
impl TargetModule for State {
    type Target = crate::Probe;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// Safe code can make a target type, but cannot register it.
pub static TARGET_TYPE: TargetType<crate::Probe> = TargetType::new::<crate::LoadedModule>();

/// Safe code registers a target type for a moment.
#[cfg(wrong)]
pub fn register_for_a_moment() -> Result {
    //~ E0603 struct `Registration` is private
    //~ E0624 associated function `new` is private
    let registration = crate::dm::registration::Registration::<crate::Probe>::new(&TARGET_TYPE)?;
    drop(registration);
    Ok(())
}

/// Safe code can read the name of a target.
pub const NAME: &CStr = <crate::Probe as Target>::NAME;
