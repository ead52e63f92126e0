// SPDX-License-Identifier: GPL-2.0
//! Identifiers in a mailbox: controllers, incarnations, ballots, epochs, registers, sides.
//!
//! Pure values: any caller, no locking.

use core::fmt;

/// The highest number of controllers of a portion.
pub const MAX_CONTROLLERS: u8 = 64;

/// The highest number of members of a portion.
pub const MAX_MEMBERS: u8 = 16;

/// The mailbox of a controller, by index: 0..=63 for the controllers 1..=64.
///
/// # Invariants
///
/// The index is below [`MAX_CONTROLLERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// The slot of controller 1.
    pub const FIRST: Slot = Slot(0);

    /// The slot with this index, 0..=63.
    pub const fn new(index: u8) -> Option<Slot> {
        if index < MAX_CONTROLLERS {
            // INVARIANT: just checked.
            Some(Slot(index))
        } else {
            None
        }
    }

    /// The slot of a controller, 1..=64.
    pub const fn from_controller(controller: u8) -> Option<Slot> {
        match controller.checked_sub(1) {
            Some(index) => Slot::new(index),
            None => None,
        }
    }

    /// 0..=63.
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The number of its controller, 1..=64.
    pub const fn controller(self) -> u8 {
        // The invariant keeps this at most 64.
        self.0.wrapping_add(1)
    }

    /// Its bit in a bitmap of controllers.
    pub const fn bit(self) -> u64 {
        // The invariant keeps the shift below 64.
        1_u64.wrapping_shl(self.0 as u32)
    }

    /// Whether it is in a bitmap of controllers.
    pub const fn is_in(self, bitmap: u64) -> bool {
        bitmap & self.bit() != 0
    }

    /// The slots in a bitmap of controllers, lowest first.
    pub fn all_in(bitmap: u64) -> impl Iterator<Item = Slot> + Clone {
        (0..MAX_CONTROLLERS)
            .map(Slot)
            .filter(move |slot| slot.is_in(bitmap))
    }
}

/// Prints the number of the controller, which users know.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.controller(), f)
    }
}

/// The random number that a controller draws when it joins a portion. It tells two sessions with
/// the same controller number apart, on one host or on two [R36].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A Disk Paxos ballot. Ballots are compared by round, then slot, then incarnation, which is the
/// order of the fields; round 0 means "none", and none is lower than all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ballot {
    /// Counts up with every attempt; 0 for [`Ballot::NONE`] alone.
    pub round: u64,
    /// The controller that began the ballot.
    pub slot: Slot,
    /// Its incarnation.
    pub inc: Incarnation,
}

impl Ballot {
    /// No ballot.
    pub const NONE: Ballot = Ballot {
        round: 0,
        slot: Slot::FIRST,
        inc: Incarnation(0),
    };

    /// Whether this is no ballot at all.
    pub const fn is_none(self) -> bool {
        self.round == 0
    }

    /// Whether this is a ballot.
    pub const fn is_some(self) -> bool {
        self.round != 0
    }
}

/// The decision about an epoch: its owner and the owner's incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The owner.
    pub slot: Slot,
    /// The owner's incarnation.
    pub inc: Incarnation,
}

/// The highest epoch that a controller knows to be decided, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decided {
    /// The epoch; 0 before the portion was ever owned.
    pub epoch: u64,
    /// Its owner; `None` if and only if the epoch is 0.
    pub value: Option<Value>,
}

impl Decided {
    /// The portion was never owned.
    pub const NEVER: Decided = Decided {
        epoch: 0,
        value: None,
    };
}

/// One of the two registers of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Promises, written with FUA.
    Ballot,
    /// Signs of life.
    Heartbeat,
}

/// One of the two blocks of a register, which are written alternately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The first block.
    A,
    /// The second block.
    B,
}

impl Side {
    /// Both, in their order on the member.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// The other block of the same register.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// 0 for A, 1 for B.
    pub const fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64, slot: u8, inc: u128) -> Ballot {
        Ballot {
            round,
            slot: Slot::new(slot).unwrap(),
            inc: Incarnation(inc),
        }
    }

    #[test]
    fn r28_ballots_compare_by_round_then_slot_then_incarnation() {
        let rising = [
            Ballot::NONE,
            ballot(1, 0, 0),
            ballot(1, 0, 9),
            ballot(1, 1, 0),
            ballot(2, 0, 0),
        ];
        assert!(rising.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(Ballot::NONE.is_none() && !Ballot::NONE.is_some());
    }

    #[test]
    fn r36_an_incarnation_is_shown_as_32_digits() {
        let shown = std::format!("{}", Incarnation(0xc0ffee));
        assert_eq!(shown, "00000000000000000000000000c0ffee");
    }

    #[test]
    fn r28_slots_are_controllers_1_to_64() {
        assert_eq!(Slot::from_controller(0), None);
        assert_eq!(Slot::from_controller(65), None);
        assert_eq!(Slot::new(64), None);
        for controller in 1..=64 {
            let slot = Slot::from_controller(controller).unwrap();
            assert_eq!(slot.controller(), controller);
            assert_eq!(slot.bit(), 1 << (controller - 1));
        }
        let bitmap = 1 | (1 << 5) | (1 << 63);
        assert!(Slot::all_in(bitmap).map(Slot::controller).eq([1, 6, 64]));
    }
}
