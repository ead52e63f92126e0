# SPDX-License-Identifier: GPL-2.0
"""Two or three controllers, two portions, and writers everywhere that never give up.

A *round* begins and ends with an owner that writes to each portion, while the writes of the other
controllers are refused. The faults in between are in `faults`. A portion *goes on* if writes of one
controller succeed again, and every writer on a running controller has tried since.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rig import Memory, RigError
from rig.host import SLOWNESS, leasectl
from rig.lease import Status
from rig.stage import RING, Controller, Stage, StagePortion, Writer, stage_portion
from rig.steps import until

# Alpha: redundancy repairs six strays, and three operations may be open. So a new owner can still
# write while one old owner has not drained. Beta: no redundancy repairs strays.
ALPHA = stage_portion(
    0, "alpha", 1, ("--redundancy", "parity:6", "--detect", "yes", "--exhausted", "stop",
                    "--force=redundancy"), "--stateless", on_linear=(0,),
)  # fmt: skip
BETA = stage_portion(1, "beta", 2, ("--redundancy", "external"), "--stateless")
CAST = (ALPHA, BETA)
# How many operations on alpha may be open.
LIMIT = 3

# A kernel that watches itself needs more time for everything.
PERIOD_MS, LEASE_MS, WINDOW_MS, DELAY_MS = (SLOWNESS * ms for ms in (125, 1080, 1200, 100))
TIMINGS = (
    f"--heartbeat-ms {PERIOD_MS} --lost-heartbeats 3 --lease-ms {LEASE_MS} --window-ms {WINDOW_MS} "
    f"--device-delay-ms {DELAY_MS} --write-ms 30 --read-ms 30"
).split()
PERIOD, WINDOW = PERIOD_MS / 1000, WINDOW_MS / 1000

# What guests say when they are stopped for seconds, starved, or lose what they own.
ALLOW = (
    r"rcu.* stall|soft lockup|rcu: |hrtimer: interrupt took|blocked for more|Call Trace"
    r"|owner -> (?:secondary|claiming)|-> failed|is a former disk|generation \d+, the member has \d"
)
PAUSE_US = 50_000
# Successes of a writer that show that a portion is served again.
ENOUGH = 3


@dataclass
class Progress:
    """What a writer was told, counted as it comes."""

    writer: Writer
    place: int = 0
    tries: int = 0
    good: int = 0

    def update(self) -> None:
        """Takes what it was told since."""
        data = self.writer.job.data
        end = data.rfind(b"\n", self.place) + 1
        if end > self.place:
            lines = data[self.place : end].splitlines()
            self.tries += len(lines)
            self.good += sum(b" ok " in line for line in lines)
            self.place = end


@dataclass(frozen=True)
class Saved:
    """The saved memory of a controller, the boot that it belongs to, the number of the job that
    reads its trace, and how many bytes of the trace had been read."""

    memory: Memory
    boot: int
    trace: int
    traced: int


@dataclass
class Attempts:
    """How often each writer had tried, and succeeded, at a moment."""

    tries: dict[int, int] = field(default_factory=dict)
    good: dict[int, int] = field(default_factory=dict)


class UnknownError(RigError):
    """The tool refuses a replacement: not all promises of a controller are on other members."""


class Arena(Stage):
    """The lab of one batch of rounds."""

    def __init__(self, controllers: int, cpus: int) -> None:
        super().__init__(
            "chaos", CAST, TIMINGS, controllers, memory=224, cpus=cpus, allow=ALLOW, spares=1
        )
        # The members of each portion now; the one that is replaced, and its former disk.
        self.members = {portion.name: [*portion.disks] for portion in self.cast}
        self.places: dict[str, int] = {}
        self.former: dict[str, str] = {}
        self.progress: list[Progress] = []
        self.down: set[int] = set()
        """Controllers without power."""
        # For each controller whose power was cut: for each portion, the last epoch that it knew.
        # When `wait_arrived` has returned, no write of its terms up to that epoch is on the way.
        self.ended: dict[int, dict[str, int]] = {}
        self.stopped: set[int] = set()
        """Controllers that answer nobody."""

    def set_up(self) -> None:
        """Everybody joins; the portions are owned and written."""
        self.lab.start()
        self.format()
        for controller in self.controllers:
            controller.join()
        # Not always the homes: who boots late may find its portion owned.
        self.owners()
        for controller in self.controllers:
            self.employ(controller)
        self.goes_on(self.attempts())

    def employ(self, controller: Controller, portions: Iterable[StagePortion] = CAST) -> None:
        """Starts the writers of a controller."""
        for portion in portions:
            self.progress.append(Progress(controller.write_raw(portion, PAUSE_US)))

    def crowd(
        self, controller: Controller, portion: StagePortion, count: int, names: str = ""
    ) -> Writer:
        """Starts several writers as one job. They write to all devices of a portion, or to `names`,
        which must be its first devices: a record names its device by the index in this list."""
        first = (len(self.writers) + 1) * 1_000_000
        words = names or " ".join(portion.devices)
        command = (
            f"n=0; while [ $n -lt {count} ]; do ledger raw {controller.number} "
            f"$(({first} + n * 10000)) {RING} {PAUSE_US // 5} {words} & n=$((n + 1)); done; wait"
        )
        return self.writer(controller, portion, command)

    def dismiss(self, writer: Writer) -> None:
        """Ends what `crowd` started, if its machine is still the same one."""
        if not writer.job.done and not writer.job.agent.lost:
            writer.job.kill(15)
            writer.job.wait(30)

    def boot(self, controller: Controller) -> None:
        """Switches a controller on, and all is as before."""
        # Commands that were sent before the power cut may still be in the array.
        self.wait_arrived(controller)
        controller.vm.start().wait_up()
        controller.join()
        self.employ(controller)
        self.down.discard(controller.number)

    # Disks that are replaced, and come back.

    def disks(self, portion: StagePortion) -> list[str]:
        """The disks that are the members of a portion now."""
        return self.members[portion.name]

    def leave(
        self, controllers: Iterable[Controller], portion: StagePortion, *members: int
    ) -> None:
        """Ends the writers of a portion on some controllers, and removes its mapped devices there,
        or those of some members."""
        controllers = [*controllers]
        for it in [*self.progress]:
            if it.writer.portion is portion and it.writer.controller in controllers:
                self.progress.remove(it)
        chosen = [portion.devices[member] for member in members] or [*portion.devices]
        writers = f"'^ledger .*{portion.name}-m0'"
        lines = [f"pkill -TERM -f {writers}", f"while pgrep -f {writers} >&2; do sleep 0.05; done"]
        lines += [f"dmsetup remove --retry {device} || exit 1" for device in chosen]
        self.everywhere(controllers, "\n".join(lines))

    def enter(
        self, controllers: Iterable[Controller], portion: StagePortion, *members: int
    ) -> None:
        """Makes the mapped devices of a portion on some controllers, or those of some members, and
        starts the writers."""
        controllers = [*controllers]
        chosen = members or range(len(portion.disks))

        def script(controller: Controller) -> str:
            return "\n".join(
                f"{controller.mapping(portion, member, self.disks(portion)[member])} || exit 1"
                for member in chosen
            )

        self.must({controller.number: script(controller) for controller in controllers})
        for controller in controllers:
            self.employ(controller, [portion])

    def everywhere(self, controllers: Iterable[Controller], script: str) -> None:
        """Runs a script that must succeed on several controllers at once."""
        self.must({controller.number: script for controller in controllers})

    def must(self, scripts: dict[int, str]) -> None:
        """Runs a script for each controller, all at once, which must succeed."""
        jobs = {number: self.controller(number).vm.spawn(it) for number, it in scripts.items()}
        for number, job in jobs.items():
            result = job.wait()
            if result.rc:
                raise RigError(f"c{number}: exit {result.rc}: {job.command}\n{result.out}")

    def place(self, portion: StagePortion, rng: random.Random) -> int:
        """Which member of a portion is replaced: in one batch always the same, so that a disk has
        the records of one member only, and never the first, which lies on a linear device."""
        return self.places.setdefault(portion.name, rng.randrange(1, len(portion.disks)))

    def replace(self, portion: StagePortion, all_left: bool) -> None:
        """Formats the disk that is no member in the place of one, as an operator does, when all
        controllers have left the portion or the device of that member only."""
        member, now = self.places[portion.name], self.members[portion.name]
        disk = self.former.get(portion.name, self.spares(portion)[0])
        left = [it for it in now if it != now[member]]
        images = [str(self.lab.store.image(it)) for it in (disk, *left)]
        command = [
            str(leasectl()), "format", "--replace", str(member), "--force=member,signature", *images
        ]  # fmt: skip
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if said.returncode:
            unknown = "is not known from a majority" in said.stdout
            error = UnknownError if unknown else RigError
            raise error(f"{' '.join(command)}\n{said.stdout}")
        was, now[member] = now[member], disk
        self.former[portion.name] = was
        self.fact(
            "replaced", portion=portion.name, member=member, disk=disk, former=was,
            all_left=all_left,
        )  # fmt: skip

    def bring_back(self, controller: Controller, portion: StagePortion, is_first: bool) -> str:
        """A controller that has left a portion maps the former disk of a member in its place,
        before the other members or when it has joined with those. Returns what became of it:
        `dropped`, or `refused`; anything else is an error."""
        member, disk = self.places[portion.name], self.former[portion.name]
        others = [it for it in range(len(portion.disks)) if it != member]
        former = controller.mapping(portion, member, disk)
        lines = [
            f"{controller.mapping(portion, it, self.disks(portion)[it])} || exit 1" for it in others
        ]
        device = portion.devices[member]
        if is_first:
            self.everywhere([controller], "\n".join([f"{former} || exit 1", *lines]))
            is_dropped = (
                f"until dmsetup status --noflush {device} | grep -q ' outdated'; do\n"
                "\tsleep 0.1\ndone\n"
                f"! dd if=/dev/mapper/{device} of=/dev/null bs=4k count=1 iflag=direct || exit 1\n"
                f"! dd if=/dev/zero of=/dev/mapper/{device} bs=4k count=1 oflag=direct || exit 1"
            )
            self.everywhere([controller], is_dropped)
            return "dropped"
        self.everywhere([controller], "\n".join(lines))
        first = portion.devices[others[0]]
        is_refused = (
            f"until dmsetup status --noflush {first} | grep -qE ' (secondary|owner) '; do"
            " sleep 0.1; done\n"
            f"! {former} || exit 1\n"
            "dmesg | tail -n 50 | grep -q 'former disk of its member'"
        )
        self.everywhere([controller], is_refused)
        return "refused"

    # Memories that are saved, and run again.

    def save_memory(self, controller: Controller) -> Saved:
        """Saves the memory of a controller, which goes on. Its clocks stand still meanwhile."""
        path = self.directory / f"memory-{controller.name}"
        self.stopped.add(controller.number)
        fact = self.fact("jump", controller=controller.number, why="pause")
        try:
            memory = controller.vm.save(path)
        finally:
            fact["until"] = time.monotonic_ns()
            self.stopped.discard(controller.number)
        fact["at"] = memory.saved_ns
        boot, trace = controller.traces[-1]
        talk = memory.talk.jobs
        return Saved(memory, boot, trace.number, len(talk[trace.number][1]))

    def put_back(self, controller: Controller, saved: Saved) -> None:
        """Cuts the power of a controller and restores its saved memory. The controller must notice
        that its mailboxes were written since, and give everything up. Then its power is cut."""
        number, vm = controller.number, controller.vm
        ended = {
            name: status.epoch
            for (name, who), status in self.statuses().items()
            if who == number and status.epoch is not None
        }
        self.down.add(number)
        vm.power_cut()
        self.wait_arrived(controller)
        at = vm.restore(saved.memory)
        saved.memory.path.unlink()
        period = self.fact("put back", controller=number)
        boot = self.go_on(controller, saved)
        period["at"] = boot["at"] = at
        try:
            self.everywhere(
                [controller],
                "until [ $(dmsetup status --target lease --noflush | grep -c ' failed ') = "
                f"{sum(len(portion.devices) for portion in self.cast)} ]; do sleep 0.1; done\n"
                # Its trace says so, too, and comes to the host.
                "sleep 0.3",
            )
        finally:
            vm.power_cut()
            period["until"] = time.monotonic_ns()
        known = self.ended.setdefault(number, {})
        for name, epoch in ended.items():
            known[name] = max(epoch, known.get(name, 0))

    def go_on(self, controller: Controller, saved: Saved) -> dict[str, Any]:
        """Registers the trace and the writers that continue in a restored memory."""
        before = next(
            f
            for f in self.facts
            if f["kind"] == "boot"
            and (f["controller"], f["boot"]) == (controller.number, saved.boot)
        )
        controller.boots += 1
        jobs = controller.vm.agent.jobs
        controller.traces.append((controller.boots, jobs[saved.trace]))
        for old in [*self.writers]:
            is_here = old.controller is controller and old.boot == saved.boot
            if is_here and old.job.number in saved.memory.talk.jobs:
                name = f"{len(self.writers) + 1}-{controller.name}-{old.portion.name}"
                job = jobs[old.job.number]
                writer = Writer(name, controller, old.portion, job, controller.boots)
                self.writers.append(writer)
        memory = {
            "boot": saved.boot, "saved": saved.memory.saved_ns, "bytes": saved.traced,
            "trace": f"trace-{controller.name}-{saved.boot}",
        }  # fmt: skip
        return self.fact(
            "boot", controller=controller.number, boot=controller.boots, devices=before["devices"],
            memory=memory,
        )  # fmt: skip

    def wait_arrived(self, controller: Controller) -> None:
        """Waits until what a controller had sent before its power was cut is in the array."""
        name = controller.name
        self.lab.store.wait_history(
            lambda history: all(
                request.answered or request.applied
                for request in history.requests.values()
                if request.controller == name and request.op in "WTZ"
            )
        )

    # What goes on.

    def live(self) -> list[Progress]:
        """The writers whose machines run, and that were not forgotten with an earlier boot."""
        return [
            it
            for it in self.progress
            if it.writer.controller.number not in self.down
            and it.writer.boot == it.writer.controller.boots
        ]

    def attempts(self) -> Attempts:
        """The attempts of all writers until now."""
        now = Attempts()
        for it in self.progress:
            it.update()
            now.tries[id(it)], now.good[id(it)] = it.tries, it.good
        return now

    def since(self, before: Attempts, portion: StagePortion) -> tuple[int, int]:
        """The successes since `before`, and the fewest attempts of a writer that runs."""
        mine = [it for it in self.live() if it.writer.portion is portion]
        for it in mine:
            it.update()
        good = max((it.good - before.good.get(id(it), 0) for it in mine), default=0)
        return good, min((it.tries - before.tries.get(id(it), 0) for it in mine), default=0)

    def goes_on(self, before: Attempts, portions: Iterable[StagePortion] = CAST) -> None:
        """Waits until the portions are served and everybody has tried."""

        def served() -> bool:
            return all(
                good >= ENOUGH and tries >= 1
                for good, tries in (self.since(before, portion) for portion in portions)
            )

        self.until(served, "all portions are served and everybody tries", self.repaired)

    def until(
        self,
        condition: Callable[[], object],
        what: str,
        meanwhile: Callable[[], None] | None = None,
        timeout: float = 30,
    ) -> None:
        """Waits until a condition holds that depends on several jobs. `meanwhile` is called now and
        then, because it asks guests."""
        due = time.monotonic() + 2 * WINDOW

        def holds() -> bool:
            nonlocal due
            if condition():
                return True
            if meanwhile and time.monotonic() > due:
                meanwhile()
                due = time.monotonic() + 2 * WINDOW
            return False

        until(holds, lambda: f"{what}: {self.summary()}", timeout, pause=0.02)

    def summary(self) -> str:
        """What all controllers that are up say."""
        return "; ".join(f"{c.name}: {c.summary()}" for c in self.answering())

    def answering(self) -> list[Controller]:
        """The controllers that can be asked."""
        return [c for c in self.controllers if c.number not in self.down | self.stopped]

    def statuses(self) -> dict[tuple[str, int], Status]:
        """The status of every portion on every controller that is up."""
        jobs = {
            c.number: c.vm.spawn("dmsetup status --target lease --noflush")
            for c in self.answering()
        }
        found = {}
        for number, job in jobs.items():
            for line in job.wait().out.splitlines():
                name, *words = line.split()
                for portion in self.cast:
                    if name == f"{portion.devices[0]}:":
                        found[portion.name, number] = Status.parse(" ".join(words))
        return found

    def status(self, controller: Controller, portion: StagePortion) -> Status:
        """The status of one portion on one controller."""
        return self.statuses()[portion.name, controller.number]

    def owners(self) -> dict[str, tuple[Controller, int]]:
        """Who owns which portion, and in which epoch; waits until that is so."""
        found: dict[str, tuple[Controller, int]] = {}

        def owned() -> bool:
            found.clear()
            for (name, number), status in self.statuses().items():
                if status.role == "owner":
                    found[name] = (self.controller(number), status.known_epoch)
            return len(found) == len(self.cast)

        self.until(owned, "every portion has an owner")
        return found

    def note_end(self, controller: Controller) -> None:
        """The power of a controller is about to be cut: remembers which terms end with it."""
        for (name, number), status in self.statuses().items():
            if number == controller.number and status.epoch is not None:
                self.ended.setdefault(number, {})[name] = status.epoch

    def repaired(self) -> None:
        """An operator who looks after what old owners left: confirms the death of the machines
        whose power was cut, and says of every earlier epoch that what strayed is repaired. The
        module refuses the latter where an old owner has not drained."""
        for (name, number), status in self.statuses().items():
            portion = next(p for p in self.cast if p.name == name)
            if status.role == "owner" and status.charged != 0:
                epoch = status.known_epoch
                words = []
                for old in range(max(1, epoch - 6), epoch):
                    words += [
                        f"confirm_dead {dead} {old}"
                        for dead, last in self.ended.items()
                        if old <= last.get(name, 0)
                    ]
                    words.append(f"repaired {old}")
                lines = [f"dmsetup message {portion.devices[0]} 0 {it} 2>/dev/null" for it in words]
                self.controller(number).vm.run("; ".join(lines), check=False)

    def finish(self) -> None:
        """The end of a batch: the writers stop, so that nothing is under way."""
        for it in self.live():
            it.writer.stop()
        self.complete = True
