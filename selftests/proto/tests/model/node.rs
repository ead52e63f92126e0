// SPDX-License-Identifier: GPL-2.0
//! One controller with its gate, its mailboxes on the members and its commands in flight.
//!
//! Everything a controller does or suffers is a step of its node alone, except that a read takes
//! what another node shows. So a node is kept once, as an [`Entry`], and what a step makes of it is
//! computed once: a state of the whole portion is a handful of references.
//!
//! The present moment is always [`NOW`]: a tick of the clock makes every moment a node knows an
//! earlier one.

use crate::config::{Config, BATCH};
use crate::medium::{Answer, Block, Mailbox, Records, Sight, Sights, View};
use crate::print::print;
use dm_lease_proto::proto::codec::ids::{Decided, Incarnation, Register, Side, Slot};
use dm_lease_proto::proto::controller::{
    Action, Command, Controller, GateChange, MailboxIo, MemberDevice, Notice, Setup,
};
use dm_lease_proto::proto::lease::is_within;
use dm_lease_proto::proto::words::status::{Reason, Role};
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};

/// What every clock shows. Far from 0, which often stands for "never".
pub const NOW: u64 = 1 << 20;

pub const REGISTERS: [Register; 2] = [Register::Ballot, Register::Heartbeat];

/// What happens to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A tick of true time, in which the own clock goes on by so much.
    Age(u64),
    /// The heartbeat timer fires.
    Tick,
    /// A moment the state machine asked for has come, or is long past.
    Timeout,
    /// The gate action that waits is done at last; see [`Config::lag`].
    Act,
    /// A write has half reached the medium, or all of it (it is reported as done in the same step,
    /// or a read meets it).
    Half(u8, Register),
    Land(u8, Register),
    /// A write is reported as done; a copy of the command may be left in the fabric.
    Done(u8, Register),
    Twice(u8, Register),
    /// A write is reported as failed; if it has not landed it may do so later.
    Fail(u8, Register),
    /// Both blocks of a register are destroyed.
    Damage(u8, Register),
    /// A command that was reported as lost lands, or half of it does.
    Orphan(u8, u8),
    Scrap(u8, u8),
    /// A read of a member meets a register of another slot, long before it is reported.
    Meet(u8, u8, Register, Sight),
    /// A read is reported as done, with this, or as failed.
    Seen(u8, Sights),
    Blind(u8),
    /// The host dies and comes back as another incarnation.
    Restart,
    /// The operator's command of this run; the hand-over that it began is called off.
    Command,
    CallOff,
    /// A user's write passes the gate, reaches the medium (after a later owner's lease began, or
    /// not), is reported.
    Write,
    Reach(bool),
    Reply,
    /// A user finds the lease ended, and latches the gate.
    Refuse,
    /// A blank disk is put in place of a member.
    Replace(u8),
    /// The members change their numbers.
    Reorder([u8; 3]),
}

impl Event {
    /// Whether it neither sees nor changes what others see, as far as the medium goes. (A write
    /// that is reported as done has landed before.)
    pub fn is_local(self) -> bool {
        !matches!(
            self,
            Event::Age(_)
                | Event::Half(..)
                | Event::Land(..)
                | Event::Damage(..)
                | Event::Orphan(..)
                | Event::Scrap(..)
                | Event::Meet(..)
                | Event::Reach(_)
                | Event::Replace(_)
                | Event::Reorder(_)
        )
    }

    /// Whether it happens by itself and soon where all is well.
    fn is_ordinary(self) -> bool {
        matches!(
            self,
            Event::Tick | Event::Timeout | Event::Act | Event::Done(..)
        )
    }
}

/// A write in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    side: Side,
    what: u64,
    seq: u16,
    landed: bool,
    torn: bool,
}

/// A command that was reported as lost. It lands within the longest delay, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Orphan {
    register: Register,
    side: Side,
    what: u64,
    seq: u16,
    ticks_left: u64,
}

/// What one node has on one member and under way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    mailbox: Mailbox,
    flights: [Option<Flight>; 2],
    orphans: Vec<Orphan>,
    /// A read in flight: what it has met of each other slot's registers.
    read: Option<[[Option<Sight>; 2]; 3]>,
}

/// A lease as the gate has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Gate {
    epoch: u64,
    expiry_ns: u64,
}

/// A gate action that was decided and not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Open(Gate),
    Extend { from_ns: u64, to_ns: u64 },
    Latch,
}

