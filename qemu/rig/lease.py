# SPDX-License-Identifier: GPL-2.0
"""The module in the guests of a lab: portions, mapped devices, and their status."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .agent import Result
from .debian import Debian
from .history import History
from .host import RigError, leasectl
from .lab import Lab
from .mailbox import OWNER, RELEASED, area, is_heartbeat, mails
from .steps import until
from .vm import Vm

MODULE = "/usr/lib/rig/modules/dm_lease.ko"


@dataclass(frozen=True)
class Status:
    """The status line of one mapped device; fields that the module answers with `-` are None."""

    portion: str
    member: str
    role: str
    epoch: int | None
    owner: int | None
    left_ms: int | None
    heartbeat: int | None
    permits: str
    pending: int | None
    refused: int | None
    late: int | None
    members_ok: int | None
    reason: str
    charged: int | None
    """None when what is charged has no limit."""
    peak: int | None
    degraded: int | None

    @property
    def known_epoch(self) -> int:
        """The epoch, of a controller that must know one."""
        if self.epoch is None:
            raise RigError(f"no epoch is known: {self}")
        return self.epoch

    @classmethod
    def parse(cls, line: str) -> Status:
        """Reads `<start> <length> lease <field>...`; fields appended later are ignored."""
        words = line.split()[3:]
        if len(words) < 16:
            raise RigError(f"no status of a lease device: {line}")
        number = [int(word) if word.isdigit() else None for word in words]
        return cls(
            portion=words[0],
            member=words[1],
            role=words[2],
            epoch=number[3],
            owner=number[4],
            left_ms=number[5],
            heartbeat=number[6],
            permits=words[7],
            pending=number[8],
            refused=number[9],
            late=number[10],
            members_ok=number[11],
            reason=words[12],
            charged=number[13],
            peak=number[14],
            degraded=number[15],
        )


@dataclass(frozen=True)
class Portion:
    """Devices that are owned together: for each member a disk of the lab, and a mapped device on
    every controller."""

    name: str
    disks: tuple[str, ...]
    """The lab's names of the members."""
    devices: tuple[str, ...]
    """The names of the mapped devices, in the same order."""
    home: int = 1
    """The controller that owns it first."""

    @property
    def members(self) -> list[str]:
        """The members as devices of a guest."""
        return [f"/dev/lease/{disk}" for disk in self.disks]

    @property
    def mapped(self) -> str:
        """The mapped devices as words of a command."""
        return " ".join(f"/dev/mapper/{device}" for device in self.devices)

    def device(self, vm: Vm, member: int = 0) -> str:
        """A mapped device of a guest; the package has names of its own."""
        return f"lease-{self.name}-{member}" if isinstance(vm, Debian) else self.devices[member]

    def status(self, vm: Vm, member: int = 0) -> Status:
        """The status of the portion on one controller, by one of its devices."""
        return Status.parse(vm.sh(f"dmsetup status --noflush {self.device(vm, member)}"))

    def ask(self, vm: Vm, text: str) -> Result:
        """Sends a message of the module, such as `handoff 2`, which may be refused."""
        return vm.run(f"dmsetup message {self.device(vm)} 0 {text}", check=False)

    def message(self, vm: Vm, text: str) -> None:
        """Sends a message of the module; a refusal raises."""
        result = self.ask(vm, text)
        if result.rc:
            raise RigError(f"{vm.name}: {self.name}: {text}: {result.out}")

    def hand_over(self, vm: Vm, to: int, timeout: float = 30) -> None:
        """Hands the portion over. The module refuses while the successor still listens, or while a
        program there keeps its mapped devices open; so this tries again."""
        said = ""

        def granted() -> bool:
            nonlocal said
            rc, said = self.ask(vm, f"handoff {to}")
            return rc == 0

        until(granted, lambda: f"{self.name} is handed over to {to}: {said}", timeout, 0.05)

    def wait(self, vm: Vm, timeout: float = 30, **wanted: object) -> Status:
        """Waits until the named fields have the given values: wait(vm, role="owner", epoch=2)."""
        status: Status | None = None

        def reached() -> Status | None:
            nonlocal status
            status = self.status(vm)
            fits = all(getattr(status, field) == value for field, value in wanted.items())
            return status if fits else None

        return until(reached, lambda: f"{vm.name}: {wanted}: {status}", timeout, 0.05)


