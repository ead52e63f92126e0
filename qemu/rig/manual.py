# SPDX-License-Identifier: GPL-2.0
"""The commands of a page, as they are printed: what users copy is what is tested."""

from __future__ import annotations

from .host import SOURCE, RigError


def blocks(page: str, section: str) -> list[str]:
    """The indented blocks of a section of a page of this checkout, without the indentation."""
    text = (SOURCE / page).read_text()
    _, found, rest = text.partition(f"\n## {section}\n")
    if not found:
        raise RigError(f"{page} has no section {section}")
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
            raise RigError(f"not one line of the block begins with {key!r}:\n{block}")
    return "set -e\n" + "\n".join(done)
