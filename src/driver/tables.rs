// SPDX-License-Identifier: GPL-2.0

//! The tables of a session.
//!
//! A table is *loaded* from its constructor to its destructor. It is *live* from its first resume
//! to its destructor.
//!
//! Locking: none; the session protects its tables by a mutex.

use super::{
    deferred::Deferred,
    gate::TableFlags,
    inbox::Settings,
    list::{List, Node},
};
use crate::{
    dm::{BlockDevice, DevT, TargetHandle},
    proto::{codec::ids::MAX_MEMBERS, controller::MemberDevice},
};
use kernel::{alloc::AllocError, prelude::*, sync::Arc};

/// What a session knows of a table.
pub struct Table {
    /// The number of the table. A table that is loaded later has a higher number.
    pub id: u64,
    /// The member it maps.
    pub member: u8,
    /// The device of the member, opened for the I/O of the session itself.
    pub device: Arc<BlockDevice>,
    /// What the superblock says of the device as a member.
    pub as_member: MemberDevice,
    /// Whether its openers cache nothing that they read.
    pub stateless: bool,
    /// Whether it was loaded read-only.
    pub read_only: bool,
    /// Whether the controller claims without a message.
    pub claim_auto: bool,
    /// An upper limit of open permits, below that of the portion.
    pub batch: Option<u32>,
    /// Its flags.
    pub flags: Arc<TableFlags>,
    /// The handle of its target.
    pub handle: TargetHandle,
    /// The deferred bios of its mapped device.
    pub deferred: Arc<Deferred>,
}

/// A loaded table.
pub struct Loaded {
    /// The table.
    pub table: Table,
    /// Whether it is live.
    pub live: bool,
}

/// The tables of a session.
pub struct Tables {
    /// All tables.
    pub loaded: List<Loaded>,
    /// The device on which each member was found last.
    pub devices: [Option<DevT>; MAX_MEMBERS as usize],
    /// How many tables became live so far.
    pub attached: u64,
}

impl Tables {
    /// No tables.
    pub const EMPTY: Self = Self {
        loaded: List::EMPTY,
        devices: [None; MAX_MEMBERS as usize],
        attached: 0,
    };

    /// Allocates the list element of a table that is not live yet.
    pub fn node(table: Table) -> Result<KBox<Node<Loaded>>, AllocError> {
        Node::new(Loaded { table, live: false })
    }

    /// The live tables.
    pub fn live(&self) -> impl Iterator<Item = &Table> {
        let live = self.loaded.iter().filter(|loaded| loaded.live);
        live.map(|loaded| &loaded.table)
    }

    /// Whether a live table of another mapped device has another device as this member. The live
    /// table of the same mapped device does not count, because the new table replaces it.
    pub fn is_taken(&self, member: u8, device: DevT, mapped: DevT) -> bool {
        self.live().any(|table| {
            table.member == member
                && table.deferred.device != mapped
                && table.device.devt() != device
        })
    }

    /// The settings of the live tables for the state machine. `may_own` says whether the portion
    /// lets this controller become its owner.
    pub fn settings(&self, may_own: bool) -> Settings {
        let is_read_only = self.live().count() > 0 && self.live().all(|table| table.read_only);
        Settings {
            claim_auto: self.live().any(|table| table.claim_auto),
            guarded: self.live().any(|table| !table.stateless),
            read_only: is_read_only || !may_own,
            batch: self.live().filter_map(|table| table.batch).min(),
        }
    }
}
