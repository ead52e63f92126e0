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

use super::{
    deferred::Unusual,
    events,
    outbox::Outbox,
    target::{Instance, LeaseTarget, Rules},
    waker::{Bell, Reasons},
};
use crate::{
    dm::{
        clock::{
            leaping_ns,
            leaps_ns,
            raw_ns, //
        },
        AimedBio,
        Bio,
        BioList,
        BlkStatus,
        EndBio,
        EndOutcome,
        HeldBio,
        HeldEnd,
        LocatedBio,
        MapBio,
        MapOutcome,
        Word64, //
    },
    proto::{
        codec::{
            record::Slot,
            superblock::Superblock, //
        },
        gate::{
            permits::{
                self, Admission, Charge, Check, Chunk, Count, Counting, Fields, Gate, Lapsed, Left,
                Taken, Unit,
            },
            waiting::{self, Line, Lobby, Waiting}, //
        },
        histogram::{is_sampled, Checks, Histogram},
        limit,
        words::table::{FailWith, OnFull}, //
    },
};
use core::convert::Infallible;
use kernel::{
    block::SECTOR_SHIFT,
    cpu::CpuId,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        SpinLockIrq, //
    },
};

impl permits::Word for Word64 {
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

type Bios = BioList<HeldBio<LeaseTarget>>;

impl Line for Bios {
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

/// There is a lease; or it has ended, and whoever latched it has not come to note that yet: another
/// processor may have seen it end in between.
const UNNOTED: u64 = u64::MAX;

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
    charge: Charge,
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
            charge: Charge::ONE,
            sector: 0,
            bytes: 0,
        }
    }
}

/// Some sectors of a member, and what shall be done with them: how a trace names a bio.
#[derive(Clone, Copy)]
struct Extent {
    op: u32,
    /// The member's device number.
    dev: u32,
    /// How many sectors.
    sectors: u32,
    /// The first sector.
    sector: u64,
}

impl Extent {
    /// Of a bio that points to its member.
    fn of(bio: &Bio) -> Self {
        Self {
            op: bio.op().as_raw(),
            dev: bio.devt().as_raw(),
            sectors: bio.sectors(),
            sector: bio.device_sector(),
        }
    }
}

/// What waits at the gate.
struct Held {
    /// For a permit.
    waiting: Waiting<Bios>,
    /// Refused, until the hold time is over.
    refused: Bios,
    /// Completed too late, until the hold time is over.
    late: BioList<HeldEnd<LeaseTarget>>,
    /// When the hold time is over; 0: nothing is kept.
    until_ns: u64,
    /// When bios that wait go back to dm core, those of devices that are being suspended without
    /// flushing; 0: there is no such device.
    recall_ns: u64,
}

