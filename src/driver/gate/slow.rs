// SPDX-License-Identifier: GPL-2.0

//! The rare outcomes of `map` and `end_io`.
//!
//! Locking: see [`super`].

use super::{
    aim,
    counters::Extent,
    table::status_of,
    GatedTable,
    LeaseTarget,
    PerBio,
    PortionGate,
    Rules,
    TableFlags,
    NO_PERMIT,
    WAITING, //
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
    /// Decides about a bio that arrived in the epoch `arrived`, on the long path.
    fn decide<'ti>(
        &self,
        mut bio: AimedBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
        arrived: u64,
        taken: Taken,
    ) -> MapOutcome<'ti> {
        let place = bio.per_bio().place;
        match self.gate.enter_long(place, arrived, taken, leaping_ns) {
            Admission::Granted(check) => pass_noted(bio, table, check),
            Admission::Full { wake } => {
                bio.per_bio().epoch = arrived | WAITING;
                self.notify(false, wake);
                self.full(bio, table.rules())
            }
            Admission::Outlived { wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.notify(false, wake);
                self.count_refusal(&Extent::of(&bio));
                bio.end(status_of(table.rules().fail_with))
            }
            Admission::Refused { lapsed, wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.notify(lapsed, wake);
                self.refuse(bio, table.rules())
            }
        }
    }

    /// Handles a bio for which there is no permit: it waits, or fails.
    fn full<'ti>(&self, mut bio: AimedBio<'ti, LeaseTarget>, rules: &Rules) -> MapOutcome<'ti> {
        if bio.is_nowait() {
            return bio.would_block();
        }
        if rules.on_full == OnFull::Fail {
            self.count_refusal(&Extent::of(&bio));
            return bio.end(status_of(rules.fail_with));
        }
        let place = bio.per_bio().place;
        // Read before the bio waits, because another thread may take it from then on.
        let is_recalled = bio.target().noflush_suspending();
        let hold = || Ok::<_, Infallible>(bio.hold());
        let Ok((room, outcome)) = waiting::wait(self, place, hold);
        if room {
            self.dispatch_waker.wake(Reasons::PERMIT);
        }
        if is_recalled {
            self.recall();
        }
        outcome
    }

    /// Refuses a bio: fails it, or holds it back for the hold time of a lapse.
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
        let (held_back, outcome) = bio.hold();
        held.refused.push(held_back);
        held.until_ns = held.until_ns.max(until_ns);
        drop(held);
        self.portion_waker.wake(Reasons::CHANGE);
        outcome
    }
}

/// Handles a bio without data, which changes nothing: a flush, or the marker that follows the bios
/// which dm core deferred during a suspend (see `deferred`).
#[cold]
#[inline(never)]
pub fn map_empty<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    if bio.is_marker(table.deferred().marker()) {
        table.deferred().end();
        table.flags().clear(TableFlags::DEFERRED);
        if table.deferred().is_any() {
            // Bios went back to dm core meanwhile.
            table.flags().set(TableFlags::DEFERRED);
        }
        return bio.end(BlkStatus::OK);
    }
    let sector = table.sector(&bio);
    bio.remap(table.device(), sector)
}

/// Handles a bio if the gate is latched, as on a secondary, or if a flag of the table is set.
#[cold]
#[inline(never)]
pub(super) fn map_slow<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let (gate, rules, sector) = (table.gate(), table.rules(), table.sector(&bio));
    if table.flags().has(TableFlags::OUTDATED) {
        // The device is a former disk of the member, so waiting would not help [R56].
        return bio.end(BlkStatus::IOERR);
    }
    if !gate.gate.is_latched() && !rules.read_only {
        return map_deferred(bio, table);
    }
    // A read-only table does not hold bios back, because it refuses them without a lapse.
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

/// Decides about a bio that may be a deferred one.
fn map_deferred<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let gate = table.gate();
    let epoch = gate.gate.epoch();
    let arrived = table.deferred().arrived(bio.target(), epoch);
    let bio = bio.locate();
    let place = match gate.gate.layout() {
        LaneLayout::Single => Place::ONE,
        LaneLayout::PerCpu => Place::cpu(CpuId::current().as_u32()),
        LaneLayout::Rows(_) => gate.place_of(&bio, table.rules().unit),
    };
    let bio = aim(bio, table, epoch, place);
    gate.decide(bio, table, arrived, Taken::No)
}

// `decide_with_permit` and `decide_without_permit` are two functions, because an extra argument
// would cost the fast path one instruction.

/// Decides about a bio whose permit must be checked on the long path.
#[cold]
#[inline(never)]
pub(super) fn decide_with_permit<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    place: Place,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, place);
    table.gate().decide(bio, table, epoch, Taken::Unsure)
}

/// Decides about a bio that has no permit.
#[cold]
#[inline(never)]
pub(super) fn decide_without_permit<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    place: Place,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, place);
    table.gate().decide(bio, table, epoch, Taken::No)
}

/// Decides about a bio that has a permit, if the short check of the lease was inconclusive.
#[cold]
#[inline(never)]
pub(super) fn decide_again<'ti>(
    mut bio: AimedBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> MapOutcome<'ti> {
    let arrived = bio.per_bio().epoch;
    table.gate().decide(bio, table, arrived, Taken::Sure)
}

/// Passes a bio that is traced or belongs to the sample.
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

/// Reports the error of a bio that failed at the device. An error needs no check of the lease.
#[cold]
#[inline(never)]
pub(super) fn pass_failed<'ti>(
    mut bio: EndBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> EndOutcome<'ti> {
    table.gate().return_permit(bio.per_bio());
    bio.pass_on()
}

/// Decides on the long path whether a success may be acknowledged. If it may not, the bio fails,
/// because its outcome is indeterminate [R18].
#[cold]
#[inline(never)]
pub(super) fn judge_end<'ti>(
    mut bio: EndBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
) -> EndOutcome<'ti> {
    let (gate, rules) = (table.gate(), table.rules());
    let verdict = gate.gate.acknowledge(bio.per_bio().epoch, leaping_ns);
    if let Err(Lapsed(lapsed)) = verdict {
        gate.notify(lapsed, false);
    }
    gate.return_permit(bio.per_bio());
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
        // The suspend waits for this bio.
        drop(held);
        return bio.done(status);
    }
    let (held_back, outcome) = bio.hold(status);
    held.late.push(held_back);
    held.until_ns = held.until_ns.max(until_ns);
    // The thread is woken under the lock, because after the unlock another thread may end the bio,
    // and then the session may be freed.
    gate.portion_waker.wake(Reasons::CHANGE);
    drop(held);
    outcome
}

/// Ends the return of a permit, and wakes the threads that wait for it. The short path either could
/// not return the permit (`left` is `None`), or found that a bio waits.
#[cold]
#[inline(never)]
pub(super) fn finish_leave<'ti>(table: &impl GatedTable<'ti>, place: Place, left: Option<Left>) {
    let gate = table.gate();
    let left = left.unwrap_or_else(|| gate.gate.leave(place));
    gate.notify(false, left.wake);
}
