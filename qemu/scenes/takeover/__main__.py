# SPDX-License-Identifier: GPL-2.0
"""Ownership moves between two controllers in every way, judged by the store's log [R46].

The portion is formatted without a batch limit (redundancy external), so what protects it here is
time alone; stamped writes run all the while, and after every step the log must show that no
acknowledged write is missing and that nothing of an older epoch landed after a newer one. The last
step breaks that on purpose, by a delay beyond what the portion was formatted for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from rig import Job, Lab, LabPortion, Vm, expect, run_steps, stamp
from rig.host import arguments_of
from rig.mailbox import DATA

MEMBERS = ["m0", "m1", "m2"]
# Generous for a loaded machine under emulation: the lease is 2.4 s, the window a little longer.
FORMAT = (
    "--controllers 1,2 --home 1 --redundancy external --device-delay-ms 200 --heartbeat-ms 300 "
    "--write-ms 250 --read-ms 250"
)

# A secondary sees a release with its next heartbeat; the window would be a dozen of them.
HEARTBEATS_AT_ONCE = 4
HEARTBEATS_IN_WINDOW = 12


class Scene:
    """The lab, the portion, and what was written by whom so far."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.portion = LabPortion.on(lab, "alpha", MEMBERS)
        self.written: list[tuple[int, int, Job]] = []
        self.strays = 0

    def write(self, vm: Vm, count: int = 0) -> Job:
        """Starts stamped writes under the present epoch; returns after the first success."""
        number, epoch = self.portion.number(vm), self.portion.status(vm).epoch or 0
        job = vm.spawn(f"stamp /dev/mapper/m0 {number} {epoch} 0 64 {count} 2000")
        self.written.append((number, epoch, job))
        job.wait_for(" ok ")
        return job

    def owns(self, vm: Vm, epoch: int) -> None:
        """Waits until a controller owns the portion in `epoch`."""
        self.portion.wait(vm, role="owner", owner=self.portion.number(vm), epoch=epoch)

    def loses(self, vm: Vm) -> None:
        """A controller is about to lose its lease against its will, which it says as a warning."""
        vm.provokes(f"alpha controller {self.portion.number(vm)}: owner -> secondary")

    def judge(self) -> None:
        """What the store saw, against what the writers were told."""
        history = self.lab.store.history()
        strays = len(stamp.strays(history, "m0"))
        expect(strays == self.strays, f"{self.strays} strays landed, not {strays}")
        for number, epoch, job in self.written:
            missing = stamp.lost(history, "m0", number, epoch, job.out)
            expect(not missing, f"nothing of controller {number}, epoch {epoch} is lost")


def end(job: Job) -> list[stamp.Told]:
    """Ends a writer; what it was told."""
    job.kill(signal.SIGTERM)
    return stamp.told(job.wait().out)


def may_have_been_on_its_way(scene: Scene, writer: Job) -> None:
    """The one write that a writer had open when its machine stood still had perhaps passed the gate
    already. It may land, and must not be acknowledged [R6, R18]."""
    late = stamp.strays(scene.lab.store.history(), "m0")[scene.strays :]
    told = {t.sequence: t.errno for t in stamp.told(writer.out)}
    expect(len(late) <= 1, f"at most one write was on its way, not {len(late)}")
    expect(all(told.get(s.sequence) != 0 for s in late), "what landed late is not acknowledged")
    scene.strays += len(late)


def home(scene: Scene) -> None:
    """The home controller owns first; the other one is refused and reads [R22, R40]."""
    a, b = scene.lab.vms
    scene.portion.format(a, FORMAT)
    for vm in (a, b):
        scene.portion.bring_up(vm)
    scene.owns(a, 1)
    scene.portion.wait(b, role="secondary", epoch=1)
    end(scene.write(a))
    refused = stamp.told(b.run("stamp /dev/mapper/m0 2 1 0 1 4 0").out)
    expect(all(t.errno for t in refused), "a secondary cannot write")
    b.sh("dd if=/dev/mapper/m0 of=/dev/null bs=4096 count=4 iflag=direct status=none")
    writers = {s.controller for s in stamp.landed(scene.lab.store.history(), "m0")}
    expect(writers == {1}, "and the store has seen none of it")


def stall(scene: Scene) -> None:
    """A stalled owner is replaced, and cannot write when it wakes up [R6, R24, R30]."""
    a, b = scene.lab.vms
    old = scene.write(a)
    scene.loses(a)
    a.freeze()
    scene.owns(b, 2)
    end(scene.write(b))
    a.thaw()
    scene.portion.wait(a, role="secondary", epoch=2, owner=2)
    scene.lab.store.wait_history(lambda h: any(t.errno for t in stamp.told(old.out)))
    expect(stamp.told(old.out)[-1].errno, "its writer fails from then on")
    end(old)
    may_have_been_on_its_way(scene, old)


