# SPDX-License-Identifier: GPL-2.0
"""Runs in which no round failed are shown to the last judge, who must not let all of them pass."""

from __future__ import annotations

import unittest
from collections import Counter

from .play import Round
from .report import LONG, MUST, SLEEPS_LOST, WORK, shortcomings

ENOUGH = Counter({what: 100 * each for what, each in WORK.items()} | dict.fromkeys(MUST, 1))


def rounds(count: int, kind: str = "stall", cpus: int = 2, lost: int = 0) -> list[Round]:
    return [Round(n + 1, [kind], cpus, lost=n < lost) for n in range(count)]


class Shortcomings(unittest.TestCase):
    def check(self, played: list[Round], finds: str = "", planned: int = 0) -> None:
        found = shortcomings(played, ENOUGH, planned)
        self.assertEqual(len(found), bool(finds), found)
        self.assertIn(finds, "".join(found))

    def test_a_run_that_is_complete(self) -> None:
        self.check(rounds(100), planned=100)

    def test_rounds_that_were_not_played(self) -> None:
        self.check(rounds(98), planned=100, finds="2 rounds were not played")

    def test_too_little_was_judged(self) -> None:
        for what in WORK:
            counts = ENOUGH - Counter({what: 1})
            self.assertIn(what, "".join(shortcomings(rounds(100), counts, 100)))

    def test_a_fault_that_must_happen_and_never_did(self) -> None:
        for what in MUST:
            counts = ENOUGH - Counter({what: 1})
            self.assertIn(f"never {what}", "".join(shortcomings(rounds(LONG), counts, LONG)))
            self.assertEqual(shortcomings(rounds(LONG - 1), counts, LONG - 1), [])

    def test_one_machine_may_be_lost(self) -> None:
        self.check(rounds(1, "sleep", lost=1))
        self.check(rounds(SLEEPS_LOST - 1, "sleep", lost=2), finds=f"2 of {SLEEPS_LOST - 1} ")

    def test_and_one_more_for_every_so_many_sleeps(self) -> None:
        self.check(rounds(SLEEPS_LOST, "sleep", lost=2))
        self.check(rounds(SLEEPS_LOST, "sleep", lost=3), finds=f"3 of {SLEEPS_LOST} ")

    def test_sleeps_of_one_processor_do_not_count(self) -> None:
        ones = rounds(10 * SLEEPS_LOST, "sleep", cpus=1)
        self.check([*ones, *rounds(2, "sleep", lost=2)], finds="2 of 2 ")
