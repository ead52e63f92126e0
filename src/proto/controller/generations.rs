// SPDX-License-Identifier: GPL-2.0
//! Which devices are members now. A disk that was replaced and comes back is no member [R56].
//!
//! Each time a place among the members is formatted, the place gets a new generation. The
//! generation is in the superblock of the device and in the head of every record on it. Each
//! controller writes the highest known generation of each member into its records, and learns
//! generations from the records of other controllers. A device of a lower generation is *outdated*:
//! the state machine drops it and reports that, and reads from it are no information.
//!
//! This rule alone does not keep two majorities apart. Suppose that member 1 of three members 0, 1
//! and 2 is replaced. A controller that knows only the former disk reaches that disk and member 2,
//! while the owner reaches member 0 and the new disk. So a replacement *counts* in majorities only
//! when it is *settled*: when no controller can complete a round with the former disk any more, and
//! no ballot that was completed with it is undecided. A controller finds that out for member `i` in
//! two steps:
//!
//! 1. *named*: reads have shown records that name the generation of `i` on enough of the other
//!    members, so that every majority with the former disk contains one of them. From then on a
//!    controller with the former disk reads such a record in every round, and drops that disk.
//! 2. *clear*: later reads of as many of the other members show no ballot for the next epoch that
//!    such a controller may have completed before.
//!
//! A controller that finds a member settled writes that into its records, and other controllers
//! take it from there: a settled member stays settled. On a member that begins to count the silence
//! of an owner is measured anew, because the owner may have renewed its lease with the former disk
//! until then.
//!
//! With an even number of members two majorities share two places among the members, and at least
//! one of them is not the place of the replacement. So a replacement counts there at once. Original
//! members always count.
//!
//! One case is not covered: the former disks of two places come back together and are a majority,
//! with or without a present member, and the first replacement was not settled before the second
//! one was made.

use super::{Controller, MemberDevice, Notice};
use crate::proto::codec::ballot::BallotRecord;
use crate::proto::codec::generations::Generations;
use crate::proto::codec::ids::Slot;
use crate::proto::codec::mailbox::Mailboxes;
use crate::proto::codec::record::Reading;
use crate::proto::observer::member_bit;

/// What is known about the generation of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    /// The generation of the present device; 0 for none.
    generation: u32,
    /// Members that showed records that name this generation.
    named: u16,
    /// Members that showed no undecided ballot, in a read that was issued when enough members had
    /// named this generation.
    clear: u16,
}

impl Standing {
    pub(super) const NONE: Self = Self {
        generation: 0,
        named: 0,
        clear: 0,
    };

    /// The same standing with both sets of members replaced.
    #[cfg(feature = "model")]
    pub(super) fn with_sets(mut self, set: impl Fn(u16) -> u16) -> Self {
        self.named = set(self.named);
        self.clear = set(self.clear);
        self
    }
}

impl Controller {
    /// A device for `member` came, or went (`None`). The caller still reports the end of transfers
    /// to a device that went. A device of an outdated generation is not taken, which
    /// [`Notice::Outdated`] reports.
    pub fn handle_member(&mut self, member: u8, device: Option<MemberDevice>) {
        if member >= self.setup.members {
            return;
        }
        let bit = member_bit(member);
        let generation = device.map_or(0, |device| device.generation);
        self.set_standing(member, generation);
        self.members.outdated &= !bit;
        self.reported.outdated &= !bit;
        match device {
            Some(device) => {
                match device.original {
                    true => self.setup.originals |= bit,
                    false => self.setup.originals &= !bit,
                }
                self.members.generations.note(member, generation);
                self.members.present |= bit;
                self.drop_outdated();
            }
            None => self.members.present &= !bit,
        }
        self.members.healthy &= self.members.present;
    }

    /// Another device is `member` from now on. Nothing is known of its mailboxes any more, and
    /// transfers that are under way say nothing about it.
    pub fn forget_member(&mut self, member: u8, now_ns: u64) {
        let settled_ns = now_ns.saturating_add(self.setup.timing.device_settle_ns());
        let Some(state) = self.members.each.get_mut(usize::from(member)) else {
            return;
        };
        state.ballot.forget(settled_ns);
        state.heartbeat.forget(settled_ns);
        if let Some(tag) = state.read.as_mut() {
            tag.outdate();
        }
    }

    /// The highest generation of each member that is known.
    pub fn generations(&self) -> &Generations {
        &self.members.generations
    }

    /// The members that have a device and count in majorities.
    pub(super) fn counted(&self) -> u16 {
        let members = (0..self.setup.members).filter(|&member| self.counts(member));
        members.fold(0, |set, member| set | member_bit(member)) & self.members.present
    }

    /// Whether a member counts in majorities, if it has a device.
    pub(super) fn counts(&self, member: u8) -> bool {
        self.members.generations.of(member) <= 1
            || self.setup.members % 2 == 0
            || self.members.generations.is_settled(member)
    }

