// SPDX-License-Identifier: GPL-2.0
//! The codecs and the arithmetic of the core against random input.
//!
//! A record that is written comes back, damage is noticed, and garbage is refused without a panic.
//! The integer arithmetic agrees with exact 128-bit arithmetic, which the module itself may not
//! use. A failing case is printed with its input and kept as a seed beside this file.

#[path = "inputs/blocks.rs"]
mod inputs;
#[path = "properties/blocks.rs"]
mod properties;
#[path = "properties/refusals.rs"]
mod refusals;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{seal, Block, BLOCK_SIZE};
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Decided, Incarnation, Side, Value};
use dm_lease_proto::proto::codec::record::{self, newest, BlockId, Reading, Record};
use dm_lease_proto::proto::codec::superblock::{self, SuperblockError};
use dm_lease_proto::proto::limit::{Exhausted, Limit};
use dm_lease_proto::proto::time::Timing;
use inputs::{ballot_records, heartbeat_records, ids, redundancies, superblocks, timings};
use properties::{place_of, registers_are_sound, superblocks_are_sound};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::fmt::Debug;

fn encoded<T: Record>(record: &T, id: &BlockId) -> Block {
    let mut block = [0xee; BLOCK_SIZE];
    record::encode(record, id, &mut block);
    block
}

fn comes_back<T: Record + std::fmt::Debug>(record: &T, id: &BlockId) -> Result<(), TestCaseError> {
    let read = record::decode::<T>(&encoded(record, id), id);
    prop_assert!(read == Reading::Valid(*record), "{:?}", read);
    Ok(())
}

/// A block with other bytes at some places, and perhaps with a matching checksum.
fn changed(mut block: Block, changes: &[(usize, u8)], is_sealed: bool) -> Block {
    for (at, byte) in changes {
        block[*at] = *byte;
    }
    if is_sealed {
        seal(&mut block, 16);
    }
    block
}

