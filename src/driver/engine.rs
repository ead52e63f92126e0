// SPDX-License-Identifier: GPL-2.0

//! The engine of a session: it runs the state machine.
//!
//! The portion thread owns the [`Engine`], so no other thread can touch the state machine. Inputs
//! are ticks, completions, deadlines, and the requests of tasks, which come through the
//! [`super::inbox`]. After each input the engine performs all actions of the state machine in
//! order. After a request, and at the end of each step, it publishes a new [`View`]. A gate whose
//! lease ended is *latched*: it admits nothing until the next lease. If the gate was latched, the
//! engine then refuses the bios that wait there: they fail, or are held back for `lapse_hold_ms`.
//! It does so after the view was published, because failing a bio runs the completions of all
//! layers above, which can take long.
//!
//! The portion thread waits for nothing but its waker. It takes no lock whose holder can be
//! preempted [R61], allocates nothing, and prints nothing. The event thread prints and raises
//! events, so that a slow console cannot delay a heartbeat [R44].
//!
//! Other threads see the engine through [`Shared`].

use super::{
    gate::PortionGate,
    inbox::{Inbox, Reply, Request, Settings},
    mailbox::{Decoded, Mailbox, Transfer},
    report::{self, Identity},
    timer::HeartbeatTimer,
    view::{Published, View},
    waker::{Reasons, Waker},
};
use crate::{
    dm::{clock, Context},
    proto::{
        clocks::Now,
        codec::{
            ids::{Incarnation, Register, Slot, MAX_MEMBERS},
            superblock::Superblock, //
        },
        controller::{
            Action, Command, Controller, GateChange, Heartbeat, MailboxIo, Notice, Outcome, Setup,
        },
        gate::reign::Reign,
        histogram::Report,
        time::Timing,
        words::status::Reason, //
    },
};
use core::mem::MaybeUninit;
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{Arc, SpinLockIrq},
};

/// The portion thread sleeps at least this long unless it is woken. This keeps a real-time thread
/// from spinning, whatever a clock says.
const NAP_NS: u64 = 100_000;

/// The state machine of a session, with everything it needs to run. The portion thread owns it.
pub struct Engine {
    /// What other threads use too.
    pub shared: Arc<Shared>,
    machine: KBox<Controller>,
    /// The terms of this controller that follow each other without a foreign term in between.
    reign: Reign,
    /// The slots of the portion, a bit each.
    slots: u64,
    decoded: Decoded,
    /// The answer to the pending command, until it is passed on.
    answer: Option<Result<(), Reason>>,
    /// The gate was latched, and the bios that wait there must be refused.
    latched: bool,
    /// No table is live, so ticks and deadlines are ignored.
    rests: bool,
}

/// The parts of an engine that other threads use.
#[pin_data]
pub struct Shared {
    /// The controller and the portion.
    pub identity: Identity,
    /// The heartbeat timer of the controller.
    pub timer: Arc<HeartbeatTimer>,
    /// The gate.
    pub gate: Arc<PortionGate>,
    /// For each member, the I/O to all mailboxes on it.
    pub mailboxes: KVec<Arc<Mailbox>>,
    /// The requests of tasks.
    #[pin]
    pub inbox: Inbox,
    /// The waker of the portion thread.
    pub waker: Arc<Waker>,
    event_waker: Arc<Waker>,
    #[pin]
    published: SpinLockIrq<Published>,
}

impl Shared {
    /// The last published view.
    pub fn view(&self) -> View {
        self.published.lock().view
    }

    /// Takes the oldest notice that was not reported yet.
    pub fn take_notice(&self) -> Option<Notice> {
        self.published.lock().pop()
    }

    /// The statistics of heartbeats and checks since the session began.
    pub fn histogram(&self, timing: &Timing) -> Report {
        let beats = *self.published.lock().beats;
        Report {
            lease_ns: timing.lease_ns,
            window_ns: timing.window_ns,
            period_ns: self.timer.period_ns(),
            lost: beats.lost,
            latency: beats.latency,
            margin: beats.margin,
            check: self.gate.checks(),
        }
    }

    /// Latches the gate at once. The portion thread learns the reason later.
    pub fn latch_now(&self, reason: Reason) {
        self.inbox.announce_latch(reason);
        self.gate.latch();
        self.waker.wake(Reasons::LAPSE);
    }

    /// Adds a notice for the event thread, which reports it [R47].
    fn queue(&self, notice: Notice) {
        self.published.lock().push(notice);
        self.event_waker.wake(Reasons::CHANGE);
    }
}

