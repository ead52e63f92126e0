// SPDX-License-Identifier: GPL-2.0
//! Tests of the own register: alternation, errors, and the comparison with acknowledged writes.

use super::*;

/// The clock when the rounds of these tests began.
const MARK: u64 = 1_000;

fn ready(newest: Option<(Side, u64)>) -> OwnRegister {
    let mut register = OwnRegister::new();
    register.learned(newest);
    register
}

#[test]
fn r41_nothing_is_written_before_both_blocks_were_read() {
    assert_eq!(OwnRegister::new().begin(1, MARK), None);
}

#[test]
fn r41_the_sequence_continues_and_the_newest_block_is_spared() {
    let mut register = ready(Some((Side::B, 41)));
    assert_eq!(
        register.begin(1, MARK),
        Some(Write {
            side: Side::A,
            seq: 42
        })
    );
    assert_eq!(register.begin(1, MARK), None, "one write in flight");
    register.succeeded();
    assert_eq!(
        register.begin(1, MARK),
        Some(Write {
            side: Side::B,
            seq: 43
        })
    );
}

#[test]
fn r36_a_joiner_continues_from_a_write_that_landed_while_it_listened() {
    let mut register = ready(Some((Side::A, 7)));
    // A command of the former incarnation lands late, and the next read shows it.
    register.learned(Some((Side::B, 8)));
    assert_eq!(
        register.begin(1, MARK),
        Some(Write {
            side: Side::A,
            seq: 9
        })
    );
    register.learned(Some((Side::B, 99)));
    register.succeeded();
    register.learned(Some((Side::B, 99)));
    assert_eq!(
        register.begin(1, MARK),
        Some(Write {
            side: Side::B,
            seq: 10
        })
    );
}

#[test]
fn r41_an_error_is_followed_by_a_read_not_by_habit() {
    let mut register = ready(None);
    register.begin(1, MARK);
    register.succeeded();
    register.begin(1, MARK);
    register.failed(400, 500);
    assert_eq!(register.begin(1, MARK), None);
    // The failed write tore block B: A is still the newest valid one.
    register.learned(Some((Side::A, 1)));
    assert_eq!(
        register.begin(1, MARK),
        Some(Write {
            side: Side::B,
            seq: 3
        })
    );
}

#[test]
fn r28_a_ballot_counts_when_it_is_in_both_blocks() {
    let mut register = ready(None);
    register.begin(7, MARK);
    register.succeeded();
    assert!(!register.counts(7, 0));
    register.begin(7, MARK);
    register.succeeded();
    assert!(register.counts(7, 0));
    register.begin(8, MARK);
    register.succeeded();
    assert!(!register.counts(8, 0));
    assert!(!register.counts(7, 0));
}

#[test]
fn r41_a_write_to_a_device_that_went_says_nothing_of_the_one_that_came() {
    let mut register = ready(Some((Side::A, 7)));
    register.begin(7, MARK);
    register.forget(1_000);
    assert!(register.is_writing() && register.begin(7, MARK).is_none());
    register.succeeded();
    assert!(register.is_unknown() && !register.is_written());
    register.learned(Some((Side::B, 3)));
    assert_eq!(
        register.begin(7, MARK),
        Some(Write {
            side: Side::A,
            seq: 9
        })
    );
}

const OWN: Incarnation = Incarnation(1);

fn shown(seq: u64, mark: u64) -> Shown {
    Shown::of(OWN, Stamp { seq, mark })
}

