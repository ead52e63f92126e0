// SPDX-License-Identifier: GPL-2.0
//! Exhaustive check of the shipped machine: two controllers, one member, every order of events.
//!
//! A state is two whole [`Controller`]s, their gates, the mailboxes on the member and the commands
//! in flight. Between any two steps the clock may advance (a stall), and whatever is in flight may
//! land, be seen, or complete, in any order. What the machine wants done is done at once: a command
//! that is issued and has not landed is the same as one that is not issued yet, and a lease that
//! is given late is valid for less.
//!
//! | step | meaning |
//! |---|---|
//! | Clock | a tick of true time passes; both clocks show it |
//! | Tick, Timeout | a timer fires; the heartbeat timer as often as the bound allows, at any time |
//! | Land | a write reaches the medium |
//! | Done, Fail | its completion arrives; an error may or may not have landed |
//! | Sample, Seen, Blind | a read looks at the other's slot; it completes with that; it fails |
//! | Restart | the machine dies, and comes back with a new incarnation |
//!
//! Bounds: the true time, the heartbeat timers, restarts and errors of each run; `MODEL=long`
//! widens them. Checked in every state: S1 (no two valid leases, and none of e once e + 1 is
//! decided) and S3 (one value for each epoch). From a sample of the states each controller, alone
//! from then on, comes to own.

mod world;

use dm_lease_proto::proto::controller::{Action, Controller, Setup};
use dm_lease_proto::proto::layout::Side;
use dm_lease_proto::proto::lease::is_within;
use dm_lease_proto::proto::record::{Incarnation, Register, Slot, Value};
use dm_lease_proto::proto::time::Timing;
use stateright::{Checker, Model, Property};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use world::{Mailbox, Payload, Snapshot};

/// A part of a state, shared by all states that have it, compared by fingerprint.
#[derive(Debug)]
struct Shared<T>(Arc<(u64, T)>);

impl<T: Hash> Shared<T> {
    fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(Arc::new((hasher.finish(), value)))
    }

    fn get(&self) -> &T {
        &self.0 .1
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 .0 == other.0 .0
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 .0);
    }
}

/// A write in flight.
#[derive(Clone, Debug, Hash)]
struct Flight {
    side: Side,
    payload: Payload,
    landed: bool,
}

/// One machine, with its commands in flight.
#[derive(Clone, Debug, Hash)]
struct Node {
    controller: Controller,
    /// Epoch and expiry in the gate.
    gate: (u64, u64),
    ballot: Option<Flight>,
    heartbeat: Option<Flight>,
    /// A read in flight: what it has seen of the other's slot.
    read: Option<Option<Mailbox>>,
    ticks_left: u8,
    faults_left: u8,
    restarts_left: u8,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct State {
    now: u64,
    nodes: [Shared<Node>; 2],
    disk: [Shared<Mailbox>; 2],
    /// What each epoch was decided to be, as far as anybody knows.
    decided: [Option<Value>; EPOCHS],
    /// Who has had a valid lease in this tick, and of which epoch.
    valid: [Option<u64>; 2],
    /// Who may take a local step; see [`State::follow`].
    fresh: [bool; 2],
    broken: Option<&'static str>,
}

/// One in so many states is a start for a run of one controller alone.
const SAMPLE: u64 = 499;

/// Epochs beyond this are out of bounds.
const EPOCHS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Clock,
    Tick(usize),
    Timeout(usize),
    Land(usize, Register),
    Done(usize, Register),
    Fail(usize, Register),
    Sample(usize),
    Seen(usize),
    Blind(usize),
    Restart(usize),
}

impl Step {
    fn node(self) -> Option<usize> {
        match self {
            Step::Clock => None,
            Step::Tick(node)
            | Step::Timeout(node)
            | Step::Land(node, _)
            | Step::Done(node, _)
            | Step::Fail(node, _)
            | Step::Sample(node)
            | Step::Seen(node)
            | Step::Blind(node)
            | Step::Restart(node) => Some(node),
        }
    }

    /// Whether it neither sees nor changes what is on the member.
    fn is_local(self) -> bool {
        !matches!(self, Step::Clock | Step::Land(..) | Step::Sample(_))
    }
}

/// What is explored, and how far.
#[derive(Clone, Debug)]
struct Portion {
    name: &'static str,
    timing: Timing,
    /// How long after the start the clock stands still.
    horizon: u64,
    /// How often each heartbeat timer fires after the start.
    ticks: [u8; 2],
    faults: u8,
    restarts: u8,
    start: Start,
    /// Whether the first claims again by itself after it lost its lease.
    returns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nobody ever owned; both have joined and may write a ballot now.
    Virgin,
    /// The first has a lease, the second has seen its heartbeats.
    Owned,
}

