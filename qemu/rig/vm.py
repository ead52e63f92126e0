# SPDX-License-Identifier: GPL-2.0
"""One virtual machine: how it is started, and everything that can be done to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .agent import Agent, Job, Result, Talk
from .console import Console
from .host import DEBUG, EXTRA_MEMORY, RigError, accelerator, kernel_image, patience
from .qmp import Qmp
from .steps import until

# Everything a guest is told at boot, whoever starts it.
#   no_timer_check   an emulated timer on a loaded machine may fail the check and end the boot
#   oops=panic, panic=-1   a kernel in doubt ends the guest at once (with -no-reboot)
#   clocksource=hpet, tsc=unstable   on a loaded machine an emulated TSC may be calibrated wrongly
#                    by a factor; the HPET counts real time (it wraps after 42 s of a stall)
#   console_msg_format=syslog   each line begins with its level, so that a warning of the module is
#                    told from a notice
#   nokaslr          module addresses are the same in every boot
COMMAND_LINE = (
    "console=ttyS0 console_msg_format=syslog loglevel=5 no_timer_check clocksource=hpet "
    "tsc=unstable oops=panic panic=-1 nokaslr mitigations=off random.trust_cpu=on rdinit=/init"
)
# The first finding of a kernel that watches itself ends the guest: what comes later is its echo.
# Page tables have four levels there: where they have five, an interrupt that comes while the boot
# processor is identified (its features are cleared for a moment, and KASAN asks for one of them to
# know where memory is) is a false finding. `slab_debug` takes the per-CPU arrays of objects away
# (sheaves in mm/slub.c): they keep a pointer to an object that was taken from them, and kmemleak
# would miss the leak of that object.
if DEBUG:
    COMMAND_LINE += " panic_on_warn=1 no5lvl slab_debug=F,kmalloc-*"


@dataclass(frozen=True)
class Disk:
    """A disk of a guest. `source` is a raw image, or (socket, export) of an NBD server.

    It appears in the guest as /dev/lease/<serial>. Models: virtio-blk (no FUA: the guest flushes
    instead; no time-out: a held command is held for ever), scsi (FUA, discard, unmap, time-outs
    with error handling), nvme (FUA, time-outs).
    """

    serial: str
    source: Path | tuple[Path, str]
    model: str = "virtio-blk"
    block: int = 512

    def arguments(self) -> list[str]:
        """The QEMU arguments that attach it."""
        node = f"node-{self.serial}"
        if isinstance(self.source, tuple):
            path, export = self.source
            backend = f"driver=nbd,server.type=unix,server.path={path},export={export}"
        else:
            # Raw images may be shared between guests: the lock that would forbid it is off.
            backend = f"driver=file,filename={self.source},locking=off"
            backend = f"driver=raw,file.{backend.replace(',', ',file.')}"
        backend += f",node-name={node},discard=unmap,detect-zeroes=off"
        common = f"drive={node},share-rw=on"
        sizes = f",logical_block_size={self.block},physical_block_size={max(self.block, 512)}"
        errors = ",werror=report,rerror=report"
        device = {
            "virtio-blk": f"virtio-blk-pci,{common},serial={self.serial}{sizes}{errors}",
            "scsi": f"scsi-hd,bus=scsi.0,{common},serial={self.serial},dpofua=on{sizes}{errors}",
            "nvme": f"nvme,{common},serial={self.serial}{sizes}",
        }[self.model]
        return ["-blockdev", backend, "-device", device]


class Link:
    """One end of a cable between two guests: a network card, eth0, eth1, ... in their order.

    Frames are datagrams between two sockets that the rig holds, so either guest may come and go at
    any time. What a guest does not take, because it stands still, is lost when its socket is full,
    as in a switch; the sender never waits for it.
    """

    # Some hundred frames: TCP's first windows, and an emulated guest is slow.
    ROOM = 1 << 20

    def __init__(self, mac: str) -> None:
        self.mac = mac
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.ROOM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)

    @classmethod
    def cable(cls, mac: str, other: str) -> tuple[Link, Link]:
        """Both ends of a cable, by the addresses of their cards."""
        ends = cls(mac), cls(other)
        for end, peer in (ends, ends[::-1]):
            end.socket.connect(peer.socket.getsockname())
        return ends

    def arguments(self, index: int) -> list[str]:
        """The QEMU arguments that attach it; what came while the guest was off is lost."""
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(1 << 16):
                pass
        number = self.socket.fileno()
        return [
            "-netdev", f"dgram,id=link{index},local.type=fd,local.str={number}",
            "-device", f"virtio-net-pci,netdev=link{index},mac={self.mac},romfile=",
        ]  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """A guest's memory and the state of its devices, as they were at a moment of the host."""

    path: Path
    saved_ns: int
    talk: Talk


