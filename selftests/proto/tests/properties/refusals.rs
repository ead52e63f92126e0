// SPDX-License-Identifier: GPL-2.0
//! Every refusal has its own words.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Mutex;

/// What was said so far, and for which refusal.
static SAID: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Panics if these words were said for another refusal before, or if there are none. The numbers in
/// both are left out: one refusal may name many.
pub fn has_own_words(words: impl Display, refusal: impl Debug) {
    let is_plain = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
    let words = words.to_string();
    let words: Vec<&str> = words.split(' ').filter(is_plain).collect();
    let words = words.join(" ");
    let refusal = format!("{refusal:?}").replace(|c: char| c.is_ascii_digit(), "");
    assert!(!words.is_empty(), "{refusal} is refused without a word");
    let mut said = SAID.lock().unwrap();
    let before = said.entry(words).or_insert_with(|| refusal.clone());
    assert_eq!(*before, refusal, "two refusals in the same words");
}
