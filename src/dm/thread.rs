// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that must run on time, and how they wait.
//!
//! # Vocabulary
//!
//! - A [`Thread`] runs a closure with real-time priority (`SCHED_FIFO`): ordinary tasks and work
//!   queues, also the high-priority ones, cannot hold it up. Dropping the `Thread` asks the closure
//!   to return and waits until it has.
//! - The closure gets a [`Context`], by which it learns that it is to return, and waits.
//! - A [`WaitQueue`] is where it waits: until woken and a condition holds, or until a point in time
//!   given in nanoseconds of [`raw_ns`], or until it is to stop.
//!
//! # Points in time
//!
//! No timer of the kernel runs on the raw clock. A wait sets a high-resolution timer, without
//! slack, of a steered clock for the time that is left. When that clock runs fast the timer fires
//! early, and is set again for the rest: a wait never ends before its point in time. When the clock
//! runs slow, the wait ends late by as much, 10 % of its length and more. So a deadline says when
//! to look, and whoever looks reads the raw clock.
//!
//! # Locking
//!
//! A condition is evaluated with the task state already set to sleeping, so that no wake-up is
//! lost; it may take spinlocks but must not sleep. Waking is allowed in any context.
//!
//! C headers: `include/linux/kthread.h`, `include/linux/wait.h`, `include/linux/hrtimer.h`.

use super::{
    bindings,
    clock::raw_ns,
    module::Use, //
};
use core::{
    marker::PhantomPinned,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// The condition holds.
    Ready,
    /// The point in time was reached, and the condition does not hold.
    Timeout,
    /// The thread is to stop.
    Stop,
}

/// Makes an initialiser for a [`WaitQueue`].
#[macro_export]
macro_rules! new_wait_queue {
    ($name:literal) => {
        $crate::dm::WaitQueue::new(::kernel::c_str!($name), ::kernel::static_lock_class!())
    };
}
pub use new_wait_queue;

/// A place where threads wait and are woken (`struct wait_queue_head`).
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A wait queue has its own lock and is meant to be used by many threads.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// Makes an initialiser; use [`new_wait_queue!`].
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|slot| {
                // SAFETY: The slot is valid for writes; name and key live for ever.
                unsafe {
                    bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
                }
            }),
            _pin: PhantomPinned,
        })
    }

    /// Wakes all waiters. Any context.
    ///
    /// What makes a condition true must be written before this is called.
    pub fn wake_all(&self) {
        // SAFETY: The queue is initialised.
        unsafe {
            bindings::__wake_up(
                self.head.get(),
                bindings::TASK_NORMAL,
                0,
                core::ptr::null_mut(),
            )
        };
    }

    /// Waits until `condition` holds. Process context, not interruptible by signals.
    pub fn wait(&self, mut condition: impl FnMut() -> bool) {
        self.sleep_until(None, || condition().then_some(Wake::Ready));
    }

    /// Waits until `condition` holds or `deadline_ns` of [`raw_ns`] is reached. Process
    /// context, not interruptible by signals. Returns whether the condition holds.
    pub fn wait_until(&self, deadline_ns: u64, mut condition: impl FnMut() -> bool) -> bool {
        self.sleep_until(Some(deadline_ns), || condition().then_some(Wake::Ready)) == Wake::Ready
    }

    /// Sleeps until `check` gives an answer, or else until the deadline.
    fn sleep_until(
        &self,
        deadline_ns: Option<u64>,
        mut check: impl FnMut() -> Option<Wake>,
    ) -> Wake {
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: The entry is valid for writes.
        unsafe { bindings::init_wait(entry.get()) };
        let mut late = false;
        let wake = loop {
            // SAFETY: Queue and entry are initialised and stay where they are until `finish_wait`.
            // Idle sleep is neither a hung task nor load, and no signal wakes it.
            unsafe {
                bindings::prepare_to_wait(
                    self.head.get(),
                    entry.get(),
                    bindings::TASK_IDLE as c_int,
                )
            };
            if let Some(wake) = check() {
                break wake;
            }
            if late {
                break Wake::Timeout;
            }
            late = sleep(deadline_ns);
        };
        // SAFETY: As above.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
        wake
    }
}

/// The shortest time for which a timer is set: what is left after a timer that fired early may be
/// less than it takes to set one.
const SHORTEST_NS: u64 = 1_000;

/// Sleeps, in the task state already set, until woken or until the deadline, or less long. Returns
/// whether the deadline was reached.
fn sleep(deadline_ns: Option<u64>) -> bool {
    let Some(deadline_ns) = deadline_ns else {
        // SAFETY: Process context, by the contract of the callers.
        unsafe { bindings::schedule() };
        return false;
    };
    let left_ns = deadline_ns.saturating_sub(raw_ns());
    // Zero makes the C function set the task running and return at once.
    let mut expires = match left_ns {
        0 => 0,
        left_ns => i64::try_from(left_ns.max(SHORTEST_NS)).unwrap_or(i64::MAX),
    };
    // SAFETY: As above; the pointer is valid, and the timer is gone when this returns.
    let _ = unsafe {
        bindings::schedule_hrtimeout_range_clock(
            &mut expires,
            0,
            bindings::hrtimer_mode_HRTIMER_MODE_REL,
            bindings::CLOCK_BOOTTIME as bindings::clockid_t,
        )
    };
    // The timer may have fired before.
    raw_ns() >= deadline_ns
}

