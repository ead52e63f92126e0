# SPDX-License-Identifier: GPL-2.0
"""The database of the demonstration: a file on ext4 on a three-way RAID-1 of the mapped devices of
portion alpha.
"""

from __future__ import annotations

from rig.history import BLOCK
from rig.stage import MIB, Controller, Writer

from .portions import ALPHA

MOUNT = "/mnt/alpha"
MDADM_SETTINGS = "export MDADM_NO_UDEV=1 MDADM_NO_SYSTEMCTL=1"

Runs = list[tuple[int, int, int, int]]
"""Runs of records: controller, epoch, first number, last number."""


def make(controller: Controller) -> None:
    """Makes array and file system."""
    controller.vm.sh(
        f"{MDADM_SETTINGS}\n"
        "yes | mdadm --create /dev/md0 --run --quiet --level=1 --raid-devices=3 --assume-clean "
        "--metadata=1.2 --bitmap=none --data-offset=1M --homehost=any --name=alpha "
        f"{ALPHA.mapped}\n"
        "mke2fs -q -t ext4 -b 4096 -J size=4 -E nodiscard,lazy_itable_init=0 /dev/md0\n"
        f"mkdir -p {MOUNT}; mount -t ext4 /dev/md0 {MOUNT}",
        120,
    )


def open_again(controller: Controller) -> Runs:
    """Assembles and mounts what another controller left; returns the runs of its records."""
    controller.vm.sh(
        f"{MDADM_SETTINGS}\n"
        f"mdadm --assemble --run --quiet /dev/md0 {ALPHA.mapped}\n"
        f"mkdir -p {MOUNT}; mount -t ext4 /dev/md0 {MOUNT}",
        120,
    )
    return controller.runs(f"{MOUNT}/ledger", f"the database on {controller.name}")


def close(controller: Controller) -> None:
    """Unmounts and stops the array."""
    controller.vm.sh(f"umount {MOUNT} && mdadm --stop --quiet /dev/md0", 120)


def wait_clean(controller: Controller) -> None:
    """Waits until the array has levelled out what an unclean end left in its copies."""
    controller.vm.sh(
        "md=/sys/block/md0/md\n"
        "echo 500000 >$md/sync_speed_min; echo 500000 >$md/sync_speed_max\n"
        'while [ "$(cat $md/sync_action)" != idle ]; do sleep 0.1; done',
        120,
    )


def vote(controller: Controller) -> str:
    """Compares the three copies below the stopped array and mends what differs."""
    size = int(controller.vm.sh(f"blockdev --getsize64 /dev/mapper/{ALPHA.devices[0]}"))
    return controller.vm.sh(f"ledger vote {MIB} {size // BLOCK * BLOCK} {ALPHA.mapped}")


def write(controller: Controller, pause_us: int = 20_000) -> Writer:
    """Starts to append to the database."""
    command = f"exec ledger file {controller.number} {pause_us} {ALPHA.devices[0]} {MOUNT}/ledger"
    return controller.stage.writer(controller, ALPHA, command, in_file=True)
