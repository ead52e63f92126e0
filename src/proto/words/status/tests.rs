// SPDX-License-Identifier: GPL-2.0
//! Tests of the status line: printing, parsing, and the reasons.

use super::*;
use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

#[test]
fn r47_roles_that_own_and_reasons_that_were_requested() {
    let owners = [Role::Owner, Role::Releasing];
    for role in Role::ALL {
        assert_eq!(role.owns(), owners.contains(&role), "{role}");
    }
    // The requested demotions, and no other.
    let wanted = Reason::ALL.iter().filter(|reason| reason.is_wanted());
    let tokens: Vec<&str> = wanted.map(|reason| reason.token()).collect();
    let asked = "released handoff fence removed suspend reboot";
    assert_eq!(tokens, asked.split(' ').collect::<Vec<_>>());
}

fn owner() -> Status<'static> {
    Status {
        portion: "vault-1",
        member: 2,
        members: 3,
        role: Role::Owner,
        epoch: Some(7),
        owner: Slot::from_controller(4),
        lease_ms_left: Some(412),
        heartbeat_seq: Some(90_001),
        open: 1,
        limit: Limit::Count(2),
        pending: 3,
        refused: 4,
        late: 5,
        members_ok: 3,
        reason: Reason::HigherEpoch,
        charged: 6,
        peak: 2,
        degraded: 1,
    }
}

fn joining() -> Status<'static> {
    Status {
        portion: "-",
        member: 0,
        members: 1,
        role: Role::Joining,
        epoch: None,
        owner: None,
        lease_ms_left: None,
        heartbeat_seq: None,
        open: 0,
        limit: Limit::Unlimited,
        pending: 0,
        refused: 0,
        late: 0,
        members_ok: 0,
        reason: Reason::None,
        charged: u32::MAX,
        peak: 0,
        degraded: 0,
    }
}

#[test]
fn r47_the_line_has_fixed_order_and_single_tokens() {
    let line = owner().to_string();
    assert_eq!(
        line,
        "vault-1 2/3 owner 7 4 412 90001 1/2 3 4 5 3 higher_epoch 6 2 1"
    );
    let line = joining().to_string();
    assert_eq!(
        line,
        "- 0/1 joining - - - - 0/unlimited 0 0 0 0 - unlimited 0 0"
    );
}

#[test]
fn r47_a_printed_line_is_read_back() {
    for status in [
        owner(),
        joining(),
        Status {
            limit: Limit::Window,
            epoch: Some(u64::MAX),
            ..owner()
        },
        Status {
            refused: u64::MAX,
            limit: Limit::Count(u32::MAX),
            ..owner()
        },
    ] {
        assert_eq!(Status::parse(&status.to_string()), Ok(status));
    }
    for role in Role::ALL {
        let status = Status { role, ..owner() };
        assert_eq!(Status::parse(&status.to_string()), Ok(status));
    }
    for &reason in Reason::ALL {
        let status = Status { reason, ..owner() };
        assert_eq!(Status::parse(&status.to_string()), Ok(status));
    }
}

#[test]
fn r47_appended_fields_are_ignored() {
    let line = format!("{} 17 later", owner());
    assert_eq!(Status::parse(&line), Ok(owner()));
}

/// The first field that an older module does not print.
const APPENDED: usize = 13;

const FIELDS: [&str; 16] = [
    "portion",
    "member",
    "role",
    "epoch",
    "owner",
    "lease_ms_left",
    "heartbeat_seq",
    "open",
    "pending",
    "refused",
    "late",
    "members_ok",
    "reason",
    "charged",
    "peak",
    "degraded",
];

#[test]
fn a_short_line_names_the_missing_field() {
    let line = owner().to_string();
    let tokens: Vec<&str> = line.split(' ').collect();
    for (length, field) in FIELDS.into_iter().enumerate() {
        let line = tokens[..length].join(" ");
        let status = Status::parse(&line);
        match length < APPENDED {
            true => assert_eq!(
                status,
                Err(StatusError {
                    field,
                    missing: true
                })
            ),
            // An older module prints fewer fields.
            false => assert_eq!(status.map(|s| s.degraded), Ok(0)),
        }
    }
    assert_eq!(tokens.len(), FIELDS.len());
}

#[test]
fn a_wrong_token_names_its_field() {
    let wrong = [
        ("member", "3/3"),
        ("member", "0/0"),
        ("member", "1"),
        ("member", "1/256"),
        ("role", "Owner"),
        ("epoch", "-1"),
        ("epoch", "18446744073709551616"),
        ("owner", "0"),
        ("owner", "65"),
        ("lease_ms_left", "1.5"),
        ("heartbeat_seq", "none"),
        ("open", "1/-"),
        ("open", "-/1"),
        ("open", "4294967296/1"),
        ("pending", "-"),
        ("refused", "x"),
        ("late", "+1"),
        ("members_ok", "4"),
        ("reason", "Lapse"),
        ("charged", "window"),
        ("peak", "-"),
        ("degraded", "some"),
    ];
    for (field, token) in wrong {
        let line = owner().to_string();
        let mut tokens: Vec<&str> = line.split(' ').collect();
        let at = FIELDS.iter().position(|name| *name == field).unwrap();
        tokens[at] = token;
        let error = StatusError {
            field,
            missing: false,
        };
        assert_eq!(Status::parse(&tokens.join(" ")), Err(error), "{token}");
        assert!(error.to_string().contains(field));
    }
}

#[test]
fn r47_reasons_have_distinct_words_codes_and_texts() {
    let tokens: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.token()).collect();
    let texts: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.text()).collect();
    assert_eq!(
        (tokens.len(), texts.len()),
        (Reason::ALL.len(), Reason::ALL.len())
    );
    let is_word = |token: &str| token.chars().all(|c| c == '_' || c.is_ascii_lowercase());
    assert!(tokens.iter().all(|token| *token == "-" || is_word(token)));
    for (code, reason) in (0u8..).zip(Reason::ALL.iter().copied()) {
        assert_eq!(reason.code(), code, "codes have no holes");
        assert_eq!(Reason::from_code(code), Some(reason));
        assert_eq!(Reason::from_token(reason.token()), Some(reason));
    }
    assert_eq!(Reason::from_code(Reason::ALL.len() as u8), None);
    assert_eq!(Reason::default(), Reason::None);
    let roles: BTreeSet<String> = Role::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(roles.len(), Role::ALL.len());
}
