# SPDX-License-Identifier: GPL-2.0
"""The other gate that a kernel has for every bio: reservations of an NVMe target.

Two namespaces of an nvmet over its loop transport, on one disk: one without reservations, and one
in which this host holds a reservation that keeps others from writing. The second is compared with
the first, so the transport does not count.
"""

from __future__ import annotations

from rig.array import subsystem
from rig.steps import until
from rig.vm import Vm

PORT = "/sys/kernel/config/nvmet/ports/1"
HOST = "--hostnqn=nqn.2014-08.org.nvmexpress:uuid:{0} --hostid={0}".format(
    "5e0d7f3c-2a51-4a6b-9d1e-000000000001"
)
UNRESERVED, RESERVED = "nvmet", "nvmet-reserved"
WRITE_EXCLUSIVE = 1
KEY = 1


def export(vm: Vm, name: str, disk: str, reserve: bool) -> str:
    """Exports a disk and connects to it; the device node."""
    lines = [
        "set -e; modprobe -a nvmet nvme-loop",
        f"[ -d {PORT} ] || {{ mkdir {PORT}; echo loop >{PORT}/addr_trtype; }}",
        *subsystem(name, disk, PORT, reserve),
        f"nvme connect --transport=loop --nqn={name} {HOST}",
    ]
    vm.sh("\n".join(lines))
    device = wait_device(vm, name)
    if reserve:
        vm.sh(
            f"set -e; nvme resv-register {device} --nrkey={KEY} --rrega=0\n"
            f"nvme resv-acquire {device} --crkey={KEY} --racqa=0 --rtype={WRITE_EXCLUSIVE}\n"
        )
    return device


def wait_device(vm: Vm, name: str, timeout: float = 30) -> str:
    """Waits for the disk of a subsystem; namespaces are found in the background."""
    find = (
        "for s in /sys/class/nvme-subsystem/*; do "
        f'[ "$(cat $s/subsysnqn)" = {name} ] && ls $s | grep -x "nvme[0-9]*n[0-9]*"; done'
    )

    def appeared() -> str:
        found = vm.run(find, check=False).out.split()
        there = found and vm.run(f"[ -b /dev/{found[0]} ]", check=False).rc == 0
        return f"/dev/{found[0]}" if there else ""

    return until(appeared, f"the namespace of {name} appears", timeout)
