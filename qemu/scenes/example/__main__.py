# SPDX-License-Identifier: GPL-2.0
"""Two controllers on three shared disks, without the module: the rig's own test.

Each step does something to a controller or a disk and checks it in the guests, on the medium and
in the store's log, which are three independent witnesses.
"""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Callable

from rig import Lab, RigError, Vm, expect, stamp
from rig.host import arguments_of

# Steps that take a value from the clock of a guest read it so.
UPTIME = "cut -d' ' -f1 /proc/uptime"


def stamped(lab: Lab, member: str) -> list[tuple[int, int, int]]:
    """(controller, epoch, sequence) of every stamped block a member got, in the medium's order."""
    found = stamp.landed(lab.store.history(), member)
    return [(s.controller, s.epoch, s.sequence) for s in found]


def writes(vm: Vm, arguments: str) -> bool:
    """Whether one stamped write succeeds: "<member> <controller> <epoch> <block>"."""
    return stamp.told(vm.run(f"stamp /dev/lease/{arguments} 1 1 0").out)[0].errno == 0


def share(lab: Lab) -> None:
    """What one controller writes, the other reads."""
    a, b = lab.vms
    output = a.run("stamp /dev/lease/m0 1 7 0 8 8 0").out
    copy = b.spawn("dd if=/dev/lease/m0 bs=4096 count=8 iflag=direct status=none")
    copy.wait()
    expect(stamp.on_medium(copy.data) == [(1, 7, n, n) for n in range(8)], "c2 reads it")
    expect(stamped(lab, "m0") == [(1, 7, n) for n in range(8)], "the log shows it")
    expect(not stamp.lost(lab.store.history(), "m0", 1, 7, output), "nothing is lost")


def durable(lab: Lab) -> None:
    """A durable write is followed by a flush at the store: so QEMU 10.0 does FUA, too."""
    lab.vm(1).sh("dd if=/dev/zero of=/dev/lease/m1 bs=4096 count=1 oflag=direct,dsync status=none")
    history = lab.store.history()
    # The store cannot tell whose flush it is if it comes through an array.
    write, flush = (history.select(lab.store.via or "c1", "m1", op)[-1] for op in "WF")
    expect(write.errno == flush.errno == 0, "both succeeded")
    expect(flush.received > (write.answered or 0), "the flush came after the write was answered")


def stall(lab: Lab) -> None:
    """SIGSTOP: the guest does nothing, and notices a jump of its clock afterwards."""
    a = lab.vm(1)
    writer = a.spawn("stamp /dev/lease/m0 1 8 0 8 0 1000")
    next(writer.lines())
    before = float(a.sh(UPTIME))
    a.freeze()
    stopped = time.monotonic_ns()
    time.sleep(2)  # the stall itself; there is nothing to wait for
    thawed = time.monotonic_ns()
    a.thaw()
    expect(float(a.sh(UPTIME)) - before > 1.9, "the clock has jumped")
    writer.kill(signal.SIGTERM)
    writer.wait()
    # A request that was on its way when the guest stopped may come in just after.
    silent = [r for r in lab.store.history().select("c1") if stopped + 10**8 < r.received < thawed]
    expect(not silent, "nothing came in during the stall")


def pause(lab: Lab) -> None:
    """QMP stop: the clocks of the guest stand still with it."""
    b = lab.vm(2)
    before = float(b.sh(UPTIME))
    b.pause()
    time.sleep(2)  # the pause itself
    b.unpause()
    expect(float(b.sh(UPTIME)) - before < 1.5, "the clock stood still")


def delay(lab: Lab) -> None:
    """One controller's writes to one member are slow, and nothing else is."""
    a, b = lab.vms

    def took_ms(vm: Vm, member: str) -> float:
        number = lab.vms.index(vm) + 1
        line = vm.sh(f"stamp /dev/lease/{member} {number} 9 100 1 1 0").split()
        return (int(line[4]) - int(line[3])) / 1e6

    with lab.store.delay("c1", "m2", 1500, ops="W"):
        expect(took_ms(a, "m2") >= 1500, "c1 waits for m2")
        expect(took_ms(a, "m0") < 1500, "c1 does not wait for m0")
        expect(took_ms(b, "m2") < 1500, "c2 does not wait for m2")


