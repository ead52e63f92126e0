// SPDX-License-Identifier: GPL-2.0
//! The charges in a ballot record: the budget that old owners may still use up [R21].
//!
//! Callers: [`super::ballot`] for the codec, `paxos` and `controller` for the rules. No locking.

use super::bytes::{FieldReader, FieldWriter};
use super::ids::{Incarnation, Slot, Value};
use super::record::{ensure, put_value, take_value, Reject};

/// The highest number of charges in a ballot record.
pub const MAX_CHARGES: usize = 8;

/// The charge for one term of an old owner: the strays that the term may have left on the disks. It
/// stays until the term is known to be drained *and* repaired [R21].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// The term.
    pub epoch: u64,
    /// Its owner.
    pub slot: Slot,
    /// The owner's incarnation.
    pub inc: Incarnation,
    /// How much of the redundancy the term may have used up; `u32::MAX` if the term had no limit.
    pub amount: u32,
    /// Whether the term can have no more strays. If evidence shows it, this is final.
    pub drained: bool,
    /// Whether the term is drained by an operator's word alone. The word is withdrawn if the owner
    /// is heard after all.
    pub vouched: bool,
    /// Whether this charge stands for terms of several incarnations, because a list was full. A
    /// record of one incarnation is no evidence about the others.
    pub several: bool,
}

impl Charge {
    /// The charge of a term that has just ended uncleanly.
    pub const fn new(epoch: u64, owner: Value, amount: u32) -> Charge {
        Charge {
            epoch,
            slot: owner.slot,
            inc: owner.inc,
            amount,
            drained: false,
            vouched: false,
            several: false,
        }
    }

    /// Whether evidence has shown that the term is drained.
    pub const fn is_shown(&self) -> bool {
        self.drained && !self.vouched
    }

    /// Whether both are about one term.
    pub fn is_of_term(&self, other: &Charge) -> bool {
        (self.epoch, self.slot, self.inc) == (other.epoch, other.slot, other.inc)
    }

    /// Whether both are terms of one incarnation, which has one gate for all of them.
    fn is_of_incarnation(&self, other: &Charge) -> bool {
        (self.slot, self.inc) == (other.slot, other.inc)
    }

    /// Whether this charge is about all terms for which `other`, a charge of the same term, stands.
    fn covers(&self, other: &Charge) -> bool {
        self.several || !other.several
    }

    /// Whether this charge says that all terms are drained for which `other` stands.
    pub fn shows_drained(&self, other: &Charge) -> bool {
        self.drained && self.is_of_term(other) && self.covers(other)
    }

    /// Joins two charges of one term: the larger amount, and all evidence that is about all terms
    /// of both. An operator's word holds only if both have it, because the controller without it
    /// may have heard the owner since.
    fn join(&mut self, other: &Charge) {
        let shown = self.is_shown() && self.covers(other) || other.is_shown() && other.covers(self);
        self.amount = self.amount.max(other.amount);
        self.drained = shown || self.drained && other.drained;
        self.vouched = self.drained && !shown;
        self.several |= other.several;
    }

    /// One charge for the terms of both, with the sum of the amounts. It names the later term, and
    /// is drained only if both are. No information is lost if both are drained by evidence, because
    /// they only wait for the repair, which is for both or none. None is lost either if both are of
    /// one incarnation, because evidence that drains its later term drains its earlier ones too.
    fn fold(&self, other: &Charge) -> Charge {
        let later = if self.epoch > other.epoch {
            self
        } else {
            other
        };
        let shown = self.is_shown() && other.is_shown();
        let exact = shown || self.is_of_incarnation(other);
        // A charge for two terms keeps no operator's word that one of them might have to withdraw.
        let drained = shown || exact && self.drained && other.drained;
        Charge {
            amount: self.amount.saturating_add(other.amount),
            drained,
            vouched: drained && !shown,
            several: self.several || other.several || !exact,
            ..*later
        }
    }

    /// How much information is lost when both become one charge. The pair with the lowest cost is
    /// folded.
    fn fold_cost(&self, other: &Charge) -> (u8, u64) {
        let shown = self.is_shown() && other.is_shown();
        let cost = match (shown, self.is_of_incarnation(other)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        (cost, self.epoch.max(other.epoch))
    }
}

/// The list of charges of a portion: at most [`MAX_CHARGES`] terms.
///
/// # Invariants
///
/// The entries are dense: used ones first, then only `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charges {
    entries: [Option<Charge>; MAX_CHARGES],
    /// Whether charges of the epoch may be missing here, because the writer learnt of the decision
    /// from a record without a list.
    partial: bool,
}

impl Charges {
    /// No charges.
    pub const NONE: Charges = Charges {
        entries: [None; MAX_CHARGES],
        partial: false,
    };

    /// Whether charges may be missing.
    pub const fn is_partial(&self) -> bool {
        self.partial
    }

    /// The same charges with this mark.
    #[must_use]
    pub const fn with_partial(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }

