// SPDX-License-Identifier: GPL-2.0
//! The two blocks of a register, as they are and with checksums that fit, at the place that the
//! first one says it was written for.

#![no_main]

use dm_lease_fuzz::blocks::{place_of, registers_are_sound};
use dm_lease_fuzz::{blocks_of, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let blocks = blocks_of(input);
    let place = place_of(&blocks[0]);
    registers_are_sound(blocks.each_ref(), &place);
    registers_are_sound(sealed(blocks).each_ref(), &place);
});
