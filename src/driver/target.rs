// SPDX-License-Identifier: GPL-2.0

//! The target `lease`: the callbacks of device-mapper.
//!
//! `<start> <length> lease <device> <controller> [<#feature args> ...]`, see
//! [`crate::proto::words::table`] for the words and `scripts/doc/dm-lease.md` for their meaning.
//! Everything else is read from the superblock on the device.
//!
//! The constructor only reads. A table that is never resumed neither heartbeats nor claims:
//! activity begins with `preresume`, which can still fail. Activity ends with the destructor of the
//! last table. On a reload, the destructor of the old table runs after the resume of the new one.
//!
//! Locking: none here. Concurrent callbacks share a [`LeaseTable`], which never changes except for
//! its flags.

use super::{
    deferred::Deferred,
    gate::{self, GatedTable, LeaseTarget, PerBio, PortionGate, Rules, TableFlags},
    message,
    registry::{self, JoinError, JoinRequest, SessionRef},
    session::{MemberError, Session},
    superblock::{self, Unreadable},
    tables::Table,
};
use crate::{
    dm::{
        Access,
        Args,
        Bio,
        BlkStatus,
        BlockDevice,
        CtrError,
        DmDevice,
        DmTarget,
        EndBio,
        EndOutcome,
        MapBio,
        MapOutcome,
        Op,
        OrCtrError,
        QueueLimits,
        Reply,
        Resuming,
        StatusKind,
        Target,
        TargetBuilder,
        TargetHandle,
        TextWriter,
        Tracked,
        Visitor, //
    },
    proto::{
        codec::{
            ids::Slot,
            superblock::Superblock, //
        },
        controller::MemberDevice,
        limit::{Counting, Limit},
        words::{
            status::Reason,
            table::{Claim, FeatureArgs, Surroundings, TableLine}, //
        }, //
    },
};
use core::fmt::Write as _;
use kernel::{prelude::*, sync::Arc};

/// The private data of a table.
pub struct LeaseTable<'ti> {
    /// The device of the member.
    device: DmDevice<'ti>,
    offset_sectors: u64,
    rules: Rules,
    flags: Arc<TableFlags>,
    deferred: Arc<Deferred>,
    features: FeatureArgs,
    controller: Slot,
    /// The gate of the session, here to be found with one load.
    gate: Arc<PortionGate>,
    session_ref: SessionRef,
}

impl LeaseTable<'_> {
    fn session(&self) -> &Session {
        &self.session_ref.session
    }
}

