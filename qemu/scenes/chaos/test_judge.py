# SPDX-License-Identifier: GPL-2.0
"""The judge is shown batches in which something is wrong, and must find it.

The story is that of `scenes.test_checker`, told as two rounds: on alpha controller 1 stalls at 5 s
and controller 2 takes over; on beta controller 2 falls silent at 15 s and controller 1 takes over.
As it is, nothing is wrong with it; each test plants one thing.
"""

from __future__ import annotations

import unittest
from typing import Any

from rig.evidence import Beat, Bound, Change, Clock, Permit, Record, Refusal, lay_clock
from rig.history import BLOCK
from rig.mailbox import DATA, LAPSED, MAILBOX, MAILBOXES, OWNER
from scenes.demo.checker import MS
from scenes.demo.test_checker import LEASE, SECOND, Story, mailbox, told

from .judge import BACK, Judge
from .play import Round, draw

STALL, SILENCE = 4 * SECOND, 14 * SECOND


def judged(story: Story) -> tuple[list[Round], list[str]]:
    """The two rounds as the judge leaves them, and what belongs to none."""
    rounds = [Round(1, ["stall"]), Round(2, ["power"])]
    story.facts += [
        {"kind": "round", "number": 1, "at": STALL, "fault": STALL, "healed": 12 * SECOND,
         "until": SILENCE},
        {"kind": "round", "number": 2, "at": SILENCE, "fault": SILENCE, "healed": 16 * SECOND,
         "until": 19 * SECOND},
    ]  # fmt: skip
    wrong = Judge(story.ready(), story.blocks, rounds).judge()
    return rounds, wrong


def stopped(story: Story, **more: Any) -> None:
    """The clocks of controller 1 stood still, instead of going on."""
    story.facts.append(
        {"kind": "jump", "why": "pause", "controller": 1, "at": 5 * SECOND, "until": 12 * SECOND}
    )


