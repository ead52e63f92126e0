// SPDX-License-Identifier: GPL-2.0
//! What a mailbox says: the ballot and the heartbeat record, bit by bit.
//!
//! Each controller has two single-writer *registers* on each member, each of two blocks written
//! alternately (`register` says how):
//!
//! * the **ballot** register carries promises: the highest decided epoch the writer knows, its
//!   Disk Paxos state of the next epoch (Gafni & Lamport 2003), the batch limit in force and what
//!   old owners are still charged for. It is written with FUA and must never go backwards;
//! * the **heartbeat** register carries signs of life: role, heartbeat counter, open permits. It
//!   carries no promise and may be lost.
//!
//! A block that fails any check is *no information* about its member: neither life nor silence
//! [R26]. So [`decode`] distinguishes three readings: [`Reading::Blank`] (zeros, as formatting
//! leaves them), [`Reading::Invalid`] and [`Reading::Valid`]. [`newest`] joins the two blocks of a
//! register; the newest valid one is the one with the higher sequence number.
//!
//! ```text
//!  0  magic     8 bytes, one per register        24  portion uuid  16 bytes
//!  8  version   u16                              40  sequence      u64
//! 10  register  u8                               48  incarnation   u128
//! 11  member    u8                               64  fields of the register
//! 12  slot      u8, then 3 zero                  ..  mark, generations, zero up to 3072
//! 16  CRC32C    u32 over all 4096              3072  extension area up to 4096
//! 20  generation u32 of the member
//! ```
//!
//! All numbers are little-endian; controllers are stored by number (1..=64), 0 is "none".
//! Outside of the extension area every record has exactly one encoding, and whatever is not one is
//! refused. The extension area is for later versions of this code: it is written as zeros, the
//! checksum covers it, and its content is ignored.
//!
//! The superblock's feature [`super::superblock::INCOMPAT_RECORDS_2`] says that the records of a
//! member are of this version. Version 1 had neither generations nor marks.
//!
//! Callers: `register`, `round` and `controller` in the module, `leasectl check` and `show`.
//! Pure functions, no locking.

use super::layout::{
    is_blank, is_sealed, seal, Block, FieldReader, FieldWriter, Side, BLOCK_SIZE, MAX_CONTROLLERS,
    MAX_MEMBERS,
};
use core::fmt;

/// Version of both records. A block of another version is no information.
pub const RECORD_VERSION: u16 = 2;

/// Where the extension area of a record block begins; it reaches to the end of the block.
pub const EXTENSION_AT: usize = BLOCK_SIZE - 1024;

/// The batch limit "unlimited" in [`BallotRecord::limit`].
pub const LIMIT_UNLIMITED: u32 = u32::MAX;

/// The most terms of old owners that a ballot record can charge.
pub const MAX_CHARGES: usize = 8;

/// Where the checksum is in a record block.
const CHECKSUM_AT: usize = 16;

/// The mailbox of a controller, by index: 0..=63 for the controllers 1..=64.
///
/// # Invariants
///
/// The index is below [`MAX_CONTROLLERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// The slot of controller 1.
    pub const FIRST: Slot = Slot(0);

    /// The slot with this index, 0..=63.
    pub const fn new(index: u8) -> Option<Slot> {
        if index < MAX_CONTROLLERS {
            // INVARIANT: just checked.
            Some(Slot(index))
        } else {
            None
        }
    }

    /// The slot of a controller, 1..=64.
    pub const fn from_controller(controller: u8) -> Option<Slot> {
        match controller.checked_sub(1) {
            Some(index) => Slot::new(index),
            None => None,
        }
    }

    /// 0..=63.
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The number of its controller, 1..=64.
    pub const fn controller(self) -> u8 {
        // The invariant keeps this at most 64.
        self.0.wrapping_add(1)
    }

    /// Its bit in a bitmap of controllers.
    pub const fn bit(self) -> u64 {
        // The invariant keeps the shift below 64.
        1_u64.wrapping_shl(self.0 as u32)
    }

    /// Whether it is in a bitmap of controllers.
    pub const fn is_in(self, bitmap: u64) -> bool {
        bitmap & self.bit() != 0
    }

    /// The slots in a bitmap of controllers, lowest first.
    pub fn all_in(bitmap: u64) -> impl Iterator<Item = Slot> + Clone {
        (0..MAX_CONTROLLERS)
            .map(Slot)
            .filter(move |slot| slot.is_in(bitmap))
    }
}

/// Prints the controller's number, which is what users know.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.controller(), f)
    }
}

/// The random number a controller draws when it joins a portion; it tells one life of a controller
/// number from another, on the same machine or not [R36].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A Disk Paxos ballot. Ballots are compared by round, then slot, then incarnation, which is the
/// order of the fields; round 0 means "none", and none is lower than all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ballot {
    /// Counts up with every attempt; 0 for [`Ballot::NONE`] alone.
    pub round: u64,
    /// Whose ballot it is.
    pub slot: Slot,
    /// Which life of that controller.
    pub inc: Incarnation,
}

impl Ballot {
    /// No ballot.
    pub const NONE: Ballot = Ballot {
        round: 0,
        slot: Slot::FIRST,
        inc: Incarnation(0),
    };

    /// Whether this is no ballot at all.
    pub const fn is_none(self) -> bool {
        self.round == 0
    }

    /// Whether this is a ballot.
    pub const fn is_some(self) -> bool {
        self.round != 0
    }
}

/// What an epoch is decided to be: who owns it, in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The owner.
    pub slot: Slot,
    /// The owner's incarnation.
    pub inc: Incarnation,
}

/// The highest epoch somebody knows to be decided, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decided {
    /// The epoch; 0 before the portion was ever owned.
    pub epoch: u64,
    /// Its owner; `None` for epoch 0 and only for it.
    pub value: Option<Value>,
}

impl Decided {
    /// Nobody ever owned the portion.
    pub const NEVER: Decided = Decided {
        epoch: 0,
        value: None,
    };
}

/// Budget that is still charged for one term of an old owner: what it may have put on the disks
/// as strays, until it is known to be drained *and* repaired [R21].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// The term.
    pub epoch: u64,
    /// Its owner.
    pub slot: Slot,
    /// The owner's incarnation.
    pub inc: Incarnation,
    /// How much of the redundancy it may have used up; `u32::MAX` if it was not limited.
    pub amount: u32,
    /// Whether the term counts as having no more strays to come. By evidence that is for ever.
    pub drained: bool,
    /// Whether it is drained on the word of an operator alone: that is taken back when the owner is
    /// heard after all.
    pub vouched: bool,
    /// Whether this charge stands for terms of several incarnations, because a list was full: what
    /// one of them says is no evidence of the others.
    pub several: bool,
}

impl Charge {
    /// What a term that has just ended uncleanly is charged with.
    pub const fn new(epoch: u64, owner: Value, amount: u32) -> Charge {
        Charge {
            epoch,
            slot: owner.slot,
            inc: owner.inc,
            amount,
            drained: false,
            vouched: false,
            several: false,
        }
    }

    /// Whether evidence has shown that the term is drained.
    pub const fn is_shown(&self) -> bool {
        self.drained && !self.vouched
    }

