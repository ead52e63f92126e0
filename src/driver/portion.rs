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
//! Locking: see [`crate::driver`].

use super::{
    bell::{Bell, Reasons},
    deferred::Deferred,
    engine::{Machine, Shown},
    gate::PortionGate,
    heart::Heart,
    mailbox::Mailbox,
    registry::JoinError,
    report,
};
use crate::{
    dm::{clock, BlockDevice, Context, DevT, Priority, TargetHandle, Thread, WaitQueue},
    proto::{
        controller::{Command, MemberDevice, Setup},
        layout::MAX_MEMBERS,
        limit::Limit,
        record::{Incarnation, Slot},
        status::{Reason, Role, Status},
        superblock::{Mismatch, Superblock},
        time::NS_PER_MS, //
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
pub(super) const RELEASE_NS: u64 = 700 * NS_PER_MS;

/// How much longer it may take to publish it.
pub(super) const PUBLISH_NS: u64 = 250 * NS_PER_MS;

/// How long a suspend waits for mailbox commands that are under way.
const PARK_NS: u64 = 2_000 * NS_PER_MS;

/// One mapped device that is live.
pub struct Table {
    /// Tells tables apart: each instance has its own number.
    pub id: u64,
    /// The member it maps.
    pub member: u8,
    /// What its superblock says of it as a member.
    pub device: MemberDevice,
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
    /// What dm core defers of its mapped device.
    pub deferred: Arc<Deferred>,
}

/// The device of a member: while a table of it is live, and the last one there was.
#[derive(Clone, Copy, Default)]
struct Device {
    now: Option<DevT>,
    last: Option<DevT>,
}

/// The live tables and what runs for them.
pub(super) struct Tables {
    pub(super) live: KVec<Table>,
    threads: KVec<Thread>,
    /// Which device each member was found on.
    devices: [Device; MAX_MEMBERS as usize],
    /// Counts the tables that became live.
    attached: u64,
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
    pub(super) bell: Arc<Bell>,
    pub(super) dispatcher: Arc<Bell>,
    pub(super) mailboxes: KVec<Arc<Mailbox>>,
    /// What the machine last looked like, and what the herald has not told yet.
    #[pin]
    pub(super) shown: SpinLockIrq<Shown>,
    /// The user was told that openers are in the way.
    told_stale: Atomic<bool>,
    /// The machine has answered the command that was pending.
    pub(super) has_answer: Atomic<bool>,
    /// Who raises events.
    pub(super) herald: Arc<Bell>,
    #[pin]
    command: Mutex<()>,
    #[pin]
    tables: Mutex<Tables>,
    #[pin]
    pub(super) machine: Mutex<Machine>,
    #[pin]
    pub(super) answered: WaitQueue,
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
        let setup = setup(&superblock, &heart, boot_id);
        let machine = Machine::new(setup)?;
        let shown = Shown::new(&machine)?;
        let tables = Tables {
            live: KVec::new(),
            threads: KVec::new(),
            devices: [Device::default(); MAX_MEMBERS as usize],
            attached: 0,
        };
        let gate = PortionGate::new(
            &superblock,
            controller,
            limit,
            bell.clone(),
            dispatcher.clone(),
        )?;
        Arc::pin_init(
            pin_init!(Self {
                superblock,
                controller,
                heart,
                gate <- gate,
                bell,
                dispatcher,
                mailboxes,
                shown <- new_spinlock_irq!(shown, "dm_lease shown"),
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
        let known = self.tables.lock().devices.get(index).copied();
        match known
            .and_then(|known| known.now)
            .is_some_and(|now| now != device)
        {
            true => Err(JoinError::Taken),
            false => Ok(()),
        }
    }

    /// Makes room for so many tables, so that a table can become live without allocating: dm core
    /// resumes a device while it is suspended, and memory may be written back through it.
    pub fn reserve(&self, tables: u32) -> Result {
        let mut inner = self.tables.lock();
        let more = (tables as usize).saturating_sub(inner.live.len());
        Ok(inner.live.reserve(more, GFP_KERNEL)?)
    }

    /// What dm core defers of the mapped device `device`, if a table of it is live here.
    pub fn deferred(&self, device: DevT) -> Option<Arc<Deferred>> {
        let tables = self.tables.lock();
        let of_it = |table: &&Table| table.deferred.device == device;
        tables
            .live
            .iter()
            .find(of_it)
            .map(|table| table.deferred.clone())
    }

    /// A table becomes live. The first one starts the session.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another device became this member since the table was loaded [R39]; `ENOMEM`.
    pub fn attach(self: &Arc<Self>, table: Table, device: Arc<BlockDevice>) -> Result {
        let (member, as_member) = (table.member, table.device);
        let mailbox = self.mailboxes.get(usize::from(member)).ok_or(EINVAL)?;
        let mut tables = self.tables.lock();
        if tables.live.iter().any(|known| known.id == table.id) {
            return Ok(());
        }
        let place = usize::from(member);
        let known = *tables.devices.get(place).ok_or(EINVAL)?;
        let devt = device.devt();
        if known.now.is_some_and(|now| now != devt) {
            return Err(EBUSY);
        }
        if tables.threads.is_empty() {
            self.start(&mut tables)?;
        }
        if tables.live.push_within_capacity(table).is_err() {
            return Err(ENOMEM);
        }
        // Only now: a table that did not become live must not keep another device out.
        let moved = known.last.is_some_and(|last| last != devt);
        if let Some(known) = tables.devices.get_mut(place) {
            *known = Device {
                now: Some(devt),
                last: Some(devt),
            };
        }
        tables.attached = tables.attached.wrapping_add(1);
        mailbox.set_device(device, as_member.generation);
        self.apply(&tables, |controller, now_ns| {
            if moved {
                controller.forget_member(member, now_ns);
            }
            controller.handle_member(member, Some(as_member));
            let _ = controller.handle_command(Command::Stay(Reason::Removed), now_ns);
        });
        drop(tables);
        self.bell.ring(Reasons::CHANGE);
        Ok(())
    }

    /// A table goes away. When it was the last of its member the portion is released; when it was
    /// the last of all, the session stops.
    pub fn detach(&self, id: u64) {
        let mut tables = self.tables.lock();
        let gone = tables.live.iter().find(|table| table.id == id);
        let Some(member) = gone.map(|table| table.member) else {
            return;
        };
        tables.live.retain(|table| table.id != id);
        let replaced = tables.live.iter().any(|table| table.member == member);
        if let Some(known) = tables.devices.get_mut(usize::from(member)) {
            known.now = known.now.filter(|_| replaced);
        }
        let attached = tables.attached;
        self.apply(&tables, |_, _| {});
        drop(tables);
        if !replaced {
            self.leave(Reason::Removed);
            // Another table may have become live meanwhile, which the removal must not undo.
            if self.tables.lock().attached != attached {
                self.stay(Reason::Removed);
            }
        }
        self.stop_if_idle();
    }

    /// Gives the portion up and does not claim it again before [`Session::stay`]: cleanly if that
    /// is possible within a bounded time, by latching otherwise.
    pub fn leave(&self, reason: Reason) {
        // Whoever waits for a successor gives way.
        self.submit(Command::CallOff).ok();
        self.bell.ring(Reasons::CHANGE);
        let _serial = self.command.lock();
        let deadline_ns = clock::raw_ns().saturating_add(RELEASE_NS);
        let released = self.run(Command::Leave {
            reason,
            deadline_ns,
        });
        if let Err(refusal) = released {
            report::not_released(self, reason, refusal);
        }
        self.submit(Command::Fence(reason)).ok();
    }

    /// No mailbox is written or read until [`Session::unpark`]. Returns whether none is under way
    /// any more; that is waited for, but not for ever.
    pub fn park(&self) -> bool {
        let deadline_ns = clock::raw_ns().saturating_add(PARK_NS);
        // All of them, whatever becomes of one.
        let parked = |mailbox: &Arc<Mailbox>| mailbox.park(deadline_ns);
        self.mailboxes
            .iter()
            .filter(|mailbox| !parked(mailbox))
            .count()
            == 0
    }

    /// Mailboxes are written and read again.
    pub fn unpark(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.unpark());
    }

    /// What [`Session::leave`] with this reason forbade is over.
    pub fn stay(&self, reason: Reason) {
        self.submit(Command::Stay(reason)).ok();
        self.bell.ring(Reasons::CHANGE);
    }

    /// Latches now, whatever else is going on.
    pub fn fence(&self) {
        self.submit(Command::Fence(Reason::Fence)).ok();
    }

    /// Carries out a command and waits for its end, for less than a second; for six where a
    /// successor is waited for.
    ///
    /// # Errors
    ///
    /// Why it was refused, or [`Reason::ReleaseTimeout`].
    pub fn command(&self, command: Command) -> Result<(), Reason> {
        let _serial = self.command.lock();
        self.run(command)
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

    /// Tells the machine that the timer has another period.
    pub fn period_changed(&self) {
        let period_ns = self.heart.period_ns();
        self.with_machine(|machine| machine.controller().set_period(period_ns));
    }

    /// Prints what there is to say, raises an event of each live table, and looks who has one
    /// open. Called by the herald thread only: a console may be slow, and an event may wait for
    /// memory that is written back through this very portion.
    pub fn herald(&self) {
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

    /// Handles to the live tables for which `wanted` holds: all of them, or `ENOMEM`.
    fn handles(&self, wanted: impl Fn(&Table) -> bool) -> Result<KVec<TargetHandle>> {
        let tables = self.tables.lock();
        let mut handles = KVec::new();
        for table in tables.live.iter().filter(|table| wanted(table)) {
            handles.push(table.handle.clone(), GFP_KERNEL)?;
        }
        Ok(handles)
    }

    /// Raises an event of each live table. Without memory there is none; the next one tells the
    /// same.
    fn raise_events(&self) {
        for handle in self.handles(|_| true).into_iter().flatten() {
            handle.event();
        }
    }

    /// Somebody who had a device open before another controller's epoch may write back what is no
    /// longer true: nothing is claimed until nobody has one open [R31].
    fn look_for_openers(&self, epoch: u64) {
        // Without memory nobody knows who has one open: the herald looks again at its next tick.
        let Ok(handles) = self.handles(|table| !table.stateless) else {
            return;
        };
        let open = |handle: &TargetHandle| handle.with(|ti| ti.open_count() > 0) == Some(true);
        if handles.iter().any(open) {
            if !self.told_stale.xchg(true, ordering::Full) {
                report::blocked(self, Reason::StaleOpeners);
                self.raise_events();
            }
            return;
        }
        let _ = self.told_stale.xchg(false, ordering::Full);
        self.apply(&self.tables.lock(), |controller, _| {
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
        for outbox in self.gate.outboxes() {
            let (session, outbox) = (self.clone(), outbox.clone());
            let body = move |context: &Context| outbox.run(context, |bio| session.gate.submit(bio));
            threads.push(
                Thread::spawn(c"dm_lease_bios", Priority::RealtimeLow, body)?,
                GFP_KERNEL,
            )?;
        }
        let session = self.clone();
        let body = move |context: &Context| session.dispatch_loop(context);
        threads.push(
            Thread::spawn(c"dm_lease_turn", Priority::RealtimeLow, body)?,
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
}

/// What the machine is given at the start.
fn setup(superblock: &Superblock, heart: &Heart, boot_id: [u8; 16]) -> Setup {
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
        redundancy: superblock.redundancy,
        batch: None,
        claim_auto: false,
    }
}
