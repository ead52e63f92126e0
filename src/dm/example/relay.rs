// SPDX-License-Identifier: GPL-2.0

//! A test of the abstractions that `linear.rs` does not use: held bios and completions, threads,
//! I/O of the target's own, and handles.
//!
//! `example_relay <device> <sector> <milliseconds>` maps like `example_linear`, but holds each
//! write and later its completion. A thread submits the writes after the given time, and finishes
//! the completions. A noflush suspend requeues held writes. The status has four numbers: submitted
//! writes, finished completions, requeued writes, and bios that are held. Messages:
//!
//! - `fail <n>`: the thread drops the next n held writes, which must fail with `EIO`.
//! - `io <block>`: the target writes a pattern durably to a 4 KiB block of the device and reads it
//!   back. It answers `ok` and the durations of both.
//! - `event`: the thread raises an event through a [`TargetHandle`].
//! - `linger <milliseconds>`: from now on `end_io` finishes completions itself and then goes on for
//!   the given time. The log shows an error if the instance is destroyed meanwhile.
//! - `keep`: the module reads a block of the device when it is unloaded. The log shows when the
//!   transfer has ended.
//!
//! Locking: `map`, `end_io` and the thread take `queues` with interrupts off, and do not hold it
//! while they dispose of a bio. `io` serialises the messages.

use core::fmt::Write;
use dm::*;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        new_spinlock_irq,
        Arc,
        Mutex,
        SpinLockIrq, //
    }, //
};

#[path = "../mod.rs"]
pub mod dm;

target_module! {
    type: RelayModule,
    name: "dm_example_relay",
    authors: ["dm-lease contributors"],
    description: "Test of the device-mapper abstractions in Rust",
    license: "GPL",
}

/// The state of the module.
#[pin_data]
struct RelayModule {
    #[pin]
    _reboot: notifier::RebootNotifier<Announce>,
    #[pin]
    _pm: notifier::PmNotifier<Announce>,
    #[pin]
    _syscore: notifier::SyscoreHook<Announce>,
    _farewell: Farewell,
}

impl TargetModule for RelayModule {
    type Target = Relay;

    fn init() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _reboot <- notifier::RebootNotifier::new(Announce, i32::MAX - 2),
            _pm <- notifier::PmNotifier::new(Announce, 0),
            _syscore <- notifier::SyscoreHook::new(Announce),
            _farewell: Farewell {
                _kept: KEPT::install(None)?,
            },
        })
    }
}

global::module_global! {
    /// The buffer and device of the message `keep`.
    struct KEPT(Option<Kept>);
}

/// The buffer and device of the transfer that begins when the module is unloaded.
struct Kept {
    buf: KBox<IoBuf<Returned>>,
    dev: Arc<BlockDevice>,
}

/// Begins the kept transfer when it is dropped.
struct Farewell {
    _kept: KEPT,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let Some(Kept { buf, dev }) = KEPT::with(Option::take).flatten() else {
            return;
        };
        let request = Request {
            dev,
            op: IoOp::Read,
            sector: 0,
            blocks: 0..1,
            nowait: false,
        };
        if let Ok(end) = Arc::new(Returned, GFP_KERNEL) {
            let _ = IoBuf::submit(buf, request, end);
        }
    }
}

/// Logs the end of the kept transfer. It is dropped in the interrupt of the completion, so it owns
/// nothing whose drop may sleep.
struct Returned;

impl Complete for Returned {
    fn complete(self: Arc<Self>, _buf: KBox<IoBuf<Self>>, status: BlkStatus) {
        pr_info!("the last transfer has come back: {}\n", status.as_raw());
    }
}

/// Logs the calls of the notifiers.
struct Announce;

impl notifier::OnReboot for Announce {
    fn reboot(&self, how: notifier::Shutdown) {
        pr_info!("going down: {}\n", how as u32);
    }
}

impl notifier::OnPm for Announce {
    fn pm(&self, event: notifier::PmEvent) -> Result {
        pr_info!("system sleep: {}\n", event as u32);
        Ok(())
    }
}

impl notifier::OnSyscore for Announce {
    fn suspend(&self) {
        pr_info!("last moment\n");
    }

    fn resume(&self) {
        pr_info!("first moment\n");
    }
}

