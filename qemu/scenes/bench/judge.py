# SPDX-License-Identifier: GPL-2.0
"""What a target adds to `linear`, taken apart, and the bars it must stay below.

Every instruction of the path is in exactly one part, so nothing can hide by moving elsewhere:

    own      the text of the target's own modules (of linear: `linear_map`)
    called   more than in linear, anywhere else in the kernel, also in what dm core offers targets
    core     the difference inside dm core's own functions, such as the call of an end_io
    spared   less than in linear: what a refused bio no longer reaches
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from rig.count.symbols import LEASE_MODULE, VMLINUX, Symbol
from rig.count.windows import Cost

from .measure import Results
from .sharing import beyond
from .targets import Target

LINEAR_TEXT = Symbol("linear_map", "dm_mod")
CORE = "dm_mod"
# The entry points of the kernel's allocators; what they call in turn is no second allocation.
ALLOCATION = re.compile(
    r"(kmem_cache_alloc|__?kmalloc|__kvmalloc|mempool_alloc|bio_alloc|vmalloc|__vmalloc|alloc_pages"
    r"|alloc_frozen_pages|__alloc_pages|__alloc_frozen_pages|get_free_pages|__get_free_pages"
    r"|pcpu_alloc|krealloc)"
)

WRITE_BAR = 220
READ_BAR = 50
# The gates that all processors may pass at once.
UNSHARED = ("lease", "lease-stripe")
OWNERS = (*UNSHARED, "lease-ops16")
REFUSED = "lease-refused"


@dataclass
class Parts:
    """The difference between a target and linear for one operation, by functions."""

    own: Counter[Symbol] = field(default_factory=Counter)
    called: Counter[Symbol] = field(default_factory=Counter)
    core: Counter[Symbol] = field(default_factory=Counter)
    spared: Counter[Symbol] = field(default_factory=Counter)
    linear_own: int = 0
    over: int = 0
    """All of it: the difference of the whole paths."""
    allocations: int = 0
    """Calls of allocators for each bio, less those of linear."""

    @property
    def figure(self) -> int:
        """What the target and everything that it calls cost over linear: what the bars are for."""
        return self.own.total() + self.called.total() - self.linear_own


def parts(target: Target, cost: Cost, linear: Cost) -> Parts:
    """Takes the difference apart."""
    result = Parts(linear_own=linear.instructions[LINEAR_TEXT], over=cost.total - linear.total)
    for symbol in cost.instructions.keys() | linear.instructions.keys():
        more = cost.instructions[symbol] - linear.instructions[symbol]
        calls = cost.calls[symbol] - linear.calls[symbol]
        if symbol.module == VMLINUX and ALLOCATION.match(symbol.name):
            result.allocations += calls
        if symbol == LINEAR_TEXT or not more:
            continue
        if symbol.module in target.modules:
            result.own[symbol] = more
        elif symbol.module == CORE and linear.calls[symbol]:
            result.core[symbol] = more
        elif more > 0:
            result.called[symbol] = more
        else:
            result.spared[symbol] = more
    return result


@dataclass(frozen=True)
class Verdict:
    """One bar: what it says, what was counted, and whether it holds."""

    text: str
    found: str
    holds: bool


def judge(results: Results) -> list[Verdict]:
    """All bars for the targets that there are."""
    have = {target.name: target for target in results.targets}
    verdicts = [
        Verdict(f"{name} is measured", why, False)
        for name, why in results.skipped.items()
        if name in UNSHARED
    ]
    for name in OWNERS:
        if name in have:
            verdicts += judge_owner(results, have[name])
    for (op, name), found in results.sharing.items():
        if name in UNSHARED:
            lines = beyond(found, results.sharing[op, have[name].linear])
            text = f"{name}: cache lines that every processor writes, a {op}"
            verdicts.append(at_most(text, len(lines), 0))
    if REFUSED in have and "lease" in have:
        verdicts += judge_refused(results, have[REFUSED], have["lease"])
    return verdicts


def judge_owner(results: Results, target: Target) -> list[Verdict]:
    """The bars for a device whose controller holds the lease."""
    write, read = parts_of(results, "write", target), parts_of(results, "read", target)
    verdicts = [at_most(f"{target.name}: own and called, a read", read.figure, READ_BAR)]
    text = f"{target.name}: own and called, a write as owner"
    verdicts.append(at_most(text, write.figure, WRITE_BAR))
    for op, cost in (("write", write), ("read", read)):
        verdicts.append(at_most(f"{target.name}: allocations, a {op}", cost.allocations, 0))
        exact = results.costs[op, target.name]
        text = f"{target.name}: most windows have the same counts in the module, a {op}"
        found = f"{exact.exact[LEASE_MODULE]} of {exact.windows}"
        verdicts.append(Verdict(text, found, exact.is_exact(LEASE_MODULE)))
        ends = results.outcomes[op, target.name]
        verdicts.append(Verdict(f"{target.name}: a {op} succeeds", ends, ends == "ok"))
    return verdicts


def judge_refused(results: Results, refused: Target, owner: Target) -> list[Verdict]:
    """A write that is refused, against one that is accepted; reads are the same everywhere."""
    ends = results.outcomes["write", refused.name]
    costs = [results.costs["write", target.name] for target in (refused, owner)]
    own = [cost.of_module(LEASE_MODULE) for cost in costs]
    read = parts_of(results, "read", refused)
    return [
        Verdict(f"{refused.name}: a write fails", ends, ends != "ok"),
        at_most(f"{refused.name}: the whole path of a write", costs[0].total, costs[1].total - 1),
        at_most(f"{refused.name}: own text, a write", own[0], own[1] - 1),
        at_most(f"{refused.name}: own and called, a read", read.figure, READ_BAR),
    ]


def parts_of(results: Results, op: str, target: Target) -> Parts:
    """The parts for an operation on a target."""
    return parts(target, results.costs[op, target.name], results.costs[op, target.linear])


def at_most(text: str, found: int, bar: int) -> Verdict:
    """A bar for a number."""
    return Verdict(f"{text}, at most {bar}", str(found), found <= bar)
