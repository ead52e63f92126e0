// SPDX-License-Identifier: GPL-2.0
//! Tests of the timings: the two inequalities, their bounds, and the arithmetic.

use super::*;

const MS: u64 = NS_PER_MS;

/// A textbook portion: 500 ms heartbeats, one of them may be lost.
fn example() -> Timing {
    let mut timing = Timing {
        lease_ns: 2_000 * MS,
        window_ns: 0,
        device_delay_ns: 1_000 * MS,
        drift_ppm: 500,
        lost_heartbeats: 1,
        period_max_ns: 500 * MS,
        error_report_ns: 500 * MS,
        write_ns: 100 * MS,
        read_ns: 100 * MS,
        jitter_ns: 50 * MS,
    };
    timing.window_ns = timing.needed_window_ns();
    timing
}

#[test]
fn r10_both_inequalities_are_met_exactly_or_refused() {
    let good = example();
    assert_eq!(good.validate(), Ok(()));
    // 2 s * 1.0005 / 0.9995 = 2.002001000500250... s, and 1 s * 1.0005.
    assert_eq!(good.lease_elsewhere_ns(), 2_002_001_001);
    assert_eq!(good.device_settle_ns(), 1_000_500_000);
    assert_eq!(good.window_ns, 3_002_501_001);

    let short = Timing {
        window_ns: good.window_ns - 1,
        ..good
    };
    let needed_ns = good.window_ns;
    assert_eq!(
        short.validate(),
        Err(TimingError::WindowTooShort { needed_ns })
    );

    // 2 * 500, one lost one of 500 + 100 + 50, and 100 + 100 + 50: 1900 ms is not enough, one
    // nanosecond more is.
    let with_lease = |lease_ns| Timing { lease_ns, ..good };
    let needed_ns = 1_900 * MS + 1;
    let refused = Err(TimingError::LeaseTooShort { needed_ns });
    assert_eq!(with_lease(1_900 * MS).validate(), refused);
    assert_eq!(with_lease(1_900 * MS + 1).validate(), Ok(()));
}

#[test]
fn r10_a_slow_error_report_counts_like_a_slow_period() {
    let good = example();
    let slow = Timing {
        error_report_ns: 700 * MS,
        ..good
    };
    let needed_ns = 2 * 500 * MS + (700 + 150) * MS + 250 * MS + 1;
    assert_eq!(
        slow.validate(),
        Err(TimingError::LeaseTooShort { needed_ns })
    );
}

#[test]
fn r11_a_heartbeat_may_take_longer_than_a_period() {
    let short = |lost_heartbeats| {
        let timing = Timing {
            period_max_ns: 10 * MS,
            error_report_ns: 10 * MS,
            lost_heartbeats,
            ..example()
        };
        timing.needed_lease_ns(timing.period_max_ns)
    };
    // Two heartbeats of 250 ms, the lost ones of 10 + 100 + 50 each, a read, and the last one.
    assert_eq!(short(0), (2 * 250 + 100 + 250) * MS + 1);
    assert_eq!(short(1), (2 * 250 + 160 + 250) * MS + 1);
    assert_eq!(short(3), (2 * 250 + 3 * 160 + 250) * MS + 1);
}

#[test]
fn r11_a_lost_heartbeat_may_fit_into_its_period() {
    let quick = |lost_heartbeats| {
        let timing = Timing {
            error_report_ns: 100 * MS,
            lost_heartbeats,
            ..example()
        };
        timing.needed_lease_ns(timing.period_max_ns)
    };
    // Each takes a period, and the read that the last one makes necessary is added.
    assert_eq!(quick(1), (3 * 500 + 100 + 250) * MS + 1);
    assert_eq!(quick(3), (5 * 500 + 100 + 250) * MS + 1);
}

