// SPDX-License-Identifier: GPL-2.0
//! A simulated portion: machines with clocks of their own, members that fail, one seed.
//!
//! The machines run the shipped [`Controller`] and the shipped [`Gate`]; everything else is made
//! up here, deterministically. True time is nanoseconds since the run began; nobody but the
//! [`judge`](monitor) knows it.
//!
//! ```text
//!   Event (true time) --> machine: stalled? keep for later
//!                            |  clock read, handle_*, then poll_action one by one
//!                            |  (each step may stall)
//!                            +--> gate, or an I/O: lands, is sampled, completes, all as events
//!   after every event: the monitor checks every invariant
//! ```
//!
//! What may go wrong is in [`Faults`]; a test may also break a path or stall a machine by hand.

#![allow(unused, reason = "each test uses a part of it")]

mod clock;
mod disk;
mod machine;
mod monitor;

pub use clock::{Clock, Rng};
pub use disk::{Mailbox, Payload, Snapshot};
pub use machine::{Call, Machine, LIMIT};
pub use monitor::{Monitor, Stats, Violation};

use dm_lease_proto::proto::controller::{Action, Command, Outcome};
use dm_lease_proto::proto::layout::Side;
use dm_lease_proto::proto::limit::Redundancy;
use dm_lease_proto::proto::permits::{Admission, Charge};
use dm_lease_proto::proto::record::{Register, Slot};
use dm_lease_proto::proto::status::{Reason, Role};
use dm_lease_proto::proto::time::Timing;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub const MS: u64 = 1_000_000;

/// Heartbeat 100 ms, lease 500 ms, an I/O 2 ms: x = 2 heartbeats may be lost.
pub fn timing() -> Timing {
    let mut timing = Timing {
        lease_ns: 500 * MS,
        window_ns: 0,
        device_delay_ns: 200 * MS,
        drift_ppm: 1_000,
        lost_heartbeats: 2,
        period_max_ns: 100 * MS,
        error_report_ns: 50 * MS,
        write_ns: 20 * MS,
        read_ns: 20 * MS,
        jitter_ns: 10 * MS,
    };
    timing.window_ns = timing.needed_window_ns();
    timing
        .validate()
        .expect("the timings of the tests are safe");
    timing
}

/// What may go wrong by itself. Chances are per mille of each occasion.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A machine stalls between two steps, for up to this long.
    pub stall: u64,
    pub stall_ns: u64,
    /// A write or read fails and never reaches the medium.
    pub error: u64,
    /// A write reaches the medium, but is reported as failed.
    pub error_landed: u64,
    /// A failed write leaves a torn block.
    pub torn: u64,
    /// A write that was reported as failed lands within D of its issue.
    pub late: u64,
    /// An I/O takes up to D.
    pub slow: u64,
    /// A write is seen half done by a read that comes in between.
    pub half: u64,
    /// Per second and machine: it crashes, and comes back after up to `down_ns`.
    pub crash: u64,
    pub down_ns: u64,
    /// Per second and path: it fails, or hangs (never longer than D), for up to `broken_ns`.
    pub broken: u64,
    pub broken_ns: u64,
    /// Per second and machine: the operator does something.
    pub command: u64,
    /// Per second and owner: somebody repairs what earlier owners left behind.
    pub repair: u64,
    /// Per second and machine: another number of members is failed or rebuilding.
    pub degrade: u64,
    /// Another processor's operation comes to the gate between two steps of the machine.
    pub between: u64,
    /// An operation of a user hangs below the gate, for up to three windows: longer than D.
    pub stuck: u64,
}

/// What a run starts with.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    pub controllers: u8,
    pub members: u8,
    pub originals: u16,
    pub home: u8,
    pub timing: Timing,
    /// What the batch limit is derived from.
    pub redundancy: Redundancy,
    /// Each controller's own heartbeat period.
    pub period_ns: Vec<u64>,
    pub clocks: Vec<Clock>,
    /// How long an ordinary I/O takes.
    pub io_ns: (u64, u64),
    pub claim_auto: bool,
    /// Whether openers of the mapped devices cache what they read [R31].
    pub guarded: bool,
    /// The slot of each machine: by index, unless two machines were given one number.
    pub slot_of: Vec<u8>,
    pub faults: Faults,
}

