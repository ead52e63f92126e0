# SPDX-License-Identifier: GPL-2.0
"""How long no host can write after a stall: lease next to sanlock and o2hb.

Two pairs of guests share the disks of one store. On the first pair run the leases of this module
and sanlock, on the second one OCFS2's heartbeat (o2hb), which resets a machine and would disturb
the others. The first guest of each pair is the owner and its client writes all the time; on the
second one the same client waits for its turn:

    lease      it writes all the time, and is refused
    sanlock    `sanlock client command` starts it as soon as it gets the resource
    o2hb       it is started when the heartbeat thread no longer counts the owner among the living;
               o2hb itself asks nobody who writes

Both owners stall at the same random moment, in one of two ways:

    stall      SIGSTOP of the machine: when it goes on, its clocks have jumped
    pause      QMP stop: its clocks stand still, so no timer of the machine can know

When everybody has been followed, the owners go on and are watched. For each system there is

    takeover   from the owner's last completed write to its heartbeat area to the first write of its
               successor that the array acknowledged
    late       writes of the old owner that reach the medium after that one, and when the last did
    then       what has become of the owner's client at the end: refused, killed, its host was
               reset, or it still writes

all of it from the store's log. Every round has guests and disks of its own. There are two settings,
the smallest ones that each system's documentation offers and the smallest ones that it accepts:

    sanlock    io_timeout N and watchdog_fire_timeout W: a host is dead after 8N + W. Without
               watchdog (-w 0), which could but reset the host: what is killed is the client
    o2hb       dead_threshold T: dead after T periods of 2 s. Its nodes have a network cable

Exits with 0 when in each setting a lease is taken over sooner than everything else, and of a
stalled owner no more writes are late than its batch limit allows. A round takes a minute or two;
everything is left in .build/run/peers/: peers.json, peers.svg, and a directory for each round.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median

from rig import Job, Lab, LabPortion, Link, Log, Request, RigError, Vm
from rig.chart import chart
from rig.host import BUILD, arguments_of, environment
from rig.mailbox import DATA, area

DIRECTORY = BUILD / "run/peers"
MS = 1_000_000
MIB = 1 << 20
# Where each of the systems writes its heartbeats.
SECTOR = 512
DELTA_LEASE = (0, SECTOR)
"""Of the first host of a lockspace."""
RESOURCE = MIB
HEARTBEAT = (2 * SECTOR, 3 * SECTOR)
"""Of node 1, in a region that begins with the second sector, as node 0's place."""

LEASE_MEMBERS = ("m0", "m1", "m2")
SANLOCK_DISK, O2HB_DISK = "m3", "m4"
CLIENT_PAUSE_US = 20_000
# The batch limit of a lease on three copies with checksums above, as `leasectl format` chooses it.
LIMIT = 1
# The longest time between two heartbeats of anybody.
PERIOD_S = 4
WATCH_S = 10
CLUSTER = "/sys/kernel/config/cluster/peers"
REGION = f"{CLUSTER}/heartbeat/0123456789ABCDEF0123456789ABCDEF"
ADDRESS = "10.9.0."


@dataclass(frozen=True)
class Setting:
    """The timings of everybody."""

    format: str
    """Of the leases."""
    io_timeout: int
    watchdog: int
    threshold: int

    @property
    def sanlock_ms(self) -> int:
        """After how long sanlock takes a host for dead."""
        return (8 * self.io_timeout + self.watchdog) * 1000

    @property
    def o2hb_ms(self) -> int:
        """The same for o2hb."""
        return self.threshold * 2000


SETTINGS = {
    "smallest": Setting(
        "--heartbeat-ms 100 --lease-ms 880 --device-delay-ms 100 --lost-heartbeats 2 "
        "--write-ms 50 --read-ms 50 --window-ms 1000", 1, 5, 3,
    ),
    # The first example of each manual; those of the others are the smallest that they mention.
    "documented": Setting("--heartbeat-ms 500 --device-delay-ms 100", 2, 10, 7),
}  # fmt: skip


