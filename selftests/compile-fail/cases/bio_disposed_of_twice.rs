// SPDX-License-Identifier: GPL-2.0

//! A bio is disposed of once, and is not used afterwards.

use crate::{
    dm::*,
    Probe, //
};

/// A held bio is submitted.
#[cfg(right)]
pub fn submit(bio: HeldBio<Probe>) {
    bio.submit();
}

/// A held bio is submitted and used afterwards.
#[cfg(wrong)]
pub fn use_after_submit(bio: HeldBio<Probe>) -> u32 {
    bio.submit();
    //~ E0382 borrow of moved value: `bio`
    bio.sectors()
}

/// The device of a target is used after the held bio that keeps the target.
#[cfg(wrong)]
pub fn keep_data(bio: HeldBio<Probe>) {
    let mut device = None;
    //~ E0521 borrowed data escapes outside of closure
    bio.with_data(|data| device = Some(data.dev));
    bio.submit();
}

/// A bio is passed on and ended.
#[cfg(wrong)]
pub fn end_twice<'ti>(bio: AimedBio<'ti, Probe>) -> MapOutcome<'ti> {
    let outcome = bio.pass();
    drop(outcome);
    //~ E0382 use of moved value: `bio`
    bio.end(BlkStatus::IOERR)
}

/// A completion is held and passed on.
#[cfg(wrong)]
pub fn hold_and_pass<'ti>(bio: EndBio<'ti, Probe>) -> (HeldEnd<Probe>, EndOutcome<'ti>) {
    let (held, _outcome) = bio.hold(BlkStatus::OK);
    //~ E0382 use of moved value: `bio`
    (held, bio.pass_on())
}
