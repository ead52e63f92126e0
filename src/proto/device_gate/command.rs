// SPDX-License-Identifier: GPL-2.0
//! The reservation commands of a member, and what their answers mean.

use super::key::{Key, Keys};

/// The type of a reservation. Under both types a host with a key may write, and every host may
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Write exclusive, all registrants: the reservation stays until the last registrant is gone.
    AllRegistrants,
    /// Write exclusive, registrants only: one registrant holds it. LIO marks each command that it
    /// accepts with the holder's key, and a PREEMPT ends the commands that carry its victim's key.
    /// So an owner on LIO must be the holder.
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
    /// Gives this host the key `new` if its key is `old`, and conflicts otherwise. In both places
    /// 0 means no key.
    Register {
        /// The key that the host has at the member.
        old: u64,
        /// The key that it gets.
        new: u64,
    },
    /// Makes the reservation.
    Reserve,
    /// Removes a key. The caller sends PREEMPT AND ABORT: the member also ends the commands of the
    /// host that had the key, and then answers GOOD.
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
    /// The caller does not know the outcome: the command has been carried out, or will be, or never
    /// will. A command that the kernel may have sent twice is in doubt whatever its last answer is.
    Doubt,
    /// The member's list of keys.
    Keys(&'a Keys),
    /// The member's reservation; `None` if there is none.
    Reservation(Option<Held>),
}
