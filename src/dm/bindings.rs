// SPDX-License-Identifier: GPL-2.0

//! The C declarations that the kernel crate's own bindings lack.
//!
//! The build runs bindgen twice (see `Kbuild`): over `bindings_helper.h` for types, constants and
//! functions of `<linux/device-mapper.h>`, and over `helpers.c` for the inline functions and macros
//! that need a C body. Bindgen follows no type out of what `bindgen_parameters` names; what it
//! refers to comes from `kernel::bindings`, so that a `bio` here *is* the kernel crate's `bio`.
//! Together they appear as one namespace.

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
    // Names defined in the included file win over those of a glob import, here and for importers.
    pub(crate) use kernel::bindings::*;
    use kernel::ffi;

    include!(concat!(env!("DM_BINDINGS"), "/bindings_generated.rs"));
}

/// The C shims of `helpers.c`, by the name of what they stand for.
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
