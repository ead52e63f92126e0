// SPDX-License-Identifier: GPL-2.0

//! The mailboxes of one member: preallocated I/O, and the thread that submits it.
//!
//! Three transfers exist for each member, allocated once: the own ballot register, the own
//! heartbeat register, and the read of all slots. Each is in one place at a time:
//!
//! ```text
//!   Idle --(portion thread fills it)--> Ready --(member thread)--> Away --(irq)--> Done --> Idle
//! ```
//!
//! Submitting may block for as long as the device likes, so it happens in a thread of the member's
//! own: one hung disk cannot delay another member's heartbeat, nor another portion's [R44].
//!
//! While the system sleeps, and goes to sleep, devices must not get commands: one that came between
//! the suspend of its device and the end of the other CPUs would be waited for by the latter, for
//! ever. Mailboxes are *parked* then: what is ready stays ready, as if the member thread stalled.
//!
//! Locking: the places are under an interrupt-disabling spinlock. Buffers are filled and decoded
//! outside of it.

use super::waker::{Reasons, Waker};
use crate::{
    dm::{BlkStatus, BlockDevice, Complete, Context, IoBuf, IoOp, Request, WaitQueue},
    proto::codec::{
        ballot::BallotRecord,
        block::BLOCK_SIZE,
        heartbeat::HeartbeatRecord,
        ids::{Register, Side, Slot},
        layout::{mailbox_sector, register_sector, MAILBOX_SIZE},
        mailbox::{Found, Mailboxes},
        record::{decode, encode, BlockId, Reading, Record},
    },
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{Arc, SpinLockIrq},
};

/// Blocks of one slot.
const SLOT_BLOCKS: usize = MAILBOX_SIZE as usize / BLOCK_SIZE;

/// Which of the three transfers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// A block of the own ballot register is written.
    Ballot = 0,
    /// A block of the own heartbeat register is written.
    Heartbeat = 1,
    /// All slots are read.
    Read = 2,
}

impl Which {
    const ALL: [Which; 3] = [Which::Ballot, Which::Heartbeat, Which::Read];
}

type Buf = KBox<IoBuf<Mailbox>>;

/// Where a transfer is.
enum Place {
    Idle(Buf),
    Ready(Buf, Request),
    Away,
    Done(Buf, BlkStatus),
}

struct Places {
    device: Option<Arc<BlockDevice>>,
    /// The generation of the member that the device is [R56].
    generation: u32,
    transfers: [Place; 3],
    /// Nothing is submitted.
    parked: bool,
}

/// The mailboxes of one member, as one session uses them.
#[pin_data]
pub struct Mailbox {
    /// The member.
    pub member: u8,
    uuid: [u8; 16],
    own: Slot,
    first: Slot,
    /// The portion thread's waker.
    portion: Arc<Waker>,
    /// The member thread's waker.
    submitter: Arc<Waker>,
    #[pin]
    places: SpinLockIrq<Places>,
    /// A transfer of parked mailboxes has come to its place.
    #[pin]
    settled: WaitQueue,
}

impl Complete for Mailbox {
    fn complete(self: Arc<Self>, buf: Buf, status: BlkStatus) {
        let which = buf.tag as usize;
        self.put(which, Place::Done(buf, status));
        self.portion.wake(Reasons::IO);
    }
}

