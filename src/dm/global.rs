// SPDX-License-Identifier: GPL-2.0

//! A value that exists from the start of the module to its end, behind a mutex.
//!
//! The callbacks of a target are plain functions; what all targets of a module share has to be
//! reachable from a static. [`module_global!`](crate::module_global) makes one that is empty until
//! the module's init function installs a value, and empty again once the returned guard is dropped.

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Mutex, //
    },
};

/// A static place for one value, see [`module_global!`](crate::module_global).
///
/// # Invariants
///
/// `stage` only grows. At [`Self::READY`] the mutex is initialised, and stays so.
#[doc(hidden)]
pub struct Place<T: Send + Unpin> {
    stage: Atomic<u32>,
    mutex: UnsafeCell<MaybeUninit<Mutex<Option<T>>>>,
}

// SAFETY: Once it is ready, the place gives out shared references to the mutex only, and a mutex
// may be shared if its value may be sent. Before, only the first caller of `install` uses it.
unsafe impl<T: Send + Unpin> Sync for Place<T> {}

impl<T: Send + Unpin> Place<T> {
    const EMPTY: u32 = 0;
    const BUSY: u32 = 1;
    const READY: u32 = 2;

    /// Makes a place that never had a value.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: It is not ready.
        Self {
            stage: Atomic::new(Self::EMPTY),
            mutex: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Puts a value in its place, once; `EBUSY` afterwards.
    pub fn install(&'static self, value: T) -> Result<Installed<T>> {
        if self
            .stage
            .cmpxchg(Self::EMPTY, Self::BUSY, ordering::Full)
            .is_err()
        {
            return Err(EBUSY);
        }
        let mutex = self.mutex.get().cast::<Mutex<Option<T>>>();
        let init = new_mutex!(Some(value), "module_global");
        // SAFETY: The place is valid for writes and never moves, because it is static; nobody else
        // uses it before it is ready, and this happens once.
        unsafe { ::pin_init::raw_init(mutex, init) };
        // INVARIANT: The mutex was just initialised, and nothing ends it.
        self.stage.store(Self::READY, ordering::Release);
        Ok(Installed(self))
    }

    fn mutex(&self) -> Option<&Mutex<Option<T>>> {
        if self.stage.load(ordering::Acquire) != Self::READY {
            return None;
        }
        // SAFETY: By the type invariant the mutex is initialised.
        Some(unsafe { (*self.mutex.get()).assume_init_ref() })
    }

    /// Calls `f` with the value, with its mutex held; `None` while there is none.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut value = self.mutex()?.lock();
        (*value).as_mut().map(f)
    }
}

/// Takes the value out of its place when it is dropped.
#[doc(hidden)]
pub struct Installed<T: Send + Unpin + 'static>(&'static Place<T>);

impl<T: Send + Unpin + 'static> Drop for Installed<T> {
    fn drop(&mut self) {
        let value = self.0.mutex().and_then(|mutex| mutex.lock().take());
        drop(value);
    }
}

/// Declares a static place for one value of a type, reachable through `with`.
///
/// ```ignore
/// module_global! {
///     /// All there is.
///     pub struct STATE(State);
/// }
///
/// let installed = STATE::install(State::new())?; // kept in the module's data
/// STATE::with(|state| state.count());            // `None` while nothing is installed
/// ```
#[macro_export]
macro_rules! module_global {
    ($(#[$attr:meta])* $vis:vis struct $name:ident($type:ty);) => {
        $(#[$attr])*
        #[allow(non_camel_case_types)]
        $vis struct $name {
            _installed: $crate::dm::global::Installed<$type>,
        }

        impl $name {
            fn place() -> &'static $crate::dm::global::Place<$type> {
                static PLACE: $crate::dm::global::Place<$type> =
                    $crate::dm::global::Place::new();
                &PLACE
            }

            /// Puts the value in its place, where it stays until the guard is dropped.
            /// Works once in the life of the module; `EBUSY` afterwards.
            $vis fn install(value: $type) -> ::kernel::error::Result<Self> {
                let _installed = Self::place().install(value)?;
                Ok(Self { _installed })
            }

            /// Calls `f` with the value, with its mutex held; `None` while there is none.
            $vis fn with<R>(f: impl FnOnce(&mut $type) -> R) -> Option<R> {
                Self::place().with(f)
            }
        }
    };
}
pub use module_global;
