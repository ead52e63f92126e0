// SPDX-License-Identifier: GPL-2.0
//! Tests of the table line: accepted and refused words, and printing.

use super::*;
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::vec::Vec;

/// Splits a line as dm_split_args() of drivers/md/dm-table.c does.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' => words.extend(word.take()),
            '\\' => word
                .get_or_insert_default()
                .push(characters.next().unwrap_or('\\')),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

fn features_of(line: &str) -> Result<FeatureArgs, TableError> {
    let words = split(line);
    TableLine::parse(words.iter().map(|word| word.as_bytes())).map(|line| line.features)
}

fn refusal(line: &str) -> TableError {
    features_of(line).expect_err(line)
}

fn controller(number: u8) -> Slot {
    Slot::from_controller(number).unwrap()
}

const ALL_FEATURES: [Feature; 7] = [
    Feature::HeartbeatMs,
    Feature::Claim,
    Feature::Batch,
    Feature::OnFull,
    Feature::FailWith,
    Feature::LapseHoldMs,
    Feature::Stateless,
];

#[test]
fn a_line_without_features_has_the_defaults() {
    for line in ["/dev/sda 1", "8:16 64", "/dev/sda 1 0", "  /dev/sda   07 "] {
        assert_eq!(features_of(line), Ok(FeatureArgs::DEFAULT), "{line}");
    }
    let line = TableLine::parse([b"8:16".as_slice(), b"64"]).unwrap();
    assert_eq!((line.device, line.controller.controller()), ("8:16", 64));
}

#[test]
fn each_feature_is_read() {
    let line = "/dev/sda 3 13 stateless lapse_hold_ms 600000 fail_with medium on_full fail \
                batch 1 claim manual heartbeat_ms 60000";
    let expected = FeatureArgs {
        heartbeat_ms: Some(60_000),
        claim: Claim::Manual,
        batch: Some(1),
        on_full: OnFull::Fail,
        fail_with: FailWith::Medium,
        lapse_hold_ms: 600_000,
        stateless: true,
    };
    assert_eq!(features_of(line), Ok(expected));
    let io_err = features_of("/dev/sda 3 2 fail_with ioerr").unwrap();
    assert_eq!(io_err.fail_with, FailWith::IoErr);
}