@dataclass
class Outcome:
    """What happened to one system in one round."""

    system: str
    setting: str
    nominal_ms: int
    fault: str
    takeover_ms: float
    late: int
    last_late_ms: float
    """After the owner went on; 0 if nothing was late."""
    then: str


class System:
    """One of those that are compared: the clients of owner and heir, and where to look."""

    name = ""
    disk = ""
    members: tuple[str, ...]
    """Those on which the owner's heartbeats are."""
    beats: tuple[int, int]

    def __init__(self, owner: Vm, heir: Vm, setting: Setting) -> None:
        self.owner = owner
        self.heir = heir
        self.setting = setting
        self.clients: dict[str, Job] = {}
        self.nominal_ms = 0
        self.takeover = 0
        self.first: Request | None = None

    def prepare(self) -> None:
        """Formats the disks and starts what needs to run on both."""
        raise NotImplementedError

    def write(self, number: int, vm: Vm) -> str:
        """The command of a client that writes when it may."""
        raise NotImplementedError

    def begin(self, number: int, vm: Vm) -> None:
        """Starts the client of a guest; that of the owner first."""
        self.clients[vm.name] = vm.spawn(self.write(number, vm))

    @property
    def pair(self) -> list[tuple[int, Vm]]:
        """Both guests with their numbers."""
        return [(1, self.owner), (2, self.heir)]


def stamp(device: str, number: int) -> str:
    """The client, each with blocks of its own behind everything that is not data."""
    first = 2 * DATA // 4096 + 16 * number
    return f"stamp {device} {number} 0 {first} 16 0 {CLIENT_PAUSE_US}"


class Lease(System):
    """This module."""

    name = "lease"
    disk = LEASE_MEMBERS[0]
    members = LEASE_MEMBERS
    beats = area(1)

    def __init__(self, lab: Lab, owner: Vm, heir: Vm, setting: Setting) -> None:
        super().__init__(owner, heir, setting)
        self.portion = LabPortion.on(lab, "alpha", list(LEASE_MEMBERS))

    def prepare(self) -> None:
        options = (
            f"--controllers 1,2 --home 1 --redundancy mirror:3 --detect yes {self.setting.format}"
        )
        self.portion.format(self.owner, options)
        shown = json.loads(self.owner.sh(f"leasectl show --json /dev/lease/{self.disk}"))
        self.nominal_ms = int(shown[0]["timing"]["window_ms"])
        for _, vm in self.pair:
            # The clients cache nothing, and keep the device open over changes of the owner.
            self.portion.bring_up(vm, "1 stateless")
        self.portion.wait(self.owner, role="owner")
        self.portion.wait(self.heir, role="secondary", epoch=1)

    def write(self, number: int, vm: Vm) -> str:
        return f"exec {stamp(f'/dev/mapper/{self.disk}', number)} >/dev/null"


class Sanlock(System):
    """sanlock: the client of whoever gets the resource is started by sanlock."""

    name = "sanlock"
    disk = SANLOCK_DISK
    members = (SANLOCK_DISK,)
    beats = DELTA_LEASE

    def prepare(self) -> None:
        self.nominal_ms = self.setting.sanlock_ms
        device, timeout = f"/dev/lease/{self.disk}", self.setting.io_timeout
        for number, vm in self.pair:
            vm.sh(
                "set -e; mkdir -p /etc/sanlock /run/sanlock /var/log\n"
                f"echo watchdog_fire_timeout = {self.setting.watchdog} >/etc/sanlock/sanlock.conf\n"
                f"sanlock daemon -U root -G root -w 0 -o {timeout} -e host{number}\n"
                "until sanlock client status >/dev/null 2>&1; do sleep 0.1; done"
            )
            if number == 1:
                vm.sh(f"sanlock client init -s space:0:{device}:0")
                vm.sh(f"sanlock client init -r space:thing:{device}:{RESOURCE}")
        joins = [vm.spawn(f"sanlock client add_lockspace -s space:{number}:{device}:0")
                 for number, vm in self.pair]  # fmt: skip
        for job in joins:
            if job.wait().rc:
                raise RigError(f"sanlock does not join: {job.out}")

    def write(self, number: int, vm: Vm) -> str:
        device = f"/dev/lease/{self.disk}"
        resource = f"space:thing:{device}:{RESOURCE}"
        line = f"sanlock client command -r {resource} -c /usr/bin/{stamp(device, number)}"
        if vm is self.owner:
            return f"exec {line} >/dev/null"
        # The client never ends by itself: this is one that did not get the resource.
        return f"until {line} >/dev/null 2>&1; do sleep 0.1; done"


