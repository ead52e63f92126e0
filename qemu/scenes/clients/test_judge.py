# SPDX-License-Identifier: GPL-2.0
"""The judge is shown histories in which something is wrong, and the page's commands."""

from __future__ import annotations

import unittest

from rig import Request, RigError
from rig.manual import blocks, replaced
from rig.stamp import Stamp

from . import manual
from .judge import landings


def stamps(*landed: tuple[str, int, int]) -> list[Stamp]:
    """Stamps that landed in this order: (controller, sequence, block)."""
    found = []
    for controller, sequence, block in landed:
        request = Request(0, 0, controller, "m0", "W", False, 0, 4096)
        found.append(Stamp(9, 1, sequence, block, block * 4096, request))
    return found


class Judge(unittest.TestCase):
    """What the order of landings proves."""

    def test_a_move_in_good_order(self) -> None:
        # Tried again on the other path: the block comes twice, the new controller's last.
        landed = landings(stamps(("c1", 0, 0), ("c1", 1, 1), ("c2", 1, 1), ("c2", 2, 0)))
        self.assertEqual((landed.by, landed.older, landed.repeated), ({"c1": 2, "c2": 2}, [], 0))

    def test_old_content_over_newer_is_found(self) -> None:
        landed = landings(stamps(("c1", 0, 0), ("c2", 2, 0), ("c1", 0, 0)))
        self.assertEqual([stamp.sequence for stamp in landed.older], [0])

    def test_what_comes_a_second_time_late_is_counted(self) -> None:
        landed = landings(stamps(("c1", 0, 0), ("c2", 0, 0), ("c1", 0, 0)))
        self.assertEqual((landed.older, landed.repeated), ([], 1))


class Manual(unittest.TestCase):
    """The commands of the page are what is run."""

    def test_settings_are_replaced(self) -> None:
        text = manual.export(2, "10.0.0.1", "portion=p group=2 trsvcid=1 members=d")
        self.assertIn("\ncontroller=2 address=10.0.0.1\nportion=p group=2", text)
        self.assertNotIn("192.0.2", text + manual.connect("portion=p trsvcid=1", ["10.0.0.1"]))
        self.assertTrue(manual.service().startswith("leasectl ana "))

    def test_a_setting_that_is_gone_is_an_error(self) -> None:
        with self.assertRaises(RigError):
            replaced("a=1\n", {"b=": "b=2"})
        with self.assertRaises(RigError):
            blocks(manual.PAGE, "Nothing of the kind")
