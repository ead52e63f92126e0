// SPDX-License-Identifier: GPL-2.0
//! Exhaustive check of the device gate of one member [R48 to R54].
//!
//! A state is up to three whole [`MemberGate`]s, a member with its registrations, and every command
//! in flight. Which controller wins an epoch is decided by an oracle, at any time and without a
//! clock: so an owner may stand still for any time and still take itself for the owner. A write may
//! be stuck for any time before the member accepts it.
//!
//! | what goes wrong | in the model |
//! |---|---|
//! | clocks that stop | no owner has to notice a later epoch |
//! | slow aborts | PREEMPT removes the key first, and ends the commands later, or never answers |
//! | commands in doubt | a command is reported as failed; it was carried out, is later, or never |
//! | ghosts | a write that its host has given up lands later |
//! | members that forget | all keys are gone, once: before the first opening, or after the last |
//! | lists of charges that are full | no charged key is named: every other listed key is a victim |
//! | crashes | an owner dies at any time, also while it evicts |
//! | LIO | the abort matches the holder's key instead of the victim's |
//!
//! Checked in every state: G1 [R48] no write of an earlier term lands on an open member; G3 [R51]
//! no REGISTER is carried out while an own command of data can reach the member; G4 [R54] a
//! reservation stands when the member is opened. A member that forgets breaks G1 and G4 until an
//! owner has read the reservation again. Therefore G4 is checked only for an owner that has done
//! so, and G1 only after such an owner has opened the member. For one state in sixteen G6 is
//! checked as well [R54]: if all goes well from now on, the member is opened. Each fault that a
//! model is about happens in it, and the member is opened for a later epoch afterwards; this is
//! checked, too.
//!
//! The local clock counts D in these cases only: a missing key counts as shut out, a host registers
//! after a command in doubt, a member that lost its reservation is opened again, and an owner with
//! a full list of charges opens the member. A tick is D. It passes only when nothing that must end
//! within D is under way: no late command, no abort, no ghost, and no write that the member has
//! accepted. Watches are due by the clock, or at any time.
//!
//! `make model` runs the larger models, too.
//!
//! The model does not have: several members; more than three controllers, three epochs and two
//! incarnations; a command in doubt that is carried out twice; hosts that share a nexus; paths and
//! sessions that change; hosts that leave.

use dm_lease_proto::proto::codec::ids::{Incarnation, Slot};
use dm_lease_proto::proto::device_gate::command::{Answer, Command, Held, Kind};
use dm_lease_proto::proto::device_gate::key::{Key, Keys};
use dm_lease_proto::proto::device_gate::member::{MemberGate, News, Setup};
use dm_lease_proto::proto::device_gate::victims::Victims;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use std::collections::hash_map::DefaultHasher;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// Which targets the member imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The standard: an abort ends the victim's commands.
    Standard,
    /// LIO: it ends the commands that were accepted while the victim held the reservation.
    Lio,
}

/// When a member forgets its reservation and its registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before it was opened, with one owner at most.
    Early,
    /// After it was opened for the last epoch.
    #[cfg_attr(not(feature = "long"), allow(dead_code))]
    Late,
}

/// A model: what may happen, and which rule is left out.
#[derive(Clone, Copy, Debug)]
struct Config {
    name: &'static str,
    nodes: usize,
    epochs: u8,
    incarnations: u8,
    ticks: u64,
    /// The time between two watches; 0 is any time.
    watch: u64,
    target: Target,
    kind: Kind,
    deaths: u8,
    doubts: u8,
    ghosts: u8,
    forgets: u8,
    forgets_when: When,
    /// A node that lost its term does nothing until it joins anew.
    stale_rest: bool,
    releases: bool,
    /// The list of charges is full, and names no key.
    is_partial: bool,
    wrong: Wrong,
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// PREEMPT without abort.
    NoAbort,
    /// A host registers while an own write can reach the member.
    NotQuiet,
    /// A key that is missing counts as shut out.
    AbsentIsShut,
    /// A PREEMPT in doubt counts as GOOD.
    DoubtIsGood,
    /// A release in spite of a write that the host gave up.
    GhostReleases,
}

