// SPDX-License-Identifier: GPL-2.0

//! Text that dm core carries to user space: status lines and answers to messages.
//!
//! dm core hands over a buffer and afterwards takes the string it finds there. If that string fills
//! the buffer to its last byte, user space is told that the buffer was too small and comes back
//! with a larger one; text that does not fit must therefore be cut off exactly at the end, as
//! `DMEMIT` does, and not before.
//!
//! C source: `retrieve_status()` and `target_message()` in `drivers/md/dm-ioctl.c`.

use core::marker::PhantomData;
use kernel::{
    fmt,
    prelude::*,
    types::NotThreadSafe, //
};

/// A bounded text buffer; use it with `write!`.
///
/// Writing never fails: what does not fit is cut off.
///
/// # Invariants
///
/// `buffer` is valid for writes of `capacity` bytes for `'a`, `len < capacity` (or both are zero),
/// and the byte at `len` is zero.
pub struct TextWriter<'a> {
    buffer: *mut u8,
    capacity: usize,
    len: usize,
    _buffer: PhantomData<&'a mut [u8]>,
    _local: NotThreadSafe,
}

impl TextWriter<'_> {
    /// Wraps a buffer of dm core and empties it.
    ///
    /// # Safety
    ///
    /// `buffer` must be valid for writes of `capacity` bytes, by nobody else, for the lifetime of
    /// the result; it may be anything if `capacity` is zero.
    pub(super) unsafe fn from_raw(buffer: *mut c_char, capacity: c_uint) -> Self {
        let buffer = buffer.cast::<u8>();
        if capacity != 0 {
            // SAFETY: There is at least one byte.
            unsafe { buffer.write(0) };
        }
        // INVARIANT: The caller's promise, and the text is empty and terminated.
        Self {
            buffer,
            capacity: capacity as usize,
            len: 0,
            _buffer: PhantomData,
            _local: NotThreadSafe,
        }
    }

    /// Returns whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends text as it is.
    pub fn push_bytes(&mut self, text: &[u8]) {
        let room = self.capacity.saturating_sub(self.len).saturating_sub(1);
        let count = text.len().min(room);
        if count == 0 {
            return;
        }
        // SAFETY: By the type invariant there are `room` bytes and a terminator after `len`.
        unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), self.buffer.add(self.len), count) };
        // INVARIANT: `count <= room`, hence the sum is less than `capacity`.
        self.len = self.len.wrapping_add(count);
        // SAFETY: By the type invariant.
        unsafe { self.buffer.add(self.len).write(0) };
    }
}

impl fmt::Write for TextWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_bytes(text.as_bytes());
        Ok(())
    }
}
