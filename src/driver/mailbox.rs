// SPDX-License-Identifier: GPL-2.0

//! The mailboxes of one member: preallocated I/O, and the thread that submits it.
//!
//! Each member has three transfers, which are allocated once: a write of the own ballot register, a
//! write of the own heartbeat register, and a read of all slots. A transfer goes through these
//! stages:
//!
//! ```text
//!   Idle --(portion thread fills it)--> Ready --(member thread)--> Taken --(irq)--> Done --> Idle
//! ```
//!
//! To submit I/O may block for as long as a device hangs. So each member has a thread that submits
//! its I/O, and a disk that hangs delays neither the heartbeats of other members nor other portions
//! [R44].
//!
//! Devices must not get commands while the system goes to sleep and while it sleeps. A command that
//! came after the suspend of its device would never complete, and the shutdown of the other CPUs
//! would wait for it. So mailboxes are *parked* before: a parked mailbox leaves ready transfers
//! where they are, as if the member thread stalled.
//!
//! Locking: an interrupt-disabling spinlock protects the stages. Buffers are filled and decoded
//! without the lock.

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

/// The number of blocks of one slot.
const SLOT_BLOCKS: usize = MAILBOX_SIZE as usize / BLOCK_SIZE;

/// One of the three transfers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// The write of a block of the own ballot register.
    Ballot = 0,
    /// The write of a block of the own heartbeat register.
    Heartbeat = 1,
    /// The read of all slots.
    Read = 2,
}

impl Transfer {
    const ALL: [Transfer; 3] = [Transfer::Ballot, Transfer::Heartbeat, Transfer::Read];
}

type Buf = KBox<IoBuf<Mailbox>>;

/// The stage of a transfer.
enum Stage {
    Idle(Buf),
    Ready(Buf, Request),
    /// A thread or the device has the buffer.
    Taken,
    Done(Buf, BlkStatus),
}

struct State {
    device: Option<Arc<BlockDevice>>,
    /// The generation that the superblock of the device names [R56].
    generation: u32,
    transfers: [Stage; 3],
    /// No I/O is submitted.
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
    /// The waker of the portion thread.
    portion_waker: Arc<Waker>,
    /// The waker of the member thread.
    member_waker: Arc<Waker>,
    #[pin]
    state: SpinLockIrq<State>,
    /// Woken when a transfer of a parked mailbox reaches a stage.
    #[pin]
    settled: WaitQueue,
}