/// How long dm core has to stop handing bios out, once a noflush suspend has begun. What goes back
/// before that comes again at once.
const RECALL_NS: u64 = crate::proto::time::NS_PER_MS;

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
    portion: Arc<Bell>,
    dispatcher: Arc<Bell>,
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
        limit: u32,
        portion: Arc<Bell>,
        dispatcher: Arc<Bell>,
    ) -> Result<impl PinInit<Self>> {
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
                    waiting: Waiting::new(),
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
        match self.gate.counting() {
            Counting::Rows(fields) => fields.unit(member),
            Counting::Ops | Counting::Spread => Unit::ONE,
        }
    }

    /// Decides about a state-changing bio.
    #[inline(always)]
    pub fn map<'ti>(
        &self,
        bio: MapBio<'ti, LeaseTarget>,
        table: &Instance<'ti>,
    ) -> MapOutcome<'ti> {
        if table.unusual.is_any() || self.gate.is_latched() {
            return map_unusual(bio, table);
        }
        let bio = bio.locate();
        // Three times the same, compiled for each way of counting: one decision, and none later.
        match self.gate.counting() {
            Counting::Ops => self.admit(bio, table, Counting::Ops, Charge::ONE),
            Counting::Spread => {
                let charge = Charge::cpu(CpuId::current().as_u32());
                self.admit(bio, table, Counting::Spread, charge)
            }
            Counting::Rows(fields) => {
                let charge = self.charge(&bio, table.rules.unit);
                self.admit(bio, table, Counting::Rows(fields), charge)
            }
        }
    }

    #[inline(always)]
    fn admit<'ti>(
        &self,
        bio: LocatedBio<'ti, LeaseTarget>,
        table: &Instance<'ti>,
        counting: Counting,
        charge: Charge,
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
    fn charge(&self, bio: &Bio, unit: Unit) -> Charge {
        match self.chunk.row(bio.device_sector(), bio.size_bytes()) {
            Some(row) => Charge::row(unit, row),
            None => Charge::rows(unit),
        }
    }

    /// Sees the end of a state-changing bio.
    #[inline(always)]
    pub fn end_io<'ti>(
        &self,
        mut bio: EndBio<'ti, LeaseTarget>,
        table: &Instance<'ti>,
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
        self.dispatcher.ring(Reasons::CHANGE);
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

    /// Fails everything that is kept after a lapse, and keeps nothing more of this one.
    pub fn drop_kept(&self) {
        let lapsed_ns = self.lapsed_ns.load(ordering::Acquire);
        if lapsed_ns != UNNOTED {
            // If it is another one by now, that is of a later lease.
            let _ = self.lapsed_ns.cmpxchg(lapsed_ns, 0, ordering::Full);
        }
        self.fail_kept();
    }

    /// A noflush suspend of the device of `table` begins. What waits there goes back to dm core and
    /// passes the gate again after the resume. What was refused ends: it must not come again, and
    /// the suspend waits for it.
    pub fn begin_noflush(&self, table: &Instance<'_>) {
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
    fn recall(&self) {
        let at_ns = raw_ns().saturating_add(RECALL_NS);
        let mut held = self.held.lock();
        if held.recall_ns == 0 {
            held.recall_ns = at_ns;
        }
        drop(held);
        self.portion.ring(Reasons::CHANGE);
    }

    /// Gives back what [`PortionGate::recall`] was called for, if it is time; else returns when.
    fn give_back(&self) -> Option<u64> {
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
        self.dispatcher.ring(Reasons::CHANGE);
        None
    }

    /// What the dispatcher does each time it is woken.
    pub fn dispatch(&self) {
        waiting::dispatch(self);
    }

    /// The outbox of each member, in their order.
    pub fn outboxes(&self) -> &[Arc<Outbox>] {
        &self.outboxes
    }

    /// Sends a bio that got its permit from the dispatcher to its member. The lease is looked at
    /// again: the bio may have been in its outbox for long. May block for as long as the member
    /// likes.
    pub fn submit(&self, mut bio: HeldBio<LeaseTarget>) {
        if bio.with_data(|table| table.unusual.has(Unusual::OUTDATED)) {
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

    /// Gives back what dm core wants back, and fails what has been kept for its time after a lapse;
    /// returns when to look again.
    pub fn tend(&self) -> Option<u64> {
        let recall_ns = self.give_back();
        let until_ns = self.held.lock().until_ns;
        let kept_ns = match until_ns {
            0 => None,
            at if at <= raw_ns() => {
                self.fail_kept();
                None
            }
            at => Some(at),
        };
        [recall_ns, kept_ns].into_iter().flatten().min()
    }

    /// Decides what takes more than a glance about a bio that arrived in the epoch `arrived`.
    fn decide<'ti>(
        &self,
        mut bio: AimedBio<'ti, LeaseTarget>,
        table: &Instance<'ti>,
        arrived: u64,
        taken: Taken,
    ) -> MapOutcome<'ti> {
        let charge = bio.per_bio().charge;
        match self.gate.enter_long(charge, arrived, taken, leaping_ns) {
            Admission::Granted(check) => pass_noted(bio, table, check),
            Admission::Full { wake } => {
                bio.per_bio().epoch = arrived | WAITS;
                self.note_refusal(false, wake);
                self.full(bio, &table.rules)
            }
            Admission::Outlived { wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.note_refusal(false, wake);
                self.count_refusal(&Extent::of(&bio));
                bio.end(status_of(table.rules.fail_with))
            }
            Admission::Refused { lapsed, wake } => {
                bio.per_bio().epoch = NO_PERMIT;
                self.note_refusal(lapsed, wake);
                self.refuse(bio, &table.rules)
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
            self.dispatcher.ring(Reasons::PERMIT);
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
        self.portion.ring(Reasons::CHANGE);
        outcome
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
    fn refuse_held(&self, bio: HeldBio<LeaseTarget>) {
        self.count_refusal(&Extent::of(&bio));
        let until_ns = self.hold_until_ns(bio.with_data(|table| table.rules.lapse_hold_ms));
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
        self.portion.ring(Reasons::CHANGE);
    }

    fn woken_by_permit(&self) {
        self.dispatcher.ring(Reasons::PERMIT);
        self.portion.ring(Reasons::PERMIT);
    }

    /// Passes on what the gate has seen while it refused.
    fn note_refusal(&self, lapsed: bool, wake: bool) {
        if lapsed {
            self.note_lapse();
            self.portion.ring(Reasons::LAPSE);
        }
        if wake {
            self.woken_by_permit();
        }
    }

    fn count_refusal(&self, extent: &Extent) {
        self.refused.add(1, ordering::Relaxed);
        self.trace_refusal(extent, false);
    }

    fn trace_refusal(&self, extent: &Extent, late: bool) {
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
    fn note_permit(&self, extent: &Extent, epoch: u64, check: Check) {
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

    fn note_lapse(&self) {
        let _ = self.lapsed_ns.xchg(raw_ns(), ordering::Full);
    }

    /// Until when something that fails now is kept; 0: not at all.
    fn hold_until_ns(&self, hold_ms: u32) -> u64 {
        let lapsed_ns = match self.lapsed_ns.load(ordering::Acquire) {
            UNNOTED => raw_ns(),
            at => at,
        };
        if hold_ms == 0 || lapsed_ns == 0 {
            return 0;
        }
        let hold_ns = u64::from(hold_ms).saturating_mul(crate::proto::time::NS_PER_MS);
        let until_ns = lapsed_ns.saturating_add(hold_ns);
        if until_ns > raw_ns() {
            until_ns
        } else {
            0
        }
    }

    fn fail_kept(&self) {
        let (refused, late) = {
            let mut held = self.held.lock();
            held.until_ns = 0;
            (held.refused.take_all(), held.late.take_all())
        };
        refused.for_each(fail_held);
        late.for_each(HeldEnd::finish);
    }
}

impl Lobby for PortionGate {
    type Line = Bios;
    type Op = HeldBio<LeaseTarget>;
    type Word = Word64;
    type Lanes = KVec<Word64>;

    fn gate(&self) -> &Gate<Word64, KVec<Word64>> {
        &self.gate
    }

    fn with<R>(&self, f: impl FnOnce(&mut Waiting<Bios>) -> R) -> R {
        f(&mut self.held.lock().waiting)
    }

    fn now_ns(&self) -> u64 {
        leaping_ns()
    }

    fn charge(&self, bio: &mut Self::Op) -> Charge {
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
        let member = bio.with_data(|table| usize::from(table.rules.member));
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

// What seldom happens to a bio in `map` and `end_io`. `decide_taken` and `decide_free` are two for
// what one with an argument more would cost whoever does not come here: an instruction.

/// Takes a bio that changes nothing, since it has no data: a flush, or the marker behind what was
/// deferred.
#[cold]
#[inline(never)]
pub fn map_nothing<'ti>(bio: MapBio<'ti, LeaseTarget>, table: &Instance<'ti>) -> MapOutcome<'ti> {
    if bio.is_marker(table.deferred.marker()) {
        table.deferred.end();
        table.unusual.clear(Unusual::DEFERRED);
        if table.deferred.is_any() {
            // Something went back to dm core meanwhile.
            table.unusual.set(Unusual::DEFERRED);
        }
        return bio.end(BlkStatus::OK);
    }
    let sector = table.sector(&bio);
    bio.remap(table.device, sector)
}

/// Takes a bio of a controller without a lease, a secondary mostly, or of an unusual table.
#[cold]
#[inline(never)]
fn map_unusual<'ti>(bio: MapBio<'ti, LeaseTarget>, table: &Instance<'ti>) -> MapOutcome<'ti> {
    let (gate, rules, sector) = (table.gate(), &table.rules, table.sector(&bio));
    if table.unusual.has(Unusual::OUTDATED) {
        // The device is not the member any more: there is nothing to wait for [R56].
        return bio.end(BlkStatus::IOERR);
    }
    if !gate.gate.is_latched() && !rules.read_only {
        return map_deferred(bio, table);
    }
    // What a read-only table refuses is not kept: no lapse is the reason.
    if rules.lapse_hold_ms != 0 && !rules.read_only {
        let bio = bio.locate();
        return gate.refuse(bio.aim(table.device, sector, PerBio::default()), rules);
    }
    gate.count_refusal(&Extent {
        op: bio.op().as_raw(),
        dev: table.device.devt().as_raw(),
        sectors: bio.sectors(),
        sector,
    });
    bio.end(status_of(rules.fail_with))
}

/// Decides about a bio that may be one of those that dm core deferred.
fn map_deferred<'ti>(bio: MapBio<'ti, LeaseTarget>, table: &Instance<'ti>) -> MapOutcome<'ti> {
    let gate = table.gate();
    let epoch = gate.gate.epoch();
    let arrived = table.deferred.arrived(bio.target(), epoch);
    let bio = bio.locate();
    let charge = match gate.gate.counting() {
        Counting::Ops => Charge::ONE,
        Counting::Spread => Charge::cpu(CpuId::current().as_u32()),
        Counting::Rows(_) => gate.charge(&bio, table.rules.unit),
    };
    let bio = aim(bio, table, epoch, charge);
    gate.decide(bio, table, arrived, Taken::No)
}

/// Decides about a bio that has a permit which must be looked at again.
#[cold]
#[inline(never)]
fn decide_taken<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &Instance<'ti>,
    epoch: u64,
    charge: Charge,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, charge);
    table.gate().decide(bio, table, epoch, Taken::Unsure)
}

/// Decides about a bio that has no permit yet.
#[cold]
#[inline(never)]
fn decide_free<'ti>(
    bio: MapBio<'ti, LeaseTarget>,
    table: &Instance<'ti>,
    epoch: u64,
    charge: Charge,
) -> MapOutcome<'ti> {
    let bio = aim(bio.locate(), table, epoch, charge);
    table.gate().decide(bio, table, epoch, Taken::No)
}

/// Decides what takes more than a glance at the lease.
#[cold]
#[inline(never)]
fn decide_again<'ti>(
    mut bio: AimedBio<'ti, LeaseTarget>,
    table: &Instance<'ti>,
) -> MapOutcome<'ti> {
    let arrived = bio.per_bio().epoch;
    table.gate().decide(bio, table, arrived, Taken::Sure)
}

/// Lets a bio go that somebody watches, or that is one of the sample.
#[cold]
#[inline(never)]
fn pass_noted<'ti>(
    mut bio: AimedBio<'ti, LeaseTarget>,
    table: &Instance<'ti>,
    check: Check,
) -> MapOutcome<'ti> {
    let epoch = bio.per_bio().epoch;
    table.gate().note_permit(&Extent::of(&bio), epoch, check);
    bio.pass()
}

