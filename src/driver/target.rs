// SPDX-License-Identifier: GPL-2.0

//! The target `lease`: what device-mapper calls.
//!
//! `<start> <length> lease <device> <controller> [<#feature args> ...]`, see
//! [`crate::proto::words::table`] for the words and the README for their meaning. Everything else
//! is read from the superblock on the device.
//!
//! The constructor only reads: a table that is never resumed neither heartbeats nor claims.
//! Activity begins with `preresume`, which can still fail, and ends with the destructor of the
//! last table, which on a reload runs after the resume of the new one.
//!
//! Locking: none here; instances are shared by concurrent callbacks and never change.

use super::{
    deferred::Deferred,
    gate::{self, GatedTable, LeaseTarget, PerBio, PortionGate, Rules, TableFlags},
    message,
    registry::{self, JoinError, Joiner, Membership},
    session::Table,
    superblock::{self, Unreadable},
};
use crate::{
    dm::{
        Access, Args, Bio, BlkStatus, BlockDevice, CtrError, DmDevice, DmTarget, EndBio,
        EndOutcome, MapBio, MapOutcome, Op, OrCtrError, QueueLimits, Reply, Resuming, StatusKind,
        Target, TargetBuilder, TargetHandle, TextWriter, Tracked, Visitor,
    },
    proto::{
        codec::{ids::Slot, superblock::Superblock},
        controller::MemberDevice,
        limit::{Counting, Limit},
        words::{
            status::Reason,
            table::{Claim, FeatureArgs, Surroundings, TableLine},
        },
    },
};
use core::fmt::Write as _;
use kernel::{prelude::*, sync::Arc};

/// One table line.
pub struct LeaseTable<'ti> {
    /// The device of the member.
    device: DmDevice<'ti>,
    offset_sectors: u64,
    rules: Rules,
    flags: Arc<TableFlags>,
    deferred: Arc<Deferred>,
    features: FeatureArgs,
    controller: Slot,
    membership: Membership,
}

impl<'ti> GatedTable<'ti> for LeaseTable<'ti> {
    #[inline(always)]
    fn gate(&self) -> &PortionGate {
        &self.membership.session.gate
    }

    #[inline(always)]
    fn id(&self) -> u64 {
        self.membership.id
    }

    #[inline(always)]
    fn device(&self) -> DmDevice<'ti> {
        self.device
    }

    /// The table line begins with sector 0.
    #[inline(always)]
    fn sector(&self, bio: &Bio) -> u64 {
        bio.device_sector().wrapping_add(self.offset_sectors)
    }

    #[inline(always)]
    fn rules(&self) -> &Rules {
        &self.rules
    }

    #[inline(always)]
    fn flags(&self) -> &TableFlags {
        &self.flags
    }

    #[inline(always)]
    fn deferred(&self) -> &Deferred {
        &self.deferred
    }
}

#[vtable]
impl Target for LeaseTarget {
    const NAME: &'static CStr = c"lease";
    const VERSION: [u32; 3] = [1, 0, 0];
    const FEATURES: crate::dm::Features =
        crate::dm::Features::SINGLETON.and(crate::dm::Features::NOWAIT);

