// SPDX-License-Identifier: GPL-2.0

//! The path of a state-changing bio.
//!
//! ```text
//!   map: permit? lease? --Granted--> remap --> device --> end_io: acknowledge? --> leave
//!           |     |
//!           |     +--Refused--> fail, or keep until the export was switched (`lapse_hold_ms`)
//!           +--Full--> hold, in order --> dispatcher: permit? lease? --> submit, or fail
//! ```
//!
//! The decision itself is [`crate::proto::permits::Gate`]: one compare-and-swap and one comparison
//! [R13]. What is here is where the bio goes then. Per-bio data says whether a permit is held, and
//! where it was charged, before any exit of `map`, because `end_io` also sees bios that were ended
//! inside `map`.
//!
//! While the lease is valid nothing fails for having waited; when it is gone all that waited fail
//! together [R17]. Who waits where, and who goes next, is [`crate::proto::waiting`].
//!
//! Locking: the queues of held bios and completions have one interrupt-disabling spinlock. It is
//! taken on the path of a bio only when the bio has to wait, or is refused within the hold time of
//! a lapse. Nothing is ended or submitted under it.

use super::{
    bell::{Bell, Reasons},
    events,
    target::{LeaseTarget, Rules},
};
use crate::{
    dm::{
        clock::boottime_ns,
        BioList,
        BlkStatus,
        DmDevice,
        EndBio,
        EndOutcome,
        HeldBio,
        HeldEnd,
        MapBio,
        MapOutcome,
        Op,
        Word64, //
    },
    proto::{
        limit,
        permits::{self, Admission, Charge, Check, Count, Counting, Fields, Gate, Lapsed},
        record::Slot,
        superblock::Superblock,
        table::{FailWith, OnFull},
        waiting::{self, Line, Lobby, Waiting}, //
    },
};
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

/// What is remembered of a state-changing bio from `map` to `end_io`.
#[derive(Clone, Copy)]
pub struct PerBio {
    /// The epoch whose lease admitted it.
    epoch: u64,
    /// Where it goes on the member, and how much of it there is.
    extent: Extent,
    /// Where in the gate its permit is charged.
    charge: Charge,
    /// How long after a lapse it is kept; 0: not at all.
    hold_ms: u32,
    /// How it fails.
    fail_with: FailWith,
    /// Whether it holds a permit.
    permit: bool,
}

/// Some sectors of a member.
#[derive(Clone, Copy, Default)]
pub struct Extent {
    /// The member's device number.
    pub dev: u32,
    /// How many sectors.
    pub sectors: u32,
    /// The first sector.
    pub sector: u64,
}

impl Default for PerBio {
    fn default() -> Self {
        Self {
            epoch: 0,
            extent: Extent::default(),
            charge: Charge::ONE,
            hold_ms: 0,
            fail_with: FailWith::ResvConflict,
            permit: false,
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
}

/// The gate of a session.
#[pin_data]
pub struct PortionGate {
    gate: Gate<Word64, KVec<Word64>>,
    /// How long a stripe row is on a member; 0 where rows do not count.
    chunk_sectors: u32,
    refused: Atomic<u64>,
    late: Atomic<u64>,
    /// When the lease ended last; 0: never, or what was kept was dropped since. From the beginning
    /// of a lease on [`UNNOTED`].
    lapsed_ns: Atomic<u64>,
    portion_uuid: [u8; 16],
    controller: u32,
    portion: Arc<Bell>,
    dispatcher: Arc<Bell>,
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
        let (counting, chunk_sectors) = counting(superblock);
        let words = counting.words(kernel::cpu::nr_cpu_ids() as usize);
        let mut lanes = KVec::with_capacity(words, GFP_KERNEL)?;
        for _ in 0..words {
            lanes.push(Word64::new(0), GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            gate: Gate::new(lease_ns, limit, counting, lanes),
            chunk_sectors,
            refused: Atomic::new(0),
            late: Atomic::new(0),
            lapsed_ns: Atomic::new(0),
            portion_uuid,
            controller,
            portion,
            dispatcher,
            held <- new_spinlock_irq!(
                Held {
                    waiting: Waiting::new(),
                    refused: BioList::new(),
                    late: BioList::new(),
                    until_ns: 0,
                },
                "dm_lease held bios"
            ),
        }))
    }

