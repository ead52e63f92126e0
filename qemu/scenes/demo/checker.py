# SPDX-License-Identifier: GPL-2.0
"""What must be true of the evidence, whatever the scenes meant to do.

    one owner      an epoch has one owner; records never go backwards; leases of two controllers
                   never overlap; a lease is what the previous heartbeat makes it
    claims         who claims without being asked has read the owner's silence for the window
    permits        everything that came to a data area had leave, given before the lease ended
    strays         of what landed after a takeover: at most the batch limit
    acknowledged   nothing that was acknowledged is missing, nothing that strayed was acknowledged
    takeover       as fast as the window allows: W + 2 P + 16 mailbox I/Os
    steady         the other portion's writes do not notice a takeover

Every rule adds a line to `failures` for each violation; the verdict is that there is none, and
that the rules had something to judge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from rig.evidence import Ack, Beat, Evidence, Permit, Record, decode_head
from rig.history import BLOCK, Request
from rig.mailbox import DATA, HANDING_OVER, LAPSED, MAILBOX, MAILBOXES, RELEASED, Mail

MS = 10**6

# Mailbox I/Os, one after the other, between the end of the window and the first permit.
TAKEOVER_IOS = 16


@dataclass
class Takeover:
    """An epoch that began: who had the one before, and how long there was no owner."""

    portion: str
    epoch: int
    old: int
    new: int
    how: str
    """first, silence, own lapse, handoff"""
    last_sign: int
    """The old owner's last heartbeat that the store answered, or when it gave the portion back."""
    leased: int
    first_write: int | None
    first_ack: int | None
    ios: int
    """Mailbox I/Os of the new owner on one member from its first ballot to its lease."""
    io_ns: int
    """What one of them takes, as the new owner sees it."""
    bound: int
    """W + 2 P + 16 mailbox I/Os: what silence may cost."""


@dataclass
class Stray:
    """An operation that landed although a later epoch had begun."""

    request: Request
    portion: str
    epoch: int
    later: int
    permit: Permit | None


@dataclass
class Findings:
    """What the checker says."""

    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    missing: list[tuple[int, str]] = field(default_factory=list)
    """Acknowledged writes that are lost: when they were acknowledged, and what is wrong."""
    counts: dict[str, int] = field(default_factory=dict)
    begins: dict[str, dict[int, tuple[int, int, int]]] = field(default_factory=dict)
    """Epochs of each portion: (owner, when, place in the store's order) of the first heartbeat."""
    leases: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    """(portion, controller, epoch, from, until)"""