/// What failed anyway need not be acknowledged.
#[cold]
#[inline(never)]
fn pass_failed<'ti>(mut bio: EndBio<'ti, LeaseTarget>, table: &Instance<'ti>) -> EndOutcome<'ti> {
    table.gate().leave(bio.per_bio());
    bio.pass_on()
}

/// Says what becomes of a success that takes more than a glance. One that must not be acknowledged
/// has an indeterminate outcome [R18].
#[cold]
#[inline(never)]
fn judge_end<'ti>(mut bio: EndBio<'ti, LeaseTarget>, table: &Instance<'ti>) -> EndOutcome<'ti> {
    let (gate, rules) = (table.gate(), &table.rules);
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
        dev: table.device.devt().as_raw(),
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
    if table.unusual.has(Unusual::NOFLUSH) {
        // The suspend waits for it.
        drop(held);
        return bio.done(status);
    }
    let (kept, outcome) = bio.hold(status);
    held.late.push(kept);
    held.until_ns = held.until_ns.max(until_ns);
    // With the lock held: once it is released the bio may end, and the session with it.
    gate.portion.ring(Reasons::CHANGE);
    drop(held);
    outcome
}

/// Wakes whoever waits for the permit of a bio, or for every row's.
#[cold]
#[inline(never)]
fn finish_leave(table: &Instance<'_>, charge: Charge, left: Option<Left>) {
    let gate = table.gate();
    let left = left.unwrap_or_else(|| gate.gate.leave(charge));
    gate.note_refusal(false, left.wake);
}

