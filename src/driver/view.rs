// SPDX-License-Identifier: GPL-2.0

//! The published view of a state machine.
//!
//! Only the portion thread touches the state machine. After each event it copies what others may
//! see into [`Published`]: the [`View`], the statistics of the heartbeats, and the notices for the
//! log. Readers never wait for the portion thread.
//!
//! Locking: none; the owner of [`Published`] protects it by a spinlock.

use crate::proto::{
    codec::{generations::Generations, ids::Decided},
    controller::{Controller, Notice},
    histogram::Beats,
    words::status::{Reason, Role},
};
use kernel::prelude::*;

/// The most notices that are kept for the event thread. If there are more, the oldest is dropped.
const MAX_NOTICES: usize = 8;

/// What others may see of a state machine.
#[derive(Clone, Copy)]
pub struct View {
    /// The role.
    pub role: Role,
    /// The highest decided epoch and its owner.
    pub decided: Decided,
    /// The number of heartbeats in this epoch.
    pub heartbeats: u64,
    /// The batch limit.
    pub limit: u32,
    /// The number of members that answered last time.
    pub members_ok: u8,
    /// Why the controller is not the owner.
    pub reason: Reason,
    /// The permits that are charged for earlier terms.
    pub charged: u32,
    /// The number of members that are failed or rebuilding.
    pub degraded: u32,
    /// The highest known generation of each member.
    pub generations: Generations,
    /// The epoch whose claim waits until every device is closed.
    pub stale_epoch: Option<u64>,
}

impl View {
    /// The view of a state machine as it is now.
    pub fn of(machine: &Controller) -> Self {
        Self {
            role: machine.role(),
            decided: machine.decided(),
            heartbeats: machine.heartbeats(),
            limit: machine.limit(),
            members_ok: machine.members_ok() as u8,
            reason: machine.reason(),
            charged: machine.charges().total(),
            degraded: machine.degraded(),
            generations: *machine.generations(),
            stale_epoch: machine.waits_for_openers(),
        }
    }
}

/// The last view, the statistics of the heartbeats, and the notices for the log, oldest first.
pub struct Published {
    /// The last view.
    pub view: View,
    /// The statistics of the heartbeats since the session began.
    pub beats: KBox<Beats>,
    notices: [Option<Notice>; MAX_NOTICES],
}

impl Published {
    /// The published view before the first event.
    pub fn new(view: View) -> Result<Self> {
        Ok(Self {
            view,
            beats: no_beats()?,
            notices: [None; MAX_NOTICES],
        })
    }

    /// Adds a notice, and drops the oldest one if there is no room.
    pub fn push(&mut self, notice: Notice) {
        if self.notices.iter().all(Option::is_some) {
            self.notices.rotate_left(1);
            if let Some(last) = self.notices.last_mut() {
                *last = None;
            }
        }
        if let Some(free) = self.notices.iter_mut().find(|place| place.is_none()) {
            *free = Some(notice);
        }
    }

    /// Takes the oldest notice.
    pub fn pop(&mut self) -> Option<Notice> {
        let first = self.notices.first_mut()?.take();
        self.notices.rotate_left(1);
        first
    }
}

/// Allocates empty statistics. A function of its own, because the constructor of a session has
/// little stack left after it has made the state machine.
#[inline(never)]
fn no_beats() -> Result<KBox<Beats>> {
    Ok(KBox::new(Beats::NONE, GFP_KERNEL)?)
}
