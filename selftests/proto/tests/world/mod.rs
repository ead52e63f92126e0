// SPDX-License-Identifier: GPL-2.0
//! A simulated portion: hosts with clocks of their own, members that fail, one seed.
//!
//! The hosts run the shipped [`Controller`] and the shipped [`Gate`]; everything else is made
//! up here, deterministically. True time is nanoseconds since the run began; only the
//! [`monitor`] knows it.
//!
//! ```text
//!   Event (true time) --> host: stalled? keep for later
//!                            |  clock read, handle_*, then poll_action one by one
//!                            |  (each step may stall)
//!                            +--> gate, or an I/O: lands, is sampled, completes, all as events
//!   after every event: the monitor checks every invariant
//! ```
//!
//! What may go wrong is in [`Faults`]; a test may also break a path or stall a host by hand.

#![allow(unused, reason = "each test uses a part of it")]

pub mod bare;
mod clock;
mod disk;
mod host;
mod monitor;

pub use clock::{Clock, Rng, Steering};
pub use disk::{Mailbox, Payload, Snapshot};
pub use host::{Call, Host, Image, LIMIT};
pub use monitor::{Monitor, Stats, Violation};

use dm_lease_proto::proto::clocks::Now;
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::charge_list::Charge;
use dm_lease_proto::proto::codec::ids::{Register, Side, Slot};
use dm_lease_proto::proto::controller::{
    Action, Command, GateChange, MailboxIo, MemberDevice, Notice, Outcome,
};
use dm_lease_proto::proto::gate::lanes::Place;
use dm_lease_proto::proto::gate::permits::{Admission, Lapsed};
use dm_lease_proto::proto::limit::Redundancy;
use dm_lease_proto::proto::time::Timing;
use dm_lease_proto::proto::words::status::{Reason, Role};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

pub const MS: u64 = 1_000_000;

/// The shortest time for which a timer is set.
const SHORTEST_NS: u64 = 1_000;

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
    /// A host stalls between two steps, for up to this long.
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
    /// Per second and host: it crashes, and comes back after up to `down_ns`.
    pub crash: u64,
    pub down_ns: u64,
    /// Per second and path: it fails, or hangs (never longer than D), for up to `broken_ns`.
    pub broken: u64,
    pub broken_ns: u64,
    /// Per second and host: the operator does something.
    pub command: u64,
    /// Per second and owner: an operator repairs the damage of earlier owners.
    pub repair: u64,
    /// Per second and host: another number of members is failed or rebuilding.
    pub degrade: u64,
    /// Per second and host: an operator takes a controller that runs for a dead one.
    pub wrong: u64,
    /// Per second and owner: an operator lets operations go on beyond what redundancy repairs.
    pub risk: u64,
    /// Another processor's operation comes to the gate between two steps of the host.
    pub between: u64,
    /// An operation of a user hangs below the gate, for up to three windows: longer than D.
    pub stuck: u64,
    /// Per second and member: it loses power, with what it acknowledged and had not yet written
    /// down, in any order; it is back after a window and up to `broken_ns`.
    pub power: u64,
    /// Of the stalls: the host sleeps, and no notifier announces it. Whether the kernel learns
    /// how long is left to chance.
    pub sleep: u64,
    /// Per second and host: the clock of its timers is steered otherwise, by up to so much of a
    /// million.
    pub steer: u64,
    pub steer_ppm: u64,
    /// Per second and host: the kernel exchanges the counter behind its clocks.
    pub exchange: u64,
    /// Per second and member: a flush makes everything durable.
    pub flush: u64,
    /// Per second and member: it is what it was a second before. One member of three at a time, and
    /// only where no promise is lost by that.
    pub rewind: u64,
    /// Per second and host that may be copied: its memory begins to run on another host, too.
    pub copy: u64,
    /// Likewise, but it is copied while it owns, and both go on writing.
    pub copy_owner: u64,
    /// Per second and host: its memory is put back to what it was up to some seconds ago. There
    /// is a snapshot for that, which is taken as often.
    pub put_back: u64,
    /// Of the copies and of the hosts that were put back: the hypervisor tells the guest.
    pub told: u64,
    /// Per second and member: its disk is replaced, if an operator may do that.
    pub replace: u64,
    /// A host that looks for a replaced member finds the former disk first. A tenth as often,
    /// per second and host, the former disk comes back in the place of the member that it has.
    pub returns: u64,
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
    /// How long each of them takes exactly, and the report of an error, where a test says so.
    pub exact: Option<Exact>,
    pub claim_auto: bool,
    /// Whether openers of the mapped devices cache what they read [R31].
    pub guarded: bool,
    /// The slot of each host: by index, unless two hosts were given one number.
    pub slot_of: Vec<u8>,
    pub faults: Faults,
}

impl Config {
    /// Healthy hosts with different clocks; controller 1 is the home.
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
            exact: None,
            claim_auto: true,
            guarded: false,
            slot_of: (0..controllers).collect(),
            faults: Faults::default(),
        }
    }

    /// The same with one more host, which has the number of another one by mistake.
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

/// How long commands take, to the nanosecond.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    pub write_ns: u64,
    pub read_ns: u64,
    pub error_ns: u64,
    /// How much later than it could every write is issued.
    pub late_ns: u64,
}

/// What of one heartbeat of an owner is lost, on all members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Write,
    /// The reads behind the write.
    Read,
    /// The look at the own blocks, where there has to be one before the write.
    Look,
}

/// Heartbeats of the first host in a row, from this number on, and what of each is lost.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    pub first_hb: u64,
    pub kinds: Vec<Lost>,
    /// The last heartbeat that was written.
    written_hb: u64,
}

impl Losses {
    pub fn new(first_hb: u64, kinds: &[Lost]) -> Self {
        Self {
            first_hb,
            kinds: kinds.to_vec(),
            written_hb: 0,
        }
    }

    /// Whether this command of heartbeat `hb` is lost.
    fn takes(&mut self, hb: u64, what: &What) -> bool {
        let is_beat = matches!(
            what,
            What::Write {
                payload: Payload::Heartbeat(_),
                ..
            }
        );
        let was_written = self.written_hb == hb;
        if is_beat {
            self.written_hb = hb;
        }
        let index = hb.checked_sub(self.first_hb);
        let kind = index.and_then(|index| self.kinds.get(index as usize));
        match kind {
            Some(Lost::Write) => is_beat,
            Some(Lost::Read) => matches!(what, What::Read { .. }) && was_written,
            Some(Lost::Look) => matches!(what, What::Read { .. }) && !was_written,
            None => false,
        }
    }
}

/// How a host's commands to a member fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Up,
    /// Every command fails after the error report time and never reaches the medium.
    Failing,
    /// As `Failing` for every write, while reads succeed.
    Unwritable,
    /// Commands are kept until the path is something else again.
    Hung,
    /// Commands are carried out, but their completions are kept until [`World::hear`].
    Deaf,
}

