// SPDX-License-Identifier: GPL-2.0

//! Running a session's machine: what is fed to it, and what it wants done.
//!
//! The portion thread owns the machine, and no other thread touches it. It feeds it ticks,
//! completions, deadlines, and what tasks ask for through the [`super::inbox`]. After each event it
//! carries out all actions of the machine, in order. What waited at a gate that was latched is
//! failed after that, because failing a bio runs the completions of everything above.
//!
//! The portion thread waits for nothing but its waker: it takes no lock whose holder an ordinary
//! task could push aside [R61], allocates nothing, and prints nothing. The event thread raises
//! events and prints, so that a slow console cannot delay a heartbeat [R44]. A task that only wants
//! to look reads [`Shown`], under a spinlock.

use super::{
    inbox::{Reply, Request, Wishes},
    mailbox::{Decoded, Which},
    report,
    session::Session,
    waker::Reasons,
};
use crate::{
    dm::{clock, Context},
    proto::{
        clocks::Now,
        codec::{
            generations::Generations,
            ids::{Decided, Register},
        },
        controller::{
            Action, Budget, Command, Controller, GateChange, Heartbeat, MailboxIo, Notice, Outcome,
            Setup, Transition,
        },
        gate::reign::Reign,
        histogram::{Beats, Report},
        words::status::{Reason, Role},
    },
};
use core::mem::MaybeUninit;
use kernel::prelude::*;

/// Shortest sleep of the portion thread, so that no clock can make a real-time thread spin.
const NAP_NS: u64 = 100_000;

/// News that the herald can be behind with; the oldest are dropped beyond it.
const MAX_NEWS: usize = 8;

/// The machine with what belongs to it.
pub struct Machine {
    controller: KBox<Controller>,
    /// Which of its terms follow each other.
    reign: Reign,
    decoded: Decoded,
    /// The answer to the pending command, until it is passed on.
    answer: Option<Result<(), Reason>>,
    /// The gate was latched: what waits there is to be failed.
    latched: bool,
    /// No table is live: ticks and deadlines are left unheeded.
    rests: bool,
}

/// What others may see of the machine.
#[derive(Clone, Copy)]
pub struct View {
    /// The role.
    pub role: Role,
    /// The highest decided epoch, and its owner.
    pub decided: Decided,
    /// Heartbeats of this epoch.
    pub heartbeats: u64,
    /// The batch limit.
    pub limit: u32,
    /// Members that answered last time.
    pub members_ok: u8,
    /// Why it is not the owner.
    pub reason: Reason,
    /// What is charged for earlier owners.
    pub charged: u32,
    /// Members failed or rebuilding.
    pub degraded: u32,
    /// The highest generation of each member that is known.
    pub generations: Generations,
    /// The epoch for which a claim waits until nobody has a device open.
    pub stale_epoch: Option<u64>,
}

/// What the herald has to tell.
#[derive(Clone, Copy)]
pub enum News {
    /// The role or the epoch changed.
    Transition(Transition),
    /// What an owner may have open changed.
    Budget(Budget),
    /// This member does not show what it acknowledged [R58].
    WentBack(u8),
    /// The mailboxes of these controllers cannot be read, a bit each; of none of them any more.
    Unreadable(u64),
    /// The device of a member is a disk that was replaced.
    Outdated {
        /// The member.
        member: u8,
        /// The generation of the device.
        generation: u32,
        /// The generation that the member has.
        highest: u32,
    },
}

/// The last view, what heartbeats were like, and the news that were not told yet, oldest first.
pub struct Shown {
    view: View,
    beats: KBox<Beats>,
    news: [Option<News>; MAX_NEWS],
}

impl Machine {
    /// A machine that has just come.
    pub fn new(setup: Setup) -> Result<Self> {
        let decoded = Decoded::new(setup.slots)?;
        let place = KBox::new_uninit(GFP_KERNEL)?;
        Ok(Self {
            controller: fill(place, setup),
            reign: Reign::default(),
            decoded,
            answer: None,
            latched: false,
            rests: true,
        })
    }

