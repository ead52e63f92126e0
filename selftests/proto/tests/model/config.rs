// SPDX-License-Identifier: GPL-2.0
//! What is explored, and how far.
//!
//! A bound counts what may still happen, never time: time is unbounded in every model (a stall may
//! be of any length at any point), and a portion in which nothing can happen any more is complete.

use crate::node::fence;
use crate::node::Budget;
use crate::sometimes::Sometimes;
use dm_lease_proto::proto::controller::Command;
use dm_lease_proto::proto::limit::{Redundancy, RedundancyKind};
use dm_lease_proto::proto::time::Timing;

/// Where an exploration starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No controller has joined, and every member is blank.
    #[cfg_attr(not(feature = "long"), allow(dead_code))]
    Cold,
    /// The portion was never owned. All controllers have joined and may write a ballot now.
    Virgin,
    /// The first has a lease, the others have seen its heartbeats.
    Owned,
}

/// The batch limit that every controller asks for: each node has one write at a time.
pub const BATCH: u32 = 1;

/// What is explored, and how far.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: &'static str,
    pub nodes: usize,
    pub members: u8,
    pub timing: Timing,
    /// What the batch limit is derived from.
    pub redundancy: Redundancy,
    pub start: Start,
    /// Whether the first claims again by itself after it lost its lease.
    pub returns: bool,
    /// Bounds: epochs, numbers of ballots, and for each node what may happen to it.
    pub epochs: u64,
    pub ballots: u64,
    pub ticks: [u8; 3],
    pub faults: [u8; 3],
    pub restarts: [u8; 3],
    /// The first node's operator gives this command so often.
    pub commands: u8,
    pub command: Command,
    /// A hand-over may be called off while its successor prepares itself.
    pub calls_off: bool,
    /// Writes of users on each node, one at a time.
    pub writes: [u8; 3],
    /// A fault may leave a block half written; a copy of a command in the fabric.
    pub torn: bool,
    pub twice: bool,
    /// A fault may destroy both blocks of a register of the node.
    pub damages: bool,
    /// The gate is reached some time after the decision.
    pub lag: bool,
    /// In a tick of true time each clock goes on by one or by two.
    pub drift: bool,
    /// This member never answers.
    pub dead: Option<u8>,
    /// One member is replaced by a blank one, once.
    pub replaces: bool,
    /// Whether what a read shows of the own slot is compared with what was acknowledged. No member
    /// goes back, so it must never differ [R58].
    pub compares: bool,
    /// For this number of ticks nothing takes longer than a tick; 0: there is no such promise.
    pub timely: u8,
    /// What must happen somewhere.
    pub wanted: &'static [Sometimes],
}

impl Config {
    /// Whether permits are counted: where nothing repairs strays there is no limit.
    pub fn is_limited(&self) -> bool {
        self.redundancy.kind != RedundancyKind::External
    }

    /// What a gate begins with; nothing, where it is not counted.
    pub fn first_limit(&self) -> u32 {
        match self.is_limited() {
            true => self.redundancy.limit(0, 0, Some(BATCH)).to_wire(),
            false => 0,
        }
    }

    pub fn is_timely(&self) -> bool {
        self.timely > 0
    }

    pub fn budget(&self, node: usize) -> Budget {
        let first = u8::from(node == 0);
        Budget {
            ticks: self.ticks[node],
            faults: self.faults[node],
            restarts: self.restarts[node],
            commands: self.commands * first,
            writes: self.writes[node],
        }
    }
}

/// L and W in ticks of a nanosecond; nothing in the state machine depends on their size.
pub fn ticks(lease: u64, window: u64) -> Timing {
    Timing {
        lease_ns: lease,
        window_ns: window,
        device_delay_ns: 0,
        drift_ppm: 0,
        lost_heartbeats: 0,
        period_max_ns: 1,
        error_report_ns: 0,
        write_ns: 0,
        read_ns: 0,
        jitter_ns: 0,
    }
}

/// An owner and observers of whom nothing is asked; L = W = 2 ticks.
pub fn base(nodes: usize, members: u8) -> Config {
    Config {
        name: "",
        nodes,
        members,
        timing: ticks(2, 2),
        redundancy: Redundancy::EXTERNAL,
        start: Start::Owned,
        returns: false,
        epochs: 2,
        ballots: 1,
        ticks: [1, 0, 0],
        faults: [0; 3],
        restarts: [0; 3],
        commands: 0,
        command: fence(),
        calls_off: false,
        writes: [0; 3],
        torn: false,
        twice: false,
        damages: false,
        lag: false,
        drift: false,
        dead: None,
        replaces: false,
        compares: false,
        timely: 0,
        wanted: &[],
    }
}
