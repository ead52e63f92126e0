// SPDX-License-Identifier: GPL-2.0

//! The registry: all sessions and all heartbeat timers of this host.
//!
//! A session exists while one of its tables is loaded, live or not. A timer exists while its
//! controller has a session. One kernel may run several controllers.
//!
//! The first table of a controller on a portion makes the session and its threads. This may wait
//! for memory that is written back through a suspended device, so the registry is unlocked
//! meanwhile [R60]. The new session is a *spare* until the registry is locked again. If another
//! table has added a session for the same portion and controller by then, the spare is dropped:
//!
//! ```text
//!   lock: session known? --yes--> take a reference
//!            ^      | no
//!            |      +--> unlock, make a spare session --+
//!            +------------------------------------------+ add the spare session, or drop it
//! ```
//!
//! Locking: the mutex of the registry is the outermost one. Tasks hold it while they find, add or
//! remove sessions. They hold it neither over an allocation nor while a session waits for a disk.

use super::{
    deferred::Deferred,
    list::{List, Node},
    report,
    session::{MemberError, Running, Session},
    tables::Table,
    timer::HeartbeatTimer,
    waker::Waker,
};
use crate::{
    dm::{clock, DevT},
    proto::{
        codec::{ids::Slot, superblock::Superblock},
        time::NS_PER_MS,
        words::{
            status::Reason,
            table::{FeatureArgs, TableError}, //
        }, //
    },
};
use kernel::{alloc::AllocError, prelude::*, sync::Arc};

crate::module_global! {
    /// The registry of this module.
    pub struct REGISTRY(Registry);
}

/// All sessions, and the values that they share.
pub struct Registry {
    sessions: List<Entry>,
    event_waker: Arc<Waker>,
    boot_id: [u8; 16],
    /// A system suspend has begun and has not ended.
    pub asleep: bool,
    /// The number of sessions added so far.
    added: u64,
    /// The number of joins so far, which is the number of the last table.
    joins: u64,
}

struct Entry {
    /// The number of the session. A later session has a higher number.
    number: u64,
    running: Running,
    /// The number of references by tables.
    tables: u32,
}

impl Entry {
    fn session(&self) -> &Arc<Session> {
        &self.running.session
    }
}

/// The request of a table to join a session.
pub struct JoinRequest<'a> {
    /// The superblock of the member.
    pub superblock: &'a Superblock,
    /// The controller.
    pub slot: Slot,
    /// The device of the member.
    pub device: DevT,
    /// The mapped device of the table.
    pub mapped: DevT,
    /// The features of the table line.
    pub features: &'a FeatureArgs,
}

impl JoinRequest<'_> {
    fn is_session(&self, session: &Session) -> bool {
        session.controller == self.slot && session.superblock.uuid == self.superblock.uuid
    }

    /// The period of a timer that is made for this table.
    fn first_period_ns(&self) -> u64 {
        let asked_ns = self.features.heartbeat_ms.map(ns);
        asked_ns.unwrap_or(self.superblock.timing.period_max_ns)
    }

    /// Checks that the period of the controller is that of the table line and fits the portion.
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

/// The result of one attempt to join.
enum Step {
    /// The table has joined.
    Joined(SessionRef),
    /// A spare session is needed. It uses this timer, if the controller has one.
    NeedsSpare(Option<Arc<HeartbeatTimer>>),
}

/// Why a table cannot join a session.
pub enum JoinError {
    /// The kernel refused something, for example memory.
    System(Error),
    /// The device cannot be a member of the session.
    Member(MemberError),
    /// The heartbeat period of the controller does not fit the timings of the portion [R10].
    Period,
    /// The table line does not fit the controller.
    Table(TableError),
}

impl From<Error> for JoinError {
    fn from(error: Error) -> Self {
        JoinError::System(error)
    }
}

impl From<MemberError> for JoinError {
    fn from(error: MemberError) -> Self {
        JoinError::Member(error)
    }
}

impl From<AllocError> for JoinError {
    fn from(_: AllocError) -> Self {
        JoinError::System(ENOMEM)
    }
}

/// The reference of a table to its session. Dropping the reference removes the table from the
/// session. A session without tables is removed from the registry.
pub struct SessionRef {
    /// The session.
    pub session: Arc<Session>,
    /// The number of the table.
    pub id: u64,
}

impl SessionRef {
    /// Adds the table to the session; see [`Session::enroll`].
    pub fn enroll(&self, table: Table) -> Result {
        self.session.enroll(table)
    }
}

impl Drop for SessionRef {
    fn drop(&mut self) {
        self.session.discharge(self.id);
        let removed = REGISTRY::with(|registry| registry.release(&self.session));
        // The lock is released before a session and its timer end.
        drop(removed);
    }
}

/// Finds or makes the session of a table. The first table of a controller sets the heartbeat
/// period.
///
/// # Errors
///
/// See [`JoinError`]. Nothing has changed then.
pub fn join(request: &JoinRequest<'_>) -> Result<SessionRef, JoinError> {
    let identity = REGISTRY::with(|registry| (registry.boot_id, registry.event_waker.clone()));
    let (boot_id, event_waker) = identity.ok_or(ENODEV)?;
    let mut spare = None;
    loop {
        let step =
            REGISTRY::with(|registry| registry.join(request, &mut spare)).ok_or(ENODEV)??;
        let timer = match step {
            Step::Joined(membership) => return Ok(membership),
            Step::NeedsSpare(timer) => timer,
        };
        // If the last attempt did not use the spare session, because the controller has another
        // timer now, the spare is dropped here, without the lock.
        drop(spare.take());
        let timer = match timer {
            Some(timer) => timer,
            None => Arc::new(
                HeartbeatTimer::new(request.slot, request.first_period_ns())?,
                GFP_KERNEL,
            )?,
        };
        let running = Running::new(request.superblock, timer, boot_id, event_waker.clone())?;
        spare = Some(Node::new(Entry {
            number: 0,
            running,
            tables: 0,
        })?);
    }
}

