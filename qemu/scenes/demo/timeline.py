# SPDX-License-Identifier: GPL-2.0
"""The run as a picture: roles, leases, heartbeats, writes and faults, as text, SVG and JSON.

One row for each portion and controller. All times are seconds since the first scene began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rig.evidence import Evidence

from .checker import MS, Findings

WIDTH, LEFT, RIGHT = 1560, 118, 22
ROW, GROUP = 64, 60
TOP = 92
COLOURS = {1: "#1d4ed8", 2: "#c2410c"}
PALE = {1: "#dbe6fb", 2: "#fbe3d3"}
ROLES = {
    "joining": "#efe7fb",
    "secondary": "#eceff3",
    "claiming": "#fde68a",
    "releasing": "#fde68a",
    "failed": "#fecaca",
    "off": "#ffffff",
}
INK, FAINT, GOOD, BAD = "#1f2937", "#6b7280", "#15803d", "#dc2626"


@dataclass
class Span:
    """Something that lasts, in seconds."""

    begin: float
    end: float
    what: str
    epoch: int = 0


@dataclass
class Row:
    """What one controller was to one portion."""

    portion: str
    controller: int
    roles: list[Span]
    leases: list[Span]
    heartbeats: list[tuple[float, bool]]
    """When, and whether as the owner."""
    acknowledged: list[float]
    refused: list[float]
    strays: list[float]
    """When operations of an epoch that was over landed."""


class Timeline:
    """Everything that is drawn, taken from the evidence once."""

    def __init__(self, evidence: Evidence, found: Findings) -> None:
        self.evidence = evidence
        self.found = found
        facts = evidence.run["facts"]
        scenes = [fact for fact in facts if fact["kind"] == "scene"]
        self.origin = scenes[0]["at"] if scenes else evidence.run["begun"]
        self.length = self.seconds(max([f.get("until", 0) for f in facts] or [0])) or 1.0
        self.scenes = [
            Span(self.seconds(s["at"]), self.seconds(s["until"]), f"{s['letter']}: {s['title']}")
            for s in scenes
        ]
        self.faults = [fact for fact in facts if fact["kind"] == "fault"]
        self.rows = [
            self.row(portion, controller) for portion in evidence.portions for controller in (1, 2)
        ]

    def seconds(self, at: int) -> float:
        """Since the first scene."""
        return round(float(at - self.origin) / 1e9, 4)

    def row(self, portion: str, controller: int) -> Row:
        """Everything of one controller and one portion."""
        evidence = self.evidence

        def mine(items: Iterable[Any]) -> list[Any]:
            return [i for i in items if (i.portion, i.controller) == (portion, controller)]

        beats: list[tuple[float, bool]] = []
        for mail in mine(evidence.mails):
            when = self.seconds(mail.request.applied or 0)
            # One heartbeat is a write on each member.
            if not mail.is_ballot and (not beats or when - beats[-1][0] > 0.03):
                beats.append((when, mail.is_owner))
        return Row(
            portion,
            controller,
            self.roles(controller, mine(evidence.changes)),
            [
                Span(self.seconds(begin), self.seconds(end), "lease", epoch)
                for name, who, epoch, begin, end in self.found.leases
                if (name, who) == (portion, controller)
            ],
            beats,
            [self.seconds(ack.after) for ack in mine(evidence.acks) if not ack.errno],
            [self.seconds(refusal.at) for refusal in mine(evidence.refusals)],
            [
                self.seconds(stray.request.applied or 0)
                for stray in self.found.strays
                if (stray.portion, stray.request.controller) == (portion, f"c{controller}")
            ],
        )

    def roles(self, controller: int, changes: list[Any]) -> list[Span]:
        """The roles of a controller one after the other; `off` where its machine has no power."""
        begins = [(self.seconds(change.at), change.new, change.epoch) for change in changes]
        begins += [(self.seconds(b["at"]), "joining", 0) for b in self.evidence.boots(controller)]
        cuts = [
            f for f in self.faults if f["what"] == "power cut" and f["controller"] == controller
        ]
        begins += [(self.seconds(cut["at"]), "off", 0) for cut in cuts]
        begins.sort()
        spans: list[Span] = []
        for (begin, role, epoch), (end, *_) in zip(
            begins, [*begins[1:], (self.length, "", 0)], strict=True
        ):
            if spans and spans[-1].what == role and (spans[-1].epoch == epoch or role != "owner"):
                spans[-1].end = end
            else:
                spans.append(Span(begin, end, role, epoch))
        return spans

    # As text.

    def text(self, columns: int = 84) -> list[str]:
        """Roles and leases, one character for each slice of time."""
        step = self.length / columns
        lines = [" " * 16 + self.scene_line(columns, step)]
        for row in self.rows:
            line = "".join(self.letter(row, n * step, (n + 1) * step) for n in range(columns))
            lines.append(f"{row.portion:>5} on c{row.controller}      {line}")
        lines.append(" " * 16 + self.fault_line(columns, step))
        lines.append(
            f"{'':16}# owner with a lease  o owner without  ~ claiming  . secondary  j joining  "
            f"(blank) off  ! fault; {step:.1f} s each"
        )
        return lines

    def scene_line(self, columns: int, step: float) -> str:
        line = ["-"] * columns
        for scene in self.scenes:
            line[min(columns - 1, int(scene.begin / step))] = scene.what[0]
        return "".join(line)

    def fault_line(self, columns: int, step: float) -> str:
        line = [" "] * columns
        for fault in self.faults:
            begin, end = self.seconds(fault["at"]), self.seconds(fault["until"])
            for n in range(int(begin / step), min(columns, int(end / step) + 1)):
                line[n] = "!"
        return "".join(line)

    def letter(self, row: Row, begin: float, end: float) -> str:
        """What mattered most in a slice of time."""
        if any(lease.begin < end and lease.end > begin for lease in row.leases):
            return "#"
        middle = (begin + end) / 2
        role = next((s.what for s in row.roles if s.begin <= middle < s.end), "off")
        signs = {"owner": "o", "claiming": "~", "secondary": ".", "joining": "j", "releasing": "~"}
        return signs.get(role, " ")

    # As files.

    def save(self, directory: Path, failures: list[str]) -> None:
        """timeline.json and timeline.svg."""
        document = {
            "seconds": self.length,
            "verdict": "FAIL" if failures else "PASS",
            "failures": failures,
            "scenes": [asdict(scene) for scene in self.scenes],
            "faults": [
                {**fault, "at": self.seconds(fault["at"]), "until": self.seconds(fault["until"])}
                for fault in self.faults
            ],
            "rows": [asdict(row) for row in self.rows],
            "takeovers": [self.takeover(takeover) for takeover in self.found.takeovers],
            "counts": self.found.counts,
            "strays": len(self.found.strays),
            "missing": len(self.found.missing),
        }
        (directory / "timeline.json").write_text(json.dumps(document, indent=1) + "\n")
        (directory / "timeline.svg").write_text(self.svg(not failures))

    def takeover(self, takeover: Any) -> dict[str, Any]:
        """A takeover with all its times in seconds."""
        times = {
            name: self.seconds(value) if (value := getattr(takeover, name)) else None
            for name in ("last_sign", "leased", "first_write", "first_ack")
        }
        window_ms = self.evidence.window(takeover.portion) / MS
        return {**asdict(takeover), **times, "window_ms": window_ms}

    # As a picture.

    def x(self, seconds: float) -> float:
        """Where a time is."""
        inside = min(max(seconds, 0.0), self.length)
        return round(LEFT + inside / self.length * (WIDTH - LEFT - RIGHT), 2)

    def svg(self, passed: bool) -> str:
        """The whole picture."""
        groups = len(self.evidence.portions)
        self.bottom = TOP + groups * (GROUP + 2 * ROW)
        height = self.bottom + 70
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" '
            'font-family="ui-sans-serif, system-ui, Helvetica, Arial, sans-serif" '
            f'font-size="12" fill="{INK}">',
            "<title>dm-lease: two controllers, two portions, five scenes</title>",
            '<defs><pattern id="off" width="7" height="7" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="7" stroke="#9ca3af" '
            'stroke-width="1.6"/></pattern></defs>',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            text(16, 24, "dm-lease: two controllers, two portions, five scenes", 16, bold=True),
            text(
                WIDTH - RIGHT,
                24,
                "PASS" if passed else "FAIL",
                16,
                GOOD if passed else BAD,
                "end",
                True,
            ),
            *self.draw_scenes(),
            *self.draw_axis(),
        ]
        rows = [self.draw_row(row, self.row_top(n)) for n, row in enumerate(self.rows)]
        parts += self.draw_faults()
        parts += [part for row in rows for part in row]
        for index, portion in enumerate(self.evidence.portions):
            parts += self.draw_group(portion, TOP + index * (GROUP + 2 * ROW))
        parts += self.draw_legend(height - 24)
        parts.append("</svg>\n")
        return "\n".join(parts)

    def row_top(self, number: int) -> float:
        """Where a row begins."""
        return TOP + (number // 2) * (GROUP + 2 * ROW) + GROUP + (number % 2) * ROW

    def draw_scenes(self) -> list[str]:
        parts = []
        for n, scene in enumerate(self.scenes):
            x, end = self.x(scene.begin), self.x(scene.end)
            shade = "#f3f4f6" if n % 2 else "#e5e7eb"
            parts.append(rect(x, 38, end - x, 20, shade))
            title = fit(scene.what, end - x - 10)
            hint = f"<title>{escape(scene.what)}</title>"
            parts.append(f"<g>{hint}{text(x + 5, 52, title, 11.5)}</g>")
            parts.append(line(x, 38, x, self.bottom, "#d1d5db"))
        return parts

    def draw_axis(self) -> list[str]:
        parts = [line(LEFT, self.bottom, WIDTH - RIGHT, self.bottom, "#9ca3af")]
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if self.length / s <= 24)
        for second in range(0, int(self.length) + 1, step):
            x = self.x(second)
            parts.append(line(x, self.bottom, x, self.bottom + 4, "#9ca3af"))
            parts.append(text(x, self.bottom + 16, f"{second} s", 11, FAINT, "middle"))
        return parts

    def draw_faults(self) -> list[str]:
        """Shaded over everything they concern; named above."""
        parts = []
        lanes: list[float] = []
        for fault in self.faults:
            x, end = self.x(self.seconds(fault["at"])), self.x(self.seconds(fault["until"]))
            for number, row in enumerate(self.rows):
                if fault.get("controller", row.controller) != row.controller:
                    continue
                if fault.get("portion", row.portion) != row.portion:
                    continue
                parts.append(rect(x, self.row_top(number) - 1, end - x, ROW - 2, "#fca5a5", 0.28))
            who = f"controller {fault['controller']}: " if "controller" in fault else ""
            name = f"{who}{fault['what']}" + (" failed" if "portion" in fault else "")
            lane = next((n for n, free in enumerate(lanes) if free < x), len(lanes))
            lanes[lane : lane + 1] = [max(end, x + 6.2 * len(name) + 12)]
            y = 64 + lane * 14
            parts += [rect(x, y, max(2, end - x), 3, BAD), text(x, y + 13, name, 10.5, BAD)]
        return parts

    def draw_group(self, portion: str, top: float) -> list[str]:
        """The name of a portion, and its takeovers as brackets."""
        redundancy = self.evidence.shown[portion]["redundancy"]
        limit = redundancy["limit"]
        what = {"mirror": "RAID-1, ext4", "external": "raw"}.get(redundancy["kind"], "")
        kind = f"{what}, {'M = ' + limit if limit.isdigit() else 'no limit'}"
        parts = [
            text(16, top + 40, portion, 15, bold=True),
            text(16, top + 54, kind, 10, FAINT),
        ]
        lanes = [0.0, 0.0]
        for takeover in self.found.takeovers:
            if takeover.portion != portion or takeover.how == "first":
                continue
            x, end = self.x(self.seconds(takeover.last_sign)), self.x(self.seconds(takeover.leased))
            took = (takeover.leased - takeover.last_sign) / MS
            window = self.evidence.window(portion) / MS
            name = {"silence": "takeover", "own lapse": "back"}.get(takeover.how, takeover.how)
            label = f"{name}: lease after {took:.0f} ms (W {window:.0f} ms)"
            wide = 5.9 * len(label)
            # Labels that would meet stand above each other, and none leaves the picture.
            start = min(x, WIDTH - RIGHT - wide)
            lane = next((n for n, free in enumerate(lanes) if free < start), 0)
            lanes[lane] = start + wide + 8
            y, colour = top + 53, COLOURS[takeover.new]
            parts += [
                line(x, y, end, y, colour, 1.8),
                line(x, y - 4, x, y + 4, colour, 1.8),
                line(end, y - 4, end, y + 4, colour, 1.8),
                text(round(start, 2), y - 7 - 13 * lane, label, 10.5, colour),
            ]
        return parts

    def draw_row(self, row: Row, top: float) -> list[str]:
        colour = COLOURS[row.controller]
        parts = [
            text(LEFT - 8, top + 16, f"controller {row.controller}", 12, colour, "end", True),
            text(LEFT - 8, top + 30, "lease", 9.5, FAINT, "end"),
            text(LEFT - 8, top + 42, "heartbeats", 9.5, FAINT, "end"),
            text(LEFT - 8, top + 55, "writes", 9.5, FAINT, "end"),
        ]
        for span in row.roles:
            x, end = self.x(span.begin), self.x(span.end)
            if end <= x:
                continue
            fill = PALE[row.controller] if span.what == "owner" else ROLES.get(span.what, "#ffffff")
            parts.append(rect(x, top + 2, end - x, 19, fill))
            if span.what == "off":
                parts.append(rect(x, top + 2, end - x, 19, "url(#off)"))
            label = f"owner, epoch {span.epoch}" if span.what == "owner" else span.what
            shown = fit(label, end - x - 8)
            if len(shown) > 3 or shown == label:
                weight = span.what == "owner"
                parts.append(
                    text(x + 4, top + 15.5, shown, 11, colour if weight else FAINT, bold=weight)
                )
        for lease in row.leases:
            x, end = self.x(lease.begin), self.x(lease.end)
            parts.append(rect(x, top + 23, end - x, 8, colour))
        owner = [when for when, is_owner in row.heartbeats if is_owner]
        other = [when for when, is_owner in row.heartbeats if not is_owner]
        parts += [
            self.ticks(other, top + 37, 6, "#c3c8d0"),
            self.ticks(owner, top + 34, 9, colour),
            self.ticks(row.acknowledged, top + 47, 9, GOOD, 0.35),
            self.ticks(row.refused, top + 47, 9, BAD, 0.8),
        ]
        for when in row.strays:
            x = self.x(when)
            parts += [
                f'<path d="M{x} {top + 43}l4.5 4.5l-4.5 4.5l-4.5 -4.5z" fill="{INK}"/>',
                text(x - 8, top + 51, "stray", 10, INK, "end"),
            ]
        return parts

    def ticks(
        self, times: list[float], y: float, height: float, colour: str, opacity: float = 1
    ) -> str:
        """A short vertical line for each moment, as one path."""
        places = sorted({self.x(when) for when in times if 0 <= when <= self.length})
        path = "".join(f"M{x} {y}v{height}" for x in places)
        return f'<path d="{path}" stroke="{colour}" stroke-opacity="{opacity}" fill="none"/>'

    def draw_legend(self, y: float) -> list[str]:
        items = [
            (PALE[1], "owner"), (COLOURS[1], "valid lease, heartbeat of an owner"),
            ("#c3c8d0", "heartbeat of a secondary"), (ROLES["claiming"], "claiming"),
            (ROLES["secondary"], "secondary"), (ROLES["joining"], "joining"),
            (GOOD, "acknowledged write"), (BAD, "refused write"), (INK, "stray"),
            ("#fca5a5", "fault"),
        ]  # fmt: skip
        parts, x = [], float(LEFT)
        for colour, name in items:
            parts += [rect(x, y - 9, 12, 11, colour), text(x + 17, y, name, 11, FAINT)]
            x += 17 + 6.1 * len(name) + 22
        return parts


def rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height}" fill="{fill}" '
        f'fill-opacity="{opacity}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'
    )


def text(
    x: float, y: float, words: str, size: float = 12, colour: str = INK, anchor: str = "start",
    bold: bool = False,
) -> str:  # fmt: skip
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def fit(words: str, width: float) -> str:
    """As much of a text as has room; the picture cannot measure its font."""
    room = int(width / 5.6)
    if len(words) <= room:
        return words
    return words[: max(0, room - 1)] + "…" if room > 3 else ""