#[test]
fn r10_a_window_that_is_shorter_than_a_claim_is_refused() {
    let slow = Timing {
        device_delay_ns: 0,
        drift_ppm: 0,
        lost_heartbeats: 0,
        period_max_ns: 10 * MS,
        error_report_ns: 10 * MS,
        write_ns: 1_000 * MS,
        read_ns: 10 * MS,
        jitter_ns: 0,
        lease_ns: 3_100 * MS,
        window_ns: 3_100 * MS,
    };
    let needed_ns = (5 * 1_000 + 3 * 10) * MS + 1;
    let refused = Err(TimingError::WindowBelowClaim { needed_ns });
    assert_eq!(slow.validate(), refused);
    let long = Timing {
        window_ns: needed_ns,
        ..slow
    };
    assert_eq!(long.validate(), Ok(()));
}

/// Timings of an earlier version can be opened, and their shortfall is reported.
#[test]
fn r10_a_lease_that_is_short_is_opened_and_one_that_is_hopeless_too() {
    let with_lease = |lease_ns| Timing {
        lease_ns,
        ..example()
    };
    assert_eq!(example().shortfall(), None);
    let shipped = with_lease(1_751 * MS);
    assert_eq!(shipped.check(), Ok(()));
    let shortfall = Shortfall {
        lease_ns: 1_751 * MS,
        lost_heartbeats: 1,
        needed_lease_ns: 1_900 * MS + 1,
        is_hopeless: false,
        // 2 * 425 + 650 + 250 is less than 1751, and one millisecond more is not.
        fitting_period_ns: Some(425 * MS),
    };
    assert_eq!(shipped.shortfall(), Some(shortfall));
    let hopeless = with_lease(1_250 * MS).shortfall().unwrap();
    assert!(hopeless.is_hopeless);
    assert!(!with_lease(1_250 * MS + 1).shortfall().unwrap().is_hopeless);
    assert_eq!(hopeless.fitting_period_ns, None);
    let needed_ns = 1_000 * MS + 1;
    let refused = Err(TimingError::LeaseBelowPeriods { needed_ns });
    assert_eq!(with_lease(1_000 * MS).check(), refused);
    assert_eq!(with_lease(1_000 * MS + 1).check(), Ok(()));
}

#[test]
fn r10_the_last_value_of_every_range_is_accepted() {
    let safe = |mut timing: Timing| {
        let needed_ns = timing.needed_lease_ns(timing.period_max_ns);
        timing.lease_ns = timing.lease_ns.max(needed_ns);
        timing.window_ns = timing.needed_window_ns();
        timing.validate()
    };
    let with_drift = |drift_ppm| {
        safe(Timing {
            drift_ppm,
            ..example()
        })
    };
    assert_eq!(with_drift(MAX_DRIFT_PPM), Ok(()));
    let with_lost = |lost_heartbeats| {
        safe(Timing {
            lost_heartbeats,
            ..example()
        })
    };
    assert_eq!(with_lost(MAX_LOST_HEARTBEATS), Ok(()));
    let with_period = |period_max_ns| {
        safe(Timing {
            period_max_ns,
            ..example()
        })
    };
    assert_eq!(with_period(MIN_PERIOD_NS), Ok(()));
    // A day is not too long; another rule refuses it.
    let day = Timing {
        lease_ns: MAX_DURATION_NS,
        ..example()
    };
    let needed_ns = day.needed_window_ns();
    assert_eq!(
        day.validate(),
        Err(TimingError::WindowTooShort { needed_ns })
    );
}

