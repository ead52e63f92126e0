// SPDX-License-Identifier: GPL-2.0
//! Fingerprints of 128 bits: two of 10^8 different things are the same with a chance of 10^-23.

use dashmap::DashMap;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map from fingerprints, for several threads.
pub type Shards<T> = DashMap<u128, T, BuildHasherDefault<Already>>;

/// The fingerprint of anything; the same in every run.
pub fn print(it: &impl Hash) -> u128 {
    let mut hasher = SipHasher13::new();
    it.hash(&mut hasher);
    hasher.finish128().as_u128()
}

/// A fingerprint is random enough to be its own hash.
#[derive(Default)]
pub struct Already(u64);

impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = (print >> 64) as u64 ^ print as u64;
    }
}