/// A command on its way.
#[derive(Clone, Debug)]
pub struct Io {
    pub host: usize,
    /// Which life of the host issued it.
    pub life: u32,
    pub member: u8,
    /// The disk that is the member for the host.
    disk: Option<usize>,
    pub issued_ns: u64,
    pub what: What,
    ok: bool,
    /// Events to come that speak of it; it is forgotten with the last one.
    events: u8,
    /// Kept until the path is something else again, or until [`World::hear`].
    parked: bool,
    unheard: bool,
    /// Its host died, and it never arrives.
    lost: bool,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few of them, for microseconds")]
pub enum What {
    Write {
        side: Side,
        fua: bool,
        payload: Payload,
    },
    Read {
        samples: Vec<Mailbox>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The heartbeat timer, the timer for `poll_timeout_ns`, the end of a stall.
    Tick(u8, u32),
    Timeout(u8, u64),
    Resume(u8, u64),
    /// A client tries a state-changing operation, or one completes.
    Drained(u8, u32),
    Op(u8, u32),
    OpGoes(u8, u32, u64),
    OpLands(u8, u32, u64),
    /// A write is half on the medium, or all of it.
    Half(u32),
    Land(u32),
    /// A read looks at a slot.
    Sample(u32, u8),
    Complete(u32),
    /// Once a second: things break.
    Chaos,
    Repair(u8, u8),
    Restart(u8, u32),
    /// A host finds the disk that is a member now.
    Attach(u8, u8),
    /// The hypervisor says that this life of a host began with the memory of another one.
    Told(u8, u32),
}

/// An event and its time; of events at one time the first one that was added comes first.
#[derive(Clone, Copy, Debug)]
struct Due {
    at_ns: u64,
    serial: u64,
    event: Event,
}

impl Due {
    fn order(&self) -> u128 {
        (u128::from(self.at_ns) << 64) | u128::from(self.serial)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A heap gives the greatest first: that is the earliest here.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}

/// The world of one run.
pub struct World {
    pub config: Config,
    pub rng: Rng,
    pub now_ns: u64,
    pub hosts: Vec<Host>,
    pub paths: Vec<Vec<Path>>,
    /// The mailboxes on each disk. The first ones are the members at the beginning.
    pub disks: Vec<Vec<Mailbox>>,
    /// What each disk says that it is.
    labels: Vec<MemberDevice>,
    /// For each member the disk that it is now, and those that it was.
    current: Vec<usize>,
    former: Vec<Vec<usize>>,
    /// For each host the disk that it has as each member.
    devices: Vec<Vec<Option<usize>>>,
    /// What the members still have after they lost power.
    durable: Vec<Vec<Mailbox>>,
    /// What the members were a second ago, and since when all go forward.
    past: Vec<Vec<Mailbox>>,
    rewound_ns: u64,
    /// Members that ever forgot something, a bit each; all of them, where a test changes what is on
    /// them by hand.
    pub forgetful: u16,
    /// Slots whose host was copied or put back, a bit each: it finds records that it does not know.
    twins: u64,
    /// For each member the end of its outage.
    dark_until_ns: Vec<u64>,
    pub monitor: Monitor,
    /// Commands on their way; the places of those at their end are used again.
    ios: Vec<Io>,
    free: Vec<usize>,
    latest: usize,
    /// Each command so far, with its host, its member and its time, if a test asks for it.
    pub issues: Option<Vec<(usize, u8, u64)>>,
    events: BinaryHeap<Due>,
    /// Hosts to which something happened since they were checked, a bit each.
    touched: u64,
    serial: u64,
    pub trace: Option<Vec<String>>,
    /// Every command so far, if a test asks for them.
    pub log: Option<Vec<Io>>,
    /// Heartbeats of the first host that are lost.
    pub losses: Losses,
    /// Commands that never come to their end.
    pub swallow: Option<fn(&Io) -> bool>,
    /// A host that is going to stall: when it has come to this many more steps, for so long.
    pub stall_at: Option<(usize, u64, u64)>,
    /// Whether the host sleeps then.
    pub stall_is_sleep: bool,
    /// Events since time went on: a host that keeps asking for the present moment is stuck.
    same_instant: u32,
    /// What a read starts with.
    blank: Mailbox,
    /// For each host a snapshot of its memory, and the disks that it had then.
    images: Vec<Option<(Image, Vec<Option<usize>>)>>,
    /// For each host when its last write succeeded, and how many commands did so far.
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
    /// A world in which all hosts start at once.
    pub fn new(config: Config) -> Self {
        let mut world = Self::asleep(config);
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        world
    }

    /// A world in which no host runs yet.
    pub fn asleep(config: Config) -> Self {
        let count = config.slot_of.len();
        let hosts = (0..count).map(|i| Host::new(&config, i));
        let disk = vec![Mailbox::blank(); usize::from(config.controllers)];
        let disks = vec![disk; usize::from(config.members)];
        let mut world = Self {
            rng: Rng(config.seed),
            now_ns: 0,
            hosts: hosts.collect(),
            paths: vec![vec![Path::Up; usize::from(config.members)]; count],
            durable: disks.clone(),
            past: disks.clone(),
            rewound_ns: 0,
            forgetful: u16::MAX,
            twins: 0,
            labels: labels(&config),
            current: (0..disks.len()).collect(),
            former: vec![Vec::new(); disks.len()],
            devices: vec![(0..disks.len()).map(Some).collect(); count],
            disks,
            dark_until_ns: vec![0; usize::from(config.members)],
            monitor: Monitor::new(&config),
            ios: Vec::new(),
            free: Vec::new(),
            latest: 0,
            issues: None,
            events: BinaryHeap::new(),
            touched: u64::MAX,
            serial: 0,
            trace: std::env::var_os("TRACE").map(|_| Vec::new()),
            log: None,
            losses: Losses::default(),
            swallow: None,
            stall_at: None,
            stall_is_sleep: false,
            same_instant: 0,
            blank: Mailbox::blank(),
            images: (0..count).map(|_| None).collect(),
            last_write_ns: vec![0; count],
            completions: vec![0; count],
            config,
        };
        let faults = world.config.faults;
        let copied = faults.copy + faults.copy_owner + faults.put_back;
        if faults.crash + faults.broken + faults.command + copied > 0 {
            world.after(1000 * MS, Event::Chaos);
        }
        world
    }

    fn after(&mut self, delay_ns: u64, event: Event) {
        self.at(self.now_ns.saturating_add(delay_ns), event);
    }

    fn at(&mut self, true_ns: u64, event: Event) {
        self.serial += 1;
        self.events.push(Due {
            at_ns: true_ns.max(self.now_ns),
            serial: self.serial,
            event,
        });
    }

    /// Something is going to happen to a command.
    fn io_after(&mut self, delay_ns: u64, io: usize, event: impl Fn(u32) -> Event) {
        self.ios[io].events += 1;
        self.after(delay_ns, event(io as u32));
    }

    /// It happened; whose last event that was is forgotten.
    fn io_happened(&mut self, io: usize) {
        let it = &mut self.ios[io];
        it.events -= 1;
        if it.events == 0 && !it.parked && !it.unheard {
            self.free.push(io);
        }
    }

    /// The command that was issued last.
    pub fn latest(&self) -> Option<&Io> {
        self.ios.get(self.latest)
    }

    /// Starts a host, or starts it again with a new incarnation.
    pub fn start(&mut self, host: usize) {
        let inc = (u128::from(self.rng.next()) << 64) | u128::from(self.rng.next());
        self.touch(host);
        self.find_members(host);
        let devices: Vec<_> = self.devices[host]
            .iter()
            .map(|disk| disk.map(|disk| self.labels[disk]))
            .collect();
        self.hosts[host].boot(&self.config, inc, &devices);
        let life = self.hosts[host].life;
        note!(self, "C{} starts, life {life}", host + 1);
        let phase = self.rng.below(self.config.period_ns[host].max(1));
        self.after(phase, Event::Tick(host as u8, life));
        self.after(phase, Event::Op(host as u8, life));
    }

    /// Power off: what it has issued may still land.
    pub fn crash(&mut self, host: usize) {
        note!(self, "C{} crashes", host + 1);
        self.touch(host);
        // What had left the host lands within D, or never; the rest is gone with it.
        for (op, _) in self.hosts[host].ops.clone() {
            match self.rng.chance(500) {
                true => {
                    let life = self.hosts[host].life;
                    let within_ns = self.rng.below(self.config.timing.device_delay_ns);
                    self.after(within_ns, Event::OpLands(host as u8, life, op));
                }
                false => self.monitor.forgotten(host, op),
            }
        }
        self.hosts[host].halt();
        for io in self.ios.iter_mut().filter(|io| io.host == host) {
            if self.config.faults.error > 0 {
                io.lost |= self.rng.chance(500);
            }
        }
    }

