// SPDX-License-Identifier: GPL-2.0

//! Kernel threads with real-time priority, and wait queues.
//!
//! # Vocabulary
//!
//! - A [`Thread`] runs a closure with real-time priority (`SCHED_FIFO`). Ordinary tasks and all
//!   work queues cannot delay it. Dropping the `Thread` asks the closure to return and waits for
//!   it.
//! - The closure gets a [`Context`]. Through the context it waits, and learns that it must return.
//! - A [`WaitQueue`] is a list of waiting threads. A thread waits until it was woken and a
//!   condition holds, until a deadline, or until it must stop. A deadline is a time of [`raw_ns`].
//!
//! # Deadlines
//!
//! The kernel has no timers of the raw clock. A wait sets a high-resolution timer of a steered
//! clock, without slack, for the remaining time. If that clock runs fast, the timer fires early and
//! is set again for the rest. Hence a wait does not end before its deadline. If that clock runs
//! slow, the wait ends late, by 10 % of its length or more. Therefore code that depends on the time
//! must read the raw clock after the wait.
//!
//! # Locking
//!
//! A condition is evaluated after the task state was set to sleeping, so that no wake-up is lost.
//! The condition may take spinlocks but must not sleep. Waking works in any context.
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

/// The reason why a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// The condition holds.
    Ready,
    /// The deadline was reached, and the condition does not hold.
    Timeout,
    /// The thread must stop.
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

/// A list of waiting threads (`struct wait_queue_head`).
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A wait queue has a lock of its own (`head.lock`).
unsafe impl Send for WaitQueue {}
// SAFETY: A wait queue has a lock of its own (`head.lock`).
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// Makes an initialiser. Use [`new_wait_queue!`] instead.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|slot| {
                // SAFETY: The slot is valid for writes. The name and the key are static.
                unsafe {
                    bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
                }
            }),
            _pin: PhantomPinned,
        })
    }

    /// Wakes all waiting threads, which then evaluate their conditions. Works in any context.
    ///
    /// The caller must have made the condition true before the call.
    pub fn wake_all(&self) {
        // SAFETY: `new` has initialised the queue.
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

    /// Waits until `condition` holds or `deadline_ns` of [`raw_ns`] is reached. Returns whether the
    /// condition holds. Process context, not interruptible by signals.
    pub fn wait_until(&self, deadline_ns: u64, mut condition: impl FnMut() -> bool) -> bool {
        self.sleep_until(Some(deadline_ns), || condition().then_some(Wake::Ready)) == Wake::Ready
    }

    /// Sleeps until `check` returns a reason or the deadline is reached.
    fn sleep_until(
        &self,
        deadline_ns: Option<u64>,
        mut check: impl FnMut() -> Option<Wake>,
    ) -> Wake {
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: The entry is valid for writes, and does not move in this function.
        unsafe { bindings::init_wait(entry.get()) };
        let mut late = false;
        let wake = loop {
            // SAFETY: The queue and the entry are initialised and do not move before
            // `finish_wait()`. `TASK_IDLE` counts neither as a hung task nor as load, and signals
            // do not wake it.
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
        // SAFETY: The queue and the entry are those of `prepare_to_wait()`.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
        wake
    }
}

/// The shortest time for which a timer is set. After a timer has fired early, the remaining time
/// may be shorter than it takes to set a timer.
const SHORTEST_NS: u64 = 1_000;

/// Sleeps until the task is woken or the deadline is reached, or less long. The caller has set the
/// task state. Returns whether the deadline was reached.
fn sleep(deadline_ns: Option<u64>) -> bool {
    let Some(deadline_ns) = deadline_ns else {
        // SAFETY: `schedule()` needs process context, which the callers document.
        unsafe { bindings::schedule() };
        return false;
    };
    let left_ns = deadline_ns.saturating_sub(raw_ns());
    // With zero the C function sets the task state to running and returns at once.
    let mut expires = match left_ns {
        0 => 0,
        left_ns => i64::try_from(left_ns.max(SHORTEST_NS)).unwrap_or(i64::MAX),
    };
    // SAFETY: The function needs process context, which the callers document. The pointer is valid,
    // and the timer has ended when the function returns.
    let _ = unsafe {
        bindings::schedule_hrtimeout_range_clock(
            &mut expires,
            0,
            bindings::hrtimer_mode_HRTIMER_MODE_REL,
            bindings::CLOCK_BOOTTIME as bindings::clockid_t,
        )
    };
    // The timer may have fired before the deadline.
    raw_ns() >= deadline_ns
}

/// Proof that the code runs in a [`Thread`], or in the thread of another type of this directory.
pub struct Context(NotThreadSafe);

impl Context {
    /// Returns whether the thread must return.
    pub fn should_stop(&self) -> bool {
        // SAFETY: `kthread_should_stop()` must be called by a kernel thread. A `Context` exists
        // only in `main`, which is the function of one, and is not `Send`.
        unsafe { bindings::kthread_should_stop() }
    }

    /// Waits on `queue` until `condition` holds, until `deadline_ns` of [`raw_ns`], or until the
    /// thread must stop. A stop takes precedence.
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

    /// Sleeps until `deadline_ns` of [`raw_ns`] or until the thread must stop.
    pub fn sleep_until(&self, deadline_ns: u64) -> Wake {
        loop {
            // `kthread_stop()` sets its flag before it wakes the task, so that no stop is lost
            // between the check and the sleep.
            // SAFETY: The function changes only the state of the current task, which is a kernel
            // thread.
            unsafe { bindings::dm_set_current_state_idle() };
            if self.should_stop() {
                // SAFETY: The function changes only the state of the current task.
                unsafe { bindings::dm_set_current_state_running() };
                return Wake::Stop;
            }
            if sleep(Some(deadline_ns)) {
                return Wake::Timeout;
            }
        }
    }
}

/// The priority of a [`Thread`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Real-time priority in the middle (`sched_set_fifo()`).
    Realtime,
    /// The lowest real-time priority (`sched_set_fifo_low()`).
    RealtimeLow,
    /// The priority of an ordinary task.
    Normal,
}