    /// Decides about a state-changing bio, which goes to `sector` of `dev` if it may.
    #[inline]
    pub fn map<'ti>(
        &self,
        mut bio: MapBio<'ti, LeaseTarget>,
        dev: DmDevice<'ti>,
        sector: u64,
        rules: &Rules,
    ) -> MapOutcome<'ti> {
        // A polled write would keep its permit until its submitter cares to poll.
        bio.clear_polled();
        // Read before the permit is taken: what was held up in between counts for the older epoch.
        let epoch = self.gate.epoch();
        let charge = self.charge(&bio, rules.member);
        let admission = match rules.read_only {
            true => Admission::Refused {
                lapsed: false,
                wake: false,
            },
            false => self.gate.enter(charge, boottime_ns),
        };
        let extent = Extent {
            dev: dev.devt().as_raw(),
            sectors: bio.sectors(),
            sector,
        };
        if let Some(per_bio) = bio.per_bio() {
            *per_bio = PerBio {
                epoch,
                extent,
                charge,
                hold_ms: rules.lapse_hold_ms,
                fail_with: rules.fail_with,
                permit: matches!(admission, Admission::Granted(_)),
            };
        }
        match admission {
            Admission::Granted(check) => {
                self.trace_permit(bio.op(), &extent, epoch, check);
                bio.remap(dev, sector)
            }
            Admission::Full { wake } => {
                if wake {
                    self.woken_by_permit();
                }
                self.full(bio, dev, sector, rules, charge)
            }
            Admission::Refused { lapsed, wake } => {
                self.note_refusal(lapsed, wake);
                self.refuse(bio, dev, sector)
            }
        }
    }

    /// Where the permit of a bio is charged [R19].
    #[inline]
    fn charge(&self, bio: &MapBio<'_, LeaseTarget>, member: u8) -> Charge {
        match self.gate.counting() {
            Counting::Ops => Charge::ONE,
            Counting::Spread => Charge::cpu(CpuId::current().as_u32()),
            Counting::Rows(fields) => {
                let (sector, chunk) = (bio.sector(), u64::from(self.chunk_sectors));
                let row = sector.checked_div(chunk).unwrap_or(0);
                let begin = row.wrapping_mul(chunk);
                let end = sector.wrapping_add(bio.sectors().into());
                // Plain bios were split at the end of a row; a discard is as long as it likes.
                match end.wrapping_sub(begin) <= chunk {
                    true => Charge::row(fields, row, member),
                    false => Charge::rows(fields, member),
                }
            }
        }
    }

    /// Sees the end of a state-changing bio.
    #[inline]
    pub fn end_io<'ti>(&self, mut bio: EndBio<'ti, LeaseTarget>) -> EndOutcome<'ti> {
        let status = bio.status();
        let PerBio {
            epoch,
            charge,
            ref mut permit,
            ..
        } = *bio.per_bio();
        if !core::mem::take(permit) {
            return bio.done(status);
        }
        let verdict = match status.is_ok() {
            true => self.gate.acknowledge(epoch, boottime_ns),
            false => Ok(()),
        };
        if let Err(Lapsed(lapsed)) = verdict {
            self.note_refusal(lapsed, false);
        }
        // The verdict stands, so the permit may close; afterwards nothing of the session may be
        // touched that the end of this bio could take away.
        self.leave(charge);
        match verdict {
            Ok(()) => bio.done(status),
            Err(_) => self.too_late(bio),
        }
    }

    /// Begins the lease of an epoch.
    pub fn open_epoch(&self, epoch: u64, expiry_ns: u64) -> bool {
        let _ = self.lapsed_ns.xchg(UNNOTED, ordering::Full);
        self.gate.open_epoch(epoch, expiry_ns)
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

    /// A noflush suspend begins: bios of suspending devices go back to dm core, and pass the gate
    /// again after the resume.
    pub fn requeue_suspending(&self) {
        let (pending, refused, late) = {
            let mut held = self.held.lock();
            let held = &mut *held;
            (
                held.waiting.take_all(),
                held.refused.take_all(),
                held.late.take_all(),
            )
        };
        waiting::wait_again(self, requeue_suspending(pending));
        let refused = requeue_suspending(refused);
        self.held.lock().refused.append(refused);
        late.for_each(fail_late);
        self.dispatcher.ring(Reasons::CHANGE);
    }

    /// What the dispatcher does each time it is woken. May sleep in the submission of a bio.
    pub fn dispatch(&self) {
        waiting::dispatch(self);
    }

    /// Fails what has been kept for its time after a lapse; returns when to look again.
    pub fn end_kept(&self) -> Option<u64> {
        let until_ns = self.held.lock().until_ns;
        match until_ns {
            0 => None,
            at if at <= boottime_ns() => {
                self.fail_kept();
                None
            }
            at => Some(at),
        }
    }

    #[cold]
    fn full<'ti>(
        &self,
        mut bio: MapBio<'ti, LeaseTarget>,
        dev: DmDevice<'ti>,
        sector: u64,
        rules: &Rules,
        charge: Charge,
    ) -> MapOutcome<'ti> {
        if bio.is_nowait() {
            return bio.would_block();
        }
        if rules.on_full == OnFull::Fail {
            self.count_refusal(bio.op(), &extent_of(bio.per_bio()));
            return bio.end(status_of(rules.fail_with));
        }
        let waits = waiting::wait(self, charge, || {
            // With the queues locked: a suspend that begins now finds it there.
            match bio.target().noflush_suspending() {
                true => Err(bio),
                false => Ok(bio.hold(dev, sector)),
            }
        });
        match waits {
            Err(bio) => bio.requeue(),
            Ok((room, outcome)) => {
                if room {
                    self.dispatcher.ring(Reasons::PERMIT);
                }
                outcome
            }
        }
    }

    #[cold]
    fn refuse<'ti>(
        &self,
        mut bio: MapBio<'ti, LeaseTarget>,
        dev: DmDevice<'ti>,
        sector: u64,
    ) -> MapOutcome<'ti> {
        self.count_refusal(bio.op(), &extent_of(bio.per_bio()));
        let (fail_with, hold_ms) = bio.per_bio().map_or((FailWith::ResvConflict, 0), |per| {
            (per.fail_with, per.hold_ms)
        });
        let until_ns = self.hold_until_ns(hold_ms);
        if until_ns == 0 || bio.is_nowait() {
            return bio.end(status_of(fail_with));
        }
        let mut held = self.held.lock();
        if bio.target().noflush_suspending() {
            drop(held);
            return bio.requeue();
        }
        let (kept, outcome) = bio.hold(dev, sector);
        held.refused.push(kept);
        held.until_ns = held.until_ns.max(until_ns);
        drop(held);
        self.portion.ring(Reasons::CHANGE);
        outcome
    }

    /// Fails everything that waits for a permit, all together, unless there is a lease [R17]. Not
    /// left to the dispatcher, which may hang in the submission of a bio to a member that hangs.
    pub fn fail_pending(&self) {
        waiting::refuse_if_over(self);
    }

    /// Refuses a bio that waited.
    fn refuse_held(&self, mut bio: HeldBio<LeaseTarget>) {
        let per_bio = *bio.per_bio();
        self.count_refusal(bio.op(), &per_bio.extent);
        let until_ns = self.hold_until_ns(per_bio.hold_ms);
        if until_ns == 0 {
            return bio.end(status_of(per_bio.fail_with));
        }
        let mut held = self.held.lock();
        if bio.target().noflush_suspending() {
            drop(held);
            return bio.requeue();
        }
        held.refused.push(bio);
        held.until_ns = held.until_ns.max(until_ns);
        self.portion.ring(Reasons::CHANGE);
    }

    /// A success that must not be acknowledged: its outcome is indeterminate [R18].
    #[cold]
    fn too_late<'ti>(&self, mut bio: EndBio<'ti, LeaseTarget>) -> EndOutcome<'ti> {
        let per_bio = *bio.per_bio();
        self.late.add(1, ordering::Relaxed);
        self.trace_refusal(bio.op(), &per_bio.extent, true);
        let until_ns = self.hold_until_ns(per_bio.hold_ms);
        if until_ns == 0 {
            return bio.done(status_of(per_bio.fail_with));
        }
        let mut held = self.held.lock();
        let (kept, outcome) = bio.hold();
        held.late.push(kept);
        held.until_ns = held.until_ns.max(until_ns);
        // With the lock held: once it is released the bio may end, and the session with it.
        self.portion.ring(Reasons::CHANGE);
        drop(held);
        outcome
    }

    #[inline]
    fn leave(&self, charge: Charge) {
        if self.gate.leave(charge).wake {
            self.woken_by_permit();
        }
    }

    #[cold]
    fn woken_by_permit(&self) {
        self.dispatcher.ring(Reasons::PERMIT);
        self.portion.ring(Reasons::PERMIT);
    }

    /// Passes on what the gate has seen while it refused.
    #[cold]
    fn note_refusal(&self, lapsed: bool, wake: bool) {
        if lapsed {
            self.note_lapse();
            self.portion.ring(Reasons::LAPSE);
        }
        if wake {
            self.woken_by_permit();
        }
    }

    fn count_refusal(&self, op: Op, extent: &Extent) {
        self.refused.add(1, ordering::Relaxed);
        self.trace_refusal(op, extent, false);
    }

    fn trace_refusal(&self, op: Op, extent: &Extent, late: bool) {
        let Extent {
            dev,
            sectors,
            sector,
        } = *extent;
        let (portion, controller) = (&self.portion_uuid, self.controller);
        events::dm_lease_refuse(portion, controller, dev, op.as_raw(), sector, sectors, late);
    }

    #[inline]
    fn trace_permit(&self, op: Op, extent: &Extent, epoch: u64, check: Check) {
        events::dm_lease_permit(
            &self.portion_uuid,
            self.controller,
            extent.dev,
            op.as_raw(),
            extent.sector,
            extent.sectors,
            epoch,
            check.now_ns,
            check.expiry_ns,
        );
    }

    fn note_lapse(&self) {
        let _ = self.lapsed_ns.xchg(boottime_ns(), ordering::Full);
    }

    /// Until when something that fails now is kept; 0: not at all.
    fn hold_until_ns(&self, hold_ms: u32) -> u64 {
        let lapsed_ns = match self.lapsed_ns.load(ordering::Acquire) {
            UNNOTED => boottime_ns(),
            at => at,
        };
        if hold_ms == 0 || lapsed_ns == 0 {
            return 0;
        }
        let hold_ns = u64::from(hold_ms).saturating_mul(crate::proto::time::NS_PER_MS);
        let until_ns = lapsed_ns.saturating_add(hold_ns);
        if until_ns > boottime_ns() {
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
        for mut bio in refused {
            let fail_with = bio.per_bio().fail_with;
            bio.end(status_of(fail_with));
        }
        late.for_each(fail_late);
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
        boottime_ns()
    }

    fn charge(&self, bio: &mut Self::Op) -> Charge {
        bio.per_bio().charge
    }

    fn is_called_back(&self, bio: &Self::Op) -> bool {
        bio.target().noflush_suspending()
    }

    fn give_back(&self, bio: Self::Op) {
        bio.requeue();
    }

    fn go(&self, mut bio: Self::Op, epoch: u64, check: Check) {
        bio.per_bio().epoch = epoch;
        bio.per_bio().permit = true;
        let extent = bio.per_bio().extent;
        self.trace_permit(bio.op(), &extent, epoch, check);
        bio.submit();
    }

    fn refuse(&self, bio: Self::Op, lapsed: bool, wake: bool) {
        self.note_refusal(lapsed, wake);
        self.refuse_held(bio);
    }

    fn refuse_all(&self, bios: Bios) {
        bios.for_each(|bio| self.refuse_held(bio));
    }
}

