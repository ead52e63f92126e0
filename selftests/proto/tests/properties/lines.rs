// SPDX-License-Identifier: GPL-2.0
//! The properties of every line that a user may write, however broken it is.
//!
//! Used by the tests with random lines (`grammar.rs`) and by the fuzzer (`fuzz/`), whose root has
//! the module `refusals`. A property that does not hold panics.

use crate::refusals::has_own_words;
use dm_lease_proto::proto::words::message::Message;
use dm_lease_proto::proto::words::status::Status;
use dm_lease_proto::proto::words::table::{Surroundings, TableError, TableLine};
use std::cell::Cell;

/// The highest number of words that the parser reads of a table line: device, controller, count,
/// the counted arguments, and one too many.
const TABLE_WORDS: usize = 17;

/// The same for a message: its name, three arguments, and one too many.
const MESSAGE_WORDS: usize = 5;

/// Splits a line as `dm_split_args()` of drivers/md/dm-table.c does.
pub fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            // The kernel's isspace().
            b' ' | b'\t'..=b'\r' | 0xa0 => words.extend(word.take()),
            b'\\' => word
                .get_or_insert_default()
                .push(*bytes.next().unwrap_or(&b'\\')),
            _ => word.get_or_insert_default().push(*byte),
        }
    }
    words.extend(word);
    words
}

/// The table line in these words.
pub fn table(words: &[Vec<u8>]) -> Result<TableLine<'_>, TableError> {
    TableLine::parse(words.iter().map(Vec::as_slice))
}

/// The words, and how many of them were taken: a parser that stops early is never slow.
fn counted<'a>(words: &'a [Vec<u8>], taken: &'a Cell<usize>) -> impl Iterator<Item = &'a [u8]> {
    words.iter().map(|word| {
        taken.set(taken.get() + 1);
        word.as_slice()
    })
}

/// An accepted line prints as a line with the same meaning; a refused line has an error text.
pub fn table_is_sound(words: &[Vec<u8>]) {
    let taken = Cell::new(0);
    let parsed = TableLine::parse(counted(words, &taken));
    assert!(taken.get() <= TABLE_WORDS, "{} words read", taken.get());
    let line = match parsed {
        Ok(line) => line,
        Err(error) => return has_own_words(error, error),
    };
    assert_eq!(taken.get(), words.len(), "words left unread");
    let printed = line.to_string();
    let words = split(printed.as_bytes());
    assert_eq!(table(&words), Ok(line), "{printed}");
    assert_eq!(table(&words).unwrap().to_string(), printed);
    assert!(line.ima().to_string().ends_with(';'));
    fits_or_says_why(&line);
}

/// A line beside a superblock that it may contradict.
fn fits_or_says_why(line: &TableLine<'_>) {
    let at = Surroundings {
        data_sectors: 8,
        limit: Some(4),
        controllers: 0xffff_ffff,
    };
    for (start, length) in [(0, 8), (8, 8), (0, 16)] {
        if let Err(error) = line.check(start, length, &at) {
            has_own_words(error, error);
        }
    }
    if let Err(error) = line.features.check_heartbeat(100) {
        has_own_words(error, error);
    }
}

/// An accepted message prints as a message with the same meaning; a refused one has an error text.
pub fn message_is_sound(words: &[Vec<u8>]) {
    let taken = Cell::new(0);
    let parsed = Message::parse(counted(words, &taken));
    assert!(taken.get() <= MESSAGE_WORDS, "{} words read", taken.get());
    match parsed {
        Ok(command) => {
            assert_eq!(taken.get(), words.len(), "words left unread");
            let printed = command.to_string();
            let again = Message::parse(printed.split(' ').map(str::as_bytes));
            assert_eq!(again, Ok(command), "{printed}");
        }
        Err(error) => has_own_words(error, error),
    }
}

/// A status that can be read prints as one with the same content.
pub fn status_is_sound(line: &str) {
    match Status::parse(line) {
        Ok(status) => {
            let printed = status.to_string();
            assert_eq!(Status::parse(&printed), Ok(status), "{printed}");
        }
        Err(error) => has_own_words(error, error),
    }
}
