// SPDX-License-Identifier: GPL-2.0

//! The gate: the path of a state-changing bio.
//!
//! ```text
//!   map: permit? lease? --Granted--> remap --> device --> end_io: acknowledge? --> return permit
//!           |     |
//!           |     +--Refused--> fail, or hold back for `lapse_hold_ms`
//!           +--Full--> wait, in order --> dispatcher: permit? lease? --> outbox, or fail
//!                                          member's thread: lease? --> submit, or fail
//! ```
//!
//! [`crate::proto::gate::permits::Gate`] nearly always makes the decision with one atomic change of
//! a word and one comparison with the clock [R13]. This module sends the bio where the decision
//! says. The per-bio data records whether the bio has a permit, and in which lane the permit is
//! counted. It is written before every exit of `map`, because `end_io` also sees bios that were
//! ended inside `map`.
//!
//! This file is the fast path. Nearly every bio gets a permit and keeps it. So [`PortionGate::map`]
//! aims the bio at its member and fills in the per-bio data before it checks the lease. Then the
//! place, the sector and the size need not be kept in registers while the clock is read. All other
//! outcomes are in functions marked `#[cold]`. If the bio is aimed already, it stays aimed, and
//! they correct its per-bio data. They find the gate through the table, so that the fast path does
//! not pass it to them.
//!
//! | file | what it holds |
//! |---|---|
//! | [`table`] | what the gate sees of a table |
//! | [`slow`] | the rare outcomes of `map` and `end_io` |
//! | [`held`] | bios that wait for a permit, and their dispatch |
//! | [`outbox`] | the way of such a bio to its member |
//! | [`lapse`] | bios that are held back after a lapse (`lapse_hold_ms`) |
//! | [`suspend`] | what happens during a noflush suspend |
//! | [`counters`] | counters and traces |
//!
//! While the lease is valid, a bio may wait for any time. When the lease ends, all waiting bios are
//! refused together: they fail, or are held back for `lapse_hold_ms` [R17].
//! [`crate::proto::gate::waiting`] holds the wait queues and their order.
//!
//! Locking: one interrupt-disabling spinlock protects all held bios and completions, except the
//! bios in an outbox, which has a lock of its own. `map` and `end_io` take the spinlock only for a
//! bio that has to wait, or that is refused or late within the hold time of a lapse. No bio is
//! ended or submitted under the spinlock.

mod counters;
mod held;
mod lapse;
mod outbox;
mod slow;
mod suspend;
mod table;

