# SPDX-License-Identifier: GPL-2.0
"""The checker is shown histories in which something is wrong, and must find it.

A story is told in the store's own log format and in the records of `evidence`: on alpha controller
1 stalls and controller 2 takes over; on beta controller 2 falls silent later and controller 1 takes
over. As it is, nothing is wrong with it; each test plants one thing.
"""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

from rig.evidence import RECORD, Ack, Beat, Change, Clock, Evidence, Permit, Record, Refusal
from rig.history import BLOCK, History, Request
from rig.mailbox import (
    DATA,
    HANDING_OVER,
    MAILBOX,
    MAILBOXES,
    OWNER,
    RELEASED,
    Mail,
    encode,
    mails,
)

from .checker import MS, Checker, Findings

SECOND = 1000 * MS
LEASE, WINDOW, PERIOD = 1600 * MS, 2000 * MS, 200 * MS
DISKS = {"alpha": ["p0m0", "p0m1", "p0m2"], "beta": ["p1m0", "p1m1", "p1m2"]}
SHOWN = {
    "lease_ms": LEASE / MS,
    "window_ms": WINDOW / MS,
    "period_max_ms": PERIOD / MS,
    "write_ms": 300,
    "drift_ppm": 1000,
}


NO_REQUEST = Request(0, 0, "", "", "W", False, 0, BLOCK)


def inc(controller: int) -> bytes:
    """The incarnation of a controller."""
    return bytes([controller]) * 16


def mailbox(
    ballot: bool,
    controller: int,
    seq: int,
    epoch: int,
    owner: int,
    role: int = 0,
    hb: int = 0,
    also: int = 0,
) -> bytes:
    """A mailbox block's head: of a heartbeat, whose successor is `also`; or of a ballot, whose
    round is `hb` and which puts a value forward in round `also`."""
    mail = Mail(
        NO_REQUEST, "", controller, ballot, seq, inc(controller), epoch, owner, inc(owner)
    )  # fmt: skip
    if ballot:
        mail.round, mail.accepted = hb, also
    else:
        mail.role, mail.successor, mail.hb = role, also, hb
    return encode(mail, PERIOD)


