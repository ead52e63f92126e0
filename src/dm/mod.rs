// SPDX-License-Identifier: GPL-2.0

//! Writing device-mapper targets in safe Rust.
//!
//! This is the manual of the module; the details are with the items. It knows nothing of what any
//! particular target does, and could move into the `kernel` crate as `kernel::dm`.
//!
//! # A target
//!
//! Implement [`Target`] (with `#[vtable]`) for an empty type that names the target, say what an
//! instance consists of ([`Target::Data`]) and what is remembered for each bio
//! ([`Target::PerBio`]). Declare the module with [`target_module!`], which registers the target;
//! what else exists while the module is loaded is its [`TargetModule`]:
//!
//! ```ignore
//! dm::target_module! {
//!     type: Zero,
//!     name: "dm_example_zero",
//!     authors: ["Somebody"],
//!     description: "An example",
//!     license: "GPL",
//! }
//!
//! /// The target type, and also the state of the module, which is empty.
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
//! `example/linear.rs` is a complete one with a device; `example/relay.rs` uses everything else.
//!
//! # Who owns what
//!
//! | what | owner | until |
//! |---|---|---|
//! | instance data `Data<'ti>` | this module | after `dtr`; callbacks borrow it, concurrently |
//! | [`DmDevice<'ti>`](DmDevice) | the table | after the data was dropped; it is a reference |
//! | [`TargetHandle`] | anybody, also beyond `'ti` | it reaches the target from `ctr` to `dtr` |
//! | [`MapBio`] | `map` | it is consumed by a disposition, which gives the [`MapOutcome`] |
//! | [`LocatedBio`] | `map` | it becomes an [`AimedBio`], with per-bio data and a direction |
//! | [`AimedBio`] | `map` | as [`MapBio`] |
//! | [`HeldBio`], [`HeldEnd`] | whoever has it | it is submitted, ended, finished or dropped |
//! | per-bio data | the bio | its completion has passed `end_io` |
//! | [`IoBuf`] | one owner, or the device | see [`block_io`] |
//! | [`BlockDevice`], [`Thread`], notifiers | whoever has them | drop, which closes, or waits |
//!
//! `'ti` is the life of one target instance. Each callback is generic over it, so that nothing that
//! carries it can be stored anywhere but in the instance's own data, exchanged with another
//! target's, or outlive the instance.
//!
//! # Soundness
//!
//! Code without `unsafe` outside of this directory cannot cause undefined behaviour through it;
//! `selftests/compile-fail` has the attempts that the compiler refuses. What the types cannot
//! refuse, the run-time checks make harmless: a second load of the module's state fails, I/O
//! submitted in an interrupt fails, and a module does not end before its threads, notifiers and
//! transfers have. As in the rest of the kernel crate, the types do not say what may sleep where.
//!
//! One exception is open: a [`Marker`] has to be ended by `map`. A target that holds it or passes
//! it on could use its data after the device was removed, because no opener of the device waits
//! for the marker.
//!
//! # Rules that the types cannot express
//!
//! Code that breaks one of these rules hangs, or the kernel warns.
//!
//! - `map` and `end_io` must not sleep, allocate, or wait for one another's bios.
//! - Do not end, finish, submit or drop a bio while holding a lock that `map` or `end_io` takes.
//! - After `presuspend` of an ordinary (flushing) suspend, held bios must still be submitted or
//!   ended, because dm core waits for them; during a noflush suspend they must be requeued.
//! - `event` only from process context, and nothing that a bio waits for may wait for it.
//!
//! # Parts
//!
//! [`target`] callbacks; [`module`] loading and unloading; [`args`] the words of a table line;
//! [`bio`] bios; [`clone_bio`] those of a target and their dispositions; [`device`] block devices;
//! [`limits`] queue limits; [`writer`] status text; [`marker`] the end of what was deferred during
//! a suspend; [`block_io`] I/O of one's own; [`thread`] real-time threads and waiting; [`notifier`]
//! reboot and system sleep; [`clock`] time and random numbers; [`word`] atomic words; [`trace`]
//! trace events; [`global`] what all targets of a module share.

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