/// The target type.
struct Relay;

/// The per-bio data of a held write.
#[derive(Clone, Copy, Default)]
struct Held {
    due_ns: u64,
}

/// One instance. The thread is the first field, so that it is stopped before the others are
/// dropped.
#[pin_data]
struct Instance<'ti> {
    thread: Thread,
    dev: DmDevice<'ti>,
    start_sector: u64,
    delay_ns: u64,
    own: Arc<BlockDevice>,
    shared: Arc<Shared>,
    /// The number of calls of `end_io` that have not returned.
    ending: Atomic<i32>,
    #[pin]
    io: Mutex<Option<KBox<IoBuf<Shared>>>>,
}

/// The data that the instance, the thread and the transfers share.
#[pin_data]
struct Shared {
    #[pin]
    queues: SpinLockIrq<Queues>,
    #[pin]
    wake: WaitQueue,
    handle: TargetHandle,
}

#[derive(Default)]
struct Queues {
    writes: BioList<HeldBio<Relay>>,
    ends: BioList<HeldEnd<Relay>>,
    returned: Option<(KBox<IoBuf<Shared>>, BlkStatus)>,
    event: bool,
    fail: u64,
    linger_ns: u64,
    relayed_writes: u64,
    relayed_ends: u64,
    requeued: u64,
}

/// The next step of the thread. It is chosen under the lock and done without the lock.
enum Step {
    Submit(HeldBio<Relay>),
    Fail(HeldBio<Relay>),
    Finish(HeldEnd<Relay>),
    Event,
    SleepUntil(Option<u64>),
}

impl Shared {
    fn next_step(&self) -> Step {
        let mut queues = self.queues.lock();
        if core::mem::take(&mut queues.event) {
            return Step::Event;
        }
        if let Some(end) = queues.ends.pop() {
            queues.relayed_ends = queues.relayed_ends.wrapping_add(1);
            return Step::Finish(end);
        }
        let Some(mut write) = queues.writes.pop() else {
            return Step::SleepUntil(None);
        };
        let due_ns = write.per_bio().due_ns;
        if clock::raw_ns() < due_ns {
            // Writes are held in the order of their times. So this one stays the first.
            let rest = queues.writes.take_all();
            queues.writes.push(write);
            queues.writes.append(rest);
            return Step::SleepUntil(Some(due_ns));
        }
        if queues.fail > 0 {
            queues.fail = queues.fail.wrapping_sub(1);
            return Step::Fail(write);
        }
        queues.relayed_writes = queues.relayed_writes.wrapping_add(1);
        Step::Submit(write)
    }

    fn relay(&self, context: &Context) {
        while !context.should_stop() {
            match self.next_step() {
                Step::Submit(write) => write.submit(),
                Step::Fail(write) => drop(write),
                Step::Finish(end) => end.finish(),
                Step::Event => {
                    self.handle.event();
                }
                Step::SleepUntil(deadline_ns) => {
                    context.wait(&self.wake, deadline_ns, || {
                        let queues = self.queues.lock();
                        queues.event
                            || !queues.ends.is_empty()
                            || (deadline_ns.is_none() && !queues.writes.is_empty())
                    });
                }
            }
        }
    }

    /// Runs one transfer and waits for its end.
    fn transfer(
        self: &Arc<Self>,
        buf: KBox<IoBuf<Self>>,
        request: Request,
    ) -> (KBox<IoBuf<Self>>, Result<BlkStatus>) {
        if let Err((buf, error)) = IoBuf::submit(buf, request, self.clone()) {
            return (buf, Err(error));
        }
        loop {
            self.wake.wait(|| self.queues.lock().returned.is_some());
            if let Some((buf, status)) = self.queues.lock().returned.take() {
                return (buf, Ok(status));
            }
        }
    }
}

impl Complete for Shared {
    fn complete(self: Arc<Self>, buf: KBox<IoBuf<Self>>, status: BlkStatus) {
        self.queues.lock().returned = Some((buf, status));
        self.wake.wake_all();
    }
}

