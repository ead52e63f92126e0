// SPDX-License-Identifier: GPL-2.0
//! One simulated machine: the shipped state machine, the shipped gate, a clock, and stalls.

use super::{Clock, Config, Snapshot};
use dm_lease_proto::proto::controller::{Action, Controller, Setup};
use dm_lease_proto::proto::permits::{Charge, Counting, Gate, Lapsed, Word};
use dm_lease_proto::proto::record::{Incarnation, Register, Slot};
use dm_lease_proto::proto::status::{Reason, Role};
use std::cell::Cell;
use std::collections::VecDeque;

/// An atomic word of a world with one thread.
pub struct Plain(Cell<u64>);

impl Word for Plain {
    fn new(value: u64) -> Self {
        Self(Cell::new(value))
    }

    fn load(&self) -> u64 {
        self.0.get()
    }

    fn store(&self, value: u64) {
        self.0.set(value);
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        let found = self.0.get();
        if found == old {
            self.0.set(new);
            return Ok(found);
        }
        Err(found)
    }

    fn fetch_add(&self, value: u64) -> u64 {
        self.0.replace(self.0.get().wrapping_add(value))
    }
}

/// What happens to a machine.
#[derive(Clone, Debug)]
pub enum Call {
    Tick,
    Timeout,
    Lapse,
    Drained,
    /// A client's operation comes to the gate.
    Op,
    /// An operation that has its permit goes out to the members.
    OpGoes(u64),
    /// An operation has completed.
    OpDone(u64),
    Written {
        member: u8,
        register: Register,
        ok: bool,
    },
    Read {
        member: u8,
        boxes: Option<Snapshot>,
    },
}

