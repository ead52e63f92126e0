// SPDX-License-Identifier: GPL-2.0
//! Which controller gets the next epoch: one instance of Disk Paxos for each epoch.
//!
//! Source: E. Gafni and L. Lamport, "Disk Paxos", Distributed Computing 16 (2003). The processors
//! are the controllers, the disks are the members. Instance `e + 1` decides the owner of epoch `e +
//! 1`. A ballot record with `dec.epoch == e` is about instance `e + 1` and no other.
//!
//! ```text
//!          phase 1                        phase 2
//! write mbal in both blocks      write bal := mbal, val := v in both blocks
//! of a majority, read all:       of a majority, read all:
//!   higher mbal -> back off        higher mbal -> back off
//!   else v := val of the           else v is decided: the owner of e + 1
//!   highest bal, or (me, inc)
//! ```
//!
//! [`Promise`] is the image of the own ballot fields. The state machine writes it, and `register`
//! says when it counts. [`Seen`] collects what the other controllers wrote.

use super::codec::ballot::BallotRecord;
use super::codec::charge_list::{Charge, Charges};
use super::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use super::limit::Limit;

/// The own ballot fields of instance D + 1, where D is the decided epoch. They only grow while D
/// stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The highest ballot begun.
    pub mbal: Ballot,
    /// The heartbeat that offered the epoch, if that ballot was begun on nothing but the offer;
    /// otherwise 0.
    pub offer: u64,
    /// The highest ballot in which a value was proposed.
    pub bal: Ballot,
    /// That value.
    pub val: Option<Value>,
}

impl Promise {
    /// Nothing promised in this instance.
    pub const NONE: Self = Self {
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
    };

    /// The promise that a record carries.
    pub fn of(record: &BallotRecord) -> Self {
        Self {
            mbal: record.mbal,
            offer: record.offer,
            bal: record.bal,
            val: record.val,
        }
    }

    /// Whether `self` was written after `other` by the same register.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.mbal, self.bal) > (other.mbal, other.bal)
    }
}

/// The result of one round about instance `decided.epoch + 1`, over all its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The highest decision that any record knows.
    pub decided: Decided,
    /// The highest `mbal` of the instance after it.
    pub highest: Ballot,
    /// The highest `mbal` of another controller that does not answer an offer: a claim.
    pub foreign: Ballot,
    /// The latest offer that the present successor has answered with a ballot; 0 if there is none.
    pub answered: u64,
    /// Whether a record of the present successor was found, and whether one says that it may claim.
    pub successor: Successor,
    /// The highest `bal` of that instance and its value.
    pub accepted: Option<(Ballot, Value)>,
    /// The charges of the decided epoch.
    pub lists: Lists,
}

/// The result of one round about the budget that is still charged for old owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lists {
    /// The list of the owner of the epoch: it holds.
    owner: Option<Charges>,
    /// The lists of other controllers that know the whole list.
    whole: Option<Charges>,
    /// The lists of all controllers, candidates for the epoch included.
    partial: Charges,
    /// The most that the owner of the epoch may have had open.
    open: u32,
    /// Members that are failed or rebuilding, as reported to the owner of the epoch.
    failed_by_owner: Option<u32>,
    /// The highest such number in any record, candidates for the epoch included.
    failed_by_any: u32,
    /// The owner latched its gate and published after that that no operation is open any more.
    pub drained: bool,
}

impl Lists {
    const NONE: Self = Self {
        owner: None,
        whole: None,
        partial: Charges::NONE,
        open: 0,
        failed_by_owner: None,
        failed_by_any: 0,
        drained: false,
    };

    /// Adds the charges in a record of `decided`, or of a candidate for it.
    fn add(&mut self, record: &BallotRecord, decided: Decided, is_owner: bool) {
        let before = record.dec.epoch.checked_add(1) == Some(decided.epoch);
        if record.dec.epoch != decided.epoch && !(before && record.val.is_some()) {
            return;
        }
        let (list, now) = (&record.charges, record.dec.epoch == decided.epoch);
        self.partial.merge(list);
        self.failed_by_any = self.failed_by_any.max(record.failed);
        // A controller that was also the owner before has one gate for both terms. It may not know
        // of this term.
        if is_owner && record.dec.value == decided.value {
            self.open = self.open.max(Limit::from_wire(record.limit).charge());
        }
        if !now {
            return;
        }
        if is_owner {
            let failed = self.failed_by_owner.unwrap_or(0).max(record.failed);
            self.failed_by_owner = Some(failed);
        }
        // A later incarnation of the owner states how many operations the former one may have had
        // open.
        let owner = |charge: &Charge| {
            let term = Some(Value {
                slot: charge.slot,
                inc: charge.inc,
            });
            charge.epoch == decided.epoch && term == decided.value
        };
        let open = list.iter().filter(owner).map(|charge| charge.amount);
        self.open = open.fold(self.open, u32::max);
        if list.is_partial() {
            return;
        }
        let known = match is_owner {
            true => &mut self.owner,
            false => &mut self.whole,
        };
        known.get_or_insert(Charges::NONE).merge(list);
    }

