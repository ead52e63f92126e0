# SPDX-License-Identifier: GPL-2.0
"""The shared disks: one nbdkit with the plugin of qemu/store, and its faults.

    store = Store(directory, {"m0": 64 * MIB, "m1": 64 * MIB})
    with store.hold("c1", "m0", ops="W") as rule:   # c1's writes to m0 get stuck
        rule.wait_held(1)
    store.history().changes("m0")

A rule acts until it is released; as a context manager, until the end of the block.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from .history import History
from .host import SOURCE, RigError, patience
from .steps import until

# Requests of one connection that can be in the array at once; QEMU itself sends at most 16.
THREADS = 32


def build_plugin() -> Path:
    """Compiles the plugin (a matter of seconds once, of none later)."""
    manifest = SOURCE / "qemu/store/Cargo.toml"
    command = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run([*command, "--manifest-path", str(manifest)], check=True)
    target = os.environ.get("CARGO_TARGET_DIR", str(SOURCE / "qemu/store/target"))
    return Path(target) / "release/liblease_store.so"


class Rule:
    """A fault in force."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.number = number
        self.held = 0
        self.active = True

    def wait_held(self, count: int = 1, timeout: float = 30) -> None:
        """Waits until at least `count` requests wait for this rule at once."""
        if not self.store.wait(lambda: self.held >= count, timeout):
            raise RigError(f"rule {self.number} holds {self.held} requests, not {count}")

    def release(self) -> None:
        """Ends the rule: what it held goes on."""
        self._end("release")

    def drop(self) -> None:
        """Ends the rule: what it held fails with EIO, and what had not been applied never is."""
        self._end("drop")

    def _end(self, how: str) -> None:
        if self.active:
            self.active = False
            self.store.command(self.number, f"{how} {self.number}")

    def __enter__(self) -> Rule:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.store.lost:
            self.release()