class O2hb(System):
    """The heartbeat of OCFS2, without a file system."""

    name = "o2hb"
    disk = O2HB_DISK
    members = (O2HB_DISK,)
    beats = HEARTBEAT
    alive = "grep -qw 1 /sys/kernel/debug/o2hb/livenodes"

    def prepare(self) -> None:
        self.nominal_ms = self.setting.o2hb_ms
        nodes = "".join(
            f"mkdir {CLUSTER}/node/n{n}; echo 7777 >{CLUSTER}/node/n{n}/ipv4_port\n"
            f"echo {ADDRESS}{n} >{CLUSTER}/node/n{n}/ipv4_address\n"
            f"echo {n} >{CLUSTER}/node/n{n}/num\n"
            for n, _ in self.pair
        )
        # The region's first sector must not be that of the device.
        region = [f"mkdir {REGION}", *(f"echo {value} >{REGION}/{name}" for name, value in (
            ("block_bytes", SECTOR), ("start_block", 1), ("blocks", 8)))]  # fmt: skip
        joins = []
        for number, vm in self.pair:
            vm.sh(
                "set -e; modprobe -a virtio_net configfs ocfs2_nodemanager\n"
                "mount -t configfs config /sys/kernel/config 2>/dev/null || :\n"
                f"ip address add {ADDRESS}{number}/24 dev eth0; ip link set eth0 up\n"
                f"mkdir {CLUSTER}\n{nodes}echo 1 >{CLUSTER}/node/n{number}/local\n"
                f"echo {self.setting.threshold} >{CLUSTER}/heartbeat/dead_threshold\n"
                + "\n".join(region)
            )
            # Returns when both have seen each other.
            start = f"exec 9<>/dev/lease/{self.disk}; echo 9 >{REGION}/dev"
            joins.append(vm.spawn(start))
        for job in joins:
            if job.wait().rc:
                raise RigError(f"o2hb does not start: {job.out}")
        self.heir.sh(f"until {self.alive}; do sleep 0.1; done")

    def write(self, number: int, vm: Vm) -> str:
        turn = "" if vm is self.owner else f"while {self.alive}; do sleep 0.05; done; "
        return f"{turn}exec {stamp(f'/dev/lease/{self.disk}', number)} >/dev/null"


