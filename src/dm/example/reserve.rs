// SPDX-License-Identifier: GPL-2.0

//! A test of the reservations of a device.
//!
//! `example_reserve <device> <keys> <milliseconds>` maps its range to the beginning of the device.
//! Messages send reservation commands to the device. The list of registered keys has room for
//! `<keys>`. All numbers are decimal:
//!
//! - `register <old> <new>`: 0 as the old key means "none", and 0 as the new key unregisters.
//! - `reserve <own> <type>`, `release <own> <type>`. Types are the numbers of `enum pr_type`.
//! - `preempt <own> <victim> <type>`, and `abort`, which also ends the commands of the victim.
//! - `clear <own>`.
//! - `keys`, `reservation`: read the registered keys and the reservation.
//!
//! The reply is the answer of the device:
//!
//! - `good`, `conflict`, `unsupported`, or `doubt` and the code of the driver;
//! - `keys`, the generation, the number of registrations, the keys, and `and more` if the list has
//!   no room for all;
//! - `none`, or `held`, the type, the holder, and the generation.
//!
//! If there is no answer after the given time, the reply is `timeout`. All messages then fail with
//! `EBUSY` until the answer has come. Each answer is also logged, with the number of the command.
//!
//! The status is `idle`, or `busy` while a command is under way.
//!
//! Locking: `commands` serialises the messages. The lock of the last answer is taken by messages
//! and by the thread of the worker, and nothing is called while it is held.

use core::fmt::Write;
use dm::{
    reservation::{
        Answer,
        Command,
        Failure,
        Key,
        KeyList,
        Kind,
        NoReservations,
        OnAnswer,
        Preempt,
        Reservations,
        Worker, //
    },
    *, //
};
use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        new_spinlock_irq,
        Arc,
        Mutex,
        SpinLockIrq, //
    }, //
};

#[path = "../mod.rs"]
pub mod dm;

target_module! {
    type: Reserve,
    name: "dm_example_reserve",
    authors: ["dm-lease contributors"],
    description: "Test of the persistent reservations in Rust",
    license: "GPL",
}

/// The target type. It is also the state of the module, which is empty.
struct Reserve;

impl TargetModule for Reserve {
    type Target = Self;

    fn init() -> impl PinInit<Self, Error> {
        Ok(Self)
    }
}

/// One instance.
#[pin_data]
struct Instance<'ti> {
    dev: DmDevice<'ti>,
    keys: u32,
    limit_ms: u64,
    worker: Worker<Deliver>,
    last: Arc<Last>,
    /// The number of commands that were submitted.
    #[pin]
    commands: Mutex<u64>,
}

/// The last answer, and the number of its command.
#[pin_data]
struct Last {
    #[pin]
    answer: SpinLockIrq<Option<(u64, CString)>>,
    #[pin]
    wake: WaitQueue,
}

/// The handler of answers.
struct Deliver(Arc<Last>);

impl OnAnswer for Deliver {
    fn answer(&self, tag: u64, _command: Command, answer: Result<Answer<'_>, Failure>) {
        let Ok(text) = CString::try_from_fmt(fmt!("{}", Text(&answer))) else {
            pr_err!("no memory for answer {tag}\n");
            return;
        };
        pr_info!("answer {tag}: {}\n", &*text);
        let former = self.0.answer.lock().replace((tag, text));
        drop(former);
        self.0.wake.wake_all();
    }
}

/// Prints an answer.
struct Text<'a>(&'a Result<Answer<'a>, Failure>);

impl kernel::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Ok(Answer::Good) => f.write_str("good"),
            Ok(Answer::Keys(keys)) => write_keys(f, keys),
            Ok(Answer::Reservation(None)) => f.write_str("none"),
            Ok(Answer::Reservation(Some(held))) => write!(
                f,
                "held {} {} {}",
                held.kind.map_or(0, Kind::as_raw),
                held.holder.map_or(0, Key::get),
                held.generation
            ),
            Err(Failure::Conflict) => f.write_str("conflict"),
            Err(Failure::Unsupported) => f.write_str("unsupported"),
            Err(Failure::Withdrawn) => f.write_str("withdrawn"),
            Err(Failure::Doubt(doubt)) => write!(f, "doubt {}", doubt.code()),
        }
    }
}

fn write_keys(f: &mut core::fmt::Formatter<'_>, keys: &KeyList) -> core::fmt::Result {
    write!(f, "keys {} {}", keys.generation(), keys.total())?;
    for key in keys.keys() {
        write!(f, " {}", key.map_or(0, Key::get))?;
    }
    if keys.is_cut() {
        f.write_str(" and more")?;
    }
    Ok(())
}