    /// How many members are failed or rebuilding: the number reported to the owner of the epoch or,
    /// if it is not known, the highest in any record.
    pub fn failed(&self) -> u32 {
        self.failed_by_owner.unwrap_or(self.failed_by_any)
    }

    /// The list of the epoch, and the charge of its owner if the epoch ends now.
    pub fn of_epoch(&self) -> (Charges, u32) {
        let open = if self.drained { 0 } else { self.open };
        let list = self.owner.or(self.whole).unwrap_or(self.partial);
        (list, open)
    }
}

/// The controllers to which the owner of this epoch has offered the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Invitation {
    /// The controller that may prepare its ballot now.
    pub successor: Option<Slot>,
    /// All controllers that were invited in this epoch, a bit each.
    pub slots: u64,
}

impl Invitation {
    /// No controller was invited.
    pub const NONE: Self = Self {
        successor: None,
        slots: 0,
    };

    /// Whether a ballot of `slot` answers an offer of this epoch. Such a ballot is no claim,
    /// whenever it is seen. It may have been on its way when the offer was withdrawn, and it may
    /// become visible much later on a member that could not be reached.
    fn admits(&self, slot: Slot, record: &BallotRecord) -> bool {
        record.offer != 0 && slot.is_in(self.slots)
    }
}

/// What the records of the invited successor say in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// No member shows a record of the successor.
    Unknown,
    /// Every record says that something keeps it from claiming.
    Unwilling,
    /// A record says that it may claim.
    Willing,
}

impl Successor {
    /// Adds a record of the successor. The members may show records of different age, and one
    /// record that says that the successor may claim is enough.
    #[must_use]
    pub const fn with(self, may_claim: bool) -> Self {
        match (self, may_claim) {
            (_, true) | (Self::Willing, _) => Self::Willing,
            _ => Self::Unwilling,
        }
    }
}

impl Seen {
    /// The state before anything was read. `decided` is what this controller knows itself.
    pub fn new(decided: Decided) -> Self {
        Self {
            decided,
            highest: Ballot::NONE,
            foreign: Ballot::NONE,
            answered: 0,
            successor: Successor::Unknown,
            accepted: None,
            lists: Lists::NONE,
        }
    }

    /// Learns of a decision. A later decision makes everything obsolete that was seen of ballots.
    pub fn decided(&mut self, decided: Decided) {
        if decided.epoch > self.decided.epoch {
            *self = Self::new(decided);
        }
    }

    /// Adds a valid ballot record of `slot`. `own` says to which controllers this one has offered
    /// the next epoch.
    pub fn add(&mut self, slot: Slot, record: &BallotRecord, own: Slot, invitation: Invitation) {
        self.decided(record.dec);
        let is_owner = self.decided.value
            == Some(Value {
                slot,
                inc: record.inc,
            });
        self.lists.add(record, self.decided, is_owner);
        if record.dec.epoch != self.decided.epoch {
            return;
        }
        self.highest = self.highest.max(record.mbal);
        if invitation.successor == Some(slot) {
            self.answered = self.answered.max(record.offer);
        }
        if slot != own && !invitation.admits(slot, record) {
            self.foreign = self.foreign.max(record.mbal);
        }
        if let Some(value) = record.val {
            let higher = |&(bal, _): &(Ballot, Value)| record.bal > bal;
            if self.accepted.as_ref().is_none_or(higher) {
                self.accepted = Some((record.bal, value));
            }
        }
    }

    /// Whether a controller claims the next epoch: it has begun a ballot that answers no offer, or
    /// it has proposed a value, invited or not.
    pub fn is_claim(&self) -> bool {
        self.foreign != Ballot::NONE || self.accepted.is_some()
    }

    /// The value to propose in phase 2: that of the highest ballot, the own one included.
    pub fn value(&self, own: &Promise, otherwise: Value) -> Value {
        let mine = own.val.map(|value| (own.bal, value));
        match (self.accepted, mine) {
            (Some(theirs), Some(mine)) if mine.0 > theirs.0 => mine.1,
            (Some(theirs), _) => theirs.1,
            (None, Some(mine)) => mine.1,
            (None, None) => otherwise,
        }
    }
}

/// The lowest ballot of this incarnation that is higher than all in `above`. `None` if the numbers
/// are used up; only a damaged register says so, because no controller counts to 2^64.
pub fn next_ballot(above: Ballot, slot: Slot, inc: Incarnation) -> Option<Ballot> {
    let same_round = Ballot {
        round: above.round,
        slot,
        inc,
    };
    if above != Ballot::NONE && same_round > above {
        return Some(same_round);
    }
    Some(Ballot {
        round: above.round.checked_add(1)?,
        slot,
        inc,
    })
}

#[cfg(test)]
mod tests;