class Planted(unittest.TestCase):
    """One test for each thing that may be wrong, or is allowed."""

    def passes(self, story: Story) -> list[Round]:
        """The judge must not find anything."""
        rounds, wrong = judged(story)
        self.assertEqual([wrong, *(one.failures for one in rounds)], [[], [], []])
        return rounds

    def fails(self, story: Story, what: str, number: int | None = 1) -> None:
        """The judge must find this, in this round, and nothing else."""
        rounds, wrong = judged(story)
        found = {one.number: one.failures for one in rounds} | {None: wrong}
        self.assertTrue(found[number], found)
        for where, failures in found.items():
            for failure in failures:
                self.assertEqual(where, number, failure)
                self.assertIn(what, failure)

    def test_the_story_is_sound(self) -> None:
        rounds = self.passes(told())
        self.assertEqual([one.takeovers for one in rounds], [1, 1])
        self.assertEqual([one.strays for one in rounds], [0, 0])
        self.assertGreater(rounds[0].pause_ms, 2000)

    def test_s1_leases_that_overlap(self) -> None:
        story = told()
        for hb, expiry in ((900, 0), (901, 13 * SECOND + LEASE)):
            at = 13 * SECOND + (hb - 900) * MS
            beat = Beat(1, 1, "alpha", 3, hb, at, at + MS, expiry, at + MS, expiry)
            story.evidence.beats.append(beat)
        self.fails(story, "two leases")

    def test_s1_leases_that_overlap_in_the_log(self) -> None:
        story = told()
        for hb in range(100, 112):
            story.mail(5 * SECOND + (hb - 100) * 200 * MS, "alpha", False, 1, 1, 1, OWNER, hb)
        rounds, _ = judged(story)
        self.assertIn("two leases of alpha by the log", " ".join(rounds[0].failures))

    def test_s1_a_claim_before_the_window(self) -> None:
        self.fails(told(6500 * MS), "after 1")

    def test_s1_silence_of_a_majority_is_silence(self) -> None:
        story = told()
        # Heartbeats that reach one member of three do not keep a lease, and keep nobody away.
        story.mail(6500 * MS, "alpha", False, 1, 1, 1, OWNER, 99)
        number = story.requests
        story.lines = [
            (at, line) for at, line in story.lines
            if line.split()[1] not in (str(number), str(number - 1))
        ]  # fmt: skip
        self.passes(story)

    def test_s2_more_strays_than_the_limit(self) -> None:
        story = told()
        for block in (900, 901):
            story.stray(4900 * MS, block=block)
        self.fails(story, "strays: 2 of alpha epoch 1")

    def test_s2_a_permit_after_the_lease(self) -> None:
        story = told()
        story.stray(4999 * MS, expiry=4998 * MS)
        self.fails(story, "late permit")

    def test_s2_a_stray_without_a_permit(self) -> None:
        rounds, wrong = judged(self.with_stray(-1))
        self.assertEqual(wrong, [])
        self.assertEqual(len(rounds[0].failures), 2, rounds[0].failures)

    def with_stray(self, permit: int) -> Story:
        """The story with a stray."""
        story = told()
        story.stray(permit)
        return story

    def test_s2_exact_strays(self) -> None:
        for strays, right in ((1, True), (0, False), (2, False)):
            story = self.with_stray(4900 * MS)
            story.facts.append(
                {"kind": "exact", "at": 5 * SECOND, "portion": "alpha", "controller": 1,
                 "epoch": 1, "strays": strays}
            )  # fmt: skip
            if right:
                self.passes(story)
            else:
                self.fails(story, "exact: 1 of")

    def test_s2_acknowledged_after_the_takeover(self) -> None:
        story = told()
        story.ack(13 * SECOND, "alpha", 1, 1, 5, 5)
        self.fails(story, "acknowledged after the takeover")

    def test_s3_two_owners(self) -> None:
        story = told()
        story.mail(13 * SECOND, "alpha", False, 1, 2, 1, OWNER, 1)
        self.fails(story, "two owners", None)

    def test_s4_an_acknowledged_write_is_lost(self) -> None:
        story = told()
        story.ack(13 * SECOND, "beta", 2, 1, 123456, 3)
        self.fails(story, "lost: record 123456")

    def test_a_paused_clock_is_excused_up_to_its_first_heartbeat(self) -> None:
        story = told()
        stopped(story)
        self.lapse(story, 12 * SECOND)
        for block in (900, 901, 902):
            story.stray(4900 * MS, block=block)
        rounds = self.passes(story)
        self.assertEqual(rounds[0].strays, 3)

    def test_a_paused_clock_that_heartbeats_twice(self) -> None:
        story = told()
        stopped(story)
        self.lapse(story, 12 * SECOND)
        for hb in (1000, 1001):
            story.mail(12 * SECOND + hb * MS, "alpha", False, 1, 1, 1, OWNER, hb)
        self.fails(story, "went on")

    def test_a_paused_clock_that_never_gives_up(self) -> None:
        story = told()
        stopped(story)
        self.fails(story, "was not given up")

    def put_back(self, beats: int = 1, gives_up: bool = True, at: int = 12_500 * MS) -> Story:
        """The story, in which controller 1 is put back at 12.5 s to its memory of 5 s, in which it
        owned alpha. It boots a second later."""
        story, latch = told(), at + 300 * MS
        for beat in story.evidence.beats:
            if beat.controller == 1 and beat.judged > at:
                beat.boot = 3
        for permit in story.evidence.permits:
            if permit.controller == 1 and permit.at > at:
                permit.boot = 3
        for boot, begin in ((2, at), (3, at + SECOND)):
            story.facts.append({"kind": "boot", "controller": 1, "boot": boot, "at": begin})
            story.evidence.clocks[1, boot] = Clock(0, 1000)
            story.evidence.trace_end[1, boot] = 100 * SECOND
        story.facts.append({"kind": "put back", "controller": 1, "at": at, "until": at + SECOND})
        known = dict(story.seq)
        for n in range(beats):
            story.mail(at + n * 200 * MS, "alpha", False, 1, 1, 1, OWNER, 20 + n, step=-5 + n)
        story.seq |= known
        if gives_up:
            for portion, role in (("alpha", "owner"), ("beta", "secondary")):
                story.evidence.changes.append(
                    Change(1, 2, portion, role, "failed", 1, "copy", latch, latch)
                )
        return story

    def restored_write(self, story: Story, at: int) -> None:
        """Controller 1 writes to alpha when it was put back."""
        start = DATA + 900 * BLOCK
        story.evidence.permits.append(
            Permit(1, 2, "alpha", "p0m0", start, start + BLOCK, 1, at, at + SECOND, at)
        )
        story.request(at + MS, 1, "p0m0", "W", start, b"\x01")

    def test_r58_a_restored_memory_gives_up_at_its_first_heartbeat(self) -> None:
        story = self.put_back()
        for n in range(3):
            self.restored_write(story, 12_600 * MS + n * 10 * MS)
        rounds = self.passes(story)
        self.assertEqual(rounds[0].strays, 3)

    def test_r58_the_heartbeat_of_a_restored_memory_does_not_break_a_silence(self) -> None:
        # Controller 2 claims at 7 s. It cannot see the heartbeat, which has a lower number than the
        # other block.
        self.passes(self.put_back(at=6_500 * MS))

    def test_r58_a_restored_memory_that_goes_on(self) -> None:
        self.fails(self.put_back(beats=2), "2 heartbeats")

    def test_r58_a_restored_memory_that_writes_ballots(self) -> None:
        for ballots in (1, 2):
            story = self.put_back()
            known = dict(story.seq)
            for n in range(ballots):
                story.mail((12_600 + n) * MS, "beta", True, 1, 1, 2, 0, 0)
            story.seq |= known
            if ballots == 1:
                self.passes(story)
            else:
                self.fails(story, "6 ballots of beta")

    def test_r58_a_restored_memory_that_never_gives_up(self) -> None:
        self.fails(self.put_back(gives_up=False), "did not give")

    def test_r58_a_restored_memory_that_writes_after_it_gave_up(self) -> None:
        for writes in (1, 2):
            story = self.put_back()
            for n in range(writes):
                self.restored_write(story, (12_900 + n * 10) * MS)
            if writes == 1:
                # It may have read the lease before the latch, and the clock after it.
                self.passes(story)
            else:
                self.fails(story, "1 permits of alpha after its latch")

    def test_r58_nobody_else_writes_registers_that_go_back(self) -> None:
        story = told()
        known = dict(story.seq)
        story.mail(12_500 * MS, "alpha", False, 1, 1, 1, LAPSED, 0, step=-5)
        story.seq |= known
        self.fails(story, "register", None)

    def replaced(self, all_left: bool, at: int = 20_600 * MS) -> Story:
        """The story, in which member 2 of beta is replaced at 20.5 s, and controller 1 writes its
        mailbox on the disks of before."""
        story = told()
        story.facts.append(
            {"kind": "replaced", "portion": "beta", "member": 2, "disk": "p1s0", "former": "p1m2",
             "at": 20_500 * MS, "all_left": all_left}
        )  # fmt: skip
        story.mail(at, "beta", False, 1, 2, 1, OWNER, 1000)
        return story

    def test_r56_nobody_who_has_left_writes_to_a_former_disk(self) -> None:
        self.passes(self.replaced(True, 20_400 * MS))
        self.fails(self.replaced(True), "former disk", 2)

    def test_r56_who_has_not_left_writes_to_a_former_disk_until_it_knows(self) -> None:
        self.passes(self.replaced(False))
        story = self.replaced(False)
        story.spares = {"beta": ["p1s0"]}
        head = mailbox(False, 1, 1000, 2, 1, OWNER, 1000)
        story.request(20_550 * MS, 1, "p1s0", "W", MAILBOXES + 2 * BLOCK, head)
        self.fails(story, "former disk", 2)

    def test_r56_who_finds_a_former_disk_again_does_not_write_there(self) -> None:
        story = self.replaced(False)
        story.facts.append(
            {"kind": "returned", "portion": "beta", "controller": 1, "at": 20_550 * MS}
        )
        self.fails(story, "former disk", 2)

    def test_r56_nobody_writes_data_to_a_former_disk(self) -> None:
        story = self.replaced(False)
        permit = Permit(
            1, 1, "beta", "p1m2", DATA, DATA + BLOCK, 2, 20_600 * MS, 21 * SECOND, 20_600 * MS
        )
        story.evidence.permits.append(permit)
        story.request(20_601 * MS, 1, "p1m2", "W", DATA, b"\x01")
        self.fails(story, "former disk", 2)

    def test_r56_registers_begin_anew_on_a_disk_that_is_formatted_again(self) -> None:
        for formatted in (True, False):
            story = told()
            if formatted:
                story.facts.append(
                    {"kind": "replaced", "portion": "beta", "member": 2, "disk": "p1m2",
                     "former": "p1s0", "at": 17 * SECOND, "all_left": True}
                )  # fmt: skip
            head = mailbox(False, 2, 1, 1, 2, LAPSED)
            offset = MAILBOXES + MAILBOX + 2 * BLOCK
            story.request(18 * SECOND, 2, "p1m2", "W", offset, head)
            if formatted:
                self.passes(story)
            else:
                self.fails(story, "register", None)

    def test_what_is_acknowledged_is_looked_for_on_the_disk_that_it_went_to(self) -> None:
        story = told()
        old = story.blocks["beta", 0, 3]
        assert old is not None
        # The member is another disk now, on which there is nothing.
        story.blocks["beta", 0, 3] = None
        self.assertIn("lost", " ".join(judged(story)[0][1].failures))
        story = told()
        story.blocks["beta", 0, 3] = None
        story.blocks["beta", "p1m0", 3] = Record(*old)  # type: ignore[index]
        self.passes(story)

    def test_what_strays_replace_is_named(self) -> None:
        for block, count in ((900, 1), (901, 0)):
            story = told()
            story.write(18 * SECOND, "beta", 1, 2, 19 * SECOND, at_block=900)
            at = 14 * SECOND + 900 * MS
            story.write(
                at, "beta", 2, 1, 16 * SECOND, told=False, at_block=block, applied=18900 * MS
            )
            story.evidence.refusals.append(Refusal(2, "beta", True, 19 * SECOND))
            rounds = self.passes(story)
            self.assertEqual(rounds[1].strays, 1)
            self.assertEqual(sum("replaced" in note for note in rounds[1].notes), count)

    def lapse(self, story: Story, at: int) -> None:
        """Controller 1 latches alpha."""
        for change in story.evidence.changes:
            if (change.portion, change.controller) == ("alpha", 1):
                change.guest_ns = change.at = at
        story.mail(at + 100 * MS, "alpha", False, 1, 1, 1, LAPSED, 0)

    def test_l2_too_many_heartbeats(self) -> None:
        for count in (BACK // 2, BACK + 1):
            story = told()
            story.seq["beta", 1, False] = 0
            for n in range(count):
                story.mail(16 * SECOND + n * 20 * MS, "beta", False, 1, 1, 2, 0, n, step=0)
            if count < BACK:
                self.passes(story)
            else:
                self.fails(story, "L2", 2)


class Clocks(unittest.TestCase):
    """How a guest's clock is laid over the host's."""

    def test_a_jump(self) -> None:
        bounds = [
            Bound(at, at + 2, offset - 5, offset + 5)
            for at, offset in ((100, 1000), (200, 1000), (900, 1600), (950, 1600))
        ]
        clock = lay_clock(bounds, [{"at": 250, "until": 850}])
        self.assertEqual(clock.offset, 1000)
        self.assertEqual(clock.host(-900), 100)
        self.assertEqual(clock.host(-650), 950)

    def test_a_jump_after_which_nothing_is_known(self) -> None:
        clock = lay_clock([Bound(100, 102, 995, 1005)], [{"at": 250, "until": 850}])
        self.assertEqual(clock.host(-600), 1000)

    def test_the_offset_of_a_moment(self) -> None:
        clock = Clock(1000, 2, [(-700, 1600)])
        self.assertEqual([clock.offset_at(at) for at in (200, 1000)], [1000, 1600])

    def test_no_jump(self) -> None:
        self.assertEqual(lay_clock([Bound(1, 2, 5, 7)], []), Clock(6, 2))


class Plan(unittest.TestCase):
    """What a seed says."""

    def test_it_is_the_same_again(self) -> None:
        kinds = ["opened", "idle", "stall", "delay"]
        self.assertEqual(draw("1", 30, kinds, 5), draw("1", 30, kinds, 5))
        self.assertNotEqual(draw("1", 30, kinds, 5), draw("2", 30, kinds, 5))

    def test_exact_rounds_are_always_among_them(self) -> None:
        plan = draw("7", 3, ["stall", "delay", "error", "opened", "idle"], 5)
        self.assertLessEqual({"opened", "idle"}, {one.kinds[0] for one in plan})
