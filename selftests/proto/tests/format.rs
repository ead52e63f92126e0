// SPDX-License-Identifier: GPL-2.0
//! The blocks on a member, byte by byte. Controllers with different versions of the module share
//! these blocks, so every version must read what any other one writes.
//!
//! Each block is put together here by hand, from the tables at the head of `record.rs` and
//! `superblock.rs`, with a checksum that another program computed. If a test fails, the format has
//! changed: then its version must change, too.

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{Block, BLOCK_SIZE};
use dm_lease_proto::proto::codec::charge_list::{Charge, Charges};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use dm_lease_proto::proto::codec::record::{decode, encode, BlockId, Reading, Record, Reject};
use dm_lease_proto::proto::codec::superblock::{self, Name, Superblock, SuperblockError};
use dm_lease_proto::proto::limit::{Counting, Exhausted, Redundancy, RedundancyKind};
use dm_lease_proto::proto::time::Timing;
use std::fmt::Debug;

const MS: u64 = 1_000_000;
const UUID: [u8; 16] = *b"\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf";
const SEQ: u64 = 0x0102_0304_0506_0708;
const INC: u128 = 0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20;

/// A block that is zero except for some numbers and texts.
struct ByHand(Block);

impl ByHand {
    fn new(magic: &[u8; 8], crc: u32) -> Self {
        Self([0; BLOCK_SIZE]).at(0, magic).u32(16, crc)
    }

    /// The head of a record in the mailbox of controller 7 on member 2.
    fn record(magic: &[u8; 8], register: u8, crc: u32) -> Self {
        Self::new(magic, crc)
            .u16(8, 2)
            .at(10, &[register, 2, 7])
            .u32(20, 4)
            .at(24, &UUID)
            .u64(40, SEQ)
            .u128(48, INC)
    }

