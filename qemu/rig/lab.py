# SPDX-License-Identifier: GPL-2.0
"""Several controllers that share the disks of one store: the set-up of every multi-VM run.

    with Lab("example", controllers=2, members=3) as lab:
        a, b = lab.vms
        with lab.store.hold(a.name, "m0", ops="W"):
            ...

Everything is below .build/run/<name>: images, the store's log, a console log per controller. The
directory is emptied at the start and kept at the end.
"""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from .host import BUILD, SUFFIX, RigError, build
from .store import Store
from .vm import Disk, Vm

MIB = 1 << 20


class Lab:
    """Controllers c1, c2, ... with the same members m0, m1, ... of one store."""

    def __init__(
        self,
        name: str,
        controllers: int = 2,
        members: int = 3,
        portions: int = 1,
        size: int = 64 * MIB,
        model: str = "virtio-blk",
        memory: int = 256,
        cpus: int = 1,
        append: str = "",
        allow: str | None = None,
    ) -> None:
        """With several portions the members are called p0m0, p0m1, ..., p1m0, ...

        `allow` is a pattern of kernel complaints that the run provokes on purpose.
        """
        self.name = name
        self.model = model
        self.allow = allow
        self.directory = BUILD / "run" / f"{name}{SUFFIX}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        if portions == 1:
            names = [f"m{m}" for m in range(members)]
        else:
            names = [f"p{p}m{m}" for p in range(portions) for m in range(members)]
        initramfs = build("controller")
        self.store = Store(self.directory, {member: size for member in names})
        self.vms: list[Vm] = []
        for number in range(1, controllers + 1):
            controller = f"c{number}"
            disks = [
                Disk(member, (self.store.socket, f"{controller}/{member}"), model)
                for member in names
            ]
            self.vms.append(Vm(controller, self.directory, initramfs, disks, memory, cpus, append))

    def vm(self, number: int) -> Vm:
        """Controller `number`, counted from 1 as the module does."""
        return self.vms[number - 1]

    def start(self) -> None:
        """Switches all controllers on and waits until they are up."""
        for vm in self.vms:
            vm.start()
        for vm in self.vms:
            vm.wait_up()

    def complaints(self) -> dict[str, list[str]]:
        """What the kernels complained about, by controller; empty is good."""
        found = {vm.name: vm.console.complaints(self.allow) for vm in self.vms}
        return {name: lines for name, lines in found.items() if lines}

    def close(self) -> None:
        """Ends everything at once."""
        for vm in self.vms:
            vm.power_cut()
        self.store.close()

    def __enter__(self) -> Lab:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for vm in self.vms:
                sys.stderr.write(f"--- end of {vm.console.path}\n{vm.console.tail()}")
        self.close()
        if error is None and (complaints := self.complaints()):
            raise RigError(f"kernels complained: {complaints}")