class Round:
    """One stall of both owners, in a lab of its own."""

    def __init__(self, lab: Lab, setting: Setting, fault: str) -> None:
        self.lab = lab
        self.log = Log(lab.store.log)
        self.fault = fault
        one, two, three, four = lab.vms
        self.owners = [one, three]
        self.systems: list[System] = [
            Lease(lab, one, two, setting), Sanlock(one, two, setting), O2hb(three, four, setting)
        ]  # fmt: skip

    def play(self) -> None:
        """Everything that happens."""
        with ThreadPoolExecutor() as pool:
            # All of them, and the first error.
            list(pool.map(lambda system: system.prepare(), self.systems))
        begun = time.monotonic_ns()
        for system in self.systems:
            system.begin(1, system.owner)
        self.wait(lambda s: s.owner, begun, "all owners")
        for system in self.systems:
            system.begin(2, system.heir)
        time.sleep(1 + random.random() * PERIOD_S)
        for vm in self.owners:
            vm.freeze() if self.fault == "stall" else vm.pause()
        stopped = time.monotonic_ns()
        self.wait(lambda s: s.heir, begun, "all heirs")
        for system in self.systems:
            self.measure(system, begun, stopped)
        for vm in self.owners:
            vm.thaw() if self.fault == "stall" else vm.unpause()
        self.resumed = time.monotonic_ns()
        time.sleep(WATCH_S)
        self.log.update()

    def wait(self, who: Callable[[System], Vm], begun: int, what: str) -> None:
        """Waits for writes of a guest of each system, for as long as the slowest may take."""
        self.log.wait(
            lambda: all(self.writes(system, who(system), begun) for system in self.systems),
            f"writes of {what}",
            timeout=60,
            pause=0.2,
        )

    def select(self, system: System, vm: Vm, beats: bool, begun: int = 0) -> list[Request]:
        """Writes of a guest to a system's heartbeats, or its data, since a moment."""
        start, end = system.beats if beats else (DATA, 1 << 62)
        members = system.members if beats else [system.disk]
        return [r for r in self.log.since(begun, vm.name, "W", start, end) if r.member in members]

    def writes(self, system: System, vm: Vm, begun: int) -> list[Request]:
        """Acknowledged writes of a client since a moment."""
        return [r for r in self.select(system, vm, False, begun)
                if r.answered is not None and r.errno == 0]  # fmt: skip

    def measure(self, system: System, begun: int, stopped: int) -> None:
        """From the last sign of the owner, who does not go on before this is known."""
        signs = [r.answered for r in self.select(system, system.owner, True)
                 if r.answered is not None and r.errno == 0]  # fmt: skip
        first = min(self.writes(system, system.heir, begun), key=lambda r: r.answered or 0)
        assert first.answered is not None
        if not signs or first.answered < stopped:
            raise RigError(f"{system.name}: {system.heir.name} writes without need")
        system.first, system.takeover = first, first.answered - max(signs)

    def outcome(self, system: System, setting: str) -> Outcome:
        """What came of one system; the lab's guests still run."""
        first = system.first
        assert first is not None and first.order is not None
        applied = [r for r in self.select(system, system.owner, False) if r.order is not None]
        late = [r for r in applied if (r.order or 0) > first.order]
        ends = [(r.applied or 0) - self.resumed for r in late]
        # Whoever writes at all does so every few milliseconds.
        writes_on = bool(ends) and max(ends) > (WATCH_S - 1) * 1000 * MS
        if not system.owner.running:
            then = "host reset"
        elif system.clients[system.owner.name].done:
            then = "client killed"
        else:
            then = "writes on" if writes_on else "refused"
        return Outcome(
            system.name, setting, system.nominal_ms, self.fault, system.takeover / MS, len(late),
            max(ends, default=0) / MS, then,
        )  # fmt: skip


class Guests(Lab):
    """Two pairs of guests, of which the second has a network cable."""

    def start(self) -> None:
        ends = Link.cable("52:54:00:00:00:01", "52:54:00:00:00:02")
        for vm, end in zip(self.vms[2:], ends, strict=True):
            vm.links = [end]
        super().start()


def play(number: int, name: str, fault: str, cpus: int) -> list[Outcome]:
    """One round with new guests, in a directory of its own."""
    directory = f"peers/{number}-{name}-{fault}"
    # Guests that stand still blame RCU and clocks, leases end, and o2hb says that it is sorry.
    allow = r"rcu.* stall|soft lockup|owner -> secondary|ocfs2 is very sorry"
    with Guests(
        directory, controllers=4, members=5, cpus=cpus, profile="peers", allow=allow
    ) as lab:
        round_ = Round(lab, SETTINGS[name], fault)
        round_.play()
        return [round_.outcome(system, name) for system in round_.systems]


