# SPDX-License-Identifier: GPL-2.0
"""How long no host can write: takeovers and hand-overs of two real kernels, in turn.

Stalls, power cuts, releases and hand-overs take turns, each at a random moment of a heartbeat
period; the former owner is the next heir. A client on each controller writes all the time. What is
measured is what the store saw, on its clock:

    takeover   from the old owner's last completed mailbox write to the first write of the new one
               that the array acknowledged
    hand-over  from the old owner's last acknowledged write to that

An emulated guest takes longer for everything than the array does. So the bars are judged by what
can be counted: heartbeats of the new owner from the last sign of the old one to its own first
ballot, and from there its mailbox commands on one member, one after the other. A named successor
has written its ballot before; its commands are counted from the old owner's last sign. Times stand
beside. Takeovers and hand-overs to a named successor have a bar in time as well, with what a
command took in that round. The bar in time holds only if the machine had time for its guests: the
new owner sends a heartbeat in every period, and the array answers in microseconds. If the array
received nothing from any guest for a period and a half, the machine had not. Such a round is called
starved. The report gives its number, and the table has a line for these rounds; their counts are
judged, too. If a lease ended although it should not have, because the machine had no time for a
guest, the round is counted and not measured.

Everything is left in .build/run/rounds/rounds.json.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rig import Job, Lab, LabPortion, Log, Request, RigError, Status, Vm, until
from rig.chart import chart
from rig.host import arguments_of, environment
from rig.mailbox import DATA, MAILBOXES, RELEASED, Area, area, mails

MEMBERS = ["m0", "m1", "m2"]
# For each window the period and the longest lease that fits: a loaded machine keeps an emulated
# guest waiting for longer than any disk.
TIMINGS = {
    1000: "--heartbeat-ms 100 --lease-ms 880 --device-delay-ms 100",
    2000: "--heartbeat-ms 250 --lease-ms 1800 --device-delay-ms 150",
}
FORMAT = (
    "--controllers 1,2 --home 1 --redundancy external --lost-heartbeats 2 "
    "--write-ms 50 --read-ms 50"
)
PERIOD_MS = {1000: 100, 2000: 250}
CLIENT_PAUSE_US = 1000
MS = 1_000_000

# What a change may cost, median and worst: commands of the new owner one after the other, and
# heartbeats of it while it waits, beyond those in a window.
COMMANDS = {"takeover": (12, 16), "release": (12, 16), "handoff": (10, 13)}
BEATS = {"takeover": (1, 2), "release": (1, 1), "handoff": (0, 1)}
# And in time: a window, or nothing, and so many periods and commands.
IN_TIME = {"takeover": ((1, 12), (2, 16)), "handoff": ((1, 7), (1, 7))}
# For so many periods the array heard nobody in a starved round, and the part of all rounds that may
# be: a new owner that sends too few heartbeats by itself is not excused.
SILENT_PERIODS = 1.5
STARVED = 0.25


class Guests(Lab):
    """A lab whose owners may lose their leases: that is what happens here."""

    def complaints(self) -> dict[str, list[str]]:
        """What the kernels complained about besides."""
        found = {
            name: [line for line in lines if "owner -> secondary" not in line]
            for name, lines in super().complaints().items()
        }
        return {name: lines for name, lines in found.items() if lines}


@dataclass
class Round:
    """One change of owner; times in nanoseconds."""

    kind: str
    window_ms: int
    pause: int
    waited: int
    """Until the new owner's first ballot."""
    beats: int
    """Heartbeats of the new owner meanwhile."""
    commands: int
    """Of the new owner on one member, one after the other, from that ballot, or the old owner's
    last sign, to the first write."""
    command: int
    """What one of its mailbox writes takes until the next command, before the change."""
    silence: int
    """The longest time meanwhile in which the store received nothing from anybody."""

    @property
    def starved(self) -> bool:
        """Whether the machine had no time for the guests."""
        return self.silence > SILENT_PERIODS * PERIOD_MS[self.window_ms] * MS


