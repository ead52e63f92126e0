// SPDX-License-Identifier: GPL-2.0
//! Numbers that differ from one controller to the next. They choose waiting times and are no
//! secrets.
//!
//! Caller: the back-off of [`super::controller`] [R28].

/// A generator of numbers without an obvious pattern: Marsaglia, Xorshift RNGs, Journal of
/// Statistical Software 8(14), 2003, with the shifts 13, 7 and 17.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct XorShift(u64);

impl XorShift {
    /// A generator for a seed. Any seed is good.
    pub const fn new(seed: u128) -> Self {
        let folded = (seed as u64) ^ ((seed >> 64) as u64);
        // The generator would stay at zero for ever.
        Self(folded | 1)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u128) -> u64 {
        XorShift::new(seed).below(u64::MAX)
    }

    #[test]
    fn r28_the_numbers_are_those_of_the_published_generator() {
        let mut random = XorShift::new(0);
        let numbers = [
            1_082_269_761,
            1_152_992_998_833_853_505,
            11_177_516_664_432_764_457,
        ];
        assert_eq!(numbers.map(|_| random.below(u64::MAX)), numbers);
    }

    #[test]
    fn r28_both_halves_of_a_seed_count_and_none_gets_stuck() {
        let half = |number: u128| number | (number << 64);
        for seed in [0, 1, 1 << 64, half(6), half(7), u128::MAX, u128::MAX - 1] {
            assert_ne!(first(seed), 0, "{seed:#x}");
        }
        assert_ne!(first(2), first(0));
        assert_ne!(first(2 << 64), first(0));
        assert_eq!(first(2 << 64), first(2));
    }

    #[test]
    fn r28_a_number_is_below_its_bound() {
        let mut random = XorShift::new(1);
        let mut seen = [0; 10];
        for _ in 0..1_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&times| times > 50), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
