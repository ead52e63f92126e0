// SPDX-License-Identifier: GPL-2.0
//! The charges of earlier terms, which lower the batch limit [R21].
//!
//! ```text
//!   a claim ends term e,             drain evidence           `repaired`
//!   which has not drained  charged ------------------> drained ------------> dropped
//!  ----------------------->
//! ```
//!
//! The list of charges is part of the ballot record, and belongs to the decided epoch. A candidate
//! adds the term that it ends, and writes the list together with the value that it puts forward. So
//! the list is on a majority before the epoch is decided, whichever candidate wins. The owner's
//! record carries the list before its gate opens. A controller that learns a decision from a record
//! without a list marks its own list as *partial*. A claimant uses a partial list only if there is
//! no whole one.
//!
//! A term is charged with the highest limit in a record of its owner. The record says at least what
//! may be open: after a limit was lowered, the record says the old limit until the gate holds no
//! more than the new one. Consecutive terms of one incarnation share one gate, so the earlier term
//! is not charged.
//!
//! A later incarnation with the number of the old owner is no evidence that the old owner has
//! drained. The new incarnation may run on a spare host, while the old host hangs with operations
//! that have passed its gate. The members do not show the difference, so an operator must confirm.

use super::phase::Phase;
use super::voices::owner_of;
use super::{Controller, Outcome};
use crate::proto::codec::charge_list::{Charge, Charges};
use crate::proto::codec::heartbeat::HeartbeatRecord;
use crate::proto::codec::ids::{Incarnation, Slot, Value};
use crate::proto::codec::mailbox::Mailboxes;
use crate::proto::limit::RedundancyKind;
use crate::proto::paxos::Lists;
use crate::proto::words::status::Reason;

/// When this controller learnt about a charged term, by the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watched {
    epoch: u64,
    inc: Incarnation,
    /// When the charge was first known here.
    since_ns: u64,
    /// When an operator's confirmation that the owner is dead was first known here.
    confirmed_ns: Option<u64>,
}

#[cfg(feature = "model")]
impl Watched {
    /// Replaces both moments.
    pub(super) fn with_moments(&mut self, moment: impl Fn(u64) -> u64) {
        self.since_ns = moment(self.since_ns);
        self.confirmed_ns = self.confirmed_ns.map(moment);
    }
}

impl Controller {
    /// The list of charges.
    pub fn charges(&self) -> &Charges {
        &self.charged.list
    }

    /// If nothing is open, the own earlier terms are drained. The present term is not in the list.
    pub(super) fn note_own_drain(&mut self) {
        let (inc, own) = (self.setup.inc, self.setup.slot);
        if self.limits.open == 0 && self.may_change_list() {
            let mine = |charge: &Charge| charge.slot == own && charge.inc == inc && !charge.several;
            self.mark_drained(mine);
        }
    }

    /// The list of the next epoch if `value` owns it.
    pub(super) fn charges_after(&self, lists: &Lists, value: Value) -> Charges {
        if self.setup.redundancy.kind == RedundancyKind::External {
            return Charges::NONE;
        }
        let (charges, amount) = lists.of_epoch();
        let mut charges = charges.with_partial(false);
        let known = self.charged.list;
        charges.update(|charge| {
            // The own evidence counts as well, and so does a confirmation given to this controller.
            let good = |old: &Charge| old.shows_drained(charge) && !self.is_contradicted(old);
            let own = known.iter().find(good);
            if let Some(own) = own.filter(|_| !charge.is_shown()) {
                (charge.drained, charge.vouched) = (true, own.vouched);
            }
        });
        let Some(owner) = self.term.decided.value else {
            return charges;
        };
        let epoch = self.term.decided.epoch;
        let mut ended = Charge::new(epoch, owner, amount);
        ended.drained = self.charged.confirmed_epoch == epoch;
        ended.vouched = ended.drained;
        if owner == value {
            // Both terms have one gate: the later term is charged when it ends.
            charges.retain(|charge| !charge.is_of_term(&ended) || charge.several);
            ended.epoch = epoch.saturating_add(1);
            (ended.drained, ended.vouched) = (false, false);
        }
        // This controller counts its own open permits, so its own term needs no charge here. The
        // term of another incarnation must be charged now: after a restart the next incarnation
        // overwrites the records that show it.
        let knows = owner == value && value == self.me();
        if amount != 0 && !knows {
            charges.add(ended);
        }
        charges
    }