class Vm:
    """A guest. It has a console log, a control channel (run, spawn, push, pull) and a monitor.

    `start` returns at once, `wait_up` when the guest answers; a guest that ended (by itself or by
    `power_cut`) can be started again and its console log is continued.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        initramfs: Path,
        disks: list[Disk],
        memory: int = 256,
        cpus: int = 1,
        append: str = "",
        kernel: Path | None = None,
        links: list[Link] | None = None,
        on_up: str = "",
    ) -> None:
        """`kernel` is another one than that under test: of a disk that has its own. `on_up` is a
        script that ends each boot: `wait_up` runs it."""
        self.name = name
        self.directory = directory
        self.initramfs = initramfs
        self.kernel = kernel
        self.disks = disks
        self.memory = memory + EXTRA_MEMORY
        self.cpus = cpus
        self.append = append
        self.links = links or []
        self.on_up = on_up
        self.console = Console(directory / f"{name}.console")
        self.console.path.unlink(missing_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.channels: list[socket.socket] = []
        self.verdict = ""
        """What the guest said on the verdict port; known when the machine is off."""

    # Life.

    def start(self, memory: Memory | None = None) -> Vm:
        """Switches the machine on; with a memory, it stands still until `unpause`."""
        if self.running:
            raise RigError(f"{self.name} is running")
        pairs = {role: socket.socketpair() for role in ("agent", "verdict", "qmp")}
        guest_ends = {role: pair[1] for role, pair in pairs.items()}
        with (self.directory / f"{self.name}.qemu").open("ab") as output:
            # The parent-death signal keeps a guest from outliving a rig that was killed.
            self.process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "--",
                    *self._arguments(guest_ends),
                    *(["-incoming", f"file:{memory.path}"] if memory else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[
                    *(end.fileno() for end in guest_ends.values()),
                    *(link.socket.fileno() for link in self.links),
                ],
            )
        for end in guest_ends.values():
            end.close()
        self.channels = [pair[0] for pair in pairs.values()]
        self.agent = Agent(self.name, pairs["agent"][0], memory.talk if memory else None)
        self.qmp = Qmp(self.name, pairs["qmp"][0])
        self.verdict_channel = pairs["verdict"][0]
        return self

    def _arguments(self, ends: dict[str, socket.socket]) -> list[str]:
        append = f"{COMMAND_LINE} rig.name={self.name} rig.disks={len(self.disks)} {self.append}"
        arguments = [
            "qemu-system-x86_64", "-machine", "pc", *accelerator(),
            "-m", str(self.memory), "-smp", str(self.cpus),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-name", self.name, "-global", "PIIX4_PM.disable_s3=0",
            "-kernel", str(self.kernel or kernel_image()), "-initrd", str(self.initramfs),
            "-append", append,
            "-chardev", f"file,id=console,path={self.console.path},append=on",
            "-serial", "chardev:console",
            "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci",
            "-device", "virtio-scsi-pci,id=scsi",
        ]  # fmt: skip
        for role, end in ends.items():
            arguments += ["-chardev", f"socket,id={role},fd={end.fileno()}"]
        arguments += ["-mon", "chardev=qmp,mode=control"]
        for role in ("agent", "verdict"):
            arguments += ["-device", f"virtserialport,chardev={role},name={role}"]
        for disk in self.disks:
            arguments += disk.arguments()
        for index, link in enumerate(self.links):
            arguments += link.arguments(index)
        return arguments

    @property
    def running(self) -> bool:
        """Whether the machine has power."""
        return self.process is not None and self.process.poll() is None

    def wait_up(self, timeout: float = 30) -> Vm:
        """Waits until the guest has booted."""
        try:
            self.agent.wait_up(patience(timeout))
        except RigError as error:
            output = (self.directory / f"{self.name}.qemu").read_text(errors="replace")
            raise RigError(f"{error}\n{output}{self.console.tail()}") from None
        if self.on_up:
            self.sh(self.on_up)
        return self

    def wait_end(self, timeout: float = 30) -> None:
        """Waits until the machine has no power any more."""
        if self.process is None:
            return
        try:
            self.process.wait(patience(timeout))
        except subprocess.TimeoutExpired:
            raise RigError(f"{self.name} does not end") from None
        self._hang_up()

    def power_cut(self) -> None:
        """Takes the power away: nothing is flushed, nothing is said."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._hang_up()

    def _hang_up(self) -> None:
        # QEMU is gone, so this ends; what the guest said last is still in the socket.
        with contextlib.suppress(OSError):
            while data := self.verdict_channel.recv(4096):
                self.verdict += data.decode(errors="replace")
        for channel in self.channels:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
            channel.close()
        self.channels = []

    # Commands.

    def run(
        self, command: str, timeout: float = 60, check: bool = True, stdin: bytes = b""
    ) -> Result:
        """Runs `sh -c command` and waits for its end; with `check` a failure raises."""
        return self.agent.run(command, timeout, check, stdin)

    def sh(self, command: str, timeout: float = 60, stdin: bytes = b"") -> str:
        """Runs a command that must succeed and returns its output without the last newline."""
        return self.run(command, timeout, stdin=stdin).out.rstrip("\n")

    def spawn(self, command: str, stdin: bytes = b"") -> Job:
        """Starts a command and does not wait for it."""
        return self.agent.spawn(command, stdin)

    def push(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file in the guest."""
        self.agent.push(path, data, mode)

    def pull(self, path: str) -> bytes:
        """Reads a file of the guest."""
        return self.agent.pull(path)

    # Faults.

    def provokes(self, text: str) -> None:
        """Announces a line of the module above notice level, which is a complaint otherwise."""
        self.sh(f"echo 'dm-lease rig: provokes {text}' >/dev/kmsg")

    def freeze(self) -> None:
        """Stalls the machine (SIGSTOP): when it goes on, its clocks have jumped by the pause."""
        self._signal(signal.SIGSTOP)
        # Stopped means stopped: every thread of it, before anybody relies on it.
        _, status = os.waitpid(self._pid(), os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise RigError(f"{self.name} ended instead of stopping")

    def thaw(self) -> None:
        """Ends a stall."""
        self._signal(signal.SIGCONT)

    def pause(self) -> None:
        """Stops the machine and its clocks (QMP stop): no clock of the guest can see it."""
        self.qmp.command("stop")

    def unpause(self) -> None:
        """Ends a pause."""
        self.qmp.command("cont")

    def save(self, path: Path) -> Memory:
        """Saves the machine's memory into a file; its clocks stand still meanwhile."""
        self.pause()
        saved_ns = time.monotonic_ns()
        talk = self.agent.talk()
        self.qmp.command("migrate-set-parameters", **{"max-bandwidth": 10 << 30})
        self.qmp.command("migrate", uri=f"file:{path}")
        self._wait_qmp("query-migrate", "completed", "its memory is saved")
        self.unpause()
        return Memory(path, saved_ns, talk)

    def restore(self, memory: Memory) -> int:
        """Switches the machine on with a memory that was saved, and returns when it goes on from
        there. The same memory may be restored again."""
        self.start(memory)
        self._wait_qmp("query-status", "paused", "its memory is restored")
        begun_ns = time.monotonic_ns()
        self.unpause()
        return begun_ns

    def _wait_qmp(self, question: str, wanted: str, what: str) -> None:
        """Waits until QEMU gives this status as the answer."""

        def answers() -> bool:
            status = self.qmp.command(question).get("status")
            if status == "failed":
                raise RigError(f"{self.name}: not so: {what}: it failed")
            return bool(status == wanted)

        until(answers, f"{self.name}: {what}", pause=0.01)

    def sleep(self) -> Job:
        """Sends the guest to sleep (suspend to RAM); returns when it sleeps.

        The job ends after `wake`, with the guest's opinion of its sleep.
        """
        self.qmp.forget_events()
        job = self.spawn("echo mem >/sys/power/state")
        self.qmp.event("SUSPEND")
        return job

    def wake(self) -> None:
        """Wakes a sleeping guest; returns when it runs."""
        self.qmp.command("system_wakeup")
        self.qmp.event("WAKEUP")

    def unplug(self, link: int = 0) -> None:
        """Pulls a network cable; the guest sees that its card has no carrier."""
        self.qmp.command("set_link", name=f"link{link}", up=False)

    def plug(self, link: int = 0) -> None:
        """Puts a network cable back."""
        self.qmp.command("set_link", name=f"link{link}", up=True)

    def panic(self) -> None:
        """Lets the guest's kernel panic; returns when the machine is off."""
        self.spawn("echo c >/proc/sysrq-trigger")
        self.wait_end()

    def _pid(self) -> int:
        if self.process is None or not self.running:
            raise RigError(f"{self.name} has no power")
        return self.process.pid

    def _signal(self, number: int) -> None:
        os.kill(self._pid(), number)
