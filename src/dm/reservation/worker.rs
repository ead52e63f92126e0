// SPDX-License-Identifier: GPL-2.0

//! A thread that sends the reservation commands of one device.
//!
//! ```text
//!          submit                    thread                  device answers
//!   idle ----------> submitted ---------------> under way -----------------> idle
//!                        |                                                     |
//!                        +-- worker dropped: Withdrawn --> OnAnswer::answer <--+
//! ```
//!
//! A device may keep a command for minutes or for ever. No one has to wait for it:
//!
//! - The user submits a command, and waits for the answer as long as it wants. Another command can
//!   be submitted when the answer has come. There is no way to cancel a command that is under way.
//! - Dropping the worker does not wait. A command that has not begun is withdrawn. One that is
//!   under way continues, and its answer is still delivered.
//! - A submitted command holds references on the device, on the handler and on this module, as a
//!   transfer does ([`IoBuf`](crate::dm::IoBuf)). The module cannot be unloaded until the answer
//!   was delivered. A module that submits a command while it is being unloaded, or while its load
//!   fails, waits until the answer was delivered.
//!
//! # Locking
//!
//! One spinlock protects the submitted command. It is not held while the device is used or a
//! handler is called. All functions except `new` work in any context. The handler is dropped by the
//! thread, or together with the worker.

use super::{
    Failure,
    Held,
    Key,
    KeyList,
    Kind,
    Preempt,
    Reservations, //
};
use crate::dm::{
    bindings,
    device::BlockDevice,
    thread::{
        new_wait_queue,
        spawn_detached,
        Context,
        Priority,
        WaitQueue, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    },
};

/// A reservation command. [`Reservations`] describes each one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// See [`Reservations::register`].
    Register {
        /// The registered key of this host, or `None` if it has none.
        old: Option<Key>,
        /// The key that it gets.
        new: Key,
    },
    /// See [`Reservations::unregister`].
    Unregister {
        /// The registered key of this host.
        own: Key,
    },
    /// See [`Reservations::reserve`].
    Reserve {
        /// The registered key of this host.
        own: Key,
        /// The type of the reservation.
        kind: Kind,
    },
    /// See [`Reservations::release`].
    Release {
        /// The registered key of this host.
        own: Key,
        /// The type of the reservation.
        kind: Kind,
    },
    /// See [`Reservations::preempt`].
    Preempt(Preempt),
    /// See [`Reservations::clear`].
    Clear {
        /// The registered key of this host.
        own: Key,
    },
    /// See [`Reservations::read_keys`].
    ReadKeys,
    /// See [`Reservations::read_reservation`].
    ReadReservation,
}

/// The answer of a device that has carried out a command.
pub enum Answer<'a> {
    /// The device has done it.
    Good,
    /// The registered keys.
    Keys(&'a KeyList),
    /// The reservation, or `None` if there is none.
    Reservation(Option<Held>),
}

/// A handler of answers.
pub trait OnAnswer: Send + Sync + 'static {
    /// Handles the answer to a command. `tag` is the number with which it was submitted.
    ///
    /// This is called once for each submitted command, in the thread of the worker, possibly after
    /// the worker was dropped. It may sleep. The next command can already be submitted, and is sent
    /// when this has returned.
    fn answer(&self, tag: u64, command: Command, answer: Result<Answer<'_>, Failure>);
}

/// A thread that sends the reservation commands of one device, one at a time.
///
/// If a worker is leaked (`core::mem::forget()`), its thread never ends, and the unload of the
/// module waits for ever.
///
/// # Invariants
///
/// A thread runs [`Shared::work`] until `is_closed` is set, which only the drop of this value does.
pub struct Worker<H: OnAnswer> {
    shared: Arc<Shared<H>>,
}

#[pin_data]
struct Shared<H: OnAnswer> {
    #[pin]
    pending: SpinLockIrq<Pending>,
    #[pin]
    wake: WaitQueue,
    dev: Arc<BlockDevice>,
    handler: H,
}

/// The place for one command, which the lock protects.
struct Pending {
    /// The command that was submitted and has not begun.
    submitted: Option<(u64, Command)>,
    /// Whether a command was submitted that was not answered.
    is_busy: bool,
    /// Whether the worker was dropped.
    is_closed: bool,
}