impl Config {
    /// Healthy machines with different clocks; controller 1 is the home.
    pub fn healthy(controllers: u8, members: u8) -> Self {
        let clocks = (0..u64::from(controllers)).map(|i| Clock {
            offset_ns: 7_000_000_000 + 1_000_000_007 * i,
            rate_ppm: 0,
        });
        Self {
            seed: 1,
            controllers,
            members,
            originals: (1 << members) - 1,
            home: 0,
            timing: timing(),
            redundancy: Redundancy::EXTERNAL,
            period_ns: vec![100 * MS; usize::from(controllers)],
            clocks: clocks.collect(),
            io_ns: (2 * MS, 2 * MS),
            claim_auto: true,
            guarded: false,
            slot_of: (0..controllers).collect(),
            faults: Faults::default(),
        }
    }

    /// The same with one more machine, which has the number of another one by mistake.
    pub fn with_duplicate_of(mut self, slot: u8) -> Self {
        self.slot_of.push(slot);
        self.period_ns.push(self.period_ns[0]);
        self.clocks.push(Clock {
            offset_ns: 5_000_000_000,
            rate_ppm: 0,
        });
        self
    }

    pub fn slots(&self) -> u64 {
        (1 << self.controllers) - 1
    }
}

/// How a machine's commands to a member fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Up,
    /// Every command fails after the error report time and never reaches the medium.
    Failing,
    /// Commands are kept until the path is something else again.
    Hung,
    /// Commands are carried out, but their completions are kept until [`World::hear`].
    Deaf,
}

/// A command on its way.
#[derive(Clone, Debug)]
pub struct Io {
    pub machine: usize,
    /// Which life of the machine issued it.
    pub life: u32,
    pub member: u8,
    pub issued_ns: u64,
    pub what: What,
    ok: bool,
    /// Kept until the path is something else again.
    parked: bool,
    /// Its machine died, and it never arrives.
    lost: bool,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few of them, for microseconds")]
pub enum What {
    Write { side: Side, payload: Payload },
    Read { samples: Vec<Mailbox> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The heartbeat timer, the timer for `poll_timeout_ns`, the end of a stall.
    Tick(usize, u32),
    Timeout(usize, u64),
    Resume(usize, u64),
    /// A client tries a state-changing operation, or one completes.
    Drained(usize, u32),
    Op(usize, u32),
    OpGoes(usize, u64, u32),
    OpLands(usize, u64, u32),
    /// A write is half on the medium, or all of it.
    Half(usize),
    Land(usize),
    /// A read looks at a slot.
    Sample(usize, u8),
    Complete(usize),
    /// Once a second: things break.
    Chaos,
    Repair(usize, u8),
    Restart(usize, u32),
}

/// The world of one run.
pub struct World {
    pub config: Config,
    pub rng: Rng,
    pub now_ns: u64,
    pub machines: Vec<Machine>,
    pub paths: Vec<Vec<Path>>,
    pub disks: Vec<Vec<Mailbox>>,
    pub monitor: Monitor,
    pub ios: Vec<Io>,
    unheard: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    pub trace: Option<Vec<String>>,
    /// Commands that never come to their end.
    pub swallow: Option<fn(&Io) -> bool>,
    /// A machine that is going to stall: when it has come to this many more steps, for so long.
    pub stall_at: Option<(usize, u64, u64)>,
    /// Events since time went on: a machine that keeps asking for the present moment is stuck.
    same_instant: u32,
    /// For each machine when its last write succeeded, and how many commands did so far.
    pub last_write_ns: Vec<u64>,
    pub completions: Vec<u64>,
}

macro_rules! note {
    ($world:expr, $($text:tt)+) => {
        if let Some(trace) = $world.trace.as_mut() {
            let now = $world.now_ns;
            trace.push(format!("{:>12.3} ms  {}", now as f64 / 1e6, format_args!($($text)+)));
        }
    };
}

impl World {
    /// A world in which all machines start at once.
    pub fn new(config: Config) -> Self {
        let mut world = Self::asleep(config);
        for machine in 0..world.machines.len() {
            world.start(machine);
        }
        world
    }

    /// A world in which no machine runs yet.
    pub fn asleep(config: Config) -> Self {
        let count = config.slot_of.len();
        let machines = (0..count).map(|i| Machine::new(&config, i));
        let mut world = Self {
            rng: Rng(config.seed),
            now_ns: 0,
            machines: machines.collect(),
            paths: vec![vec![Path::Up; usize::from(config.members)]; count],
            disks: vec![
                vec![Mailbox::BLANK; usize::from(config.controllers)];
                usize::from(config.members)
            ],
            monitor: Monitor::new(&config),
            ios: Vec::new(),
            unheard: Vec::new(),
            events: BinaryHeap::new(),
            serial: 0,
            trace: std::env::var_os("TRACE").map(|_| Vec::new()),
            swallow: None,
            stall_at: None,
            same_instant: 0,
            last_write_ns: vec![0; count],
            completions: vec![0; count],
            config,
        };
        if world.config.faults.crash + world.config.faults.broken + world.config.faults.command > 0
        {
            world.after(1000 * MS, Event::Chaos);
        }
        world
    }

