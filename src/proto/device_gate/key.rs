// SPDX-License-Identifier: GPL-2.0
//! Reservation keys.
//!
//! ```text
//! 63            48 47       40 39                              0
//! +---------------+-----------+---------------------------------+
//! | tag "dl"      | controller| low 40 bits of the incarnation  |
//! +---------------+-----------+---------------------------------+
//! ```
//!
//! The key follows from the slot and the incarnation, which every record carries. So each
//! controller knows the keys of the others without asking anybody. A key is never 0, which the
//! commands use for "none".

use crate::proto::codec::ids::{Incarnation, Slot};

const TAG: u64 = 0x646c;
const TAG_SHIFT: u32 = 48;
const CONTROLLER_SHIFT: u32 = 40;
const INCARNATION: u64 = (1 << CONTROLLER_SHIFT) - 1;

/// The most keys that a list holds: one for each of the 64 controllers, and as many of earlier
/// incarnations.
pub const MAX_KEYS: usize = 128;

/// The key of one incarnation of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of an incarnation.
    pub fn new(slot: Slot, inc: Incarnation) -> Key {
        let controller = u64::from(slot.controller());
        let low = inc.0 as u64 & INCARNATION;
        Key((TAG << TAG_SHIFT) | (controller << CONTROLLER_SHIFT) | low)
    }

    /// A key that a member lists. `None` if dm-lease did not make it.
    pub fn from_raw(raw: u64) -> Option<Key> {
        let key = Key(raw);
        (raw >> TAG_SHIFT == TAG && key.slot_or_none().is_some()).then_some(key)
    }

    /// The key as the commands carry it.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The controller that made the key.
    pub fn slot(self) -> Slot {
        // Both constructors have checked it.
        self.slot_or_none().unwrap_or(Slot::FIRST)
    }

    fn slot_or_none(self) -> Option<Slot> {
        let controller = (self.0 >> CONTROLLER_SHIFT) & 0xff;
        Slot::from_controller(u8::try_from(controller).ok()?)
    }
}

/// The keys that a member lists, each once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    raw: [u64; MAX_KEYS],
    len: usize,
    cut: bool,
}

impl Keys {
    /// No key.
    pub const NONE: Keys = Keys {
        raw: [0; MAX_KEYS],
        len: 0,
        cut: false,
    };

    /// Adds a key that the member lists. A member lists a key once for each path.
    pub fn add(&mut self, raw: u64) {
        if self.has(raw) {
            return;
        }
        match self.raw.get_mut(self.len) {
            Some(place) => {
                *place = raw;
                self.len = self.len.saturating_add(1);
            }
            None => self.cut = true,
        }
    }

    /// Says that the member has more keys than it listed.
    pub fn cut(&mut self) {
        self.cut = true;
    }

    /// Whether the member has more keys than the list holds: then a key that is not in the list
    /// may be registered all the same.
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether a key is in the list.
    pub fn has(&self, raw: u64) -> bool {
        self.all().any(|listed| listed == raw)
    }

    /// The keys of the list.
    pub fn all(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.raw.iter().take(self.len).copied()
    }

    /// The keys of the controller `slot` if `own` is true, and otherwise those of all other
    /// controllers.
    pub fn of(&self, slot: Slot, own: bool) -> impl Iterator<Item = Key> + Clone + '_ {
        self.all()
            .filter_map(Key::from_raw)
            .filter(move |key| (key.slot() == slot) == own)
    }
}

impl FromIterator<u64> for Keys {
    fn from_iter<I: IntoIterator<Item = u64>>(raw: I) -> Keys {
        let mut keys = Keys::NONE;
        raw.into_iter().for_each(|raw| keys.add(raw));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r48_a_key_names_its_controller_and_is_never_zero() {
        for index in [0, 1, 63] {
            let slot = Slot::new(index).unwrap();
            for inc in [0, 1, u128::MAX] {
                let key = Key::new(slot, Incarnation(inc));
                assert_ne!(key.raw(), 0);
                assert_eq!(Key::from_raw(key.raw()), Some(key));
                assert_eq!(key.slot(), slot);
            }
        }
        let first = Key::new(Slot::FIRST, Incarnation(7));
        assert_eq!(first.raw(), 0x646c_0100_0000_0007);
        assert_ne!(first, Key::new(Slot::FIRST, Incarnation(8)));
    }

    #[test]
    fn r48_a_key_of_another_program_is_none_of_ours() {
        for raw in [0, 1, u64::MAX, 0x646c << 48, 0x646c_4100_0000_0000] {
            assert_eq!(Key::from_raw(raw), None, "{raw:#x}");
        }
    }

    #[test]
    fn r54_a_list_that_is_too_long_says_so() {
        let mut keys: Keys = (1..=MAX_KEYS as u64).collect();
        keys.add(1);
        assert!(!keys.is_cut() && keys.has(1));
        keys.add(1_000);
        assert!(keys.is_cut() && !keys.has(1_000));
    }
}
