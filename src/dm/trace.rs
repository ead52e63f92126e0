// SPDX-License-Identifier: GPL-2.0

//! Calling tracepoints that are defined in C.
//!
//! A trace event itself can only be defined by C macros: a header with `TRACE_EVENT(name, ...)` and
//! a C file that includes it with `CREATE_TRACE_POINTS` and `CREATE_RUST_TRACE_POINTS` defined. The
//! kernel's own macro for the Rust side looks for its symbols in the `bindings` crate, where those
//! of a module out of tree are not; [`trace_events!`](crate::trace_events) declares them itself.
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

/// Declares functions that emit trace events.
///
/// ```ignore
/// trace_events! {
///     /// Emits the event `sample_done`.
///     pub fn sample_done(sector: u64, name: &[u8; 16]);
/// }
/// ```
///
/// The signature must be that of `TP_PROTO` in C: integers of the same size, and references where C
/// has pointers to constant data of the same size. As with any declaration of a C function, nothing
/// checks that.
#[macro_export]
macro_rules! trace_events {
    ($($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {$(
        #[cfg(CONFIG_TRACEPOINTS)]
        ::kernel::macros::paste! {
            mod [<__ $name>] {
                #[allow(unused_imports)]
                use super::*;
                // The key is never read as a value, only its address is used.
                #[allow(improper_ctypes)]
                extern "C" {
                    #[link_name = concat!("__tracepoint_", stringify!($name))]
                    pub(super) static KEY: ::kernel::bindings::tracepoint;
                    #[link_name = concat!("rust_do_trace_", stringify!($name))]
                    pub(super) fn emit($($arg: $type),*);
                }
            }
        }

        $(#[$attr])*
        #[inline(always)]
        // What is expanded there are the names of this function's arguments.
        // An event has as many arguments as it records.
        #[allow(clippy::macro_metavars_in_unsafe, clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) {
            ::kernel::macros::paste! {
                if [<$name _enabled>]() {
                    #[cfg(CONFIG_TRACEPOINTS)]
                    // SAFETY: The C side has the signature declared here, and references are valid
                    // for the duration of the call.
                    unsafe { [<__ $name>]::emit($($arg),*) };
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
                        [<__ $name>]::KEY,
                        ::kernel::bindings::tracepoint,
                        key
                    )
                };
                #[cfg(not(CONFIG_TRACEPOINTS))]
                false
            }
        }
    )*};
}
pub use trace_events;