    fn after(&mut self, delay_ns: u64, event: Event) {
        self.at(self.now_ns.saturating_add(delay_ns), event);
    }

    fn at(&mut self, true_ns: u64, event: Event) {
        self.serial += 1;
        self.events
            .push(Reverse((true_ns.max(self.now_ns), self.serial, event)));
    }

    /// Starts a machine, or starts it again with a new incarnation.
    pub fn start(&mut self, machine: usize) {
        let inc = (u128::from(self.rng.next()) << 64) | u128::from(self.rng.next());
        let config = self.config.clone();
        self.machines[machine].boot(&config, inc);
        let life = self.machines[machine].life;
        note!(self, "C{} starts, life {life}", machine + 1);
        let phase = self.rng.below(config.period_ns[machine].max(1));
        self.after(phase, Event::Tick(machine, life));
        self.after(phase, Event::Op(machine, life));
    }

    /// Power off: what it has issued may still land.
    pub fn crash(&mut self, machine: usize) {
        note!(self, "C{} crashes", machine + 1);
        // What had left the machine lands within D, or never; the rest is gone with it.
        for op in self.machines[machine].ops.clone() {
            match self.rng.chance(500) {
                true => {
                    let life = self.machines[machine].life;
                    let within_ns = self.rng.below(self.config.timing.device_delay_ns);
                    self.after(within_ns, Event::OpLands(machine, op, life));
                }
                false => self.monitor.forgotten(machine, op),
            }
        }
        self.machines[machine].halt();
        for io in 0..self.ios.len() {
            if self.ios[io].machine == machine && self.config.faults.error > 0 {
                self.ios[io].lost |= self.rng.chance(500);
            }
        }
    }

    /// Nothing happens on the machine for so long; its commands go on.
    pub fn stall(&mut self, machine: usize, for_ns: u64) {
        let token = self.machines[machine].stall();
        note!(self, "C{} stalls for {} ms", machine + 1, for_ns / MS);
        self.after(for_ns, Event::Resume(machine, token));
    }

    /// Changes how a machine's commands to a member fare.
    pub fn set_path(&mut self, machine: usize, member: u8, path: Path) {
        note!(self, "C{} to member {member}: {path:?}", machine + 1);
        self.paths[machine][usize::from(member)] = path;
        if path == Path::Hung {
            return;
        }
        let parked: Vec<usize> = (0..self.ios.len())
            .filter(|&io| {
                let io = &self.ios[io];
                io.parked && io.machine == machine && io.member == member
            })
            .collect();
        for io in parked {
            self.ios[io].parked = false;
            self.launch(io);
        }
    }

    /// Breaks or repairs a member for every machine.
    pub fn set_member(&mut self, member: u8, path: Path) {
        for machine in 0..self.machines.len() {
            self.set_path(machine, member, path);
        }
    }

    /// An operator's command.
    pub fn command(&mut self, machine: usize, command: Command) -> Result<Outcome, Reason> {
        let now = self.local_ns(machine);
        note!(self, "C{} is told {command:?}", machine + 1);
        let Some(controller) = self.machines[machine].controller.as_mut() else {
            return Err(Reason::Joining);
        };
        let had = controller.charges().len();
        let result = controller.handle_command(command, now);
        note!(self, "C{} answers {result:?}", machine + 1);
        self.monitor.commanded(machine, &command, result, had);
        self.drain(machine);
        result
    }

    /// The machine's clock.
    pub fn local_ns(&self, machine: usize) -> u64 {
        self.machines[machine].clock.local_ns(self.now_ns)
    }

    /// Processes one event; `false` when there is none before `until_ns`.
    fn step(&mut self, until_ns: u64) -> Result<bool, Violation> {
        match self.events.peek() {
            Some(Reverse((at, ..))) if *at <= until_ns => {}
            _ => {
                self.now_ns = until_ns;
                self.check()?;
                return Ok(false);
            }
        }
        let Some(Reverse((at, _, event))) = self.events.pop() else {
            return Ok(false);
        };
        self.same_instant = if at == self.now_ns {
            self.same_instant + 1
        } else {
            0
        };
        self.now_ns = at;
        self.process(event);
        self.check()?;
        Ok(true)
    }

    fn check(&mut self) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        if self.same_instant > 20_000 {
            let text = format!("nothing but events at {now_ns}");
            return Err(Violation {
                rule: "time goes on",
                text,
            });
        }
        self.monitor.check(now_ns, &self.machines)
    }

