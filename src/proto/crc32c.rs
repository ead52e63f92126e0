// SPDX-License-Identifier: GPL-2.0
//! CRC32C (Castagnoli), the checksum of every block this project puts on a member.
//!
//! Source: RFC 3720 appendix B.4 (test vectors) and section 12.1 (parameters): reflected polynomial
//! 0x82f63b78, initial value and final inversion all ones. It is the kernel's `crc32c()` with both
//! inversions, computed here so that the codecs stay free of the kernel and give the same answer
//! in the module, the tool and the tests.
//!
//! Any error burst of up to 32 bits, hence any single flipped bit, changes the checksum of a
//! block; that is what lets a torn or damaged block count as no information [R26].
//!
//! Pure functions: any caller, no locking.

/// The polynomial, bit-reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]` is the checksum register after byte `b` followed by `k` zero bytes.
///
/// Eight tables let the loop take eight bytes per step, because a heartbeat round checks up to
/// 128 blocks of every member inside the lease ("slicing by 8", Kounavis & Berry 2005).
static TABLES: [[u32; 256]; 8] = make_tables();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn make_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = register & 1;
            register = (register >> 1) ^ (POLYNOMIAL * carry);
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// A checksum in the making; feed it with [`Crc32c::update`], end with [`Crc32c::finish`].
#[derive(Clone, Copy, Debug)]
pub struct Crc32c {
    register: u32,
}

impl Crc32c {
    /// The checksum of nothing yet.
    pub const fn new() -> Self {
        Self { register: !0 }
    }

    /// Appends `bytes` to what is checked.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        let mut register = self.register;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in chunks.by_ref() {
            // `chunks_exact` yields eight bytes each time, so the pattern always matches.
            if let &[a, b, c, d, e, f, g, h] = chunk {
                let [r0, r1, r2, r3] = register.to_le_bytes();
                register = slice(7, a ^ r0)
                    ^ slice(6, b ^ r1)
                    ^ slice(5, c ^ r2)
                    ^ slice(4, d ^ r3)
                    ^ slice(3, e)
                    ^ slice(2, f)
                    ^ slice(1, g)
                    ^ slice(0, h);
            }
        }
        for &byte in chunks.remainder() {
            let [low, ..] = register.to_le_bytes();
            register = (register >> 8) ^ slice(0, byte ^ low);
        }
        Self { register }
    }

    /// The checksum of everything fed so far.
    pub const fn finish(self) -> u32 {
        !self.register
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

/// One table look-up; the index is a byte, so it cannot leave the table.
#[expect(
    clippy::indexing_slicing,
    reason = "a byte is a valid index, and so is the mask"
)]
#[inline(always)]
fn slice(table: usize, byte: u8) -> u32 {
    TABLES[table & 7][usize::from(byte)]
}

/// The CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    Crc32c::new().update(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, one bit at a time.
    fn bitwise(bytes: &[u8]) -> u32 {
        let mut register = !0_u32;
        for &byte in bytes {
            register ^= u32::from(byte);
            for _ in 0..8 {
                register = (register >> 1) ^ if register & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        !register
    }

    #[test]
    fn r26_check_value_and_rfc3720_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: [u8; 32] = core::array::from_fn(|i| i as u8);
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        let falling: [u8; 32] = core::array::from_fn(|i| 31 - i as u8);
        assert_eq!(crc32c(&falling), 0x113f_db5c);
    }

    #[test]
    fn r26_eight_bytes_at_a_time_is_the_definition_for_every_length_and_split() {
        let bytes: [u8; 67] = core::array::from_fn(|i| (i * 73 + 11) as u8);
        for end in 0..=bytes.len() {
            assert_eq!(crc32c(&bytes[..end]), bitwise(&bytes[..end]));
            for cut in 0..=end {
                let parts = Crc32c::new().update(&bytes[..cut]).update(&bytes[cut..end]);
                assert_eq!(parts.finish(), bitwise(&bytes[..end]));
            }
        }
    }
}
