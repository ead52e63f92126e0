# SPDX-License-Identifier: GPL-2.0
"""What many portions and many controllers cost, and how late a heartbeat can be.

One guest under the counting plugin of `rig/count` has one controller with 1, 16 and 256 portions,
and then portions that are shared by 2, 8 and 64 controllers of its own, and one that is formatted
for 64 and has two. In windows without any bio of a user it counts instructions and mailbox commands
of the heartbeats, and what the memory says.

A second guest measures the delay between the heartbeat timer and the mailbox write that it starts,
idle, with every place in the queue of the member taken by data, and with processor hogs as well. A
guest that waits for a processor of a busy machine says nothing of that: it is tried again, and then
told as not measured.

The report and scale.json are left in .build/run/scale. Exits with 0 when every bar holds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rig import Disk, RigError, Vm, until
from rig.count.machine import CountingVm
from rig.count.symbols import LEASE_MODULE, Symbol, Symbols, readable
from rig.count.windows import read_windows
from rig.host import BUILD, arguments_of, build, environment, leasectl
from rig.lease import MODULE
from rig.mailbox import DATA

MIB = 1 << 20
PORTIONS = (1, 16, 256)
# Controllers that share a portion: for how many it is formatted, and how many there are.
SHARED = ((2, 2), (8, 8), (64, 64), (64, 2))
ALONE = 2
"""Slots of the portions that are not shared."""
SLICE = 20 * MIB
# Seldom: all portions beat at once, and an emulated processor needs its time for 256 of them.
PERIOD_MS = 2000
SLOW = f"--heartbeat-ms {PERIOD_MS} --device-delay-ms 100 --write-ms 600 --read-ms 600"
WINDOW_S = 4 * PERIOD_MS // 1000
IDLE_WINDOWS = 3
# What all of the kernel does and the memory of fewer sessions drown in what else happens.
MANY = 7
PROFILE = 8
FLAT = 1.25
"""How much more a heartbeat may cost with 256 portions than with one."""

QUICK = "--heartbeat-ms 100 --device-delay-ms 100 --write-ms 60 --read-ms 60"
QUICK_PERIOD_NS = 100_000_000
QUEUE = {"queue_mode": 2, "irqmode": 2, "completion_nsec": 2_000_000, "hw_queue_depth": 32}
MAILBOX_SECTORS = DATA // 512
LOADS = {
    "idle": "",
    "saturated": "fio --name=data --filename=/dev/mapper/lease --rw=randwrite --bs=4k --direct=1 "
    "--ioengine=libaio --iodepth=128 --numjobs=2 --time_based --runtime=600",
    "and hogs": "stress-ng --cpu 8 --timeout 600",
}
DELAY_SECONDS = 15
# A guest whose processor waits for a longer part of the time than this measures the machine.
STARVED = 0.05
ATTEMPTS = 3


@dataclass
class Sample:
    """What a number of sessions cost."""

    portions: int
    slots: int
    controllers: int
    own: float
    """Instructions in the module's text, for one heartbeat of one session."""
    all: float
    """Everything that the kernel executes more than without them, for the same."""
    commands: float
    """Mailbox commands of all sessions, per second."""
    kib: float
    """Memory for one session, its mapped device included."""
    stacks: float
    """Of that the stacks of its threads."""


# The array: formatted here, because a guest would take minutes to wipe what is blank anyway.


