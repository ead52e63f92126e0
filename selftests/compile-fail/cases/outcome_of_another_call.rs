// SPDX-License-Identifier: GPL-2.0

//! What one call of `map` or `end_io` decided cannot be returned by another: nor can it be made.

use crate::{
    dm::*,
    Probe, //
};

/// The outcome of this call is returned.
#[cfg(right)]
pub fn pass_on<'ti>(bio: EndBio<'ti, Probe>) -> EndOutcome<'ti> {
    bio.pass_on()
}

/// The outcome for the bio of another target.
#[cfg(wrong)]
pub fn exchange<'a, 'b>(a: EndBio<'a, Probe>, b: EndBio<'b, Probe>) -> EndOutcome<'a> {
    let _a = a.pass_on();
    //~ error lifetime may not live long enough
    b.pass_on()
}

/// What the data of a target may hold.
#[cfg(wrong)]
fn shared<T: Send + Sync>(_: T) {}

/// The outcome goes into the data of the target.
#[cfg(wrong)]
pub fn keep(bio: EndBio<'_, Probe>) {
    //~ E0277 cannot be sent between threads safely
    //~ E0277 cannot be shared between threads safely
    shared(bio.pass_on());
}
