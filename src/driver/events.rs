// SPDX-License-Identifier: GPL-2.0

//! The trace events as Rust functions.
//!
//! `events.h` defines the events, and the signatures here repeat the ones there. tracefs shows the
//! events under `events/dm_lease`.
//!
//! The functions may be called in any context. A disabled event costs one no-operation instruction,
//! if its arguments are computed anyway. Times are nanoseconds of `CLOCK_MONOTONIC_RAW`.

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

    /// A heartbeat round was judged. `stamp_ns` is its stamp, `latency_ns` the time for writing and
    /// reading, and `expiry_ns` the end of the lease, or 0 if there is no lease.
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