#[test]
fn r10_every_range_has_its_own_error() {
    let good = example();
    let check = |timing: Timing, error| assert_eq!(timing.validate(), Err(error));
    check(
        Timing {
            lease_ns: 0,
            ..good
        },
        TimingError::LeaseZero,
    );
    check(
        Timing {
            window_ns: 0,
            ..good
        },
        TimingError::WindowZero,
    );
    check(
        Timing {
            period_max_ns: MS - 1,
            ..good
        },
        TimingError::PeriodTooShort,
    );
    check(
        Timing {
            drift_ppm: 100_001,
            ..good
        },
        TimingError::DriftTooLarge,
    );
    check(
        Timing {
            lost_heartbeats: 1001,
            ..good
        },
        TimingError::LostHeartbeatsTooMany,
    );
    assert_eq!(MAX_DURATION_NS, 86_400_000_000_000, "a day");
    let long = MAX_DURATION_NS + 1;
    let too_long = TimingError::TooLong;
    check(
        Timing {
            lease_ns: long,
            ..good
        },
        too_long(Duration::Lease),
    );
    check(
        Timing {
            window_ns: long,
            ..good
        },
        too_long(Duration::Window),
    );
    check(
        Timing {
            device_delay_ns: long,
            ..good
        },
        too_long(Duration::DeviceDelay),
    );
    check(
        Timing {
            period_max_ns: long,
            ..good
        },
        too_long(Duration::PeriodMax),
    );
    check(
        Timing {
            error_report_ns: long,
            ..good
        },
        too_long(Duration::ErrorReport),
    );
    check(
        Timing {
            write_ns: long,
            ..good
        },
        too_long(Duration::Write),
    );
    check(
        Timing {
            read_ns: u64::MAX,
            ..good
        },
        too_long(Duration::Read),
    );
    check(
        Timing {
            jitter_ns: u64::MAX,
            ..good
        },
        too_long(Duration::Jitter),
    );
}

#[test]
fn r10_nothing_wraps_at_the_ends_of_the_ranges() {
    let all = |ns, ppm| Timing {
        lease_ns: ns,
        window_ns: ns,
        device_delay_ns: ns,
        drift_ppm: ppm,
        lost_heartbeats: u32::MAX,
        period_max_ns: ns,
        error_report_ns: ns,
        write_ns: ns,
        read_ns: ns,
        jitter_ns: ns,
    };
    for ppm in [0, 1, MAX_DRIFT_PPM, 999_999, 1_000_000, u32::MAX] {
        for ns in [0, 1, MAX_DURATION_NS, u64::MAX - 1, u64::MAX] {
            let timing = all(ns, ppm);
            assert!(timing.validate().is_err());
            assert!(timing.needed_window_ns() >= ns);
            assert!(timing.needed_lease_ns(ns) > ns || ns == u64::MAX);
            assert!(timing.join_listen_ns() >= ns);
        }
    }
}

#[test]
fn r10_rounding_is_never_below_the_exact_value() {
    // Checked against 128-bit arithmetic, which the module may not use.
    for ppm in [0_u32, 1, 7, 500, 99_999, MAX_DRIFT_PPM] {
        for ns in [
            1_u64,
            999_999,
            1_000_000,
            1_000_001,
            86_400_000_000_000,
            123_456_789_012,
        ] {
            let timing = Timing {
                lease_ns: ns,
                drift_ppm: ppm,
                ..example()
            };
            let (n, p) = (u128::from(ns), u128::from(ppm));
            let exact = (n * (1_000_000 + p)).div_ceil(1_000_000 - p);
            assert_eq!(u128::from(timing.lease_elsewhere_ns()), exact);
            let exact = (n * (1_000_000 + p)).div_ceil(1_000_000);
            assert_eq!(u128::from(stretch_ns(ns, ppm)), exact);
        }
    }
}

#[test]
fn r1_a_period_fits_when_it_is_in_the_range_of_the_portion() {
    let timing = Timing {
        error_report_ns: 0,
        ..example()
    };
    assert!(timing.period_fits(500 * MS));
    assert!(timing.period_fits(MS));
    assert!(!timing.period_fits(MS - 1));
    assert!(!timing.period_fits(500 * MS + 1));
    assert!(!timing.period_fits(0));
}

/// So a lease that carries the longest period carries every one that fits.
#[test]
fn r1_a_shorter_period_needs_no_longer_lease() {
    for error_report_ns in [0, 300 * MS, 2_000 * MS] {
        for lost_heartbeats in 0..4 {
            let timing = Timing {
                error_report_ns,
                lost_heartbeats,
                ..example()
            };
            let needed = (1..=500).map(|period_ms| timing.needed_lease_ns(period_ms * MS));
            assert!(needed.is_sorted());
        }
    }
}