const BASE: Config = Config {
    name: "",
    nodes: 2,
    epochs: 2,
    incarnations: 2,
    ticks: 0,
    watch: 1,
    target: Target::Standard,
    kind: Kind::AllRegistrants,
    deaths: 0,
    doubts: 0,
    ghosts: 0,
    forgets: 0,
    forgets_when: When::Early,
    stale_rest: false,
    releases: false,
    is_partial: false,
    wrong: Wrong::Nothing,
};

/// The holder of a reservation and its key: what LIO tags a command with.
type Tag = Option<(u8, u64)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    /// On its way, for any time.
    Fabric,
    /// On its way, and its host has given it up.
    Ghost,
    /// The member has accepted it.
    Accepted(Tag),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Write {
    node: u8,
    term: u8,
    place: Place,
}

/// A reservation command of a node, on its way or at the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flight {
    None,
    Sent(Command),
    /// The key is removed; the commands are being ended.
    Aborting(Key),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    lives: bool,
    inc: u8,
    /// The term that it takes itself for the owner of; 0 for none.
    owns: u8,
    /// It lost a term without a release, or latched: it must join anew.
    stale: bool,
    gate: MemberGate,
    flight: Flight,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    reserved: bool,
    holder: Option<u8>,
    keys: [u64; 3],
    writes: BTreeSet<Write>,
    /// Commands whose issuer does not wait for them any more.
    late: Vec<(u8, Command)>,
    /// Aborts whose issuer does not wait for them any more.
    orphans: Vec<(u8, Key)>,
    nodes: Vec<Node>,
    /// The owner's node and key, for each epoch.
    terms: Vec<(u8, u64)>,
    /// Terms that are known to have no command under way on the member.
    shut: BTreeSet<u8>,
    /// Terms that were released, a bit each.
    released: u8,
    /// The highest epoch for which the member was opened.
    opened: u8,
    deaths: u8,
    doubts: u8,
    ghosts: u8,
    forgets: u8,
    /// The nodes that have not read the reservation since the member forgot it, a bit each.
    unseen: u8,
    /// The member forgot its reservation, and no node that knows of it has opened the member since.
    is_void: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    Poll(u8),
    /// The member carries out the command, and the node learns the answer.
    Apply(u8),
    /// The abort has ended, and the node learns it.
    Aborted(u8),
    /// The node is told that the command failed: it was not carried out yet.
    DoubtBefore(u8),
    /// The same, but it was carried out.
    DoubtAfter(u8),
    Late(usize),
    LateLost(usize),
    Orphan(usize),
    Admit(u8),
    Arrive(Write),
    Land(Write),
    GiveUp(Write),
    Claim(u8),
    Round(u8),
    Notice(u8),
    Rejoin(u8),
    Release(u8),
    Forget,
    Die(u8),
}

fn key_of(node: u8, inc: u8) -> Key {
    Key::new(Slot::new(node).unwrap(), Incarnation(u128::from(inc)))
}

