# SPDX-License-Identifier: GPL-2.0
"""The raw images after the run: what stands in the ring of raw records and in the database's file.

The database is read without the kernel that wrote it: the data area of each member holds one copy
of the array, behind md's own metadata; e2fsck judges the file system in it and debugfs takes the
file out, copy by copy.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .evidence import Record, decode_record
from .history import BLOCK
from .mailbox import DATA

# Where mdadm was told to begin the array's data on each device (--data-offset=1M).
ARRAY = DATA + (1 << 20)


def raw_blocks(image: Path, count: int) -> list[Record | None]:
    """The first blocks of a member's data area."""
    with image.open("rb") as data:
        data.seek(DATA)
        return [decode_record(data.read(BLOCK)) for _ in range(count)]


def file_records(image: Path, name: str) -> tuple[list[Record | None], str]:
    """The records of a file on the ext4 of one copy; and what is wrong with the file system."""
    with tempfile.TemporaryDirectory() as directory:
        copy, file = Path(directory) / "copy", Path(directory) / "file"
        with image.open("rb") as source:
            source.seek(ARRAY)
            copy.write_bytes(source.read())
        checked = subprocess.run(
            ["e2fsck", "-f", "-n", copy],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wrong = checked.stdout.strip() if checked.returncode else ""
        subprocess.run(
            ["debugfs", "-R", f"dump {name} {file}", copy],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True,
        )  # fmt: skip
        data = file.read_bytes() if file.exists() else b""
    whole = len(data) // BLOCK
    return [decode_record(data[n * BLOCK : (n + 1) * BLOCK]) for n in range(whole)], wrong
