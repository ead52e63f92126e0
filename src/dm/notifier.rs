// SPDX-License-Identifier: GPL-2.0

//! Notifiers for reboot, system sleep and copies of the virtual machine.
//!
//! There are four registrations. Each is pinned. Dropping it ends the registration and waits for a
//! call in progress. The module does not end before all registrations have ended.
//!
//! - [`RebootNotifier`]: an orderly reboot, halt, power off or kexec. Devices still work. It is not
//!   called after a panic, `sysrq-b` or a forced reboot.
//! - [`PmNotifier`]: before and after suspend, hibernation and restore. Everything works.
//! - [`SyscoreHook`]: directly before and after a suspend, on one CPU with interrupts off.
//! - [`VmForkNotifier`]: the virtual machine was copied, or returned to a snapshot of its memory.
//!
//! # Locking
//!
//! All handlers except those of the hook run in process context. The lock of their chain is held,
//! so that a handler delays all others of the chain. A handler must not register or unregister.
//!
//! C headers: `include/linux/notifier.h`, `reboot.h`, `suspend.h`, `syscore_ops.h`.

use super::{
    bindings,
    module::Use, //
};
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The kind of a shutdown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// The machine restarts, or another kernel starts (kexec).
    Restart,
    /// The machine stops and stays on.
    Halt,
    /// The machine is switched off.
    PowerOff,
}

/// A handler of the shutdown of the machine.
pub trait OnReboot: Send + Sync + 'static {
    /// Handles the shutdown. This is called once. It may sleep, and the shutdown waits.
    fn reboot(&self, how: Shutdown);
}

/// A step of a system sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PmEvent {
    /// The system is about to be suspended.
    SuspendPrepare,
    /// The system was resumed, or the suspend was aborted.
    PostSuspend,
    /// The system is about to be written to disk.
    HibernationPrepare,
    /// The system was restored from disk, or the hibernation was aborted.
    PostHibernation,
    /// The system is about to be replaced by one that is restored from disk.
    RestorePrepare,
    /// The restore failed.
    PostRestore,
}

impl PmEvent {
    /// Returns whether the system is about to stop.
    pub fn is_before(self) -> bool {
        matches!(
            self,
            PmEvent::SuspendPrepare | PmEvent::HibernationPrepare | PmEvent::RestorePrepare
        )
    }
}

/// A handler of system sleep.
pub trait OnPm: Send + Sync + 'static {
    /// Handles a step of a system sleep. An error before the system [stops](PmEvent::is_before) is
    /// a veto: the sleep is aborted, and its caller gets the error. Later errors are ignored.
    fn pm(&self, event: PmEvent) -> Result;
}

/// A handler of the last moment before a system sleep and of the first moment after it.
pub trait OnSyscore: Send + Sync + 'static {
    /// Handles the last moment. All other CPUs are off, interrupts are disabled, and devices are
    /// suspended. This should only set a flag.
    fn suspend(&self);

    /// Handles the first moment, in the same context.
    fn resume(&self);
}

/// A handler of copies of the virtual machine.
pub trait OnVmFork: Send + Sync + 'static {
    /// Handles a new generation number from the hypervisor, which means that the machine was
    /// resumed from a snapshot of its memory or was cloned. Tasks have already been running for a
    /// short time. The kernel's random numbers already differ from those of all other copies. May
    /// sleep.
    fn vm_fork(&self);
}

/// A registered handler of the shutdown.
///
/// # Invariants
///
/// `block` is registered with the reboot notifier chain.
#[pin_data(PinnedDrop)]
pub struct RebootNotifier<H: OnReboot> {
    handler: H,
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _use: Use,
}

// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnReboot> Send for RebootNotifier<H> {}
// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnReboot> Sync for RebootNotifier<H> {}

