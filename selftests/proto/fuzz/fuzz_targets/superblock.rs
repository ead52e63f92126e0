// SPDX-License-Identifier: GPL-2.0
//! Superblocks of two members, as they are and with checksums that fit.

#![no_main]

use dm_lease_fuzz::blocks::superblocks_are_sound;
use dm_lease_fuzz::{blocks_of, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let blocks = blocks_of(input);
    superblocks_are_sound(blocks.each_ref());
    superblocks_are_sound(sealed(blocks).each_ref());
});
