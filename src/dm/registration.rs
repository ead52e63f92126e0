// SPDX-License-Identifier: GPL-2.0

//! The registration of a target type by the module that declares it.
//!
//! [`target_module!`] declares a module in place of the kernel's `module!`. It is the only way to
//! register a target type. The target type is a static of the module.
//!
//! Loading the module first makes the module's own state, a [`TargetModule`], and then registers
//! the target type. The registration comes last, because tables can be loaded as soon as the target
//! type is registered, so that nothing may fail afterwards. Unloading the module unregisters the
//! target type and then drops the state. No table exists then, because each table holds a reference
//! on the module.
//!
//! The kernel loads and unloads a module once, on one thread at a time. No lock is needed here.
//!
//! C source: `drivers/md/dm-target.c`.

use super::{
    bindings,
    callbacks::Callbacks,
    module::Last,
    target::Target, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    module::this_module,
    prelude::*,
    types::Opaque,
    ModuleMetadata, //
};

/// The state of a module with a target. It exists for as long as the module is loaded.
pub trait TargetModule: Sized + Send + Sync + 'static {
    /// The target that the module registers.
    type Target: Target;

    /// Makes the state, before the target type is registered. The state is dropped after the target
    /// type was unregistered.
    fn init() -> impl PinInit<Self, Error>;
}

/// Declares a module with a target.
///
/// The field `type` names the state of the module, a [`TargetModule`]. The other fields are those
/// of the kernel's `module!`. Use the macro at the root of the crate, which must have this
/// directory as its module `dm`. The documentation of [`dm`](super) has an example.
#[macro_export]
macro_rules! target_module {
    (type: $state:ty, $($metadata:tt)*) => {
        /// The module as the kernel loads it.
        type LoadedModule = $crate::dm::registration::Loaded<$state>;

        ::kernel::prelude::module! {
            type: LoadedModule,
            $($metadata)*
        }

        // SAFETY:
        // - `module!` makes `Loaded<$state>` the type of the module, and can be used only once.
        // - The target type is a static that is visible nowhere else.
        unsafe impl $crate::dm::registration::IsLoaded for $state {
            fn target_type() -> &'static $crate::dm::registration::TargetType<
                <Self as $crate::dm::TargetModule>::Target,
            > {
                static TARGET_TYPE: $crate::dm::registration::TargetType<
                    <$state as $crate::dm::TargetModule>::Target,
                > = $crate::dm::registration::TargetType::new::<LoadedModule>();
                &TARGET_TYPE
            }
        }
    };
}
pub use target_module;

/// Implemented by [`target_module!`] for the state of the module.
///
/// # Safety
///
/// - The type of the module, in the sense of the kernel's `module!`, must be [`Loaded`] of this
///   type.
/// - `target_type` must always return the same static, which is made for that module and is used
///   for nothing else.
#[doc(hidden)]
pub unsafe trait IsLoaded: TargetModule {
    /// Returns the static target type of the module.
    fn target_type() -> &'static TargetType<Self::Target>;
}

/// The type of a module that [`target_module!`] declares. The fields are dropped in this order.
#[doc(hidden)]
#[pin_data]
pub struct Loaded<M: TargetModule> {
    registration: Registration<M::Target>,
    #[pin]
    state: M,
    last: Last,
}

impl<M: IsLoaded> kernel::InPlaceModule for Loaded<M> {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            last: Last::new()?,
            state <- M::init(),
            registration: Registration::new(M::target_type())?,
        })
    }
}

/// A target type in static storage (`struct target_type`).
///
/// # Invariants
///
/// - All fields of `inner` except `list` have the values that [`Callbacks::target_type`] returned.
/// - No one but dm core reads or writes `inner.list`.
#[doc(hidden)]
#[repr(transparent)]
pub struct TargetType<T: Target> {
    inner: Opaque<bindings::target_type>,
    _target: PhantomData<fn() -> T>,
}

// SAFETY: dm core protects `inner.list` with a lock (`_lock` in `drivers/md/dm-target.c`). By the
// type invariant the other fields do not change.
unsafe impl<T: Target> Sync for TargetType<T> {}

impl<T: Target> TargetType<T> {
    /// Makes the target type of a module.
    pub const fn new<M: ModuleMetadata>() -> Self {
        // INVARIANT: The value comes from `Callbacks::target_type`, and is not registered yet.
        Self {
            inner: Opaque::new(Callbacks::<T>::target_type(this_module::<M>().as_ptr())),
            _target: PhantomData,
        }
    }
}

/// A registered target type. Dropping the registration unregisters the target type.
///
/// # Invariants
///
/// `target_type` is registered with dm core.
struct Registration<T: Target> {
    target_type: &'static TargetType<T>,
}

impl<T: Target> Registration<T> {
    /// Registers a target type.
    ///
    /// Errors: `EBUSY` if the name is taken.
    fn new(target_type: &'static TargetType<T>) -> Result<Self> {
        // SAFETY: `dm_register_target()` needs a complete target type that exists until it is
        // unregistered. It is static, and complete by its type invariant.
        to_result(unsafe { bindings::dm_register_target(target_type.inner.get()) })?;
        // INVARIANT: The target type was registered just above.
        Ok(Self { target_type })
    }
}

impl<T: Target> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the target type is registered. No table uses it: each table
        // holds a reference on the module (`get_target_type()` in `drivers/md/dm-target.c`), and
        // the registration is dropped when the module is unloaded or its load fails.
        unsafe { bindings::dm_unregister_target(self.target_type.inner.get()) };
    }
}
