// SPDX-License-Identifier: GPL-2.0

//! The path of a state-changing bio.
//!
//! ```text
//!   map: permit? lease? --Granted--> remap --> device --> end_io: acknowledge? --> leave
//!           |     |
//!           |     +--Refused--> fail, or keep until the export was switched (`lapse_hold_ms`)
//!           +--Full--> hold, in order --> dispatcher: permit? lease? --> outbox, or fail
//!                                           member's thread: lease? --> submit, or fail
//! ```
//!
//! The decision itself is [`crate::proto::gate::permits::Gate`]: one compare-and-swap and one
//! comparison [R13]. What is here is where the bio goes then. Per-bio data says whether a permit is
//! held, and where it was charged, before any exit of `map`, because `end_io` also sees bios that
//! were ended inside `map`.
//!
//! Nearly every bio gets its permit and keeps it, so that is what [`PortionGate::map`] and
//! [`PortionGate::end_io`] are written for: the bio is aimed and its data written before the
//! decision, as if it were granted already, so that nothing has to be remembered over the reading
//! of the clock. Whatever else may happen is in functions marked `#[cold]`, which undo that first
//! and cost the others nothing: data that only they need is not with the bio, and the gate itself
//! they find through the table.
//!
//! While the lease is valid nothing fails for having waited; when it is gone all that waited fail
//! together [R17]. Who waits where, and who goes next, is [`crate::proto::gate::waiting`].
//!
//! Locking: the queues of held bios and completions have one interrupt-disabling spinlock. It is
//! taken on the path of a bio only when the bio has to wait, or is refused within the hold time of
//! a lapse. Nothing is ended or submitted under it.

mod counters;
mod held;
mod lapse;
pub mod outbox;
mod slow;
mod suspend;
mod table;

pub use slow::map_nothing;
pub use table::{GatedTable, LeaseTarget, Rules, TableFlags};

use super::{
    events,
    waker::{Reasons, Waker},
};
use crate::{
    dm::{
        clock::leaping_ns, AimedBio, Bio, BioList, EndBio, EndOutcome, LocatedBio, MapBio,
        MapOutcome, Word64,
    },
    proto::{
        codec::{ids::Slot, superblock::Superblock},
        gate::{
            lanes::{Chunk, Fields, LaneLayout, Place, Unit},
            permits::{Count, Gate, Left, Taken},
            waiting::WaitQueues,
            word::AtomicWord,
        },
        histogram::{is_sampled, Checks},
        limit,
    },
};
use held::Held;
use kernel::{
    cpu::CpuId,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        SpinLockIrq, //
    },
};
use lapse::UNNOTED;
use outbox::Outbox;
use slow::{
    decide_again, decide_free, decide_taken, finish_leave, judge_end, map_unusual, pass_failed,
    pass_noted,
};

impl AtomicWord for Word64 {
    fn new(value: u64) -> Self {
        Word64::new(value)
    }

    #[inline(always)]
    fn load(&self) -> u64 {
        Word64::load(self)
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        let _ = self.swap(value);
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        Word64::compare_exchange(self, old, new)
    }

    #[inline(always)]
    fn fetch_add(&self, value: u64) -> u64 {
        Word64::fetch_add(self, value)
    }
}

/// There is no permit, nor anything to remember.
const NO_PERMIT: u64 = u64::MAX;

/// There is no permit, if this bit is set; the others are the epoch in which the bio arrived.
const WAITS: u64 = 1 << 63;

/// What is remembered of a state-changing bio from `map` to `end_io`.
#[derive(Clone, Copy)]
pub struct PerBio {
    /// The epoch whose lease admitted it, while it holds a permit; else with [`WAITS`].
    epoch: u64,
    /// Where in the gate its permit is charged.
    charge: Place,
    /// Where it goes on the member, which can no longer be seen when it comes back. Of a completion
    /// that is kept: the number of its table.
    sector: u64,
    /// How much of it there is.
    bytes: u32,
}

impl PerBio {
    const fn has_permit(&self) -> bool {
        self.epoch & WAITS == 0
    }
}

impl Default for PerBio {
    fn default() -> Self {
        Self {
            epoch: NO_PERMIT,
            charge: Place::ONE,
            sector: 0,
            bytes: 0,
        }
    }
}

