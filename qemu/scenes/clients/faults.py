# SPDX-License-Identifier: GPL-2.0
"""What can happen to a controller while clients use it.

Every fault ends healed: both controllers run and watch or own both portions. It waits for its own
consequences, and, where a controller is away, for the client to go on without it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from rig import Vm, until
from rig.mailbox import DATA

from .appliance import PORTIONS, Appliance, ExportedPortion
from .client import Client


class Faults:
    """The faults, on one appliance and its client."""

    def __init__(self, appliance: Appliance, client: Client, rng: random.Random) -> None:
        self.appliance = appliance
        self.client = client
        self.rng = rng
        self.store = appliance.lab.store

    def owned(self, vm: Vm) -> list[ExportedPortion]:
        """The portions that a controller owns."""
        return [portion for portion in PORTIONS if self.appliance.owner(portion) is vm]

    def goes_on(self) -> None:
        """Waits for all users of the client to go on."""
        self.client.wait_more(self.client.successes())

    def taken(self, portions: list[ExportedPortion], by: Vm) -> None:
        """Waits for a controller to own these portions."""
        for portion in portions:
            self.appliance.wait_owner(portion, [by])

    def back(self, vm: Vm) -> None:
        """Waits for a controller to take part again."""
        for portion in PORTIONS:
            self.appliance.wait_secondary(vm, portion)

    def boot(self, vm: Vm) -> None:
        """Switches a controller on and waits for it to take part."""
        vm.start().wait_up()
        self.appliance.bring_up(vm)
        self.back(vm)

    # Away, and back with everything it knew.

    def stall_short(self, vm: Vm) -> None:
        """stands still until the other one owns everything, and goes on at once: the client still
        has writes under way to it"""
        owned = self.owned(vm)
        vm.freeze()
        self.taken(owned, self.appliance.other(vm))
        vm.thaw()
        self.back(vm)

    def stall_long(self, vm: Vm) -> None:
        """stands still until the client has given it up and gone on"""
        owned = self.owned(vm)
        vm.freeze()
        self.taken(owned, self.appliance.other(vm))
        address = self.appliance.address(vm)
        until(lambda: self.client.paths()[address] != "live", "the client gives up a path")
        self.goes_on()
        vm.thaw()
        self.back(vm)

    def blink(self, vm: Vm) -> None:
        """stands still for less than a lease"""
        vm.freeze()
        time.sleep(self.rng.uniform(0.1, 0.8))
        vm.thaw()
        self.back(vm)

    def stall_unserved(self, vm: Vm) -> None:
        """stands still, and its service is not there when it comes back, but a little later"""
        self.appliance.kill_service(vm)
        self.stall_short(vm)
        time.sleep(self.rng.uniform(0.0, 3.0))
        self.appliance.start_service(vm)

    # Away, and back with nothing.

    def power_cut(self, vm: Vm) -> None:
        """loses its power"""
        owned = self.owned(vm)
        vm.power_cut()
        self.taken(owned, self.appliance.other(vm))
        self.goes_on()
        self.boot(vm)

    def reboot(self, vm: Vm) -> None:
        """reboots in good order"""
        owned = self.owned(vm)
        vm.spawn("reboot -f")
        vm.wait_end()
        self.taken(owned, self.appliance.other(vm))
        self.goes_on()
        self.boot(vm)

    # What an operator does.

    def hand_over(self, vm: Vm) -> None:
        """hands everything that it owns over"""
        for portion in self.owned(vm):
            self.appliance.hand_over(portion, self.appliance.other(vm))

    def release(self, vm: Vm) -> None:
        """releases everything that it owns"""
        for portion in self.owned(vm):
            portion.ask(vm, "release")
            self.appliance.wait_owner(portion)

    def lose(self, vm: Vm, portion: ExportedPortion) -> None:
        """Waits until a controller owns a portion no longer."""
        until(lambda: portion.status(vm).role != "owner", f"{vm.name} has lost {portion.name}")

    def fence(self, vm: Vm) -> None:
        """is fenced by its operator"""
        for portion in self.owned(vm):
            portion.ask(vm, "fence")
            self.lose(vm, portion)
            # Both wait for the window; who is first is chance.
            self.appliance.wait_owner(portion)

    # What happens to cables and disks.

    def cable(self, vm: Vm) -> None:
        """loses its cable to the client, and its operator hands its portions over"""
        link = self.appliance.number(vm) - 1
        self.client.vm.unplug(link)
        for portion in self.owned(vm):
            self.appliance.hand_over(portion, self.appliance.other(vm))
        self.goes_on()
        self.client.vm.plug(link)

    def mailboxes(self, vm: Vm) -> None:
        """cannot reach its mailboxes any more"""
        owned = self.owned(vm)
        # Not flushes: they are of the whole disk, and a client's that hangs there is given up only
        # by its own time-out of 30 s.
        with self.store.hold(vm.name, ops="RW", end=DATA):
            self.taken(owned, self.appliance.other(vm))
            self.goes_on()
        self.back(vm)

    def dead_mailbox(self, vm: Vm) -> None:
        """has one member of each portion whose mailboxes fail"""
        member = f"*m{self.rng.randrange(3)}"
        rules = [
            self.store.fail(vm.name, member.replace("*", f"p{portion.index}"), ops="RW", end=DATA)
            for portion in PORTIONS
        ]
        self.goes_on()
        for rule in rules:
            rule.release()

    def slow_disks(self, vm: Vm) -> None:
        """gets its disks' answers late"""
        with self.store.delay(vm.name, "*", self.rng.randrange(20, 100)):
            self.goes_on()

    def all(self) -> list[Callable[[Vm], None]]:
        """Every fault."""
        return [
            self.stall_short,
            self.stall_long,
            self.blink,
            self.stall_unserved,
            self.power_cut,
            self.reboot,
            self.hand_over,
            self.release,
            self.fence,
            self.cable,
            self.mailboxes,
            self.dead_mailbox,
            self.slow_disks,
        ]
