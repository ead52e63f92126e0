// SPDX-License-Identifier: GPL-2.0

//! The C declarations that the bindings of the kernel crate do not have.
//!
//! The build runs bindgen twice (see `Kbuild`): over `bindings_helper.h` for the types, constants
//! and functions of `<linux/device-mapper.h>`, and over `helpers.c` for inline functions and
//! macros. Bindgen declares only the items that `bindgen_parameters` names. All other types come
//! from `kernel::bindings`, so that a `bio` here is the same type as in the kernel crate. This
//! module shows all of them in one namespace.

/// Types, constants and functions.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::as_underscore,
    clippy::cast_lossless,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rustdoc::all,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod generated {
    // A name in the included file takes precedence over one of a glob import, also for importers.
    pub(crate) use kernel::bindings::*;
    use kernel::ffi;

    include!(concat!(env!("DM_BINDINGS"), "/bindings_generated.rs"));
}

/// The functions of `helpers.c`, by the names of the C functions that they call.
#[allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub
)]
mod helpers {
    use super::generated::*;
    use kernel::ffi;

    include!(concat!(env!("DM_BINDINGS"), "/helpers_generated.rs"));
}

#[allow(unused_imports)]
pub(crate) use {
    generated::*,
    helpers::*, //
};