/// Flips the given bits. Returns whether that changed the block (two flips of one bit do not).
fn flip(block: &mut Block, bits: &[usize]) -> bool {
    let before = *block;
    for &bit in bits {
        block[bit / 8] ^= 1 << (bit % 8);
    }
    before != *block
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn r41_ballot_records_come_back(record in ballot_records(), id in ids()) {
        comes_back(&record, &id)?;
    }

    #[test]
    fn r41_heartbeat_records_come_back(record in heartbeat_records(), id in ids()) {
        comes_back(&record, &id)?;
    }

    #[test]
    fn r39_superblocks_come_back(superblock in superblocks()) {
        let mut block = [0xee; BLOCK_SIZE];
        superblock::encode(&superblock, &mut block);
        prop_assert_eq!(superblock::decode(&block), Ok(superblock));
    }

    #[test]
    fn r26_damage_is_noticed(
        record in heartbeat_records(),
        id in ids(),
        bits in vec(0..BLOCK_SIZE * 8, 1..=5),
    ) {
        let mut block = encoded(&record, &id);
        if flip(&mut block, &bits) {
            let read = record::decode::<HeartbeatRecord>(&block, &id);
            prop_assert!(matches!(read, Reading::Invalid(_)), "{:?}", read);
        }
    }

    #[test]
    fn r26_a_record_is_read_only_where_it_was_written(
        record in ballot_records(),
        (written, read) in (ids(), ids()),
    ) {
        let block = encoded(&record, &written);
        let reading = record::decode::<BallotRecord>(&block, &read);
        prop_assert_eq!(reading.valid().is_some(), written == read);
        let other = record::decode::<HeartbeatRecord>(&block, &written);
        prop_assert!(other.valid().is_none());
    }

    /// Garbage behind a good checksum, as a faulty or hostile peer could write it: if a block is
    /// accepted, it must be its own encoding, so that no unknown content is carried along.
    #[test]
    fn r26_garbage_behind_a_good_checksum_is_refused_or_canonical(
        (one, two) in (ballot_records(), heartbeat_records()),
        id in ids(),
        changes in vec((8..700_usize, any::<u8>()), 1..=4),
        are_sealed in any::<bool>(),
    ) {
        let changed = |block: Block| changed(block, &changes, are_sealed);
        for block in [encoded(&one, &id), encoded(&two, &id)] {
            registers_are_sound([&block, &changed(block)], &place_of(&block));
        }
    }

    #[test]
    fn r39_a_superblock_behind_a_good_checksum_is_refused_or_canonical(
        superblock in superblocks(),
        changes in vec((8..256_usize, any::<u8>()), 1..=4),
        are_sealed in any::<bool>(),
    ) {
        let mut block = [0; BLOCK_SIZE];
        superblock::encode(&superblock, &mut block);
        superblocks_are_sound([&block, &changed(block, &changes, are_sealed)]);
    }

    #[test]
    fn r26_random_blocks_are_refused_without_a_panic(
        mut bytes in vec(any::<u8>(), BLOCK_SIZE),
        id in ids(),
        magic in prop_oneof![Just(b"dmLsBALT"), Just(b"dmLsBEAT"), Just(b"dmLsSUPR")],
        sealed in any::<bool>(),
    ) {
        bytes[..8].copy_from_slice(magic);
        let mut block: Block = bytes.try_into().unwrap();
        if sealed {
            seal(&mut block, 16);
        }
        prop_assert!(record::decode::<BallotRecord>(&block, &id).valid().is_none());
        prop_assert!(record::decode::<HeartbeatRecord>(&block, &id).valid().is_none());
        prop_assert!(superblock::decode(&block).is_err());
    }

    /// A write that is torn at any place, over the older block of a register, never hides the newer
    /// block.
    #[test]
    fn r41_a_torn_write_leaves_the_newest_record_readable(
        (record, next) in (ballot_records(), ballot_records()),
        id in ids(),
        seq in 1..u64::MAX,
        cut in 0..=BLOCK_SIZE,
    ) {
        let old = encoded(&BallotRecord { seq: seq - 1, ..record }, &id);
        let last = BallotRecord { seq, ..record };
        let next = BallotRecord { seq: seq + 1, ..next };
        let mut torn = old;
        torn[..cut].copy_from_slice(&encoded(&next, &id)[..cut]);
        let a = record::decode::<BallotRecord>(&torn, &id);
        let b = record::decode::<BallotRecord>(&encoded(&last, &id), &id);
        let (reading, side) = newest(a, b);
        if a == Reading::Valid(next) {
            prop_assert_eq!((reading, side), (a, Some(Side::A)));
        } else {
            prop_assert_eq!((reading, side), (Reading::Valid(last), Some(Side::B)));
        }
    }

    #[test]
    fn r10_accepted_timings_satisfy_both_inequalities_exactly(timing in timings()) {
        prop_assert_eq!(timing.validate(), Ok(()));
        // Multiplied out, so that no term is rounded: W >= L(1+rho)/(1-rho) + (1+rho)D.
        let big = |ns: u64| u128::from(ns);
        let (million, rho) = (1_000_000_u128, u128::from(timing.drift_ppm));
        let window = big(timing.window_ns) * million * (million - rho);
        let lease = big(timing.lease_ns) * (million + rho) * million;
        let delay = big(timing.device_delay_ns) * (million + rho) * (million - rho);
        prop_assert!(window >= lease + delay);
        let beat = big(timing.write_ns) + big(timing.read_ns) + big(timing.jitter_ns);
        let ordinary = 2 * big(timing.period_max_ns).max(beat) + beat;
        let lost = big(timing.period_max_ns.max(timing.error_report_ns));
        prop_assert!(big(timing.lease_ns) > ordinary + big(timing.lost_heartbeats.into()) * lost);
        prop_assert!(timing.join_listen_ns() >= timing.window_ns);
    }

    #[test]
    fn r10_timings_below_the_smallest_are_refused(timing in timings(), less in 1..=1_000_u64) {
        let lease_ns = timing.needed_lease_ns(timing.period_max_ns) - less.min(timing.lease_ns);
        let short_lease = Timing { lease_ns, ..timing };
        prop_assert!(short_lease.validate().is_err());
        let window_ns = timing.needed_window_ns() - less.min(timing.window_ns);
        let short_window = Timing { window_ns, ..timing };
        prop_assert!(short_window.validate().is_err());
    }

    #[test]
    fn r10_no_timing_makes_the_arithmetic_panic(
        (lease_ns, window_ns, device_delay_ns, period_max_ns) in any::<(u64, u64, u64, u64)>(),
        (error_report_ns, write_ns, read_ns, jitter_ns) in any::<(u64, u64, u64, u64)>(),
        (drift_ppm, lost_heartbeats) in any::<(u32, u32)>(),
    ) {
        let timing = Timing {
            lease_ns, window_ns, device_delay_ns, drift_ppm, lost_heartbeats, period_max_ns,
            error_report_ns, write_ns, read_ns, jitter_ns,
        };
        let _ = timing.validate().map_err(|error| error.to_string());
        let _ = timing.period_fits(period_max_ns);
        prop_assert!(timing.join_listen_ns() >= window_ns);
    }

    #[test]
    fn r14_the_limit_never_exceeds_what_is_repairable(
        redundancy in redundancies(),
        (failed, charged) in (0..300_u32, 0..300_u32),
        batch in option::of(1..300_u32),
    ) {
        prop_assert_eq!(redundancy.validate(), Ok(()));
        let limit = redundancy.limit(failed, charged, batch);
        prop_assert_eq!(Limit::from_wire(limit.to_wire()), limit);
        let Some(m) = redundancy.kind.failures() else { return Ok(()); };
        let cost = if redundancy.detect { 1 } else { 2 };
        match limit {
            Limit::Count(0) => prop_assert_eq!(redundancy.exhausted, Exhausted::Stop),
            Limit::Count(count) => {
                prop_assert!(cost * (count + charged) + failed <= m);
                prop_assert!(count <= redundancy.batch && count <= batch.unwrap_or(u32::MAX));
            }
            Limit::Window => prop_assert!(cost * (charged + 1) + failed > m),
            Limit::Unlimited => prop_assert!(false, "only external redundancy has no limit"),
        }
    }
}