/// The one write of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Data {
    None,
    Issued { epoch: u64 },
    Landed { epoch: u64, is_stray: bool },
}

/// How often things may still happen to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub ticks: u8,
    pub faults: u8,
    pub restarts: u8,
    pub commands: u8,
    pub writes: u8,
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    controller: Controller,
    life: u8,
    gate: Gate,
    order: Option<Order>,
    places: Vec<Place>,
    data: Data,
    /// Its gate's limit, where permits are counted, and its writes that became strays.
    limit: u32,
    strays: u8,
    pub budget: Budget,
    broken: Option<&'static str>,
}

/// A node, and what the whole portion wants to know of it.
#[derive(Debug)]
pub struct Entry {
    pub print: u128,
    pub node: Node,
    /// The epoch of the valid lease in the gate.
    pub valid: Option<u64>,
    pub decided: Decided,
    /// What others read of it on each member.
    pub views: Vec<View>,
    /// A fingerprint of all it has to do with each member.
    pub columns: Vec<u64>,
    /// What may happen to it without others and without the clock.
    pub events: Vec<Event>,
    /// Writes in flight that have not landed, by member.
    pub aloft: Vec<[bool; 2]>,
    /// Reads in flight, by member: what they have met.
    pub reads: Vec<Option<[[Option<Sight>; 2]; 3]>>,
    /// Whether its thread waits at the gate.
    pub is_stuck: bool,
    /// Whether it has a step that no other node sees.
    pub may_hide: bool,
    /// Whether something ought to happen before the next tick where all is well.
    pub is_busy: bool,
}

pub fn slot(node: usize) -> Slot {
    Slot::new(node as u8).expect("there are few nodes")
}

impl Entry {
    pub fn new(node: Node, config: &Config, records: &Records) -> Self {
        let events = node.events(config);
        let mut entry = Self {
            print: print(&node),
            valid: node.is_valid(config).then_some(node.gate.epoch),
            decided: node.controller.decided(),
            views: node
                .places
                .iter()
                .map(|it| records.view(&it.mailbox))
                .collect(),
            columns: (0..config.members)
                .map(|member| node.column(member))
                .collect(),
            is_busy: node.is_busy(config, &events),
            is_stuck: node.order.is_some(),
            may_hide: false,
            events,
            aloft: node.places.iter().map(Place::aloft).collect(),
            reads: node.places.iter().map(|it| it.read).collect(),
            node,
        };
        let local = |it: &&Event| it.is_local() && entry.replaces(**it).is_none();
        let slot = usize::from(entry.node.slot());
        let met = (0..config.members).any(|it| entry.has_met_all(it, config.nodes, slot));
        entry.may_hide = entry.events.iter().any(|it| local(&it)) || met;
        entry
    }

    /// The register on a member whose contents an event changes.
    pub fn replaces(&self, event: Event) -> Option<(u8, Register)> {
        match event {
            Event::Done(member, register) | Event::Twice(member, register) => {
                let is_aloft = self.aloft[usize::from(member)][register as usize];
                is_aloft.then_some((member, register))
            }
            Event::Half(member, register)
            | Event::Land(member, register)
            | Event::Damage(member, register) => Some((member, register)),
            Event::Orphan(member, index) | Event::Scrap(member, index) => {
                let orphan = self.node.place(member).orphans[usize::from(index)];
                Some((member, orphan.register))
            }
            _ => None,
        }
    }

    /// Whether a read from a member is in flight that has not met this register.
    pub fn may_meet(&self, member: u8, writer: usize, register: Register) -> bool {
        self.reads[usize::from(member)].is_some_and(|met| met[writer][register as usize].is_none())
    }

    /// Whether a read from a member has met everything and is only to be reported.
    pub fn has_met_all(&self, member: u8, nodes: usize, reader: usize) -> bool {
        let met = |met: &[[Option<Sight>; 2]; 3]| {
            let others = (0..nodes).filter(|&other| other != reader);
            others
                .flat_map(|other| met[other])
                .all(|sight| sight.is_some())
        };
        self.reads[usize::from(member)].as_ref().is_some_and(met)
    }

    pub fn has_met_any(&self, member: u8) -> bool {
        let read = &self.reads[usize::from(member)];
        read.iter().flatten().flatten().any(Option::is_some)
    }
}