/// Proof that the code runs in a [`Thread`].
pub struct Context(NotThreadSafe);

impl Context {
    /// Returns whether the thread is to return.
    pub fn should_stop(&self) -> bool {
        // SAFETY: The current task is a kernel thread, as a context exists only in one.
        unsafe { bindings::kthread_should_stop() }
    }

    /// Waits on `queue` until `condition` holds, or `deadline_ns` of [`raw_ns`] (if any) is
    /// reached, or the thread is to stop, which takes precedence.
    pub fn wait(
        &self,
        queue: &WaitQueue,
        deadline_ns: Option<u64>,
        mut condition: impl FnMut() -> bool,
    ) -> Wake {
        queue.sleep_until(deadline_ns, || {
            if self.should_stop() {
                Some(Wake::Stop)
            } else {
                condition().then_some(Wake::Ready)
            }
        })
    }

    /// Sleeps until `deadline_ns` of [`raw_ns`], or until the thread is to stop.
    pub fn sleep_until(&self, deadline_ns: u64) -> Wake {
        loop {
            // SAFETY: Only changes the state of the current task. A stop sets its flag first and
            // then wakes the task, so that none is lost between the check and the sleep.
            unsafe { bindings::dm_set_current_state_idle() };
            if self.should_stop() {
                // SAFETY: As above.
                unsafe { bindings::dm_set_current_state_running() };
                return Wake::Stop;
            }
            if sleep(Some(deadline_ns)) {
                return Wake::Timeout;
            }
        }
    }
}

/// How urgent a [`Thread`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Real-time (`SCHED_FIFO`, middle): before everything that is not real-time.
    Realtime,
    /// Real-time (`SCHED_FIFO`, lowest).
    RealtimeLow,
    /// Like any other task.
    Normal,
}

/// A kernel thread; dropping it stops it and waits for it.
///
/// # Invariants
///
/// `task` is a kernel thread made to run [`main`] with `body`, and a reference on it is held by
/// this value. `body` belongs to the thread as soon as that has run at all, and is otherwise to be
/// dropped by `drop_body`.
pub struct Thread {
    task: NonNull<bindings::task_struct>,
    body: *mut c_void,
    drop_body: unsafe fn(*mut c_void),
    /// Given up when the thread has ended, after `drop`.
    _use: Use,
}

// SAFETY: Stopping a thread may be done by any other thread, and so may dropping the body.
unsafe impl Send for Thread {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread. `name` shows in `ps`, cut to 15 characters in some places. May sleep.
    ///
    /// `body` should return soon after [`Context::should_stop`] has become true; when it returns
    /// before, the thread just ends. It must not own the `Thread` itself, not even indirectly: the
    /// last reference would wait for itself.
    pub fn spawn<F>(name: &CStr, priority: Priority, body: F) -> Result<Self>
    where
        F: FnOnce(&Context) + Send + 'static,
    {
        let used = Use::new()?;
        let body = KBox::into_raw(KBox::new(body, GFP_KERNEL)?).cast::<c_void>();
        // SAFETY: The function gets the pointer it expects, and the name is copied.
        let task =
            unsafe { bindings::dm_kthread_create(Some(main::<F>), body, name.as_char_ptr()) };
        let task = match from_err_ptr(task).and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
            Ok(task) => task,
            Err(error) => {
                // SAFETY: There is no thread, so that the box is still ours.
                unsafe { drop_box::<F>(body) };
                return Err(error);
            }
        };
        match priority {
            // SAFETY: The new thread has not run; its task exists.
            Priority::Realtime => unsafe { bindings::sched_set_fifo(task.as_ptr()) },
            // SAFETY: As above.
            Priority::RealtimeLow => unsafe { bindings::sched_set_fifo_low(task.as_ptr()) },
            Priority::Normal => (),
        }
        // SAFETY: The task exists; the reference keeps it so that it can be stopped even after it
        // has ended by itself.
        unsafe { bindings::get_task_struct(task.as_ptr()) };
        // SAFETY: As above.
        unsafe { bindings::wake_up_process(task.as_ptr()) };
        // INVARIANT: Just made so.
        Ok(Self {
            task,
            body,
            drop_body: drop_box::<F>,
            _use: used,
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the task exists.
        let ret = unsafe { bindings::kthread_stop(self.task.as_ptr()) };
        if ret == EINTR.to_errno() {
            // The thread was stopped before it ran for the first time.
            // SAFETY: By the type invariant the body is still ours.
            unsafe { (self.drop_body)(self.body) };
        }
        // SAFETY: `spawn` took this reference.
        unsafe { bindings::put_task_struct(self.task.as_ptr()) };
    }
}

/// Runs the body of a thread.
///
/// # Safety
///
/// Only for the kthread code: `body` is a box of `F` that was given up.
unsafe extern "C" fn main<F: FnOnce(&Context)>(body: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let body = unsafe { KBox::from_raw(body.cast::<F>()) };
    KBox::into_inner(body)(&Context(NotThreadSafe));
    0
}

/// Drops the body of a thread that never ran.
///
/// # Safety
///
/// `body` must be a box of `F` that was given up.
unsafe fn drop_box<F>(body: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { KBox::from_raw(body.cast::<F>()) });
}
