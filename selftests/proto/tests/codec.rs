// SPDX-License-Identifier: GPL-2.0
//! The codecs and the arithmetic of the core against random input.
//!
//! What is written comes back; what is damaged is noticed; what is garbage is refused without a
//! panic; and the integer arithmetic agrees with exact 128-bit arithmetic, which the module itself
//! may not use. A failing case is printed with its input and kept as a seed beside this file.

use dm_lease_proto::proto::layout::{seal, Block, Side, BLOCK_SIZE, DATA_OFFSET_SECTORS};
use dm_lease_proto::proto::limit::{Counting, Exhausted, Kind, Limit, Redundancy};
use dm_lease_proto::proto::record::{
    self, newest, Ballot, BallotRecord, BlockId, Charge, Charges, Decided, HeartbeatRecord,
    Incarnation, Reading, Record, RecordRole, Slot, Value,
};
use dm_lease_proto::proto::superblock::{self, Name, Superblock};
use dm_lease_proto::proto::time::{Timing, MAX_DURATION_NS, MIN_PERIOD_NS};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn slots() -> impl Strategy<Value = Slot> {
    (1..=64_u8).prop_map(|controller| Slot::from_controller(controller).unwrap())
}

fn values() -> impl Strategy<Value = Value> {
    (slots(), any::<u128>()).prop_map(|(slot, inc)| Value {
        slot,
        inc: Incarnation(inc),
    })
}

fn ballots() -> impl Strategy<Value = Ballot> {
    prop_oneof![
        Just(Ballot::NONE),
        (1_u64.., values()).prop_map(|(round, Value { slot, inc })| Ballot { round, slot, inc }),
    ]
}

fn decisions() -> impl Strategy<Value = Decided> {
    let some = (1_u64.., values()).prop_map(|(epoch, value)| Decided {
        epoch,
        value: Some(value),
    });
    prop_oneof![Just(Decided::NEVER), some]
}

fn charges() -> impl Strategy<Value = Charges> {
    let terms = vec((1_u64.., values(), any::<u32>(), any::<bool>()), 0..=8);
    (terms, any::<bool>()).prop_map(|(terms, partial)| {
        let mut charges = Charges::NONE;
        for (epoch, owner, amount, drained) in terms {
            charges
                .add(Charge {
                    drained,
                    ..Charge::new(epoch, owner, amount)
                })
                .unwrap();
        }
        charges.with_partial(partial)
    })
}

prop_compose! {
    fn ids()(uuid in any::<[u8; 16]>(), member in 0..16_u8, slot in slots()) -> BlockId {
        BlockId { uuid, member, slot }
    }
}

prop_compose! {
    fn ballot_records()(
        (seq, inc, boot_id, limit) in any::<(u64, u128, [u8; 16], u32)>(),
        dec in decisions(),
        one in ballots(),
        two in ballots(),
        value in values(),
        charges in charges(),
    ) -> BallotRecord {
        let (mbal, bal) = (one.max(two), one.min(two));
        let val = bal.is_some().then_some(value);
        BallotRecord { seq, inc: Incarnation(inc), boot_id, dec, mbal, bal, val, limit, charges }
    }
}

prop_compose! {
    fn heartbeat_records()(
        (seq, inc, hb, open, period_ns, reason) in any::<(u64, u128, u64, u32, u64, u8)>(),
        dec in decisions(),
        successor in option::of(slots()),
        role in 0..6,
    ) -> HeartbeatRecord {
        let role = match role {
            0 => RecordRole::Secondary,
            _ if dec == Decided::NEVER => RecordRole::Claiming,
            1 => RecordRole::Claiming,
            2 => RecordRole::Owner,
            3 => RecordRole::Lapsed,
            4 => RecordRole::Released { successor },
            _ => match successor {
                Some(successor) => RecordRole::HandingOver { successor },
                None => RecordRole::Owner,
            },
        };
        HeartbeatRecord { seq, inc: Incarnation(inc), dec, role, hb, open, period_ns, reason }
    }
}

prop_compose! {
    /// Timings that are safe, with slack.
    fn timings()(
        period_max_ns in MIN_PERIOD_NS..=10_000_000_000,
        (error_report_ns, write_ns, read_ns, jitter_ns) in
            (0..=10_000_000_000_u64, 0..=1_000_000_000_u64, 0..=1_000_000_000_u64, 0..=99_u64),
        device_delay_ns in 0..=3_600_000_000_000_u64,
        (drift_ppm, lost_heartbeats) in (0..=100_000_u32, 0..=100_u32),
        (slack_ns, more_slack_ns) in (0..=99_u64, 0..=99_u64),
    ) -> Timing {
        let mut timing = Timing {
            lease_ns: 0, window_ns: 0, device_delay_ns, drift_ppm, lost_heartbeats, period_max_ns,
            error_report_ns, write_ns, read_ns, jitter_ns,
        };
        timing.lease_ns = timing.needed_lease_ns(period_max_ns) + slack_ns;
        timing.window_ns = timing.needed_window_ns() + more_slack_ns;
        timing
    }
}

