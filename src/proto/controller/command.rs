// SPDX-License-Identifier: GPL-2.0
//! The commands that an operator, or the shutdown of the host, gives to a controller.
//!
//! Every command is idempotent: a command succeeds if its effect is already there. A refusal has a
//! reason.

use super::phase::{Evidence, Pending, Phase};
use super::Controller;
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::codec::ids::Slot;
use crate::proto::words::status::Reason;

/// A command to the state machine. The text form of users is in [`crate::proto::words::message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Claim as soon as there is evidence.
    Claim,
    /// Close the gate, drain, and publish that the epoch is over; to `successor` if one is named.
    /// The command fails when permits are still open at `deadline_ns` of the local clock. With a
    /// named successor the drain begins later, by up to [`Controller::preparation_ns`], and the
    /// deadline moves with it.
    Release {
        /// The controller that may claim at once; `None` for any controller.
        successor: Option<Slot>,
        /// The time until which permits may come back.
        deadline_ns: u64,
    },
    /// Stop waiting for a successor to prepare itself: the hand-over fails.
    CallOff,
    /// Latch now. This needs no disk.
    Fence(Reason),
    /// The operator confirms that the owner is dead.
    ConfirmDead {
        /// The owner.
        owner: Slot,
        /// Its epoch.
        epoch: u64,
        /// Whether to accept this although the owner was heard lately.
        force: bool,
    },
    /// The operator confirms that the damage of the terms up to this one is repaired [R21].
    Repaired {
        /// The last of the terms.
        epoch: u64,
    },
    /// Members are failed or rebuilding [R14].
    Degraded {
        /// The number of such members in each redundancy group.
        failed: u32,
    },
    /// Operations continue although redundancy is exhausted [R15].
    AcceptRisk {
        /// The present epoch, as the operator saw it.
        epoch: u64,
    },
    /// The session is about to end or to sleep, for this reason. Release the epoch if there is one,
    /// and do not claim before [`Command::Stay`].
    Leave {
        /// Why the session ends or sleeps.
        reason: Reason,
        /// As for [`Command::Release`].
        deadline_ns: u64,
    },
    /// Allow again what [`Command::Leave`] with this reason forbade.
    Stay(Reason),
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command is done.
    Done,
    /// [`super::Action::Answer`] will follow.
    Pending,
}

impl Controller {
    /// Carries out a command, or begins it.
    ///
    /// # Errors
    ///
    /// The reason for a refusal.
    pub fn handle_command(&mut self, command: Command, now_ns: u64) -> Result<Outcome, Reason> {
        self.check_lapse(now_ns);
        match command {
            Command::Claim => self.claim(now_ns),
            Command::Release {
                successor,
                deadline_ns,
            } => {
                let reason = successor.map_or(Reason::Released, |_| Reason::Handoff);
                self.release(successor, reason, deadline_ns, now_ns)
            }
            Command::CallOff => {
                if matches!(self.phase, Phase::Offering { .. }) {
                    self.keep(Reason::Busy);
                }
                Ok(Outcome::Done)
            }
            Command::Fence(reason) => Ok(self.fence(reason, now_ns)),
            Command::ConfirmDead {
                owner,
                epoch,
                force,
            } => self.confirm_dead(owner, epoch, force, now_ns),
            Command::Repaired { epoch } => self.repaired(epoch),
            Command::Degraded { failed } => self.set_degraded(failed),
            Command::AcceptRisk { epoch } => self.accept_risk(epoch),
            Command::Leave {
                reason,
                deadline_ns,
            } => {
                self.policy.leaving |= leaving_bit(reason);
                if matches!(self.phase, Phase::Claiming { .. }) {
                    self.abandon_claim(now_ns);
                }
                self.release(None, reason, deadline_ns, now_ns)
            }
            Command::Stay(reason) => {
                self.policy.leaving &= !leaving_bit(reason);
                Ok(Outcome::Done)
            }
        }
    }