/// L = W ticks of a nanosecond; nothing in the machine depends on their size.
fn ticks(lease: u64, window: u64) -> Timing {
    Timing {
        lease_ns: lease,
        window_ns: window,
        device_delay_ns: 0,
        drift_ppm: 0,
        lost_heartbeats: 0,
        period_max_ns: 1,
        error_report_ns: 0,
        write_ns: 0,
        read_ns: 0,
        jitter_ns: 0,
    }
}

fn slot(node: usize) -> Slot {
    Slot::new(node as u8).unwrap()
}

impl Portion {
    fn machine(&self, node: usize, life: u8) -> Controller {
        let mut controller = Controller::new(Setup {
            slot: slot(node),
            inc: Incarnation((u128::from(life) << 8) | (node as u128 + 1)),
            boot_id: [0; 16],
            members: 1,
            originals: 1,
            slots: 0b11,
            home: slot(0),
            timing: self.timing,
            period_ns: 1,
            limit: 1,
            claim_auto: true,
        });
        controller.set_guarded(false);
        controller.handle_member(0, true, true);
        controller
    }

    /// The steps that are possible, whatever they lead to.
    fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let mut all = Vec::new();
        self.all_steps(state, &mut all);
        steps.extend(all.into_iter().filter(|step| match step.node() {
            Some(node) if step.is_local() => state.fresh[node],
            _ => true,
        }));
    }

    fn all_steps(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Clock);
        for node in 0..2 {
            let it = state.nodes[node].get();
            if it.ticks_left > 0 {
                steps.push(Step::Tick(node));
            }
            if it
                .controller
                .poll_timeout_ns()
                .is_some_and(|at| at <= state.now)
            {
                steps.push(Step::Timeout(node));
            }
            for (register, flight) in [
                (Register::Ballot, &it.ballot),
                (Register::Heartbeat, &it.heartbeat),
            ] {
                let Some(flight) = flight else { continue };
                steps.push(match flight.landed {
                    true => Step::Done(node, register),
                    false => Step::Land(node, register),
                });
                if it.faults_left > 0 {
                    steps.push(Step::Fail(node, register));
                }
            }
            match &it.read {
                Some(None) => steps.push(Step::Sample(node)),
                Some(Some(_)) => steps.push(Step::Seen(node)),
                None => {}
            }
            if it.read.is_some() && it.faults_left > 0 {
                steps.push(Step::Blind(node));
            }
            if it.restarts_left > 0 {
                steps.push(Step::Restart(node));
            }
        }
    }

    fn take(&self, state: &State, step: Step) -> State {
        let mut next = state.clone();
        match step {
            Step::Clock => next.now += 1,
            Step::Land(node, register) => {
                let mut it = next.nodes[node].get().clone();
                let mut mailbox = *next.disk[node].get();
                let flight = it.flight(register);
                if let Some(flight) = flight {
                    flight.landed = true;
                    mailbox.put(flight.side, &flight.payload);
                }
                next.disk[node] = Shared::new(mailbox);
                next.nodes[node] = Shared::new(it);
            }
            Step::Sample(node) => {
                let mut it = next.nodes[node].get().clone();
                it.read = Some(Some(*next.disk[1 - node].get()));
                next.nodes[node] = Shared::new(it);
            }
            Step::Tick(node)
            | Step::Timeout(node)
            | Step::Done(node, _)
            | Step::Fail(node, _)
            | Step::Seen(node)
            | Step::Blind(node)
            | Step::Restart(node) => {
                let mut it = next.nodes[node].get().clone();
                self.call(&mut it, node, step, &next);
                it.drain(next.now);
                next.nodes[node] = Shared::new(it);
            }
        }
        next.follow(step);
        let mut all = Vec::new();
        self.all_steps(&next, &mut all);
        for node in 0..2 {
            // Who has no local step to take is in the same place, fresh or not.
            next.fresh[node] &= all
                .iter()
                .any(|it| it.is_local() && it.node() == Some(node));
        }
        next.judge(self.timing.lease_ns);
        next.shrink();
        next
    }

    /// Tells the machine what happened.
    fn call(&self, it: &mut Node, node: usize, step: Step, state: &State) {
        let now = state.now;
        match step {
            Step::Tick(_) => {
                it.ticks_left -= 1;
                it.controller.handle_tick(now);
            }
            Step::Timeout(_) => it.controller.handle_timeout(now),
            Step::Done(_, register) | Step::Fail(_, register) => {
                let ok = matches!(step, Step::Done(..));
                *it.flight(register) = None;
                it.faults_left -= u8::from(!ok);
                it.controller.handle_write(0, register, ok, now);
            }
            Step::Seen(_) => {
                let mut boxes = vec![*state.disk[node].get(); 2];
                boxes[1 - node] = it.read.take().flatten().expect("it was sampled");
                it.controller.handle_read(0, Some(&Snapshot(boxes)), now);
            }
            Step::Blind(_) => {
                it.read = None;
                it.faults_left -= 1;
                it.controller.handle_read::<Snapshot>(0, None, now);
            }
            Step::Restart(_) => {
                it.restarts_left -= 1;
                it.controller = self.machine(node, it.restarts_left + 1);
                it.gate = (0, 0);
                (it.ballot, it.heartbeat, it.read) = (None, None, None);
            }
            Step::Clock | Step::Land(..) | Step::Sample(_) => {}
        }
    }

    /// Everything in flight on one machine, to its end, in order; its heartbeat timer every tick.
    fn let_run(&self, mut state: State, node: usize, ticks: u64) -> State {
        for _ in 0..ticks {
            state = self.settle(state, node);
            let mut it = state.nodes[node].get().clone();
            it.ticks_left = 1;
            state.nodes[node] = Shared::new(it);
            state = self.take(&state, Step::Tick(node));
            state = self.settle(state, node);
            state = self.take(&state, Step::Clock);
        }
        state
    }

    fn settle(&self, mut state: State, node: usize) -> State {
        for _ in 0..200 {
            let mut steps = Vec::new();
            self.all_steps(&state, &mut steps);
            let step = steps.into_iter().find(|step| match *step {
                Step::Timeout(n) | Step::Sample(n) | Step::Seen(n) => n == node,
                Step::Land(n, _) | Step::Done(n, _) => n == node,
                _ => false,
            });
            match step {
                Some(step) => state = self.take(&state, step),
                None => return state,
            }
        }
        panic!("machine {node} does not come to rest: {state:?}");
    }

    /// Whether the controller, alone from here on, comes to have a valid lease.
    fn recovers(&self, state: &State, node: usize) -> bool {
        let mut state = state.clone();
        for _ in 0..40 {
            state = self.let_run(state, node, 1);
            if state.broken.is_some() {
                return false;
            }
            if state.is_valid(node, self.timing.lease_ns) {
                return true;
            }
        }
        false
    }

    fn start(&self) -> State {
        let node = |node| {
            Shared::new(Node {
                controller: self.machine(node, 0),
                gate: (0, 0),
                ballot: None,
                heartbeat: None,
                read: None,
                ticks_left: 0,
                faults_left: 0,
                restarts_left: 0,
            })
        };
        let mut state = State {
            now: 1,
            nodes: [node(0), node(1)],
            disk: [Shared::new(Mailbox::BLANK), Shared::new(Mailbox::BLANK)],
            decided: [None; EPOCHS],
            valid: [None; 2],
            fresh: [true; 2],
            broken: None,
        };
        for shared in &mut state.nodes {
            let mut it = shared.get().clone();
            it.controller.set_claim_auto(self.start == Start::Owned);
            *shared = Shared::new(it);
        }
        let ready = |state: &State| match self.start {
            // Long enough for everybody to join, and to see that nobody claims.
            Start::Virgin => state.now > 20,
            Start::Owned => state.is_valid(0, self.timing.lease_ns),
        };
        for _ in 0..40 {
            if ready(&state) {
                break;
            }
            for node in 0..2 {
                let mut one = self.let_run(state.clone(), node, 1);
                one.now = state.now;
                state = one;
            }
            state = self.take(&state, Step::Clock);
        }
        assert!(ready(&state), "the start is never reached: {state:?}");
        for (node, shared) in state.nodes.iter_mut().enumerate() {
            let mut it = shared.get().clone();
            it.controller.set_claim_auto(node == 1 || self.returns);
            it.ticks_left = self.ticks[node];
            it.faults_left = self.faults;
            it.restarts_left = self.restarts;
            *shared = Shared::new(it);
        }
        state.fresh = [true; 2];
        state
    }
}

