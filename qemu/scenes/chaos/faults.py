# SPDX-License-Identifier: GPL-2.0
"""What can happen for a while.

The function of a fault begins it and returns a second function, which ends it. Lengths are given
in takeover windows. An *event* happens to a machine or to the ownership. A *ground* is a lasting
condition, and events may happen while it lasts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from rig import Job, RigError, Vm
from rig.history import BLOCK
from rig.host import SLOWNESS
from rig.mailbox import DATA, MAILBOXES
from rig.stage import RING, Controller, StagePortion

from .arena import BETA, LIMIT, WINDOW_MS, Arena, UnknownError

Heal = Callable[[], None]

# Requests that QEMU sends at once, so that more wait in the guest.
QUEUE = 16

# Tick lengths in microseconds for adjtimex(); 10 000 is the right one. The others range from the
# greatest deviation that chrony uses by default to the greatest one that adjtimex() allows.
STEADY, SLOW, FAST = 10_000, (9_000, 9_167), (10_833, 11_000)

# The number of attempts to replace a member. The tool may refuse all but the last one.
ATTEMPTS = 3

# The memory that the fault `memory` leaves to a guest. A kernel with debug checks needs more.
SPARE_KIB = 20_000 * SLOWNESS


@dataclass
class Scene:
    """The target of a fault, and the random generator of its choices."""

    arena: Arena
    rng: random.Random
    portion: StagePortion
    owner: Controller
    epoch: int
    victim: Controller
    length: float = 0
    """How long it lasts, in seconds."""

    @property
    def disk(self) -> str:
        """One member of the portion."""
        return self.rng.choice(self.arena.disks(self.portion))

    @property
    def some(self) -> str:
        """One member, or all of both portions."""
        return self.rng.choice([self.disk, self.disk, "*"])

    @property
    def device(self) -> str:
        """One mapped device of the portion."""
        return self.rng.choice(self.portion.devices)


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    begin: Callable[[Scene], Heal]
    shortest: float
    longest: float
    """In windows."""
    ground: bool = False
    alone: bool = False
    """Nothing else may happen with it."""
    of_owner: bool = False
    """Only an owner can do it."""
    planted: bool = False
    """Not a fault but a fraud, which the judge must find."""

    @property
    def pairs(self) -> bool:
        """Whether it is an event that may happen on a ground."""
        return not self.ground and not self.alone

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.begin.__name__


# Machines.


def slew(scene: Scene) -> Heal:
    """The clocks of all machines are steered, the victim's one way and the others' the other way.
    The gate's clock is not: a lease lasts as long as before."""
    way = scene.rng.choice([SLOW, FAST])
    other = FAST if way is SLOW else SLOW
    for controller in scene.arena.controllers:
        tick = scene.rng.choice(way if controller is scene.victim else other)
        controller.vm.sh(f"busybox adjtimex -q -t {tick}")

    def heal() -> None:
        for controller in scene.arena.controllers:
            controller.vm.sh(f"busybox adjtimex -q -t {STEADY}")

    return heal


def stall(scene: Scene) -> Heal:
    """SIGSTOP: its clocks go on meanwhile."""
    scene.victim.vm.freeze()
    return scene.victim.vm.thaw


def power(scene: Scene) -> Heal:
    """The power is cut; it boots again."""
    scene.arena.note_end(scene.victim)
    scene.arena.down.add(scene.victim.number)
    scene.victim.vm.power_cut()
    return lambda: scene.arena.boot(scene.victim)


class LostError(RigError):
    """A machine with two processors that did not survive its sleep."""


def may_lose[T](vm: Vm, step: Callable[[], T]) -> T:
    """Runs a step of a sleep. A guest with two processors may fail to wake up even without the
    module: 2 of 101 sleeps did not end, and in 3 more the kernel waited in vain for the second
    processor. With one processor every sleep must end."""
    try:
        return step()
    except RigError as error:
        if vm.cpus > 1:
            raise LostError(str(error)) from error
        raise


def sleep(scene: Scene) -> Heal:
    """Suspend to RAM."""
    vm = scene.victim.vm
    sleeping = may_lose(vm, vm.sleep)
    fact = scene.arena.fact("jump", controller=scene.victim.number, why="sleep")

    def heal() -> None:
        vm.wake()
        fact["until"] = scene.arena.fact("woken")["at"]
        may_lose(vm, sleeping.wait)

    return heal