    /// Takes over the list that the former incarnation of a joiner carried. If that incarnation
    /// owned the epoch, its term is charged, because the joiner overwrites its records.
    pub(super) fn take_over_list(&mut self, list: Charges, lists: &Lists) {
        let mut charges = list.with_partial(self.term.decided.epoch != 0);
        let (_, open) = lists.of_epoch();
        let is_former = |owner: &Value| owner.slot == self.setup.slot;
        let counts = open != 0 && self.setup.redundancy.kind != RedundancyKind::External;
        if let Some(owner) = self.term.decided.value.filter(is_former).filter(|_| counts) {
            charges.add(Charge::new(self.term.decided.epoch, owner, open));
        }
        self.charged.list = charges;
        self.limits.failed = lists.failed();
        self.renew_limit();
    }

    /// Replaces a partial list by a whole list of the decided epoch that was read. Charges of that
    /// epoch stay: only this controller knows the term of its former incarnation.
    pub(super) fn complete_list(&mut self, list: Option<Charges>) {
        let Some(mut list) = list.filter(|_| self.charged.list.is_partial()) else {
            return;
        };
        let epoch = self.term.decided.epoch;
        if !self.may_change_list() {
            return;
        }
        let own = self.charged.list;
        let own = own.iter().filter(|charge| charge.epoch == epoch);
        own.for_each(|charge| list.add(charge));
        self.charged.list = list;
        self.changed_image();
        self.renew_limit();
    }

    /// Looks for evidence that a charged term has drained.
    pub(super) fn watch_charges<M: Mailboxes>(&mut self, boxes: &M, now_ns: u64) {
        if self.charged.list.is_empty() || !self.may_change_list() {
            return;
        }
        self.take_back_confirmations();
        let mut drained = Charges::NONE;
        let charges = self.charged.list;
        for charge in charges.iter().filter(|charge| !charge.is_shown()) {
            let record = boxes.heartbeat(charge.slot).reading.valid();
            let record = record.filter(|_| !charge.several);
            let quiet = record.is_some_and(|record| shows_drain(&charge, &record));
            if quiet || self.has_waited(&charge, now_ns) {
                drained.add(charge);
            }
        }
        self.mark_drained(|charge| drained.iter().any(|done| done.is_of_term(charge)));
    }

    /// Whether the configured drain time of a term has passed.
    fn has_waited(&mut self, charge: &Charge, now_ns: u64) -> bool {
        let drain_ns = self.setup.redundancy.drain_ns;
        let Some(watched) = self.watched(charge, now_ns) else {
            return false;
        };
        let waited_ns = now_ns.saturating_sub(watched.since_ns);
        drain_ns.is_some_and(|drain_ns| waited_ns >= drain_ns)
    }

    /// The entry of a charged term; a new one begins now.
    fn watched(&mut self, charge: &Charge, now_ns: u64) -> Option<&mut Watched> {
        let is_of = |known: &Watched| (known.epoch, known.inc) == (charge.epoch, charge.inc);
        let charges = self.charged.list;
        let gone = |known: &Watched| {
            let same = |c: Charge| (c.epoch, c.inc) == (known.epoch, known.inc);
            !charges.iter().any(same)
        };
        for known in &mut self.charged.watched {
            *known = known.filter(|known| !gone(known));
        }
        let known = self
            .charged
            .watched
            .iter()
            .position(|w| w.as_ref().is_some_and(is_of));
        let free = self.charged.watched.iter().position(Option::is_none);
        // There is an entry for each charge, and entries of terms that are not charged are gone.
        let place = self.charged.watched.get_mut(known.or(free)?)?;
        Some(place.get_or_insert(Watched {
            epoch: charge.epoch,
            inc: charge.inc,
            since_ns: now_ns,
            confirmed_ns: None,
        }))
    }

    /// Notes the time at which an operator's confirmation in the list was first known here.
    pub(super) fn note_confirmations(&mut self, now_ns: u64) {
        let charges = self.charged.list;
        for charge in charges.iter().filter(|charge| !charge.is_shown()) {
            if let Some(watched) = self.watched(&charge, now_ns) {
                let since = *watched.confirmed_ns.get_or_insert(now_ns);
                watched.confirmed_ns = charge.vouched.then_some(since);
            }
        }
    }

    /// When an operator's confirmation about a term was first known here.
    pub(super) fn confirmed_ns(&self, charge: &Charge) -> Option<u64> {
        let is_of = |known: &&Watched| (known.epoch, known.inc) == (charge.epoch, charge.inc);
        self.charged
            .watched
            .iter()
            .flatten()
            .find(is_of)?
            .confirmed_ns
    }

