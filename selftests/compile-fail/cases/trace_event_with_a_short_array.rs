// SPDX-License-Identifier: GPL-2.0

//! An array argument of a trace event must have the length that C declares.

use crate::dm::trace::trace_events;

#[cfg(right)]
trace_events! {
    /// An event as C declares it.
    pub fn dm_lease_refuse(
        portion: &[u8; 16],
        controller: u32,
        dev: u32,
        op: u32,
        sector: u64,
        sectors: u32,
        late: bool,
    );
}

#[cfg(wrong)]
trace_events! {
    /// An event with an array that is too short.
    pub fn dm_lease_refuse(
        //~ E0308 expected an array with a size of 16, found one with a size of 15
        portion: &[u8; 15],
        controller: u32,
        dev: u32,
        op: u32,
        sector: u64,
        sectors: u32,
        late: bool,
    );
}
