// SPDX-License-Identifier: GPL-2.0

//! What the module has while it is loaded: the registry, the event thread and the notifiers.
//!
//! The event thread prints the notices of all sessions, raises dm events, and looks for open
//! devices. No thread waits for it.
//!
//! All portions are released before a shutdown and before a system sleep [R43]. A system sleep is
//! noticed in three independent ways:
//!
//! * A PM notifier releases the portions before the sleep.
//! * A syscore hook makes the clock of all gates leap when the system wakes up, before any task or
//!   interrupt runs. Some sleeps have no PM notifier, for example that of a Xen guest, or a `kexec`
//!   that returns.
//! * At each event, a state machine compares its clocks with those of the event before. This finds
//!   a suspend-to-idle too, for which the kernel calls no syscore hook.
//!
//! A hypervisor with a generation counter (vmgenid) tells a virtual machine that it was copied with
//! its memory, or restored to a snapshot. Then all gates are latched at once, and all sessions join
//! anew as new incarnations [R58].
//!
//! Locking: the registry is locked only while its list or its `asleep` flag is used.

use super::{
    gate::LeaseTarget,
    registry::{for_each_session, Registry, REGISTRY},
    report,
    session::{Session, LEAVE_NS},
    waker::Waker,
};
use crate::{
    dm::{
        clock,
        notifier::{
            OnPm, OnReboot, OnSyscore, OnVmFork, PmEvent, PmNotifier, RebootNotifier, Shutdown,
            SyscoreHook, VmForkNotifier,
        },
        Priority,
        TargetModule,
        Thread, //
    },
    proto::{clocks::LEAP_NS, time::NS_PER_MS, words::status::Reason},
};
use kernel::{prelude::*, sync::Arc};

/// The priority of the reboot notifier. Software RAID, bcache and dm-integrity write at shutdown,
/// at priorities down to one below the highest. Leases end after them and before the disk drivers
/// stop.
const REBOOT_PRIORITY: i32 = i32::MAX - 2;

/// How long a system suspend waits for mailbox commands that are under way.
const PARK_NS: u64 = 2_000 * NS_PER_MS;

/// The state of the module. The fields are dropped in this order, so that no notifier and no thread
/// uses the registry after its end.
#[pin_data]
pub struct Services {
    #[pin]
    reboot: RebootNotifier<OnShutdown>,
    #[pin]
    pm: PmNotifier<OnSleep>,
    #[pin]
    syscore: SyscoreHook<OnWakeup>,
    #[pin]
    vm_fork: VmForkNotifier<OnCopy>,
    event_thread: Thread,
    registry: REGISTRY,
}

impl TargetModule for Services {
    type Target = LeaseTarget;

    fn init() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
            let registry = REGISTRY::install(Registry::new(waker.clone()))?;
            let event_thread =
                Thread::spawn(c"dm_lease_event", Priority::Normal, move |context| {
                    while waker.wait(context, None).is_some() {
                        for_each_session(Session::handle_events);
                    }
                })?;
            Ok(try_pin_init!(Self {
                reboot <- RebootNotifier::new(OnShutdown, REBOOT_PRIORITY),
                pm <- PmNotifier::new(OnSleep, 0),
                syscore <- SyscoreHook::new(OnWakeup),
                vm_fork <- VmForkNotifier::new(OnCopy, 0),
                event_thread,
                registry,
            }? Error))
        })
    }
}

/// Gives all portions up before a reboot, a shutdown or a kexec.
struct OnShutdown;

impl OnReboot for OnShutdown {
    fn reboot(&self, _how: Shutdown) {
        all_leave(Reason::Reboot);
    }
}

/// Ends every lease that was granted before a sleep, because the lease clock does not count a
/// sleep.
struct OnWakeup;

impl OnSyscore for OnWakeup {
    fn suspend(&self) {}

    fn resume(&self) {
        clock::leap(LEAP_NS);
    }
}

/// Makes all sessions give their portions up. All begin before the first one is waited for, so that
/// all together take no longer than one.
fn all_leave(reason: Reason) {
    let until_ns = clock::raw_ns().saturating_add(LEAVE_NS);
    for_each_session(|session| session.begin_leave(reason, until_ns));
    for_each_session(|session| session.finish_leave(reason, until_ns));
}

/// Parks the mailboxes of all sessions. Returns whether all transfers have ended.
fn all_park() -> bool {
    for_each_session(Session::begin_park);
    let until_ns = clock::raw_ns().saturating_add(PARK_NS);
    let mut settled = true;
    for_each_session(|session| {
        if !session.is_parked_by(until_ns) {
            report::not_parked(&session.shared.identity);
            settled = false;
        }
    });
    settled
}

/// Reacts to a copy of this virtual machine.
struct OnCopy;

impl OnVmFork for OnCopy {
    /// Another copy of this virtual machine may own the same portions. So first all gates are
    /// latched, which does not wait, and then all sessions join anew.
    fn vm_fork(&self) {
        for_each_session(|session| session.latch_now(Reason::Fork));
        for_each_session(Session::fork);
    }
}

/// Gives all portions up before a system sleep.
struct OnSleep;

impl OnSleep {
    /// Lets all sessions work again.
    fn awake(&self) {
        REGISTRY::with(|registry| registry.asleep = false);
        for_each_session(|session| {
            session.unpark();
            session.stay(Reason::Suspend);
        });
    }
}

impl OnPm for OnSleep {
    /// Releases all portions, and submits no mailbox I/O until the system is awake again.
    fn pm(&self, event: PmEvent) -> Result {
        if !event.is_before() {
            self.awake();
            return Ok(());
        }
        // A session that is made from now on must not claim either.
        REGISTRY::with(|registry| registry.asleep = true);
        all_leave(Reason::Suspend);
        if all_park() {
            return Ok(());
        }
        // A notifier that vetoes a suspend gets no POST event, so undo it here.
        self.awake();
        Err(EBUSY)
    }
}
