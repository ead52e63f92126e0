// SPDX-License-Identifier: GPL-2.0
//! The (state x input) table of the state machine, from the state machine itself.
//!
//! The test brings a controller into each state, gives a copy of it each input, and notes the state
//! after it. The table in the documentation of `src/proto/controller/mod.rs` must be the same: if
//! it differs, the test prints the table that it found.
//!
//! Two controllers share three members. Transfers take no time, and a step takes 1 ms. Controller 0
//! is the one under test. An input that a read brings is laid over what the members show.

mod world;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::charge_list::Charges;
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::Side;
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use dm_lease_proto::proto::codec::mailbox::Mailboxes;
use dm_lease_proto::proto::controller::{Action, Command, Controller, GateChange, MailboxIo};
use dm_lease_proto::proto::words::status::Reason;
use std::collections::VecDeque;
use std::fmt::Write;
use world::bare::{blank, clocks, controller, transfer, Disks, Ended, PERIOD_NS};
use world::{timing, Payload, Snapshot, MS};

/// The states, in the order of the columns.
const STATES: [char; 11] = ['J', 'A', 'S', '1', 'W', '2', 'N', 'O', 'H', 'D', 'F'];

/// What a read shows besides the content of the members: records of a slot.
#[derive(Clone)]
struct Overlay {
    slot: usize,
    records: Vec<Payload>,
}

/// A controller, and its transfers that have not ended.
#[derive(Clone)]
struct Host {
    controller: Controller,
    transfers: VecDeque<MailboxIo>,
}

impl Host {
    fn join(slot: u8, inc: u128, now_ns: u64) -> Self {
        let mut host = Self {
            controller: controller(slot, inc, 1, true),
            transfers: VecDeque::new(),
        };
        host.read_clocks(now_ns, 0);
        host
    }

    fn read_clocks(&mut self, now_ns: u64, slept_ns: u64) {
        self.controller.handle_clocks(clocks(now_ns, slept_ns));
    }

    /// Takes every action. The gate has no operations.
    fn take_actions(&mut self) {
        while let Some(action) = self.controller.poll_action() {
            match action {
                Action::Io(io) => self.transfers.push_back(io),
                Action::Gate(
                    GateChange::OpenEpoch { .. }
                    | GateChange::Extend { .. }
                    | GateChange::Latch
                    | GateChange::SetLimit(_),
                )
                | Action::Report(_)
                | Action::Answer(_) => {}
            }
        }
        self.controller.note_open(0);
    }
}

#[derive(Clone)]
struct Rig {
    hosts: [Option<Host>; 2],
    disks: Disks,
    now_ns: u64,
    slept_ns: u64,
    overlay: Option<Overlay>,
}

impl Rig {
    fn new() -> Self {
        Self {
            hosts: [None, None],
            disks: blank(),
            now_ns: PERIOD_NS,
            slept_ns: 0,
            overlay: None,
        }
    }

    fn join(&mut self, slot: u8, inc: u128) {
        self.hosts[usize::from(slot)] = Some(Host::join(slot, inc, self.now_ns));
    }

    fn tested(&self) -> &Controller {
        &self.hosts[0].as_ref().unwrap().controller
    }

    fn state(&self) -> char {
        self.tested().state()
    }

    /// Gives an input to a controller, and takes the actions.
    fn input<T>(&mut self, slot: usize, input: impl FnOnce(&mut Controller, u64) -> T) -> T {
        let host = self.hosts[slot].as_mut().unwrap();
        host.read_clocks(self.now_ns, self.slept_ns);
        let output = input(&mut host.controller, self.now_ns);
        host.take_actions();
        output
    }

    /// Ends the next transfer of a controller; `false` if there is none.
    fn end_transfer(&mut self, slot: usize, ok: bool) -> bool {
        let host = self.hosts[slot].as_mut();
        let Some(io) = host.and_then(|host| host.transfers.pop_front()) else {
            return false;
        };
        let failing = if ok { 0 } else { u16::MAX };
        let mut ended = transfer(&mut self.disks, slot, io, failing);
        if let (Ended::Read(_, Some(shown)), Some(overlay), 0) = (&mut ended, &self.overlay, slot) {
            for record in &overlay.records {
                shown.0[overlay.slot].put(Side::A, record);
                shown.0[overlay.slot].put(Side::B, record);
            }
        }
        self.input(slot, |c, now| ended.tell(c, now));
        true
    }