pub use slow::map_empty;
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
use lapse::LAPSE_TIME_UNKNOWN;
use outbox::Outbox;
use slow::{
    decide_again, decide_with_permit, decide_without_permit, finish_leave, judge_end, map_slow,
    pass_failed, pass_noted,
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

/// The epoch of a bio that has no permit and waits for none.
const NO_PERMIT: u64 = u64::MAX;

/// A bit of the epoch: the bio has no permit yet. The other bits are the epoch in which it arrived.
const WAITING: u64 = 1 << 63;

/// What is known of a state-changing bio from `map` to `end_io`.
#[derive(Clone, Copy)]
pub struct PerBio {
    /// The epoch for which the bio counts while it has a permit: that of the lease that admitted
    /// the bio, or an older one (see `admit`). Otherwise [`WAITING`] is set.
    epoch: u64,
    /// Where its permit is counted.
    place: Place,
    /// The first sector on the member, which the bio no longer shows when it has ended. While a
    /// completion is held back, this field holds the number of its table instead.
    sector: u64,
    /// The length of the bio.
    bytes: u32,
}

impl PerBio {
    const fn has_permit(&self) -> bool {
        self.epoch & WAITING == 0
    }
}

impl Default for PerBio {
    fn default() -> Self {
        Self {
            epoch: NO_PERMIT,
            place: Place::ONE,
            sector: 0,
            bytes: 0,
        }
    }
}

/// The gate of a session.
#[pin_data]
pub struct PortionGate {
    gate: Gate<Word64, KVec<Word64>>,
    /// The length of a stripe row on a member, if permits are counted for each row.
    chunk: Chunk,
    /// How much of the lease was left, for a sample of the bios that passed.
    checks: Checks<KVec<Word64>>,
    refused: Atomic<u64>,
    late: Atomic<u64>,
    /// The time at which the last lease ended. It is [`LAPSE_TIME_UNKNOWN`] from the beginning of a
    /// lease until the end of that lease is recorded. It is 0 before the first lease, and after the
    /// message `drop`, if the end was recorded.
    lapsed_ns: Atomic<u64>,
    portion_uuid: [u8; 16],
    controller: u32,
    portion_waker: Arc<Waker>,
    dispatch_waker: Arc<Waker>,
    /// The outbox of each member.
    outboxes: KVec<Arc<Outbox>>,
    #[pin]
    held: SpinLockIrq<Held>,
}

impl PortionGate {
    /// A gate without a lease.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory.
    pub fn new(
        superblock: &Superblock,
        controller: Slot,
        portion_waker: Arc<Waker>,
    ) -> Result<impl PinInit<Self>> {
        let dispatch_waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        let limit = superblock.redundancy.limit(0, 0, None).to_wire();
        let portion_uuid = superblock.uuid;
        let lease_ns = superblock.timing.lease_ns;
        let controller = u32::from(controller.controller());
        let (layout, chunk) = layout(superblock);
        let cpus = kernel::cpu::nr_cpu_ids() as usize;
        let lanes = zeros(layout.words(cpus))?;
        let checks = Checks::new(zeros(Checks::<KVec<Word64>>::words(cpus))?);
        let mut outboxes = KVec::with_capacity(usize::from(superblock.members), GFP_KERNEL)?;
        for _ in 0..superblock.members {
            outboxes.push(Outbox::new()?, GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            gate: Gate::new(lease_ns, limit, layout, lanes),
            chunk,
            checks,
            refused: Atomic::new(0),
            late: Atomic::new(0),
            lapsed_ns: Atomic::new(0),
            portion_uuid,
            controller,
            portion_waker,
            dispatch_waker,
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

    /// The amount that one operation on a member adds to the count of its lane.
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
            return map_slow(bio, table);
        }
        let bio = bio.locate();
        // Each arm compiles `admit` for one layout, so that the layout is tested only here.
        match self.gate.layout() {
            LaneLayout::Single => self.admit(bio, table, LaneLayout::Single, Place::ONE),
            LaneLayout::PerCpu => {
                let place = Place::cpu(CpuId::current().as_u32());
                self.admit(bio, table, LaneLayout::PerCpu, place)
            }
            LaneLayout::Rows(fields) => {
                let place = self.place_of(&bio, table.rules().unit);
                self.admit(bio, table, LaneLayout::Rows(fields), place)
            }
        }
    }

    #[inline(always)]
    fn admit<'ti>(
        &self,
        bio: LocatedBio<'ti, LeaseTarget>,
        table: &impl GatedTable<'ti>,
        layout: LaneLayout,
        place: Place,
    ) -> MapOutcome<'ti> {
        // The epoch is read first. If the task is delayed before it takes the permit, the bio
        // counts for the older epoch.
        let epoch = self.gate.epoch();
        let taken = self.gate.take_short(layout, place);
        match taken {
            Taken::Sure => {}
            Taken::Unsure => return decide_with_permit(bio.into(), table, epoch, place),
            Taken::No => return decide_without_permit(bio.into(), table, epoch, place),
        }
        let bio = aim(bio, table, epoch, place);
        match self.gate.check_short(epoch, leaping_ns) {
            None => decide_again(bio, table),
            Some(check) if events::dm_lease_permit_enabled() => pass_noted(bio, table, check),
            Some(check) if is_sampled(check.now_ns) => pass_noted(bio, table, check),
            Some(_) => bio.pass(),
        }
    }

    /// Where the permit of a bio is counted if permits are counted for each row [R19]. dm core has
    /// split writes at the end of a row, but no other state-changing operation, such as a discard.
    #[inline(always)]
    fn place_of(&self, bio: &Bio, unit: Unit) -> Place {
        match self.chunk.row(bio.device_sector(), bio.size_bytes()) {
            Some(row) => Place::row(unit, row),
            None => Place::rows(unit),
        }
    }

    /// Handles the completion of a state-changing bio: decides whether a success is acknowledged,
    /// and returns the permit.
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
        // The verdict is final, so the permit may be returned. The session may be freed when the
        // bio has ended, so nothing of it is used after `pass_on`.
        match self.gate.leave_short(per_bio.place) {
            Some(Left { wake: false }) => {}
            left => finish_leave(table, per_bio.place, left),
        }
        bio.pass_on()
    }

    /// Returns the permit of a bio, like [`PortionGate::end_io`].
    fn return_permit(&self, per_bio: &mut PerBio) {
        per_bio.epoch = NO_PERMIT;
        let wake = self.gate.leave(per_bio.place).wake;
        self.notify(false, wake);
    }

    /// Begins the lease of `epoch`. The controller has owned the portion since the epoch `since`
    /// without a foreign epoch in between. Returns `false` if the gate still had a lease: then the
    /// caller latches it.
    pub fn open_epoch(&self, epoch: u64, since: u64, expiry_ns: u64) -> bool {
        let _ = self.lapsed_ns.xchg(LAPSE_TIME_UNKNOWN, ordering::Full);
        self.gate.open_epoch(epoch, since, expiry_ns)
    }

    /// The epoch of the last lease.
    pub fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Moves the end of the lease. Returns `false` if the gate was latched meanwhile.
    pub fn extend(&self, from_ns: u64, to_ns: u64) -> bool {
        self.gate.extend(from_ns, to_ns)
    }

    /// Ends the lease. If the caller is the portion thread, it calls [`PortionGate::fail_pending`]
    /// later. Any other caller wakes the portion thread.
    pub fn latch(&self) {
        if self.gate.expiry_ns() != 0 {
            self.note_lapse();
        }
        self.gate.latch();
    }

    /// Sets the limit of open permits. 0 closes the gate.
    pub fn set_limit(&self, limit: u32) {
        self.gate.set_limit(limit);
        self.dispatch_waker.wake(Reasons::CHANGE);
    }

    /// Whether the gate is closed and empty.
    pub fn is_drained(&self) -> bool {
        self.gate.is_drained()
    }

    /// The end of the lease, or 0 if there is no lease.
    pub fn expiry_ns(&self) -> u64 {
        self.gate.expiry_ns()
    }

    /// The numbers of open permits.
    pub fn count(&self) -> Count {
        self.gate.count()
    }

    /// The outbox of each member, in their order.
    pub fn outboxes(&self) -> &[Arc<Outbox>] {
        &self.outboxes
    }

    fn wake_for_permit(&self) {
        self.dispatch_waker.wake(Reasons::PERMIT);
        self.portion_waker.wake(Reasons::PERMIT);
    }

    /// Tells the threads what the gate found: that the lease has ended (`lapsed`); or that a
    /// waiting bio may get a permit, or that a lane of the closed gate is empty (`wake`).
    fn notify(&self, lapsed: bool, wake: bool) {
        if lapsed {
            self.note_lapse();
            self.portion_waker.wake(Reasons::LAPSE);
        }
        if wake {
            self.wake_for_permit();
        }
    }
}

