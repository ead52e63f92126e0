# SPDX-License-Identifier: GPL-2.0
"""The devices under test, in one guest.

All of them lie on null_blk disks of one kind, which complete in the context of the submitter. The
disks keep their content, because a lease needs its superblock and its mailboxes on the device that
it is for; the copy of 4 KiB that this costs is one instruction here (a repeated move), and the
look-ups around it are the same for every target. They have a cache, so that a flush does something.

A portion's disk has a linear device beside it, over the same data: disks of one kind still differ
by a few instructions (where the search for a free tag begins is random), and one disk does not
differ from itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from rig.count.symbols import LEASE_MODULE
from rig.host import RigError
from rig.lease import MODULE, Status
from rig.mailbox import DATA
from rig.steps import until
from rig.vm import Vm

from .reservations import RESERVED, UNRESERVED, export

MIB = 1 << 20
DISK_MIB = 64
# A target without an offset of its own is used from the place where a portion's data begins.
SECTORS = (DISK_MIB * MIB - 2 * DATA - MIB) // 512
# Seldom enough that most windows have none; two windows of listening come before the first lease.
HEARTBEAT_MS = 1000

NULL_DISK = {
    "size": DISK_MIB,
    "blocksize": 4096,
    "memory_backed": 1,
    "cache_size": 8,
    "discard": 1,
    "irqmode": 0,
    "queue_mode": 2,
    "no_sched": 1,
}


@dataclass(frozen=True)
class Target:
    """Something to send bios to."""

    name: str
    device: str
    offset: int = 0
    """Where on it they go, in bytes."""
    modules: tuple[str, ...] = ()
    """Whose text is the target's own."""
    role: str = ""
    """What a lease device must be when it is measured."""
    linear: str = "linear"
    """The linear device on the same disk, which it is compared with."""


@dataclass(frozen=True)
class Lease:
    """A lease device. Without `options` its disk was formatted for another one."""

    name: str
    disk: str
    controller: int
    role: str
    options: str = ""

    def target(self) -> Target:
        """The device as a target."""
        device = f"/dev/mapper/{self.name}"
        linear = f"linear-{self.disk}"
        return Target(self.name, device, 0, (LEASE_MODULE,), self.role, linear)


# Of the targets that are no lease.
PLAIN = "plain"
MAPPED = {
    "linear": f"linear /dev/{PLAIN} {DATA // 512}",
    "delay": f"delay /dev/{PLAIN} {DATA // 512} 0",
    "flakey": f"flakey /dev/{PLAIN} {DATA // 512} 3600 0",
    "log-writes": f"log-writes /dev/{PLAIN} /dev/journal",
    "multipath": f"multipath 2 queue_mode bio 0 1 1 round-robin 0 1 1 /dev/{PLAIN} 1000",
}
MODULES = {
    "delay": ("dm_delay",),
    "flakey": ("dm_flakey",),
    "log-writes": ("dm_log_writes",),
    "multipath": ("dm_multipath", "dm_round_robin"),
}
# Those whose table has no offset.
AT_START = ("log-writes", "multipath")
LEASES = [
    Lease("lease", "alpha", 1, "owner", "--redundancy external"),
    Lease("lease-ops16", "beta", 1, "owner", "--redundancy parity:16 --detect yes --batch 16"),
    Lease(
        "lease-stripe",
        "gamma",
        1,
        "owner",
        "--redundancy parity:16 --detect yes --batch 16 --count stripe:64",
    ),
    Lease("lease-refused", "alpha", 2, "secondary"),
]


def make_disk(vm: Vm, name: str, **changes: int) -> None:
    """A null_blk disk, with something in its last block: the depth of the tree that holds its
    content is then the same for all of them."""
    place = f"/sys/kernel/config/nullb/{name}"
    settings = NULL_DISK | changes
    lines = [f"mkdir {place}", *(f"echo {v} >{place}/{k}" for k, v in settings.items())]
    lines += [f"echo 1 >{place}/power", f"echo 0 >/sys/block/{name}/queue/wbt_lat_usec"]
    last = settings["size"] * MIB // 4096 - 1
    if settings["memory_backed"]:
        write = f"dd if=/dev/zero of=/dev/{name} bs=4096 count=1 oflag=direct,sync status=none"
        lines.append(f"{write} seek={last}")
    vm.sh("set -e\n" + "\n".join(lines))


