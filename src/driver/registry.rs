// SPDX-License-Identifier: GPL-2.0

//! All sessions and all timers of this machine.
//!
//! A session exists while a table of it does, live or not; a timer while a session of its
//! controller does. Several controllers may live in one kernel.
//!
//! A session is made, with its threads, before the registry is locked, because that may wait for
//! memory that is written back through a suspended device [R60]. If another table was faster, the
//! new session is thrown away:
//!
//! ```text
//!   lock: session known? --yes--> take part
//!            ^      | no
//!            |      +--> unlock, make a spare session --+
//!            +------------------------------------------+ the spare one goes in, or is of no use
//! ```
//!
//! Also here is what concerns all of them at once: the event thread, which raises dm events and
//! looks for openers (nobody waits for it), an orderly shutdown, and system sleep [R43].
//!
//! System sleep is noticed in three ways that do not rely on each other. A PM notifier releases the
//! portions before the sleep. A syscore hook makes the clock of all gates leap when the system
//! wakes up, before any task or interrupt runs: some sleeps have no notifier, as that of a Xen
//! guest, or a `kexec` that comes back. And each event of a machine compares its clocks with those
//! of the event before; this also shows a suspend-to-idle, for which no syscore hook is called.
//!
//! A virtual machine that was copied with its memory, or put back to a snapshot of it, is told so
//! by its hypervisor, if that has a generation counter (vmgenid). All gates are latched at once
//! then, and all sessions join anew as new incarnations [R58].
//!
//! Locking: the registry's mutex is the outermost one. It is held while sessions are found, added
//! and removed, never over an allocation, and never while one of them waits for a disk.

use super::{
    deferred::Deferred,
    gate::LeaseTarget,
    list::{List, Node},
    report,
    session::{Running, Session, Table, LEAVE_NS},
    timer::HeartbeatTimer,
    waker::Waker,
};
use crate::{
    dm::{
        clock,
        notifier::{
            OnPm, OnReboot, OnSyscore, OnVmFork, PmEvent, PmNotifier, RebootNotifier, Shutdown,
            SyscoreHook, VmForkNotifier,
        },
        DevT, Priority, TargetModule, Thread,
    },
    proto::{
        clocks::LEAP_NS,
        codec::{
            ids::Slot,
            superblock::{Mismatch, Superblock},
        },
        time::NS_PER_MS,
        words::{
            status::Reason,
            table::{FeatureArgs, TableError},
        },
    },
};
use kernel::{alloc::AllocError, prelude::*, sync::Arc};

crate::module_global! {
    /// The registry of this module.
    pub struct REGISTRY(Registry);
}

/// Software RAID, bcache and dm-integrity write at shutdown, with priorities down to one below
/// the highest; leases end after them, and before the drivers of the disks.
const REBOOT_PRIORITY: i32 = i32::MAX - 2;

/// How long a suspend waits for mailbox commands that are under way.
const PARK_NS: u64 = 2_000 * NS_PER_MS;

/// See the top of the file.
pub struct Registry {
    sessions: List<Entry>,
    herald: Arc<Waker>,
    boot_id: [u8; 16],
    /// Between the start of a system suspend and its end.
    asleep: bool,
    /// Sessions made so far.
    made: u64,
    /// Tables made so far.
    tables: u64,
}

struct Entry {
    /// Counts up; a later session has a higher one.
    number: u64,
    running: Running,
    tables: u32,
}

impl Entry {
    fn session(&self) -> &Arc<Session> {
        &self.running.session
    }
}

/// What a table brings along that wants to join a session.
pub struct Joiner<'a> {
    /// The superblock of its member.
    pub superblock: &'a Superblock,
    /// Its controller.
    pub slot: Slot,
    /// The member's device.
    pub device: DevT,
    /// The mapped device that it is a table of.
    pub mapped: DevT,
    /// What it asks for.
    pub features: &'a FeatureArgs,
}

