// SPDX-License-Identifier: GPL-2.0

//! Device-mapper target `lease`: time-limited write leases for controllers sharing disks.
//!
//! This is the crate root of the module. It only registers: the protocol lives in `proto`, the
//! device-mapper abstractions in `dm`, and the glue between the two in `driver`. Module loading
//! and unloading are serialized by the kernel, so nothing here needs a lock.

use kernel::prelude::*;

pub mod dm;
pub mod driver;
pub mod proto;

module! {
    type: LeaseModule,
    name: "dm_lease",
    authors: ["dm-lease contributors"],
    description: "Device-mapper target with time-limited write leases",
    license: "GPL",
}

/// What exists while the module is loaded. Dropped in this order: no table can be loaded any more
/// before the services end.
#[pin_data]
pub struct LeaseModule {
    #[pin]
    target: dm::Registration<driver::target::LeaseTarget>,
    #[pin]
    services: driver::registry::Services,
}

impl kernel::InPlaceModule for LeaseModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            services <- driver::registry::Services::new(),
            target <- dm::Registration::new(),
        })
    }
}