/// One value of a strategy, the same in every run.
fn one<T: Debug>(strategy: impl Strategy<Value = T>) -> T {
    let tree = strategy.new_tree(&mut TestRunner::deterministic());
    tree.expect("nothing is filtered").current()
}

/// Every block that differs from this one in a single bit.
fn with_one_bit_flipped(block: &Block) -> impl Iterator<Item = Block> + '_ {
    (0..BLOCK_SIZE * 8).map(|bit| {
        let mut flipped = *block;
        flip(&mut flipped, &[bit]);
        flipped
    })
}

#[test]
fn r39_no_superblock_is_accepted_with_a_bit_flipped() {
    let mut block = [0; BLOCK_SIZE];
    superblock::encode(&one(superblocks()), &mut block);
    assert!(superblock::decode(&block).is_ok());
    let (mut magic, mut checksum) = (0, 0);
    for flipped in with_one_bit_flipped(&block) {
        match superblock::decode(&flipped) {
            Err(SuperblockError::Magic) => magic += 1,
            Err(SuperblockError::Checksum) => checksum += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((magic, checksum), (8 * 8, (BLOCK_SIZE - 8) * 8));
}

/// A register with a flipped bit in one block has the content of its other block.
fn no_flip_changes_the_owner<T: Record + Debug>(older: &T, newer: &T, id: &BlockId) {
    let [a, b] = [older, newer].map(|record| encoded(record, id));
    let (older, newer) = (Reading::Valid(*older), Reading::Valid(*newer));
    for flipped in with_one_bit_flipped(&a) {
        let flipped = record::decode::<T>(&flipped, id);
        assert!(matches!(flipped, Reading::Invalid(_)), "{flipped:?}");
        assert_eq!(newest(flipped, newer), (newer, Some(Side::B)));
    }
    for flipped in with_one_bit_flipped(&b) {
        let flipped = record::decode::<T>(&flipped, id);
        assert!(matches!(flipped, Reading::Invalid(_)), "{flipped:?}");
        assert_eq!(newest(older, flipped), (older, Some(Side::A)));
    }
}

/// All four blocks of the mailbox of an owner.
#[test]
fn r26_no_flipped_bit_of_a_mailbox_gives_another_owner() {
    let id = one(ids());
    let dec = Decided {
        epoch: 7,
        value: Some(Value {
            slot: id.slot,
            inc: Incarnation((1 << 100) | 5),
        }),
    };
    let (seq, inc) = (41, Incarnation((1 << 100) | 5));
    let older = BallotRecord {
        seq,
        inc,
        dec,
        ..one(ballot_records())
    };
    let newer = BallotRecord {
        seq: seq + 1,
        ..older
    };
    no_flip_changes_the_owner(&older, &newer, &id);
    let older = HeartbeatRecord {
        seq,
        inc,
        dec,
        role: RecordRole::Owner,
        ..one(heartbeat_records())
    };
    let hb = older.hb.wrapping_add(1);
    let newer = HeartbeatRecord {
        seq: seq + 1,
        hb,
        ..older
    };
    no_flip_changes_the_owner(&older, &newer, &id);
}

/// A single flipped bit behind a good checksum, which only a faulty writer could produce. The block
/// is accepted only at its own place, and only if this code knows every field of it.
#[test]
fn r26_a_bit_flipped_by_the_writer_is_refused_or_canonical() {
    let id = one(ids());
    let mut superblock = [0; BLOCK_SIZE];
    superblock::encode(&one(superblocks()), &mut superblock);
    let ballot = encoded(&one(ballot_records()), &id);
    let heartbeat = encoded(&one(heartbeat_records()), &id);
    let sealed = |mut block: Block| {
        seal(&mut block, 16);
        block
    };
    for flipped in with_one_bit_flipped(&superblock).map(sealed) {
        superblocks_are_sound([&superblock, &flipped]);
    }
    for block in [ballot, heartbeat] {
        for flipped in with_one_bit_flipped(&block).map(sealed) {
            registers_are_sound([&block, &flipped], &id);
        }
    }
}
