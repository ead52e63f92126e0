// SPDX-License-Identifier: GPL-2.0
//! The options and arguments of the command line.
//!
//! Each value is checked by itself here. Whether values fit each other is checked by the core
//! (`time`, `limit`, `superblock`), whose errors name the mistake.

use clap::{Args, Parser, Subcommand, ValueEnum};
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::codec::superblock::Name;
use dm_lease_proto::proto::limit::RedundancyKind;
use dm_lease_proto::proto::words::table;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Formats, shows, checks and watches portions of the device-mapper target `lease`.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    Format(Box<Format>),
    Advise(Advise),
    /// Show the records of members: superblock and mailboxes
    Show(Devices),
    /// Check members: every checksum, and whether the members fit each other
    ///
    /// The exit status is 1 if anything is wrong.
    Check(Devices),
    Repair(Repair),
    Upgrade(Upgrade),
    /// List the rows of an md array inside that may carry strays of an old owner
    ///
    /// Save this list before the array is assembled on the new owner.
    Suspects(Devices),
    Rows(Rows),
    Table(Table),
    Status(Status),
    Owns(Owns),
    Fence(Fence),
    Watch(Watch),
    Events(Events),
    Timeline(Timeline),
    Metrics(Metrics),
    Activate(Activate),
    Deactivate(Deactivate),
    #[command(subcommand, hide = true)]
    Udev(Udev),
    Ana(Ana),
}

impl Command {
    /// Whether the command runs until it is interrupted. A closed pipe ends such a command.
    pub fn is_endless(&self) -> bool {
        match self {
            Command::Watch(_) | Command::Events(_) | Command::Udev(Udev::Follow) => true,
            Command::Metrics(options) => options.every_s.is_some() || options.listen.is_some(),
            Command::Ana(options) => !options.once,
            _ => false,
        }
    }
}

/// Format devices as the members of a new portion, or one device as a replacement member
///
/// Nothing is written before every check of every device has passed. The first and the last 8 MiB
/// of each device are wiped; everything between them becomes the data area and is left alone.
#[derive(Args)]
pub struct Format {
    /// Name of the portion: 1 to 32 letters, digits, '_', '.' or '-'
    #[arg(long, value_parser = name, required_unless_present = "replace")]
    pub name: Option<Name>,

    /// Uuid of the portion [default: random]
    #[arg(long, value_parser = uuid, conflicts_with = "replace")]
    pub uuid: Option<Uuid>,

    /// Numbers of the controllers that may own the portion, 1 to 64, such as 1,2 or 1-4
    #[arg(long, value_parser = controllers, required_unless_present = "replace")]
    pub controllers: Option<Bitmap>,

    /// The controller that may claim the portion at once if it was never owned [default: the
    /// lowest]
    #[arg(long, value_parser = slot, conflicts_with = "replace")]
    pub home: Option<Slot>,

    #[command(flatten)]
    pub timing: Timings,

    #[command(flatten)]
    pub redundancy: RedundancyOptions,

    /// Format the first device as a replacement of this member; the other devices are the members
    /// that are left, from which every setting is taken
    #[arg(long, value_name = "INDEX", conflicts_with_all = ["name", "controllers"])]
    pub replace: Option<u8>,

    /// Continue in spite of an objection; each kind of objection must be named
    #[arg(
        long,
        value_enum,
        value_name = "KIND,...",
        value_delimiter = ',',
        require_equals = true
    )]
    pub force: Vec<Force>,

    /// Check and explain everything, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The members, in order: block devices or image files
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

/// An objection that `format` may override.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Force {
    /// A device is already a member of a portion: the promises of its controllers are lost
    Member,
    /// A device holds other data that libblkid recognises: it is not found any more
    Signature,
    /// Replacement only: the promises of some controllers are not known from a majority
    Promises,
    /// Replacement only: the device is smaller than every member that is left
    Smaller,
    /// The redundancy needs more members than this portion has
    Redundancy,
}

#[derive(Args)]
#[command(next_help_heading = "Timings")]
pub struct Timings {
    /// Longest delay that anything below the target, host queues and error handling included, may
    /// add to a command
    #[arg(long, value_name = "MS", required_unless_present = "replace")]
    pub device_delay_ms: Option<u64>,

    /// Longest heartbeat period a controller may choose
    #[arg(long, value_name = "MS", default_value_t = 500, conflicts_with = "replace",
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub heartbeat_ms: u64,

