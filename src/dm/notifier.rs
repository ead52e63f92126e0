// SPDX-License-Identifier: GPL-2.0

//! Being told that the machine goes down, or to sleep, or was copied.
//!
//! Four registrations, each pinned and undone when dropped (which waits for a call in progress).
//! The module does not end before all of them are undone:
//!
//! - [`RebootNotifier`]: orderly reboot, halt, power off, kexec; devices still work. Not called on
//!   panic, `sysrq-b` or a forced reboot.
//! - [`PmNotifier`]: before suspend, hibernation and restore, and after; everything still works.
//! - [`SyscoreHook`]: the last moment before suspend, on one CPU with interrupts off.
//! - [`VmForkNotifier`]: this virtual machine was copied, or put back to a snapshot of its memory.
//!
//! # Locking
//!
//! All but the hook run in process context with the lock of their chain held, one after the other:
//! they delay everybody behind them. Do not register or unregister from within.
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

/// How the machine goes down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It starts again, or another kernel does.
    Restart,
    /// It stops and stays on.
    Halt,
    /// It is switched off.
    PowerOff,
}

/// Is told that the machine goes down.
pub trait OnReboot: Send + Sync + 'static {
    /// Called once. May sleep, but the shutdown waits.
    fn reboot(&self, how: Shutdown);
}

/// What happens to the running system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PmEvent {
    /// It is about to be suspended.
    SuspendPrepare,
    /// It was resumed, or the suspend was given up.
    PostSuspend,
    /// It is about to be written to disk.
    HibernationPrepare,
    /// It was restored from disk, or the hibernation was given up.
    PostHibernation,
    /// It is about to be replaced by a system restored from disk.
    RestorePrepare,
    /// The restore failed.
    PostRestore,
}

impl PmEvent {
    /// Returns whether the system stands still, or ends, after this event.
    pub fn is_before(self) -> bool {
        matches!(
            self,
            PmEvent::SuspendPrepare | PmEvent::HibernationPrepare | PmEvent::RestorePrepare
        )
    }
}

/// Is told of system sleep.
pub trait OnPm: Send + Sync + 'static {
    /// An error vetoes what is [about to happen](PmEvent::is_before): whoever asked for it gets
    /// this error. It is ignored afterwards.
    fn pm(&self, event: PmEvent) -> Result;
}

/// Is told of system sleep at the last and the first moment.
pub trait OnSyscore: Send + Sync + 'static {
    /// All other CPUs are off, interrupts are disabled, devices are suspended. Only set a flag.
    fn suspend(&self);

    /// As above, on the way back.
    fn resume(&self);
}

/// Is told that this virtual machine is a copy.
pub trait OnVmFork: Send + Sync + 'static {
    /// The hypervisor has given the machine a new generation number: it was resumed from a snapshot
    /// of its memory, or cloned. Tasks have been running since, for a short time. The kernel's
    /// random numbers differ from those of every other copy by now. May sleep.
    fn vm_fork(&self);
}

/// A registered [`OnReboot`].
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

// SAFETY: The chain has its own lock, and the handler may be shared.
unsafe impl<H: OnReboot> Send for RebootNotifier<H> {}
// SAFETY: As above.
unsafe impl<H: OnReboot> Sync for RebootNotifier<H> {}

impl<H: OnReboot> RebootNotifier<H> {
    /// Registers `handler`. Higher priorities are called earlier: software RAID and bcache use
    /// `i32::MAX`, dm-integrity one less, most drivers zero.
    pub fn new(handler: H, priority: i32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _use: Use::new()?,
            handler,
            block <- register(priority, Self::call, bindings::register_reboot_notifier),
        })
    }

    /// # Safety
    ///
    /// Only for the notifier chain: `block` is the field of a registered `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements.
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
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::unregister_reboot_notifier(self.block.get()) };
    }
}

/// A registered [`OnPm`].
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

// SAFETY: The chain has its own lock, and the handler may be shared.
unsafe impl<H: OnPm> Send for PmNotifier<H> {}
// SAFETY: As above.
unsafe impl<H: OnPm> Sync for PmNotifier<H> {}

