# SPDX-License-Identifier: GPL-2.0
"""The scenes. Each says what it does, does it, and checks what the controllers show of it.

What reached the disks is judged afterwards, by somebody else (`checker`).
"""

from __future__ import annotations

import errno
import time

from rig import expect
from rig.mailbox import DATA
from rig.stage import Controller, Stage, StagePortion, Told, Writer

from . import database
from .portions import ALPHA, BETA, PORTIONS


class Play:
    """The scenes in their order; each one finds what the one before it left."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.one = stage.controller(1)
        self.two = stage.controller(2)
        self.database: Writer | None = None
        self.raw: Writer | None = None

    def run(self) -> None:
        """Plays all scenes."""
        stage = self.stage
        stage.say("formatting two portions of three members each")
        stage.format()
        stage.say("switching on controllers 1 and 2")
        stage.lab.start()
        for letter, scene in (
            ("a", self.ownership), ("b", self.stall), ("c", self.handoff), ("d", self.power),
            ("e", self.members),
        ):  # fmt: skip
            title = (scene.__doc__ or "").splitlines()[0]
            print(f"\nscene {letter}: {title}", flush=True)
            with stage.span("scene", letter=letter, title=title):
                scene()
        self.end()
        stage.complete = True

    def ownership(self) -> None:
        """both own their portion; each is refused on the other's; both read both"""
        stage, one, two = self.stage, self.one, self.two
        for controller in (one, two):
            controller.join()
        for controller, portion in ((one, ALPHA), (two, BETA)):
            status = controller.wait_role(portion, "owner")
            stage.say(
                f"controller {controller.number} owns {portion.name}, epoch {status.epoch}, "
                f"lease good for {status.left_ms} ms more"
            )
        one.wait_role(BETA, "secondary")
        two.wait_role(ALPHA, "secondary")
        database.make(one)
        stage.say(
            "controller 1: three-way RAID-1 and ext4 on alpha's lease devices; its database runs"
        )
        self.database = database.write(one)
        self.raw = two.write_raw(BETA)
        self.database.wait_more(20)
        self.raw.wait_more(60)
        for controller, portion in ((one, BETA), (two, ALPHA)):
            self.refused(controller, portion)
        for controller in (one, two):
            for portion in PORTIONS:
                owner = portion.home
                counts = controller.fingers(portion)
                expect(counts.get((owner, 1), 0) > 0, f"{controller.name} reads {portion.name}")
                expect(set(counts) == {(owner, 1)}, f"only controller {owner} wrote {portion.name}")
                stage.say(
                    f"controller {controller.number} reads {portion.name} from its lease devices: "
                    f"{sum(counts.values())} sound records, all by controller {owner}"
                )

    def refused(self, controller: Controller, portion: StagePortion) -> None:
        """A secondary's write ends before any disk sees it."""
        begun = time.monotonic_ns()
        result = controller.vm.run(
            f"dd if=/dev/zero of=/dev/mapper/{portion.devices[0]} bs=4k count=1 oflag=direct",
            check=False,
        )
        expect(result.rc != 0, f"{controller.name} must not write {portion.name}")
        expect((controller.status(portion).refused or 0) > 0, "the refusal is counted")
        sent = [
            request
            for disk in portion.disks
            for request in self.stage.lab.store.history().select(controller.name, disk, "WTZ", DATA)
            if request.received > begun
        ]
        expect(not sent, f"no disk of {portion.name} saw the write of {controller.name}")
        self.stage.say(
            f"controller {controller.number} is refused on {portion.name}: "
            f"{result.out.splitlines()[0]}; no disk saw it"
        )

    def stall(self) -> None:
        """controller 1 stalls while it writes; controller 2 takes alpha; controller 1 comes back"""
        stage, one, two = self.stage, self.one, self.two
        assert self.database and self.raw
        window_ms = stage.window_ms(ALPHA)
        self.database.wait_more(20)
        # The fabric keeps what controller 1 writes now for longer than anybody promised. How much
        # that is, is what the limit is for.
        stuck = stage.lab.store.hold("c1", ops="W", start=DATA)
        stuck.wait_held(1)
        self.database.controller.wait_full(ALPHA)
        one.vm.provokes("alpha controller 1: owner -> secondary")
        one.vm.freeze()
        with stage.span("fault", what="stall", controller=1):
            stage.say(
                f"controller 1 stands still (SIGSTOP), {stuck.held} of its writes stuck in the "
                f"fabric; W is {window_ms:.0f} ms"
            )
            before = self.database.attempts
            status = two.wait_role(ALPHA, "owner")
            stage.say(
                f"controller 2 owns alpha, epoch {status.epoch}; permits open/limit "
                f"{status.permits}, {status.charged} charged for what controller 1 may have open"
            )
            expect(status.charged == 1, "a new owner is charged for the old one")
            granted, _ = two.message(ALPHA, f"repaired {status.known_epoch - 1}")
            expect(not granted, "what has not drained cannot be repaired")
            runs = database.open_again(two)
            self.complete(self.database, runs)
            other = database.write(two)
            other.wait_more(20)
            stage.say("controller 2 has assembled and mounted it, and writes on")
            database.wait_clean(two)
            stuck.release()
            stage.say("what was stuck lands now, in an epoch that is not controller 1's")
            one.vm.thaw()
        stage.say("controller 1 goes on where it stood")
        self.database.wait_more(5, good=False, start=before)
        one.wait_role(ALPHA, "secondary")
        late = self.database.told(before)
        stage.say(
            f"{sum(t.errno != 0 for t in late)} of {len(late)} attempts of its database since then "
            f"failed ({errors(late)}), {one.status(ALPHA).refused} writes were refused by the gate"
        )
        self.stale(one)
        self.database.stop()
        database.close(one)
        one.wait_reason(ALPHA, "stale_openers", gone=True)
        stage.say("controller 1 has unmounted what was stale, and may claim again")
        self.database = other

    def stale(self, one: Controller) -> None:
        """Controller 1 may not own alpha while its stale filesystem is mounted, and says so."""
        granted, said = one.message(ALPHA, "claim")
        expect(not granted, "a claim over a stale filesystem is refused")
        one.wait_reason(ALPHA, "stale_openers")
        lines = one.log("stale_openers|open since before") or [said]
        self.stage.say(f"its claim is refused: {lines[-1]}")

    def complete(self, writer: Writer, runs: list[tuple[int, int, int, int]]) -> None:
        """Everything that was acknowledged to a database's writer is in these runs of records."""
        there = {
            (epoch, number) for _, epoch, first, last in runs for number in range(first, last + 1)
        }
        acknowledged = writer.acknowledged()
        lost = [t for t in acknowledged if (t.epoch, t.number) not in there]
        expect(not lost, f"{len(lost)} acknowledged records are missing: {lost[:3]}")
        self.stage.say(f"all {len(acknowledged)} acknowledged records of {writer.name} are there")

    def handoff(self) -> None:
        """alpha goes home by handoff, while beta is written"""
        stage, one, two = self.stage, self.one, self.two
        assert self.database and self.raw
        self.database.wait_more(20)
        self.database.stop()
        database.close(two)
        # What the stalled controller may have left behind is outvoted by the two other copies.
        votes = database.vote(two)
        expect(votes.endswith("lost 0"), f"two copies of three agree on every block: {votes}")
        stage.say(f"the copies are compared before they change hands, blocks that {votes}")
        epoch = two.status(ALPHA).known_epoch
        granted, said = two.message(ALPHA, f"repaired {epoch - 1}")
        expect(granted, f"controller 1 has drained: {said}")
        status = two.status(ALPHA)
        expect(status.charged == 0, "nothing is charged any more")
        stage.say(f"message repaired {epoch - 1}: nothing is charged, limit {status.permits}")
        busy = self.raw.attempts
        begun = time.monotonic()
        with stage.span("handoff", portion="alpha", controller=2, successor=1):
            granted, said = two.message(ALPHA, "handoff 1")
            expect(granted, f"controller 2 hands alpha over: {said} {two.summary()}")
            one.wait_role(ALPHA, "owner")
        took_ms = (time.monotonic() - begun) * 1000
        stage.say(f"controller 1 owns alpha again, {took_ms:.0f} ms after the message was sent")
        former = self.database
        runs = database.open_again(one)
        self.complete(former, runs)
        self.database = database.write(one)
        self.database.wait_more(20)
        meanwhile = len(self.raw.acknowledged(busy))
        expect(meanwhile > 0, "beta was written all the time")
        stage.say(f"beta was written {meanwhile} times meanwhile")

    def power(self) -> None:
        """controller 2 loses its power; controller 1 owns both; controller 2 comes back"""
        stage, one, two = self.stage, self.one, self.two
        assert self.database and self.raw
        heir = one.write_raw(BETA)
        heir.wait_more(2, good=False)
        two.vm.power_cut()
        with stage.span("fault", what="power cut", controller=2):
            stage.say("controller 2 has no power any more")
            heir.wait_more(30)
            status = one.wait_role(BETA, "owner")
            stage.say(f"controller 1 owns beta, epoch {status.epoch}, and writes it")
            self.database.wait_more(10)
            expect(one.status(ALPHA).role == "owner", "controller 1 still owns alpha")
            two.vm.start().wait_up()
        stage.say("controller 2 has booted again")
        two.join()
        for portion in PORTIONS:
            status = two.wait_role(portion, "secondary")
            expect(status.owner == 1, f"{portion.name} belongs to controller 1")
        stage.say("controller 2 is secondary everywhere; it listens for W before its first ballot")
        heir.wait_for(1.2 * stage.window_ms(BETA))
        back = two.write_raw(BETA)
        back.wait_more(2, good=False)
        with stage.span("handoff", portion="beta", controller=1, successor=2):
            granted, said = one.message(BETA, "handoff 2")
            expect(granted, f"controller 1 hands beta over: {said} {one.summary()}")
            status = two.wait_role(BETA, "owner")
        back.wait_more(30)
        stage.say(f"controller 2 owns beta again, epoch {status.epoch}, and writes it")
        heir.stop()
        self.raw = back

    def members(self) -> None:
        """members of beta fail: one, then two; then they return"""
        stage, one, two = self.stage, self.one, self.two
        assert self.raw
        store = stage.lab.store
        other = one.write_raw(BETA)
        epoch = two.status(BETA).epoch
        with stage.span("fault", what="1 member of beta", portion="beta"), store.fail("*", "p1m0"):
            stage.say("one member of beta fails for everybody")
            self.raw.wait_for(1.5 * stage.window_ms(BETA))
            status = two.status(BETA)
            expect((status.role, status.epoch) == ("owner", epoch), "nothing changes")
            stage.say(f"nothing changes: epoch {epoch}, {status.members_ok} of 3 members answer")
            two.vm.provokes("beta controller 2: owner -> secondary")
            with (
                stage.span("fault", what="2 members of beta", portion="beta"),
                store.fail("*", "p1m1"),
            ):
                stage.say("two members of beta fail for everybody")
                status = two.wait_role(BETA, "secondary")
                stage.say(f"controller 2 has lost the lease: {status.reason}")
                begin = self.raw.attempts
                self.raw.wait_for(1.5 * stage.window_ms(BETA), good=False)
                roles = {c.number: c.status(BETA).role for c in (one, two)}
                expect("owner" not in roles.values(), f"nobody takes over: {roles}")
                good = len(self.raw.acknowledged(begin)) + len(other.acknowledged())
                expect(good == 0, f"nobody writes without a majority: {good} writes")
                stage.say(f"nobody has taken over: {roles}")
        begun = [(self.raw, self.raw.attempts), (other, other.attempts)]
        stage.say("both members are back")
        stage.wait_any(begun, 30)
        owner = next(c for c in (one, two) if c.status(BETA).role == "owner")
        stage.say(
            f"service goes on: controller {owner.number} owns beta, epoch "
            f"{owner.status(BETA).epoch}"
        )
        other.stop()

    def end(self) -> None:
        """The curtain: writers stop, the database is closed as it should be."""
        assert self.database and self.raw
        self.database.stop()
        database.close(self.one)
        self.raw.stop()


def errors(told: list[Told]) -> str:
    """The errors among these, by name."""
    names = {errno.errorcode.get(t.errno, str(t.errno)) for t in told if t.errno}
    return ", ".join(sorted(names))
