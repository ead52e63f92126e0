// SPDX-License-Identifier: GPL-2.0

//! A session: one controller on one portion.
//!
//! A session is shared by all tables of the portion in this controller, so that a reload does not
//! lose the lease. It has the machine of [`crate::proto::controller`], the gate, and the threads
//! that carry out what the machine wants:
//!
//! ```text
//!   created, with its threads, by the first constructor: it rests
//!        |
//!        v   a table becomes live         all members are here
//!      resting ----------------> running --------------------> complete
//!        |  ^                       |                             |
//!        |  +-- no table is live ---+<---- the first member goes: +
//!        |      any more                   the portion is released [R34]
//!        v
//!   ended, with its threads, by the last destructor
//! ```
//!
//! A session has one set of threads, from its beginning to its end: a table that becomes live or
//! goes away starts and stops none. A resting session submits nothing, because its portion thread
//! leaves the heartbeat timer unheeded. Becoming live allocates nothing, so that it cannot wait
//! for memory that is written back through the very device that is being resumed [R60].
//!
//! Each member that was ever attached stays open until the session ends, so that what is released
//! is written to a majority while one device after the other is removed.
//!
//! Locking: see [`crate::driver`].

use super::{
    deferred::Deferred,
    engine::{Machine, Shown},
    gate::{PortionGate, TableFlags},
    inbox::{Inbox, Reply, Request, Wishes},
    list::{List, Node},
    mailbox::Mailbox,
    registry::JoinError,
    report,
    timer::HeartbeatTimer,
    waker::{Reasons, Waker},
};
use crate::{
    dm::{clock, BlockDevice, Context, DevT, Priority, TargetHandle, Thread},
    proto::{
        codec::{
            ids::{Incarnation, Slot, MAX_MEMBERS},
            superblock::{Mismatch, Superblock},
        },
        controller::{Command, MemberDevice, Setup},
        limit::Limit,
        time::NS_PER_MS,
        words::status::{Reason, Role, Status},
    },
};
use kernel::{
    new_mutex, new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        Mutex,
        SpinLockIrq, //
    },
};

/// How long a release may wait for permits, at most; a message may delay a suspend by this much.
const RELEASE_NS: u64 = 700 * NS_PER_MS;

/// How much longer it may take to publish it.
const PUBLISH_NS: u64 = 250 * NS_PER_MS;

/// How long giving the portion up may take, at most.
pub(super) const LEAVE_NS: u64 = RELEASE_NS + PUBLISH_NS;

/// Until when permits may come back, if a portion is to be given up by `until_ns`.
fn drained_by_ns(until_ns: u64) -> u64 {
    until_ns.saturating_sub(PUBLISH_NS)
}

/// A table of a member.
pub struct Table {
    /// Tells tables apart: each has its own number, and a later one a higher number.
    pub id: u64,
    /// The member it maps.
    pub member: u8,
    /// The member's device, opened for the session's own use.
    pub device: Arc<BlockDevice>,
    /// What its superblock says of it as a member.
    pub as_member: MemberDevice,
    /// Whether its openers cache nothing.
    pub stateless: bool,
    /// Whether it was loaded read-only.
    pub read_only: bool,
    /// Whether it claims by itself.
    pub claim_auto: bool,
    /// A lower limit of open permits.
    pub batch: Option<u32>,
    /// Its flags.
    pub flags: Arc<TableFlags>,
    /// How to reach it.
    pub handle: TargetHandle,
    /// What dm core defers of its mapped device.
    pub deferred: Arc<Deferred>,
}

/// A table, and whether it is live: it was resumed, and its destructor has not run.
struct Loaded {
    table: Table,
    live: bool,
}

/// The tables of a session.
struct Tables {
    loaded: List<Loaded>,
    /// Which device each member was found on last.
    devices: [Option<DevT>; MAX_MEMBERS as usize],
    /// Counts the tables that became live.
    attached: u64,
}

impl Tables {
    fn live(&self) -> impl Iterator<Item = &Table> {
        let live = self.loaded.iter().filter(|loaded| loaded.live);
        live.map(|loaded| &loaded.table)
    }

