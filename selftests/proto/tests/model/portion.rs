// SPDX-License-Identifier: GPL-2.0
//! A portion: its nodes, every step they can take, and what must hold after each.
//!
//! Two reductions keep the number of states down; neither hides a violation.
//!
//! *Members are alike.* Each state stands for all that differ from it by the numbers of the
//! members: they are sorted by what all nodes have to do with them.
//!
//! *Steps that do not see each other have one order.* What a node does with what it knows (a timer,
//! a completion) neither sees nor changes what another node does, unless it changes which node has
//! a lease or what is decided. Such a step is as good as one taken earlier, up to the last step of
//! the same node or the last tick; there the lower node goes first. So a state remembers which
//! nodes are `fresh`, and the others take no such step. (These are the words in lexicographic
//! normal form, with the hidden steps as the first letters.)

use crate::config::{Config, Start};
use crate::medium::{Records, Sight};
use crate::node::{Entry, Event, Node, REGISTERS};
use crate::print::{print, Shards};
use crate::sometimes::{Sometimes, Tally};
use dm_lease_proto::proto::codec::ids::{Register, Value};
use stateright::{Model, Property};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Epochs that are remembered.
const EPOCHS: usize = 8;

/// One state in this number of states is a start for runs of one node alone.
const SAMPLE: u128 = 499;

/// A step of the whole portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A tick of true time; the clocks in the set of nodes run fast.
    Clock(u8),
    /// Something happens to one node. If it changes what is on a member, reads of the nodes in the
    /// set have met what was there before.
    Node(usize, Event, u8),
    /// A read of a node from a member is reported as done. It meets what is there, after some
    /// writes in flight have landed; with each of these the third node's read may have met what was
    /// there before.
    Read {
        node: usize,
        member: u8,
        lands: u8,
        meets: u8,
    },
    /// A member is replaced by a blank one.
    Replace(u8),
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct State<const N: usize> {
    nodes: [Arc<Entry>; N],
    /// Whom each epoch was decided to belong to, as far as anybody knows: slot and incarnation.
    decided: [Option<(u8, u8)>; EPOCHS],
    /// The highest epoch that ever had a valid lease.
    top: u64,
    /// Nodes that may take a hidden step.
    fresh: u8,
    replaced: bool,
    /// Ticks so far, where they are bounded.
    ticks: u8,
    pub broken: Option<&'static str>,
}

impl<const N: usize> State<N> {
    pub fn print(&self) -> u128 {
        print(self)
    }
}

impl<const N: usize> Hash for State<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for node in &self.nodes {
            state.write_u128(node.print);
        }
        let flags = (self.top, self.fresh, self.replaced, self.ticks);
        (self.decided, flags, self.broken).hash(state);
    }
}

impl<const N: usize> PartialEq for State<N> {
    fn eq(&self, other: &Self) -> bool {
        self.print() == other.print()
    }
}

/// What is explored.
pub struct Portion<const N: usize> {
    pub config: Config,
    records: Records,
    entries: Shards<Arc<Entry>>,
    /// What a step makes of a node, by the fingerprint of both.
    known: Shards<Arc<Entry>>,
    pub tally: Tally,
}

impl<const N: usize> Portion<N> {
    pub fn new(config: Config) -> Self {
        assert_eq!(config.nodes, N);
        Self {
            config,
            records: Records::default(),
            entries: Shards::default(),
            known: Shards::default(),
            tally: Tally::default(),
        }
    }

