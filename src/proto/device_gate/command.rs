// SPDX-License-Identifier: GPL-2.0
//! The reservation commands of a member, and what their answers mean.

use super::key::{Key, Keys};

/// The type of a reservation. Under both types every registrant writes, and all hosts read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Write exclusive, all registrants: the reservation stays until the last registrant is gone.
    AllRegistrants,
    /// Write exclusive, registrants only: one registrant holds it. LIO ends the commands of the
    /// holder only, so there the owner always is the holder.
    RegistrantsOnly,
}

/// The reservation that a member shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its type; `None` for every type that dm-lease does not use.
    pub kind: Option<Kind>,
    /// The holder's key; 0 under [`Kind::AllRegistrants`].
    pub holder: u64,
}

/// A command to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Lists the registered keys.
    ReadKeys,
    /// Shows the reservation.
    ReadReservation,
    /// Replaces the key of this host, if it is `old`. 0 is "none", for both.
    Register {
        /// The key that the host has at the member.
        old: u64,
        /// The key that it gets.
        new: u64,
    },
    /// Makes the reservation.
    Reserve,
    /// Removes a key, and in mode `abort` ends the commands that were issued under it.
    Preempt {
        /// The key to remove.
        victim: Key,
    },
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The member has done it.
    Good,
    /// The member refused it with a reservation conflict.
    Conflict,
    /// Neither is known: the command may be carried out, now or later, or never.
    Doubt,
    /// The member's list of keys.
    Keys(&'a Keys),
    /// The member's reservation; `None` if there is none.
    Reservation(Option<Held>),
}
