// SPDX-License-Identifier: GPL-2.0

//! The heartbeat timer of one controller.
//!
//! One high-resolution timer on CLOCK_BOOTTIME serves all portions of a controller [R1]. At each
//! expiry it wakes the portion threads and does nothing else. So a disk that hangs cannot delay the
//! other portions, and the time in hard interrupt context is short.
//!
//! NTP may slew the clock of every timer, so a period may be more than a tenth shorter or longer
//! than it should be. No safety rule counts ticks: the portion thread reads the lease clock
//! ([`crate::dm::clock`]) when it runs, and that clock decides what a heartbeat is worth.
//!
//! Locking: an interrupt-disabling spinlock protects the list of wakers. Its elements are allocated
//! and freed outside of the lock.

use super::{
    list::{List, Node}, //
    waker::{Reasons, Waker},
};
use crate::proto::codec::ids::Slot;
use core::ops::Deref;
use kernel::{
    impl_has_hr_timer,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        ArcBorrow,
        SpinLockIrq, //
    },
    time::{
        hrtimer::{
            ArcHrTimerHandle,
            HrTimer,
            HrTimerCallback,
            HrTimerCallbackContext,
            HrTimerPointer,
            HrTimerRestart,
            RelativeMode, //
        },
        BootTime,
        Delta, //
    }, //
};

/// The timer of a controller, and the wakers of its portion threads.
#[pin_data]
pub struct Timer {
    /// The controller.
    pub controller: Slot,
    period_ns: Atomic<u64>,
    #[pin]
    timer: HrTimer<Self>,
    #[pin]
    wakers: SpinLockIrq<List<Arc<Waker>>>,
}

/// A running timer. Dropping it stops the timer and waits until its callback has ended.
pub struct HeartbeatTimer {
    timer: Arc<Timer>,
    _handle: ArcHrTimerHandle<Timer>,
}

impl HeartbeatTimer {
    /// Starts the timer of a controller.
    pub fn new(controller: Slot, period_ns: u64) -> Result<Self> {
        let timer = Timer::new(controller, period_ns)?;
        let delta = Delta::from_nanos(timer.delta());
        Ok(Self {
            _handle: HrTimerPointer::start(timer.clone(), delta),
            timer,
        })
    }
}

impl Deref for HeartbeatTimer {
    type Target = Timer;

    fn deref(&self) -> &Timer {
        &self.timer
    }
}

impl Timer {
    /// A timer that is not started.
    fn new(controller: Slot, period_ns: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                controller,
                period_ns: Atomic::new(period_ns),
                timer <- HrTimer::new(),
                wakers <- new_spinlock_irq!(List::EMPTY, "dm_lease timer"),
            }),
            GFP_KERNEL,
        )
    }

    /// The period in nanoseconds.
    pub fn period_ns(&self) -> u64 {
        self.period_ns.load(ordering::Relaxed)
    }

    /// Changes the period, from the next expiry on.
    pub fn set_period_ns(&self, period_ns: u64) {
        let _ = self.period_ns.xchg(period_ns, ordering::Full);
    }

    /// Wakes a thread at each expiry from now on.
    pub fn add(&self, waker: KBox<Node<Arc<Waker>>>) {
        self.wakers.lock().push(waker);
    }

    /// Removes `waker` from the timer.
    pub fn remove(&self, waker: &Arc<Waker>) {
        let removed = self.wakers.lock().take(|known| Arc::ptr_eq(known, waker));
        drop(removed);
    }

    fn delta(&self) -> i64 {
        i64::try_from(self.period_ns()).unwrap_or(i64::MAX)
    }
}

impl HrTimerCallback for Timer {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        for waker in this.wakers.lock().iter() {
            waker.wake(Reasons::TICK);
        }
        context.forward_now(Delta::from_nanos(this.delta()));
        HrTimerRestart::Restart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Timer {
        mode: RelativeMode<BootTime>, field: self.timer
    }
}