class Scene:
    """The lab with one portion, and who owns it."""

    def __init__(self, lab: Lab, window_ms: int) -> None:
        self.lab = lab
        self.window_ms = window_ms
        self.portion = LabPortion.on(lab, "alpha", MEMBERS)
        self.log = Log(lab.store.log)
        self.owner, self.heir = lab.vms
        self.epoch = 0
        self.clients: dict[str, Job] = {}
        options = f"{FORMAT} {TIMINGS[window_ms]} --window-ms {window_ms}"
        self.portion.format(self.owner, options)
        for vm in lab.vms:
            # The clients cache nothing, and keep the device open over changes of the owner.
            self.portion.bring_up(vm, "1 stateless")
        self.sync()
        self.settle(self.heir)

    def sync(self) -> None:
        """Waits until one of the two owns and the other one knows it, and notes who it is."""
        shown: list[tuple[Vm, Status]] = []

        def agreed() -> bool:
            shown[:] = [(vm, self.portion.status(vm)) for vm in self.lab.vms]
            roles = {status.role for _, status in shown}
            epochs = {status.epoch for _, status in shown}
            return roles == {"owner", "secondary"} and len(epochs) == 1

        until(agreed, lambda: f"one of them owns: {[status for _, status in shown]}", 30)
        vms = {status.role: vm for vm, status in shown}
        self.owner, self.heir = vms["owner"], vms["secondary"]
        self.epoch = shown[0][1].epoch or 0

    def mailbox(self, vm: Vm) -> Area:
        """The mailbox of a controller."""
        return area(self.portion.number(vm))

    def settle(self, vm: Vm) -> None:
        """Waits until a controller that came lately may write ballots: it listens for a window
        after its first record."""
        begun = time.monotonic_ns()
        beats = self.window_ms // PERIOD_MS[self.window_ms] + 4

        def listened() -> bool:
            own = self.log.since(begun, vm.name, "W", *self.mailbox(vm))
            return sum(request.member == MEMBERS[0] for request in own) >= beats

        self.log.wait(listened, f"{beats} heartbeats of {vm.name}")

    def client(self, vm: Vm) -> None:
        """Starts a client that writes all the time, whatever it is told."""
        number = self.portion.number(vm)
        words = f"/dev/mapper/m0 {number} 0 {64 * number} 16 0 {CLIENT_PAUSE_US}"
        self.clients[vm.name] = vm.spawn(f"exec stamp {words} >/dev/null")

    def first_write(self, begun: int) -> Request | None:
        """The heir's first acknowledged write."""
        sent = self.log.since(begun, self.heir.name, "W", DATA, 1 << 62)
        done = [request for request in sent if request.answered and request.errno == 0]
        return min(done, key=answered_at) if done else None

    def change(self, kind: str) -> Round | None:
        """Lets the portion change hands, measures it, and makes ready for the next one; None when
        something else happened, too."""
        owner, heir, epoch = self.owner, self.heir, self.epoch
        self.client(owner)
        self.client(heir)
        begun = time.monotonic_ns()
        # Both clients run, and as much of a period goes by as chance wants.
        period = PERIOD_MS[self.window_ms] / 1000
        time.sleep(4 * period + random.random() * period)
        fault = time.monotonic_ns()
        told = getattr(self, kind)(owner, heir)
        self.log.update()

        def refused() -> bool:
            return told is not None and told.done and told.rc != 0

        self.log.wait(
            lambda: refused() or self.first_write(fault), f"a write of {heir.name} after {kind}"
        )
        done = None if refused() else self.measure(kind, begun, fault)
        self.end_client(heir)
        getattr(self, f"after_{kind}")(owner)
        if told is not None:
            told.wait()
        self.sync()
        as_meant = self.owner is heir and self.epoch == epoch + 1 and not refused()
        return done if as_meant else None

    def end_client(self, vm: Vm) -> None:
        """Ends the client of a machine that runs."""
        job = self.clients.pop(vm.name)
        job.kill(signal.SIGTERM)
        job.wait()

    # The kinds: what happens, and what is done about it afterwards.

    def stall(self, owner: Vm, _heir: Vm) -> None:
        owner.freeze()

    def after_stall(self, owner: Vm) -> None:
        owner.thaw()
        self.end_client(owner)

    def power(self, owner: Vm, _heir: Vm) -> None:
        owner.power_cut()

    def after_power(self, owner: Vm) -> None:
        self.clients.pop(owner.name)
        owner.start().wait_up()
        self.portion.bring_up(owner, "1 stateless")
        self.settle(owner)

    def release(self, owner: Vm, _heir: Vm) -> Job:
        return owner.spawn("dmsetup message m0 0 release")

    def after_release(self, owner: Vm) -> None:
        self.end_client(owner)

    def handoff(self, owner: Vm, heir: Vm) -> Job:
        return owner.spawn(f"dmsetup message m0 0 handoff {self.portion.number(heir)}")

    after_handoff = after_release

    # What the store saw.

    def measure(self, kind: str, begun: int, fault: int) -> Round | None:
        """One round, from the log; None when the owner did not own any more at the fault."""
        owner, heir = self.owner.name, self.heir.name
        first = self.first_write(fault)
        assert first is not None and first.answered is not None
        mail = self.log.since(begun, owner, "W", *self.mailbox(self.owner))
        data = self.log.since(begun, owner, "W", DATA, 1 << 62)
        own = self.log.since(begun, heir, "RW", MAILBOXES, DATA)
        writes = [r.answered for r in data if r.answered and r.errno == 0]
        ballots = [r.received for r in own if is_ballot(r) and r.received > fault]
        signs = last_signs(kind, mail)
        if not signs or not writes or not ballots:
            return None
        ballot = max(ballots[0], max(signs)) if kind == "handoff" else ballots[0]
        last = max(writes) if kind in HAND_OVERS else max(signs)
        waiting = [r for r in own if r.op == "W" and max(signs) < r.received < ballot]
        claim = [r for r in own if ballot <= r.received <= first.received and not follows(r)]
        return Round(
            kind, self.window_ms, first.answered - last, ballot - last, busiest(waiting),
            busiest(claim), self.command([r for r in own if r.received < ballot]),
            self.silence(last, first.answered),
        )  # fmt: skip

    def silence(self, begin: int, end: int) -> int:
        """The longest time between two moments in which nobody sent anything."""
        newest = itertools.takewhile(
            lambda request: request.received >= begin, reversed(self.log.requests.values())
        )
        received = sorted(r.received for r in newest if r.received < end)
        return max(b - a for a, b in itertools.pairwise([begin, *received, end]))

    def command(self, requests: list[Request]) -> int:
        """From a mailbox write to the read that follows it on the same member: a command as the
        controller sees it."""
        spans = [
            after.received - before.received
            for member in MEMBERS
            for before, after in itertools.pairwise(r for r in requests if r.member == member)
            if (before.op, after.op) == ("W", "R")
        ]
        return int(median(spans))


