// SPDX-License-Identifier: GPL-2.0
//! The atomic words that the gate consists of.
//!
//! Locking: none. The kernel module has one implementation, the tests have others.

/// An atomic 64-bit word whose changes are fully ordered.
pub trait AtomicWord {
    /// A word with this value.
    fn new(value: u64) -> Self;
    /// Reads the word, with acquire ordering at least.
    fn load(&self) -> u64;
    /// Writes the word, fully ordered.
    fn store(&self, value: u64);
    /// Replaces `old` by `new`. `Err` carries the value that was found instead.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64>;
    /// Adds `value`, wrapping around, and returns the value before.
    fn fetch_add(&self, value: u64) -> u64;
}

/// Sets the bits and returns the new value.
pub(super) fn set_bits<W: AtomicWord>(word: &W, bits: u64) -> u64 {
    change(word, |value| value | bits)
}

pub(super) fn clear_bits<W: AtomicWord>(word: &W, bits: u64) {
    change(word, |value| value & !bits);
}

/// Applies `change` to the word and returns the new value. The access is fully ordered even if the
/// value stays the same.
fn change<W: AtomicWord>(word: &W, change: impl Fn(u64) -> u64) -> u64 {
    let mut seen = word.load();
    loop {
        let next = change(seen);
        match word.compare_exchange(seen, next) {
            Ok(_) => return next,
            Err(found) => seen = found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

    impl AtomicWord for AtomicU64 {
        fn new(value: u64) -> Self {
            AtomicU64::new(value)
        }
        fn load(&self) -> u64 {
            AtomicU64::load(self, SeqCst)
        }
        fn store(&self, value: u64) {
            AtomicU64::store(self, value, SeqCst);
        }
        fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
            AtomicU64::compare_exchange(self, old, new, SeqCst, SeqCst)
        }
        fn fetch_add(&self, value: u64) -> u64 {
            AtomicU64::fetch_add(self, value, SeqCst)
        }
    }
}