    /// Whether both speak of one term.
    pub fn is_of_term(&self, other: &Charge) -> bool {
        (self.epoch, self.slot, self.inc) == (other.epoch, other.slot, other.inc)
    }

    /// Whether both are terms of one incarnation, which has one gate for all of them.
    fn is_of_incarnation(&self, other: &Charge) -> bool {
        (self.slot, self.inc) == (other.slot, other.inc)
    }

    /// Whether this charge is about all terms for which `other`, a charge of the same term, stands.
    fn covers(&self, other: &Charge) -> bool {
        self.several || !other.several
    }

    /// Whether this charge says that all terms are drained for which `other` stands.
    pub fn shows_drained(&self, other: &Charge) -> bool {
        self.drained && self.is_of_term(other) && self.covers(other)
    }

    /// Joins what two records say of one term: the larger amount, and every evidence, as far as it
    /// is about all terms of both. An operator's word holds where both have it: who does not may
    /// have heard the owner since.
    fn join(&mut self, other: &Charge) {
        let shown = self.is_shown() && self.covers(other) || other.is_shown() && other.covers(self);
        self.amount = self.amount.max(other.amount);
        self.drained = shown || self.drained && other.drained;
        self.vouched = self.drained && !shown;
        self.several |= other.several;
    }

    /// One charge for the terms of both: the sum of the amounts. The later term stands for both,
    /// and is drained only when both are. Nothing is lost where both have drained, because only
    /// their repair is awaited, and that is of both or none; nor where both are of one incarnation,
    /// because what drains its later term drains its earlier ones as well.
    fn fold(&self, other: &Charge) -> Charge {
        let later = if self.epoch > other.epoch {
            self
        } else {
            other
        };
        let shown = self.is_shown() && other.is_shown();
        let exact = shown || self.is_of_incarnation(other);
        // The word of an operator cannot be taken back any more when one name stands for two.
        let drained = shown || exact && self.drained && other.drained;
        Charge {
            amount: self.amount.saturating_add(other.amount),
            drained,
            vouched: drained && !shown,
            several: self.several || other.several || !exact,
            ..*later
        }
    }

    /// How much is lost when both become one charge: the pair with the lowest value is folded.
    fn fold_cost(&self, other: &Charge) -> (u8, u64) {
        let shown = self.is_shown() && other.is_shown();
        let cost = match (shown, self.is_of_incarnation(other)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        (cost, self.epoch.max(other.epoch))
    }
}

/// The list of charges of a portion: at most [`MAX_CHARGES`] terms.
///
/// # Invariants
///
/// The entries are dense: used ones first, then only `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charges {
    entries: [Option<Charge>; MAX_CHARGES],
    /// Whether there may be charges of the epoch that this list does not have: its writer learnt
    /// of the decision from a record that carries no list.
    partial: bool,
}

impl Charges {
    /// Nothing is charged.
    pub const NONE: Charges = Charges {
        entries: [None; MAX_CHARGES],
        partial: false,
    };

    /// Whether charges may be missing.
    pub const fn is_partial(&self) -> bool {
        self.partial
    }

    /// The same charges, of which more may be missing, or not.
    #[must_use]
    pub const fn with_partial(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }

    /// The charges, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = Charge> + Clone + '_ {
        self.entries.iter().flatten().copied()
    }

    /// How many terms are charged.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nothing is charged.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The sum of all amounts: `q` of the batch limit. Saturates.
    pub fn total(&self) -> u32 {
        self.iter()
            .fold(0, |sum, charge| charge.amount.saturating_add(sum))
    }

    /// Adds a charge; a term that is already there keeps the larger amount. In a full list two
    /// charges become one, so that there is always room: no charge is ever forgotten, and no
    /// controller is kept from owning because a list is full.
    pub fn add(&mut self, charge: Charge) {
        let same = |old: &&mut Charge| old.is_of_term(&charge);
        if let Some(old) = self.entries.iter_mut().flatten().find(same) {
            return old.join(&charge);
        }
        let rest = match self.entries.iter().all(Option::is_some) {
            true => self.fold_with(charge),
            false => charge,
        };
        // INVARIANT: the first free entry is behind the last used one.
        if let Some(free) = self.entries.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(rest);
        }
    }

    /// Adds all charges of another list.
    pub fn merge(&mut self, other: &Charges) {
        other.iter().for_each(|charge| self.add(charge));
    }

    /// Takes the two charges out of a full list and `newcomer` that lose least when they become
    /// one, and returns what is not in the list then: it has one free place.
    fn fold_with(&mut self, newcomer: Charge) -> Charge {
        let before = *self;
        let mut cheapest: Option<((u8, u64), Charge, Charge)> = None;
        for (at, first) in before.iter().enumerate() {
            for second in before.iter().skip(at.saturating_add(1)).chain([newcomer]) {
                let cost = first.fold_cost(&second);
                if cheapest.is_none_or(|(least, ..)| cost < least) {
                    cheapest = Some((cost, first, second));
                }
            }
        }
        let Some((_, first, second)) = cheapest else {
            return newcomer;
        };
        self.retain(|charge| !charge.is_of_term(&first) && !charge.is_of_term(&second));
        let both = first.fold(&second);
        if newcomer.is_of_term(&second) {
            return both;
        }
        self.add(both);
        newcomer
    }

    /// Lets `change` change each charge; says whether anything is different.
    pub fn update(&mut self, mut change: impl FnMut(&mut Charge)) -> bool {
        let before = *self;
        for charge in self.entries.iter_mut().flatten() {
            change(charge);
        }
        *self != before
    }

    /// Keeps the charges for which `keep` holds, in their order.
    pub fn retain(&mut self, keep: impl Fn(&Charge) -> bool) {
        let before = *self;
        *self = Charges::NONE.with_partial(before.partial);
        for (entry, charge) in self.entries.iter_mut().zip(before.iter().filter(keep)) {
            // INVARIANT: filled from the front without gaps.
            *entry = Some(charge);
        }
    }
}

impl Default for Charges {
    fn default() -> Self {
        Self::NONE
    }
}

/// The generation of each member of a portion, as far as one controller knows: the highest that it
/// has seen, and whether that is known to be *settled* (`controller/generations.rs`). A member that
/// is formatted anew in place of a lost one has a higher generation than the lost one had [R56].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generations([u32; MAX_MEMBERS as usize]);

impl Generations {
    /// Nothing is known.
    pub const NONE: Generations = Generations([0; MAX_MEMBERS as usize]);

    /// The highest known generation of a member; 0 if none is known.
    pub fn of(&self, member: u8) -> u32 {
        self.entry(member) & !SETTLED
    }

    /// Whether that generation of a member is known to be settled.
    pub fn is_settled(&self, member: u8) -> bool {
        self.entry(member) & SETTLED != 0
    }

    /// Notes that the highest known generation of a member is settled.
    pub fn settle(&mut self, member: u8) {
        if let Some(known) = self.0.get_mut(usize::from(member)) {
            *known |= SETTLED;
        }
    }