#[test]
fn r58_each_block_must_show_its_acknowledged_write() {
    let mut register = ready(Some((Side::B, 41)));
    for mark in [MARK, MARK + 1] {
        register.begin(7, mark);
        register.succeeded();
    }
    let judge = |side, shown, quiet| register.judge(side, shown, OWN, quiet, true);
    assert!(register.is_quiet(Side::A, 0) && register.is_quiet(Side::B, 0));
    assert_eq!(judge(Side::A, shown(42, MARK), true), Verdict::Fine);
    assert_eq!(judge(Side::B, shown(43, MARK + 1), true), Verdict::Fine);
    for old in [Shown::Nothing, shown(40, 5), shown(41, 5)] {
        assert_eq!(judge(Side::A, old, true), Verdict::Back);
        assert_eq!(judge(Side::A, old, false), Verdict::Fine, "it says nothing");
    }
    // A write of the own incarnation that was never issued: later, or the same number with
    // another mark.
    for quiet in [true, false] {
        assert_eq!(judge(Side::A, shown(44, MARK), quiet), Verdict::Copy);
        assert_eq!(judge(Side::B, shown(43, MARK + 2), quiet), Verdict::Copy);
        assert_eq!(judge(Side::A, shown(42, MARK + 2), quiet), Verdict::Copy);
    }
    // A write of another incarnation is older than the own writes, or newer.
    let other = |seq| Shown::of(Incarnation(2), Stamp { seq, mark: 0 });
    assert_eq!(judge(Side::A, other(41), true), Verdict::Back);
    assert_eq!(judge(Side::A, other(42), false), Verdict::Foreign);
}

#[test]
fn r58_a_failed_command_may_land_late_and_says_nothing_before_it_has_had_its_time() {
    let mut register = ready(None);
    for image in [1, 2] {
        register.begin(image, MARK);
        register.succeeded();
    }
    // Two commands to the first block fail, and a third one does not.
    for now_ns in [400, 500] {
        register.begin(3, MARK);
        register.failed(now_ns, now_ns + 1_000);
        assert!(
            !register.is_quiet(Side::A, u64::MAX),
            "it may be there or not"
        );
        register.learned(Some((Side::B, 2)));
    }
    register.begin(3, MARK);
    register.succeeded();
    assert!(!register.is_quiet(Side::A, 1_499) && register.is_quiet(Side::A, 1_500));
    for late in [3, 4] {
        let verdict = register.judge(Side::A, shown(late, MARK), OWN, true, true);
        assert_eq!(verdict, Verdict::Late);
    }
    let older = register.judge(Side::A, shown(1, MARK), OWN, true, true);
    assert_eq!(older, Verdict::Back);
}

/// Five writes pass within the time in which the lost one may still land.
#[test]
fn r58_a_lost_command_may_land_over_any_write_that_began_before_its_time_was_over() {
    let mut register = ready(None);
    register.begin(1, 100);
    register.failed(200, 1_200);
    register.learned(Some((Side::B, 0)));
    for mark in [300, 400, 500, 600, 700] {
        register.begin(1, mark);
        register.succeeded();
    }
    register.begin(2, 800);
    register.failed(5_000, 6_000);
    let lost = register.judge(Side::A, shown(1, 100), OWN, true, true);
    assert_eq!(lost, Verdict::Late);
    // Both blocks are written after its time.
    register.learned(Some((Side::A, 6)));
    for mark in [6_000, 6_100] {
        register.begin(3, mark);
        register.succeeded();
    }
    register.begin(4, 6_200);
    register.failed(6_300, 7_300);
    let lost = register.judge(Side::A, shown(1, 100), OWN, true, true);
    assert_eq!(lost, Verdict::Back);
}

/// A device goes and comes back. A command of before lands late, over a write of afterwards.
#[test]
fn r58_a_command_to_the_device_of_before_may_land_late() {
    let mut register = ready(Some((Side::A, 42)));
    register.begin(7, 100);
    register.succeeded();
    register.forget(1_000);
    register.learned(Some((Side::A, 42)));
    for mark in [500, 600] {
        register.begin(7, mark);
        register.succeeded();
    }
    let judge =
        |register: &OwnRegister, side| register.judge(side, shown(43, 100), OWN, true, true);
    assert_eq!(judge(&register, Side::A), Verdict::Late);
    assert_eq!(judge(&register, Side::B), Verdict::Late);
    // The host was copied, and the command has the incarnation of before.
    let of_before = Shown::of(Incarnation(9), Stamp { seq: 43, mark: 100 });
    let verdict = register.judge(Side::A, of_before, OWN, true, true);
    assert_eq!(verdict, Verdict::Late);
    for mark in [1_000, 1_100] {
        register.begin(7, mark);
        register.succeeded();
    }
    assert_eq!(judge(&register, Side::A), Verdict::Back);
    assert_eq!(judge(&register, Side::B), Verdict::Back);
}

