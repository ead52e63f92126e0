# SPDX-License-Identifier: GPL-2.0
"""The count is shown windows in which something is wrong, and must find it."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from rig.count.symbols import LEASE_MODULE, Symbol, Symbols
from rig.count.windows import Window, cost, read_windows
from rig.host import RigError

from .judge import judge, parts
from .measure import OPS, SYSTEM_CALL, Results, fill_in
from .plot import plot
from .sharing import BIOS, Sharing, beyond, sharing
from .targets import Target

N = 100
BIO, CLOCK, TICK = 0x1000, 0x2000, 0x3000
CORE, LINEAR_MAP, MAP = 0x4000, 0x5000, 0x6000
ENTRIES = {op: 0x7000 + 0x100 * number for number, op in enumerate(OPS)}
SYMBOLS = Symbols(
    "\n".join(
        [
            f"{BIO:x} T submit_bio", f"{CLOCK:x} T ktime_get", f"{TICK:x} t tick",
            f"{CORE:x} t __map_bio\t[dm_mod]", f"{LINEAR_MAP:x} t linear_map\t[dm_mod]",
            f"{MAP:x} t map\t[{LEASE_MODULE}]", f"{0x8000:x} T kmem_cache_alloc_noprof",
            *(f"{ENTRIES[op]:x} T {name}" for op, name in SYSTEM_CALL.items()),
        ]
    )
)  # fmt: skip
LINEAR = Target("linear", "/dev/mapper/linear")
LEASE = Target("lease", "/dev/mapper/lease", modules=(LEASE_MODULE,), role="owner")


def window(*addresses: int, **more: int) -> Window:
    """N bios that execute each address once; `more` are addresses by name and executions."""
    executions = dict.fromkeys(addresses, N)
    names = {"tick": TICK, "clock": CLOCK, "own": MAP}
    return Window(0, executions | {names[name]: count for name, count in more.items()})


def results(lease: list[Window], told: str = f"{N} 0", rounds: int = 4) -> Results:
    """A whole run in which the lease's windows are the given ones, for every operation."""
    found = Results(N, rounds, OPS, [LINEAR, LEASE], {}, {})
    turns = [(op, target) for op in OPS for target in found.targets]
    windows, lines = [], []
    for number in range(rounds + 1):
        for op, target in turns:
            common = {BIO: N, CORE: N, ENTRIES[op]: N}
            own = lease[number % len(lease)].executions if target == LEASE else {LINEAR_MAP: N}
            windows.append(Window(0, common | own))
            lines.append(f"0 {op} {target.device} {told if target == LEASE else f'{N} 0'}")
    fill_in(found, turns, lines, windows, SYMBOLS)
    return found


def broken(found: Results) -> list[str]:
    """The bars that do not hold."""
    return [verdict.text for verdict in judge(found) if not verdict.holds]


class Costs(unittest.TestCase):
    def test_what_comes_from_time_to_time_is_not_the_bio_s(self) -> None:
        windows = [window(BIO, tick=60), window(BIO), window(BIO), window(BIO, tick=5000)]
        found = cost(windows, N, SYMBOLS)
        self.assertEqual(found.total, 1)
        self.assertGreater(found.mean, 1)

    def test_a_function_that_is_called_twice_is_counted_twice(self) -> None:
        found = cost([window(BIO, clock=2 * N)] * 4, N, SYMBOLS)
        self.assertEqual(found.calls[Symbol("ktime_get", "vmlinux")], 2)
        self.assertEqual(found.total, 3)

    def test_a_window_that_differs_is_noticed(self) -> None:
        even, odd = window(MAP), window(own=N + 1)
        self.assertTrue(cost([even] * 4, N, SYMBOLS).is_exact(LEASE_MODULE))
        self.assertTrue(cost([even, even, odd, even], N, SYMBOLS).is_exact(LEASE_MODULE))
        self.assertFalse(cost([even, odd, odd, even], N, SYMBOLS).is_exact(LEASE_MODULE))

    def test_each_instruction_is_in_one_part(self) -> None:
        linear = cost([window(BIO, CORE, LINEAR_MAP)] * 4, N, SYMBOLS)
        lease = cost([window(CORE, CORE + 1, MAP, MAP + 1, clock=3 * N)] * 4, N, SYMBOLS)
        found = parts(LEASE, lease, linear)
        sums = (found.own, found.called, found.core, found.spared)
        self.assertEqual([part.total() for part in sums], [2, 3, 1, -1])
        self.assertEqual(found.over, sum(part.total() for part in sums) - found.linear_own)
        self.assertEqual(found.figure, 4)


