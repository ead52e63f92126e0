// SPDX-License-Identifier: GPL-2.0

//! Persistent reservations of a block device.
//!
//! Several hosts may use one disk. Each host registers a *key* at the disk, and one registered host
//! makes a *reservation*, which says what the other hosts may do. A registered host may remove the
//! key of another host (*preempt*). SCSI (SPC-4) and NVMe have these commands, and the kernel
//! offers both through `struct pr_ops`.
//!
//! - [`Reservations`] sends the commands of one open device, and waits for the answers. A command
//!   needs a [`Context`], so that it can be sent only by a thread of this module.
//! - A [`Worker`] owns such a thread. Its user submits a command, and may wait for the answer for a
//!   limited time. A device may keep a command for minutes.
//!
//! ```
//! # use crate::dm::{reservation::*, Context, BlockDevice};
//! /// Takes a disk over from the host that had registered `victim`.
//! fn evict(
//!     context: &Context,
//!     disk: &BlockDevice,
//!     own: Key,
//!     victim: Key,
//! ) -> Result<(), Failure> {
//!     let Ok(reservations) = Reservations::of(disk) else {
//!         return Err(Failure::Unsupported);
//!     };
//!     reservations.register(context, None, own)?;
//!     reservations.preempt(
//!         context,
//!         Preempt {
//!             own,
//!             victim,
//!             kind: Kind::WriteExclusiveAllRegistrants,
//!             abort: true,
//!         },
//!     )
//! }
//! ```
//!
//! # Devices
//!
//! In 7.3 the drivers sd and nvme, and device-mapper, have `pr_ops`. A command that is sent through
//! a partition affects the whole disk. The kernel refuses partitions only in its ioctls
//! (`blkdev_pr_allowed()`). [`Reservations::of`] refuses them, too.
//!
//! # Answers
//!
//! An answer is *definite* if it says whether the device has carried the command out. Otherwise the
//! command is *in doubt*. The functions of `pr_ops` return an errno, or a positive code that comes
//! from the status codes of SCSI:
//!
//! | code | returned by | result |
//! |---|---|---|
//! | 0 | all | `Ok` |
//! | 0x18, `PR_STS_RESERVATION_CONFLICT` | sd, nvme | [`Failure::Conflict`] |
//! | `EINVAL`, `EOPNOTSUPP` | sd, nvme | [`Failure::Unsupported`] |
//! | 0x2, `PR_STS_IOERR` | sd, nvme | [`Doubt::Failed`] |
//! | 0xe0000, `PR_STS_RETRY_PATH_FAILURE` | sd | [`Doubt::PathDisrupted`] |
//! | 0xf0000, `PR_STS_PATH_FAST_FAILED` | sd | [`Doubt::PathTimedOut`] |
//! | 0x10000, `PR_STS_PATH_FAILED` | sd, nvme | [`Doubt::PathFailed`] |
//! | other positive codes, such as those of SCSI | none in 7.3 | [`Doubt::Status`] |
//! | every other errno | sd, nvme | [`Doubt::Errno`] |
//! | every errno | dm | [`Doubt::Errno`] |
//!
//! dm core passes on the positive codes of the devices below. The rows of sd and nvme hold for
//! these codes, too.
//!
//! GOOD is definite. So is a conflict, unless the driver has sent the command more than once. sd
//! repeats a command after some failures, and the device may have carried out the first copy. For
//! example the second of two equal PREEMPT commands conflicts, because the victim has gone. The
//! registered keys show whether the first copy was carried out.
//!
//! # device-mapper
//!
//! dm core asks the devices below the only target of a mapped device one after another
//! (`dm_call_pr()`). For RESERVE, PREEMPT and the reads it stops when a device answers GOOD. For
//! REGISTER and RELEASE it stops when a device fails. It passes CLEAR to one device only
//! (`dm_pr_clear()`). That has consequences:
//!
//! - The abort flag is lost: `dm_pr_preempt()` never sets it. Hence [`Reservations::preempt`]
//!   refuses to abort on a mapped device.
//! - If there is no device below, as with the target `error`, dm core reports GOOD. Hence GOOD is
//!   not definite. [`Reservations::read_keys`] notices that there is no list ([`Doubt::NoAnswer`]).
//! - The code is that of the last device that was asked. Another device below may have carried the
//!   command out. Hence a command that ends with an errno is in doubt, and a conflict is not
//!   definite.
//! - If REGISTER of a key fails on one path, dm core unregisters the other paths.
//! - The devices below are not visible here, and may be partitions.
//!
//! # Memory
//!
//! Drivers allocate memory for a command. If writes to the device wait for the command, an
//! allocation that waits for those writes would never end. Hence allocations of a command do not
//! start I/O (`memalloc_noio_save()`).
//!
//! # Locking
//!
//! The functions of `pr_ops` sleep. They need no lock, and may run in parallel.
//!
//! C headers: `include/linux/pr.h`, `include/uapi/linux/pr.h`.