def hold(lab: Lab) -> None:
    """A held write is neither on the medium nor answered, and lands when it is released."""
    a, b = lab.vms
    with lab.store.hold("c1", "m0", ops="W") as rule:
        stuck = a.spawn("stamp /dev/lease/m0 1 11 200 1 1 0")
        rule.wait_held(1)
        b.sh("stamp /dev/lease/m0 2 12 200 1 1 0")
        expect(not stuck.done, "the writer waits")
    expect(stamp.told(stuck.wait().out)[0].errno == 0, "it succeeds after all")
    expect(stamped(lab, "m0")[-2:] == [(2, 12, 0), (1, 11, 0)], "it is last")
    strays = stamp.strays(lab.store.history(), "m0")
    expect([(s.controller, s.epoch) for s in strays] == [(1, 11)], "a stray")


def fail(lab: Lab) -> None:
    """A failed write is an error in the guest; in doubt, it is on the medium all the same."""
    a = lab.vm(1)
    with lab.store.fail("c1", "m1", ops="W"):
        expect(not writes(a, "m1 1 13 0"), "an error")
    with lab.store.fail("c1", "m1", ops="W", when="after"):
        expect(not writes(a, "m1 1 14 0"), "an error")
    # Where the guest's driver tries again, the second one is there more than once.
    expect(set(stamped(lab, "m1")) == {(1, 14, 0)}, "only the second one is on the medium")
    expect(lab.store.history().changes("m1")[-1].in_doubt, "and in doubt")
    expect(writes(a, "m1 1 15 0"), "all is well again")


def tear(lab: Lab) -> None:
    """A torn write leaves the beginning of the new and the end of the old block."""
    with lab.store.tear("c2", "m1", 512, ops="W", count=1):
        lab.vm(2).sh("stamp /dev/lease/m1 2 16 0 1 1 0")
    block = lab.store.read("m1", 0, 4096)
    expect(stamp.decode(block) == (2, 16, 0, 0), "the beginning is new")
    expect(block[512:] == b"\x5a" * 3584, "the rest is old")


def power(lab: Lab) -> None:
    """A power cut ends a controller at once; its held write lands later; it boots again."""
    a = lab.vm(1)
    with lab.store.hold("c1", "m0", ops="W") as rule:
        a.spawn("stamp /dev/lease/m0 1 4 300 1 1 0")
        rule.wait_held(1)
        a.power_cut()
        expect(not a.running, "it is off")
    # It has no one to be answered to: its arrival on the medium is all there is to wait for.
    lab.store.wait_history(lambda history: stamp.strays(history, "m0")[1:])
    expect(stamped(lab, "m0")[-1] == (1, 4, 0), "the write of a dead controller lands")
    a.start().wait_up()
    expect(a.sh("ls /dev/lease").split() == ["m0", "m1", "m2"], "it is back with its disks")


def drop(lab: Lab) -> None:
    """A held write that is dropped fails and never lands, whatever the driver does then."""
    rule = lab.store.hold("c1", "m0", ops="W", count=1)
    job = lab.vm(1).spawn("stamp /dev/lease/m0 1 18 400 1 1 0")
    rule.wait_held(1)
    rule.drop()
    written = stamp.told(job.wait().out)[0].errno == 0
    dropped = [
        r for r in lab.store.history().select("c1", "m0", "W") if r.waited[-1:] == [rule.number]
    ]
    expect([(r.errno, r.applied) for r in dropped] == [(errno.EIO, None)], "it failed, not landed")
    # With QEMU's disks, SCSI and NVMe drivers try again, and that succeeds. After the errors that
    # nvmet and LIO report they do not.
    expect(written == (lab.model in ("scsi", "nvme")), "an error, unless it is tried again")


def nap(lab: Lab) -> None:
    """Suspend to RAM and back."""
    b = lab.vm(2)
    job = b.sleep()
    b.wake()
    expect(job.wait().rc == 0, "it slept")
    expect(writes(b, "m2 2 19 0"), "its disks work")


STEPS: list[Callable[[Lab], None]] = [
    share, durable, stall, pause, delay, hold, fail, tear, power, drop, nap,
]  # fmt: skip


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--model", default="virtio-blk", help="or scsi, nvme, nvmet, lio")
    model = parser.parse_args().model
    print(f"1..{len(STEPS)}")
    failed = 0
    # A guest that was stopped may blame its clock source or RCU.
    allow = r"rcu.* stall|soft lockup"
    with Lab(f"example-{model}", controllers=2, members=3, model=model, allow=allow) as lab:
        for number, step in enumerate(STEPS, 1):
            try:
                step(lab)
                print(f"ok {number} {step.__name__}", flush=True)
            except RigError as error:
                failed += 1
                print(f"not ok {number} {step.__name__}\n# {error}", flush=True)
    print(f"{len(STEPS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