#[test]
fn r36_a_joiner_listens_for_the_longest_of_the_three() {
    let timing = example();
    assert_eq!(timing.join_listen_ns(), timing.window_ns);
    let slow = Timing {
        device_delay_ns: 60_000 * MS,
        ..timing
    };
    assert_eq!(slow.join_listen_ns(), 60_030 * MS);
    let rare = Timing {
        period_max_ns: 60_000 * MS,
        ..timing
    };
    assert_eq!(rare.join_listen_ns(), 60_030 * MS);
}

#[test]
fn r42_a_majority_is_more_than_half() {
    assert_eq!([1, 2, 3, 4, 5, 16].map(majority), [1, 2, 2, 3, 3, 9]);
    for members in 1..=16 {
        assert!(2 * majority(members) > members);
        assert!(2 * (majority(members) - 1) <= members);
    }
}

#[test]
fn r10_texts_name_the_number_that_would_do() {
    extern crate std;
    use std::string::ToString;
    let text = TimingError::WindowTooShort {
        needed_ns: 3_002_501_001,
    }
    .to_string();
    assert!(text.contains("at least 3002.501001 ms"), "{text}");
    let text = TimingError::LeaseTooShort {
        needed_ns: 1_750_500_000,
    }
    .to_string();
    assert!(text.contains("at least 1750.5 ms"), "{text}");
    let shipped = Timing {
        lease_ns: 1_751 * MS,
        ..example()
    };
    let text = shipped.shortfall().unwrap().to_string();
    let numbers = "1751 ms instead of 1900.000001 ms for 1 lost heartbeats in a row";
    assert!(text.contains(numbers), "{text}");
    assert!(text.ends_with("period of 425 ms"), "{text}");
    let hopeless = Timing {
        lease_ns: 1_100 * MS,
        ..example()
    };
    let text = hopeless.shortfall().unwrap().to_string();
    assert!(text.contains("never extend it; format"), "{text}");
    let text = TimingError::LeaseBelowPeriods {
        needed_ns: 1_000_000_001,
    }
    .to_string();
    assert!(text.contains("at least 1000.000001 ms"), "{text}");
    let text = TimingError::WindowBelowClaim {
        needed_ns: 800_000_000,
    }
    .to_string();
    assert!(text.contains("at least 800 ms"), "{text}");
    let text = TimingError::TooLong(Duration::Read).to_string();
    assert_eq!(text, "the mailbox read time is longer than one day");
}

/// The rule is the lease's own: a heartbeat that stalls for this time is judged in time, and
/// one that stalls longer is not.
#[test]
fn r11_a_stall_is_survived_exactly_as_long_as_it_says() {
    use crate::proto::lease::{Lease, Verdict};
    let timing = example();
    let (period, length) = (timing.period_max_ns, timing.lease_ns);
    let takes = timing.write_ns + timing.read_ns;
    let stall = timing.survived_stall_ns(period);
    assert_eq!(stall, length - 2 * period - takes);
    let after = |stall_ns: u64| {
        let mut lease = Lease::fresh(length, 0);
        for k in 1..=3 {
            let stamp = k * period;
            assert_ne!(lease.judge(stamp, stamp + takes), Verdict::Broken);
        }
        let stamp = 4 * period + stall_ns;
        lease.judge(stamp, stamp + takes)
    };
    assert!(matches!(after(stall - 1), Verdict::Extended { .. }));
    // A lease that ends at exactly that time is invalid [R7].
    assert_eq!(after(stall), Verdict::Broken);
    for stall in [1, period, period + 1, 7 * period] {
        let mut timing = example();
        timing.lost_heartbeats = Timing::lost_heartbeats_for(stall, period);
        timing.lease_ns = timing.needed_lease_ns(period);
        assert!(timing.survived_stall_ns(period) > stall, "{stall}");
    }
}
