// SPDX-License-Identifier: GPL-2.0

//! The registration of a target type, by the module that declares it.

use super::{
    bindings,
    callbacks::Callbacks,
    module::Last,
    target::Target, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The state of a module with a target: what exists for as long as the module is loaded.
pub trait TargetModule: Sized + Send + Sync + 'static {
    /// The target that the module registers.
    type Target: Target;

    /// Makes the state, before the target type is registered. It is dropped after the target type
    /// was unregistered.
    fn init() -> impl PinInit<Self, Error>;
}

/// Declares a module whose state is `type`, a [`TargetModule`]; at the root of the crate, which has
/// this directory as its module `dm`. The other fields are those of the kernel's `module!`.
///
/// ```ignore
/// dm::target_module! {
///     type: State,
///     name: "dm_example",
///     authors: ["Somebody"],
///     description: "An example",
///     license: "GPL",
/// }
/// ```
#[macro_export]
macro_rules! target_module {
    (type: $state:ty, $($metadata:tt)*) => {
        /// The module as the kernel loads it.
        type LoadedModule = $crate::dm::registration::Loaded<$state>;

        ::kernel::prelude::module! {
            type: LoadedModule,
            $($metadata)*
        }

        // SAFETY: `module!` makes `Loaded<$state>` what the kernel loads, and can be used only once
        // in a module.
        unsafe impl $crate::dm::registration::IsLoaded for $state {}
    };
}
pub use target_module;

/// The state of a module that [`target_module!`] declares.
///
/// # Safety
///
/// The type of the module, in the sense of the kernel's `module!`, must be [`Loaded`] of this type.
#[doc(hidden)]
pub unsafe trait IsLoaded: TargetModule {}

/// What the kernel keeps of a module that [`target_module!`] declares. The fields are dropped in
/// this order.
#[doc(hidden)]
#[pin_data]
pub struct Loaded<M: TargetModule> {
    #[pin]
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
            registration <- Registration::new(),
        })
    }
}

/// A registered target type, which is unregistered when this is dropped.
///
/// Tables point to it, and each holds a reference on the module. So it must exist until there are
/// no such references; [`super::module`] sees to that.
///
/// # Invariants
///
/// `inner` is a `struct target_type` registered with dm core.
#[pin_data(PinnedDrop)]
struct Registration<T: Target> {
    #[pin]
    inner: Opaque<bindings::target_type>,
    _target: PhantomData<T>,
}

// SAFETY: A target type may be unregistered on another thread than it was registered on.
unsafe impl<T: Target> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers the target type. Errors: `EBUSY` if the name is taken.
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::target_type| {
                // SAFETY: The slot is valid for writes.
                unsafe { slot.write(Callbacks::<T>::target_type()) };
                // SAFETY: The target type is filled in, and stays where it is until it is
                // unregistered, because it is pinned.
                to_result(unsafe { bindings::dm_register_target(slot) })
            }),
            _target: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::dm_unregister_target(self.inner.get()) };
    }
}