class Story:
    """A history that grows by what its methods tell."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.requests = 0
        self.seq: dict[tuple[str, int, bool], int] = {}
        self.numbers = 0
        self.blocks: dict[tuple[str, int, int], Record | None] = {}
        self.files: dict[str, list[list[Record | None]]] = {"alpha": [[], [], []]}
        self.spares: dict[str, list[str]] = {}
        self.facts: list[dict[str, Any]] = [
            {"kind": "boot", "controller": c, "boot": 1, "at": 0} for c in (1, 2)
        ]
        self.evidence = Evidence(History.__new__(History), {}, {})
        self.evidence.clocks = {(c, 1): Clock(0, 1000) for c in (1, 2)}
        self.evidence.trace_end = {(c, 1): 100 * SECOND for c in (1, 2)}

    def request(
        self, at: int, controller: int, member: str, op: str, offset: int, head: bytes = b"",
        applied: int | None = None, length: int = BLOCK,
    ) -> None:  # fmt: skip
        """A request, of one block, that is applied and answered within a millisecond."""
        self.requests += 1
        number, done = self.requests, at + MS // 2 if applied is None else applied
        self.lines.append(
            (at, f"recv {number} {at} c{controller} {member} {op} 0 {offset} {length}")
        )
        shown = head.hex() if head else "-"
        self.lines.append((done, f"done {number} {done} {length} {shown}"))
        self.lines.append((done + 1, f"send {number} {done + 1} 0"))

    def mail(
        self, at: int, portion: str, ballot: bool, controller: int, *more: int, step: int = 1
    ) -> None:
        """A mailbox write on all members of a portion."""
        key = (portion, controller, ballot)
        self.seq[key] = self.seq.get(key, 0) + step
        offset = MAILBOXES + (controller - 1) * MAILBOX + (0 if ballot else 2 * BLOCK)
        for disk in DISKS[portion]:
            head = mailbox(ballot, controller, self.seq[key], *more)
            self.request(at, controller, disk, "W", offset, head)

    def read_mailboxes(self, at: int, portion: str, controller: int) -> None:
        """Reads all mailboxes of a portion."""
        for disk in DISKS[portion]:
            self.request(at, controller, disk, "R", MAILBOXES, length=4 * MAILBOX)

    def claim(self, at: int, portion: str, controller: int, epoch: int, old: int) -> None:
        """A ballot for an epoch, of who has just read the mailboxes."""
        self.read_mailboxes(at - MS, portion, controller)
        self.mail(at, portion, True, controller, epoch - 1, old, 0, 1)

    def own(self, portion: str, controller: int, epoch: int, begin: int, end: int) -> None:
        """Owns an epoch: heartbeats, and writes under its lease."""
        stamp: int | None = None
        hb, at = 1, begin
        while at < end:
            before, stamp = stamp, at
            self.mail(at + MS, portion, False, controller, epoch, controller, OWNER, hb)
            expiry = before + LEASE if before is not None else 0
            times = (stamp, stamp + 4 * MS, expiry)
            beat = Beat(controller, 1, portion, epoch, hb, *times, stamp + 4 * MS, expiry)
            self.evidence.beats.append(beat)
            if expiry:
                for n in range(1, 4):
                    self.write(at + n * 50 * MS, portion, controller, epoch, expiry)
            at += PERIOD if hb > 1 else 5 * MS
            hb += 1
        self.evidence.changes.append(
            Change(controller, 1, portion, "owner", "secondary", epoch, "lapse", end, end)
        )

    def write(
        self, at: int, portion: str, controller: int, epoch: int, expiry: int, *, told: bool = True,
        permit: int | None = None, applied: int | None = None, at_block: int | None = None,
    ) -> int:  # fmt: skip
        """A record: on all members for alpha, on the first one for beta. Returns its number."""
        in_file = portion == "alpha"
        number = len(self.files["alpha"][0]) if in_file else self.numbers
        block, device = (number if in_file else number % 16), 0
        block = block if at_block is None else at_block
        self.numbers += 1
        record = Record(controller, epoch, number, block, device)
        head = RECORD.pack(b"LEDGER 1", controller, 0, epoch, number, block, at, device, 0)
        offset = DATA + block * BLOCK
        given = at if permit is None else permit
        for disk in DISKS[portion][: 3 if in_file else 1]:
            if given >= 0:
                self.evidence.permits.append(
                    Permit(
                        controller,
                        1,
                        portion,
                        disk,
                        offset,
                        offset + BLOCK,
                        epoch,
                        given,
                        expiry,
                        given,
                    )
                )
            self.request(at + MS, controller, disk, "W", offset, head, applied)
        if not told:
            return number
        if in_file:
            for copy in self.files["alpha"]:
                copy.append(record)
        else:
            self.blocks[portion, device, block] = record
        self.ack(at, portion, controller, epoch, number, block)
        return number

    def ack(
        self, at: int, portion: str, controller: int, epoch: int, number: int, block: int
    ) -> None:
        """The writer is told of its success."""
        self.evidence.acks.append(
            Ack(
                controller, portion, portion == "alpha", epoch, number, 0, block, 0, at, at + 5 * MS
            )
        )

    def stray(self, permit: int, expiry: int = 6500 * MS, block: int = 900) -> None:
        """A write of controller 1 on one member of alpha that lands at 9 s.

        It has no permit if that is negative.
        """
        offset = DATA + block * BLOCK
        if permit >= 0:
            self.evidence.permits.append(
                Permit(1, 1, "alpha", "p0m0", offset, offset + BLOCK, 1, permit, expiry, permit)
            )
        self.request(5 * SECOND, 1, "p0m0", "W", offset, b"\x01", 9 * SECOND)
        self.evidence.refusals.append(Refusal(1, "alpha", True, 12 * SECOND))

    def ready(self) -> Evidence:
        """All of it as evidence."""
        evidence = self.evidence
        evidence.run = {
            "complete": True,
            "begun": 0,
            "facts": self.facts,
            "portions": [
                {"name": name, "disks": disks, "spares": self.spares.get(name, [])}
                for name, disks in DISKS.items()
            ],
        }
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "store.log"
            self.lines.sort(key=lambda line: line[0])
            path.write_text("".join(f"{line}\n" for _, line in self.lines))
            evidence.history = History(path)
        for request in evidence.history.changes(start=MAILBOXES, end=DATA):
            evidence.mails += mails(request, evidence.portion_of(request.member))
        for name in DISKS:
            tops = [mail for mail in evidence.mails if mail.portion == name and mail.role == OWNER]
            top = max(tops, key=lambda mail: mail.epoch)
            decided = {"decided": {"epoch": top.epoch, "owner": top.owner}}
            evidence.shown[name] = {
                "timing": SHOWN,
                "redundancy": {"limit": "1" if name == "alpha" else "unlimited"},
                "mailboxes": [{"ballot": {"record": decided}, "heartbeat": {"record": None}}],
            }
        evidence.permits.sort(key=lambda permit: permit.at)
        evidence.beats.sort(key=lambda beat: beat.judged)
        return evidence

    def found(self) -> Findings:
        """What the checker finds in it."""
        return Checker(self.ready(), self.blocks, self.files).check()


def told(takeover: int = 7050 * MS) -> Story:
    """The story: controller 1 stalls from 5 s to 12 s, controller 2 leaves beta alone at 15 s."""
    story = Story()
    story.own("alpha", 1, 1, 0, 5 * SECOND)
    story.own("beta", 2, 1, 0, 15 * SECOND)
    story.claim(takeover - 20 * MS, "alpha", 2, 2, 1)
    story.own("alpha", 2, 2, takeover, 20 * SECOND)
    story.claim(17050 * MS, "beta", 1, 2, 2)
    story.own("beta", 1, 2, 17070 * MS, 20 * SECOND)
    story.facts.append(
        {"kind": "fault", "what": "stall", "controller": 1, "at": 5 * SECOND, "until": 12 * SECOND}
    )
    return story


class Planted(unittest.TestCase):
    """One test for each thing that may be wrong."""

    def fails(self, story: Story, what: str, how_many: int | None = None) -> Findings:
        """The checker must find this, and nothing else."""
        found = story.found()
        self.assertTrue(found.failures, "nothing was found")
        for failure in found.failures:
            self.assertIn(what, failure)
        if how_many is not None:
            self.assertEqual(len(found.failures), how_many, found.failures)
        return found

    def passes(self, story: Story) -> Findings:
        """The checker must not find anything."""
        found = story.found()
        self.assertEqual(found.failures, [])
        return found

    def test_the_story_is_sound(self) -> None:
        found = self.passes(told())
        hows = [(t.portion, t.epoch, t.how) for t in found.takeovers]
        self.assertEqual(
            hows,
            [
                ("alpha", 1, "first"),
                ("alpha", 2, "silence"),
                ("beta", 1, "first"),
                ("beta", 2, "silence"),
            ],
        )
        self.assertEqual(found.strays, [])

    def test_two_owners_of_one_epoch(self) -> None:
        story = told()
        story.mail(13 * SECOND, "alpha", False, 1, 2, 1, OWNER, 1)
        self.fails(story, "two owners")

    def test_an_owner_that_heartbeats_in_the_epoch_of_another(self) -> None:
        story = told()
        story.mail(13 * SECOND, "alpha", False, 1, 2, 2, OWNER, 1)
        self.fails(story, "two owners")

    def test_leases_that_overlap(self) -> None:
        story = told()
        times = (13 * SECOND, 13 * SECOND + MS)
        for hb, expiry in ((900, 0), (901, 13 * SECOND + LEASE)):
            at = times[0] + (hb - 900) * MS
            story.evidence.beats.append(
                Beat(1, 1, "alpha", 3, hb, at, at + MS, expiry, at + MS, expiry)
            )
        self.fails(story, "two leases")

    def test_a_lease_that_is_longer_than_the_heartbeat_before_allows(self) -> None:
        story = told()
        beat = next(b for b in story.evidence.beats if b.expiry_ns)
        beat.expiry_ns += 1
        self.fails(story, "lease: heartbeat", 1)

    def test_a_lease_that_is_revived(self) -> None:
        story = told()
        last = max((b for b in story.evidence.beats if b.controller == 1 and b.portion == "alpha"),
                   key=lambda beat: beat.hb)  # fmt: skip
        stamp = last.expiry_ns + MS
        # The stamp is sound, but the lease had ended when it was judged.
        story.evidence.beats.append(
            Beat(
                1,
                1,
                "alpha",
                1,
                last.hb + 1,
                stamp,
                stamp + MS,
                last.stamp_ns + LEASE,
                stamp,
                last.expiry,
            )
        )
        self.fails(story, "lease: ")

    def test_a_register_that_goes_backwards(self) -> None:
        story = told()
        story.mail(19500 * MS, "beta", False, 2, 1, 2, 4, 0, step=-30)
        self.fails(story, "register", 3)

    def test_a_claim_before_the_window_has_passed(self) -> None:
        self.fails(told(6500 * MS), "claim")

    def test_a_takeover_that_takes_too_long(self) -> None:
        self.fails(told(7900 * MS), "takeover", 1)

    def test_a_write_without_a_permit(self) -> None:
        story = told()
        story.write(3010 * MS, "alpha", 1, 1, 0, permit=-1)
        self.fails(story, "no permit", 3)

    def test_a_permit_given_when_the_lease_had_ended(self) -> None:
        story = told()
        story.write(4990 * MS, "alpha", 1, 1, 4990 * MS)
        self.fails(story, "late permit", 3)

    def test_one_stray_with_a_permit_is_within_the_limit(self) -> None:
        story = told()
        story.stray(4990 * MS)
        found = self.passes(story)
        self.assertEqual([(s.epoch, s.later) for s in found.strays], [(1, 2)])

    def test_two_strays_are_beyond_the_limit(self) -> None:
        story = told()
        story.stray(4990 * MS)
        story.stray(4991 * MS, block=901)
        self.fails(story, "strays: 2", 1)

    def test_a_stray_that_was_reported_as_a_success(self) -> None:
        story = told()
        story.stray(4990 * MS)
        story.evidence.refusals.clear()
        self.fails(story, "late success", 1)

    def test_a_stray_granted_after_the_lease_had_ended(self) -> None:
        story = told()
        story.stray(4990 * MS, expiry=4990 * MS)
        self.fails(story, "late permit", 1)

    def test_a_stray_without_a_permit(self) -> None:
        story = told()
        story.stray(-1)
        self.fails(story, "permit", 2)

    def test_a_stray_that_was_acknowledged(self) -> None:
        story = told()
        at = 14900 * MS
        story.write(at, "beta", 2, 1, at + SECOND, applied=18 * SECOND, at_block=40)
        story.evidence.refusals.append(Refusal(2, "beta", True, 18 * SECOND))
        self.fails(story, "acknowledged stray", 1)

    def test_an_acknowledgement_after_the_takeover(self) -> None:
        story = told()
        for copy in story.files["alpha"]:
            copy.append(Record(1, 1, len(copy), len(copy), 0))
        number = len(story.files["alpha"][0]) - 1
        story.ack(13 * SECOND, "alpha", 1, 1, number, number)
        self.fails(story, "acknowledged after the takeover", 1)

    def test_an_acknowledged_raw_write_that_never_arrived(self) -> None:
        story = told()
        story.ack(4 * SECOND, "beta", 2, 1, 12345, 3)
        found = self.fails(story, "never reached the disk", 1)
        self.assertEqual(len(found.missing), 1)

    def test_an_older_record_on_the_medium(self) -> None:
        story = told()
        newest = story.blocks["beta", 0, 5]
        assert newest is not None
        older = newest.number - 16 * 5
        written = [
            a for a in story.evidence.acks if not a.in_file and a.block == 5 and a.number <= older
        ]
        ack = max(written, key=lambda ack: ack.number)
        story.blocks["beta", 0, 5] = Record(ack.controller, ack.epoch, ack.number, 5, 0)
        self.fails(story, "an older record")

    def test_a_damaged_block_on_the_medium(self) -> None:
        story = told()
        story.blocks["beta", 0, 5] = None
        self.fails(story, "something else on the medium")

    def test_a_database_record_that_one_copy_lost_is_outvoted(self) -> None:
        story = told()
        story.files["alpha"][1][7] = None
        self.passes(story)

    def test_a_database_record_that_two_copies_lost(self) -> None:
        story = told()
        story.files["alpha"][1][7] = story.files["alpha"][2][7] = None
        self.fails(story, "1 of 3 copies", 1)

    def test_a_database_that_is_cut_short(self) -> None:
        story = told()
        for copy in story.files["alpha"]:
            del copy[-1]
        self.fails(story, "0 of 3 copies", 1)

    def test_writes_that_pause_during_the_takeover(self) -> None:
        story = told()
        gap = range(6 * SECOND, 6500 * MS)
        story.evidence.acks = [
            ack for ack in story.evidence.acks if ack.portion != "beta" or ack.after not in gap
        ]
        self.fails(story, "pause", 1)

    def test_a_successor_that_goes_further_than_it_was_invited_to(self) -> None:
        for accepted, failures in ((0, 0), (1, 1)):
            story = told()
            story.mail(5 * SECOND, "alpha", False, 1, 1, 1, HANDING_OVER, 50, 2)
            story.mail(5010 * MS, "alpha", True, 2, 1, 1, 0, 1, accepted)
            found = story.found()
            claims = [failure for failure in found.failures if failure.startswith("claim")]
            self.assertEqual(len(claims), failures, found.failures)

    def test_a_claim_of_a_controller_that_has_not_read(self) -> None:
        story = told()
        for unread, failures in ((["p0m0"], 0), (["p0m0", "p0m1"], 1)):
            story = told()
            for disk in unread:
                story.lines = [
                    (at, line.replace(f" c2 {disk} R ", f" c3 {disk} R "))
                    for at, line in story.lines
                ]
            found = story.found()
            self.assertEqual(len(found.failures), failures, found.failures)
            self.assertEqual([f for f in found.failures if not f.startswith("claim")], [])

    def test_heartbeats_that_were_held_up_until_after_the_last_read(self) -> None:
        for late, failures in ((MS // 2 - 1, 0), (-MS, 1)):
            story = told()
            head = mailbox(False, 1, 900, 1, 1, OWNER, 900)
            offset = MAILBOXES + 2 * BLOCK
            seen = 7029 * MS + MS // 2 + late
            for disk in DISKS["alpha"]:
                story.request(5 * SECOND, 1, disk, "W", offset, head, seen)
            found = story.found()
            claims = [failure for failure in found.failures if failure.startswith("claim")]
            self.assertEqual(len(claims), failures, found.failures)

    def test_a_handoff_that_waits_for_the_window(self) -> None:
        story = told()
        story.mail(5 * SECOND, "alpha", False, 1, 1, 1, RELEASED)
        self.fails(story, "handoff", 1)

    def test_mailboxes_that_tell_another_story(self) -> None:
        story = told()
        story.claim(19 * SECOND, "beta", 1, 3, 1)
        mailboxes = story.found
        found = mailboxes()
        self.assertEqual(found.failures, [])
        story.evidence.shown["beta"]["mailboxes"][0]["ballot"]["record"]["decided"]["epoch"] = 7
        checker = Checker(story.evidence, story.blocks, story.files)
        self.assertIn("mailboxes", checker.check().failures[-1])

    def test_evidence_with_a_hole(self) -> None:
        story = told()
        story.evidence.faults.append("trace: LOST 3 EVENTS")
        self.fails(story, "LOST", 1)

    def test_a_run_in_which_nothing_happened(self) -> None:
        story = Story()
        story.own("alpha", 1, 1, 0, SECOND)
        story.own("beta", 2, 1, 0, SECOND)
        self.fails(story, "evidence: only")
