# SPDX-License-Identifier: GPL-2.0
"""Which lines of the module's source the instructions of a bio come from.

An instruction that was inlined belongs to the innermost line that is ours: what the compiler made
of a call into the kernel crate counts where we made the call.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from rig.count.symbols import LEASE_MODULE
from rig.host import BUILD, SOURCE

from .measure import Results

MODULE = BUILD / "module/dm_lease.ko"
OURS = f"{SOURCE}/"
SECTION = ".text"


def section_size() -> int:
    """The length of the module's text."""
    command = ["objdump", "--section-headers", "--section", SECTION, str(MODULE)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return next(int(line.split()[2], 16) for line in text.splitlines() if f" {SECTION} " in line)


def places(offsets: list[int]) -> dict[int, str]:
    """For each offset in the module's text `file:line`."""
    command = ["addr2line", "--inlines", "--addresses", "--section", SECTION, "--exe", str(MODULE)]
    text = "\n".join(hex(offset) for offset in offsets)
    output = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    found: dict[int, str] = {}
    frames: list[str] = []
    offset = 0
    for line in [*output.splitlines(), "0x0"]:
        if not line.startswith("0x"):
            frames.append(line.split(" (discriminator")[0])
            continue
        if frames:
            ours = [frame.removeprefix(OURS) for frame in frames if frame.startswith(OURS)]
            # The compiler gives some instructions a file and no line; then their caller's will do.
            exact = [frame for frame in ours if not frame.endswith(":?")]
            found[offset] = next(iter(exact + ours), frames[-1])
        offset, frames = int(line, 16), []
    return found


def by_line(results: Results, op: str, name: str) -> Counter[str]:
    """Instructions of one bio by source line."""
    base, size = results.text_address, section_size()
    path = results.costs[op, name].path
    inside = {a - base: n for a, n in path.items() if 0 <= a - base < size}
    where = places(list(inside))
    counter: Counter[str] = Counter()
    for offset, count in inside.items():
        counter[where[offset]] += count
    return counter


def source_line(place: str) -> str:
    """The text of a line."""
    file, _, number = place.rpartition(":")
    path = Path(SOURCE / file)
    if not path.is_file() or not number.isdigit():
        return ""
    return path.read_text().splitlines()[int(number) - 1].strip()


def listing(results: Results) -> str:
    """All operations on all leases, most expensive lines first."""
    text = []
    for op in results.ops:
        seen: dict[str, Counter[str]] = {}
        for target in results.targets:
            if LEASE_MODULE not in target.modules:
                continue
            counter = by_line(results, op, target.name)
            title = f"{op}, {target.name}: {counter.total()} instructions for a bio"
            same = [name for name, other in seen.items() if other == counter]
            seen[target.name] = counter
            if same:
                text += [f"{title}, as {same[0]}", ""]
                continue
            text.append(title)
            for place, count in counter.most_common():
                text.append(f"{count:5}  {place:30} {source_line(place)}".rstrip())
            text.append("")
    return "\n".join(text)
