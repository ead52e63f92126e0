# SPDX-License-Identifier: GPL-2.0
"""A guest under the translator with the counting plugin."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from ..host import BUILD, SOURCE
from ..vm import Vm

# The emulated HPET costs a device access per clock reading, which no machine of today pays, so here
# the clock is the TSC. `nohz=off` and the like would change the kernel that is measured.
SLOW_CLOCK = "clocksource=hpet tsc=unstable"
CLOCK = "clocksource=tsc tsc=reliable"


def build_plugin() -> Path:
    """Compiles the plugin."""
    output = BUILD / "count-plugin.so"
    output.parent.mkdir(parents=True, exist_ok=True)
    command = "gcc -shared -fPIC -O2 -Wall -Wextra -Werror -fvisibility=hidden -o".split()
    subprocess.run([*command, output, SOURCE / "qemu/rig/count/plugin.c"], check=True)
    return output


class CountingVm(Vm):
    """A guest whose instructions are counted: always emulated, whatever else would work."""

    def __init__(
        self,
        name: str,
        directory: Path,
        initramfs: Path,
        cpus: int = 1,
        stores: bool = False,
        append: str = "",
    ) -> None:
        super().__init__(name, directory, initramfs, [], 512, cpus, append)
        self.records = directory / f"{name}.count"
        plugin = f"{build_plugin()},out={self.records}"
        self.plugin = plugin + (",stores=on" if stores else "")

    def _arguments(self, ends: dict[str, socket.socket]) -> list[str]:
        words = super()._arguments(ends)
        words[words.index("-append") + 1] = words[words.index("-append") + 1].replace(
            SLOW_CLOCK, CLOCK
        )
        words[words.index("-accel") + 1] = "tcg,thread=multi"
        if "-cpu" in words:
            words[words.index("-cpu") + 1] = "max"
        return [*words, "-plugin", self.plugin]