class Bars(unittest.TestCase):
    def test_a_cheap_lease_passes(self) -> None:
        self.assertEqual(broken(results([window(MAP)])), [])

    def test_work_that_moved_to_the_kernel_is_found(self) -> None:
        found = broken(results([window(MAP, clock=221 * N)]))
        self.assertTrue(any("a write as owner" in text for text in found))

    def test_an_allocation_is_found(self) -> None:
        found = broken(results([window(MAP, 0x8000)]))
        self.assertTrue(any("allocations" in text for text in found))

    def test_a_write_that_fails_is_found(self) -> None:
        self.assertIn("lease: a write succeeds", broken(results([window(MAP)], "0 52")))

    def test_counts_that_are_not_exact_are_found(self) -> None:
        found = broken(results([window(MAP), window(own=N + 3)]))
        self.assertTrue(any("most windows" in text for text in found))

    def test_a_lease_that_could_not_be_measured_is_found(self) -> None:
        found = results([window(MAP)])
        found.skipped["lease-stripe"] = "refused"
        self.assertEqual(broken(found), ["lease-stripe is measured"])

    def test_a_line_that_all_processors_write_is_found(self) -> None:
        found = results([window(MAP)])
        found.sharing["write", "linear"] = Sharing(0)
        found.sharing["write", "lease"] = Sharing(1, {7: {Symbol("map", LEASE_MODULE): 1}})
        self.assertTrue(any("cache lines" in text for text in broken(found)))

    def test_the_plot_is_drawn(self) -> None:
        self.assertIn("lease", plot(results([window(MAP)])))


class Records(unittest.TestCase):
    def read(self, text: str) -> list[Window]:
        """The windows of a file with this content."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "records"
            path.write_text(text)
            return list(read_windows(path))

    def test_a_record_is_read(self) -> None:
        found = self.read("window 1\nx 1000 7\nw 1000 20 3\nend\n")
        self.assertEqual(found, [Window(1, {0x1000: 7}, {(0x1000, 0x20): 3})])

    def test_an_error_of_the_plugin_or_half_a_window_fails(self) -> None:
        for text in ("error full\n", "window 0\nx 1 1\n", "window 0\nerror full\nend\n", "x 1 1\n"):
            with self.assertRaises(RigError):
                self.read(text)

    def test_operations_that_end_in_different_ways_fail(self) -> None:
        with self.assertRaises(RigError):
            results([window(MAP)], "99 52")

    def test_a_system_call_that_was_not_counted_fails(self) -> None:
        with self.assertRaises(RigError):
            results([Window(0, dict.fromkeys(ENTRIES.values(), 2 * N))])


class Sharings(unittest.TestCase):
    def windows(self, *lines: list[int]) -> list[Window]:
        """One window for each processor, in which every bio writes these lines."""
        return [
            Window(cpu, {}, {(MAP, line): BIOS for line in own}) for cpu, own in enumerate(lines)
        ]

    def test_only_what_both_write_is_shared(self) -> None:
        found = sharing(self.windows([1, 2], [2, 3]), SYMBOLS)
        self.assertEqual(list(found.shared), [2])
        self.assertEqual(found.lines, 2)

    def test_lines_like_those_of_linear_are_left_out_once_each(self) -> None:
        linear = sharing(self.windows([8], [8]), SYMBOLS)
        found = sharing(self.windows([1, 2], [1, 2]), SYMBOLS)
        self.assertEqual(len(beyond(found, linear)), 1)
