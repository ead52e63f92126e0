# SPDX-License-Identifier: GPL-2.0
"""The commands of the README, as they are printed: what users copy is what is tested here.

Only lines that name a machine's own things (its number, address, devices) are replaced.
"""

from __future__ import annotations

from rig import RigError
from rig.host import SOURCE


def blocks(section: str) -> list[str]:
    """The indented blocks of a section of README.md, without the indentation."""
    text = (SOURCE / "README.md").read_text()
    _, found, rest = text.partition(f"\n## {section}\n")
    if not found:
        raise RigError(f"README.md has no section {section}")
    body = rest.partition("\n## ")[0]
    blocks: list[str] = []
    current: list[str] = []
    for line in [*body.split("\n"), "end"]:
        if line.startswith("    ") or (current and not line):
            current.append(line[4:])
        elif current:
            blocks.append("\n".join(current).strip() + "\n")
            current = []
    return blocks


def replaced(block: str, lines: dict[str, str]) -> str:
    """The block with each line that begins with a key replaced; every key must be there once."""
    done = []
    for line in block.split("\n"):
        keys = [key for key in lines if line.startswith(key)]
        done.append(lines[keys[0]] if keys else line)
    for key in lines:
        if sum(line.startswith(key) for line in block.split("\n")) != 1:
            raise RigError(f"not one line of the README's block begins with {key!r}:\n{block}")
    return "set -e\n" + "\n".join(done)


def export(controller: int, address: str, settings: str) -> str:
    """What exports a portion, with these settings, on a controller."""
    return replaced(
        blocks("Exports")[0],
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def service() -> str:
    """What keeps the exports in step with ownership."""
    return blocks("Exports")[1].strip()


def export_reads(controller: int, address: str, settings: str) -> str:
    """What exports a member a second time, for reading."""
    return replaced(
        blocks("Exports")[3],
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def connect(settings: str, addresses: list[str]) -> str:
    """What connects a client to a portion on all controllers."""
    return replaced(
        blocks("Exports")[2],
        {"portion=": settings, "for address": f"for address in {' '.join(addresses)}; do"},
    )
