// SPDX-License-Identifier: GPL-2.0

//! Text for user space: status lines and the answers to messages.
//!
//! dm core passes a buffer to a callback, and takes the string in it afterwards. If the string
//! fills the buffer, dm core tells user space that the buffer was too small, and user space repeats
//! the call with a larger one. Therefore text that does not fit must fill the buffer completely, as
//! `DMEMIT` does.
//!
//! C source: `retrieve_status()` and `target_message()` in `drivers/md/dm-ioctl.c`.

use core::marker::PhantomData;
use kernel::{
    fmt,
    prelude::*,
    types::NotThreadSafe, //
};

/// A text buffer of a fixed size, for use with `write!`.
///
/// Writing does not fail. Text that does not fit is cut off.
///
/// # Invariants
///
/// - `buffer` is valid for writes of `capacity` bytes during `'a`.
/// - Either `len < capacity`, and the byte at `len` is zero; or both numbers are zero.
pub struct TextWriter<'a> {
    buffer: *mut u8,
    capacity: usize,
    len: usize,
    _buffer: PhantomData<&'a mut [u8]>,
    _local: NotThreadSafe,
}

impl TextWriter<'_> {
    /// Wraps a buffer of dm core, and makes it empty.
    ///
    /// # Safety
    ///
    /// Unless `capacity` is zero, `buffer` must be valid for writes of `capacity` bytes for the
    /// lifetime of the result, and no one else may use the buffer during that time.
    pub(super) unsafe fn from_raw(buffer: *mut c_char, capacity: c_uint) -> Self {
        let buffer = buffer.cast::<u8>();
        if capacity != 0 {
            // SAFETY: By the safety requirements at least one byte is valid for writes.
            unsafe { buffer.write(0) };
        }
        // INVARIANT: By the safety requirements. The text is empty, and its terminator was just
        // written.
        Self {
            buffer,
            capacity: capacity as usize,
            len: 0,
            _buffer: PhantomData,
            _local: NotThreadSafe,
        }
    }

    /// Returns whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn push_bytes(&mut self, text: &[u8]) {
        let room = self.capacity.saturating_sub(self.len).saturating_sub(1);
        let count = text.len().min(room);
        if count == 0 {
            return;
        }
        // SAFETY: By the type invariant `room` bytes and a terminator are valid for writes behind
        // `len`.
        unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), self.buffer.add(self.len), count) };
        // INVARIANT: `count <= room`, so that the sum is less than `capacity`. The terminator
        // follows.
        self.len = self.len.wrapping_add(count);
        // SAFETY: `len` is less than `capacity`, see above.
        unsafe { self.buffer.add(self.len).write(0) };
    }
}

impl fmt::Write for TextWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_bytes(text.as_bytes());
        Ok(())
    }
}