/// Directs a bio to its member, as if it had a permit.
#[inline(always)]
fn aim<'ti>(
    bio: LocatedBio<'ti, LeaseTarget>,
    table: &Instance<'ti>,
    epoch: u64,
    charge: Charge,
) -> AimedBio<'ti, LeaseTarget> {
    let sector = table.sector(&bio);
    let bytes = bio.size_bytes();
    let per_bio = PerBio {
        epoch,
        charge,
        sector,
        bytes,
    };
    bio.aim(table.device, sector, per_bio)
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
fn counting(superblock: &Superblock) -> (Counting, Chunk) {
    let redundancy = &superblock.redundancy;
    let (counting, chunk_sectors) = match redundancy.counting {
        limit::Counting::Stripe { chunk_sectors } => {
            let fields = Fields::new(superblock.members);
            (Counting::Rows(fields), chunk_sectors)
        }
        limit::Counting::Ops => match redundancy.healthy_limit() {
            Some(_) => (Counting::Ops, 0),
            None => (Counting::Spread, 0),
        },
    };
    (counting, Chunk::new(chunk_sectors))
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
            table.deferred.begin(arrived);
            table.unusual.set(Unusual::DEFERRED);
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

fn fail_held(bio: HeldBio<LeaseTarget>) {
    let fail_with = bio.with_data(|table| table.rules.fail_with);
    bio.end(status_of(fail_with));
}

fn status_of(fail_with: FailWith) -> BlkStatus {
    match fail_with {
        FailWith::ResvConflict => BlkStatus::RESV_CONFLICT,
        FailWith::IoErr => BlkStatus::IOERR,
        FailWith::Medium => BlkStatus::MEDIUM,
    }
}
