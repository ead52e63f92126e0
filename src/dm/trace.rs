// SPDX-License-Identifier: GPL-2.0

//! Calling tracepoints that are defined in C.
//!
//! A trace event itself can only be defined by C macros: a header with `TRACE_EVENT(name, ...)` and
//! a C file that includes it with `CREATE_TRACE_POINTS` and `CREATE_RUST_TRACE_POINTS` defined. The
//! kernel's own macro for the Rust side looks for its symbols in the `bindings` crate, where those
//! of a module out of tree are not. The build runs bindgen over the header instead (see `Kbuild`),
//! and [`trace_events!`](crate::trace_events) calls what bindgen declares, so that the compiler
//! compares the signature of each event with that in C.
//!
//! A disabled event costs one no-operation instruction, and whatever it takes to have its arguments
//! at hand. For each `event()` there is an `event_enabled()`, as in C, to ask before that.
//!
//! C header: `include/linux/tracepoint.h`.

/// A short word in the form a trace event takes: an array padded with zeroes.
#[repr(transparent)]
pub struct Word([u8; Self::BYTES]);

impl Word {
    /// Bytes of the array, of which at least the last is zero.
    pub const BYTES: usize = 24;

    /// Copies a word, cut off if it is too long.
    pub fn new(word: &str) -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes
            .iter_mut()
            .take(Self::BYTES.saturating_sub(1))
            .zip(word.bytes())
            .for_each(|(place, byte)| *place = byte);
        Self(bytes)
    }
}

mod private {
    pub trait Sealed {}
}

/// What an event can be given.
pub trait Argument: private::Sealed {
    /// What C gets.
    #[doc(hidden)]
    type C;

    #[doc(hidden)]
    fn into_c(self) -> Self::C;
}

macro_rules! plain_arguments {
    ($($type:ty),*) => {$(
        impl private::Sealed for $type {}
        impl Argument for $type {
            type C = Self;

            #[inline(always)]
            fn into_c(self) -> Self {
                self
            }
        }
    )*};
}

plain_arguments!(bool, u8, u16, u32, u64, i8, i16, i32, i64);

impl<const N: usize> private::Sealed for &[u8; N] {}
impl<const N: usize> Argument for &[u8; N] {
    type C = *const [u8; N];

    #[inline(always)]
    fn into_c(self) -> *const [u8; N] {
        self
    }
}

impl private::Sealed for &Word {}
impl Argument for &Word {
    type C = *const [u8; Word::BYTES];

    #[inline(always)]
    fn into_c(self) -> *const [u8; Word::BYTES] {
        &self.0
    }
}

/// Declares functions that emit trace events.
///
/// ```ignore
/// trace_events! {
///     /// Emits the event `sample_done`.
///     pub fn sample_done(sector: u64, name: &[u8; 16]);
/// }
/// ```
///
/// The signature must be that of `TP_PROTO` in C, with a reference to an array where C has a
/// pointer to a constant array (`const u8 (*name)[16]`). A plain pointer, whose length C does not
/// say, fits nothing.
#[macro_export]
macro_rules! trace_events {
    ($($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        /// What bindgen makes of the header that defines the events.
        #[cfg(CONFIG_TRACEPOINTS)]
        #[allow(
            clippy::all,
            dead_code,
            improper_ctypes,
            missing_docs,
            non_upper_case_globals,
            unreachable_pub,
            unused_imports
        )]
        mod trace_bindings {
            use ::kernel::{
                bindings::*,
                ffi, //
            };

            include!(env!("DM_TRACE_BINDINGS"));
        }

        $(
            $(#[$attr])*
            #[inline(always)]
            // An event has as many arguments as it records.
            #[allow(clippy::too_many_arguments)]
            $vis fn $name($($arg: $type),*) {
                ::kernel::macros::paste! {
                    if [<$name _enabled>]() {
                        $(let $arg = $crate::dm::trace::Argument::into_c($arg);)*
                        #[cfg(CONFIG_TRACEPOINTS)]
                        // SAFETY: Declaration and event come from the same header. A pointer is
                        // one to a constant array of the length declared, and valid for this call.
                        unsafe { trace_bindings::[<rust_do_trace_ $name>]($($arg),*) };
                        #[cfg(not(CONFIG_TRACEPOINTS))]
                        {
                            $(let _ = $arg;)*
                        }
                    }
                }
            }

            ::kernel::macros::paste! {
                #[doc = concat!("Whether somebody wants to see `", stringify!($name), "`, for a")]
                /// caller whose arguments are not at hand.
                #[inline(always)]
                $vis fn [<$name _enabled>]() -> bool {
                    #[cfg(CONFIG_TRACEPOINTS)]
                    // SAFETY: The key is that of a tracepoint defined by C.
                    return unsafe {
                        ::kernel::jump_label::static_branch_unlikely!(
                            trace_bindings::[<__tracepoint_ $name>],
                            ::kernel::bindings::tracepoint,
                            key
                        )
                    };
                    #[cfg(not(CONFIG_TRACEPOINTS))]
                    false
                }
            }
        )*
    };
}
pub use trace_events;
