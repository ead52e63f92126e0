// SPDX-License-Identifier: GPL-2.0

//! The clock and the dice.
//!
//! All times in this crate are nanoseconds of `CLOCK_BOOTTIME`, which runs on while the machine is
//! suspended.

use kernel::bindings;

/// Returns the current time in nanoseconds of `CLOCK_BOOTTIME`. Any context but NMI.
///
/// This is the exact clock and not the "fast" variant, which may step back by some nanoseconds
/// when the clock is being updated (`ktime_get_boot_fast_ns()` in `kernel/time/timekeeping.c`).
#[inline]
pub fn boottime_ns() -> u64 {
    // What `ktime_get_boottime()` is in C; called by that name it costs a detour through a helper.
    // SAFETY: May be called in any context but NMI. The clock never is negative.
    unsafe { bindings::ktime_get_with_offset(bindings::tk_offsets_TK_OFFS_BOOT) as u64 }
}

/// Fills `bytes` from the kernel's random number generator. Any context.
pub fn fill_random(bytes: &mut [u8]) {
    // SAFETY: The pointer is valid for writes of that many bytes.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Returns a random number. Any context.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Returns a random 128-bit number. Any context.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    fill_random(&mut bytes);
    u128::from_ne_bytes(bytes)
}
