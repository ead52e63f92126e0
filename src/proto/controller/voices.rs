// SPDX-License-Identifier: GPL-2.0
//! Signs of life of the present owner and of charged owners, and an operator's confirmation that an
//! owner is dead [R21].
//!
//! ```text
//!                 confirm_dead       term ends: charged, and drained by confirmation
//!   owner silent -------------> confirmed ---------------------------------------> vouched
//!                                   |                                                 |
//!                                   +------- heard: the confirmation is forgotten ----+
//! ```
//!
//! A *voice* is the heartbeat register of one incarnation. The incarnation is heard when a member
//! shows a later record than the same member showed before. The role in the record does not matter:
//! an owner that has latched is alive, too. A member that lost a heartbeat shows an earlier record,
//! which is no sign of life. The first record on a member is no sign of life either, but silence
//! counts from it.

use super::phase::{Evidence, Phase};
use super::Controller;
use crate::proto::codec::charge_list::{Charge, MAX_CHARGES};
use crate::proto::codec::heartbeat::HeartbeatRecord;
use crate::proto::codec::ids::MAX_MEMBERS;
use crate::proto::codec::ids::{Incarnation, Slot, Value};
use crate::proto::codec::mailbox::Mailboxes;
use crate::proto::words::status::Reason;

/// Each charged term may be of another incarnation; the present owner is one more.
pub(super) const MAX_VOICES: usize = MAX_CHARGES + 1;

/// What was heard from one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Voice {
    slot: Slot,
    inc: Incarnation,
    /// The lower half of the sequence number that each member shows; 0 if it shows none.
    seqs: [u32; MAX_MEMBERS as usize],
    /// When a record was last new on a member, the first one there included.
    changed_ns: u64,
    /// When a member last showed a later record than before.
    heard_ns: Option<u64>,
    /// When a new record last said that operations are open.
    open_ns: Option<u64>,
}

impl Voice {
    fn new(value: Value, now_ns: u64) -> Self {
        Self {
            slot: value.slot,
            inc: value.inc,
            seqs: [0; MAX_MEMBERS as usize],
            changed_ns: now_ns,
            heard_ns: None,
            open_ns: None,
        }
    }

    fn is_of(&self, value: &Value) -> bool {
        (self.slot, self.inc) == (value.slot, value.inc)
    }

    /// A member shows `record`. Returns whether that is a sign of life.
    fn shows(&mut self, member: u8, record: &HeartbeatRecord, now_ns: u64) -> bool {
        let Some(known) = self.seqs.get_mut(usize::from(member)) else {
            return false;
        };
        let seq = (record.seq as u32).max(1);
        let before = core::mem::replace(known, seq);
        if before == seq {
            return false;
        }
        self.changed_ns = now_ns;
        if record.open > 0 {
            self.open_ns = Some(now_ns);
        }
        let is_later = seq.wrapping_sub(before) < 1 << 31;
        let heard = before != 0 && is_later;
        if heard {
            self.heard_ns = Some(now_ns);
        }
        heard
    }
}

impl Controller {
    /// Listens to the present owner and to the charged owners, on one member.
    pub(super) fn listen<M: Mailboxes>(&mut self, member: u8, boxes: &M, now_ns: u64) {
        let charges = self.charged.list;
        let charged = charges.iter().map(|charge| owner_of(&charge));
        let me = self.me();
        let wanted = charged
            .chain(self.term.decided.value)
            .filter(|it| *it != me);
        for voice in &mut self.charged.voices {
            *voice = voice.filter(|voice| wanted.clone().any(|value| voice.is_of(&value)));
        }
        for value in wanted {
            let record = boxes.heartbeat(value.slot).reading.valid();
            let own = |record: &HeartbeatRecord| record.inc == value.inc;
            let Some(voice) = self.voice_of(&value, now_ns) else {
                continue;
            };
            if record
                .filter(own)
                .is_some_and(|record| voice.shows(member, &record, now_ns))
            {
                self.contradict(&value, now_ns);
            }
        }
    }

    /// The voice of an incarnation; a new one begins now.
    fn voice_of(&mut self, value: &Value, now_ns: u64) -> Option<&mut Voice> {
        let is_it = |voice: &Option<Voice>| voice.is_some_and(|voice| voice.is_of(value));
        let known = self.charged.voices.iter().position(is_it);
        let free = self.charged.voices.iter().position(Option::is_none);
        // There is an entry for each owner that may be listened to.
        let place = self.charged.voices.get_mut(known.or(free)?)?;
        Some(place.get_or_insert(Voice::new(*value, now_ns)))
    }

    fn voice(&self, value: &Value) -> Option<&Voice> {
        self.charged
            .voices
            .iter()
            .flatten()
            .find(|voice| voice.is_of(value))
    }