    /// Takes a generation of a member that exists or existed. Returns whether it is the highest so
    /// far, which was not known before.
    pub fn note(&mut self, member: u8, generation: u32) -> bool {
        match self.0.get_mut(usize::from(member)) {
            Some(known) if *known & !SETTLED < generation & !SETTLED => {
                *known = generation & !SETTLED;
                true
            }
            _ => false,
        }
    }

    /// Takes what another controller knows. Returns whether anything of it is new.
    pub fn merge(&mut self, other: &Generations) -> bool {
        let before = *self;
        for (known, &theirs) in self.0.iter_mut().zip(&other.0) {
            // By generation, then by whether it is settled.
            if theirs.rotate_left(1) > known.rotate_left(1) {
                *known = theirs;
            }
        }
        *self != before
    }

    /// All of them, by member, as they stand in a record.
    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The same where member `n` is what `from[n]` was.
    #[cfg(feature = "model")]
    #[must_use]
    pub fn with_members(&self, from: &[u8]) -> Self {
        let mut same = *self;
        for (known, &from) in same.0.iter_mut().zip(from) {
            *known = self.entry(from);
        }
        same
    }

    fn entry(&self, member: u8) -> u32 {
        self.0.get(usize::from(member)).copied().unwrap_or(0)
    }
}

/// In a record: the generation of a member is settled.
const SETTLED: u32 = 1 << 31;

impl Default for Generations {
    fn default() -> Self {
        Self::NONE
    }
}

/// Which of the two registers of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Promises, written with FUA.
    Ballot,
    /// Signs of life.
    Heartbeat,
}

/// The ballot register: everything a controller has promised about a portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BallotRecord {
    /// Writes of this register of this member so far, counted over restarts.
    pub seq: u64,
    /// The writer's incarnation.
    pub inc: Incarnation,
    /// The kernel's boot id on the writer's machine, for people who look for it.
    pub boot_id: [u8; 16],
    /// The highest epoch the writer knows to be decided.
    pub dec: Decided,
    /// The highest ballot the writer has started for epoch `dec.epoch + 1`.
    pub mbal: Ballot,
    /// The heartbeat of the owner of `dec.epoch` that offered the next epoch to the writer, when
    /// `mbal` was begun on nothing but that offer; 0 when it was begun on other evidence [R34].
    pub offer: u64,
    /// The highest ballot of that epoch in which the writer has accepted `val`; never above `mbal`.
    pub bal: Ballot,
    /// The accepted value; there is one exactly when `bal` is not [`Ballot::NONE`].
    pub val: Option<Value>,
    /// The batch limit in force at the writer; [`LIMIT_UNLIMITED`] if there is none.
    pub limit: u32,
    /// What earlier terms are charged with.
    pub charges: Charges,
    /// How many members the writer was told are failed or rebuilding.
    pub failed: u32,
    /// Tells one write from another of the same sequence number: the writer's clock when the round
    /// began to which the write belongs [R58].
    pub mark: u64,
    /// The member generations that the writer knows [R56].
    pub generations: Generations,
}

/// The role of a controller on a portion, as it says in its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordRole {
    /// Does not own and does not try to.
    Secondary,
    /// Has written a claim for epoch `dec.epoch + 1`.
    Claiming,
    /// Owns `dec.epoch`.
    Owner,
    /// Owned `dec.epoch` and has latched.
    Lapsed,
    /// Gave `dec.epoch` back, drained, perhaps to a named successor [R34].
    Released {
        /// Who may claim at once; `None`: whoever comes first.
        successor: Option<Slot>,
    },
    /// Owns `dec.epoch` and is about to give it to this controller, which may prepare its ballot.
    HandingOver {
        /// Who may prepare.
        successor: Slot,
    },
}

/// The heartbeat register: a sign of life, no promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatRecord {
    /// Writes of this register of this member so far, counted over restarts.
    pub seq: u64,
    /// The writer's incarnation.
    pub inc: Incarnation,
    /// The highest epoch the writer knows to be decided (a cache, no promise).
    pub dec: Decided,
    /// The writer's role; what it says of an epoch is about `dec.epoch`.
    pub role: RecordRole,
    /// Heartbeats in the owner role: what observers compare, since a demoted controller does not
    /// count it up [R32].
    pub hb: u64,
    /// Open permits when the record was built.
    pub open: u32,
    /// The writer's heartbeat period.
    pub period_ns: u64,
    /// Why the writer was demoted last; `status` names the numbers.
    pub reason: u8,
    /// As in [`BallotRecord::mark`].
    pub mark: u64,
    /// The member generations that the writer knows [R56].
    pub generations: Generations,
    /// Whether nothing keeps the writer from claiming: only then an owner hands over to it [R34].
    pub may_claim: bool,
}

impl HeartbeatRecord {
    /// Whether it says that the writer's gate is latched for ever in epoch `dec.epoch`, and that
    /// nothing is open. The machine never writes a number behind the latch that was counted before.
    pub const fn is_drained(&self) -> bool {
        matches!(self.role, RecordRole::Lapsed | RecordRole::Released { .. }) && self.open == 0
    }
}

/// What a block must say about itself to be taken for what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// The portion.
    pub uuid: [u8; 16],
    /// Index of the member.
    pub member: u8,
    /// The generation of the member, as its superblock says it [R56].
    pub generation: u32,
    /// Whose mailbox.
    pub slot: Slot,
}

/// What one block, or one register, was found to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading<T> {
    /// Zeros: nobody has written here since the member was formatted.
    Blank,
    /// No information.
    Invalid(Reject),
    /// This.
    Valid(T),
}

impl<T> Reading<T> {
    /// The record, if there is a valid one.
    pub fn valid(self) -> Option<T> {
        match self {
            Reading::Valid(record) => Some(record),
            Reading::Blank | Reading::Invalid(_) => None,
        }
    }

    /// Whether nobody has written here since the member was formatted.
    pub const fn is_blank(&self) -> bool {
        matches!(self, Reading::Blank)
    }
}

/// Why a block is no information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// Another magic than that of the register.
    Magic,
    /// The checksum does not fit: torn or damaged.
    Checksum,
    /// A version this code does not know.
    Version,
    /// It says it is of the other register.
    Register,
    /// It says it is of another portion.
    Portion,
    /// It says it is of another member.
    Member,
    /// It was written for a member of another generation: to a disk that was replaced, or before
    /// this one was formatted [R56].
    Generation,
    /// It says it is of another controller.
    Slot,
    /// A field holds what the writer could never have meant.
    Field,
    /// Something is where only zeros may be.
    Reserved,
    /// Both blocks of a register have the same sequence number but do not agree.
    Clash,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a mailbox block of this register",
            Self::Checksum => "checksum mismatch",
            Self::Version => "unknown record version",
            Self::Register => "block of the other register",
            Self::Portion => "block of another portion",
            Self::Member => "block of another member",
            Self::Generation => "block of another generation of the member",
            Self::Slot => "block of another controller",
            Self::Field => "impossible field",
            Self::Reserved => "reserved bytes are not zero",
            Self::Clash => "two different blocks with one sequence number",
        })
    }
}

/// What both registers' records have in common.
pub trait Record: Copy + Eq + sealed::Fields {
    /// The register it is kept in.
    const REGISTER: Register;

