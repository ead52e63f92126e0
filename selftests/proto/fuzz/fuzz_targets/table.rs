// SPDX-License-Identifier: GPL-2.0
//! Table lines, as device-mapper splits them into words.

#![no_main]

use dm_lease_fuzz::lines::{split, table_is_sound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| table_is_sound(&split(input)));
