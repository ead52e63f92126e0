// SPDX-License-Identifier: GPL-2.0

//! Bios that wait at the gate for a permit, and their dispatch.
//!
//! Locking: see [`super`].

use super::{
    counters::Extent,
    table::status_of,
    GatedTable,
    LeaseTarget,
    PortionGate,
    TableFlags,
    WAITING, //
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

/// The bios and completions that the gate holds.
pub(super) struct Held {
    /// Bios that wait for a permit.
    pub(super) waiting: WaitQueues<Bios>,
    /// Refused bios, held back until the hold time is over.
    pub(super) refused: Bios,
    /// Late completions, held back until the hold time is over.
    pub(super) late: BioList<HeldEnd<LeaseTarget>>,
    /// When the hold time is over; 0 if nothing is held back.
    pub(super) until_ns: u64,
    /// When the waiting bios of noflush-suspending devices go back to dm core; 0 if no recall is
    /// due.
    pub(super) recall_ns: u64,
}

impl PortionGate {
    /// The body of the dispatcher thread: gives permits to bios that wait.
    pub fn dispatch_loop(&self, context: &Context) {
        while self.dispatch_waker.wait(context, None).is_some() {
            waiting::dispatch(self);
        }
    }

    /// Submits a bio that got its permit from the dispatcher. Checks the lease again, because the
    /// bio may have been in its outbox for a long time. May block for as long as the member does.
    pub fn submit(&self, mut bio: HeldBio<LeaseTarget>) {
        if bio.with_data(|table| table.flags().has(TableFlags::OUTDATED)) {
            // The device is a former disk of the member [R56].
            self.return_permit(bio.per_bio());
            return bio.end(BlkStatus::IOERR);
        }
        let verdict = self.gate.acknowledge(bio.per_bio().epoch, leaping_ns);
        match verdict {
            Ok(()) => bio.submit(),
            Err(Lapsed(lapsed)) => {
                self.notify(lapsed, false);
                self.refuse_admitted(bio);
            }
        }
    }

    /// Refuses a bio that has a permit and was not submitted.
    fn refuse_admitted(&self, mut bio: HeldBio<LeaseTarget>) {
        self.return_permit(bio.per_bio());
        self.refuse_held(bio);
    }

    /// Fails all bios that wait for a permit or in an outbox, unless there is a lease [R17]. The
    /// calling thread empties the outboxes as well, because the thread of an outbox may hang in its
    /// member.
    pub fn fail_pending(&self) {
        waiting::refuse_if_over(self);
        for outbox in &self.outboxes {
            if self.gate.expiry_ns() == 0 {
                outbox.take_all().for_each(|bio| self.refuse_admitted(bio));
            }
        }
    }

    /// Refuses a bio that has waited: fails it, or holds it back for the hold time of a lapse.
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
        self.portion_waker.wake(Reasons::CHANGE);
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
        bio.per_bio().place
    }

    fn arrived(&self, bio: &mut Self::Op) -> u64 {
        bio.per_bio().epoch & !WAITING
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
        // The gate may have been latched, and the outboxes emptied, before the bio was pushed.
        if self.gate.expiry_ns() == 0 {
            self.fail_pending();
        }
    }

    fn refuse(&self, bio: Self::Op, lapsed: bool, wake: bool) {
        self.notify(lapsed, wake);
        self.refuse_held(bio);
    }

    fn fail_outlived(&self, bio: Self::Op, wake: bool) {
        self.notify(false, wake);
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