    /// Nothing happens on the host for so long; its commands go on.
    pub fn stall(&mut self, host: usize, for_ns: u64) {
        let token = self.hosts[host].stall();
        note!(self, "C{} stalls for {} ms", host + 1, for_ns / MS);
        self.after(for_ns, Event::Resume(host as u8, token));
    }

    /// The host sleeps for so long: nothing happens on it, and its lease clock stands still. No
    /// notifier announced it. Its commands go on.
    pub fn sleep(&mut self, host: usize, for_ns: u64) {
        let token = self.hosts[host].sleep(self.now_ns);
        note!(self, "C{} sleeps for {} ms", host + 1, for_ns / MS);
        self.after(for_ns, Event::Resume(host as u8, token));
    }

    /// Changes how a host's commands to a member fare.
    pub fn set_path(&mut self, host: usize, member: u8, path: Path) {
        note!(self, "C{} to member {member}: {path:?}", host + 1);
        self.paths[host][usize::from(member)] = path;
        if path == Path::Hung {
            return;
        }
        let parked: Vec<usize> = (0..self.ios.len())
            .filter(|&io| {
                let io = &self.ios[io];
                io.parked && io.host == host && io.member == member
            })
            .collect();
        for io in parked {
            self.ios[io].parked = false;
            self.launch(io);
        }
    }

    /// Breaks or repairs a member for every host.
    pub fn set_member(&mut self, member: u8, path: Path) {
        for host in 0..self.hosts.len() {
            self.set_path(host, member, path);
        }
    }

    /// An operator's command.
    pub fn command(&mut self, host: usize, command: Command) -> Result<Outcome, Reason> {
        if self.hosts[host].is_taken() {
            return Err(Reason::Busy);
        }
        self.touch(host);
        note!(self, "C{} is told {command:?}", host + 1);
        let reading = self.hosts[host].reading(self.now_ns);
        let now = self.hosts[host].tell_clocks(reading);
        let Some(controller) = self.hosts[host].controller.as_mut() else {
            return Err(Reason::Joining);
        };
        let had = controller.charges().len();
        let result = controller.handle_command(command, now);
        note!(self, "C{} answers {result:?}", host + 1);
        self.monitor.commanded(host, &command, result, had);
        self.drain(host);
        result
    }

    /// The host's lease clock.
    pub fn local_ns(&self, host: usize) -> u64 {
        self.hosts[host].clock.local_ns(self.now_ns)
    }

    /// Processes one event; `false` when there is none before `until_ns`.
    fn step(&mut self, until_ns: u64) -> Result<bool, Violation> {
        match self.events.peek() {
            Some(due) if due.at_ns <= until_ns => {}
            _ => {
                self.now_ns = until_ns;
                self.check()?;
                return Ok(false);
            }
        }
        let Some(Due { at_ns, event, .. }) = self.events.pop() else {
            return Ok(false);
        };
        self.same_instant = if at_ns == self.now_ns {
            self.same_instant + 1
        } else {
            0
        };
        self.now_ns = at_ns;
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
        let touched = std::mem::take(&mut self.touched);
        self.monitor.check(now_ns, &self.hosts, touched)
    }

    /// Something happens to a host, so that it must be looked at.
    fn touch(&mut self, host: usize) {
        self.touched |= 1 << host;
    }

    /// Runs for so long.
    pub fn run(&mut self, for_ns: u64) -> Result<(), Violation> {
        let until_ns = self.now_ns + for_ns;
        self.touched = u64::MAX;
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
        self.touched = u64::MAX;
        while !done(self) {
            if !self.step(until_ns)? {
                return Ok(done(self));
            }
        }
        Ok(true)
    }

    /// The host that may write now.
    pub fn owner(&self) -> Option<usize> {
        (0..self.hosts.len()).find(|&host| self.is_valid(host))
    }

    /// Whether the host's gate lets state-changing operations through now.
    pub fn is_valid(&self, host: usize) -> bool {
        self.hosts[host].is_valid(self.now_ns)
    }

    /// The role of a host; `Failed` when it is off.
    pub fn role(&self, host: usize) -> Role {
        self.hosts[host]
            .controller
            .as_ref()
            .map_or(Role::Failed, |c| c.role())
    }

    /// The epoch a host knows.
    pub fn epoch(&self, host: usize) -> u64 {
        self.hosts[host]
            .controller
            .as_ref()
            .map_or(0, |c| c.decided().epoch)
    }

    fn process(&mut self, event: Event) {
        match event {
            Event::Tick(host, life) => self.tick(host.into(), life),
            Event::Timeout(host, token) => self.timeout(host.into(), token),
            Event::Resume(host, token) => self.resume(host.into(), token),
            Event::Drained(host, life) => self.deliver_to(host, life, Call::Drained),
            Event::Op(host, life) => self.op(host.into(), life),
            Event::OpGoes(host, life, op) => self.deliver_to(host, life, Call::OpGoes(op)),
            Event::OpLands(host, life, op) => self.op_lands(host.into(), op, life),
            Event::Half(io) => self.land(io as usize, true),
            Event::Land(io) => self.land(io as usize, false),
            Event::Sample(io, slot) => self.sample(io as usize, slot),
            Event::Complete(io) => self.complete(io as usize),
            Event::Chaos => self.chaos(),
            Event::Repair(host, member) => self.set_path(host.into(), member, Path::Up),
            Event::Attach(host, member) => self.attach(host.into(), member),
            Event::Told(host, life) => {
                let inc = (u128::from(self.rng.next()) << 64) | u128::from(self.rng.next());
                self.deliver_to(host, life, Call::Fork(inc));
            }
            Event::Restart(host, life) => {
                if self.hosts[usize::from(host)].life == life {
                    self.start(host.into());
                }
            }
        }
        if let Event::Half(io) | Event::Land(io) | Event::Sample(io, _) | Event::Complete(io) =
            event
        {
            self.io_happened(io as usize);
        }
    }

    /// A call for one life of a host.
    fn deliver_to(&mut self, host: u8, life: u32, call: Call) {
        if self.hosts[usize::from(host)].life == life {
            self.deliver(host.into(), call);
        }
    }

    fn timeout(&mut self, host: usize, token: u64) {
        let local_ns = self.local_ns(host);
        let it = &mut self.hosts[host];
        if it.timeout != token {
            return;
        }
        match it.armed_ns {
            // The clock of the timers runs fast, or the lease clock stood still.
            Some(armed_ns) if local_ns < armed_ns => self.set_timer(host, armed_ns),
            _ => {
                it.armed_ns = None;
                self.deliver(host, Call::Timeout);
            }
        }
    }

    fn tick(&mut self, host: usize, life: u32) {
        let it = &self.hosts[host];
        if it.life != life || it.controller.is_none() {
            return;
        }
        // A stalled host's timer fires once when it goes on, and then in its period again.
        if !it.is_stalled() || !it.has_waiting(|call| matches!(call, Call::Tick)) {
            self.deliver(host, Call::Tick);
        }
        let it = &self.hosts[host];
        if it.life == life && it.controller.is_some() {
            let takes_ns = it.steering.takes_ns(it.period_ns);
            let next = it.clock.true_ns(self.local_ns(host) + takes_ns);
            self.at(next, Event::Tick(host as u8, life));
        }
    }