    /// Whether a member is another device already. A table may move its own mapped device to
    /// another device of the member: it replaces the table that is live there.
    fn is_taken(&self, member: u8, device: DevT, mapped: DevT) -> bool {
        self.live().any(|table| {
            table.member == member
                && table.deferred.device != mapped
                && table.device.devt() != device
        })
    }

    /// What they mean for the machine of a portion of which this controller may become the owner,
    /// or may not.
    fn wishes(&self, may_own: bool) -> Wishes {
        let is_read_only = self.live().count() > 0 && self.live().all(|table| table.read_only);
        Wishes {
            claim_auto: self.live().any(|table| table.claim_auto),
            guarded: self.live().any(|table| !table.stateless),
            read_only: is_read_only || !may_own,
            batch: self.live().filter_map(|table| table.batch).min(),
        }
    }
}

/// A session; see the top.
#[pin_data]
pub struct Session {
    /// What is the same on all members.
    pub superblock: Superblock,
    /// The controller.
    pub controller: Slot,
    /// Its timer.
    pub timer: Arc<HeartbeatTimer>,
    /// The gate.
    #[pin]
    pub gate: PortionGate,
    pub(super) waker: Arc<Waker>,
    pub(super) dispatcher: Arc<Waker>,
    pub(super) mailboxes: KVec<Arc<Mailbox>>,
    /// What the machine last looked like, and what the herald has not told yet.
    #[pin]
    pub(super) shown: SpinLockIrq<Shown>,
    /// The user was told that openers are in the way.
    told_stale: Atomic<bool>,
    /// Who raises events.
    pub(super) herald: Arc<Waker>,
    /// What tasks ask of the portion thread.
    #[pin]
    pub(super) inbox: Inbox,
    /// Held for one message from its beginning to its end.
    #[pin]
    command: Mutex<()>,
    #[pin]
    tables: Mutex<Tables>,
}

/// A session with its threads; dropping it ends them. Transfers that hang stay with their device.
pub struct Running {
    threads: KVec<Thread>,
    /// The session. It outlives its threads while somebody else refers to it, and is then closed.
    pub session: Arc<Session>,
}

impl Running {
    /// A session that rests. May wait for I/O: call it without any lock.
    pub fn new(
        superblock: &Superblock,
        timer: Arc<HeartbeatTimer>,
        boot_id: [u8; 16],
        herald: Arc<Waker>,
    ) -> Result<Self> {
        let (session, machine) = Session::new(superblock, timer, boot_id, herald)?;
        let waker = Node::new(session.waker.clone())?;
        let threads = KVec::new();
        let mut running = Self { threads, session };
        running.start(machine)?;
        running.session.timer.add(waker);
        Ok(running)
    }