    /// Heartbeats in a row that may be lost without losing the lease
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "replace"
    )]
    pub lost_heartbeats: u32,

    /// How long a lease lasts [default: the shortest that survives the delays of the other options]
    #[arg(long, value_name = "MS", conflicts_with = "replace")]
    pub lease_ms: Option<u64>,

    /// How long the owner must be silent before another controller may claim [default: the shortest
    /// safe window]
    #[arg(long, value_name = "MS", conflicts_with = "replace")]
    pub window_ms: Option<u64>,

    /// Bound of the rate error of the controllers' clocks, in parts per million
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = 1000,
        conflicts_with = "replace"
    )]
    pub drift_ppm: u32,

    /// Longest ordinary write of a mailbox
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 100,
        conflicts_with = "replace"
    )]
    pub write_ms: u64,

    /// Longest ordinary read of all mailboxes
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 100,
        conflicts_with = "replace"
    )]
    pub read_ms: u64,

    /// Longest ordinary delay in issuing a heartbeat
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 50,
        conflicts_with = "replace"
    )]
    pub jitter_ms: u64,

    /// How long until a lost mailbox write is reported as an error [default: the heartbeat period]
    #[arg(long, value_name = "MS", conflicts_with = "replace")]
    pub error_report_ms: Option<u64>,
}

#[derive(Args)]
#[command(next_help_heading = "Redundancy")]
pub struct RedundancyOptions {
    /// The redundancy that repairs late operations of a fenced controller: parity:<members>,
    /// mirror:<copies>, or external if nothing repairs them
    #[arg(long, value_parser = redundancy, required_unless_present = "replace")]
    pub redundancy: Option<RedundancyKind>,

    /// Whether a layer above recognises blocks with old content (end-to-end checksums)
    #[arg(long, value_enum, default_value_t = YesNo::No, conflicts_with = "replace")]
    pub detect: YesNo,

    /// State-changing operations that may be open at once [default: half of those that can be
    /// repaired, at least 1]
    #[arg(long, value_name = "N", conflicts_with = "replace")]
    pub batch: Option<u32>,

    /// What counts against the limit: every operation (ops), or distinct members of one stripe
    /// row (stripe:<KiB of a chunk>, for static placement only)
    #[arg(long, value_parser = counting, default_value = "ops", conflicts_with = "replace")]
    pub count: Count,

    /// What happens when nothing more can be repaired: hold operations (stop), or continue under
    /// the lease alone (window)
    #[arg(long, value_enum, default_value_t = WhenExhausted::Stop, conflicts_with = "replace")]
    pub exhausted: WhenExhausted,

    /// Time after which the operations of a silent old owner count as drained [default: never]
    #[arg(long, value_name = "MS", conflicts_with = "replace")]
    pub drain_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenExhausted {
    Stop,
    Window,
}

/// What counts against the limit, with the chunk in KiB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Ops,
    Stripe(u32),
}

/// A portion's uuid.
#[derive(Clone, Copy)]
pub struct Uuid(pub [u8; 16]);

/// A set of controllers, one bit per slot.
#[derive(Clone, Copy)]
pub struct Bitmap(pub u64);

/// Measure devices and propose timings for them, with the delays that each choice tolerates
///
/// Reads are measured while the device may be in use. Writes are measured only with --write, while
/// nothing uses the device: in an unused part of a formatted member, or at an offset of another
/// device. The old content is written back.
#[derive(Args)]
pub struct Advise {
    /// A present or future member; can be given more than once
    #[arg(long = "device", value_name = "DEVICE", required = true)]
    pub devices: Vec<PathBuf>,

    /// Measure writes, too
    #[arg(long)]
    pub write: bool,

    /// Where to write on a device that is not formatted: the byte offset of a 4 KiB block
    #[arg(long, value_name = "OFFSET", requires_all = ["write", "force"])]
    pub scratch: Option<u64>,

    /// Confirm the write to --scratch
    #[arg(long)]
    pub force: bool,

    /// Longest delay that anything below the target may add to a command [default: ten times the
    /// slowest measured command, at least 100]
    #[arg(long, value_name = "MS")]
    pub device_delay_ms: Option<u64>,

    /// Longest stall of a controller or its paths that a lease must survive, such as a failover of
    /// dm-multipath
    #[arg(long, value_name = "MS")]
    pub stall_ms: Option<u64>,

    /// Controllers whose mailboxes each heartbeat reads
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u8).range(1..=64))]
    pub controllers: u8,

    /// Number of measured commands of each kind
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub count: u32,
}

