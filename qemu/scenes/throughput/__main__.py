# SPDX-License-Identifier: GPL-2.0
"""What the batch limit costs in throughput, by limit, mode and queue depth.

One guest, and random writes of 4 KiB. The same disks carry, in turn, linear devices, leases without
a limit, and leases with each limit and mode; fio writes to one of them directly, and to md RAID-6
over eight. Only ratios to the same stack without a limit are reported; that stack is measured
before and after the others, because an emulated machine is neither quick nor steady.

What makes a limit matter is how long a write takes and how many a disk works on at once, so the
disks have a model (null_blk with a timer):

    serial   one operation at a time, as a disk with a head: under load it is busy
    wide     64 at a time, as remote storage: it is never busy, only late

They are slow, so that the emulated processor is not what limits.

A row of RAID-6 needs three members for a small write. With a limit of 1 they are written one after
the other, so one write takes longer; with enough of them under way a serial disk is as busy as
without a limit. A wide one never is, and there every write shows its latency.

Leaves a Markdown table in .build/run/throughput/table.md; exits with 0 when the bar holds.

With --peak nothing is measured: writes, large and small, and discards hammer three quick disks at
random, a million in all, and the most that were ever open at once must be the limit [R16].
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from dataclasses import dataclass

from rig import RigError, Status, Vm, until
from rig.host import BUILD, arguments_of, build
from rig.lease import MODULE
from rig.mailbox import DATA

MIB = 1 << 20
DISKS = 8
DISK_MIB = 256
DATA_SECTORS = DATA // 512
# What is left between the reserves, in whole chunks.
LENGTH_SECTORS = (DISK_MIB - 24) * MIB // 512
CHUNK_KIB = 64
NULLB = "/sys/kernel/config/nullb"
MODELS = {"serial": (1, 30), "wide": (64, 100), "quick": (64, 0)}
# The tables: disks of which model, and how many; more than one carry md RAID-6.
PLAN = {
    "raid6": ("serial", DISKS),
    "one": ("serial", 1),
    "one-wide": ("wide", 1),
    "wide": ("wide", DISKS),
}
DEPTHS = [1, 8, 32, 64]
LIMITS = [1, 2, 4, 8]
FORMAT = (
    "--force=member,signature,redundancy --name p --controllers 1 --device-delay-ms 200 "
    "--heartbeat-ms 2000 --write-ms 2000 --read-ms 2000"
)
BAR = 0.90
BAR_DEPTH = 32


@dataclass(frozen=True)
class Stack:
    """What lies on the disks."""

    name: str
    format: str | None = None
    """Of the leases; without it the devices are linear."""


NO_LIMIT = Stack("no limit", "--redundancy external")
LINEAR = Stack("linear")


def limited(mode: str, limit: int) -> Stack:
    """Leases with a limit. What repairs so many strays is of no interest here."""
    count = "ops" if mode == "ops" else f"stripe:{CHUNK_KIB}"
    redundancy = f"--redundancy parity:8 --detect yes --batch {limit} --count {count}"
    return Stack(f"{mode} {limit}", redundancy)


class Guest:
    """The guest with the disks."""

    def __init__(self, vm: Vm, model: str, seconds: int) -> None:
        self.vm = vm
        self.seconds = seconds
        depth, self.ms = MODELS[model]
        self.settings = {
            "size": DISK_MIB,
            "memory_backed": 1,
            "irqmode": 2,
            "discard": 1,
            "hw_queue_depth": depth,
        }
        vm.sh(
            "set -e; modprobe configfs; grep -q ' /sys/kernel/config ' /proc/mounts || "
            "mount -t configfs config /sys/kernel/config; modprobe null_blk nr_devices=0\n"
            f"[ -d /sys/module/dm_lease ] || insmod {MODULE}"
        )

    def make_disks(self, stack: Stack, names: list[str]) -> None:
        """Disks of the model, with what a stack needs on them, which is written before they become
        slow: their content survives that they are switched off."""
        for name in names:
            words = [f"mkdir {NULLB}/{name}", f"echo 0 >{NULLB}/{name}/completion_nsec"]
            self.vm.sh("\n".join(["set -e", *words, *self.power(name, 1)]))
        if stack.format is not None:
            devices = " ".join(f"/dev/{name}" for name in names)
            self.vm.sh(f"leasectl format {FORMAT} {stack.format} {devices}", timeout=120)
        for name in names:
            slow = f"echo {self.ms * 1_000_000} >{NULLB}/{name}/completion_nsec"
            # Whoever submits to a busy disk must not wait for it: md has one thread for all.
            queue = f"/sys/block/{name}/queue"
            room = [f"echo mq-deadline >{queue}/scheduler", f"echo 256 >{queue}/nr_requests"]
            commands = ["set -e", *self.power(name, 0), slow, *self.power(name, 1), *room]
            self.vm.sh("\n".join(commands))

    def power(self, name: str, on: int) -> list[str]:
        """Commands that switch a disk on or off; settings are possible while it is off."""
        words = [f"echo {value} >{NULLB}/{name}/{what}" for what, value in self.settings.items()]
        return [*(words if on else []), f"echo {on} >{NULLB}/{name}/power"]

    def measure(self, stack: Stack, disks: int) -> dict[int, float]:
        """Writes per second by queue depth."""
        names = [f"n{disk}" for disk in range(disks)]
        self.make_disks(stack, names)
        self.map(stack, names)
        mapped = " ".join(f"/dev/mapper/{name}" for name in names)
        device = "/dev/mapper/n0"
        if disks > 1:
            device = "/dev/md0"
            self.vm.sh(
                f"mdadm --create {device} --run --assume-clean --metadata=1.2 --level=6 "
                f"--raid-devices={disks} --chunk={CHUNK_KIB} --bitmap=internal "
                f"--data-offset=1M {mapped}",
                timeout=120,
            )
        rates = self.fio(device)
        if disks > 1:
            self.vm.sh(f"mdadm --stop {device}", timeout=120)
        self.remove(names)
        return rates

    def remove(self, names: list[str]) -> None:
        """Nothing is left of the disks."""
        self.vm.sh("dmsetup remove " + " ".join(names), timeout=120)
        self.vm.sh("rmdir " + " ".join(f"{NULLB}/{name}" for name in names))

    def map(self, stack: Stack, names: list[str]) -> None:
        """The mapped devices, which may be written when this returns."""
        if stack.format is None:
            for name in names:
                table = f"0 {LENGTH_SECTORS} linear /dev/{name} {DATA_SECTORS}"
                self.vm.sh(f"dmsetup create {name} --table '{table}'")
            return
        for name in names:
            self.vm.sh(f"leasectl table --controller 1 /dev/{name} | dmsetup create {name}")
        until(
            lambda: self.status(names[0]).role == "owner",
            lambda: f"somebody owns: {self.status(names[0])}",
        )

    def status(self, name: str) -> Status:
        """The status of a lease."""
        return Status.parse(self.vm.sh(f"dmsetup status --noflush {name}"))

    def fio(self, device: str) -> dict[int, float]:
        """One job for each depth, one after the other."""
        lines = [
            "[global]", f"filename={device}", "rw=randwrite", "bs=4k", "direct=1", "norandommap=1",
            "ioengine=libaio", "time_based=1", f"runtime={self.seconds}", "randseed=1",
        ]  # fmt: skip
        for depth in DEPTHS:
            lines += [f"[qd{depth}]", "stonewall", f"iodepth={depth}"]
        self.vm.push("/run/job", ("\n".join(lines) + "\n").encode())
        limit = 60 + 5 * self.seconds * len(DEPTHS)
        out = self.vm.sh("fio --output-format=json /run/job", timeout=limit)
        jobs = json.loads(out[out.index("{") :])["jobs"]
        errors = [job["error"] for job in jobs if job["error"]]
        if errors or len(jobs) != len(DEPTHS):
            raise RigError(f"fio: {errors}, {len(jobs)} jobs")
        return {depth: job["write"]["iops"] for depth, job in zip(DEPTHS, jobs, strict=True)}


@dataclass
class Table:
    """The results of one model of disk on one set of disks."""

    model: str
    disks: int
    rates: dict[str, list[dict[int, float]]]

    def base(self, depth: int) -> float:
        """What the stack without a limit does, on average of all its turns."""
        return statistics.mean(rates[depth] for rates in self.rates[NO_LIMIT.name])

    def ratio(self, name: str, depth: int) -> float:
        """What a stack does, compared to that without a limit."""
        return statistics.mean(rates[depth] for rates in self.rates[name]) / self.base(depth)

    def markdown(self) -> str:
        """As a table."""
        on = "md RAID-6 over 8" if self.disks > 1 else "one device"
        depth, ms = MODELS[self.model]
        turns = self.rates[NO_LIMIT.name]
        spread = max(max(r[d] for r in turns) / min(r[d] for r in turns) for d in DEPTHS)
        heads = " | ".join(f"QD {d}" for d in DEPTHS)
        lines = [
            f"{on}, disks of the model *{self.model}* ({depth} at a time, {ms} ms); turns of the "
            f"stack without a limit differ by {(spread - 1) * 100:.0f} %",
            "",
            f"| | {heads} |",
            "|---|" + "---|" * len(DEPTHS),
        ]
        bases = " | ".join(f"{self.base(d):.0f}/s" for d in DEPTHS)
        lines.append(f"| no limit | {bases} |")
        for name in self.rates:
            if name != NO_LIMIT.name:
                cells = " | ".join(f"{self.ratio(name, d) * 100:.0f} %" for d in DEPTHS)
                lines.append(f"| {name} | {cells} |")
        return "\n".join(lines) + "\n"


def stacks(quick: bool) -> list[Stack]:
    """In which order they are measured; the one without a limit between the others."""
    if quick:
        return [NO_LIMIT, limited("stripe", 1), NO_LIMIT]
    return [
        NO_LIMIT, LINEAR, *(limited("stripe", n) for n in LIMITS),
        NO_LIMIT, *(limited("ops", n) for n in LIMITS), NO_LIMIT,
    ]  # fmt: skip


def run(vm: Vm, model: str, disks: int, quick: bool, seconds: int) -> Table:
    """Measures every stack."""
    guest = Guest(vm, model, seconds)
    table = Table(model, disks, {})
    for stack in stacks(quick):
        rates = guest.measure(stack, disks)
        table.rates.setdefault(stack.name, []).append(rates)
        shown = ", ".join(f"{depth}: {rate:.0f}/s" for depth, rate in rates.items())
        print(f"# {model}, {disks} disks, {stack.name}: {shown}", flush=True)
    return table


PEAK_STACKS = [limited("ops", 3), limited("stripe", 2)]


def peak(vm: Vm, stack: Stack, operations: int) -> list[str]:
    """Random operations on three disks; what was wrong with them."""
    guest = Guest(vm, "quick", 0)
    names = ["n0", "n1", "n2"]
    guest.make_disks(stack, names)
    guest.map(stack, names)
    job = [
        "[global]", "bs=4k", "bssplit=4k/70:16k/20:256k/10", "direct=1", "norandommap=1",
        "ioengine=libaio", "iodepth=16", f"number_ios={operations // 6}", "randrepeat=0",
        "group_reporting=1", "size=32m", "io_size=1t",
    ]  # fmt: skip
    for name in names:
        job += [f"[write-{name}]", f"filename=/dev/mapper/{name}", "rw=randwrite"]
        job += [f"[trim-{name}]", f"filename=/dev/mapper/{name}", "rw=randtrimwrite"]
    vm.push("/run/job", ("\n".join(job) + "\n").encode())
    out = vm.sh("fio --output-format=json /run/job", timeout=900)
    jobs = json.loads(out[out.index("{") :])["jobs"]
    done = sum(job[kind]["total_ios"] for job in jobs for kind in ("write", "trim"))
    status = guest.status(names[0])
    limit = int(stack.name.split()[1])
    print(f"# {stack.name}: {done} operations, peak {status.peak}, limit {limit}", flush=True)
    wrong = [f"{stack.name}: fio: {job['error']}" for job in jobs if job["error"]]
    if status.peak != limit or status.permits != f"0/{limit}" or status.pending != 0:
        wrong.append(f"{stack.name}: {status}")
    if done < operations or status.refused != 0:
        wrong.append(f"{stack.name}: {done} operations, {status.refused} refused")
    guest.remove(names)
    return wrong


def judge(table: Table) -> list[str]:
    """What does not hold: rows of RAID-6 over busy disks, many writes under way."""
    if table.disks == 1 or table.model != "serial":
        return []
    return [
        f"{name} at depth {depth}: {table.ratio(name, depth) * 100:.1f} %"
        for name in table.rates
        if name.startswith("stripe")
        for depth in DEPTHS
        if depth >= BAR_DEPTH and table.ratio(name, depth) < BAR
    ]


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="only the stacks that the bar is for")
    parser.add_argument("--only", choices=PLAN, help="one of the tables")
    parser.add_argument("--peak", action="store_true", help="only the most that are open at once")
    parser.add_argument("--operations", type=int, default=1_000_000, help="of --peak")
    parser.add_argument("--seconds", type=int, default=12, help="for each depth")
    arguments = parser.parse_args()
    directory = BUILD / "run/throughput"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    missed = []
    text = ""
    vm = Vm("throughput", directory, build("load"), [], memory=768)
    try:
        vm.start().wait_up()
        for stack in PEAK_STACKS if arguments.peak else []:
            missed += peak(vm, stack, arguments.operations // len(PEAK_STACKS))
        names = [arguments.only] if arguments.only else list(PLAN)[: 1 if arguments.quick else None]
        for model, disks in [PLAN[name] for name in names if not arguments.peak]:
            table = run(vm, model, disks, arguments.quick, arguments.seconds)
            text += table.markdown() + "\n"
            missed += judge(table)
        complaints = vm.console.complaints()
    except RigError as error:
        sys.exit(f"throughput: FAIL: {error}")
    finally:
        vm.power_cut()
    if complaints:
        missed.append(f"the kernel complained: {complaints}")
    (directory / "table.md").write_text(text)
    print(text, end="")
    for line in missed:
        print(f"not ok: {line}")
    bar = f"stripe on RAID-6 at depth {BAR_DEPTH} and more: at least {BAR * 100:.0f} % of no limit"
    bar = "never more open than the limit" if arguments.peak else bar
    print(f"bar: {bar}: {'missed' if missed else 'holds'}")
    sys.exit(1 if missed else 0)