impl Instance<'_> {
    /// Sends a command, and waits for the answer at most as long as the table says.
    fn send(&self, command: Command, out: &mut TextWriter<'_>) -> Result {
        let mut commands = self.commands.lock();
        let tag = commands.wrapping_add(1);
        self.worker.submit(tag, command)?;
        *commands = tag;
        let deadline_ns = clock::raw_ns().saturating_add(self.limit_ms.saturating_mul(1_000_000));
        let is_answered = || matches!(&*self.last.answer.lock(), Some((of, _)) if *of == tag);
        if !self.last.wake.wait_until(deadline_ns, is_answered) {
            let _ = write!(out, "timeout");
            return Ok(());
        }
        let answer = self.last.answer.lock().take();
        if let Some(text) = answer.as_ref().and_then(|(_, text)| text.to_str().ok()) {
            let _ = write!(out, "{text}");
        }
        Ok(())
    }
}

/// Reads a command from the arguments of a message.
fn parse(args: &mut Args<'_>) -> Result<Command> {
    let name = args.next().ok_or(EINVAL)?.to_bytes();
    let mut number = || args.next_u64().ok_or(EINVAL);
    match name {
        b"keys" => return Ok(Command::ReadKeys),
        b"reservation" => return Ok(Command::ReadReservation),
        b"register" => {
            let (old, new) = (Key::new(number()?), Key::new(number()?));
            return match (old, new) {
                (old, Some(new)) => Ok(Command::Register { old, new }),
                (Some(own), None) => Ok(Command::Unregister { own }),
                (None, None) => Err(EINVAL),
            };
        }
        _ => (),
    }
    let own = Key::new(number()?).ok_or(EINVAL)?;
    if name == b"clear" {
        return Ok(Command::Clear { own });
    }
    let victim = match name {
        b"preempt" | b"abort" => Some(Key::new(number()?).ok_or(EINVAL)?),
        _ => None,
    };
    let kind = u32::try_from(number()?).ok().and_then(Kind::from_raw);
    let kind = kind.ok_or(EINVAL)?;
    match (name, victim) {
        (b"reserve", None) => Ok(Command::Reserve { own, kind }),
        (b"release", None) => Ok(Command::Release { own, kind }),
        (_, Some(victim)) => Ok(Command::Preempt(Preempt {
            own,
            victim,
            kind,
            abort: name == b"abort",
        })),
        _ => Err(EINVAL),
    }
}

#[vtable]
impl Target for Reserve {
    const NAME: &'static CStr = c"example_reserve";
    const VERSION: [u32; 3] = [1, 0, 0];
    type Data<'ti> = Instance<'ti>;
    type PerBio = ();
    const TRACKED: Tracked = Tracked::Nothing;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        mut args: Args<'_>,
    ) -> Result<impl PinInit<Instance<'ti>, CtrError>, CtrError> {
        let path = args.next().or_ctr(c"Missing device")?;
        let keys = args.next_u64().and_then(|keys| u32::try_from(keys).ok());
        let keys = keys.or_ctr(c"Invalid number of keys")?;
        let limit_ms = args.next_u64().or_ctr(c"Invalid time limit")?;
        let dev = ti.get_device(path).or_ctr(c"Device lookup failed")?;
        match Reservations::of(&dev) {
            Ok(_) => (),
            Err(NoReservations::Partition) => {
                return Err(CtrError::new(EINVAL, c"Device is a partition"));
            }
            Err(NoReservations::NotOffered) => {
                return Err(CtrError::new(EOPNOTSUPP, c"Device has no reservations"));
            }
        }
        let own = BlockDevice::open(dev.devt(), Access::ReadWrite).or_ctr(c"Cannot open")?;
        let last = Arc::pin_init(
            pin_init!(Last {
                answer <- new_spinlock_irq!(None),
                wake <- new_wait_queue!("reserve"),
            }),
            GFP_KERNEL,
        )
        .or_ctr(c"Cannot allocate shared state")?;
        let worker = Worker::new(
            Arc::new(own, GFP_KERNEL)?,
            c"reserve",
            Priority::RealtimeLow,
            keys,
            Deliver(last.clone()),
        )
        .or_ctr(c"Cannot start worker")?;
        Ok(try_pin_init!(Instance {
            dev,
            keys,
            limit_ms,
            worker,
            last,
            commands <- new_mutex!(0),
        }? CtrError))
    }

    fn map<'ti>(data: &Instance<'ti>, bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        let sector = bio.sector();
        bio.remap(data.dev, sector)
    }

    fn status(data: &Instance<'_>, _ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>) {
        let (dev, keys, limit_ms) = (data.dev.devt(), data.keys, data.limit_ms);
        let state = if data.worker.is_busy() {
            "busy"
        } else {
            "idle"
        };
        // Writing to a `TextWriter` never fails.
        let _ = match kind {
            StatusKind::Info => write!(out, "{state}"),
            StatusKind::Table => write!(out, "{dev} {keys} {limit_ms}"),
            StatusKind::Ima => write!(out, "device_name={dev},keys={keys},limit={limit_ms}"),
        };
    }

    fn message(
        data: &Instance<'_>,
        _ti: &DmTarget,
        mut args: Args<'_>,
        out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        let command = parse(&mut args)?;
        if !args.is_empty() {
            return Err(EINVAL);
        }
        data.send(command, out)?;
        Ok(Reply::Text)
    }

    fn iterate_devices<'ti>(data: &Instance<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(data.dev, 0, ti.len_sectors());
    }
}