impl<H: OnAnswer> Worker<H> {
    /// Starts a thread for the commands of `dev`. `ps` shows the thread as `name`. The worker has a
    /// list with room for `capacity` keys. May sleep.
    ///
    /// Errors: `EINVAL` for a partition, and for a capacity that [`KeyList::new`] refuses;
    /// `EOPNOTSUPP` if the driver has no reservations; `ENODEV` if the module has ended.
    pub fn new(
        dev: Arc<BlockDevice>,
        name: &CStr,
        priority: Priority,
        capacity: u32,
        handler: H,
    ) -> Result<Self> {
        Reservations::of(&dev)?;
        let mut keys = KeyList::new(capacity)?;
        let shared = Arc::pin_init(
            pin_init!(Shared {
                pending <- new_spinlock_irq!(Pending {
                    submitted: None,
                    is_busy: false,
                    is_closed: false,
                }),
                wake <- new_wait_queue!("reservation"),
                dev,
                handler,
            }),
            GFP_KERNEL,
        )?;
        let body = shared.clone();
        spawn_detached(name, priority, move |context| body.work(context, &mut keys))?;
        // INVARIANT: The thread was started just above.
        Ok(Self { shared })
    }

    /// Submits a command. Its answer goes to the handler, together with `tag`, by which the user
    /// tells the answers apart. Works in any context.
    ///
    /// Errors: `EBUSY` if the command before it has not been answered.
    pub fn submit(&self, tag: u64, command: Command) -> Result {
        {
            let mut pending = self.shared.pending.lock();
            if pending.is_busy {
                return Err(EBUSY);
            }
            pending.is_busy = true;
            pending.submitted = Some((tag, command));
            // While the reference is held, the module cannot be unloaded.
            // SAFETY: `__module_get()` needs a module that cannot go away during the call. The
            // module exists while its code runs here. `work` drops the reference.
            unsafe { bindings::dm_hold_this_module() };
        }
        self.shared.wake.wake_all();
        Ok(())
    }

    /// Returns whether a submitted command has not been answered. Works in any context.
    pub fn is_busy(&self) -> bool {
        self.shared.pending.lock().is_busy
    }

    /// Returns the handler.
    pub fn handler(&self) -> &H {
        &self.shared.handler
    }
}

impl<H: OnAnswer> Drop for Worker<H> {
    fn drop(&mut self) {
        self.shared.pending.lock().is_closed = true;
        self.shared.wake.wake_all();
    }
}

impl<H: OnAnswer> Shared<H> {
    /// Sends the submitted commands until the worker was dropped.
    fn work(&self, context: &Context, keys: &mut KeyList) {
        while let Some((tag, command, is_withdrawn)) = self.next() {
            let answer = if is_withdrawn {
                Err(Failure::Withdrawn)
            } else {
                self.send(context, command, keys)
            };
            self.pending.lock().is_busy = false;
            self.handler.answer(tag, command, answer);
            // SAFETY: `submit` has taken this reference for the command.
            unsafe { bindings::dm_release_this_module() };
        }
    }

    /// Waits for the next command. Returns its tag, the command, and whether it is withdrawn, or
    /// `None` if there is none and the worker was dropped.
    fn next(&self) -> Option<(u64, Command, bool)> {
        loop {
            {
                let mut pending = self.pending.lock();
                let is_closed = pending.is_closed;
                if let Some((tag, command)) = pending.submitted.take() {
                    return Some((tag, command, is_closed));
                }
                if is_closed {
                    return None;
                }
            }
            self.wake.wait(|| {
                let pending = self.pending.lock();
                pending.is_closed || pending.submitted.is_some()
            });
        }
    }

    /// Sends one command and waits for its answer.
    fn send<'k>(
        &self,
        context: &Context,
        command: Command,
        keys: &'k mut KeyList,
    ) -> Result<Answer<'k>, Failure> {
        let to = Reservations::of(&self.dev).map_err(|_| Failure::Unsupported)?;
        match command {
            Command::Register { old, new } => to.register(context, old, new),
            Command::Unregister { own } => to.unregister(context, own),
            Command::Reserve { own, kind } => to.reserve(context, own, kind),
            Command::Release { own, kind } => to.release(context, own, kind),
            Command::Preempt(preempt) => to.preempt(context, preempt),
            Command::Clear { own } => to.clear(context, own),
            Command::ReadKeys => {
                to.read_keys(context, keys)?;
                return Ok(Answer::Keys(keys));
            }
            Command::ReadReservation => {
                return to.read_reservation(context).map(Answer::Reservation);
            }
        }
        .map(|()| Answer::Good)
    }
}
