// SPDX-License-Identifier: GPL-2.0

//! The outcome of one call of `map` or `end_io` cannot be returned from another call.

use crate::{
    dm::*,
    Probe, //
};

/// A call returns its own outcome.
#[cfg(right)]
pub fn pass_on<'ti>(bio: EndBio<'ti, Probe>) -> EndOutcome<'ti> {
    bio.pass_on()
}

/// A call of `end_io` returns the outcome for the bio of another target.
#[cfg(wrong)]
pub fn exchange<'a, 'b>(a: EndBio<'a, Probe>, b: EndBio<'b, Probe>) -> EndOutcome<'a> {
    let _a = a.pass_on();
    //~ error lifetime may not live long enough
    b.pass_on()
}

/// A call of `map` returns the outcome for the bio of another target.
#[cfg(wrong)]
pub fn exchange_map<'a, 'b>(a: MapBio<'a, Probe>, b: MapBio<'b, Probe>) -> MapOutcome<'a> {
    let _a = a.end(BlkStatus::OK);
    //~ error lifetime may not live long enough
    b.end(BlkStatus::OK)
}

/// Accepts the types that the data of a target can have.
#[cfg(wrong)]
fn shared<T: Send + Sync>(_: T) {}

/// The outcome is stored in the data of the target.
#[cfg(wrong)]
pub fn keep(bio: EndBio<'_, Probe>) {
    //~ E0277 cannot be sent between threads safely
    //~ E0277 cannot be shared between threads safely
    shared(bio.pass_on());
}