impl Joiner<'_> {
    fn is_session(&self, session: &Session) -> bool {
        session.controller == self.slot && session.superblock.uuid == self.superblock.uuid
    }

    /// The period that a controller starts with.
    fn first_period_ns(&self) -> u64 {
        let asked_ns = self.features.heartbeat_ms.map(ns);
        asked_ns.unwrap_or(self.superblock.timing.period_max_ns)
    }

    /// Whether the period of a controller is what the table says, and fits the portion.
    fn check_period(&self, period_ns: u64) -> Result<(), JoinError> {
        self.features
            .check_heartbeat(u32::try_from(ms(period_ns)).unwrap_or(u32::MAX))
            .map_err(JoinError::Table)?;
        match self.superblock.timing.period_fits(period_ns) {
            true => Ok(()),
            false => Err(JoinError::Period),
        }
    }
}

/// How far a table has come.
enum Step {
    /// It takes part in a session.
    Joined(Membership),
    /// It needs a session, and its controller has this timer, if any.
    Spare(Option<Arc<HeartbeatTimer>>),
}

/// Why a table cannot join a session.
pub enum JoinError {
    /// Something failed that is not the table's fault.
    System(Error),
    /// The member differs from those that are here already.
    Mismatch(Mismatch),
    /// The disk was replaced: the member has this generation now [R56].
    Outdated(u32),
    /// Another device is this member already.
    Taken,
    /// The controller's period does not fit the timings of the portion [R10].
    Period,
    /// The table line does not fit the controller.
    Table(TableError),
}

impl From<Error> for JoinError {
    fn from(error: Error) -> Self {
        JoinError::System(error)
    }
}

impl From<AllocError> for JoinError {
    fn from(_: AllocError) -> Self {
        JoinError::System(ENOMEM)
    }
}

/// A table's share of a session; dropping it gives the share back.
pub struct Membership {
    /// The session.
    pub session: Arc<Session>,
    /// The table's own number.
    pub id: u64,
}

impl Membership {
    /// A table of the session was loaded; see [`Session::enroll`].
    pub fn enroll(&self, table: Table) -> Result {
        self.session.enroll(table)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.session.discharge(self.id);
        let removed = REGISTRY::with(|registry| registry.part(&self.session));
        // A session and a timer may be the last of their kind here: they end without the lock.
        drop(removed);
    }
}

/// Finds or makes the session of a table. The first table of a controller sets its period.
///
/// # Errors
///
/// See [`JoinError`]; nothing is changed then.
pub fn join(joiner: &Joiner<'_>) -> Result<Membership, JoinError> {
    let identity = REGISTRY::with(|registry| (registry.boot_id, registry.herald.clone()));
    let (boot_id, herald) = identity.ok_or(ENODEV)?;
    let mut spare = None;
    loop {
        let step = REGISTRY::with(|registry| registry.join(joiner, &mut spare)).ok_or(ENODEV)??;
        let timer = match step {
            Step::Joined(membership) => return Ok(membership),
            Step::Spare(timer) => timer,
        };
        // A spare session that did not fit ends here, without the lock.
        drop(spare.take());
        let timer = match timer {
            Some(timer) => timer,
            None => Arc::new(
                HeartbeatTimer::new(joiner.slot, joiner.first_period_ns())?,
                GFP_KERNEL,
            )?,
        };
        let running = Running::new(joiner.superblock, timer, boot_id, herald.clone())?;
        spare = Some(Node::new(Entry {
            number: 0,
            running,
            tables: 0,
        })?);
    }
}

/// What dm core defers of the mapped device `device`, if there is a table of it; true if what is
/// deferred was not sent to `session`.
pub fn deferred(device: DevT, session: &Arc<Session>) -> Option<(Arc<Deferred>, bool)> {
    let find = |registry: &mut Registry| {
        let sessions = registry.sessions.iter().map(Entry::session);
        let known = sessions.filter_map(|known| {
            let (deferred, is_live, is_foreign) = known.deferred(device)?;
            Some((
                is_live,
                (deferred, is_foreign || !Arc::ptr_eq(known, session)),
            ))
        });
        // What a live table says goes before what the others were told.
        known.max_by_key(|known| known.0).map(|known| known.1)
    };
    REGISTRY::with(find).flatten()
}