/// The gate of a session.
#[pin_data]
pub struct PortionGate {
    gate: Gate<Word64, KVec<Word64>>,
    /// How long a stripe row is on a member, where rows count.
    chunk: Chunk,
    /// How much of the lease was left for some of those that passed.
    checks: Checks<KVec<Word64>>,
    refused: Atomic<u64>,
    late: Atomic<u64>,
    /// When the lease ended last; 0: never, or what was kept was dropped since. From the beginning
    /// of a lease on [`UNNOTED`].
    lapsed_ns: Atomic<u64>,
    portion_uuid: [u8; 16],
    controller: u32,
    portion: Arc<Waker>,
    dispatcher: Arc<Waker>,
    /// Of each member.
    outboxes: KVec<Arc<Outbox>>,
    #[pin]
    held: SpinLockIrq<Held>,
}

impl PortionGate {
    /// A gate without a lease.
    ///
    /// # Errors
    ///
    /// There is no memory for its lanes.
    pub fn new(
        superblock: &Superblock,
        controller: Slot,
        portion: Arc<Waker>,
    ) -> Result<impl PinInit<Self>> {
        let dispatcher = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        let limit = superblock.redundancy.limit(0, 0, None).to_wire();
        let portion_uuid = superblock.uuid;
        let lease_ns = superblock.timing.lease_ns;
        let controller = u32::from(controller.controller());
        let (counting, chunk) = counting(superblock);
        let cpus = kernel::cpu::nr_cpu_ids() as usize;
        let lanes = zeros(counting.words(cpus))?;
        let checks = Checks::new(zeros(Checks::<KVec<Word64>>::words(cpus))?);
        let mut outboxes = KVec::with_capacity(usize::from(superblock.members), GFP_KERNEL)?;
        for _ in 0..superblock.members {
            outboxes.push(Outbox::new()?, GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            gate: Gate::new(lease_ns, limit, counting, lanes),
            chunk,
            checks,
            refused: Atomic::new(0),
            late: Atomic::new(0),
            lapsed_ns: Atomic::new(0),
            portion_uuid,
            controller,
            portion,
            dispatcher,
            outboxes,
            held <- new_spinlock_irq!(
                Held {
                    waiting: WaitQueues::new(),
                    refused: BioList::new(),
                    late: BioList::new(),
                    until_ns: 0,
                    recall_ns: 0,
                },
                "dm_lease held bios"
            ),
        }))
    }

    /// What an operation on a member counts in a row.
    pub fn unit(&self, member: u8) -> Unit {
        match self.gate.layout() {
            LaneLayout::Rows(fields) => fields.unit(member),
            LaneLayout::Single | LaneLayout::PerCpu => Unit::ONE,
        }
    }

    /// Decides about a state-changing bio.
    #[inline(always)]
    pub fn map<'ti>(
        &self,
        bio: MapBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
    ) -> MapOutcome<'ti> {
        if table.flags().is_any() || self.gate.is_latched() {
            return map_unusual(bio, table);
        }
        let bio = bio.locate();
        // Three times the same, compiled for each way of counting: one decision, and none later.
        match self.gate.layout() {
            LaneLayout::Single => self.admit(bio, table, LaneLayout::Single, Place::ONE),
            LaneLayout::PerCpu => {
                let charge = Place::cpu(CpuId::current().as_u32());
                self.admit(bio, table, LaneLayout::PerCpu, charge)
            }
            LaneLayout::Rows(fields) => {
                let charge = self.charge(&bio, table.rules().unit);
                self.admit(bio, table, LaneLayout::Rows(fields), charge)
            }
        }
    }

    #[inline(always)]
    fn admit<'ti>(
        &self,
        bio: LocatedBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
        counting: LaneLayout,
        charge: Place,
    ) -> MapOutcome<'ti> {
        // Read before the permit is taken: what was held up in between counts for the older epoch.
        let epoch = self.gate.epoch();
        let taken = self.gate.take_short(counting, charge);
        match taken {
            Taken::Sure => {}
            Taken::Unsure => return decide_taken(bio.into(), table, epoch, charge),
            Taken::No => return decide_free(bio.into(), table, epoch, charge),
        }
        let bio = aim(bio, table, epoch, charge);
        match self.gate.check_short(epoch, leaping_ns) {
            None => decide_again(bio, table),
            Some(check) if events::dm_lease_permit_enabled() => pass_noted(bio, table, check),
            Some(check) if is_sampled(check.now_ns) => pass_noted(bio, table, check),
            Some(_) => bio.pass(),
        }
    }

    /// Where the permit of a bio is charged that counts in a row [R19]. Plain bios were split at
    /// the end of a row; a discard is as long as it likes.
    #[inline(always)]
    fn charge(&self, bio: &Bio, unit: Unit) -> Place {
        match self.chunk.row(bio.device_sector(), bio.size_bytes()) {
            Some(row) => Place::row(unit, row),
            None => Place::rows(unit),
        }
    }

    /// Sees the end of a state-changing bio.
    #[inline(always)]
    pub fn end_io<'ti>(
        &self,
        mut bio: EndBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
    ) -> EndOutcome<'ti> {
        if !bio.per_bio().has_permit() {
            return bio.pass_on();
        }
        if !bio.status().is_ok() {
            return pass_failed(bio, table);
        }
        let is_valid = self
            .gate
            .acknowledge_short(&bio.per_bio().epoch, leaping_ns);
        if !is_valid {
            return judge_end(bio, table);
        }
        let per_bio = bio.per_bio();
        per_bio.epoch = NO_PERMIT;
        // The verdict stands, so the permit may close; afterwards nothing of the session may be
        // touched that the end of this bio could take away.
        match self.gate.leave_short(per_bio.charge) {
            Some(Left { wake: false }) => {}
            left => finish_leave(table, per_bio.charge, left),
        }
        bio.pass_on()
    }

    /// Gives the permit of a bio back, as [`PortionGate::end_io`].
    fn leave(&self, per_bio: &mut PerBio) {
        per_bio.epoch = NO_PERMIT;
        let wake = self.gate.leave(per_bio.charge).wake;
        self.note_refusal(false, wake);
    }

    /// Begins the lease of an epoch, in the reign that began with the epoch `since`.
    pub fn open_epoch(&self, epoch: u64, since: u64, expiry_ns: u64) -> bool {
        let _ = self.lapsed_ns.xchg(UNNOTED, ordering::Full);
        self.gate.open_epoch(epoch, since, expiry_ns)
    }

    /// The epoch of the lease that was given last.
    pub fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Moves the end of the lease; `false` when it was latched meanwhile.
    pub fn extend(&self, from_ns: u64, to_ns: u64) -> bool {
        self.gate.extend(from_ns, to_ns)
    }

    /// Ends the lease. What waits is failed next, by [`PortionGate::fail_pending`].
    pub fn latch(&self) {
        if self.gate.expiry_ns() != 0 {
            self.note_lapse();
        }
        self.gate.latch();
    }

    /// Sets the limit; 0 closes the gate.
    pub fn set_limit(&self, limit: u32) {
        self.gate.set_limit(limit);
        self.dispatcher.wake(Reasons::CHANGE);
    }

    /// Whether the gate is closed and empty.
    pub fn is_drained(&self) -> bool {
        self.gate.is_drained()
    }

    /// The end of the lease; 0 when there is none.
    pub fn expiry_ns(&self) -> u64 {
        self.gate.expiry_ns()
    }

    /// The permits.
    pub fn count(&self) -> Count {
        self.gate.count()
    }

    /// The outbox of each member, in their order.
    pub fn outboxes(&self) -> &[Arc<Outbox>] {
        &self.outboxes
    }

    fn woken_by_permit(&self) {
        self.dispatcher.wake(Reasons::PERMIT);
        self.portion.wake(Reasons::PERMIT);
    }

    /// Passes on what the gate has seen while it refused.
    fn note_refusal(&self, lapsed: bool, wake: bool) {
        if lapsed {
            self.note_lapse();
            self.portion.wake(Reasons::LAPSE);
        }
        if wake {
            self.woken_by_permit();
        }
    }
}