    /// The charges, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = Charge> + Clone + '_ {
        self.entries.iter().flatten().copied()
    }

    /// How many terms are charged.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nothing is charged.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The sum of all amounts: `q` of the batch limit. Saturates.
    pub fn total(&self) -> u32 {
        self.iter()
            .fold(0, |sum, charge| charge.amount.saturating_add(sum))
    }

    /// Adds a charge. If the term is already there, it keeps the larger amount. In a full list two
    /// charges become one, so that there is always room: no charge is lost, and a full list keeps
    /// no controller from owning.
    pub fn add(&mut self, charge: Charge) {
        let same = |old: &&mut Charge| old.is_of_term(&charge);
        if let Some(old) = self.entries.iter_mut().flatten().find(same) {
            return old.join(&charge);
        }
        let rest = match self.entries.iter().all(Option::is_some) {
            true => self.fold_with(charge),
            false => charge,
        };
        // INVARIANT: the first free entry is behind the last used one.
        if let Some(free) = self.entries.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(rest);
        }
    }

    /// Adds all charges of another list.
    pub fn merge(&mut self, other: &Charges) {
        other.iter().for_each(|charge| self.add(charge));
    }

    /// Finds the two charges of a full list and `newcomer` that lose least when they become one,
    /// and frees one entry. Returns the charge that is not in the list then.
    fn fold_with(&mut self, newcomer: Charge) -> Charge {
        let before = *self;
        let mut cheapest: Option<((u8, u64), Charge, Charge)> = None;
        for (at, first) in before.iter().enumerate() {
            for second in before.iter().skip(at.saturating_add(1)).chain([newcomer]) {
                let cost = first.fold_cost(&second);
                if cheapest.is_none_or(|(least, ..)| cost < least) {
                    cheapest = Some((cost, first, second));
                }
            }
        }
        let Some((_, first, second)) = cheapest else {
            return newcomer;
        };
        self.retain(|charge| !charge.is_of_term(&first) && !charge.is_of_term(&second));
        let both = first.fold(&second);
        if newcomer.is_of_term(&second) {
            return both;
        }
        self.add(both);
        newcomer
    }

    /// Calls `change` for each charge. Returns whether any charge changed.
    pub fn update(&mut self, mut change: impl FnMut(&mut Charge)) -> bool {
        let before = *self;
        for charge in self.entries.iter_mut().flatten() {
            change(charge);
        }
        *self != before
    }

    /// Keeps the charges for which `keep` holds, in their order.
    pub fn retain(&mut self, keep: impl Fn(&Charge) -> bool) {
        let before = *self;
        *self = Charges::NONE.with_partial(before.partial);
        for (entry, charge) in self.entries.iter_mut().zip(before.iter().filter(keep)) {
            // INVARIANT: filled from the front without gaps.
            *entry = Some(charge);
        }
    }
}

impl Default for Charges {
    fn default() -> Self {
        Self::NONE
    }
}

/// The flag of a charge whose term is drained.
const CHARGE_DRAINED: u32 = 1 << 0;

/// The flag of a charge that stands for terms of several incarnations.
const CHARGE_SEVERAL: u32 = 1 << 1;

/// The flag of a charge that is drained on the word of an operator alone.
const CHARGE_VOUCHED: u32 = 1 << 2;

/// Writes the list.
pub(super) fn put_charges(out: &mut FieldWriter<'_>, charges: &Charges) {
    for entry in &charges.entries {
        put_charge(out, entry);
    }
    out.u32(u32::from(charges.partial));
}

fn put_charge(out: &mut FieldWriter<'_>, charge: &Option<Charge>) {
    let (epoch, amount) = charge.map_or((0, 0), |charge| (charge.epoch, charge.amount));
    out.u64(epoch);
    put_value(
        out,
        charge.map(|Charge { slot, inc, .. }| Value { slot, inc }),
    );
    out.u32(amount);
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    out.u32(charge.map_or(0, |charge| {
        flag(charge.drained, CHARGE_DRAINED)
            | flag(charge.several, CHARGE_SEVERAL)
            | flag(charge.vouched, CHARGE_VOUCHED)
    }));
}

/// Reads what [`put_charges`] wrote.
pub(super) fn take_charges(from: &mut FieldReader<'_>) -> Result<Charges, Reject> {
    let mut charges = Charges::NONE;
    let mut ended = false;
    for entry in &mut charges.entries {
        let epoch = from.u64();
        let owner = take_value(from)?;
        let amount = from.u32();
        let flags = from.u32();
        ensure(
            flags & !(CHARGE_DRAINED | CHARGE_SEVERAL | CHARGE_VOUCHED) == 0,
            Reject::Reserved,
        )?;
        let is_sound = flags & CHARGE_VOUCHED == 0 || flags & CHARGE_DRAINED != 0;
        ensure(is_sound, Reject::Field)?;
        match owner {
            Some(owner) if !ended && epoch != 0 => {
                // INVARIANT: `ended` refuses a used entry behind a free one.
                *entry = Some(Charge {
                    drained: flags & CHARGE_DRAINED != 0,
                    several: flags & CHARGE_SEVERAL != 0,
                    vouched: flags & CHARGE_VOUCHED != 0,
                    ..Charge::new(epoch, owner, amount)
                });
            }
            None if epoch == 0 && amount == 0 && flags == 0 => ended = true,
            _ => return Err(Reject::Field),
        }
    }
    charges.partial = match from.u32() {
        0 => false,
        1 => true,
        _ => return Err(Reject::Field),
    };
    Ok(charges)
}

#[cfg(test)]
mod tests;
