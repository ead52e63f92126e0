// SPDX-License-Identifier: GPL-2.0

//! The outbox of a member: bios that have waited at the gate and got a permit.
//!
//! The dispatcher gives permits to waiting bios. To submit a bio may block for as long as its
//! member hangs. So each member has a thread that submits its bios, and a member that hangs delays
//! only its own bios. An [`Outbox`] is between the dispatcher and that thread:
//!
//! ```text
//!   dispatcher: permit --push--> outbox --next--> member's thread: lease? --> submit
//!                                  |                                 |
//!                                  +-- take_all: the lease is over --+--> refuse, permit goes back
//! ```
//!
//! A bio may be in an outbox for a long time. So the thread checks the lease again before it
//! submits the bio.
//!
//! Locking: an interrupt-disabling spinlock, under which nothing is submitted or ended.

use super::LeaseTarget;
use crate::{
    dm::{BioList, Context, HeldBio},
    driver::waker::{Reasons, Waker},
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{Arc, SpinLockIrq}, //
};

/// The outbox of one member.
#[pin_data]
pub struct Outbox {
    #[pin]
    waker: Waker,
    #[pin]
    bios: SpinLockIrq<BioList<HeldBio<LeaseTarget>>>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                waker <- Waker::new(),
                bios <- new_spinlock_irq!(BioList::new(), "dm_lease outbox"),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a bio that has a permit, and wakes the thread of the member.
    pub fn push(&self, bio: HeldBio<LeaseTarget>) {
        self.bios.lock().push(bio);
        self.waker.wake(Reasons::PERMIT);
    }

    /// Takes all bios.
    pub fn take_all(&self) -> BioList<HeldBio<LeaseTarget>> {
        self.bios.lock().take_all()
    }

    /// The body of the thread of the member: calls `submit`, which may block, with each bio.
    pub fn run(&self, context: &Context, submit: impl Fn(HeldBio<LeaseTarget>)) {
        while self.waker.wait(context, None).is_some() {
            while let Some(bio) = self.next() {
                submit(bio);
            }
        }
    }

    fn next(&self) -> Option<HeldBio<LeaseTarget>> {
        self.bios.lock().pop()
    }
}
