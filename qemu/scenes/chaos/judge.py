# SPDX-License-Identifier: GPL-2.0
"""What must be true of a batch, whatever happened to it [R46].

    S1   no two leases of a portion are valid at the same time; a controller claims only after it
         has seen a window of silence
    S2   strays, writes of an old epoch that land in a later one: at most the batch limit for each
         old epoch; each got its permit before the end of its lease; none was acknowledged
    S3   one owner of an epoch; epochs and registers never go backwards
    S4   the medium holds each acknowledged record, or a later record in its place
    L2   after the fault some controller gets a lease within `BACK` of its own heartbeats

A machine whose clocks stood still cannot see that its lease is over. Its writes after the resume
are reported but are not failures, until its first heartbeat, which must end the epoch. A machine
that was put back to an earlier memory remembers a lease in the same way. It finds that its
mailboxes were written since, and writes no second heartbeat. It may write a ballot that it had
begun to one of the two blocks of a register: a ballot counts only if it is in both.

A controller that has mapped a member keeps it open when its device is removed, and writes its
mailbox there until it knows of a replacement. A controller that joined after the replacement, or
that has written to the new disk, must not write to the former disk until that disk is formatted
again. No controller may write data to a former disk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import chain, pairwise
from typing import Any

from rig.evidence import Ack, Change, Evidence, Permit, Record, decode_head
from rig.history import Request
from rig.mailbox import DATA, RELEASED, Mail, is_heartbeat
from scenes.demo.checker import MS, Checker, Stray, decided_of, lease_spans

from .arena import PERIOD_MS, WINDOW_MS
from .play import Round

# In a starved round the array heard nobody for so long.
SILENT_MS = 1.5 * PERIOD_MS
# Heartbeats of a winner after a fault: those of its window, once more for one that came late or
# lost a race, and the rounds of the claims themselves.
BACK = 2 * WINDOW_MS // PERIOD_MS + 8


class Judge(Checker):
    """Applies the rules to one batch, and tells each of its rounds."""

    def __init__(
        self,
        evidence: Evidence,
        blocks: Mapping[tuple[str, Any, int], Record | None],
        rounds: list[Round],
    ) -> None:
        super().__init__(evidence, blocks, {})
        self.rounds = rounds
        self.facts = {
            fact["number"]: fact for fact in evidence.run["facts"] if fact["kind"] == "round"
        }
        self.blind = [
            fact for fact in evidence.run["facts"]
            if fact["kind"] == "jump" and fact["why"] == "pause" and "until" in fact
        ]  # fmt: skip
        self.past = [fact for fact in evidence.run["facts"] if fact["kind"] == "put back"]

    def judge(self) -> list[str]:
        """Applies all rules. Adds each failure to its round; returns those without a round."""
        for fault in self.evidence.faults:
            self.fail(f"evidence: {fault}")
        for portion in self.evidence.portions:
            self.epochs(portion)
            self.registers(portion)
            self.claims(portion)
            self.leases_by_log(portion)
        self.heartbeats()
        self.leases()
        self.permits()
        self.raw_acks()
        self.acks_of_strays()
        self.acks_after_the_end()
        self.overwritten()
        self.late_answers()
        self.exact()
        self.pauses_of_clocks()
        self.memories()
        self.former_disks()
        self.final()
        for one in self.rounds:
            if one.number in self.facts:
                self.tell(one, self.facts[one.number])
        return self.found.failures

    # Where it belongs.

    def fail(self, what: str, at: int | None = None) -> None:
        """A rule is broken, in a round if it is known in which."""
        one = self.round_at(at) if at else None
        (one.failures if one else self.found.failures).append(what)

    def note(self, at: int, text: str) -> None:
        """Something worth knowing of the round of a moment."""
        if one := self.round_at(at):
            one.notes.append(text)

    def round_at(self, at: int) -> Round | None:
        """The round of a moment: the last one that had begun."""
        begun = [one for one in self.rounds if self.begun(one) <= at]
        return begun[-1] if begun else None

    def begun(self, one: Round) -> int:
        fact = self.facts.get(one.number)
        return int(fact["at"]) if fact else 1 << 63

    def count(self, what: str, number: int, at_least: int = 1) -> None:
        """Counts what a rule checked. `at_least` is ignored here, because one batch may be short:
        the minimum is checked over the whole run."""
        self.found.counts[what] = number

    # S1.

    def leases(self) -> None:
        """Leases of two controllers never overlap, unless the clock of the first stood still."""
        held = lease_spans(self.evidence)
        for (portion, controller, _, epoch), (begin, until) in held:
            self.found.leases.append((portion, controller, epoch, begin, until))
        for place, ((portion, controller, boot, epoch), (_, until)) in enumerate(held):
            for (other, rival, again, _), (begin, _) in held[place + 1 :]:
                error = self.error(controller, boot) + self.error(rival, again)
                if other != portion or rival == controller or begin >= until - error:
                    continue
                if not self.was_blind(controller, portion, epoch):
                    self.fail(
                        f"two leases of {portion}: controller {controller}'s until "
                        f"{self.time(until)}, controller {rival}'s from {self.time(begin)}",
                        begin,
                    )
        self.count("leases", len(held))

    def leases_by_log(self, portion: str) -> None:
        """The same by the array's log alone, on its one clock: a lease ends at most a lease time
        after the heartbeat before the last successful one came in, and begins when the second one
        has been answered by a majority."""
        length = int(self.evidence.shown[portion]["timing"]["lease_ms"] * MS)
        released: dict[int, int] = {}
        for mail in self.mails(portion):
            if not mail.is_ballot and mail.role == RELEASED:
                released.setdefault(mail.epoch, mail.request.received)
        spans = []
        for epoch, (controller, _, _) in sorted(self.found.begins[portion].items()):
            beats = self.successes(portion, epoch, controller)
            if len(beats) > 1:
                end = min(beats[-2][0] + length, released.get(epoch, 1 << 63))
                spans.append((epoch, controller, beats[1][1], end))
        for place, (epoch, controller, _, end) in enumerate(spans):
            for _, rival, begin, _ in spans[place + 1 :]:
                overlaps = rival != controller and begin < end
                if overlaps and not self.was_blind(controller, portion, epoch):
                    self.fail(
                        f"two leases of {portion} by the log: controller {controller}'s until "
                        f"{self.time(end)}, controller {rival}'s from {self.time(begin)}",
                        begin,
                    )
        self.found.counts["leases by the log"] = self.found.counts.get(
            "leases by the log", 0
        ) + len(spans)

    def successes(self, portion: str, epoch: int, controller: int) -> list[tuple[int, int]]:
        """The heartbeats of an owner that a majority answered: when each came in, and when it was
        answered."""
        requests: dict[int, list[Request]] = {}
        for mail in self.owner_beats(portion, epoch, controller):
            requests.setdefault(mail.hb, []).append(mail.request)
        majority = len(self.evidence.disks(portion)) // 2
        found = []
        for _, mine in sorted(requests.items()):
            answers = sorted(r.answered for r in mine if r.answered and not r.errno)
            begun = min(r.received for r in mine)
            if len(answers) > majority and not self.is_put_back(controller, begun):
                found.append((begun, answers[majority]))
        return found

    def error(self, controller: int, boot: int) -> int:
        """How uncertain a boot's clock is."""
        return self.evidence.clocks[controller, boot].error

    def was_blind(self, controller: int, portion: str, epoch: int) -> bool:
        """Whether a controller's clocks stood still while it owned an epoch."""
        return self.blindness(controller, portion, epoch) is not None

    def blindness(self, controller: int, portion: str, epoch: int) -> dict[str, Any] | None:
        """The pause of a controller's clocks that began during its own epoch, if the next epoch
        began during the pause or at most a window after it."""
        begins = self.found.begins[portion]
        if epoch not in begins or begins[epoch][0] != controller:
            return None
        after = min((b[1] for e, b in begins.items() if e > epoch), default=1 << 63)
        for fact in self.blind:
            within = begins[epoch][1] < fact["at"] < after
            is_short = after > fact["until"] + self.evidence.window(portion)
            if fact["controller"] == controller and within and not is_short:
                found: dict[str, Any] = fact
                return found
        return None

    # S2.

    def excused(self, stray: Stray) -> bool:
        """Whether the machine's clocks stood still while another one took over, or it was put back
        to a memory of before."""
        controller, received = int(stray.request.controller[1:]), stray.request.received
        was_blind = self.was_blind(controller, stray.portion, stray.epoch)
        return was_blind or self.is_put_back(controller, received)

    def too_many(self, portion: str, epoch: int, group: list[Stray]) -> None:
        """Reports more strays than the limit, and strays without a permit, unless excused."""
        if not self.excused(group[0]):
            super().too_many(portion, epoch, group)

    def acks_of_strays(self) -> None:
        """What strayed was not acknowledged."""
        good = {
            (ack.controller, ack.epoch, ack.number) for ack in self.evidence.acks if ack.errno == 0
        }
        for stray in self.found.strays:
            if self.excused(stray):
                continue
            for record in filter(None, map(decode_head, stray.request.heads)):
                if (record.controller, record.epoch, record.number) in good:
                    self.fail(
                        f"acknowledged stray: {self.describe(stray.request, stray.epoch)}",
                        stray.request.applied,
                    )

    def acks_after_the_end(self) -> None:
        """No write was acknowledged that began after another controller had taken over. The epoch
        in a record may be too old, if the writer waited while another controller owned. So the
        epoch of the permit is used."""
        written = {portion: self.written(portion) for portion in self.evidence.portions}
        for ack in self.evidence.acks:
            request = written[ack.portion].get((ack.controller, ack.epoch, ack.number))
            if ack.errno or request is None:
                continue
            own = self.leave.get(request.id, ack.epoch)
            if self.was_blind(ack.controller, ack.portion, own):
                continue
            if self.is_put_back(ack.controller, request.received):
                continue
            for epoch, (owner, when, _) in self.found.begins[ack.portion].items():
                if epoch > own and owner != ack.controller and ack.before > when + MS:
                    self.fail(
                        f"acknowledged after the takeover: record {ack.number} of {ack.portion} "
                        f"epoch {own} by controller {ack.controller}",
                        ack.after,
                    )
                    break

    def overwritten(self) -> None:
        """Names the acknowledged records of later epochs that strays have replaced."""
        strays = {stray.request.id for stray in self.found.strays}
        good = {
            (ack.controller, ack.epoch, ack.number) for ack in self.evidence.acks if ack.errno == 0
        }
        standing: dict[tuple[str, int], Record] = {}
        replaced: dict[int, list[str]] = {}
        for request in self.evidence.history.changes(start=DATA):
            for offset, head in request.blocks():
                place, record = (request.member, offset), decode_head(head)
                before = standing.get(place)
                if request.id in strays and before and before[:3] in good:
                    name = f"record {before.number} at {request.member} {offset}"
                    replaced.setdefault(request.applied or 0, []).append(name)
                if record:
                    standing[place] = record
        for one in self.rounds:
            end = self.facts.get(one.number, {}).get("until", 0)
            mine = [names for at, names in replaced.items() if self.begun(one) <= at < end]
            names = list(chain.from_iterable(mine))
            if names:
                words = f"{len(names)} acknowledged records were replaced by strays"
                one.notes.append(f"{words}: {', '.join(names)}")

    def exact(self) -> None:
        """Rounds whose strays are known beforehand."""
        for fact in self.evidence.run["facts"]:
            if fact["kind"] != "exact":
                continue
            portion, epoch, controller = fact["portion"], fact["epoch"], fact["controller"]
            lost = [
                change for change in self.evidence.changes
                if (change.portion, change.controller, change.epoch) == (portion, controller, epoch)
                and change.old == "owner" and change.at < fact["at"]
            ]  # fmt: skip
            if lost:
                self.note(fact["at"], f"the lease was lost before the stop: {lost[0].reason}")
                continue
            found = [s for s in self.found.strays if (s.portion, s.epoch) == (portion, epoch)]
            self.found.counts["exact"] = self.found.counts.get("exact", 0) + 1
            self.note(fact["at"], f"{len(found)} of {fact['strays']} landed")
            if len(found) != fact["strays"]:
                self.fail(
                    f"exact: {len(found)} of controller {controller}'s writes to {portion} epoch "
                    f"{epoch} landed after the takeover, {fact['strays']} must",
                    fact["at"],
                )

    # What a clock that stood still can do, and for how long.

    def pauses_of_clocks(self) -> None:
        """The first heartbeat after the resume ends what a paused machine takes for its lease."""
        for portion in self.evidence.portions:
            for epoch, (controller, _, _) in self.found.begins[portion].items():
                fact = self.blindness(controller, portion, epoch)
                if fact is None or "until" not in fact:
                    continue
                self.after_resume(portion, epoch, controller, fact["until"])

    def after_resume(self, portion: str, epoch: int, controller: int, resumed: int) -> None:
        """One resume into an epoch that another one has succeeded."""
        owned = self.owner_beats(portion, epoch, controller)
        beats = {mail.hb for mail in owned if mail.request.received > resumed}
        landed = [
            s.request for s in self.found.strays
            if (s.portion, s.epoch) == (portion, epoch) and s.request.received > resumed
        ]  # fmt: skip
        last = max(((r.applied or 0) - resumed for r in landed), default=0)
        latch = self.latch(portion, epoch, controller, resumed)
        text = (
            f"{len(landed)} writes landed after the resume ({self.acknowledged(landed)} records "
            f"were acknowledged), the last {last / MS:.0f} ms later; {len(beats)} heartbeats"
        )
        self.note(resumed, text)
        if one := self.round_at(resumed):
            one.resumed.append((len(landed), last / MS))
        self.found.counts["resumed blind"] = self.found.counts.get("resumed blind", 0) + 1
        if len(beats) > 1:
            self.fail(f"resume: {portion} epoch {epoch} went on: {text}", resumed)
        if latch is None:
            self.fail(f"resume: {portion} epoch {epoch} was not given up", resumed)
            return
        permits = [
            permit for permit in self.evidence.permits
            if (permit.portion, permit.epoch, permit.controller) == (portion, epoch, controller)
        ]  # fmt: skip
        self.nothing_after(latch, permits, "resume", resumed)

    # A memory of before, and a disk of before.

    def standing(self, ack: Ack, request: Request) -> Record | None:
        """What stands on the disk that the record went to, which may be a member no more."""
        there = self.blocks.get((ack.portion, request.member, ack.block))
        return there or super().standing(ack, request)

    def is_put_back(self, controller: int, when: int) -> bool:
        """Whether a controller runs with a memory that was saved before."""
        return any(
            fact["controller"] == controller and fact["at"] <= when <= fact.get("until", 1 << 63)
            for fact in self.past
        )

    def nothing_after(self, latch: Change, permits: list[Permit], what: str, at: int) -> None:
        """Nothing is admitted after a latch. A task reads the lease, and then the clock. A task
        that was preempted between the two shows a time after the latch, although its operation was
        admitted before. That can happen once for each task, so one permit of each task is not
        counted."""
        later = Counter(permit.task for permit in permits if permit.guest_ns > latch.guest_ns)
        if number := later.total() - len(later):
            self.fail(f"{what}: {number} permits of {latch.portion} after its latch", at)

    def memories(self) -> None:
        """A machine that was put back writes at most one heartbeat, and at most one ballot to each
        member, and gives everything up."""
        for fact in self.past:
            for portion in self.evidence.portions:
                self.after_put_back(portion, fact)
            self.more("put back")

    def after_put_back(self, portion: str, fact: dict[str, Any]) -> None:
        """What a machine does for a portion with a memory of before."""
        controller, at, until = fact["controller"], fact["at"], fact.get("until", 1 << 63)
        mine = [
            mail for mail in self.mails(portion)
            if mail.controller == controller and at <= mail.request.received <= until
        ]  # fmt: skip
        beats = {mail.hb for mail in mine if not mail.is_ballot}
        ballots = Counter(mail.request.member for mail in mine if mail.is_ballot)
        if len(beats) > 1 or max(ballots.values(), default=0) > 1:
            what = f"{len(beats)} heartbeats, {ballots.total()} ballots of {portion}"
            self.fail(f"put back: controller {controller} went on: {what}", at)
        boot = self.evidence.boot_at(controller, at + 1)
        latch = next(
            (
                change for change in self.evidence.changes
                if (change.controller, change.boot, change.portion) == (controller, boot, portion)
                and change.new == "failed"
            ),
            None,
        )  # fmt: skip
        if latch is None or latch.reason != "copy":
            self.fail(f"put back: controller {controller} did not give {portion} up", at)
            return
        permits = [
            permit for permit in self.evidence.permits
            if (permit.controller, permit.boot, permit.portion) == (controller, boot, portion)
        ]  # fmt: skip
        self.nothing_after(latch, permits, "put back", at)
        self.note(at, f"put back: {len(beats)} heartbeats, {len(permits)} permits of {portion}")

    def former_disks(self) -> None:
        """Nobody writes to a former disk who knows that it is one, until it is formatted again. One
        that was found again was refused, or dropped."""
        for fact in self.evidence.run["facts"]:
            if fact["kind"] == "returned" and "how" in fact:
                self.more("former disks found again")
                self.note(fact["at"], f"c{fact['controller']}: the former disk was {fact['how']}")
        for portion in self.evidence.portions:
            facts = self.evidence.replacements(portion)
            for place, fact in enumerate(facts):
                self.more("replaced")
                disk, at = fact["former"], fact["at"]
                until = next((f["at"] for f in facts[place:] if f["disk"] == disk), 1 << 63)
                for request in self.evidence.history.select(None, disk, "WTZ"):
                    if at < request.received < until and self.knows_better(request, fact):
                        text = f"{self.describe(request, 0)}, replaced at {self.time(at)}"
                        self.fail(f"former disk: {text}", request.received)

    def knows_better(self, request: Request, replaced: dict[str, Any]) -> bool:
        """Whether a write to a former disk comes from a controller that cannot have it any more."""
        received, name = request.received, request.controller
        returned = any(
            f"c{fact['controller']}" == name and fact["portion"] == replaced["portion"]
            and fact["at"] < received < fact.get("until", 1 << 63)
            for fact in self.evidence.run["facts"] if fact["kind"] == "returned"
        )  # fmt: skip
        later = self.evidence.history.select(name, replaced["disk"], "WTZ")
        knew = any(replaced["at"] < other.received < received for other in later)
        is_data = request.overlaps(DATA, 1 << 63)
        return is_data or replaced["all_left"] or returned or knew

    def more(self, what: str) -> None:
        """One more of something that has to have happened in a whole run."""
        self.found.counts[what] = self.found.counts.get(what, 0) + 1

    def acknowledged(self, requests: list[Request]) -> int:
        """How many of these brought records that were acknowledged."""
        good = {
            (ack.controller, ack.epoch, ack.number) for ack in self.evidence.acks if ack.errno == 0
        }
        records = [decode_head(head) for request in requests for head in request.heads]
        return sum(record is not None and record[:3] in good for record in records)

    def owner_beats(self, portion: str, epoch: int, controller: int) -> list[Mail]:
        """The heartbeats of an owner in its epoch."""
        return [
            mail for mail in self.mails(portion)
            if not mail.is_ballot and mail.is_owner
            and (mail.epoch, mail.controller) == (epoch, controller)
        ]  # fmt: skip

    def latch(self, portion: str, epoch: int, controller: int, since: int) -> Change | None:
        """When a controller gave an epoch up."""
        return next(
            (
                change for change in self.evidence.changes
                if (change.portion, change.controller, change.old) == (portion, controller, "owner")
                and change.epoch >= epoch and change.at > since - 50 * MS
            ),
            None,
        )  # fmt: skip

    def final(self) -> None:
        """The mailboxes in the end know the last owner, or one that was decided after it."""
        for portion in self.evidence.portions:
            top = max(self.found.begins[portion], default=0)
            owner = self.found.begins[portion].get(top, (0, 0, 0))[0]
            decided = decided_of(self.evidence.shown[portion])
            said = max(((d["epoch"], d["owner"]) for d in decided), default=(0, 0))
            if said[0] < top or (said[0] == top and said[1] != owner):
                self.fail(f"mailboxes: {portion} says {said}, the log says {(top, owner)}")

    # What a round tells.

    def tell(self, one: Round, fact: dict[str, Any]) -> None:
        """Fills a round's figures in, and judges how long it took."""
        begin, end = fact["at"], fact.get("until", 1 << 63)
        evidence = self.evidence
        for portion in evidence.portions:
            begins = self.found.begins[portion].items()
            one.takeovers += sum(begin <= at < end for epoch, (_, at, _) in begins if epoch > 1)
        one.strays = sum(begin <= (s.request.applied or 0) < end for s in self.found.strays)
        within = [r for r in evidence.refusals if begin <= r.at < end]
        one.late = sum(r.late for r in within)
        one.refused = len(within) - one.late
        one.pause_ms = max(self.unserved(portion, begin, end) for portion in evidence.portions) / MS
        requests = [r for r in evidence.history.requests.values() if begin <= r.received < end]
        received = [begin, *(request.received for request in requests)]
        one.silent_ms = max((b - a for a, b in pairwise(received)), default=0) / MS
        one.starved = one.silent_ms > SILENT_MS
        if "healed" in fact:
            one.back = max(
                self.beats_until_lease(portion, fact["healed"], requests)
                for portion in evidence.portions
            )
            if one.back > BACK and not one.starved:
                self.fail(f"L2: {one.back} heartbeats from the end of the fault to a lease", begin)

    def unserved(self, portion: str, begin: int, end: int) -> int:
        """The longest time between two acknowledged writes of anybody."""
        times = sorted(
            ack.after for ack in self.evidence.acks
            if ack.portion == portion and ack.errno == 0 and begin <= ack.after < end
        )  # fmt: skip
        return max((b - a for a, b in pairwise([begin, *times])), default=0)

    def beats_until_lease(self, portion: str, healed: int, requests: list[Request]) -> int:
        """How many heartbeats the next leaseholder wrote to one member until it had its lease."""
        judged = [b for b in self.evidence.beats if b.portion == portion and b.expiry]
        place = bisect_left([b.judged for b in judged], healed)
        if place == len(judged):
            return 0
        winner, leased = f"c{judged[place].controller}", judged[place].judged
        beats = [
            request for request in requests
            if request.controller == winner and request.op == "W" and is_heartbeat(request)
            and healed <= request.received <= leased
        ]  # fmt: skip
        disks = self.evidence.all_disks(portion)
        return max(sum(request.member == disk for request in beats) for disk in disks)
