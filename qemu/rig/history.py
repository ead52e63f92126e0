# SPDX-License-Identifier: GPL-2.0
"""The store's log as records: the arbiter that knows nothing of the module.

The format is described in qemu/store/src/log.rs. All times are nanoseconds of the host's
monotonic clock, the one of time.monotonic_ns().
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .host import RigError
from .steps import until

BLOCK = 4096
HEAD = 256


@dataclass
class Request:
    """One request of one controller to one member."""

    id: int
    received: int
    controller: str
    member: str
    op: str
    fua: bool
    offset: int
    length: int
    waited: list[int] = field(default_factory=list)
    applied: int | None = None
    """When it reached the medium; None if it never did."""
    order: int | None = None
    """Its place among all that was applied, over all members; exact within one member."""
    applied_length: int = 0
    heads: list[bytes] = field(default_factory=list)
    """The first HEAD bytes of every aligned 4 KiB block that was written."""
    answered: int | None = None
    errno: int | None = None

    @property
    def changes(self) -> bool:
        """Whether it is one that changes the medium."""
        return self.op in "WTZ"

    @property
    def in_doubt(self) -> bool:
        """Applied, but the controller never learned that it succeeded."""
        return self.applied is not None and self.errno != 0

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """The offset and the head of every aligned 4 KiB block that was written."""
        first = -(-self.offset // BLOCK) * BLOCK
        for index, head in enumerate(self.heads):
            yield first + index * BLOCK, head

    def overlaps(self, start: int, end: int) -> bool:
        """Whether it touches the bytes start..end."""
        return self.offset < end and self.offset + self.length > start


@dataclass
class Event:
    """A connection or a fault that began or ended."""

    when: int
    what: str
    text: str


class History:
    """The whole log of a store, as far as it is written."""

    def __init__(self, path: Path) -> None:
        self.requests: dict[int, Request] = {}
        self.events: list[Event] = []
        self.orders = 0
        with path.open(encoding="ascii") as log:
            for line in log:
                # The last line may be half written while the array runs.
                if line.endswith("\n"):
                    self._read(line.split())

    def _read(self, words: list[str]) -> None:
        match words:
            case ["recv", number, when, controller, member, op, fua, offset, length]:
                self.requests[int(number)] = Request(
                    int(number), int(when), controller, member, op, fua == "1",
                    int(offset), int(length),
                )  # fmt: skip
            case ["wait", number, _, rule]:
                self.requests[int(number)].waited.append(int(rule))
            case ["done", number, when, length, heads]:
                self.orders += 1
                request = self.requests[int(number)]
                request.applied, request.order = int(when), self.orders
                request.applied_length = int(length)
                if heads != "-":
                    request.heads = [decode_head(head) for head in heads.split(",")]
            case ["send", number, when, errno]:
                request = self.requests[int(number)]
                request.answered, request.errno = int(when), int(errno)
            case ["open" | "close" | "rule" | "gone" as what, when, *text]:
                self.events.append(Event(int(when), what, " ".join(text)))
            case _:
                raise RigError(f"the store's log has a line of no known form: {words}")

    def select(
        self,
        controller: str | None = None,
        member: str | None = None,
        ops: str | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> list[Request]:
        """The requests that match, in the order in which they came in."""
        return [
            request
            for request in self.requests.values()
            if (controller is None or request.controller == controller)
            and (member is None or request.member == member)
            and (ops is None or request.op in ops)
            and (request.op == "F" or request.overlaps(start, end or 1 << 63))
        ]

    def changes(
        self, member: str | None = None, start: int = 0, end: int | None = None
    ) -> list[Request]:
        """The requests that changed the medium, in the order in which they did."""
        done = [r for r in self.select(None, member, "WTZ", start, end) if r.order is not None]
        return sorted(done, key=lambda request: request.order or 0)


class Log(History):
    """The store's log, read on as it grows: for who asks often while much is written."""

    def __init__(self, path: Path) -> None:
        self.requests = {}
        self.events = []
        self.orders = 0
        self.file = path.open(encoding="ascii")
        self.rest = ""
        self.update()

    def update(self) -> None:
        """Takes what was written since."""
        *lines, self.rest = (self.rest + self.file.read()).split("\n")
        for line in lines:
            self._read(line.split())

    def wait(
        self, condition: Callable[[], object], what: str, timeout: float = 30, pause: float = 0.02
    ) -> None:
        """Waits until the log satisfies a condition, without a question to a guest: that would take
        time from what is measured."""

        def shown() -> object:
            self.update()
            return condition()

        until(shown, f"the store's log shows {what}", timeout, pause)

    def since(self, begun: int, controller: str, ops: str, start: int, end: int) -> list[Request]:
        """What a controller sent since a moment, to any member."""
        newest = itertools.takewhile(
            lambda request: request.received >= begun, reversed(self.requests.values())
        )
        return [
            request
            for request in newest
            if request.controller == controller
            and request.op in ops
            and request.overlaps(start, end)
        ][::-1]


def decode_head(text: str) -> bytes:
    """A head as the log spells it: without the zeroes at its end; `0` is nothing but zeroes."""
    return (b"" if text == "0" else bytes.fromhex(text)).ljust(HEAD, b"\0")
