// SPDX-License-Identifier: GPL-2.0

//! A target must decide about operations that these abstractions do not name.

use crate::dm::Op;

/// The match has a case for unknown operations.
#[cfg(right)]
pub fn changes_data(op: Op) -> bool {
    match op {
        Op::Read => false,
        Op::Write | Op::Discard | Op::SecureErase | Op::WriteZeroes => true,
        Op::Unknown(_) => true,
    }
}

/// The match has no case for unknown operations.
#[cfg(wrong)]
pub fn changes_data(op: Op) -> bool {
    //~ E0004 `Op::Unknown(_)` not covered
    match op {
        Op::Read => false,
        Op::Write | Op::Discard | Op::SecureErase | Op::WriteZeroes => true,
    }
}