    /// Something happened on a host that runs, or will when its stall is over.
    fn deliver(&mut self, host: usize, call: Call) {
        if self.hosts[host].controller.is_none() {
            return;
        }
        self.touch(host);
        if self.hosts[host].is_stalled() {
            self.hosts[host].waiting.push_back(call);
            return;
        }
        let now = self.hosts[host].reading(self.now_ns);
        if self.maybe_stall(host) {
            // The clock was read, and then the host stood still.
            self.hosts[host].frozen = Some((call, now));
            return;
        }
        self.perform_call(host, call, now);
        self.drain(host);
    }

    fn maybe_stall(&mut self, host: usize) -> bool {
        let faults = self.config.faults;
        if let Some((who, steps, for_ns)) = self.stall_at.filter(|(who, ..)| *who == host) {
            self.stall_at = (steps > 0).then(|| (who, steps - 1, for_ns));
            if steps == 0 {
                match self.stall_is_sleep {
                    true => self.sleep(host, for_ns),
                    false => self.stall(host, for_ns),
                }
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
            match self.rng.chance(faults.sleep) {
                true => self.sleep(host, for_ns),
                false => self.stall(host, for_ns),
            }
        }
        stalls
    }

    fn resume(&mut self, host: usize, token: u64) {
        if !self.hosts[host].resume(token) {
            return;
        }
        self.touch(host);
        note!(self, "C{} goes on", host + 1);
        let is_known = self.rng.chance(700);
        let slept = self.hosts[host].wake(self.now_ns, is_known);
        self.monitor.stats.sleeps += u64::from(slept);
        if let Some((call, stale)) = self.hosts[host].frozen.take() {
            self.perform_call(host, call, stale);
        }
        self.drain(host);
        while !self.hosts[host].is_stalled() {
            let Some(call) = self.hosts[host].waiting.pop_front() else {
                break;
            };
            self.deliver(host, call);
        }
    }

    fn perform_call(&mut self, host: usize, call: Call, now: Now) {
        match call {
            Call::Op => return self.try_op(host),
            Call::OpGoes(op) => return self.op_goes(host, op),
            Call::OpDone(op) => return self.op_done(host, op),
            _ => {}
        }
        note!(self, "C{} {}", host + 1, call.brief());
        self.monitor.stats.told_copied += u64::from(matches!(call, Call::Fork(_)));
        self.hosts[host].note_open();
        self.hosts[host].call(&call, now);
    }

    /// Performs what a test made the host want.
    pub fn pump(&mut self, host: usize) {
        self.drain(host);
    }

    /// Performs what the host wants done, until it stalls or wants nothing.
    fn drain(&mut self, host: usize) {
        self.touch(host);
        while !self.hosts[host].is_stalled() {
            let it = &mut self.hosts[host];
            let Some(controller) = it.controller.as_mut() else {
                return;
            };
            let (action, fresh) = match it.held.take() {
                Some(held) => (Some(held), false),
                None => (controller.poll_action(), true),
            };
            let Some(action) = action else { break };
            if self.rng.chance(self.config.faults.between) {
                self.enter(host);
            }
            if fresh && self.maybe_stall(host) {
                self.hosts[host].held = Some(action);
                return;
            }
            self.perform(host, action);
        }
        self.arm(host);
    }

    fn arm(&mut self, host: usize) {
        let it = &mut self.hosts[host];
        let at = it.controller.as_ref().and_then(|c| c.poll_timeout_ns());
        if at == it.armed_ns {
            return;
        }
        it.armed_ns = at;
        it.timeout += 1;
        let token = it.timeout;
        if let Some(local_ns) = at {
            self.set_timer(host, local_ns);
        }
    }

    /// Sets the timer for a moment of the lease clock: for the time that is left until then, by a
    /// clock that may be steered.
    fn set_timer(&mut self, host: usize, until_ns: u64) {
        let local_ns = self.local_ns(host);
        let it = &self.hosts[host];
        let left_ns = match until_ns.saturating_sub(local_ns) {
            0 => 0,
            left_ns => it.steering.takes_ns(left_ns.max(SHORTEST_NS)),
        };
        let (at, token) = (it.clock.true_ns(local_ns + left_ns), it.timeout);
        self.at(at, Event::Timeout(host as u8, token));
    }

    fn perform(&mut self, host: usize, action: Action) {
        let now = self.hosts[host].reading(self.now_ns);
        self.monitor
            .performed(host, &action, self.now_ns, &self.hosts[host]);
        match action {
            Action::Gate(change) => self.change_gate(host, change, now),
            Action::Io(io) => self.begin_io(host, io),
            Action::Report(notice) => self.take_notice(host, notice),
            Action::Answer(answer) => {
                note!(self, "C{} answers {answer:?}", host + 1);
                self.hosts[host].answers.push(answer);
            }
        }
    }

    fn change_gate(&mut self, host: usize, change: GateChange, now: Now) {
        match change {
            GateChange::OpenEpoch { epoch, expiry_ns } => {
                note!(self, "C{} LEASE of epoch {epoch}", host + 1);
                if !self.hosts[host].gate.open_epoch(epoch, epoch, expiry_ns) {
                    self.hosts[host].call(&Call::Lapse, now);
                }
            }
            GateChange::Extend { from_ns, to_ns } => {
                if !self.hosts[host].gate.extend(from_ns, to_ns) {
                    self.hosts[host].call(&Call::Lapse, now);
                }
            }
            GateChange::Latch => self.hosts[host].gate.latch(),
            GateChange::SetLimit(limit) => {
                self.hosts[host].gate.set_limit(limit);
                self.tell_drained(host);
            }
        }
    }

    fn take_notice(&mut self, host: usize, notice: Notice) {
        match notice {
            Notice::Transition(change) => {
                note!(
                    self,
                    "C{} {} -> {}, epoch {}, owner {:?}, {}",
                    host + 1,
                    change.from,
                    change.to,
                    change.epoch,
                    change.owner.map(Slot::controller),
                    change.reason.token()
                );
            }
            Notice::Outdated {
                member,
                generation,
                highest,
            } => {
                self.monitor.stats.outdated += 1;
                note!(
                    self,
                    "C{} drops member {member}: generation {generation}, not {highest}",
                    host + 1
                );
            }
            Notice::Budget(budget) => note!(self, "C{} {budget:?}", host + 1),
            Notice::WentBack { member } => {
                let slot = 1 << self.config.slot_of[host];
                let forgot = self.forgetful & (1 << member) != 0 || self.twins & slot != 0;
                self.monitor.alarmed(host, forgot);
                note!(self, "C{} finds member {member} gone back", host + 1);
                self.hosts[host].alarms.push(member);
            }
            Notice::Unreadable(slots) => {
                note!(self, "C{} cannot read {slots:#b}", host + 1);
                self.hosts[host].unreadable.push(slots);
            }
            Notice::Heartbeat(beat) => note!(self, "C{} heartbeat {} ok", host + 1, beat.hb),
        }
    }

    fn begin_io(&mut self, host: usize, io: MailboxIo) {
        let (member, what) = match io {
            MailboxIo::WriteBallot {
                member,
                side,
                record,
            } => {
                let (fua, payload) = (true, Payload::Ballot(record));
                (member, What::Write { side, fua, payload })
            }
            MailboxIo::WriteHeartbeat {
                member,
                side,
                fua,
                record,
            } => {
                let payload = Payload::Heartbeat(record);
                (member, What::Write { side, fua, payload })
            }
            MailboxIo::Read { member } => {
                let samples = vec![self.blank.clone(); usize::from(self.config.controllers)];
                (member, What::Read { samples })
            }
        };
        self.issue(host, member, what);
    }

    fn tell_drained(&mut self, host: usize) {
        let it = &self.hosts[host];
        if it.gate.is_drained() && it.role() == Role::Releasing {
            let life = it.life;
            self.after(0, Event::Drained(host as u8, life));
        }
    }

    fn issue(&mut self, host: usize, member: u8, what: What) {
        let it = &mut self.hosts[host];
        it.issued += 1;
        let (local_ns, life) = (it.clock.local_ns(self.now_ns), it.life);
        self.monitor
            .issued(host, member, &what, local_ns, &self.hosts[host]);
        note!(
            self,
            "C{} issues {} to member {member}",
            host + 1,
            brief(&what)
        );
        if let Some(issues) = &mut self.issues {
            issues.push((host, member, self.now_ns));
        }
        let io = Io {
            host,
            life,
            member,
            disk: self.devices[host][usize::from(member)],
            issued_ns: self.now_ns,
            what,
            ok: true,
            events: 0,
            parked: false,
            unheard: false,
            lost: false,
        };
        if let Some(log) = &mut self.log {
            log.push(io.clone());
        }
        self.latest = match self.free.pop() {
            Some(place) => {
                self.ios[place] = io;
                place
            }
            None => {
                self.ios.push(io);
                self.ios.len() - 1
            }
        };
        self.launch(self.latest);
    }

    /// Decides the fate of a command.
    fn launch(&mut self, io: usize) {
        let faults = self.config.faults;
        let (host, member) = (self.ios[io].host, self.ios[io].member);
        let exact = self.config.exact;
        let is_write = matches!(self.ios[io].what, What::Write { .. });
        let error_ns = match exact {
            Some(exact) if is_write => exact.error_ns + exact.late_ns,
            Some(exact) => exact.error_ns,
            None => self.config.timing.error_report_ns,
        };
        if self.swallow.is_some_and(|swallow| swallow(&self.ios[io])) {
            return;
        }
        match self.paths[host][usize::from(member)] {
            Path::Hung => {
                self.ios[io].parked = true;
                return;
            }
            Path::Failing => return self.fail(io, error_ns),
            Path::Unwritable if is_write => return self.fail(io, error_ns),
            Path::Up | Path::Unwritable | Path::Deaf => {}
        }
        let beats = self.hosts[0].controller.as_ref().map(|it| it.heartbeats());
        let hb = beats.filter(|_| host == 0).unwrap_or(0);
        if self.losses.takes(hb, &self.ios[io].what) {
            return self.fail(io, error_ns);
        }
        let is_dark = |disk: usize| self.now_ns < self.dark_until_ns[disk];
        if self.ios[io].disk.is_none_or(is_dark) {
            return self.fail(io, error_ns);
        }
        let delay_ns = self.config.timing.device_delay_ns;
        let (low, high) = self.config.io_ns;
        let mut takes_ns = self.rng.between(low, high);
        if let Some(exact) = exact {
            takes_ns = match is_write {
                true => exact.write_ns + exact.late_ns,
                false => exact.read_ns,
            };
        }
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
                    self.monitor.stats.half += 1;
                    self.io_after(half, io, Event::Half);
                }
                self.io_after(land, io, Event::Land);
            }
            What::Read { .. } => {
                for slot in 0..self.config.controllers {
                    let at = self.rng.between(takes_ns / 4, takes_ns);
                    self.io_after(at, io, |io| Event::Sample(io, slot));
                }
            }
        }
        let (host, member) = (self.ios[io].host, self.ios[io].member);
        match self.paths[host][usize::from(member)] {
            Path::Deaf => self.ios[io].unheard = true,
            _ => self.io_after(takes_ns, io, Event::Complete),
        }
    }