use super::{
    bindings,
    device::Bdev,
    thread::Context, //
};
use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

mod failure;
mod key;
mod worker;

pub use self::{
    failure::{
        Doubt,
        Failure, //
    },
    key::{
        Key,
        KeyList, //
    },
    worker::{
        Answer,
        Command,
        OnAnswer,
        Worker, //
    },
};

/// The type of a reservation: which hosts it shuts out, and from which commands.
///
/// Under the types "registrants only" and "all registrants" each registered host has the rights of
/// the holder. Under "registrants only" the reservation ends when the registration of its holder
/// ends. Under "all registrants" every registered host is a holder, and the reservation ends when
/// the last registration ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Only registered hosts write. One of them is the holder.
    WriteExclusiveRegistrantsOnly,
    /// Only registered hosts read and write. One of them is the holder.
    ExclusiveAccessRegistrantsOnly,
    /// Only registered hosts write. Each of them is a holder.
    WriteExclusiveAllRegistrants,
    /// Only registered hosts read and write. Each of them is a holder.
    ExclusiveAccessAllRegistrants,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// Returns the number of `enum pr_type`.
    pub const fn as_raw(self) -> u32 {
        match self {
            Self::WriteExclusive => bindings::pr_type_PR_WRITE_EXCLUSIVE,
            Self::ExclusiveAccess => bindings::pr_type_PR_EXCLUSIVE_ACCESS,
            Self::WriteExclusiveRegistrantsOnly => bindings::pr_type_PR_WRITE_EXCLUSIVE_REG_ONLY,
            Self::ExclusiveAccessRegistrantsOnly => bindings::pr_type_PR_EXCLUSIVE_ACCESS_REG_ONLY,
            Self::WriteExclusiveAllRegistrants => bindings::pr_type_PR_WRITE_EXCLUSIVE_ALL_REGS,
            Self::ExclusiveAccessAllRegistrants => bindings::pr_type_PR_EXCLUSIVE_ACCESS_ALL_REGS,
        }
    }

    /// Finds the type by the number of `enum pr_type`.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_raw() == raw)
    }
}

/// The reservation of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The type. `None` if the driver does not know it.
    pub kind: Option<Kind>,
    /// The key of the holder. Under the types "all registrants" it has no meaning: SCSI reports no
    /// key, and NVMe that of any registered host.
    pub holder: Option<Key>,
    /// The number of changes of the registrations since the device started (PRGENERATION, GEN).
    pub generation: u32,
}

/// The reason why a device has no [`Reservations`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoReservations {
    /// The device is a partition. A command would affect the whole disk.
    Partition,
    /// The driver has no reservations.
    NotOffered,
}

impl From<NoReservations> for Error {
    fn from(reason: NoReservations) -> Self {
        match reason {
            NoReservations::Partition => EINVAL,
            NoReservations::NotOffered => EOPNOTSUPP,
        }
    }
}

/// The arguments of [`Reservations::preempt`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preempt {
    /// The key of this host.
    pub own: Key,
    /// The key that is removed.
    pub victim: Key,
    /// The type of the reservation that this host gets, if the victim was the only holder.
    pub kind: Kind,
    /// Whether the device also ends the commands of the victim before it answers.
    pub abort: bool,
}