impl Node {
    fn flight(&mut self, register: Register) -> &mut Option<Flight> {
        match register {
            Register::Ballot => &mut self.ballot,
            Register::Heartbeat => &mut self.heartbeat,
        }
    }

    /// Does what the machine wants done.
    fn drain(&mut self, now: u64) {
        while let Some(action) = self.controller.poll_action() {
            match action {
                Action::OpenEpoch { epoch, expiry_ns } => self.gate = (epoch, expiry_ns),
                Action::Extend { from_ns, to_ns } if self.gate.1 == from_ns => self.gate.1 = to_ns,
                Action::Extend { .. } => self.controller.handle_lapse(now),
                Action::Latch => self.gate.1 = 0,
                Action::WriteBallot { side, record, .. } => {
                    let payload = Payload::Ballot(record);
                    self.ballot = Some(Flight {
                        side,
                        payload,
                        landed: false,
                    });
                }
                Action::WriteHeartbeat { side, record, .. } => {
                    let payload = Payload::Heartbeat(record);
                    self.heartbeat = Some(Flight {
                        side,
                        payload,
                        landed: false,
                    });
                }
                Action::Read { .. } => self.read = Some(None),
                Action::SetLimit(_)
                | Action::Transition(_)
                | Action::Heartbeat(_)
                | Action::Answer(_) => {}
            }
        }
    }
}

