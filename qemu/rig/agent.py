# SPDX-License-Identifier: GPL-2.0
"""The host's end of a guest's control channel (the other one is qemu/guest/agent).

Any number of commands may run at once. One thread per guest reads the channel and wakes who
waits; it ends when the channel does, and then every command that still ran has failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import signal
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .host import RigError, patience


class Result(NamedTuple):
    """How a command ended: exit code (128 + signal if killed), stdout and stderr merged."""

    rc: int
    out: str


class Job:
    """A command that runs in the guest."""

    def __init__(self, agent: Agent, number: int, command: str) -> None:
        self.agent = agent
        self.number = number
        self.command = command
        self.data = b""
        self.rc: int | None = None

    @property
    def out(self) -> str:
        """What it wrote so far."""
        return self.data.decode(errors="replace")

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.rc is not None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the command and its children."""
        self.agent.send(f"{self.number} kill {int(number)}")

    def wait(self, timeout: float = 60) -> Result:
        """Waits for the end; kills the command and complains when it does not come in time."""
        limit = patience(timeout)
        if not self.agent.wait(lambda: self.rc is not None, limit):
            raise self._failure(f"no end after {limit:.0f} s")
        assert self.rc is not None
        return Result(self.rc, self.out)

    def lines(self, timeout: float = 60) -> Iterator[str]:
        """The complete lines of the output as they come; `timeout` is for each of them."""
        seen = 0
        while True:
            if not self._wait_newline(seen, timeout):
                raise self._failure("no more output")
            end = self.data.find(b"\n", seen)
            if end < 0:
                return
            yield self.data[seen:end].decode(errors="replace")
            seen = end + 1

    def _wait_newline(self, start: int, timeout: float) -> bool:
        """Waits for a line that begins at `start` to be complete, or for the end."""
        return self.agent.wait(
            lambda: self.done or self.data.find(b"\n", start) >= 0, patience(timeout)
        )

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """Waits for a line with `text` in it and returns that line."""
        for line in self.lines(timeout):
            if text in line:
                return line
        raise self._failure(f"ended without '{text}'")

    def _failure(self, what: str) -> RigError:
        """What is wrong, as an error; a command that hangs is killed."""
        if self.agent.lost:
            what = "the guest is gone"
        elif not self.done:
            self.kill()
        return RigError(f"{self.agent.name}: {what}: {self.command}\n{self.out}")


@dataclass(frozen=True)
class Talk:
    """How far the talk with a guest was when its memory was saved."""

    boot_id: str | None
    rest: bytes
    jobs: dict[int, tuple[str, bytes]]
    """The commands that ran, and of each the output as far as it had come."""
    next: int


class Agent:
    """Runs commands in one guest. The guest may have a memory that was saved in the middle of a
    talk: then its commands go on, with the output that comes from there on."""

    def __init__(self, name: str, channel: socket.socket, talk: Talk | None = None) -> None:
        self.name = name
        self.channel = channel
        self.boot_id: str | None = None
        self.lost = False
        self.jobs: dict[int, Job] = {}
        self.next = 1
        self.rest = b""
        if talk:
            self.boot_id, self.rest, self.next = talk.boot_id, talk.rest, talk.next
            for number, (command, data) in talk.jobs.items():
                self.jobs[number] = Job(self, number, command)
                # A line that had come in part is continued.
                self.jobs[number].data = data[data.rfind(b"\n") + 1 :]
        self.changed = threading.Condition()
        self.sending = threading.Lock()
        threading.Thread(target=self._listen, name=f"agent {name}", daemon=True).start()

    def wait(self, condition: Callable[[], object], timeout: float) -> bool:
        """Waits until `condition()` holds; False when time is up or the guest is gone."""
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.lost, timeout)
            return bool(condition())

    def wait_up(self, timeout: float) -> None:
        """Waits until the guest has booted and its agent answers."""
        begun = time.monotonic()
        if not self.wait(lambda: self.boot_id is not None, timeout):
            passed = time.monotonic() - begun
            why = "the guest ended" if self.lost else "it hangs"
            raise RigError(f"{self.name}: no sign of the agent after {passed:.0f} s, {why}")

    def talk(self) -> Talk:
        """How far the talk is, of a guest that stands still."""
        # The channel is read with the lock held: what is no longer in it has been heard.
        with self.changed:
            limit = patience(10)
            if not self.changed.wait_for(lambda: self.lost or not self._unheard(), limit):
                raise RigError(f"{self.name}: {self._unheard()} bytes are not read")
            if self.lost:
                raise RigError(f"{self.name}: the guest is gone")
            jobs = {number: (job.command, job.data) for number, job in self.jobs.items()}
            return Talk(self.boot_id, self.rest, jobs, self.next)

    def spawn(self, command: str, stdin: bytes = b"") -> Job:
        """Starts `sh -c command` and does not wait for it."""
        with self.changed:
            job = Job(self, self.next, command)
            self.jobs[job.number] = job
            self.next += 1
        self.send(f"{job.number} run {command.encode().hex()} {stdin.hex() or '-'}")
        return job

    def run(
        self, command: str, timeout: float = 60, check: bool = True, stdin: bytes = b""
    ) -> Result:
        """Runs `sh -c command`; with `check` a failure of it raises."""
        result = self.spawn(command, stdin).wait(timeout)
        if check and result.rc != 0:
            raise RigError(f"{self.name}: exit {result.rc}: {command}\n{result.out}")
        return result

    def push(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file in the guest."""
        quoted = shlex.quote(path)
        self.run(f"cat >{quoted} && chmod {mode:o} {quoted}", stdin=data)

    def pull(self, path: str) -> bytes:
        """Reads a file of the guest."""
        job = self.spawn(f"cat {shlex.quote(path)}")
        if job.wait().rc != 0:
            raise RigError(f"{self.name}: {job.out}")
        return job.data

    def send(self, line: str) -> None:
        """Sends one message to the guest."""
        try:
            with self.sending:
                self.channel.sendall(line.encode() + b"\n")
        except OSError as error:
            raise RigError(f"{self.name}: the guest is gone") from error

    def _unheard(self) -> int:
        """How many bytes of the guest wait in the channel."""
        count = fcntl.ioctl(self.channel, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def _listen(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self.channel.recv(1, socket.MSG_PEEK)
            with self.changed:
                try:
                    data = self.channel.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    break
                *lines, self.rest = (self.rest + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode().split())
                self.changed.notify_all()
        with self.changed:
            self.lost = True
            self.changed.notify_all()

    def _hear(self, words: list[str]) -> None:
        number, what, value = int(words[0]), words[1], words[2]
        if what == "hello":
            self.boot_id = value
        elif what == "out":
            self.jobs[number].data += bytes.fromhex(value)
        elif what == "exit":
            self.jobs.pop(number).rc = int(value)
