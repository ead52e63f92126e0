// SPDX-License-Identifier: GPL-2.0

//! A session: one controller on one portion.
//!
//! All tables of the portion in this controller share the session, so that a reload keeps the
//! lease. A session has an engine, which runs the state machine, and these threads:
//!
//! | thread | priority | what it does |
//! |---|---|---|
//! | `dm_lease` | real-time | the portion thread: runs the engine |
//! | `dm_lease_io`, one for each member | real-time | submits mailbox I/O |
//! | `dm_lease_turn` | low real-time | the dispatcher: gives permits to bios that wait |
//! | `dm_lease_bios`, one for each member | low real-time | submits bios that have waited |
//!
//! ```text
//!   created by the first constructor, with its threads
//!        |
//!        v   a table becomes live         every member has a live table
//!      resting ----------------> running ---------------------------> complete
//!        ^                        |  ^                                   |
//!        +-- no table is live ----+  +-- a member has no live table: ----+
//!        |                                the portion is released [R34]
//!        v
//!   ended by the last destructor, with its threads
//! ```
//!
//! The threads live as long as the session. A table that becomes live, or is destroyed, starts and
//! stops none. A resting session submits nothing, because its portion thread ignores the heartbeat
//! timer. A table becomes live without an allocation, because an allocation could wait for memory
//! that is written back through the device that is being resumed [R60].
//!
//! A member that was attached once stays open until the session ends. So a release still reaches a
//! majority of the members while the devices are removed one after the other.
//!
//! Locking: see [`crate::driver`].

