// SPDX-License-Identifier: GPL-2.0
//! Status lines, as the tools read them.

#![no_main]

use dm_lease_fuzz::lines::status_is_sound;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| status_is_sound(&String::from_utf8_lossy(input)));
