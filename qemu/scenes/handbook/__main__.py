# SPDX-License-Identifier: GPL-2.0
"""Sets up two Debian machines with nothing but the commands of README.md, "Quick start".

From packages and three disks to a file system on a mirror that is mounted where the portion is
owned: each command is run as it is printed. Then it must fail over: moved in good order, after a
stall, and after a power cut. A writer's acknowledged lines must be there each time.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rig import Debian, Job, Lab, LabPortion, expect, run_steps, until
from rig.host import SOURCE, arguments_of, leasectl
from rig.manual import blocks, replaced

DISKS = {"sdb": "m0", "sdc": "m1", "sdd": "m2"}
# Where the packages lie, as for somebody who has copied them there.
PLACE = "/root"
README = (SOURCE / "README.md").read_text()
# How large a member is, in bytes: what the file system wants.
SIZES = {"ext4": 64 << 20, "xfs": 352 << 20}
# What the section prints, in its order.
BUILD, INSTALL, FORMAT, DECLARE, STACK, MOVE = range(6)

# Tells each line that is on the disks.
WRITER = "n=1; while echo $n >>/srv/log && sync /srv/log; do echo $n; n=$((n + 1)); done"


class Scene:
    """Two machines, what is printed, and what was acknowledged."""

    def __init__(
        self, lab: Lab, guests: list[Debian], packages: list[Path], filesystem: str
    ) -> None:
        self.lab = lab
        self.guests = guests
        self.packages = packages
        self.filesystem = filesystem
        self.portion = LabPortion.on(lab, "alpha", list(DISKS.values()))
        self.printed = blocks("README.md", "Quick start")
        self.lines = 0

    def block(self, which: int) -> str:
        """A block as it is printed, but for the file system, if another one was asked for."""
        text = self.printed[which]
        return text.replace("ext4", self.filesystem).replace("mkfs.xfs -q", "mkfs.xfs -q -f")

    def own(self, guest: Debian, epoch: int) -> None:
        """Waits until a machine owns the portion and has the file system."""
        self.portion.wait(guest, 120, role="owner", epoch=epoch)
        wait_for(guest, f"{guest.name} mounts", "mountpoint -q /srv")

    def is_secondary(self, guest: Debian) -> None:
        """Waits until nothing is left on a machine that does not own the portion."""
        wait_for(guest, f"{guest.name} has no mount", "! mountpoint -q /srv")
        wait_for(guest, f"{guest.name} has no array", "! grep -q ^md /proc/mdstat")
        opens = "dmsetup info -c --noheadings -o open lease-alpha-0 lease-alpha-1 lease-alpha-2"
        wait_for(guest, f"{guest.name} has nothing open", f'[ "$({opens} | tr -d "\\n")" = 000 ]')
        self.portion.wait(guest, 60, role="secondary")

    def write(self, guest: Debian) -> Job:
        """Somebody writes until it fails."""
        guest.sh("rm -f /srv/log")
        writer = guest.spawn(WRITER)
        writer.wait_for("20")
        return writer

    def complete(self, guest: Debian, writer: Job) -> None:
        """What the writer was told is on the disks, whoever reads them now."""
        told = sum(word.isdigit() for word in writer.out.split())
        found = len(guest.sh("cat /srv/log").split())
        expect(found >= told, f"{told} lines were acknowledged, {found} are there")
        self.lines += told


def wait_for(guest: Debian, what: str, condition: str) -> None:
    """Waits until a command succeeds in a guest."""
    until(lambda: guest.run(condition, check=False).rc == 0, what)


def install(scene: Scene) -> None:
    """The packages install on both machines."""
    expect(scene.printed[BUILD].startswith("make deb"), "the section begins with the packages")
    for guest in scene.guests:
        for package in scene.packages:
            guest.push(f"{PLACE}/{package.name}", package.read_bytes())
        guest.sh(f"cd {PLACE}\n{scene.printed[INSTALL]}", 120)


def declare(scene: Scene) -> None:
    """One machine formats, both declare, and the home controller owns."""
    for guest in scene.guests:
        for name, member in DISKS.items():
            guest.sh(f"ln -s /dev/disk/by-id/virtio-{member} /dev/{name}")
    formatted = scene.guests[0].sh(scene.printed[FORMAT])
    print(formatted)
    window = re.search(r"^window: (\d+) ms", formatted, re.MULTILINE)
    promised = re.search(r"takeover window, which is ([\d.]+)\s+seconds", README)
    expect(
        window is not None
        and promised is not None
        and f"{int(window[1]) / 1000:.1f}" == promised[1],
        f"README.md names the window of the format ({window}, {promised})",
    )
    for number, guest in enumerate(scene.guests, 1):
        block = replaced(scene.block(DECLARE), {"controller=": f"controller={number}"})
        print(guest.sh(block))
    scene.portion.wait(scene.guests[0], 60, role="owner", epoch=1)
    expect(scene.guests[0].sh("leasectl owns alpha") == "owner", "the machine says so")


def stack(scene: Scene) -> None:
    """The owner makes the array and the file system, and has it mounted."""
    first, second = scene.guests
    first.sh(scene.block(STACK), 120)
    first.sh("mountpoint /srv && test -b /dev/md/alpha")
    scene.is_secondary(second)


def move(scene: Scene) -> None:
    """In good order, and nothing fails on the way."""
    first, second = scene.guests
    writer = scene.write(first)
    writer.kill()
    first.sh(scene.printed[MOVE], 120)
    scene.own(second, 2)
    scene.complete(second, writer)
    scene.is_secondary(first)
    errors = first.run("journalctl -k | grep -E 'I/O error|EXT4-fs (error|warning)|lost'",
                       check=False).out  # fmt: skip
    expect(errors == "", f"nothing failed ({errors})")


def stall(scene: Scene) -> None:
    """The owner stalls. When it continues, it unmounts although a process uses the file system."""
    first, second = scene.guests
    writer = scene.write(second)
    second.sh("mkdir -p /srv/home")
    stayer = second.spawn("cd /srv/home && echo here && exec sleep infinity")
    stayer.wait_for("here")
    second.freeze()
    scene.own(first, 3)
    second.thaw()
    wait_for(second, "the mount is taken away", "! mountpoint -q /srv")
    writer.wait()
    scene.complete(first, writer)
    log = "journalctl -u dm-lease-follow | grep -q 'by force: '"
    wait_for(second, "it says why that was not easy", log)
    expect(not stayer.done, "nobody was killed")
    stayer.kill()
    scene.is_secondary(second)
    # The module looks for openers once in a heartbeat.
    wait_for(second, "it may own again", "! dmsetup status lease-alpha-0 | grep -q stale_openers")


def power_cut(scene: Scene) -> None:
    """The owner loses its power; the other one mounts, and it comes back as secondary."""
    first, second = scene.guests
    writer = scene.write(first)
    first.power_cut()
    scene.own(second, 4)
    scene.complete(second, writer)
    first.start().wait_up()
    scene.is_secondary(first)


def back(scene: Scene) -> None:
    """By the printed command it goes home again."""
    first, second = scene.guests
    scene.portion.settle(first, 8)
    writer = scene.write(second)
    writer.kill()
    second.sh(scene.printed[MOVE], 120)
    scene.own(first, 5)
    scene.complete(first, writer)
    scene.is_secondary(second)


STEPS: list[Callable[[Scene], None]] = [install, declare, stack, move, stall, power_cut, back]


def packages(directory: Path) -> list[Path]:
    """The packages of this checkout."""
    leasectl()
    place = directory / "deb"
    subprocess.run([SOURCE / "scripts/deb", place], check=True, env=os.environ)
    return sorted(place.glob("*.deb"))


@contextmanager
def stage(filesystem: str) -> Iterator[Scene]:
    """Two machines, and the packages."""
    lab = Lab("handbook", controllers=2, size=SIZES[filesystem])
    guests = [Debian(vm.name, lab.directory, vm.disks, cpus=1) for vm in lab.vms]
    lab.vms[:] = guests
    built = packages(lab.directory)
    with lab:
        scene = Scene(lab, guests, built, filesystem)
        yield scene
        print(f"# {scene.lines} acknowledged lines, none lost")


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--filesystem", choices=SIZES, default="ext4", help="instead of ext4")
    filesystem = parser.parse_args().filesystem
    run_steps(STEPS, lambda: stage(filesystem))
