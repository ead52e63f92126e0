// SPDX-License-Identifier: GPL-2.0

//! A static value of the module, protected by a mutex.
//!
//! The callbacks of a target are functions without a context. Data that all targets of a module
//! share must therefore be reachable through a static. [`module_global!`](crate::module_global)
//! declares a static that is empty at first. The module's init function installs a value and gets a
//! guard. The static is empty again after the guard was dropped.

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

/// A static place for one value; see [`module_global!`](crate::module_global).
///
/// # Invariants
///
/// - `stage` only grows.
/// - At [`Self::READY`] `mutex` is initialised.
/// - At [`Self::BUSY`] only the call of `install` that has changed `stage` uses `mutex`.
#[doc(hidden)]
pub struct Place<T: Send + Unpin> {
    stage: Atomic<u32>,
    mutex: UnsafeCell<MaybeUninit<Mutex<Option<T>>>>,
}

// SAFETY: By the type invariant one thread uses `mutex` before the place is ready. Afterwards all
// threads get shared references to the mutex, which is `Sync` because `T` is `Send`.
unsafe impl<T: Send + Unpin> Sync for Place<T> {}

impl<T: Send + Unpin> Place<T> {
    const EMPTY: u32 = 0;
    const BUSY: u32 = 1;
    const READY: u32 = 2;

    /// Makes an empty place.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        // INVARIANT: The place is empty.
        Self {
            stage: Atomic::new(Self::EMPTY),
            mutex: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Installs a value. This works once. Each later call fails with `EBUSY`.
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
        // SAFETY: `mutex` is valid for writes and does not move, because the place is static. By
        // the type invariant no one else uses it before the place is ready.
        unsafe { ::pin_init::raw_init(mutex, init) };
        // INVARIANT: The mutex was initialised just above, and is never dropped.
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

    /// Calls `f` with the value while holding the mutex. Returns `None` if the place is empty.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut value = self.mutex()?.lock();
        (*value).as_mut().map(f)
    }
}

/// The guard of an installed value. Dropping it drops the value.
#[doc(hidden)]
pub struct Installed<T: Send + Unpin + 'static>(&'static Place<T>);

impl<T: Send + Unpin + 'static> Drop for Installed<T> {
    fn drop(&mut self) {
        let value = self.0.mutex().and_then(|mutex| mutex.lock().take());
        drop(value);
    }
}

/// Declares a static place for one value of a type.
///
/// ```
/// # use crate::dm::global::module_global;
/// # use kernel::prelude::*;
/// module_global! {
///     /// The number of tables.
///     pub struct TABLES(u32);
/// }
///
/// /// Installs the value. The module keeps the guard.
/// pub fn init() -> Result<TABLES> {
///     TABLES::install(0)
/// }
///
/// /// Returns `None` while no value is installed.
/// pub fn count() -> Option<u32> {
///     TABLES::with(|tables| *tables)
/// }
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

            /// Installs a value, which exists until the guard is dropped. This works once. Each
            /// later call fails with `EBUSY`.
            $vis fn install(value: $type) -> ::kernel::error::Result<Self> {
                let _installed = Self::place().install(value)?;
                Ok(Self { _installed })
            }

            /// Calls `f` with the value while holding the mutex. Returns `None` if there is none.
            $vis fn with<R>(f: impl FnOnce(&mut $type) -> R) -> Option<R> {
                Self::place().with(f)
            }
        }
    };
}
pub use module_global;
