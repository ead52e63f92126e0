// SPDX-License-Identifier: GPL-2.0

//! A value that exists from the start of the module to its end, behind a mutex.
//!
//! The callbacks of a target are plain functions; what all targets of a module share has to be
//! reachable from a static. [`module_global!`](crate::module_global) makes one that is empty until
//! the module's init function installs a value, and empty again once the returned guard is dropped.

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
        $vis struct $name(());

        const _: () = {
            use ::kernel::sync::atomic::{ordering, Atomic};

            ::kernel::sync::global_lock! {
                // SAFETY: `install` initialises the lock before it sets `READY`, and nobody uses
                // the lock before `READY` is set.
                unsafe(uninit) static PLACE: Mutex<Option<$type>> = None;
            }
            static STARTED: Atomic<bool> = Atomic::new(false);
            static READY: Atomic<bool> = Atomic::new(false);

            impl $name {
                /// Puts the value in its place, where it stays until the guard is dropped.
                /// Works once in the life of the module; `EBUSY` afterwards.
                $vis fn install(value: $type) -> ::kernel::error::Result<Self> {
                    if STARTED.xchg(true, ordering::Full) {
                        return Err(::kernel::error::code::EBUSY);
                    }
                    // SAFETY: `STARTED` was false: this is the first call and the last.
                    unsafe { PLACE.init() };
                    *PLACE.lock() = Some(value);
                    READY.store(true, ordering::Release);
                    Ok(Self(()))
                }

                /// Calls `f` with the value, with its mutex held; `None` while there is none.
                $vis fn with<R>(f: impl FnOnce(&mut $type) -> R) -> Option<R> {
                    if !READY.load(ordering::Acquire) {
                        return None;
                    }
                    PLACE.lock().as_mut().map(f)
                }
            }

            impl Drop for $name {
                fn drop(&mut self) {
                    let value = PLACE.lock().take();
                    drop(value);
                }
            }
        };
    };
}
pub use module_global;