class Store:
    """Raw images behind one server; a controller reaches member m as export `<controller>/m`.

    With `via` there is one machine between the controllers and the store: all requests come from
    it. `authors` says for each controller how the blocks begin that it writes, in hexadecimal with
    `..` for any byte. Writes with such a block count as the controller's, all other requests as
    those of the machine.
    """

    def __init__(
        self,
        directory: Path,
        members: dict[str, int],
        via: str | None = None,
        authors: dict[str, list[str]] | None = None,
    ) -> None:
        self.directory = directory
        self.members = members
        self.via = via
        self.authors = authors or {}
        self.log = directory / "store.log"
        self.rules: dict[int, Rule] = {}
        self.answers: dict[int, str] = {}
        self.next = 1
        self.lost = False
        self.changed = threading.Condition()
        for name, size in members.items():
            with self.image(name).open("wb") as image:
                image.truncate(size)
        self.log.unlink(missing_ok=True)
        # A socket's path has little room; the run directory may be anywhere.
        self.sockets = Path(tempfile.mkdtemp(prefix="lease-"))
        self._start()

    def _start(self) -> None:
        control = self.sockets / "control"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(control))
            listener.listen(1)
            command = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(self.socket)]
            command += ["--threads", str(THREADS), str(build_plugin())]
            command += [f"dir={self.directory}", f"log={self.log}", f"control={control}"]
            for controller, beginnings in self.authors.items():
                command += [f"author={self.via}:{controller}:{it}" for it in beginnings]
            with (self.directory / "nbdkit.log").open("wb") as output:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            # The plugin connects when the exports are served: that is the sign to go on. So is
            # the end of the process.
            end = os.pidfd_open(self.process.pid)
            ready, _, _ = select.select([listener.fileno(), end], [], [], patience(10))
            os.close(end)
            if listener.fileno() not in ready:
                self.process.kill()
                self.process.wait()
                text = (self.directory / "nbdkit.log").read_text()
                raise RigError(f"nbdkit does not serve:\n{text}")
            self.channel, _ = listener.accept()
        threading.Thread(target=self._listen, name="store", daemon=True).start()

    @property
    def socket(self) -> Path:
        """Where the exports are served."""
        return self.sockets / "nbd"

    def image(self, member: str) -> Path:
        """The raw image of a member: read it, or change it, behind everybody's back."""
        return self.directory / f"{member}.raw"

    def read(self, member: str, offset: int, length: int) -> bytes:
        """Bytes of the medium as they are now."""
        with self.image(member).open("rb") as image:
            image.seek(offset)
            return image.read(length)

    def history(self) -> History:
        """Everything that happened so far."""
        return History(self.log)

    def wait_history(self, condition: Callable[[History], object], timeout: float = 30) -> History:
        """Waits until the log satisfies `condition`; for what leaves no other trace."""

        def shown() -> History | None:
            history = self.history()
            return history if condition(history) else None

        return until(shown, "the store's log shows it", timeout, pause=0.05)

    # Faults. `controller` and `member` name whom it concerns, "*" is everybody; `ops` are letters
    # out of R, W, F (flush), T (trim), Z (zero); start..end is a range of bytes; `when` is "before"
    # the request reaches the medium or "after" it, before the answer; `count` limits it to so many
    # requests, 0 does not. Behind a machine that all requests come from, only writes can be told
    # apart, so a rule for one controller must name no other operation.

    def hold(self, controller: str, member: str = "*", **match: Any) -> Rule:
        """Requests wait until the rule ends."""
        return self._rule(controller, member, "hold 0", **match)

    def delay(self, controller: str, member: str, ms: int, **match: Any) -> Rule:
        """Requests take `ms` milliseconds longer."""
        return self._rule(controller, member, f"delay {ms}", **match)

    def fail(
        self, controller: str, member: str = "*", error: int = errno.EIO, **match: Any
    ) -> Rule:
        """Requests fail. With when="after" they are done all the same: in doubt for the sender."""
        return self._rule(controller, member, f"fail {error}", **match)

    def tear(self, controller: str, member: str, length: int, **match: Any) -> Rule:
        """Only the first `length` bytes of a write reach the medium, and it fails."""
        return self._rule(controller, member, f"torn {length}", **match)

    def _rule(
        self,
        controller: str,
        member: str,
        action: str,
        ops: str = "*",
        start: int = 0,
        end: int = 1 << 63,
        when: str = "before",
        count: int = 0,
    ) -> Rule:
        if controller in self.authors and ops != "W":
            raise RigError(f'only writes (ops="W") of {controller} are told apart, not {ops}')
        with self.changed:
            rule = Rule(self, self.next)
            self.rules[rule.number] = rule
            self.next += 1
        text = f"{controller} {member} {ops} {start} {end} {when} {action} {count}"
        self.command(rule.number, f"rule {rule.number} {text}")
        return rule

    def command(self, number: int, line: str) -> None:
        """Sends one line to the plugin and waits for its consent."""
        with self.changed:
            self.answers.pop(number, None)
            self.channel.sendall(line.encode() + b"\n")
        if not self.wait(lambda: number in self.answers, 10):
            raise RigError(f"the store does not answer: {line}")
        if self.answers[number] != "ok":
            raise RigError(f"the store refuses: {line}: {self.answers[number]}")

    def wait(self, condition: Callable[[], object], timeout: float) -> bool:
        """Waits until `condition()` holds; False when time is up or the store is gone."""
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.lost, patience(timeout))
            return bool(condition())

    def _listen(self) -> None:
        with self.channel.makefile("r") as lines:
            for line in lines:
                with self.changed:
                    self._hear(line.split(maxsplit=2))
                    self.changed.notify_all()
        with self.changed:
            self.lost = True
            self.changed.notify_all()

    def _hear(self, words: list[str]) -> None:
        match words:
            case ["held", rule, count]:
                self.rules[int(rule)].held = int(count)
            case ["ok", number]:
                self.answers[int(number)] = "ok"
            case ["bad", number, reason]:
                self.answers[int(number)] = reason

    def close(self) -> None:
        """Ends the array at once; what it holds is lost."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        shutil.rmtree(self.sockets, ignore_errors=True)
