// SPDX-License-Identifier: GPL-2.0
//! The keys that an owner shuts out of a member before it admits a write there.

use super::key::{Key, Keys};
use crate::proto::codec::ids::Slot;

/// The most keys at a time: one for each charge, the replaced owner, and some that only the member
/// names. A key of the last kind leaves the list when it is evicted, so there may be any number of
/// them.
pub const MAX_VICTIMS: usize = 16;

/// How it is known that no command under a key can land any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShutBy {
    /// This owner's own PREEMPT, which named the key, was answered GOOD.
    Eviction,
    /// An earlier owner published that it had evicted the key; or the controller joined again and
    /// said that it was quiet; or an operator confirmed that it is dead.
    Mark,
    /// The key was missing for D, and the reservation stood at both ends of that time.
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The key may be registered.
    Listed,
    /// A list without the key was read at this time. That is no evidence: a member removes a key
    /// before it ends the commands.
    Absent {
        since_ns: u64,
    },
    Shut(ShutBy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Victim {
    key: Key,
    state: State,
    /// The key is that of a charged term. Otherwise it was found on the member.
    is_charged: bool,
}

/// The keys to shut out, and how far this has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Victims {
    list: [Option<Victim>; MAX_VICTIMS],
    /// Every listed key of another controller is to be shut out: a list of charges was full.
    all_others: bool,
    /// A key to be shut out did not fit in the list.
    is_short: bool,
}

impl Victims {
    /// The keys of the terms that may have commands under way. `all_others` if the list of charges
    /// names not all of them.
    pub fn new(keys: impl IntoIterator<Item = Key>, all_others: bool) -> Victims {
        let mut victims = Victims {
            list: [None; MAX_VICTIMS],
            all_others,
            is_short: false,
        };
        keys.into_iter().for_each(|key| victims.add(key, true));
        victims
    }

    /// Adds a key that the member lists, and that must not stay there.
    pub fn add_found(&mut self, key: Key) {
        self.add(key, false);
    }

    fn add(&mut self, key: Key, is_charged: bool) {
        if self.entry(key).is_some() {
            return;
        }
        let victim = Victim {
            key,
            state: State::Listed,
            is_charged,
        };
        let place = self.list.iter_mut().find(|place| match place {
            None => true,
            Some(old) => !old.is_charged && matches!(old.state, State::Shut(_)),
        });
        match place {
            Some(place) => *place = Some(victim),
            None => self.is_short = true,
        }
    }

    /// Notes how a key was shut out.
    pub fn shut(&mut self, key: Key, by: ShutBy) {
        if let Some(victim) = self.entry(key) {
            victim.state = State::Shut(by);
        }
    }

    /// The next key to evict: `first`, if that one is to be shut out, or any.
    pub fn next(&self, first: Option<Key>) -> Option<Key> {
        let mut listed = self.listed();
        listed
            .clone()
            .find(|key| Some(*key) == first)
            .or_else(|| listed.next())
    }

    /// Whether every key is shut out.
    pub fn are_shut(&self) -> bool {
        let shut = |victim: &Victim| matches!(victim.state, State::Shut(_));
        !self.is_short && self.list.iter().flatten().all(shut)
    }

    /// When the list must be read again because a key has been missing for `settle_ns`.
    pub fn due_ns(&self, settle_ns: u64) -> Option<u64> {
        let due = |victim: &Victim| match victim.state {
            State::Absent { since_ns } => Some(since_ns.saturating_add(settle_ns)),
            State::Listed | State::Shut(_) => None,
        };
        self.list.iter().flatten().filter_map(due).min()
    }

    /// Notes what the member lists now, while the reservation stands. `own` is this controller,
    /// and `settle_ns` is D on the local clock.
    ///
    /// A key that was shut out and is listed again is evicted again.
    pub fn observe(&mut self, keys: &Keys, own: Slot, now_ns: u64, settle_ns: u64) {
        self.is_short = false;
        if self.all_others {
            keys.of(own, false).for_each(|key| self.add_found(key));
        }
        for victim in self.list.iter_mut().flatten() {
            victim.state = match victim.state {
                _ if keys.has(victim.key.raw()) => State::Listed,
                // The member has more keys than it listed.
                state if keys.is_cut() => state,
                State::Listed => State::Absent { since_ns: now_ns },
                State::Absent { since_ns } if now_ns.saturating_sub(since_ns) >= settle_ns => {
                    State::Shut(ShutBy::Time)
                }
                state => state,
            };
        }
    }

    /// The reservation did not stand all the time: a missing key is timed anew.
    pub fn forget_absence(&mut self) {
        for victim in self.list.iter_mut().flatten() {
            if matches!(victim.state, State::Absent { .. }) {
                victim.state = State::Listed;
            }
        }
    }

    /// The keys that are shut out, and how that is known.
    pub fn all_shut(&self) -> impl Iterator<Item = (Key, ShutBy)> + '_ {
        self.list
            .iter()
            .flatten()
            .filter_map(|victim| match victim.state {
                State::Shut(by) => Some((victim.key, by)),
                State::Listed | State::Absent { .. } => None,
            })
    }

    fn listed(&self) -> impl Iterator<Item = Key> + Clone + '_ {
        let listed = |victim: &&Victim| victim.state == State::Listed;
        self.list
            .iter()
            .flatten()
            .filter(listed)
            .map(|victim| victim.key)
    }

    fn entry(&mut self, key: Key) -> Option<&mut Victim> {
        self.list
            .iter_mut()
            .flatten()
            .find(|victim| victim.key == key)
    }
}
