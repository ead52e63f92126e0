# SPDX-License-Identifier: GPL-2.0
"""Tests of how traces are read."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

from .evidence import Evidence, Reader
from .history import History

UUID = "00000000-0000-0000-0000-000000000001"
WHERE = f"portion={UUID} controller=1"


def line(task: str, at: str, text: str) -> str:
    return f"  {task} [000] ..... {at}: dm_lease_{text}\n"


BEAT_1 = line("dm_lease-9", "1.000000", f"heartbeat: {WHERE} seq=1 stamp=900 latency=9 expiry=0")
BEAT_2 = line("dm_lease-9", "2.000000", f"heartbeat: {WHERE} seq=2 stamp=1900 latency=9 expiry=0")
LATER_2 = line("dm_lease-9", "2.500000", f"heartbeat: {WHERE} seq=2 stamp=1900 latency=99 expiry=0")
PERMIT = line(
    "writer-7",
    "2.100000",
    f"permit: {WHERE} member=254:1 op=1 sector=8 sectors=8 epoch=1 checked=2050 expiry=9000",
)


class Memory(unittest.TestCase):
    """A machine is put back to its memory, which was saved after heartbeat 2 was begun."""

    def read(self, first: str, told: str, second: str) -> Evidence:
        """Reads the traces of both lives. `told` is what came out before the memory was saved."""
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "trace-c1-1").write_text(first)
            (directory / "trace-c1-2").write_text(second)
            devices = {"254:1": "p0m0"}
            memory = {"trace": "trace-c1-1", "bytes": len(told)}
            boot: dict[str, Any] = {"kind": "boot", "controller": 1, "devices": devices}
            facts = [boot | {"boot": 1, "at": 0}, boot | {"boot": 2, "at": 9, "memory": memory}]
            reader = Reader.__new__(Reader)
            reader.directory = directory
            shown = {"alpha": {"uuid": UUID}}
            run = {"facts": facts, "portions": [{"name": "alpha"}]}
            reader.evidence = Evidence(History.__new__(History), run, shown)
            reader.read_trace("trace-c1-1", 1, 1)
            reader.read_trace("trace-c1-2", 1, 2)
            return reader.evidence

    def test_what_was_told_before_the_snapshot_belongs_to_the_first_life(self) -> None:
        evidence = self.read(BEAT_1 + PERMIT, BEAT_1 + PERMIT, "")
        self.assertEqual([(beat.boot, beat.hb) for beat in evidence.beats], [(1, 1)])
        self.assertEqual([permit.boot for permit in evidence.permits], [1])

    def test_a_permit_that_is_told_again_admits_a_write_of_the_second_life(self) -> None:
        evidence = self.read(BEAT_1 + PERMIT, BEAT_1, PERMIT)
        self.assertEqual([permit.boot for permit in evidence.permits], [1, 2])
        self.assertEqual(evidence.permits[0].task, "writer-7")

    def test_a_heartbeat_that_both_lives_judge_is_one(self) -> None:
        evidence = self.read(BEAT_1 + BEAT_2, BEAT_1, LATER_2)
        self.assertEqual([(beat.boot, beat.hb) for beat in evidence.beats], [(1, 1), (1, 2)])


if __name__ == "__main__":
    unittest.main()