    /// Writes of its register so far.
    fn seq(&self) -> u64;

    /// The writer's incarnation.
    fn inc(&self) -> Incarnation;

    /// Tells one write from another of the same sequence number.
    fn mark(&self) -> u64;

    /// The member generations that the writer knows.
    fn generations(&self) -> &Generations;
}

impl Record for BallotRecord {
    const REGISTER: Register = Register::Ballot;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn inc(&self) -> Incarnation {
        self.inc
    }

    fn mark(&self) -> u64 {
        self.mark
    }

    fn generations(&self) -> &Generations {
        &self.generations
    }
}

impl Record for HeartbeatRecord {
    const REGISTER: Register = Register::Heartbeat;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn inc(&self) -> Incarnation {
        self.inc
    }

    fn mark(&self) -> u64 {
        self.mark
    }

    fn generations(&self) -> &Generations {
        &self.generations
    }
}

impl Register {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Register::Ballot => b"dmLsBALT",
            Register::Heartbeat => b"dmLsBEAT",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Register::Ballot => 1,
            Register::Heartbeat => 2,
        }
    }
}

/// Writes `record` over all of `block`.
pub fn encode<T: Record>(record: &T, id: &BlockId, block: &mut Block) {
    let mut out = FieldWriter::new(block);
    out.bytes(T::REGISTER.magic());
    out.u16(RECORD_VERSION);
    out.u8(T::REGISTER.code());
    out.u8(id.member);
    out.u8(id.slot.controller());
    out.skip(3);
    out.skip(4);
    out.u32(id.generation);
    out.bytes(&id.uuid);
    out.u64(record.seq());
    out.u128(record.inc().0);
    record.put(&mut out);
    out.u64(record.mark());
    for generation in record.generations().iter() {
        out.u32(generation);
    }
    seal(block, CHECKSUM_AT);
}

/// Reads a block of register `T` that was found where `id` says.
pub fn decode<T: Record>(block: &Block, id: &BlockId) -> Reading<T> {
    if is_blank(block) {
        return Reading::Blank;
    }
    match decode_written(block, id) {
        Ok(record) => Reading::Valid(record),
        Err(reject) => Reading::Invalid(reject),
    }
}

/// The same where the block may also be of version 1, as `leasectl upgrade` finds it. Such a record
/// has no member generation and no mark, and knows no generations.
pub fn decode_any<T: Record>(block: &Block, id: &BlockId) -> Reading<T> {
    let of_version_1 = BlockId {
        generation: 0,
        ..*id
    };
    match decode_version(block, &of_version_1, 1) {
        Ok(record) => Reading::Valid(record),
        Err(_) => decode(block, id),
    }
}

fn decode_written<T: Record>(block: &Block, id: &BlockId) -> Result<T, Reject> {
    decode_version(block, id, RECORD_VERSION)
}

fn decode_version<T: Record>(block: &Block, id: &BlockId, version: u16) -> Result<T, Reject> {
    let mut from = FieldReader::new(block);
    ensure(from.bytes() == *T::REGISTER.magic(), Reject::Magic)?;
    // The checksum comes before all other fields: in a damaged block they mean nothing.
    ensure(is_sealed(block, CHECKSUM_AT), Reject::Checksum)?;
    ensure(from.u16() == version, Reject::Version)?;
    ensure(from.u8() == T::REGISTER.code(), Reject::Register)?;
    let member = from.u8();
    let slot = from.u8();
    ensure(from.is_zero::<3>(), Reject::Reserved)?;
    let _checksum = from.u32();
    let generation = from.u32();
    ensure(from.bytes() == id.uuid, Reject::Portion)?;
    ensure(member == id.member, Reject::Member)?;
    ensure(slot == id.slot.controller(), Reject::Slot)?;
    ensure(generation == id.generation, Reject::Generation)?;
    let seq = from.u64();
    let inc = Incarnation(from.u128());
    let record = T::take(seq, inc, &mut from)?;
    ensure(from.is_zero_before(EXTENSION_AT), Reject::Reserved)?;
    Ok(record)
}

/// Joins the two blocks of a register: what it says, and which block is the newest valid one.
///
/// One invalid block beside a valid one is what a torn write leaves: the other one counts. Beside
/// a blank one it is the first write of all, which did not succeed: nothing that it carried ever
/// counted (a promise counts in both blocks, a heartbeat of an owner follows earlier writes), so
/// the register says nothing yet. Were it no information, its writer could never join again.
pub fn newest<T: Record>(a: Reading<T>, b: Reading<T>) -> (Reading<T>, Option<Side>) {
    match (a, b) {
        (Reading::Valid(x), Reading::Valid(y)) if x.seq() == y.seq() => {
            if x == y {
                (a, Some(Side::A))
            } else {
                (Reading::Invalid(Reject::Clash), None)
            }
        }
        (Reading::Valid(x), Reading::Valid(y)) if x.seq() > y.seq() => (a, Some(Side::A)),
        (_, Reading::Valid(_)) => (b, Some(Side::B)),
        (Reading::Valid(_), _) => (a, Some(Side::A)),
        (Reading::Blank, _) | (_, Reading::Blank) => (Reading::Blank, None),
        (Reading::Invalid(_), Reading::Invalid(_)) => (a, None),
    }
}

/// The block to write next: never the newest valid one (rule 1 of the register).
pub const fn target(newest: Option<Side>) -> Side {
    match newest {
        Some(side) => side.other(),
        None => Side::A,
    }
}

fn ensure(condition: bool, reject: Reject) -> Result<(), Reject> {
    if condition {
        Ok(())
    } else {
        Err(reject)
    }
}

/// The fields of each register behind the common head.
mod sealed {
    use super::*;

    /// Codec of one register's own fields. Private: there are exactly two registers.
    pub trait Fields: Sized {
        fn put(&self, out: &mut FieldWriter<'_>);
        fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject>;
    }

    impl Fields for BallotRecord {
        fn put(&self, out: &mut FieldWriter<'_>) {
            out.bytes(&self.boot_id);
            put_decided(out, &self.dec);
            put_ballot(out, &self.mbal);
            put_ballot(out, &self.bal);
            put_value(out, self.val);
            out.u32(self.limit);
            for entry in &self.charges.entries {
                put_charge(out, entry);
            }
            out.u32(u32::from(self.charges.partial));
            out.u32(self.failed);
            out.u64(self.offer);
        }

        fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject> {
            let boot_id = from.bytes();
            let dec = take_decided(from)?;
            let mbal = take_ballot(from)?;
            let bal = take_ballot(from)?;
            let val = take_value(from)?;
            ensure(bal <= mbal && bal.is_some() == val.is_some(), Reject::Field)?;
            let limit = from.u32();
            let charges = take_charges(from)?;
            let failed = from.u32();
            let offer = from.u64();
            // Only an owner can offer, and only a ballot can answer.
            let answers = mbal.is_some() && dec.epoch != 0;
            ensure(offer == 0 || answers, Reject::Field)?;
            let mark = from.u64();
            let generations = take_generations(from);
            Ok(Self {
                seq,
                inc,
                boot_id,
                dec,
                mbal,
                offer,
                bal,
                val,
                limit,
                charges,
                failed,
                mark,
                generations,
            })
        }
    }

