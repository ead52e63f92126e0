// SPDX-License-Identifier: GPL-2.0
//! The same machine with its counters as small as they can be, so that a model check sees that two
//! histories led to the same place.
//!
//! Numbers of rounds and images are only ever compared for equality with the present one; what is
//! not the present one is "an earlier one". Nothing here is called by the module.

use super::Controller;
use crate::proto::record::Register;

impl Controller {
    /// A machine that behaves like this one, with small counters and its random numbers begun anew.
    /// `seq` gives the number that stands for a sequence number of a register, in the same order.
    #[must_use]
    pub fn canonical(&self, seq: impl Fn(Register, u64) -> u64) -> Self {
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
        if let Some(round) = same.round.as_mut() {
            round.number = 1;
        }
        same.rounds = 1;
        same.image = 1;
        same.random = 1;
        same
    }
}
