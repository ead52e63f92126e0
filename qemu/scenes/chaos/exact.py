# SPDX-License-Identifier: GPL-2.0
"""Rounds whose strays are known beforehand, to the last one.

    opened   a stall with k writes held in the array: exactly those k land later
    idle     a stall with no permit open, and writers that wake up with the machine: none lands
    passed   a stall with one write that has passed the gate, not given to the disk yet: one lands
    paused   the machine's clocks stand still with it: its lease never ends for it, until it reads

Each leaves a fact `exact` with the epoch of the owner that stopped and the number that must land;
for `paused` there is none, and `judge` tells how many, for how long, and what ended it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rig import RigError
from rig.mailbox import DATA
from rig.stage import StagePortion

from .arena import ALPHA, BETA, ENOUGH, LIMIT
from .faults import Scene


def taken(scene: Scene) -> None:
    """Waits until others write what the one that stopped has owned."""
    arena = scene.arena
    before = arena.attempts()
    arena.until(
        lambda: arena.since(before, scene.portion)[0] >= ENOUGH,
        "somebody else takes over and writes",
        arena.repaired,
    )


class Disturbed(RigError):
    """The owner lost its lease before the stop: the round says nothing, and is played again."""


def wait_or_lose(scene: Scene, condition: Callable[[], object], what: str) -> None:
    """Waits while the victim owns the portion."""

    def still() -> None:
        status = scene.arena.status(scene.victim, scene.portion)
        if (status.role, status.epoch) != ("owner", scene.epoch):
            raise Disturbed(f"{status.role} in epoch {status.epoch}: {status.reason}")

    scene.arena.until(condition, what, still)
    still()


@contextmanager
def stopped(scene: Scene, how: Callable[[], None], back: Callable[[], None]) -> Iterator[None]:
    """Stops the victim for as long as the block lasts."""
    scene.arena.stopped.add(scene.victim.number)
    how()
    try:
        yield
    finally:
        back()
        scene.arena.stopped.discard(scene.victim.number)


def stalled(scene: Scene, strays: int, then: Callable[[], None]) -> None:
    """Stops the owner until another has taken over; calls `then` before it wakes up or after."""
    arena, vm = scene.arena, scene.victim.vm
    arena.fact(
        "exact", portion=scene.portion.name, controller=scene.victim.number, epoch=scene.epoch,
        strays=strays,
    )  # fmt: skip
    while_stopped = scene.rng.random() < 0.5
    with stopped(scene, vm.freeze, vm.thaw):
        taken(scene)
        if while_stopped:
            then()
    if not while_stopped:
        then()


def opened(scene: Scene) -> None:
    """A stall with k permits open, held in the array."""
    arena, vm = scene.arena, scene.victim.vm
    count = scene.rng.randrange(1, LIMIT + 1) if scene.portion is ALPHA else 8
    # One writer is always there; beyond the limit of alpha others wait in the gate.
    crowd = arena.crowd(scene.victim, scene.portion, count)
    rules = [
        arena.lab.store.hold(vm.name, disk, ops="W", start=DATA)
        for disk in arena.disks(scene.portion)
    ]

    def let_go() -> None:
        for rule in rules:
            rule.release()

    open_ = min(LIMIT, count + 1) if scene.portion is ALPHA else count + 1
    try:
        held = f"{open_} writes are held"
        wait_or_lose(scene, lambda: sum(rule.held for rule in rules) == open_, held)
        stalled(scene, open_, let_go)
    finally:
        let_go()
        arena.dismiss(crowd)


def stop_writers(scene: Scene) -> None:
    """Stops the victim's writers, so that nothing is open."""
    scene.victim.vm.sh("pkill -STOP -x ledger")
    status = scene.arena.status
    wait_or_lose(
        scene,
        lambda: status(scene.victim, scene.portion).permits.startswith("0/"),
        "no permit is open",
    )


def idle(scene: Scene) -> None:
    """A stall with no permit open; the writers wake up when the machine does."""
    vm = scene.victim.vm
    try:
        stop_writers(scene)
        alarm = vm.spawn("echo set; sleep 0.5; pkill -CONT -x ledger")
        alarm.wait_for("set")
        stalled(scene, 0, lambda: None)
        alarm.wait()
    finally:
        vm.run("pkill -CONT -x ledger", check=False)


def passed(scene: Scene) -> None:
    """A stall with one write that has passed the gate and was not given to the disk."""
    arena, vm, device = scene.arena, scene.victim.vm, ALPHA.devices[0]
    crowd = None
    try:
        stop_writers(scene)
        vm.sh(f"dmsetup suspend --noflush --nolockfs low-{device}")
        crowd = arena.crowd(scene.victim, ALPHA, 1, device)
        wait_or_lose(
            scene,
            lambda: arena.status(scene.victim, ALPHA).permits.startswith("1/"),
            "one permit is open",
        )
        arena.fact(
            "exact", portion=ALPHA.name, controller=scene.victim.number, epoch=scene.epoch, strays=1
        )
        with stopped(scene, vm.freeze, vm.thaw):
            taken(scene)
    finally:
        vm.run(f"dmsetup resume low-{device}; pkill -CONT -x ledger", check=False)
        if crowd:
            arena.dismiss(crowd)


def paused(scene: Scene) -> None:
    """QEMU stops the machine and its clocks."""
    arena, vm = scene.arena, scene.victim.vm
    crowd = arena.crowd(scene.victim, scene.portion, 3)
    try:
        wait_or_lose(scene, lambda: crowd.attempts >= 3 * ENOUGH, "all write")
        with stopped(scene, vm.pause, vm.unpause):
            fact = arena.fact("jump", controller=scene.victim.number, why="pause")
            try:
                taken(scene)
            finally:
                fact["until"] = time.monotonic_ns()
        # Its writers go on until they are told that they cannot.
        arena.until(
            lambda: any(told.errno for told in crowd.told()[-3:]), "its lease is over for it, too"
        )
    finally:
        arena.dismiss(crowd)


EXACT: dict[str, tuple[Callable[[Scene], None], tuple[StagePortion, ...]]] = {
    "opened": (opened, (ALPHA, BETA)),
    "idle": (idle, (ALPHA, BETA)),
    "passed": (passed, (ALPHA,)),
    "paused": (paused, (ALPHA, BETA)),
}
