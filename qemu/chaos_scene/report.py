# SPDX-License-Identifier: GPL-2.0
"""What a run says in the end: a table of kinds, and a file with every round."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from count.measure import environment

from .play import Round

HEAD = (
    "                                                            pause, ms",
    "kind                    rounds  failed  starved  takeovers  strays  refused  late  median  worst",
)


def table(rounds: list[Round]) -> list[str]:
    """A line for each kind or pair of kinds, and one for all."""
    kinds = sorted({"+".join(one.kinds) for one in rounds})
    lines = list(HEAD)
    for kind in kinds:
        lines.append(line(kind, [one for one in rounds if "+".join(one.kinds) == kind]))
    return [*lines, line("all", rounds)]


def line(name: str, mine: list[Round]) -> str:
    """A line of the table; pauses are those of rounds in which somebody had to wait."""
    pauses = [one.pause_ms for one in mine]
    return (
        f"{name:<22} {len(mine):>7} {sum(bool(one.failures) for one in mine):>7} "
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
    path.write_text(json.dumps(document, indent=1) + "\n")