/// The arguments of the commands that read members
#[derive(Args)]
pub struct Devices {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Members, of one or of several portions
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

/// Restore damaged records: a superblock from its copy, a controller's registers from other members
///
/// The devices must not be mapped on this host. Only damaged records are written.
#[derive(Args)]
pub struct Repair {
    /// Restore the registers of this controller as well, where both blocks are damaged; the
    /// controller must be stopped, and all members that are left must be named
    #[arg(long, value_parser = slot)]
    pub controller: Option<Slot>,

    /// Continue although the promises of the controller are not known from a majority of the
    /// members; the controller must be off, and the portion stopped on all other controllers
    #[arg(long, requires = "controller")]
    pub promises_lost: bool,

    /// Print what would be restored, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Members of one portion
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

/// Convert the members of a portion of on-disk format 1 to the present format
///
/// All controllers must be stopped, and all members must be named. Repeat an interrupted run; until
/// then no controller opens the members.
#[derive(Args)]
pub struct Upgrade {
    /// All members of one portion
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

/// Find the stray in each row of an md array by its content, and repair it
///
/// All members of the array must be given. The command exits with status 1 if a row is stale and
/// was not repaired.
#[derive(Args)]
pub struct Rows {
    /// Rewrite stale blocks; the array must be stopped, and the devices mapped on the owner
    #[arg(long)]
    pub repair: bool,

    /// Check only the rows of this list, which suspects --json printed
    #[arg(long, value_name = "FILE")]
    pub within: Option<PathBuf>,

    /// Blocks that a layer above knows to be old: one array sector of each, or none; all other data
    /// counts as right
    #[arg(long, value_name = "none|SECTOR,...", value_parser = sectors)]
    pub old: Option<Sectors>,

    /// If one block of a RAID-6 row is old and the parities disagree, rebuild the block from this
    /// parity and change neither parity; the layer above then shows whether the block is right
    #[arg(long, value_enum, requires = "old")]
    pub by: Option<Parity>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// The devices of the array, in any order: mapped devices, members or image files
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Parity {
    P,
    Q,
}

/// Sectors of an array.
#[derive(Clone)]
pub struct Sectors(pub Vec<u64>);

/// Print the dmsetup table line of a member for a controller
#[derive(Args)]
pub struct Table {
    /// The controller that uses the mapped device
    #[arg(long, value_parser = slot)]
    pub controller: Slot,

    /// The heartbeat period of the controller [default: the longest that the portion allows]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(
        i64::from(*table::HEARTBEAT_MS.start())..=i64::from(*table::HEARTBEAT_MS.end())))]
    pub heartbeat_ms: Option<u32>,

    /// Claim a free portion only on message claim
    #[arg(long)]
    pub claim_manual: bool,

    /// Limit of open operations, not above that of the portion
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(
        i64::from(*table::BATCH.start())..=i64::from(*table::BATCH.end())))]
    pub batch: Option<u32>,

    /// Fail operations beyond the limit instead of holding them
    #[arg(long)]
    pub on_full_fail: bool,

    /// The error that refused operations end with
    #[arg(long, value_enum, default_value_t = FailWith::ResvConflict)]
    pub fail_with: FailWith,

    /// How long refused operations are kept after the lease was lost
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32)
        .range(i64::from(*table::LAPSE_HOLD_MS.start())..=i64::from(*table::LAPSE_HOLD_MS.end())))]
    pub lapse_hold_ms: u32,

    /// Programs that open the mapped device cache nothing
    #[arg(long)]
    pub stateless: bool,

    /// The member
    pub device: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum FailWith {
    ResvConflict,
    Ioerr,
    Medium,
}

/// Show the state of all portions of this host
#[derive(Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Read the output of `dmsetup status` from this file, '-' for standard input
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
}

/// Print the role of this host for a portion; exit with status 0 if it owns it with a valid lease
///
/// Prints "lapsed" for an owner whose lease is over or has not begun, and "unmapped" for a portion
/// without a mapped device.
#[derive(Args)]
pub struct Owns {
    /// The portion
    #[arg(value_parser = name)]
    pub portion: Name,
}

/// Show the state of all portions of this host again and again
#[derive(Args)]
pub struct Watch {
    /// Interval between two readings
    #[arg(long, value_name = "MS", default_value_t = 250,
        value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub interval_ms: u64,

    /// Stop after this many readings [default: when interrupted]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// Print each change of this host's portions as a line of JSON, until interrupted
///
/// Each line has the time (UTC, and nanoseconds of the clock that trace events show), portion,
/// controller, the name of the value, its old and its new value. The first lines show the present
/// state.
#[derive(Args)]
pub struct Events {
    /// Interval between two readings of values that raise no event: counters, members that fail
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub interval_ms: u64,