impl<H: OnReboot> RebootNotifier<H> {
    /// Registers `handler`. Handlers of a higher priority are called earlier. Software RAID and
    /// bcache use `i32::MAX`, dm-integrity uses `i32::MAX - 1`, and most drivers use zero.
    pub fn new(handler: H, priority: i32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _use: Use::new()?,
            handler,
            block <- register(priority, Self::call, bindings::register_reboot_notifier),
        })
    }

    /// Calls the handler.
    ///
    /// # Safety
    ///
    /// Only `notifier_call_chain()` may call this. `block` must be the field of a registered
    /// `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements `block` is a field of a registered `Self`. It is
        // pinned and exists until the chain has unregistered it, which waits for this call.
        let this = unsafe { &*kernel::container_of!(block.cast_mut(), Self, block) };
        let how = match action as u32 {
            bindings::SYS_HALT => Shutdown::Halt,
            bindings::SYS_POWER_OFF => Shutdown::PowerOff,
            _ => Shutdown::Restart,
        };
        this.handler.reboot(how);
        bindings::NOTIFY_OK as c_int
    }
}

#[pinned_drop]
impl<H: OnReboot> PinnedDrop for RebootNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. The call waits for a running handler, by
        // the lock of the chain.
        unsafe { bindings::unregister_reboot_notifier(self.block.get()) };
    }
}

/// A registered handler of system sleep.
///
/// # Invariants
///
/// `block` is registered with the power management notifier chain.
#[pin_data(PinnedDrop)]
pub struct PmNotifier<H: OnPm> {
    handler: H,
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _use: Use,
}

// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnPm> Send for PmNotifier<H> {}
// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnPm> Sync for PmNotifier<H> {}

impl<H: OnPm> PmNotifier<H> {
    /// Registers `handler`. Handlers of a higher priority are called earlier.
    pub fn new(handler: H, priority: i32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _use: Use::new()?,
            handler,
            block <- register(priority, Self::call, bindings::register_pm_notifier),
        })
    }

    /// Calls the handler.
    ///
    /// # Safety
    ///
    /// Only `notifier_call_chain()` may call this. `block` must be the field of a registered
    /// `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements `block` is a field of a registered `Self`. It is
        // pinned and exists until the chain has unregistered it, which waits for this call.
        let this = unsafe { &*kernel::container_of!(block.cast_mut(), Self, block) };
        let event = match action as u32 {
            bindings::PM_SUSPEND_PREPARE => PmEvent::SuspendPrepare,
            bindings::PM_POST_SUSPEND => PmEvent::PostSuspend,
            bindings::PM_HIBERNATION_PREPARE => PmEvent::HibernationPrepare,
            bindings::PM_POST_HIBERNATION => PmEvent::PostHibernation,
            bindings::PM_RESTORE_PREPARE => PmEvent::RestorePrepare,
            bindings::PM_POST_RESTORE => PmEvent::PostRestore,
            _ => return bindings::NOTIFY_DONE as c_int,
        };
        match this.handler.pm(event) {
            Err(error) if event.is_before() => veto(error),
            _ => bindings::NOTIFY_OK as c_int,
        }
    }
}

/// Encodes an error for a notifier chain, as `notifier_from_errno()` does. The chain stops, and its
/// caller returns the error to user space.
fn veto(error: Error) -> c_int {
    let code = (bindings::NOTIFY_OK as c_int).wrapping_sub(error.to_errno());
    bindings::NOTIFY_STOP_MASK as c_int | code
}

#[pinned_drop]
impl<H: OnPm> PinnedDrop for PmNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. The call waits for a running handler, by
        // the lock of the chain.
        unsafe { bindings::unregister_pm_notifier(self.block.get()) };
    }
}

/// A registered handler of copies of the virtual machine.
///
/// # Invariants
///
/// `block` is registered with the notifier chain of the random number generator for copies of the
/// virtual machine. Without `CONFIG_VMGENID` the chain does not exist, and `block` is not
/// registered.
#[pin_data(PinnedDrop)]
pub struct VmForkNotifier<H: OnVmFork> {
    handler: H,
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _use: Use,
}

// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnVmFork> Send for VmForkNotifier<H> {}
// SAFETY: The chain has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnVmFork> Sync for VmForkNotifier<H> {}

impl<H: OnVmFork> VmForkNotifier<H> {
    /// Registers `handler`. Handlers of a higher priority are called earlier.
    pub fn new(handler: H, priority: i32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _use: Use::new()?,
            handler,
            block <- register(
                priority,
                Self::call,
                bindings::dm_register_vmfork_notifier,
            ),
        })
    }

    /// Calls the handler.
    ///
    /// # Safety
    ///
    /// Only `notifier_call_chain()` may call this. `block` must be the field of a registered
    /// `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements `block` is a field of a registered `Self`. It is
        // pinned and exists until the chain has unregistered it, which waits for this call.
        let this = unsafe { &*kernel::container_of!(block.cast_mut(), Self, block) };
        this.handler.vm_fork();
        bindings::NOTIFY_OK as c_int
    }
}