#[test]
fn r58_a_read_may_have_taken_the_sequence_of_a_copy() {
    let mut register = ready(None);
    register.begin(1, MARK);
    register.failed(400, 500);
    register.learned(Some((Side::A, 30)));
    let verdict = register.judge(Side::A, shown(30, MARK + 9), OWN, false, false);
    assert_eq!(verdict, Verdict::Copy);
}

#[test]
fn r58_a_ballot_register_that_went_back_counts_when_both_blocks_were_written() {
    for (kind, writes) in [(Register::Ballot, 2), (Register::Heartbeat, 1)] {
        let mut register = ready(None);
        for _ in 0..2 {
            register.begin(7, MARK);
            register.succeeded();
        }
        register.went_back(kind);
        assert!(register.is_unknown() && register.copies(7) == 0);
        register.learned(Some((Side::A, 9)));
        for _ in 0..writes {
            assert!(register.is_void());
            register.begin(7, MARK);
            register.succeeded();
        }
        assert!(!register.is_void());
    }
}

#[test]
fn r39_another_device_is_unknown_whatever_is_known_of_the_former_one() {
    let mut register = ready(Some((Side::A, 7)));
    register.begin(7, MARK);
    register.succeeded();
    register.forget(1_000);
    assert!(register.is_unknown() && !register.is_writing());
    assert!(!register.is_written() && register.begin(7, MARK).is_none());
    // A write to the former device may have reached this one.
    register.learned(None);
    for _ in 0..2 {
        register.begin(7, MARK);
        register.succeeded();
    }
    assert!(!register.counts(7, 999) && register.counts(7, 1_000));
}

/// Writes image 7 twice at 900, after writes of `failed` images that are reported as lost.
fn in_doubt(failed: &[(u32, u64)]) -> OwnRegister {
    let mut register = ready(None);
    for &(image, at_ns) in failed {
        register.begin(image, MARK);
        register.failed(at_ns, at_ns + 1_000);
        register.learned(None);
    }
    for _ in 0..2 {
        assert!(!register.holds(7, 900), "one copy may be taken back");
        register.begin(7, MARK);
        register.succeeded();
    }
    register
}

#[test]
fn r21_an_image_holds_at_once_where_only_that_image_may_still_land() {
    for (failed, at_once) in [
        (&[][..], true),
        (&[(7, 0)], true),
        (&[(7, 0), (7, 10)], true),
        (&[(6, 0)], false),
        (&[(6, 0), (7, 10)], false),
        (&[(7, 0), (6, 10)], false),
    ] {
        let register = in_doubt(failed);
        assert_eq!(register.holds(7, 900), at_once, "{failed:?}");
        assert_eq!(register.counts(7, 900), failed.is_empty(), "{failed:?}");
        assert!(register.holds(7, 1_010) && register.counts(7, 1_010));
        assert!(!register.holds(6, 2_000), "another image");
    }
    // A write that failed long ago can land no more.
    let mut register = in_doubt(&[(6, 0)]);
    register.begin(7, MARK);
    register.failed(1_000, 2_000);
    register.learned(None);
    for _ in 0..2 {
        register.begin(7, MARK);
        register.succeeded();
    }
    assert!(register.holds(7, 1_500) && !register.counts(7, 1_500));
}

#[test]
fn r39_a_write_to_the_former_device_may_carry_any_image() {
    let mut register = ready(None);
    register.begin(7, MARK);
    register.forget(1_000);
    register.failed(10, 1_010);
    register.learned(None);
    for _ in 0..2 {
        register.begin(7, MARK);
        register.succeeded();
    }
    assert!(!register.holds(7, 999) && register.holds(7, 1_010));
}

#[test]
fn r41_after_an_error_the_member_counts_only_when_late_commands_have_had_their_time() {
    let mut register = ready(None);
    register.begin(7, MARK);
    register.failed(800, 1_000);
    register.learned(None);
    for _ in 0..2 {
        register.begin(7, MARK);
        register.succeeded();
    }
    assert!(!register.counts(7, 999));
    assert!(register.counts(7, 1_000));
}