    /// Delivers the completions that were kept.
    pub fn hear(&mut self) {
        for io in 0..self.ios.len() {
            if std::mem::take(&mut self.ios[io].unheard) {
                self.io_after(0, io, Event::Complete);
            }
        }
    }

    fn fail(&mut self, io: usize, takes_ns: u64) {
        self.ios[io].ok = false;
        self.monitor.stats.errors += 1;
        self.io_after(takes_ns, io, Event::Complete);
    }

    /// A write that fails in one of the worse ways; `false` when it does not.
    fn break_write(&mut self, io: usize, takes_ns: u64) -> bool {
        let faults = self.config.faults;
        if self.rng.chance(faults.error_landed) {
            self.monitor.stats.error_landed += 1;
            self.io_after(takes_ns / 2, io, Event::Land);
        } else if self.rng.chance(faults.torn) {
            self.monitor.stats.torn += 1;
            self.io_after(takes_ns / 2, io, Event::Half);
        } else if self.rng.chance(faults.late) {
            self.monitor.stats.late += 1;
            let end_ns = self.ios[io].issued_ns + self.config.timing.device_delay_ns;
            let at = self.rng.between(self.now_ns + takes_ns, end_ns);
            self.io_after(at - self.now_ns, io, Event::Land);
        } else {
            return false;
        }
        self.fail(io, takes_ns);
        true
    }

    fn land(&mut self, io: usize, half: bool) {
        let io = &self.ios[io];
        let What::Write { side, fua, payload } = &io.what else {
            return;
        };
        if io.lost {
            return;
        }
        let Some(disk) = io.disk else {
            return;
        };
        let slot = self.config.slot_of[io.host];
        let change = |mailbox: &mut Mailbox| match half {
            true => mailbox.tear(*side, payload.register()),
            false => mailbox.put(*side, payload),
        };
        change(&mut self.disks[disk][usize::from(slot)]);
        // What is not forced is written down some time, or only after what comes later.
        if *fua || !half && self.config.faults.power > 0 && self.rng.chance(300) {
            change(&mut self.durable[disk][usize::from(slot)]);
        }
    }

    fn sample(&mut self, io: usize, slot: u8) {
        let io = &mut self.ios[io];
        let Some(disk) = io.disk else {
            return;
        };
        let mailbox = &self.disks[disk][usize::from(slot)];
        if let What::Read { samples } = &mut io.what {
            samples[usize::from(slot)] = mailbox.clone();
        }
    }

    /// A new disk is formatted in the place of a member. No host has the former one any more, or
    /// the new one so far. Returns the disk that the member was.
    pub fn replace(&mut self, member: u8) -> usize {
        let (at, disk) = (usize::from(member), self.disks.len());
        let was = self.current[at];
        let highest = self.labels.iter().map(|label| label.generation).max();
        let generation = highest.unwrap_or(0) + 1;
        note!(self, "member {member} is replaced, generation {generation}");
        let blank = vec![Mailbox::blank(); usize::from(self.config.controllers)];
        self.disks.push(blank.clone());
        self.durable.push(blank);
        self.dark_until_ns.push(0);
        self.labels.push(MemberDevice::replacement(generation));
        self.former[at].push(was);
        self.current[at] = disk;
        self.monitor.replaced(member);
        for host in 0..self.hosts.len() {
            self.give_device(host, member, None);
        }
        was
    }

    /// What `leasectl format --replace` asks for: the registers of each controller are known from a
    /// majority without the member, and each replacement so far is settled.
    fn may_replace(&self, member: u8) -> bool {
        let others: Vec<u8> = (0..self.config.members)
            .filter(|&it| it != member)
            .collect();
        let on = |it: u8| self.current[usize::from(it)];
        let is_known = |slot: usize| {
            let knows = |it: &&u8| {
                let mailbox = &self.disks[on(**it)][slot];
                let is_original = self.labels[on(**it)].original;
                mailbox.are_known(is_original)
            };
            let known = others.iter().filter(knows).count();
            known > usize::from(self.config.members / 2)
        };
        let is_settled = |it: u8| {
            let mailboxes = others.iter().flat_map(|&it| &self.disks[on(it)]);
            let label = self.labels[on(it)];
            let says = |BallotRecord { generations, .. }: BallotRecord| {
                generations.of(it) == label.generation && generations.is_settled(it)
            };
            label.original || mailboxes.filter_map(|it| it.ballot().valid()).any(says)
        };
        (0..usize::from(self.config.controllers)).all(is_known)
            && others.iter().all(|&it| is_settled(it))
    }