/// Aims a bio at its member and fills in its per-bio data, as if it had a permit.
#[inline(always)]
fn aim<'ti>(
    bio: LocatedBio<'ti, LeaseTarget>,
    table: &impl GatedTable<'ti>,
    epoch: u64,
    place: Place,
) -> AimedBio<'ti, LeaseTarget> {
    let sector = table.sector(&bio);
    let bytes = bio.size_bytes();
    let per_bio = PerBio {
        epoch,
        place,
        sector,
        bytes,
    };
    bio.aim(table.device(), sector, per_bio)
}

/// Allocates `words` words that are zero.
fn zeros(words: usize) -> Result<KVec<Word64>> {
    let mut zeros = KVec::with_capacity(words, GFP_KERNEL)?;
    for _ in 0..words {
        zeros.push(Word64::new(0), GFP_KERNEL)?;
    }
    Ok(zeros)
}

/// How the permits of a portion are counted, and the length of a stripe row.
fn layout(superblock: &Superblock) -> (LaneLayout, Chunk) {
    let redundancy = &superblock.redundancy;
    let (layout, chunk_sectors) = match redundancy.counting {
        limit::Counting::Stripe { chunk_sectors } => {
            let fields = Fields::new(superblock.members);
            (LaneLayout::Rows(fields), chunk_sectors)
        }
        limit::Counting::Ops => match redundancy.healthy_limit() {
            Some(_) => (LaneLayout::Single, 0),
            None => (LaneLayout::PerCpu, 0),
        },
    };
    (layout, Chunk::new(chunk_sectors))
}
