// SPDX-License-Identifier: GPL-2.0

//! A trace event must be defined in C, with the same arguments.

use crate::dm::trace::trace_events;

#[cfg(right)]
trace_events! {
    /// An event that C defines.
    pub fn dm_lease_heartbeat(
        portion: &[u8; 16],
        controller: u32,
        seq: u64,
        stamp_ns: u64,
        latency_ns: u64,
        expiry_ns: u64,
    );
}

#[cfg(wrong)]
trace_events! {
    /// A C function that is no event.
    //~ trace.rs E0425 cannot find function `rust_do_trace_printk`
    //~ trace.rs E0425 cannot find value `__tracepoint_printk`
    pub fn printk(sector: u64);

    /// An event with too few arguments.
    //~ trace.rs E0061 this function takes 6 arguments but 5 arguments were supplied
    pub fn dm_lease_heartbeat(
        portion: &[u8; 16],
        controller: u32,
        seq: u64,
        stamp_ns: u64,
        latency_ns: u64,
    );
}