/// A kernel thread. Dropping it stops the thread and waits for its end.
///
/// # Invariants
///
/// - `task` is a kernel thread that was created to run [`main`] with `body`. This value owns a
///   reference on it.
/// - `body` is owned by the thread after it has started to run, and by this value before.
///   `drop_body` drops it.
pub struct Thread {
    task: NonNull<bindings::task_struct>,
    body: *mut c_void,
    drop_body: unsafe fn(*mut c_void),
    /// Dropped after `drop`, when the thread has ended.
    _use: Use,
}

// SAFETY: Any other thread may call `kthread_stop()`, and may drop the body, which is `Send`.
unsafe impl Send for Thread {}
// SAFETY: There are no methods on a shared reference.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread. `ps` shows its `name`, in some places only 15 characters. May sleep.
    ///
    /// `body` should return soon after [`Context::should_stop`] has become true. It may also return
    /// earlier. `body` must not own the `Thread`, not even indirectly, because dropping it there
    /// would wait for itself.
    pub fn spawn<F>(name: &CStr, priority: Priority, body: F) -> Result<Self>
    where
        F: FnOnce(&Context) + Send + 'static,
    {
        let used = Use::new()?;
        let (task, body) = create(name, priority, body)?;
        // The reference keeps the task, so that `kthread_stop()` may be called after the thread has
        // ended.
        // SAFETY: The task exists, because the thread has not been woken yet.
        unsafe { bindings::get_task_struct(task.as_ptr()) };
        // SAFETY: The task exists, because this value owns a reference on it.
        unsafe { bindings::wake_up_process(task.as_ptr()) };
        // INVARIANT: The task was created for `main` and `body`, and its reference was taken above.
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
        // SAFETY: `kthread_stop()` needs a kernel thread on which the caller has a reference, which
        // holds by the type invariant.
        let ret = unsafe { bindings::kthread_stop(self.task.as_ptr()) };
        if ret == EINTR.to_errno() {
            // `kthread_stop()` returns `EINTR` if the thread was stopped before it ran for the
            // first time.
            // SAFETY: By the type invariant the body is still ours.
            unsafe { (self.drop_body)(self.body) };
        }
        // SAFETY: `spawn` has taken this reference.
        unsafe { bindings::put_task_struct(self.task.as_ptr()) };
    }
}

/// Starts a thread that ends when `body` returns. No one waits for it, except the end of the
/// module. In `body` [`Context::should_stop`] is always false. May sleep.
pub(super) fn spawn_detached<F>(name: &CStr, priority: Priority, body: F) -> Result
where
    F: FnOnce(&Context) + Send + 'static,
{
    let used = Use::new()?;
    let (task, _) = create(name, priority, move |context: &Context| {
        body(context);
        // The module may end now. It waits until this task has left its code.
        drop(used);
    })?;
    // Nothing stops the thread. Hence `main` runs and owns the body from now on.
    // SAFETY: The task exists, because the thread has not been woken yet.
    unsafe { bindings::wake_up_process(task.as_ptr()) };
    Ok(())
}

/// Creates a thread that will run `body` after it was woken. Returns the thread, and the body,
/// which is a box of `F` that was given up to [`main`].
fn create<F>(
    name: &CStr,
    priority: Priority,
    body: F,
) -> Result<(NonNull<bindings::task_struct>, *mut c_void)>
where
    F: FnOnce(&Context) + Send + 'static,
{
    let body = KBox::into_raw(KBox::new(body, GFP_KERNEL)?).cast::<c_void>();
    // SAFETY: `main::<F>` gets a box of `F` that was given up. `kthread_create()` copies the name.
    let task = unsafe { bindings::dm_kthread_create(Some(main::<F>), body, name.as_char_ptr()) };
    let task = match from_err_ptr(task).and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
        Ok(task) => task,
        Err(error) => {
            // SAFETY: No thread was created, so that the box is still ours.
            unsafe { drop_box::<F>(body) };
            return Err(error);
        }
    };
    match priority {
        // SAFETY: The task exists, because the thread has not been woken yet.
        Priority::Realtime => unsafe { bindings::sched_set_fifo(task.as_ptr()) },
        // SAFETY: The task exists, because the thread has not been woken yet.
        Priority::RealtimeLow => unsafe { bindings::sched_set_fifo_low(task.as_ptr()) },
        Priority::Normal => (),
    }
    Ok((task, body))
}

/// Runs the body of a thread.
///
/// # Safety
///
/// Only the kthread code may call this, once. `body` must be a box of `F` that was given up.
unsafe extern "C" fn main<F: FnOnce(&Context)>(body: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements `body` is a box that was given up, and this runs once.
    let body = unsafe { KBox::from_raw(body.cast::<F>()) };
    KBox::into_inner(body)(&Context(NotThreadSafe));
    0
}

/// Drops the body of a thread that never ran.
///
/// # Safety
///
/// `body` must be a box of `F` that was given up, and that no one else uses.
unsafe fn drop_box<F>(body: *mut c_void) {
    // SAFETY: By the safety requirements `body` is a box that was given up and is not used
    // elsewhere.
    drop(unsafe { KBox::from_raw(body.cast::<F>()) });
}