    /// Starts the threads.
    fn start(&mut self, machine: Machine) -> Result {
        for mailbox in &self.session.mailboxes {
            let mailbox = mailbox.clone();
            let body = move |context: &Context| mailbox.submit_loop(context);
            let thread = Thread::spawn(c"dm_lease_io", Priority::Realtime, body)?;
            self.threads.push(thread, GFP_KERNEL)?;
        }
        for outbox in self.session.gate.outboxes() {
            let (session, outbox) = (self.session.clone(), outbox.clone());
            let body = move |context: &Context| outbox.run(context, |bio| session.gate.submit(bio));
            let thread = Thread::spawn(c"dm_lease_bios", Priority::RealtimeLow, body)?;
            self.threads.push(thread, GFP_KERNEL)?;
        }
        let session = self.session.clone();
        let body = move |context: &Context| session.dispatch_loop(context);
        let thread = Thread::spawn(c"dm_lease_turn", Priority::RealtimeLow, body)?;
        self.threads.push(thread, GFP_KERNEL)?;
        let session = self.session.clone();
        let body = move |context: &Context| session.portion_loop(context, machine);
        let thread = Thread::spawn(c"dm_lease", Priority::Realtime, body)?;
        Ok(self.threads.push(thread, GFP_KERNEL)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.timer.remove(&self.session.waker);
        // What no thread has submitted yet is not submitted any more.
        self.session.begin_park();
        self.threads.clear();
        self.session.inbox.close();
    }
}

impl Session {
    /// A session without threads, and the machine that its portion thread will run.
    fn new(
        superblock: &Superblock,
        timer: Arc<HeartbeatTimer>,
        boot_id: [u8; 16],
        herald: Arc<Waker>,
    ) -> Result<(Arc<Self>, Machine)> {
        let controller = timer.controller;
        let waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        let dispatcher = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        let mut mailboxes = KVec::with_capacity(usize::from(superblock.members), GFP_KERNEL)?;
        for member in 0..superblock.members {
            let controllers = superblock.controllers;
            let mailbox = Mailbox::new(
                superblock.uuid,
                member,
                controller,
                controllers,
                waker.clone(),
            )?;
            mailboxes.push(mailbox, GFP_KERNEL)?;
        }
        let limit = superblock.redundancy.limit(0, 0, None).to_wire();
        let machine = Machine::new(setup(superblock, &timer, boot_id))?;
        let shown = Shown::new(&machine)?;
        let tables = Tables {
            loaded: List::EMPTY,
            devices: [None; MAX_MEMBERS as usize],
            attached: 0,
        };
        let gate = PortionGate::new(
            superblock,
            controller,
            limit,
            waker.clone(),
            dispatcher.clone(),
        )?;
        let session = Arc::pin_init(
            pin_init!(Self {
                superblock: *superblock,
                controller,
                timer,
                gate <- gate,
                inbox <- Inbox::new(waker.clone()),
                waker,
                dispatcher,
                mailboxes,
                shown <- new_spinlock_irq!(shown, "dm_lease shown"),
                told_stale: Atomic::new(false),
                herald,
                command <- new_mutex!((), "dm_lease command"),
                tables <- new_mutex!(tables, "dm_lease tables"),
            }),
            GFP_KERNEL,
        )?;
        Ok((session, machine))
    }

    /// Whether a member with this superblock, found on `device` by a table of `mapped`, belongs to
    /// the session [R39].
    ///
    /// # Errors
    ///
    /// What is different, that another device is this member, or that the disk was replaced.
    pub fn check_member(
        &self,
        superblock: &Superblock,
        device: DevT,
        mapped: DevT,
    ) -> Result<(), JoinError> {
        match self.superblock.fits(superblock) {
            Ok(()) | Err(Mismatch::SameIndex) => {}
            Err(mismatch) => return Err(JoinError::Mismatch(mismatch)),
        }
        let highest = self.view().generations.of(superblock.member);
        if superblock.generation < highest {
            return Err(JoinError::Outdated(highest));
        }
        let tables = self.tables.lock();
        match tables.is_taken(superblock.member, device, mapped) {
            true => Err(JoinError::Taken),
            false => Ok(()),
        }
    }

    /// What dm core defers of the mapped device `device`, if a table of it is here; then whether
    /// that table is live, and whether what is deferred was sent to another session. All tables of
    /// a device share it, also one that could not become live: dm core keeps that in the place of
    /// the one before.
    pub fn deferred(&self, device: DevT) -> Option<(Arc<Deferred>, bool, bool)> {
        let tables = self.tables.lock();
        let is_it = |loaded: &&Loaded| loaded.table.deferred.device == device;
        let known = tables.loaded.iter().filter(is_it);
        let Loaded { table, live } = known.max_by_key(|loaded| loaded.live)?;
        let is_foreign = !live && table.flags.has(TableFlags::FOREIGN);
        Some((table.deferred.clone(), *live, is_foreign))
    }

    /// A table was loaded; it becomes live later, without allocating anything.
    pub fn enroll(&self, table: Table) -> Result {
        let node = Node::new(Loaded { table, live: false })?;
        self.tables.lock().loaded.push(node);
        Ok(())
    }

