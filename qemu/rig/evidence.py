# SPDX-License-Identifier: GPL-2.0
"""What is left of a run, read back: the store's log, acknowledgements, traces, raw images.

    mail      a mailbox write in the store's log, decoded (`mailbox`)
    permit    the gate's leave for one state-changing operation, from the kernel's trace
    beat      a heartbeat that its controller judged a success, from the trace
    change    a role that changed, from the trace
    refusal   an operation that the gate failed, from the trace
    ack       what a writer was told

Times in traces and acknowledgements are CLOCK_MONOTONIC_RAW of a guest, which nobody steers. Each
boot's clock is laid over the host's by its heartbeats: none can reach the store before it was
stamped, and none can be judged before the store has answered. A fact of kind `jump` says when a
controller's clock stood still.
All times in these records are nanoseconds of the host.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .history import History, Request
from .mailbox import DATA, MAILBOXES, Mail, mails

# How uncertain it is when a guest went on with a memory that was saved.
UNSURE_NS = 50_000_000

RECORD = struct.Struct("<8sIIQQQQII")
LINE = re.compile(r"^ *(\S.*-\d+) +\[\d+\] +\S+ +(\d+)\.(\d+): dm_lease_(\w+): (.*)$")
HEARTBEAT = re.compile(r": dm_lease_heartbeat: portion=(\S+) .*seq=(\d+) stamp=(\d+) ")


@dataclass
class Permit:
    """Leave for an operation on the bytes start..end of a member; `guest_ns` and `expiry_ns` are in
    the guest's own clock, which is the one that decides. `guest_ns` was read after the lease."""

    controller: int
    boot: int
    portion: str
    member: str
    start: int
    end: int
    epoch: int
    guest_ns: int
    expiry_ns: int
    at: int = 0
    task: str = ""


@dataclass
class Beat:
    """A heartbeat; stamp, judgement and expiry (0: none) in the guest's clock."""

    controller: int
    boot: int
    portion: str
    epoch: int
    hb: int
    stamp_ns: int
    judged_ns: int
    expiry_ns: int
    judged: int = 0
    expiry: int = 0


@dataclass
class Change:
    """A role that changed."""

    controller: int
    boot: int
    portion: str
    old: str
    new: str
    epoch: int
    reason: str
    guest_ns: int
    at: int = 0


class Refusal(NamedTuple):
    """An operation that the gate failed."""

    controller: int
    portion: str
    late: bool
    at: int


@dataclass
class Ack:
    """What a writer was told about one attempt."""

    controller: int
    portion: str
    in_file: bool
    epoch: int
    number: int
    device: int
    block: int
    errno: int
    before: int
    after: int


class Record(NamedTuple):
    """A record of a ledger, as it stands on a medium."""

    controller: int
    epoch: int
    number: int
    block: int
    device: int


@dataclass
class Clock:
    """One boot's clock: host time is guest time plus `offset`, give or take `error`; where it stood
    still, or was set anew after a sleep, another offset holds from a moment of the guest on."""

    offset: int = 0
    error: int = 0
    later: list[tuple[int, int]] = field(default_factory=list)
    """(moment of the guest, offset from then on)"""

    def host(self, guest_ns: int) -> int:
        """A moment of the guest in the host's time."""
        offset = self.offset
        for begin, other in self.later:
            offset = other if guest_ns > begin else offset
        return guest_ns + offset

    def offset_at(self, host_ns: int) -> int:
        """The offset that holds at a moment of the host."""
        offset = self.offset
        for begin, other in self.later:
            offset = other if begin + offset < host_ns else offset
        return offset