#[test]
fn each_wrong_line_has_its_own_refusal() {
    use Fault::*;
    use Feature::*;
    use TableError as E;
    for (line, error) in [
        ("", E::DeviceMissing),
        ("/dev/sd\u{e4} 1", E::DeviceUnprintable),
        ("/dev/sda\t 1", E::DeviceUnprintable),
        ("/dev/sda", E::ControllerMissing),
        ("/dev/sda one", E::ControllerInvalid),
        ("/dev/sda -1", E::ControllerInvalid),
        ("/dev/sda +1", E::ControllerInvalid),
        ("/dev/sda 1x", E::ControllerInvalid),
        ("/dev/sda 0", E::ControllerRange),
        ("/dev/sda 65", E::ControllerRange),
        ("/dev/sda 99999999999999999999999", E::ControllerRange),
        ("/dev/sda 1 stateless", E::CountInvalid),
        ("/dev/sda 1 14", E::CountRange),
        ("/dev/sda 1 18446744073709551616", E::CountRange),
        ("/dev/sda 1 1", E::CountTooHigh),
        ("/dev/sda 1 2 stateless", E::CountTooHigh),
        ("/dev/sda 1 2 claim", E::CountTooHigh),
        ("/dev/sda 1 0 stateless", E::CountTooLow),
        ("/dev/sda 1 1 stateless stateless", E::CountTooLow),
        ("/dev/sda 1 2 claim auto 8:16", E::CountTooLow),
        ("/dev/sda 1 1 Stateless", E::FeatureUnknown),
        ("/dev/sda 1 1 lease", E::FeatureUnknown),
        ("/dev/sda 1 2 stateless 1", E::FeatureUnknown),
        ("/dev/sda 1 1 claim", E::Feature(Claim, Missing)),
        ("/dev/sda 1 1 claim manual", E::Feature(Claim, Missing)),
        ("/dev/sda 1 2 claim never", E::Feature(Claim, Invalid)),
        ("/dev/sda 1 2 on_full wait", E::Feature(OnFull, Invalid)),
        ("/dev/sda 1 2 fail_with eio", E::Feature(FailWith, Invalid)),
        (
            "/dev/sda 1 2 heartbeat_ms fast",
            E::Feature(HeartbeatMs, Invalid),
        ),
        (
            "/dev/sda 1 2 heartbeat_ms 0",
            E::Feature(HeartbeatMs, Range),
        ),
        (
            "/dev/sda 1 2 heartbeat_ms 60001",
            E::Feature(HeartbeatMs, Range),
        ),
        ("/dev/sda 1 2 batch 0", E::Feature(Batch, Range)),
        ("/dev/sda 1 2 batch 65536", E::Feature(Batch, Range)),
        ("/dev/sda 1 2 batch 4294967297", E::Feature(Batch, Range)),
        (
            "/dev/sda 1 2 lapse_hold_ms -1",
            E::Feature(LapseHoldMs, Invalid),
        ),
        (
            "/dev/sda 1 2 lapse_hold_ms 600001",
            E::Feature(LapseHoldMs, Range),
        ),
        (
            "/dev/sda 1 2 stateless stateless",
            E::Feature(Stateless, Duplicate),
        ),
        (
            "/dev/sda 1 4 claim auto claim auto",
            E::Feature(Claim, Duplicate),
        ),
        (
            "/dev/sda 1 4 claim auto claim manual",
            E::Feature(Claim, Conflict),
        ),
        ("/dev/sda 1 4 batch 2 batch 3", E::Feature(Batch, Conflict)),
    ] {
        assert_eq!(refusal(line), error, "{line}");
    }
    let empty = TableLine::parse([b"".as_slice(), b"1"]);
    assert_eq!(empty, Err(TableError::DeviceUnprintable));
    let bytes = TableLine::parse([b"\xff\xfe".as_slice(), b"1"]);
    assert_eq!(bytes, Err(TableError::DeviceUnprintable));
}

#[test]
fn all_texts_differ_and_name_their_limits() {
    let mut errors = std::vec![
        TableError::DeviceMissing,
        TableError::DeviceUnprintable,
        TableError::ControllerMissing,
        TableError::ControllerInvalid,
        TableError::ControllerRange,
        TableError::CountInvalid,
        TableError::CountRange,
        TableError::CountTooHigh,
        TableError::CountTooLow,
        TableError::FeatureUnknown,
        TableError::StartNotZero,
        TableError::LengthNotData,
        TableError::ControllerUnknown,
        TableError::BatchAboveLimit,
        TableError::HeartbeatDiffers,
    ];
    let faults = [
        Fault::Duplicate,
        Fault::Conflict,
        Fault::Missing,
        Fault::Invalid,
        Fault::Range,
    ];
    for feature in ALL_FEATURES {
        errors.extend(faults.map(|fault| TableError::Feature(feature, fault)));
    }
    let texts: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), errors.len());
    assert!(texts.iter().all(|text| text.len() > 10 && text.is_ascii()));
    for row in &ROWS {
        if let Takes::Number(range, _) = &row.takes {
            let said = std::format!("from {} to {}", range.start(), range.end());
            let text = fault_text(row.feature, Fault::Range).to_str().unwrap();
            assert!(text.ends_with(&said), "{text}");
        }
        if let Takes::OneOf(settings) = &row.takes {
            let text = fault_text(row.feature, Fault::Invalid).to_str().unwrap();
            assert!(
                settings.iter().all(|setting| text.contains(setting.name())),
                "{text}"
            );
        }
    }
}

#[test]
fn the_rows_are_complete_and_in_order() {
    let order: Vec<Feature> = ROWS.iter().map(|row| row.feature).collect();
    assert_eq!(order, ALL_FEATURES);
    let arguments: usize = ROWS.iter().map(Row::arguments).sum();
    assert_eq!(arguments as u32, COUNT_MAX);
    let text = TableError::CountRange.to_string();
    assert!(text.ends_with(&std::format!("at most {COUNT_MAX}")));
}

