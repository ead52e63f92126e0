# SPDX-License-Identifier: GPL-2.0
"""The set-up of demo and chaos: portions on the disks of a lab, controllers, and their writers.

Everything that a checker may want to know later is written to the run directory: what writers
were told (`acks`), what the kernels traced (`traces`), and what the scenes did when (`facts`).
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from .agent import Job
from .host import BUILD, RigError, leasectl, patience
from .lab import Lab
from .lease import Portion, Status, member_disks, show
from .steps import until
from .vm import Vm

MIB = 1 << 20

# Blocks of each device that the raw writers go round in.
RING = 128


@dataclass(frozen=True)
class StagePortion(Portion):
    """A portion of a stage: its member m is disk `p<index>m<m>` of the lab and mapped device
    `<name>-m<m>` on every controller."""

    index: int = 0
    redundancy: tuple[str, ...] = ()
    table: str = ""
    on_linear: tuple[int, ...] = ()
    """Members that lie on a linear device `low-<name>-m<m>`, which can hold what has passed the
    gate back."""


def stage_portion(
    index: int,
    name: str,
    home: int,
    redundancy: tuple[str, ...],
    table: str = "",
    on_linear: tuple[int, ...] = (),
) -> StagePortion:
    """A portion of three members; `redundancy` are options of `leasectl format`, `table` those of
    `leasectl table`."""
    disks = member_disks(index)
    devices = tuple(f"{name}-m{member}" for member in range(len(disks)))
    return StagePortion(name, disks, devices, home, index, redundancy, table, on_linear)


class Told(NamedTuple):
    """What a writer was told about one attempt; errno 0 is success, times are CLOCK_MONOTONIC_RAW
    of the guest."""

    epoch: int
    number: int
    device: int
    block: int
    errno: int
    before_ns: int
    after_ns: int


@dataclass
class Writer:
    """A ledger program that runs on a controller."""

    name: str
    controller: Controller
    portion: StagePortion
    job: Job
    boot: int
    in_file: bool = False

    def told(self, start: int = 0) -> list[Told]:
        """What it was told so far, from its attempt number `start` on."""
        lines = self.job.out.split("\n")[:-1]
        found = []
        for line in lines[start:]:
            words = line.split()
            if len(words) != 7:
                raise RigError(f"{self.name}: not a line of the ledger: {line}")
            words[4] = "0" if words[4] == "ok" else words[4]
            found.append(Told(*map(int, words)))
        return found

    @property
    def attempts(self) -> int:
        """How many attempts it has made."""
        return self.job.data.count(b"\n")

    def acknowledged(self, start: int = 0) -> list[Told]:
        """Its successes among the attempts from `start` on."""
        return [told for told in self.told(start) if told.errno == 0]

    def wait_more(
        self, count: int, good: bool = True, start: int | None = None, timeout: float = 30
    ) -> None:
        """Waits until `count` more attempts have succeeded, or failed."""
        begin = self.attempts if start is None else start

        def enough() -> bool:
            told = self.told(begin)
            return sum((t.errno == 0) == good for t in told) >= count or self.job.done

        self.controller.vm.agent.wait(enough, patience(timeout))
        told = self.told(begin)
        if sum((t.errno == 0) == good for t in told) < count:
            what = "successes" if good else "failures"
            raise RigError(
                f"{self.name}: fewer than {count} {what} among {len(told)} attempts: "
                f"{self.controller.summary()}\n{self.job.out[-400:]}"
            )

    def wait_for(self, ms: float, good: bool = True) -> None:
        """Waits until it has gone on for so long, with a success or failure in the end."""
        begin = self.attempts
        self.wait_more(1, good, begin)
        since = self.told(begin)[0].before_ns
        while self.told(begin)[-1].after_ns < since + ms * 1e6:
            self.wait_more(1, good)

    def stop(self) -> None:
        """Ends it between two writes."""
        if not self.job.done and not self.job.agent.lost:
            self.controller.vm.sh(f"pkill -TERM -f '^ledger .*{self.portion.name}-m0' || true")
            self.job.wait(30)


@dataclass
class Controller:
    """One controller: its machine, and what is done on it."""

    number: int
    vm: Vm
    stage: Stage
    boots: int = 0
    traces: list[tuple[int, Job]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """c1, c2: its name in the lab and in the store's log."""
        return self.vm.name

    def join(self) -> None:
        """Loads the module, switches its traces on and makes all mapped devices."""
        self.boots += 1
        lower = "\n".join(self.linear(p, m) for p in self.stage.cast for m in p.on_linear)
        numbers = self.vm.sh(
            f"{lower}\n"
            "for d in /dev/lease/*; do"
            " echo ${d##*/} $(cat /sys/class/block/$(basename $(readlink $d))/dev); done"
        )
        devices = {number: disk for disk, number in (line.split() for line in numbers.splitlines())}
        self.stage.fact("boot", controller=self.number, boot=self.boots, devices=devices)
        tracing = "/sys/kernel/tracing"
        self.vm.sh(
            "insmod /usr/lib/rig/modules/dm_lease.ko\n"
            f"echo mono_raw >{tracing}/trace_clock\n"
            f"echo 1 >{tracing}/events/dm_lease/enable"
        )
        # Not cat: busybox's splices, and waits for events with the pipe locked.
        reader = f"exec dd if={tracing}/trace_pipe bs=64k status=none"
        self.traces.append((self.boots, self.vm.spawn(reader)))
        lines = []
        for portion in self.stage.cast:
            for member, disk in enumerate(self.stage.disks(portion)):
                lines.append(f"{self.mapping(portion, member, disk)} || exit 1")
        self.vm.sh("\n".join(lines))

    def mapping(self, portion: StagePortion, member: int, disk: str) -> str:
        """A command that makes the mapped device of a member, on this disk."""
        table = f"leasectl table --controller {self.number} {portion.table} /dev/lease/{disk}"
        return f"{table} | dmsetup create {portion.devices[member]}"

    def linear(self, portion: StagePortion, member: int) -> str:
        """Commands that put a linear device over a disk, in its place."""
        disk, device = f"/dev/lease/{portion.disks[member]}", f"low-{portion.devices[member]}"
        return (
            f'echo "0 $(blockdev --getsz {disk}) linear {disk} 0" | dmsetup create {device}\n'
            f"ln -sf /dev/$(dmsetup info -c --noheadings -o blkdevname {device}) {disk}"
        )

    def status(self, portion: StagePortion, member: int = 0) -> Status:
        """What its kernel says about a portion."""
        return portion.status(self.vm, member)

    def summary(self) -> str:
        """All its portions in a line."""
        lines = self.vm.run("dmsetup status --noflush", check=False).out
        return " | ".join(lines.splitlines())

    def wait_role(self, portion: StagePortion, role: str, timeout: float = 40) -> Status:
        """Waits, on the device's own events, until the controller has a role for a portion."""
        device = portion.devices[0]
        script = (
            "while :; do\n"
            f"\tevent=$(dmsetup info -c --noheadings -o events {device})\n"
            f"\tset -- $(dmsetup status {device} --noflush)\n"
            f'\t[ "$6" = {role} ] && exit 0\n'
            f'\tdmsetup wait --noflush {device} "$event" >/dev/null\n'
            "done"
        )
        try:
            self.vm.sh(script, timeout)
        except RigError as error:
            raise RigError(
                f"{self.name} does not become {role} of {portion.name}: {self.summary()}\n{error}"
            ) from None
        return self.status(portion)

    def wait_full(self, portion: StagePortion, timeout: float = 20) -> None:
        """Waits until as many operations are open as the limit allows, and others wait."""
        until(
            lambda: self.status(portion).pending,
            lambda: f"operations wait: {self.summary()}",
            timeout,
            pause=0,
        )

    def wait_reason(
        self, portion: StagePortion, reason: str, gone: bool = False, timeout: float = 20
    ) -> None:
        """Waits until its status gives this reason, or another one."""
        until(
            lambda: (self.status(portion).reason == reason) != gone,
            lambda: f"reason {reason}, gone {gone}: {self.summary()}",
            timeout,
            pause=0,
        )

    def message(self, portion: StagePortion, text: str) -> tuple[bool, str]:
        """Sends a message to a portion: whether it was granted, and what was said."""
        result = portion.ask(self.vm, text)
        return result.rc == 0, result.out.strip()

    def log(self, pattern: str) -> list[str]:
        """Lines of its kernel's log that match."""
        return [line for line in self.vm.sh("dmesg").splitlines() if re.search(pattern, line)]

    def fingers(self, portion: StagePortion) -> dict[tuple[int, int], int]:
        """Reads all records directly from the lease devices: how many by (controller, epoch).

        A record that is damaged fails.
        """
        return self.listed(portion.mapped, f"{portion.name} as {self.name} reads it")

    def listed(self, paths: str, what: str) -> dict[tuple[int, int], int]:
        """How many records there are in files or devices, by (controller, epoch)."""
        counts: dict[tuple[int, int], int] = {}
        for controller, epoch, first, last in self.runs(paths, what):
            key = (controller, epoch)
            counts[key] = counts.get(key, 0) + last - first + 1
        return counts

    def runs(self, paths: str, what: str) -> list[tuple[int, int, int, int]]:
        """Runs of records, (controller, epoch, first number, last number), in their order."""
        *runs, bad = self.vm.sh(f"ledger list {paths}").splitlines()
        if bad != "bad 0":
            raise RigError(f"{what}: damaged records: {bad}")
        return [tuple(map(int, run.split())) for run in runs]  # type: ignore[misc]

    def write_raw(self, portion: StagePortion, pause_us: int = 20_000) -> Writer:
        """Starts to write directly to all devices of a portion in turn."""
        first = (len(self.stage.writers) + 1) * 1_000_000
        devices = " ".join(portion.devices)
        command = f"exec ledger raw {self.number} {first} {RING} {pause_us} {devices}"
        return self.stage.writer(self, portion, command)


