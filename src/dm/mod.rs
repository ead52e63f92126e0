// SPDX-License-Identifier: GPL-2.0

//! Abstractions for device-mapper targets in safe Rust.
//!
//! This page describes how to write a target. The items have the details. Nothing here depends on a
//! particular target, and the directory could become `kernel::dm`.
//!
//! # A target
//!
//! To write a target,
//!
//! - implement [`Target`] with `#[vtable]` for an empty type that names the target. Its associated
//!   types are the data of one instance ([`Target::Data`]) and the data of one bio
//!   ([`Target::PerBio`]);
//! - implement [`TargetModule`] for the state of the module, which exists while the module is
//!   loaded;
//! - declare the module with [`target_module!`], which registers the target.
//!
//! ```
//! # use dm::*;
//! # use kernel::prelude::*;
//! dm::target_module! {
//!     type: Zero,
//!     name: "dm_example_zero",
//!     authors: ["Somebody"],
//!     description: "An example",
//!     license: "GPL",
//! }
//!
//! /// The target type. It is also the state of the module, which is empty.
//! pub struct Zero;
//!
//! impl TargetModule for Zero {
//!     type Target = Self;
//!
//!     fn init() -> impl PinInit<Self, Error> {
//!         Ok(Self)
//!     }
//! }
//!
//! #[vtable]
//! impl Target for Zero {
//!     const NAME: &'static CStr = c"example_zero";
//!     const VERSION: [u32; 3] = [1, 0, 0];
//!     type Data<'ti> = ();
//!     type PerBio = ();
//!     const TRACKED: Tracked = Tracked::Nothing;
//!
//!     fn ctr<'ti>(
//!         _ti: &mut TargetBuilder<'ti>,
//!         args: Args<'_>,
//!     ) -> Result<impl PinInit<(), CtrError>, CtrError> {
//!         if !args.is_empty() {
//!             return Err(CtrError::new(EINVAL, c"No arguments required"));
//!         }
//!         Ok(Ok(()))
//!     }
//!
//!     fn map<'ti>(_: &(), bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
//!         bio.end(BlkStatus::NOTSUPP)
//!     }
//!
//!     fn status(_: &(), _: &DmTarget, _: StatusKind, _: &mut TextWriter<'_>) {}
//!
//!     fn iterate_devices<'ti>(_: &(), _: &DmTarget, _: &mut Visitor<'ti>) {}
//! }
//! ```
//!
//! `example/linear.rs` is a complete target with a device. `example/reserve.rs` sends reservation
//! commands. `example/relay.rs` uses everything else.
//!
//! # Ownership
//!
//! | value | owner | lifetime |
//! |---|---|---|
//! | instance data `Data<'ti>` | `ti->private` | until the end of `dtr`; callbacks share it |
//! | [`DmDevice<'ti>`](DmDevice) | the table | until the instance data has been dropped |
//! | [`TargetHandle`] | its holder | unlimited; reaches the target between `ctr` and `dtr` |
//! | [`MapBio`], [`LocatedBio`], [`AimedBio`] | `map` | until its disposition |
//! | [`EndBio`] | `end_io` | until its disposition |
//! | [`HeldBio`], [`HeldEnd`] | its holder | until it is submitted, ended, finished or dropped |
//! | per-bio data | the bio | until its completion has passed `end_io` |
//! | [`IoBuf`] | its holder, or the device | see [`block_io`] |
//! | a command of a [`Worker`](reservation::Worker) | the worker's thread | until its answer |
//! | [`BlockDevice`], [`Thread`], notifiers | its holder | until it is dropped |
//!
//! `'ti` is the lifetime of one target instance. Each callback is generic over `'ti`. Therefore a
//! value that carries `'ti` can be stored only in the data of its own instance. It can neither
//! outlive the instance nor be exchanged for a value of another target.
//!
//! # Soundness
//!
//! Code without `unsafe` outside of this directory cannot cause undefined behaviour through these
//! abstractions. `selftests/compile-fail` contains attempts that the compiler must refuse. Run-time
//! checks cover the cases that types cannot: the state of a module is loaded once, I/O submitted in
//! an interrupt fails, and a module waits for its threads, notifiers and transfers before it ends.
//! As in the rest of the kernel crate, types do not express in which context a function may sleep,
//! except for reservation commands, which need the [`Context`] of a thread.
//!
//! There is one open exception: `map` must end a [`Marker`]. If a target holds a marker or passes
//! it on, it can use its data after the device was removed, because no opener of the device waits
//! for the marker.
//!
//! # Rules without types
//!
//! Breaking one of these rules causes a hang or a kernel warning.
//!
//! - `map` and `end_io` must not sleep, allocate memory, or wait for other bios of the device.
//! - Do not end, finish, submit or drop a bio while holding a lock that `map` or `end_io` takes.
//! - After `presuspend` of a flushing suspend the target must still submit or end its held bios,
//!   because dm core waits for them. During a noflush suspend it must requeue them.
//! - Call [`DmTarget::event`] only in process context. Bios must not wait for the call.
//!
//! # Features that are not offered
//!
//! A target that needs one of these features cannot be written with this version:
//!
//! - *Partial bios*: `dm_accept_partial_bio()`. A fixed maximum size is possible
//!   ([`TargetBuilder::set_max_io_sectors`]).
//! - *Bios of the target's own*: allocating, cloning, splitting or chaining bios in `map`, and
//!   `dm_submit_bio_remap()` for a bio other than the clone. [`IoBuf`] is for metadata.
//! - *Access to the data of a bio* (`bio_for_each_segment()`).
//! - *The number of a duplicate bio* (`dm_bio_get_target_bio_nr()`), which a target with more than
//!   one flush or discard bio needs.
//! - *Request-based targets* such as multipath: `clone_and_map_rq`, `release_clone_rq`,
//!   `rq_end_io`, `busy`, and the delayed requeue codes.
//! - *Zoned devices*: `report_zones`, the zoned features, zone append. Zone operations are
//!   [`Op::Unknown`].
//! - *DAX*: `direct_access`, `dax_zero_page_range`, `dax_recovery_write`.
//! - *Integrity data and inline encryption*: `DM_TARGET_INTEGRITY`, `DM_TARGET_PASSES_INTEGRITY`,
//!   `DM_TARGET_PASSES_CRYPTO`, `mempool_needs_integrity`.
//! - *ioctls*: `prepare_ioctl` is null, so that dm core answers ioctls with an error. Those for
//!   reservations are no ioctls of the target: dm core sends them to the devices that
//!   `iterate_devices` visits (`dm_call_pr()`), except for CLEAR, which needs `prepare_ioctl`.
//! - *Several target types in one module*, and the wildcard target (`DM_TARGET_WILDCARD`).
//! - *The libraries of dm*: `dm-io`, `dm-kcopyd`, `dm-bufio`, persistent data, dirty logs, path
//!   selectors, exception stores.
//! - *Statistics*: dm core collects `dmsetup stats` without the target. It suspends the device for
//!   a moment when a region is created, and the target is not told; see [`marker`].
//!
//! # Modules
//!
//! | module | contents | uses targets |
//! |---|---|---|
//! | [`target`] | the trait, its callbacks and their rules | yes |
//! | [`builder`], [`handle`] | instances, and handles to reach them | yes |
//! | [`callbacks`], [`registration`] | `struct target_type` | yes |
//! | [`clone_bio`] | the bios of a target and their dispositions | yes |
//! | [`marker`] | the end of the bios that were deferred during a suspend | yes |
//! | [`args`], [`limits`], [`writer`] | arguments, queue limits, status text of a callback | no |
//! | [`bio`] | the fields of a bio | no |
//! | [`device`] | block devices | no |
//! | [`block_io`] | I/O without allocation | no |
//! | [`reservation`] | persistent reservations | no |
//! | [`thread`] | real-time threads and waiting | no |
//! | [`notifier`] | reboot and system sleep | no |
//! | [`clock`] | time and random numbers | no |
//! | [`word`] | atomic words without a function call | no |
//! | [`trace`] | trace events | no |
//! | [`global`] | a static value of the module | no |
//! | [`module`] | the wait for the users of a module's code | no |