impl Node {
    pub fn new(slot: usize, config: &Config) -> Self {
        let place = Place {
            mailbox: Mailbox::BLANK,
            flights: [None; 2],
            orphans: Vec::new(),
            read: None,
        };
        Self {
            controller: controller(slot, 0, config),
            life: 0,
            gate: Gate {
                epoch: 0,
                expiry_ns: 0,
            },
            order: None,
            places: vec![place; usize::from(config.members)],
            data: Data::None,
            limit: config.first_limit(),
            strays: 0,
            budget: Budget::default(),
            broken: None,
        }
    }

    pub fn claims(&mut self, auto: bool) {
        self.controller.set_claim_auto(auto);
    }

    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    pub fn is_candidate(&self) -> bool {
        self.controller.is_candidate()
    }

    pub fn is_waiting(&self) -> bool {
        self.controller.is_waiting()
    }

    pub fn is_secondary(&self) -> bool {
        self.controller.role() == Role::Secondary
    }

    pub fn has_failed(&self) -> bool {
        self.controller.role() == Role::Failed
    }

    /// Whether it ended its own epoch on command.
    pub fn has_released(&self) -> bool {
        self.controller.has_released()
    }

    pub fn is_releasing(&self) -> bool {
        self.controller.role() == Role::Releasing
    }

    pub fn slot(&self) -> u8 {
        self.controller.setup().slot.index()
    }

    pub fn life(&self) -> u8 {
        self.life
    }

    pub fn ballots(&self) -> u64 {
        self.controller.ballots()
    }

    /// Whether both blocks of a register are destroyed.
    pub fn is_damaged(&self, member: u8) -> bool {
        let blocks = self.place(member).mailbox.blocks;
        blocks.contains(&[Block::Torn; 2])
    }

    pub fn is_torn(&self, member: u8) -> bool {
        self.place(member).mailbox.is_torn()
    }

    /// Whether nothing of this node is under way to a member.
    pub fn is_quiet(&self, member: u8) -> bool {
        let place = self.place(member);
        place.flights == [None; 2] && place.orphans.is_empty() && place.read.is_none()
    }

    pub fn is_awaited(&self, member: u8, register: Register) -> bool {
        self.controller.is_awaited(member, register)
    }

    pub fn is_stray(&self) -> bool {
        matches!(self.data, Data::Landed { is_stray: true, .. })
    }

