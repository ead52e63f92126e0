// SPDX-License-Identifier: GPL-2.0
//! Tests of the batch limit: the formula and the rules of a redundancy.

use super::*;

fn with(kind: RedundancyKind, detect: bool) -> Redundancy {
    let mut redundancy = Redundancy {
        kind,
        detect,
        batch: 0,
        counting: Counting::Ops,
        exhausted: Exhausted::Stop,
        drain_ns: None,
    };
    redundancy.batch = redundancy.default_batch();
    redundancy
}

#[test]
fn r14_the_limits_the_design_states() {
    let healthy = |kind, detect| with(kind, detect).healthy_limit();
    // Plain RAID-6 has 1, plain RAID-5 and two-way mirrors have 0.
    assert_eq!(healthy(RedundancyKind::Parity(2), false), Some(1));
    assert_eq!(healthy(RedundancyKind::Parity(1), false), Some(0));
    assert_eq!(healthy(RedundancyKind::Mirror(2), false), Some(0));
    assert_eq!(healthy(RedundancyKind::Mirror(3), false), Some(1));
    assert_eq!(healthy(RedundancyKind::Parity(2), true), Some(2));
    assert_eq!(healthy(RedundancyKind::Parity(1), true), Some(1));
    assert_eq!(healthy(RedundancyKind::External, false), None);
}

#[test]
fn r14_failures_and_charges_lower_the_limit() {
    let raidz3 = Redundancy {
        batch: 3,
        ..with(RedundancyKind::Parity(3), true)
    };
    assert_eq!(raidz3.limit(0, 0, None), Limit::Count(3));
    assert_eq!(raidz3.limit(1, 0, None), Limit::Count(2));
    assert_eq!(raidz3.limit(1, 1, None), Limit::Count(1));
    assert_eq!(raidz3.limit(1, 2, None), Limit::Count(0));
    assert_eq!(raidz3.limit(u32::MAX, u32::MAX, None), Limit::Count(0));
    let plain = with(RedundancyKind::Parity(5), false);
    assert_eq!(plain.healthy_limit(), Some(2));
    // A failure costs half a stray: the first one is free only because of the rounding.
    assert_eq!(formula(5, 1, 0, false), 2);
    assert_eq!(formula(5, 2, 0, false), 1);
    assert_eq!(formula(5, 2, 1, false), 0);
}

#[test]
fn r14_strays_within_the_limit_are_always_repairable() {
    // The definition: e errors and s erasures can be repaired if 2e + s <= m.
    for m in 0..=20_u32 {
        for f in 0..=m {
            for q in 0..=m {
                let strays = formula(m, f, q, false);
                assert!(strays == 0 || 2 * (strays + q) + f <= m);
                assert!(2 * (strays + q + 1) + f > m, "one more would fit");
                let strays = formula(m, f, q, true);
                assert!(strays == 0 || strays + q + f <= m);
                assert!(strays + q + 1 + f > m, "one more would fit");
            }
        }
    }
}

#[test]
fn r15_an_exhausted_limit_stops_or_goes_on_as_formatted() {
    let stop = with(RedundancyKind::Mirror(2), false);
    assert_eq!(stop.limit(0, 0, None), Limit::Count(0));
    let window = Redundancy {
        exhausted: Exhausted::Window,
        ..stop
    };
    assert_eq!(window.limit(0, 0, None), Limit::Window);
    assert_eq!(window.limit(0, 0, Some(1)), Limit::Window);
    let raid6 = Redundancy {
        exhausted: Exhausted::Window,
        ..with(RedundancyKind::Parity(2), false)
    };
    assert_eq!(raid6.limit(0, 0, None), Limit::Count(1));
    assert_eq!(raid6.limit(2, 0, None), Limit::Window);
}

#[test]
fn r14_a_table_can_only_lower_the_limit() {
    let raidz3 = Redundancy {
        batch: 2,
        ..with(RedundancyKind::Parity(3), true)
    };
    assert_eq!(raidz3.limit(0, 0, Some(1)), Limit::Count(1));
    assert_eq!(raidz3.limit(0, 0, Some(7)), Limit::Count(2));
    let external = with(RedundancyKind::External, false);
    assert_eq!(external.limit(9, 9, None), Limit::Unlimited);
    assert_eq!(external.limit(9, 9, Some(4)), Limit::Count(4));
}

#[test]
fn r21_the_default_batch_leaves_room_for_one_undrained_owner() {
    for m in 1..=255 {
        for detect in [false, true] {
            let redundancy = with(RedundancyKind::Parity(m), detect);
            assert_eq!(redundancy.validate(), Ok(()));
            let batch = redundancy.batch;
            assert_eq!(batch == 0, redundancy.healthy_limit() == Some(0));
            if redundancy.healthy_limit() > Some(1) {
                let charge = Limit::Count(batch).charge();
                assert_eq!(redundancy.limit(0, charge, None), Limit::Count(batch));
            }
        }
    }
}

