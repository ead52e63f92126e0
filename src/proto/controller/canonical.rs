// SPDX-License-Identifier: GPL-2.0
//! The same machine with its counters as small as they can be, so that a model check sees that two
//! histories led to the same place.
//!
//! Numbers of rounds and images are only ever compared for equality with the present one; what is
//! not the present one is "an earlier one". A moment that has passed, or whose only use was to
//! choose a length for the next back-off, is forgotten. Nothing here is called by the module.

use super::{Controller, Phase};
use crate::proto::observer::Observer;
use crate::proto::record::Register;
use crate::proto::round::{Kind, Stage};

impl Controller {
    /// A machine that behaves like this one from `now_ns` on, with small counters and the shortest
    /// back-offs. `seq` gives the number that stands for a sequence number of a register, in the
    /// same order.
    #[must_use]
    pub fn canonical(&self, now_ns: u64, seq: impl Fn(Register, u64) -> u64) -> Self {
        let mut same = self.clone();
        let present = self.round.as_ref().map(|round| round.number);
        let short = |number: u32| u32::from(present == Some(number));
        for (member, state) in same.members.iter_mut().enumerate() {
            let before = self.members.get(member);
            state.ballot = state.ballot.with_image(self.image);
            state.ballot = state
                .ballot
                .with_seq(|number| seq(Register::Ballot, number));
            state.heartbeat = state.heartbeat.with_image(self.rounds);
            state.heartbeat = state
                .heartbeat
                .with_seq(|number| seq(Register::Heartbeat, number));
            state.ballot_round = before.map_or(0, |before| short(before.ballot_round));
            state.heartbeat_round = before.map_or(0, |before| short(before.heartbeat_round));
            if let Some(tag) = state.read.as_mut() {
                tag.round = tag.round.map(short);
            }
        }
        same.rounds = 1;
        same.image = 1;
        same.random = 1;
        same.forget(now_ns);
        same
    }

    fn forget(&mut self, now_ns: u64) {
        let passed = |at_ns: u64| if at_ns <= now_ns { 0 } else { at_ns };
        self.ballots_from_ns = passed(self.ballots_from_ns);
        self.backoff_until_ns = passed(self.backoff_until_ns);
        self.last_round_ns = 0;
        // An earlier look is forgotten: looking once more changes nothing.
        self.last_look_ns = if self.last_look_ns < now_ns {
            0
        } else {
            now_ns
        };
        let silence_ns = self.silence_ns().max(self.setup.timing.join_listen_ns());
        self.owner.forget(now_ns.saturating_sub(silence_ns));
        match self.phase {
            Phase::Joining => self.own_slot.forget(now_ns.saturating_sub(silence_ns)),
            _ => self.own_slot = Observer::new(),
        }
        let beats = matches!(self.phase, Phase::Owner | Phase::Draining { .. });
        let claims = matches!(self.phase, Phase::Claiming { .. });
        let Some(round) = self.round.as_mut() else {
            return;
        };
        round.number = 1;
        if !beats || round.kind != Kind::Heartbeat {
            round.stamp_ns = now_ns;
        }
        if claims || beats || round.stage == Stage::Writing {
            round.issued_ns = now_ns;
        }
    }
}
