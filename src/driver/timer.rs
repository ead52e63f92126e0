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
//! Locking: the list of bells is under an interrupt-disabling spinlock. Its elements are allocated
//! and freed outside of it.

use super::{
    list::{Chain, Link}, //
    waker::{Bell, Reasons},
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

/// The timer of a controller, and whom it tells.
#[pin_data]
pub struct Heart {
    /// Whose heart it is.
    pub controller: Slot,
    period_ns: Atomic<u64>,
    #[pin]
    timer: HrTimer<Self>,
    #[pin]
    bells: SpinLockIrq<Chain<Arc<Bell>>>,
}

/// A heart whose timer runs. Dropping it stops the timer and waits for it.
pub struct Beating {
    heart: Arc<Heart>,
    _timer: ArcHrTimerHandle<Heart>,
}

impl Beating {
    /// Starts the timer of a controller.
    pub fn new(controller: Slot, period_ns: u64) -> Result<Self> {
        let heart = Heart::new(controller, period_ns)?;
        let delta = Delta::from_nanos(heart.delta());
        Ok(Self {
            _timer: HrTimerPointer::start(heart.clone(), delta),
            heart,
        })
    }
}

impl Deref for Beating {
    type Target = Heart;

    fn deref(&self) -> &Heart {
        &self.heart
    }
}

impl Heart {
    /// A timer that is not started.
    fn new(controller: Slot, period_ns: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                controller,
                period_ns: Atomic::new(period_ns),
                timer <- HrTimer::new(),
                bells <- new_spinlock_irq!(Chain::EMPTY, "dm_lease heart"),
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

    /// Rings a bell at each heartbeat from now on.
    pub fn add(&self, bell: KBox<Link<Arc<Bell>>>) {
        self.bells.lock().push(bell);
    }

    /// Stops ringing `bell`.
    pub fn remove(&self, bell: &Arc<Bell>) {
        let removed = self.bells.lock().take(|known| Arc::ptr_eq(known, bell));
        drop(removed);
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