/// Changes the period of a controller, if it fits all its portions [R10].
///
/// # Errors
///
/// [`Reason::PeriodUnfit`] if it does not fit one of them.
pub fn set_heartbeat_ms(slot: Slot, period_ms: u32) -> Result<(), Reason> {
    let period_ns = ns(period_ms);
    let changed = REGISTRY::with(|registry| {
        let fits = |session: &Arc<Session>| session.superblock.timing.period_fits(period_ns);
        if !registry.sessions_of(slot).all(fits) {
            return Err(Reason::PeriodUnfit);
        }
        if let Some(timer) = registry.timer(slot) {
            // The portion threads of its sessions notice at their next tick.
            timer.set_period_ns(period_ns);
        }
        Ok(())
    });
    changed.unwrap_or(Ok(()))
}

fn ns(ms: u32) -> u64 {
    u64::from(ms).saturating_mul(NS_PER_MS)
}

fn ms(ns: u64) -> u64 {
    ns.checked_div(NS_PER_MS).unwrap_or(0)
}

impl Registry {
    fn new(herald: Arc<Waker>) -> Self {
        Self {
            sessions: List::EMPTY,
            herald,
            boot_id: clock::random_u128().to_le_bytes(),
            asleep: false,
            made: 0,
            tables: 0,
        }
    }

    fn sessions_of(&self, slot: Slot) -> impl Iterator<Item = &Arc<Session>> {
        let sessions = self.sessions.iter().map(Entry::session);
        sessions.filter(move |session| session.controller == slot)
    }

    /// The timer of a controller, if it has one.
    fn timer(&self, slot: Slot) -> Option<&Arc<HeartbeatTimer>> {
        self.sessions_of(slot).next().map(|session| &session.timer)
    }

    /// Lets a table take part in its session, or in the spare one. All that the table must agree
    /// with is looked at in the same step.
    fn join(
        &mut self,
        joiner: &Joiner<'_>,
        spare: &mut Option<KBox<Node<Entry>>>,
    ) -> Result<Step, JoinError> {
        let timer = self.timer(joiner.slot);
        let period_ns = timer.map_or(joiner.first_period_ns(), |timer| timer.period_ns());
        joiner.check_period(period_ns)?;
        let is_it = |entry: &Entry| joiner.is_session(entry.session());
        if !self.sessions.iter().any(is_it) {
            // A controller has one timer: a spare session may have been made with another one.
            let fits = |session: &Session| timer.is_none_or(|it| Arc::ptr_eq(it, &session.timer));
            match spare.take_if(|node| fits(node.value().session())) {
                Some(node) => self.add(node),
                None => return Ok(Step::Spare(timer.cloned())),
            }
        }
        let entry = self.sessions.find_mut(is_it).ok_or(ENOENT)?;
        let (superblock, device) = (joiner.superblock, joiner.device);
        entry
            .session()
            .check_member(superblock, device, joiner.mapped)?;
        entry.tables = entry.tables.saturating_add(1);
        self.tables = self.tables.wrapping_add(1);
        Ok(Step::Joined(Membership {
            session: entry.session().clone(),
            id: self.tables,
        }))
    }

    fn add(&mut self, mut node: KBox<Node<Entry>>) {
        self.made = self.made.wrapping_add(1);
        let entry = node.value_mut();
        entry.number = self.made;
        report::short_lease(entry.session());
        if self.asleep {
            // It has no member yet, so that there is nothing to wait for.
            entry.session().begin_sleep();
        }
        self.sessions.push(node);
    }

    /// Takes back one table's share; returns a session that nobody needs any more.
    fn part(&mut self, session: &Arc<Session>) -> Option<KBox<Node<Entry>>> {
        let is_it = |entry: &Entry| Arc::ptr_eq(entry.session(), session);
        let entry = self.sessions.find_mut(is_it)?;
        entry.tables = entry.tables.saturating_sub(1);
        match entry.tables {
            0 => self.sessions.take(is_it),
            _ => None,
        }
    }