impl State {
    fn node(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn has_writes(&self, node: u8) -> bool {
        self.writes.iter().any(|write| write.node == node)
    }

    /// Whether a tick may pass: nothing is under way that must end within D. (A write that the
    /// member has not accepted may be stuck for longer.)
    fn is_settled(&self) -> bool {
        let is_slow = |write: &Write| write.place != Place::Fabric;
        let aborts = |node: &Node| matches!(node.flight, Flight::Aborting(_));
        self.late.is_empty()
            && self.orphans.is_empty()
            && !self.writes.iter().any(is_slow)
            && !self.nodes.iter().any(aborts)
    }

    fn listed(&self) -> Keys {
        self.keys.into_iter().filter(|key| *key != 0).collect()
    }

    /// Ends the commands of a victim.
    fn abort(&mut self, config: &Config, key: Key) {
        let victim = key.slot().index();
        self.writes
            .retain(|write| match (write.place, config.target) {
                _ if config.wrong == Wrong::NoAbort => true,
                (Place::Accepted(tag), Target::Lio) => tag != Some((victim, key.raw())),
                (Place::Accepted(_), Target::Standard) => write.node != victim,
                (Place::Fabric | Place::Ghost, _) => true,
            });
    }

    /// What the member does on a command. The answer to READ KEYS is the list at that moment.
    /// `None` if it goes on with the command.
    fn carry_out(
        &mut self,
        config: &Config,
        node: u8,
        command: Command,
    ) -> Option<Answer<'static>> {
        let at = usize::from(node);
        let registered = self.keys[at] != 0;
        Some(match command {
            Command::ReadKeys => Answer::Good,
            Command::ReadReservation => {
                self.unseen &= !(1 << node);
                Answer::Reservation(self.reserved.then(|| Held {
                    kind: Some(config.kind),
                    holder: match (config.kind, self.holder) {
                        (Kind::RegistrantsOnly, Some(holder)) => self.keys[usize::from(holder)],
                        _ => 0,
                    },
                }))
            }
            Command::Register { old, new } => {
                if self.keys[at] != old {
                    return Some(Answer::Conflict);
                }
                if new != 0 && self.has_writes(node) {
                    self.broken = Some("G3: REGISTER while a write can reach the member");
                }
                self.keys[at] = new;
                Answer::Good
            }
            Command::Reserve if !registered => Answer::Conflict,
            // nvmet accepts a second RESERVE from one host only, its holder. The model refuses it
            // from all.
            Command::Reserve if self.reserved => Answer::Conflict,
            Command::Reserve => {
                (self.reserved, self.holder) = (true, Some(node));
                Answer::Good
            }
            Command::Preempt { victim } => {
                let of = usize::from(victim.slot().index());
                if !registered || self.keys[of] != victim.raw() {
                    return Some(Answer::Conflict);
                }
                self.keys[of] = 0;
                if self.holder == Some(of as u8) {
                    self.holder = match config.kind {
                        Kind::RegistrantsOnly => Some(node),
                        Kind::AllRegistrants => self.holder,
                    };
                }
                return None;
            }
        })
    }

    fn answer(&mut self, config: &Config, node: u8, answer: Answer<'static>) {
        let (now, listed) = (self.now, self.listed());
        let it = self.node(node);
        let command = core::mem::replace(&mut it.flight, Flight::None);
        let answer = match (command, answer) {
            (Flight::Sent(Command::Preempt { .. }) | Flight::Aborting(_), Answer::Doubt)
                if config.wrong == Wrong::DoubtIsGood =>
            {
                Answer::Good
            }
            (Flight::Sent(Command::ReadKeys), Answer::Good) => Answer::Keys(&listed),
            (_, answer) => answer,
        };
        it.gate.handle(answer, now);
        if config.wrong == Wrong::AbsentIsShut {
            let listed = self.listed();
            let absent = self.terms.clone().into_iter();
            for (_, raw) in absent.filter(|(_, raw)| !listed.has(*raw)) {
                let gate = &mut self.node(node).gate;
                if let Some(key) = Key::from_raw(raw) {
                    gate.mark_shut(key);
                }
            }
        }
        self.heed(node);
    }

    /// Acts on what the gate tells.
    fn heed(&mut self, node: u8) {
        while let Some(news) = self.node(node).gate.take_news() {
            match news {
                News::Latch(_) | News::Refused(_) => self.lapse(node),
                News::Opened => self.opened_by(node),
                // The mailbox is written at once.
                News::Joined => self.node(node).gate.wrote(),
                News::Lost => {}
            }
        }
    }

