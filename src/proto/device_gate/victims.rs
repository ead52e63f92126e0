// SPDX-License-Identifier: GPL-2.0
//! The victims: the keys that an owner shuts out of a member before it admits a write there.

use super::key::{Key, Keys};

/// The most victims at a time. A key that was found on the member gives its place up when it is
/// shut out, so the number of such keys has no bound.
pub const MAX_VICTIMS: usize = 16;

/// The most victims that charged terms name: eight charges and the replaced owner, and some more.
/// The other places are left for keys that are found on the member.
const MAX_CHARGED: usize = 12;

/// How it is known that no command under a key can land any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShutBy {
    /// This owner's own PREEMPT, which named the key, was answered GOOD.
    Eviction,
    /// An earlier owner published that it had evicted the key; or the controller of the key joined
    /// again and said that it was quiet; or an operator confirmed that this controller is dead.
    Mark,
    /// The key was missing for D, and the reservation stood at both ends of that time.
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The key may be registered: no look that counts has shown that it is missing.
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

/// A look at a member: its keys, and when they were read.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The list of keys.
    pub keys: &'a Keys,
    /// The own controller's key.
    pub own: Key,
    /// The local time before the look began.
    pub began_ns: u64,
    /// The local time after its last answer.
    pub ended_ns: u64,
    /// D on the local clock, in nanoseconds.
    pub settle_ns: u64,
}

/// The victims on a member, and which of them are shut out already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Victims {
    list: [Option<Victim>; MAX_VICTIMS],
    /// Some charged term may be missing here. Then each key of another controller that a look shows
    /// is a victim, up to the first look that lists all keys and finds a place for each victim.
    all_others: bool,
    /// The last look showed a victim for which there was no place.
    is_short: bool,
    /// `all_others` holds, and the list of keys in the last look was cut.
    is_cut: bool,
}

impl Victims {
    /// The keys of the terms that may have commands under way. `all_others` says that the list of
    /// charges was full, so that these keys may not be all.
    pub fn new(keys: impl IntoIterator<Item = Key>, all_others: bool) -> Victims {
        let mut victims = Victims {
            list: [None; MAX_VICTIMS],
            all_others,
            is_short: false,
            is_cut: false,
        };
        for key in keys {
            match victims.list.iter().flatten().count() < MAX_CHARGED {
                true => victims.add(key, true),
                // There is no place for this key. If the member lists it, `all_others` makes it a
                // victim.
                false => victims.all_others = true,
            }
        }
        victims
    }

    /// Whether there may be victims that the list does not name.
    pub const fn are_more(&self) -> bool {
        self.all_others
    }

    /// Takes a key out of the list. Returns whether it was there.
    pub fn take(&mut self, key: Key) -> bool {
        let mut places = self.list.iter_mut();
        let place = places.find(|place| place.is_some_and(|victim| victim.key == key));
        place.is_some_and(|place| place.take().is_some())
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
        match self.list.iter_mut().find(|place| is_free(place)) {
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

    /// The next key to evict: `first` if that one is to be evicted, or else any.
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
        !self.is_short && !self.is_cut && self.list.iter().flatten().all(shut)
    }

    /// Whether another look would find a place for a victim that had none.
    pub fn want_look(&self) -> bool {
        self.is_short && self.list.iter().any(is_free)
    }

    /// When a key will have been missing for `settle_ns`, so that a look can shut it out.
    pub fn due_ns(&self, settle_ns: u64) -> Option<u64> {
        let due = |victim: &Victim| match victim.state {
            State::Absent { since_ns } => Some(since_ns.saturating_add(settle_ns)),
            State::Listed | State::Shut(_) => None,
        };
        self.list.iter().flatten().filter_map(due).min()
    }

    /// Notes what a look shows while the reservation stands. A key that was shut out and is listed
    /// again will be evicted again.
    pub fn observe(&mut self, look: Look<'_>) {
        let keys = look.keys;
        (self.is_short, self.is_cut) = (false, self.all_others && keys.is_cut());
        if self.all_others {
            let others = keys.of(look.own.slot(), false);
            others.for_each(|key| self.add_found(key));
        }
        // A key that is registered later belongs to a host that had no command under way [R51].
        self.all_others &= self.is_short || self.is_cut;
        for victim in self.list.iter_mut().flatten() {
            let waited_ns = |since_ns| look.began_ns.saturating_sub(since_ns);
            victim.state = match victim.state {
                _ if keys.has(victim.key.raw()) => State::Listed,
                // The member has more keys than it listed.
                state if keys.is_cut() => state,
                State::Listed => State::Absent {
                    since_ns: look.ended_ns,
                },
                State::Absent { since_ns } if waited_ns(since_ns) >= look.settle_ns => {
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

/// Whether another victim may have this place: it is empty, or a key that was found is shut out.
fn is_free(place: &Option<Victim>) -> bool {
    place.is_none_or(|victim| !victim.is_charged && matches!(victim.state, State::Shut(_)))
}