    /// The session that was made next after number `after`.
    fn next(&self, after: u64) -> Option<(u64, Arc<Session>)> {
        let later = self.sessions.iter().filter(|entry| entry.number > after);
        let entry = later.min_by_key(|entry| entry.number)?;
        Some((entry.number, entry.session().clone()))
    }
}

/// Calls `f` with each session, one after the other, without the registry's lock and without
/// memory: what concerns all of them must reach all of them.
fn for_each_session(mut f: impl FnMut(&Session)) {
    let mut after = 0;
    while let Some((number, session)) = REGISTRY::with(|registry| registry.next(after)).flatten() {
        f(&session);
        after = number;
    }
}

/// What the module has as long as it is loaded. Dropped in this order: first nobody calls any
/// more, then the registry goes.
#[pin_data]
pub struct Services {
    #[pin]
    reboot: RebootNotifier<Shutting>,
    #[pin]
    pm: PmNotifier<Sleeping>,
    #[pin]
    syscore: SyscoreHook<Waking>,
    #[pin]
    vm_fork: VmForkNotifier<Copied>,
    herald: Thread,
    registry: REGISTRY,
}

impl TargetModule for Services {
    type Target = LeaseTarget;

    /// Starts everything.
    fn init() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
            let registry = REGISTRY::install(Registry::new(waker.clone()))?;
            let herald = Thread::spawn(c"dm_lease_event", Priority::Normal, move |context| {
                while waker.wait(context, None).is_some() {
                    for_each_session(Session::herald);
                }
            })?;
            Ok(try_pin_init!(Self {
                reboot <- RebootNotifier::new(Shutting, REBOOT_PRIORITY),
                pm <- PmNotifier::new(Sleeping, 0),
                syscore <- SyscoreHook::new(Waking),
                vm_fork <- VmForkNotifier::new(Copied, 0),
                herald,
                registry,
            }? Error))
        })
    }
}

struct Shutting;

impl OnReboot for Shutting {
    fn reboot(&self, _how: Shutdown) {
        all_leave(Reason::Reboot);
    }
}

/// The lease clock does not count a sleep: every lease that was granted before one is over.
struct Waking;

impl OnSyscore for Waking {
    fn suspend(&self) {}

    fn resume(&self) {
        clock::leap(LEAP_NS);
    }
}

/// All sessions give their portions up. They begin together, so that all of it takes no longer
/// than one of them may.
fn all_leave(reason: Reason) {
    let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
    for_each_session(|session| session.begin_leave(reason, until_ns));
    for_each_session(|session| session.finish_leave(reason, until_ns));
}

/// No session touches its mailboxes any more. Returns whether none has a transfer under way.
fn all_park() -> bool {
    for_each_session(Session::begin_park);
    let until_ns = clock::raw_ns().saturating_add(PARK_NS);
    let mut settled = true;
    for_each_session(|session| {
        if !session.is_parked_by(until_ns) {
            report::not_parked(session);
            settled = false;
        }
    });
    settled
}

struct Copied;

impl OnVmFork for Copied {
    /// Another copy of this machine may own the same portions. First all gates are latched, which
    /// waits for nothing; then all sessions join anew.
    fn vm_fork(&self) {
        for_each_session(|session| session.latch_now(Reason::Fork));
        for_each_session(Session::fork);
    }
}

struct Sleeping;

impl Sleeping {
    fn awake(&self) {
        REGISTRY::with(|registry| registry.asleep = false);
        for_each_session(|session| {
            session.unpark();
            session.stay(Reason::Suspend);
        });
    }
}

impl OnPm for Sleeping {
    /// Releases everything, and leaves the devices alone until the system is awake again.
    fn pm(&self, event: PmEvent) -> Result {
        if !event.is_before() {
            self.awake();
            return Ok(());
        }
        // A session that is made while the system goes to sleep must not claim either.
        REGISTRY::with(|registry| registry.asleep = true);
        all_leave(Reason::Suspend);
        if all_park() {
            return Ok(());
        }
        // A notifier that vetoes is not told that the suspend was given up.
        self.awake();
        Err(EBUSY)
    }
}
