// SPDX-License-Identifier: GPL-2.0

//! The handler of a notifier cannot borrow. A registration that was forgotten remains, and calls
//! the handler after the borrowed value has gone.

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

/// A handler that owns its data.
pub struct Owning(pub Arc<Atomic<u64>>);

impl OnReboot for Owning {
    fn reboot(&self, _how: Shutdown) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A handler that borrows its data.
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

/// A registration is forgotten. The module then does not end.
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