/// The reservation commands of an open device.
///
/// Each command waits for the answer of the device, and may take minutes. The device stays open
/// meanwhile, because this value borrows it. The module stays, because the [`Context`] belongs to a
/// thread that the module waits for.
pub struct Reservations<'a> {
    dev: &'a Bdev,
    ops: &'a bindings::pr_ops,
    is_mapped: bool,
}

impl<'a> Reservations<'a> {
    /// Returns the commands of a device. Process context.
    pub fn of(dev: &'a Bdev) -> Result<Self, NoReservations> {
        if dev.is_partition() {
            return Err(NoReservations::Partition);
        }
        // SAFETY: The device is open, so that it has a disk with operations.
        let ops = unsafe { bindings::dm_bdev_pr_ops(dev.as_raw()) };
        // SAFETY: The driver of an open device stays loaded. Its `pr_ops` are constant.
        let ops = unsafe { ops.as_ref() }.ok_or(NoReservations::NotOffered)?;
        Ok(Self {
            dev,
            ops,
            is_mapped: dev.is_mapped(),
        })
    }

    /// Returns whether the device belongs to device-mapper; see the module documentation.
    pub fn is_mapped(&self) -> bool {
        self.is_mapped
    }

    /// Registers this host under the key `new`. The device refuses the command with a conflict if
    /// the registered key of this host is not `old`, or if this host has a key and `old` is `None`.
    /// However, NVMe accepts `None` if the registered key already is `new`. Two hosts may have the
    /// same key.
    ///
    /// The key that this host has is never overwritten unseen, because the flag `PR_FL_IGNORE_KEY`
    /// is not used.
    pub fn register(&self, _: &Context, old: Option<Key>, new: Key) -> Result<(), Failure> {
        self.register_raw(Key::get_or_zero(old), new.get())
    }

    /// Ends the registration of this host. The device refuses the command with a conflict if the
    /// registered key is not `own`.
    ///
    /// The driver nvme of 7.3 replaces the key by zero instead (`nvme_pr_register()`). The NVMe
    /// target of Linux (nvmet) then keeps the registration, and the host may still write.
    pub fn unregister(&self, _: &Context, own: Key) -> Result<(), Failure> {
        self.register_raw(own.get(), 0)
    }

    fn register_raw(&self, old: u64, new: u64) -> Result<(), Failure> {
        self.ops.pr_register.ok_or(Failure::Unsupported)?;
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep.
        let code = unsafe { bindings::dm_bdev_pr_register(self.dev.as_raw(), old, new) };
        self.translate(code)
    }

    /// Makes a reservation. The device refuses the command with a conflict if this host is not
    /// registered under `own`, or if there is a reservation of another type or holder.
    ///
    /// Under the types "all registrants" each registered host is a holder, and SCSI accepts the
    /// command from each of them. nvmet accepts it only from the host that made the reservation.
    pub fn reserve(&self, _: &Context, own: Key, kind: Kind) -> Result<(), Failure> {
        self.ops.pr_reserve.ok_or(Failure::Unsupported)?;
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep.
        let code =
            unsafe { bindings::dm_bdev_pr_reserve(self.dev.as_raw(), own.get(), kind.as_raw()) };
        self.translate(code)
    }

    /// Ends the reservation if this host holds it. If this host is registered and does not hold it,
    /// the command succeeds and changes nothing. `kind` must be the type of the reservation.
    pub fn release(&self, _: &Context, own: Key, kind: Kind) -> Result<(), Failure> {
        self.ops.pr_release.ok_or(Failure::Unsupported)?;
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep.
        let code =
            unsafe { bindings::dm_bdev_pr_release(self.dev.as_raw(), own.get(), kind.as_raw()) };
        self.translate(code)
    }