impl<H: OnPm> PmNotifier<H> {
    /// Registers `handler`. Higher priorities are called earlier.
    pub fn new(handler: H, priority: i32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _use: Use::new()?,
            handler,
            block <- register(priority, Self::call, bindings::register_pm_notifier),
        })
    }

    /// # Safety
    ///
    /// Only for the notifier chain: `block` is the field of a registered `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements.
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

/// Encodes an error for a notifier chain, as `notifier_from_errno()`: the chain stops, and its
/// caller returns this error to user space.
fn veto(error: Error) -> c_int {
    let code = (bindings::NOTIFY_OK as c_int).wrapping_sub(error.to_errno());
    bindings::NOTIFY_STOP_MASK as c_int | code
}

#[pinned_drop]
impl<H: OnPm> PinnedDrop for PmNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::unregister_pm_notifier(self.block.get()) };
    }
}

/// A registered [`OnVmFork`].
///
/// # Invariants
///
/// `block` is registered with the notifier chain of the random number generator for new generations
/// of the virtual machine; or the kernel has no driver for the device that tells them
/// (`CONFIG_VMGENID`), and `block` is registered nowhere.
#[pin_data(PinnedDrop)]
pub struct VmForkNotifier<H: OnVmFork> {
    handler: H,
    #[pin]
    block: Opaque<bindings::notifier_block>,
    _use: Use,
}

// SAFETY: The chain has its own lock, and the handler may be shared.
unsafe impl<H: OnVmFork> Send for VmForkNotifier<H> {}
// SAFETY: As above.
unsafe impl<H: OnVmFork> Sync for VmForkNotifier<H> {}

impl<H: OnVmFork> VmForkNotifier<H> {
    /// Registers `handler`. Higher priorities are called earlier.
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

    /// # Safety
    ///
    /// Only for the notifier chain: `block` is the field of a registered `Self`.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        let block = Opaque::cast_from(block);
        // SAFETY: By the safety requirements.
        let this = unsafe { &*kernel::container_of!(block.cast_mut(), Self, block) };
        this.handler.vm_fork();
        bindings::NOTIFY_OK as c_int
    }
}

#[pinned_drop]
impl<H: OnVmFork> PinnedDrop for VmForkNotifier<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered, or the call does nothing.
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
        // SAFETY: The slot is valid for writes.
        unsafe { slot.write(block) };
        // SAFETY: The block is filled in and stays where it is, because it is pinned, until it is
        // unregistered.
        to_result(unsafe { register(slot) })
    })
}

/// A registered [`OnSyscore`].
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

// SAFETY: The list of hooks has its own lock, and the handler may be shared.
unsafe impl<H: OnSyscore> Send for SyscoreHook<H> {}
// SAFETY: As above.
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
                // SAFETY: The handler is initialised before the hook and pinned.
                let data = unsafe { Opaque::cast_into(&raw const (*this.as_ptr()).handler) };
                let hook = bindings::syscore {
                    ops: &Self::OPS,
                    data: data.cast(),
                    ..Default::default()
                };
                // SAFETY: The slot is valid for writes.
                unsafe { slot.write(hook) };
                // SAFETY: The hook is filled in and pinned until it is unregistered.
                unsafe { bindings::register_syscore(slot) };
            }),
        })
    }

    /// # Safety
    ///
    /// Only for the syscore code: `data` is the handler of a registered `Self`.
    unsafe extern "C" fn suspend(data: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { &*data.cast::<H>() }.suspend();
        0
    }

    /// # Safety
    ///
    /// As for `suspend`.
    unsafe extern "C" fn resume(data: *mut c_void) {
        // SAFETY: By the safety requirements.
        unsafe { &*data.cast::<H>() }.resume();
    }
}

#[pinned_drop]
impl<H: OnSyscore> PinnedDrop for SyscoreHook<H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::unregister_syscore(self.hook.get()) };
        // SAFETY: The handler was initialised by `new`, and nobody calls it any more.
        unsafe { core::ptr::drop_in_place(self.handler.get()) };
    }
}