    /// A table becomes live. Runs while its device is suspended: it allocates nothing, and nobody
    /// allocates while holding a lock that is taken here [R60].
    ///
    /// # Errors
    ///
    /// `EBUSY` if another device became this member since the table was loaded [R39].
    pub fn attach(&self, id: u64) -> Result {
        let mut tables = self.tables.lock();
        let is_it = |loaded: &Loaded| loaded.table.id == id;
        let loaded = tables.loaded.iter().find(|loaded| is_it(loaded));
        let Loaded { table, live } = loaded.ok_or(ENOENT)?;
        if *live {
            return Ok(());
        }
        let (member, as_member, device) = (table.member, table.as_member, table.device.clone());
        let devt = device.devt();
        if tables.is_taken(member, devt, table.deferred.device) {
            return Err(EBUSY);
        }
        if as_member.generation < self.view().generations.of(member) {
            // The disk turned out to be one that was replaced [R56].
            return Err(ESTALE);
        }
        let mailbox = self.mailboxes.get(usize::from(member)).ok_or(EINVAL)?;
        let last = tables.devices.get_mut(usize::from(member)).ok_or(EINVAL)?;
        let moved = last.replace(devt).is_some_and(|last| last != devt);
        if let Some(loaded) = tables.loaded.find_mut(is_it) {
            loaded.live = true;
        }
        tables.attached = tables.attached.wrapping_add(1);
        mailbox.set_device(device, as_member.generation);
        let wishes = tables.wishes(self.superblock.may_own());
        // With the tables locked: the machine hears of them in the order in which they changed.
        let _ = self.inbox.ask(Request::Member {
            wishes,
            member,
            as_member,
            moved,
        });
        Ok(())
    }

    /// A live table goes away. When it was the last of its member the portion is released; when it
    /// was the last of all, the session rests.
    pub fn detach(&self, id: u64) {
        let mut tables = self.tables.lock();
        let gone = |loaded: &Loaded| loaded.live && loaded.table.id == id;
        let Some(loaded) = tables.loaded.find_mut(gone) else {
            return;
        };
        loaded.live = false;
        let member = loaded.table.member;
        let replaced = tables.live().any(|table| table.member == member);
        let attached = tables.attached;
        self.tell_tables(&tables);
        drop(tables);
        if !replaced {
            self.leave(Reason::Removed);
            // Another table may have become live meanwhile, which the removal must not undo.
            if self.tables.lock().attached != attached {
                self.stay(Reason::Removed);
            }
        }
        let tables = self.tables.lock();
        if tables.live().next().is_none() {
            // With the tables locked: a table that becomes live now ends the rest again.
            let _ = self.inbox.ask(Request::Rest);
        }
    }

    /// A table that is not live, or not any more, ends.
    pub fn discharge(&self, id: u64) {
        let node = self.tables.lock().loaded.take(|it| it.table.id == id);
        // Freed without the lock.
        drop(node);
    }

    /// Tells the machine what the tables mean. The caller holds their lock.
    fn tell_tables(&self, tables: &Tables) {
        let wishes = tables.wishes(self.superblock.may_own());
        let _ = self.inbox.ask(Request::Tables(wishes));
    }

    /// Gives the portion up and does not claim it again before [`Session::stay`]: cleanly if that
    /// is possible within [`LEAVE_NS`], by latching otherwise.
    pub fn leave(&self, reason: Reason) {
        let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
        self.begin_leave(reason, until_ns);
        self.finish_leave(reason, until_ns);
    }

    /// Begins to give the portion up, for [`Session::finish_leave`] to wait for.
    pub fn begin_leave(&self, reason: Reason, until_ns: u64) {
        let _ = self.ask_to_leave(reason, until_ns);
    }

    /// Waits until the portion is given up, and latches if it is not by `until_ns`.
    pub fn finish_leave(&self, reason: Reason, until_ns: u64) {
        if let Err(refusal) = self.wait_to_leave(reason, until_ns) {
            report::not_released(self, reason, refusal);
        }
        self.fence(reason);
    }