    /// Removes the registrations under the key `victim`. The device refuses the command with a
    /// conflict if this host is not registered under `own`, or if no host is under `victim`.
    ///
    /// If no reservation is held, the command removes the registrations and makes no reservation.
    ///
    /// The C functions name the key of this host `old_key` and the key of the victim `new_key`. The
    /// drivers send the first as the key of the sender, and the second as the key to remove.
    /// `Documentation/block/pr.rst` has them the other way round.
    ///
    /// With `abort` the device answers GOOD only when the commands of the victim have ended. nvmet
    /// cannot end a command. It waits, and answers no other reservation command meanwhile.
    pub fn preempt(&self, _: &Context, preempt: Preempt) -> Result<(), Failure> {
        self.ops.pr_preempt.ok_or(Failure::Unsupported)?;
        let Preempt {
            own,
            victim,
            kind,
            abort,
        } = preempt;
        if abort && self.is_mapped {
            return Err(Failure::Unsupported);
        }
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep.
        let code = unsafe {
            bindings::dm_bdev_pr_preempt(
                self.dev.as_raw(),
                own.get(),
                victim.get(),
                kind.as_raw(),
                abort,
            )
        };
        self.translate(code)
    }

    /// Ends the reservation, and removes the registrations of all hosts. The device refuses the
    /// command with a conflict if this host is not registered under `own`.
    pub fn clear(&self, _: &Context, own: Key) -> Result<(), Failure> {
        self.ops.pr_clear.ok_or(Failure::Unsupported)?;
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep.
        let code = unsafe { bindings::dm_bdev_pr_clear(self.dev.as_raw(), own.get()) };
        self.translate(code)
    }

    /// Reads the registered keys. After a failure the list is empty.
    pub fn read_keys(&self, _: &Context, keys: &mut KeyList) -> Result<(), Failure> {
        let raw = keys.prepare();
        self.ops.pr_read_keys.ok_or(Failure::Unsupported)?;
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep. The driver writes at most as many keys as the header says, for which
        // `prepare` has returned room.
        let code = unsafe { bindings::dm_bdev_pr_read_keys(self.dev.as_raw(), raw) };
        self.translate(code)?;
        if !keys.accept() {
            return Err(Failure::Doubt(Doubt::NoAnswer));
        }
        Ok(())
    }

    /// Reads the reservation. Returns `None` if there is none.
    pub fn read_reservation(&self, _: &Context) -> Result<Option<Held>, Failure> {
        self.ops.pr_read_reservation.ok_or(Failure::Unsupported)?;
        // If there is no reservation, sd leaves the value as it is, and nvme sets only the
        // generation.
        let mut raw = bindings::pr_held_reservation::default();
        let _no_io = NoIo::begin();
        // SAFETY: The device is open, and its driver has the function. A `Context` exists, so that
        // this may sleep. `raw` is valid for writes.
        let code = unsafe { bindings::dm_bdev_pr_read_reservation(self.dev.as_raw(), &mut raw) };
        self.translate(code)?;
        let kind = Kind::from_raw(raw.type_);
        let holder = Key::new(raw.key);
        if kind.is_none() && holder.is_none() {
            return Ok(None);
        }
        Ok(Some(Held {
            kind,
            holder,
            generation: raw.generation,
        }))
    }

    /// Translates the code of a driver.
    fn translate(&self, code: c_int) -> Result<(), Failure> {
        const CONFLICT: c_int = bindings::pr_status_PR_STS_RESERVATION_CONFLICT as c_int;

        match code {
            0 => Ok(()),
            CONFLICT => Err(Failure::Conflict),
            // Another device below may have carried the command out.
            _ if self.is_mapped => Err(Failure::Doubt(Doubt::from_code(code))),
            _ if code == EINVAL.to_errno() || code == EOPNOTSUPP.to_errno() => {
                Err(Failure::Unsupported)
            }
            _ => Err(Failure::Doubt(Doubt::from_code(code))),
        }
    }
}

/// While it exists, allocations of this task start no I/O.
struct NoIo {
    flags: c_uint,
    _task: NotThreadSafe,
}

impl NoIo {
    fn begin() -> Self {
        Self {
            // SAFETY: The function changes only a flag of the current task.
            flags: unsafe { bindings::memalloc_noio_save() },
            _task: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: The function changes only a flag of the current task, which is that of `begin`.
        unsafe { bindings::memalloc_noio_restore(self.flags) };
    }
}
