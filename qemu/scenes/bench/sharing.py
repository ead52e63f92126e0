# SPDX-License-Identifier: GPL-2.0
"""Which cache lines every processor writes for every bio.

Such a line travels between the processors, and that costs more than all the instructions beside it.
In a guest with three processors two of them send the same operations, one after the other, each
from a process of its own; every write of the kernel between the markers is recorded. A line that
both write for every bio is shared. What linear shares, too (of the disk, of dm core), is not the
target's: for each of its lines one that the same functions write as often is left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rig.count.machine import CountingVm
from rig.count.symbols import LEASE_MODULE, Symbol, Symbols
from rig.count.windows import Window, read_windows
from rig.host import RigError, build

from .targets import set_up

OPS = ("write", "read")
CPUS = (1, 2)
APPEND = "isolcpus=1-2"
WARM_UP_ROUNDS = 1
BIOS = 256
LIMIT_SECONDS = 120

Line = int
Writers = dict[Symbol, int]


@dataclass
class Sharing:
    """What one target's bios write for one operation."""

    lines: int
    """Distinct lines that one bio writes from the text of the module."""
    shared: dict[Line, Writers] = field(default_factory=dict)
    """Lines that every processor writes for every bio: who, and how often for each bio."""


def lines_of_every_bio(window: Window, symbols: Symbols) -> dict[Line, Counter[Symbol]]:
    """The lines that each bio of a window writes, with their writers."""
    result: dict[Line, Counter[Symbol]] = defaultdict(Counter)
    for (address, line), count in window.writes.items():
        if each := round(count / BIOS):
            result[line][symbols.at(address)] += each
    return result


def sharing(windows: list[Window], symbols: Symbols) -> Sharing:
    """Of one window for each processor."""
    lines = [lines_of_every_bio(window, symbols) for window in windows]
    common = set(lines[0]).intersection(*lines[1:])
    own = [x for x, writers in lines[0].items() if any(s.module == LEASE_MODULE for s in writers)]
    return Sharing(len(own), {line: dict(lines[0][line]) for line in sorted(common)})


def beyond(found: Sharing, linear: Sharing) -> dict[Line, Writers]:
    """The shared lines that are not linear's."""
    known = Counter(frozenset(writers.items()) for writers in linear.shared.values())
    result = {}
    for line, writers in found.shared.items():
        key = frozenset(writers.items())
        if not known[key]:
            result[line] = writers
        known[key] -= known[key] > 0
    return result


def machine(directory: Path) -> CountingVm:
    """The guest for it."""
    return CountingVm("sharing", directory, build("bench"), cpus=3, stores=True, append=APPEND)


def measure_sharing(vm: CountingVm) -> dict[tuple[str, str], Sharing]:
    """Runs the guest; by operation and target, for the leases and their linear devices."""
    try:
        vm.start().wait_up()
        targets, _ = set_up(vm, leases_only=True)
        turns = [(op, target) for op in OPS for target in targets]
        words = " ".join(f"{op}:{target.device}:{target.offset}" for op, target in turns)
        cpus = ",".join(map(str, CPUS))
        told = vm.sh(f"issue {BIOS} {WARM_UP_ROUNDS + 1} {cpus} {words}", LIMIT_SECONDS)
        symbols = Symbols(vm.pull("/proc/kallsyms").decode())
    finally:
        vm.power_cut()
    lines, windows = told.splitlines(), list(read_windows(vm.records))
    if len(lines) != len(windows):
        raise RigError(f"{len(lines)} turns and {len(windows)} windows do not match")
    last: dict[tuple[str, str], dict[int, Window]] = defaultdict(dict)
    for line, window in zip(lines, windows, strict=True):
        cpu, op, device, *_ = line.split()
        if int(cpu) != window.vcpu:
            raise RigError(f"a window of CPU {window.vcpu} where one of {cpu} was expected")
        last[op, device][window.vcpu] = window
    return {
        (op, target.name): sharing(list(last[op, target.device].values()), symbols)
        for op, target in turns
    }