    /// Tells the controller what the live tables mean.
    fn heed(&mut self, wishes: &Wishes) {
        let controller = &mut self.controller;
        controller.set_claim_auto(wishes.claim_auto);
        controller.set_guarded(wishes.guarded);
        controller.set_blocked(wishes.read_only.then_some(Reason::ReadOnly));
        controller.set_batch(wishes.batch);
    }

    /// Reads the clocks and has the controller judge them; returns the clock value for the event
    /// that is told next.
    fn now_ns(&mut self) -> u64 {
        let now = clock::read();
        self.controller.handle_clocks(Now {
            raw_ns: now.raw_ns,
            leaps_ns: now.leaps_ns,
            slept_ns: now.slept_ns,
            source: now.source,
        });
        now.raw_ns
    }

    fn view(&self) -> View {
        View {
            role: self.controller.role(),
            decided: self.controller.decided(),
            heartbeats: self.controller.heartbeats(),
            limit: self.controller.limit(),
            members_ok: self.controller.members_ok() as u8,
            reason: self.controller.reason(),
            charged: self.controller.charges().total(),
            degraded: self.controller.degraded(),
            generations: *self.controller.generations(),
            stale_epoch: self.controller.waits_for_openers(),
        }
    }
}

/// Makes a controller where there is room for it. It is large, so it must not pass the stack on its
/// way.
#[inline(never)]
fn fill(place: KBox<MaybeUninit<Controller>>, setup: Setup) -> KBox<Controller> {
    let mut controller = KBox::write(place, Controller::NOBODY);
    controller.set_up(setup);
    controller
}

/// Room for what heartbeats were like: not on the stack of whoever makes a session, which the
/// machine has filled already.
#[inline(never)]
fn no_beats() -> Result<KBox<Beats>> {
    Ok(KBox::new(Beats::NONE, GFP_KERNEL)?)
}

impl Shown {
    /// What a machine looks like before its first event.
    pub fn new(machine: &Machine) -> Result<Self> {
        Ok(Self {
            view: machine.view(),
            beats: no_beats()?,
            news: [None; MAX_NEWS],
        })
    }

    fn push(&mut self, news: News) {
        if self.news.iter().all(Option::is_some) {
            self.news.rotate_left(1);
            if let Some(last) = self.news.last_mut() {
                *last = None;
            }
        }
        if let Some(free) = self.news.iter_mut().find(|place| place.is_none()) {
            *free = Some(news);
        }
    }

    fn pop(&mut self) -> Option<News> {
        let first = self.news.first_mut()?.take();
        self.news.rotate_left(1);
        first
    }
}

impl Session {
    /// What the machine last looked like.
    pub fn view(&self) -> View {
        self.shown.lock().view
    }

