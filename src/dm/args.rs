// SPDX-License-Identifier: GPL-2.0

//! The words of a table line or a message.
//!
//! dm core splits the text at blanks, undoes backslash escapes, and hands over an array of C
//! strings that lives as long as the callback. [`Args`] is an iterator over them: it never runs
//! past the end, whatever the user typed.
//!
//! C source: `dm_split_args()` in `drivers/md/dm-table.c`.

use core::iter::FusedIterator;
use kernel::prelude::*;

/// The words not yet consumed, from left to right.
///
/// # Invariants
///
/// Each pointer in `words` is a null-terminated string that lives for `'a` and does not change.
#[derive(Clone)]
pub struct Args<'a> {
    words: &'a [*mut c_char],
}

impl<'a> Args<'a> {
    /// Wraps the arguments of a constructor or of a message.
    ///
    /// # Safety
    ///
    /// `argv` must be an array of `argc` null-terminated strings that stay valid and unchanged for
    /// `'a`; it may be null if `argc` is zero.
    pub(super) unsafe fn from_raw(argc: c_uint, argv: *mut *mut c_char) -> Self {
        if argc == 0 || argv.is_null() {
            // INVARIANT: No word at all.
            return Self { words: &[] };
        }
        // SAFETY: The caller's promise.
        let words = unsafe { core::slice::from_raw_parts(argv, argc as usize) };
        // INVARIANT: The caller's promise.
        Self { words }
    }

    /// Returns the word `index` places after the next one, without consuming anything.
    pub fn peek(&self, index: usize) -> Option<&'a CStr> {
        let word = self.words.get(index)?;
        // SAFETY: By the type invariant.
        Some(unsafe { CStr::from_char_ptr(*word) })
    }

    /// Returns whether all words have been consumed.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Consumes the next word as an unsigned decimal number.
    ///
    /// Returns `None` if there is no word, or if it is not a number that fits.
    pub fn next_u64(&mut self) -> Option<u64> {
        parse_u64(self.next()?.to_bytes())
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let word = self.peek(0)?;
        self.words = self.words.get(1..).unwrap_or_default();
        Some(word)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.words.len(), Some(self.words.len()))
    }
}

impl ExactSizeIterator for Args<'_> {}
impl FusedIterator for Args<'_> {}

/// Parses an unsigned decimal number: digits only, at least one, no sign, no blank.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
