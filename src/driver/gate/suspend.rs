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
    WAITS, //
};
use crate::{
    dm::{clock::raw_ns, BioList, HeldBio, HeldEnd},
    driver::waker::Reasons,
    proto::gate::waiting,
};

/// How long dm core has to stop handing bios out, once a noflush suspend has begun. What goes back
/// before that comes again at once.
const RECALL_NS: u64 = crate::proto::time::NS_PER_MS;

impl PortionGate {
    /// A noflush suspend of the device of `table` begins. What waits there goes back to dm core and
    /// passes the gate again after the resume. What was refused ends: it must not come again, and
    /// the suspend waits for it.
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
            // The hold time ended while they were away.
            self.fail_kept();
        }
        self.recall();
    }

    /// What waits of devices that are being suspended without flushing goes back soon.
    pub(super) fn recall(&self) {
        let at_ns = raw_ns().saturating_add(RECALL_NS);
        let mut held = self.held.lock();
        if held.recall_ns == 0 {
            held.recall_ns = at_ns;
        }
        drop(held);
        self.portion.wake(Reasons::CHANGE);
    }

    /// Gives back what [`PortionGate::recall`] was called for, if it is time; else returns when.
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
        self.dispatcher.wake(Reasons::CHANGE);
        None
    }
}

/// Gives the bios of suspending devices back to dm core; returns the others, in their order.
fn requeue_suspending(bios: BioList<HeldBio<LeaseTarget>>) -> BioList<HeldBio<LeaseTarget>> {
    let mut others = BioList::new();
    for mut bio in bios {
        if !bio.target().noflush_suspending() {
            others.push(bio);
            continue;
        }
        // Before it can come again: it is held back from now on, whatever marks the end of what
        // was held back before.
        let arrived = bio.per_bio().epoch & !WAITS;
        bio.with_data(|table| {
            table.deferred().begin(arrived);
            table.flags().set(TableFlags::DEFERRED);
        });
        bio.requeue();
    }
    others
}

/// Fails the bios of suspending devices; returns the others, in their order.
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

/// Finishes the completions of one table; returns the others, in their order.
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
