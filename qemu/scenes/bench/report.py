# SPDX-License-Identifier: GPL-2.0
"""Tables for people, JSON for programs, a plot for documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rig.count.symbols import LEASE_MODULE, Symbol, readable

from .judge import Parts, Verdict, parts_of
from .lines import listing
from .measure import JUDGED, Results
from .plot import plot
from .sharing import beyond

COLUMNS = ("total", "over", "own", "called", "core", "spared", "figure", "allocs", "mean")


def report(results: Results, verdicts: list[Verdict], directory: Path) -> None:
    """Prints everything and leaves it in a directory."""
    lines = head(results)
    for op in results.ops:
        lines += table(results, op)
    for op in JUDGED:
        for target in results.targets:
            if LEASE_MODULE in target.modules:
                lines += profile(results, op, target.name)
    lines += sharing_table(results)
    text = "\n".join([*lines, *judgement(results, verdicts)])
    print(text)
    (directory / "report.txt").write_text(text + "\n")
    (directory / "bench.json").write_text(json.dumps(as_data(results, verdicts), indent=1) + "\n")
    (directory / "lines.txt").write_text(listing(results))
    (directory / "bench.svg").write_text(plot(results))


def head(results: Results) -> list[str]:
    """What was measured, and with what."""
    lines = [f"{key:8} {value}" for key, value in results.environment.items()]
    lines.append(
        f"{'windows':8} {results.rounds} of {results.bios} bios for each line; all figures are "
        "instructions of the guest kernel for one bio"
    )
    return lines + [f"skipped  {name}: {why}" for name, why in results.skipped.items()]


def rows(results: Results, op: str) -> list[tuple[str, Parts]]:
    """The targets with their parts."""
    return [(target.name, parts_of(results, op, target)) for target in results.targets]


def numbers(results: Results, op: str, name: str, part: Parts) -> dict[str, float]:
    """One line of a table."""
    cost = results.costs[op, name]
    is_linear = any(name == target.linear for target in results.targets)
    own = part.linear_own if is_linear else part.own.total()
    values = (
        cost.total, part.over, own, part.called.total(), part.core.total(), part.spared.total(),
        0 if is_linear else part.figure, part.allocations, round(cost.mean, 1),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def table(results: Results, op: str) -> list[str]:
    """All targets, for one operation."""
    what = op if op == "flush" else f"{op}, 4 KiB"
    lines = ["", f"{what:16}" + "".join(f"{column:>9}" for column in COLUMNS)]
    for name, part in rows(results, op):
        values = numbers(results, op, name, part)
        ends = results.outcomes[op, name]
        line = f"{name:16}" + "".join(f"{value:>9}" for value in values.values())
        lines.append(line if ends == "ok" else f"{line}  {ends}")
    return lines


def profile(results: Results, op: str, name: str) -> list[str]:
    """Where the instructions of a target go."""
    target = next(target for target in results.targets if target.name == name)
    part = parts_of(results, op, target)
    calls = results.costs[op, name].calls
    names = readable([*part.own, *part.called, *part.core])
    lines = ["", f"{op}, {name}: instructions and calls by function; called, core: beyond linear"]
    groups: dict[str, Counter[Symbol]] = {"own": part.own, "called": part.called, "core": part.core}
    for group, counter in groups.items():
        for symbol, count in counter.most_common():
            lines.append(f"  {group:6} {count:5} {calls[symbol]:4}  {names[symbol]}")
    return lines


def shared_lines(results: Results, op: str, name: str) -> list[dict[str, int]]:
    """For each shared line beyond linear's: who writes it, and how often for each bio."""
    linear = next(target.linear for target in results.targets if target.name == name)
    lines = beyond(results.sharing[op, name], results.sharing[op, linear]).values()
    names = readable([symbol for writers in lines for symbol in writers])
    return [{names[s]: n for s, n in writers.items()} for writers in lines]


def sharing_table(results: Results) -> list[str]:
    """Cache lines: how many the module writes, and which ones every processor writes."""
    lines = []
    for (op, name), found in results.sharing.items():
        target = next(target for target in results.targets if target.name == name)
        if LEASE_MODULE not in target.modules:
            continue
        shared = shared_lines(results, op, name)
        lines.append(f"{op + ' ' + name:22}{found.lines:>9}{len(shared):>9}")
        for writers in shared:
            lines.append("    " + ", ".join(f"{n} x {who}" for who, n in writers.items()))
    head = f"{'cache lines':22}{'own':>9}{'shared':>9}"
    note = "(own: written by the module; shared: by every processor, beyond linear)"
    return ["", f"{head}  {note}", *lines] if lines else []


def judgement(results: Results, verdicts: list[Verdict]) -> list[str]:
    """The bars."""
    lines = ["", "bars"]
    for verdict in verdicts:
        state = "ok" if verdict.holds else "NOT OK"
        lines.append(f"  {state:6} {verdict.text}: {verdict.found}")
    broken = sum(not verdict.holds for verdict in verdicts)
    lines.append(f"{len(verdicts) - broken} passed, {broken} failed")
    lines.append(f"bench: {'FAIL' if broken else 'PASS'}")
    return lines


def as_data(results: Results, verdicts: list[Verdict]) -> dict[str, object]:
    """Everything, for programs."""
    operations: dict[str, dict[str, object]] = {}
    for op in results.ops:
        operations[op] = {}
        for name, part in rows(results, op):
            names = readable([*part.own, *part.called, *part.core])
            operations[op][name] = numbers(results, op, name, part) | {
                "ends": results.outcomes[op, name],
                "own_by_function": {names[s]: n for s, n in part.own.most_common()},
                "called_by_function": {names[s]: n for s, n in part.called.most_common()},
                "core_by_function": {names[s]: n for s, n in part.core.most_common()},
            }
    return {
        "environment": results.environment,
        "bios": results.bios,
        "rounds": results.rounds,
        "skipped": results.skipped,
        "operations": operations,
        "cache_lines": {
            f"{op} {name}": {"written": found.lines, "shared": shared_lines(results, op, name)}
            for (op, name), found in results.sharing.items()
        },
        "bars": [vars(verdict) for verdict in verdicts],
    }
