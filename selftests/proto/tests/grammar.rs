// SPDX-License-Identifier: GPL-2.0
//! What users type and read, against random input: whatever is printed is read back as it was, and
//! no line, however broken, makes a parser panic or accept what it cannot print.
//!
//! The lists of accepted and refused words stand beside the grammar, in `src/proto`. Run by `cargo
//! test`; the number of cases is fixed here, a failing case is kept as a seed beside this file.

use dm_lease_proto::proto::limit::Limit;
use dm_lease_proto::proto::message::Command;
use dm_lease_proto::proto::record::Slot;
use dm_lease_proto::proto::status::{Reason, Role, Status};
use dm_lease_proto::proto::table::{
    Claim, FailWith, Features, OnFull, TableError, TableLine, BATCH, HEARTBEAT_MS, LAPSE_HOLD_MS,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Cases of each property over random or mutated lines.
const CASES: u32 = 10_000;

/// What `dm_split_args()` of drivers/md/dm-table.c makes of a line.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            // The kernel's isspace(), for ASCII.
            ' ' | '\t'..='\r' => words.extend(word.take()),
            '\\' => word
                .get_or_insert_default()
                .push(characters.next().unwrap_or('\\')),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

fn table(words: &[String]) -> Result<TableLine<'_>, TableError> {
    TableLine::parse(words.iter().map(|word| word.as_bytes()))
}

fn slots() -> impl Strategy<Value = Slot> {
    (0u8..64).prop_map(|index| Slot::new(index).expect("below 64"))
}

fn features() -> impl Strategy<Value = Features> {
    (
        option::of(HEARTBEAT_MS),
        select(vec![Claim::Auto, Claim::Manual]),
        option::of(BATCH),
        select(vec![OnFull::Hold, OnFull::Fail]),
        select(vec![
            FailWith::ResvConflict,
            FailWith::IoErr,
            FailWith::Medium,
        ]),
        prop_oneof![Just(0), LAPSE_HOLD_MS],
        any::<bool>(),
    )
        .prop_map(
            |(heartbeat_ms, claim, batch, on_full, fail_with, lapse_hold_ms, stateless)| Features {
                heartbeat_ms,
                claim,
                batch,
                on_full,
                fail_with,
                lapse_hold_ms,
                stateless,
            },
        )
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        select(vec![
            Command::Claim,
            Command::Release,
            Command::Fence,
            Command::Drop
        ]),
        slots().prop_map(Command::Handoff),
        (slots(), 1_u64.., any::<bool>()).prop_map(|(controller, epoch, force)| {
            Command::ConfirmDead {
                controller,
                epoch,
                force,
            }
        }),
        (1_u64..).prop_map(|epoch| Command::AcceptRisk { epoch }),
        (1_u64..).prop_map(|epoch| Command::Repaired { epoch }),
        (0u8..=16).prop_map(Command::Degraded),
        HEARTBEAT_MS.prop_map(Command::HeartbeatMs),
    ]
}

/// A status without its name, which it borrows.
fn statuses() -> impl Strategy<Value = Status<'static>> {
    let limits = prop_oneof![
        any::<u32>().prop_map(Limit::Count),
        Just(Limit::Unlimited),
        Just(Limit::Window),
    ];
    let place = (1u8..=16).prop_flat_map(|members| (0..members, Just(members), 0..=members));
    let term = (
        option::of(any::<u64>()),
        option::of(slots()),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
    );
    let budget = (any::<u32>(), any::<u32>());
    let counters = (any::<u32>(), limits, any::<[u64; 3]>(), budget);
    let words = (select(Role::ALL.to_vec()), select(Reason::ALL.to_vec()));
    (place, term, counters, words).prop_map(
        |((member, members, members_ok), term, (open, limit, counts, budget), (role, reason))| {
            let (epoch, owner, lease_ms_left, heartbeat_seq) = term;
            let [pending, refused, late] = counts;
            let (charged, peak) = budget;
            Status {
                portion: "",
                member,
                members,
                role,
                epoch,
                owner,
                lease_ms_left,
                heartbeat_seq,
                open,
                limit,
                pending,
                refused,
                late,
                members_ok,
                reason,
                charged,
                peak,
            }
        },
    )
}

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

/// One change of a line: a byte is replaced, left out, doubled, or the line is cut there.
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

/// What was accepted must print as a line that means the same.
fn table_is_sound(words: &[Vec<u8>]) -> Result<(), TestCaseError> {
    if let Ok(line) = TableLine::parse(words.iter().map(Vec::as_slice)) {
        let printed = line.to_string();
        let words = split(&printed);
        prop_assert_eq!(table(&words), Ok(line), "{}", printed);
        prop_assert!(line.ima().to_string().ends_with(';'));
    }
    Ok(())
}

fn message_is_sound(words: &[Vec<u8>]) -> Result<(), TestCaseError> {
    if let Ok(command) = Command::parse(words.iter().map(Vec::as_slice)) {
        let printed = command.to_string();
        let again = Command::parse(printed.split(' ').map(str::as_bytes));
        prop_assert_eq!(again, Ok(command), "{}", printed);
    }
    Ok(())
}

fn status_is_sound(line: &str) -> Result<(), TestCaseError> {
    if let Ok(status) = Status::parse(line) {
        let printed = status.to_string();
        prop_assert_eq!(Status::parse(&printed), Ok(status), "{}", printed);
    }
    Ok(())
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
        let words = split(&line.to_string());
        prop_assert_eq!(table(&words), Ok(line));
        // What is printed is canonical: printing it again changes nothing.
        prop_assert_eq!(table(&words).unwrap().to_string(), line.to_string());
    }

    #[test]
    fn commands_round_trip(command in commands()) {
        let printed = command.to_string();
        let read = Command::parse(printed.split(' ').map(str::as_bytes));
        prop_assert_eq!(read, Ok(command));
    }

    #[test]
    fn r47_statuses_round_trip(portion in "[A-Za-z0-9_.-]{1,32}", status in statuses()) {
        let status = Status { portion: &portion, ..status };
        let printed = status.to_string();
        prop_assert_eq!(printed.split(' ').count(), 15);
        prop_assert_eq!(Status::parse(&printed), Ok(status));
        // dmsetup ends the line; later versions append fields.
        let later = format!("{printed} more 1/2 -\n");
        prop_assert_eq!(Status::parse(&later), Ok(status));
    }

    #[test]
    fn plausible_words_never_panic(words in plausible_words()) {
        let bytes: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
        table_is_sound(&bytes)?;
        message_is_sound(&bytes)?;
        status_is_sound(&words.join(" "))?;
    }

    #[test]
    fn random_bytes_never_panic(words in vec(vec(any::<u8>(), 0..16), 0..16)) {
        table_is_sound(&words)?;
        message_is_sound(&words)?;
        status_is_sound(&String::from_utf8_lossy(&words.join(&b' ')))?;
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
            let words = line.split(|byte| *byte == b' ').map(<[u8]>::to_vec);
            let words: Vec<Vec<u8>> = words.collect();
            table_is_sound(&words)?;
            message_is_sound(&words)?;
            status_is_sound(&String::from_utf8_lossy(&line))?;
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
            let words = split(&String::from_utf8(line).expect("ASCII"));
            match table(&words) {
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