impl<'ti> Instance<'ti> {
    /// Holds a completion for the thread, or finishes it and lingers.
    fn relay_end(&self, bio: EndBio<'ti, Relay>) -> EndOutcome<'ti> {
        let linger_ns = self.shared.queues.lock().linger_ns;
        let status = bio.status();
        if linger_ns != 0 && !status.is_requeue() {
            let (held, outcome) = bio.hold(status);
            held.finish();
            let until_ns = clock::raw_ns().saturating_add(linger_ns);
            while clock::raw_ns() < until_ns {
                core::hint::spin_loop();
            }
            return outcome;
        }
        if !status.is_ok() {
            return bio.pass_on();
        }
        let (held, outcome) = bio.hold(BlkStatus::OK);
        self.shared.queues.lock().ends.push(held);
        self.shared.wake.wake_all();
        outcome
    }

    /// Keeps the buffer and device that the module needs to read a block when it is unloaded.
    fn keep(&self) -> Result {
        let kept = Kept {
            buf: IoBuf::new(1, 0)?,
            dev: self.own.clone(),
        };
        KEPT::with(|place| *place = Some(kept)).ok_or(ENODEV)
    }

    /// Writes a pattern to a block, reads it back, and returns the durations of both.
    fn check_block(&self, block: u64) -> Result<(u64, u64)> {
        let sector = block.checked_mul(block_io::BLOCK_SECTORS).ok_or(ERANGE)?;
        let mut slot = self.io.lock();
        let mut buf = slot.take().ok_or(EBUSY)?;
        let pattern = clock::random_u64().to_ne_bytes();
        if let Some(bytes) = buf.block_mut(0) {
            bytes
                .chunks_mut(8)
                .for_each(|chunk| chunk.copy_from_slice(&pattern));
        }
        let mut request = Request {
            dev: self.own.clone(),
            op: IoOp::WriteFlushFua,
            sector,
            blocks: 0..1,
            nowait: false,
        };
        let (buf, written) = self.shared.transfer(buf, request.clone());
        let write_ns = buf.ended_ns().wrapping_sub(buf.submitted_ns());
        request.op = IoOp::Read;
        request.blocks = 1..2;
        let (buf, read) = self.shared.transfer(buf, request);
        let read_ns = buf.ended_ns().wrapping_sub(buf.submitted_ns());
        let same = buf.block(0) == buf.block(1);
        *slot = Some(buf);
        if !(written?.is_ok() && read?.is_ok() && same) {
            return Err(EIO);
        }
        Ok((write_ns, read_ns))
    }
}

#[vtable]
impl Target for Relay {
    const NAME: &'static CStr = c"example_relay";
    const VERSION: [u32; 3] = [1, 0, 0];
    type Data<'ti> = Instance<'ti>;
    type PerBio = Held;
    const TRACKED: Tracked = Tracked::AllButReads;