    /// Different nodes so far, and different steps of one node.
    pub fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.known.len())
    }

    fn enter(&self, node: Node) -> Arc<Entry> {
        let entry = Entry::new(node, &self.config, &self.records);
        let known = self.entries.entry(entry.print);
        Arc::clone(&known.or_insert_with(|| Arc::new(entry)))
    }

    fn after(&self, entry: &Arc<Entry>, slot: usize, event: Event) -> Arc<Entry> {
        let key = print(&(entry.print, event));
        if let Some(next) = self.known.get(&key) {
            return Arc::clone(&next);
        }
        let node = entry.node.after(event, slot, &self.config, &self.records);
        let next = self.enter(node);
        self.known.insert(key, Arc::clone(&next));
        next
    }

    /// All steps, whether another order stands for them or not.
    fn all_steps(&self, state: &State<N>, steps: &mut Vec<Step>) {
        for (index, node) in state.nodes.iter().enumerate() {
            for &event in &node.events {
                self.with_meets(state, index, event, steps);
            }
            for member in 0..self.config.members {
                self.reads(state, index, member, steps);
            }
            if let Some(epoch) = node.node.issued() {
                steps.push(Step::Node(index, Event::Reach(state.top > epoch), 0));
            }
        }
        if self.config.replaces && !state.replaced {
            let quiet = |member: &u8| state.nodes.iter().all(|it| it.node.is_quiet(*member));
            steps.extend((0..self.config.members).filter(quiet).map(Step::Replace));
        }
        if !self.config.is_timely() || state.nodes.iter().all(|node| !node.is_busy) {
            let paces = if self.config.drift { 1 << N } else { 1 };
            steps.extend((0..paces).map(Step::Clock));
        }
    }

    /// An event, with every set of reads that may have met what it is about to replace.
    fn with_meets(&self, state: &State<N>, index: usize, event: Event, steps: &mut Vec<Step>) {
        let Some((member, register)) = state.nodes[index].replaces(event) else {
            return steps.push(Step::Node(index, event, 0));
        };
        let after = self.after(&state.nodes[index], index, event);
        let at = (usize::from(member), register as usize);
        let changes = after.views[at.0][at.1] != state.nodes[index].views[at.0][at.1];
        let readers = (0..N).filter(|&reader| {
            changes && reader != index && state.nodes[reader].may_meet(member, index, register)
        });
        let readers: u8 = readers.fold(0, |set, reader| set | (1 << reader));
        let sets = (0..1_u8 << N).filter(|set| set & !readers == 0);
        steps.extend(sets.map(|set| Step::Node(index, event, set)));
    }

    /// The ways in which a read may be done now.
    fn reads(&self, state: &State<N>, node: usize, member: u8, steps: &mut Vec<Step>) {
        let entry = &state.nodes[node];
        let is_read = entry.reads[usize::from(member)].is_some();
        if !is_read || entry.is_stuck || self.config.dead == Some(member) {
            return;
        }
        let (mut may_land, mut may_meet) = (0_u8, 0_u8);
        for (other, register) in writers::<N>(node) {
            if self.would_land(state, node, member, other, register) {
                may_land |= bit(other, register);
                let third = (0..N).find(|&it| it != node && it != other);
                if third.is_some_and(|it| state.nodes[it].may_meet(member, other, register)) {
                    may_meet |= bit(other, register);
                }
            }
        }
        for lands in subsets(may_land) {
            for meets in subsets(may_meet & lands) {
                steps.push(Step::Read {
                    node,
                    member,
                    lands,
                    meets,
                });
            }
        }
    }

    /// Whether a read may meet what a write in flight brings, and that is something new.
    fn would_land(
        &self,
        state: &State<N>,
        reader: usize,
        member: u8,
        writer: usize,
        register: Register,
    ) -> bool {
        let entry = &state.nodes[writer];
        let at = (usize::from(member), register as usize);
        entry.aloft[at.0][at.1] && state.nodes[reader].may_meet(member, writer, register) && {
            let after = self.after(entry, writer, Event::Land(member, register));
            after.views[at.0][at.1] != entry.views[at.0][at.1]
        }
    }

    fn is_hidden(&self, before: &Entry, event: Event, after: &Entry) -> bool {
        let shown = |it: &Entry| (it.valid, it.decided, it.node.broken());
        event.is_local() && before.replaces(event).is_none() && shown(before) == shown(after)
    }

    fn is_allowed(&self, state: &State<N>, step: Step) -> bool {
        let (index, event) = match step {
            Step::Clock(_) | Step::Replace(_) => return true,
            Step::Node(index, event, _) => (index, event),
            Step::Read { node, member, .. } => {
                match state.nodes[node].has_met_all(member, N, node) {
                    false => return true,
                    true => (node, self.seen(state, node, member)),
                }
            }
        };
        let entry = &state.nodes[index];
        state.fresh & (1 << index) != 0
            || !event.is_local()
            || !self.is_hidden(entry, event, &self.after(entry, index, event))
    }

    /// The end of a read that meets what is there now, where it has not met something before.
    fn seen(&self, state: &State<N>, node: usize, member: u8) -> Event {
        let met = state.nodes[node].reads[usize::from(member)].unwrap_or_default();
        let mut sights = [[Sight::Blank; 2]; 3];
        for (other, register) in writers::<N>(node) {
            let now = state.nodes[other].views[usize::from(member)][register as usize];
            sights[other][register as usize] = met[other][register as usize].unwrap_or(now);
        }
        Event::Seen(member, sights)
    }

    /// What a step leads to.
    pub fn take(&self, state: &State<N>, step: Step) -> State<N> {
        let mut next = state.clone();
        match step {
            Step::Clock(fast) => {
                for (index, node) in next.nodes.iter_mut().enumerate() {
                    let by_ns = 1 + u64::from((fast >> index) & 1);
                    *node = self.after(node, index, Event::Age(by_ns));
                }
                next.ticks += u8::from(self.config.is_timely());
                next.fresh = u8::MAX;
            }
            Step::Replace(member) => {
                for (index, node) in next.nodes.iter_mut().enumerate() {
                    *node = self.after(node, index, Event::Replace(member));
                }
                next.replaced = true;
                next.fresh = u8::MAX;
            }
            Step::Node(index, event, readers) => {
                if let Some((member, register)) = state.nodes[index].replaces(event) {
                    let readers = (0..N).filter(|reader| readers & (1 << reader) != 0);
                    readers.for_each(|it| self.meet(&mut next, it, member, index, register));
                }
                self.happen(&mut next, index, event);
            }
            Step::Read {
                node,
                member,
                lands,
                meets,
            } => {
                let is_alone = state.nodes[node].has_met_all(member, N, node);
                for (other, register) in writers::<N>(node) {
                    let third = (0..N).find(|&it| it != node && it != other);
                    if let Some(third) = third.filter(|_| meets & bit(other, register) != 0) {
                        self.meet(&mut next, third, member, other, register);
                    }
                    if lands & bit(other, register) != 0 {
                        let land = Event::Land(member, register);
                        next.nodes[other] = self.after(&next.nodes[other], other, land);
                    }
                }
                let event = self.seen(&next, node, member);
                self.happen(&mut next, node, event);
                if !is_alone {
                    // Whose write has landed may learn it; the reader saw it.
                    let landed = (0..N).filter(|&other| (lands >> (2 * other)) & 3 != 0);
                    next.fresh = landed.fold(1 << node, |fresh, other| fresh | (1 << other));
                }
            }
        }
        for (index, node) in next.nodes.iter().enumerate() {
            // A node without a hidden step is in the same place, fresh or not.
            if !node.may_hide {
                next.fresh &= !(1 << index);
            }
        }
        next.fresh &= (1 << N) - 1;
        self.judge(&mut next);
        self.sort_members(&mut next);
        next
    }

    /// A read meets what is there.
    fn meet(
        &self,
        state: &mut State<N>,
        reader: usize,
        member: u8,
        writer: usize,
        register: Register,
    ) {
        let sight = state.nodes[writer].views[usize::from(member)][register as usize];
        let event = Event::Meet(member, writer as u8, register, sight);
        state.nodes[reader] = self.after(&state.nodes[reader], reader, event);
    }

    fn happen(&self, state: &mut State<N>, index: usize, event: Event) {
        let before = &state.nodes[index];
        let after = self.after(before, index, event);
        let others_below = (1 << index) - 1;
        state.fresh = match self.is_hidden(before, event, &after) {
            true => state.fresh & !others_below | (1 << index),
            false => 1 << index,
        };
        state.nodes[index] = after;
    }

    fn sort_members(&self, state: &mut State<N>) {
        let members = usize::from(self.config.members);
        let column = |member: usize| state.nodes.each_ref().map(|node| node.columns[member]);
        let mut order = [0, 1, 2];
        // A member that does not answer keeps its number.
        let alive = match self.config.dead {
            Some(member) => usize::from(member),
            None => members,
        };
        order[..alive].sort_by_key(|&member| column(usize::from(member)));
        if order != [0, 1, 2] {
            for (index, node) in state.nodes.iter_mut().enumerate() {
                *node = self.after(node, index, Event::Reorder(order));
            }
        }
    }

    /// Checks the safety rules.
    fn judge(&self, state: &mut State<N>) {
        let mut broken = state.nodes.iter().find_map(|node| node.node.broken());
        for node in &state.nodes {
            let decided = node.decided;
            let Some(value) = decided.value else { continue };
            let value = value_of(value);
            let known = &mut state.decided[decided.epoch as usize];
            if *known.get_or_insert(value) != value {
                broken = Some("S3: one epoch, two owners");
            }
            if node.node.has_failed() {
                broken = Some("R36: a controller takes itself for another");
            }
        }
        let highest = state.decided.iter().rposition(Option::is_some).unwrap_or(0) as u64;
        let valid = || state.nodes.iter().filter_map(|node| node.valid);
        if valid().count() > 1 {
            broken = Some("S1: two valid leases");
        }
        if valid().any(|epoch| epoch < highest) {
            broken = Some("S1': a valid lease of a decided past");
        }
        let exposed = state
            .nodes
            .iter()
            .map(|node| u32::from(node.node.exposed()))
            .sum();
        let failures = self.config.redundancy.kind.failures();
        if failures.is_some_and(|repaired| repaired < exposed) {
            broken = Some("S2: more strays than redundancy repairs");
        }
        let first = &state.nodes[0];
        // It knows of no later epoch, and did not give its own back.
        let owns = first
            .decided
            .value
            .is_some_and(|value| value.slot.index() == 0);
        let owns = owns && state.top > 0 && !first.node.has_released();
        if self.config.is_timely() && owns && first.valid.is_none() {
            broken = Some("L1: a healthy owner loses its lease");
        }
        state.top = valid().fold(state.top, u64::max);
        state.broken = state.broken.or(broken);
    }

    /// Everything in flight on one node, to its end, in order; its heartbeat timer every tick.
    fn let_run(&self, mut state: State<N>, index: usize) -> State<N> {
        state = self.come_to_rest(state, index);
        self.change(&mut state, index, |node| node.budget.ticks = 1);
        state = self.take(&state, Step::Node(index, Event::Tick, 0));
        self.come_to_rest(state, index)
    }

    fn come_to_rest(&self, mut state: State<N>, index: usize) -> State<N> {
        for _ in 0..400 {
            let mut steps = Vec::new();
            self.all_steps(&state, &mut steps);
            // A node that waits for another node looks as often as it may.
            let looks = state.nodes[index].node.is_waiting();
            let mine = |step: &Step| match *step {
                Step::Node(node, Event::Timeout, 0) => node == index && !looks,
                Step::Node(node, event, 0) => {
                    node == index && matches!(event, Event::Act | Event::Done(..))
                }
                Step::Read { node, lands: 0, .. } => node == index,
                _ => false,
            };
            match steps.into_iter().find(mine) {
                Some(step) => state = self.take(&state, step),
                None => return state,
            }
        }
        panic!("node {index} does not come to rest: {state:?}");
    }

    fn change(&self, state: &mut State<N>, index: usize, change: impl FnOnce(&mut Node)) {
        let mut node = state.nodes[index].node.clone();
        change(&mut node);
        state.nodes[index] = self.enter(node);
    }

    /// L2: whether the node, alone from here on, comes to have a valid lease.
    fn recovers(&self, state: &State<N>, index: usize) -> bool {
        let mut state = state.clone();
        state.ticks = 0;
        for _ in 0..60 {
            state = self.let_run(state, index);
            if state.broken.is_some() {
                return false;
            }
            if state.nodes[index].valid.is_some() {
                return true;
            }
            state = self.take(&state, Step::Clock(0));
        }
        false
    }

    /// Whether from this state no node has to recover, or all nodes do.
    pub fn is_live(&self, state: &State<N>) -> bool {
        let first = usize::from(!self.config.returns);
        self.config.is_timely()
            || self.config.drift
            // No node takes over while a register cannot be read.
            || self.config.damages
            || state.print() % SAMPLE != 0
            || (first..N).all(|node| self.recovers(state, node))
    }

    pub fn is_within(&self, state: &State<N>) -> bool {
        let config = &self.config;
        let fits = |entry: &Arc<Entry>| {
            let claims = entry.decided.epoch + u64::from(entry.node.is_candidate());
            claims <= config.epochs && entry.node.ballots() <= config.ballots
        };
        state.nodes.iter().all(fits) && (!config.is_timely() || state.ticks <= config.timely)
    }

    /// Steps to take, without those that another order stands for.
    pub fn steps(&self, state: &State<N>, steps: &mut Vec<Step>) {
        self.all_steps(state, steps);
        steps.retain(|&step| self.is_allowed(state, step));
    }

    /// A step that changes nothing leads nowhere.
    pub fn next(&self, state: &State<N>, step: Step) -> Option<State<N>> {
        let next = self.take(state, step);
        self.note(state, step, &next);
        (next != *state).then_some(next)
    }

    /// Runs all nodes, in step, up to the start of the exploration.
    pub fn start(&self) -> State<N> {
        let config = &self.config;
        let mut state = State {
            nodes: std::array::from_fn(|slot| self.enter(Node::new(slot, config))),
            decided: [None; EPOCHS],
            top: 0,
            fresh: u8::MAX,
            replaced: false,
            ticks: 0,
            broken: None,
        };
        for index in 0..N {
            let claims = config.start == Start::Owned && index == 0;
            self.change(&mut state, index, |node| node.claims(claims));
        }
        for tick in 0..60 {
            let is_ready = match config.start {
                Start::Cold => true,
                // Long enough for all nodes to join, and to see that none claims.
                Start::Virgin => tick > 10 + 4 * config.timing.window_ns,
                Start::Owned => state.nodes[0].valid.is_some(),
            };
            if is_ready {
                return self.begin(state);
            }
            for index in 0..N {
                state = self.let_run(state, index);
            }
            // All have seen the last heartbeat of this tick.
            for index in (0..N).filter(|_| config.start == Start::Owned) {
                state = self.let_run(state, index);
            }
            state = self.take(&state, Step::Clock(0));
        }
        panic!("the start is never reached: {state:?}");
    }

    fn begin(&self, mut state: State<N>) -> State<N> {
        let config = &self.config;
        for index in 0..N {
            self.change(&mut state, index, |node| {
                node.claims(index > 0 || config.returns);
                node.budget = config.budget(index);
            });
        }
        state.fresh = (1 << N) - 1;
        state.ticks = 0;
        self.sort_members(&mut state);
        self.tally.reset();
        state
    }
}

