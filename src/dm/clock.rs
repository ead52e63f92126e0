// SPDX-License-Identifier: GPL-2.0

//! The clocks and the dice.
//!
//! # Clocks
//!
//! | clock | its rate | while the system sleeps | for |
//! |---|---|---|---|
//! | [`raw_ns`]: `CLOCK_MONOTONIC_RAW` | that of the counter | stands still | durations |
//! | [`leaping_ns`]: the same and all leaps | the same | leaps | what a sleep must end |
//! | timers: `CLOCK_BOOTTIME` | steered, up to 10 % and more | runs on | when to look again |
//!
//! `CLOCK_MONOTONIC`, and `CLOCK_BOOTTIME` with it, is a steered clock: `adjtimex()` may change its
//! rate by 10 % with the tick length, by 0.05 % with the frequency, and by more while it works off
//! an offset. A program that keeps the time of day right does so without asking. The raw clock is
//! the counter of the machine, converted with a constant: nobody steers it.
//!
//! # Sleep
//!
//! The raw clock does not count the time that the system sleeps. There are two ways to notice it:
//!
//! - [`leap`] is for a [`super::notifier::SyscoreHook`]: no task and no interrupt has run since the
//!   sleep, on any CPU, so that a value of [`leaping_ns`] from before is old for everybody.
//! - [`Reading::slept_ns`] is `CLOCK_BOOTTIME` less `CLOCK_MONOTONIC`. Both are steered alike, so
//!   that the difference is exact: it changes when the kernel adds the time of a sleep, and never
//!   else. The kernel may do that some time after the sleep, when the RTC can be read again; where
//!   it does not know how long the system has slept, it does not do so at all.

use super::Word64;
use kernel::bindings;

/// A word with a cache line of its own: it is read often, and written hardly ever.
#[repr(align(64))]
struct Alone(Word64);

/// The sum of all leaps.
static LEAPS_NS: Alone = Alone(Word64::new(0));

/// What the clocks say at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// As [`raw_ns`].
    pub raw_ns: u64,
    /// How far [`leaping_ns`] was ahead of it, at this moment or before.
    pub leaps_ns: u64,
    /// How long the system has slept since it was booted, as far as the kernel knows.
    pub slept_ns: u64,
    /// The counter behind the clocks: another number after the kernel has exchanged it, because it
    /// has found the old one to be unstable, or because it was told to.
    pub source: u8,
}

/// Returns the current time in nanoseconds of `CLOCK_MONOTONIC_RAW`. Any context.
///
/// The value never steps back: what the kernel does with the clock now and then changes where the
/// conversion begins, and not its rate, so that a reader who is late for that computes the same.
/// The counter is not read before what the program did earlier (`rdtsc_ordered()` on x86).
#[inline]
pub fn raw_ns() -> u64 {
    // SAFETY: May be called in any context.
    unsafe { bindings::ktime_get_raw_fast_ns() }
}

/// Returns the raw clock and all leaps so far. Any context.
#[inline]
pub fn leaping_ns() -> u64 {
    // The leaps are read last: a value that is computed over a sleep is one from behind it.
    let raw_ns = raw_ns();
    raw_ns.wrapping_add(LEAPS_NS.0.load())
}

/// Makes [`leaping_ns`] leap forward. Any context.
pub fn leap(by_ns: u64) {
    let _ = LEAPS_NS.0.fetch_add(by_ns);
}

/// Returns how far [`leaping_ns`] is ahead of [`raw_ns`]. Any context.
pub fn leaps_ns() -> u64 {
    LEAPS_NS.0.load()
}

/// Reads all clocks. Process context.
pub fn read() -> Reading {
    // The leaps are read first: a reading that is made over a sleep is one from before it, and the
    // next reading shows the sleep.
    let leaps_ns = leaps_ns();
    // SAFETY: May be called in any context.
    let slept_ns = unsafe { bindings::ktime_mono_to_any(0, bindings::tk_offsets_TK_OFFS_BOOT) };
    let mut snapshot = bindings::system_time_snapshot::default();
    // SAFETY: The pointer is valid for writes. The clock is one that always exists, and tasks do
    // not run while the kernel has stopped its clocks.
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