    /// Lets 1 ms pass, and stops as soon as the tested controller is where `done` says.
    fn step(&mut self, done: &impl Fn(&Self) -> bool) -> bool {
        self.now_ns += MS;
        for slot in 0..self.hosts.len() {
            if self.hosts[slot].is_none() {
                continue;
            }
            if self.now_ns % PERIOD_NS == 0 {
                self.input(slot, |c, now| c.handle_tick(now));
            }
            let due = |c: &mut Controller, now| {
                if c.poll_timeout_ns().is_some_and(|at| at <= now) {
                    c.handle_timeout(now);
                }
            };
            self.input(slot, due);
            if done(self) {
                return true;
            }
            while self.end_transfer(slot, true) {
                if done(self) {
                    return true;
                }
            }
        }
        false
    }

    #[track_caller]
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end_ns = self.now_ns + 20_000 * MS;
        while !self.step(&done) {
            assert!(self.now_ns < end_ns, "it is in {} for ever", self.state());
        }
    }

    fn run(&mut self, for_ns: u64) {
        let end_ns = self.now_ns + for_ns;
        self.until(|rig| rig.now_ns >= end_ns);
    }

    /// Begins a round if none is under way, and ends transfers until the state changes or no
    /// transfer is left.
    fn complete_round(&mut self, ok: bool) {
        let before = self.state();
        if self.hosts[0].as_ref().unwrap().transfers.is_empty() {
            self.input(0, |c, now| c.handle_tick(now));
        }
        while self.state() == before && self.end_transfer(0, ok) {}
    }

    /// The same, when every read shows these records of a slot.
    fn read(&mut self, slot: usize, records: Vec<Payload>) {
        self.overlay = Some(Overlay { slot, records });
        let before = self.state();
        self.complete_round(true);
        if self.state() == before {
            // The reads of the present round may have been issued before this input.
            self.complete_round(true);
        }
        self.overlay = None;
    }

    /// Lets time pass until the state changes, but not longer than for two windows.
    fn wait(&mut self) {
        let before = self.state();
        let end_ns = self.now_ns + 2 * timing().window_ns;
        self.until(|rig| rig.state() != before || rig.now_ns >= end_ns);
    }

    /// What member 0 shows of the other controller.
    fn other_heartbeat(&self) -> Option<HeartbeatRecord> {
        let shown = Snapshot(self.disks[0].clone());
        let found = shown.heartbeat(Slot::new(1).unwrap());
        found.reading.valid()
    }

    /// The highest epoch that is decided.
    fn decided(&self) -> Decided {
        let shown = Snapshot(self.disks[0].clone());
        let records = [0, 1].map(|slot| shown.ballot(Slot::new(slot).unwrap()).reading.valid());
        let decided = records.iter().flatten().map(|record| record.dec);
        let known = decided.chain([self.tested().decided()]);
        known.max_by_key(|decided| decided.epoch).unwrap()
    }
}

const OTHER: Value = Value {
    slot: Slot::new(1).unwrap(),
    inc: Incarnation(77),
};

fn ballot(inc: u128, dec: Decided, round: u64) -> Payload {
    Payload::Ballot(BallotRecord {
        seq: 100_000,
        inc: Incarnation(inc),
        boot_id: [9; 16],
        dec,
        mbal: match round {
            0 => Ballot::NONE,
            _ => Ballot {
                round,
                slot: Slot::new(1).unwrap(),
                inc: Incarnation(inc),
            },
        },
        offer: 0,
        bal: Ballot::NONE,
        val: None,
        limit: 1,
        charges: Charges::NONE,
        failed: 0,
        mark: 1,
        generations: Generations::NONE,
    })
}

fn heartbeat(inc: u128, dec: Decided) -> HeartbeatRecord {
    HeartbeatRecord {
        seq: 100_000,
        inc: Incarnation(inc),
        dec,
        role: RecordRole::Secondary,
        hb: 0,
        open: 0,
        period_ns: PERIOD_NS,
        reason: 0,
        may_claim: true,
        mark: 1,
        generations: Generations::NONE,
    }
}

