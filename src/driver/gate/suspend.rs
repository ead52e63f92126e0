// SPDX-License-Identifier: GPL-2.0

//! What happens at the gate during a noflush suspend.
//!
//! Locking: see [`super`].

use super::{
    held::{fail_held, Bios},
    GatedTable,
    LeaseTarget,
    PortionGate,
    TableFlags,
    WAITING, //
};
use crate::{
    dm::{clock::raw_ns, BioList, HeldBio, HeldEnd},
    driver::waker::Reasons,
    proto::gate::waiting,
};

/// The time that dm core gets to stop sending bios after a noflush suspend has begun. A bio that
/// goes back earlier would be sent again at once.
const RECALL_NS: u64 = crate::proto::time::NS_PER_MS;

impl PortionGate {
    /// Begins a noflush suspend of the device of `table`. Its waiting bios go back to dm core and
    /// pass the gate again after the resume. Its refused bios end, because they must not come again
    /// and the suspend waits for them.
    pub fn begin_noflush<'ti>(&self, table: &impl GatedTable<'ti>) {
        let (refused, late) = {
            let mut held = self.held.lock();
            (held.refused.take_all(), held.late.take_all())
        };
        let others = end_suspending(refused);
        let others_late = finish_those_of(late, table.id());
        let mut held = self.held.lock();
        held.refused.append(others);
        held.late.append(others_late);
        let is_over = held.until_ns == 0;
        drop(held);
        if is_over {
            // The hold time ended while the lists were empty.
            self.fail_held_back();
        }
        self.recall();
    }

    /// Arranges that the waiting bios of noflush-suspending devices go back to dm core soon.
    pub(super) fn recall(&self) {
        let at_ns = raw_ns().saturating_add(RECALL_NS);
        let mut held = self.held.lock();
        if held.recall_ns == 0 {
            held.recall_ns = at_ns;
        }
        drop(held);
        self.portion_waker.wake(Reasons::CHANGE);
    }

    /// Gives the bios that [`PortionGate::recall`] announced back to dm core. If it is too early
    /// for that, returns when it is time.
    pub(super) fn give_back(&self) -> Option<u64> {
        let pending = {
            let mut held = self.held.lock();
            match held.recall_ns {
                0 => return None,
                at if at > raw_ns() => return Some(at),
                _ => held.recall_ns = 0,
            }
            held.waiting.take_all()
        };
        waiting::wait_again(self, requeue_suspending(pending));
        self.dispatch_waker.wake(Reasons::CHANGE);
        None
    }
}

/// Gives the bios of suspending devices back to dm core. Returns the other bios in their order.
fn requeue_suspending(bios: BioList<HeldBio<LeaseTarget>>) -> BioList<HeldBio<LeaseTarget>> {
    let mut others = BioList::new();
    for mut bio in bios {
        if !bio.target().noflush_suspending() {
            others.push(bio);
            continue;
        }
        // This comes before the requeue, because dm core may send the bio again at once. `begin`
        // notes that bios came back after any marker that was sent before, so such a marker does
        // not end the deferral.
        let arrived = bio.per_bio().epoch & !WAITING;
        bio.with_data(|table| {
            table.deferred().begin(arrived);
            table.flags().set(TableFlags::DEFERRED);
        });
        bio.requeue();
    }
    others
}

/// Fails the bios of suspending devices. Returns the other bios in their order.
fn end_suspending(bios: Bios) -> Bios {
    let mut others = BioList::new();
    for bio in bios {
        match bio.target().noflush_suspending() {
            true => fail_held(bio),
            false => others.push(bio),
        }
    }
    others
}

/// Finishes the completions of one table. Returns the other completions in their order.
fn finish_those_of(
    ends: BioList<HeldEnd<LeaseTarget>>,
    table: u64,
) -> BioList<HeldEnd<LeaseTarget>> {
    let mut others = BioList::new();
    for mut end in ends {
        match end.per_bio().sector == table {
            true => end.finish(),
            false => others.push(end),
        }
    }
    others
}