    /// Runs for so long.
    pub fn run(&mut self, for_ns: u64) -> Result<(), Violation> {
        let until_ns = self.now_ns + for_ns;
        while self.step(until_ns)? {}
        Ok(())
    }

    /// Runs until `done`, but no longer than `at_most_ns`; whether it was done.
    pub fn run_until(
        &mut self,
        at_most_ns: u64,
        done: impl Fn(&World) -> bool,
    ) -> Result<bool, Violation> {
        let until_ns = self.now_ns + at_most_ns;
        while !done(self) {
            if !self.step(until_ns)? {
                return Ok(done(self));
            }
        }
        Ok(true)
    }

    /// The machine that may write now.
    pub fn owner(&self) -> Option<usize> {
        (0..self.machines.len()).find(|&machine| self.is_valid(machine))
    }

    /// Whether the machine's gate lets state-changing operations through now.
    pub fn is_valid(&self, machine: usize) -> bool {
        self.machines[machine].is_valid(self.now_ns)
    }

    /// The role of a machine; `Failed` when it is off.
    pub fn role(&self, machine: usize) -> Role {
        self.machines[machine]
            .controller
            .as_ref()
            .map_or(Role::Failed, |c| c.role())
    }

    /// The epoch a machine knows.
    pub fn epoch(&self, machine: usize) -> u64 {
        self.machines[machine]
            .controller
            .as_ref()
            .map_or(0, |c| c.decided().epoch)
    }

    fn process(&mut self, event: Event) {
        match event {
            Event::Tick(machine, life) => self.tick(machine, life),
            Event::Timeout(machine, token) => {
                if self.machines[machine].timeout == token {
                    self.deliver(machine, Call::Timeout);
                }
            }
            Event::Resume(machine, token) => self.resume(machine, token),
            Event::Drained(machine, life) => {
                if self.machines[machine].life == life {
                    self.deliver(machine, Call::Drained);
                }
            }
            Event::Op(machine, life) => self.op(machine, life),
            Event::OpGoes(machine, op, life) => {
                if self.machines[machine].life == life {
                    self.deliver(machine, Call::OpGoes(op));
                }
            }
            Event::OpLands(machine, op, life) => self.op_lands(machine, op, life),
            Event::Half(io) => self.land(io, true),
            Event::Land(io) => self.land(io, false),
            Event::Sample(io, slot) => self.sample(io, slot),
            Event::Complete(io) => self.complete(io),
            Event::Chaos => self.chaos(),
            Event::Repair(machine, member) => self.set_path(machine, member, Path::Up),
            Event::Restart(machine, life) => {
                if self.machines[machine].life == life {
                    self.start(machine);
                }
            }
        }
    }

    fn tick(&mut self, machine: usize, life: u32) {
        let it = &self.machines[machine];
        if it.life != life || it.controller.is_none() {
            return;
        }
        // A stalled machine's timer fires once when it goes on, and then in its period again.
        if !it.is_stalled() || !it.has_waiting(|call| matches!(call, Call::Tick)) {
            self.deliver(machine, Call::Tick);
        }
        let it = &self.machines[machine];
        if it.life == life && it.controller.is_some() {
            let next = it.clock.true_ns(self.local_ns(machine) + it.period_ns);
            self.at(next, Event::Tick(machine, life));
        }
    }

    /// Something happened on a machine that runs, or will when its stall is over.
    fn deliver(&mut self, machine: usize, call: Call) {
        if self.machines[machine].controller.is_none() {
            return;
        }
        if self.machines[machine].is_stalled() {
            self.machines[machine].waiting.push_back(call);
            return;
        }
        let now = self.local_ns(machine);
        if self.maybe_stall(machine) {
            // The clock was read, and then the machine stood still.
            self.machines[machine].frozen = Some((call, now));
            return;
        }
        self.perform_call(machine, call, now);
        self.drain(machine);
    }

    fn maybe_stall(&mut self, machine: usize) -> bool {
        let faults = self.config.faults;
        if let Some((who, steps, for_ns)) = self.stall_at.filter(|(who, ..)| *who == machine) {
            self.stall_at = (steps > 0).then(|| (who, steps - 1, for_ns));
            if steps == 0 {
                self.stall(machine, for_ns);
                return true;
            }
        }
        let stalls = self.rng.chance(faults.stall);
        if stalls {
            let for_ns = match self.rng.below(3) {
                0 => self.rng.below(self.config.timing.lease_ns / 4),
                1 => self.rng.below(self.config.timing.lease_ns * 2),
                _ => self.rng.below(faults.stall_ns),
            };
            self.monitor.stats.stalls += 1;
            self.stall(machine, for_ns);
        }
        stalls
    }

