// SPDX-License-Identifier: GPL-2.0

//! The counters and traces of the gate.
//!
//! Locking: none, but [`PortionGate::pending`] takes the lock of the held bios.

use super::PortionGate;
use crate::{
    dm::{clock::leaps_ns, Bio},
    driver::events,
    proto::{
        gate::permits::Check, //
        histogram::{is_sampled, Histogram},
    },
};
use kernel::{cpu::CpuId, sync::atomic::ordering};

/// What a trace says of a bio: the operation and the sectors on the member.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) op: u32,
    /// The member's device number.
    pub(super) dev: u32,
    /// The number of sectors.
    pub(super) sectors: u32,
    /// The first sector.
    pub(super) sector: u64,
}

impl Extent {
    /// The extent of a bio that was directed to its member.
    pub(super) fn of(bio: &Bio) -> Self {
        Self {
            op: bio.op().as_raw(),
            dev: bio.devt().as_raw(),
            sectors: bio.sectors(),
            sector: bio.device_sector(),
        }
    }
}

impl PortionGate {
    /// The number of bios that wait for a permit.
    pub fn pending(&self) -> u64 {
        self.held.lock().waiting.len() as u64
    }

    /// How much of the lease was left, for a sample of the bios that passed since the session
    /// began.
    pub fn checks(&self) -> Histogram {
        self.checks.sum()
    }

    /// The number of bios that were refused since the session began.
    pub fn refused(&self) -> u64 {
        self.refused.load(ordering::Relaxed)
    }

    /// The number of successes that were reported as errors since the session began.
    pub fn late(&self) -> u64 {
        self.late.load(ordering::Relaxed)
    }

    pub(super) fn count_refusal(&self, extent: &Extent) {
        self.refused.add(1, ordering::Relaxed);
        self.trace_refusal(extent, false);
    }

    pub(super) fn trace_refusal(&self, extent: &Extent, late: bool) {
        let Extent {
            op,
            dev,
            sectors,
            sector,
        } = *extent;
        let (portion, controller) = (&self.portion_uuid, self.controller);
        events::dm_lease_refuse(portion, controller, dev, op, sector, sectors, late);
    }

    /// Traces a bio that passes, and adds it to the histogram if it belongs to the sample.
    pub(super) fn note_permit(&self, extent: &Extent, epoch: u64, check: Check) {
        if is_sampled(check.now_ns) {
            let cpu = CpuId::current().as_u32();
            let left_ns = check.expiry_ns.saturating_sub(check.now_ns);
            self.checks.note(cpu, left_ns);
        }
        let leaps_ns = leaps_ns();
        events::dm_lease_permit(
            &self.portion_uuid,
            self.controller,
            extent.dev,
            extent.op,
            extent.sector,
            extent.sectors,
            epoch,
            check.now_ns.saturating_sub(leaps_ns),
            check.expiry_ns.saturating_sub(leaps_ns),
        );
    }
}