def format_slice(image: Path, scratch: Path, number: int, slots: int) -> None:
    """Makes a slice of the array the only member of a portion."""
    with scratch.open("wb") as blank:
        blank.truncate(SLICE)
    command = f"format --name p{number} --controllers 1-{slots} --redundancy external {SLOW}"
    made = subprocess.run(
        [leasectl(), *command.split(), scratch], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise RigError(f"slice {number}: {made.stderr}")
    data = scratch.read_bytes()
    with image.open("r+b") as array:
        for at in range(0, SLICE, 4096):
            block = data[at : at + 4096]
            if any(block):
                array.seek(number * SLICE + at)
                array.write(block)


def make_array(directory: Path) -> Path:
    """A sparse image with all slices: portions of two controllers, then those of many."""
    image = directory / "array.raw"
    count = PORTIONS[-1] + len(SHARED)
    with image.open("wb") as array:
        array.truncate(count * SLICE)
    # Formatting writes and flushes 16 MiB of zeros each time: in memory that costs nothing.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        for number in range(count):
            shared = number - PORTIONS[-1]
            slots = SHARED[shared][0] if shared >= 0 else ALONE
            format_slice(image, Path(memory) / "slice", number, slots)
    return image


class Scale:
    """The counting guest."""

    def __init__(self, directory: Path) -> None:
        self.vm = CountingVm("scale", directory, build("bench"))
        self.vm.disks = [Disk("array", make_array(directory))]
        self.windows = 0
        self.samples: list[Sample] = []
        self.linear_kib = 0.0
        self.functions = Counter[Symbol]()
        """What the last window executed."""
        self.profile: list[tuple[str, float]] = []

    def run(self) -> None:
        """Measures everything."""
        vm = self.vm
        vm.start().wait_up()
        vm.sh(f"insmod {MODULE}")
        self.slices()
        self.symbols = Symbols(vm.pull("/proc/kallsyms").decode())
        # The first ones still have some of the boot in them.
        self.idle = min(self.window()[0][1] for _ in range(IDLE_WINDOWS))
        names: list[str] = []
        for count in PORTIONS:
            new = [f"l{n}" for n in range(len(names), count)]
            self.grow(names, new, [(n, 1) for n in range(len(names), count)], (count, ALONE, 1))
        vm.sh("dmsetup remove " + " ".join(names), timeout=120)
        for number, (slots, count) in enumerate(SHARED, PORTIONS[-1]):
            new = [f"c{n + 1}" for n in range(count)]
            self.grow([], new, [(number, n + 1) for n in range(count)], (1, slots, count))
            vm.sh("dmsetup remove " + " ".join(new), timeout=120)
        vm.power_cut()

    def slices(self) -> None:
        """A linear device for each portion; what dm itself takes for one."""
        count = PORTIONS[-1] + len(SHARED)
        before = self.memory()
        table = ";".join(
            f"s{n},,,rw,0 {SLICE // 512} linear /dev/lease/array {n * SLICE // 512}"
            for n in range(count)
        )
        self.create(table)
        self.linear_kib = self.used(before)[0] / count

    def create(self, concise: str) -> None:
        """Maps devices, by one command for all of them."""
        self.vm.push("/run/concise", concise.encode())
        self.vm.sh('dmsetup create --concise "$(cat /run/concise)"', timeout=120)

    def memory(self) -> tuple[int, int]:
        """Free memory without what could be freed, and kernel stacks, in KiB."""
        self.vm.sh("sync; echo 3 >/proc/sys/vm/drop_caches")
        text = self.vm.sh("cat /proc/meminfo")
        fields = {name: int(value) for name, value in re.findall(r"(\w+): +(\d+)", text)}
        return fields["MemFree"], fields["KernelStack"]

    def used(self, before: tuple[int, int]) -> tuple[int, int]:
        """Memory and stacks taken since."""
        after = self.memory()
        return before[0] - after[0], after[1] - before[1]

    def grow(
        self,
        names: list[str],
        new: list[str],
        which: list[tuple[int, int]],
        shape: tuple[int, int, int],
    ) -> None:
        """Adds lease devices, waits until each has its role, and measures all there are. The shape
        is how many portions, slots and controllers of each there are then."""
        portions = shape[0]
        table = self.vm.sh(f"leasectl table --controller 1 /dev/mapper/s{which[0][0]}").split()
        before = self.memory()
        self.create(";".join(
            f"{name},,,rw,{table[0]} {table[1]} lease /dev/mapper/s{number} {controller}"
            for name, (number, controller) in zip(new, which, strict=True)
        ))  # fmt: skip
        names += new
        self.wait_roles(len(names), portions)
        kib, stacks = self.used(before)
        sessions = len(names)
        window, commands = self.window()
        beats = sessions * WINDOW_S * 1000 / PERIOD_MS
        sample = Sample(
            *shape, window[0] / beats, (window[1] - self.idle) / beats,
            commands / WINDOW_S, kib / len(new), stacks / len(new),
        )  # fmt: skip
        self.samples.append(sample)
        if portions == PORTIONS[-1]:
            own = {s: n for s, n in self.functions.most_common() if s.module == LEASE_MODULE}
            names_of = readable(list(own))
            self.profile = [(names_of[s], n / beats) for s, n in own.items()][:PROFILE]
        print(f"# {sample}", flush=True)

    def wait_roles(self, sessions: int, owners: int) -> None:
        """Waits until every portion has an owner, and everybody else has joined."""
        text = ""

        def joined() -> bool:
            nonlocal text
            text = self.vm.sh("dmsetup status --target lease --noflush", timeout=120)
            roles = [line.split()[6] for line in text.splitlines()]
            return roles.count("owner") == owners and roles.count("secondary") == sessions - owners

        until(joined, lambda: f"{owners} owners of {sessions} sessions:\n{text}", 120, pause=1)

    def window(self) -> tuple[tuple[int, int], int]:
        """Instructions of the module and of the whole kernel in a window, and mailbox commands."""
        disk = self.vm.sh("basename $(readlink -f /dev/lease/array)")
        lines = self.vm.sh(
            f"cat /sys/block/{disk}/stat; window {WINDOW_S}; cat /sys/block/{disk}/stat",
            timeout=120,
        ).splitlines()
        before, after = ([int(word) for word in line.split()] for line in lines)
        commands = after[0] - before[0] + after[4] - before[4]
        self.windows += 1
        window = list(read_windows(self.vm.records))[self.windows - 1]
        self.functions = Counter[Symbol]()
        for address, count in window.executions.items():
            self.functions[self.symbols.at(address)] += count
        own = sum(n for symbol, n in self.functions.items() if symbol.module == LEASE_MODULE)
        return (own, self.functions.total()), commands


# The delay.


def make_lease(vm: Vm) -> None:
    """A portion on a disk whose completions take their time, with few places in its queue."""
    place = "/sys/kernel/config/nullb/slow"
    settings = QUEUE | {"size": 64, "blocksize": 4096, "memory_backed": 1, "submit_queues": 1}
    lines = [f"mkdir {place}", *(f"echo {v} >{place}/{k}" for k, v in settings.items())]
    vm.sh(
        "set -e; modprobe configfs; mount -t configfs config /sys/kernel/config 2>/dev/null || :\n"
        "modprobe null_blk nr_devices=0\n" + "\n".join(lines) + f"\necho 1 >{place}/power\n"
        f"insmod {MODULE}\n"
        f"leasectl format --name slow --controllers 1,2 --redundancy external {QUICK} /dev/slow\n"
        "leasectl table --controller 1 /dev/slow | dmsetup create lease\n"
        "until dmsetup status --noflush lease | grep -q owner; do sleep 0.1; done",
        timeout=120,
    )


def start_trace(vm: Vm) -> None:
    """Traces the heartbeat timer and the commands to the member's mailboxes."""
    symbol = "grep 'Heart.*run' /proc/kallsyms | grep -i hrtimer | head -1"
    if not vm.sh(symbol):
        raise RigError("the heartbeat timer's function is not found")
    vm.sh(
        "cd /sys/kernel/tracing; echo boot >trace_clock; echo 8192 >buffer_size_kb\n"
        f"address=0x$({symbol} | cut -d' ' -f1)\n"
        "dev=$(lsblk -dno MAJ:MIN /dev/slow | tr -d ' ')\n"
        'echo "function == $address" >events/timer/hrtimer_expire_entry/filter\n'
        f'echo "dev == $(( (${{dev%:*}} << 20) | ${{dev#*:}} )) && sector < {MAILBOX_SECTORS}" '
        ">events/block/block_bio_queue/filter\n"
        "echo 1 >events/timer/hrtimer_expire_entry/enable\n"
        "echo 1 >events/block/block_bio_queue/enable"
    )


def delays(text: str) -> list[float]:
    """For each write that a heartbeat began with, how much later than its timer it was issued, in
    milliseconds. The timer's own lateness counts: what it is set to is a multiple of the period
    apart, and the earliest of all was on time."""
    expiries, writes = [], []
    for line in text.splitlines():
        if match := re.search(r"hrtimer_expire_entry: .* now=(\d+)", line):
            expiries.append(int(match[1]))
        elif match := re.search(r" (\d+)\.(\d+): block_bio_queue: \S+ W\S* (\d+) ", line):
            writes.append(int(match[1]) * 10**9 + int(match[2].ljust(9, "0")))
    if not expiries or not writes:
        raise RigError(f"{len(expiries)} expiries of the timer and {len(writes)} writes are traced")
    origin = expiries[0] + min(
        (at - expiries[0] + QUICK_PERIOD_NS // 2) % QUICK_PERIOD_NS - QUICK_PERIOD_NS // 2
        for at in expiries
    )
    found = []
    for at in expiries:
        due = origin + (at - origin + QUICK_PERIOD_NS // 2) // QUICK_PERIOD_NS * QUICK_PERIOD_NS
        first = next((write for write in writes if write >= at), None)
        if first is not None:
            found.append((first - due) / 1e6)
    return found


@dataclass
class Delays:
    """What heartbeats were like under one load."""

    values: list[float]
    """In milliseconds."""
    starved: float
    """The part of the time in which a processor of the guest waited for one of the machine."""


def starvation(vm: Vm) -> int:
    """How long the guest's processor that waited most has waited for one of the machine; in ns."""
    threads = [cpu["thread-id"] for cpu in vm.qmp.command("query-cpus-fast")]
    stats = [Path(f"/proc/{thread}/schedstat").read_text() for thread in threads]
    return max(int(stat.split()[1]) for stat in stats)


def watch(vm: Vm) -> Delays:
    """Traces heartbeats for a while, and again when the machine had no time for the guest."""
    for _ in range(ATTEMPTS):
        before = starvation(vm)
        vm.sh(f"echo >/sys/kernel/tracing/trace; sleep {DELAY_SECONDS}", timeout=300)
        starved = (starvation(vm) - before) / (DELAY_SECONDS * 1e9)
        if starved <= STARVED:
            break
    return Delays(delays(vm.pull("/sys/kernel/tracing/trace").decode()), starved)


def measure_delays(directory: Path) -> tuple[dict[str, Delays], int]:
    """The delays under each load, which comes on top of the one before, and the lease time."""
    vm = Vm("delay", directory, build("load"), [], 640, cpus=2)
    found = {}
    try:
        vm.start().wait_up()
        make_lease(vm)
        shown = json.loads(vm.sh("leasectl show --json /dev/slow"))
        start_trace(vm)
        for name, command in LOADS.items():
            if command:
                vm.spawn(command + " >/dev/null 2>&1")
                time.sleep(3)
            found[name] = watch(vm)
            role = vm.sh("dmsetup status --noflush lease").split()[5]
            if role != "owner":
                raise RigError(f"{name}: the lease is lost, the role is {role}")
    finally:
        vm.power_cut()
    return found, int(shown[0]["timing"]["lease_ms"])


def report(scale: Scale | None, late: dict[str, Delays], lease_ms: int) -> list[str]:
    """Tables; prints them and returns what does not hold."""
    failures = []
    if scale:
        print(f"heartbeats every {PERIOD_MS} ms; dm-linear takes {scale.linear_kib:.0f} KiB")
        print(
            "                             instructions a heartbeat  commands    KiB for a session"
        )
        print("portions  slots  controllers     module         all        /s       all    stacks")
        for it in scale.samples:
            is_many = it.portions * it.controllers > MANY
            whole, kib, stacks = (
                f"{value:.0f}" if is_many else "-" for value in (it.all, it.kib, it.stacks)
            )
            print(
                f"{it.portions:>8} {it.slots:>6} {it.controllers:>12} {it.own:>10.0f} {whole:>11} "
                f"{it.commands:>9.1f} {kib:>9} {stacks:>9}"
            )
        print(f"\na heartbeat of one of {PORTIONS[-1]} portions of two controllers, module only")
        for name, count in scale.profile:
            print(f"{count:>10.0f} {name}")
        one, *_, many = [it for it in scale.samples if it.controllers == 1]
        if many.own > FLAT * one.own:
            failures.append(f"a heartbeat costs {many.own / one.own:.2f} times as much with many")
    if late:
        print(f"\nfrom the timer to the issue of the write, ms; the lease lasts {lease_ms} ms")
        print("load        beats    median     worst   starved")
    for name, found in late.items():
        values = found.values
        middle, worst = sorted(values)[len(values) // 2], max(values)
        share = f"{found.starved * 100:.0f} %"
        print(f"{name:<10} {len(values):>6} {middle:>9.2f} {worst:>9.2f} {share:>9}")
        if worst > lease_ms / 4:
            busy = "not measured, the machine let the guest wait"
            late_ms = f"a heartbeat was issued {worst:.0f} ms late"
            failures.append(f"{name}: {busy if found.starved > STARVED else late_ms}")
    return failures


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--only", choices=("cost", "delay"), help="one of the two guests")
    only = parser.parse_args().only
    directory = BUILD / "run/scale"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    scale: Scale | None = None
    late: dict[str, Delays] = {}
    lease_ms = 0
    try:
        if only != "cost":
            late, lease_ms = measure_delays(directory)
        if only != "delay":
            scale = Scale(directory)
            scale.run()
    except RigError as error:
        sys.exit(f"scale: FAIL: {error}")
    document = {
        "environment": environment(),
        "samples": [asdict(it) for it in scale.samples] if scale else [],
        "delays": {name: asdict(found) for name, found in late.items()},
        "lease_ms": lease_ms,
        "period_ms": PERIOD_MS,
    }
    (directory / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    failures = report(scale, late, lease_ms)
    print("\n".join(f"FAIL: {what}" for what in failures) or "every bar holds")
    sys.exit(1 if failures else 0)