    fn wait_to_leave(&self, reason: Reason, until_ns: u64) -> Result<(), Reason> {
        loop {
            let has_ended = self.inbox.wait_idle(until_ns);
            let is_late = clock::raw_ns() >= drained_by_ns(until_ns);
            if !has_ended || is_late && self.view().role.owns() {
                return Err(Reason::ReleaseTimeout);
            }
            // Once more, because what has ended may be what a message had begun.
            if self.ask_to_leave(reason, until_ns)? {
                return Ok(());
            }
        }
    }

    /// Asks the machine to give the portion up. Returns whether it has none any more.
    fn ask_to_leave(&self, reason: Reason, until_ns: u64) -> Result<bool, Reason> {
        // A message that waits for a successor gives way.
        let _ = self.inbox.ask(Request::Command(Command::CallOff));
        let deadline_ns = drained_by_ns(until_ns);
        let leave = Command::Leave {
            reason,
            deadline_ns,
        };
        let was_idle = self.inbox.is_idle();
        match self.inbox.ask(Request::Command(leave)) {
            Ok(Reply::Done) => Ok(true),
            Ok(Reply::Pending { .. }) => Ok(false),
            Err(refusal) if was_idle && self.inbox.is_idle() => Err(refusal),
            // A message has begun a release.
            Err(_) => Ok(false),
        }
    }

    /// A session that has no member yet is made while the system goes to sleep.
    pub fn begin_sleep(&self) {
        let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
        self.begin_leave(Reason::Suspend, until_ns);
        self.begin_park();
    }

    /// No mailbox is written or read until [`Session::unpark`]; what is under way goes on.
    pub fn begin_park(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.park());
    }

    /// Waits until nothing is under way in parked mailboxes, but not longer than until
    /// `deadline_ns`. Returns whether nothing is.
    pub fn is_parked_by(&self, deadline_ns: u64) -> bool {
        let mut mailboxes = self.mailboxes.iter();
        mailboxes.all(|mailbox| mailbox.is_settled_by(deadline_ns))
    }