    fn ctr<'ti>(
        ti: &mut TargetBuilder<'ti>,
        mut args: Args<'_>,
    ) -> Result<impl PinInit<Instance<'ti>, CtrError>, CtrError> {
        let path = args.next().or_ctr(c"Missing device")?;
        let start_sector = args.next_u64().or_ctr(c"Invalid device sector")?;
        let delay_ms = args.next_u64().or_ctr(c"Invalid delay")?;
        let dev = ti.get_device(path).or_ctr(c"Device lookup failed")?;
        if dev.is_zoned() {
            return Err(CtrError::with_detail(
                EINVAL,
                c"Zoned device",
                ti,
                fmt!("{} has zones", dev.name()),
            ));
        }
        ti.set_num_discard_bios(1);
        let handle = ti.handle().or_ctr(c"No handle")?;
        let shared = Arc::pin_init(
            pin_init!(Shared {
                queues <- new_spinlock_irq!(Queues::default()),
                wake <- new_wait_queue!("relay"),
                handle,
            }),
            GFP_KERNEL,
        )
        .or_ctr(c"Cannot allocate shared state")?;
        let own = BlockDevice::open(dev.devt(), Access::ReadWrite).or_ctr(c"Cannot open")?;
        let own = Arc::new(own, GFP_KERNEL)?;
        let buf = IoBuf::new(2, 0).or_ctr(c"Cannot allocate buffer")?;
        let body = shared.clone();
        let thread = Thread::spawn(c"relay", Priority::Realtime, move |context| {
            body.relay(context)
        })
        .or_ctr(c"Cannot start thread")?;
        Ok(try_pin_init!(Instance {
            thread,
            dev,
            start_sector,
            delay_ns: delay_ms.saturating_mul(1_000_000),
            own,
            shared,
            ending: Atomic::new(0),
            io <- new_mutex!(Some(buf)),
        }? CtrError))
    }

    fn map<'ti>(data: &Instance<'ti>, mut bio: MapBio<'ti, Self>) -> MapOutcome<'ti> {
        let sector = data.start_sector.wrapping_add(bio.sector());
        if bio.is_read() {
            return bio.remap(data.dev, sector);
        }
        if bio.is_nowait() {
            return bio.would_block();
        }
        if bio.target().noflush_suspending() {
            return bio.requeue();
        }
        bio.clear_polled();
        let due_ns = clock::raw_ns().saturating_add(data.delay_ns);
        let (held, outcome) = bio.locate().aim(data.dev, sector, Held { due_ns }).hold();
        data.shared.queues.lock().writes.push(held);
        data.shared.wake.wake_all();
        outcome
    }

    fn end_io<'ti>(data: &Instance<'ti>, bio: EndBio<'ti, Self>) -> EndOutcome<'ti> {
        data.ending.fetch_add(1, Full);
        let outcome = data.relay_end(bio);
        data.ending.fetch_sub(1, Full);
        outcome
    }

    fn dtr(data: &Instance<'_>, _ti: &DmTarget) {
        if data.ending.load(Relaxed) != 0 {
            pr_err!("destroyed inside of end_io\n");
        }
    }

    fn presuspend(data: &Instance<'_>, ti: &DmTarget) {
        if !ti.noflush_suspending() {
            return;
        }
        let writes = {
            let mut queues = data.shared.queues.lock();
            queues.requeued = queues.requeued.wrapping_add(queues.writes.len() as u64);
            queues.writes.take_all()
        };
        writes.for_each(HeldBio::requeue);
    }

    fn status(data: &Instance<'_>, _ti: &DmTarget, kind: StatusKind, out: &mut TextWriter<'_>) {
        let (dev, start) = (data.dev.devt(), data.start_sector);
        let delay_ms = data.delay_ns / 1_000_000;
        let queues = data.shared.queues.lock();
        let held = queues.writes.len().wrapping_add(queues.ends.len());
        // Writing to a `TextWriter` never fails.
        let _ = match kind {
            StatusKind::Info => write!(
                out,
                "{} {} {} {}",
                queues.relayed_writes, queues.relayed_ends, queues.requeued, held
            ),
            StatusKind::Table => write!(out, "{dev} {start} {delay_ms}"),
            StatusKind::Ima => write!(out, "device_name={dev},start={start},delay={delay_ms}"),
        };
    }

    fn message(
        data: &Instance<'_>,
        _ti: &DmTarget,
        mut args: Args<'_>,
        out: &mut TextWriter<'_>,
    ) -> Result<Reply> {
        match args.next().map(CStr::to_bytes) {
            Some(b"fail") => {
                data.shared.queues.lock().fail = args.next_u64().ok_or(EINVAL)?;
            }
            Some(b"linger") => {
                let linger_ms = args.next_u64().ok_or(EINVAL)?;
                data.shared.queues.lock().linger_ns = linger_ms.saturating_mul(1_000_000);
            }
            Some(b"keep") => data.keep()?,
            Some(b"io") => {
                let (write_ns, read_ns) = data.check_block(args.next_u64().ok_or(EINVAL)?)?;
                let _ = write!(out, "ok {write_ns} {read_ns}");
                return Ok(Reply::Text);
            }
            Some(b"event") => {
                data.shared.queues.lock().event = true;
                data.shared.wake.wake_all();
            }
            _ => return Err(EINVAL),
        }
        Ok(Reply::Done)
    }

    fn iterate_devices<'ti>(data: &Instance<'ti>, ti: &DmTarget, visitor: &mut Visitor<'ti>) {
        visitor.visit(data.dev, data.start_sector, ti.len_sectors());
    }

    fn io_hints(_data: &Instance<'_>, _ti: &DmTarget, limits: &mut QueueLimits<'_>) {
        limits.clear_poll();
    }
}
