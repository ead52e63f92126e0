// SPDX-License-Identifier: GPL-2.0

//! A bio is disposed of once, and nobody uses it afterwards.

use crate::{
    dm::*,
    Probe, //
};

/// A bio is held, and submitted later.
#[cfg(right)]
pub fn submit(bio: HeldBio<Probe>) {
    bio.submit();
}

/// A bio is submitted, and then used.
#[cfg(wrong)]
pub fn use_after_submit(bio: HeldBio<Probe>) -> u32 {
    bio.submit();
    //~ E0382 borrow of moved value: `bio`
    bio.sectors()
}

/// The data of the target outlives the bio that keeps the target.
#[cfg(wrong)]
pub fn keep_data(bio: HeldBio<Probe>) {
    let mut device = None;
    //~ E0521 borrowed data escapes outside of closure
    bio.with_data(|data| device = Some(data.dev));
    bio.submit();
}

/// A bio is ended, and passed on.
#[cfg(wrong)]
pub fn end_twice<'ti>(bio: AimedBio<'ti, Probe>) -> MapOutcome<'ti> {
    let outcome = bio.pass();
    drop(outcome);
    //~ E0382 use of moved value: `bio`
    bio.end(BlkStatus::IOERR)
}

/// A completion is kept back, and passed on.
#[cfg(wrong)]
pub fn hold_and_pass<'ti>(bio: EndBio<'ti, Probe>) -> (HeldEnd<Probe>, EndOutcome<'ti>) {
    let (held, _outcome) = bio.hold(BlkStatus::OK);
    //~ E0382 use of moved value: `bio`
    (held, bio.pass_on())
}
