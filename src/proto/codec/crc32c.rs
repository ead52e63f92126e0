// SPDX-License-Identifier: GPL-2.0
//! CRC32C (Castagnoli), the checksum of every block that this project writes to a member.
//!
//! Source: RFC 3720 appendix B.4 (test vectors) and section 12.1 (parameters): reflected polynomial
//! 0x82f63b78, initial value and final inversion all ones. It is the kernel's `crc32c()` with both
//! inversions. It is computed here so that the codecs do not depend on the kernel and give the same
//! result in the module, the tool and the tests.
//!
//! Any error burst of up to 32 bits, hence any single flipped bit, changes the checksum of a block.
//! So a torn or damaged block counts as no information [R26].
//!
//! Pure functions: any caller, no locking.

use super::bytes::is_zero;

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

/// Zero bytes that are taken in one step. A block is a short record and zeros, mostly.
const ZEROS: usize = 1 << ZEROS_LOG2;
const ZEROS_LOG2: u32 = 7;

/// `ZEROS_TABLES[k][b]` is the checksum register after `ZEROS` zero bytes, if it was `b << 8 * k`
/// before. The step is linear, so the register is the sum of what becomes of its bytes.
static ZEROS_TABLES: [[u32; 256]; 4] = make_zeros_tables();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn make_zeros_tables() -> [[u32; 256]; 4] {
    // What becomes of each bit: after one zero bit first, then after twice as many each time.
    let mut step = [0_u32; 32];
    let mut bit = 1;
    step[0] = POLYNOMIAL;
    while bit < 32 {
        step[bit] = 1 << (bit - 1);
        bit += 1;
    }
    let mut doubled = 0;
    while doubled < ZEROS_LOG2 + 3 {
        let once = step;
        bit = 0;
        while bit < 32 {
            step[bit] = apply(&once, once[bit]);
            bit += 1;
        }
        doubled += 1;
    }
    let mut tables = [[0_u32; 256]; 4];
    let mut k = 0;
    while k < 4 {
        let mut byte = 0;
        while byte < 256 {
            tables[k][byte] = apply(&step, (byte as u32) << (8 * k));
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// The sum of what becomes of each bit of `register`.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn apply(step: &[u32; 32], register: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        if (register >> bit) & 1 == 1 {
            sum ^= step[bit];
        }
        bit += 1;
    }
    sum
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
        let append = |sum: Self, piece: &[u8]| match piece.len() == ZEROS && is_zero(piece) {
            true => sum.update_zeros(),
            false => sum.update_any(piece),
        };
        bytes.chunks(ZEROS).fold(self, append)
    }

    /// Appends `ZEROS` zero bytes.
    #[inline(always)]
    fn update_zeros(self) -> Self {
        let [r0, r1, r2, r3] = self.register.to_le_bytes();
        let register = zeros(0, r0) ^ zeros(1, r1) ^ zeros(2, r2) ^ zeros(3, r3);
        Self { register }
    }

    fn update_any(self, bytes: &[u8]) -> Self {
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

/// The same for [`ZEROS_TABLES`].
#[expect(
    clippy::indexing_slicing,
    reason = "a byte is a valid index, and so is the mask"
)]
#[inline(always)]
fn zeros(table: usize, byte: u8) -> u32 {
    ZEROS_TABLES[table & 3][usize::from(byte)]
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
    #[test]
    fn r26_runs_of_zeros_have_the_checksum_of_the_definition() {
        let mut bytes = [0_u8; 5 * ZEROS];
        for (begin, end) in [
            (0, 0),
            (0, 5 * ZEROS),
            (1, ZEROS + 1),
            (ZEROS - 1, 3 * ZEROS),
            (ZEROS, 2 * ZEROS),
            (ZEROS + 3, 4 * ZEROS + 5),
        ] {
            for (at, byte) in bytes.iter_mut().enumerate() {
                let is_zero = (begin..end).contains(&at);
                *byte = if is_zero { 0 } else { (at * 73 + 11) as u8 | 1 };
            }
            for from in [0, 1, 20, ZEROS] {
                assert_eq!(crc32c(&bytes[from..]), bitwise(&bytes[from..]));
            }
        }
    }
}
