// SPDX-License-Identifier: GPL-2.0
//! Tests of both records, as they are written and as they are read.

use super::*;
use crate::proto::codec::ballot::*;
use crate::proto::codec::block::{BLOCK_SIZE, ZERO_BLOCK};
use crate::proto::codec::charge_list::*;
use crate::proto::codec::heartbeat::*;
use crate::proto::codec::ids::*;

const fn slot(index: u8) -> Slot {
    match Slot::new(index) {
        Some(slot) => slot,
        None => panic!(),
    }
}

const ID: BlockId = BlockId {
    uuid: *b"0123456789abcdef",
    member: 2,
    generation: 4,
    slot: slot(6),
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
        successor: Some(slot(63)),
    },
    RecordRole::HandingOver {
        successor: slot(63),
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
            slot: slot(5),
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
fn r26_impossible_values_are_refused_although_the_checksum_fits() {
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
fn r26_only_a_block_that_was_never_written_is_blank() {
    assert!(Reading::<BallotRecord>::Blank.is_blank());
    assert!(!Reading::Valid(ballot_record(1)).is_blank());
    assert!(!Reading::<BallotRecord>::Invalid(Reject::Checksum).is_blank());
}

#[test]
fn r21_a_charge_comes_back_from_a_record_as_it_was_written() {
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
