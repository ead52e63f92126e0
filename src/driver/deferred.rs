// SPDX-License-Identifier: GPL-2.0

//! The deferred bios of a mapped device: those that dm core holds back while it is suspended.
//!
//! After the resume they come to `map` as if they had just been sent.
//! [`crate::proto::gate::backlog`] decides which of them may still pass [R55]. This module
//! recognizes them and notices their end:
//!
//! * Between the beginning of a suspend and the end of the deferred bios, each state-changing bio
//!   takes the slow path of the gate ([`super::gate::TableFlags`]).
//! * On that path, a bio that comes from a worker of the device counts as deferred.
//! * A [`Marker`] comes behind the last deferred bio. A suspend that fails has no marker, because
//!   dm core maps its deferred bios before it tells the target. Then bios take the slow path until
//!   the next resume.
//!
//! A [`Deferred`] belongs to a mapped device. The tables of the device share it, because a bio that
//! was sent to one table is mapped by the next table.
//!
//! Locking: none. dm core calls the suspend hooks of a device one at a time.

use crate::{
    dm::{DevT, DmTarget, Marker, Resuming, Word64},
    proto::gate::backlog::Backlog,
};
use kernel::{prelude::*, sync::Arc};

/// The deferred bios of one mapped device.
pub struct Deferred {
    /// The mapped device.
    pub device: DevT,
    backlog: Backlog<Word64>,
    marker: Arc<Marker>,
}

impl Deferred {
    /// The state of a device that has never been suspended.
    pub fn new(device: DevT) -> Result<Arc<Self>> {
        let marker = Marker::new()?;
        Ok(Arc::new(
            Self {
                device,
                backlog: Backlog::new(),
                marker,
            },
            GFP_KERNEL,
        )?)
    }

    /// Notes that dm core may defer bios from now on. None of them arrived before `epoch`.
    pub fn begin(&self, epoch: u64) {
        self.backlog.begin(epoch);
    }

    /// Waits until dm core has mapped the bios that it deferred during the last suspend. Bios that
    /// wait at the gate may keep dm core from that, so the caller recalls them before.
    pub fn wait(&self) {
        self.marker.wait();
    }

    /// Whether there may be deferred bios.
    pub fn is_any(&self) -> bool {
        self.backlog.is_any()
    }

    /// Notes that the deferred bios were sent to a table of another session.
    pub fn disown(&self) {
        self.backlog.disown();
    }

    /// Notes the resume of the device. Returns whether there may be deferred bios. If so, the
    /// [marker](Deferred::marker) comes behind them.
    pub fn resume(&self, ti: &Resuming<'_>) -> bool {
        let is_any = self.backlog.is_any();
        if is_any {
            self.backlog.mark();
            self.marker.send(ti);
        }
        is_any
    }

    /// The marker of the end of the deferred bios.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Notes that the marker has come.
    pub fn end(&self) {
        self.backlog.end();
    }

    /// The epoch in which a bio arrived that is mapped in `epoch`.
    pub fn arrived(&self, ti: &DmTarget, epoch: u64) -> u64 {
        self.backlog.arrived(epoch, ti.is_own_worker())
    }
}
