// SPDX-License-Identifier: GPL-2.0
//! The generations of the members, as far as one controller knows them [R56].
//!
//! Callers: [`super::record`] for the codec, `controller` for the rules. No locking.

use super::bytes::FieldReader;
use super::ids::MAX_MEMBERS;

/// The generation of each member of a portion, as far as one controller knows them: the highest
/// that it has seen, and whether it is known to be *settled* (`controller/generations.rs`). A
/// member that was formatted to replace a lost one has a higher generation than that one [R56].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generations([u32; MAX_MEMBERS as usize]);

impl Generations {
    /// No generation is known.
    pub const NONE: Generations = Generations([0; MAX_MEMBERS as usize]);

    /// The highest known generation of a member; 0 if none is known.
    pub fn of(&self, member: u8) -> u32 {
        self.entry(member) & !SETTLED
    }

    /// Whether that generation of a member is known to be settled.
    pub fn is_settled(&self, member: u8) -> bool {
        self.entry(member) & SETTLED != 0
    }

    /// Notes that the highest known generation of a member is settled.
    pub fn settle(&mut self, member: u8) {
        if let Some(known) = self.0.get_mut(usize::from(member)) {
            *known |= SETTLED;
        }
    }

    /// Notes a generation of a member, present or former. Returns whether it is higher than all
    /// known before.
    pub fn note(&mut self, member: u8, generation: u32) -> bool {
        match self.0.get_mut(usize::from(member)) {
            Some(known) if *known & !SETTLED < generation & !SETTLED => {
                *known = generation & !SETTLED;
                true
            }
            _ => false,
        }
    }

    /// Adds the knowledge of another controller. Returns whether any of it is new.
    pub fn merge(&mut self, other: &Generations) -> bool {
        let before = *self;
        for (known, &theirs) in self.0.iter_mut().zip(&other.0) {
            // Compares the generation first, and then whether it is settled.
            if theirs.rotate_left(1) > known.rotate_left(1) {
                *known = theirs;
            }
        }
        *self != before
    }

    /// All of them, by member, in the form of a record.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The same generations with the members renumbered: member `n` was `from[n]`.
    #[cfg(feature = "model")]
    #[must_use]
    pub fn with_members(&self, from: &[u8]) -> Self {
        let mut same = *self;
        for (known, &from) in same.0.iter_mut().zip(from) {
            *known = self.entry(from);
        }
        same
    }

    fn entry(&self, member: u8) -> u32 {
        self.0.get(usize::from(member)).copied().unwrap_or(0)
    }
}

/// In a record: the generation of a member is settled.
const SETTLED: u32 = 1 << 31;

impl Default for Generations {
    fn default() -> Self {
        Self::NONE
    }
}

/// Reads the list that [`Generations::iter`] yielded.
pub(super) fn take_generations(from: &mut FieldReader<'_>) -> Generations {
    let mut generations = Generations::NONE;
    for generation in &mut generations.0 {
        *generation = from.u32();
    }
    generations
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three members, of which the last one was formatted three times more.
    fn generations() -> Generations {
        let mut generations = Generations::NONE;
        for (member, generation) in [(0, 1), (1, 1), (2, 4)] {
            generations.note(member, generation);
        }
        generations
    }

    #[test]
    fn r56_the_highest_generation_of_each_member_is_remembered() {
        let mut known = generations();
        assert_eq!([0, 1, 2, 3].map(|member| known.of(member)), [1, 1, 4, 0]);
        assert!(!known.note(2, 4) && !known.note(2, 3) && !known.note(16, 9));
        assert_eq!((known, known.of(16)), (generations(), 0));
        let mut other = Generations::NONE;
        assert!(other.note(1, 2) && other.note(2, 3));
        assert!(known.merge(&other) && !known.merge(&other));
        assert_eq!([0, 1, 2, 3].map(|member| known.of(member)), [1, 2, 4, 0]);
    }

    #[test]
    fn r56_a_generation_is_settled_until_there_is_a_higher_one() {
        let mut known = generations();
        known.settle(2);
        assert!(known.is_settled(2) && !known.is_settled(1));
        assert_eq!(known.of(2), 4);
        assert!(!known.merge(&generations()), "others do not know it yet");
        let mut other = generations();
        assert!(other.merge(&known) && other.is_settled(2));
        assert!(!other.note(2, 4) && other.is_settled(2));
        assert!(other.note(2, 5) && !other.is_settled(2));
        assert!(known.merge(&other) && !known.is_settled(2));
        assert_eq!(known.of(2), 5);
        known.settle(16);
        assert!(!known.is_settled(16));
    }
}
