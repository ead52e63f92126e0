# SPDX-License-Identifier: GPL-2.0
"""QEMU's machine protocol, as much of it as stopping and waking guests needs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from .host import RigError, patience


class Qmp:
    """One monitor connection. A thread reads it; events are kept until somebody asks."""

    def __init__(self, name: str, channel: socket.socket) -> None:
        self.name = name
        self.channel = channel
        self.replies: dict[int, dict[str, Any]] = {}
        self.events: list[str] = []
        self.next = 1
        self.lost = False
        self.changed = threading.Condition()
        threading.Thread(target=self._listen, name=f"qmp {name}", daemon=True).start()
        # Without this QEMU tells no events; the answer, number 0, is of no interest.
        self._send({"execute": "qmp_capabilities", "id": 0})

    def command(self, name: str, /, **arguments: Any) -> Any:
        """Executes one command and returns its answer."""
        with self.changed:
            number = self.next
            self.next += 1
        self._send({"execute": name, "arguments": arguments, "id": number})
        self._wait(lambda: number in self.replies, f"answer to {name}", 30)
        reply = self.replies.pop(number)
        if "error" in reply:
            raise RigError(f"{self.name}: {name}: {reply['error']['desc']}")
        return reply["return"]

    def event(self, name: str, timeout: float = 30) -> None:
        """Waits for an event and consumes it."""
        self._wait(lambda: name in self.events, f"event {name}", timeout)
        self.events.remove(name)

    def forget_events(self) -> None:
        """Drops the events that nobody asked for so far."""
        with self.changed:
            self.events.clear()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise RigError(f"{self.name}: QEMU is gone") from error

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.lost, patience(timeout))
            if not condition():
                raise RigError(f"{self.name}: no {what} from QEMU")

    def _listen(self) -> None:
        try:
            with self.channel.makefile("rb") as lines:
                for line in lines:
                    self._hear(json.loads(line))
        except (OSError, ValueError):
            pass  # a line cut short by the end of QEMU
        with self.changed:
            self.lost = True
            self.changed.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        with self.changed:
            if "event" in message:
                self.events.append(message["event"])
            elif "id" in message:
                self.replies[message["id"]] = message
            self.changed.notify_all()