    fn opened_by(&mut self, node: u8) {
        let term = self.node(node).owns;
        if self.unseen & (1 << node) == 0 {
            if !self.reserved {
                self.broken = Some("G4: opened without a reservation");
            }
            self.is_void = false;
        }
        self.opened = self.opened.max(term);
        self.shut.extend(1..term);
    }

    /// The node loses its term, or its membership.
    fn lapse(&mut self, node: u8) {
        let it = self.node(node);
        (it.owns, it.stale) = (0, true);
        it.gate.end_epoch();
    }

    fn arrive(&mut self, write: Write) {
        let at = usize::from(write.node);
        self.writes.remove(&write);
        if self.reserved && self.keys[at] == 0 {
            if write.place == Place::Fabric && self.nodes[at].lives {
                self.node(write.node).gate.handle_conflict();
                self.lapse(write.node);
            }
            return;
        }
        let holder = self.holder.filter(|_| self.reserved);
        let tag = holder.map(|holder| (holder, self.keys[usize::from(holder)]));
        self.writes.insert(Write {
            place: Place::Accepted(tag),
            ..write
        });
    }
}

/// The model.
struct Portion {
    config: Config,
}

impl Portion {
    fn steps_of(&self, state: &State, node: u8, steps: &mut Vec<Step>) {
        let it = &state.nodes[usize::from(node)];
        if !it.lives {
            return;
        }
        match it.flight {
            Flight::None if it.stale && self.config.stale_rest => {}
            Flight::None => {
                if it
                    .gate
                    .clone()
                    .poll(state.now, self.quiet(state, node))
                    .is_some()
                {
                    steps.push(Step::Poll(node));
                }
            }
            Flight::Sent(_) => {
                steps.push(Step::Apply(node));
                if state.doubts > 0 {
                    steps.push(Step::DoubtBefore(node));
                    steps.push(Step::DoubtAfter(node));
                }
            }
            Flight::Aborting(_) => {
                steps.push(Step::Aborted(node));
                if state.doubts > 0 {
                    steps.push(Step::DoubtAfter(node));
                }
            }
        }
        let epoch = state.terms.len() as u8;
        if it.owns != 0 {
            if it.gate.is_open() && !state.has_writes(node) {
                steps.push(Step::Admit(node));
            }
            steps.push(Step::Round(node));
            if it.owns < epoch {
                steps.push(Step::Notice(node));
            }
            let is_waited_for = |write: &Write| write.node == node && write.place != Place::Ghost;
            let busy = match self.config.wrong {
                Wrong::GhostReleases => state.writes.iter().any(is_waited_for),
                _ => state.has_writes(node),
            };
            if self.config.releases && it.owns == epoch && it.gate.is_open() && !busy {
                steps.push(Step::Release(node));
            }
            if state.deaths > 0 {
                steps.push(Step::Die(node));
            }
        } else if it.stale {
            if it.inc + 1 < self.config.incarnations {
                steps.push(Step::Rejoin(node));
            }
        } else if it.gate.is_joined() && epoch < self.config.epochs {
            steps.push(Step::Claim(node));
        }
    }

    fn quiet(&self, state: &State, node: u8) -> bool {
        self.config.wrong == Wrong::NotQuiet || !state.has_writes(node)
    }

    /// Gives the command to the member. With `doubt` the node learns `Doubt` in place of the
    /// answer.
    fn carry(&self, state: &mut State, node: u8, doubt: bool) {
        let Flight::Sent(command) = state.node(node).flight else {
            return;
        };
        match state.carry_out(&self.config, node, command) {
            Some(answer) => {
                let answer = if doubt { Answer::Doubt } else { answer };
                state.answer(&self.config, node, answer);
            }
            None => {
                let Command::Preempt { victim } = command else {
                    return;
                };
                state.node(node).flight = Flight::Aborting(victim);
                if doubt {
                    state.orphans.push((node, victim));
                    state.answer(&self.config, node, Answer::Doubt);
                }
            }
        }
    }