def groups(outcomes: list[Outcome]) -> list[list[Outcome]]:
    """The outcomes of the same kind together."""
    found: dict[tuple[str, str, str], list[Outcome]] = {}
    for it in outcomes:
        found.setdefault((it.setting, it.fault, it.system), []).append(it)
    return [found[key] for key in sorted(found, key=order)]


def order(key: tuple[str, str, str]) -> tuple[int, str, int]:
    """Settings and systems as they are introduced above."""
    setting, fault, system = key
    names = [Lease.name, Sanlock.name, O2hb.name]
    return list(SETTINGS).index(setting), fault, names.index(system)


def summary(outcomes: list[Outcome]) -> list[str]:
    """A table of all kinds."""
    lines = [
        "                                       takeover, ms       late writes, last after",
        "setting     fault  system   rounds  due  median  worst  rounds  most     ms  owner then",
    ]
    for mine in groups(outcomes):
        one, times = mine[0], [it.takeover_ms for it in mine]
        late = [it for it in mine if it.late]
        ends = ", ".join(
            f"{sum(it.then == then for it in mine)} {then}"
            for then in sorted({it.then for it in mine})
        )
        lines.append(
            f"{one.setting:<11} {one.fault:<6} {one.system:<8} {len(mine):>6} {one.nominal_ms:>5} "
            f"{median(times):>7.0f} {max(times):>6.0f} {len(late):>7} "
            f"{max((it.late for it in mine), default=0):>5} "
            f"{max((it.last_late_ms for it in late), default=0):>6.0f}  {ends}"
        )
    return lines


def failures(outcomes: list[Outcome]) -> list[str]:
    """What the bars do not allow."""
    found = []
    for mine in groups(outcomes):
        one = mine[0]
        if one.system != Lease.name:
            continue
        others = [it.takeover_ms for it in outcomes
                  if it.setting == one.setting and it.system != Lease.name]  # fmt: skip
        worst = max(it.takeover_ms for it in mine)
        if worst >= min(others):
            found.append(f"{one.setting}, {one.fault}: a lease was taken over after {worst:.0f} ms")
        if one.fault == "stall" and any(it.late > LIMIT for it in mine):
            found.append(f"{one.setting}: a stalled owner wrote more than its limit")
    return found


def save(outcomes: list[Outcome]) -> None:
    """Leaves everything so far."""
    document = {
        "environment": environment(),
        "settings": {name: asdict(setting) for name, setting in SETTINGS.items()},
        "outcomes": [asdict(it) for it in outcomes],
    }
    (DIRECTORY / "peers.json").write_text(json.dumps(document, indent=1) + "\n")
    rows = [
        (f"{mine[0].system}, {mine[0].setting}, {mine[0].fault}", [it.takeover_ms for it in mine])
        for mine in groups(outcomes)
    ]
    title = "From the owner's last heartbeat to its successor's first write"
    (DIRECTORY / "peers.svg").write_text(chart(title, rows))


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of each setting and fault")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="which, with commas")
    parser.add_argument("--faults", default="stall,pause", help="which, with commas")
    parser.add_argument("--cpus", type=int, default=1, help="of each guest")
    arguments = parser.parse_args()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    outcomes: list[Outcome] = []
    turns = itertools.product(
        range(1, arguments.rounds + 1), arguments.settings.split(","), arguments.faults.split(",")
    )
    try:
        for number, setting, fault in turns:
            done = play(number, setting, fault, arguments.cpus)
            outcomes += done
            for it in done:
                print(f"# {number} {it}", flush=True)
            save(outcomes)
    except RigError as error:
        print("\n".join(summary(outcomes)))
        sys.exit(f"peers: FAIL: {error}")
    print("\n".join(summary(outcomes)))
    found = failures(outcomes)
    print("\n".join(f"FAIL: {what}" for what in found) or "every bar holds")
    sys.exit(1 if found else 0)
