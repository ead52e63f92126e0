// SPDX-License-Identifier: GPL-2.0
//! Documents agree with the source: every error text and trace event is explained, and the commands
//! on the pages exist.

use dm_lease_proto::proto::words::status::Reason;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn source(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// The literals of a file, without tests and comments, that look like a sentence, each up to its
/// first placeholder.
fn sentences(path: &str) -> BTreeSet<String> {
    let text = source(path);
    let (product, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
    let mut found = BTreeSet::new();
    for line in product.lines().map(str::trim_start) {
        if line.starts_with("//") || line.contains("#[doc") {
            continue;
        }
        // The text between quotes; none of these files has an escaped quote.
        for literal in line.split('"').skip(1).step_by(2) {
            let literal = literal.split('{').next().unwrap().trim();
            if literal.contains(' ') {
                found.insert(literal.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_error_text_is_explained() {
    let page = source("scripts/doc/troubleshooting.md");
    let mut texts = BTreeSet::new();
    for path in [
        "words/table",
        "words/message",
        "codec/superblock",
        "time",
        "limit",
    ] {
        let found = sentences(&format!("src/proto/{path}.rs"));
        assert!(found.len() > 9, "{path}: {found:?}");
        texts.extend(found);
    }
    // The texts of the constructor begin with a capital letter.
    for path in ["src/driver/target.rs", "src/dm/target.rs"] {
        let capital = |text: &String| text.starts_with(|c: char| c.is_ascii_uppercase());
        texts.extend(sentences(path).into_iter().filter(capital));
    }
    texts.extend(Reason::ALL.iter().map(|reason| reason.text().to_owned()));
    assert!(texts.len() > 120, "{}", texts.len());
    let missing: Vec<_> = texts.iter().filter(|text| !page.contains(*text)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for reason in Reason::ALL {
        let row = format!("| `{}` | `{}` |", reason.text(), reason.token());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn trace_events_and_their_fields_are_listed() {
    let page = source("scripts/doc/tracing.md");
    let header = source("src/driver/events.h");
    let mut events = 0;
    for event in header.split("TRACE_EVENT(").skip(1) {
        let (name, rest) = event.split_once(',').unwrap();
        let printed = rest.split("TP_printk(\"").nth(1).unwrap();
        let (format, _) = printed.split_once('"').unwrap();
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` ")));
        let row = row.unwrap_or_else(|| panic!("{name}"));
        for field in format.split(' ').filter_map(|word| word.split_once('=')) {
            assert!(row.contains(field.0), "{name}: {}", field.0);
        }
        events += 1;
    }
    assert_eq!(events, 4);
}

#[test]
fn pages_name_commands_that_there_are() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../doc");
    let pages: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 12, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let page = page.display();
        for rest in text.split("leasectl ").skip(1) {
            let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            let help = std::process::Command::new(env!("CARGO_BIN_EXE_leasectl"))
                .args([word.as_str(), "--help"])
                .output()
                .unwrap();
            let known = help.status.success() || rest.starts_with("prints");
            assert!(known, "{page}: leasectl {word}");
        }
    }
}