/// A rig for each state, in the order of [`STATES`].
fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    let mut rig = Rig::new();
    rig.join(1, 22);
    let owns = |rig: &Rig| rig.hosts[1].as_ref().unwrap().controller.state() == 'O';
    rig.until(owns);
    rig.join(0, 11);
    rig.run(2 * PERIOD_NS);
    rigs.push(rig.clone());
    let entered = |state: char| move |rig: &Rig| rig.state() == state;
    rig.until(entered('A'));
    rigs.push(rig.clone());
    rig.until(entered('S'));
    // Long enough for its first ballot.
    rig.run(20 * PERIOD_NS);
    rigs.push(rig.clone());
    let mut offered = rig.clone();
    rig.hosts[1] = None;
    rig.until(entered('1'));
    rigs.push(rig.clone());
    let hand_over = |to: u8, rig: &Rig| Command::Release {
        successor: Some(Slot::new(to).unwrap()),
        deadline_ns: rig.now_ns + 2 * PERIOD_NS,
    };
    let command = hand_over(0, &offered);
    let _ = offered.input(1, |c, now| c.handle_command(command, now));
    offered.until(entered('W'));
    rigs.push(offered);
    for state in ['2', 'N', 'O'] {
        rig.until(entered(state));
        rigs.push(rig.clone());
    }
    rig.join(1, 33);
    rig.run(40 * PERIOD_NS);
    let owner = rig.clone();
    let command = hand_over(1, &rig);
    let _ = rig.input(0, |c, now| c.handle_command(command, now));
    rigs.push(rig);
    let mut rig = owner.clone();
    let release = Command::Release {
        successor: None,
        deadline_ns: rig.now_ns + 2 * PERIOD_NS,
    };
    let _ = rig.input(0, |c, now| c.handle_command(release, now));
    rigs.push(rig);
    let mut rig = owner;
    let dec = rig.decided();
    rig.read(0, vec![Payload::Heartbeat(heartbeat(99, dec))]);
    rigs.push(rig);
    rigs
}

