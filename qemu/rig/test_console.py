# SPDX-License-Identifier: GPL-2.0
"""A console log is shown what a kernel may say, and must find the complaints in it."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from .console import Console

BEGINS = "<12>[    1.0] dm-lease selftest 7: begins"
PROVOKES = "<12>[    2.0] dm-lease selftest 7: provokes the block is blank"
BLANK = "<4>[    3.0] dm_lease: p0m0: the block is blank"
DENIES = "<12>[    4.0] dm-lease selftest 7: denies memory, begin"
DENIED = "<12>[    9.0] dm-lease selftest 7: denies memory, end"
TRACE = "<4>[    5.2] Call Trace:"
REFUSAL = [
    "<4>[    5.0] kthreadd: vmalloc error: size 32768, vm_struct allocation failed",
    "<4>[    5.1] CPU: 1 UID: 0 PID: 2 Comm: kthreadd Tainted: G",
    "<4>[    5.1] Tainted: [O]=OOT_MODULE",
    "<4>[    5.1] Hardware name: QEMU Standard PC",
    TRACE,
    "<4>[    5.3]  warn_alloc+0x155/0x200",
]
WARNING = "<4>[    6.0] WARNING: mm/slub.c:1 at free, CPU#0"


class Complaints(unittest.TestCase):
    def check(self, *log: str, finds: list[str], allow: str | None = None) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "log"
            path.write_text("".join(f"{line}\r\n" for line in log))
            self.assertEqual(Console(path).complaints(allow), finds)

    def test_a_quiet_kernel(self) -> None:
        self.check("<6>[ 0.1] KASAN: initialized", "<5>[ 1.0] dm_lease: loaded", finds=[])

    def test_a_warning_of_the_kernel_is_heard(self) -> None:
        self.check(WARNING, TRACE, finds=[WARNING, TRACE])
        self.check(WARNING, TRACE, allow="Call Trace", finds=[WARNING])

    def test_a_warning_of_the_module_is_heard_unless_announced(self) -> None:
        self.check(BEGINS, BLANK, finds=[BLANK])
        self.check(BEGINS, PROVOKES, BLANK, finds=[])
        self.check(BEGINS, PROVOKES, BLANK, BLANK, finds=[BLANK])

    def test_what_was_announced_must_come_in_the_same_test(self) -> None:
        missing = "nothing said: the block is blank"
        self.check(BEGINS, PROVOKES, finds=[missing])
        self.check(BEGINS, PROVOKES, BEGINS, BLANK, finds=[missing, BLANK])

    def test_a_refused_stack_is_excused_while_memory_is_denied(self) -> None:
        self.check(BEGINS, DENIES, *REFUSAL, *REFUSAL, DENIED, finds=[])

    def test_and_at_no_other_time(self) -> None:
        self.check(BEGINS, *REFUSAL, finds=[TRACE])
        self.check(BEGINS, DENIES, DENIED, *REFUSAL, finds=[TRACE])
        self.check(BEGINS, DENIES, BEGINS, *REFUSAL, finds=[TRACE])

    def test_each_refusal_excuses_one_trace_that_follows_at_once(self) -> None:
        self.check(BEGINS, DENIES, *REFUSAL, TRACE, DENIED, finds=[TRACE])
        apart = [REFUSAL[0], *["<6>[ 5.1] Mem-Info:"] * 6, TRACE]
        self.check(BEGINS, DENIES, *apart, DENIED, finds=[TRACE])

    def test_nothing_else_is_excused(self) -> None:
        self.check(BEGINS, DENIES, REFUSAL[0], WARNING, TRACE, DENIED, finds=[WARNING])