impl Mailbox {
    /// Allocates the transfers of `member` for the session of `own`, on a portion whose formatted
    /// slots are `slots`.
    pub fn new(
        uuid: [u8; 16],
        member: u8,
        own: Slot,
        slots: u64,
        portion: Arc<Waker>,
    ) -> Result<Arc<Self>> {
        let first = Slot::all_in(slots).next().ok_or(EINVAL)?;
        let last = Slot::all_in(slots).last().ok_or(EINVAL)?;
        let span = usize::from(last.index().wrapping_sub(first.index())).wrapping_add(1);
        let read = IoBuf::new(span.wrapping_mul(SLOT_BLOCKS), Which::Read as u64)?;
        let transfers = [
            Place::Idle(IoBuf::new(1, Which::Ballot as u64)?),
            Place::Idle(IoBuf::new(1, Which::Heartbeat as u64)?),
            Place::Idle(read),
        ];
        let submitter = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                member,
                uuid,
                own,
                first,
                portion,
                submitter,
                places <- new_spinlock_irq!(
                    Places { device: None, generation: 0, transfers, parked: false },
                    "dm_lease mailbox"
                ),
                settled <- crate::dm::thread::new_wait_queue!("dm_lease mailbox settled"),
            }),
            GFP_KERNEL,
        )
    }

    /// Says which device the member is, and of which generation. What is under way goes on with
    /// the old one.
    pub fn set_device(&self, device: Arc<BlockDevice>, generation: u32) {
        let mut places = self.places.lock();
        let old = places.device.replace(device);
        places.generation = generation;
        drop(places);
        drop(old);
    }

    /// Submits nothing any more; what was submitted goes on.
    pub fn park(&self) {
        self.places.lock().parked = true;
    }

    /// Waits for what was submitted before the mailbox was parked. Returns whether all of that has
    /// come back by `deadline_ns`.
    pub fn is_settled_by(&self, deadline_ns: u64) -> bool {
        self.settled.wait_until(deadline_ns, || {
            let places = self.places.lock();
            let is_away = |place: &Place| matches!(place, Place::Away);
            !places.transfers.iter().any(is_away)
        })
    }

    /// Goes on where [`Mailbox::park`] stopped.
    pub fn unpark(&self) {
        self.places.lock().parked = false;
        self.submitter.wake(Reasons::IO);
    }

    /// Whether the member has a device.
    pub fn has_device(&self) -> bool {
        self.places.lock().device.is_some()
    }

    /// Hands a block of the own ballot register to the member thread. `false` if it cannot.
    pub fn write_ballot(&self, side: Side, record: &BallotRecord) -> bool {
        self.write(
            Which::Ballot,
            Register::Ballot,
            side,
            IoOp::WriteFua,
            record,
        )
    }

    /// Hands a block of the own heartbeat register to the member thread. `false` if it cannot.
    pub fn write_heartbeat(&self, side: Side, fua: bool, record: &HeartbeatRecord) -> bool {
        let op = if fua { IoOp::WriteFua } else { IoOp::Write };
        self.write(Which::Heartbeat, Register::Heartbeat, side, op, record)
    }

    /// Hands the read of all slots to the member thread. `false` if it cannot.
    pub fn read_all(&self) -> bool {
        let Some((buf, dev, _)) = self.take_idle(Which::Read) else {
            return false;
        };
        let blocks = 0..buf.block_count();
        let sector = mailbox_sector(self.first);
        self.hand_over(
            buf,
            Request {
                dev,
                op: IoOp::Read,
                sector,
                blocks,
                nowait: false,
            },
        );
        true
    }

    /// Takes a transfer that has ended, if there is one.
    pub fn take_done(&self) -> Option<(Which, Buf, bool)> {
        let mut places = self.places.lock();
        for (which, place) in Which::ALL.into_iter().zip(places.transfers.iter_mut()) {
            match core::mem::replace(place, Place::Away) {
                Place::Done(buf, status) => return Some((which, buf, status.is_ok())),
                other => *place = other,
            }
        }
        None
    }

    /// Gives a transfer back after its result was used.
    pub fn put_idle(&self, which: Which, buf: Buf) {
        self.put(which as usize, Place::Idle(buf));
    }

    /// What a read brought about one slot. What was read from the device before this one is no
    /// information if that was of another generation.
    pub fn decode<T: Record>(&self, buf: &Buf, slot: Slot, register: Register) -> Found<T> {
        let start = self.block_index(slot, register);
        let id = self.id(slot, self.places.lock().generation);
        let side = |index: usize| match buf.block(index) {
            Some(block) => decode::<T>(block, &id),
            None => Reading::Blank,
        };
        Found::join(side(start), side(start.wrapping_add(1)))
    }

    /// The body of the member thread.
    pub fn submit_loop(self: Arc<Self>, context: &Context) {
        while self.submitter.wait(context, None).is_some() {
            while let Some((buf, request)) = self.take_ready() {
                let which = buf.tag as usize;
                if let Err((buf, _)) = IoBuf::submit(buf, request, self.clone()) {
                    self.put(which, Place::Done(buf, BlkStatus::IOERR));
                    self.portion.wake(Reasons::IO);
                }
            }
        }
    }

    fn write<T: Record>(
        &self,
        which: Which,
        register: Register,
        side: Side,
        op: IoOp,
        record: &T,
    ) -> bool {
        let Some((mut buf, dev, generation)) = self.take_idle(which) else {
            return false;
        };
        let Some(block) = buf.block_mut(0) else {
            return false;
        };
        encode(record, &self.id(self.own, generation), block);
        let sector = register_sector(self.own, register, side);
        self.hand_over(
            buf,
            Request {
                dev,
                op,
                sector,
                blocks: 0..1,
                nowait: false,
            },
        );
        true
    }

    fn hand_over(&self, buf: Buf, request: Request) {
        let which = buf.tag as usize;
        self.put(which, Place::Ready(buf, request));
        self.submitter.wake(Reasons::IO);
    }

    fn take_idle(&self, which: Which) -> Option<(Buf, Arc<BlockDevice>, u32)> {
        let mut places = self.places.lock();
        let device = places.device.clone()?;
        let generation = places.generation;
        if which != Which::Read && device.is_read_only() {
            // Nothing may be written here: the controller observes, and stays `joining`.
            return None;
        }
        let place = places.transfers.get_mut(which as usize)?;
        match core::mem::replace(place, Place::Away) {
            Place::Idle(buf) => Some((buf, device, generation)),
            other => {
                *place = other;
                None
            }
        }
    }

    fn take_ready(&self) -> Option<(Buf, Request)> {
        let mut places = self.places.lock();
        if places.parked {
            return None;
        }
        for place in places.transfers.iter_mut() {
            match core::mem::replace(place, Place::Away) {
                Place::Ready(buf, request) => return Some((buf, request)),
                other => *place = other,
            }
        }
        None
    }

    fn put(&self, which: usize, to: Place) {
        let mut places = self.places.lock();
        if let Some(place) = places.transfers.get_mut(which) {
            *place = to;
        }
        let parked = places.parked;
        drop(places);
        if parked {
            self.settled.wake_all();
        }
    }

    fn id(&self, slot: Slot, generation: u32) -> BlockId {
        BlockId {
            uuid: self.uuid,
            member: self.member,
            generation,
            slot,
        }
    }

    fn block_index(&self, slot: Slot, register: Register) -> usize {
        let slots = usize::from(slot.index().wrapping_sub(self.first.index()));
        let register = match register {
            Register::Ballot => 0,
            Register::Heartbeat => 2,
        };
        slots.wrapping_mul(SLOT_BLOCKS).wrapping_add(register)
    }
}

