// SPDX-License-Identifier: GPL-2.0
//! Clocks that start anywhere and run a little too fast or too slow, and the random numbers of a
//! run.

/// A machine's CLOCK_BOOTTIME, as a function of true time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed at true time 0.
    pub offset_ns: u64,
    /// How much too fast it runs; negative is too slow.
    pub rate_ppm: i64,
}

const MILLION: u128 = 1_000_000;

impl Clock {
    fn per_million(&self) -> u128 {
        u128::try_from(1_000_000 + self.rate_ppm).unwrap()
    }

    /// The local time at a true time.
    pub fn local_ns(&self, true_ns: u64) -> u64 {
        let run = u128::from(true_ns) * self.per_million() / MILLION;
        self.offset_ns + u64::try_from(run).unwrap()
    }

    /// The first true time at which the clock shows `local_ns` or more.
    pub fn true_ns(&self, local_ns: u64) -> u64 {
        let run = u128::from(local_ns.saturating_sub(self.offset_ns)) * MILLION;
        u64::try_from(run.div_ceil(self.per_million())).unwrap_or(u64::MAX)
    }
}

/// splitmix64: one seed, one run.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        per_mille != 0 && self.below(1000) < per_mille
    }
}