    type Data<'ti> = LeaseTable<'ti>;
    type PerBio = PerBio;
    // Everything that is not a read changes state, known or not [R23].
    const TRACKED: Tracked = Tracked::AllButReads;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<impl PinInit<LeaseTable<'ti>, CtrError>, CtrError> {
        let Made {
            device,
            superblock,
            line: (slot, features),
            membership,
            own,
            handle,
            deferred: (deferred, is_foreign),
        } = construct(ti, args)?;
        let member = superblock.member;
        let unit = membership.session.gate.unit(member);
        let rules = Rules::of(member, unit, &features, ti.is_read_only());
        let offset_sectors = superblock.data_offset_sectors;
        let flags = TableFlags::new(&[
            (rules.read_only, TableFlags::READ_ONLY),
            (is_foreign, TableFlags::FOREIGN),
        ]);
        let flags = Arc::new(flags, GFP_KERNEL)?;
        let table = Table {
            id: membership.id,
            member,
            device: own,
            as_member: MemberDevice {
                generation: superblock.generation,
                original: !superblock.replacement,
            },
            stateless: features.stateless,
            read_only: rules.read_only,
            claim_auto: features.claim == Claim::Auto,
            batch: features.batch,
            handle,
            deferred: deferred.clone(),
            flags: flags.clone(),
        };
        membership
            .enroll(table)
            .or_ctr(c"Cannot add the table to its session")?;
        Ok(try_init!(LeaseTable {
            device,
            offset_sectors,
            rules,
            flags,
            deferred,
            features,
            controller: slot,
            membership,
        }? CtrError))
    }

    fn dtr(data: &LeaseTable<'_>, _ti: &DmTarget) {
        data.membership.session.detach(data.membership.id);
    }

    #[inline]
    fn map<'ti>(data: &LeaseTable<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        // Reads pass everywhere, always [R22].
        if bio.is_read() {
            if data.flags.has(TableFlags::OUTDATED) {
                return bio.end(BlkStatus::IOERR);
            }
            let sector = data.sector(&bio);
            return bio.remap(data.device, sector);
        }
        if bio.op() == Op::Write && bio.size_bytes() == 0 {
            return gate::map_nothing(bio, data);
        }
        data.gate().map(bio, data)
    }

    #[inline]
    fn end_io<'ti>(data: &LeaseTable<'ti>, bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        data.gate().end_io(bio, data)
    }

    fn presuspend(data: &LeaseTable<'_>, ti: &DmTarget) {
        // A flushing suspend lets held bios pass; a noflush one wants them back, and before that dm
        // core may not come to the end of what it has deferred.
        if ti.noflush_suspending() {
            data.flags.set(TableFlags::NOFLUSH);
            data.gate().begin_noflush(data);
        }
        data.deferred.wait();
        data.deferred.begin(data.gate().epoch());
        data.flags.set(TableFlags::DEFERRED);
    }

    fn presuspend_undo(data: &LeaseTable<'_>, _ti: &DmTarget) {
        // What was deferred meanwhile is mapped already, and nothing says when all of it is.
        data.flags.clear(TableFlags::NOFLUSH);
    }

    fn preresume(data: &LeaseTable<'_>, _ti: &DmTarget) -> Result {
        // Idempotent: a device that is resumed again is attached already.
        data.membership.session.attach(data.membership.id)
    }

    fn resume(data: &LeaseTable<'_>, ti: &Resuming<'_>) {
        data.flags.clear(TableFlags::NOFLUSH);
        if data.flags.has(TableFlags::FOREIGN) {
            data.deferred.disown();
            data.flags.clear(TableFlags::FOREIGN);
        }
        // A read-only table refuses all of them; whether there are any concerns the next one.
        if !data.rules.read_only {
            data.flags.set(TableFlags::DEFERRED);
            if !data.deferred.resume(ti) {
                data.flags.clear(TableFlags::DEFERRED);
            }
        }
    }

    fn status(data: &LeaseTable<'_>, _ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>) {
        let line = TableLine {
            device: data.device.table_name().to_str().unwrap_or("?"),
            controller: data.controller,
            features: data.features,
        };
        let _ = match kind {
            StatusKind::Info => {
                let mut status = data.membership.session.status(data.rules.member);
                if data.flags.has(TableFlags::OUTDATED) {
                    status.reason = Reason::Outdated;
                }
                write!(out, "{status}")
            }
            StatusKind::Table => write!(out, "{line}"),
            StatusKind::Ima => write!(out, "{}", line.ima()),
        };
    }

    fn message(
        data: &LeaseTable<'_>,
        _ti: &DmTarget,
        args: Args<'_>,
        out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        message::handle(&data.membership.session, args, out)
    }

    fn iterate_devices<'ti>(data: &LeaseTable<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(data.device, data.offset_sectors, ti.len_sectors());
    }

    fn io_hints(data: &LeaseTable<'_>, _ti: &DmTarget, limits: &mut QueueLimits<'_>) {
        // A polled write would keep its permit until its submitter cares to poll.
        limits.clear_poll();
        let superblock = &data.membership.session.superblock;
        if let Counting::Stripe { chunk_sectors } = superblock.redundancy.counting {
            limits.set_chunk_sectors(chunk_sectors);
            // An atomic write must not be split, and might not fit into a row.
            limits.clear_atomic_writes();
        }
    }
}

/// What the constructor has brought together.
struct Made<'ti> {
    device: DmDevice<'ti>,
    superblock: Superblock,
    line: (Slot, FeatureArgs),
    membership: Membership,
    own: Arc<BlockDevice>,
    handle: TargetHandle,
    deferred: (Arc<Deferred>, bool),
}

