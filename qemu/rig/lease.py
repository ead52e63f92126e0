# SPDX-License-Identifier: GPL-2.0
"""The module in the guests of a lab: portions, mapped devices, and their status."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .debian import Debian
from .history import History
from .host import RigError, patience
from .lab import Lab
from .mailbox import OWNER, RELEASED, area, is_beat, mails
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


class Portion:
    """A portion on some members of a lab, the same on every controller that is brought up."""

    def __init__(self, lab: Lab, name: str, members: list[str]) -> None:
        self.lab = lab
        self.name = name
        self.members = members

    def format(self, vm: Vm, options: str) -> str:
        """Formats the members; `options` are those of `leasectl format`."""
        devices = " ".join(f"/dev/lease/{member}" for member in self.members)
        return vm.sh(f"leasectl format --name {self.name} {options} {devices}")

    def number(self, vm: Vm) -> int:
        """The controller number of a guest."""
        return self.lab.vms.index(vm) + 1

    def bring_up(self, vm: Vm, features: str = "") -> None:
        """Loads the module if need be and maps every member as /dev/mapper/<member>."""
        vm.sh(f"[ -d /sys/module/dm_lease ] || insmod {MODULE}")
        for member in self.members:
            table = vm.sh(f"leasectl table --controller {self.number(vm)} /dev/lease/{member}")
            vm.sh("dmsetup create " + member, stdin=f"{table} {features}\n".encode())

    def take_down(self, vm: Vm) -> None:
        """Unmaps every member."""
        vm.sh("dmsetup remove " + " ".join(self.members))

    def device(self, vm: Vm) -> str:
        """The first mapped device: as `bring_up` calls it, or as the package does."""
        return f"lease-{self.name}-0" if isinstance(vm, Debian) else self.members[0]

    def status(self, vm: Vm) -> Status:
        """The status of the portion on one controller, by its first member."""
        return Status.parse(vm.sh(f"dmsetup status --noflush {self.device(vm)}"))

    def message(self, vm: Vm, text: str) -> None:
        """Sends a message of the module, such as `handoff 2`; a refusal raises."""
        vm.sh(f"dmsetup message {self.device(vm)} 0 {text}")

    def hand_over(self, vm: Vm, to: int, timeout: float = 30) -> None:
        """Hands the portion over; the successor may have to listen, or to be closed, before it is
        handed to."""
        deadline = time.monotonic() + patience(timeout)
        while True:
            try:
                return self.message(vm, f"handoff {to}")
            except RigError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def wait(self, vm: Vm, timeout: float = 30, **wanted: object) -> Status:
        """Waits until the named fields have the given values: wait(vm, role="owner", epoch=2)."""
        deadline = time.monotonic() + patience(timeout)
        while True:
            status = self.status(vm)
            if all(getattr(status, field) == value for field, value in wanted.items()):
                return status
            if time.monotonic() > deadline:
                raise RigError(f"{vm.name}: not {wanted}: {status}")
            time.sleep(0.05)

    # What the store saw of the mailboxes.

    def beats_before_claim(self, old: Vm, new: Vm) -> int:
        """How many heartbeats of its own the new owner wrote between the old owner's last heartbeat
        as owner and its own first ballot: the time that it waited, in heartbeats."""
        history, member = self.lab.store.history(), self.members[0]
        last = [
            request.order or 0
            for request in history.changes(member, *area(self.number(old)))
            if request.controller == old.name and any(mail.role == OWNER for mail in mails(request))
        ][-1]
        count = 0
        for request in history.changes(member, *area(self.number(new))):
            if (request.order or 0) < last:
                continue
            if not is_beat(request):
                return count
            count += 1
        raise RigError(f"{new.name} wrote no ballot after {old.name} was gone")

    def told_released(self, vm: Vm, epoch: int) -> list[str]:
        """The members on which a controller has said that it gave an epoch up. The mailbox does not
        say so for long: the controller hears of the next epoch if it stays."""
        history, mine = self.lab.store.history(), area(self.number(vm))
        return [
            member
            for member in self.members
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
        mine, member = area(self.number(vm)), self.members[0]

        def written(history: History) -> int:
            return len(history.changes(member, *mine))

        before = written(self.lab.store.history())
        self.lab.store.wait_history(lambda history: written(history) > before + heartbeats)