    fn resume(&mut self, machine: usize, token: u64) {
        if !self.machines[machine].resume(token) {
            return;
        }
        note!(self, "C{} goes on", machine + 1);
        if let Some((call, stale_ns)) = self.machines[machine].frozen.take() {
            self.perform_call(machine, call, stale_ns);
        }
        self.drain(machine);
        while !self.machines[machine].is_stalled() {
            let Some(call) = self.machines[machine].waiting.pop_front() else {
                break;
            };
            self.deliver(machine, call);
        }
    }

    fn perform_call(&mut self, machine: usize, call: Call, now_ns: u64) {
        match call {
            Call::Op => return self.try_op(machine),
            Call::OpGoes(op) => return self.op_goes(machine, op),
            Call::OpDone(op) => return self.op_done(machine, op),
            _ => {}
        }
        note!(self, "C{} {}", machine + 1, call.brief());
        self.machines[machine].note_open();
        self.machines[machine].call(&call, now_ns);
    }

    /// Performs what the machine wants done, until it stalls or wants nothing.
    fn drain(&mut self, machine: usize) {
        while !self.machines[machine].is_stalled() {
            let it = &mut self.machines[machine];
            let Some(controller) = it.controller.as_mut() else {
                return;
            };
            let (action, fresh) = match it.held.take() {
                Some(held) => (Some(held), false),
                None => (controller.poll_action(), true),
            };
            let Some(action) = action else { break };
            if self.rng.chance(self.config.faults.between) {
                self.enter(machine);
            }
            if fresh && self.maybe_stall(machine) {
                self.machines[machine].held = Some(action);
                return;
            }
            self.perform(machine, action);
        }
        self.arm(machine);
    }

    fn arm(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        it.timeout += 1;
        let token = it.timeout;
        let at = it.controller.as_ref().and_then(|c| c.poll_timeout_ns());
        if let Some(local_ns) = at {
            let at = it.clock.true_ns(local_ns);
            self.at(at, Event::Timeout(machine, token));
        }
    }

    fn perform(&mut self, machine: usize, action: Action) {
        let local_ns = self.local_ns(machine);
        self.monitor
            .performed(machine, &action, self.now_ns, &self.machines[machine]);
        match action {
            Action::OpenEpoch { epoch, expiry_ns } => {
                note!(self, "C{} LEASE of epoch {epoch}", machine + 1);
                if !self.machines[machine].gate.open_epoch(epoch, expiry_ns) {
                    self.machines[machine].call(&Call::Lapse, local_ns);
                }
            }
            Action::Extend { from_ns, to_ns } => {
                if !self.machines[machine].gate.extend(from_ns, to_ns) {
                    self.machines[machine].call(&Call::Lapse, local_ns);
                }
            }
            Action::Latch => self.machines[machine].gate.latch(),
            Action::SetLimit(limit) => {
                self.machines[machine].gate.set_limit(limit);
                self.tell_drained(machine);
            }
            Action::Transition(change) => {
                note!(
                    self,
                    "C{} {} -> {}, epoch {}, owner {:?}, {}",
                    machine + 1,
                    change.from,
                    change.to,
                    change.epoch,
                    change.owner.map(Slot::controller),
                    change.reason.token()
                );
            }
            Action::Budget(budget) => note!(self, "C{} {budget:?}", machine + 1),
            Action::Heartbeat(beat) => note!(self, "C{} heartbeat {} ok", machine + 1, beat.hb),
            Action::Answer(answer) => {
                note!(self, "C{} answers {answer:?}", machine + 1);
                self.machines[machine].answers.push(answer);
            }
            Action::WriteBallot { .. } | Action::WriteHeartbeat { .. } | Action::Read { .. } => {
                self.begin_io(machine, action);
            }
        }
    }

    fn begin_io(&mut self, machine: usize, action: Action) {
        let (member, what) = match action {
            Action::WriteBallot {
                member,
                side,
                record,
            } => {
                let payload = Payload::Ballot(record);
                (member, What::Write { side, payload })
            }
            Action::WriteHeartbeat {
                member,
                side,
                record,
                ..
            } => {
                let payload = Payload::Heartbeat(record);
                (member, What::Write { side, payload })
            }
            Action::Read { member } => (
                member,
                What::Read {
                    samples: Vec::new(),
                },
            ),
            _ => return,
        };
        self.issue(machine, member, what);
    }