#[test]
fn r47_a_printed_line_is_read_back() {
    let chosen = FeatureArgs {
        heartbeat_ms: Some(50),
        claim: Claim::Manual,
        batch: Some(2),
        on_full: OnFull::Fail,
        fail_with: FailWith::IoErr,
        lapse_hold_ms: 1_500,
        stateless: true,
    };
    let own = controller(9);
    let line = TableLine {
        device: "/dev/a b\\x20c",
        controller: own,
        features: chosen,
    };
    let printed = line.to_string();
    assert_eq!(
        printed,
        "/dev/a\\ b\\\\x20c 9 13 heartbeat_ms 50 claim manual batch 2 on_full fail \
         fail_with ioerr lapse_hold_ms 1500 stateless"
    );
    let words = split(&printed);
    assert_eq!(
        TableLine::parse(words.iter().map(|word| word.as_bytes())),
        Ok(line)
    );
}

#[test]
fn r47_defaults_are_not_printed() {
    let features = features_of("8:16 1 6 claim auto on_full hold lapse_hold_ms 0").unwrap();
    let line = TableLine {
        device: "8:16",
        controller: controller(1),
        features,
    };
    assert_eq!(line.to_string(), "8:16 1");
    let features = features_of("8:16 1 3 stateless claim auto").unwrap();
    let line = TableLine {
        device: "8:16",
        controller: controller(1),
        features,
    };
    assert_eq!(line.to_string(), "8:16 1 1 stateless");
}

#[test]
fn r47_the_ima_form_names_everything_in_force() {
    let features = features_of("8:16 1 3 stateless batch 2").unwrap();
    let line = TableLine {
        device: "8:16",
        controller: controller(1),
        features,
    };
    assert_eq!(
        line.ima().to_string(),
        ",device_name=8:16,controller=1,heartbeat_ms=-,claim=auto,batch=2,on_full=hold,\
         fail_with=resv_conflict,lapse_hold_ms=0,stateless=y;"
    );
    let line = TableLine {
        device: "/dev/a,b=c;d",
        ..line
    };
    assert!(line
        .ima()
        .to_string()
        .starts_with(",device_name=/dev/a\\,b\\=c\\;d,"));
}

#[test]
fn a_line_must_agree_with_its_surroundings() {
    let features = features_of("8:16 3 4 batch 2 heartbeat_ms 50").unwrap();
    let line = TableLine {
        device: "8:16",
        controller: controller(3),
        features,
    };
    let at = Surroundings {
        data_sectors: 2048,
        limit: Some(2),
        controllers: 0b100,
    };
    assert_eq!(line.check(0, 2048, &at), Ok(()));
    let open = Surroundings { limit: None, ..at };
    assert_eq!(line.check(0, 2048, &open), Ok(()));
    assert_eq!(line.check(8, 2048, &at), Err(TableError::StartNotZero));
    assert_eq!(line.check(0, 2047, &at), Err(TableError::LengthNotData));
    let strangers = Surroundings {
        controllers: !0b100,
        ..at
    };
    assert_eq!(
        line.check(0, 2048, &strangers),
        Err(TableError::ControllerUnknown)
    );
    let narrow = Surroundings {
        limit: Some(1),
        ..at
    };
    assert_eq!(
        line.check(0, 2048, &narrow),
        Err(TableError::BatchAboveLimit)
    );
}

#[test]
fn a_later_table_must_have_the_period_of_its_controller() {
    let asks = features_of("8:16 3 2 heartbeat_ms 50").unwrap();
    assert_eq!(asks.check_heartbeat(50), Ok(()));
    assert_eq!(asks.check_heartbeat(51), Err(TableError::HeartbeatDiffers));
    let follows = features_of("8:16 3").unwrap();
    assert_eq!(follows.check_heartbeat(51), Ok(()));
}

#[test]
fn numbers_are_digits_only() {
    assert_eq!(number(b"18446744073709551615"), Ok(u64::MAX));
    assert_eq!(number(b"18446744073709551616"), Err(NumberError::Range));
    assert_eq!(number(b"0007"), Ok(7));
    for word in ["", " 1", "1 ", "0x10", "1_000", "-1", "\u{0663}"] {
        assert_eq!(number(word.as_bytes()), Err(NumberError::Invalid), "{word}");
    }
}