/// The records of one read, decoded once: the machine looks at them several times.
pub struct Decoded {
    slots: KVec<(Slot, Found<BallotRecord>, Found<HeartbeatRecord>)>,
}

impl Decoded {
    /// Room for the slots of a portion.
    pub fn new(slots: u64) -> Result<Self> {
        let capacity = slots.count_ones() as usize;
        Ok(Self {
            slots: KVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    /// Decodes what `buf` holds of `slots`.
    pub fn fill(&mut self, mailbox: &Mailbox, buf: &Buf, slots: u64) {
        self.slots.clear();
        for slot in Slot::all_in(slots) {
            let ballot = mailbox.decode(buf, slot, Register::Ballot);
            let heartbeat = mailbox.decode(buf, slot, Register::Heartbeat);
            let _ = self.slots.push_within_capacity((slot, ballot, heartbeat));
        }
    }
}

impl Mailboxes for Decoded {
    fn ballot(&self, slot: Slot) -> Found<BallotRecord> {
        let found = self.slots.iter().find(|entry| entry.0 == slot);
        found.map_or(NOTHING_BALLOT, |entry| entry.1)
    }

    fn heartbeat(&self, slot: Slot) -> Found<HeartbeatRecord> {
        let found = self.slots.iter().find(|entry| entry.0 == slot);
        found.map_or(NOTHING_HEARTBEAT, |entry| entry.2)
    }
}

/// A slot that is not formatted is never asked for; blank is what it would be.
const NOTHING_BALLOT: Found<BallotRecord> = Found::whole(Reading::Blank, None);
const NOTHING_HEARTBEAT: Found<HeartbeatRecord> = Found::whole(Reading::Blank, None);