    fn claim(&mut self, now_ns: u64) -> Result<Outcome, Reason> {
        match (self.phase, self.policy.blocked) {
            (Phase::Failed, _) => return Err(self.reason),
            (Phase::Owner, _) => return Ok(Outcome::Done),
            (Phase::Offering { .. } | Phase::Draining { .. }, _) => return Err(Reason::Busy),
            (_, Some(reason)) => return Err(reason),
            (_, None) if self.policy.stale => return Err(Reason::StaleOpeners),
            (_, None) if self.policy.leaving != 0 => return Err(self.reason),
            (_, None) => {}
        }
        self.policy.claim_requested = true;
        self.try_claim(now_ns);
        self.begin_due_round(now_ns);
        Ok(Outcome::Done)
    }

    fn release(
        &mut self,
        successor: Option<Slot>,
        reason: Reason,
        deadline_ns: u64,
        now_ns: u64,
    ) -> Result<Outcome, Reason> {
        if successor.is_some_and(|slot| !slot.is_in(self.setup.slots)) {
            return Err(Reason::UnknownController);
        }
        if self.pending.is_some() {
            return Err(Reason::Busy);
        }
        self.policy.claim_requested = false;
        match self.phase {
            Phase::Owner if successor == Some(self.setup.slot) => Ok(Outcome::Done),
            Phase::Owner if self.term.gate_open && self.term.lease.is_valid(now_ns) => {
                self.pending = Some(Pending::Drain);
                self.begin_release(successor, reason, deadline_ns, now_ns);
                Ok(Outcome::Pending)
            }
            Phase::Owner | Phase::Claiming { .. } => Err(Reason::Busy),
            _ => self.already_released(successor),
        }
    }

    /// A release by a controller that owns nothing succeeds, and so does a hand-over that has
    /// already happened.
    fn already_released(&self, successor: Option<Slot>) -> Result<Outcome, Reason> {
        let owner = self.term.decided.value.map(|value| value.slot);
        match successor {
            None => Ok(Outcome::Done),
            Some(slot) if owner == Some(slot) && !self.is_mine() => Ok(Outcome::Done),
            // The epoch was given to this successor, which has not claimed yet.
            Some(_) if self.term.role == (RecordRole::Released { successor }) => Ok(Outcome::Done),
            Some(_) => Err(Reason::NotOwner),
        }
    }

    fn fence(&mut self, reason: Reason, now_ns: u64) -> Outcome {
        self.policy.claim_requested = false;
        match self.phase {
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. } => {
                self.latch(reason, now_ns);
            }
            Phase::Claiming { .. } => self.abandon_claim(now_ns),
            Phase::Joining | Phase::Announcing | Phase::Secondary | Phase::Failed => {}
        }
        if self.succession.evidence == Some(Evidence::OwnLapse) {
            self.succession.evidence = None;
        }
        Outcome::Done
    }

    fn confirm_dead(
        &mut self,
        owner: Slot,
        epoch: u64,
        force: bool,
        now_ns: u64,
    ) -> Result<Outcome, Reason> {
        if let Some(outcome) = self.confirm_drained(owner, epoch, force, now_ns) {
            return outcome;
        }
        let term = self.term.decided.value.filter(|value| value.slot == owner);
        let Some(term) = term.filter(|_| self.term.decided.epoch == epoch) else {
            return Err(Reason::WrongEpoch);
        };
        if owner == self.setup.slot {
            return Err(Reason::WrongEpoch);
        }
        self.may_be_dead(&term, force, now_ns)?;
        self.charged.confirmed_epoch = epoch;
        self.find(Evidence::Confirmed);
        self.policy.claim_requested = true;
        self.try_claim(now_ns);
        self.begin_due_round(now_ns);
        Ok(Outcome::Done)
    }
}

/// Each reason to leave has its own bit: waking up does not undo a removal.
fn leaving_bit(reason: Reason) -> u8 {
    match reason {
        Reason::Suspend => 1 << 0,
        Reason::Reboot => 1 << 1,
        // Removal is the only other reason to leave.
        _ => 1 << 2,
    }
}