    fn tell_drained(&mut self, machine: usize) {
        let it = &self.machines[machine];
        if it.gate.is_drained() && it.role() == Role::Releasing {
            let life = it.life;
            self.after(0, Event::Drained(machine, life));
        }
    }

    fn issue(&mut self, machine: usize, member: u8, what: What) {
        let it = &mut self.machines[machine];
        it.issued += 1;
        let (local_ns, life) = (it.clock.local_ns(self.now_ns), it.life);
        self.monitor
            .issued(machine, &what, local_ns, &self.machines[machine]);
        note!(
            self,
            "C{} issues {} to member {member}",
            machine + 1,
            brief(&what)
        );
        self.ios.push(Io {
            machine,
            life,
            member,
            issued_ns: self.now_ns,
            what,
            ok: true,
            parked: false,
            lost: false,
        });
        self.launch(self.ios.len() - 1);
    }

    /// Decides the fate of a command.
    fn launch(&mut self, io: usize) {
        let faults = self.config.faults;
        let (machine, member) = (self.ios[io].machine, self.ios[io].member);
        let error_ns = self.config.timing.error_report_ns;
        if self.swallow.is_some_and(|swallow| swallow(&self.ios[io])) {
            return;
        }
        match self.paths[machine][usize::from(member)] {
            Path::Hung => {
                self.ios[io].parked = true;
                return;
            }
            Path::Failing => return self.fail(io, error_ns),
            Path::Up | Path::Deaf => {}
        }
        let delay_ns = self.config.timing.device_delay_ns;
        let (low, high) = self.config.io_ns;
        let mut takes_ns = self.rng.between(low, high);
        if self.rng.chance(faults.slow) {
            // D bounds the whole delay, that of a path that hung included.
            let waited_ns = self.now_ns - self.ios[io].issued_ns;
            takes_ns = self
                .rng
                .between(low, delay_ns.saturating_sub(waited_ns).max(low));
            self.monitor.stats.slow += 1;
        }
        if self.rng.chance(faults.error) {
            return self.fail(io, takes_ns);
        }
        let is_write = matches!(self.ios[io].what, What::Write { .. });
        if is_write && self.break_write(io, takes_ns) {
            return;
        }
        self.succeed(io, takes_ns);
    }

    fn succeed(&mut self, io: usize, takes_ns: u64) {
        match self.ios[io].what {
            What::Write { .. } => {
                let land = self.rng.between(takes_ns / 2, takes_ns);
                if self.rng.chance(self.config.faults.half) {
                    let half = self.rng.below(land);
                    self.after(half, Event::Half(io));
                }
                self.after(land, Event::Land(io));
            }
            What::Read { .. } => {
                for slot in 0..self.config.controllers {
                    let at = self.rng.between(takes_ns / 4, takes_ns);
                    self.after(at, Event::Sample(io, slot));
                }
            }
        }
        let (machine, member) = (self.ios[io].machine, self.ios[io].member);
        match self.paths[machine][usize::from(member)] {
            Path::Deaf => self.unheard.push(io),
            _ => self.after(takes_ns, Event::Complete(io)),
        }
    }

    /// Delivers the completions that were kept.
    pub fn hear(&mut self) {
        for io in std::mem::take(&mut self.unheard) {
            self.after(0, Event::Complete(io));
        }
    }

    fn fail(&mut self, io: usize, takes_ns: u64) {
        self.ios[io].ok = false;
        self.monitor.stats.errors += 1;
        self.after(takes_ns, Event::Complete(io));
    }

    /// A write that fails in one of the worse ways; `false` when it does not.
    fn break_write(&mut self, io: usize, takes_ns: u64) -> bool {
        let faults = self.config.faults;
        if self.rng.chance(faults.error_landed) {
            self.monitor.stats.error_landed += 1;
            self.after(takes_ns / 2, Event::Land(io));
        } else if self.rng.chance(faults.torn) {
            self.monitor.stats.torn += 1;
            self.after(takes_ns / 2, Event::Half(io));
        } else if self.rng.chance(faults.late) {
            self.monitor.stats.late += 1;
            let end_ns = self.ios[io].issued_ns + self.config.timing.device_delay_ns;
            let at = self.rng.between(self.now_ns + takes_ns, end_ns);
            self.at(at, Event::Land(io));
        } else {
            return false;
        }
        self.fail(io, takes_ns);
        true
    }