def answered_at(request: Request) -> int:
    """When it was answered."""
    return request.answered or 0


def is_ballot(request: Request) -> bool:
    """Whether it is a write of a ballot that promises something."""
    return any(mail.is_ballot and mail.round for mail in mails(request))


def follows(request: Request) -> bool:
    """Whether it is the new image of the ballots, which goes along with heartbeats: nobody waits
    for it."""
    return any(mail.is_ballot and not mail.round for mail in mails(request))


def last_signs(kind: str, mail: list[Request]) -> list[int]:
    """When the old owner's mailbox writes were done: of those that say that it is over the first,
    if it says so at all."""
    done = [r for r in mail if r.answered and r.errno == 0]
    over = [r for r in done if any(m.role == RELEASED for m in mails(r))]
    if kind in HAND_OVERS:
        return [min(r.answered or 0 for r in over)] if over else []
    return [r.answered or 0 for r in done]


def busiest(requests: list[Request]) -> int:
    """How many of them went to the member that got most."""
    return max(sum(request.member == member for request in requests) for member in MEMBERS)


KINDS = ("stall", "release", "power", "handoff")
HAND_OVERS = ("release", "handoff")


def summary(rounds: list[Round]) -> list[str]:
    """A table of all kinds."""
    lines = [
        "                         pause, ms   beats beyond W      commands   one command",
        "kind         W  rounds  median  worst  median worst   median worst           ms",
    ]
    for window_ms, kind, starved in itertools.product(TIMINGS, KINDS, (False, True)):
        mine = [r for r in of(rounds, window_ms, kind) if r.starved == starved]
        if mine:
            lines.append(line(kind, window_ms, mine) + "  starved" * starved)
    return lines


def of(rounds: list[Round], window_ms: int, kind: str) -> list[Round]:
    """The rounds of one kind."""
    return [r for r in rounds if (r.kind, r.window_ms) == (kind, window_ms)]


