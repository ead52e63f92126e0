// SPDX-License-Identifier: GPL-2.0
//! Which devices are members now: a disk that was replaced and comes back is none [R56].
//!
//! Each formatting of a place among the members has a generation, which stands in the superblock of
//! the device and in the head of every record on it. Each controller carries in its records the
//! highest generation of each member that it knows, and takes what it reads in the records of
//! others. A device of a lower generation is *outdated*: it is dropped, the caller is told, and
//! nothing that is read from it is information.
//!
//! That alone does not keep two majorities apart. Of three members 0, 1 and 2, member 1 is
//! replaced; a controller that knows only the former disk reaches that one and member 2, while the
//! owner reaches member 0 and the new disk. So a replacement *counts* in majorities only when it is
//! *settled*: when no controller can complete a round with the former disk any more, and nothing
//! that was completed with it is undecided. A controller finds that out for member `i` in two
//! steps:
//!
//! 1. *named*: reads have shown records that name the generation of `i` on so many of the other
//!    members that every majority with the former disk contains one of them. From then on a
//!    controller with the former disk reads such a record in every round, and drops that disk.
//! 2. *clear*: reads that were issued after that, of as many of the other members, show no ballot
//!    for the next epoch that such a controller may have completed before.
//!
//! A controller that has found a member to be settled says so in its records, and whoever reads it
//! believes it: a settled member stays settled. Silence of an owner is aged anew on a member that
//! begins to count, because the owner may have renewed its lease until then with the former disk.
//!
//! With an even number of members two majorities share two places among the members, of which one
//! is not that of the replacement. A replacement counts there at once, and so do original members.
//!
//! What is not covered: former disks of two places that come back together and are a majority with
//! or without a present member, unless each replacement was settled before the next one was made.

use super::{Controller, MemberDevice, Notice};
use crate::proto::codec::ballot::BallotRecord;
use crate::proto::codec::generations::Generations;
use crate::proto::codec::ids::Slot;
use crate::proto::codec::mailbox::Mailboxes;
use crate::proto::codec::record::Reading;
use crate::proto::observer::member_bit;

/// What is known of the generation of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    /// The generation of the device that is here; 0 for none.
    generation: u32,
    /// Members that showed records that name this generation.
    named: u16,
    /// Members that showed nothing undecided, in a read issued when enough had named it.
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
    /// A device for `member` came, or went (`None`). What hangs on a device that went is still
    /// reported. A device of an outdated generation does not come: [`Notice::Outdated`] says so.
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

    /// The members that are here, belong here, and count in majorities.
    pub(super) fn counted(&self) -> u16 {
        let members = (0..self.setup.members).filter(|&member| self.counts(member));
        members.fold(0, |set, member| set | member_bit(member)) & self.members.present
    }

    /// Whether a member counts in majorities, if it is here.
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

    /// Takes what the records of a member's mailboxes say of generations, and returns it.
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

    /// Whether a member is here, and is a member.
    pub(super) fn is_present(&self, member: u8) -> bool {
        self.members.present & member_bit(member) != 0
    }

    /// Looks whether a read of `member` settles others. `named` are the members that were
    /// [`Controller::named`] when the read was issued, `shown` is what it showed of generations.
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
    /// no value that was put forward, and no ballot of a controller that does not know better.
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

    /// Drops the devices of a lower generation than the highest that is known. What is under way
    /// was begun with them: a claim ends, and so does any other round.
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

    /// Another device, or none, is here: nothing is known of how it stands.
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

    /// Tells of a device that was dropped, once.
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
