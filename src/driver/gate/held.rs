// SPDX-License-Identifier: GPL-2.0

//! What waits at the gate.
//!
//! Locking: see [`super`].

use super::{
    counters::Extent,
    lapse::status_of,
    GatedTable,
    LeaseTarget,
    PortionGate,
    TableFlags,
    WAITS, //
};
use crate::{
    dm::{
        clock::leaping_ns,
        BioList,
        BlkStatus,
        Context,
        HeldBio,
        HeldEnd,
        Word64, //
    },
    driver::waker::Reasons,
    proto::gate::{
        lanes::Place,
        permits::{Check, Gate, Lapsed},
        waiting::{self, Dispatcher, OpList, WaitQueues},
    },
};
use kernel::prelude::*;

pub(super) type Bios = BioList<HeldBio<LeaseTarget>>;

impl OpList for Bios {
    type Op = HeldBio<LeaseTarget>;

    fn empty() -> Self {
        BioList::new()
    }

    fn push(&mut self, bio: Self::Op) {
        BioList::push(self, bio);
    }

    fn pop(&mut self) -> Option<Self::Op> {
        BioList::pop(self)
    }

    fn append(&mut self, others: Self) {
        BioList::append(self, others);
    }

    fn len(&self) -> usize {
        BioList::len(self)
    }

    fn is_empty(&self) -> bool {
        BioList::is_empty(self)
    }
}

/// What waits at the gate.
pub(super) struct Held {
    /// For a permit.
    pub(super) waiting: WaitQueues<Bios>,
    /// Refused, until the hold time is over.
    pub(super) refused: Bios,
    /// Completed too late, until the hold time is over.
    pub(super) late: BioList<HeldEnd<LeaseTarget>>,
    /// When the hold time is over; 0: nothing is kept.
    pub(super) until_ns: u64,
    /// When bios that wait go back to dm core, those of devices that are being suspended without
    /// flushing; 0: there is no such device.
    pub(super) recall_ns: u64,
}

impl PortionGate {
    /// The body of the dispatcher thread: gives permits to bios that wait.
    pub fn dispatch_loop(&self, context: &Context) {
        while self.dispatcher.wait(context, None).is_some() {
            waiting::dispatch(self);
        }
    }

    /// Sends a bio that got its permit from the dispatcher to its member. The lease is looked at
    /// again: the bio may have been in its outbox for long. May block for as long as the member
    /// likes.
    pub fn submit(&self, mut bio: HeldBio<LeaseTarget>) {
        if bio.with_data(|table| table.flags().has(TableFlags::OUTDATED)) {
            // The device is not the member any more [R56].
            self.leave(bio.per_bio());
            return bio.end(BlkStatus::IOERR);
        }
        let verdict = self.gate.acknowledge(bio.per_bio().epoch, leaping_ns);
        match verdict {
            Ok(()) => bio.submit(),
            Err(Lapsed(lapsed)) => {
                self.note_refusal(lapsed, false);
                self.refuse_admitted(bio);
            }
        }
    }

    /// Refuses a bio that has a permit and was not sent.
    fn refuse_admitted(&self, mut bio: HeldBio<LeaseTarget>) {
        self.leave(bio.per_bio());
        self.refuse_held(bio);
    }

    /// Fails everything that waits, for a permit or to be sent, all together, unless there is a
    /// lease [R17]. Not left to the members' threads, which may hang in a member that hangs.
    pub fn fail_pending(&self) {
        waiting::refuse_if_over(self);
        for outbox in &self.outboxes {
            if self.gate.expiry_ns() == 0 {
                outbox.take_all().for_each(|bio| self.refuse_admitted(bio));
            }
        }
    }

    /// Refuses a bio that waited.
    pub(super) fn refuse_held(&self, bio: HeldBio<LeaseTarget>) {
        self.count_refusal(&Extent::of(&bio));
        let until_ns = self.hold_until_ns(bio.with_data(|table| table.rules().lapse_hold_ms));
        if until_ns == 0 {
            return fail_held(bio);
        }
        let mut held = self.held.lock();
        if bio.target().noflush_suspending() {
            drop(held);
            return fail_held(bio);
        }
        held.refused.push(bio);
        held.until_ns = held.until_ns.max(until_ns);
        self.portion.wake(Reasons::CHANGE);
    }
}

impl Dispatcher for PortionGate {
    type List = Bios;
    type Op = HeldBio<LeaseTarget>;
    type Word = Word64;
    type Lanes = KVec<Word64>;

    fn gate(&self) -> &Gate<Word64, KVec<Word64>> {
        &self.gate
    }

    fn with<R>(&self, f: impl FnOnce(&mut WaitQueues<Bios>) -> R) -> R {
        f(&mut self.held.lock().waiting)
    }

    fn now_ns(&self) -> u64 {
        leaping_ns()
    }

    fn place(&self, bio: &mut Self::Op) -> Place {
        bio.per_bio().charge
    }

    fn arrived(&self, bio: &mut Self::Op) -> u64 {
        bio.per_bio().epoch & !WAITS
    }

    fn is_called_back(&self, bio: &Self::Op) -> bool {
        bio.target().noflush_suspending()
    }

    fn call_back(&self) {
        self.recall();
    }

    fn go(&self, mut bio: Self::Op, epoch: u64, check: Check) {
        bio.per_bio().epoch = epoch;
        self.note_permit(&Extent::of(&bio), epoch, check);
        let member = bio.with_data(|table| usize::from(table.rules().member));
        match self.outboxes.get(member) {
            Some(outbox) => outbox.push(bio),
            None => self.refuse_admitted(bio),
        }
        // It may have been latched, and what was in the outbox failed, before the bio was there.
        if self.gate.expiry_ns() == 0 {
            self.fail_pending();
        }
    }

    fn refuse(&self, bio: Self::Op, lapsed: bool, wake: bool) {
        self.note_refusal(lapsed, wake);
        self.refuse_held(bio);
    }

    fn fail_outlived(&self, bio: Self::Op, wake: bool) {
        self.note_refusal(false, wake);
        self.count_refusal(&Extent::of(&bio));
        fail_held(bio);
    }

    fn refuse_all(&self, bios: Bios) {
        bios.for_each(|bio| self.refuse_held(bio));
    }
}

pub(super) fn fail_held(bio: HeldBio<LeaseTarget>) {
    let fail_with = bio.with_data(|table| table.rules().fail_with);
    bio.end(status_of(fail_with));
}