    /// A host gets a disk as a member, or loses the one that it has.
    pub fn give_device(&mut self, host: usize, member: u8, disk: Option<usize>) {
        self.devices[host][usize::from(member)] = disk;
        let device = disk.map(|disk| self.labels[disk]);
        note!(self, "C{} has {device:?} as member {member}", host + 1);
        let now_ns = self.local_ns(host);
        if let Some(controller) = self.hosts[host].controller.as_mut() {
            if device.is_some() {
                controller.forget_member(member, now_ns);
            }
            controller.handle_member(member, device);
        }
        self.drain(host);
    }

    /// A host gets the disk that a member is now, if it has another one or none.
    pub fn attach(&mut self, host: usize, member: u8) {
        let disk = self.current[usize::from(member)];
        if self.devices[host][usize::from(member)] != Some(disk) {
            self.give_device(host, member, Some(disk));
        }
    }

    /// A host that runs finds the disk of a member after a while, and perhaps a former one
    /// before that.
    fn find(&mut self, host: usize, member: u8) {
        let after_ns = self.rng.below(3000 * MS);
        self.after(after_ns, Event::Attach(host as u8, member));
        if let Some(disk) = self.returning(member) {
            self.give_device(host, member, Some(disk));
        }
    }

    /// A host that starts has the disks that the members are now, or a former one for a while.
    fn find_members(&mut self, host: usize) {
        for member in 0..self.config.members {
            let at = usize::from(member);
            let returning = self.returning(member);
            self.devices[host][at] = Some(returning.unwrap_or(self.current[at]));
            if returning.is_some() {
                let after_ns = self.rng.below(3000 * MS);
                self.after(after_ns, Event::Attach(host as u8, member));
            }
        }
    }

    /// A former disk of a member, if one comes back now.
    fn returning(&mut self, member: u8) -> Option<usize> {
        let former = self.former[usize::from(member)].last().copied()?;
        let returns = self.rng.chance(self.config.faults.returns);
        self.monitor.stats.returned += u64::from(returns);
        returns.then_some(former)
    }

    /// Everything that a member has acknowledged is written down.
    pub fn flush(&mut self, member: u8) {
        let disk = self.current[usize::from(member)];
        for (durable, cache) in self.durable[disk].iter_mut().zip(&self.disks[disk]) {
            durable.settle(cache);
        }
    }

    /// A member loses power: some of what it had acknowledged, and what is on its way. It is away
    /// for so long.
    pub fn cut_power(&mut self, member: u8, for_ns: u64) {
        note!(self, "member {member} loses power for {} ms", for_ns / MS);
        self.monitor.stats.power_cuts += 1;
        let at = self.current[usize::from(member)];
        for io in self.ios.iter_mut().filter(|io| io.disk == Some(at)) {
            if io.events > 0 {
                (io.ok, io.lost) = (false, true);
            }
        }
        for slot in 0..self.disks[at].len() {
            for side in Side::BOTH {
                let forgets = self.rng.chance(500);
                let mailbox = &mut self.disks[at][slot];
                if forgets && mailbox.forget(side, &self.durable[at][slot]) {
                    self.monitor.stats.reverted += 1;
                    self.forgetful |= 1 << member;
                }
            }
        }
        self.flush(member);
        self.dark_until_ns[at] = self.now_ns + for_ns;
    }

    fn complete(&mut self, io: usize) {
        let io = &mut self.ios[io];
        // A write that died with its host never arrived, and was never reported as done.
        let ok = io.ok && !io.lost;
        let (host, life, member) = (io.host, io.life, io.member);
        let is_current = io.disk == Some(self.current[usize::from(member)]);
        self.completions[host] += 1;
        let call = match &mut io.what {
            What::Write { payload, .. } => {
                if ok {
                    self.last_write_ns[host] = self.now_ns;
                }
                self.monitor
                    .completed(host, life, member, is_current, payload, ok, self.now_ns);
                Call::Written {
                    member,
                    register: payload.register(),
                    ok,
                }
            }
            What::Read { samples } => {
                let samples = std::mem::take(samples);
                if let Some(disk) = io.disk.filter(|_| ok) {
                    let disk = self.disks[disk].iter();
                    let is_old = disk
                        .zip(&samples)
                        .any(|(now, it)| now.version != it.version);
                    self.monitor.stats.old_reads += u64::from(is_old);
                    self.monitor.read_ok(host, life, member, io.issued_ns);
                }
                Call::Read {
                    member,
                    boxes: ok.then_some(Snapshot(samples)),
                }
            }
        };
        self.deliver_to(host as u8, life, call);
    }

    fn op(&mut self, host: usize, life: u32) {
        if self.hosts[host].life != life {
            return;
        }
        self.deliver(host, Call::Op);
        let next = self.rng.between(5 * MS, 45 * MS);
        self.after(next, Event::Op(host as u8, life));
    }

    /// A client's operation asks for a permit.
    fn try_op(&mut self, host: usize) {
        if self.enter(host) {
            self.tell_lapse(host);
        }
    }

    /// The host counts its permits, another processor's operation enters, and the lease ends.
    pub fn lapse_behind_the_count(&mut self, host: usize) {
        self.hosts[host].note_open();
        self.enter(host);
        self.tell_lapse(host);
        self.drain(host);
    }

    /// The state machine learns that the gate has seen the lease end.
    fn tell_lapse(&mut self, host: usize) {
        let now = self.hosts[host].reading(self.now_ns);
        self.hosts[host].call(&Call::Lapse, now);
    }

    /// An operation comes to the gate; whether it is the first to see the end of the lease.
    fn enter(&mut self, host: usize) -> bool {
        let it = &mut self.hosts[host];
        let gate_ns = it.gate_ns(self.now_ns);
        match it.gate.enter(Place::ONE, || gate_ns) {
            Admission::Granted(_) => {
                let (epoch, limit) = (it.gate.epoch(), it.gate.count().limit);
                let op = it.begin_op(epoch);
                self.monitor.admitted(host, op, epoch, limit, self.now_ns);
                // Here the host may stand still, with an operation that has passed the gate.
                let life = it.life;
                self.after(0, Event::OpGoes(host as u8, life, op));
                false
            }
            Admission::Full { .. } | Admission::Outlived { .. } => false,
            Admission::Refused { lapsed, .. } => lapsed,
        }
    }

    /// An operation leaves the host.
    fn op_goes(&mut self, host: usize, op: u64) {
        let window_ns = self.config.timing.window_ns;
        let takes_ns = match self.rng.chance(self.config.faults.stuck) {
            true => self.rng.below(3 * window_ns),
            false => self.rng.between(MS, 30 * MS),
        };
        let life = self.hosts[host].life;
        self.after(takes_ns, Event::OpLands(host as u8, life, op));
    }

    fn op_lands(&mut self, host: usize, op: u64, life: u32) {
        let lives = self.hosts[host].life == life;
        if self.monitor.landed(host, op, lives, self.now_ns) {
            note!(self, "C{} operation {op} is a STRAY", host + 1);
        }
        if lives {
            self.deliver(host, Call::OpDone(op));
        }
    }

