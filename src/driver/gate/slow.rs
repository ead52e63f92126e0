// SPDX-License-Identifier: GPL-2.0

//! What seldom happens to a bio in `map` and `end_io`.
//!
//! Locking: see [`super`].

use super::{
    aim,
    counters::Extent,
    lapse::status_of,
    GatedTable,
    LeaseTarget,
    PerBio,
    PortionGate,
    Rules,
    TableFlags,
    NO_PERMIT,
    WAITS, //
};
use crate::{
    dm::{clock::leaping_ns, AimedBio, BlkStatus, EndBio, EndOutcome, MapBio, MapOutcome},
    driver::waker::Reasons,
    proto::{
        gate::{
            lanes::{LaneLayout, Place},
            permits::{Admission, Check, Lapsed, Left, Taken},
            waiting,
        },
        words::table::OnFull,
    },
};
use core::convert::Infallible;
use kernel::{
    block::SECTOR_SHIFT,
    cpu::CpuId,
    sync::atomic::ordering, //
};

impl PortionGate {
    /// Decides what takes more than a glance about a bio that arrived in the epoch `arrived`.
    fn decide<'ti>(
        &self,
        mut bio: AimedBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
        arrived: u64,
        taken: Taken,
    ) -> MapOutcome<'ti> {
        let charge = bio.per_bio().charge;
        match self.gate.enter_long(charge, arrived, taken, leaping_ns) {
            Admission::Granted(check) => pass_noted(bio, table, check),
            Admission::Full { wake } => {
                bio.per_bio().epoch = arrived | WAITS;
                self.note_refusal(false, wake);
                self.full(bio, table.rules())
            }
            Admission::Outlived { wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.note_refusal(false, wake);
                self.count_refusal(&Extent::of(&bio));
                bio.end(status_of(table.rules().fail_with))
            }
            Admission::Refused { lapsed, wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.note_refusal(lapsed, wake);
                self.refuse(bio, table.rules())
            }
        }
    }

    /// There is no room for the bio.
    fn full<'ti>(&self, mut bio: AimedBio<'ti, LeaseTarget>, rules: &Rules) -> MapOutcome<'ti> {
        if bio.is_nowait() {
            return bio.would_block();
        }
        if rules.on_full == OnFull::Fail {
            self.count_refusal(&Extent::of(&bio));
            return bio.end(status_of(rules.fail_with));
        }
        let charge = bio.per_bio().charge;
        // Looked at before it waits: afterwards the bio belongs to whoever finds it.
        let is_recalled = bio.target().noflush_suspending();
        let hold = || Ok::<_, Infallible>(bio.hold());
        let Ok((room, outcome)) = waiting::wait(self, charge, hold);
        if room {
            self.dispatcher.wake(Reasons::PERMIT);
        }
        if is_recalled {
            self.recall();
        }
        outcome
    }

    /// Fails a bio, or keeps it for the hold time of a lapse.
    fn refuse<'ti>(&self, bio: AimedBio<'ti, LeaseTarget>, rules: &Rules) -> MapOutcome<'ti> {
        self.count_refusal(&Extent::of(&bio));
        let until_ns = self.hold_until_ns(rules.lapse_hold_ms);
        if until_ns == 0 || bio.is_nowait() {
            return bio.end(status_of(rules.fail_with));
        }
        let mut held = self.held.lock();
        if bio.target().noflush_suspending() {
            drop(held);
            return bio.end(status_of(rules.fail_with));
        }
        let (kept, outcome) = bio.hold();
        held.refused.push(kept);
        held.until_ns = held.until_ns.max(until_ns);
        drop(held);
        self.portion.wake(Reasons::CHANGE);
        outcome
    }
}

// What seldom happens to a bio in `map` and `end_io`. `decide_taken` and `decide_free` are two for
// what one with an argument more would cost whoever does not come here: an instruction.

/// Takes a bio that changes nothing, since it has no data: a flush, or the marker behind what was
/// deferred.
#[cold]
#[inline(never)]
pub fn map_nothing<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    if bio.is_marker(table.deferred().marker()) {
        table.deferred().end();
        table.flags().clear(TableFlags::DEFERRED);
        if table.deferred().is_any() {
            // Something went back to dm core meanwhile.
            table.flags().set(TableFlags::DEFERRED);
        }
        return bio.end(BlkStatus::OK);
    }
    let sector = table.sector(&bio);
    bio.remap(table.device(), sector)
}

