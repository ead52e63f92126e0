// SPDX-License-Identifier: GPL-2.0
//! Tests of the superblock: its encoding and the rules that it must satisfy.

use super::*;
use crate::proto::codec::block::{BLOCK_SIZE, ZERO_BLOCK};
use crate::proto::limit;
use crate::proto::time::NS_PER_MS;

fn example() -> Superblock {
    let mut superblock = Superblock {
        minor: VERSION_MINOR,
        compat: 0,
        ro_compat: 0,
        incompat: INCOMPAT_RECORDS_2,
        uuid: *b"0123456789abcdef",
        name: Name::new("east-1.data_A").unwrap(),
        member: 2,
        members: 3,
        replacement: false,
        controllers: 0b1011,
        home: Slot::from_controller(2).unwrap(),
        timing: Timing {
            lease_ns: 2_000 * NS_PER_MS,
            window_ns: 0,
            device_delay_ns: 1_000 * NS_PER_MS,
            drift_ppm: 500,
            lost_heartbeats: 1,
            period_max_ns: 500 * NS_PER_MS,
            error_report_ns: 400 * NS_PER_MS,
            write_ns: 100 * NS_PER_MS,
            read_ns: 90 * NS_PER_MS,
            jitter_ns: 50 * NS_PER_MS,
        },
        redundancy: Redundancy {
            kind: RedundancyKind::Parity(3),
            detect: true,
            batch: 2,
            counting: Counting::Stripe { chunk_sectors: 128 },
            exhausted: Exhausted::Window,
            drain_ns: Some(30_000 * NS_PER_MS),
        },
        data_offset_sectors: DATA_OFFSET_SECTORS,
        data_length_sectors: 1 << 20,
        member_sectors: (1 << 20) + 40_000,
        generation: 1,
        formatted_s: 1_800_000_000,
    };
    superblock.timing.window_ns = superblock.timing.needed_window_ns();
    superblock
}

fn encoded(superblock: &Superblock) -> Block {
    let mut block = [0xaa; BLOCK_SIZE];
    encode(superblock, &mut block);
    block
}

/// Changes one byte of a valid superblock and makes the checksum match.
fn patched(at: usize, value: u8) -> Block {
    let mut block = encoded(&example());
    assert_ne!(block[at], value, "the patch changes nothing");
    block[at] = value;
    seal(&mut block, CHECKSUM_AT);
    block
}

#[test]
fn r25_comes_back_as_it_was_written() {
    let superblock = example();
    assert_eq!(decode(&encoded(&superblock)), Ok(superblock));
    let mut other = superblock;
    other.replacement = true;
    other.generation = 7;
    other.redundancy = Redundancy::EXTERNAL;
    assert_eq!(decode(&encoded(&other)), Ok(other));
    other.redundancy.kind = RedundancyKind::Mirror(2);
    assert_eq!(decode(&encoded(&other)), Ok(other));
}

#[test]
fn r39_every_single_bit_flip_is_detected() {
    let good = encoded(&example());
    for bit in 0..BLOCK_SIZE * 8 {
        let mut block = good;
        block[bit / 8] ^= 1 << (bit % 8);
        let error = decode(&block).unwrap_err();
        let expected = match bit / 8 {
            0..=7 => SuperblockError::Magic,
            _ => SuperblockError::Checksum,
        };
        assert_eq!(error, expected, "bit {bit}");
    }
}

#[test]
fn r39_every_field_error_is_its_own() {
    let check = |at, value, error| assert_eq!(decode(&patched(at, value)), Err(error));
    assert_eq!(decode(&ZERO_BLOCK), Err(SuperblockError::Blank));
    assert_eq!(decode(&[0xff; BLOCK_SIZE]), Err(SuperblockError::Magic));
    check(8, 2, SuperblockError::Version(2));
    check(24, 0x11, SuperblockError::Incompat(0x10));
    check(24, 0, SuperblockError::Outdated);
    check(24, 2, SuperblockError::Upgrading);
    check(24, 3, SuperblockError::Upgrading);
    check(28, 1, SuperblockError::Reserved);
    check(48, b'-', SuperblockError::Name);
    check(48, b' ', SuperblockError::Name);
    check(79, b'x', SuperblockError::Name);
    check(80, 3, SuperblockError::MemberIndex);
    check(81, 0, SuperblockError::MemberCount);
    check(81, 17, SuperblockError::MemberCount);
    check(82, 2, SuperblockError::Field("replacement"));
    check(83, 0, SuperblockError::Home);
    check(83, 3, SuperblockError::Home);
    check(83, 65, SuperblockError::Home);
    check(84, 1, SuperblockError::Reserved);
    check(168, 4, SuperblockError::Field("redundancy"));
    check(
        169,
        0,
        SuperblockError::Redundancy(limit::RedundancyError::NoParity),
    );
    check(170, 9, SuperblockError::Field("detect"));
    check(171, 0, SuperblockError::Field("exhausted"));
    check(172, 1, SuperblockError::Field("counting"));
    check(172, 3, SuperblockError::Field("counting"));
    check(173, 1, SuperblockError::Reserved);
    check(193, 1, SuperblockError::DataArea);
    check(200, 1, SuperblockError::DataArea);
    check(216, 0, SuperblockError::Field("generation"));
    check(219, 0x80, SuperblockError::Field("generation"));
    check(220, 1, SuperblockError::Reserved);
    check(232, 1, SuperblockError::Reserved);
    check(4095, 1, SuperblockError::Reserved);
}

