# SPDX-License-Identifier: GPL-2.0
"""A guest with Debian and systemd on a disk of its own, which qemu/disk makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .host import SOURCE, RigError
from .vm import Disk, Vm

# The root of qemu/disk; `quiet` keeps the console for what matters.
APPEND = "root=LABEL=rig-root ro quiet"
MEMORY = 512


class Debian(Vm):
    """Like every guest, but it takes longer, and what it writes to its root stays.

    Disks have the names that udev gives them: /dev/disk/by-id/virtio-<serial>. An orderly end of
    the machine is one of systemd.
    """

    def __init__(self, name: str, directory: Path, disks: list[Disk], cpus: int = 2) -> None:
        root = directory / f"{name}.root"
        subprocess.run([SOURCE / "qemu/disk", root], check=True)
        super().__init__(
            name,
            directory,
            Path(f"{root}.initrd"),
            [Disk("root", root), *disks],
            MEMORY,
            cpus,
            APPEND,
            Path(f"{root}.vmlinuz"),
        )

    def wait_up(self, timeout: float = 120) -> Debian:
        """Waits until systemd has started everything, and all of it works."""
        super().wait_up(timeout)
        state = self.run("systemctl is-system-running --wait", timeout, check=False).out.strip()
        if state != "running":
            failed = self.run("systemctl --failed --no-legend --plain", check=False).out
            raise RigError(f"{self.name} is {state}: {failed}")
        return self

    def reboot(self, timeout: float = 120) -> None:
        """Reboots in an orderly manner; returns when everything is started again."""
        self.shut_down("reboot", timeout)
        self.start().wait_up(timeout)

    def shut_down(self, how: str = "poweroff", timeout: float = 120) -> None:
        """Ends the machine in an orderly manner."""
        self.spawn(f"systemctl {how}")
        self.wait_end(timeout)
