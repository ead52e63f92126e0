// SPDX-License-Identifier: GPL-2.0

//! What is kept for the hold time of a lapse (`lapse_hold_ms`).
//!
//! Locking: see [`super`].

use super::{held::fail_held, PortionGate};
use crate::{
    dm::{clock::raw_ns, BlkStatus, HeldEnd},
    proto::words::table::FailWith,
};
use kernel::sync::atomic::ordering;

/// There is a lease; or it has ended, and whoever latched it has not come to note that yet: another
/// processor may have seen it end in between.
pub(super) const UNNOTED: u64 = u64::MAX;

impl PortionGate {
    /// Fails everything that is kept after a lapse, and keeps nothing more of this one.
    pub fn drop_kept(&self) {
        let lapsed_ns = self.lapsed_ns.load(ordering::Acquire);
        if lapsed_ns != UNNOTED {
            // If it is another one by now, that is of a later lease.
            let _ = self.lapsed_ns.cmpxchg(lapsed_ns, 0, ordering::Full);
        }
        self.fail_kept();
    }

    /// Gives back what dm core wants back, and fails what has been kept for its time after a lapse;
    /// returns when to look again.
    pub fn tend(&self) -> Option<u64> {
        let recall_ns = self.give_back();
        let until_ns = self.held.lock().until_ns;
        let kept_ns = match until_ns {
            0 => None,
            at if at <= raw_ns() => {
                self.fail_kept();
                None
            }
            at => Some(at),
        };
        [recall_ns, kept_ns].into_iter().flatten().min()
    }

    pub(super) fn note_lapse(&self) {
        let _ = self.lapsed_ns.xchg(raw_ns(), ordering::Full);
    }

    /// Until when something that fails now is kept; 0: not at all.
    pub(super) fn hold_until_ns(&self, hold_ms: u32) -> u64 {
        let lapsed_ns = match self.lapsed_ns.load(ordering::Acquire) {
            UNNOTED => raw_ns(),
            at => at,
        };
        if hold_ms == 0 || lapsed_ns == 0 {
            return 0;
        }
        let hold_ns = u64::from(hold_ms).saturating_mul(crate::proto::time::NS_PER_MS);
        let until_ns = lapsed_ns.saturating_add(hold_ns);
        if until_ns > raw_ns() {
            until_ns
        } else {
            0
        }
    }

    pub(super) fn fail_kept(&self) {
        let (refused, late) = {
            let mut held = self.held.lock();
            held.until_ns = 0;
            (held.refused.take_all(), held.late.take_all())
        };
        refused.for_each(fail_held);
        late.for_each(HeldEnd::finish);
    }
}

pub(super) fn status_of(fail_with: FailWith) -> BlkStatus {
    match fail_with {
        FailWith::ResvConflict => BlkStatus::RESV_CONFLICT,
        FailWith::IoErr => BlkStatus::IOERR,
        FailWith::Medium => BlkStatus::MEDIUM,
    }
}