#[test]
fn r14_every_misfit_has_its_own_error() {
    let good = Redundancy {
        batch: 1,
        ..with(RedundancyKind::Parity(2), true)
    };
    let external = with(RedundancyKind::External, false);
    let raid5 = with(RedundancyKind::Parity(1), false);
    let stripe = |chunk_sectors| Counting::Stripe { chunk_sectors };
    let check = |redundancy: Redundancy, error| assert_eq!(redundancy.validate(), Err(error));
    assert_eq!(good.validate(), Ok(()));
    assert_eq!(external.validate(), Ok(()));
    assert_eq!(raid5.validate(), Ok(()));
    check(
        Redundancy {
            kind: RedundancyKind::Parity(0),
            ..good
        },
        RedundancyError::NoParity,
    );
    check(
        Redundancy {
            kind: RedundancyKind::Mirror(1),
            ..good
        },
        RedundancyError::NoCopies,
    );
    check(
        Redundancy {
            detect: true,
            ..external
        },
        RedundancyError::DetectWithoutRedundancy,
    );
    check(
        Redundancy {
            batch: 1,
            ..external
        },
        RedundancyError::BatchWithoutRedundancy,
    );
    check(
        Redundancy { batch: 1, ..raid5 },
        RedundancyError::BatchWithoutRoom,
    );
    check(Redundancy { batch: 0, ..good }, RedundancyError::BatchZero);
    check(
        Redundancy { batch: 3, ..good },
        RedundancyError::BatchTooLarge { limit: 2 },
    );
    check(
        Redundancy {
            counting: stripe(8),
            ..external
        },
        RedundancyError::StripeWithoutRedundancy,
    );
    check(
        Redundancy {
            counting: stripe(0),
            ..good
        },
        RedundancyError::ChunkNotBlocks,
    );
    check(
        Redundancy {
            counting: stripe(9),
            ..good
        },
        RedundancyError::ChunkNotBlocks,
    );
    check(
        Redundancy {
            counting: stripe(MAX_CHUNK_SECTORS + 8),
            ..good
        },
        RedundancyError::ChunkTooLarge,
    );
    check(
        Redundancy {
            drain_ns: Some(0),
            ..good
        },
        RedundancyError::DrainZero,
    );
    check(
        Redundancy {
            drain_ns: Some(u64::MAX),
            ..good
        },
        RedundancyError::DrainTooLong,
    );
}

#[test]
fn r14_the_last_value_of_every_range_is_accepted() {
    let good = with(RedundancyKind::Parity(2), true);
    let stripe = |chunk_sectors| Counting::Stripe { chunk_sectors };
    for redundancy in [
        Redundancy { batch: 2, ..good },
        Redundancy {
            counting: stripe(BLOCK_SECTORS as u32),
            ..good
        },
        Redundancy {
            counting: stripe(MAX_CHUNK_SECTORS),
            ..good
        },
        Redundancy {
            drain_ns: Some(1),
            ..good
        },
        Redundancy {
            drain_ns: Some(MAX_DURATION_NS),
            ..good
        },
        with(RedundancyKind::Parity(1), false),
        with(RedundancyKind::Mirror(2), false),
    ] {
        assert_eq!(redundancy.validate(), Ok(()), "{redundancy:?}");
    }
}

#[test]
fn r21_limits_come_back_from_a_record() {
    for limit in [
        Limit::Unlimited,
        Limit::Window,
        Limit::Count(0),
        Limit::Count(255),
    ] {
        assert_eq!(Limit::from_wire(limit.to_wire()), limit);
    }
    assert_ne!(Limit::Count(u32::MAX).to_wire(), LIMIT_UNLIMITED);
    assert_eq!(Limit::Window.charge(), u32::MAX);
    assert_eq!(Limit::Count(3).charge(), 3);
}

#[test]
fn r14_a_count_is_never_taken_for_another_limit() {
    let again = |limit: Limit| Limit::from_wire(limit.to_wire());
    for limit in [Limit::Unlimited, Limit::Window, Limit::Count(0)] {
        assert_eq!(again(limit), limit);
    }
    let most = Limit::Count(LIMIT_WINDOW - 1);
    for count in [LIMIT_WINDOW - 1, LIMIT_WINDOW, LIMIT_UNLIMITED, u32::MAX] {
        assert_eq!(again(Limit::Count(count)), most);
    }
}