#[test]
fn r10_unsafe_timings_are_refused_at_every_open() {
    let mut superblock = example();
    superblock.timing.window_ns -= 1;
    let needed_ns = superblock.timing.window_ns + 1;
    let error = SuperblockError::Timing(TimingError::WindowTooShort { needed_ns });
    assert_eq!(decode(&encoded(&superblock)), Err(error));
}

#[test]
fn r39_ranges_of_the_whole() {
    let check = |change: fn(&mut Superblock), error| {
        let mut superblock = example();
        change(&mut superblock);
        assert_eq!(decode(&encoded(&superblock)), Err(error));
    };
    check(|sb| sb.uuid = [0; 16], SuperblockError::Uuid);
    check(|sb| sb.controllers = 0, SuperblockError::NoControllers);
    check(|sb| sb.data_offset_sectors -= 8, SuperblockError::DataArea);
    check(|sb| sb.data_length_sectors = 0, SuperblockError::DataArea);
    check(|sb| sb.data_length_sectors += 1, SuperblockError::DataArea);
    check(
        |sb| sb.data_length_sectors = u64::MAX - 7,
        SuperblockError::DataArea,
    );
    check(|sb| sb.member_sectors = 1 << 20, SuperblockError::DataArea);
    let mut smallest = example();
    smallest.member_sectors =
        smallest.data_offset_sectors + smallest.data_length_sectors + TAIL_SIZE / SECTOR_SIZE;
    assert_eq!(decode(&encoded(&smallest)), Ok(smallest));
    smallest.member_sectors -= 1;
    let error = SuperblockError::DataArea;
    assert_eq!(decode(&encoded(&smallest)), Err(error));
}

#[test]
fn r39_feature_flags_decide_between_use_reading_and_refusal() {
    let compat = Superblock {
        compat: 1 << 31,
        ..example()
    };
    assert_eq!(decode(&encoded(&compat)), Ok(compat));
    assert!(compat.may_own());
    let ro_compat = Superblock {
        ro_compat: 1,
        ..example()
    };
    assert_eq!(decode(&encoded(&ro_compat)), Ok(ro_compat));
    assert!(!ro_compat.may_own());
}

#[test]
fn r39_a_later_minor_version_may_have_more_fields() {
    let later = Superblock {
        minor: VERSION_MINOR + 1,
        ..example()
    };
    let mut block = encoded(&later);
    block[300] = 1;
    seal(&mut block, CHECKSUM_AT);
    assert_eq!(decode(&block), Ok(later));
}

#[test]
fn r39_members_of_one_portion_agree_on_everything_but_themselves() {
    let one = example();
    let two = Superblock {
        member: 1,
        replacement: true,
        generation: 3,
        data_length_sectors: 1 << 19,
        formatted_s: 5,
        ..one
    };
    assert_eq!(one.fits(&two), Ok(()));
    assert_eq!(one.fits(&one), Err(Mismatch::SameIndex));
    let check = |change: fn(&mut Superblock), mismatch| {
        let mut other = two;
        change(&mut other);
        assert_eq!(one.fits(&other), Err(mismatch));
    };
    check(|sb| sb.uuid = [1; 16], Mismatch::Portion);
    check(
        |sb| sb.name = Name::new("other").unwrap(),
        Mismatch::Description("name"),
    );
    check(
        |sb| sb.members = 4,
        Mismatch::Description("number of members"),
    );
    check(
        |sb| sb.controllers = 3,
        Mismatch::Description("controllers"),
    );
    check(
        |sb| sb.home = Slot::FIRST,
        Mismatch::Description("home controller"),
    );
    check(
        |sb| sb.timing.window_ns += 1,
        Mismatch::Description("timings"),
    );
    check(
        |sb| sb.redundancy.batch = 1,
        Mismatch::Description("redundancy"),
    );
    check(|sb| sb.ro_compat = 1, Mismatch::Description("features"));
}

#[test]
fn r39_names_are_single_tokens() {
    let longest = "a123456789012345678901234567890z";
    for good in ["a", "0", "pool-1", "A.b_c", longest] {
        let name = Name::new(good).unwrap();
        assert_eq!(name.as_str(), good);
        assert_eq!(std::format!("{name:?}"), std::format!("{good:?}"));
        assert_eq!(std::format!("{name:40}|"), std::format!("{good:40}|"));
    }
    let long = "a123456789012345678901234567890zz";
    for bad in [
        "", "-", "-a", ".a", "_", "a b", "a/b", "a\0", "\u{e4}", "a\n", long,
    ] {
        assert!(Name::new(bad).is_none(), "{bad:?}");
    }
}

#[test]
fn r47_texts_are_for_people() {
    extern crate std;
    use std::string::ToString;
    let uuid = *b"0123456789abcdef";
    let text = DisplayUuid(&uuid).to_string();
    assert_eq!(text, "30313233-3435-3637-3839-616263646566");
    let text = SuperblockError::Incompat(0x12).to_string();
    assert_eq!(
        text,
        "unknown incompatible features 0x12: a newer dm-lease is needed"
    );
    let text = Mismatch::Description("timings").to_string();
    assert_eq!(text, "members disagree about the portion's timings");
}