    /// The members of which enough others have named the generation.
    pub(super) fn named(&self) -> u16 {
        let is_named = |standing: &Standing| self.is_enough(standing.named);
        let standings = (0_u8..).zip(self.members.each.iter().map(|state| state.standing));
        let named = standings.filter(|(_, standing)| is_named(standing));
        named.fold(0, |set, (member, _)| set | member_bit(member))
    }

    /// Takes the generations that the records of a member's mailboxes name, and returns them.
    pub(super) fn take_generations<M: Mailboxes>(&mut self, boxes: &M) -> Generations {
        let mut shown = Generations::NONE;
        for slot in Slot::all_in(self.setup.slots) {
            let ballot = boxes.ballot(slot).reading.valid();
            let beat = boxes.heartbeat(slot).reading.valid();
            ballot.map(|record| shown.merge(&record.generations));
            beat.map(|record| shown.merge(&record.generations));
        }
        if self.members.generations.merge(&shown) {
            self.drop_outdated();
        }
        shown
    }

    /// Whether a member has a device that is not outdated.
    pub(super) fn is_present(&self, member: u8) -> bool {
        self.members.present & member_bit(member) != 0
    }

    /// Notes what a read of `member` says about other members, and settles them if that is enough.
    /// `named` is the result of [`Controller::named`] when the read was issued, `shown` are the
    /// generations that it showed.
    pub(super) fn settle<M: Mailboxes>(
        &mut self,
        member: u8,
        named: u16,
        shown: &Generations,
        boxes: &M,
    ) {
        let others = (0..self.setup.members).filter(|&other| other != member);
        for other in others {
            let generation = match self.members.each.get(usize::from(other)) {
                Some(state) if !self.counts(other) => state.standing.generation,
                _ => continue,
            };
            let is_clear = named & member_bit(other) != 0 && self.is_clear(other, boxes);
            let Some(state) = self.members.each.get_mut(usize::from(other)) else {
                continue;
            };
            if generation != 0 && shown.of(other) == generation {
                state.standing.named |= member_bit(member);
            }
            if is_clear {
                state.standing.clear |= member_bit(member);
            }
            let clear = state.standing.clear;
            if self.is_enough(clear) && self.succession.promise.bal.is_none() {
                self.members.generations.settle(other);
            }
        }
    }

    /// Whether a read shows no ballot that may have been completed with the former disk of `other`:
    /// no ballot with a value, and no ballot of a controller that does not know the new generation.
    fn is_clear<M: Mailboxes>(&self, other: u8, boxes: &M) -> bool {
        let generation = self.members.generations.of(other);
        let is_harmless = |record: &BallotRecord| {
            let knows = record.generations.of(other) >= generation;
            record.dec.epoch < self.term.decided.epoch
                || record.bal.is_none() && (knows || record.mbal.is_none())
        };
        Slot::all_in(self.setup.slots).all(|slot| match boxes.ballot(slot).reading {
            Reading::Valid(record) => is_harmless(&record),
            Reading::Blank => true,
            Reading::Invalid(_) => false,
        })
    }

    /// Whether every majority with the former disk of a member contains one of these others.
    fn is_enough(&self, others: u16) -> bool {
        let without = u32::from(self.setup.members).saturating_sub(self.majority().into());
        others.count_ones() > without
    }

    /// Drops the devices of a lower generation than the highest known one. The round that is under
    /// way began with them, so it ends, and so does a claim.
    fn drop_outdated(&mut self) {
        let before = self.members.outdated;
        for member in 0..self.setup.members {
            let bit = member_bit(member);
            let highest = self.members.generations.of(member);
            let Some(state) = self.members.each.get_mut(usize::from(member)) else {
                continue;
            };
            if self.members.present & bit != 0 && state.standing.generation < highest {
                self.members.present &= !bit;
                self.members.healthy &= !bit;
                self.members.outdated |= bit;
                state.standing.named = 0;
                state.standing.clear = 0;
                state.ballot.forget(0);
                state.heartbeat.forget(0);
                if let Some(tag) = state.read.as_mut() {
                    tag.outdate();
                }
            }
        }
        self.members.broken_off |= self.members.outdated != before;
    }

    /// Notes the generation of the present device. If it is another one, nothing else is known of
    /// it.
    fn set_standing(&mut self, member: u8, generation: u32) {
        let Some(state) = self.members.each.get_mut(usize::from(member)) else {
            return;
        };
        if state.standing.generation != generation {
            state.standing = Standing {
                generation,
                ..Standing::NONE
            };
            self.succession.owner.forget(member);
            self.identity.own_slot.forget(member);
        }
    }

    /// Reports each dropped device once.
    pub(super) fn poll_outdated(&mut self) -> Option<Notice> {
        let news = self.members.outdated & !self.reported.outdated;
        let member = (0..self.setup.members).find(|&member| news & member_bit(member) != 0)?;
        self.reported.outdated |= member_bit(member);
        let state = self.members.each.get(usize::from(member))?;
        Some(Notice::Outdated {
            member,
            generation: state.standing.generation,
            highest: self.members.generations.of(member),
        })
    }
}