impl<'ti> GatedTable<'ti> for LeaseTable<'ti> {
    #[inline(always)]
    fn gate(&self) -> &PortionGate {
        &self.gate
    }

    #[inline(always)]
    fn id(&self) -> u64 {
        self.session_ref.id
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
    // Every operation but a read counts as a change of state, also an unknown one [R23].
    const TRACKED: Tracked = Tracked::AllButReads;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        args: Args<'_>,
    ) -> Result<impl PinInit<LeaseTable<'ti>, CtrError>, CtrError> {
        let Made {
            device,
            superblock,
            line: (slot, features),
            session_ref,
            own,
            handle,
            deferred: (deferred, is_foreign),
        } = construct(ti, args)?;
        let member = superblock.member;
        let gate = session_ref.session.shared.gate.clone();
        let unit = gate.unit(member);
        let rules = Rules::of(member, unit, &features, ti.is_read_only());
        let offset_sectors = superblock.data_offset_sectors;
        let flags = TableFlags::new(&[
            (rules.read_only, TableFlags::READ_ONLY),
            (is_foreign, TableFlags::FOREIGN),
        ]);
        let flags = Arc::new(flags, GFP_KERNEL)?;
        let table = Table {
            id: session_ref.id,
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
        session_ref
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
            gate,
            session_ref,
        }? CtrError))
    }

    fn dtr(data: &LeaseTable<'_>, _ti: &DmTarget) {
        data.session().detach(data.session_ref.id);
    }

    #[inline]
    fn map<'ti>(data: &LeaseTable<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        // Reads always pass, on every controller [R22].
        if bio.is_read() {
            if data.flags.has(TableFlags::OUTDATED) {
                return bio.end(BlkStatus::IOERR);
            }
            let sector = data.sector(&bio);
            return bio.remap(data.device, sector);
        }
        if bio.op() == Op::Write && bio.size_bytes() == 0 {
            return gate::map_empty(bio, data);
        }
        data.gate().map(bio, data)
    }

    #[inline]
    fn end_io<'ti>(data: &LeaseTable<'ti>, bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        data.gate().end_io(bio, data)
    }

    fn presuspend(data: &LeaseTable<'_>, ti: &DmTarget) {
        // A flushing suspend waits for held bios. A noflush suspend wants them back. They go back
        // before the wait below, because dm core may not finish with the deferred bios before.
        if ti.noflush_suspending() {
            data.flags.set(TableFlags::NOFLUSH);
            data.gate().begin_noflush(data);
        }
        data.deferred.wait();
        data.deferred.begin(data.gate().epoch());
        data.flags.set(TableFlags::DEFERRED);
    }

    fn presuspend_undo(data: &LeaseTable<'_>, _ti: &DmTarget) {
        // DEFERRED stays set: dm core maps the deferred bios already, and no marker shows their
        // end.
        data.flags.clear(TableFlags::NOFLUSH);
    }

    fn preresume(data: &LeaseTable<'_>, _ti: &DmTarget) -> Result {
        // A device that is resumed again is attached already, which `attach` allows.
        data.session().attach(data.session_ref.id)
    }

    fn resume(data: &LeaseTable<'_>, ti: &Resuming<'_>) {
        data.flags.clear(TableFlags::NOFLUSH);
        if data.flags.has(TableFlags::FOREIGN) {
            data.deferred.disown();
            data.flags.clear(TableFlags::FOREIGN);
        }
        // A read-only table refuses all deferred bios, so it needs no marker for their end.
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
                let mut status = data.session().status(data.rules.member);
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
        message::handle(data.session(), args, out)
    }

    fn iterate_devices<'ti>(data: &LeaseTable<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(data.device, data.offset_sectors, ti.len_sectors());
    }

    fn io_hints(data: &LeaseTable<'_>, _ti: &DmTarget, limits: &mut QueueLimits<'_>) {
        // A polled write would hold its permit until its submitter polls.
        limits.clear_poll();
        let superblock = &data.session().superblock;
        if let Counting::Stripe { chunk_sectors } = superblock.redundancy.counting {
            limits.set_chunk_sectors(chunk_sectors);
            // An atomic write must not be split, and it might cross the end of a stripe row.
            limits.clear_atomic_writes();
        }
    }
}

/// What [`construct`] returns.
struct Made<'ti> {
    device: DmDevice<'ti>,
    superblock: Superblock,
    line: (Slot, FeatureArgs),
    session_ref: SessionRef,
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
    let session_ref = join(ti, &line, &superblock, &own)?;
    let handle = ti.handle().or_ctr(c"Cannot allocate a handle")?;
    let deferred = deferred(ti, &session_ref)?;
    // Bios wait here for permits. The limit keeps swapping from filling the memory with them.
    ti.set_limit_swap_bios(true);
    // An empty flush changes nothing, so it bypasses `map`. A flush with data does not.
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
        session_ref,
        own,
        handle,
        deferred,
    })
}

/// The deferred bios of the mapped device, which it shares with its other tables. The second value
/// is true if they were sent to another session.
fn deferred(
    ti: &TargetBuilder<'_>,
    session_ref: &SessionRef,
) -> Result<(Arc<Deferred>, bool), CtrError> {
    let device = ti.device_number();
    match registry::deferred(device, &session_ref.session) {
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
    // A read-only table observes. It writes its mailbox too, if the device is not read-only.
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
) -> Result<SessionRef, CtrError> {
    let joined = registry::join(&JoinRequest {
        superblock,
        slot: line.controller,
        device: own.devt(),
        mapped: ti.device_number(),
        features: &line.features,
    });
    joined.map_err(|error| match error {
        JoinError::System(error) => CtrError::new(error, c"Cannot make a session"),
        JoinError::Member(MemberError::Mismatch(what)) => CtrError::with_detail(
            EINVAL,
            c"Member does not fit the others of its portion",
            ti,
            format_args!("{what}"),
        ),
        JoinError::Member(MemberError::Outdated(highest)) => CtrError::with_detail(
            ESTALE,
            c"Device is a former disk of its member",
            ti,
            format_args!(
                "generation {}, the member has {highest}",
                superblock.generation
            ),
        ),
        JoinError::Member(MemberError::Taken) => {
            CtrError::new(EBUSY, c"Another device is this member already")
        }
        JoinError::Period => CtrError::new(
            EINVAL,
            c"Heartbeat period does not fit the portion's timings",
        ),
        JoinError::Table(error) => CtrError::new(EINVAL, error.text()),
    })
}