impl State {
    fn is_valid(&self, node: usize, lease: u64) -> bool {
        let (_, expiry) = self.nodes[node].get().gate;
        is_within(self.now, expiry, lease)
    }

    /// Makes counters small, so that histories that led to the same place are one state: the
    /// sequence numbers of a register become their ranks, the machines' own counters start anew.
    fn shrink(&mut self) {
        let mut nodes = [self.nodes[0].get().clone(), self.nodes[1].get().clone()];
        let mut disk = [*self.disk[0].get(), *self.disk[1].get()];
        for own in 0..2 {
            let ranks = [Register::Ballot, Register::Heartbeat].map(|register| {
                let sample = nodes[1 - own].read.flatten();
                let sampled = sample.iter().flat_map(|mailbox| mailbox.seqs(register));
                let flight = nodes[own]
                    .flight(register)
                    .as_ref()
                    .map(|it| it.payload.seq());
                let mut all: Vec<u64> = disk[own]
                    .seqs(register)
                    .chain(sampled)
                    .chain(flight)
                    .collect();
                all.sort_unstable();
                all.dedup();
                all
            });
            let rank = |register: Register, seq: u64| {
                let below = ranks[register as usize]
                    .iter()
                    .filter(|it| **it < seq)
                    .count() as u64;
                below + u64::from(seq > 0)
            };
            for register in [Register::Ballot, Register::Heartbeat] {
                disk[own].map_seqs(register, |seq| rank(register, seq));
                if let Some(Some(mailbox)) = &mut nodes[1 - own].read {
                    mailbox.map_seqs(register, |seq| rank(register, seq));
                }
                if let Some(flight) = nodes[own].flight(register) {
                    let seq = rank(register, flight.payload.seq());
                    flight.payload.set_seq(seq);
                }
            }
            nodes[own].controller = nodes[own].controller.canonical(self.now, rank);
            disk[own] = disk[own].newest_only(true);
            if let Some(Some(mailbox)) = &mut nodes[1 - own].read {
                *mailbox = mailbox.newest_only(false);
            }
        }
        self.nodes = nodes.map(Shared::new);
        self.disk = disk.map(Shared::new);
    }

    /// Leaves one order of steps that do not see each other.
    ///
    /// What a machine does with what it knows (a timer, a completion) neither sees nor changes
    /// what the other one does; it sees the clock. So such a step is as good as one taken earlier,
    /// up to the last step of the same machine or the last tick of the clock; there the first
    /// machine goes first. Since the order within a tick is lost, a lease counts as valid in the
    /// whole tick in which it was valid once.
    fn follow(&mut self, step: Step) {
        match step.node() {
            None => (self.fresh, self.valid) = ([true; 2], [None; 2]),
            Some(0) if step.is_local() => self.fresh[0] = true,
            Some(node) => {
                self.fresh[node] = true;
                self.fresh[1 - node] = false;
            }
        }
    }

