// SPDX-License-Identifier: GPL-2.0
//! Inputs that come with time: clock readings, the heartbeat timer, and timeouts.

use super::phase::Phase;
use super::Controller;
use crate::proto::clocks::Now;
use crate::proto::codec::heartbeat::RecordRole;
use crate::proto::round::{Round, RoundKind};
use crate::proto::words::status::Reason;

impl Controller {
    /// Takes a reading of the clocks. The caller reads the clocks before each other call, and
    /// passes the `raw_ns` of that reading to it.
    ///
    /// After a break the time since the last reading is unknown. So a lease that was granted before
    /// the break is over, and a claim is abandoned, because its lease would begin with a stamp from
    /// before the break. Timers of silence start anew. Other timers run on: the lease clock counts
    /// too little of a sleep and never too much.
    pub fn handle_clocks(&mut self, now: Now) {
        if !self.clocks.take(now) {
            return;
        }
        self.succession.owner.reset();
        self.identity.own_slot.reset();
        // Reads from before the break say nothing about the present.
        (self.rounds.sight_ns, self.identity.seen_ns) = (None, None);
        match self.phase {
            Phase::Owner | Phase::Offering { .. } | Phase::Draining { .. } => {
                self.latch(Reason::Clock, now.raw_ns);
                self.begin_due_round(now.raw_ns);
            }
            Phase::Claiming { .. } => self.abandon_claim(now.raw_ns),
            // The reads of the present round may be from before the break.
            Phase::Joining | Phase::Announcing | Phase::Secondary | Phase::Failed => {
                self.end_round_in_failure(now.raw_ns);
            }
        }
    }

    /// The heartbeat timer fired. The clock value is the stamp of the heartbeat that begins [R2].
    pub fn handle_tick(&mut self, now_ns: u64) {
        self.check_time(now_ns);
        let (majority, patience_ns) = (self.majority(), self.patience_ns());
        let stuck = |round: &Round| round.is_stuck(majority, patience_ns, now_ns);
        if self.rounds.current.as_ref().is_some_and(stuck) {
            self.end_round_in_failure(now_ns);
        }
        self.rounds.due = true;
        self.begin_due_round(now_ns);
    }

    /// A time that [`Controller::poll_timeout_ns`] named has come.
    pub fn handle_timeout(&mut self, now_ns: u64) {
        self.check_time(now_ns);
        if self.rounds.current.is_none() && self.look_ns().is_some_and(|at| at <= now_ns) {
            self.begin_round(RoundKind::Look, now_ns);
        }
        self.try_claim(now_ns);
        self.begin_due_round(now_ns);
    }

    /// The next local time at which the caller must call [`Controller::handle_timeout`].
    pub fn poll_timeout_ns(&self) -> Option<u64> {
        let deadline = match self.phase {
            Phase::Claiming { deadline_ns, .. } | Phase::Draining { deadline_ns, .. } => {
                Some(deadline_ns)
            }
            Phase::Offering { until_ns, .. } => Some(until_ns),
            Phase::Joining
            | Phase::Announcing
            | Phase::Secondary
            | Phase::Owner
            | Phase::Failed => None,
        };
        let look = match self.rounds.current {
            None => self.look_ns(),
            Some(_) => None,
        };
        let lapse = self.term.lease.deadline_ns();
        let times = [deadline, lapse, look, self.claim_at_ns()];
        times.into_iter().flatten().min()
    }

    /// Ends what has ended by time, before an input is looked at.
    pub(super) fn check_time(&mut self, now_ns: u64) {
        self.break_off(now_ns);
        self.check_lapse(now_ns);
        self.check_deadlines(now_ns);
        self.check_stale_round(now_ns);
    }

    fn check_deadlines(&mut self, now_ns: u64) {
        match self.phase {
            Phase::Claiming { deadline_ns, .. } => {
                if now_ns >= deadline_ns {
                    self.abandon_claim(now_ns);
                }
            }
            Phase::Offering { until_ns, .. } => {
                if now_ns >= until_ns {
                    self.keep(Reason::Unprepared);
                }
            }
            Phase::Draining { deadline_ns, .. } => {
                if now_ns >= deadline_ns {
                    self.keep(Reason::ReleaseTimeout);
                }
            }
            Phase::Joining
            | Phase::Announcing
            | Phase::Secondary
            | Phase::Owner
            | Phase::Failed => {}
        }
    }

    /// When to look between two heartbeats, because a silence may be long enough by then. If the
    /// last look came late enough and did not prove the silence, only the next heartbeat can.
    fn look_ns(&self) -> Option<u64> {
        let (observer, silence_ns) = match self.phase {
            Phase::Joining => (&self.identity.own_slot, self.setup.timing.join_listen_ns()),
            Phase::Secondary if self.succession.evidence.is_none() && self.wants_claim() => {
                (&self.succession.owner, self.silence_ns())
            }
            Phase::Claiming { .. } if self.is_prepared() => return Some(self.next_look_ns()),
            _ => return None,
        };
        observer.ripe_ns(silence_ns, self.majority(), self.rounds.last_look_ns)
    }

    /// How long a silence must be; usually a window. On a portion that was never owned, the home
    /// controller goes first: every controller listens between its announcement and its first
    /// ballot, and the other controllers wait a window longer. A controller that released the
    /// portion to a successor waits as long, too, because the successor may have joined only just
    /// before the release.
    pub(super) fn silence_ns(&self) -> u64 {
        let timing = &self.setup.timing;
        let own = Some(self.setup.slot);
        match self.term.role {
            _ if self.term.decided.epoch == 0 => {
                timing.window_ns.saturating_add(timing.join_listen_ns())
            }
            RecordRole::Released { successor } if successor.is_some() && successor != own => {
                timing.window_ns.saturating_add(timing.join_listen_ns())
            }
            _ => timing.window_ns,
        }
    }

    /// How long an ordinary round may take, with a write that is reported as lost.
    pub(super) fn patience_ns(&self) -> u64 {
        let timing = &self.setup.timing;
        let lost_ns = self.setup.period_ns.max(timing.error_report_ns);
        lost_ns
            .saturating_add(timing.write_ns)
            .saturating_add(timing.read_ns)
    }
}
