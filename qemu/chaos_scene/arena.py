# SPDX-License-Identifier: GPL-2.0
"""Two or three controllers, two portions, and writers everywhere that never give up.

A *round* begins and ends with every portion owned and written, and everybody else refused. What
happens in between is the business of `faults`. *Going on* means that some controller's writes to a
portion succeed again, and that everybody who is up has tried since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rig import RigError, patience
from rig.host import SLOWNESS
from scenes.stage import RING, Controller, Portion, Stage, Status, Writer

# Six strays can be repaired, three operations may be open, so that one old owner that has not
# drained leaves room for the next one. Nothing repairs what strays on beta.
ALPHA = Portion(
    0, "alpha", 1, ("--redundancy", "parity:6", "--detect", "yes", "--exhausted", "stop"),
    "--stateless", on_linear=(0,),
)  # fmt: skip
BETA = Portion(1, "beta", 2, ("--redundancy", "external"), "--stateless")
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
    r"|owner -> (?:secondary|claiming)"
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


@dataclass
class Mark:
    """How far all writers had come at a moment."""

    tries: dict[int, int] = field(default_factory=dict)
    good: dict[int, int] = field(default_factory=dict)


class Arena(Stage):
    """The lab of one batch of rounds."""

    def __init__(self, controllers: int, cpus: int) -> None:
        super().__init__(
            "chaos", CAST, TIMINGS, controllers, memory=224, cpus=cpus, allow=ALLOW
        )
        self.progress: list[Progress] = []
        self.down: set[int] = set()
        # For each controller whose power was cut, the epoch that it knew of each portion last: no
        # term of its own up to that one can have anything on the way any more.
        self.ended: dict[int, dict[str, int]] = {}
        """Controllers without power."""
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
        self.goes_on(self.mark())

    def employ(self, controller: Controller) -> None:
        """Starts the writers of a controller."""
        for portion in self.cast:
            self.progress.append(Progress(controller.write_raw(portion, PAUSE_US)))

    def crowd(
        self, controller: Controller, portion: Portion, count: int, names: str = ""
    ) -> Writer:
        """Starts several writers as one, to all devices of a portion or the first ones: a record
        says on which one it belongs by its place in the list."""
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
        # What it had sent is in the array still; a machine is not back before that is done.
        name = controller.name
        self.lab.store.wait_history(
            lambda history: all(
                request.answered or request.applied
                for request in history.requests.values()
                if request.controller == name and request.op in "WTZ"
            )
        )
        controller.vm.start().wait_up()
        controller.join()
        self.employ(controller)
        self.down.discard(controller.number)

    # What goes on.

    def live(self) -> list[Progress]:
        """The writers whose machines run, and that were not forgotten with an earlier boot."""
        return [
            it
            for it in self.progress
            if it.writer.controller.number not in self.down
            and it.writer.boot == it.writer.controller.boots
        ]

    def mark(self) -> Mark:
        """How far everybody is now."""
        mark = Mark()
        for it in self.progress:
            it.update()
            mark.tries[id(it)], mark.good[id(it)] = it.tries, it.good
        return mark

    def since(self, mark: Mark, portion: Portion) -> tuple[int, int]:
        """The successes since a mark, and the fewest attempts of anybody who is up."""
        mine = [it for it in self.live() if it.writer.portion is portion]
        for it in mine:
            it.update()
        good = max((it.good - mark.good.get(id(it), 0) for it in mine), default=0)
        return good, min((it.tries - mark.tries.get(id(it), 0) for it in mine), default=0)

    def goes_on(self, mark: Mark, portions: Iterable[Portion] = CAST) -> None:
        """Waits until the portions are served and everybody has tried."""

        def served() -> bool:
            return all(
                good >= ENOUGH and tries >= 1
                for good, tries in (self.since(mark, portion) for portion in portions)
            )

        self.until(served, "all portions are served and everybody tries", self.repaired)

    def until(
        self,
        condition: Callable[[], object],
        what: str,
        meanwhile: Callable[[], None] | None = None,
        timeout: float = 30,
    ) -> None:
        """Waits for what several channels tell together, without a question to a guest."""
        begun = time.monotonic()
        asked = begun
        while not condition():
            now = time.monotonic()
            if now > begun + patience(timeout):
                raise RigError(f"not so: {what}: {self.summary()}")
            if meanwhile and now > asked + 2 * WINDOW:
                meanwhile()
                asked = time.monotonic()
            time.sleep(0.02)

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
                    if name == f"{portion.devices[0]}:" and len(words) >= 18:
                        found[portion.name, number] = Status(*words[3:18])
        return found

    def status(self, controller: Controller, portion: Portion) -> Status:
        """The status of one portion on one controller."""
        return self.statuses()[portion.name, controller.number]

    def owners(self) -> dict[str, tuple[Controller, int]]:
        """Who owns which portion, and in which epoch; waits until that is so."""
        found: dict[str, tuple[Controller, int]] = {}

        def owned() -> bool:
            found.clear()
            for (name, number), status in self.statuses().items():
                if status.role == "owner":
                    found[name] = (self.controller(number), int(status.epoch))
            return len(found) == len(self.cast)

        self.until(owned, "every portion has an owner")
        return found

    def note_end(self, controller: Controller) -> None:
        """The power of a controller is about to be cut: remembers which terms end with it."""
        for (name, number), status in self.statuses().items():
            if number == controller.number and status.epoch != "-":
                self.ended.setdefault(number, {})[name] = int(status.epoch)

    def repaired(self) -> None:
        """An operator who looks after what old owners left: confirms the death of the machines whose
        power was cut, and says of every earlier epoch that what strayed is repaired. The module
        refuses the latter where an old owner has not drained."""
        for (name, number), status in self.statuses().items():
            portion = next(p for p in self.cast if p.name == name)
            if status.role == "owner" and status.charged not in ("0", "-"):
                epoch = int(status.epoch)
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

