// SPDX-License-Identifier: GPL-2.0

//! All sessions and all timers of this machine.
//!
//! A session exists while a table of it does, live or not; a timer while a session of its
//! controller does. Several controllers may live in one kernel.
//!
//! Also here is what concerns all of them at once: the herald thread, which raises dm events and
//! looks for openers (nobody waits for it), an orderly shutdown, and system sleep [R43].
//!
//! System sleep is noticed in three ways that do not rely on each other. A PM notifier releases the
//! portions before the sleep. A syscore hook makes the clock of all gates leap when the system
//! wakes up, before any task or interrupt runs: some sleeps have no notifier, as that of a Xen
//! guest, or a `kexec` that comes back. And each event of a machine compares its clocks with those
//! of the event before; this also shows a suspend-to-idle, for which no syscore hook is called.
//!
//! Locking: the registry's mutex is the outermost one. It is held while sessions are found, made
//! and removed, never while one of them waits for a disk.

use super::{
    bell::Bell,
    deferred::Deferred,
    heart::{Beating, Heart},
    portion::Session,
    report,
    target::LeaseTarget,
};
use crate::{
    dm::{
        clock,
        notifier::{
            OnPm, OnReboot, OnSyscore, PmEvent, PmNotifier, RebootNotifier, Shutdown, SyscoreHook,
        },
        DevT,
        Priority,
        TargetModule,
        Thread, //
    },
    proto::{
        clocks::LEAP_NS,
        record::Slot,
        status::Reason,
        superblock::{Mismatch, Superblock},
        time::NS_PER_MS, //
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

/// See the top of the file.
pub struct Registry {
    sessions: KVec<Entry>,
    hearts: KVec<(Arc<Heart>, Beating)>,
    herald: Arc<Bell>,
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
    session: Arc<Session>,
    tables: u32,
}

/// What nobody needs any more; it ends when it is dropped, outside of the registry's lock.
struct Ended {
    _session: Entry,
    _heart: Option<(Arc<Heart>, Beating)>,
}

/// Why a table cannot join a session.
pub enum JoinError {
    /// Something failed that is not the table's fault.
    System(Error),
    /// The member differs from those that are here already.
    Mismatch(Mismatch),
    /// Another device is this member already.
    Taken,
    /// The controller's period does not fit the timings of the portion [R10].
    Period,
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

impl Drop for Membership {
    fn drop(&mut self) {
        let removed = REGISTRY::with(|registry| registry.part(&self.session));
        // A session and a timer may be the last of their kind here: they end without the lock.
        drop(removed);
    }
}

/// The period of a controller's timer, in milliseconds, if it has one.
pub fn heartbeat_ms(slot: Slot) -> Option<u32> {
    let period_ns = REGISTRY::with(|registry| {
        let heart = registry
            .hearts
            .iter()
            .find(|(heart, _)| heart.controller == slot);
        heart.map(|(heart, _)| heart.period_ns())
    });
    let period_ms = period_ns.flatten()?.checked_div(NS_PER_MS)?;
    u32::try_from(period_ms).ok()
}

/// Finds or makes the session of controller `slot` on the portion of `superblock`, found on
/// `device`. The first table of a controller sets its period.
///
/// # Errors
///
/// See [`JoinError`]; nothing is changed then.
pub fn join(
    superblock: &Superblock,
    slot: Slot,
    device: DevT,
    heartbeat_ms: Option<u32>,
) -> Result<Membership, JoinError> {
    let joined = REGISTRY::with(|registry| registry.join(superblock, slot, device, heartbeat_ms));
    joined.unwrap_or(Err(JoinError::System(ENODEV)))
}

/// What dm core defers of the mapped device `device`, if a table of it is live; true if that table
/// does not belong to `session`.
pub fn deferred(device: DevT, session: &Arc<Session>) -> Option<(Arc<Deferred>, bool)> {
    let find = |registry: &mut Registry| {
        registry.sessions.iter().find_map(|entry| {
            let deferred = entry.session.deferred(device)?;
            Some((deferred, !Arc::ptr_eq(&entry.session, session)))
        })
    };
    REGISTRY::with(find).flatten()
}

/// Changes the period of a controller, if it fits all its portions [R10].
///
/// # Errors
///
/// [`Reason::PeriodUnfit`] if it does not fit one of them.
pub fn set_heartbeat_ms(slot: Slot, period_ms: u32) -> Result<(), Reason> {
    let period_ns = u64::from(period_ms).saturating_mul(NS_PER_MS);
    let sessions = REGISTRY::with(|registry| {
        let own = || {
            registry
                .sessions
                .iter()
                .filter(|entry| entry.session.controller == slot)
        };
        let fits = |entry: &Entry| entry.session.superblock.timing.period_fits(period_ns);
        if !own().all(fits) {
            return Err(Reason::PeriodUnfit);
        }
        if let Some((heart, _)) = registry
            .hearts
            .iter()
            .find(|(heart, _)| heart.controller == slot)
        {
            heart.set_period_ns(period_ns);
        }
        own().for_each(|entry| entry.session.period_changed());
        Ok(())
    });
    sessions.unwrap_or(Ok(()))
}

impl Registry {
    fn new(herald: Arc<Bell>) -> Self {
        Self {
            sessions: KVec::new(),
            hearts: KVec::new(),
            herald,
            boot_id: clock::random_u128().to_le_bytes(),
            asleep: false,
            made: 0,
            tables: 0,
        }
    }

    fn join(
        &mut self,
        superblock: &Superblock,
        slot: Slot,
        device: DevT,
        heartbeat_ms: Option<u32>,
    ) -> Result<Membership, JoinError> {
        let index = match self.find(superblock, slot) {
            Some(index) => index,
            None => self.make(superblock, slot, heartbeat_ms)?,
        };
        let entry = self.sessions.get_mut(index).ok_or(ENOENT)?;
        entry.session.check_member(superblock, device)?;
        entry.session.reserve(entry.tables.saturating_add(1))?;
        self.tables = self.tables.wrapping_add(1);
        entry.tables = entry.tables.saturating_add(1);
        Ok(Membership {
            session: entry.session.clone(),
            id: self.tables,
        })
    }

    fn find(&self, superblock: &Superblock, slot: Slot) -> Option<usize> {
        let same = |entry: &Entry| {
            entry.session.controller == slot && entry.session.superblock.uuid == superblock.uuid
        };
        self.sessions.iter().position(same)
    }

    fn make(
        &mut self,
        superblock: &Superblock,
        slot: Slot,
        heartbeat_ms: Option<u32>,
    ) -> Result<usize, JoinError> {
        let asked_ns = heartbeat_ms.map(|ms| u64::from(ms).saturating_mul(NS_PER_MS));
        let known = self
            .hearts
            .iter()
            .find(|(heart, _)| heart.controller == slot);
        let known = known.map(|(heart, _)| heart.clone());
        let period_ns = match &known {
            Some(heart) => heart.period_ns(),
            None => asked_ns.unwrap_or(superblock.timing.period_max_ns),
        };
        if !superblock.timing.period_fits(period_ns) {
            return Err(JoinError::Period);
        }
        self.sessions.reserve(1, GFP_KERNEL)?;
        let is_new = known.is_none();
        let heart = match known {
            Some(heart) => heart,
            None => {
                self.hearts.reserve(1, GFP_KERNEL)?;
                Heart::new(slot, period_ns)?
            }
        };
        let herald = self.herald.clone();
        let session = Session::new(*superblock, heart.clone(), self.boot_id, herald)?;
        report::short_lease(&session);
        if is_new {
            let beating = heart.beat();
            let _ = self.hearts.push_within_capacity((heart, beating));
        }
        if self.asleep {
            session.leave(Reason::Suspend);
            session.park();
        }
        self.made = self.made.wrapping_add(1);
        let index = self.sessions.len();
        let _ = self.sessions.push_within_capacity(Entry {
            number: self.made,
            session,
            tables: 0,
        });
        Ok(index)
    }

    /// Takes back one table's share; returns what nobody needs any more.
    fn part(&mut self, session: &Arc<Session>) -> Option<Ended> {
        let is_it = |entry: &Entry| Arc::ptr_eq(&entry.session, session);
        let index = self.sessions.iter().position(is_it)?;
        let entry = self.sessions.get_mut(index)?;
        entry.tables = entry.tables.saturating_sub(1);
        if entry.tables > 0 {
            return None;
        }
        let entry = self.sessions.remove(index).ok()?;
        let slot = entry.session.controller;
        if self
            .sessions
            .iter()
            .any(|entry| entry.session.controller == slot)
        {
            return Some(Ended {
                _session: entry,
                _heart: None,
            });
        }
        let heart = self
            .hearts
            .iter()
            .position(|(heart, _)| heart.controller == slot);
        let heart = heart.and_then(|index| self.hearts.remove(index).ok());
        Some(Ended {
            _session: entry,
            _heart: heart,
        })
    }

    /// The session that was made next after number `after`.
    fn next(&self, after: u64) -> Option<(u64, Arc<Session>)> {
        let later = self.sessions.iter().filter(|entry| entry.number > after);
        let entry = later.min_by_key(|entry| entry.number)?;
        Some((entry.number, entry.session.clone()))
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
    herald: Thread,
    registry: REGISTRY,
}

impl TargetModule for Services {
    type Target = LeaseTarget;

    /// Starts everything.
    fn init() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let bell = Arc::pin_init(Bell::new(), GFP_KERNEL)?;
            let registry = REGISTRY::install(Registry::new(bell.clone()))?;
            let herald = Thread::spawn(c"dm_lease_herald", Priority::Normal, move |context| {
                while bell.wait(context, None).is_some() {
                    for_each_session(Session::herald);
                }
            })?;
            Ok(try_pin_init!(Self {
                reboot <- RebootNotifier::new(Shutting, REBOOT_PRIORITY),
                pm <- PmNotifier::new(Sleeping, 0),
                syscore <- SyscoreHook::new(Waking),
                herald,
                registry,
            }? Error))
        })
    }
}

struct Shutting;

impl OnReboot for Shutting {
    fn reboot(&self, _how: Shutdown) {
        for_each_session(|session| session.leave(Reason::Reboot));
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
        for_each_session(|session| session.leave(Reason::Suspend));
        let mut settled = true;
        for_each_session(|session| {
            if !session.park() {
                report::not_parked(session);
                settled = false;
            }
        });
        if settled {
            return Ok(());
        }
        // Who vetoes is not told that it was given up.
        self.awake();
        Err(EBUSY)
    }
}
