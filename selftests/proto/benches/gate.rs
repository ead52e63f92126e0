// SPDX-License-Identifier: GPL-2.0
//! The cost of the gate when every processor sends operations at once: the shipped code on the
//! processors of this machine, compared with two other designs.
//!
//! One operation is what `map` and `end_io` do for it: take a permit, read the lease and the clock,
//! read the lease again, give the permit back. Each thread represents a processor. The result is
//! the time of an operation with several threads divided by that with one thread. A cache line that
//! all processors write makes it grow with every processor, and a lock even more. `lease alone`
//! counts nothing and shows what two threads cost on this machine by themselves.
//!
//! | design | counts | shared lines written |
//! |---|---|---|
//! | `lease alone` | nothing | none |
//! | `no limit` | [`LaneLayout::PerCpu`]: a lane for each processor | none |
//! | `streams` | [`LaneLayout::Rows`], limit 2: lane by hash of row, 64 writes a row | none |
//! | `random` | the same with another row for each operation | one of 128 each time |
//! | `ops` | [`LaneLayout::Single`]: one lane, limit 16 | the lane |
//! | `per-cpu` | as `percpu_ref`: plain counters, and no limit is possible | none |
//! | `list` | as krbd: each operation in a list of its device, under a spin lock | lock and list |
//!
//! The clock is one word for all threads, which no thread writes. The words are those of
//! `src/dm/word.rs`: plain loads, locked instructions.
//!
//! The table at the end includes only slices of time in which all threads ran together and without
//! waiting for a processor, because two threads that take turns on one processor do not compete.

use criterion::{BenchmarkId, Criterion};
use dm_lease_proto::proto::gate::lanes::{Fields, LaneLayout, Place, PER_CPU_STRIDE, UNLIMITED};
use dm_lease_proto::proto::gate::permits::{Admission, Gate};
use dm_lease_proto::proto::gate::word::AtomicWord;
use std::collections::BTreeMap;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LENGTH_NS: u64 = 1_000;
const EXPIRY_NS: u64 = 2_000;
const NOW_NS: u64 = 1_500;
const EPOCH: u64 = 7;
const CPUS: usize = 8;
const MEMBERS: u8 = 4;
/// Operations of 4 KiB in a row of four members with chunks of 64 KiB.
const ROW_OPERATIONS: u64 = 64;
const THREADS: [usize; 2] = [1, 2];
/// Operations in a slice. A slice is so short that sometimes all processors are free for all of it.
const SLICE: usize = 200_000;
/// The lowest number of operations that can be timed. On a busy machine there may be no more.
const SHORTEST: u64 = 40_000;
/// A slice is disturbed if a thread waited, or ran alone, for more than one part in this many of
/// it.
const DISTURBED: u32 = 10;
/// The lowest number of undisturbed slices for a result.
const ENOUGH: usize = 5;

/// The kernel's atomic word.
struct Kernel(AtomicU64);

impl AtomicWord for Kernel {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.0.swap(value, Ordering::SeqCst);
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.0
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed)
    }

    fn fetch_add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, Ordering::SeqCst)
    }
}

/// One way to admit an operation and to complete it.
trait Design: Sync {
    /// The operation `number` of the processor `cpu`, from its beginning to its end.
    fn operate(&self, cpu: usize, number: u64);
}

/// The end of the lease and the clock. All threads read them, and none writes them.
struct Lease {
    clock: AtomicU64,
    expiry: AtomicU64,
}

impl Lease {
    fn new() -> Self {
        Self {
            clock: AtomicU64::new(NOW_NS),
            expiry: AtomicU64::new(EXPIRY_NS),
        }
    }

    fn check(&self) {
        let expiry_ns = self.expiry.load(Ordering::Acquire);
        let now_ns = self.clock.load(Ordering::Acquire);
        let base_ns = expiry_ns.wrapping_sub(LENGTH_NS);
        assert!(black_box(now_ns).wrapping_sub(base_ns) < LENGTH_NS);
    }
}

struct LeaseAlone(Lease);

impl Design for LeaseAlone {
    fn operate(&self, _cpu: usize, _number: u64) {
        self.0.check();
        self.0.check();
    }
}

/// The shipped gate, and a function that chooses the place of an operation.
struct Shipped<C> {
    gate: Gate<Kernel, Vec<Kernel>>,
    clock: AtomicU64,
    charge: C,
}

