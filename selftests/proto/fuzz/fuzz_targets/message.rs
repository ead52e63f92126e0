// SPDX-License-Identifier: GPL-2.0
//! Messages, as device-mapper splits them into words.

#![no_main]

use dm_lease_fuzz::lines::{message_is_sound, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| message_is_sound(&split(input)));