impl Complete for Mailbox {
    fn complete(self: Arc<Self>, buf: Buf, status: BlkStatus) {
        let transfer = buf.tag as usize;
        self.put(transfer, Stage::Done(buf, status));
        self.portion_waker.wake(Reasons::IO);
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
        portion_waker: Arc<Waker>,
    ) -> Result<Arc<Self>> {
        let first = Slot::all_in(slots).next().ok_or(EINVAL)?;
        let last = Slot::all_in(slots).last().ok_or(EINVAL)?;
        let span = usize::from(last.index().wrapping_sub(first.index())).wrapping_add(1);
        let read = IoBuf::new(span.wrapping_mul(SLOT_BLOCKS), Transfer::Read as u64)?;
        let transfers = [
            Stage::Idle(IoBuf::new(1, Transfer::Ballot as u64)?),
            Stage::Idle(IoBuf::new(1, Transfer::Heartbeat as u64)?),
            Stage::Idle(read),
        ];
        let member_waker = Arc::pin_init(Waker::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                member,
                uuid,
                own,
                first,
                portion_waker,
                member_waker,
                state <- new_spinlock_irq!(
                    State { device: None, generation: 0, transfers, parked: false },
                    "dm_lease mailbox"
                ),
                settled <- crate::dm::thread::new_wait_queue!("dm_lease mailbox settled"),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the device of the member and its generation. Transfers that were submitted continue on
    /// the old device.
    pub fn set_device(&self, device: Arc<BlockDevice>, generation: u32) {
        let mut state = self.state.lock();
        let old = state.device.replace(device);
        state.generation = generation;
        drop(state);
        drop(old);
    }

    /// Submits no more I/O. Transfers that were submitted continue.
    pub fn park(&self) {
        self.state.lock().parked = true;
    }

    /// Waits until all transfers that were submitted before [`Mailbox::park`] have ended, but not
    /// longer than until `deadline_ns`. Returns whether they have.
    pub fn is_settled_by(&self, deadline_ns: u64) -> bool {
        self.settled.wait_until(deadline_ns, || {
            let state = self.state.lock();
            let is_taken = |stage: &Stage| matches!(stage, Stage::Taken);
            !state.transfers.iter().any(is_taken)
        })
    }

    /// Submits I/O again after [`Mailbox::park`].
    pub fn unpark(&self) {
        self.state.lock().parked = false;
        self.member_waker.wake(Reasons::IO);
    }

    /// Whether the member has a device.
    pub fn has_device(&self) -> bool {
        self.state.lock().device.is_some()
    }

    /// Hands a block of the own ballot register to the member thread. Returns `false` if the
    /// transfer is not idle, or the device cannot take it.
    pub fn write_ballot(&self, side: Side, record: &BallotRecord) -> bool {
        self.write(
            Transfer::Ballot,
            Register::Ballot,
            side,
            IoOp::WriteFua,
            record,
        )
    }

    /// Hands a block of the own heartbeat register to the member thread. Returns `false` if the
    /// transfer is not idle, or the device cannot take it.
    pub fn write_heartbeat(&self, side: Side, fua: bool, record: &HeartbeatRecord) -> bool {
        let op = if fua { IoOp::WriteFua } else { IoOp::Write };
        self.write(Transfer::Heartbeat, Register::Heartbeat, side, op, record)
    }

    /// Hands the read of all slots to the member thread. Returns `false` if the transfer is
    /// not idle, or the device cannot take it.
    pub fn read_all(&self) -> bool {
        let Some((buf, dev, _)) = self.take_idle(Transfer::Read) else {
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
    pub fn take_done(&self) -> Option<(Transfer, Buf, bool)> {
        let mut state = self.state.lock();
        for (transfer, stage) in Transfer::ALL.into_iter().zip(state.transfers.iter_mut()) {
            match core::mem::replace(stage, Stage::Taken) {
                Stage::Done(buf, status) => return Some((transfer, buf, status.is_ok())),
                other => *stage = other,
            }
        }
        None
    }

    /// Gives a transfer back after its result was used.
    pub fn put_idle(&self, transfer: Transfer, buf: Buf) {
        self.put(transfer as usize, Stage::Idle(buf));
    }

    /// The records of one slot in the buffer of a read. A buffer from a device of another
    /// generation holds no records of this member.
    pub fn decode<T: Record>(&self, buf: &Buf, slot: Slot, register: Register) -> Found<T> {
        let start = self.block_index(slot, register);
        let id = self.id(slot, self.state.lock().generation);
        let side = |index: usize| match buf.block(index) {
            Some(block) => decode::<T>(block, &id),
            None => Reading::Blank,
        };
        Found::join(side(start), side(start.wrapping_add(1)))
    }

    /// The body of the member thread.
    pub fn submit_loop(self: Arc<Self>, context: &Context) {
        while self.member_waker.wait(context, None).is_some() {
            while let Some((buf, request)) = self.take_ready() {
                let transfer = buf.tag as usize;
                if let Err((buf, _)) = IoBuf::submit(buf, request, self.clone()) {
                    self.put(transfer, Stage::Done(buf, BlkStatus::IOERR));
                    self.portion_waker.wake(Reasons::IO);
                }
            }
        }
    }

    fn write<T: Record>(
        &self,
        transfer: Transfer,
        register: Register,
        side: Side,
        op: IoOp,
        record: &T,
    ) -> bool {
        let Some((mut buf, dev, generation)) = self.take_idle(transfer) else {
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
        let transfer = buf.tag as usize;
        self.put(transfer, Stage::Ready(buf, request));
        self.member_waker.wake(Reasons::IO);
    }

    fn take_idle(&self, transfer: Transfer) -> Option<(Buf, Arc<BlockDevice>, u32)> {
        let mut state = self.state.lock();
        let device = state.device.clone()?;
        let generation = state.generation;
        if transfer != Transfer::Read && device.is_read_only() {
            // A controller that cannot write its mailbox observes and stays `joining`.
            return None;
        }
        let stage = state.transfers.get_mut(transfer as usize)?;
        match core::mem::replace(stage, Stage::Taken) {
            Stage::Idle(buf) => Some((buf, device, generation)),
            other => {
                *stage = other;
                None
            }
        }
    }

    fn take_ready(&self) -> Option<(Buf, Request)> {
        let mut state = self.state.lock();
        if state.parked {
            return None;
        }
        for stage in state.transfers.iter_mut() {
            match core::mem::replace(stage, Stage::Taken) {
                Stage::Ready(buf, request) => return Some((buf, request)),
                other => *stage = other,
            }
        }
        None
    }

    fn put(&self, transfer: usize, to: Stage) {
        let mut state = self.state.lock();
        if let Some(stage) = state.transfers.get_mut(transfer) {
            *stage = to;
        }
        let parked = state.parked;
        drop(state);
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

/// The records of one read. They are decoded once, because the state machine reads them several
/// times.
pub struct Decoded {
    slots: KVec<(Slot, Found<BallotRecord>, Found<HeartbeatRecord>)>,
}

impl Decoded {
    /// Allocates room for the records of `slots`.
    pub fn new(slots: u64) -> Result<Self> {
        let capacity = slots.count_ones() as usize;
        Ok(Self {
            slots: KVec::with_capacity(capacity, GFP_KERNEL)?,
        })
    }

    /// Decodes the records of `slots` in `buf`.
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

/// The records of a slot that is not formatted. The state machine never asks for one.
const NOTHING_BALLOT: Found<BallotRecord> = Found::whole(Reading::Blank, None);
const NOTHING_HEARTBEAT: Found<HeartbeatRecord> = Found::whole(Reading::Blank, None);
