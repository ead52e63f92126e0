// SPDX-License-Identifier: GPL-2.0
//! What old owners are charged with, and the batch limit that is left [R14, R21].
//!
//! ```text
//!   a claim ends term e,             drain evidence           `repaired`
//!   which has not drained  charged ------------------> drained ------------> dropped
//!  ----------------------->
//! ```
//!
//! The list travels in the ballot record, attached to the decided epoch. A candidate writes it,
//! extended by the term that it ends, together with the value it puts forward, so that whoever
//! wins, the list is on a majority before the epoch is decided. The owner's own record carries it
//! before its gate opens. Who learns of the decision from a record without a list marks its own
//! as *partial*, and a claimant uses a partial one only where no whole one is left.
//!
//! A term is charged with the highest limit that a record of its owner shows. The record says at
//! least what may be open: after a limit was lowered the old one stands in it until the gate was
//! seen to hold no more than the new one. Consecutive terms of one incarnation share one gate, so
//! the earlier one is not charged.
//!
//! A later incarnation with the number of the old owner is no evidence that the old one has
//! drained: it may run on a spare, while the old machine hangs with operations that have passed its
//! gate. Nothing on the members tells the two cases apart, so an operator has to.

use super::state::Phase;
use super::voices::owner_of;
use super::{Controller, Outcome};
use crate::proto::codec::charges::{Charge, Charges};
use crate::proto::codec::heartbeat::HeartbeatRecord;
use crate::proto::codec::ids::{Incarnation, Slot, Value};
use crate::proto::codec::mailbox::Mailboxes;
use crate::proto::limit::RedundancyKind;
use crate::proto::paxos::Lists;
use crate::proto::words::status::Reason;

/// What the local clock knows of a charged term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watched {
    epoch: u64,
    inc: Incarnation,
    /// When the charge was first known here.
    since_ns: u64,
    /// When an operator's word that the owner is dead was first known here.
    word_ns: Option<u64>,
}

#[cfg(feature = "model")]
impl Watched {
    /// Replaces both moments.
    pub(super) fn with_moments(&mut self, moment: impl Fn(u64) -> u64) {
        self.since_ns = moment(self.since_ns);
        self.word_ns = self.word_ns.map(moment);
    }
}

impl Controller {
    /// What is charged now.
    pub fn charges(&self) -> &Charges {
        &self.charged.list
    }

    /// Nothing is open: the own earlier terms are drained. The list has no charge of the present
    /// one.
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
            // Its own knowledge counts as well, and a word that it was given itself.
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
            // One gate for both terms: the later one is charged when it ends.
            charges.retain(|charge| !charge.is_of_term(&ended) || charge.several);
            ended.epoch = epoch.saturating_add(1);
            (ended.drained, ended.vouched) = (false, false);
        }
        // This machine knows what it has open. Of another incarnation this may be all that is known
        // later: when it restarts, its next incarnation overwrites its records.
        let knows = owner == value && value == self.me();
        if amount != 0 && !knows {
            charges.add(ended);
        }
        charges
    }

    /// What a joiner carries for others: what its former incarnation carried, and, if that one
    /// owned the epoch, what it may have had open, because its records are overwritten now.
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

    /// A whole list of the decided epoch was read. What a former incarnation may have had open in
    /// that epoch nobody else knows any more.
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

    /// Looks for evidence that a charged term has no more strays to come.
    pub(super) fn watch_charges<M: Mailboxes>(&mut self, boxes: &M, now_ns: u64) {
        if self.charged.list.is_empty() || !self.may_change_list() {
            return;
        }
        self.take_back_words();
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

    /// Whether the time has passed after which a term counts as drained.
    fn has_waited(&mut self, charge: &Charge, now_ns: u64) -> bool {
        let drain_ns = self.setup.redundancy.drain_ns;
        let Some(watched) = self.watched(charge, now_ns) else {
            return false;
        };
        let waited_ns = now_ns.saturating_sub(watched.since_ns);
        drain_ns.is_some_and(|drain_ns| waited_ns >= drain_ns)
    }

    /// What the local clock knows of a term, from now on if nothing so far.
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
        // There are as many places as charges, and each holds one that is charged.
        let place = self.charged.watched.get_mut(known.or(free)?)?;
        Some(place.get_or_insert(Watched {
            epoch: charge.epoch,
            inc: charge.inc,
            since_ns: now_ns,
            word_ns: None,
        }))
    }

    /// Notes since when the operators' words in the list are known here.
    pub(super) fn note_words(&mut self, now_ns: u64) {
        let charges = self.charged.list;
        for charge in charges.iter().filter(|charge| !charge.is_shown()) {
            if let Some(watched) = self.watched(&charge, now_ns) {
                let since = *watched.word_ns.get_or_insert(now_ns);
                watched.word_ns = charge.vouched.then_some(since);
            }
        }
    }

    /// Since when an operator's word about a term is known here.
    pub(super) fn word_ns(&self, charge: &Charge) -> Option<u64> {
        let is_of = |known: &&Watched| (known.epoch, known.inc) == (charge.epoch, charge.inc);
        self.charged.watched.iter().flatten().find(is_of)?.word_ns
    }

    /// An operator says that the owner of a charged term is dead; `None` if it is not charged.
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
        self.take_back_words();
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
        self.note_words(now_ns);
        Ok(Outcome::Done)
    }

    /// Evidence has shown that these terms are drained.
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

    /// While a ballot is written the list belongs to it, and a joiner has none yet.
    fn may_change_list(&self) -> bool {
        !matches!(self.phase, Phase::Claiming { .. } | Phase::Joining)
    }

    /// Drops what is drained and now repaired [R21].
    pub(super) fn repaired(&mut self, epoch: u64) -> Result<Outcome, Reason> {
        if self.phase != Phase::Owner {
            return Err(Reason::NotOwner);
        }
        if epoch >= self.term.decided.epoch {
            return Err(Reason::WrongEpoch);
        }
        self.take_back_words();
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

/// Whether a record was written by that very incarnation, behind the latch of that term, with
/// nothing open. The machine never writes 0 open from before the latch.
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
    fn r21_only_what_is_said_behind_the_latch_of_a_term_shows_that_it_has_drained() {
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
