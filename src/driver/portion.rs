// SPDX-License-Identifier: GPL-2.0

//! A session: one controller on one portion.
//!
//! A session is shared by all tables of the portion in this controller, so that a reload does not
//! lose the lease. It has the machine of [`crate::proto::controller`], the gate, and the threads
//! that carry out what the machine wants:
//!
//! ```text
//!   created by the first constructor -> started by the first resume -> complete: all members here
//!        |                                    |                             |
//!        +-- last destructor ends it <--------+<-- first member removed: ---+
//!                                                  the portion is released [R34]
//! ```
//!
//! Each member that was ever attached stays open until the session ends, so that what is released
//! is written to a majority while one device after the other is removed.
//!
//! Locking: see [`crate::driver`]. The machine is only ever touched with its mutex held, and after
//! each event all its actions are carried out before the mutex is released ([`Session::pump`]).

use super::{
    bell::{Bell, Reasons},
    gate::PortionGate,
    heart::Heart,
    mailbox::{Decoded, Mailbox, Which},
    registry::JoinError,
    report,
};
use crate::{
    dm::{clock, BlockDevice, Context, DevT, Priority, TargetHandle, Thread, WaitQueue},
    proto::{
        controller::{Action, Command, Controller, Outcome, Setup, Transition},
        layout::MAX_MEMBERS,
        limit::Limit,
        record::{Incarnation, Register, Slot},
        status::{Reason, Role, Status},
        superblock::{Mismatch, Superblock},
        time::NS_PER_MS, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        Mutex, //
    },
};

/// How long a release may wait for permits, at most; a message may delay a suspend by this much.
const RELEASE_NS: u64 = 700 * NS_PER_MS;

/// How much longer it may take to publish it.
const PUBLISH_NS: u64 = 250 * NS_PER_MS;

/// Shortest sleep of the portion thread, so that no clock can make a real-time thread spin.
const NAP_NS: u64 = 100_000;

/// One mapped device that is live.
pub struct Table {
    /// Tells tables apart: each instance has its own number.
    pub id: u64,
    /// The member it maps.
    pub member: u8,
    /// Whether the member was formatted as a replacement of another.
    pub replacement: bool,
    /// Whether its openers cache nothing.
    pub stateless: bool,
    /// Whether it was loaded read-only.
    pub read_only: bool,
    /// Whether it claims by itself.
    pub claim_auto: bool,
    /// A lower limit of open permits.
    pub batch: Option<u32>,
    /// How to reach it.
    pub handle: TargetHandle,
}

/// The live tables and what runs for them.
struct Tables {
    live: KVec<Table>,
    threads: KVec<Thread>,
    /// Which device each member was found on.
    devices: [Option<DevT>; MAX_MEMBERS as usize],
    /// Members failed or rebuilding, as the operator said.
    degraded: u8,
}

struct Machine {
    controller: KBox<Controller>,
    decoded: Decoded,
    answer: Option<Result<(), Reason>>,
}

/// A session; see the top.
#[pin_data]
pub struct Session {
    /// What is the same on all members.
    pub superblock: Superblock,
    /// The controller.
    pub controller: Slot,
    /// Its timer.
    pub heart: Arc<Heart>,
    /// The gate.
    #[pin]
    pub gate: PortionGate,
    bell: Arc<Bell>,
    dispatcher: Arc<Bell>,
    mailboxes: KVec<Arc<Mailbox>>,
    /// Set when a dm event is due; the herald thread clears it.
    event: Atomic<bool>,
    /// The user was told that openers are in the way.
    told_stale: Atomic<bool>,
    /// The machine has answered the command that was pending.
    has_answer: Atomic<bool>,
    /// Who raises events.
    herald: Arc<Bell>,
    #[pin]
    command: Mutex<()>,
    #[pin]
    tables: Mutex<Tables>,
    #[pin]
    machine: Mutex<Machine>,
    #[pin]
    answered: WaitQueue,
}

