// SPDX-License-Identifier: GPL-2.0
//! Every refusal has a text of its own.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Mutex;

/// The texts so far, each with its refusal.
static TEXTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Panics if this text is empty or belongs to another refusal. Numbers are left out of both,
/// because one refusal may name many.
pub fn has_own_words(words: impl Display, refusal: impl Debug) {
    let is_plain = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
    let words = words.to_string();
    let words: Vec<&str> = words.split(' ').filter(is_plain).collect();
    let words = words.join(" ");
    let refusal = format!("{refusal:?}").replace(|c: char| c.is_ascii_digit(), "");
    assert!(!words.is_empty(), "{refusal} is refused without a word");
    let mut said = TEXTS.lock().unwrap();
    let before = said.entry(words).or_insert_with(|| refusal.clone());
    assert_eq!(*before, refusal, "two refusals in the same words");
}