    /// Stop after this many readings [default: when interrupted]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// Draw recorded roles, leases, heartbeats and refusals as SVG
///
/// The input is output of `leasectl events`, and trace events of dm_lease as text: tracefs' trace
/// or trace_pipe, or the report of trace-cmd. Files of several hosts must not be mixed, because
/// their clocks are not related.
#[derive(Args)]
pub struct Timeline {
    /// The name of a portion whose uuid trace events show [default: the only portion that events
    /// name]
    #[arg(long = "portion", value_name = "UUID=NAME", value_parser = named)]
    pub portions: Vec<Named>,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Recorded events; '-' for standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// The name of a portion by its uuid.
#[derive(Clone)]
pub struct Named {
    pub uuid: Uuid,
    pub name: Name,
}

/// Print the state of this host's portions as metrics for Prometheus
///
/// Prints once to standard output, or runs until interrupted: it writes a file for the textfile
/// collector of node_exporter, or answers requests at an address.
#[derive(Args)]
pub struct Metrics {
    /// Write to this file, which is replaced at once
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    pub textfile: Option<PathBuf>,

    /// Write the file again after this many seconds, until interrupted
    #[arg(long, value_name = "S", requires = "textfile",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every_s: Option<u64>,

    /// Serve /metrics at this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
}

/// Latch the portions below devices: from then on this host cannot write to them
///
/// A device may be anything above a mapped device of a portion: a volume, an array, a partition.
/// The command needs no disk and waits for none. The controller owns the portion again after a
/// claim.
#[derive(Args)]
pub struct Fence {
    /// Block devices
    #[arg(required = true)]
    pub devices: Vec<PathBuf>,
}

/// Create the mapped devices of declared portions
///
/// Existing devices are not changed, so the command can be repeated for members that arrive later.
#[derive(Args)]
pub struct Activate {
    /// Print the input for dmsetup, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Declarations [default: /etc/dm-lease/*.toml]
    pub files: Vec<PathBuf>,
}

/// Release the leases of portions and remove their mapped devices
///
/// A portion with an open device is not changed and keeps its lease.
#[derive(Args)]
pub struct Deactivate {
    /// First unmount file systems on the devices and stop volume groups and arrays
    #[arg(long)]
    pub above: bool,

    /// Portions [default: all that are mapped]
    #[arg(value_parser = name)]
    pub portions: Vec<Name>,
}

/// Commands for udev rules and units
#[derive(Subcommand)]
pub enum Udev {
    /// Print the udev properties of a member; exit with status 1 if the device is no member
    Member {
        /// The device
        device: PathBuf,
    },
    /// Print the udev properties of a mapped device
    Mapped {
        /// The name of the mapped device
        name: String,
    },
    /// Raise a uevent for each change of role, until interrupted
    Follow,
}

/// Keep the ANA states of NVMe exports in step with ownership
///
/// The ANA group of a portion is optimized on all ports of the kernel's NVMe target while this
/// controller owns the portion, and inaccessible otherwise. Operations that the gate keeps
/// (`lapse_hold_ms`) fail only when the group is inaccessible, so that clients repeat them on their
/// other path. The command may be restarted at any time.
#[derive(Args)]
pub struct Ana {
    /// Read the status once, act, and end
    #[arg(long)]
    pub once: bool,

    /// The NVMe target in configfs
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/sys/kernel/config/nvmet"
    )]
    pub nvmet: PathBuf,

    /// Portions and the ANA groups that their namespaces are in, such as alpha=2 (2 to 128: group
    /// 1 is optimized as soon as there is a port)
    #[arg(required = true, value_name = "PORTION=GROUP", value_parser = group)]
    pub groups: Vec<Group>,
}

/// A portion and its ANA group.
#[derive(Clone, Copy)]
pub struct Group {
    pub portion: Name,
    pub number: u32,
}

fn group(word: &str) -> Result<Group, String> {
    let (portion, number) = word
        .split_once('=')
        .ok_or_else(|| String::from("say <portion>=<group>"))?;
    let portion = name(portion)?;
    match number.parse() {
        Ok(number @ 2..=128) => Ok(Group { portion, number }),
        _ => Err(String::from("an ANA group is a number from 2 to 128")),
    }
}

fn named(word: &str) -> Result<Named, String> {
    let (uuid_word, name_word) = word
        .split_once('=')
        .ok_or_else(|| String::from("say <uuid>=<name>"))?;
    Ok(Named {
        uuid: uuid(uuid_word)?,
        name: name(name_word)?,
    })
}

pub fn name(word: &str) -> Result<Name, String> {
    Name::new(word).ok_or_else(|| {
        String::from(
            "a name is 1 to 32 letters, digits, '_', '.' or '-', and starts with a letter or digit",
        )
    })
}

fn slot(word: &str) -> Result<Slot, String> {
    word.parse()
        .ok()
        .and_then(Slot::from_controller)
        .ok_or_else(|| String::from("a controller is a number from 1 to 64"))
}

/// Numbers and ranges, separated by commas.
fn controllers(word: &str) -> Result<Bitmap, String> {
    let mut bitmap = 0;
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (slot(first)?, slot(last)?);
        if first > last {
            return Err(format!("the range {part} runs backwards"));
        }
        for slot in Slot::all_in(!0).filter(|slot| (first..=last).contains(slot)) {
            if slot.is_in(bitmap) {
                return Err(format!("controller {slot} is named twice"));
            }
            bitmap |= slot.bit();
        }
    }
    Ok(Bitmap(bitmap))
}

