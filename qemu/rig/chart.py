# SPDX-License-Identifier: GPL-2.0
"""A chart of times without any library: a row of dots for each kind of measurement, as SVG."""

from __future__ import annotations

import math
from statistics import median
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 900, 230, 30, 60, 22
COLOUR, MARK = "#2f6f9f", "#e08b2c"


def chart(title: str, rows: list[tuple[str, list[float]]]) -> str:
    """One dot for each value and a stroke at the median, in milliseconds on a logarithmic scale."""
    every = [value for _, values in rows for value in values]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    scale = (WIDTH - LEFT - RIGHT) / max(high - low, 1)

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) * scale

    bottom = TOP + ROW * len(rows)
    body = []
    for power in range(low, high + 1):
        at = x(10**power)
        body.append(f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{TOP}" y2="{bottom}" stroke="#ddd"/>')
        body.append(f'<text x="{at:.0f}" y="{TOP - 8}" text-anchor="middle">{10**power} ms</text>')
    for number, (name, values) in enumerate(rows):
        y = TOP + ROW * number + ROW // 2
        body.append(f'<text x="10" y="{y + 4}">{escape(name)}</text>')
        body += [
            f'<circle cx="{x(value):.1f}" cy="{y}" r="3" fill="{COLOUR}" fill-opacity="0.5"/>'
            for value in values
        ]
        at = x(median(values))
        body.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{MARK}" '
            'stroke-width="2"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 10}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{bottom + 10}" fill="white"/>\n'
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