use super::{
    deferred::Deferred,
    engine::{Engine, Shared},
    gate::TableFlags,
    inbox::{Reply, Request},
    list::Node,
    report,
    tables::{Loaded, Table, Tables},
    timer::HeartbeatTimer,
    view::View,
    waker::Waker,
};
use crate::{
    dm::{clock, Context, DevT, Priority, TargetHandle, Thread},
    proto::{
        codec::{
            ids::{Incarnation, Slot},
            superblock::{Mismatch, Superblock}, //
        },
        controller::Command,
        histogram::Report,
        limit::Limit,
        time::NS_PER_MS,
        words::status::{Reason, Role, Status}, //
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

/// The longest time for which a release waits for permits. A message may delay a suspend this long.
const RELEASE_NS: u64 = 700 * NS_PER_MS;

/// The longest time that the publication of a release takes after that.
const PUBLISH_NS: u64 = 250 * NS_PER_MS;

/// The longest time that it takes to give the portion up.
pub const LEAVE_NS: u64 = RELEASE_NS + PUBLISH_NS;

/// The time until which permits may be returned if the portion is to be given up by `until_ns`.
fn drained_by_ns(until_ns: u64) -> u64 {
    until_ns.saturating_sub(PUBLISH_NS)
}

/// Why a device cannot be a member of a session.
pub enum MemberError {
    /// Its superblock differs from that of the other members.
    Mismatch(Mismatch),
    /// The disk was replaced; the member has this generation now [R56].
    Outdated(u32),
    /// Another device is this member already.
    Taken,
}

/// One controller on one portion.
#[pin_data]
pub struct Session {
    /// The part of the superblock that is the same on all members.
    pub superblock: Superblock,
    /// The controller.
    pub controller: Slot,
    /// The parts of the engine that tasks use.
    pub shared: Arc<Shared>,
    /// Whether the log already says that open devices are in the way of a claim.
    openers_reported: Atomic<bool>,
    /// Held over one message from its beginning to its end.
    #[pin]
    command: Mutex<()>,
    #[pin]
    tables: Mutex<Tables>,
}

/// A session with its threads. Dropping it ends the threads. A transfer that hangs stays with its
/// device.
pub struct Running {
    threads: KVec<Thread>,
    /// The session. It may outlive its threads; its inbox is closed then.
    pub session: Arc<Session>,
}

impl Running {
    /// A session that rests. May wait for I/O, so the caller holds no lock.
    pub fn new(
        superblock: &Superblock,
        timer: Arc<HeartbeatTimer>,
        boot_id: [u8; 16],
        event_waker: Arc<Waker>,
    ) -> Result<Self> {
        let engine = Engine::new(superblock, timer, boot_id, event_waker)?;
        let shared = engine.shared.clone();
        let waker = Node::new(shared.waker.clone())?;
        let session = Session::new(superblock, shared.clone())?;
        let threads = KVec::new();
        let mut running = Self { threads, session };
        running.start(engine)?;
        shared.timer.add(waker);
        Ok(running)
    }

    /// Starts the threads.
    fn start(&mut self, engine: Engine) -> Result {
        let shared = &self.session.shared;
        for mailbox in &shared.mailboxes {
            let mailbox = mailbox.clone();
            let body = move |context: &Context| mailbox.submit_loop(context);
            let thread = Thread::spawn(c"dm_lease_io", Priority::Realtime, body)?;
            self.threads.push(thread, GFP_KERNEL)?;
        }
        for outbox in shared.gate.outboxes() {
            let (gate, outbox) = (shared.gate.clone(), outbox.clone());
            let body = move |context: &Context| outbox.run(context, |bio| gate.submit(bio));
            let thread = Thread::spawn(c"dm_lease_bios", Priority::RealtimeLow, body)?;
            self.threads.push(thread, GFP_KERNEL)?;
        }
        let gate = shared.gate.clone();
        let body = move |context: &Context| gate.dispatch_loop(context);
        let thread = Thread::spawn(c"dm_lease_turn", Priority::RealtimeLow, body)?;
        self.threads.push(thread, GFP_KERNEL)?;
        let body = move |context: &Context| engine.run(context);
        let thread = Thread::spawn(c"dm_lease", Priority::Realtime, body)?;
        Ok(self.threads.push(thread, GFP_KERNEL)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let shared = &self.session.shared;
        shared.timer.remove(&shared.waker);
        // A transfer that no thread has submitted yet is not submitted any more.
        self.session.begin_park();
        self.threads.clear();
        shared.inbox.close();
    }
}

impl Session {
    /// A session without threads.
    fn new(superblock: &Superblock, shared: Arc<Shared>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                superblock: *superblock,
                controller: shared.identity.controller,
                shared,
                openers_reported: Atomic::new(false),
                command <- new_mutex!((), "dm_lease command"),
                tables <- new_mutex!(Tables::EMPTY, "dm_lease tables"),
            }),
            GFP_KERNEL,
        )
    }

    /// The last published view of the state machine.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// The statistics of heartbeats and checks since the session began.
    pub fn histogram(&self) -> Report {
        self.shared.histogram(&self.superblock.timing)
    }

    /// Checks that a member with this superblock belongs to the session [R39]. A table of the
    /// mapped device `mapped` found the member on `device`.
    ///
    /// # Errors
    ///
    /// See [`MemberError`].
    pub fn check_member(
        &self,
        superblock: &Superblock,
        device: DevT,
        mapped: DevT,
    ) -> Result<(), MemberError> {
        match self.superblock.fits(superblock) {
            Ok(()) | Err(Mismatch::SameIndex) => {}
            Err(mismatch) => return Err(MemberError::Mismatch(mismatch)),
        }
        let highest = self.view().generations.of(superblock.member);
        if superblock.generation < highest {
            return Err(MemberError::Outdated(highest));
        }
        let tables = self.tables.lock();
        match tables.is_taken(superblock.member, device, mapped) {
            true => Err(MemberError::Taken),
            false => Ok(()),
        }
    }

    /// The deferred bios of the mapped device `device`, if a table of it is loaded here. The second
    /// value says whether that table is live, and the third whether the deferred bios were sent to
    /// another session.
    ///
    /// All tables of a device share its deferred bios. A table that could not become live shares
    /// them too, because dm core keeps it in the place of the table before.
    pub fn deferred(&self, device: DevT) -> Option<(Arc<Deferred>, bool, bool)> {
        let tables = self.tables.lock();
        let is_it = |loaded: &&Loaded| loaded.table.deferred.device == device;
        let known = tables.loaded.iter().filter(is_it);
        let Loaded { table, live } = known.max_by_key(|loaded| loaded.live)?;
        let is_foreign = !live && table.flags.has(TableFlags::FOREIGN);
        Some((table.deferred.clone(), *live, is_foreign))
    }

    /// Adds a table that was loaded. It becomes live later, without an allocation.
    pub fn enroll(&self, table: Table) -> Result {
        let node = Tables::node(table)?;
        self.tables.lock().loaded.push(node);
        Ok(())
    }

    /// Makes a table live. This runs while the device of the table is suspended. So it allocates
    /// nothing, and no task allocates while it holds a lock that is taken here [R60].
    ///
    /// # Errors
    ///
    /// `EBUSY` if another device became this member since the table was loaded [R39]. `ESTALE` if
    /// the disk has turned out to be a former disk of the member [R56].
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
            return Err(ESTALE);
        }
        let mailbox = self
            .shared
            .mailboxes
            .get(usize::from(member))
            .ok_or(EINVAL)?;
        let last = tables.devices.get_mut(usize::from(member)).ok_or(EINVAL)?;
        let moved = last.replace(devt).is_some_and(|last| last != devt);
        if let Some(loaded) = tables.loaded.find_mut(is_it) {
            loaded.live = true;
        }
        tables.attached = tables.attached.wrapping_add(1);
        mailbox.set_device(device, as_member.generation);
        let settings = tables.settings(self.superblock.may_own());
        // With the lock held, so that the state machine gets the changes in their order.
        let _ = self.shared.inbox.ask(Request::Member {
            settings,
            member,
            as_member,
            moved,
        });
        Ok(())
    }

    /// Ends the life of a table. If its member has no other live table, the portion is released. If
    /// the session has no other live table, the session rests.
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
        self.post_settings(&tables);
        drop(tables);
        if !replaced {
            self.leave(Reason::Removed);
            // If a table became live meanwhile, the portion may be claimed again.
            if self.tables.lock().attached != attached {
                self.stay(Reason::Removed);
            }
        }
        let tables = self.tables.lock();
        if tables.live().next().is_none() {
            // With the lock held, so that a table that becomes live next ends the rest.
            let _ = self.shared.inbox.ask(Request::Rest);
        }
    }

    /// Removes a table that is not live.
    pub fn discharge(&self, id: u64) {
        let node = self.tables.lock().loaded.take(|it| it.table.id == id);
        // The lock is released before the element is freed.
        drop(node);
    }

    /// Passes the settings of the live tables to the engine. The caller holds their lock.
    fn post_settings(&self, tables: &Tables) {
        let settings = tables.settings(self.superblock.may_own());
        let _ = self.shared.inbox.ask(Request::Tables(settings));
    }

    /// Gives the portion up, and keeps the controller from claiming it before [`Session::stay`]. If
    /// the portion cannot be released within [`LEAVE_NS`], the gate is latched.
    pub fn leave(&self, reason: Reason) {
        let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
        self.begin_leave(reason, until_ns);
        self.finish_leave(reason, until_ns);
    }

    /// Begins to give the portion up. [`Session::finish_leave`] waits for the end.
    pub fn begin_leave(&self, reason: Reason, until_ns: u64) {
        let _ = self.ask_to_leave(reason, until_ns);
    }

    /// Waits until the portion is given up. Latches the gate if it is not given up by `until_ns`.
    pub fn finish_leave(&self, reason: Reason, until_ns: u64) {
        if let Err(refusal) = self.wait_to_leave(reason, until_ns) {
            report::not_released(&self.shared.identity, reason, refusal);
        }
        self.fence(reason);
    }

    fn wait_to_leave(&self, reason: Reason, until_ns: u64) -> Result<(), Reason> {
        loop {
            let has_ended = self.shared.inbox.wait_idle(until_ns);
            let is_late = clock::raw_ns() >= drained_by_ns(until_ns);
            if !has_ended || is_late && self.view().role.owns() {
                return Err(Reason::ReleaseTimeout);
            }
            // Ask again, because the command that has ended may be that of a message.
            if self.ask_to_leave(reason, until_ns)? {
                return Ok(());
            }
        }
    }

    /// Asks the state machine to give the portion up. Returns whether it is given up already.
    fn ask_to_leave(&self, reason: Reason, until_ns: u64) -> Result<bool, Reason> {
        // Call off a message that waits for a successor.
        let _ = self.shared.inbox.ask(Request::Command(Command::CallOff));
        let deadline_ns = drained_by_ns(until_ns);
        let leave = Command::Leave {
            reason,
            deadline_ns,
        };
        let was_idle = self.shared.inbox.is_idle();
        match self.shared.inbox.ask(Request::Command(leave)) {
            Ok(Reply::Done) => Ok(true),
            Ok(Reply::Pending { .. }) => Ok(false),
            Err(refusal) if was_idle && self.shared.inbox.is_idle() => Err(refusal),
            // A message has begun a release; wait for it.
            Err(_) => Ok(false),
        }
    }

    /// Prepares a session that is made while the system goes to sleep. It has no member yet.
    pub fn begin_sleep(&self) {
        let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
        self.begin_leave(Reason::Suspend, until_ns);
        self.begin_park();
    }

    /// Submits no mailbox I/O until [`Session::unpark`]. Transfers that were submitted continue.
    pub fn begin_park(&self) {
        self.shared
            .mailboxes
            .iter()
            .for_each(|mailbox| mailbox.park());
    }

    /// Waits until all transfers of the parked mailboxes have ended, but not longer than until
    /// `deadline_ns`. Returns whether they have.
    pub fn is_parked_by(&self, deadline_ns: u64) -> bool {
        let mut mailboxes = self.shared.mailboxes.iter();
        mailboxes.all(|mailbox| mailbox.is_settled_by(deadline_ns))
    }

    /// Submits mailbox I/O again.
    pub fn unpark(&self) {
        self.shared
            .mailboxes
            .iter()
            .for_each(|mailbox| mailbox.unpark());
    }

    /// Lets the controller claim again after [`Session::leave`] with this reason.
    pub fn stay(&self, reason: Reason) {
        let _ = self
            .shared
            .inbox
            .ask(Request::Command(Command::Stay(reason)));
    }

    /// Latches the gate at once, in the context of the caller, and then tells the state machine.
    pub fn fence(&self, reason: Reason) {
        self.latch_now(reason);
        let _ = self
            .shared
            .inbox
            .ask(Request::Command(Command::Fence(reason)));
    }

    /// Joins the portion anew as a new incarnation, because this virtual machine is a copy or was
    /// restored to a snapshot. Another copy may continue as the old incarnation. The caller has
    /// latched the gate.
    pub fn fork(&self) {
        let inc = Incarnation(clock::random_u128());
        let _ = self.shared.inbox.ask(Request::Fork(inc));
    }

    /// Latches the gate at once. The portion thread learns the reason later.
    pub fn latch_now(&self, reason: Reason) {
        self.shared.latch_now(reason);
    }

    /// Performs a command and waits for its end: for less than a second, or for six seconds if the
    /// command waits for a successor.
    ///
    /// # Errors
    ///
    /// The reason of a refusal, or [`Reason::ReleaseTimeout`].
    pub fn command(&self, command: Command) -> Result<(), Reason> {
        let _serial = self.command.lock();
        match self.shared.inbox.ask(Request::Command(command))? {
            Reply::Done => Ok(()),
            Reply::Pending { ticket, prepare_ns } => {
                let wait_ns = prepare_ns.saturating_add(LEAVE_NS);
                let deadline_ns = clock::raw_ns().saturating_add(wait_ns);
                self.shared.inbox.wait(ticket, deadline_ns)
            }
        }
    }

    /// Claims as soon as the term of the owner is over. Looks for open devices first, because the
    /// event thread may not have looked since the controller learnt of a foreign epoch.
    pub fn claim(&self) -> Result<(), Reason> {
        if let Some(epoch) = self.view().stale_epoch {
            self.look_for_openers(epoch);
        }
        self.command(Command::Claim)
    }

    /// Releases the portion, to `successor` if one is named.
    pub fn release(&self, successor: Option<Slot>) -> Result<(), Reason> {
        let deadline_ns = clock::raw_ns().saturating_add(RELEASE_NS);
        self.command(Command::Release {
            successor,
            deadline_ns,
        })
    }

    /// Shuts the tables on a former disk of a member for reads and writes, because the data of that
    /// disk is old [R56].
    fn shut_tables(&self) {
        let generations = self.view().generations;
        let tables = self.tables.lock();
        let is_former = |table: &&Table| table.as_member.generation < generations.of(table.member);
        let former = tables.live().filter(is_former);
        former.for_each(|table| table.flags.set(TableFlags::OUTDATED));
    }

    /// Prints the notices, raises an event for each live table, and looks for open devices. Only
    /// the event thread calls this: a console may be slow, and an event may wait for memory that is
    /// written back through this portion.
    pub fn handle_events(&self) {
        // This does not depend on a notice, because the oldest notices may be dropped. A former
        // disk is written until its table is shut.
        self.shut_tables();
        let mut has_notices = false;
        while let Some(notice) = self.shared.take_notice() {
            report::notice(&self.shared.identity, &notice);
            has_notices = true;
        }
        if has_notices {
            self.raise_events();
        }
        if let Some(epoch) = self.view().stale_epoch {
            self.look_for_openers(epoch);
        }
    }

    /// The status of a table of `member`. Takes only spinlocks.
    pub fn status(&self, member: u8) -> Status<'_> {
        let view = self.view();
        let count = self.shared.gate.count();
        let left_ns = self
            .shared
            .gate
            .expiry_ns()
            .checked_sub(clock::leaping_ns());
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
            pending: self.shared.gate.pending(),
            refused: self.shared.gate.refused(),
            late: self.shared.gate.late(),
            members_ok: view.members_ok,
            reason: view.reason,
            charged: view.charged,
            peak: count.peak,
            degraded: view.degraded,
        }
    }

    /// The number and the handle of the live table with the lowest number above `after` for which
    /// `wanted` holds. Callers visit the tables one by one this way and need no memory for a list.
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

    /// Raises an event for each live table.
    fn raise_events(&self) {
        let mut after = 0;
        while let Some((id, handle)) = self.next_handle(after, |_| true) {
            handle.event();
            after = id;
        }
    }

    /// Whether a mapped device is open whose openers may cache what they read (not `stateless`).
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

    /// Tells the state machine if no device is open. A task that opened a device before the epoch
    /// of another controller may write old data back, so the controller claims nothing until every
    /// device was closed [R31].
    fn look_for_openers(&self, epoch: u64) {
        if self.has_openers() {
            if !self.openers_reported.xchg(true, ordering::Full) {
                report::blocked(&self.shared.identity, Reason::StaleOpeners);
                self.raise_events();
            }
            return;
        }
        let _ = self.openers_reported.xchg(false, ordering::Full);
        let _ = self.shared.inbox.ask(Request::OpenersGone(epoch));
    }
}
