# SPDX-License-Identifier: GPL-2.0
"""Stamped blocks: what the guests' program `stamp` wrote, was told, and what the store saw of it.

The program is qemu/guest/stamp.c. `landed` reads the store's log, `told` the program's output; who
compares the two knows which acknowledged writes are lost and which operations were strays, without
any help of the module.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from .history import BLOCK, History, Request

HEADER = struct.Struct("<8sIIQQQQ")


@dataclass(frozen=True)
class Stamp:
    """A stamped block that reached the medium, and the request that brought it."""

    controller: int
    epoch: int
    sequence: int
    block: int
    """The block number on the device the program wrote to; the member's differs by an offset."""
    offset: int
    """Where it landed on the member, in bytes."""
    request: Request


class Told(NamedTuple):
    """What the program was told about one write: errno 0 is success; times are CLOCK_MONOTONIC_RAW
    of the guest."""

    sequence: int
    block: int
    errno: int
    before_ns: int
    after_ns: int


def decode(head: bytes) -> tuple[int, int, int, int] | None:
    """(controller, epoch, sequence, block) of the beginning of a block, if it is stamped."""
    if len(head) < HEADER.size:
        return None
    magic, controller, _, epoch, sequence, block, _ = HEADER.unpack(head[: HEADER.size])
    return (controller, epoch, sequence, block) if magic == b"RIGSTAMP" else None


def beginning(controller: int) -> str:
    """How every stamped block of a controller begins, for the store."""
    return HEADER.pack(b"RIGSTAMP", controller, *(0,) * 5)[:12].hex()


def landed(history: History, member: str) -> list[Stamp]:
    """The stamped blocks that reached a member, in the order in which they did."""
    return [
        Stamp(*stamp, offset, request)
        for request in history.changes(member)
        for offset, head in request.blocks()
        if (stamp := decode(head)) is not None
    ]


def told(output: str) -> list[Told]:
    """What the program printed; a last line cut short is left out."""
    lines = (line.split() for line in output.split("\n")[:-1])
    return [
        Told(int(n), int(block), 0 if word == "ok" else int(word), int(before), int(after))
        for n, block, word, before, after in lines
    ]


def lost(history: History, member: str, controller: int, epoch: int, output: str) -> list[Told]:
    """Writes that were acknowledged to a writer but never reached the member. Must be none."""
    there = {
        (stamp.sequence, stamp.block)
        for stamp in landed(history, member)
        if (stamp.controller, stamp.epoch) == (controller, epoch)
    }
    return [t for t in told(output) if t.errno == 0 and (t.sequence, t.block) not in there]


def strays(history: History, member: str) -> list[Stamp]:
    """Stamped blocks that landed after one of a later epoch: at most as many as the batch limit."""
    found, latest = [], 0
    for stamp in landed(history, member):
        if stamp.epoch < latest:
            found.append(stamp)
        latest = max(latest, stamp.epoch)
    return found


def on_medium(data: bytes) -> list[tuple[int, int, int, int] | None]:
    """What the blocks in `data`, as read from a member, say."""
    return [decode(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
