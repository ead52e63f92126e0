// SPDX-License-Identifier: GPL-2.0

//! An example of the smallest useful target, written with the abstractions of `dm`.
//!
//! `example_linear <device> <sector>` maps its range to the range of `<device>` that begins at
//! `<sector>`, as dm-linear does. The message `reads` returns the number of mapped reads, and
//! `sync` raises an event. The target needs no lock, because its data has only one atomic counter
//! that changes.

use core::fmt::Write;
use dm::*;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

#[path = "../mod.rs"]
pub mod dm;

target_module! {
    type: Linear,
    name: "dm_example_linear",
    authors: ["dm-lease contributors"],
    description: "Example of a device-mapper target in Rust",
    license: "GPL",
}

/// The target type. It is also the state of the module, which is empty.
struct Linear;

impl TargetModule for Linear {
    type Target = Self;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// One instance.
struct Range<'ti> {
    dev: DmDevice<'ti>,
    start_sector: u64,
    reads: Atomic<u64>,
}

#[vtable]
impl Target for Linear {
    const NAME: &'static CStr = c"example_linear";
    const VERSION: [u32; 3] = [1, 0, 0];
    const FEATURES: Features = Features::NOWAIT;
    type Data<'ti> = Range<'ti>;
    type PerBio = ();
    const TRACKED: Tracked = Tracked::Nothing;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        mut args: Args<'_>,
    ) -> Result<impl PinInit<Range<'ti>, CtrError>, CtrError> {
        let path = args.next().or_ctr(c"Missing device")?;
        let start_sector = args.next_u64().or_ctr(c"Invalid device sector")?;
        if !args.is_empty() {
            return Err(CtrError::new(EINVAL, c"Invalid argument count"));
        }
        let dev = ti.get_device(path).or_ctr(c"Device lookup failed")?;
        ti.set_num_discard_bios(1)
            .set_num_secure_erase_bios(1)
            .set_num_write_zeroes_bios(1)
            .set_flush_bypasses_map(true);
        Ok(try_init!(Range {
            dev,
            start_sector,
            reads: Atomic::new(0),
        }? CtrError))
    }

    fn map<'ti>(range: &Range<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        if bio.is_read() {
            range.reads.fetch_add(1, Relaxed);
        }
        let sector = range.start_sector.wrapping_add(bio.sector());
        bio.remap(range.dev, sector)
    }

    fn status(range: &Range<'_>, _ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>) {
        let (dev, start) = (range.dev.devt(), range.start_sector);
        // Writing to a `TextWriter` never fails.
        let _ = match kind {
            StatusKind::Info => write!(out, "{}", range.reads.load(Relaxed)),
            StatusKind::Table => write!(out, "{dev} {start}"),
            StatusKind::Ima => write!(out, "device_name={dev},start={start}"),
        };
    }

    fn message(
        range: &Range<'_>,
        ti: &DmTarget,
        mut args: Args<'_>,
        out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        match (args.next().map(CStr::to_bytes), args.is_empty()) {
            (Some(b"reads"), true) => {
                let _ = write!(out, "{}", range.reads.load(Relaxed));
                Ok(Reply::Text)
            }
            (Some(b"sync"), true) => {
                ti.event();
                Ok(Reply::Done)
            }
            _ => Err(EINVAL),
        }
    }

    fn iterate_devices<'ti>(range: &Range<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(range.dev, range.start_sector, ti.len_sectors());
    }
}