/// Makes a controller in place. It is large, so it must not be moved over the stack.
#[inline(never)]
fn fill(place: KBox<MaybeUninit<Controller>>, setup: Setup) -> KBox<Controller> {
    let mut machine = KBox::write(place, Controller::UNCONFIGURED);
    machine.set_up(setup);
    machine
}

/// What the state machine is given at the start.
fn setup(superblock: &Superblock, timer: &HeartbeatTimer, boot_id: [u8; 16]) -> Setup {
    Setup {
        slot: timer.controller,
        inc: Incarnation(clock::random_u128()),
        boot_id,
        members: superblock.members.min(MAX_MEMBERS),
        originals: u16::MAX,
        slots: superblock.controllers,
        home: superblock.home,
        timing: superblock.timing,
        period_ns: timer.period_ns(),
        redundancy: superblock.redundancy,
        batch: None,
        claim_auto: false,
    }
}

/// Allocates the mailboxes of all members.
fn mailboxes(
    superblock: &Superblock,
    own: Slot,
    portion_waker: &Arc<Waker>,
) -> Result<KVec<Arc<Mailbox>>> {
    let mut mailboxes = KVec::with_capacity(usize::from(superblock.members), GFP_KERNEL)?;
    for member in 0..superblock.members {
        let (uuid, slots) = (superblock.uuid, superblock.controllers);
        let mailbox = Mailbox::new(uuid, member, own, slots, portion_waker.clone())?;
        mailboxes.push(mailbox, GFP_KERNEL)?;
    }
    Ok(mailboxes)
}