    fn land(&mut self, io: usize, half: bool) {
        let Io {
            machine,
            member,
            lost,
            ..
        } = self.ios[io];
        if lost {
            return;
        }
        let What::Write { side, payload } = self.ios[io].what.clone() else {
            return;
        };
        let slot = usize::from(self.config.slot_of[machine]);
        let mailbox = &mut self.disks[usize::from(member)][slot];
        match half {
            true => mailbox.tear(side, payload.register()),
            false => mailbox.put(side, &payload),
        }
    }

    fn sample(&mut self, io: usize, slot: u8) {
        let member = usize::from(self.ios[io].member);
        let mailbox = self.disks[member][usize::from(slot)];
        let controllers = usize::from(self.config.controllers);
        if let What::Read { samples } = &mut self.ios[io].what {
            samples.resize(controllers, Mailbox::BLANK);
            samples[usize::from(slot)] = mailbox;
        }
    }

    fn complete(&mut self, io: usize) {
        let Io {
            machine,
            life,
            member,
            ok,
            issued_ns,
            ..
        } = self.ios[io];
        self.completions[machine] += 1;
        let call = match &mut self.ios[io].what {
            What::Write { payload, .. } => {
                let payload = *payload;
                if ok {
                    self.last_write_ns[machine] = self.now_ns;
                }
                self.monitor
                    .completed(machine, life, member, &payload, ok, self.now_ns);
                Call::Written {
                    member,
                    register: payload.register(),
                    ok,
                }
            }
            What::Read { samples } => {
                let samples = std::mem::take(samples);
                if ok {
                    self.monitor.read_ok(machine, life, member, issued_ns);
                }
                Call::Read {
                    member,
                    boxes: ok.then_some(Snapshot(samples)),
                }
            }
        };
        if self.machines[machine].life == life {
            self.deliver(machine, call);
        }
    }

    fn op(&mut self, machine: usize, life: u32) {
        if self.machines[machine].life != life {
            return;
        }
        self.deliver(machine, Call::Op);
        let next = self.rng.between(5 * MS, 45 * MS);
        self.after(next, Event::Op(machine, life));
    }

    /// A client's operation asks for a permit.
    fn try_op(&mut self, machine: usize) {
        if self.enter(machine) {
            let local_ns = self.local_ns(machine);
            self.machines[machine].call(&Call::Lapse, local_ns);
        }
    }

    /// The machine counts its permits, another processor's operation enters, and the lease ends.
    pub fn lapse_behind_the_count(&mut self, machine: usize) {
        self.machines[machine].note_open();
        self.enter(machine);
        let local_ns = self.local_ns(machine);
        self.machines[machine].call(&Call::Lapse, local_ns);
        self.drain(machine);
    }

    /// An operation comes to the gate; whether it is the first to see the end of the lease.
    fn enter(&mut self, machine: usize) -> bool {
        let local_ns = self.local_ns(machine);
        let it = &mut self.machines[machine];
        match it.gate.enter(Charge::ONE, || local_ns) {
            Admission::Granted(_) => {
                let (op, epoch) = (it.begin_op(), it.gate.epoch());
                self.monitor.admitted(machine, op, epoch);
                // Here the machine may stand still, with an operation that has passed the gate.
                let life = it.life;
                self.after(0, Event::OpGoes(machine, op, life));
                false
            }
            Admission::Full { .. } => false,
            Admission::Refused { lapsed, .. } => lapsed,
        }
    }

    /// An operation leaves the machine.
    fn op_goes(&mut self, machine: usize, op: u64) {
        let window_ns = self.config.timing.window_ns;
        let takes_ns = match self.rng.chance(self.config.faults.stuck) {
            true => self.rng.below(3 * window_ns),
            false => self.rng.between(MS, 30 * MS),
        };
        let life = self.machines[machine].life;
        self.after(takes_ns, Event::OpLands(machine, op, life));
    }

    fn op_lands(&mut self, machine: usize, op: u64, life: u32) {
        if self.monitor.landed(machine, op) {
            note!(self, "C{} operation {op} is a STRAY", machine + 1);
        }
        if self.machines[machine].life == life {
            self.deliver(machine, Call::OpDone(op));
        }
    }

    fn op_done(&mut self, machine: usize, op: u64) {
        if self.machines[machine].end_op(op) {
            self.tell_drained(machine);
        }
    }

