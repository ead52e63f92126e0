// SPDX-License-Identifier: GPL-2.0
//! The configuration of a state machine, and what the caller may change of it.

use super::Controller;
use crate::proto::codec::ids::{Incarnation, Slot};
use crate::proto::lease::Lease;
use crate::proto::limit::Redundancy;
use crate::proto::random::XorShift;
use crate::proto::time::Timing;
use crate::proto::words::status::Reason;

/// The configuration of a controller that joins a portion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The controller's slot.
    pub slot: Slot,
    /// Drawn at random for this session.
    pub inc: Incarnation,
    /// The boot id of this host, for the operator.
    pub boot_id: [u8; 16],
    /// The number of members of the portion.
    pub members: u8,
    /// Members of the original format: a blank slot on them is information [R39].
    pub originals: u16,
    /// The formatted slots, a bit each.
    pub slots: u64,
    /// The controller that may claim a portion at once if it was never owned.
    pub home: Slot,
    /// The timings, the same for every controller [R25].
    pub timing: Timing,
    /// The own heartbeat period.
    pub period_ns: u64,
    /// What repairs strays: the batch limit follows from it [R14].
    pub redundancy: Redundancy,
    /// A lower batch limit, if a table asks for one.
    pub batch: Option<u32>,
    /// Whether to claim whenever there is evidence, or only on command.
    pub claim_auto: bool,
}

/// What the superblock of a device says about the device as a member of the portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberDevice {
    /// How often this place among the members was formatted [R56].
    pub generation: u32,
    /// Whether the device is of the original format. A blank slot on a replacement is no
    /// information.
    pub original: bool,
}

impl MemberDevice {
    /// A member of the original format.
    pub const ORIGINAL: Self = Self {
        generation: 1,
        original: true,
    };

    /// A member that was formatted in place of a lost one.
    pub const fn replacement(generation: u32) -> Self {
        Self {
            generation,
            original: false,
        }
    }
}

impl Setup {
    pub(super) const UNCONFIGURED: Self = Self {
        slot: Slot::FIRST,
        inc: Incarnation(0),
        boot_id: [0; 16],
        members: 0,
        originals: 0,
        slots: 0,
        home: Slot::FIRST,
        timing: Timing::NONE,
        period_ns: 0,
        redundancy: Redundancy::EXTERNAL,
        batch: None,
        claim_auto: false,
    };
}

impl Controller {
    /// Returns the state machine of a controller that joins. It has no device yet.
    pub fn new(setup: Setup) -> Self {
        let mut controller = Self::UNCONFIGURED;
        controller.set_up(setup);
        controller
    }

    /// Configures an unconfigured state machine. It has no device yet.
    pub fn set_up(&mut self, setup: Setup) {
        self.succession.random = XorShift::new(setup.inc.0);
        self.term.lease = Lease::none(setup.timing.lease_ns);
        self.limits.published = setup.redundancy.limit(0, 0, setup.batch).to_wire();
        self.limits.gate = self.limits.published;
        self.policy.claim_auto = setup.claim_auto;
        self.setup = setup;
    }

    /// The configuration.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Changes the heartbeat period; `false` when it does not fit the timings [R10].
    pub fn set_period(&mut self, period_ns: u64) -> bool {
        let fits = self.setup.timing.period_fits(period_ns);
        if fits {
            self.setup.period_ns = period_ns;
        }
        fits
    }

    /// Sets a lower batch limit that a table asks for. A lower limit holds for the next permit, a
    /// higher one from the heartbeat that published it.
    pub fn set_batch(&mut self, batch: Option<u32>) {
        self.setup.batch = batch;
        self.renew_limit();
    }

    /// Sets whether the controller claims without a command.
    pub fn set_claim_auto(&mut self, auto: bool) {
        self.policy.claim_auto = auto;
    }

    /// Forbids claims for this reason, or allows them [R31].
    pub fn set_blocked(&mut self, blocked: Option<Reason>) {
        self.policy.blocked = blocked;
    }

    /// Sets whether openers of the mapped devices may cache what they read [R31].
    pub fn set_guarded(&mut self, guarded: bool) {
        self.policy.guarded = guarded;
        self.policy.stale &= guarded;
    }

    /// Notes that no mapped device was open at some moment after `epoch` was learnt [R31].
    pub fn openers_gone(&mut self, epoch: u64) {
        if epoch == self.term.decided.epoch {
            self.policy.stale = false;
        }
    }

    /// The epoch for which a claim waits for [`Controller::openers_gone`], if a claim waits.
    pub fn waits_for_openers(&self) -> Option<u64> {
        self.policy.stale.then_some(self.term.decided.epoch)
    }
}