    /// The host sees the end of an operation, and tells its user.
    fn op_done(&mut self, host: usize, op: u64) {
        let gate_ns = self.hosts[host].gate_ns(self.now_ns);
        let Some(answer) = self.hosts[host].end_op(op, gate_ns) else {
            return;
        };
        self.monitor.answered(host, op, answer.is_ok());
        if let Err(Lapsed(true)) = answer {
            self.tell_lapse(host);
        }
        self.tell_drained(host);
    }

    /// Once a second, things break.
    fn chaos(&mut self) {
        let faults = self.config.faults;
        for host in 0..self.hosts.len() {
            // No input comes between an action and its execution.
            let is_at_rest = self.hosts[host].held.is_none();
            if self.hosts[host].controller.is_some() && self.rng.chance(faults.crash) {
                self.crash(host);
                self.monitor.stats.crashes += 1;
                let life = self.hosts[host].life;
                let down_ns = self.rng.below(faults.down_ns);
                self.after(down_ns, Event::Restart(host as u8, life));
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
                    self.set_path(host, member, path);
                    self.monitor.stats.broken += 1;
                    self.after(for_ns, Event::Repair(host as u8, member));
                }
            }
            if is_at_rest && self.rng.chance(faults.command) {
                self.random_command(host);
            }
            if is_at_rest && self.rng.chance(faults.repair) {
                self.repair(host);
            }
            if self.rng.chance(faults.degrade) {
                self.degrade(host);
            }
            if self.rng.chance(faults.wrong) {
                self.wrong_word(host);
            }
            if self.rng.chance(faults.risk) {
                let epoch = self.epoch(host);
                let _ = self.command(host, Command::AcceptRisk { epoch });
            }
            if self.rng.chance(faults.steer) {
                let range_ppm = faults.steer_ppm;
                let rate_ppm = self.rng.below(2 * range_ppm + 1) as i64 - range_ppm as i64;
                self.steer(host, rate_ppm);
            }
            if self.rng.chance(faults.exchange) {
                self.exchange(host);
            }
            if faults.put_back > 0 {
                self.snapshots(host);
            }
        }
        for member in 0..self.config.members {
            self.bring_back(member);
            if self.rng.chance(faults.flush) {
                self.flush(member);
            }
            if self.rng.chance(faults.power) {
                let away_ns = self.rng.below(faults.broken_ns);
                self.cut_power(member, self.config.timing.window_ns + away_ns);
            }
            if self.rng.chance(faults.rewind) {
                self.rewind(member);
            }
            let may = faults.replace > 0 && self.rewound_ns == 0;
            if may && self.rng.chance(faults.replace) && self.may_replace(member) {
                let is_owned = self.owner().is_some();
                self.monitor.stats.replaced_owned += u64::from(is_owned);
                // `leasectl` flushes the members that it read.
                for other in (0..self.config.members).filter(|it| *it != member) {
                    self.flush(other);
                }
                self.replace(member);
                for host in 0..self.hosts.len() {
                    self.find(host, member);
                }
            }
        }
        self.past = self.disks.clone();
        for copy in usize::from(self.config.controllers)..self.hosts.len() {
            let original = usize::from(self.config.slot_of[copy]);
            if self.rng.chance(faults.copy) {
                self.copy(original, copy);
            }
            if self.rng.chance(faults.copy_owner) {
                self.copy_owner(original, copy);
            }
        }
        self.after(1000 * MS, Event::Chaos);
    }

    /// The clock of a host's timers runs faster than its lease clock by so much from now on.
    /// What is set already fires when it was to fire.
    pub fn steer(&mut self, host: usize, rate_ppm: i64) {
        note!(self, "C{} is steered by {rate_ppm} ppm", host + 1);
        self.hosts[host].steering.rate_ppm = rate_ppm;
        self.monitor.stats.steered += 1;
    }

    /// The kernel of a host exchanges the counter behind its clocks.
    pub fn exchange(&mut self, host: usize) {
        note!(self, "C{} gets another counter", host + 1);
        let source = &mut self.hosts[host].steering.source;
        *source = source.wrapping_add(1);
        self.monitor.stats.exchanged += 1;
    }

    /// A member goes back to its state of a second ago, if the rules can hold then: a majority
    /// stays as it is, and no promise of that second is lost.
    fn rewind(&mut self, member: u8) {
        // A replacement makes a member forget as well: one such fault in a run is enough.
        if self.former.iter().any(|disks| !disks.is_empty()) {
            return;
        }
        let at = usize::from(member);
        let mut slots = self.disks[at].iter().zip(&self.past[at]);
        let promises = slots.all(|(now, then)| now.promises_no_more_than(then));
        let rested = self.now_ns >= self.rewound_ns + 4 * self.config.timing.window_ns;
        if self.config.members < 3 || !promises || !rested {
            return;
        }
        note!(self, "member {member} goes back by a second");
        self.rewound_ns = self.now_ns;
        self.forgetful |= 1 << member;
        self.monitor.stats.rewound += 1;
        self.disks[at] = self.past[at].clone();
        self.durable[at] = self.past[at].clone();
    }

    /// The memory of a secondary that claims nothing begins to run on another host, too.
    fn copy(&mut self, original: usize, copy: usize) {
        let it = &self.hosts[original];
        let idle = it.role() == Role::Secondary && !it.claims && it.ops.is_empty();
        if self.is_quiet(original) && idle && self.hosts[copy].controller.is_none() {
            self.monitor.stats.copies += 1;
            self.begin_copy(original, copy);
        }
    }

    /// The memory of an owner begins to run on another host, too. What the owner has under way
    /// below its gate stays with it.
    fn copy_owner(&mut self, original: usize, copy: usize) {
        let owns = self.role(original) == Role::Owner && self.is_valid(original);
        if self.is_quiet(original) && owns && self.hosts[copy].controller.is_none() {
            self.monitor.stats.copied_owners += 1;
            self.begin_copy(original, copy);
            self.monitor.runs_twice(copy, self.now_ns);
            self.hypervisor_tells(copy);
        }
    }

    fn begin_copy(&mut self, original: usize, copy: usize) {
        self.start(copy);
        note!(self, "C{} is a copy of C{}", copy + 1, original + 1);
        // Its memory knows these devices by their numbers.
        self.devices[copy] = self.devices[original].clone();
        // What the copy writes over later records of the original looks the same.
        self.twins |= 1 << self.config.slot_of[copy];
        self.become_copy(original, copy);
    }

    /// Whether a host runs, and neither it nor a member has anything of it under way.
    fn is_quiet(&self, host: usize) -> bool {
        let flies = |io: &Io| io.host == host && (io.events > 0 || io.parked);
        let it = &self.hosts[host];
        let waits = it.is_stalled() || it.is_taken() || it.has_waiting(|_| true);
        it.controller.is_some() && !waits && !self.ios.iter().any(flies)
    }

    /// Takes a snapshot of a host's memory, or puts the host back to the last one.
    fn snapshots(&mut self, host: usize) {
        let chance = self.config.faults.put_back;
        if self.rng.chance(chance) {
            self.take_snapshot(host);
        } else if self.rng.chance(chance) {
            self.put_back(host);
        }
    }

    /// Takes a snapshot of a host's memory, if no transfer of the host is under way.
    pub fn take_snapshot(&mut self, host: usize) {
        if self.role(host) != Role::Failed && self.is_quiet(host) {
            note!(self, "a snapshot of C{}", host + 1);
            let image = self.hosts[host].snapshot(&self.config, host, self.now_ns);
            self.images[host] = Some((image, self.devices[host].clone()));
            self.monitor.remember(host);
        }
    }