impl<C: Fn(usize, u64) -> Place + Sync> Shipped<C> {
    fn new(counting: LaneLayout, limit: u32, charge: C) -> Self {
        let words = counting.words(CPUS);
        let lanes = (0..words).map(|_| Kernel::new(0)).collect();
        let gate = Gate::new(LENGTH_NS, limit, counting, lanes);
        assert!(gate.open_epoch(EPOCH, EPOCH, EXPIRY_NS));
        let clock = AtomicU64::new(NOW_NS);
        Self {
            gate,
            clock,
            charge,
        }
    }
}

impl<C: Fn(usize, u64) -> Place + Sync> Design for Shipped<C> {
    fn operate(&self, cpu: usize, number: u64) {
        let now = || black_box(self.clock.load(Ordering::Acquire));
        let charge = (self.charge)(cpu, number);
        let admission = self.gate.enter(charge, now);
        assert!(matches!(admission, Admission::Granted(_)), "{admission:?}");
        assert!(self.gate.acknowledge(EPOCH, now).is_ok());
        black_box(self.gate.leave(charge));
    }
}

/// A counter for each processor, which only that one changes: no locked instruction.
struct PerCpu {
    lease: Lease,
    closed: AtomicU64,
    counters: Vec<AtomicU64>,
}

impl PerCpu {
    fn add(&self, cpu: usize, value: u64) {
        let counter = &self.counters[cpu * PER_CPU_STRIDE];
        let next = counter.load(Ordering::Relaxed).wrapping_add(value);
        counter.store(next, Ordering::Relaxed);
    }
}

impl Design for PerCpu {
    fn operate(&self, cpu: usize, _number: u64) {
        assert!(self.closed.load(Ordering::Acquire) == 0);
        self.add(cpu, 1);
        self.lease.check();
        self.lease.check();
        self.add(cpu, 1_u64.wrapping_neg());
    }
}

/// A list as in the kernel: each entry has both its neighbours. Entry 0 is the head.
struct Links(Vec<(usize, usize)>);

impl Links {
    fn append(&mut self, entry: usize) {
        let last = self.0[0].0;
        self.0[entry] = (last, 0);
        self.0[last].1 = entry;
        self.0[0].0 = entry;
    }

    fn remove(&mut self, entry: usize) {
        let (before, after) = self.0[entry];
        self.0[before].1 = after;
        self.0[after].0 = before;
    }
}

struct List {
    lease: Lease,
    open: spin::Mutex<Links>,
}

impl Design for List {
    fn operate(&self, cpu: usize, _number: u64) {
        let entry = cpu + 1;
        {
            let mut open = self.open.lock();
            self.lease.check();
            open.append(entry);
        }
        let mut open = self.open.lock();
        self.lease.check();
        open.remove(entry);
    }
}

/// How long the calling thread has waited for a processor so far; 0 if the system does not count
/// it.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited_ns = text
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(waited_ns.unwrap_or_default())
}

/// One slice: how many operations each thread performed, when, and how long a thread of it waited
/// for a processor at most.
#[derive(Clone, Copy)]
struct Slice {
    count: u64,
    /// The beginnings of the first and the last thread, and their ends.
    begun: [Instant; 2],
    ended: [Instant; 2],
    waited: Duration,
}

impl Slice {
    /// The results of both, which ran at the same time.
    fn joined(&self, other: &Self) -> Self {
        let [first, last] = [0, 1];
        Self {
            count: self.count,
            begun: [
                self.begun[first].min(other.begun[first]),
                self.begun[last].max(other.begun[last]),
            ],
            ended: [
                self.ended[first].min(other.ended[first]),
                self.ended[last].max(other.ended[last]),
            ],
            waited: self.waited.max(other.waited),
        }
    }

    /// From the first beginning to the last end.
    fn took(&self) -> Duration {
        self.ended[1] - self.begun[0]
    }

    /// Whether all threads ran all the time, together.
    fn is_undisturbed(&self) -> bool {
        let together = self.ended[0].saturating_duration_since(self.begun[1]);
        let apart = self.took() - together;
        self.count >= SHORTEST && self.waited.max(apart) * DISTURBED < self.took()
    }
}

