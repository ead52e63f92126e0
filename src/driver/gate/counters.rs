// SPDX-License-Identifier: GPL-2.0

//! What the gate counts and traces.
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

/// Some sectors of a member, and what shall be done with them: how a trace names a bio.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) op: u32,
    /// The member's device number.
    pub(super) dev: u32,
    /// How many sectors.
    pub(super) sectors: u32,
    /// The first sector.
    pub(super) sector: u64,
}

impl Extent {
    /// Of a bio that points to its member.
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
    /// Bios that wait for a permit.
    pub fn pending(&self) -> u64 {
        self.held.lock().waiting.len() as u64
    }

    /// How much of the lease was left for a sample of what passed, since the session began.
    pub fn checks(&self) -> Histogram {
        self.checks.sum()
    }

    /// Bios that were refused since the session began.
    pub fn refused(&self) -> u64 {
        self.refused.load(ordering::Relaxed)
    }

    /// Successes that were reported as errors since the session began.
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

    /// Notes that an operation passes: for a trace, and some for the histogram.
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
