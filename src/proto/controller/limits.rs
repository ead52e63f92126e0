// SPDX-License-Identifier: GPL-2.0
//! The batch limit: how many operations may be open, and when a new limit holds [R14].
//!
//! A lower limit holds for the next permit. A higher one holds from the heartbeat that published
//! it. While the gate still holds more than a lowered limit, the ballot record says the old one.

use super::phase::Phase;
use super::{Controller, GateChange, Outcome};
use crate::proto::limit::{formula, Exhausted};
use crate::proto::paxos::Lists;
use crate::proto::words::status::Reason;

impl Controller {
    /// The batch limit in force.
    pub fn limit(&self) -> u32 {
        self.limits.published
    }

    /// The number of members that are failed or rebuilding, as this controller counts them. An
    /// owner counts with it now, any other controller from its claim on.
    pub fn degraded(&self) -> u32 {
        self.limits.failed.max(self.limits.failed_at_claim)
    }

    /// Notes the number of open permits, which the next record says. The caller has performed every
    /// action so far: if one of them was a latch, the count was taken after it.
    pub fn note_open(&mut self, open: u32) {
        self.limits.open = open;
        self.note_exposure();
        self.note_own_drain();
    }

    /// If the gate holds no more than its limit, the record may say that limit from now on.
    fn note_exposure(&mut self) {
        if self.limits.exposed != 0 && self.limits.open <= self.limits.gate {
            let before = self.limits.published.max(self.limits.exposed);
            self.limits.exposed = 0;
            if self.limits.published != before {
                self.changed_image();
            }
        }
    }

    /// Whether redundancy is relied upon and repairs no more strays [R15].
    pub(super) fn is_exhausted(&self) -> bool {
        let redundancy = &self.setup.redundancy;
        let q = self.charged.list.total();
        redundancy
            .kind
            .failures()
            .is_some_and(|m| formula(m, self.limits.failed, q, redundancy.detect) == 0)
    }

    /// Derives the limit from what is charged and failed now.
    pub(super) fn renew_limit(&mut self) {
        let mut redundancy = self.setup.redundancy;
        match self.is_exhausted() {
            true if self.limits.risked_epoch == self.term.decided.epoch => {
                redundancy.exhausted = Exhausted::Window;
            }
            true => {}
            false => self.limits.risked_epoch = 0,
        }
        let charged = self.charged.list.total();
        let limit = redundancy.limit(self.limits.failed, charged, self.setup.batch);
        let limit = limit.to_wire();
        if limit == self.limits.published {
            return;
        }
        self.limits.published = limit;
        self.changed_image();
        if limit < self.limits.gate {
            // After a latch the gate gives no permit, so what was counted then can only fall.
            if self.term.gate_open || self.limits.open > limit {
                self.limits.exposed = self.limits.exposed.max(self.limits.gate);
            }
            self.limits.gate = limit;
            self.queue_limit();
        }
    }

    /// Gives the gate a higher limit when a majority of the members has it.
    pub(super) fn raise_limit(&mut self, now_ns: u64) {
        if self.limits.published > self.limits.gate && self.is_published(now_ns) {
            self.limits.gate = self.limits.published;
            self.queue_limit();
        }
    }

    pub(super) fn queue_limit(&mut self) {
        let limit = match self.phase {
            Phase::Draining { .. } => 0,
            _ => self.limits.gate,
        };
        self.queue.gate(GateChange::SetLimit(limit));
    }

    /// An operator says how many members are failed or rebuilding. If the owner is told, the next
    /// owner finds the number in its record. If another controller is told, the number counts when
    /// that controller claims, and for no other.
    pub(super) fn set_degraded(&mut self, failed: u32) -> Result<Outcome, Reason> {
        if !self.is_mine() || self.phase == Phase::Joining {
            self.limits.failed_at_claim = failed;
            return Ok(Outcome::Done);
        }
        self.limits.failed_at_claim = 0;
        if self.limits.failed != failed {
            self.limits.failed = failed;
            self.changed_image();
            self.renew_limit();
        }
        Ok(Outcome::Done)
    }

    /// The number of failed members that a new owner counts with: what the last owner was told, or
    /// the most that any controller was told. It goes with the list of charges.
    pub(super) fn failed_after(&self, lists: &Lists) -> u32 {
        // The records on the members may lag behind the own knowledge.
        let found = match self.is_mine() {
            true => self.limits.failed,
            false => lists.failed(),
        };
        found.max(self.limits.failed_at_claim)
    }

    /// Goes on under time alone until redundancy returns, but not beyond this epoch [R15].
    pub(super) fn accept_risk(&mut self, epoch: u64) -> Result<Outcome, Reason> {
        if self.phase != Phase::Owner {
            return Err(Reason::NotOwner);
        }
        if epoch != self.term.decided.epoch {
            return Err(Reason::WrongEpoch);
        }
        if !self.is_exhausted() {
            return Err(Reason::NotExhausted);
        }
        self.limits.risked_epoch = epoch;
        self.renew_limit();
        Ok(Outcome::Done)
    }
}