def beyond(done: Round) -> int:
    """Heartbeats of the new owner beyond those that fit into what it had to wait."""
    must = 0 if done.kind in HAND_OVERS else done.window_ms // PERIOD_MS[done.window_ms]
    return done.beats - must


def line(kind: str, window_ms: int, mine: list[Round]) -> str:
    pauses = [r.pause / MS for r in mine]
    beats = [beyond(r) for r in mine]
    commands = [r.commands for r in mine]
    return (
        f"{kind:<8} {window_ms:>5} {len(mine):>7} {median(pauses):>7.0f} {max(pauses):>6.0f} "
        f"{median(beats):>7.1f} {max(beats):>5} {median(commands):>8.0f} {max(commands):>5} "
        f"{median(r.command for r in mine) / MS:>12.1f}"
    )


def failures(rounds: list[Round]) -> list[str]:
    """What the bars do not allow."""
    found = []
    for window_ms, kind in itertools.product(TIMINGS, KINDS):
        mine = of(rounds, window_ms, kind)
        if not mine:
            continue
        way = kind if kind in HAND_OVERS else "takeover"
        commands, beats = COMMANDS[way], BEATS[way]
        judged: list[tuple[str, tuple[float, float], list[float]]] = [
            ("commands", commands, [r.commands for r in mine]),
            ("beats", beats, [beyond(r) for r in mine]),
        ]
        timely = [r for r in mine if not r.starved]
        if way in IN_TIME and timely:
            command = median(r.command for r in timely) / MS
            silence = 0 if kind in HAND_OVERS else window_ms
            usual, most = (
                silence + periods * PERIOD_MS[window_ms] + count * command
                for periods, count in IN_TIME[way]
            )
            judged.append(("ms", (usual, most), [r.pause / MS for r in timely]))
        for what, bars_of, values in judged:
            figures = (("median", median(values)), ("worst", max(values)))
            for (name, figure), bar in zip(figures, bars_of, strict=True):
                if figure > bar:
                    value = round(figure, 1)
                    found.append(f"{kind}, W {window_ms} ms: {name} of {what} {value} > {bar:.1f}")
        if len(mine) - len(timely) > STARVED * len(mine) + 1:
            found.append(f"{kind}, W {window_ms} ms: {len(mine) - len(timely)} rounds were starved")
    return found


def save(rounds: list[Round], directory: Path) -> None:
    """Every round, and a chart of all kinds."""
    document = {
        "environment": environment(),
        "periods_ms": PERIOD_MS,
        "rounds": [asdict(one) for one in rounds],
    }
    (directory / "rounds.json").write_text(json.dumps(document, indent=1) + "\n")
    kinds = itertools.product(TIMINGS, KINDS)
    rows = [
        (f"{kind}, W {window_ms} ms", [r.pause / MS for r in of(rounds, window_ms, kind)])
        for window_ms, kind in kinds
        if of(rounds, window_ms, kind)
    ]
    if rows:
        (directory / "rounds.svg").write_text(chart("How long nobody could write", rows))


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="for each window")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, with commas")
    parser.add_argument("--windows", default=",".join(map(str, TIMINGS)), help="in ms")
    arguments = parser.parse_args()
    rounds: list[Round] = []
    disturbed = 0
    try:
        for window_ms in map(int, arguments.windows.split(",")):
            # A guest that was stopped may blame RCU.
            with Guests("rounds", allow=r"rcu.* stall|soft lockup") as lab:
                scene = Scene(lab, window_ms)
                kinds = itertools.cycle(arguments.kinds.split(","))
                for number, kind in enumerate(itertools.islice(kinds, arguments.rounds), 1):
                    done = scene.change(kind)
                    print(
                        f"# {number}{' starved' * bool(done and done.starved)} {done}", flush=True
                    )
                    rounds += [done] if done else []
                    disturbed += not done
                directory = lab.directory
    except RigError as error:
        sys.exit(f"rounds: FAIL: {error}")
    save(rounds, directory)
    print("\n".join(summary(rounds)))
    print(f"{disturbed} rounds were disturbed")
    found = failures(rounds)
    if disturbed > len(rounds):
        found.append("most rounds were disturbed")
    print("\n".join(f"FAIL: {what}" for what in found) or "every bar holds")
    sys.exit(1 if found else 0)