pub mod args;
pub(crate) mod bindings;
pub mod bio;
pub mod block_io;
pub mod builder;
pub mod callbacks;
pub mod clock;
pub mod clone_bio;
pub mod device;
pub mod global;
pub mod handle;
pub mod limits;
pub mod marker;
pub mod module;
pub mod notifier;
pub mod registration;
pub mod reservation;
pub mod target;
pub mod thread;
pub mod trace;
pub mod word;
pub mod writer;

pub use self::{
    args::Args,
    bio::{
        Bio,
        BlkStatus,
        Op, //
    },
    block_io::{
        Complete,
        IoBuf,
        IoOp,
        Request, //
    },
    builder::TargetBuilder,
    callbacks::Visitor,
    clone_bio::{
        AimedBio,
        BioList,
        EndBio,
        EndOutcome,
        Held,
        HeldBio,
        HeldEnd,
        LocatedBio,
        MapBio,
        MapOutcome,
        Tracked, //
    },
    device::{
        Access,
        Bdev,
        BlockDevice,
        DevT,
        DmDevice, //
    },
    handle::TargetHandle,
    limits::QueueLimits,
    marker::Marker,
    registration::{
        target_module,
        TargetModule, //
    },
    target::{
        CtrError,
        DmTarget,
        Features,
        OrCtrError,
        Reply,
        Resuming,
        StatusKind,
        Target, //
    },
    thread::{
        Context,
        Priority,
        Thread,
        WaitQueue,
        Wake, //
    },
    word::Word64,
    writer::TextWriter, //
};
