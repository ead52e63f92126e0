// SPDX-License-Identifier: GPL-2.0

//! The trace events, as Rust functions. They are defined in `events.h`, whose signatures these
//! repeat, and show under `events/dm_lease` in tracefs.
//!
//! Any context; a disabled event costs one no-operation instruction, provided that its arguments
//! are at hand. Times are nanoseconds of `CLOCK_MONOTONIC_RAW`.

use crate::dm::trace::{
    trace_events,
    Word, //
};

trace_events! {
    /// The role of a controller for a portion has changed, for `reason` [R47]. The words are those
    /// of the status line.
    pub fn dm_lease_role(
        portion: &[u8; 16],
        controller: u32,
        old_role: &Word,
        new_role: &Word,
        epoch: u64,
        reason: &Word,
    );

    /// A heartbeat round was judged: its stamp, how long writing and reading took, and until when
    /// the lease is valid now, 0 for no lease.
    pub fn dm_lease_heartbeat(
        portion: &[u8; 16],
        controller: u32,
        seq: u64,
        stamp_ns: u64,
        latency_ns: u64,
        expiry_ns: u64,
    );

    /// The gate gave a permit to a state-changing bio of `sectors` at `sector` of member `dev`, in
    /// `epoch`: the clock was at `checked_ns` and the lease valid until `expiry_ns` [R13].
    pub fn dm_lease_permit(
        portion: &[u8; 16],
        controller: u32,
        dev: u32,
        op: u32,
        sector: u64,
        sectors: u32,
        epoch: u64,
        checked_ns: u64,
        expiry_ns: u64,
    );

    /// The gate failed a state-changing bio of `sectors` at `sector` of member `dev`: before it
    /// was issued, or, if `late`, after the device had completed it [R17, R18].
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