    /// The epoch of a write that has passed the gate and not reached the medium.
    pub fn issued(&self) -> Option<u64> {
        match self.data {
            Data::Issued { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// How many writes of this node may still land, or landed, unrepaired.
    pub fn exposed(&self) -> u8 {
        self.strays + u8::from(self.issued().is_some())
    }

    pub fn is_charged(&self) -> bool {
        !self.controller.charges().is_empty()
    }

    pub fn is_exhausted(&self) -> bool {
        self.controller.reason() == Reason::Exhausted
    }

    fn is_valid(&self, config: &Config) -> bool {
        is_within(NOW, self.gate.expiry_ns, config.timing.lease_ns)
    }

    fn place(&self, member: u8) -> &Place {
        &self.places[usize::from(member)]
    }

    fn place_mut(&mut self, member: u8) -> &mut Place {
        &mut self.places[usize::from(member)]
    }

    fn column(&self, member: u8) -> u64 {
        let mut hasher = SipHasher13::new();
        self.place(member).hash(&mut hasher);
        self.controller.hash_member(member, &mut hasher);
        hasher.finish()
    }

    fn is_reading(&self, config: &Config) -> bool {
        let alive = |member: u8| config.dead != Some(member);
        (0..)
            .zip(&self.places)
            .any(|(member, it)| alive(member) && it.read.is_some())
    }

    /// Whether something ought to happen before the next tick where all is well. A successor that
    /// waits for the end of the epoch looks again and again: time goes on all the same.
    fn is_busy(&self, config: &Config, events: &[Event]) -> bool {
        let looks = |event: &Event| *event == Event::Timeout && self.is_waiting();
        self.is_reading(config) || events.iter().any(|it| it.is_ordinary() && !looks(it))
    }

    fn events(&self, config: &Config) -> Vec<Event> {
        let mut events = Vec::new();
        for (member, place) in (0..).zip(&self.places) {
            if config.dead != Some(member) {
                self.transfers(member, place, config, &mut events);
            }
        }
        // While the thread waits to reach the gate it does nothing else.
        if self.order.is_some() {
            events.retain(|event| !event.is_local());
            events.push(Event::Act);
        } else {
            let due = self
                .controller
                .poll_timeout_ns()
                .is_some_and(|at| at <= NOW);
            events.extend((self.budget.ticks > 0).then_some(Event::Tick));
            events.extend(due.then_some(Event::Timeout));
            let may_release = self.is_valid(config) && self.budget.commands > 0;
            events.extend(may_release.then_some(Event::Command));
            let may_call_off = config.calls_off && self.controller.is_offering();
            events.extend(may_call_off.then_some(Event::CallOff));
        }
        let has_room = !config.is_limited() || self.limit > 0;
        let is_open = self.is_valid(config) && !self.is_releasing() && has_room;
        match self.data {
            Data::None if self.budget.writes > 0 && is_open => events.push(Event::Write),
            Data::None | Data::Issued { .. } => {}
            Data::Landed { .. } => events.push(Event::Reply),
        }
        if config.lag && self.gate.expiry_ns != 0 && !self.is_valid(config) {
            events.push(Event::Refuse);
        }
        events.extend((self.budget.restarts > 0).then_some(Event::Restart));
        events
    }

    fn transfers(&self, member: u8, place: &Place, config: &Config, events: &mut Vec<Event>) {
        let faults = self.budget.faults > 0;
        for register in REGISTERS {
            if faults && config.damages {
                events.push(Event::Damage(member, register));
            }
            let Some(flight) = place.flights[register as usize] else {
                continue;
            };
            events.push(Event::Done(member, register));
            if faults && config.twice {
                events.push(Event::Twice(member, register));
            }
            if !flight.landed && !flight.torn && faults && config.torn {
                events.push(Event::Half(member, register));
            }
            if faults && !config.damages {
                events.push(Event::Fail(member, register));
            }
        }
        for (index, _) in (0..).zip(&place.orphans) {
            events.push(Event::Orphan(member, index));
            if config.torn && faults {
                events.push(Event::Scrap(member, index));
            }
        }
        if place.read.is_some() && faults && !config.damages {
            events.push(Event::Blind(member));
        }
    }

    /// What an event makes of the node.
    pub fn after(&self, event: Event, slot: usize, config: &Config, records: &Records) -> Self {
        let mut it = self.clone();
        match event {
            Event::Age(by_ns) => it.age(by_ns, config),
            Event::Reorder(from) => it.reorder(&from[..self.places.len()]),
            Event::Half(member, register) => {
                it.budget.faults -= 1;
                it.reach(member, register, false);
            }
            Event::Land(member, register) => it.reach(member, register, true),
            Event::Damage(member, register) => {
                it.budget.faults -= 1;
                it.place_mut(member).mailbox.blocks[register as usize] = [Block::Torn; 2];
            }
            Event::Orphan(member, index) => it.land_orphan(member, index, true),
            Event::Scrap(member, index) => {
                it.budget.faults -= 1;
                it.land_orphan(member, index, false);
            }
            Event::Meet(member, other, register, sight) => {
                if let Some(read) = it.place_mut(member).read.as_mut() {
                    read[usize::from(other)][register as usize] = Some(sight);
                }
            }
            Event::Replace(member) => {
                it.controller
                    .handle_member(member, Some(MemberDevice::replacement(2)));
                it.controller.forget_member(member, NOW);
                it.place_mut(member).mailbox = Mailbox::BLANK;
            }
            Event::Restart => it.restart(slot, config),
            Event::Write | Event::Reach(_) => it.user(event, config),
            Event::Reply => it.user(event, config),
            Event::Refuse => it.gate.expiry_ns = 0,
            _ => {
                it.tell(event, slot, config, records);
                it.drain(config, records);
            }
        }
        if it.is_releasing() && it.data == Data::None {
            it.controller.handle_drained(NOW);
            it.drain(config, records);
        }
        it.settle(config);
        if epoch(self) > epoch(&it) && self.life == it.life {
            it.broken = Some("S3: the epoch decreased");
        }
        it
    }

    /// Gives the event to the state machine.
    fn tell(&mut self, event: Event, slot: usize, config: &Config, records: &Records) {
        if config.is_limited() {
            let open = self.data != Data::None;
            self.controller.note_open(open.into());
        }
        match event {
            Event::Tick => {
                self.budget.ticks -= 1;
                self.controller.handle_tick(NOW);
            }
            Event::Timeout => self.controller.handle_timeout(NOW),
            Event::Act => {
                if let Some(order) = self.order.take() {
                    self.act(order);
                }
            }
            Event::Done(member, register)
            | Event::Twice(member, register)
            | Event::Fail(member, register) => self.report(event, member, register, config),
            Event::Seen(member, others) => {
                let place = self.place_mut(member);
                place.read = None;
                let own = place.mailbox;
                let answer = Answer {
                    records,
                    slot,
                    own: &own,
                    others: &others,
                };
                self.controller.handle_read(member, Some(&answer), NOW);
            }
            Event::Blind(member) => {
                self.budget.faults -= 1;
                self.place_mut(member).read = None;
                self.controller.handle_read::<Answer<'_>>(member, None, NOW);
            }
            Event::Command => {
                self.budget.commands -= 1;
                // A refusal changes nothing.
                let _ = self.controller.handle_command(config.command, NOW);
            }
            Event::CallOff => {
                let _ = self.controller.handle_command(Command::CallOff, NOW);
            }
            _ => {}
        }
    }

    fn report(&mut self, event: Event, member: u8, register: Register, config: &Config) {
        let Some(flight) = self.place_mut(member).flights[register as usize].take() else {
            return;
        };
        let is_twice = matches!(event, Event::Twice(..));
        let is_done = is_twice || matches!(event, Event::Done(..));
        if is_twice || !is_done && !flight.landed {
            self.place_mut(member)
                .orphans
                .push(flight.orphan(register, config));
        }
        if is_done && !flight.landed {
            let block = block(flight.what, flight.seq, true);
            self.place_mut(member)
                .mailbox
                .put(register, flight.side, block);
        }
        self.budget.faults -= u8::from(is_twice || !is_done);
        self.controller.handle_write(member, register, is_done, NOW);
    }

    /// Takes the actions of the state machine.
    fn drain(&mut self, config: &Config, records: &Records) {
        while self.order.is_none() {
            let Some(action) = self.controller.poll_action() else {
                return;
            };
            let order = match action {
                Action::Gate(GateChange::OpenEpoch { epoch, expiry_ns }) => {
                    Order::Open(Gate { epoch, expiry_ns })
                }
                Action::Gate(GateChange::Extend { from_ns, to_ns }) => {
                    Order::Extend { from_ns, to_ns }
                }
                Action::Gate(GateChange::Latch) => Order::Latch,
                Action::Gate(GateChange::SetLimit(limit)) => {
                    if config.is_limited() {
                        self.limit = limit;
                    }
                    continue;
                }
                Action::Io(io) => {
                    self.issue(io, records);
                    continue;
                }
                Action::Report(Notice::WentBack { .. }) => {
                    self.broken = Some("R58: a member is taken for one that went back");
                    continue;
                }
                Action::Report(
                    Notice::Transition(_)
                    | Notice::Budget(_)
                    | Notice::Unreadable(_)
                    | Notice::Heartbeat(_)
                    | Notice::Outdated { .. },
                )
                | Action::Answer(_) => continue,
            };
            match config.lag {
                true => self.order = Some(order),
                false => self.act(order),
            }
        }
    }

    fn act(&mut self, order: Order) {
        match order {
            Order::Open(gate) => self.gate = gate,
            Order::Extend { from_ns, to_ns } if self.gate.expiry_ns == from_ns => {
                self.gate.expiry_ns = to_ns;
            }
            Order::Extend { .. } => self.controller.handle_lapse(NOW),
            Order::Latch => self.gate.expiry_ns = 0,
        }
    }

    fn issue(&mut self, io: MailboxIo, records: &Records) {
        let (member, side, register, what, seq) = match io {
            MailboxIo::WriteBallot {
                member,
                side,
                record,
            } => (
                member,
                side,
                Register::Ballot,
                records.ballot(&record),
                record.seq,
            ),
            MailboxIo::WriteHeartbeat {
                member,
                side,
                record,
                ..
            } => (
                member,
                side,
                Register::Heartbeat,
                records.beat(&record),
                record.seq,
            ),
            MailboxIo::Read { member } => {
                self.place_mut(member).read = Some([[None; 2]; 3]);
                return;
            }
        };
        self.place_mut(member).flights[register as usize] = Some(Flight {
            side,
            what,
            seq: seq as u16,
            landed: false,
            torn: false,
        });
    }

    fn reach(&mut self, member: u8, register: Register, whole: bool) {
        let place = self.place_mut(member);
        if let Some(flight) = place.flights[register as usize].as_mut() {
            (flight.landed, flight.torn) = (whole, !whole);
            place
                .mailbox
                .put(register, flight.side, block(flight.what, flight.seq, whole));
        }
    }

    fn land_orphan(&mut self, member: u8, index: u8, whole: bool) {
        let place = self.place_mut(member);
        let orphan = place.orphans.remove(usize::from(index));
        let block = block(orphan.what, orphan.seq, whole);
        place.mailbox.put(orphan.register, orphan.side, block);
    }

    fn restart(&mut self, slot: usize, config: &Config) {
        self.budget.restarts -= 1;
        self.budget.ticks += 1;
        self.life += 1;
        let originals = self.controller.setup().originals;
        self.controller = controller(slot, self.life, config);
        for member in (0..config.members).filter(|member| originals & (1 << member) == 0) {
            self.controller
                .handle_member(member, Some(MemberDevice::replacement(2)));
        }
        self.gate.expiry_ns = 0;
        self.order = None;
        self.data = Data::None;
        self.limit = config.first_limit();
        for place in &mut self.places {
            place.read = None;
            for register in REGISTERS {
                let flight = place.flights[register as usize].take();
                if let Some(flight) = flight.filter(|flight| !flight.landed) {
                    place.orphans.push(flight.orphan(register, config));
                }
            }
        }
    }

    fn user(&mut self, event: Event, config: &Config) {
        match (event, self.data) {
            (Event::Write, _) => {
                self.budget.writes -= 1;
                self.data = Data::Issued {
                    epoch: self.gate.epoch,
                };
            }
            (Event::Reach(is_stray), Data::Issued { epoch }) => {
                self.strays += u8::from(is_stray && config.is_limited());
                self.data = Data::Landed { epoch, is_stray };
            }
            (Event::Reply, Data::Landed { epoch, is_stray }) => {
                let is_acknowledged = self.is_valid(config) && self.gate.epoch == epoch;
                if is_acknowledged && is_stray {
                    self.broken =
                        Some("S4: a write that landed under a later owner is acknowledged");
                }
                self.data = Data::None;
            }
            _ => {}
        }
    }

    fn age(&mut self, by_ns: u64, config: &Config) {
        let aged = |at_ns: &mut u64| *at_ns = at_ns.saturating_sub(by_ns);
        self.controller = self.controller.aged(by_ns);
        aged(&mut self.gate.expiry_ns);
        match &mut self.order {
            Some(Order::Open(gate)) => aged(&mut gate.expiry_ns),
            Some(Order::Extend { from_ns, to_ns }) => {
                aged(from_ns);
                aged(to_ns);
            }
            Some(Order::Latch) | None => {}
        }
        for place in &mut self.places {
            place.orphans.retain(|orphan| orphan.ticks_left > 0);
            for orphan in &mut place.orphans {
                orphan.ticks_left -= 1;
            }
        }
        if config.is_timely() {
            self.budget.ticks = 1;
        }
    }

    fn reorder(&mut self, from: &[u8]) {
        let mut all = [0; 16];
        for (member, at) in (0..).zip(&mut all) {
            *at = from.get(usize::from(member)).copied().unwrap_or(member);
        }
        self.controller = self.controller.with_members(&all);
        self.places = from.iter().map(|&from| self.place(from).clone()).collect();
    }

    /// Makes counters small, so that histories that led to the same place are one node.
    fn settle(&mut self, config: &Config) {
        if self.gate.expiry_ns != 0 {
            self.gate.expiry_ns = self.gate.expiry_ns.max(NOW);
        } else {
            self.gate.epoch = 0;
        }
        for place in &mut self.places {
            place
                .orphans
                .sort_by_key(|it| (it.register as u8, it.seq, it.ticks_left));
        }
        if !config.compares {
            self.controller = self.controller.clone().without_acked(NOW);
        }
        if self.controller.listens() {
            self.controller = self.controller.canonical(NOW, |_, _, seq| seq);
            return;
        }
        if config.faults == [0; 3] && !config.compares {
            self.keep_newest();
        }
        let ranks: Vec<[Vec<u16>; 2]> = self
            .places
            .iter()
            .map(|place| REGISTERS.map(|register| place.seqs(register)))
            .collect();
        let rank = |member: u8, register: Register, seq: u16| {
            let known = ranks
                .get(usize::from(member))
                .map(|it| &it[register as usize]);
            let below = known.map_or(0, |it| it.iter().filter(|it| **it < seq).count());
            below as u16 + u16::from(seq > 0)
        };
        self.controller = self.controller.canonical(NOW, |member, register, seq| {
            u64::from(rank(member, register, seq as u16))
        });
        for (member, place) in (0..).zip(&mut self.places) {
            place.renumber(|register, seq| rank(member, register, seq));
        }
        if config.commands == 0 {
            self.controller = self.controller.clone().without_fence();
        }
        if self.budget.ticks == 0 && !config.is_timely() {
            self.controller = self.controller.clone().without_ticks(NOW);
        }
    }

    /// Where no block is ever lost the older one of a register says nothing, and the newer one may
    /// as well be the first.
    fn keep_newest(&mut self) {
        for (member, place) in (0..).zip(&mut self.places) {
            for register in REGISTERS {
                if place.mailbox.keep_newest(register) {
                    self.controller = self.controller.clone().with_sides_swapped(member, register);
                    for flight in place.flights[register as usize].iter_mut() {
                        flight.side = flight.side.other();
                    }
                    for orphan in place
                        .orphans
                        .iter_mut()
                        .filter(|it| it.register == register)
                    {
                        orphan.side = orphan.side.other();
                    }
                }
            }
        }
    }
}

impl Place {
    fn aloft(&self) -> [bool; 2] {
        self.flights
            .map(|flight| flight.is_some_and(|flight| !flight.landed))
    }

    /// The sequence numbers of a register here, each once.
    fn seqs(&self, register: Register) -> Vec<u16> {
        let blocks = self.mailbox.blocks[register as usize];
        let mut seqs: Vec<u16> = blocks
            .iter()
            .filter_map(|block| match block {
                Block::Valid { seq, .. } => Some(*seq),
                Block::Blank | Block::Torn => None,
            })
            .chain(self.flights[register as usize].map(|flight| flight.seq))
            .chain(
                self.orphans
                    .iter()
                    .filter(|it| it.register == register)
                    .map(|it| it.seq),
            )
            .collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    fn renumber(&mut self, rank: impl Fn(Register, u16) -> u16) {
        for register in REGISTERS {
            for block in &mut self.mailbox.blocks[register as usize] {
                if let Block::Valid { seq, .. } = block {
                    *seq = rank(register, *seq);
                }
            }
            if let Some(flight) = &mut self.flights[register as usize] {
                flight.seq = rank(register, flight.seq);
            }
        }
        for orphan in &mut self.orphans {
            orphan.seq = rank(orphan.register, orphan.seq);
        }
    }
}

impl Flight {
    fn orphan(self, register: Register, config: &Config) -> Orphan {
        Orphan {
            register,
            side: self.side,
            what: self.what,
            seq: self.seq,
            ticks_left: config.timing.device_delay_ns,
        }
    }
}

fn block(what: u64, seq: u16, whole: bool) -> Block {
    match whole {
        true => Block::Valid { what, seq },
        false => Block::Torn,
    }
}

fn epoch(node: &Node) -> u64 {
    node.controller.decided().epoch
}

fn controller(slot_index: usize, life: u8, config: &Config) -> Controller {
    let mut controller = Controller::new(Setup {
        slot: slot(slot_index),
        inc: Incarnation((u128::from(life) << 8) | (slot_index as u128 + 1)),
        boot_id: [0; 16],
        members: config.members,
        originals: (1 << config.members) - 1,
        slots: (1 << config.nodes) - 1,
        home: slot(0),
        timing: config.timing,
        period_ns: 1,
        redundancy: config.redundancy,
        batch: Some(BATCH),
        claim_auto: config.returns || slot_index > 0,
    });
    controller.set_guarded(false);
    for member in 0..config.members {
        controller.handle_member(member, Some(MemberDevice::ORIGINAL));
    }
    controller
}

/// Gives the portion away: to the other node, or to any node.
pub fn release(successor: Option<usize>) -> Command {
    Command::Release {
        successor: successor.map(slot),
        deadline_ns: NOW + 1,
    }
}

/// Ends the lease without a word on the disks.
pub fn fence() -> Command {
    Command::Fence(Reason::Fence)
}
