# SPDX-License-Identifier: GPL-2.0
"""Runs the guest and turns its records into costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from rig.count.machine import CountingVm
from rig.count.symbols import LEASE_MODULE, VMLINUX, Symbol, Symbols
from rig.count.windows import Cost, Window, cost, read_windows
from rig.host import RigError, environment

from .sharing import Sharing
from .targets import Target, set_up

# The operations, and the system call that is made for each once: if that is not what was counted,
# nothing else can be believed.
SYSTEM_CALL = {
    "write": "__x64_sys_pwrite64",
    "read": "__x64_sys_pread64",
    "flush": "__x64_sys_fsync",
    "discard": "__x64_sys_ioctl",
}
OPS = tuple(SYSTEM_CALL)
# Those that there are bars for.
JUDGED = ("write", "read")
# What the first round finds is not there yet: trees that grow, statistics that begin.
WARM_UP_ROUNDS = 1
TURN_SECONDS = 5


@dataclass
class Results:
    """What was measured."""

    bios: int
    rounds: int
    ops: tuple[str, ...]
    targets: list[Target]
    skipped: dict[str, str]
    environment: dict[str, str]
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    """By operation and target."""
    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)
    """How all operations of a kind ended: "ok", or an errno."""
    text_address: int = 0
    """Where the module's text lies."""
    sharing: dict[tuple[str, str], Sharing] = field(default_factory=dict)
    """Cache lines, by operation and target; empty if they were not asked for."""


def measure(vm: CountingVm, bios: int, rounds: int, quick: bool) -> Results:
    """Starts the guest, sets up the devices and measures all of them, interleaved."""
    ops = JUDGED if quick else OPS
    try:
        vm.start().wait_up()
        targets, skipped = set_up(vm, leases_only=quick)
        turns = [(op, target) for op in ops for target in targets]
        words = " ".join(f"{op}:{target.device}:{target.offset}" for op, target in turns)
        limit = TURN_SECONDS * len(turns) * (WARM_UP_ROUNDS + rounds)
        told = vm.sh(f"issue {bios} {WARM_UP_ROUNDS + rounds} 0 {words}", limit).splitlines()
        symbols = Symbols(vm.pull("/proc/kallsyms").decode())
        text = vm.sh(f"cat /sys/module/{LEASE_MODULE}/sections/.text")
    finally:
        vm.power_cut()
    results = Results(bios, rounds, ops, targets, skipped, environment())
    results.text_address = int(text, 16)
    fill_in(results, turns, told, list(read_windows(vm.records)), symbols)
    return results


def fill_in(
    results: Results,
    turns: list[tuple[str, Target]],
    told: list[str],
    windows: list[Window],
    symbols: Symbols,
) -> None:
    """Costs and outcomes, from what `issue` and the plugin say of each turn."""
    every = len(turns)
    if len(told) != len(windows) or len(told) != every * (WARM_UP_ROUNDS + results.rounds):
        raise RigError(f"{len(told)} turns and {len(windows)} windows do not match")
    for number, (op, target) in enumerate(turns):
        mine = slice(WARM_UP_ROUNDS * every + number, None, every)
        results.outcomes[op, target.name] = outcome(told[mine], results.bios)
        results.costs[op, target.name] = cost(windows[mine], results.bios, symbols)
        entries = results.costs[op, target.name].calls[Symbol(SYSTEM_CALL[op], VMLINUX)]
        if entries != 1:
            raise RigError(f"{op} on {target.name}: {entries} system calls are counted for one bio")


def outcome(lines: list[str], bios: int) -> str:
    """How all operations of some turns ended, which must be the same way."""
    ends = {tuple(line.split()[3:]) for line in lines}
    if ends == {(str(bios), "0")}:
        return "ok"
    if len(ends) == 1:
        good, errno = ends.pop()
        if good == "0":
            return f"errno {errno}"
    raise RigError(f"operations of one kind ended in different ways: {lines}")
