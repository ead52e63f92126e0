# SPDX-License-Identifier: GPL-2.0
"""What a run says in the end: a table of kinds, and a file with every round."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rig.host import environment

from .play import Round

HEAD = (
    "                                                                   pause, ms",
    "kind        rounds  failed  starved  takeovers  strays  refused  late  median  worst",
)

# What the rules must have judged in each round, on the average, for the verdict to mean anything.
WORK = {"operations in data areas": 50, "acknowledged raw writes": 20, "heartbeats": 20}
# A run of at least LONG rounds must contain each of the events in MUST.
LONG = 100
MUST = ("replaced", "former disks found again", "put back")
# A run may lose one guest, and one more for each SLEEPS_LOST sleeps of two processors.
SLEEPS_LOST = 8


def shortcomings(rounds: list[Round], counts: Counter[str], planned: int) -> list[str]:
    """Why a run without a failure is none that passed: `planned` rounds, or more, belong to it."""
    wrong = [
        f"evidence: only {counts[what]} {what} in {len(rounds)} rounds"
        for what, each in WORK.items()
        if counts[what] < each * len(rounds)
    ]
    if planned >= LONG:
        never = [what for what in MUST if not counts[what]]
        wrong += [f"evidence: never {what} in {planned} rounds" for what in never]
    lost = sum(one.lost for one in rounds)
    slept = sum("sleep" in one.kinds and one.cpus > 1 for one in rounds)
    if lost > 1 + slept // SLEEPS_LOST:
        wrong.append(f"{lost} of {slept} machines with two processors did not come back from sleep")
    if len(rounds) < planned:
        wrong.append(f"{planned - len(rounds)} rounds were not played")
    return wrong


def table(rounds: list[Round]) -> list[str]:
    """A line for each kind, alone or with another one, and one for all rounds."""
    kinds = sorted({kind for one in rounds for kind in one.kinds})
    lines = list(HEAD)
    for kind in kinds:
        lines.append(line(kind, [one for one in rounds if kind in one.kinds]))
    return [*lines, line("all", rounds)]


def summary(rounds: list[Round]) -> list[str]:
    """What the table does not say."""
    lines = [
        f"owned again at most {max(one.back for one in rounds)} heartbeats of the winner after the "
        f"fault, median {median(one.back for one in rounds):.0f}"
    ]
    resumed = [it for one in rounds for it in one.resumed]
    if resumed:
        counts, times = [count for count, _ in resumed], [ms for _, ms in resumed]
        lines.append(
            f"clocks that stood still: {len(resumed)} epochs were succeeded meanwhile; after the "
            f"resume landed {median(counts):.0f} writes (median; most: {max(counts)}), the last "
            f"{median(times):.0f} ms after it (median; latest: {max(times):.0f} ms)"
        )
    return lines


def line(name: str, mine: list[Round]) -> str:
    """A line of the table; a pause is the longest of a round in which no write was acknowledged."""
    pauses = [one.pause_ms for one in mine]
    return (
        f"{name:<10} {len(mine):>7} {sum(bool(one.failures) for one in mine):>7} "
        f"{sum(one.starved for one in mine):>8} {sum(one.takeovers for one in mine):>10} "
        f"{sum(one.strays for one in mine):>7} {sum(one.refused for one in mine):>8} "
        f"{sum(one.late for one in mine):>5} {median(pauses):>7.0f} {max(pauses):>6.0f}"
    )


def save(
    path: Path, seed: str, rounds: list[Round], counts: Counter[str], wrong: list[str]
) -> None:
    """Everything, for whoever wants to know more."""
    document: dict[str, Any] = {
        "environment": environment(),
        "seed": seed,
        "judged": dict(counts),
        "failures": wrong,
        "rounds": [asdict(one) for one in rounds],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
