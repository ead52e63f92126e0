// SPDX-License-Identifier: GPL-2.0

//! A context proves that the code runs in a thread of the module, which may sleep. A reservation
//! command needs a context. Code that runs elsewhere, such as in an interrupt, has none.

use crate::dm::{
    reservation::{
        Failure,
        Key,
        Kind,
        Reservations, //
    },
    thread::{
        Context,
        Priority,
        Thread, //
    },
    Bdev, //
};
use kernel::prelude::*;

const KIND: Kind = Kind::WriteExclusiveAllRegistrants;

/// A command is sent by a thread.
#[cfg(right)]
pub fn in_a_thread(context: &Context, dev: &Bdev, own: Key) -> Result<(), Failure> {
    let Ok(reservations) = Reservations::of(dev) else {
        return Err(Failure::Unsupported);
    };
    reservations.reserve(context, own, KIND)
}

/// A command is sent without a context.
#[cfg(wrong)]
pub fn without_a_context(dev: &Bdev, own: Key) -> Result<(), Failure> {
    let Ok(reservations) = Reservations::of(dev) else {
        return Err(Failure::Unsupported);
    };
    //~ E0061 this method takes 3 arguments but 2 arguments were supplied
    reservations.reserve(own, KIND)
}

/// A context is made by hand.
#[cfg(wrong)]
pub fn by_hand() -> Context {
    //~ E0423 cannot initialize a tuple struct which contains private fields
    Context(kernel::types::NotThreadSafe)
}

/// A thread gives its context to another thread.
#[cfg(wrong)]
pub fn to_another_thread(context: &'static Context, dev: &'static Bdev, own: Key) -> Result {
    //~ E0277 cannot be shared between threads safely
    let thread = Thread::spawn(c"other", Priority::Normal, move |_| {
        let _ = Reservations::of(dev).map(|to| to.reserve(context, own, KIND));
    })?;
    drop(thread);
    Ok(())
}

/// A thread keeps its context.
#[cfg(wrong)]
pub fn keep(place: &mut Option<&'static Context>, context: &Context) {
    //~ error lifetime may not live long enough
    *place = Some(context);
}