/// Directs a bio to its member, as if it had a permit.
#[inline(always)]
fn aim<'ti>(
    bio: LocatedBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    charge: Place,
) -> AimedBio<'ti, LeaseTarget> {
    let sector = table.sector(&bio);
    let bytes = bio.size_bytes();
    let per_bio = PerBio {
        epoch,
        charge,
        sector,
        bytes,
    };
    bio.aim(table.device(), sector, per_bio)
}

/// So many words, all zero.
fn zeros(words: usize) -> Result<KVec<Word64>> {
    let mut zeros = KVec::with_capacity(words, GFP_KERNEL)?;
    for _ in 0..words {
        zeros.push(Word64::new(0), GFP_KERNEL)?;
    }
    Ok(zeros)
}

/// How the permits of a portion are counted, and how long a row is.
fn counting(superblock: &Superblock) -> (LaneLayout, Chunk) {
    let redundancy = &superblock.redundancy;
    let (counting, chunk_sectors) = match redundancy.counting {
        limit::Counting::Stripe { chunk_sectors } => {
            let fields = Fields::new(superblock.members);
            (LaneLayout::Rows(fields), chunk_sectors)
        }
        limit::Counting::Ops => match redundancy.healthy_limit() {
            Some(_) => (LaneLayout::Single, 0),
            None => (LaneLayout::PerCpu, 0),
        },
    };
    (counting, Chunk::new(chunk_sectors))
}