impl Call {
    pub fn brief(&self) -> String {
        match self {
            Call::Written {
                member,
                register,
                ok,
            } => {
                format!(
                    "wrote {} on member {member}: {ok}",
                    super::register_name(*register)
                )
            }
            Call::Read { member, boxes } => format!("read member {member}: {}", boxes.is_some()),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

/// The highest limit of every gate.
pub const LIMIT: u32 = 4;

pub struct Machine {
    pub slot: Slot,
    pub clock: Clock,
    pub period_ns: u64,
    /// Counts the starts: completions for an earlier life are nobody's.
    pub life: u32,
    pub inc: u128,
    /// `None` while the machine is off.
    pub controller: Option<Controller>,
    pub gate: Gate<Plain, Vec<Plain>>,
    /// Calls that came while the machine stood still.
    pub waiting: VecDeque<Call>,
    /// A call whose clock value was read before the machine stood still.
    pub frozen: Option<(Call, u64)>,
    /// An action that was handed out before the machine stood still.
    pub held: Option<Action>,
    /// Tells the timer that counts from those that were set before; when it fires, local time.
    pub timeout: u64,
    pub armed_ns: Option<u64>,
    /// Commands issued so far, by all lives.
    pub issued: u64,
    pub answers: Vec<Result<(), Reason>>,
    /// Operations that hold a permit: number and epoch.
    pub ops: Vec<(u64, u64)>,
    next_op: u64,
    stalled: bool,
    stall: u64,
}

fn gate(config: &Config) -> Gate<Plain, Vec<Plain>> {
    let lanes = vec![Plain::new(0)];
    let limit = config.redundancy.limit(0, 0, Some(LIMIT)).to_wire();
    Gate::new(config.timing.lease_ns, limit, Counting::Ops, lanes)
}

impl Machine {
    pub fn new(config: &Config, index: usize) -> Self {
        Self {
            slot: Slot::new(config.slot_of[index]).unwrap(),
            clock: config.clocks[index],
            period_ns: config.period_ns[index],
            life: 0,
            inc: 0,
            controller: None,
            gate: gate(config),
            waiting: VecDeque::new(),
            frozen: None,
            held: None,
            timeout: 0,
            armed_ns: None,
            issued: 0,
            answers: Vec::new(),
            ops: Vec::new(),
            next_op: 0,
            stalled: false,
            stall: 0,
        }
    }

    /// Power on: everything in memory is new.
    pub fn boot(&mut self, config: &Config, inc: u128) {
        self.halt();
        self.inc = inc;
        let mut controller = Controller::new(Setup {
            slot: self.slot,
            inc: Incarnation(inc),
            boot_id: [self.life as u8; 16],
            members: config.members,
            originals: config.originals,
            slots: config.slots(),
            home: Slot::new(config.home).unwrap(),
            timing: config.timing,
            period_ns: self.period_ns,
            redundancy: config.redundancy,
            batch: Some(LIMIT),
            claim_auto: config.claim_auto,
        });
        for member in 0..config.members {
            let original = config.originals & (1 << member) != 0;
            controller.handle_member(member, true, original);
        }
        controller.set_guarded(config.guarded);
        self.controller = Some(controller);
        self.gate = gate(config);
    }

    /// Power off.
    pub fn halt(&mut self) {
        self.life += 1;
        self.controller = None;
        self.gate.latch();
        self.waiting.clear();
        self.frozen = None;
        self.held = None;
        self.timeout += 1;
        self.armed_ns = None;
        self.stalled = false;
        self.stall += 1;
        self.ops.clear();
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Stands still until [`Machine::resume`] is called with the token this returns.
    pub fn stall(&mut self) -> u64 {
        self.stalled = true;
        self.stall += 1;
        self.stall
    }

    /// Goes on, if no later stall began meanwhile.
    pub fn resume(&mut self, token: u64) -> bool {
        let this = self.stalled && self.stall == token;
        if this {
            self.stalled = false;
        }
        this
    }

    pub fn has_waiting(&self, which: impl Fn(&Call) -> bool) -> bool {
        let frozen = self.frozen.as_ref().is_some_and(|(call, _)| which(call));
        frozen || self.waiting.iter().any(which)
    }

    /// Tells the state machine how many permits are open: as the driver does, before what it tells
    /// next, and when everything that was wanted so far is done.
    pub fn note_open(&mut self) {
        let open = self.gate.count().open;
        if let Some(controller) = self.controller.as_mut() {
            controller.note_open(open);
        }
    }

    /// Tells the state machine.
    pub fn call(&mut self, call: &Call, now_ns: u64) {
        let Some(controller) = self.controller.as_mut() else {
            return;
        };
        match call {
            Call::Tick => controller.handle_tick(now_ns),
            Call::Timeout => controller.handle_timeout(now_ns),
            Call::Lapse => controller.handle_lapse(now_ns),
            Call::Drained => controller.handle_drained(now_ns),
            Call::Op | Call::OpGoes(_) | Call::OpDone(_) => {}
            Call::Written {
                member,
                register,
                ok,
            } => {
                controller.handle_write(*member, *register, *ok, now_ns);
            }
            Call::Read { member, boxes } => {
                controller.handle_read(*member, boxes.as_ref(), now_ns);
            }
        }
    }

    pub fn role(&self) -> Role {
        self.controller
            .as_ref()
            .map_or(Role::Failed, |controller| controller.role())
    }

    /// Whether the gate lets state-changing operations through at a true time.
    pub fn is_valid(&self, true_ns: u64) -> bool {
        self.controller.is_some() && self.gate.is_valid(self.clock.local_ns(true_ns))
    }

    /// A permit of this epoch was given; returns the number of the operation.
    pub fn begin_op(&mut self, epoch: u64) -> u64 {
        self.next_op += 1;
        self.ops.push((self.next_op, epoch));
        self.next_op
    }

    /// The operation completes and gives its permit back; whether its user may be told of a
    /// success. `None` when its machine died meanwhile.
    pub fn end_op(&mut self, number: u64, local_ns: u64) -> Option<Result<(), Lapsed>> {
        let at = self.ops.iter().position(|(op, _)| *op == number)?;
        let (_, epoch) = self.ops.remove(at);
        let answer = self.gate.acknowledge(epoch, || local_ns);
        self.gate.leave(Charge::ONE);
        Some(answer)
    }
}
