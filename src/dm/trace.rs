// SPDX-License-Identifier: GPL-2.0

//! Calls of trace events that are defined in C.
//!
//! Only C macros can define a trace event. A header has `TRACE_EVENT(name, ...)`, and a C file
//! includes the header with `CREATE_TRACE_POINTS` and `CREATE_RUST_TRACE_POINTS` defined. The
//! kernel's macro for the Rust side takes its symbols from the `bindings` crate, which does not
//! have those of an out-of-tree module. Therefore the build runs bindgen over the header (see
//! `Kbuild`), and [`trace_events!`](crate::trace_events) calls the functions that bindgen declares.
//! The compiler thus compares the signature of each event with the signature in C.
//!
//! A disabled event costs one no-operation instruction and the computation of its arguments. As in
//! C, `event_enabled()` tells a caller of `event()` whether the arguments are needed.
//!
//! C header: `include/linux/tracepoint.h`.

/// A short text as an argument of a trace event: an array padded with zeroes.
#[repr(transparent)]
pub struct Word([u8; Self::BYTES]);

impl Word {
    /// The size of the array. At least the last byte is zero.
    pub const BYTES: usize = 24;

    /// Copies a text. A text that is too long is cut off.
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

/// The types of arguments of an event.
pub trait Argument: private::Sealed {
    /// The type of the argument in C.
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
/// ```text
/// trace_events! {
///     /// Emits the event `sample_done`.
///     pub fn sample_done(sector: u64, name: &[u8; 16]);
/// }
/// ```
///
/// The signature must be that of `TP_PROTO` in C. For a pointer to a constant array in C (`const u8
/// (*name)[16]`) it has a reference to an array. There is no type for other pointers, because C
/// does not state the length of their objects.
#[macro_export]
macro_rules! trace_events {
    ($($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        /// The declarations that bindgen has made from the header that defines the events.
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
            // An event has one argument for each recorded value.
            #[allow(clippy::too_many_arguments)]
            $vis fn $name($($arg: $type),*) {
                ::kernel::macros::paste! {
                    if [<$name _enabled>]() {
                        $(let $arg = $crate::dm::trace::Argument::into_c($arg);)*
                        #[cfg(CONFIG_TRACEPOINTS)]
                        // SAFETY: Bindgen has made the declaration from the header that defines the
                        // event. Each pointer is valid during the call and points to an array of
                        // the declared length.
                        unsafe { trace_bindings::[<rust_do_trace_ $name>]($($arg),*) };
                        #[cfg(not(CONFIG_TRACEPOINTS))]
                        {
                            $(let _ = $arg;)*
                        }
                    }
                }
            }

            ::kernel::macros::paste! {
                #[doc = concat!("Returns whether the event `", stringify!($name), "` is enabled.")]
                #[inline(always)]
                $vis fn [<$name _enabled>]() -> bool {
                    #[cfg(CONFIG_TRACEPOINTS)]
                    // SAFETY: The key is that of a tracepoint that C has defined, and is static.
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