def cloned(scene: Scene) -> Heal:
    """The memory of a machine is saved; later the machine is put back to it."""
    saved = scene.arena.save_memory(scene.victim)

    def heal() -> None:
        scene.arena.put_back(scene.victim, saved)
        scene.arena.boot(scene.victim)

    return heal


# Members.


def replaced(scene: Scene) -> Heal:
    """A member is replaced by another disk: all controllers leave the portion, or remove the device
    of that member only."""
    arena, portion = scene.arena, scene.portion
    place = arena.place(portion, scene.rng)
    members = [place] if scene.rng.random() < 0.5 else []
    exchange(scene, *members)
    return lambda: arena.enter(arena.controllers, portion, *members)


def exchange(scene: Scene, *members: int) -> None:
    """All controllers leave, and the member is replaced. An earlier fault may have left a mailbox
    unreadable, and then the tool refuses. So the controllers join again, which writes the mailboxes
    anew, and the replacement is tried again."""
    arena, portion = scene.arena, scene.portion
    for left in range(ATTEMPTS)[::-1]:
        arena.leave(arena.controllers, portion, *members)
        try:
            arena.replace(portion, all_left=not members)
            return
        except UnknownError:
            if not left:
                raise
            arena.enter(arena.controllers, portion, *members)
            arena.goes_on(arena.attempts())


def returned(scene: Scene) -> Heal:
    """One controller finds the former disk of a member in its place."""
    arena, portion, victim = scene.arena, scene.portion, scene.victim
    arena.place(portion, scene.rng)
    if portion.name not in arena.former:
        exchange(scene)
        arena.enter(arena.controllers, portion)
        arena.goes_on(arena.attempts())
    arena.leave([victim], portion)
    fact = arena.fact("returned", portion=portion.name, controller=victim.number)
    fact["how"] = arena.bring_back(victim, portion, scene.rng.random() < 0.5)

    def heal() -> None:
        devices = " ".join(portion.devices)
        arena.everywhere(
            [victim],
            f"for d in {devices}; do [ ! -e /dev/mapper/$d ] || dmsetup remove --retry $d; done",
        )
        fact["until"] = arena.fact("gone again")["at"]
        arena.enter([victim], portion)

    return heal


def delay(scene: Scene) -> Heal:
    """Every command takes longer, by up to three windows."""
    ms = int(scene.rng.uniform(0, 3) * WINDOW_MS)
    return scene.arena.lab.store.delay(scene.victim.name, scene.some, ms).release


def error(scene: Scene) -> Heal:
    """Commands fail and do nothing."""
    return scene.arena.lab.store.fail(scene.victim.name, scene.some).release


def doubt(scene: Scene) -> Heal:
    """Commands fail and are done all the same."""
    return scene.arena.lab.store.fail(scene.victim.name, scene.some, when="after").release


def torn(scene: Scene) -> Heal:
    """Some mailbox writes break off in the middle of a block."""
    length, count = 512 * scene.rng.randrange(1, 8), scene.rng.randrange(1, 7)
    rule = scene.arena.lab.store.tear(
        scene.victim.name, scene.some, length, ops="W", start=MAILBOXES, end=DATA, count=count
    )
    return rule.release


def minority(scene: Scene) -> Heal:
    """One member of a portion is lost for everybody."""
    return scene.arena.lab.store.fail("*", scene.disk).release


def majority(scene: Scene) -> Heal:
    """Two members of a portion are lost for one controller."""
    lost = scene.rng.sample(scene.arena.disks(scene.portion), 2)
    rules = [scene.arena.lab.store.fail(scene.victim.name, disk) for disk in lost]

    def heal() -> None:
        for rule in rules:
            rule.release()

    return heal


def saturated(scene: Scene) -> Heal:
    """All places in the queue of one member are taken by writes that hang."""
    arena = scene.arena
    rule = arena.lab.store.hold(scene.victim.name, scene.disk, ops="W", start=DATA)
    # Each writer writes to all members in turn, and so comes to this one.
    crowd = arena.crowd(scene.victim, scene.portion, QUEUE + 2)
    # On alpha the limit bounds the held writes. On beta they fill the queue, except for one place
    # that a heartbeat may take. If the owner has lost its lease meanwhile, no write is held.
    with suppress(RigError):
        rule.wait_held(QUEUE - 1 if scene.portion is BETA else LIMIT, timeout=1)

    def heal() -> None:
        rule.release()
        arena.dismiss(crowd)

    return heal


