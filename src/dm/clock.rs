// SPDX-License-Identifier: GPL-2.0

//! Clocks and random numbers.
//!
//! # Clocks
//!
//! | clock | rate | during system sleep | use |
//! |---|---|---|---|
//! | [`raw_ns`]: `CLOCK_MONOTONIC_RAW` | that of the counter | stands still | durations |
//! | [`leaping_ns`]: `raw_ns` and all leaps | that of the counter | leaps | periods a sleep ends |
//! | timers: `CLOCK_BOOTTIME` | steered by 10 % or more | runs on | time of the next check |
//!
//! `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` are steered clocks. `adjtimex()` can change their rate by
//! 10 % with the tick length, by 0.05 % with the frequency, and by more while it corrects an
//! offset. A daemon that keeps the time of day right does so at any time. The raw clock converts
//! the counter of the machine with a constant, and is not steered.
//!
//! # Sleep
//!
//! The raw clock does not count the time of a system sleep. There are two ways to detect a sleep:
//!
//! - A [`super::notifier::SyscoreHook`] calls [`leap`] after a sleep. No task and no interrupt has
//!   run since the sleep on any CPU. Hence no code can take a value of [`leaping_ns`] from before
//!   the sleep for a current one.
//! - [`Reading::slept_ns`] is the difference of `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`. Both have
//!   the same rate, so that the difference changes only when the kernel adds the duration of a
//!   sleep. The kernel may add it some time after the sleep, when the RTC can be read. It adds
//!   nothing if it cannot find out the duration.

use super::Word64;
use kernel::bindings;

/// A word with a cache line of its own. It is read often and written rarely.
#[repr(align(64))]
struct Alone(Word64);

/// The sum of all leaps.
static LEAPS_NS: Alone = Alone(Word64::new(0));

/// The readings of all clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The value of [`raw_ns`].
    pub raw_ns: u64,
    /// The sum of all leaps, read shortly before `raw_ns`.
    pub leaps_ns: u64,
    /// The duration of all system sleeps since boot, as far as the kernel knows it.
    pub slept_ns: u64,
    /// The number of the counter behind the clocks. It changes when the kernel switches to another
    /// counter, because the old one was unstable or on request.
    pub source: u8,
}

/// Returns the current time in nanoseconds of `CLOCK_MONOTONIC_RAW`. Works in any context.
///
/// The value never steps back. An update of the timekeeper changes the starting point of the
/// conversion and not its rate, so that a reader with the old starting point computes the same
/// time. The counter is read in program order (`rdtsc_ordered()` on x86).
#[inline]
pub fn raw_ns() -> u64 {
    // SAFETY: `ktime_get_raw_fast_ns()` may be called in any context.
    unsafe { bindings::ktime_get_raw_fast_ns() }
}

/// Returns the sum of [`raw_ns`] and all leaps. Works in any context.
#[inline]
pub fn leaping_ns() -> u64 {
    // The leaps are read last. If a sleep comes between the two reads, the sum is a time after it.
    let raw_ns = raw_ns();
    raw_ns.wrapping_add(LEAPS_NS.0.load())
}

/// Makes [`leaping_ns`] leap forward. Works in any context.
pub fn leap(by_ns: u64) {
    let _ = LEAPS_NS.0.fetch_add(by_ns);
}

/// Returns the sum of all leaps. Works in any context.
pub fn leaps_ns() -> u64 {
    LEAPS_NS.0.load()
}

/// Reads all clocks. Process context.
pub fn read() -> Reading {
    // The leaps are read first. If a sleep comes between the reads, the reading shows the state
    // before the sleep, and the next reading shows the sleep.
    let leaps_ns = leaps_ns();
    // SAFETY: `ktime_mono_to_any()` may be called in any context.
    let slept_ns = unsafe { bindings::ktime_mono_to_any(0, bindings::tk_offsets_TK_OFFS_BOOT) };
    let mut snapshot = bindings::system_time_snapshot::default();
    // SAFETY: The pointer is valid for writes, and the clock id is a valid one. The clocks are
    // stopped only while no task runs (`timekeeping_suspend()`).
    unsafe {
        bindings::ktime_get_snapshot_id(
            bindings::CLOCK_MONOTONIC_RAW as bindings::clockid_t,
            &mut snapshot,
        )
    };
    let raw_ns = match snapshot.valid {
        0 => raw_ns(),
        _ => snapshot.monoraw as u64,
    };
    Reading {
        raw_ns,
        leaps_ns,
        slept_ns: slept_ns as u64,
        source: snapshot.cs_was_changed_seq,
    }
}

/// Fills `bytes` from the kernel's random number generator. Works in any context.
pub fn fill_random(bytes: &mut [u8]) {
    // SAFETY: The pointer is valid for writes of `bytes.len()` bytes.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Returns a random 64-bit number. Works in any context.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Returns a random 128-bit number. Works in any context.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    fill_random(&mut bytes);
    u128::from_ne_bytes(bytes)
}