    /// If nothing goes wrong any more, does the member open for the last owner?
    fn opens(&self, state: &State) -> bool {
        let mut state = state.clone();
        let Some(&(owner, _)) = state.terms.last() else {
            return true;
        };
        for _ in 0..200 {
            let it = state.node(owner);
            if it.gate.is_open() || it.owns == 0 || !it.lives {
                return true;
            }
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            let good = |step: &&Step| match step {
                Step::Late(_) | Step::Orphan(_) | Step::Arrive(_) | Step::Land(_) => true,
                Step::Apply(_) | Step::Aborted(_) => true,
                Step::Poll(of) | Step::Round(of) => *of == owner,
                _ => false,
            };
            // What is under way ends, and time passes, before the owner asks again.
            let order = |step: &&Step| match step {
                Step::Poll(_) => 2,
                Step::Round(_) => 1,
                _ => 0,
            };
            let Some(step) = steps.iter().filter(good).min_by_key(order).copied() else {
                state.now += 1;
                continue;
            };
            let polls = steps.contains(&Step::Poll(owner));
            match (self.next_state(&state, step), polls) {
                (Some(next), _) => state = next,
                // The round changed nothing.
                (None, true) => state = self.next_state(&state, Step::Poll(owner)).unwrap(),
                (None, false) => state.now += 1,
            }
            state.now += u64::from(state.is_settled());
        }
        false
    }
}