    /// An operator confirms that the owner of a charged term is dead; `None` if there is no such
    /// charge.
    pub(super) fn confirm_drained(
        &mut self,
        owner: Slot,
        epoch: u64,
        force: bool,
        now_ns: u64,
    ) -> Option<Result<Outcome, Reason>> {
        let is_it = |charge: &Charge| (charge.epoch, charge.slot) == (epoch, owner);
        let charge = self.charged.list.iter().find(is_it)?;
        Some(self.vouch(&charge, force, now_ns))
    }

    fn vouch(&mut self, charge: &Charge, force: bool, now_ns: u64) -> Result<Outcome, Reason> {
        if !self.may_change_list() {
            return Err(Reason::Busy);
        }
        self.take_back_confirmations();
        let stands = |known: &Charge| known.is_of_term(charge) && known.drained;
        if self.charged.list.iter().any(|known| stands(&known)) {
            return Ok(Outcome::Done);
        }
        if charge.several && !force {
            return Err(Reason::SeveralTerms);
        }
        self.may_be_dead(&owner_of(charge), force, now_ns)?;
        let changed = self.charged.list.update(|known| {
            if known.is_of_term(charge) {
                (known.drained, known.vouched) = (true, true);
            }
        });
        if changed {
            self.changed_image();
        }
        self.note_confirmations(now_ns);
        Ok(Outcome::Done)
    }

    /// Marks terms as drained by evidence.
    fn mark_drained(&mut self, which: impl Fn(&Charge) -> bool) {
        let changed = self.charged.list.update(|charge| {
            if which(charge) {
                (charge.drained, charge.vouched) = (true, false);
            }
        });
        if changed {
            self.changed_image();
        }
    }

    /// Whether the list may change. During a ballot the list belongs to the ballot, and a joiner
    /// has no list yet.
    fn may_change_list(&self) -> bool {
        !matches!(self.phase, Phase::Claiming { .. } | Phase::Joining)
    }

    /// Drops the charges up to an epoch: they are drained, and an operator says that the damage is
    /// repaired [R21].
    pub(super) fn repaired(&mut self, epoch: u64) -> Result<Outcome, Reason> {
        if self.phase != Phase::Owner {
            return Err(Reason::NotOwner);
        }
        if epoch >= self.term.decided.epoch {
            return Err(Reason::WrongEpoch);
        }
        self.take_back_confirmations();
        let before = self.charged.list;
        let mut terms = before.iter().filter(|charge| charge.epoch <= epoch);
        if terms.any(|charge| !charge.drained) {
            return Err(Reason::NotDrained);
        }
        self.charged.list.retain(|charge| charge.epoch > epoch);
        if self.charged.list != before {
            self.changed_image();
            self.renew_limit();
        }
        Ok(Outcome::Done)
    }
}

/// Whether the charged incarnation wrote this record after the latch of the charged term, with
/// nothing open. No record after the latch carries a count from before the latch.
fn shows_drain(charge: &Charge, record: &HeartbeatRecord) -> bool {
    let (now, then) = (record.dec.epoch, charge.epoch);
    let drained = now > then && record.open == 0 || now == then && record.is_drained();
    record.inc == charge.inc && drained
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::generations::Generations;
    use crate::proto::codec::heartbeat::RecordRole;
    use crate::proto::codec::ids::{Decided, Incarnation};

    #[test]
    fn r21_only_a_record_from_after_the_latch_of_a_term_shows_that_the_term_has_drained() {
        let value = |inc| Value {
            slot: Slot::FIRST,
            inc: Incarnation(inc),
        };
        let shows = |inc, epoch, role, open| {
            let record = HeartbeatRecord {
                seq: 1,
                inc: Incarnation(inc),
                dec: Decided {
                    epoch,
                    value: Some(value(7)),
                },
                role,
                hb: 1,
                open,
                period_ns: 1,
                reason: 0,
                mark: 0,
                generations: Generations::NONE,
                may_claim: false,
            };
            shows_drain(&Charge::new(3, value(7), 1), &record)
        };
        assert!(shows(7, 3, RecordRole::Lapsed, 0));
        assert!(shows(7, 4, RecordRole::Owner, 0), "it has one gate");
        assert!(!shows(7, 3, RecordRole::Lapsed, 1));
        assert!(!shows(7, 4, RecordRole::Owner, 1));
        assert!(!shows(7, 3, RecordRole::Owner, 0), "the gate is open");
        assert!(!shows(7, 2, RecordRole::Lapsed, 0), "an earlier term");
        assert!(!shows(8, 3, RecordRole::Lapsed, 0), "another incarnation");
    }
}