#[pinned_drop]
impl<H: OnVmFork> PinnedDrop for VmForkNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant `block` is registered, or the call does nothing.
        unsafe { bindings::dm_unregister_vmfork_notifier(self.block.get()) };
    }
}

/// Fills in a notifier block and registers it.
fn register(
    priority: i32,
    call: unsafe extern "C" fn(*mut bindings::notifier_block, c_ulong, *mut c_void) -> c_int,
    register: unsafe extern "C" fn(*mut bindings::notifier_block) -> c_int,
) -> impl PinInit<Opaque<bindings::notifier_block>, Error> {
    Opaque::try_ffi_init(move |slot: *mut bindings::notifier_block| {
        let block = bindings::notifier_block {
            notifier_call: Some(call),
            next: core::ptr::null_mut(),
            priority,
        };
        // SAFETY: `ffi_init` passes a slot that is valid for writes.
        unsafe { slot.write(block) };
        // SAFETY: The block is complete and pinned. The `PinnedDrop` of its owner unregisters it.
        to_result(unsafe { register(slot) })
    })
}

/// A registered handler of the moments before and after a system sleep.
///
/// # Invariants
///
/// `hook` is registered, and its `data` points to `handler`.
#[pin_data(PinnedDrop)]
pub struct SyscoreHook<H: OnSyscore> {
    #[pin]
    handler: Opaque<H>,
    #[pin]
    hook: Opaque<bindings::syscore>,
    _use: Use,
}

// SAFETY: The list of hooks has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnSyscore> Send for SyscoreHook<H> {}
// SAFETY: The list of hooks has a lock of its own. The handler is `Send` and `Sync`.
unsafe impl<H: OnSyscore> Sync for SyscoreHook<H> {}

impl<H: OnSyscore> SyscoreHook<H> {
    const OPS: bindings::syscore_ops = bindings::syscore_ops {
        suspend: Some(Self::suspend),
        resume: Some(Self::resume),
        shutdown: None,
    };

    /// Registers `handler`.
    pub fn new(handler: H) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            _use: Use::new()?,
            handler: Opaque::new(handler),
            hook <- Opaque::ffi_init(move |slot: *mut bindings::syscore| {
                // SAFETY: The handler was initialised before the hook, and is pinned.
                let data = unsafe { Opaque::cast_into(&raw const (*this.as_ptr()).handler) };
                let hook = bindings::syscore {
                    ops: &Self::OPS,
                    data: data.cast(),
                    ..Default::default()
                };
                // SAFETY: `ffi_init` passes a slot that is valid for writes.
                unsafe { slot.write(hook) };
                // SAFETY: The hook is complete and pinned. `PinnedDrop` unregisters it.
                unsafe { bindings::register_syscore(slot) };
            }),
        })
    }

    /// Calls the handler before a system sleep.
    ///
    /// # Safety
    ///
    /// Only `syscore_suspend()` may call this. `data` must be the handler of a registered `Self`.
    unsafe extern "C" fn suspend(data: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements `data` is the handler of a registered `Self`, which
        // exists.
        unsafe { &*data.cast::<H>() }.suspend();
        0
    }

    /// Calls the handler after a system sleep.
    ///
    /// # Safety
    ///
    /// Only `syscore_resume()` may call this. `data` must be the handler of a registered `Self`.
    unsafe extern "C" fn resume(data: *mut c_void) {
        // SAFETY: By the safety requirements `data` is the handler of a registered `Self`, which
        // exists.
        unsafe { &*data.cast::<H>() }.resume();
    }
}

#[pinned_drop]
impl<H: OnSyscore> PinnedDrop for SyscoreHook<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the hook is registered.
        unsafe { bindings::unregister_syscore(self.hook.get()) };
        // SAFETY: `new` has initialised the handler. The hook was removed above. Hooks run only
        // while no task runs (`syscore_suspend()`), so that no call is left.
        unsafe { core::ptr::drop_in_place(self.handler.get()) };
    }
}
