// SPDX-License-Identifier: GPL-2.0

//! The handler of a notifier borrows nothing: a registration that is forgotten goes on, and calls
//! it when what it borrowed no longer exists.

use crate::dm::notifier::{
    OnPm,
    OnReboot,
    OnSyscore,
    PmEvent,
    Shutdown, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
    }, //
};

/// Owns what it uses.
pub struct Owning(pub Arc<Atomic<u64>>);

impl OnReboot for Owning {
    fn reboot(&self, _how: Shutdown) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Borrows what it uses.
#[cfg(wrong)]
pub struct Borrowing<'a>(pub &'a Atomic<u64>);

#[cfg(wrong)]
//~ E0478 lifetime bound not satisfied
//~ E0495 cannot infer an appropriate lifetime
impl OnReboot for Borrowing<'_> {
    fn reboot(&self, _how: Shutdown) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[cfg(wrong)]
//~ E0478 lifetime bound not satisfied
//~ E0495 cannot infer an appropriate lifetime
impl OnPm for Borrowing<'_> {
    fn pm(&self, _event: PmEvent) -> Result {
        Ok(())
    }
}

#[cfg(wrong)]
//~ E0478 lifetime bound not satisfied
//~ E0495 cannot infer an appropriate lifetime
impl OnSyscore for Borrowing<'_> {
    fn suspend(&self) {}

    fn resume(&self) {}
}

/// Registers a handler and forgets it; the module does not end then.
#[cfg(right)]
pub fn forget(handler: Owning) -> Result {
    use crate::dm::notifier::RebootNotifier;

    core::mem::forget(KBox::pin_init(RebootNotifier::new(handler, 0), GFP_KERNEL)?);
    Ok(())
}

#[cfg(right)]
impl OnPm for Owning {
    fn pm(&self, _event: PmEvent) -> Result {
        Ok(())
    }
}

#[cfg(right)]
impl OnSyscore for Owning {
    fn suspend(&self) {}

    fn resume(&self) {}
}
