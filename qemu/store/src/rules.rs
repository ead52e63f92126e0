// SPDX-License-Identifier: GPL-2.0

//! Faults: rules that hinder the requests they match, set and removed while the array runs.
//!
//! A rule names whose requests (controller, member, kinds of operation, byte range), at which
//! *point* (before they reach the medium, or after it and before the answer) and what happens:
//!
//! | action | effect |
//! |---|---|
//! | hold | wait until the rule is removed; if that is by `drop`, fail instead of going on |
//! | delay | the same, for at most some milliseconds |
//! | fail | answer with an errno; at the point after, the change is on the medium all the same |
//! | torn | put only the first bytes on the medium, then answer EIO |
//!
//! All matching rules act, in the order in which they were set. A rule may be limited to a number
//! of requests. Held requests outlive their controller: one that lost power in the meantime has
//! its command land when the rule is removed, as in a real array.

use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    ops::Bound,
    str::FromStr,
    sync::{
        Condvar,
        Mutex,
        MutexGuard,
        PoisonError, //
    },
    time::{
        Duration,
        Instant, //
    },
};

use crate::{
    control, lock,
    log::{
        Log,
        Request, //
    },
};

/// Where in the life of a request a rule acts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    Before,
    After,
}

/// What a request that may go on must do differently.
pub(crate) enum Fault {
    None,
    /// Apply only so many bytes, then fail.
    Torn(u32),
}

enum Action {
    Hold,
    Delay(Duration),
    Fail(i32),
    Torn(u32),
}

/// One rule, as the control channel spells it:
/// `<controller> <member> <ops> <from> <to> before|after hold|delay|fail|torn <argument> <count>`
/// with `*` for any controller, member or operation, bytes `from..to`, and count 0 for no limit.
pub(crate) struct Rule {
    controller: String,
    member: String,
    ops: String,
    from: u64,
    to: u64,
    point: Point,
    action: Action,
    /// How many more requests it acts on.
    left: u64,
    /// How many requests wait for its end.
    waiting: u64,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let [controller, member, ops, from, to, point, action, argument, count] = words[..] else {
            return Err(format!("a rule has nine words, not {}", words.len()));
        };
        let number = |word: &str| word.parse::<u64>().map_err(|e| format!("{word}: {e}"));
        let small = |word: &str| word.parse::<u32>().map_err(|e| format!("{word}: {e}"));
        Ok(Self {
            controller: controller.to_owned(),
            member: member.to_owned(),
            ops: ops.to_owned(),
            from: number(from)?,
            to: number(to)?,
            point: match point {
                "before" => Point::Before,
                "after" => Point::After,
                _ => return Err(format!("{point}: before or after")),
            },
            action: match action {
                "hold" => Action::Hold,
                "delay" => Action::Delay(Duration::from_millis(number(argument)?)),
                "fail" => Action::Fail(small(argument)?.try_into().map_err(|_| "errno")?),
                "torn" => Action::Torn(small(argument)?),
                _ => return Err(format!("{action}: hold, delay, fail or torn")),
            },
            left: match number(count)? {
                0 => u64::MAX,
                n => n,
            },
            waiting: 0,
        })
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>, point: Point) -> bool {
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        // A flush has no range: it meets every rule that names its operation.
        let end = request.offset.saturating_add(request.len.into());
        let meets = request.op == 'F' || (request.offset < self.to && end > self.from);
        self.point == point
            && self.left > 0
            && is(&self.controller, request.controller)
            && is(&self.member, request.member)
            && (self.ops == "*" || self.ops.contains(request.op))
            && meets
    }
}

#[derive(Default)]
struct State {
    rules: BTreeMap<u64, Rule>,
    /// Rules removed by `drop`: who waited for one of them fails.
    dropped: BTreeSet<u64>,
}

/// All rules in force.
#[derive(Default)]
pub(crate) struct Rules {
    state: Mutex<State>,
    changed: Condvar,
}

impl Rules {
    pub(crate) fn add(&self, id: u64, rule: Rule) {
        lock(&self.state).rules.insert(id, rule);
    }

    /// Ends a rule; who waited for it goes on, or fails if `drop`.
    pub(crate) fn remove(&self, id: u64, drop: bool) {
        let mut state = lock(&self.state);
        if drop {
            state.dropped.insert(id);
        }
        state.rules.remove(&id);
        self.changed.notify_all();
    }

    /// Lets all matching rules act on `request`. Returns only when it may go on or must fail
    /// (the errno is the error).
    pub(crate) fn obey(
        &self,
        request: &Request<'_>,
        point: Point,
        log: &Log,
    ) -> Result<Fault, i32> {
        let mut fault = Fault::None;
        let mut last = 0;
        let mut state = lock(&self.state);
        loop {
            let rest = (Bound::Excluded(last), Bound::Unbounded);
            let found = state
                .rules
                .range_mut(rest)
                .find(|(_, rule)| rule.matches(request, point));
            let Some((&id, rule)) = found else {
                return Ok(fault);
            };
            last = id;
            if rule.left != u64::MAX {
                rule.left -= 1;
            }
            match rule.action {
                Action::Fail(errno) => return Err(errno),
                Action::Torn(bytes) => fault = Fault::Torn(bytes),
                Action::Hold => state = self.wait(state, id, None, request, log)?,
                Action::Delay(time) => state = self.wait(state, id, Some(time), request, log)?,
            }
        }
    }

    /// Waits until rule `id` is gone or `time` is over.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        id: u64,
        time: Option<Duration>,
        request: &Request<'_>,
        log: &Log,
    ) -> Result<MutexGuard<'a, State>, i32> {
        log.waits(request, id);
        if let Some(rule) = state.rules.get_mut(&id) {
            rule.waiting += 1;
            control::tell(&format!("held {id} {}", rule.waiting));
        }
        let deadline = time.map(|time| Instant::now() + time);
        while state.rules.contains_key(&id) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let woken = self.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    let woken = self.changed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if let Some(rule) = state.rules.get_mut(&id) {
            rule.waiting -= 1;
        }
        if state.dropped.contains(&id) {
            return Err(libc::EIO);
        }
        Ok(state)
    }
}