@dataclass
class Evidence:
    """Everything, in the order in which it happened."""

    history: History
    run: dict[str, Any]
    shown: dict[str, dict[str, Any]]
    """What `leasectl show` says of the first member of each portion."""
    mails: list[Mail] = field(default_factory=list)
    permits: list[Permit] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    clocks: dict[tuple[int, int], Clock] = field(default_factory=dict)
    trace_end: dict[tuple[int, int], int] = field(default_factory=dict)
    """When the last line of a boot's trace was written, in the host's time."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the evidence itself."""

    def portion_of(self, member: str) -> str:
        """The portion that a disk belongs to."""
        return next(p for p in self.portions if member in self.all_disks(p))

    def disks(self, portion: str) -> list[str]:
        """The disks of a portion at the beginning, one for each member."""
        return next(p["disks"] for p in self.run["portions"] if p["name"] == portion)

    def all_disks(self, portion: str) -> list[str]:
        """The same and its spare disks."""
        found = next(p for p in self.run["portions"] if p["name"] == portion)
        return [*found["disks"], *found.get("spares", [])]

    def replacements(self, portion: str) -> list[dict[str, Any]]:
        """Facts: a member of the portion is another disk from a moment on."""
        facts = self.run["facts"]
        return [f for f in facts if f["kind"] == "replaced" and f["portion"] == portion]

    def disks_at(self, portion: str, when: int) -> list[str]:
        """The disks of a portion at a moment, one for each member."""
        disks = [*self.disks(portion)]
        for fact in self.replacements(portion):
            if fact["at"] <= when:
                disks[fact["member"]] = fact["disk"]
        return disks

    def formats(self, disk: str, when: int) -> int:
        """How often a disk was formatted anew before a moment."""
        facts = self.replacements(self.portion_of(disk))
        return sum(fact["disk"] == disk and fact["at"] <= when for fact in facts)

    @property
    def portions(self) -> list[str]:
        """The names of the portions."""
        return [p["name"] for p in self.run["portions"]]

    def boots(self, controller: int) -> list[dict[str, Any]]:
        """The boots of a controller, first to last."""
        facts = self.run["facts"]
        return [f for f in facts if f["kind"] == "boot" and f["controller"] == controller]

    def boot_at(self, controller: int, when: int) -> int:
        """In which boot a controller was at a moment of the host's time."""
        starts = [boot["at"] for boot in self.boots(controller)]
        return max(1, bisect_right(starts, when))

    def window(self, portion: str) -> int:
        """W in nanoseconds."""
        return int(self.shown[portion]["timing"]["window_ms"] * 1e6)

    def period(self, portion: str) -> int:
        """The longest heartbeat period in nanoseconds."""
        return int(self.shown[portion]["timing"]["period_max_ms"] * 1e6)

    def limit(self, portion: str) -> int | None:
        """M, or None where there is none."""
        limit = self.shown[portion]["redundancy"]["limit"]
        return int(limit) if limit.isdigit() else None


def decode_record(block: bytes) -> Record | None:
    """A record of a ledger from a whole block; None if it is none, or a damaged one."""
    magic, controller, crc, epoch, number, at, _, device, _ = RECORD.unpack_from(block)
    if magic != b"LEDGER 1":
        return None
    if zlib.crc32(block[:12] + bytes(4) + block[16:]) != crc:
        return None
    return Record(controller, epoch, number, at, device)


def beginning(controller: int) -> str:
    """How every record of a controller begins, for the store."""
    return RECORD.pack(b"LEDGER 1", controller, *(0,) * 7)[:12].hex()


def decode_head(head: bytes) -> Record | None:
    """A record from the part of it that the store's log shows."""
    magic, controller, _, epoch, number, at, _, device, _ = RECORD.unpack_from(head)
    return Record(controller, epoch, number, at, device) if magic == b"LEDGER 1" else None


class Bound(NamedTuple):
    """One heartbeat between its receipt and its answer, and what a clock's offset is between."""

    received: int
    answered: int
    earliest: int
    latest: int


