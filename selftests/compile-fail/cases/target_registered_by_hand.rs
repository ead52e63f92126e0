// SPDX-License-Identifier: GPL-2.0

//! A target type is registered by `target_module!` alone. One that is registered by hand could go
//! away while tables use it, or fail the load of its module after tables were made.

use crate::dm::{
    Target,
    TargetModule, //
};
use kernel::prelude::*;

/// What a module says of its target: the type.
pub struct State;

#[cfg(right)]
impl TargetModule for State {
    type Target = crate::Probe;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// Registers the target for a moment.
#[cfg(wrong)]
pub fn register_for_a_moment() -> Result {
    //~ E0603 struct `Registration` is private
    //~ E0624 associated function `new` is private
    let registration = crate::dm::registration::Registration::<crate::Probe>::new();
    drop(KBox::pin_init(registration, GFP_KERNEL)?);
    Ok(())
}

/// The name of a target may be asked for.
pub const NAME: &CStr = <crate::Probe as Target>::NAME;