    /// Checks the safety rules.
    fn judge(&mut self, lease: u64) {
        for node in 0..2 {
            let decided = self.nodes[node].get().controller.decided();
            let (Some(value), Ok(epoch)) = (decided.value, usize::try_from(decided.epoch)) else {
                continue;
            };
            let Some(known) = self.decided.get_mut(epoch) else {
                continue;
            };
            if *known.get_or_insert(value) != value {
                self.broken = Some("S3: one epoch, two owners");
            }
        }
        let highest = self.decided.iter().rposition(Option::is_some).unwrap_or(0) as u64;
        for node in 0..2 {
            if self.is_valid(node, lease) {
                self.valid[node] = Some(self.nodes[node].get().gate.0);
            }
        }
        if self.valid.iter().all(Option::is_some) {
            self.broken = Some("S1: two valid leases");
        }
        if self.valid.iter().flatten().any(|&epoch| epoch < highest) {
            self.broken = Some("S1': a valid lease of a decided past");
        }
    }
}

impl Model for Portion {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let next = self.take(state, step);
        // A step that changes nothing leads nowhere.
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let epoch = |node: &Shared<Node>| node.get().controller.decided().epoch;
        state.now <= self.horizon && state.nodes.iter().all(|node| epoch(node) < EPOCHS as u64)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::always(
                "whoever is alone comes to own",
                |model: &Portion, state: &State| {
                    let mut hasher = DefaultHasher::new();
                    state.hash(&mut hasher);
                    let first = usize::from(!model.returns);
                    hasher.finish() % SAMPLE != 0
                        || (first..2).all(|node| model.recovers(state, node))
                },
            ),
            Property::sometimes("the second takes over", |model: &Portion, state: &State| {
                state.is_valid(1, model.timing.lease_ns)
            }),
        ]
    }
}

/// `MODEL=long` explores more: hours, not seconds.
fn is_long() -> bool {
    std::env::var("MODEL").is_ok_and(|value| value == "long")
}

/// L = W = 2 ticks, an owner and an observer; nobody dies.
fn owned() -> Portion {
    Portion {
        name: "an owner and an observer",
        timing: ticks(2, 2),
        horizon: if is_long() { 3 } else { 2 },
        ticks: if is_long() { [2, 1] } else { [1, 0] },
        faults: 0,
        restarts: 0,
        start: Start::Owned,
        returns: false,
    }
}

/// Both may claim epoch 1 now.
fn virgin() -> Portion {
    Portion {
        name: "two candidates",
        horizon: u64::from(is_long()),
        ticks: [0, 0],
        start: Start::Virgin,
        returns: true,
        ..owned()
    }
}

/// Explores everything; returns the broken rule, if there is one.
fn explore(model: Portion) -> Option<&'static str> {
    let name = model.name;
    let start = model.start();
    // From here on it is a point in time.
    let model = Portion {
        horizon: start.now + model.horizon,
        ..model
    };
    let begun = std::time::Instant::now();
    let checker = model.checker().threads(1).spawn_bfs().join();
    println!(
        "{name}: {} states, at most {} steps, {:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    if let Some(path) = checker.discovery("no rule is broken") {
        let broken = path.last_state().broken;
        println!("{broken:?} after {:?}", path.into_actions());
        return broken;
    }
    checker.assert_properties();
    None
}

#[test]
fn r45_an_owner_and_an_observer_in_every_order_of_events() {
    assert_eq!(explore(owned()), None);
}

#[test]
fn r45_an_owner_that_lapses_and_an_observer_both_claim_in_every_order_of_events() {
    let model = Portion {
        name: "an owner that returns",
        ticks: if is_long() { [1, 0] } else { [0, 0] },
        returns: true,
        ..owned()
    };
    assert_eq!(explore(model), None);
}

#[test]
fn r28_two_candidates_for_a_virgin_portion_in_every_order_of_events() {
    assert_eq!(
        explore(Portion {
            horizon: 1,
            ..virgin()
        }),
        None
    );
}

#[test]
fn r35_two_candidates_of_which_each_may_restart() {
    assert_eq!(
        explore(Portion {
            name: "with restarts",
            restarts: 1,
            ..virgin()
        }),
        None
    );
}

#[test]
fn r41_two_candidates_with_a_failed_command_each() {
    assert_eq!(
        explore(Portion {
            name: "with errors",
            faults: 1,
            ..virgin()
        }),
        None
    );
}

#[test]
fn a_window_that_is_one_tick_shorter_breaks_the_first_rule() {
    let model = Portion {
        name: "W = 1 < L = 2",
        timing: ticks(2, 1),
        ..owned()
    };
    assert!(explore(model).is_some_and(|broken| broken.starts_with("S1")));
}