fn construct<'ti>(ti: &mut TargetBuilder<'ti>, args: Args<'_>) -> Result<Made<'ti>, CtrError> {
    let path = args.peek(0);
    let line = TableLine::parse(args.map(|word| word.to_bytes()))
        .map_err(|error| CtrError::new(EINVAL, error.text()))?;
    let path = path.or_ctr(c"Device is missing")?;
    let device = ti.get_device(path).or_ctr(c"Device cannot be opened")?;
    let own = open(ti, &device)?;
    let superblock = read_superblock(ti, &own)?;
    check(ti, &line, &superblock)?;
    let membership = join(ti, &line, &superblock, &own)?;
    let handle = ti.handle().or_ctr(c"Cannot allocate a handle")?;
    let deferred = deferred(ti, &membership)?;
    // Bios wait here for permits: swapping must not fill the memory with them.
    ti.set_limit_swap_bios(true);
    // An empty flush changes nothing, so it need not come here; a flush with data still does.
    ti.set_num_flush_bios(1).set_flush_bypasses_map(true);
    ti.set_num_discard_bios(1)
        .set_num_secure_erase_bios(1)
        .set_num_write_zeroes_bios(1);
    if let Counting::Stripe { chunk_sectors } = superblock.redundancy.counting {
        ti.set_max_io_sectors(chunk_sectors);
    }
    let line = (line.controller, line.features);
    Ok(Made {
        device,
        superblock,
        line,
        membership,
        own,
        handle,
        deferred,
    })
}

/// What dm core defers of the mapped device: known if a table of it is live. The second value is
/// true if that table belongs to another session.
fn deferred(
    ti: &TargetBuilder<'_>,
    membership: &Membership,
) -> Result<(Arc<Deferred>, bool), CtrError> {
    let device = ti.device_number();
    match registry::deferred(device, &membership.session) {
        Some(known) => Ok(known),
        None => {
            let new = Deferred::new(device).or_ctr(c"Cannot allocate memory")?;
            Ok((new, false))
        }
    }
}

/// Opens the member for mailbox I/O.
fn open(ti: &TargetBuilder<'_>, device: &DmDevice<'_>) -> Result<Arc<BlockDevice>, CtrError> {
    if device.is_zoned() {
        return Err(CtrError::new(
            EOPNOTSUPP,
            c"Zoned devices are not supported",
        ));
    }
    // A read-only table observes, and says so in its mailbox if the device lets it.
    let access = match ti.is_read_only() && device.is_read_only() {
        true => Access::Read,
        false => Access::ReadWrite,
    };
    let own = BlockDevice::open(device.devt(), access)
        .or_ctr(c"Device cannot be opened for mailboxes")?;
    Ok(Arc::new(own, GFP_KERNEL)?)
}

fn read_superblock(ti: &TargetBuilder<'_>, own: &Arc<BlockDevice>) -> Result<Superblock, CtrError> {
    superblock::read(own.clone()).map_err(|unreadable| match unreadable {
        Unreadable::Io(error) => CtrError::new(error, c"Superblock cannot be read"),
        Unreadable::Invalid(why) => CtrError::with_detail(
            EINVAL,
            c"Superblock is not valid",
            ti,
            format_args!("{why}"),
        ),
    })
}

fn check(
    ti: &TargetBuilder<'_>,
    line: &TableLine<'_>,
    superblock: &Superblock,
) -> Result<(), CtrError> {
    let limit = match superblock.redundancy.limit(0, 0, None) {
        Limit::Count(limit) => Some(limit),
        Limit::Unlimited | Limit::Window => None,
    };
    let at = Surroundings {
        data_sectors: superblock.data_length_sectors,
        limit,
        controllers: superblock.controllers,
    };
    line.check(ti.begin_sectors(), ti.len_sectors(), &at)
        .map_err(|error| CtrError::new(EINVAL, error.text()))
}

fn join(
    ti: &TargetBuilder<'_>,
    line: &TableLine<'_>,
    superblock: &Superblock,
    own: &BlockDevice,
) -> Result<Membership, CtrError> {
    let joined = registry::join(&Joiner {
        superblock,
        slot: line.controller,
        device: own.devt(),
        mapped: ti.device_number(),
        features: &line.features,
    });
    joined.map_err(|error| match error {
        JoinError::System(error) => CtrError::new(error, c"Cannot make a session"),
        JoinError::Mismatch(what) => CtrError::with_detail(
            EINVAL,
            c"Member does not fit the others of its portion",
            ti,
            format_args!("{what}"),
        ),
        JoinError::Outdated(highest) => CtrError::with_detail(
            ESTALE,
            c"Device is a former disk of its member",
            ti,
            format_args!(
                "generation {}, the member has {highest}",
                superblock.generation
            ),
        ),
        JoinError::Taken => CtrError::new(EBUSY, c"Another device is this member already"),
        JoinError::Period => CtrError::new(
            EINVAL,
            c"Heartbeat period does not fit the portion's timings",
        ),
        JoinError::Table(error) => CtrError::new(EINVAL, error.text()),
    })
}
