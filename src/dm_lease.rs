// SPDX-License-Identifier: GPL-2.0

//! Device-mapper target `lease`: time-limited write leases for controllers sharing disks.
//!
//! This is the crate root of the module. It only registers: the protocol lives in `proto`, the
//! device-mapper abstractions in `dm`, and the glue between the two in `driver`. Module loading
//! and unloading are serialized by the kernel, so nothing here needs a lock.

pub mod dm;
pub mod driver;
pub mod proto;

dm::target_module! {
    type: driver::module::Services,
    name: "dm_lease",
    authors: ["dm-lease contributors"],
    description: "Device-mapper target with time-limited write leases",
    license: "GPL",
}
