// SPDX-License-Identifier: GPL-2.0

//! The clock and the dice.
//!
//! All times in this crate are nanoseconds of `CLOCK_BOOTTIME`, which runs on while the machine is
//! suspended.

use kernel::bindings;

/// Returns the current time in nanoseconds of `CLOCK_BOOTTIME`. Any context but NMI.
#[inline]
pub fn boottime_ns() -> u64 {
    // What `ktime_get_boottime()` is in C; called by that name it costs a detour through a helper.
    // SAFETY: May be called in any context but NMI. The clock never is negative.
    unsafe { bindings::ktime_get_with_offset(bindings::tk_offsets_TK_OFFS_BOOT) as u64 }
}

/// Returns the same clock, read without waiting for one who adjusts it. Any context.
///
/// Both read the same counter, and neither reads it before what the program did earlier
/// (`rdtsc_ordered()` on x86). While the kernel adjusts the clock's rate, [`boottime_ns`] waits;
/// this one goes on at the rate from before, which is as good a rate: whatever a bound on the rate
/// says of the time since a stamp of [`boottime_ns`] it says of this clock, too. It may be behind a
/// value read earlier on another processor, by as much as the two rates differ in the time that the
/// adjustment takes: less than a nanosecond, or 1 us for each 2 ms for which the adjusting
/// processor itself is held up (500 ppm). So it is neither monotonic nor good for a stamp. The time
/// that the machine slept is added before tasks run again. See `ktime_get_boot_fast_ns()` in
/// `kernel/time/timekeeping.c`.
#[inline]
pub fn boottime_fast_ns() -> u64 {
    // SAFETY: May be called in any context.
    unsafe { bindings::ktime_get_boot_fast_ns() }
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