impl<const N: usize> Portion<N> {
    fn note(&self, before: &State<N>, step: Step, after: &State<N>) {
        for (index, (before, after)) in before.nodes.iter().zip(&after.nodes).enumerate() {
            match step {
                Step::Node(at, event, _) if at == index => self.note_event(before, event, after),
                Step::Read { node, .. } if node == index => {
                    self.note_event(before, Event::Tick, after);
                }
                Step::Clock(_) => self.note_event(before, Event::Age(1), after),
                _ => {}
            }
        }
        if let Step::Read { node, member, .. } = step {
            let others = (0..N).filter(|&other| other != node);
            if others
                .into_iter()
                .any(|it| before.nodes[it].node.is_torn(member))
            {
                self.tally.note(Sometimes::TornRead);
            }
            if before.nodes[node].has_met_any(member) {
                self.tally.note(Sometimes::OldRead);
            }
        }
        let called_off = matches!(step, Step::Node(_, Event::CallOff, _));
        if called_off && before.nodes.iter().any(|node| node.node.is_candidate()) {
            self.tally.note(Sometimes::CalledOff);
        }
        self.note_state(step, after);
    }

    /// Notes what one step of one node shows.
    fn note_event(&self, before: &Entry, event: Event, after: &Entry) {
        let note = |what| self.tally.note(what);
        match event {
            Event::Done(member, register) if !before.node.is_awaited(member, register) => {
                note(Sometimes::StaleCompletion);
            }
            Event::Orphan(..) => note(Sometimes::LateLanding),
            Event::Age(_) if before.valid.is_some() && after.valid.is_none() => {
                note(Sometimes::Lapse);
            }
            Event::Reach(true) => note(Sometimes::Stray),
            Event::Reply if before.node.is_stray() => note(Sometimes::StrayRefused),
            Event::Reply if before.valid.is_some() => note(Sometimes::Acknowledged),
            _ => {}
        }
        if before.node.is_candidate() && !after.node.is_candidate() {
            let me = (after.node.slot(), after.node.life());
            match after
                .decided
                .value
                .filter(|_| after.decided != before.decided)
            {
                None => note(Sometimes::ClaimGivenUp),
                Some(value) if value_of(value) != me => note(Sometimes::ClaimWonByAnother),
                Some(_) => note(Sometimes::ClaimWon),
            }
        }
        if after.node.life() > 0 && after.node.is_secondary() {
            note(Sometimes::Rejoined);
        }
    }