def lay_clock(bounds: list[Bound], jumps: list[dict[str, Any]]) -> Clock:
    """One boot's clock: between two jumps it runs as the host's."""
    pieces: list[tuple[int, int] | None] = []
    begins = [0, *(jump["until"] for jump in jumps)]
    ends = [*(jump["at"] for jump in jumps), 1 << 63]
    for begin, end in zip(begins, ends, strict=True):
        mine = [b for b in bounds if begin <= b.received and b.answered <= end]
        earliest = max((b.earliest for b in mine), default=0)
        latest = min((b.latest for b in mine), default=0)
        offset = (earliest + latest) // 2
        pieces.append((offset, abs(latest - earliest) // 2 + 1) if mine else None)
    # Where no heartbeat tells, the clock stood still for as long as the machine.
    first = next(n for n, piece in enumerate(pieces) if piece)
    offset, error = pieces[first] or (0, 0)
    offset -= sum(jump["until"] - jump["at"] for jump in jumps[:first])
    clock = Clock(offset, error)
    for jump, piece in zip(jumps, pieces[1:], strict=True):
        begin = jump["at"] - offset + error
        offset, error = piece or (offset + jump["until"] - jump["at"], error)
        clock.later.append((begin, offset))
        clock.error = max(clock.error, error)
    return clock


def stamp_of(line: str) -> tuple[str, str, str] | None:
    """The portion, the number and the stamp of a heartbeat that a line of a trace tells of."""
    found = HEARTBEAT.search(line)
    return (found[1], found[2], found[3]) if found else None


class Reader:
    """Reads the files of a run directory."""

    def __init__(self, directory: Path, shown: dict[str, dict[str, Any]]) -> None:
        self.directory = directory
        run = json.loads((directory / "run.json").read_text())
        self.evidence = Evidence(History(directory / "store.log"), run, shown)

    def read(self) -> Evidence:
        """All of it."""
        evidence = self.evidence
        self.read_mails()
        for trace in evidence.run["traces"]:
            self.read_trace(trace["file"], trace["controller"], trace["boot"])
        self.lay_clocks()
        self.place_in_time()
        for writer in evidence.run["writers"]:
            self.read_acks(writer)
        return evidence

    def read_mails(self) -> None:
        """Every write to a mailbox, in the order in which they were applied."""
        evidence = self.evidence
        for request in evidence.history.changes(start=MAILBOXES, end=DATA):
            portion = evidence.portion_of(request.member)
            evidence.mails += mails(request, portion)

    def read_trace(self, name: str, controller: int, boot: int) -> None:
        """The kernel's trace of one boot."""
        evidence = self.evidence
        uuids = {evidence.shown[p]["uuid"].replace("-", ""): p for p in evidence.portions}
        fact = evidence.boots(controller)[boot - 1]
        devices = fact["devices"]
        epochs: dict[str, int] = defaultdict(int)
        at = 0
        text = (self.directory / name).read_text(errors="replace")
        known: set[str] = set()
        told = 0
        if memory := fact.get("memory"):
            # The guest goes on where its memory was saved. Its trace repeats the lines that were in
            # the buffer then.
            before = (self.directory / memory["trace"]).read_bytes()
            known = set(before.decode(errors="replace").splitlines())
            past = before[: memory["bytes"]].decode(errors="replace")
            past = past[: past.rfind("\n") + 1]
            text, told = past + text, len(past.splitlines())
        begun = {beat for beat in map(stamp_of, known) if beat}
        for number, line in enumerate(text.splitlines()):
            if "LOST" in line:
                evidence.faults.append(f"{name}: {line}")
            match = LINE.match(line)
            if match is None:
                continue
            at = int(match[2]) * 10**9 + int(match[3].ljust(9, "0"))
            words = [word.partition("=") for word in match[5].split()]
            value = {key: text for key, sign, text in words if sign}
            portion = uuids[value["portion"].replace("-", "")]
            if match[4] == "role":
                epochs[portion] = int(value["epoch"])
            # A permit from just before the snapshot admits a write that comes after it. A heartbeat
            # whose writes were answered before the snapshot is judged in both lives.
            is_retold = line in known and (number < told or match[4] != "permit")
            if is_retold or stamp_of(line) in begun:
                continue
            if match[4] == "role":
                change = (value["old"], value["new"], epochs[portion], value["reason"])
                evidence.changes.append(Change(controller, boot, portion, *change, at))
            elif match[4] == "heartbeat":
                stamp = int(value["stamp"])
                times = (stamp, stamp + int(value["latency"]), int(value["expiry"]))
                beat = Beat(controller, boot, portion, epochs[portion], int(value["seq"]), *times)
                evidence.beats.append(beat)
            elif match[4] == "permit":
                start = int(value["sector"]) * 512
                end = start + int(value["sectors"]) * 512
                checked = int(value.get("checked", at))
                evidence.permits.append(
                    Permit(controller, boot, portion, devices[value["member"]], start, end,
                           int(value["epoch"]), checked, int(value["expiry"]), task=match[1])
                )  # fmt: skip
            elif match[4] == "refuse":
                late = match[5].endswith("late")
                # The boot stands where the time will be until the clocks are known.
                evidence.refusals.append(Refusal(controller * 1000 + boot, portion, late, at))
        evidence.trace_end[controller, boot] = at

    def lay_clocks(self) -> None:
        """Lays each boot's clock over the host's."""
        evidence = self.evidence
        bounds = self.bounds()
        for who in evidence.trace_end:
            starts = [boot["at"] for boot in evidence.boots(who[0])] + [1 << 63]
            jumps = [
                fact
                for fact in evidence.run["facts"]
                if fact["kind"] == "jump" and fact["controller"] == who[0]
                and starts[who[1] - 1] < fact["at"] < starts[who[1]]
            ]  # fmt: skip
            if bounds[who]:
                evidence.clocks[who] = lay_clock(bounds[who], jumps)
                continue
            if memory := evidence.boots(who[0])[who[1] - 1].get("memory"):
                # It was not in time for a heartbeat: its clock goes on where it was saved.
                clock = evidence.clocks[who[0], memory["boot"]]
                stood_ns = evidence.boots(who[0])[who[1] - 1]["at"] - memory["saved"]
                offset = clock.offset_at(memory["saved"]) + stood_ns
                evidence.clocks[who] = Clock(offset, clock.error + UNSURE_NS)
                continue
            evidence.clocks[who] = Clock()
            if any((p.controller, p.boot) == who for p in evidence.permits):
                evidence.faults.append(f"no heartbeat tells the clock of (controller, boot) {who}")

    def bounds(self) -> dict[tuple[int, int], list[Bound]]:
        """What each heartbeat says of the clock of its boot."""
        evidence = self.evidence
        written: dict[tuple[int, int, str, int, int], list[Request]] = defaultdict(list)
        for mail in evidence.mails:
            if not mail.is_ballot and mail.is_owner:
                boot = evidence.boot_at(mail.controller, mail.request.received)
                key = (mail.controller, boot, mail.portion, mail.epoch, mail.hb)
                written[key].append(mail.request)
        found: dict[tuple[int, int], list[Bound]] = defaultdict(list)
        for beat in evidence.beats:
            key = (beat.controller, beat.boot, beat.portion, beat.epoch, beat.hb)
            requests = written.get(key, [])
            answers = sorted(r.answered for r in requests if r.answered and not r.errno)
            majority = len(evidence.disks(beat.portion)) // 2
            if len(answers) <= majority:
                evidence.faults.append(f"a heartbeat that the store does not know: {beat}")
                continue
            # Not before it came in; judged not before a majority was answered.
            received = min(r.received for r in requests)
            latest, earliest = received - beat.stamp_ns, answers[majority] - beat.judged_ns
            found[beat.controller, beat.boot].append(
                Bound(received, answers[majority], earliest, latest)
            )
        return found

    def place_in_time(self) -> None:
        """Gives everything from traces its time on the host."""
        evidence = self.evidence
        for permit in evidence.permits:
            permit.at = self.host(permit.controller, permit.boot, permit.guest_ns)
        for beat in evidence.beats:
            beat.judged = self.host(beat.controller, beat.boot, beat.judged_ns)
            left = beat.expiry_ns - beat.judged_ns
            beat.expiry = beat.judged + left if beat.expiry_ns else 0
        for change in evidence.changes:
            change.at = self.host(change.controller, change.boot, change.guest_ns)
        evidence.refusals = [
            Refusal(who // 1000, portion, late, self.host(who // 1000, who % 1000, at))
            for who, portion, late, at in evidence.refusals
        ]
        for (controller, boot), at in evidence.trace_end.items():
            evidence.trace_end[controller, boot] = self.host(controller, boot, at)
        for items in (evidence.permits, evidence.changes, evidence.refusals):
            items.sort(key=lambda item: item.at)
        evidence.beats.sort(key=lambda beat: beat.judged)

    def host(self, controller: int, boot: int, guest_ns: int) -> int:
        return self.evidence.clocks[controller, boot].host(guest_ns)

    def read_acks(self, writer: dict[str, Any]) -> None:
        """What one writer was told; a line that was cut short was not told."""
        clock = self.evidence.clocks[writer["controller"], writer["boot"]]
        text = (self.directory / writer["file"]).read_text()
        for line in text.split("\n")[:-1]:
            epoch, number, device, block, word, before, after = line.split()
            self.evidence.acks.append(
                Ack(writer["controller"], writer["portion"], writer["file_system"], int(epoch),
                    int(number), int(device), int(block), 0 if word == "ok" else int(word),
                    clock.host(int(before)), clock.host(int(after)))
            )  # fmt: skip
