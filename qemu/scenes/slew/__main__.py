# SPDX-License-Identifier: GPL-2.0
"""Clocks are steered; neither the lease of an owner nor the window of another follows.

A program that keeps the time of day right steers the clocks of its machine, chrony by a twelfth and
adjtimex() by a tenth. Here the owner's clocks are steered one way and the other machine's the other
way, for as long as a lease of ten seconds lasts. Then the owner's mailbox writes are cut off while
its data path stays whole, and it goes on writing. Nothing it writes may land after the first write
of its successor: with `external` redundancy time alone protects the data.

With CLOCK_BOOTTIME as the clock of leases the first case had 41 such writes, all acknowledged.
"""

from __future__ import annotations

import signal
import time

from rig import Lab, LabPortion, Vm, expect, stamp
from rig.host import arguments_of
from rig.mailbox import DATA

MEMBERS = ["m0", "m1", "m2"]
FORMAT = (
    "--controllers 1,2 --home 1 --redundancy external --device-delay-ms 200 --heartbeat-ms 200 "
    "--write-ms 300 --read-ms 300 --lease-ms 10000"
)
# Microseconds of a tick, of the owner and of the other one; 10000 is not steered.
STEADY = 10_000
CASES = [(9_167, 10_833), (9_000, 11_000), (11_000, 9_000)]
ALLOW = r"rcu.* stall|soft lockup|owner -> secondary"


def rate(vm: Vm) -> float:
    """How many seconds the steered clock of a guest makes of one."""
    begun, before = time.monotonic(), float(vm.sh("cut -d' ' -f1 /proc/uptime"))
    time.sleep(5)
    after, passed = float(vm.sh("cut -d' ' -f1 /proc/uptime")), time.monotonic() - begun
    return (after - before) / passed


def play(ticks: tuple[int, int]) -> None:
    """One case, on machines and members of its own."""
    with Lab("slew", controllers=2, members=len(MEMBERS), allow=ALLOW) as lab:
        owner, other = lab.vms
        portion = LabPortion.on(lab, "alpha", MEMBERS)
        portion.format(owner, FORMAT)
        for vm in lab.vms:
            # mq-deadline would hold data back behind a mailbox that hangs.
            vm.sh("for q in /sys/block/vd*/queue/scheduler; do echo none >$q; done")
            portion.bring_up(vm)
        portion.wait(owner, 60, role="owner", epoch=1)
        portion.wait(other, 60, role="secondary", epoch=1)
        for vm, tick in zip(lab.vms, ticks, strict=True):
            vm.sh(f"busybox adjtimex -q -t {tick}")
        for vm, tick in zip(lab.vms, ticks, strict=True):
            expect(
                (rate(vm) < 1) == (tick < STEADY), f"the clocks of {vm.name} run at {tick / STEADY}"
            )
        writer = owner.spawn("stamp /dev/mapper/m0 1 1 0 64 0 20000")
        writer.wait_for(" ok ")
        owner.provokes("alpha controller 1: owner -> secondary")
        rules = [lab.store.hold("c1", member, ops="W", start=0, end=DATA) for member in MEMBERS]
        portion.wait(other, 60, role="owner", epoch=2)
        successor = other.spawn("stamp /dev/mapper/m0 2 2 1000 64 0 20000")
        successor.wait_for(" ok ")
        # Until the old owner has noticed, if it has not before.
        portion.wait(owner, 60, role="secondary")
        for job in (writer, successor):
            job.kill(signal.SIGTERM)
            job.wait()
        for rule in rules:
            rule.release()
        judge(lab, stamp.told(writer.out))


def judge(lab: Lab, told: list[stamp.Told]) -> None:
    """What the store has seen decides."""
    history = lab.store.history()
    landed = stamp.landed(history, "m0")
    first = min(s.request.received for s in landed if s.epoch == 2)
    last = max(s.request.received for s in landed if s.epoch == 1)
    ms = (first - last) / 1e6
    print(f"the old owner's last write came {ms:.0f} ms before its successor's first")
    good = {t.sequence for t in told if t.errno == 0}
    strays = stamp.strays(history, "m0")
    lost = [s for s in strays if s.sequence in good]
    expect(
        not strays,
        "no write of the old owner lands after its successor's first: "
        f"{len(strays)} did, {len(lost)} of them acknowledged",
    )


def main() -> None:
    """All cases."""
    arguments_of(__doc__).parse_args()
    for ticks in CASES:
        print(f"# the owner's tick is {ticks[0]} us, the other's {ticks[1]} us", flush=True)
        play(ticks)
    print("PASS", flush=True)
