// SPDX-License-Identifier: GPL-2.0
//! Consecutive fields in a block, and the test for zeros.
//!
//! Pure functions: any caller, no locking.

/// Whether all bytes are zero. The loop tests a cache line at a time, because a heartbeat round
/// tests every block that it has read.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let mut lines = bytes.chunks_exact(64);
    lines.by_ref().all(|line| any(line) == 0) && any(lines.remainder()) == 0
}

/// The bits that are set anywhere in `bytes`, eight bytes at a time.
#[inline(always)]
fn any(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |it| u64::from_ne_bytes(*it));
    let whole = words.by_ref().fold(0, |any, bytes| any | word(bytes));
    let rest = words.remainder().iter();
    rest.fold(whole, |any, &byte| any | u64::from(byte))
}

/// Writes consecutive fields into a block, little-endian. The rest of the block becomes zero.
///
/// Fields beyond the end are dropped. The sizes of the codecs are constants, and their tests would
/// find a field that is missing.
pub struct FieldWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> FieldWriter<'a> {
    /// Clears `block` and starts at its first byte.
    pub fn new(block: &'a mut [u8]) -> Self {
        block.fill(0);
        Self { rest: block }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((field, rest)) = rest.split_at_mut_checked(bytes.len()) {
            field.copy_from_slice(bytes);
            self.rest = rest;
        }
    }

    /// Leaves `count` bytes zero.
    pub fn skip(&mut self, count: usize) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((_, rest)) = rest.split_at_mut_checked(count) {
            self.rest = rest;
        }
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 128-bit number.
    pub fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }
}

/// Reads consecutive fields from a block; the mirror image of [`FieldWriter`].
///
/// Reading beyond the end yields zeros, which no codec does (their sizes are constants).
pub struct FieldReader<'a> {
    block: &'a [u8],
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    /// Starts at the first byte of `block`.
    pub const fn new(block: &'a [u8]) -> Self {
        Self { block, rest: block }
    }

    /// Takes `N` bytes as they are.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => {
                self.rest = &[];
                [0; N]
            }
        }
    }

    /// Takes a byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// Takes a 16-bit number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// Takes a 32-bit number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// Takes a 64-bit number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Takes a 128-bit number.
    pub fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.bytes())
    }

    /// Takes `N` bytes. Returns whether all are zero, as reserved bytes must be.
    pub fn is_zero<const N: usize>(&mut self) -> bool {
        self.bytes::<N>().iter().all(|&byte| byte == 0)
    }

    /// Whether the unread rest is zero.
    pub fn rest_is_zero(&self) -> bool {
        is_zero(self.rest)
    }

    /// Whether the unread rest before byte `end` of the block is zero.
    pub fn is_zero_before(&self, end: usize) -> bool {
        let behind = self.block.len().saturating_sub(end);
        let length = self.rest.len().saturating_sub(behind);
        is_zero(self.rest.get(..length).unwrap_or(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::codec::block::{is_blank, BLOCK_SIZE};

    #[test]
    fn r26_one_byte_anywhere_is_not_zero() {
        for length in 0..140 {
            let mut bytes = std::vec![0; length];
            assert!(is_zero(&bytes));
            assert_eq!(is_zero(&std::vec![0x80; length]), length == 0);
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn r26_fields_come_back_and_the_end_is_no_panic() {
        let mut block = [0xff; BLOCK_SIZE];
        let mut out = FieldWriter::new(&mut block);
        out.u8(1);
        out.u16(0x0203);
        out.u32(0x0405_0607);
        out.u64(0x0809_0a0b_0c0d_0e0f);
        out.u128(7 << 100);
        out.skip(5);
        out.bytes(b"end");
        let mut read = FieldReader::new(&block);
        assert_eq!(read.u8(), 1);
        assert_eq!(read.u16(), 0x0203);
        assert_eq!(read.u32(), 0x0405_0607);
        assert_eq!(read.u64(), 0x0809_0a0b_0c0d_0e0f);
        assert_eq!(read.u128(), 7 << 100);
        assert!(read.is_zero::<5>());
        assert!(!read.rest_is_zero());
        assert_eq!(&read.bytes::<3>(), b"end");
        assert!(read.rest_is_zero());
        read.bytes::<4000>();
        assert_eq!(read.bytes::<4000>(), [0; 4000]);
        let mut out = FieldWriter::new(&mut block);
        out.skip(4095);
        out.u32(9);
        out.u8(9);
        assert!(is_blank(&block));
    }
}
