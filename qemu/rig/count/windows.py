# SPDX-License-Identifier: GPL-2.0
"""From the plugin's records to what one bio costs.

A window has a known number of bios, and each instruction in it a number of executions. Beside the
path of the bios there is what the machine does from time to time: the timer tick, heartbeats,
statistics. Nearly always it adds, rarely or in bursts, so two steps leave the path alone: of
several windows of one kind the lower quartile, for each instruction, and of that the nearest whole
number for each bio. What every bio does is then exact; `mean` still has everything in it.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..host import RigError
from .symbols import Symbol, Symbols


@dataclass
class Window:
    """What one vCPU did between two markers."""

    vcpu: int
    executions: dict[int, int] = field(default_factory=dict)
    """For each address, how often it was executed."""
    writes: dict[tuple[int, int], int] = field(default_factory=dict)
    """For each pair of an address and a cache line, how often the one wrote the other."""


def read_windows(path: Path) -> Iterator[Window]:
    """The windows of a file of the plugin, in order."""
    window = None
    with path.open() as records:
        for line in records:
            kind, *words = line.split()
            if kind == "window":
                window = Window(int(words[0]))
            elif kind == "error" or window is None:
                raise RigError(f"{path}: {line.strip()}")
            elif kind == "x":
                window.executions[int(words[0], 16)] = int(words[1])
            elif kind == "w":
                window.writes[int(words[0], 16), int(words[1], 16)] = int(words[2])
            elif kind == "end":
                yield window
                window = None
    if window is not None:
        raise RigError(f"{path} ends in the middle of a window")


@dataclass
class Cost:
    """What one bio of a kind costs, in instructions of the guest kernel."""

    path: dict[int, int]
    """For each address, how often every bio executes it."""
    instructions: Counter[Symbol]
    calls: Counter[Symbol]
    mean: float
    """Everything that was executed, for each bio."""
    windows: int
    exact: Counter[str]
    """For each module, in how many windows its part of the path has exactly these counts. A window
    with a heartbeat in it may not: some functions serve both."""

    @property
    def total(self) -> int:
        """All instructions that every bio executes."""
        return sum(self.path.values())

    def of_module(self, module: str) -> int:
        """Those in the text of a module."""
        return sum(n for symbol, n in self.instructions.items() if symbol.module == module)

    def is_exact(self, module: str) -> bool:
        """Whether most windows have the very same count for every instruction of a module."""
        return 2 * self.exact[module] > self.windows


def cost(windows: list[Window], bios: int, symbols: Symbols) -> Cost:
    """The cost of a bio, from windows of one kind with so many bios each."""
    total = statistics.median(sum(window.executions.values()) for window in windows)
    result = Cost({}, Counter(), Counter(), total / bios, len(windows), Counter())
    uneven: dict[str, set[int]] = defaultdict(set)
    for address in sorted(set().union(*(window.executions for window in windows))):
        counts = [window.executions.get(address, 0) for window in windows]
        each = round(sorted(counts)[len(counts) // 4] / bios)
        if not each:
            continue
        symbol = symbols.at(address)
        result.path[address] = each
        result.instructions[symbol] += each
        if symbols.is_start(address):
            result.calls[symbol] += each
        uneven[symbol.module].update(i for i, n in enumerate(counts) if n != each * bios)
    for module, numbers in uneven.items():
        result.exact[module] = len(windows) - len(numbers)
    return result