def power_cut(scene: Scene) -> None:
    """An owner without power is replaced; it comes back as secondary [R35]."""
    a, b = scene.lab.vms
    scene.write(b)
    b.power_cut()
    scene.owns(a, 3)
    end(scene.write(a))
    b.start().wait_up()
    scene.portion.bring_up(b)
    scene.portion.wait(b, role="secondary", epoch=3, owner=1)


def dead_member(scene: Scene) -> None:
    """One member of three fails: the owner stays, and a takeover still happens [R26, R42]."""
    a, b = scene.lab.vms
    with scene.lab.store.fail("*", "m2"):
        scene.portion.wait(a, members_ok=2)
        end(scene.write(a))
        scene.owns(a, 3)
        scene.loses(a)
        a.freeze()
        scene.owns(b, 4)
        end(scene.write(b))
        a.thaw()
        scene.portion.wait(a, role="secondary", epoch=4)
    scene.portion.wait(b, members_ok=3)


def handoff(scene: Scene) -> None:
    """A clean hand-over under load: the writer of the old owner fails, nothing is lost [R34]."""
    a, b = scene.lab.vms
    writer = scene.write(b)
    scene.portion.hand_over(b, 1)
    scene.owns(a, 5)
    end(writer)
    end(scene.write(a))


def reboot(scene: Scene) -> None:
    """An orderly reboot releases: the other one follows without a window [R34]."""
    a, b = scene.lab.vms
    scene.write(a)
    job = a.spawn("reboot -f")
    a.wait_end()
    expect(not job.done, "the machine went down")
    scene.owns(b, 6)
    waited = scene.portion.beats_before_claim(a, b)
    expect(waited <= HEARTBEATS_AT_ONCE, f"no window was waited for ({waited} heartbeats)")
    end(scene.write(b))
    a.start().wait_up()
    scene.portion.bring_up(a)
    scene.portion.wait(a, role="secondary", epoch=6, owner=2)


def asleep(scene: Scene) -> None:
    """System suspend releases before it begins, whatever the clock does in it [R43]."""
    a, b = scene.lab.vms
    scene.portion.settle(a, HEARTBEATS_IN_WINDOW)
    writer = scene.write(b)
    job = b.sleep()
    scene.owns(a, 7)
    waited = scene.portion.beats_before_claim(b, a)
    expect(waited <= HEARTBEATS_AT_ONCE, f"no window was waited for ({waited} heartbeats)")
    end(scene.write(a))
    b.wake()
    job.wait()
    scene.portion.wait(b, role="secondary", epoch=7, owner=1)
    end(writer)


def stopped_clock(scene: Scene) -> None:
    """A machine whose clock stood still thinks that its lease is valid: the first heartbeat after
    the pause finds the later epoch and ends that. What its writer got through until then are
    strays, and the bound is one heartbeat."""
    a, b = scene.lab.vms
    writer = scene.write(a)
    scene.loses(a)
    a.pause()
    scene.owns(b, 8)
    end(scene.write(b))
    a.unpause()
    scene.portion.wait(a, role="secondary", epoch=8, owner=2)
    end(writer)
    scene.strays = len(stamp.strays(scene.lab.store.history(), "m0"))
    print(f"# {scene.strays} stray writes after the clock had stood still")


def no_majority(scene: Scene) -> None:
    """An owner that reaches a minority loses its lease; the other one takes over [R3, R42]."""
    a, b = scene.lab.vms
    scene.loses(b)
    with scene.lab.store.hold("c2", "m1"), scene.lab.store.hold("c2", "m2"):
        scene.owns(a, 9)
        end(scene.write(a))
        scene.portion.wait(b, role="secondary")
    scene.portion.wait(b, role="secondary", epoch=9, owner=1)


def below_the_gate(scene: Scene) -> None:
    """A write that the array holds for longer than the window lands after a takeover: the one
    thing that time alone cannot prevent, and the proof that a stray would be seen here."""
    a, b = scene.lab.vms
    before = scene.strays
    with scene.lab.store.hold("c1", "m0", ops="W", start=DATA, end=DATA + (1 << 20)) as rule:
        a.spawn("stamp /dev/mapper/m0 1 9 100 1 1 0")
        rule.wait_held(1)
        a.power_cut()
        scene.owns(b, 10)
        end(scene.write(b))
    scene.lab.store.wait_history(lambda h: len(stamp.strays(h, "m0")) > before)
    scene.strays = before + 1


STEPS: list[Callable[[Scene], None]] = [
    home,
    stall,
    power_cut,
    dead_member,
    handoff,
    reboot,
    asleep,
    stopped_clock,
    no_majority,
    below_the_gate,
]


def judged(step: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """A step, and what must be true after each of them."""

    @wraps(step)
    def both(scene: Scene) -> None:
        step(scene)
        scene.judge()

    return both


@contextmanager
def stage() -> Iterator[Scene]:
    """The lab. A guest that was stopped may blame RCU; a dead member is reported as what it is."""
    with Lab("takeover", controllers=2, allow=r"rcu.* stall|soft lockup") as lab:
        yield Scene(lab)


def main() -> None:
    arguments_of(__doc__).parse_args()
    run_steps([judged(step) for step in STEPS], stage)