    /// Mailboxes are written and read again.
    pub fn unpark(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.unpark());
    }

    /// What [`Session::leave`] with this reason forbade is over.
    pub fn stay(&self, reason: Reason) {
        let _ = self.inbox.ask(Request::Command(Command::Stay(reason)));
    }

    /// Latches the gate at once, in the caller's context, and then tells the machine.
    pub fn fence(&self, reason: Reason) {
        self.latch_now(reason);
        let _ = self.inbox.ask(Request::Command(Command::Fence(reason)));
    }

    /// This virtual machine is a copy of another one, or was put back to what it was before. The
    /// gate is latched already. The controller joins anew as a new incarnation, because another
    /// copy may go on as the old one.
    pub fn fork(&self) {
        let inc = Incarnation(clock::random_u128());
        let _ = self.inbox.ask(Request::Fork(inc));
    }

    /// Latches the gate at once and leaves it to the portion thread to find out.
    pub fn latch_now(&self, reason: Reason) {
        self.inbox.announce_latch(reason);
        self.gate.latch();
        self.waker.wake(Reasons::LAPSE);
    }

    /// Carries out a command and waits for its end, for less than a second; for six where a
    /// successor is waited for.
    ///
    /// # Errors
    ///
    /// Why it was refused, or [`Reason::ReleaseTimeout`].
    pub fn command(&self, command: Command) -> Result<(), Reason> {
        let _serial = self.command.lock();
        match self.inbox.ask(Request::Command(command))? {
            Reply::Done => Ok(()),
            Reply::Pending { ticket, prepare_ns } => {
                let wait_ns = prepare_ns.saturating_add(LEAVE_NS);
                let deadline_ns = clock::raw_ns().saturating_add(wait_ns);
                self.inbox.wait(ticket, deadline_ns)
            }
        }
    }

    /// Claims as soon as the owner's term is over. Who has a device open is looked at now: the
    /// herald may not have got to it since another's epoch was learnt.
    pub fn claim(&self) -> Result<(), Reason> {
        if let Some(epoch) = self.view().stale_epoch {
            self.look_for_openers(epoch);
        }
        self.command(Command::Claim)
    }

    /// Hands the portion to `successor`, or to anybody.
    pub fn release(&self, successor: Option<Slot>) -> Result<(), Reason> {
        let deadline_ns = clock::raw_ns().saturating_add(RELEASE_NS);
        self.command(Command::Release {
            successor,
            deadline_ns,
        })
    }

    /// Nothing is read or written any more through tables on a former disk of a member: its data
    /// is that of an earlier time [R56].
    fn shut_tables(&self) {
        let generations = self.view().generations;
        let tables = self.tables.lock();
        let is_former = |table: &&Table| table.as_member.generation < generations.of(table.member);
        let former = tables.live().filter(is_former);
        former.for_each(|table| table.flags.set(TableFlags::OUTDATED));
    }

    /// Prints what there is to say, raises an event of each live table, and looks who has one
    /// open. Called by the event thread only: a console may be slow, and an event may wait for
    /// memory that is written back through this very portion.
    pub fn herald(&self) {
        // Whatever became of the news: a table that is not shut is written.
        self.shut_tables();
        let mut news = false;
        while let Some(item) = self.take_news() {
            report::news(self, &item);
            news = true;
        }
        if news {
            self.raise_events();
        }
        let waits = self.view().stale_epoch;
        if let Some(epoch) = waits {
            self.look_for_openers(epoch);
        }
    }

    /// The status of one of its tables. Does not block on anything that waits for a disk.
    pub fn status(&self, member: u8) -> Status<'_> {
        let view = self.view();
        let count = self.gate.count();
        let left_ns = self.gate.expiry_ns().checked_sub(clock::leaping_ns());
        let left_ns = left_ns.filter(|&left| left > 0);
        let epoch = view.decided.epoch;
        Status {
            portion: self.superblock.name.as_str(),
            member,
            members: self.superblock.members,
            role: view.role,
            epoch: (epoch > 0 && view.role != Role::Joining).then_some(epoch),
            owner: view.decided.value.map(|value| value.slot),
            lease_ms_left: left_ns.and_then(|left| left.checked_div(NS_PER_MS)),
            heartbeat_seq: Some(view.heartbeats).filter(|&hb| hb > 0),
            open: count.open,
            limit: Limit::from_wire(view.limit),
            pending: self.gate.pending(),
            refused: self.gate.refused(),
            late: self.gate.late(),
            members_ok: view.members_ok,
            reason: view.reason,
            charged: view.charged,
            peak: count.peak,
            degraded: view.degraded,
        }
    }

    /// The live table with the lowest number above `after` for which `wanted` holds: its number and
    /// a handle. So all of them are reached one after the other, without memory for a list.
    fn next_handle(
        &self,
        after: u64,
        wanted: impl Fn(&Table) -> bool,
    ) -> Option<(u64, TargetHandle)> {
        let tables = self.tables.lock();
        let later = tables.live().filter(|table| table.id > after);
        let next = later.filter(|table| wanted(table)).min_by_key(|it| it.id)?;
        Some((next.id, next.handle.clone()))
    }

    /// Raises an event of each live table.
    fn raise_events(&self) {
        let mut after = 0;
        while let Some((id, handle)) = self.next_handle(after, |_| true) {
            handle.event();
            after = id;
        }
    }

    /// Whether a mapped device is open whose openers may cache what they read.
    fn has_openers(&self) -> bool {
        let mut after = 0;
        while let Some((id, handle)) = self.next_handle(after, |table| !table.stateless) {
            if handle.with(|ti| ti.open_count() > 0) == Some(true) {
                return true;
            }
            after = id;
        }
        false
    }

    /// Somebody who had a device open before another controller's epoch may write back what is no
    /// longer true: nothing is claimed until nobody has one open [R31].
    fn look_for_openers(&self, epoch: u64) {
        if self.has_openers() {
            if !self.told_stale.xchg(true, ordering::Full) {
                report::blocked(self, Reason::StaleOpeners);
                self.raise_events();
            }
            return;
        }
        let _ = self.told_stale.xchg(false, ordering::Full);
        let _ = self.inbox.ask(Request::OpenersGone(epoch));
    }
}

/// What the machine is given at the start.
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
