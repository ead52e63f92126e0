// SPDX-License-Identifier: GPL-2.0
//! The lines that users write and read, against random input: a printed line is read back as it
//! was, and no broken line makes a parser panic or accept a line that it cannot print.
//!
//! The lists of accepted and refused words are beside the grammar, in `src/proto/words`. `cargo
//! test` runs these tests. The number of cases is fixed here, and a failing case is kept as a seed
//! beside this file.

#[path = "inputs/lines.rs"]
mod inputs;
#[path = "properties/lines.rs"]
mod properties;
#[path = "properties/refusals.rs"]
mod refusals;

use dm_lease_proto::proto::words::message::Message;
use dm_lease_proto::proto::words::status::Status;
use dm_lease_proto::proto::words::table::TableLine;
use inputs::{commands, features, slots, statuses};
use properties::{message_is_sound, split, status_is_sound, table, table_is_sound};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Cases of each property over random or mutated lines.
const CASES: u32 = 10_000;

/// Words that look like the grammar's, in any order.
fn plausible_words() -> impl Strategy<Value = Vec<String>> {
    let known = [
        "/dev/sda",
        "8:16",
        "1",
        "64",
        "65",
        "0",
        "2",
        "4",
        "13",
        "heartbeat_ms",
        "50",
        "claim",
        "auto",
        "manual",
        "batch",
        "on_full",
        "hold",
        "fail",
        "fail_with",
        "ioerr",
        "medium",
        "lapse_hold_ms",
        "stateless",
        "release",
        "handoff",
        "fence",
        "drop",
        "confirm_dead",
        "force",
        "accept_risk",
        "repaired",
        "degraded",
        "owner",
        "-",
        "1/3",
        "2/unlimited",
    ];
    let word = prop_oneof![
        8 => select(known.to_vec()).prop_map(String::from),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => "[ -~]{0,12}",
        1 => any::<String>(),
    ];
    vec(word, 0..16)
}

/// One change of a line: a byte is replaced, removed or doubled, or the line is cut there.
fn mutate(line: &mut Vec<u8>, (kind, at, byte): (u8, usize, u8)) {
    if line.is_empty() {
        return;
    }
    let at = at % line.len();
    match kind % 4 {
        0 => line[at] = byte,
        1 => drop(line.remove(at)),
        2 => line.insert(at, line[at]),
        _ => line.truncate(at),
    }
}

fn mutations() -> impl Strategy<Value = Vec<(u8, usize, u8)>> {
    vec(any::<(u8, usize, u8)>(), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn r47_tables_round_trip(
        device in "[ -~]{1,40}",
        controller in slots(),
        features in features(),
    ) {
        let line = TableLine { device: &device, controller, features };
        let words = split(line.to_string().as_bytes());
        prop_assert_eq!(table(&words), Ok(line));
        // A printed line is canonical: it prints as the same line again.
        prop_assert_eq!(table(&words).unwrap().to_string(), line.to_string());
    }

    #[test]
    fn commands_round_trip(command in commands()) {
        let printed = command.to_string();
        let read = Message::parse(printed.split(' ').map(str::as_bytes));
        prop_assert_eq!(read, Ok(command));
    }

    #[test]
    fn r47_statuses_round_trip(portion in "[A-Za-z0-9_.-]{1,32}", status in statuses()) {
        let status = Status { portion: &portion, ..status };
        let printed = status.to_string();
        prop_assert_eq!(printed.split(' ').count(), 16);
        prop_assert_eq!(Status::parse(&printed), Ok(status));
        // dmsetup ends the line; later versions append fields.
        let later = format!("{printed} more 1/2 -\n");
        prop_assert_eq!(Status::parse(&later), Ok(status));
    }

    #[test]
    fn plausible_words_never_panic(words in plausible_words()) {
        let bytes: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
        table_is_sound(&bytes);
        message_is_sound(&bytes);
        status_is_sound(&words.join(" "));
    }

    #[test]
    fn random_bytes_never_panic(words in vec(vec(any::<u8>(), 0..16), 0..16)) {
        table_is_sound(&words);
        message_is_sound(&words);
        status_is_sound(&String::from_utf8_lossy(&words.join(&b' ')));
    }

    #[test]
    fn mutated_lines_never_panic(
        (controller, features) in (slots(), features()),
        (command, status) in (commands(), statuses()),
        mutations in mutations(),
    ) {
        let lines = [
            TableLine { device: "/dev/sda", controller, features }.to_string(),
            command.to_string(),
            Status { portion: "vault", ..status }.to_string(),
        ];
        for line in lines {
            let mut line = line.into_bytes();
            for mutation in &mutations {
                mutate(&mut line, *mutation);
            }
            let words = split(&line);
            table_is_sound(&words);
            message_is_sound(&words);
            status_is_sound(&String::from_utf8_lossy(&line));
        }
    }
}

/// The property tests above can fail: a mutated line is often refused, and often still accepted.
#[test]
fn mutations_reach_both_outcomes() {
    let line = b"/dev/sda 3 3 stateless batch 2".to_vec();
    let mut accepted = 0;
    let mut refused = 0;
    for at in 0..line.len() {
        for byte in [b'1', b' ', b'x'] {
            let mut line = line.clone();
            mutate(&mut line, (0, at, byte));
            match table(&split(&line)) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        accepted > 10 && refused > 10,
        "{accepted} accepted, {refused} refused"
    );
}

/// No line is slow, however long it is: unneeded words are not read, and no byte of a long word is
/// read more than a few times.
#[test]
fn no_line_is_too_long() {
    let long = vec![b'9'; 1 << 16];
    let line = split(b"/dev/sda 1 13 stateless batch 2");
    for at in 0..=line.len() {
        for word in [&long, &b"stateless".to_vec()] {
            let mut words = line[..at].to_vec();
            words.resize(at + 100, word.clone());
            table_is_sound(&words);
            message_is_sound(&words);
        }
    }
}