impl Session {
    /// A session that is not started.
    pub fn new(
        superblock: Superblock,
        heart: Arc<Heart>,
        boot_id: [u8; 16],
        herald: Arc<Bell>,
    ) -> Result<Arc<Self>> {
        let controller = heart.controller;
        let bell = Arc::pin_init(Bell::new(), GFP_KERNEL)?;
        let dispatcher = Arc::pin_init(Bell::new(), GFP_KERNEL)?;
        let mut mailboxes = KVec::with_capacity(usize::from(superblock.members), GFP_KERNEL)?;
        for member in 0..superblock.members {
            let controllers = superblock.controllers;
            let mailbox = Mailbox::new(
                superblock.uuid,
                member,
                controller,
                controllers,
                bell.clone(),
            )?;
            mailboxes.push(mailbox, GFP_KERNEL)?;
        }
        let limit = superblock.redundancy.limit(0, 0, None).to_wire();
        let setup = setup(&superblock, &heart, boot_id, limit);
        let machine = Machine {
            controller: KBox::new(Controller::new(setup), GFP_KERNEL)?,
            decoded: Decoded::new(superblock.controllers)?,
            answer: None,
        };
        let tables = Tables {
            live: KVec::new(),
            threads: KVec::new(),
            devices: [None; MAX_MEMBERS as usize],
            degraded: 0,
        };
        let gate = PortionGate::new(
            &superblock,
            controller,
            limit,
            bell.clone(),
            dispatcher.clone(),
        );
        Arc::pin_init(
            pin_init!(Self {
                superblock,
                controller,
                heart,
                gate <- gate,
                bell,
                dispatcher,
                mailboxes,
                event: Atomic::new(false),
                told_stale: Atomic::new(false),
                has_answer: Atomic::new(false),
                herald,
                command <- new_mutex!((), "dm_lease command"),
                tables <- new_mutex!(tables, "dm_lease tables"),
                machine <- new_mutex!(machine, "dm_lease machine"),
                answered <- crate::dm::thread::new_wait_queue!("dm_lease answer"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether a member with this superblock, found on `device`, belongs to the session [R39].
    ///
    /// # Errors
    ///
    /// What is different, or that another device is this member.
    pub fn check_member(&self, superblock: &Superblock, device: DevT) -> Result<(), JoinError> {
        match self.superblock.fits(superblock) {
            Ok(()) | Err(Mismatch::SameIndex) => {}
            Err(mismatch) => return Err(JoinError::Mismatch(mismatch)),
        }
        let index = usize::from(superblock.member);
        let known = self.tables.lock().devices.get(index).copied().flatten();
        match known.is_some_and(|known| known != device) {
            true => Err(JoinError::Taken),
            false => Ok(()),
        }
    }

    /// A table became live. The first one starts the session.
    pub fn attach(self: &Arc<Self>, table: Table, device: Arc<BlockDevice>) -> Result {
        let (member, replacement) = (table.member, table.replacement);
        let mailbox = self.mailboxes.get(usize::from(member)).ok_or(EINVAL)?;
        let mut tables = self.tables.lock();
        if tables.live.iter().any(|known| known.id == table.id) {
            return Ok(());
        }
        tables.live.reserve(1, GFP_KERNEL)?;
        if tables.threads.is_empty() {
            self.start(&mut tables)?;
        }
        let _ = tables.live.push_within_capacity(table);
        if let Some(known) = tables.devices.get_mut(usize::from(member)) {
            *known = Some(device.devt());
        }
        mailbox.set_device(device);
        self.apply(&tables, |controller| {
            controller.handle_member(member, true, !replacement);
            let _ = controller.handle_command(Command::Stay, clock::boottime_ns());
        });
        drop(tables);
        self.bell.ring(Reasons::CHANGE);
        Ok(())
    }

    /// A table goes away. When it was the last of its member the portion is released; when it was
    /// the last of all, the session stops.
    pub fn detach(self: &Arc<Self>, id: u64) {
        let mut tables = self.tables.lock();
        let gone = tables
            .live
            .iter()
            .find(|table| table.id == id)
            .map(|table| table.member);
        tables.live.retain(|table| table.id != id);
        let Some(member) = gone else { return };
        let replaced = tables.live.iter().any(|table| table.member == member);
        self.apply(&tables, |_| {});
        drop(tables);
        if !replaced {
            self.leave(Reason::Removed);
        }
        self.stop_if_idle();
    }

    /// Gives the portion up and does not claim it again before [`Session::stay`]: cleanly if that
    /// is possible within a bounded time, by latching otherwise.
    pub fn leave(&self, reason: Reason) {
        let _serial = self.command.lock();
        let deadline_ns = clock::boottime_ns().saturating_add(RELEASE_NS);
        let released = self.run(Command::Leave {
            reason,
            deadline_ns,
        });
        if let Err(refusal) = released {
            report::not_released(self, reason, refusal);
        }
        self.submit(Command::Fence(reason)).ok();
    }

    /// Claims again, if the tables say so.
    pub fn stay(&self) {
        self.submit(Command::Stay).ok();
    }

    /// Carries out a command and waits for its end, for less than a second.
    ///
    /// # Errors
    ///
    /// Why it was refused, or [`Reason::ReleaseTimeout`].
    pub fn command(&self, command: Command) -> Result<(), Reason> {
        let _serial = self.command.lock();
        self.run(command)
    }

    /// Hands the portion to `successor`, or to anybody.
    pub fn release(&self, successor: Option<Slot>) -> Result<(), Reason> {
        let deadline_ns = clock::boottime_ns().saturating_add(RELEASE_NS);
        self.command(Command::Release {
            successor,
            deadline_ns,
        })
    }

    /// Sets how many members are failed or rebuilding [R14].
    pub fn degraded(&self, failed: u8) {
        let mut tables = self.tables.lock();
        tables.degraded = failed;
        self.apply(&tables, |_| {});
    }

    /// Tells the machine that the timer has another period.
    pub fn period_changed(&self) {
        let period_ns = self.heart.period_ns();
        let mut machine = self.machine.lock();
        machine.controller.set_period(period_ns);
    }

    /// Whether a dm event is due; clears it.
    pub fn take_event(&self) -> bool {
        self.event.xchg(false, ordering::Full)
    }

    /// Raises an event of each live table, and looks who has one open. Called by the herald
    /// thread only: events may wait for memory that is written back through this very portion.
    pub fn herald(&self) {
        if self.take_event() {
            for handle in self.handles(|_| true) {
                handle.event();
            }
        }
        let waits = self.machine.lock().controller.waits_for_openers();
        if let Some(epoch) = waits {
            self.look_for_openers(epoch);
        }
    }

    /// The status of one of its tables.
    pub fn status(&self, member: u8) -> Status<'_> {
        let machine = self.machine.lock();
        let controller = &machine.controller;
        let decided = controller.decided();
        let count = self.gate.count();
        let role = controller.role();
        let now_ns = clock::boottime_ns();
        let left_ns = self
            .gate
            .expiry_ns()
            .checked_sub(now_ns)
            .filter(|&left| left > 0);
        Status {
            portion: self.superblock.name.as_str(),
            member,
            members: self.superblock.members,
            role,
            epoch: (decided.epoch > 0 && role != Role::Joining).then_some(decided.epoch),
            owner: decided.value.map(|value| value.slot),
            lease_ms_left: left_ns.and_then(|left| left.checked_div(NS_PER_MS)),
            heartbeat_seq: Some(controller.heartbeats()).filter(|&hb| hb > 0),
            open: count.open,
            limit: Limit::from_wire(controller.limit()),
            pending: self.gate.pending(),
            refused: self.gate.refused(),
            late: self.gate.late(),
            members_ok: controller.members_ok() as u8,
            reason: controller.reason(),
        }
    }

    /// Handles to the live tables for which `wanted` holds.
    fn handles(&self, wanted: impl Fn(&Table) -> bool) -> KVec<TargetHandle> {
        let tables = self.tables.lock();
        let mut handles = KVec::new();
        for table in tables.live.iter().filter(|table| wanted(table)) {
            // Without memory an event is late; the next one tells the same.
            let _ = handles.push(table.handle.clone(), GFP_KERNEL);
        }
        handles
    }

    /// Somebody who had a device open before another controller's epoch may write back what is no
    /// longer true: nothing is claimed until nobody has one open [R31].
    fn look_for_openers(&self, epoch: u64) {
        let handles = self.handles(|table| !table.stateless);
        let open = |handle: &TargetHandle| handle.with(|ti| ti.open_count() > 0) == Some(true);
        if handles.iter().any(open) {
            if !self.told_stale.xchg(true, ordering::Full) {
                report::blocked(self, Reason::StaleOpeners);
                self.raise_event();
            }
            return;
        }
        let _ = self.told_stale.xchg(false, ordering::Full);
        self.apply(&self.tables.lock(), |controller| {
            controller.openers_gone(epoch)
        });
        self.bell.ring(Reasons::CHANGE);
    }

    /// Starts the threads and listens to the heart.
    fn start(self: &Arc<Self>, tables: &mut Tables) -> Result {
        let mut threads: KVec<Thread> = KVec::new();
        for mailbox in &self.mailboxes {
            let mailbox = mailbox.clone();
            let body = move |context: &Context| mailbox.submit_loop(context);
            threads.push(
                Thread::spawn(c"dm_lease_io", Priority::Realtime, body)?,
                GFP_KERNEL,
            )?;
        }
        let session = self.clone();
        let body = move |context: &Context| session.dispatch_loop(context);
        threads.push(
            Thread::spawn(c"dm_lease_bios", Priority::RealtimeLow, body)?,
            GFP_KERNEL,
        )?;
        let session = self.clone();
        let body = move |context: &Context| session.portion_loop(context);
        threads.push(
            Thread::spawn(c"dm_lease", Priority::Realtime, body)?,
            GFP_KERNEL,
        )?;
        self.heart.add(self.bell.clone())?;
        tables.threads = threads;
        Ok(())
    }

    /// Stops the timer and the threads when no table is live. Transfers that hang stay with their
    /// device.
    fn stop_if_idle(&self) {
        let mut tables = self.tables.lock();
        if !tables.live.is_empty() {
            return;
        }
        self.heart.remove(&self.bell);
        let threads = core::mem::take(&mut tables.threads);
        drop(tables);
        drop(threads);
    }

    /// The body of the portion thread: feeds the machine.
    fn portion_loop(&self, context: &Context) {
        let mut deadline_ns = None;
        while let Some(reasons) = self.bell.wait(context, deadline_ns) {
            let mut machine = self.machine.lock();
            machine.controller.note_open(self.gate.count().open);
            self.take_completions(&mut machine);
            if reasons.contains(Reasons::TICK) {
                machine.controller.handle_tick(clock::boottime_ns());
                self.pump(&mut machine);
            }
            self.watch_gate(&mut machine);
            machine.controller.handle_timeout(clock::boottime_ns());
            self.pump(&mut machine);
            deadline_ns = machine.controller.poll_timeout_ns();
            let waits_for_openers = machine.controller.waits_for_openers().is_some();
            drop(machine);
            if waits_for_openers && reasons.contains(Reasons::TICK) {
                self.herald.ring(Reasons::CHANGE);
            }
            let soonest_ns = clock::boottime_ns().saturating_add(NAP_NS);
            deadline_ns = deadline_ns.map(|at| at.max(soonest_ns));
        }
    }

    /// The body of the dispatcher thread.
    fn dispatch_loop(&self, context: &Context) {
        let mut deadline_ns = None;
        while self.dispatcher.wait(context, deadline_ns).is_some() {
            deadline_ns = self.gate.dispatch();
        }
    }

    /// Tells the machine of every mailbox transfer that has ended.
    fn take_completions(&self, machine: &mut Machine) {
        for mailbox in &self.mailboxes {
            while let Some((which, buf, ok)) = mailbox.take_done() {
                let member = mailbox.member;
                if which == Which::Read && ok {
                    machine
                        .decoded
                        .fill(mailbox, &buf, self.superblock.controllers);
                }
                mailbox.put_idle(which, buf);
                let Machine {
                    controller,
                    decoded,
                    ..
                } = &mut *machine;
                // The clock is read after the transfer was seen to have ended.
                let now_ns = clock::boottime_ns();
                match which {
                    Which::Ballot => controller.handle_write(member, Register::Ballot, ok, now_ns),
                    Which::Heartbeat => {
                        controller.handle_write(member, Register::Heartbeat, ok, now_ns)
                    }
                    Which::Read => controller.handle_read(member, ok.then_some(&*decoded), now_ns),
                }
                self.pump(machine);
            }
        }
    }

    /// Tells the machine what the gate has seen.
    fn watch_gate(&self, machine: &mut Machine) {
        let now_ns = clock::boottime_ns();
        if machine.controller.expiry_ns().is_some() && self.gate.expiry_ns() == 0 {
            machine.controller.handle_lapse(now_ns);
        }
        if self.gate.is_drained() {
            machine.controller.handle_drained(now_ns);
        }
        self.pump(machine);
    }

    /// Carries out everything that the machine wants done, in order.
    fn pump(&self, machine: &mut Machine) {
        while let Some(action) = machine.controller.poll_action() {
            match action {
                Action::OpenEpoch { epoch, expiry_ns } => {
                    if !self.gate.open_epoch(epoch, expiry_ns) {
                        machine.controller.handle_lapse(clock::boottime_ns());
                    }
                }
                Action::Extend { from_ns, to_ns } => {
                    if !self.gate.extend(from_ns, to_ns) {
                        machine.controller.handle_lapse(clock::boottime_ns());
                    }
                }
                Action::Latch => self.gate.latch(),
                Action::SetLimit(limit) => self.set_limit(machine, limit),
                Action::Transition(transition) => self.tell(&transition),
                Action::Heartbeat(beat) => report::heartbeat(self, &beat),
                Action::Answer(answer) => {
                    machine.answer = Some(answer);
                    let _ = self.has_answer.xchg(true, ordering::Full);
                    self.answered.wake_all();
                }
                io => self.begin_io(machine, io),
            }
        }
    }

    fn set_limit(&self, machine: &mut Machine, limit: u32) {
        self.gate.set_limit(limit);
        if self.gate.is_drained() {
            machine.controller.handle_drained(clock::boottime_ns());
        }
    }

    /// Hands a transfer to its member's thread; what cannot be handed over has failed.
    fn begin_io(&self, machine: &mut Machine, action: Action) {
        let now_ns = clock::boottime_ns();
        let mailbox = |member: u8| self.mailboxes.get(usize::from(member));
        match action {
            Action::WriteBallot {
                member,
                side,
                record,
            } => {
                if !mailbox(member).is_some_and(|m| m.write_ballot(side, &record)) {
                    machine
                        .controller
                        .handle_write(member, Register::Ballot, false, now_ns);
                }
            }
            Action::WriteHeartbeat {
                member,
                side,
                fua,
                record,
            } => {
                if !mailbox(member).is_some_and(|m| m.write_heartbeat(side, fua, &record)) {
                    machine
                        .controller
                        .handle_write(member, Register::Heartbeat, false, now_ns);
                }
            }
            Action::Read { member } => {
                if !mailbox(member).is_some_and(|m| m.read_all()) {
                    machine
                        .controller
                        .handle_read::<Decoded>(member, None, now_ns);
                }
            }
            _ => {}
        }
    }

    /// One log line, one tracepoint, one event for each transition [R47].
    fn tell(&self, transition: &Transition) {
        report::transition(self, transition);
        self.raise_event();
    }

    fn raise_event(&self) {
        let _ = self.event.xchg(true, ordering::Full);
        self.herald.ring(Reasons::CHANGE);
    }

    /// Lets `change` change the machine, and what follows from the tables with it.
    fn apply(&self, tables: &Tables, change: impl FnOnce(&mut Controller)) {
        let live = || tables.live.iter();
        let batch = live().filter_map(|table| table.batch).min();
        let failed = u32::from(tables.degraded);
        let limit = self.superblock.redundancy.limit(failed, 0, batch).to_wire();
        let read_only = live().count() > 0 && live().all(|table| table.read_only);
        let mut machine = self.machine.lock();
        let controller = &mut machine.controller;
        controller.set_claim_auto(live().any(|table| table.claim_auto));
        controller.set_guarded(live().any(|table| !table.stateless));
        let unable = read_only || !self.superblock.may_own();
        controller.set_blocked(unable.then_some(Reason::ReadOnly));
        if controller.limit() != limit {
            controller.set_limit(limit);
        }
        change(controller);
        self.pump(&mut machine);
    }

    /// Gives a command to the machine and carries out what follows at once.
    fn submit(&self, command: Command) -> Result<Outcome, Reason> {
        let mut machine = self.machine.lock();
        machine.answer = None;
        let _ = self.has_answer.xchg(false, ordering::Full);
        machine.controller.note_open(self.gate.count().open);
        let outcome = machine
            .controller
            .handle_command(command, clock::boottime_ns());
        self.pump(&mut machine);
        outcome
    }

    /// Gives a command to the machine and waits for its end. The caller holds `command`.
    fn run(&self, command: Command) -> Result<(), Reason> {
        let outcome = self.submit(command)?;
        self.bell.ring(Reasons::CHANGE);
        if outcome == Outcome::Done {
            return Ok(());
        }
        let deadline_ns = clock::boottime_ns().saturating_add(RELEASE_NS + PUBLISH_NS);
        self.answered
            .wait_until(deadline_ns, || self.has_answer.load(ordering::Acquire));
        let answer = self.machine.lock().answer.take();
        answer.unwrap_or(Err(Reason::ReleaseTimeout))
    }
}

/// What the machine is given at the start.
fn setup(superblock: &Superblock, heart: &Heart, boot_id: [u8; 16], limit: u32) -> Setup {
    Setup {
        slot: heart.controller,
        inc: Incarnation(clock::random_u128()),
        boot_id,
        members: superblock.members.min(MAX_MEMBERS),
        originals: u16::MAX,
        slots: superblock.controllers,
        home: superblock.home,
        timing: superblock.timing,
        period_ns: heart.period_ns(),
        limit,
        claim_auto: false,
    }
}