class Checker:
    """Applies all rules to one run."""

    def __init__(
        self,
        evidence: Evidence,
        blocks: Mapping[tuple[str, Any, int], Record | None],
        files: dict[str, list[list[Record | None]]],
    ) -> None:
        """`blocks` is what stands on the medium for raw records, by (portion, member, block);
        `files` are the records of each portion's file, copy by copy."""
        self.evidence = evidence
        self.blocks = blocks
        self.files = files
        self.found = Findings()
        self.leave: dict[int, int] = {}
        """The epoch of the permit of each request that had one."""

    def check(self) -> Findings:
        """All rules."""
        for fault in self.evidence.faults:
            self.fail(f"evidence: {fault}")
        for portion in self.evidence.portions:
            self.epochs(portion)
            self.registers(portion)
        judged = sum(self.claims(portion) for portion in self.evidence.portions)
        self.count("ballots after silence", judged)
        self.heartbeats()
        self.leases()
        self.permits()
        self.raw_acks()
        self.file_acks()
        self.acks_of_strays()
        self.acks_after_the_end()
        self.late_answers()
        self.stalls()
        for portion in self.evidence.portions:
            self.takeovers(portion)
        self.final()
        return self.found

    def fail(self, what: str, at: int | None = None) -> None:
        """A rule is broken; `at` is when, where that is known."""
        self.found.failures.append(what)

    def count(self, what: str, number: int, at_least: int = 1) -> None:
        """How much a rule has judged; a rule without work proves nothing."""
        self.found.counts[what] = number
        if number < at_least:
            self.fail(f"evidence: only {number} {what}")

    def mails(self, portion: str) -> list[Mail]:
        return [mail for mail in self.evidence.mails if mail.portion == portion]

    def time(self, at: int) -> str:
        """A moment as the report writes it."""
        return f"{(at - self.evidence.run['begun']) / 1e9:.3f} s"

    # One owner.

    def epochs(self, portion: str) -> None:
        """An epoch has one owner in all records, and only the owner heartbeats in it."""
        owners: dict[int, tuple[int, bytes]] = {}
        begins = self.found.begins.setdefault(portion, {})
        for mail in self.mails(portion):
            if mail.epoch:
                decided = (mail.owner, mail.owner_inc)
                if owners.setdefault(mail.epoch, decided) != decided:
                    self.fail(
                        f"two owners: {portion} epoch {mail.epoch} belongs to controller "
                        f"{owners[mail.epoch][0]} and to {mail.owner}"
                    )
            if mail.is_ballot or not mail.is_owner:
                continue
            if (mail.controller, mail.inc) != (mail.owner, mail.owner_inc):
                self.fail(
                    f"two owners: controller {mail.controller} heartbeats as the owner of "
                    f"{portion} epoch {mail.epoch}, which is {mail.owner}'s"
                )
            assert mail.request.applied is not None and mail.request.order is not None
            place = (mail.controller, mail.request.applied, mail.request.order)
            begins.setdefault(mail.epoch, place)
        order = [begins[epoch][2] for epoch in sorted(begins)]
        if order != sorted(order):
            self.fail(f"epochs: those of {portion} do not begin in their order")
        self.count(f"epochs of {portion}", len(begins), 2)

    def registers(self, portion: str) -> None:
        """A register never goes backwards on a member."""
        seen: dict[tuple[str, int, int, bool], tuple[int, int]] = {}
        for mail in self.mails(portion):
            if self.is_put_back(mail.controller, mail.request.received):
                continue
            disk, applied = mail.request.member, mail.request.applied or 0
            times = self.evidence.formats(disk, applied)
            key = (disk, times, mail.controller, mail.is_ballot)
            seq, epoch = seen.get(key, (0, 0))
            if mail.seq < seq or mail.epoch < epoch:
                self.fail(
                    f"register: controller {mail.controller} wrote sequence {mail.seq}, epoch "
                    f"{mail.epoch} to {mail.request.member} after {seq}, {epoch}"
                )
            seen[key] = (mail.seq, mail.epoch)

    def claims(self, portion: str) -> int:
        """Who claims an epoch that was not given up has seen silence for the window. Returns how
        many ballots were judged."""
        owned: dict[int, dict[str, list[Request]]] = defaultdict(lambda: defaultdict(list))
        ended: set[int] = set()
        own: dict[int, Mail] = {}
        newest: dict[tuple[int, str], int] = defaultdict(int)
        reads = self.mailbox_reads(portion)
        drift = self.evidence.shown[portion]["timing"]["drift_ppm"]
        window = self.evidence.window(portion) * (10**6 - drift) // 10**6
        invited: set[tuple[int, int]] = set()
        judged = 0
        told: set[tuple[int, int]] = set()
        for mail in self.mails(portion):
            if not mail.is_ballot:
                # A reader sees the newest block of a register. A machine that was put back to an
                # earlier memory writes an older record into the other block.
                register = (mail.controller, mail.request.member)
                is_newest = mail.seq > newest[register]
                if mail.is_owner and is_newest and mail.request.applied_length >= BLOCK:
                    owned[mail.epoch][mail.request.member].append(mail.request)
                    own[mail.epoch] = mail
                    newest[register] = mail.seq
                elif mail.role == RELEASED:
                    ended.add(mail.epoch)
                if mail.role == HANDING_OVER:
                    invited.add((mail.epoch, mail.successor))
                continue
            # An invited successor prepares itself, and puts no value forward.
            if (mail.epoch, mail.controller) in invited and not mail.accepted:
                continue
            if not mail.round or mail.epoch not in own or mail.epoch in ended:
                continue
            owner = own[mail.epoch]
            if (owner.controller, owner.inc) == (mail.controller, mail.inc):
                continue
            judged += 1
            silences = sorted(
                silence(mail, owner, reads[mail.controller, disk], owned[mail.epoch][disk])
                for disk in self.evidence.disks_at(portion, mail.request.received)
            )
            # A majority of members that were silent is enough.
            silent = silences[-(len(silences) // 2) - 1]
            # Who comes late to an epoch that is over claims in vain; that is no harm.
            begun = self.found.begins[portion].get(mail.epoch + 1)
            early = silent < window and (begun is None or mail.request.received < begun[1])
            if early and (mail.controller, mail.epoch) not in told:
                told.add((mail.controller, mail.epoch))
                applied = mail.request.applied or 0
                self.fail(
                    f"claim: controller {mail.controller} claims {portion} epoch {mail.epoch + 1} "
                    f"after {silent / MS:.0f} ms of silence at {self.time(applied)}",
                    applied,
                )
        return judged

    def mailbox_reads(self, portion: str) -> dict[tuple[int, str], list[Request]]:
        """The reads of mailboxes that succeeded, by controller and member, in the order of their
        answers."""
        reads: dict[tuple[int, str], list[Request]] = defaultdict(list)
        for disk in self.evidence.all_disks(portion):
            for request in self.evidence.history.select(None, disk, "R", MAILBOXES, DATA):
                if request.answered and not request.errno:
                    reads[int(request.controller[1:]), disk].append(request)
        for found in reads.values():
            found.sort(key=lambda request: request.answered or 0)
        return reads

    def heartbeats(self) -> None:
        """A lease ends a lease time after the stamp of the heartbeat before the last. It may begin
        some heartbeats later: a new owner first waits for what it is charged with to be written."""
        last: dict[tuple[int, int, str, int], Beat] = {}
        leased: set[tuple[int, int, str, int]] = set()
        for beat in self.evidence.beats:
            key = (beat.controller, beat.boot, beat.portion, beat.epoch)
            before = last.get(key)
            length = int(self.evidence.shown[beat.portion]["timing"]["lease_ms"] * MS)
            expected = before.stamp_ns + length if before else 0
            waits = not beat.expiry_ns and key not in leased
            if beat.expiry_ns != expected and not waits:
                self.fail(
                    f"lease: heartbeat {beat.hb} of {beat.portion} epoch {beat.epoch} made the "
                    f"lease end at {beat.expiry_ns}, not at {expected}",
                    beat.judged,
                )
            if beat.expiry_ns:
                leased.add(key)
            if beat.expiry_ns and beat.judged_ns >= beat.expiry_ns:
                self.fail(f"lease: granted after its end: {beat}")
            if before and before.expiry_ns and beat.judged_ns >= before.expiry_ns:
                self.fail(f"lease: extended after its end: {beat}")
            last[key] = beat
        self.count("heartbeats", len(self.evidence.beats), 100)

    def leases(self) -> None:
        """Leases of two controllers on one portion never overlap."""
        for (portion, controller, _, epoch), (begin, until) in lease_spans(self.evidence):
            self.found.leases.append((portion, controller, epoch, begin, until))
        error = sum(clock.error for clock in self.evidence.clocks.values())
        for portion in self.evidence.portions:
            held = [lease for lease in self.found.leases if lease[0] == portion]
            for one, next_one in pairwise(held):
                if next_one[1] != one[1] and next_one[3] < one[4] - error:
                    self.fail(
                        f"two leases: controller {one[1]} on {portion} until {self.time(one[4])}, "
                        f"controller {next_one[1]} from {self.time(next_one[3])}"
                    )
        self.count("leases", len(self.found.leases), 2)

    # What came to the disks.

    def permits(self) -> None:
        """Every operation in a data area had leave, given before the lease ended; strays."""
        evidence = self.evidence
        unused = self.permits_by_block()
        strays: dict[tuple[str, int], list[Stray]] = defaultdict(list)
        requests = evidence.history.select(ops="WTZ", start=DATA)
        for request in requests:
            portion = evidence.portion_of(request.member)
            permit = self.permit_of(request, unused)
            if permit is None:
                self.without_permit(request, portion)
            elif permit.guest_ns >= self.expiry(permit):
                self.fail(f"late permit: {self.describe(request, permit.epoch)}", request.received)
            if request.order is None:
                continue
            epoch = permit.epoch if permit else self.last_owned(portion, request)
            self.leave[request.id] = epoch
            later = self.epoch_at(portion, request.order)
            if later > epoch:
                stray = Stray(request, portion, epoch, later, permit)
                self.found.strays.append(stray)
                strays[portion, epoch].append(stray)
        for (portion, epoch), group in strays.items():
            self.too_many(portion, epoch, group)
        self.count("operations in data areas", len(requests), 100)

    def too_many(self, portion: str, epoch: int, group: list[Stray]) -> None:
        """More strays of an epoch than the limit, and those without a permit."""
        limit = self.evidence.limit(portion)
        if limit is not None and len(group) > limit:
            self.fail(
                f"strays: {len(group)} of {portion} epoch {epoch}, the limit is {limit}",
                group[0].request.applied,
            )
        for stray in group:
            if stray.permit is None:
                self.fail(
                    f"stray without a permit: {self.describe(stray.request, epoch)}",
                    stray.request.applied,
                )

    def permits_by_block(self) -> dict[tuple[int, int, str, int], list[Permit]]:
        """Permits that are not used up yet, by controller, boot, member and block, oldest first."""
        unused: dict[tuple[int, int, str, int], list[Permit]] = defaultdict(list)
        for permit in self.evidence.permits:
            for block in range(permit.start // BLOCK, -(-permit.end // BLOCK)):
                unused[permit.controller, permit.boot, permit.member, block].append(permit)
        return unused

    def permit_of(
        self, request: Request, unused: dict[tuple[int, int, str, int], list[Permit]]
    ) -> Permit | None:
        """The permit of a request: of all its blocks, the youngest one given before it came. Of
        several for one request the one that ended first counts."""
        controller = int(request.controller[1:])
        boot = self.evidence.boot_at(controller, request.received)
        latest = request.received + 2 * self.evidence.clocks[controller, boot].error + MS
        found = []
        first, last = request.offset // BLOCK, -(-(request.offset + request.length) // BLOCK)
        for block in range(first, last):
            given = unused.get((controller, boot, request.member, block), [])
            place = bisect_right(given, latest, key=lambda permit: permit.at)
            if place == 0:
                return None
            found.append(given.pop(place - 1))
        return min(found, key=lambda permit: permit.expiry_ns - permit.guest_ns)

    def expiry(self, permit: Permit) -> int:
        """When the lease ended under which a permit was given, in the guest's clock. A latch
        between the grant and its trace leaves zero there: then the heartbeats tell."""
        if permit.expiry_ns:
            return permit.expiry_ns
        ends = [
            beat.expiry_ns
            for beat in self.evidence.beats
            if (beat.controller, beat.boot, beat.portion, beat.epoch)
            == (permit.controller, permit.boot, permit.portion, permit.epoch)
        ]
        return max(ends, default=0)

    def without_permit(self, request: Request, portion: str) -> None:
        """A request without a permit. What a machine traced just before its power was cut, or
        before a run was broken off, never came to the host; such a request may have had one,
        if nobody had taken over yet."""
        controller = int(request.controller[1:])
        boot = self.evidence.boot_at(controller, request.received)
        cut = boot < len(self.evidence.boots(controller)) or not self.evidence.run["complete"]
        unseen = cut and request.received > self.evidence.trace_end[controller, boot]
        what = "operations whose trace died with the machine"
        if unseen:
            self.found.counts[what] = self.found.counts.get(what, 0) + 1
        else:
            self.fail(f"no permit: {self.describe(request, 0)}", request.received)

    def last_owned(self, portion: str, request: Request) -> int:
        """The epoch that a controller had owned last when a request of it came in."""
        controller = int(request.controller[1:])
        begins = self.found.begins[portion].items()
        owned = (e for e, begin in begins if begin[0] == controller and begin[1] < request.received)
        return max(owned, default=0)

    def epoch_at(self, portion: str, order: int) -> int:
        """The epoch whose owner had shown itself at a place in the store's order."""
        begins = self.found.begins[portion]
        return max((epoch for epoch, begin in begins.items() if begin[2] < order), default=0)

    def describe(self, request: Request, epoch: int) -> str:
        """A request in words."""
        return (
            f"{request.op} of {request.length} bytes at {request.offset} of {request.member} by "
            f"{request.controller}, epoch {epoch or 'unknown'}, at {self.time(request.received)}"
        )

    # What was acknowledged.

    def written(self, portion: str) -> dict[tuple[int, int, int], Request]:
        """The requests that brought raw records to a portion, by (controller, epoch, number)."""
        found = {}
        for disk in self.evidence.all_disks(portion):
            for request in self.evidence.history.changes(disk, start=DATA):
                for _, head in request.blocks():
                    record = decode_head(head)
                    if record is not None:
                        found[record.controller, record.epoch, record.number] = request
        return found

    def raw_acks(self) -> None:
        """Every acknowledged raw record reached the medium, and there it or a later one stands."""
        acks = [ack for ack in self.evidence.acks if not ack.in_file and ack.errno == 0]
        landed = {p: self.written(p) for p in {ack.portion for ack in acks}}
        for ack in acks:
            requests = landed[ack.portion]
            request = requests.get((ack.controller, ack.epoch, ack.number))
            if request is None:
                self.missing(ack, "never reached the disk")
                continue
            there = self.standing(ack, request)
            standing = there and requests.get((there.controller, there.epoch, there.number))
            if there is None or standing is None:
                self.missing(ack, "there is something else on the medium")
            elif (there.block, there.device) != (ack.block, ack.device):
                self.missing(ack, f"the medium has a record of another place: {there}")
            elif (standing.order or 0) < (request.order or 0):
                self.missing(ack, f"an older record stands on the medium: {there}")
        self.count("acknowledged raw writes", len(acks), 50)

    def standing(self, ack: Ack, request: Request) -> Record | None:
        """What stands on the medium in the place of an acknowledged record."""
        return self.blocks.get((ack.portion, ack.device, ack.block))

    def file_acks(self) -> None:
        """Every acknowledged record of a file is there in a majority of the copies."""
        acks = [ack for ack in self.evidence.acks if ack.in_file and ack.errno == 0]
        for ack in acks:
            wanted = (ack.controller, ack.epoch, ack.number, ack.number)
            copies = self.files.get(ack.portion, [])
            good = 0
            for copy in copies:
                there = copy[ack.number] if ack.number < len(copy) else None
                good += there is not None and there[:4] == wanted
            if good * 2 <= len(copies):
                self.missing(ack, f"{good} of {len(copies)} copies have it")
        self.count("acknowledged database records", len(acks), 50)

    def missing(self, ack: Ack, why: str) -> None:
        """An acknowledged write is lost."""
        text = (
            f"lost: record {ack.number} of controller {ack.controller}, {ack.portion} epoch "
            f"{ack.epoch}, acknowledged at {self.time(ack.after)}: {why}"
        )
        self.found.missing.append((ack.after, text))
        self.fail(text, ack.after)

    def acks_of_strays(self) -> None:
        """What strayed was not acknowledged."""
        good = {
            (ack.controller, ack.epoch, ack.number)
            for ack in self.evidence.acks
            if ack.errno == 0 and not ack.in_file
        }
        for stray in self.found.strays:
            for _, head in stray.request.blocks():
                record = decode_head(head)
                if record and (record.controller, record.epoch, record.number) in good:
                    self.fail(f"acknowledged stray: {self.describe(stray.request, stray.epoch)}")

    def acks_after_the_end(self) -> None:
        """Nothing that was begun after another controller had taken over was acknowledged."""
        for ack in self.evidence.acks:
            if ack.errno:
                continue
            for epoch, (owner, when, _) in self.found.begins[ack.portion].items():
                if epoch > ack.epoch and owner != ack.controller and ack.before > when + MS:
                    self.fail(
                        f"acknowledged after the takeover: record {ack.number} of {ack.portion} "
                        f"epoch {ack.epoch} by controller {ack.controller} at "
                        f"{self.time(ack.after)}"
                    )
                    break

    def late_answers(self) -> None:
        """What the disks answered after the lease had ended was reported as an error [R18]."""
        ends = {(name, who, epoch): end for name, who, epoch, _, end in self.found.leases}
        late: dict[tuple[str, int], int] = defaultdict(int)
        for stray in self.found.strays:
            if self.excused(stray):
                continue
            request, controller = stray.request, int(stray.request.controller[1:])
            end = ends.get((stray.portion, controller, stray.epoch))
            alive = request.answered and self.evidence.boot_at(controller, request.answered)
            same = alive == self.evidence.boot_at(controller, request.received)
            if end and same and request.answered and request.answered > end and not request.errno:
                late[stray.portion, controller] += 1
        for (portion, controller), number in late.items():
            reported = sum(
                refusal.late
                for refusal in self.evidence.refusals
                if (refusal.portion, refusal.controller) == (portion, controller)
            )
            if reported < number:
                self.fail(
                    f"late success: {number} writes of controller {controller} to {portion} were "
                    f"answered after its lease, {reported} were reported as errors"
                )

    def excused(self, stray: Stray) -> bool:
        """Whether a stray comes from a machine that could not know better: none here."""
        return False

    def is_put_back(self, controller: int, when: int) -> bool:
        """Whether a controller runs with a memory that was saved before: none here."""
        return False

    # How long it took.

    def stalls(self) -> None:
        """A stall was longer than the window, and the other portion's writes did not notice it."""
        stalls = [fact for fact in self.evidence.run["facts"] if fact.get("what") == "stall"]
        for stall in stalls:
            begin, end = stall["at"], stall["until"]
            for portion in self.evidence.portions:
                if end - begin <= self.evidence.window(portion):
                    self.fail(f"stall: {(end - begin) / MS:.0f} ms is not longer than W")
            other = 3 - stall["controller"]
            self.steady(self.owned_throughout(other, begin, end), other, begin, end)
        self.count("stalls", len(stalls))

    def owned_throughout(self, controller: int, begin: int, end: int) -> str:
        """The portion that a controller owned all the time."""
        return next(
            portion
            for portion, owner, _, since, until in self.found.leases
            if owner == controller and since < begin and until > end
        )

    def steady(self, portion: str, controller: int, begin: int, end: int) -> None:
        """The longest pause between two writes is one of an ordinary write."""
        during = self.pauses(portion, controller, begin, end)
        before = self.pauses(portion, controller, 0, begin)
        self.count(f"writes of {portion} during the stall", len(during), 5)
        if not during or not before:
            return
        told = int(self.evidence.shown[portion]["timing"]["write_ms"] * MS)
        longest, ordinary = during[-1][0], max(before[-1][0], told)
        self.found.notes.append(
            f"controller {controller}'s writes to {portion} went on during the stall of the other: "
            f"longest pause {longest / MS:.0f} ms; before it {before[-1][0] / MS:.0f} ms; an "
            f"ordinary write is one of up to {told / MS:.0f} ms"
        )
        if longest > ordinary:
            self.fail(
                f"pause: {longest / MS:.0f} ms between two writes to {portion} during the "
                f"takeover, an ordinary one is {ordinary / MS:.0f} ms"
            )

    def takeovers(self, portion: str) -> None:
        """How each epoch began, and whether that was fast enough."""
        begins = self.found.begins[portion]
        for epoch in sorted(begins):
            new = begins[epoch][0]
            old = begins[epoch - 1][0] if epoch - 1 in begins else 0
            takeover = self.takeover(portion, epoch, old, new)
            if takeover is None:
                continue
            self.found.takeovers.append(takeover)
            took = takeover.leased - takeover.last_sign
            if takeover.how == "silence":
                if took > takeover.bound and not self.without_majority(portion, takeover):
                    self.fail(
                        f"takeover: {portion} epoch {epoch} took {took / MS:.0f} ms, more than W + "
                        f"2 P + {TAKEOVER_IOS} mailbox I/Os = {takeover.bound / MS:.0f} ms"
                    )
                if takeover.ios > TAKEOVER_IOS:
                    self.fail(
                        f"takeover: {portion} epoch {epoch} took {takeover.ios} mailbox I/Os, more "
                        f"than {TAKEOVER_IOS}"
                    )
            if takeover.how == "handoff" and took >= self.evidence.window(portion):
                self.fail(f"handoff: {portion} epoch {epoch} took {took / MS:.0f} ms, as long as W")

    def takeover(self, portion: str, epoch: int, old: int, new: int) -> Takeover | None:
        """How an epoch began."""
        beats = [
            b
            for b in self.evidence.beats
            if (b.portion, b.epoch, b.controller) == (portion, epoch, new)
        ]
        leased = next((beat for beat in beats if beat.expiry), None)
        if leased is None:
            # Won and lost again before there was a lease.
            return None
        mails = self.mails(portion)
        how, last_sign = "first", 0
        for mail in mails:
            request = mail.request
            if mail.is_ballot or mail.epoch != epoch - 1 or mail.controller != old:
                continue
            if mail.is_owner and request.answered and not request.errno:
                how, last_sign = "silence", request.answered
            elif mail.role == RELEASED:
                how, last_sign = "handoff", request.applied or 0
                break
            elif mail.role == LAPSED and new == old:
                how = "own lapse"
        first = self.first_write(portion, new, leased.judged)
        acks = [
            ack.after
            for ack in self.evidence.acks
            if (ack.portion, ack.controller, ack.errno) == (portion, new, 0)
            and ack.after > leased.judged
        ]
        io_ns = self.io_ns(beats)
        bound = (
            self.evidence.window(portion) + 2 * self.evidence.period(portion) + TAKEOVER_IOS * io_ns
        )
        return Takeover(
            portion, epoch, old, new, how, last_sign, leased.judged, first, min(acks, default=None),
            self.ios(portion, epoch, new, leased.judged), io_ns, bound,
        )  # fmt: skip

    def first_write(self, portion: str, controller: int, since: int) -> int | None:
        """When the first operation in the data area was answered."""
        times = [
            request.answered
            for disk in self.evidence.disks(portion)
            for request in self.evidence.history.select(f"c{controller}", disk, "WTZ", DATA)
            if request.answered and request.received > since and request.errno == 0
        ]
        return min(times, default=None)

    def ios(self, portion: str, epoch: int, controller: int, until: int) -> int:
        """Mailbox I/Os on the busiest member from the first ballot for an epoch to its lease."""
        ballots = [
            mail.request.received
            for mail in self.mails(portion)
            if mail.is_ballot
            and mail.controller == controller
            and mail.round
            and mail.epoch == epoch - 1
        ]
        if not ballots:
            return 0
        return max(
            sum(
                min(ballots) <= request.received <= until
                for request in self.evidence.history.select(
                    f"c{controller}", disk, "RW", MAILBOXES, DATA
                )
            )
            for disk in self.evidence.disks(portion)
        )

    def io_ns(self, beats: list[Beat]) -> int:
        """A mailbox I/O as the owner sees it: a heartbeat writes, then reads."""
        return int(median(beat.judged_ns - beat.stamp_ns for beat in beats)) // 2

    def without_majority(self, portion: str, takeover: Takeover) -> bool:
        """Whether the disks themselves were out of reach while nobody owned."""
        disks = self.evidence.disks(portion)
        failed = {
            request.member
            for disk in disks
            for request in self.evidence.history.select(None, disk, "RW", MAILBOXES, DATA)
            if request.errno and takeover.last_sign < request.received < takeover.leased
        }
        return len(failed) > len(disks) // 2

    def pauses(self, portion: str, controller: int, begin: int, end: int) -> list[tuple[int, int]]:
        """The time between one acknowledged write and the next, with its end, longest last."""
        times = sorted(
            ack.after
            for ack in self.evidence.acks
            if (ack.portion, ack.controller, ack.errno) == (portion, controller, 0)
            and begin <= ack.after <= end
        )
        return sorted((b - a, b) for a, b in pairwise(times))

    def final(self) -> None:
        """What the mailboxes on the disks say in the end is what the log says."""
        for portion in self.evidence.portions:
            top = max(self.found.begins[portion])
            owner = self.found.begins[portion][top][0]
            said = {
                (decided["epoch"], decided["owner"])
                for decided in decided_of(self.evidence.shown[portion])
            }
            if max(said, default=(0, 0)) != (top, owner):
                self.fail(
                    f"mailboxes: {portion} says {max(said, default=None)}, the log says "
                    f"{(top, owner)}"
                )


def silence(ballot: Mail, owner: Mail, reads: list[Request], beats: list[Request]) -> int:
    """For how long an owner had not been heard of on a member, as the reads that its rival had
    back when it sent a ballot could show: from the last heartbeat that the last of them saw, until
    that one came in. A heartbeat that reaches the member after it is none of the rival's business:
    one that was held up for longer than the window comes too late."""
    first = MAILBOXES + (owner.controller - 1) * MAILBOX + MAILBOX // 2
    known = bisect_right(reads, ballot.request.received, key=lambda read: read.answered or 0)
    for read in reversed(reads[:known]):
        if read.overlaps(first, first + MAILBOX // 2):
            place = bisect_right(beats, read.order or 0, key=lambda beat: beat.order or 0)
            return read.received - (beats[place - 1].applied or 0 if place else 0)
    return 0


def lease_spans(evidence: Evidence) -> list[tuple[tuple[str, int, int, int], tuple[int, int]]]:
    """From when to when each lease was held, by portion, controller, boot and epoch; in the order
    of their beginnings."""
    spans: dict[tuple[str, int, int, int], list[int]] = {}
    for beat in evidence.beats:
        if beat.expiry:
            key = (beat.portion, beat.controller, beat.boot, beat.epoch)
            spans.setdefault(key, [beat.judged, 0])[1] = beat.expiry
    for change in evidence.changes:
        key = (change.portion, change.controller, change.boot, change.epoch)
        if change.new == "secondary" and key in spans and change.at < spans[key][1]:
            spans[key][1] = change.at
    held = [(key, (begin, until)) for key, (begin, until) in spans.items()]
    return sorted(held, key=lambda item: item[1][0])


def decided_of(member: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What each mailbox of a member takes for decided, as `leasectl show` prints it."""
    for mailbox in member["mailboxes"]:
        for register in ("ballot", "heartbeat"):
            record = mailbox[register]["record"]
            if record and record["decided"]["owner"]:
                yield record["decided"]
