// SPDX-License-Identifier: GPL-2.0

//! The arguments of a table line or a message.
//!
//! dm core splits the text at blanks and undoes backslash escapes. It passes an array of C strings
//! that exists until the callback returns. [`Args`] is an iterator over the array that never reads
//! past its end.
//!
//! C source: `dm_split_args()` in `drivers/md/dm-table.c`.

use core::iter::FusedIterator;
use kernel::prelude::*;

/// The arguments that have not been consumed yet, from left to right.
///
/// # Invariants
///
/// Each pointer in `words` points to a null-terminated string that exists and does not change
/// during `'a`.
#[derive(Clone)]
pub struct Args<'a> {
    words: &'a [*mut c_char],
}

impl<'a> Args<'a> {
    /// Wraps the arguments of a constructor or of a message.
    ///
    /// # Safety
    ///
    /// - `argv` must be null if `argc` is zero, or point to an array of `argc` pointers that exists
    ///   and does not change during `'a`.
    /// - Each pointer must point to a null-terminated string that exists and does not change during
    ///   `'a`.
    pub(super) unsafe fn from_raw(argc: c_uint, argv: *mut *mut c_char) -> Self {
        if argc == 0 || argv.is_null() {
            // INVARIANT: There is no pointer.
            return Self { words: &[] };
        }
        // SAFETY: By the safety requirements `argv` points to `argc` pointers, which do not change.
        let words = unsafe { core::slice::from_raw_parts(argv, argc as usize) };
        // INVARIANT: By the safety requirements each pointer is such a string.
        Self { words }
    }

    /// Returns the argument `index` places behind the next one, without consuming an argument.
    pub fn peek(&self, index: usize) -> Option<&'a CStr> {
        let word = self.words.get(index)?;
        // SAFETY: By the type invariant the pointer is a null-terminated string that exists for
        // `'a`.
        Some(unsafe { CStr::from_char_ptr(*word) })
    }

    /// Returns whether all arguments have been consumed.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Consumes the next argument as an unsigned decimal number.
    ///
    /// Returns `None` if there is no argument, or if it is not a number of 64 bits.
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

/// Parses an unsigned decimal number, which consists of one or more digits and nothing else.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