    /// Notes what the nodes show together.
    fn note_state(&self, step: Step, after: &State<N>) {
        let note = |what| self.tally.note(what);
        let races = |entry: &Arc<Entry>| {
            let rivals = after.nodes.iter().filter(|it| it.node.is_candidate());
            rivals.filter(|it| it.decided == entry.decided).count()
        };
        match after.nodes.iter().map(races).max() {
            Some(2) => note(Sometimes::RaceOfTwo),
            Some(3) => note(Sometimes::RaceOfThree),
            _ => {}
        }
        let owner = after.nodes.iter().position(|node| node.valid.is_some());
        let Some(owner) = owner else { return };
        if after.nodes.iter().any(|node| node.node.is_waiting()) {
            note(Sometimes::Prepared);
        }
        if after.nodes.iter().any(|node| node.node.is_damaged(0)) {
            note(Sometimes::Unreadable);
        }
        let me = (owner as u8, after.nodes[owner].node.life());
        if after.nodes[owner].node.is_charged() {
            note(Sometimes::Charged);
        }
        if after.nodes[owner].node.is_exhausted() {
            note(Sometimes::Exhausted);
        }
        let former = after.decided[..after.top as usize].iter().flatten().last();
        if former.is_none_or(|former| *former == me) {
            return;
        }
        note(Sometimes::Takeover);
        if after.replaced {
            note(Sometimes::TakeoverAfterReplacement);
        }
        let gave = |node: &Arc<Entry>| node.node.budget.commands < self.config.commands;
        if self.config.commands > 0 && after.nodes[..1].iter().all(gave) {
            note(Sometimes::HandedOver);
        }
        if let Step::Node(index, Event::Done(_, register), _) = step {
            if index != owner && register == REGISTERS[1] {
                note(Sometimes::DemotedWrites);
            }
        }
    }
}

impl<const N: usize> Model for Portion<N> {
    type State = State<N>;
    type Action = Step;

    fn init_states(&self) -> Vec<State<N>> {
        vec![self.start()]
    }

    fn actions(&self, state: &State<N>, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State<N>, step: Step) -> Option<State<N>> {
        self.next(state, step)
    }

    fn within_boundary(&self, state: &State<N>) -> bool {
        self.is_within(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, state: &State<N>| {
                state.broken.is_none()
            }),
            Property::always("whoever is alone comes to own", |model: &Self, state| {
                model.is_live(state)
            }),
        ]
    }
}

/// The registers that a read of a node meets.
fn writers<const N: usize>(reader: usize) -> impl Iterator<Item = (usize, Register)> {
    let others = (0..N).filter(move |&other| other != reader);
    others.flat_map(|other| REGISTERS.map(|register| (other, register)))
}

fn bit(slot: usize, register: Register) -> u8 {
    1 << (2 * slot + register as usize)
}

/// All subsets of a set.
fn subsets(set: u8) -> impl Iterator<Item = u8> {
    (0..=set).filter(move |part| part & !set == 0)
}

fn value_of(value: Value) -> (u8, u8) {
    (value.slot.index(), (value.inc.0 >> 8) as u8)
}