prop_compose! {
    fn redundancies()(
        kind in prop_oneof![
            (1..=255_u8).prop_map(Kind::Parity),
            (2..=255_u8).prop_map(Kind::Mirror),
            Just(Kind::External),
        ],
        (detect, window, batch) in any::<(bool, bool, u32)>(),
        chunk_blocks in option::of(1..=(1_u32 << 18)),
        drain_ns in option::of(1..=MAX_DURATION_NS),
    ) -> Redundancy {
        let exhausted = if window { Exhausted::Window } else { Exhausted::Stop };
        let external = kind == Kind::External;
        let counting = match chunk_blocks {
            Some(blocks) if !external => Counting::Stripe { chunk_sectors: blocks * 8 },
            _ => Counting::Ops,
        };
        let detect = detect && !external;
        let mut redundancy = Redundancy { kind, detect, batch, counting, exhausted, drain_ns };
        redundancy.batch = match redundancy.healthy_limit() {
            None | Some(0) => 0,
            Some(limit) => batch % limit + 1,
        };
        redundancy
    }
}

prop_compose! {
    fn superblocks()(
        (uuid, replacement, compat, ro_compat, formatted_s) in
            any::<([u8; 16], bool, u32, u32, u64)>(),
        name in "[A-Za-z0-9][A-Za-z0-9_.-]{0,31}",
        (members, member) in (1..=16_u8).prop_flat_map(|members| (Just(members), 0..members)),
        (controllers, home) in (any::<u64>(), slots()),
        timing in timings(),
        redundancy in redundancies(),
        (blocks, slack) in (1..=(1_u64 << 50), 0..=100_u64),
        generation in 1_u64..,
    ) -> Superblock {
        let data_length_sectors = blocks * 8;
        Superblock {
            minor: superblock::VERSION_MINOR, compat, ro_compat, incompat: 0, uuid,
            name: Name::new(&name).unwrap(), member, members, replacement,
            controllers: controllers | home.bit(), home, timing, redundancy,
            data_offset_sectors: DATA_OFFSET_SECTORS, data_length_sectors,
            member_sectors: DATA_OFFSET_SECTORS + data_length_sectors + (8 << 11) + 8 + slack,
            generation, formatted_s,
        }
    }
}

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

/// Flips the given bits and says whether that changed anything (two flips of one bit do not).
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
    fn r39_superblocks_come_back(superblock in superblocks().prop_filter(
        "a zero uuid is none", |superblock| superblock.uuid != [0; 16]
    )) {
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

    /// Behind a good checksum, as a faulty or hostile peer could write it: what is accepted must
    /// be what its own encoding says, so nothing unknown is carried along.
    #[test]
    fn r26_garbage_behind_a_good_checksum_is_refused_or_canonical(
        record in ballot_records(),
        id in ids(),
        changes in vec((8..500_usize, any::<u8>()), 1..=4),
    ) {
        let mut block = encoded(&record, &id);
        for (at, byte) in changes {
            block[at] = byte;
        }
        seal(&mut block, 16);
        if let Reading::Valid(read) = record::decode::<BallotRecord>(&block, &id) {
            prop_assert!(encoded(&read, &id) == block, "{:?}", read);
        }
    }

    #[test]
    fn r39_a_superblock_behind_a_good_checksum_is_refused_or_canonical(
        superblock in superblocks(),
        changes in vec((8..256_usize, any::<u8>()), 1..=4),
    ) {
        let mut block = [0; BLOCK_SIZE];
        superblock::encode(&superblock, &mut block);
        for (at, byte) in changes {
            block[at] = byte;
        }
        // The minor version stays: a later one may have fields that this code drops.
        block[10..12].copy_from_slice(&superblock.minor.to_le_bytes());
        seal(&mut block, 16);
        if let Ok(read) = superblock::decode(&block) {
            let mut again = [0; BLOCK_SIZE];
            superblock::encode(&read, &mut again);
            prop_assert!(again == block, "{:?}", read);
        }
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

    /// A write that tore anywhere, over the older block of a register, never hides the newer one.
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
        // Multiplied out, so that nothing is rounded: W >= L(1+rho)/(1-rho) + (1+rho)D.
        let big = |ns: u64| u128::from(ns);
        let (million, rho) = (1_000_000_u128, u128::from(timing.drift_ppm));
        let window = big(timing.window_ns) * million * (million - rho);
        let lease = big(timing.lease_ns) * (million + rho) * million;
        let delay = big(timing.device_delay_ns) * (million + rho) * (million - rho);
        prop_assert!(window >= lease + delay);
        let steps = 2 + u128::from(timing.lost_heartbeats);
        let step = big(timing.period_max_ns.max(timing.error_report_ns));
        let io = big(timing.write_ns) + big(timing.read_ns) + big(timing.jitter_ns);
        prop_assert!(big(timing.lease_ns) > steps * step + io);
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