/// Runs `operations` in each of `threads`, slice by slice, all at the same time.
fn time(design: &dyn Design, threads: usize, operations: u64) -> Vec<Slice> {
    let met = AtomicUsize::new(0);
    let one = |cpu| {
        let mut meetings = 0;
        // No thread sleeps here, so all continue at once.
        let mut meet = || {
            meetings += threads;
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < meetings {
                spin_loop();
            }
        };
        let slice = |first: u64| {
            // Every thread has a processor before any of them reads how long it has waited for one.
            meet();
            let before = waited();
            let count = (operations - first).min(SLICE as u64);
            let begun = Instant::now();
            for number in first..first + count {
                design.operate(cpu, number);
            }
            let ended = Instant::now();
            Slice {
                count,
                begun: [begun; 2],
                ended: [ended; 2],
                waited: waited().saturating_sub(before),
            }
        };
        (0..operations).step_by(SLICE).map(slice).collect()
    };
    let one = &one;
    let all: Vec<Vec<Slice>> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|cpu| scope.spawn(move || one(cpu)))
            .collect();
        let ends = all.into_iter().map(|it| it.join());
        ends.map(|end| end.expect("a design refused an operation"))
            .collect()
    });
    let both = |a: Vec<Slice>, b: Vec<Slice>| a.iter().zip(&b).map(|(a, b)| a.joined(b)).collect();
    all.into_iter().reduce(both).unwrap_or_default()
}

/// Nanoseconds for one operation, of each undisturbed slice, by design and number of threads.
type Samples = BTreeMap<(usize, usize), Vec<f64>>;

fn measure(criterion: &mut Criterion, designs: &[(&str, Box<dyn Design>)]) -> Samples {
    let mut samples = Samples::new();
    let mut group = criterion.benchmark_group("gate");
    for threads in THREADS {
        for (place, (name, design)) in designs.iter().enumerate() {
            let kept = samples.entry((place, threads)).or_default();
            group.bench_function(BenchmarkId::new(*name, threads), |bencher| {
                bencher.iter_custom(|operations| {
                    let slices = time(design.as_ref(), threads, operations);
                    let good = slices.iter().filter(|it| it.is_undisturbed());
                    kept.extend(good.map(|it| it.took().as_nanos() as f64 / it.count as f64));
                    slices.iter().map(Slice::took).sum()
                });
            });
        }
    }
    group.finish();
    samples
}

/// The median of the undisturbed slices, if there are enough of them.
fn median(samples: &Samples, place: usize, threads: usize) -> Option<f64> {
    let mut sorted = samples.get(&(place, threads))?.clone();
    sorted.sort_by(f64::total_cmp);
    let enough = sorted.len() >= ENOUGH;
    enough.then(|| sorted[sorted.len() / 2])
}

fn print(designs: &[(&str, Box<dyn Design>)], samples: &Samples) {
    let text = |value: Option<f64>| value.map_or("-".into(), |it| format!("{it:.1}"));
    println!("\nns for one operation of each thread; - on a machine that was too busy");
    println!("design        1 thread 2 threads   ratio");
    for (place, (name, _)) in designs.iter().enumerate() {
        let [one, two] = THREADS.map(|threads| median(samples, place, threads));
        let ratio = one.zip(two).map(|(one, two)| two / one);
        println!(
            "{name:<12} {:>9} {:>9} {:>7}",
            text(one),
            text(two),
            text(ratio)
        );
    }
}

fn main() {
    let fields = Fields::new(MEMBERS);
    let cpu = |cpu: usize, _| Place::cpu(cpu as u32);
    let one = |_, _| Place::ONE;
    // Each processor in a region of its own, as streams or as on a device that is large enough.
    let at = move |cpu: usize, row: u64, number: u64| {
        Place::row(
            fields.unit(number as u8 % MEMBERS),
            ((cpu as u64) << 40) | row,
        )
    };
    let stream = move |cpu, number| at(cpu, number / ROW_OPERATIONS, number);
    let random = move |cpu, number| at(cpu, number, number);
    let counters = (0..CPUS * PER_CPU_STRIDE).map(|_| AtomicU64::new(0));
    let per_cpu = PerCpu {
        lease: Lease::new(),
        closed: AtomicU64::new(0),
        counters: counters.collect(),
    };
    let list = List {
        lease: Lease::new(),
        open: spin::Mutex::new(Links(vec![(0, 0); CPUS + 1])),
    };
    let rows = LaneLayout::Rows(fields);
    let designs: Vec<(&str, Box<dyn Design>)> = vec![
        ("lease alone", Box::new(LeaseAlone(Lease::new()))),
        (
            "no limit",
            Box::new(Shipped::new(LaneLayout::PerCpu, UNLIMITED, cpu)),
        ),
        ("streams", Box::new(Shipped::new(rows, 2, stream))),
        ("random", Box::new(Shipped::new(rows, 2, random))),
        ("ops", Box::new(Shipped::new(LaneLayout::Single, 16, one))),
        ("per-cpu", Box::new(per_cpu)),
        ("list", Box::new(list)),
    ];
    let mut criterion = Criterion::default()
        .sample_size(30)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .without_plots()
        .configure_from_args();
    let samples = measure(&mut criterion, &designs);
    criterion.final_summary();
    print(&designs, &samples);
}