impl Engine {
    /// An engine that rests: no table is live. Allocates.
    pub fn new(
        superblock: &Superblock,
        timer: Arc<HeartbeatTimer>,
        boot_id: [u8; 16],
        event_waker: Arc<Waker>,
    ) -> Result<Self> {
        let waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        let mailboxes = mailboxes(superblock, timer.controller, &waker)?;
        let decoded = Decoded::new(superblock.controllers)?;
        let place = KBox::new_uninit(GFP_KERNEL)?;
        let machine = fill(place, setup(superblock, &timer, boot_id));
        let published = Published::new(View::of(&machine))?;
        let identity = Identity::new(superblock, timer.controller);
        let gate = PortionGate::new(superblock, timer.controller, waker.clone())?;
        let gate = Arc::pin_init(gate, GFP_KERNEL)?;
        let shared = Arc::pin_init(
            pin_init!(Shared {
                identity,
                timer,
                gate,
                mailboxes,
                inbox <- Inbox::new(waker.clone()),
                waker,
                event_waker,
                published <- new_spinlock_irq!(published, "dm_lease published"),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            shared,
            machine,
            reign: Reign::default(),
            slots: superblock.controllers,
            decoded,
            answer: None,
            latched: false,
            rests: true,
        })
    }

    /// The body of the portion thread.
    pub fn run(mut self, context: &Context) {
        let shared = self.shared.clone();
        let mut deadline_ns = None;
        while let Some(reasons) = shared.waker.wait(context, deadline_ns) {
            let next_ns = self.step(reasons);
            if reasons.contains(Reasons::TICK) && shared.view().stale_epoch.is_some() {
                shared.event_waker.wake(Reasons::CHANGE);
            }
            // When it is time, the gate fails what it held back for `lapse_hold_ms`, and gives the
            // waiting bios of suspending devices back to dm core.
            let held_ns = shared.gate.tend();
            let soonest_ns = clock::raw_ns().saturating_add(NAP_NS);
            let next_ns = [next_ns, held_ns].into_iter().flatten().min();
            deadline_ns = next_ns.map(|at| at.max(soonest_ns));
        }
        shared.inbox.close();
    }

    /// Tells the state machine everything that has happened. Returns the next deadline of the state
    /// machine.
    fn step(&mut self, reasons: Reasons) -> Option<u64> {
        let shared = self.shared.clone();
        self.machine.note_open(shared.gate.count().open);
        let period_ns = shared.timer.period_ns();
        if self.machine.setup().period_ns != period_ns {
            let _ = self.machine.set_period(period_ns);
        }
        if let Some(request) = shared.inbox.take() {
            let reply = self.serve(request);
            self.settle();
            shared.inbox.reply(reply);
        }
        self.take_completions();
        if reasons.contains(Reasons::TICK) && !self.rests {
            let now_ns = self.read_clocks();
            self.machine.handle_tick(now_ns);
            self.perform_actions();
        }
        self.watch_gate();
        if !self.rests {
            let now_ns = self.read_clocks();
            self.machine.handle_timeout(now_ns);
        }
        self.settle();
        match self.rests {
            true => None,
            false => self.machine.poll_timeout_ns(),
        }
    }

    /// Reads the clocks and lets the state machine compare the reading with the one before. Returns
    /// the present time, which the caller passes to the state machine with its next input.
    fn read_clocks(&mut self) -> u64 {
        let now = clock::read();
        self.machine.handle_clocks(Now {
            raw_ns: now.raw_ns,
            leaps_ns: now.leaps_ns,
            slept_ns: now.slept_ns,
            source: now.source,
        });
        now.raw_ns
    }

    /// Passes the settings of the live tables to the state machine.
    fn apply(&mut self, settings: &Settings) {
        let machine = &mut self.machine;
        machine.set_claim_auto(settings.claim_auto);
        machine.set_guarded(settings.guarded);
        machine.set_blocked(settings.read_only.then_some(Reason::ReadOnly));
        machine.set_batch(settings.batch);
    }

    /// Serves the request of a task.
    fn serve(&mut self, request: Request) -> Result<Reply, Reason> {
        let now_ns = self.read_clocks();
        match request {
            Request::Tables(settings) => self.apply(&settings),
            Request::Member {
                settings,
                member,
                as_member,
                moved,
            } => {
                self.apply(&settings);
                let machine = &mut self.machine;
                if moved {
                    machine.forget_member(member, now_ns);
                }
                machine.handle_member(member, Some(as_member));
                let _ = machine.handle_command(Command::Stay(Reason::Removed), now_ns);
                self.rests = false;
            }
            Request::Rest => self.rests = true,
            Request::Command(command) => return self.command(command),
            Request::OpenersGone(epoch) => self.machine.openers_gone(epoch),
            Request::Fork(inc) => {
                self.machine.handle_fork(inc, now_ns);
                self.shared.inbox.latch_is_known();
            }
        }
        Ok(Reply::Done)
    }

    fn command(&mut self, command: Command) -> Result<Reply, Reason> {
        let prepare_ns = match command {
            Command::Release {
                successor: Some(_), ..
            } => self.machine.preparation_ns(),
            _ => 0,
        };
        let now_ns = self.read_clocks();
        let outcome = self.machine.handle_command(command, now_ns);
        if let Command::Fence(_) = command {
            self.shared.inbox.latch_is_known();
        }
        Ok(match outcome? {
            Outcome::Done => Reply::Done,
            Outcome::Pending => Reply::Pending {
                ticket: self.shared.inbox.begin(),
                prepare_ns,
            },
        })
    }

    /// Performs the actions of the state machine, and publishes the view after them.
    fn settle(&mut self) {
        self.perform_actions();
        let view = View::of(&self.machine);
        let shared = &self.shared;
        let before = core::mem::replace(&mut shared.published.lock().view, view);
        if before.generations != view.generations {
            // The event thread makes each table fail its I/O if another disk replaced its device.
            shared.event_waker.wake(Reasons::CHANGE);
        }
        if core::mem::take(&mut self.latched) {
            shared.gate.fail_pending();
        }
        if let Some(answer) = self.answer.take() {
            shared.inbox.answer(answer);
        }
    }

    /// Passes each mailbox transfer that has ended to the state machine.
    fn take_completions(&mut self) {
        let shared = self.shared.clone();
        for mailbox in &shared.mailboxes {
            while let Some((transfer, buf, ok)) = mailbox.take_done() {
                let member = mailbox.member;
                if transfer == Transfer::Read && ok {
                    self.decoded.fill(mailbox, &buf, self.slots);
                }
                mailbox.put_idle(transfer, buf);
                // The clocks are read after the end of the transfer was seen.
                let now_ns = self.read_clocks();
                let Self {
                    machine, decoded, ..
                } = &mut *self;
                match transfer {
                    Transfer::Ballot => machine.handle_write(member, Register::Ballot, ok, now_ns),
                    Transfer::Heartbeat => {
                        machine.handle_write(member, Register::Heartbeat, ok, now_ns)
                    }
                    Transfer::Read => machine.handle_read(member, ok.then_some(&*decoded), now_ns),
                }
                self.perform_actions();
            }
        }
    }

    /// Passes what happened at the gate to the state machine.
    fn watch_gate(&mut self) {
        if self.machine.expiry_ns().is_some() && self.shared.gate.expiry_ns() == 0 {
            self.note_latched();
        }
        self.watch_drain();
        self.perform_actions();
    }

    /// Tells the state machine if the gate is closed and empty.
    fn watch_drain(&mut self) {
        if self.shared.gate.is_drained() {
            let now_ns = self.read_clocks();
            self.machine.handle_drained(now_ns);
        }
    }

    /// Tells the state machine that the gate is latched, or has to be. There are three causes: a
    /// task latched the gate and gave a reason; the lease has ended; the gate still had the lease
    /// of an earlier epoch.
    fn note_latched(&mut self) {
        let now_ns = self.read_clocks();
        match self.shared.inbox.latched() {
            Some(reason) => {
                let fence = Command::Fence(reason);
                let _ = self.machine.handle_command(fence, now_ns);
            }
            None => self.machine.handle_lapse(now_ns),
        }
    }

    /// Performs the actions of the state machine in order.
    fn perform_actions(&mut self) {
        let decided = self.machine.decided();
        let own = self.shared.identity.controller;
        let is_own = decided.value.is_some_and(|value| value.slot == own);
        self.reign.note(decided.epoch, is_own);
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Gate(change) => self.change_gate(change),
                Action::Io(io) => self.begin_io(io),
                Action::Report(notice) => self.take_notice(notice),
                Action::Answer(answer) => self.answer = Some(answer),
            }
        }
    }

    fn change_gate(&mut self, change: GateChange) {
        let shared = self.shared.clone();
        match change {
            GateChange::OpenEpoch { epoch, expiry_ns } => {
                let since = self.reign.since(epoch);
                if !shared.gate.open_epoch(epoch, since, expiry_ns) {
                    // There is a lease that was not latched: a bug. That lease and this term end.
                    self.note_latched();
                } else if shared.inbox.latched().is_some() {
                    // A task latched the gate before there was a lease. The gate does not keep such
                    // a latch, so repeat it.
                    shared.gate.latch();
                    self.note_latched();
                }
            }
            GateChange::Extend { from_ns, to_ns } => {
                if !shared.gate.extend(from_ns, to_ns) {
                    self.note_latched();
                }
            }
            GateChange::Latch => {
                shared.gate.latch();
                shared.published.lock().beats.end_lease();
                self.latched = true;
            }
            GateChange::SetLimit(limit) => {
                shared.gate.set_limit(limit);
                self.watch_drain();
            }
        }
    }

    fn take_notice(&self, notice: Notice) {
        let shared = &self.shared;
        match &notice {
            Notice::Heartbeat(beat) => {
                self.note(beat);
                return report::heartbeat(&shared.identity, beat);
            }
            Notice::Transition(transition) => {
                report::trace_transition(&shared.identity, transition);
                if report::is_lost(transition) {
                    shared.published.lock().beats.note_lost();
                }
            }
            Notice::Budget(_)
            | Notice::WentBack { .. }
            | Notice::Unreadable(_)
            | Notice::Outdated { .. } => {}
        }
        shared.queue(notice);
    }

    /// Hands a transfer to the thread that submits the mailbox I/O of its member. A transfer that
    /// cannot be handed over has failed.
    fn begin_io(&mut self, io: MailboxIo) {
        let now_ns = self.read_clocks();
        let (machine, shared) = (&mut self.machine, &self.shared);
        let mailbox = |member: u8| shared.mailboxes.get(usize::from(member));
        match io {
            MailboxIo::WriteBallot {
                member,
                side,
                record,
            } => {
                if !mailbox(member).is_some_and(|m| m.write_ballot(side, &record)) {
                    machine.handle_write(member, Register::Ballot, false, now_ns);
                }
            }
            MailboxIo::WriteHeartbeat {
                member,
                side,
                fua,
                record,
            } => {
                if !mailbox(member).is_some_and(|m| m.write_heartbeat(side, fua, &record)) {
                    machine.handle_write(member, Register::Heartbeat, false, now_ns);
                }
            }
            MailboxIo::Read { member } => {
                if !mailbox(member).is_some_and(|m| m.read_all()) {
                    machine.handle_read::<Decoded>(member, None, now_ns);
                }
            }
        }
    }

    /// Counts a heartbeat in the statistics.
    fn note(&self, beat: &Heartbeat) {
        let mut published = self.shared.published.lock();
        let (stamp_ns, judged_ns) = (beat.stamp_ns, beat.judged_ns);
        published.beats.note(stamp_ns, judged_ns, beat.expiry_ns);
    }
}
