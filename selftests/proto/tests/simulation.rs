// SPDX-License-Identifier: GPL-2.0
//! Random runs: one seed, one run.

mod world;

use world::{Config, Faults, Rng, Violation, World, MS};

#[test]
fn smoke() {
    let mut world = World::new(Config::healthy(2, 1));
    let result = world.run(20_000 * MS);
    println!("{}", world.timeline(400));
    println!("{:?} {:?}", result, world.monitor.stats);
    println!("{:?}", world.monitor.leases);
}
