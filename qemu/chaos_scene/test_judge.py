# SPDX-License-Identifier: GPL-2.0
"""The judge is shown batches in which something is wrong, and must find it.

The story is that of `scenes.test_checker`, told as two rounds: on alpha controller 1 stalls at 5 s
and controller 2 takes over; on beta controller 2 falls silent at 15 s and controller 1 takes over.
As it is, nothing is wrong with it; each test plants one thing.
"""

from __future__ import annotations

import unittest
from typing import Any

from scenes.checker import MS
from scenes.evidence import LAPSED, OWNER, Beat, Bound, Clock, Refusal, lay_clock
from scenes.test_checker import LEASE, SECOND, Story, told

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


