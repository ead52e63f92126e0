# SPDX-License-Identifier: GPL-2.0
"""What the store's log says about the writes of clients."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from rig.stamp import Stamp


class Landings(NamedTuple):
    """How the stamped writes of one client came to a member."""

    by: Counter[str]
    """How many blocks each controller wrote."""
    older: list[Stamp]
    """Blocks that replaced newer content. Must be none."""
    repeated: int
    """Blocks that came a second time from a controller after the other had written them: what had
    passed the gate when its controller stalled. The content is the same."""


def landings(stamps: list[Stamp]) -> Landings:
    """Judges the stamps of one writer in the order in which they reached a member."""
    by: Counter[str] = Counter()
    older: list[Stamp] = []
    repeated = 0
    newest: dict[int, Stamp] = {}
    writers: dict[tuple[int, int], list[str]] = {}
    for stamp in stamps:
        controller = stamp.request.controller
        by[controller] += 1
        last = newest.get(stamp.block)
        if last is not None and stamp.sequence < last.sequence:
            older.append(stamp)
            continue
        newest[stamp.block] = stamp
        came = writers.setdefault((stamp.block, stamp.sequence), [])
        repeated += controller in came and came[-1] != controller
        came.append(controller)
    return Landings(by, older, repeated)