    /// What heartbeats and checks were like since the session began.
    pub fn histogram(&self) -> Report {
        let beats = *self.shown.lock().beats;
        let timing = &self.superblock.timing;
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

    /// The oldest news that were not told yet.
    pub(super) fn take_news(&self) -> Option<News> {
        self.shown.lock().pop()
    }

    /// The body of the portion thread.
    pub(super) fn portion_loop(&self, context: &Context, mut machine: Machine) {
        let mut deadline_ns = None;
        while let Some(reasons) = self.waker.wait(context, deadline_ns) {
            let next_ns = self.run(&mut machine, reasons);
            if reasons.contains(Reasons::TICK) && self.view().stale_epoch.is_some() {
                self.herald.wake(Reasons::CHANGE);
            }
            // What is kept must not outlive its time.
            let kept_ns = self.gate.tend();
            let soonest_ns = clock::raw_ns().saturating_add(NAP_NS);
            let next_ns = [next_ns, kept_ns].into_iter().flatten().min();
            deadline_ns = next_ns.map(|at| at.max(soonest_ns));
        }
        self.inbox.close();
    }

    /// The body of the dispatcher thread.
    pub(super) fn dispatch_loop(&self, context: &Context) {
        while self.dispatcher.wait(context, None).is_some() {
            self.gate.dispatch();
        }
    }

    /// Tells the machine everything that has happened; returns when to look again.
    fn run(&self, machine: &mut Machine, reasons: Reasons) -> Option<u64> {
        machine.controller.note_open(self.gate.count().open);
        let period_ns = self.timer.period_ns();
        if machine.controller.setup().period_ns != period_ns {
            let _ = machine.controller.set_period(period_ns);
        }
        if let Some(request) = self.inbox.take() {
            let reply = self.serve(machine, request);
            self.settle(machine);
            self.inbox.reply(reply);
        }
        self.take_completions(machine);
        if reasons.contains(Reasons::TICK) && !machine.rests {
            let now_ns = machine.now_ns();
            machine.controller.handle_tick(now_ns);
            self.pump(machine);
        }
        self.watch_gate(machine);
        if !machine.rests {
            let now_ns = machine.now_ns();
            machine.controller.handle_timeout(now_ns);
        }
        self.settle(machine);
        match machine.rests {
            true => None,
            false => machine.controller.poll_timeout_ns(),
        }
    }

    /// Does what a task has asked for.
    fn serve(&self, machine: &mut Machine, request: Request) -> Result<Reply, Reason> {
        let now_ns = machine.now_ns();
        match request {
            Request::Tables(wishes) => machine.heed(&wishes),
            Request::Member {
                wishes,
                member,
                as_member,
                moved,
            } => {
                machine.heed(&wishes);
                let controller = &mut machine.controller;
                if moved {
                    controller.forget_member(member, now_ns);
                }
                controller.handle_member(member, Some(as_member));
                let _ = controller.handle_command(Command::Stay(Reason::Removed), now_ns);
                machine.rests = false;
            }
            Request::Rest => machine.rests = true,
            Request::Command(command) => return self.command_machine(machine, command),
            Request::OpenersGone(epoch) => machine.controller.openers_gone(epoch),
            Request::Fork(inc) => {
                machine.controller.handle_fork(inc, now_ns);
                self.inbox.latch_is_known();
            }
        }
        Ok(Reply::Done)
    }

    fn command_machine(&self, machine: &mut Machine, command: Command) -> Result<Reply, Reason> {
        let prepare_ns = match command {
            Command::Release {
                successor: Some(_), ..
            } => machine.controller.preparation_ns(),
            _ => 0,
        };
        let now_ns = machine.now_ns();
        let outcome = machine.controller.handle_command(command, now_ns);
        if let Command::Fence(_) = command {
            self.inbox.latch_is_known();
        }
        Ok(match outcome? {
            Outcome::Done => Reply::Done,
            Outcome::Pending => Reply::Pending {
                ticket: self.inbox.begin(),
                prepare_ns,
            },
        })
    }

    /// Carries out what the machine wants done, and shows what it looks like then.
    fn settle(&self, machine: &mut Machine) {
        self.pump(machine);
        let view = machine.view();
        let before = core::mem::replace(&mut self.shown.lock().view, view);
        if before.generations != view.generations {
            // A table on a former disk is to be shut, which the herald sees in the view.
            self.herald.wake(Reasons::CHANGE);
        }
        if core::mem::take(&mut machine.latched) {
            self.gate.fail_pending();
        }
        if let Some(answer) = machine.answer.take() {
            self.inbox.answer(answer);
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
                // The clocks are read after the transfer was seen to have ended.
                let now_ns = machine.now_ns();
                let Machine {
                    controller,
                    decoded,
                    ..
                } = &mut *machine;
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
        if machine.controller.expiry_ns().is_some() && self.gate.expiry_ns() == 0 {
            self.note_latched(machine);
        }
        if self.gate.is_drained() {
            let now_ns = machine.now_ns();
            machine.controller.handle_drained(now_ns);
        }
        self.pump(machine);
    }

    /// Tells the machine that the gate is latched: by a task, for a reason of its own, or because
    /// the lease has ended.
    fn note_latched(&self, machine: &mut Machine) {
        let now_ns = machine.now_ns();
        match self.inbox.latched() {
            Some(reason) => {
                let _ = machine
                    .controller
                    .handle_command(Command::Fence(reason), now_ns);
            }
            None => machine.controller.handle_lapse(now_ns),
        }
    }

    /// Carries out everything that the machine wants done, in order.
    fn pump(&self, machine: &mut Machine) {
        let decided = machine.controller.decided();
        let is_mine = decided
            .value
            .is_some_and(|value| value.slot == self.controller);
        machine.reign.note(decided.epoch, is_mine);
        while let Some(action) = machine.controller.poll_action() {
            match action {
                Action::Gate(change) => self.change_gate(machine, change),
                Action::Io(io) => self.begin_io(machine, io),
                Action::Report(notice) => self.take_notice(notice),
                Action::Answer(answer) => machine.answer = Some(answer),
            }
        }
    }

    fn change_gate(&self, machine: &mut Machine, change: GateChange) {
        match change {
            GateChange::OpenEpoch { epoch, expiry_ns } => {
                let since = machine.reign.since(epoch);
                if !self.gate.open_epoch(epoch, since, expiry_ns) {
                    self.note_latched(machine);
                } else if self.inbox.latched().is_some() {
                    // Somebody latched while there was no lease, which nothing remembers.
                    self.gate.latch();
                    self.note_latched(machine);
                }
            }
            GateChange::Extend { from_ns, to_ns } => {
                if !self.gate.extend(from_ns, to_ns) {
                    self.note_latched(machine);
                }
            }
            GateChange::Latch => {
                self.gate.latch();
                self.shown.lock().beats.end_lease();
                machine.latched = true;
            }
            GateChange::SetLimit(limit) => self.set_limit(machine, limit),
        }
    }

    fn take_notice(&self, notice: Notice) {
        match notice {
            Notice::Transition(transition) => {
                report::trace_transition(self, &transition);
                if report::is_lost(&transition) {
                    self.shown.lock().beats.note_lost();
                }
                self.tell(News::Transition(transition));
            }
            Notice::Budget(budget) => self.tell(News::Budget(budget)),
            Notice::WentBack { member } => self.tell(News::WentBack(member)),
            Notice::Unreadable(slots) => self.tell(News::Unreadable(slots)),
            Notice::Outdated {
                member,
                generation,
                highest,
            } => self.tell(News::Outdated {
                member,
                generation,
                highest,
            }),
            Notice::Heartbeat(beat) => {
                self.note(&beat);
                report::heartbeat(self, &beat);
            }
        }
    }

    fn set_limit(&self, machine: &mut Machine, limit: u32) {
        self.gate.set_limit(limit);
        if self.gate.is_drained() {
            let now_ns = machine.now_ns();
            machine.controller.handle_drained(now_ns);
        }
    }

    /// Hands a transfer to its member's thread; what cannot be handed over has failed.
    fn begin_io(&self, machine: &mut Machine, io: MailboxIo) {
        let now_ns = machine.now_ns();
        let mailbox = |member: u8| self.mailboxes.get(usize::from(member));
        match io {
            MailboxIo::WriteBallot {
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
            MailboxIo::WriteHeartbeat {
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
            MailboxIo::Read { member } => {
                if !mailbox(member).is_some_and(|m| m.read_all()) {
                    machine
                        .controller
                        .handle_read::<Decoded>(member, None, now_ns);
                }
            }
        }
    }

    /// Counts what a heartbeat was like.
    fn note(&self, beat: &Heartbeat) {
        let mut shown = self.shown.lock();
        let (stamp_ns, judged_ns) = (beat.stamp_ns, beat.judged_ns);
        shown.beats.note(stamp_ns, judged_ns, beat.expiry_ns);
    }

    /// Leaves to the herald what there is to tell [R47].
    fn tell(&self, news: News) {
        self.shown.lock().push(news);
        self.herald.wake(Reasons::CHANGE);
    }
}
