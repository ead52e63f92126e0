// SPDX-License-Identifier: GPL-2.0

//! The heartbeat timer of one controller.
//!
//! One high-resolution timer on CLOCK_BOOTTIME drives all portions of a controller [R1]. It does
//! nothing but ring the bell of each portion's thread: what hangs on one disk cannot delay the
//! others, and hard interrupt context stays short.
//!
//! The clock of the timer is a steered one, as every timer's is: a period may be a tenth shorter or
//! longer than it should be, and more. No safety rule counts ticks. What a heartbeat is worth is
//! decided by the lease clock ([`crate::dm::clock`]), which is read when the portion's thread runs.
//!
//! Locking: the list of bells is under an interrupt-disabling spinlock, and changed only with a
//! mutex held as well.

use super::bell::{Bell, Reasons};
use crate::proto::record::Slot;
use kernel::{
    impl_has_hr_timer,
    new_mutex,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        ArcBorrow,
        Mutex,
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

/// The timer of a controller, and whom it tells.
#[pin_data]
pub struct Heart {
    /// Whose heart it is.
    pub controller: Slot,
    period_ns: Atomic<u64>,
    #[pin]
    timer: HrTimer<Self>,
    /// Serialises changes of the list, so that it can be grown outside of the spinlock.
    #[pin]
    changes: Mutex<()>,
    #[pin]
    bells: SpinLockIrq<KVec<Arc<Bell>>>,
}

/// A running timer; dropping it stops the timer and waits for it.
pub type Beating = ArcHrTimerHandle<Heart>;

impl Heart {
    /// A timer that is not started.
    pub fn new(controller: Slot, period_ns: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                controller,
                period_ns: Atomic::new(period_ns),
                timer <- HrTimer::new(),
                changes <- new_mutex!((), "dm_lease heart changes"),
                bells <- new_spinlock_irq!(KVec::new(), "dm_lease heart"),
            }),
            GFP_KERNEL,
        )
    }

    /// Starts the timer.
    pub fn beat(self: &Arc<Self>) -> Beating {
        HrTimerPointer::start(self.clone(), Delta::from_nanos(self.delta()))
    }

    /// The period in nanoseconds.
    pub fn period_ns(&self) -> u64 {
        self.period_ns.load(ordering::Relaxed)
    }

    /// Changes the period, from the next expiry on.
    pub fn set_period_ns(&self, period_ns: u64) {
        let _ = self.period_ns.xchg(period_ns, ordering::Full);
    }

    /// Rings `bell` at each heartbeat from now on.
    pub fn add(&self, bell: Arc<Bell>) -> Result {
        let _changes = self.changes.lock();
        let old = self.bells.lock().len();
        let mut grown = KVec::with_capacity(old.saturating_add(1), GFP_KERNEL)?;
        let mut bells = self.bells.lock();
        for known in bells.iter() {
            let _ = grown.push_within_capacity(known.clone());
        }
        let _ = grown.push_within_capacity(bell);
        core::mem::swap(&mut *bells, &mut grown);
        drop(bells);
        drop(grown);
        Ok(())
    }

    /// Stops ringing `bell`.
    pub fn remove(&self, bell: &Arc<Bell>) {
        let _changes = self.changes.lock();
        self.bells.lock().retain(|known| !Arc::ptr_eq(known, bell));
    }

    /// Whether nobody listens.
    pub fn is_idle(&self) -> bool {
        self.bells.lock().is_empty()
    }

    fn delta(&self) -> i64 {
        i64::try_from(self.period_ns()).unwrap_or(i64::MAX)
    }
}

impl HrTimerCallback for Heart {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        for bell in this.bells.lock().iter() {
            bell.ring(Reasons::TICK);
        }
        context.forward_now(Delta::from_nanos(this.delta()));
        HrTimerRestart::Restart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Heart {
        mode: RelativeMode<BootTime>, field: self.timer
    }
}