    /// A host ends, and goes on with the memory, the clock and the disks of its snapshot.
    pub fn put_back(&mut self, host: usize) {
        let runs = self.hosts[host].controller.is_some();
        let Some((image, devices)) = self.images[host].take_if(|_| runs) else {
            return;
        };
        let after_ns = self.rng.below(1000 * MS);
        self.crash(host);
        self.start(host);
        note!(self, "C{} is put back to its snapshot", host + 1);
        self.hosts[host].put_back(&image, self.now_ns);
        self.monitor.stats.put_back += 1;
        let it = &self.hosts[host];
        let until_ns = match it.is_valid(self.now_ns) {
            true => it.clock.true_ns(it.gate.expiry_ns() - it.steering.leaps_ns),
            false => self.now_ns,
        };
        self.monitor.stats.put_back_owners += u64::from(until_ns > self.now_ns);
        self.monitor.put_back(host, it.life, until_ns, self.now_ns);
        // It finds records of its own that it does not remember.
        self.twins |= 1 << self.config.slot_of[host];
        self.devices[host] = devices;
        for member in 0..self.config.members {
            self.after(after_ns, Event::Attach(host as u8, member));
        }
        self.arm(host);
        self.hypervisor_tells(host);
    }

    /// The hypervisor may tell a host soon that it has the memory of another one.
    fn hypervisor_tells(&mut self, host: usize) {
        if self.rng.chance(self.config.faults.told) {
            let life = self.hosts[host].life;
            let after_ns = self.rng.below(200 * MS);
            self.after(after_ns, Event::Told(host as u8, life));
        }
    }

    /// A former disk of a member comes back at hosts that have the present one.
    fn bring_back(&mut self, member: u8) {
        let Some(former) = self.former[usize::from(member)].last().copied() else {
            return;
        };
        for host in 0..self.hosts.len() {
            let is_at_rest = !self.hosts[host].is_taken();
            if is_at_rest && self.rng.chance(self.config.faults.returns / 10) {
                self.monitor.stats.returned += 1;
                let after_ns = self.rng.below(3000 * MS);
                self.after(after_ns, Event::Attach(host as u8, member));
                self.give_device(host, member, Some(former));
            }
        }
    }

    /// A host that has just started has the memory and the clock of another one.
    pub fn become_copy(&mut self, original: usize, copy: usize) {
        let (first, second) = match original < copy {
            true => self.hosts.split_at_mut(copy),
            false => panic!("a copy is behind its original"),
        };
        let (from, to) = (&first[original], &mut second[0]);
        to.remember(from);
        self.monitor.copied(original, copy, to.life);
        self.arm(copy);
    }

    /// An operator repairs the damage of earlier terms, if the host accepts that. An operator that
    /// is wrong about a death does not also say that operations under way are repaired.
    fn repair(&mut self, host: usize) {
        let owns = self.hosts[host].role() == Role::Owner && !self.is_deceived(host);
        if let Some(epoch) = self.epoch(host).checked_sub(1).filter(|_| owns) {
            let _ = self.command(host, Command::Repaired { epoch });
        }
    }

    /// Members fail or come back.
    fn degrade(&mut self, host: usize) {
        let failures = self.config.redundancy.kind.failures().unwrap_or(0);
        let failed = self.rng.below(u64::from(failures) + 1) as u32;
        if !self.hosts[host].is_stalled() {
            self.set_failed(host, failed);
        }
    }

    /// So many members are failed or rebuilding, as a host sees it.
    pub fn set_failed(&mut self, host: usize, failed: u32) {
        if let Some(controller) = self.hosts[host].controller.as_mut() {
            note!(self, "C{} has {failed} members failed", host + 1);
            controller.set_batch(Some(LIMIT));
            let _ = self.command(host, Command::Degraded { failed });
        }
    }

    /// Whether a host counts a term as drained on an operator's word alone, and wrongly.
    fn is_deceived(&self, host: usize) -> bool {
        let controller = self.hosts[host].controller.as_ref();
        let wrong = |charge: Charge| charge.vouched && self.monitor.is_open(charge.epoch);
        controller.is_some_and(|controller| controller.charges().iter().any(wrong))
    }

    /// An operator says that a controller is dead which is not: of the present owner only where
    /// that is believed, since with `force` two may own; of one that is charged also with `force`.
    fn wrong_word(&mut self, host: usize) {
        let Some(controller) = self.hosts[host].controller.as_ref() else {
            return;
        };
        let decided = controller.decided();
        let charged = controller.charges().iter().find(|charge| !charge.drained);
        let (owner, epoch, force) = match (charged, decided.value) {
            (Some(charge), _) if charge.epoch < decided.epoch => {
                (charge.slot, charge.epoch, self.rng.chance(500))
            }
            (_, Some(value)) => (value.slot, decided.epoch, false),
            _ => return,
        };
        let command = Command::ConfirmDead {
            owner,
            epoch,
            force,
        };
        match self.command(host, command) {
            Ok(_) => self.monitor.stats.wrong_words += 1,
            Err(_) => self.monitor.stats.refused_words += 1,
        }
    }

    fn random_command(&mut self, host: usize) {
        let deadline_ns = self.local_ns(host) + 200 * MS;
        let other = self.rng.below(u64::from(self.config.controllers)) as u8;
        let successor = self.rng.chance(500).then(|| Slot::new(other)).flatten();
        let command = match self.rng.below(5) {
            0 | 1 => Command::Release {
                successor,
                deadline_ns,
            },
            2 => Command::Fence(Reason::Fence),
            3 => self.confirm_dead(host).unwrap_or(Command::Claim),
            _ => Command::Claim,
        };
        // It may well be refused.
        let _ = self.command(host, command);
    }

    /// An honest operator confirms the death of an owner whose host is off.
    fn confirm_dead(&self, host: usize) -> Option<Command> {
        let controller = self.hosts[host].controller.as_ref()?;
        let decided = controller.decided();
        let charged = controller.charges().iter().find(|charge| !charge.drained);
        let (owner, inc, epoch) = match charged {
            Some(charge) => (charge.slot, charge.inc, charge.epoch),
            None => (decided.value?.slot, decided.value?.inc, decided.epoch),
        };
        let runs = |it: &Host| it.controller.is_some() && it.inc == inc.0;
        let dead = !self.hosts.iter().any(runs) && !self.monitor.is_open(epoch);
        dead.then_some(Command::ConfirmDead {
            owner,
            epoch,
            force: false,
        })
    }

    /// Nothing goes wrong any more: paths heal, hosts run.
    pub fn heal(&mut self) {
        note!(self, "--- faults end ---");
        self.config.faults = Faults::default();
        for host in 0..self.hosts.len() {
            for member in 0..self.config.members {
                self.set_path(host, member, Path::Up);
                self.attach(host, member);
            }
            self.hosts[host].steering.rate_ppm = 0;
            // An operator switches the copies off, and maps the devices of failed controllers
            // again.
            let is_copy = host >= usize::from(self.config.controllers);
            let runs = self.hosts[host].controller.is_some();
            if runs && (is_copy || self.role(host) == Role::Failed) {
                self.crash(host);
            }
            if self.hosts[host].controller.is_none() && !is_copy {
                self.start(host);
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

/// What the disks say that they are at the beginning.
fn labels(config: &Config) -> Vec<MemberDevice> {
    let label = |member: u8| match config.originals & (1 << member) != 0 {
        true => MemberDevice::ORIGINAL,
        false => MemberDevice::replacement(2),
    };
    (0..config.members).map(label).collect()
}

fn brief(what: &What) -> String {
    match what {
        What::Write {
            side,
            payload: Payload::Ballot(record),
            ..
        } => format!(
            "ballot {side:?} seq {} dec {} mbal {} bal {}",
            record.seq, record.dec.epoch, record.mbal.round, record.bal.round
        ),
        What::Write {
            side,
            payload: Payload::Heartbeat(record),
            ..
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