# Load.


def hogs(scene: Scene) -> Heal:
    """Real-time processes take all processors, below or above the heartbeat's own thread."""
    priority = scene.rng.choice([1, 99])
    seconds = max(1, round(scene.length))
    lines = [
        f"chrt -f {priority} perl -e '$end = time + {seconds}; 1 while time < $end' &"
        for _ in range(scene.victim.vm.cpus)
    ]
    return ended(scene.victim.vm.spawn("\n".join([*lines, "wait"])))


def memory(scene: Scene) -> Heal:
    """Nearly all memory is taken."""
    vm = scene.victim.vm
    filled = vm.spawn(
        "mkdir -p /tmp/fill; mount -t tmpfs -o size=100% fill /tmp/fill\n"
        "while read -r key kib _; do [ $key = MemAvailable: ] && break; done </proc/meminfo\n"
        f"dd if=/dev/zero of=/tmp/fill/fill bs=64k count=$(((kib - {SPARE_KIB}) / 64)) status=none"
    )

    def heal() -> None:
        filled.wait()
        vm.run("umount /tmp/fill", check=False)

    return heal


# Operators.


def tables(scene: Scene) -> Heal:
    """Devices are suspended, get a new table, and are resumed."""
    devices = scene.rng.choice([[scene.device], [*scene.portion.devices]])
    how = scene.rng.choice(["", "--noflush", "--nolockfs"])
    lines = [f"dmsetup suspend {how} {device}" for device in devices]
    lines += [f"dmsetup table {device} | dmsetup load {device}" for device in devices]
    lines += [f"sleep {scene.length:.2f}"]
    lines += [f"dmsetup resume {device}" for device in devices]
    return ended(scene.victim.vm.spawn("\n".join(lines)))


def message(scene: Scene, text: str) -> Heal:
    """A message, which may be refused."""
    return ended(
        scene.victim.vm.spawn(f"dmsetup message {scene.portion.devices[0]} 0 {text} || true")
    )


def release(scene: Scene) -> Heal:
    """The owner gives the portion back."""
    return message(scene, "release")


def handoff(scene: Scene) -> Heal:
    """The owner hands the portion over."""
    others = [c.number for c in scene.arena.controllers if c is not scene.victim]
    return message(scene, f"handoff {scene.rng.choice(others)}")


def fence(scene: Scene) -> Heal:
    """The owner is fenced by its operator."""
    return message(scene, "fence")


def bypass(scene: Scene) -> Heal:
    """A writer that opens the raw member, which no gate can see."""
    block = DATA // BLOCK + 2 * RING
    command = f"dd if=/dev/zero of=/dev/lease/{scene.disk} bs={BLOCK} count=1 seek={block}"
    return ended(scene.victim.vm.spawn(f"{command} oflag=direct status=none"))


def ended(job: Job) -> Heal:
    """Waits for the end of a command, whatever it is."""
    return lambda: job.wait() and None


KINDS = {
    kind.name: kind
    for kind in (
        Kind(slew, 0.5, 4, ground=True),
        Kind(stall, 0.1, 4),
        Kind(power, 0, 1, alone=True),
        Kind(sleep, 0.2, 3, alone=True),
        Kind(cloned, 0.5, 3, alone=True),
        Kind(replaced, 0, 0.5, alone=True),
        Kind(returned, 0, 0.5, alone=True),
        Kind(delay, 0.5, 3, ground=True),
        Kind(error, 0.2, 2, ground=True),
        Kind(doubt, 0.2, 2, ground=True),
        Kind(torn, 0.2, 1, ground=True),
        Kind(minority, 0.5, 2, ground=True),
        Kind(majority, 0.5, 2),
        Kind(saturated, 0.5, 2, alone=True, of_owner=True),
        Kind(hogs, 0.5, 2, ground=True),
        Kind(memory, 0.5, 2, ground=True),
        Kind(tables, 0, 1),
        Kind(release, 0, 0.2, of_owner=True),
        Kind(handoff, 0, 0.2, of_owner=True),
        Kind(fence, 0, 0.2, of_owner=True),
        Kind(bypass, 0, 0.2, alone=True, planted=True),
    )
}