    /// Once a second, things break.
    fn chaos(&mut self) {
        let faults = self.config.faults;
        for machine in 0..self.machines.len() {
            if self.machines[machine].controller.is_some() && self.rng.chance(faults.crash) {
                self.crash(machine);
                self.monitor.stats.crashes += 1;
                let life = self.machines[machine].life;
                let down_ns = self.rng.below(faults.down_ns);
                self.after(down_ns, Event::Restart(machine, life));
            }
            for member in 0..self.config.members {
                if self.rng.chance(faults.broken) {
                    let hangs = self.rng.chance(500);
                    let path = if hangs { Path::Hung } else { Path::Failing };
                    let longest = match hangs {
                        // What hangs counts as delay, and D bounds that.
                        true => self.config.timing.device_delay_ns / 2,
                        false => faults.broken_ns,
                    };
                    let for_ns = self.rng.below(longest);
                    self.set_path(machine, member, path);
                    self.after(for_ns, Event::Repair(machine, member));
                }
            }
            if self.rng.chance(faults.command) {
                self.random_command(machine);
            }
            if self.rng.chance(faults.repair) {
                self.repair(machine);
            }
            if self.rng.chance(faults.degrade) {
                self.degrade(machine);
            }
        }
        self.after(1000 * MS, Event::Chaos);
    }

    /// Somebody repairs what earlier terms left behind, if the machine takes it.
    fn repair(&mut self, machine: usize) {
        let owns = self.machines[machine].role() == Role::Owner;
        if let Some(epoch) = self.epoch(machine).checked_sub(1).filter(|_| owns) {
            let _ = self.command(machine, Command::Repaired { epoch });
        }
    }

    /// Members fail or come back.
    fn degrade(&mut self, machine: usize) {
        let failures = self.config.redundancy.kind.failures().unwrap_or(0);
        let failed = self.rng.below(u64::from(failures) + 1) as u32;
        if self.machines[machine].is_stalled() {
            return;
        }
        if let Some(controller) = self.machines[machine].controller.as_mut() {
            note!(self, "C{} has {failed} members failed", machine + 1);
            controller.set_budget(failed, Some(LIMIT));
            self.drain(machine);
        }
    }

    fn random_command(&mut self, machine: usize) {
        let deadline_ns = self.local_ns(machine) + 200 * MS;
        let other = self.rng.below(u64::from(self.config.controllers)) as u8;
        let successor = self.rng.chance(500).then(|| Slot::new(other)).flatten();
        let command = match self.rng.below(5) {
            0 | 1 => Command::Release {
                successor,
                deadline_ns,
            },
            2 => Command::Fence(Reason::Fence),
            3 => self.confirm_dead(machine).unwrap_or(Command::Claim),
            _ => Command::Claim,
        };
        // It may well be refused.
        let _ = self.command(machine, command);
    }

    /// An honest operator confirms the death of an owner whose machine is off.
    fn confirm_dead(&self, machine: usize) -> Option<Command> {
        let controller = self.machines[machine].controller.as_ref()?;
        let decided = controller.decided();
        let charged = controller.charges().iter().find(|charge| !charge.drained);
        let (owner, inc, epoch) = match charged {
            Some(charge) => (charge.slot, charge.inc, charge.epoch),
            None => (decided.value?.slot, decided.value?.inc, decided.epoch),
        };
        let runs = |it: &Machine| it.controller.is_some() && it.inc == inc.0;
        let dead = !self.machines.iter().any(runs) && !self.monitor.is_open(epoch);
        dead.then_some(Command::ConfirmDead {
            owner,
            epoch,
            force: false,
        })
    }

    /// Nothing goes wrong any more: paths heal, machines run.
    pub fn heal(&mut self) {
        note!(self, "--- faults end ---");
        self.config.faults = Faults::default();
        for machine in 0..self.machines.len() {
            for member in 0..self.config.members {
                self.set_path(machine, member, Path::Up);
            }
            if self.machines[machine].controller.is_none() {
                self.start(machine);
            }
        }
    }

    /// Keeps a timeline from now on.
    pub fn watch(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The last lines of the timeline.
    pub fn timeline(&self, lines: usize) -> String {
        let trace = self.trace.as_deref().unwrap_or_default();
        trace[trace.len().saturating_sub(lines)..].join("\n")
    }
}

fn brief(what: &What) -> String {
    match what {
        What::Write {
            side,
            payload: Payload::Ballot(record),
        } => format!(
            "ballot {side:?} seq {} dec {} mbal {} bal {}",
            record.seq, record.dec.epoch, record.mbal.round, record.bal.round
        ),
        What::Write {
            side,
            payload: Payload::Heartbeat(record),
        } => format!(
            "heartbeat {side:?} seq {} dec {} hb {} {:?}",
            record.seq, record.dec.epoch, record.hb, record.role
        ),
        What::Read { .. } => "read".into(),
    }
}

/// Which register, in a word.
pub fn register_name(register: Register) -> &'static str {
    match register {
        Register::Ballot => "ballot",
        Register::Heartbeat => "heartbeat",
    }
}
