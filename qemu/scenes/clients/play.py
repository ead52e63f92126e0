# SPDX-License-Identifier: GPL-2.0
"""The scenes: what is planned, what is left to chance, and what must fail."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from rig import Lab, Vm, expect, stamp, until
from rig.mailbox import DATA

from .appliance import ALPHA, PORTIONS, Appliance, ExportedPortion
from .client import Client, Stamper, Verifier
from .faults import Faults
from .judge import landings


class Pause(NamedTuple):
    """The longest time without a success that a fault cost any user."""

    what: str
    ms: float


class Play:
    """One run: set-up, scenes, judgement."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.appliance = Appliance(lab)
        addresses = [self.appliance.address(vm) for vm in lab.vms]
        self.client = Client(lab.clients[0], addresses)
        self.rng = random.Random(seed)
        self.faults = Faults(self.appliance, self.client, self.rng)
        self.pauses: list[Pause] = []
        self.bar_ms = 0.0
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        """One line of the run."""
        print(f"[{time.monotonic() - self.begun:6.1f}] {text}", flush=True)

    def set_up(self) -> None:
        """Both portions, exported twice; a client with four users."""
        window_ms = self.appliance.format()
        for vm in self.lab.vms:
            self.appliance.bring_up(vm)
        for portion in PORTIONS:
            # Whoever boots late may find that the other one has stood in.
            self.appliance.wait_owner(portion)
            self.appliance.hand_over(portion, self.lab.vm(portion.home))
        self.client.connect()
        settings = self.client.settings()
        self.say("client settings: " + ", ".join(f"{k} {v}" for k, v in settings.items()))
        self.bar_ms = window_ms + int(settings["kato"]) * 1000 + 2000
        self.say(
            f"W is {window_ms:.0f} ms; a pause may be W + keep-alive time (kato) + 2 s = "
            f"{self.bar_ms:.0f} ms"
        )
        self.client.start_users()
        self.client.wait_more(self.client.successes())
        self.say("controller 1 owns alpha, controller 2 owns beta; database, writers and fio run")

    def disturb(self, fault: Callable[[Vm], None], vm: Vm) -> None:
        """One fault, and the pause that it cost."""
        owned = ", ".join(portion.name for portion in self.faults.owned(vm)) or "nothing"
        what = f"{vm.name} (owner of {owned}) {' '.join((fault.__doc__ or '').split())}"
        before = self.client.successes()
        fault(vm)
        self.faults.goes_on()
        pauses = self.client.pauses_ms(before)
        self.pauses.append(Pause(what, max(pauses.values())))
        shown = ", ".join(f"{name} {ms:.0f} ms" for name, ms in pauses.items())
        self.say(f"{what}\n{'':9}longest pause: {shown}")

    def reads(self) -> None:
        """Both controllers serve reads of both portions at once, owner or not."""
        for vm in self.lab.vms:
            for portion in PORTIONS:
                self.appliance.export_reads(vm, portion, 2)
        self.client.connect_reads()
        known = len(self.lab.store.history().requests)
        writers = zip(
            PORTIONS, [u for u in self.client.users if isinstance(u, Stamper)], strict=True
        )
        for portion, writer in writers:
            device = self.client.read_device(portion, 2)
            wrong = writer.check(device)
            expect(not wrong, f"what was acknowledged is read through either controller: {wrong}")
            expect(not self.client.kernel_errors(), f"no errors: {self.client.kernel_errors()}")
            told = stamp.told(self.client.vm.run(f"stamp {device} 9 9 0 1 1 0").out)
            expect(told[0].errno, "nobody writes through an export for reading")
            self.client.provoked.update(self.client.kernel_errors())
            requests = list(self.lab.store.history().requests.values())[known:]
            readers = Counter(
                r.controller
                for r in requests
                if (r.op, r.member) == ("R", writer.member) and r.offset >= DATA
            )
            expect(min(readers[vm.name] for vm in self.lab.vms) > 0, f"both read: {readers}")
            self.say(f"{portion.name} was read through both controllers at once: {dict(readers)}")
        self.client.disconnect_reads()

    def planned(self) -> None:
        """Stall, hand-over, power cut, return."""
        one, two = self.lab.vms
        self.disturb(self.faults.stall_short, one)
        self.go_home()
        self.disturb(self.faults.stall_long, one)
        self.go_home()
        self.disturb(self.faults.power_cut, two)
        self.go_home()

    def go_home(self) -> None:
        """Hands every portion to its home."""
        for portion in PORTIONS:
            home = self.lab.vm(portion.home)
            owner = self.appliance.wait_owner(portion)

            def back(_: Vm, portion: ExportedPortion = portion, home: Vm = home) -> None:
                """hands one of them back to its home"""
                self.appliance.hand_over(portion, home)

            if owner is not home:
                self.disturb(back, owner)

    def rounds(self, count: int) -> None:
        """Faults by chance; the same seed gives the same faults."""
        faults = self.faults.all()
        deck: list[Callable[[Vm], None]] = []
        for number in range(1, count + 1):
            # Each of them comes once before any comes twice.
            if not deck:
                deck = self.rng.sample(faults, len(faults))
            self.say(f"round {number} of {count}")
            victim = self.appliance.wait_owner(self.rng.choice(PORTIONS))
            if self.rng.random() < 0.2:
                victim = self.appliance.other(victim)
            self.disturb(deck.pop(), victim)

    def finish(self) -> list[str]:
        """Ends the users, and lets client, disks and clock judge; what is wrong."""
        wrong = self.client.finish()
        history = self.lab.store.history()
        for user in self.client.users:
            if isinstance(user, Stamper):
                landed = landings(stamp.landed(history, user.member))
                lost = stamp.lost(history, user.member, 9, 1, user.job.out)
                wrong += [f"{user.name}: acknowledged and not there: {told}" for told in lost]
                wrong += [f"{user.name}: replaced what was newer: {s}" for s in landed.older]
                by = ", ".join(f"{n} by {c}" for c, n in sorted(landed.by.items()))
                self.say(
                    f"{user.name}: {len(user.times)} acknowledged, {len(lost)} lost; landed: {by}; "
                    f"{landed.repeated} twice, late"
                )
            elif isinstance(user, Verifier):
                self.say(f"fio: {user.summary() if user.result else 'no result'}")
            else:
                self.say(f"database: {len(user.times)} transfers durable; checked, sound")
        worst = max(self.pauses, key=lambda pause: pause.ms)
        self.say(f"longest pause of all: {worst.ms:.0f} ms of {self.bar_ms:.0f}: {worst.what}")
        late = [pause for pause in self.pauses if pause.ms > self.bar_ms]
        return wrong + [f"paused for {pause.ms:.0f} ms: {pause.what}" for pause in late]

    # What must fail: the rig could not see an error otherwise, and the order would not matter.

    def planted(self) -> None:
        """A lapse without the right order is an error that the client sees."""
        one, _ = self.lab.vms
        self.appliance.hand_over(ALPHA, one)
        self.wrong_order(one)
        self.appliance.hand_over(ALPHA, one)
        self.no_hold(one)

    def wrong_order(self, vm: Vm) -> None:
        """`drop` while the group is still optimized."""
        writer = self.victim()
        vm.sh("pkill -STOP leasectl")
        self.faults.stall_short(vm)
        expect(self.appliance.ana(vm, ALPHA) == "optimized", "nobody has switched the group yet")
        expect(not writer.errors(), "what is kept has not failed yet")
        ALPHA.ask(vm, "drop")
        until(lambda: writer.errors(), "the client sees an error after drop in the wrong order")
        self.say(f"planted: drop before inaccessible: the client saw {writer.errors()[0]}")
        vm.sh("pkill -CONT leasectl")
        writer.stop()

    def no_hold(self, vm: Vm) -> None:
        """Nothing is kept: the writes fail before anybody can switch the group."""
        lines = []
        for number, path in enumerate(ALPHA.members, 1):
            table = f"leasectl table --controller 1 --stateless --fail-with medium {path}"
            device = f"{ALPHA.name}-{number}"
            lines.append(f"{table} | dmsetup reload {device} && dmsetup resume {device} || exit 1")
        vm.sh("\n".join(lines))
        writer = self.victim()
        self.faults.stall_short(vm)
        until(lambda: writer.errors(), "the client sees an error without lapse_hold_ms")
        self.say(f"planted: no lapse_hold_ms: the client saw {writer.errors()[0]}")
        writer.stop()

    def victim(self) -> Stamper:
        """A writer on alpha, under way."""
        writer = Stamper(self.client, ALPHA, 3)
        until(lambda: len(writer.times_ms()) > 5, "the victim writes")
        return writer