    impl Fields for HeartbeatRecord {
        fn put(&self, out: &mut FieldWriter<'_>) {
            put_decided(out, &self.dec);
            let (role, successor) = match self.role {
                RecordRole::Secondary => (1, None),
                RecordRole::Claiming => (2, None),
                RecordRole::Owner => (3, None),
                RecordRole::Lapsed => (4, None),
                RecordRole::Released { successor } => (5, successor),
                RecordRole::HandingOver { successor } => (6, Some(successor)),
            };
            out.u8(role);
            out.u8(successor.map_or(0, Slot::controller));
            out.u8(self.reason);
            out.u8(u8::from(self.may_claim));
            out.u32(self.open);
            out.u64(self.hb);
            out.u64(self.period_ns);
        }

        fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject> {
            let dec = take_decided(from)?;
            let role = take_role(from)?;
            // Only an epoch that was decided can be owned, lost or given back.
            let owned = !matches!(role, RecordRole::Secondary | RecordRole::Claiming);
            ensure(!owned || dec.epoch != 0, Reject::Field)?;
            let reason = from.u8();
            let may_claim = from.u8();
            ensure(may_claim <= 1, Reject::Field)?;
            let open = from.u32();
            let hb = from.u64();
            let period_ns = from.u64();
            let mark = from.u64();
            let generations = take_generations(from);
            Ok(Self {
                seq,
                inc,
                dec,
                role,
                hb,
                open,
                period_ns,
                reason,
                mark,
                generations,
                may_claim: may_claim == 1,
            })
        }
    }
}

/// Writes a controller number and an incarnation; none is 0 and 0.
fn put_value(out: &mut FieldWriter<'_>, value: Option<Value>) {
    out.u8(value.map_or(0, |value| value.slot.controller()));
    out.skip(7);
    out.u128(value.map_or(0, |value| value.inc.0));
}

fn take_value(from: &mut FieldReader<'_>) -> Result<Option<Value>, Reject> {
    let controller = from.u8();
    ensure(from.is_zero::<7>(), Reject::Reserved)?;
    let inc = Incarnation(from.u128());
    if controller == 0 {
        ensure(inc == Incarnation(0), Reject::Field)?;
        return Ok(None);
    }
    let slot = Slot::from_controller(controller).ok_or(Reject::Field)?;
    Ok(Some(Value { slot, inc }))
}

fn put_ballot(out: &mut FieldWriter<'_>, ballot: &Ballot) {
    out.u64(ballot.round);
    let value = Value {
        slot: ballot.slot,
        inc: ballot.inc,
    };
    put_value(out, ballot.is_some().then_some(value));
}

fn take_ballot(from: &mut FieldReader<'_>) -> Result<Ballot, Reject> {
    let round = from.u64();
    match take_value(from)? {
        Some(Value { slot, inc }) if round != 0 => Ok(Ballot { round, slot, inc }),
        None if round == 0 => Ok(Ballot::NONE),
        _ => Err(Reject::Field),
    }
}

fn put_decided(out: &mut FieldWriter<'_>, dec: &Decided) {
    out.u64(dec.epoch);
    put_value(out, dec.value);
}

fn take_decided(from: &mut FieldReader<'_>) -> Result<Decided, Reject> {
    let epoch = from.u64();
    let value = take_value(from)?;
    ensure((epoch == 0) == value.is_none(), Reject::Field)?;
    Ok(Decided { epoch, value })
}

/// The flag of a charge whose term is drained.
const CHARGE_DRAINED: u32 = 1 << 0;

/// The flag of a charge that stands for terms of several incarnations.
const CHARGE_SEVERAL: u32 = 1 << 1;

/// The flag of a charge that is drained on the word of an operator alone.
const CHARGE_VOUCHED: u32 = 1 << 2;

fn put_charge(out: &mut FieldWriter<'_>, charge: &Option<Charge>) {
    let (epoch, amount) = charge.map_or((0, 0), |charge| (charge.epoch, charge.amount));
    out.u64(epoch);
    put_value(
        out,
        charge.map(|Charge { slot, inc, .. }| Value { slot, inc }),
    );
    out.u32(amount);
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    out.u32(charge.map_or(0, |charge| {
        flag(charge.drained, CHARGE_DRAINED)
            | flag(charge.several, CHARGE_SEVERAL)
            | flag(charge.vouched, CHARGE_VOUCHED)
    }));
}

fn take_charges(from: &mut FieldReader<'_>) -> Result<Charges, Reject> {
    let mut charges = Charges::NONE;
    let mut ended = false;
    for entry in &mut charges.entries {
        let epoch = from.u64();
        let owner = take_value(from)?;
        let amount = from.u32();
        let flags = from.u32();
        ensure(
            flags & !(CHARGE_DRAINED | CHARGE_SEVERAL | CHARGE_VOUCHED) == 0,
            Reject::Reserved,
        )?;
        let is_sound = flags & CHARGE_VOUCHED == 0 || flags & CHARGE_DRAINED != 0;
        ensure(is_sound, Reject::Field)?;
        match owner {
            Some(owner) if !ended && epoch != 0 => {
                // INVARIANT: `ended` refuses a used entry behind a free one.
                *entry = Some(Charge {
                    drained: flags & CHARGE_DRAINED != 0,
                    several: flags & CHARGE_SEVERAL != 0,
                    vouched: flags & CHARGE_VOUCHED != 0,
                    ..Charge::new(epoch, owner, amount)
                });
            }
            None if epoch == 0 && amount == 0 && flags == 0 => ended = true,
            _ => return Err(Reject::Field),
        }
    }
    charges.partial = match from.u32() {
        0 => false,
        1 => true,
        _ => return Err(Reject::Field),
    };
    Ok(charges)
}

fn take_generations(from: &mut FieldReader<'_>) -> Generations {
    let mut generations = Generations::NONE;
    for generation in &mut generations.0 {
        *generation = from.u32();
    }
    generations
}

/// What a role is called in messages of the tools.
impl fmt::Display for RecordRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secondary => f.write_str("secondary"),
            Self::Claiming => f.write_str("claiming"),
            Self::Owner => f.write_str("owner"),
            Self::Lapsed => f.write_str("lapsed"),
            Self::Released { successor: None } => f.write_str("released"),
            Self::Released {
                successor: Some(slot),
            } => write!(f, "released to {slot}"),
            Self::HandingOver { successor } => write!(f, "handing over to {successor}"),
        }
    }
}