/// Takes a bio of a controller without a lease, a secondary mostly, or of an unusual table.
#[cold]
#[inline(never)]
pub(super) fn map_unusual<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let (gate, rules, sector) = (table.gate(), table.rules(), table.sector(&bio));
    if table.flags().has(TableFlags::OUTDATED) {
        // The device is not the member any more: there is nothing to wait for [R56].
        return bio.end(BlkStatus::IOERR);
    }
    if !gate.gate.is_latched() && !rules.read_only {
        return map_deferred(bio, table);
    }
    // What a read-only table refuses is not kept: no lapse is the reason.
    if rules.lapse_hold_ms != 0 && !rules.read_only {
        let bio = bio.locate();
        return gate.refuse(bio.aim(table.device(), sector, PerBio::default()), rules);
    }
    gate.count_refusal(&Extent {
        op: bio.op().as_raw(),
        dev: table.device().devt().as_raw(),
        sectors: bio.sectors(),
        sector,
    });
    bio.end(status_of(rules.fail_with))
}

/// Decides about a bio that may be one of those that dm core deferred.
fn map_deferred<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let gate = table.gate();
    let epoch = gate.gate.epoch();
    let arrived = table.deferred().arrived(bio.target(), epoch);
    let bio = bio.locate();
    let charge = match gate.gate.layout() {
        LaneLayout::Single => Place::ONE,
        LaneLayout::PerCpu => Place::cpu(CpuId::current().as_u32()),
        LaneLayout::Rows(_) => gate.charge(&bio, table.rules().unit),
    };
    let bio = aim(bio, table, epoch, charge);
    gate.decide(bio, table, arrived, Taken::No)
}

/// Decides about a bio that has a permit which must be looked at again.
#[cold]
#[inline(never)]
pub(super) fn decide_taken<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    charge: Place,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, charge);
    table.gate().decide(bio, table, epoch, Taken::Unsure)
}

/// Decides about a bio that has no permit yet.
#[cold]
#[inline(never)]
pub(super) fn decide_free<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    charge: Place,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, charge);
    table.gate().decide(bio, table, epoch, Taken::No)
}

/// Decides what takes more than a glance at the lease.
#[cold]
#[inline(never)]
pub(super) fn decide_again<'ti>(
    mut bio: AimedBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let arrived = bio.per_bio().epoch;
    table.gate().decide(bio, table, arrived, Taken::Sure)
}

/// Lets a bio go that somebody watches, or that is one of the sample.
#[cold]
#[inline(never)]
pub(super) fn pass_noted<'ti>(
    mut bio: AimedBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    check: Check,
) -> MapOutcome<'ti> {
    let epoch = bio.per_bio().epoch;
    table.gate().note_permit(&Extent::of(&bio), epoch, check);
    bio.pass()
}

/// What failed anyway need not be acknowledged.
#[cold]
#[inline(never)]
pub(super) fn pass_failed<'ti>(
    mut bio: EndBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> EndOutcome<'ti> {
    table.gate().leave(bio.per_bio());
    bio.pass_on()
}

/// Says what becomes of a success that takes more than a glance. One that must not be acknowledged
/// has an indeterminate outcome [R18].
#[cold]
#[inline(never)]
pub(super) fn judge_end<'ti>(
    mut bio: EndBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> EndOutcome<'ti> {
    let (gate, rules) = (table.gate(), table.rules());
    let verdict = gate.gate.acknowledge(bio.per_bio().epoch, leaping_ns);
    if let Err(Lapsed(lapsed)) = verdict {
        gate.note_refusal(lapsed, false);
    }
    gate.leave(bio.per_bio());
    if verdict.is_ok() {
        return bio.pass_on();
    }
    gate.late.add(1, ordering::Relaxed);
    let (op, per_bio) = (bio.op().as_raw(), bio.per_bio());
    let extent = Extent {
        op,
        dev: table.device().devt().as_raw(),
        sectors: per_bio.bytes >> SECTOR_SHIFT,
        sector: per_bio.sector,
    };
    gate.trace_refusal(&extent, true);
    let status = status_of(rules.fail_with);
    let until_ns = gate.hold_until_ns(rules.lapse_hold_ms);
    if until_ns == 0 {
        return bio.done(status);
    }
    bio.per_bio().sector = table.id();
    let mut held = gate.held.lock();
    if table.flags().has(TableFlags::NOFLUSH) {
        // The suspend waits for it.
        drop(held);
        return bio.done(status);
    }
    let (kept, outcome) = bio.hold(status);
    held.late.push(kept);
    held.until_ns = held.until_ns.max(until_ns);
    // With the lock held: once it is released the bio may end, and the session with it.
    gate.portion.wake(Reasons::CHANGE);
    drop(held);
    outcome
}

/// Wakes whoever waits for the permit of a bio, or for every row's.
#[cold]
#[inline(never)]
pub(super) fn finish_leave<'ti>(table: &impl GatedTable<'ti>, charge: Place, left: Option<Left>) {
    let gate = table.gate();
    let left = left.unwrap_or_else(|| gate.gate.leave(charge));
    gate.note_refusal(false, left.wake);
}
