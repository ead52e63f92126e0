// SPDX-License-Identifier: GPL-2.0

//! Bios and completions that are held back after a lapse (`lapse_hold_ms`).
//!
//! They fail when the hold time is over. So the export can be switched to the new owner before its
//! clients see an error.
//!
//! Locking: see [`super`].

use super::{held::fail_held, PortionGate};
use crate::{
    dm::{clock::raw_ns, HeldEnd},
    proto::time::NS_PER_MS,
};
use kernel::sync::atomic::ordering;

/// Either a lease is held, or it has lapsed and the CPU that latched the gate has not recorded the
/// time of the lapse yet. Another CPU may see the lapse before the time is recorded.
pub(super) const LAPSE_TIME_UNKNOWN: u64 = u64::MAX;

impl PortionGate {
    /// Fails everything that is held back after a lapse, and holds nothing more back for this
    /// lapse.
    pub fn drop_held_back(&self) {
        let lapsed_ns = self.lapsed_ns.load(ordering::Acquire);
        if lapsed_ns != LAPSE_TIME_UNKNOWN {
            // If the time has changed, it is that of a later lapse, which keeps its hold time.
            let _ = self.lapsed_ns.cmpxchg(lapsed_ns, 0, ordering::Full);
        }
        self.fail_held_back();
    }

    /// Gives bios back to dm core, and fails the bios whose hold time is over, if it is time.
    /// Returns when to call this again.
    pub fn tend(&self) -> Option<u64> {
        let recall_ns = self.give_back();
        let until_ns = self.held.lock().until_ns;
        let held_ns = match until_ns {
            0 => None,
            at if at <= raw_ns() => {
                self.fail_held_back();
                None
            }
            at => Some(at),
        };
        [recall_ns, held_ns].into_iter().flatten().min()
    }

    pub(super) fn note_lapse(&self) {
        let _ = self.lapsed_ns.xchg(raw_ns(), ordering::Full);
    }

    /// Until when a bio that fails now is held back; 0 if it is not held back.
    pub(super) fn hold_until_ns(&self, hold_ms: u32) -> u64 {
        let lapsed_ns = match self.lapsed_ns.load(ordering::Acquire) {
            LAPSE_TIME_UNKNOWN => raw_ns(),
            at => at,
        };
        if hold_ms == 0 || lapsed_ns == 0 {
            return 0;
        }
        let hold_ns = u64::from(hold_ms).saturating_mul(NS_PER_MS);
        let until_ns = lapsed_ns.saturating_add(hold_ns);
        if until_ns > raw_ns() {
            until_ns
        } else {
            0
        }
    }

    pub(super) fn fail_held_back(&self) {
        let (refused, late) = {
            let mut held = self.held.lock();
            held.until_ns = 0;
            (held.refused.take_all(), held.late.take_all())
        };
        refused.for_each(fail_held);
        late.for_each(HeldEnd::finish);
    }
}