fn take_role(from: &mut FieldReader<'_>) -> Result<RecordRole, Reject> {
    let role = from.u8();
    let successor = match from.u8() {
        0 => None,
        controller => Some(Slot::from_controller(controller).ok_or(Reject::Field)?),
    };
    match (role, successor) {
        (1, None) => Ok(RecordRole::Secondary),
        (2, None) => Ok(RecordRole::Claiming),
        (3, None) => Ok(RecordRole::Owner),
        (4, None) => Ok(RecordRole::Lapsed),
        (5, successor) => Ok(RecordRole::Released { successor }),
        (6, Some(successor)) => Ok(RecordRole::HandingOver { successor }),
        _ => Err(Reject::Field),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{BLOCK_SIZE, ZERO_BLOCK};
    use super::*;

    const ID: BlockId = BlockId {
        uuid: *b"0123456789abcdef",
        member: 2,
        generation: 4,
        slot: Slot(6),
    };

    fn value(slot: u8, inc: u128) -> Value {
        Value {
            slot: Slot::new(slot).unwrap(),
            inc: Incarnation(inc),
        }
    }

    fn ballot(round: u64, slot: u8, inc: u128) -> Ballot {
        Ballot {
            round,
            slot: Slot::new(slot).unwrap(),
            inc: Incarnation(inc),
        }
    }

    fn charge(epoch: u64, slot: u8, amount: u32) -> Charge {
        Charge::new(epoch, value(slot, u128::from(epoch)), amount)
    }

    fn ballot_record(seq: u64) -> BallotRecord {
        let mut charges = Charges::NONE;
        charges.add(charge(5, 63, 2));
        charges.add(charge(7, 0, u32::MAX));
        BallotRecord {
            seq,
            inc: Incarnation(1 << 127),
            boot_id: [0xb0; 16],
            dec: Decided {
                epoch: 9,
                value: Some(value(3, 77)),
            },
            mbal: ballot(4, 6, 1 << 127),
            offer: 17,
            bal: ballot(3, 5, 12),
            val: Some(value(5, 12)),
            limit: LIMIT_UNLIMITED,
            charges,
            failed: 1,
            mark: 123_456_789,
            generations: generations(),
        }
    }

    fn heartbeat_record(role: RecordRole) -> HeartbeatRecord {
        HeartbeatRecord {
            seq: u64::MAX,
            inc: Incarnation(42),
            dec: Decided {
                epoch: 9,
                value: Some(value(6, 42)),
            },
            role,
            hb: 1_000_000,
            open: 3,
            period_ns: 500_000_000,
            reason: 11,
            mark: 987_654_321,
            generations: generations(),
            may_claim: true,
        }
    }

    /// Of three members: the last one was formatted three times.
    fn generations() -> Generations {
        let mut generations = Generations::NONE;
        for (member, generation) in [(0, 1), (1, 1), (2, 4)] {
            generations.note(member, generation);
        }
        generations
    }

    fn encoded<T: Record>(record: &T) -> Block {
        let mut block = [0x55; BLOCK_SIZE];
        encode(record, &ID, &mut block);
        block
    }

    const ROLES: [RecordRole; 7] = [
        RecordRole::Secondary,
        RecordRole::Claiming,
        RecordRole::Owner,
        RecordRole::Lapsed,
        RecordRole::Released { successor: None },
        RecordRole::Released {
            successor: Some(Slot(63)),
        },
        RecordRole::HandingOver {
            successor: Slot(63),
        },
    ];

    #[test]
    fn r41_records_come_back_as_they_were_written() {
        let record = ballot_record(8);
        assert_eq!(decode(&encoded(&record), &ID), Reading::Valid(record));
        let first = BallotRecord {
            dec: Decided::NEVER,
            mbal: Ballot::NONE,
            offer: 0,
            bal: Ballot::NONE,
            val: None,
            charges: Charges::NONE,
            ..record
        };
        assert_eq!(decode(&encoded(&first), &ID), Reading::Valid(first));
        for role in ROLES {
            let record = heartbeat_record(role);
            assert_eq!(decode(&encoded(&record), &ID), Reading::Valid(record));
        }
    }

    #[test]
    fn r26_every_single_bit_flip_makes_it_no_information() {
        fn check<T: Record>(record: &T) {
            let good = encoded(record);
            for bit in 0..BLOCK_SIZE * 8 {
                let mut block = good;
                block[bit / 8] ^= 1 << (bit % 8);
                let reject = if bit / 8 < 8 {
                    Reject::Magic
                } else {
                    Reject::Checksum
                };
                let reading = decode::<T>(&block, &ID);
                assert!(
                    matches!(reading, Reading::Invalid(found) if found == reject),
                    "bit {bit}"
                );
            }
        }
        check(&ballot_record(1));
        check(&heartbeat_record(RecordRole::Owner));
    }

    #[test]
    fn r26_a_torn_block_is_no_information() {
        let (old, new) = (encoded(&ballot_record(8)), encoded(&ballot_record(9)));
        for cut in [16, 64, 100, 500, 512, 4000] {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            if torn != new && torn != old {
                let reading = decode::<BallotRecord>(&torn, &ID);
                assert_eq!(reading, Reading::Invalid(Reject::Checksum), "cut {cut}");
            }
        }
    }

    #[test]
    fn r39_a_block_of_elsewhere_is_no_information() {
        let block = encoded(&ballot_record(8));
        let check = |id: BlockId, reject| {
            assert_eq!(
                decode::<BallotRecord>(&block, &id),
                Reading::Invalid(reject)
            );
        };
        check(
            BlockId {
                uuid: [1; 16],
                ..ID
            },
            Reject::Portion,
        );
        check(BlockId { member: 1, ..ID }, Reject::Member);
        for generation in [3, 5] {
            check(BlockId { generation, ..ID }, Reject::Generation);
        }
        check(
            BlockId {
                slot: Slot(5),
                ..ID
            },
            Reject::Slot,
        );
        let other = decode::<HeartbeatRecord>(&block, &ID);
        assert_eq!(other, Reading::Invalid(Reject::Magic));
        assert_eq!(decode::<BallotRecord>(&ZERO_BLOCK, &ID), Reading::Blank);
    }

    /// Changes one byte behind the codec's back, with a fitting checksum.
    fn patched<T: Record>(record: &T, at: usize, byte: u8) -> Reading<T> {
        let mut block = encoded(record);
        assert_ne!(block[at], byte, "the patch changes nothing");
        block[at] = byte;
        seal(&mut block, CHECKSUM_AT);
        decode(&block, &ID)
    }

    #[test]
    fn r26_what_no_writer_means_is_refused_although_the_checksum_fits() {
        let check = |at, byte, reject| {
            let reading = patched(&ballot_record(8), at, byte);
            assert_eq!(reading, Reading::Invalid(reject), "byte {at}");
        };
        check(8, 1, Reject::Version);
        check(8, 3, Reject::Version);
        check(10, 2, Reject::Register);
        check(13, 1, Reject::Reserved);
        check(20, 1, Reject::Generation);
        // dec: epoch at 80, owner at 88, padding, incarnation at 96.
        check(80, 0, Reject::Field);
        check(88, 0, Reject::Field);
        check(88, 65, Reject::Field);
        check(89, 1, Reject::Reserved);
        // mbal at 112: round, controller; bal at 144; val at 176; limit at 200.
        check(112, 0, Reject::Field);
        check(112, 2, Reject::Field);
        check(120, 0, Reject::Field);
        check(144, 0, Reject::Field);
        check(144, 5, Reject::Field);
        check(176, 0, Reject::Field);
        // Charges of 40 bytes at 204: the third is free, no field of it must be set.
        check(204 + 80, 1, Reject::Field);
        check(204 + 80 + 8, 1, Reject::Field);
        check(204 + 80 + 32, 1, Reject::Field);
        check(204 + 80 + 36, 1, Reject::Field);
        check(204, 0, Reject::Field);
        check(204 + 36, 8, Reject::Reserved);
        // On an operator's word, and not drained.
        check(204 + 36, 4, Reject::Field);
        // Behind them, whether the list is partial; then failed members, offer, mark, generations.
        check(204 + 8 * 40, 2, Reject::Field);
        check(532 + 8 + 64 + 8, 1, Reject::Reserved);
        check(EXTENSION_AT - 1, 1, Reject::Reserved);
    }

    #[test]
    fn r41_the_extension_area_is_ignored_and_the_checksum_covers_it() {
        let (ballot, beat) = (ballot_record(8), heartbeat_record(RecordRole::Owner));
        for at in [EXTENSION_AT, EXTENSION_AT + 500, BLOCK_SIZE - 1] {
            assert_eq!(patched(&ballot, at, 0xee), Reading::Valid(ballot));
            assert_eq!(patched(&beat, at, 0xee), Reading::Valid(beat));
            let mut damaged = encoded(&ballot);
            damaged[at] ^= 1;
            let reading = decode::<BallotRecord>(&damaged, &ID);
            assert_eq!(reading, Reading::Invalid(Reject::Checksum), "byte {at}");
        }
    }

    #[test]
    fn r56_the_highest_generation_of_each_member_is_remembered() {
        let mut known = generations();
        assert_eq!([0, 1, 2, 3].map(|member| known.of(member)), [1, 1, 4, 0]);
        assert!(!known.note(2, 4) && !known.note(2, 3) && !known.note(16, 9));
        assert_eq!((known, known.of(16)), (generations(), 0));
        let mut other = Generations::NONE;
        assert!(other.note(1, 2) && other.note(2, 3));
        assert!(known.merge(&other) && !known.merge(&other));
        assert_eq!([0, 1, 2, 3].map(|member| known.of(member)), [1, 2, 4, 0]);
    }

    #[test]
    fn r56_a_generation_is_settled_until_there_is_a_higher_one() {
        let mut known = generations();
        known.settle(2);
        assert!(known.is_settled(2) && !known.is_settled(1));
        assert_eq!(known.of(2), 4);
        assert!(!known.merge(&generations()), "others do not know it yet");
        let mut other = generations();
        assert!(other.merge(&known) && other.is_settled(2));
        assert!(!other.note(2, 4) && other.is_settled(2));
        assert!(other.note(2, 5) && !other.is_settled(2));
        assert!(known.merge(&other) && !known.is_settled(2));
        assert_eq!(known.of(2), 5);
        known.settle(16);
        assert!(!known.is_settled(16));
    }

    #[test]
    fn r26_impossible_roles_are_refused_although_the_checksum_fits() {
        let check = |at, byte| {
            let reading = patched(&heartbeat_record(RecordRole::Owner), at, byte);
            assert_eq!(reading, Reading::Invalid(Reject::Field), "byte {at}");
        };
        // dec at 64 takes 32 bytes, then role and successor.
        check(96, 0);
        check(96, 6);
        check(96, 7);
        check(97, 1);
        check(97, 65);
        for role in ROLES {
            let never = HeartbeatRecord {
                dec: Decided::NEVER,
                ..heartbeat_record(role)
            };
            let reading = decode::<HeartbeatRecord>(&encoded(&never), &ID);
            match role {
                RecordRole::Secondary | RecordRole::Claiming => {
                    assert_eq!(reading, Reading::Valid(never));
                }
                _ => assert_eq!(reading, Reading::Invalid(Reject::Field)),
            }
        }
    }

    #[test]
    fn r41_the_newest_valid_block_counts() {
        let (old, new) = (ballot_record(8), ballot_record(9));
        let torn = Reading::Invalid(Reject::Checksum);
        let valid = Reading::Valid;
        assert_eq!(newest(valid(old), valid(new)), (valid(new), Some(Side::B)));
        assert_eq!(newest(valid(new), valid(old)), (valid(new), Some(Side::A)));
        assert_eq!(newest(valid(old), torn), (valid(old), Some(Side::A)));
        assert_eq!(newest(torn, valid(old)), (valid(old), Some(Side::B)));
        assert_eq!(
            newest(valid(old), Reading::Blank),
            (valid(old), Some(Side::A))
        );
        assert_eq!(
            newest(Reading::Blank, valid(old)),
            (valid(old), Some(Side::B))
        );
        let blank = Reading::Blank;
        assert_eq!(newest::<BallotRecord>(blank, torn), (blank, None));
        assert_eq!(newest::<BallotRecord>(torn, blank), (blank, None));
        assert_eq!(newest::<BallotRecord>(torn, torn), (torn, None));
        let blank = (Reading::Blank, None);
        assert_eq!(
            newest::<BallotRecord>(Reading::Blank, Reading::Blank),
            blank
        );
        assert_eq!(newest(valid(old), valid(old)), (valid(old), Some(Side::A)));
        let clash = BallotRecord { limit: 1, ..old };
        let none = (Reading::Invalid(Reject::Clash), None);
        assert_eq!(newest(valid(old), valid(clash)), none);
    }

    #[test]
    fn r41_the_next_write_spares_the_newest_valid_block() {
        assert_eq!(target(Some(Side::A)), Side::B);
        assert_eq!(target(Some(Side::B)), Side::A);
        assert_eq!(target(None), Side::A);
    }

    #[test]
    fn r28_ballots_compare_by_round_then_slot_then_incarnation() {
        let rising = [
            Ballot::NONE,
            ballot(1, 0, 0),
            ballot(1, 0, 9),
            ballot(1, 1, 0),
            ballot(2, 0, 0),
        ];
        assert!(rising.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(Ballot::NONE.is_none() && !Ballot::NONE.is_some());
    }

    #[test]
    fn r26_only_a_block_that_nobody_wrote_is_blank() {
        assert!(Reading::<BallotRecord>::Blank.is_blank());
        assert!(!Reading::Valid(ballot_record(1)).is_blank());
        assert!(!Reading::<BallotRecord>::Invalid(Reject::Checksum).is_blank());
    }

    #[test]
    fn r21_two_records_of_one_term_are_joined() {
        let state = |drained, several, amount| Charge {
            drained,
            several,
            ..charge(1, 0, amount)
        };
        for (one, other, joined) in [
            (
                state(true, false, 2),
                state(false, false, 7),
                state(true, false, 7),
            ),
            (
                state(true, true, 2),
                state(false, true, 7),
                state(true, true, 7),
            ),
            (
                state(true, true, 2),
                state(false, false, 7),
                state(true, true, 7),
            ),
            // That the last term has drained says nothing about the terms before it.
            (
                state(true, false, 2),
                state(false, true, 7),
                state(false, true, 7),
            ),
        ] {
            for (first, second) in [(one, other), (other, one)] {
                let mut charges = Charges::NONE;
                charges.add(first);
                charges.add(second);
                assert!(charges.iter().eq([joined]), "{first:?} {second:?}");
            }
        }
        assert!(!state(true, false, 2).shows_drained(&state(false, true, 7)));
        assert!(state(true, true, 2).shows_drained(&state(false, true, 7)));
    }

    #[test]
    fn r21_an_operators_word_holds_where_both_records_have_it_and_evidence_in_one_is_enough() {
        let says = |drained, vouched| Charge {
            drained,
            vouched,
            ..charge(1, 0, 2)
        };
        let (open, word, shown) = (says(false, false), says(true, true), says(true, false));
        for (one, other, joined) in [
            (open, word, open),
            (word, word, word),
            (open, shown, shown),
            (word, shown, shown),
        ] {
            for pair in [[one, other], [other, one]] {
                let mut charges = Charges::NONE;
                pair.into_iter().for_each(|charge| charges.add(charge));
                assert!(charges.iter().eq([joined]), "{pair:?}");
            }
        }
    }

    /// Nobody could take the word about one of two owners back: it does not count for both.
    #[test]
    fn r21_an_operators_word_does_not_make_room() {
        let mut charges = full(&[], false);
        charges.update(|charge| {
            (charge.drained, charge.vouched) = (charge.epoch < 3, charge.epoch < 3);
        });
        charges.add(charge(9, 1, 2));
        let both = Charge {
            several: true,
            ..charge(2, 1, 4)
        };
        assert!(charges.iter().any(|charge| charge == both));
    }

    /// The next owner reads whether evidence or an operator says that a term is drained.
    #[test]
    fn r21_what_is_known_of_a_charge_comes_back_from_a_record() {
        for (drained, vouched) in [(false, false), (true, false), (true, true)] {
            for several in [false, true] {
                let mut record = ballot_record(8);
                record.charges = Charges::NONE;
                record.charges.add(Charge {
                    drained,
                    vouched,
                    several,
                    ..charge(5, 1, 2)
                });
                let reading = decode::<BallotRecord>(&encoded(&record), &ID);
                assert_eq!(reading, Reading::Valid(record));
            }
        }
    }

    #[test]
    fn r21_charges_are_kept_until_they_are_taken_off() {
        let mut charges = Charges::NONE;
        for epoch in 1..=MAX_CHARGES as u64 {
            charges.add(charge(epoch, 1, 2));
        }
        assert_eq!((charges.len(), charges.total()), (8, 16));
        // The same term again: the larger amount counts, once.
        charges.add(charge(3, 1, 5));
        charges.add(charge(3, 1, 1));
        assert_eq!((charges.len(), charges.total()), (8, 19));
        charges.retain(|charge| charge.epoch % 2 == 0);
        assert!(charges.iter().map(|charge| charge.epoch).eq([2, 4, 6, 8]));
        charges.add(charge(11, 1, u32::MAX));
        assert_eq!(charges.total(), u32::MAX);
        charges.retain(|_| false);
        assert!(charges.is_empty());
    }

    /// A full list of terms of different incarnations, `drained` if their epoch is among these.
    fn full(drained: &[u64], reversed: bool) -> Charges {
        let mut charges = Charges::NONE;
        for number in 1..=MAX_CHARGES as u64 {
            let epoch = if reversed { 9 - number } else { number };
            charges.add(Charge {
                drained: drained.contains(&epoch),
                ..charge(epoch, 1, 2)
            });
            assert_eq!(charges.len() as u64, number, "none becomes one so far");
        }
        charges
    }

    fn epochs(charges: &Charges) -> Vec<u64> {
        let mut epochs: Vec<u64> = charges.iter().map(|charge| charge.epoch).collect();
        epochs.sort_unstable();
        epochs
    }

    #[test]
    fn r21_in_a_full_list_two_drained_terms_become_one() {
        for reversed in [false, true] {
            let mut charges = full(&[2, 5], reversed);
            charges.add(charge(3, 1, 1));
            assert_eq!(charges, full(&[2, 5], reversed), "it has its place already");
            charges.add(charge(9, 1, 2));
            let both = Charge {
                drained: true,
                ..charge(5, 1, 4)
            };
            assert!(charges.iter().any(|charge| charge == both));
            assert_eq!(epochs(&charges), [1, 3, 4, 5, 6, 7, 8, 9]);
            assert_eq!(charges.total(), 18);
        }
    }

    /// What drains the later of two terms of one incarnation drains the earlier one as well.
    #[test]
    fn r21_in_a_full_list_two_terms_of_one_incarnation_become_one() {
        let same = Charge {
            epoch: 9,
            ..charge(4, 1, 3)
        };
        let mut charges = full(&[], false);
        charges.add(same);
        let both = Charge { amount: 5, ..same };
        assert!(charges.iter().any(|charge| charge == both));
        assert_eq!(epochs(&charges), [1, 2, 3, 5, 6, 7, 8, 9]);
        // Drained is what both are: the later term may have more under way.
        let mut charges = full(&[4], false);
        charges.add(same);
        assert!(charges.iter().any(|charge| charge == both));
    }

    /// Nothing fits: two terms become one, which the evidence of neither drains.
    #[test]
    fn r21_a_full_list_takes_one_charge_more_and_charges_as_much() {
        for reversed in [false, true] {
            let mut charges = full(&[7], reversed);
            charges.add(charge(9, 1, 2));
            let both = Charge {
                several: true,
                ..charge(2, 1, 4)
            };
            assert!(charges.iter().any(|charge| charge == both));
            assert_eq!(epochs(&charges), [2, 3, 4, 5, 6, 7, 8, 9]);
            assert_eq!(charges.total(), 18);
            // It goes on like that, and what stood for two stands for three.
            charges.add(charge(10, 1, u32::MAX - 1));
            assert_eq!((charges.len(), charges.total()), (8, u32::MAX));
            assert!(charges.iter().any(|it| it.several && it.amount == 6));
        }
    }

    #[test]
    fn r21_lists_of_any_terms_are_joined_without_loss() {
        let (mut one, other) = (full(&[2, 3], false), full(&[5], true));
        let mut later = Charges::NONE;
        for charge in other.iter() {
            later.add(Charge {
                epoch: charge.epoch + 20,
                inc: Incarnation(u128::from(charge.epoch + 20)),
                ..charge
            });
        }
        one.merge(&later);
        assert_eq!((one.len(), one.total()), (8, 32));
    }

    #[test]
    fn r36_an_incarnation_is_shown_as_32_digits() {
        let shown = std::format!("{}", Incarnation(0xc0ffee));
        assert_eq!(shown, "00000000000000000000000000c0ffee");
    }

    #[test]
    fn r28_slots_are_controllers_1_to_64() {
        assert_eq!(Slot::from_controller(0), None);
        assert_eq!(Slot::from_controller(65), None);
        assert_eq!(Slot::new(64), None);
        for controller in 1..=64 {
            let slot = Slot::from_controller(controller).unwrap();
            assert_eq!(slot.controller(), controller);
            assert_eq!(slot.bit(), 1 << (controller - 1));
        }
        let bitmap = 1 | (1 << 5) | (1 << 63);
        assert!(Slot::all_in(bitmap).map(Slot::controller).eq([1, 6, 64]));
    }
}