impl Model for Portion {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let config = &self.config;
        let setup = Setup {
            kind: config.kind,
            settle_ns: 1,
            watch_ns: config.watch,
            retry_ns: 0,
            unregisters: false,
        };
        let mut state = State {
            now: 1,
            reserved: false,
            holder: None,
            keys: [0; 3],
            writes: BTreeSet::new(),
            late: Vec::new(),
            orphans: Vec::new(),
            nodes: Vec::new(),
            terms: Vec::new(),
            shut: BTreeSet::new(),
            released: 0,
            opened: 0,
            deaths: config.deaths,
            doubts: config.doubts,
            ghosts: config.ghosts,
            forgets: config.forgets,
            unseen: 0,
            is_void: false,
            broken: None,
        };
        for node in 0..config.nodes as u8 {
            state.nodes.push(Node {
                lives: true,
                inc: 0,
                owns: 0,
                stale: false,
                gate: MemberGate::new(setup, key_of(node, 0)),
                flight: Flight::None,
            });
            // All have joined.
            while !state.node(node).gate.is_joined() {
                let now = state.now;
                let command = state.node(node).gate.poll(now, true).unwrap();
                let (answer, listed) = (state.carry_out(config, node, command), state.listed());
                let answer = match command {
                    Command::ReadKeys => Answer::Keys(&listed),
                    _ => answer.unwrap(),
                };
                state.node(node).gate.handle(answer, now);
            }
            state.heed(node);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for node in 0..self.config.nodes as u8 {
            self.steps_of(state, node, steps);
        }
        steps.extend((0..state.late.len()).flat_map(|at| [Step::Late(at), Step::LateLost(at)]));
        steps.extend((0..state.orphans.len()).map(Step::Orphan));
        for write in &state.writes {
            match write.place {
                Place::Accepted(_) => steps.push(Step::Land(*write)),
                Place::Fabric | Place::Ghost => steps.push(Step::Arrive(*write)),
            }
            if write.place == Place::Fabric && state.ghosts > 0 {
                steps.push(Step::GiveUp(*write));
            }
        }
        if state.now <= self.config.ticks && state.is_settled() {
            steps.push(Step::Tick);
        }
        let may_forget = match self.config.forgets_when {
            When::Early => state.opened == 0 && state.terms.len() <= 1,
            When::Late => state.opened == self.config.epochs,
        };
        if state.forgets > 0 && may_forget {
            steps.push(Step::Forget);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        let config = &self.config;
        match step {
            Step::Tick => state.now += 1,
            Step::Poll(node) => {
                let (now, quiet) = (state.now, self.quiet(&state, node));
                let command = state.node(node).gate.poll(now, quiet)?;
                state.node(node).flight = Flight::Sent(command);
            }
            Step::Apply(node) => self.carry(&mut state, node, false),
            Step::Aborted(node) => {
                let Flight::Aborting(key) = state.node(node).flight else {
                    return None;
                };
                state.abort(config, key);
                state.answer(config, node, Answer::Good);
            }
            Step::DoubtBefore(node) => {
                state.doubts -= 1;
                if let Flight::Sent(command) = state.node(node).flight {
                    if !matches!(command, Command::ReadKeys | Command::ReadReservation) {
                        state.late.push((node, command));
                    }
                }
                state.answer(config, node, Answer::Doubt);
            }
            Step::DoubtAfter(node) => {
                state.doubts -= 1;
                match state.node(node).flight {
                    Flight::Aborting(key) => {
                        state.orphans.push((node, key));
                        state.answer(config, node, Answer::Doubt);
                    }
                    _ => self.carry(&mut state, node, true),
                }
            }
            Step::Late(at) => {
                let (node, command) = state.late.remove(at);
                if state.carry_out(config, node, command).is_none() {
                    if let Command::Preempt { victim } = command {
                        state.orphans.push((node, victim));
                    }
                }
            }
            Step::LateLost(at) => {
                state.late.remove(at);
            }
            Step::Orphan(at) => {
                let (_, key) = state.orphans.remove(at);
                state.abort(config, key);
            }
            Step::Admit(node) => {
                let term = state.node(node).owns;
                let place = Place::Fabric;
                state.writes.insert(Write { node, term, place });
            }
            Step::Arrive(write) => {
                state.arrive(write);
                state.heed(write.node);
            }
            Step::Land(write) => {
                if state.opened > write.term && !state.is_void {
                    state.broken = Some("G1: a write lands after a later term was opened");
                }
                state.writes.remove(&write);
            }
            Step::GiveUp(write) => {
                state.ghosts -= 1;
                state.writes.remove(&write);
                let place = Place::Ghost;
                state.writes.insert(Write { place, ..write });
            }
            Step::Claim(node) => {
                let inc = state.node(node).inc;
                let key = key_of(node, inc).raw();
                let open = |(at, _): &(usize, &(u8, u64))| !state.shut.contains(&(*at as u8 + 1));
                let earlier = state.terms.iter().enumerate().filter(open);
                let keys: BTreeSet<u64> = earlier.map(|(_, (_, raw))| *raw).collect();
                let foreign = keys.into_iter().filter(|raw| *raw != key);
                let charged = foreign.filter(|_| !config.is_partial);
                let keys = charged.filter_map(Key::from_raw);
                let victims = Victims::new(keys, config.is_partial);
                state.terms.push((node, key));
                let owns = state.terms.len() as u8;
                let it = state.node(node);
                it.owns = owns;
                it.gate.own_epoch(victims);
            }
            Step::Round(node) => {
                let epoch = state.terms.len() as u8;
                let clean = state.node(node).owns == epoch;
                state.node(node).gate.begin_round();
                state.node(node).gate.end_round(clean);
                state.heed(node);
                if state == *before {
                    return None;
                }
            }
            Step::Notice(node) => state.lapse(node),
            Step::Rejoin(node) => {
                let it = state.node(node);
                it.inc += 1;
                it.stale = false;
                let key = key_of(node, it.inc);
                it.gate.renew(key);
            }
            Step::Release(node) => {
                let it = state.node(node);
                let term = core::mem::replace(&mut it.owns, 0);
                it.gate.end_epoch();
                state.shut.insert(term);
                state.released |= 1 << term;
            }
            Step::Forget => {
                (state.forgets, state.unseen, state.is_void) = (state.forgets - 1, 7, true);
                (state.reserved, state.holder, state.keys) = (false, None, [0; 3]);
                state
                    .writes
                    .retain(|write| !matches!(write.place, Place::Accepted(_)));
            }
            Step::Die(node) => {
                state.deaths -= 1;
                let it = state.node(node);
                it.lives = false;
                match core::mem::replace(&mut it.flight, Flight::None) {
                    Flight::Sent(
                        command @ (Command::Register { .. } | Command::Preempt { .. }),
                    ) => {
                        state.late.push((node, command));
                    }
                    Flight::Aborting(key) => state.orphans.push((node, key)),
                    Flight::Sent(_) | Flight::None => {}
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("G1, G3, G4", |_: &Portion, state: &State| {
                state.broken.is_none()
            }),
            Property::always("G6", |model: &Portion, state: &State| {
                state.broken.is_some() || !is_sampled(state) || model.opens(state)
            }),
        ];
        all.extend(MUST_HAPPEN.map(|(name, condition)| Property {
            expectation: Expectation::Sometimes,
            name,
            condition,
        }));
        all
    }
}

type Condition = fn(&Portion, &State) -> bool;

/// What must happen in a model. The faults are those that the model is about.
const MUST_HAPPEN: [(&str, Condition); 9] = [
    ("a later owner opens the member", |_, state| {
        state.opened > 1
    }),
    ("an eviction is under way", |_, state| {
        let aborts = |node: &Node| matches!(node.flight, Flight::Aborting(_));
        state.nodes.iter().any(aborts)
    }),
    ("a write of an evicted host arrives", |_, state| {
        let is_refused = |write: &Write| {
            write.place == Place::Fabric
                && state.reserved
                && state.keys[usize::from(write.node)] == 0
        };
        state.writes.iter().any(is_refused)
    }),
    ("a command in doubt, then a later owner", |model, state| {
        let happened = state.doubts < model.config.doubts && state.late.is_empty();
        model.config.doubts == 0 || happened && state.opened > 1
    }),
    ("a ghost, then a later owner", |model, state| {
        let happened = state.ghosts < model.config.ghosts;
        model.config.ghosts == 0 || happened && state.opened > 1
    }),
    ("an owner dies, then a later owner", |model, state| {
        let happened = state.deaths < model.config.deaths;
        model.config.deaths == 0 || happened && state.opened > 1
    }),
    ("an owner dies while it evicts", |model, state| {
        model.config.deaths == 0 || !state.orphans.is_empty()
    }),
    (
        "the member forgets, then it is opened again",
        |model, state| {
            let happened = state.forgets < model.config.forgets;
            model.config.forgets == 0 || happened && state.opened > 1 && !state.is_void
        },
    ),
    ("an owner releases, then a later owner", |model, state| {
        let is_released = |term: u8| state.opened > term && state.released & (1 << term) != 0;
        !model.config.releases || (1..8).any(is_released)
    }),
];

/// Whether G6 is checked for a state. It is for one state in sixteen.
fn is_sampled(state: &State) -> bool {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish() % 16 == 0
}

/// Explores a model to its end. Returns what is broken.
fn outcome(config: Config) -> Option<String> {
    let checker = Portion { config }
        .checker()
        .threads(1)
        .timeout(Duration::from_secs(900))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = |name: &'static str| checker.discovery(name);
    let broken = found("G1, G3, G4").or_else(|| found("G6"));
    let text = broken.map(|path| {
        let last = path.last_state().clone();
        let steps: Vec<String> = path
            .into_actions()
            .iter()
            .map(|step| format!("{step:?}"))
            .collect();
        format!(
            "{:?} after {} steps: {}",
            last.broken,
            steps.len(),
            steps.join(", ")
        )
    });
    println!(
        "{}: {} states, {:?}",
        config.name,
        checker.unique_state_count(),
        text
    );
    assert!(text.is_some() || checker.is_done(), "the model was cut");
    for (name, _) in MUST_HAPPEN {
        assert!(
            text.is_some() || found(name).is_some(),
            "{}: never: {name}",
            config.name
        );
    }
    text
}

const LIO: Config = Config {
    target: Target::Lio,
    kind: Kind::RegistrantsOnly,
    ..BASE
};

/// Explores these models to their end: all rules hold.
fn all_hold(models: &[Config]) {
    for config in models {
        assert_eq!(outcome(*config), None, "{}", config.name);
    }
}

#[test]
fn r48_no_write_of_an_earlier_term_lands_on_an_open_member() {
    all_hold(&[
        Config {
            name: "owners that stand still",
            watch: 0,
            ..BASE
        },
        Config {
            name: "three epochs",
            epochs: 3,
            ..BASE
        },
        Config {
            name: "a write that its host gave up, and releases",
            ghosts: 1,
            releases: true,
            ticks: 1,
            ..BASE
        },
        Config {
            name: "LIO, the owner holds the reservation",
            ..LIO
        },
        Config {
            name: "LIO, releases",
            releases: true,
            ..LIO
        },
    ]);
}

#[cfg(feature = "long")]
#[test]
fn r54_no_write_of_an_earlier_term_lands_when_a_member_forgot_its_reservation() {
    all_hold(&[Config {
        name: "a member that forgets, one incarnation",
        forgets: 1,
        forgets_when: When::Late,
        stale_rest: true,
        incarnations: 1,
        ticks: 2,
        ..BASE
    }]);
}

#[cfg(feature = "long")]
#[test]
fn r52_no_write_of_an_earlier_term_lands_after_doubts_deaths_and_lost_reservations() {
    all_hold(&[
        Config {
            name: "a command in doubt",
            doubts: 1,
            ticks: 2,
            ..BASE
        },
        Config {
            name: "an owner that dies while it evicts",
            nodes: 3,
            epochs: 3,
            deaths: 1,
            incarnations: 1,
            ..BASE
        },
        Config {
            name: "a member that forgets",
            forgets: 1,
            watch: 0,
            ticks: 1,
            ..BASE
        },
        Config {
            name: "a full list of charges",
            nodes: 3,
            epochs: 3,
            deaths: 1,
            incarnations: 1,
            ticks: 1,
            is_partial: true,
            ..BASE
        },
        Config {
            name: "LIO, a command in doubt",
            doubts: 1,
            ticks: 2,
            ..LIO
        },
        Config {
            name: "LIO, three hosts",
            nodes: 3,
            epochs: 3,
            incarnations: 1,
            ..LIO
        },
    ]);
}

/// Each rule that is left out is noticed.
#[test]
fn r48_each_rule_that_is_left_out_breaks_g1_or_g3() {
    let wrong = [
        (Wrong::NoAbort, BASE),
        (Wrong::NotQuiet, BASE),
        (
            Wrong::AbsentIsShut,
            Config {
                nodes: 3,
                epochs: 3,
                deaths: 1,
                incarnations: 1,
                ..BASE
            },
        ),
        (Wrong::DoubtIsGood, Config { doubts: 1, ..BASE }),
        (
            Wrong::GhostReleases,
            Config {
                ghosts: 1,
                releases: true,
                ..BASE
            },
        ),
        // The victim is not the holder: the abort ends none of its commands.
        (
            Wrong::Nothing,
            Config {
                target: Target::Lio,
                nodes: 3,
                incarnations: 1,
                ..BASE
            },
        ),
    ];
    for (wrong, config) in wrong {
        let config = Config {
            name: "wrong",
            wrong,
            ..config
        };
        let broken = outcome(config).unwrap_or_else(|| panic!("{wrong:?} is not noticed"));
        assert!(
            broken.contains("G1") || broken.contains("G3"),
            "{wrong:?}: {broken}"
        );
    }
}