/// The deferred bios of the mapped device `device`, if a table of it is loaded. The second value is
/// true if they were submitted while another session than `session` had the device.
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
        // Prefer the answer of a live table.
        known.max_by_key(|known| known.0).map(|known| known.1)
    };
    REGISTRY::with(find).flatten()
}

/// Changes the heartbeat period of a controller, if it fits all portions of the controller [R10].
///
/// # Errors
///
/// [`Reason::PeriodUnfit`] if the period does not fit one of them.
pub fn set_heartbeat_ms(slot: Slot, period_ms: u32) -> Result<(), Reason> {
    let period_ns = ns(period_ms);
    let changed = REGISTRY::with(|registry| {
        let fits = |session: &Arc<Session>| session.superblock.timing.period_fits(period_ns);
        if !registry.sessions_of(slot).all(fits) {
            return Err(Reason::PeriodUnfit);
        }
        if let Some(timer) = registry.timer(slot) {
            // The portion threads read the period when they run next, and the timer uses it from
            // its next expiry on.
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
    /// A registry without sessions. Sessions wake the event thread by `event_waker`.
    pub fn new(event_waker: Arc<Waker>) -> Self {
        Self {
            sessions: List::EMPTY,
            event_waker,
            boot_id: clock::random_u128().to_le_bytes(),
            asleep: false,
            added: 0,
            joins: 0,
        }
    }

    fn sessions_of(&self, slot: Slot) -> impl Iterator<Item = &Arc<Session>> {
        let sessions = self.sessions.iter().map(Entry::session);
        sessions.filter(move |session| session.controller == slot)
    }

    /// The timer of a controller, if it has one.
    fn timer(&self, slot: Slot) -> Option<&Arc<HeartbeatTimer>> {
        self.sessions_of(slot)
            .next()
            .map(|session| &session.shared.timer)
    }

    /// Lets a table join its session, or the spare session. The caller holds the lock of the
    /// registry, so the controller's period cannot change between the check and the join.
    fn join(
        &mut self,
        request: &JoinRequest<'_>,
        spare: &mut Option<KBox<Node<Entry>>>,
    ) -> Result<Step, JoinError> {
        let timer = self.timer(request.slot);
        let period_ns = timer.map_or(request.first_period_ns(), |timer| timer.period_ns());
        request.check_period(period_ns)?;
        let is_it = |entry: &Entry| request.is_session(entry.session());
        if !self.sessions.iter().any(is_it) {
            // A controller has one timer. A spare session that was made with another one is
            // dropped.
            let fits =
                |session: &Session| timer.is_none_or(|it| Arc::ptr_eq(it, &session.shared.timer));
            match spare.take_if(|node| fits(node.value().session())) {
                Some(node) => self.add(node),
                None => return Ok(Step::NeedsSpare(timer.cloned())),
            }
        }
        let entry = self.sessions.find_mut(is_it).ok_or(ENOENT)?;
        let (superblock, device) = (request.superblock, request.device);
        entry
            .session()
            .check_member(superblock, device, request.mapped)?;
        entry.tables = entry.tables.saturating_add(1);
        self.joins = self.joins.wrapping_add(1);
        Ok(Step::Joined(SessionRef {
            session: entry.session().clone(),
            id: self.joins,
        }))
    }

    fn add(&mut self, mut node: KBox<Node<Entry>>) {
        self.added = self.added.wrapping_add(1);
        let entry = node.value_mut();
        entry.number = self.added;
        let session = entry.session();
        report::short_lease(&session.shared.identity, &session.superblock.timing);
        if self.asleep {
            // The session has no member yet, so this does not wait for a disk.
            session.begin_sleep();
        }
        self.sessions.push(node);
    }

    /// Releases the reference of one table. Returns the session if that was the last reference.
    fn release(&mut self, session: &Arc<Session>) -> Option<KBox<Node<Entry>>> {
        let is_it = |entry: &Entry| Arc::ptr_eq(entry.session(), session);
        let entry = self.sessions.find_mut(is_it)?;
        entry.tables = entry.tables.saturating_sub(1);
        match entry.tables {
            0 => self.sessions.take(is_it),
            _ => None,
        }
    }

    /// The session with the lowest number above `after`.
    fn next(&self, after: u64) -> Option<(u64, Arc<Session>)> {
        let later = self.sessions.iter().filter(|entry| entry.number > after);
        let entry = later.min_by_key(|entry| entry.number)?;
        Some((entry.number, entry.session().clone()))
    }
}

/// Calls `f` with each session, one after the other. `f` runs without the lock of the registry.
/// Each session is found by its number, because a list of the sessions would need memory.
pub fn for_each_session(mut f: impl FnMut(&Session)) {
    let mut after = 0;
    while let Some((number, session)) = REGISTRY::with(|registry| registry.next(after)).flatten() {
        f(&session);
        after = number;
    }
}
