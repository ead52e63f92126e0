// SPDX-License-Identifier: GPL-2.0

//! The bios that dm core defers while a mapped device is suspended.
//!
//! After the resume they come to `map` as if they had just been sent. Which of them may still pass
//! is [`crate::proto::gate::backlog`] [R55]. What is here is how they are told from others, and how
//! their end is noticed:
//!
//! * Between the beginning of a suspend and the end of the deferred bios each state-changing bio
//!   takes the cold path of the gate ([`Unusual`]).
//! * There, one that comes from a worker of the device counts as deferred.
//! * Behind the last one comes a [`Marker`]. A suspend that fails has none, since its deferred bios
//!   are mapped before the target hears of it: then the cold path is taken until the next resume.
//!
//! A [`Deferred`] belongs to a mapped device and is shared by its tables, since bios that were sent
//! to one table are mapped by the next.
//!
//! Locking: none. dm core calls the suspend hooks of a device one at a time.

use crate::{
    dm::{DevT, DmTarget, Marker, Resuming, Word64},
    proto::gate::backlog::Backlog,
};
use kernel::{prelude::*, sync::Arc};

/// See the top of the file.
pub struct Deferred {
    /// The mapped device.
    pub device: DevT,
    backlog: Backlog<Word64>,
    marker: Arc<Marker>,
}

impl Deferred {
    /// Of a device that has never been suspended.
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

    /// From now on dm core may defer bios, none of which arrived before `epoch`.
    pub fn begin(&self, epoch: u64) {
        self.backlog.begin(epoch);
    }

    /// Waits until dm core has mapped what it deferred during the last suspend, which it does by
    /// itself, unless bios that wait at the gate keep it from that: they are to be called back
    /// before.
    pub fn wait(&self) {
        self.marker.wait();
    }

    /// Whether anything may be deferred.
    pub fn is_any(&self) -> bool {
        self.backlog.is_any()
    }

    /// What is deferred was sent to a table of another session.
    pub fn disown(&self) {
        self.backlog.disown();
    }

    /// The device is being resumed; whether there may be bios that were deferred. Then
    /// the [marker](Deferred::marker) comes behind them.
    pub fn resume(&self, ti: &Resuming<'_>) -> bool {
        let is_any = self.backlog.is_any();
        if is_any {
            self.backlog.mark();
            self.marker.send(ti);
        }
        is_any
    }

    /// What marks the end of the deferred bios.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// It has come.
    pub fn end(&self) {
        self.backlog.end();
    }

    /// The epoch in which a bio arrived that is mapped now, in `epoch`.
    pub fn arrived(&self, ti: &DmTarget, epoch: u64) -> u64 {
        self.backlog.arrived(epoch, ti.is_own_worker())
    }
}
