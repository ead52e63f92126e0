# SPDX-License-Identifier: GPL-2.0
"""The other gate that a kernel has for every bio: reservations of an NVMe target.

Two namespaces of an nvmet over its loop transport, on one disk: one without reservations, and one
in which this host holds a reservation that keeps others from writing. The second is compared with
the first, so the transport does not count.
"""

from __future__ import annotations

from rig.steps import until
from rig.vm import Vm

ROOT = "/sys/kernel/config/nvmet"
HOST = "--hostnqn=nqn.2014-08.org.nvmexpress:uuid:{0} --hostid={0}".format(
    "5e0d7f3c-2a51-4a6b-9d1e-000000000001"
)
UNRESERVED, RESERVED = "nvmet", "nvmet-reserved"
WRITE_EXCLUSIVE = 1
KEY = 1


def export(vm: Vm, name: str, disk: str, reserve: bool) -> str:
    """Exports a disk and connects to it; the device node."""
    subsystem, port = f"{ROOT}/subsystems/{name}", f"{ROOT}/ports/1"
    vm.sh(
        "set -e; modprobe -a nvmet nvme-loop\n"
        f"mkdir {subsystem}; echo 1 >{subsystem}/attr_allow_any_host\n"
        f"mkdir {subsystem}/namespaces/1; cd {subsystem}/namespaces/1\n"
        f"echo -n {disk} >device_path; echo {int(reserve)} >resv_enable; echo 1 >enable\n"
        f"[ -d {port} ] || {{ mkdir {port}; echo loop >{port}/addr_trtype; }}\n"
        f"ln -s {subsystem} {port}/subsystems/\n"
        f"nvme connect --transport=loop --nqn={name} {HOST}\n"
    )
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