@dataclass(frozen=True)
class LabPortion(Portion):
    """A portion on some members of a lab, mapped as /dev/mapper/<member> on every controller that
    is brought up; it also answers what the store saw of the mailboxes."""

    lab: Lab = field(kw_only=True)

    @classmethod
    def on(cls, lab: Lab, name: str, members: Sequence[str]) -> LabPortion:
        """A portion of this name on these members of a lab."""
        return cls(name, tuple(members), tuple(members), lab=lab)

    def format(self, vm: Vm, options: str) -> str:
        """Formats the members; `options` are those of `leasectl format`."""
        return vm.sh(f"leasectl format --name {self.name} {options} {' '.join(self.members)}")

    def number(self, vm: Vm) -> int:
        """The controller number of a guest."""
        return self.lab.vms.index(vm) + 1

    def bring_up(self, vm: Vm, features: str = "") -> None:
        """Loads the module if need be and maps every member."""
        vm.sh(f"[ -d /sys/module/dm_lease ] || insmod {MODULE}")
        for member, device in zip(self.members, self.devices, strict=True):
            table = vm.sh(f"leasectl table --controller {self.number(vm)} {member}")
            vm.sh("dmsetup create " + device, stdin=f"{table} {features}\n".encode())

    def take_down(self, vm: Vm) -> None:
        """Unmaps every member."""
        vm.sh("dmsetup remove " + " ".join(self.devices))

    # What the store saw of the mailboxes.

    def beats_before_claim(self, old: Vm, new: Vm) -> int:
        """How many heartbeats of its own the new owner wrote between the old owner's last heartbeat
        as owner and its own first ballot: the time that it waited, in heartbeats."""
        history, member = self.lab.store.history(), self.disks[0]
        last = [
            request.order or 0
            for request in history.changes(member, *area(self.number(old)))
            if request.controller == old.name and any(mail.role == OWNER for mail in mails(request))
        ][-1]
        count = 0
        for request in history.changes(member, *area(self.number(new))):
            if (request.order or 0) < last:
                continue
            if not is_heartbeat(request):
                return count
            count += 1
        raise RigError(f"{new.name} wrote no ballot after {old.name} was gone")

    def told_released(self, vm: Vm, epoch: int) -> list[str]:
        """The members on which a controller has said that it gave an epoch up. The mailbox does not
        say so for long: the controller hears of the next epoch if it stays."""
        history, mine = self.lab.store.history(), area(self.number(vm))
        return [
            member
            for member in self.disks
            if any(
                (mail.role, mail.epoch) == (RELEASED, epoch)
                for request in history.changes(member, *mine)
                if request.controller == vm.name
                for mail in mails(request)
            )
        ]

    def settle(self, vm: Vm, heartbeats: int) -> None:
        """Waits until a controller that came lately may write ballots: it listens once more for a
        window, which is shorter than so many heartbeats, after its first record [R36]."""
        mine, member = area(self.number(vm)), self.disks[0]

        def written(history: History) -> int:
            return len(history.changes(member, *mine))

        before = written(self.lab.store.history())
        self.lab.store.wait_history(lambda history: written(history) > before + heartbeats)


def member_disks(index: int, members: int = 3) -> tuple[str, ...]:
    """The members of a portion in a lab with several of them, counted from 0."""
    return tuple(f"p{index}m{member}" for member in range(members))


def show(images: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What `leasectl show` reads from raw images."""
    command: list[str | Path] = [leasectl(), "show", "--json", *images]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(said.stdout)
    return found
