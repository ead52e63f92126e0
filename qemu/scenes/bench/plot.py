# SPDX-License-Identifier: GPL-2.0
"""A bar chart without any library: for each operation, what each target adds to linear."""

from __future__ import annotations

from xml.sax.saxutils import escape

from .judge import READ_BAR, WRITE_BAR, Parts, parts_of
from .measure import Results
from .reservations import UNRESERVED

WIDTH, LEFT, ROW, GAP = 900, 150, 18, 44
LONGEST = 600
"""Where bars are cut off: some targets copy or log, and would make all others dots."""
PLOTTED: dict[str, int | None] = {"write": WRITE_BAR, "read": READ_BAR, "discard": None}
MEANING = {
    "own": "the target's modules",
    "called": "what they call",
    "core": "more in dm core",
}
COLOURS = {"own": "#2f6f9f", "called": "#e08b2c", "core": "#8a8a8a"}


def plot(results: Results) -> str:
    """The chart as SVG."""
    body: list[str] = []
    top = 70
    for op in [op for op in PLOTTED if op in results.ops]:
        part = {
            target.name: parts_of(results, op, target)
            for target in results.targets
            if target.modules and target.linear != UNRESERVED
        }
        body += group(op, part, top)
        top += len(part) * ROW + GAP
    legend = "".join(
        f'<rect x="{LEFT + 200 * i}" y="38" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + 200 * i + 18}" y="49">{kind}: {MEANING[kind]}</text>'
        for i, (kind, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>\n'
        '<text x="10" y="22" font-size="15">Guest instructions for one bio of 4 KiB, '
        f"beside those of linear; dashed: the bar; cut off at {LONGEST}</text>\n"
        f"{legend}\n" + "\n".join(body) + "\n</svg>\n"
    )


def group(op: str, part: dict[str, Parts], top: int) -> list[str]:
    """One operation."""
    scale = (WIDTH - LEFT - 70) / LONGEST
    lines = [f'<text x="10" y="{top}" font-weight="bold">{op}</text>']
    for row, (name, parts) in enumerate(part.items()):
        y, x = top + 8 + row * ROW, float(LEFT)
        lines.append(f'<text x="10" y="{y + 12}">{escape(name)}</text>')
        room = LONGEST
        for kind, length in widths(parts).items():
            value = min(length, room)
            room -= value
            shape = f'x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="{ROW - 4}"'
            lines.append(f'<rect {shape} fill="{COLOURS[kind]}"/>')
            x += value * scale
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 12}">{sum(widths(parts).values())}</text>')
    if (bar := PLOTTED[op]) is None:
        return lines
    x = LEFT + (bar + linear_own(part)) * scale
    bottom = top + 6 + len(part) * ROW
    lines.append(
        f'<line x1="{x:.1f}" y1="{top + 4}" x2="{x:.1f}" y2="{bottom}" stroke="#b00" '
        'stroke-dasharray="4 3"/>'
    )
    return lines


def widths(parts: Parts) -> dict[str, int]:
    """The lengths of a bar's pieces. Dm core may even save a little: that is not drawn."""
    return {
        "own": parts.own.total(),
        "called": parts.called.total(),
        "core": max(parts.core.total(), 0),
    }


def linear_own(part: dict[str, Parts]) -> int:
    """What linear's own text costs, which the bars come on top of."""
    return next(iter(part.values())).linear_own