    fn at(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u16(self, at: usize, number: u16) -> Self {
        self.at(at, &number.to_le_bytes())
    }

    fn u32(self, at: usize, number: u32) -> Self {
        self.at(at, &number.to_le_bytes())
    }

    fn u64(self, at: usize, number: u64) -> Self {
        self.at(at, &number.to_le_bytes())
    }

    fn u128(self, at: usize, number: u128) -> Self {
        self.at(at, &number.to_le_bytes())
    }

    /// A controller and its incarnation.
    fn value(self, at: usize, controller: u8, inc: u128) -> Self {
        self.at(at, &[controller]).u128(at + 8, inc)
    }
}

fn slot(controller: u8) -> Slot {
    Slot::from_controller(controller).unwrap()
}

fn value(controller: u8, inc: u128) -> Value {
    Value {
        slot: slot(controller),
        inc: Incarnation(inc),
    }
}

fn ballot(round: u64, controller: u8, inc: u128) -> Ballot {
    Ballot {
        round,
        slot: slot(controller),
        inc: Incarnation(inc),
    }
}

/// The generations of members 0, 1, 2 and 15.
fn generations() -> Generations {
    let mut generations = Generations::NONE;
    for (member, generation) in [(0, 1), (1, 1), (2, 4), (15, 9)] {
        generations.note(member, generation);
    }
    generations
}

/// The place of all records in this file: the mailbox of controller 7 on member 2.
fn id() -> BlockId {
    BlockId {
        uuid: UUID,
        member: 2,
        generation: 4,
        slot: slot(7),
    }
}

/// Finds the first byte that differs, which is easier to read than a difference of two blocks.
fn same(written: &Block, by_hand: &Block) {
    let differs = (0..BLOCK_SIZE).find(|&at| written[at] != by_hand[at]);
    assert_eq!(differs, None, "the place of the first byte that differs");
}

fn is_laid_out<T: Record + Debug + PartialEq>(record: &T, by_hand: &ByHand) {
    let mut block = [0x55; BLOCK_SIZE];
    encode(record, &id(), &mut block);
    same(&block, &by_hand.0);
    match decode::<T>(&by_hand.0, &id()) {
        Reading::Valid(read) => assert_eq!(&read, record),
        _ => panic!("the block is not accepted"),
    }
}

#[test]
fn r41_a_ballot_block_byte_by_byte() {
    let mut charges = Charges::NONE.with_partial(true);
    let drained = Charge {
        drained: true,
        ..Charge::new(5, value(64, 5), 2)
    };
    charges.add(drained);
    charges.add(Charge::new(7, value(1, 7), u32::MAX));
    let record = BallotRecord {
        seq: SEQ,
        inc: Incarnation(INC),
        boot_id: [0xb0; 16],
        dec: Decided {
            epoch: 9,
            value: Some(value(4, 77)),
        },
        mbal: ballot(4, 7, INC),
        offer: 0x3132_3334_3536_3738,
        bal: ballot(3, 6, 12),
        val: Some(value(6, 12)),
        limit: 5,
        charges,
        failed: 2,
        mark: 0x2122_2324_2526_2728,
        generations: generations(),
    };
    let by_hand = ByHand::record(b"dmLsBALT", 1, 0x5b78_24df)
        .at(64, &[0xb0; 16])
        .u64(80, 9)
        .value(88, 4, 77)
        .u64(112, 4)
        .value(120, 7, INC)
        .u64(144, 3)
        .value(152, 6, 12)
        .value(176, 6, 12)
        .u32(200, 5)
        // Eight charges of 40 bytes, and the flag of a partial list.
        .u64(204, 5)
        .value(212, 64, 5)
        .u32(236, 2)
        .u32(240, 1)
        .u64(244, 7)
        .value(252, 1, 7)
        .u32(276, u32::MAX)
        .u32(524, 1)
        .u32(528, 2)
        .u64(532, 0x3132_3334_3536_3738)
        .u64(540, 0x2122_2324_2526_2728)
        // Sixteen generations.
        .u32(548, 1)
        .u32(552, 1)
        .u32(556, 4)
        .u32(608, 9);
    is_laid_out(&record, &by_hand);
}

#[test]
fn r41_a_heartbeat_block_byte_by_byte() {
    let record = HeartbeatRecord {
        seq: SEQ,
        inc: Incarnation(INC),
        dec: Decided {
            epoch: 9,
            value: Some(value(7, INC)),
        },
        role: RecordRole::HandingOver {
            successor: slot(64),
        },
        hb: 1_000_000,
        open: 3,
        period_ns: 500 * MS,
        reason: 11,
        may_claim: true,
        mark: 0x2122_2324_2526_2728,
        generations: generations(),
    };
    let by_hand = ByHand::record(b"dmLsBEAT", 2, 0x24cd_e2f7)
        .u64(64, 9)
        .value(72, 7, INC)
        .at(96, &[6, 64, 11, 1])
        .u32(100, 3)
        .u64(104, 1_000_000)
        .u64(112, 500 * MS)
        .u64(120, 0x2122_2324_2526_2728)
        .u32(128, 1)
        .u32(132, 1)
        .u32(136, 4)
        .u32(188, 9);
    is_laid_out(&record, &by_hand);
}

#[test]
fn r39_a_superblock_byte_by_byte() {
    let superblock = Superblock {
        minor: 0,
        compat: 0x10,
        ro_compat: 0,
        incompat: 1,
        uuid: UUID,
        name: Name::new("tank.0").unwrap(),
        member: 1,
        members: 3,
        replacement: true,
        controllers: 0b111,
        home: slot(2),
        timing: Timing {
            lease_ns: 2_000 * MS,
            window_ns: 3_002_501_001,
            device_delay_ns: 1_000 * MS,
            drift_ppm: 500,
            lost_heartbeats: 1,
            period_max_ns: 500 * MS,
            error_report_ns: 400 * MS,
            write_ns: 100 * MS,
            read_ns: 90 * MS,
            jitter_ns: 50 * MS,
        },
        redundancy: Redundancy {
            kind: RedundancyKind::Parity(3),
            detect: true,
            batch: 2,
            counting: Counting::Stripe { chunk_sectors: 128 },
            exhausted: Exhausted::Window,
            drain_ns: Some(30_000 * MS),
        },
        data_offset_sectors: 16_384,
        data_length_sectors: 1 << 20,
        member_sectors: (1 << 20) + 40_000,
        generation: 7,
        formatted_s: 1_800_000_000,
    };
    let by_hand = ByHand::new(b"dmLsSUPR", 0x1b92_48d4)
        .u16(8, 1)
        .u32(12, 0x10)
        .u32(24, 1)
        .at(32, &UUID)
        .at(48, b"tank.0")
        .at(80, &[1, 3, 1, 2])
        .u64(88, 0b111)
        .u64(96, 2_000 * MS)
        .u64(104, 3_002_501_001)
        .u64(112, 1_000 * MS)
        .u64(120, 500 * MS)
        .u64(128, 400 * MS)
        .u64(136, 100 * MS)
        .u64(144, 90 * MS)
        .u64(152, 50 * MS)
        .u32(160, 500)
        .u32(164, 1)
        .at(168, &[1, 3, 1, 2, 2])
        .u32(176, 2)
        .u32(180, 128)
        .u64(184, 30_000 * MS)
        .u64(192, 16_384)
        .u64(200, 1 << 20)
        .u64(208, (1 << 20) + 40_000)
        .u64(216, 7)
        .u64(224, 1_800_000_000);
    let mut block = [0xaa; BLOCK_SIZE];
    superblock::encode(&superblock, &mut block);
    same(&block, &by_hand.0);
    assert_eq!(superblock::decode(&by_hand.0), Ok(superblock));
    // The same member in format 1, as an earlier version of this code wrote it.
    let of_format_1 = by_hand.u32(24, 0).u32(16, 0xd494_38b1);
    let refusal = superblock::decode(&of_format_1.0);
    assert_eq!(refusal, Err(SuperblockError::Outdated));
}

/// An earlier version of this code wrote this heartbeat.
#[test]
fn r26_a_record_of_version_1_is_no_information() {
    let by_hand = ByHand::record(b"dmLsBEAT", 2, 0xb37f_e649)
        .u16(8, 1)
        .u32(20, 0)
        .u64(64, 9)
        .value(72, 7, INC)
        .at(96, &[6, 64, 11])
        .u32(100, 3)
        .u64(104, 1_000_000)
        .u64(112, 500 * MS);
    let reading = decode::<HeartbeatRecord>(&by_hand.0, &id());
    assert_eq!(reading, Reading::Invalid(Reject::Version));
}