    /// An owner was heard, so it is not dead, although an operator confirmed that.
    /// [`Controller::take_back_confirmations`] removes the confirmation from the list of charges.
    fn contradict(&mut self, value: &Value, now_ns: u64) {
        if self.term.decided.value != Some(*value) {
            return;
        }
        self.charged.confirmed_epoch = 0;
        if self.succession.evidence == Some(Evidence::Confirmed) {
            self.owner_lives(now_ns);
        }
    }

    /// Whether the owner of a charged term was heard after an operator's confirmation about it was
    /// known.
    pub(super) fn is_contradicted(&self, charge: &Charge) -> bool {
        let heard_ns = self.voice(&owner_of(charge)).and_then(|it| it.heard_ns);
        let confirmed_ns = self.confirmed_ns(charge);
        charge.vouched && heard_ns.is_some_and(|at| confirmed_ns.is_some_and(|since| at > since))
    }

    /// Takes back operators' confirmations about owners that were heard later.
    pub(super) fn take_back_confirmations(&mut self) {
        let before = self.charged.list;
        let wrong = |charge: &Charge| self.is_contradicted(charge);
        let mut charges = before;
        charges.update(|charge| {
            if wrong(charge) {
                (charge.drained, charge.vouched) = (false, false);
            }
        });
        if charges != before {
            self.charged.list = charges;
            self.changed_image();
        }
    }

    /// Whether an operator may confirm that an owner is dead. `force` skips the check for silence,
    /// but not the check for open operations that the owner published.
    ///
    /// # Errors
    ///
    /// The reason for a refusal.
    pub(super) fn may_be_dead(
        &self,
        value: &Value,
        force: bool,
        now_ns: u64,
    ) -> Result<(), Reason> {
        if *value == self.me() {
            return Err(Reason::OwnerAlive);
        }
        let quiet_ns = self.setup.timing.lease_elsewhere_ns();
        let lately = |at_ns: u64| now_ns.saturating_sub(at_ns) < quiet_ns;
        let voice = self.voice(value);
        if !force {
            if self.is_blind(now_ns) {
                return Err(Reason::Blind);
            }
            if voice.is_none_or(|voice| lately(voice.changed_ns)) {
                return Err(Reason::OwnerAlive);
            }
        }
        match voice.and_then(|voice| voice.open_ns).is_some_and(lately) {
            true => Err(Reason::OwnerOpen),
            false => Ok(()),
        }
    }

    /// Whether no majority was read lately: then silence is no evidence. A healthy controller reads
    /// a majority within its period and the time that a round may take.
    fn is_blind(&self, now_ns: u64) -> bool {
        let sees_ns = self.setup.period_ns.saturating_add(self.patience_ns());
        let lately = |at_ns: u64| now_ns.saturating_sub(at_ns) <= sees_ns;
        self.phase == Phase::Joining || !self.rounds.sight_ns.is_some_and(lately)
    }
}

/// The incarnation that a charge names.
pub(super) fn owner_of(charge: &Charge) -> Value {
    Value {
        slot: charge.slot,
        inc: charge.inc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::generations::Generations;
    use crate::proto::codec::heartbeat::RecordRole;
    use crate::proto::codec::ids::Decided;

    fn record(seq: u64, open: u32) -> HeartbeatRecord {
        HeartbeatRecord {
            seq,
            inc: Incarnation(7),
            dec: Decided::NEVER,
            role: RecordRole::Lapsed,
            hb: 0,
            open,
            period_ns: 1,
            reason: 0,
            may_claim: true,
            mark: 0,
            generations: Generations::NONE,
        }
    }

    #[test]
    fn r21_an_owner_is_heard_by_a_later_record_on_the_same_member() {
        let value = Value {
            slot: Slot::FIRST,
            inc: Incarnation(7),
        };
        let mut voice = Voice::new(value, 5);
        assert!(!voice.shows(0, &record(9, 0), 10), "the first one");
        assert!(!voice.shows(1, &record(4, 0), 20), "another member");
        assert!(!voice.shows(0, &record(9, 0), 30), "the same one");
        assert_eq!((voice.changed_ns, voice.heard_ns), (20, None));
        assert!(voice.shows(1, &record(5, 1), 40));
        assert_eq!((voice.changed_ns, voice.open_ns), (40, Some(40)));
        assert!(!voice.shows(1, &record(4, 1), 50), "forgotten");
        assert_eq!((voice.changed_ns, voice.heard_ns), (50, Some(40)));
        assert!(voice.shows(1, &record(5, 0), 60));
        assert!(voice.shows(0, &record((1 << 32) + 10, 0), 70));
        assert!(!voice.shows(MAX_MEMBERS, &record(9, 1), 80));
        assert_eq!((voice.changed_ns, voice.open_ns), (70, Some(50)));
    }
}