/// An input, and what it gives: whether it was refused. `None`: it cannot happen in this state.
type Input = (&'static str, fn(&mut Rig) -> Option<bool>);

fn command(rig: &mut Rig, command: Command) -> Option<bool> {
    Some(
        rig.input(0, |c, now| c.handle_command(command, now))
            .is_err(),
    )
}

const INPUTS: [Input; 26] = [
    ("time passes, the other controller is dead", |rig| {
        rig.hosts[1] = None;
        rig.wait();
        Some(false)
    }),
    ("heartbeat timer", |rig| {
        rig.input(0, |c, now| c.handle_tick(now));
        Some(false)
    }),
    ("timeout", |rig| {
        let at_ns = rig.tested().poll_timeout_ns()?;
        rig.now_ns = rig.now_ns.max(at_ns);
        rig.input(0, |c, now| c.handle_timeout(now));
        Some(false)
    }),
    ("lapse seen by the gate", |rig| {
        rig.input(0, |c, now| c.handle_lapse(now));
        Some(false)
    }),
    ("gate drained", |rig| {
        rig.input(0, |c, now| c.handle_drained(now));
        Some(false)
    }),
    ("clock break", |rig| {
        rig.slept_ns += 1_000 * MS;
        rig.input(0, |_, _| ());
        Some(false)
    }),
    ("two of three devices gone", |rig| {
        rig.input(0, |c, _| {
            c.handle_member(1, None);
            c.handle_member(2, None);
        });
        rig.complete_round(true);
        Some(false)
    }),
    ("round fails", |rig| {
        rig.complete_round(false);
        Some(false)
    }),
    ("round complete, nothing new", |rig| {
        rig.complete_round(true);
        Some(false)
    }),
    ("read: a later epoch", |rig| {
        let epoch = rig.decided().epoch + 1;
        let dec = Decided {
            epoch,
            value: Some(OTHER),
        };
        rig.read(1, vec![ballot(77, dec, 0)]);
        Some(false)
    }),
    ("read: a higher ballot", |rig| {
        let dec = rig.decided();
        rig.read(1, vec![ballot(77, dec, 1_000)]);
        Some(false)
    }),
    ("read: the owner's next heartbeat", |rig| {
        let owner = rig.decided().value?;
        let mut record = rig.other_heartbeat().filter(|r| r.inc == owner.inc)?;
        record.seq += 100;
        record.hb += 1;
        rig.read(1, vec![Payload::Heartbeat(record)]);
        Some(false)
    }),
    ("read: the owner released", |rig| {
        let owner = rig.decided().value?;
        let mut record = rig.other_heartbeat().filter(|r| r.inc == owner.inc)?;
        record.seq += 100;
        record.role = RecordRole::Released { successor: None };
        rig.read(1, vec![Payload::Heartbeat(record)]);
        Some(false)
    }),
    ("read: an offer to this controller", |rig| {
        let owner = rig.decided().value?;
        let mut record = rig.other_heartbeat().filter(|r| r.inc == owner.inc)?;
        record.seq += 100;
        record.hb += 1;
        record.role = RecordRole::HandingOver {
            successor: Slot::new(0).unwrap(),
        };
        rig.read(1, vec![Payload::Heartbeat(record)]);
        Some(false)
    }),
    ("read: another incarnation in the own slot", |rig| {
        let dec = rig.decided();
        rig.read(0, vec![Payload::Heartbeat(heartbeat(99, dec))]);
        Some(false)
    }),
    ("read: an own record that was never written", |rig| {
        let dec = rig.decided();
        rig.read(0, vec![Payload::Heartbeat(heartbeat(11, dec))]);
        Some(false)
    }),
    ("read: another owner of the same epoch", |rig| {
        let epoch = rig.decided().epoch;
        let dec = Decided {
            epoch,
            value: Some(OTHER),
        };
        rig.read(1, vec![ballot(77, dec, 0)]);
        Some(false)
    }),
    ("the hypervisor announces a copy", |rig| {
        rig.input(0, |c, now| c.handle_fork(Incarnation(44), now));
        Some(false)
    }),
    ("command: claim", |rig| command(rig, Command::Claim)),
    ("command: release", |rig| {
        let deadline_ns = rig.now_ns + 2 * PERIOD_NS;
        let successor = None;
        command(
            rig,
            Command::Release {
                successor,
                deadline_ns,
            },
        )
    }),
    ("command: release, to the other one", |rig| {
        let deadline_ns = rig.now_ns + 2 * PERIOD_NS;
        let successor = Slot::new(1);
        command(
            rig,
            Command::Release {
                successor,
                deadline_ns,
            },
        )
    }),
    ("command: call off", |rig| command(rig, Command::CallOff)),
    ("command: fence", |rig| {
        command(rig, Command::Fence(Reason::Fence))
    }),
    ("command: confirm dead, with force", |rig| {
        let decided = rig.decided();
        let owner = decided.value?.slot;
        let (epoch, force) = (decided.epoch, true);
        command(
            rig,
            Command::ConfirmDead {
                owner,
                epoch,
                force,
            },
        )
    }),
    ("command: leave", |rig| {
        let deadline_ns = rig.now_ns + 2 * PERIOD_NS;
        let reason = Reason::Suspend;
        command(
            rig,
            Command::Leave {
                reason,
                deadline_ns,
            },
        )
    }),
    ("command: stay", |rig| {
        command(rig, Command::Stay(Reason::Suspend))
    }),
];

fn table() -> String {
    let rigs = rigs();
    let states: Vec<char> = rigs.iter().map(Rig::state).collect();
    assert_eq!(states, STATES, "each rig is in its state");
    let mut table = String::new();
    let heads: Vec<String> = STATES.map(String::from).into();
    writeln!(table, "//! {:42} {}", "", heads.join("  ")).unwrap();
    for (name, input) in INPUTS {
        let cells = rigs.iter().map(|before| {
            let mut rig = before.clone();
            match input(&mut rig) {
                None => " ".to_owned(),
                Some(true) => "!".to_owned(),
                Some(false) if rig.state() == before.state() => ".".to_owned(),
                Some(false) => rig.state().to_string(),
            }
        });
        let cells: Vec<String> = cells.collect();
        let line = format!("//! {name:42} {}", cells.join("  "));
        writeln!(table, "{}", line.trim_end()).unwrap();
    }
    table
}

#[test]
fn r47_the_table_in_the_documentation_is_that_of_the_state_machine() {
    let source = include_str!("../../../src/proto/controller/mod.rs");
    let table = table();
    assert!(
        source.contains(&table),
        "src/proto/controller/mod.rs has another table than this one:\n{table}"
    );
}