def prepare(vm: Vm) -> None:
    """Loads what is needed, and stops what the kernel does on its own from time to time."""
    clock = vm.sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    if clock != "tsc":
        raise RigError(f"the guest's clock is {clock}, which costs something else than the TSC")
    vm.sh(
        "set -e; modprobe configfs; mount -t configfs config /sys/kernel/config\n"
        "modprobe null_blk nr_devices=0\n"
        f"insmod {MODULE}\n"
        "echo N >/sys/module/damon_stat/parameters/enabled || true\n"
    )
    for disk in (PLAIN, *portion_disks()):
        make_disk(vm, disk)
    make_disk(vm, "journal", memory_backed=0, cache_size=0, discard=0, size=65536)


def set_up(vm: Vm, leases_only: bool) -> tuple[list[Target], dict[str, str]]:
    """Makes all devices; returns those that there are, and why the others are not."""
    prepare(vm)
    others, no_others = ([], {}) if leases_only else set_up_others(vm)
    leases, no_leases = set_up_leases(vm)
    return others + leases, no_others | no_leases


def set_up_others(vm: Vm) -> tuple[list[Target], dict[str, str]]:
    """The devices that leases are compared with."""
    targets = [Target("null_blk", f"/dev/{PLAIN}", DATA)]
    skipped = {}
    for name, table in MAPPED.items():
        offset = DATA if name in AT_START else 0
        sectors = DISK_MIB * MIB // 512 if name in AT_START else SECTORS
        if why := make_device(vm, name, f"0 {sectors} {table}"):
            skipped[name] = why
        else:
            targets.append(Target(name, f"/dev/mapper/{name}", offset, MODULES.get(name, ())))
    for name, reserve in ((UNRESERVED, False), (RESERVED, True)):
        try:
            device = export(vm, name, f"/dev/{PLAIN}", reserve)
        except RigError as error:
            # Without the first there is nothing to compare the second with.
            skipped[name] = last_line(str(error))
            break
        modules = ("nvmet",) if reserve else ()
        targets.append(Target(name, device, DATA, modules, linear=UNRESERVED))
    return targets, skipped


def set_up_leases(vm: Vm) -> tuple[list[Target], dict[str, str]]:
    """The leases, each in its role, and a linear device beside each portion."""
    targets = []
    skipped = {}
    # Nothing that is mapped can be formatted.
    for lease in LEASES:
        if lease.options and (why := format_disk(vm, lease)):
            skipped[lease.name] = why
    for disk in portion_disks():
        name = f"linear-{disk}"
        make_device(vm, name, f"0 {SECTORS} linear /dev/{disk} {DATA // 512}", must=True)
        targets.append(Target(name, f"/dev/mapper/{name}", linear=name))
    for lease in LEASES:
        if lease.name in skipped:
            continue
        if why := map_lease(vm, lease):
            skipped[lease.name] = why
        else:
            targets.append(lease.target())
    for target in targets:
        if target.role:
            wait_role(vm, target)
    return targets, skipped


def make_device(vm: Vm, name: str, table: str, must: bool = False) -> str:
    """Maps a device; returns why not."""
    vm.run(f"modprobe -q dm-{name}", check=False)
    result = vm.run(f"dmsetup create {name}", check=must, stdin=table.encode() + b"\n")
    return last_line(result.out) if result.rc else ""


def portion_disks() -> list[str]:
    """The disks of portions, each once."""
    return list(dict.fromkeys(lease.disk for lease in LEASES))


def last_line(text: str) -> str:
    """What a command said last."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def format_disk(vm: Vm, lease: Lease) -> str:
    """Makes a disk the only member of a portion; returns why not."""
    command = (
        "leasectl format --force=member,signature,redundancy "
        f"--name {lease.disk} --controllers 1,2 --home 1 --device-delay-ms 100 "
        f"--heartbeat-ms {HEARTBEAT_MS} {lease.options} /dev/{lease.disk}"
    )
    result = vm.run(command, check=False)
    return last_line(result.out) if result.rc else ""


def map_lease(vm: Vm, lease: Lease) -> str:
    """Maps a lease device; returns why not, in the words of the kernel."""
    table = vm.sh(f"leasectl table --controller {lease.controller} /dev/{lease.disk}")
    vm.sh("dmesg -c >/dev/null")
    if not make_device(vm, lease.name, table):
        return ""
    return last_line(vm.sh("dmesg | grep -v 'error adding target'"))


def wait_role(vm: Vm, target: Target, timeout: float = 60) -> None:
    """Waits until a lease device is what it is measured as."""

    def role() -> str:
        return Status.parse(vm.sh(f"dmsetup status --noflush {target.device}")).role

    until(
        lambda: role() == target.role,
        lambda: f"{target.name} is {target.role}, not {role()}",
        timeout,
    )