fn sectors(word: &str) -> Result<Sectors, String> {
    if word == "none" {
        return Ok(Sectors(Vec::new()));
    }
    let numbers: Result<_, _> = word.split(',').map(str::parse).collect();
    numbers
        .map(Sectors)
        .map_err(|_| String::from("say none, or sectors separated by commas"))
}

pub fn uuid(word: &str) -> Result<Uuid, String> {
    let wrong = || String::from("a uuid is 32 hexadecimal digits, usually as 8-4-4-4-12");
    let digits: String = word.chars().filter(|&c| c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    match number {
        0 => Err(String::from("the uuid is zero")),
        number => Ok(Uuid(number.to_be_bytes())),
    }
}

fn redundancy(word: &str) -> Result<RedundancyKind, String> {
    let count = |digits: &str| {
        digits
            .parse()
            .map_err(|_| format!("{digits:?} is not a number from 0 to 255"))
    };
    match word.split_once(':') {
        None if word == "external" => Ok(RedundancyKind::External),
        Some(("parity", digits)) => Ok(RedundancyKind::Parity(count(digits)?)),
        Some(("mirror", digits)) => Ok(RedundancyKind::Mirror(count(digits)?)),
        _ => Err(String::from(
            "say parity:<members>, mirror:<copies> or external",
        )),
    }
}

fn counting(word: &str) -> Result<Count, String> {
    match word.split_once(':') {
        None if word == "ops" => Ok(Count::Ops),
        Some(("stripe", kib)) => match kib.parse() {
            Ok(kib) => Ok(Count::Stripe(kib)),
            Err(_) => Err(format!("{kib:?} is not a number of KiB")),
        },
        _ => Err(String::from("say ops or stripe:<KiB of a chunk>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn r28_controllers_are_numbers_and_ranges() {
        let bitmap = |word| controllers(word).map(|bitmap| bitmap.0);
        assert_eq!(bitmap("1"), Ok(1));
        assert_eq!(bitmap("1,2"), Ok(3));
        assert_eq!(bitmap("64,1-3"), Ok((1 << 63) | 7));
        assert_eq!(bitmap("1-64"), Ok(u64::MAX));
        for bad in ["", "0", "65", "1,", "2-1", "1,1", "1-3,2", "a", "1--2"] {
            assert!(bitmap(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn r39_uuids_are_read_as_they_are_printed() {
        use dm_lease_proto::proto::codec::superblock::DisplayUuid;
        let word = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(DisplayUuid(&uuid(word).unwrap().0).to_string(), word);
        let zero = "00000000000000000000000000000000";
        for bad in ["", "0", zero, "01234567-89ab-cdef-0123-456789abcdeg", "+1"] {
            assert!(uuid(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn groups_of_portions() {
        let read = |word| group(word).map(|group| (group.portion.to_string(), group.number));
        assert_eq!(read("alpha=2"), Ok((String::from("alpha"), 2)));
        for bad in ["", "alpha", "alpha=", "alpha=1", "alpha=129", "=2", "a=2=3"] {
            assert!(group(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn r14_redundancy_words() {
        assert!(redundancy("parity:2") == Ok(RedundancyKind::Parity(2)));
        assert!(redundancy("mirror:3") == Ok(RedundancyKind::Mirror(3)));
        assert!(redundancy("external") == Ok(RedundancyKind::External));
        for bad in ["", "parity", "parity:", "parity:256", "external:1", "raid6"] {
            assert!(redundancy(bad).is_err(), "{bad:?}");
        }
        assert!(counting("stripe:64") == Ok(Count::Stripe(64)));
        for bad in ["stripe", "stripe:", "ops:1", "rows"] {
            assert!(counting(bad).is_err(), "{bad:?}");
        }
    }
}
