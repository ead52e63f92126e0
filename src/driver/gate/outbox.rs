// SPDX-License-Identifier: GPL-2.0

//! The way out of the gate for bios that waited there: one for each member.
//!
//! The dispatcher gives permits to what waits. Sending a bio to its member may block for as long as
//! the member likes. So each member has a thread of its own for that, and a member that hangs holds
//! up its own bios only. Between the dispatcher and such a thread is an [`Outbox`]:
//!
//! ```text
//!   dispatcher: permit --push--> outbox --next--> member's thread: lease? --> submit
//!                                  |                                 |
//!                                  +-- take_all: the lease is over --+--> refuse, permit goes back
//! ```
//!
//! What is in an outbox has a permit, and may have been there for long. So the thread looks at the
//! lease once more before it lets a bio go.
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

/// See the top of the file.
#[pin_data]
pub struct Outbox {
    #[pin]
    waker: Waker,
    #[pin]
    bios: SpinLockIrq<BioList<HeldBio<LeaseTarget>>>,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                waker <- Waker::new(),
                bios <- new_spinlock_irq!(BioList::new(), "dm_lease outbox"),
            }),
            GFP_KERNEL,
        )
    }

    /// Leaves a bio that has a permit to the member's thread.
    pub fn push(&self, bio: HeldBio<LeaseTarget>) {
        self.bios.lock().push(bio);
        self.waker.wake(Reasons::PERMIT);
    }

    /// Takes everything.
    pub fn take_all(&self) -> BioList<HeldBio<LeaseTarget>> {
        self.bios.lock().take_all()
    }

    /// The body of the member's thread: calls `submit`, which may block, with one bio after the
    /// other.
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