/// How the permits of a portion are counted, and how long a row is.
fn counting(superblock: &Superblock) -> (Counting, u32) {
    let redundancy = &superblock.redundancy;
    match redundancy.counting {
        limit::Counting::Stripe { chunk_sectors } => {
            let fields = Fields::new(superblock.members);
            (Counting::Rows(fields), chunk_sectors)
        }
        limit::Counting::Ops => match redundancy.healthy_limit() {
            Some(_) => (Counting::Ops, 0),
            None => (Counting::Spread, 0),
        },
    }
}

/// Gives the bios of suspending devices back to dm core; returns the others, in their order.
fn requeue_suspending(bios: BioList<HeldBio<LeaseTarget>>) -> BioList<HeldBio<LeaseTarget>> {
    let mut others = BioList::new();
    for bio in bios {
        match bio.target().noflush_suspending() {
            true => bio.requeue(),
            false => others.push(bio),
        }
    }
    others
}

fn extent_of(per_bio: Option<&mut PerBio>) -> Extent {
    per_bio.map_or(Extent::default(), |per_bio| per_bio.extent)
}

fn fail_late(mut end: HeldEnd<LeaseTarget>) {
    let fail_with = end.per_bio().fail_with;
    end.finish(status_of(fail_with));
}

fn status_of(fail_with: FailWith) -> BlkStatus {
    match fail_with {
        FailWith::ResvConflict => BlkStatus::RESV_CONFLICT,
        FailWith::IoErr => BlkStatus::IOERR,
        FailWith::Medium => BlkStatus::MEDIUM,
    }
}
