# SPDX-License-Identifier: GPL-2.0
"""Several controllers that share the disks of one store: the set-up of every multi-VM run.

With `clients` there are also guests without disks, each with a cable to every controller: eth0 of
client i leads to controller 1, eth1 to controller 2, and so on; eth<i> of a controller to client i.

    with Lab("example", controllers=2, members=3) as lab:
        a, b = lab.vms
        with lab.store.hold(a.name, "m0", ops="W"):
            ...

With `model="nvmet"` or `"lio"` the disks are those of a further guest, an array with reservations,
and come to the controllers over a network (rig/array.py). With any other model they are plain disks
of each controller's machine. A scene does not see the difference.

Everything is below .build/run/<name>: images, the store's log, a console log per controller. The
directory is emptied at the start and kept at the end.
"""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from . import array
from .host import BUILD, SUFFIX, RigError, build
from .store import Store
from .vm import Disk, Link, Vm

MIB = 1 << 20


def member_names(members: int, portions: int, spares: int) -> list[str]:
    """The names of all disks of a lab."""
    if portions == 1:
        names = [f"m{m}" for m in range(members)]
    else:
        names = [f"p{p}m{m}" for p in range(portions) for m in range(members)]
    return names + [f"p{p}s{s}" for p in range(portions) for s in range(spares)]


def all_cables(
    kind: int, controllers: int, others: int
) -> dict[tuple[int, int], tuple[Link, Link]]:
    """A cable from each controller to each of some other guests, by their numbers. `kind` makes the
    addresses of the network cards differ."""
    return {
        (peer, other): Link.cable(f"52:54:00:{kind:02x}:{peer:02x}:{other:02x}",
                                  f"52:54:00:{kind + 1:02x}:{peer:02x}:{other:02x}")
        for peer in range(1, controllers + 1)
        for other in range(1, others + 1)
    }  # fmt: skip


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
        profile: str = "controller",
        clients: int = 0,
        client_memory: int = 512,
        spares: int = 0,
    ) -> None:
        """With several portions the members are called p0m0, p0m1, ..., p1m0, ... `spares` is the
        number of further disks for each of them: p0s0, ...

        `allow` is a pattern of complaints that the run provokes on purpose. `profile` is the
        initramfs of the controllers; that of clients is `client`.
        """
        self.name = name
        self.model = model
        self.allow = allow
        self.directory = BUILD / "run" / f"{name}{SUFFIX}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        names = member_names(members, portions, spares)
        is_remote = model in array.MODELS
        initramfs = build(f"{profile}+{model}" if is_remote else profile)
        self.store = Store(
            self.directory,
            dict.fromkeys(names, size),
            array.NAME if is_remote else None,
            array.authors(controllers) if is_remote else None,
        )
        cables = all_cables(0, controllers, clients)
        trunks = all_cables(2, controllers, 1 if is_remote else 0)
        self.array = self._array([ends[1] for ends in trunks.values()]) if is_remote else None
        """The guest that the controllers get their disks from, if they do not have them."""
        self.vms: list[Vm] = []
        for number in range(1, controllers + 1):
            controller = f"c{number}"
            disks = [] if is_remote else self._disks(controller, model)
            links = [
                ends[0] for (peer, _), ends in [*cables.items(), *trunks.items()] if peer == number
            ]
            script = array.connect_script(model, names, number, clients) if is_remote else ""
            vm = Vm(
                controller, self.directory, initramfs, disks, memory + array.MEMORY * is_remote,
                cpus, append, links=links, on_up=script,
            )  # fmt: skip
            self.vms.append(vm)
        self.clients: list[Vm] = []
        for number in range(1, clients + 1):
            links = [ends[1] for (_, peer), ends in cables.items() if peer == number]
            image = build("client")
            client = Vm(f"client{number}", self.directory, image, [], client_memory, links=links)
            self.clients.append(client)

    def _array(self, links: list[Link]) -> Vm:
        """The array, with a cable to each controller."""
        members = [*self.store.members]
        return Vm(
            array.NAME,
            self.directory,
            build("array"),
            self._disks(array.NAME, "virtio-blk"),
            links=links,
            on_up=array.export_script(self.model, members, len(links)),
        )

    def _disks(self, machine: str, model: str) -> list[Disk]:
        """All members, as disks of a machine."""
        return [
            Disk(member, (self.store.socket, f"{machine}/{member}"), model)
            for member in self.store.members
        ]

    @property
    def guests(self) -> list[Vm]:
        """The array first, as the controllers wait for it; then controllers and clients."""
        return [*([self.array] if self.array else []), *self.vms, *self.clients]

    def vm(self, number: int) -> Vm:
        """Controller `number`, counted from 1 as the module does."""
        return self.vms[number - 1]

    def start(self) -> None:
        """Switches all guests on and waits until they are up."""
        for vm in self.guests:
            vm.start()
        for vm in self.guests:
            vm.wait_up()

    def complaints(self) -> dict[str, list[str]]:
        """What the kernels complained about, by guest; empty is good."""
        found = {vm.name: vm.console.complaints(self.allow) for vm in self.guests}
        return {name: lines for name, lines in found.items() if lines}

    def close(self) -> None:
        """Ends everything at once."""
        for vm in self.guests:
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
            for vm in self.guests:
                sys.stderr.write(f"--- end of {vm.console.path}\n{vm.console.tail()}")
        self.close()
        if error is None and (complaints := self.complaints()):
            raise RigError(f"kernels complained: {complaints}")
