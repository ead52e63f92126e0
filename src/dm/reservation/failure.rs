// SPDX-License-Identifier: GPL-2.0

//! The reasons why a reservation command did not succeed.

use crate::dm::bindings;
use kernel::prelude::*;

/// The reason why a command is in doubt: the device may have carried it out, may do so later, or
/// never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// A failure that no other variant names. sd returns this for a check condition, for a device
    /// that was busy, had a full task set or has aborted the task, and for a command that timed
    /// out. nvme returns it for all status codes that it does not translate.
    ///
    /// Some of these answers are definite, but the code does not tell which. A SCSI device without
    /// reservations answers so.
    Failed,
    /// The transport was disrupted, or its bus was busy. The device may have received the command
    /// before this happened.
    PathDisrupted,
    /// The fast failure timer of the transport has expired. The device may have received the
    /// command before this happened.
    PathTimedOut,
    /// There is no connection to the device. The device may have received the command before the
    /// connection was lost. nvme also returns this if the host cancelled a command that had been
    /// sent.
    PathFailed,
    /// The driver has returned another code. The status codes of SCSI are 0x8 (busy), 0x28 (task
    /// set full), 0x30 (ACA active) and 0x40 (task aborted). Those of other drivers are not known.
    Status(i32),
    /// The driver has returned an errno.
    ///
    /// `EINTR` means that nvme has cancelled the command, after a time-out or for a reset of the
    /// controller. The device may have carried it out, or may do so later. With `EAGAIN` (no path),
    /// `ENODEV` (the disk has gone) and `ENOMEM` nvme did not send the command. With `ENODEV` and
    /// `ENOMEM` sd could not send the command, or could not repeat it. All these commands are in
    /// doubt nevertheless, because no interface promises the difference.
    ///
    /// dm core returns `EAGAIN` for a suspended device, and `ENOTTY` if there is not exactly one
    /// target. If the target lacks `iterate_devices`, dm core returns `EINVAL`. If the target lacks
    /// `prepare_ioctl`, dm core returns `ENOTTY` for CLEAR. If a device below lacks the function,
    /// dm core returns `EOPNOTSUPP`. Otherwise it returns the errno of the last device that was
    /// asked.
    Errno(Error),
    /// The driver reports success, but there is no answer: a mapped device has no device below.
    NoAnswer,
}

impl Doubt {
    /// Returns the code of the driver, for messages. It is zero for [`Self::NoAnswer`].
    pub fn code(self) -> i32 {
        match self {
            Self::Failed => bindings::pr_status_PR_STS_IOERR as i32,
            Self::PathDisrupted => bindings::pr_status_PR_STS_RETRY_PATH_FAILURE as i32,
            Self::PathTimedOut => bindings::pr_status_PR_STS_PATH_FAST_FAILED as i32,
            Self::PathFailed => bindings::pr_status_PR_STS_PATH_FAILED as i32,
            Self::Status(code) => code,
            Self::Errno(error) => error.to_errno(),
            Self::NoAnswer => 0,
        }
    }

    pub(super) fn from_code(code: c_int) -> Self {
        if (-(bindings::MAX_ERRNO as c_int)..0).contains(&code) {
            return Self::Errno(Error::from_errno(code));
        }
        match code as u32 {
            bindings::pr_status_PR_STS_IOERR => Self::Failed,
            bindings::pr_status_PR_STS_RETRY_PATH_FAILURE => Self::PathDisrupted,
            bindings::pr_status_PR_STS_PATH_FAST_FAILED => Self::PathTimedOut,
            bindings::pr_status_PR_STS_PATH_FAILED => Self::PathFailed,
            _ => Self::Status(code),
        }
    }
}

/// The reason why a command did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Failure {
    /// The device has refused the command with a reservation conflict. The module documentation
    /// says when this is definite.
    Conflict,
    /// The command was not carried out, because the driver or the device does not support it.
    ///
    /// With `EINVAL` the device has refused the command as invalid, or the driver did not send it.
    /// An NVMe device without reservations answers so, and one whose namespace was detached.
    Unsupported,
    /// The [`Worker`](super::Worker) was dropped before the command began. The command was not
    /// sent.
    Withdrawn,
    /// It is unknown whether the device has carried out the command, or will.
    Doubt(Doubt),
}