class Stage:
    """Lab, controllers, and the records of the run."""

    def __init__(
        self,
        name: str,
        cast: tuple[StagePortion, ...],
        timings: list[str],
        controllers: int = 2,
        **lab: Any,
    ) -> None:
        """`cast` are the portions, `lab` are further words for the lab."""
        self.cast = cast
        self.timings = timings
        self.begun_ns = time.monotonic_ns()
        self.facts: list[dict[str, Any]] = []
        self.writers: list[Writer] = []
        self.complete = False
        self.lock = only_one(name)
        self.lab = Lab(
            name, controllers=controllers, members=3, portions=len(cast), size=40 * MIB, **lab
        )
        self.directory = self.lab.directory
        self.controllers = [
            Controller(number, self.lab.vm(number), self) for number in range(1, controllers + 1)
        ]
        self.portions: dict[str, Any] = {}

    def disks(self, portion: StagePortion) -> list[str]:
        """The lab's names of the disks that are the members of a portion now."""
        return [*portion.disks]

    def spares(self, portion: StagePortion) -> list[str]:
        """The lab's names of further disks of a portion."""
        return [disk for disk in self.lab.store.members if disk.startswith(f"p{portion.index}s")]

    def controller(self, number: int) -> Controller:
        """The controller of that number."""
        return self.controllers[number - 1]

    # Telling.

    def say(self, text: str) -> None:
        """A line for who watches, with the time since the curtain rose."""
        seconds = (time.monotonic_ns() - self.begun_ns) / 1e9
        print(f"{seconds:6.1f} s  {text}", flush=True)

    def fact(self, kind: str, **more: Any) -> dict[str, Any]:
        """Notes that something was done now."""
        fact = {"kind": kind, "at": time.monotonic_ns(), **more}
        self.facts.append(fact)
        return fact

    @contextmanager
    def span(self, kind: str, **more: Any) -> Iterator[dict[str, Any]]:
        """Notes that something lasts from here to the end of the block."""
        fact = self.fact(kind, **more)
        try:
            yield fact
        finally:
            fact["until"] = time.monotonic_ns()

    # Doing.

    def format(self) -> None:
        """Formats both portions, from the host: the tool needs no module."""
        numbers = ",".join(str(controller.number) for controller in self.controllers)
        for portion in self.cast:
            images = [str(self.lab.store.image(disk)) for disk in portion.disks]
            command = [
                str(leasectl()), "format", "--name", portion.name, "--controllers", numbers,
                "--home", str(portion.home), *self.timings, *portion.redundancy, *images,
            ]  # fmt: skip
            said = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if said.returncode:
                raise RigError(f"{' '.join(command)}\n{said.stdout}")
            self.portions[portion.name] = shown = show(images)[0]
            timing = shown["timing"]
            self.say(
                f"{portion.name}: 3 members, home {portion.home}, {portion.redundancy[1]}, "
                f"limit {shown['redundancy']['limit']}, lease {timing['lease_ms']:.0f} ms, "
                f"window W {timing['window_ms']:.0f} ms, heartbeat {timing['period_max_ms']:.0f} ms"
            )

    def window_ms(self, portion: StagePortion) -> float:
        """W of a portion."""
        return float(self.portions[portion.name]["timing"]["window_ms"])

    def writer(
        self, controller: Controller, portion: StagePortion, command: str, in_file: bool = False
    ) -> Writer:
        """Starts a writer and remembers it."""
        name = f"{len(self.writers) + 1}-{controller.name}-{portion.name}"
        job = controller.vm.spawn(command)
        writer = Writer(name, controller, portion, job, controller.boots, in_file)
        self.writers.append(writer)
        return writer

    def wait_any(self, begun: list[tuple[Writer, int]], timeout: float) -> None:
        """Waits until one of several writers has some successes since an attempt of it."""
        # Two channels at once: there is no one event to wait for.
        until(
            lambda: any(len(writer.acknowledged(start)) > 20 for writer, start in begun),
            "service resumes",
            timeout,
            pause=0.05,
        )

    def save(self) -> None:
        """Writes down everything the checker needs beside the disks and the store's log."""
        writers = []
        for writer in self.writers:
            path = self.directory / f"acks-{writer.name}"
            path.write_text(writer.job.out)
            writers.append(
                {"file": path.name, "controller": writer.controller.number, "boot": writer.boot,
                 "portion": writer.portion.name, "file_system": writer.in_file}
            )  # fmt: skip
        traces = []
        for controller in self.controllers:
            for boot, job in controller.traces:
                path = self.directory / f"trace-{controller.name}-{boot}"
                path.write_bytes(job.data)
                traces.append({"file": path.name, "controller": controller.number, "boot": boot})
        run = {
            "complete": self.complete, "begun": self.begun_ns, "ended": time.monotonic_ns(),
            "facts": self.facts, "writers": writers, "traces": traces, "portions": [
                {"name": p.name, "disks": p.disks, "spares": self.spares(p),
                 "devices": p.devices, "home": p.home}
                for p in self.cast
            ],
        }  # fmt: skip
        (self.directory / "run.json").write_text(json.dumps(run, indent=1))


def only_one(name: str) -> IO[str]:
    """Keeps a second run of the same name out of the run directory, until the file is closed."""
    BUILD.mkdir(exist_ok=True)
    lock = (BUILD / f"{name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RigError(f"another {name} is running in this checkout") from None
    return lock
