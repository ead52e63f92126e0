# SPDX-License-Identifier: GPL-2.0
"""One guest that runs kernel selftests, and the verdict on it.

The verdict is FAIL from the start. Only the word PASS with a number that is new in each run, said
by the guest on a port of its own, makes it a success, and a complaint of the guest's kernel undoes
that again.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from .agent import Job
from .host import BUILD, DEBUG, SLOWNESS, SOURCE, SUFFIX, RigError, build, patience
from .vm import Disk, Vm

MIB = 1 << 20
CASE = re.compile(r"(ok|not ok) \d+ selftests: [^:]*: (\S+)")


class Outcome(NamedTuple):
    """How a run ended: `reason` is empty if it passed, and else says what went wrong."""

    reason: str
    passed: int
    failed: int


def disks(directory: Path) -> list[Disk]:
    """The disks of a guest for selftests: two portions of three members, and one of each kind."""
    kinds = {f"p{p}m{m}": ("virtio-blk", 512) for p in range(2) for m in range(3)}
    kinds |= {"scsi0": ("scsi", 512), "nvme0": ("nvme", 512), "four0": ("virtio-blk", 4096)}
    for serial in kinds:
        with (directory / f"{serial}.raw").open("wb") as image:
            image.truncate(64 * MIB)
    return [Disk(s, directory / f"{s}.raw", model, block) for s, (model, block) in kinds.items()]


def settings_timeout(directory: Path) -> int:
    """Seconds one test of a collection may take, as the kernel's runner reads it."""
    for line in (directory / "settings").read_text().splitlines():
        if line.startswith("timeout="):
            return int(line.partition("=")[2])
    return 45


def tests_of(directory: Path) -> list[Path]:
    """The tests of a collection; some of ours are for kernels that watch themselves only."""
    tests = list(directory.glob("[0-9]*.sh"))
    return tests + (list(directory.glob("debug/[0-9]*.sh")) if DEBUG else [])


def plant(vm: Vm, collection: Path) -> list[str]:
    """Puts another collection of tests into the guest; the names of its tests."""
    name = collection.name
    vm.run(f"mkdir -p /kselftest/{name}")
    tests = sorted(path.name for path in collection.glob("*.sh"))
    for path in collection.iterdir():
        vm.push(f"/kselftest/{name}/{path.name}", path.read_bytes(), 0o755)
    lines = [f"{name}:{test}" for test in tests]
    vm.run("cat >>/kselftest/kselftest-list.txt", stdin="".join(f"{x}\n" for x in lines).encode())
    return lines


class Run:
    """One run. `tests` are names in the collection dm-lease; none are all.

    `collection` is another directory with tests, `limit` the seconds all of it may take.
    """

    def __init__(
        self,
        name: str,
        tests: list[str],
        collection: Path | None = None,
        limit: float | None = None,
        quiet: bool = False,
        append: str = "",
        cpus: int = 2,
        initramfs: Path | None = None,
    ) -> None:
        self.directory = BUILD / "run" / f"{name}{SUFFIX}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.tests = tests
        self.collection = collection
        self.limit = limit
        self.quiet = quiet
        self.nonce = secrets.token_hex(8)
        self.passed = 0
        self.failed = 0
        self.bad: list[str] = []
        self.last = "nothing"
        self.seconds = settings_timeout(collection or SOURCE / "selftests") * SLOWNESS
        # With multipath two NVMe hosts in one kernel would be two paths to one disk.
        append += f" nvme_core.multipath=N rig.nonce={self.nonce} rig.timeout={self.seconds}"
        initramfs = initramfs or build("selftest")
        self.vm = Vm(name, self.directory, initramfs, disks(self.directory), 256, cpus, append)

    def outcome(self) -> Outcome:
        """Does everything and returns the verdict."""
        reason = "the guest never said that it passed"
        try:
            self.vm.start().wait_up()
            self._execute()
            if self.bad:
                reason += f"; not ok: {' '.join(self.bad)}"
        except RigError as error:
            reason = str(error)
        finally:
            self.vm.power_cut()
        if self.vm.verdict == f"PASS {self.nonce}\n":
            reason = ""
        if complaints := self.vm.console.complaints():
            reason = "the kernel complained: " + "\n    | ".join(complaints)
        return Outcome(reason, self.passed, self.failed)

    def _execute(self) -> None:
        source = self.collection or SOURCE / "selftests"
        names = [f"dm-lease:{test}" for test in self.tests]
        if self.collection:
            planted = plant(self.vm, self.collection)
            names = [x for x in planted if not self.tests or x.partition(":")[2] in self.tests]
        count = len(names) or len(tests_of(source))
        limit = self.limit or patience(30) + count * self.seconds
        job = self.vm.spawn(f"/kselftest/run-selftests {' '.join(names)}")
        self._follow(job, time.monotonic() + limit)
        # A complaint may be on its way to the console: an orderly end brings it there.
        self.vm.spawn("poweroff -f")
        self.vm.wait_end(10)

    def _follow(self, job: Job, deadline: float) -> None:
        # Job.lines multiplies by the patience, which a limit on the whole run already contains.
        try:
            for line in job.lines((deadline - time.monotonic()) / patience(1)):
                self._hear(line)
                if time.monotonic() > deadline:
                    raise RigError("time is up")
        except RigError as error:
            raise RigError(f"the run hangs; the last thing heard was: {self.last}") from error
        if not job.done:
            raise RigError(f"the guest ended; the last thing heard was: {self.last}")

    def _hear(self, line: str) -> None:
        self.last = line
        if not self.quiet:
            print(line, flush=True)
        if case := CASE.match(line):
            good = case[1] == "ok" and "#" not in line
            self.passed += good
            self.failed += not good
            if not good:
                self.bad.append(case[2])
