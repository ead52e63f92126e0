# SPDX-License-Identifier: GPL-2.0
"""md arrays as the host sees them in the images of their members: places, parity, and contents.

Written from md's layout without a look at `leasectl`, which it helps to judge. Blocks are 4 KiB,
numbered on the array; their contents are those of the guests' program `blocks`.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

from .history import BLOCK

WORDS = BLOCK // 8
MASK = (1 << 64) - 1


@functools.cache
def content(tag: int, block: int) -> bytes:
    """What `blocks` writes to a block under a tag."""
    words = [tag, block]
    for at in range(2, WORDS):
        value = ((tag << 40) ^ (block << 12) ^ at) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(value ^ (value >> 31))
    return struct.pack(f"<{WORDS}Q", *words)


def xor(a: bytes, b: bytes) -> bytes:
    """The sum of two blocks."""
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


@functools.cache
def _times(power: int) -> bytes:
    """A translation table: every byte times 2 to the power, in the field of RAID-6."""
    table = bytearray()
    for value in range(256):
        for _ in range(power):
            value = (value << 1) ^ (0x11D if value & 0x80 else 0)
        table.append(value)
    return bytes(table)


def p_of(data: list[bytes]) -> bytes:
    """The sum of all data."""
    return functools.reduce(xor, data)


def q_of(data: list[bytes]) -> bytes:
    """The weighted sum of all data."""
    return functools.reduce(xor, (d.translate(_times(z)) for z, d in enumerate(data)))


@dataclass(frozen=True)
class Geometry:
    """An array of md: level 1, 5 (left-symmetric) or 6 (left-symmetric).

    `start` is where the data of the array starts on each member, in bytes. A row of a mirror is
    as long as one of the other levels.
    """

    level: int
    members: int
    chunk: int
    start: int

    @property
    def data(self) -> int:
        """How many shards of a row are data."""
        return {1: 1, 5: self.members - 1, 6: self.members - 2}[self.level]

    @property
    def blocks_per_row(self) -> int:
        """How many blocks of the array are in a row."""
        return self.chunk // BLOCK * self.data

    def roles(self, row: int) -> dict[str, list[int]]:
        """The members with the data (in order), P and Q of a row."""
        n = self.members
        p = n - 1 - row % n
        if self.level == 1:
            return {"data": list(range(n))}
        behind = 1 if self.level == 5 else 2
        data = [(p + behind + z) % n for z in range(self.data)]
        parity = {"p": [p]} if self.level == 5 else {"p": [p], "q": [(p + 1) % n]}
        return {"data": data, **parity}

    def block(self, row: int, shard: int, at: int) -> int:
        """The number of block `at` of data shard `shard` in a row."""
        return (row * self.data + shard) * (self.chunk // BLOCK) + at

    def row(self, block: int) -> int:
        """The row of a block."""
        return block // self.blocks_per_row

    def extent(self, row: int) -> tuple[int, int]:
        """What of each member is in a row, in bytes: start and end."""
        start = self.start + row * self.chunk
        return start, start + self.chunk

    def shards(self, row: int, at: int, tags: dict[int, int]) -> list[bytes]:
        """What block `at` of every member of a row should be, by the tags of the data."""
        numbers = [self.block(row, shard, at) for shard in range(self.data)]
        data = [content(tags[number], number) for number in numbers]
        if self.level == 1:
            return data * self.members
        roles = self.roles(row)
        there = dict(zip(roles["data"], data, strict=True)) | {roles["p"][0]: p_of(data)}
        if self.level == 6:
            there[roles["q"][0]] = q_of(data)
        return [there[member] for member in range(self.members)]
