# SPDX-License-Identifier: GPL-2.0
"""Installs the packages into a Debian guest and uses them as an administrator does.

Controller 1 is Debian 13 with systemd, udev, LVM and md; controller 2 is a small guest that shares
the disks and shows what a peer sees. The store's log and the mailboxes on the raw images judge:
a shutdown must give the lease up, and the peer must not wait for a window.

`handbook` runs the commands of README.md.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rig import Debian, Lab, LabPortion, Vm, expect, run_steps, until
from rig.host import SOURCE, arguments_of, leasectl

MEMBERS = ["m0", "m1", "m2"]
# Generous for a loaded machine under emulation, and a window of a dozen heartbeats.
FORMAT = (
    "--controllers 1,2 --home 1 --redundancy external --device-delay-ms 200 --heartbeat-ms 300 "
    "--write-ms 300 --read-ms 300"
)
# A secondary sees a release with its next heartbeat.
HEARTBEATS_AT_ONCE = 4
HEARTBEATS_IN_WINDOW = 14

DECLARATION = 'portion = "alpha"\ncontroller = 1\n'
# Mounted when systemd sees the device, which is while this machine owns it.
READY = r"dev-mapper-lease\x2dalpha\x2d0.device"
FSTAB = (
    f"/dev/mapper/lease-alpha-0 /srv ext4 x-systemd.wanted-by={READY},"
    "x-systemd.after=dm-lease@alpha.service 0 0\n"
)

# What must be gone after a purge.
LEFT = (
    "/etc/dm-lease /usr/sbin/leasectl /usr/lib/udev/rules.d/*dm-lease* "
    "/usr/lib/systemd/system/dm-lease* /usr/lib/modules/*/updates/dm_lease* /usr/libexec/dm-lease"
)


class Scene:
    """The lab, the portion, and the packages."""

    def __init__(self, lab: Lab, guest: Debian, packages: dict[str, list[Path]]) -> None:
        self.lab = lab
        self.guest = guest
        self.peer = lab.vm(2)
        self.packages = packages
        self.portion = LabPortion.on(lab, "alpha", MEMBERS)
        self.last = 7
        """The epoch that the demotion ended with."""

    def install(self, version: str) -> str:
        """Installs the packages of a version; what dpkg says."""
        names = []
        for package in self.packages[version]:
            names.append(f"/var/tmp/{package.name}")
            self.guest.push(names[-1], package.read_bytes())
        return self.guest.sh(f"dpkg -i {' '.join(names)}", 120)

    def owns(self, vm: Vm, epoch: int) -> None:
        """Waits until a controller owns the portion in `epoch`."""
        self.portion.wait(vm, 60, role="owner", owner=self.portion.number(vm), epoch=epoch)

    def released(self, epoch: int) -> None:
        """Controller 1 has told a majority that it gave the epoch up."""
        told = self.portion.told_released(self.guest, epoch)
        expect(len(told) > len(MEMBERS) // 2, f"epoch {epoch} was given up (on {told})")

    def taken_at_once(self, epoch: int) -> None:
        """The peer owns, and did not wait for a window."""
        self.owns(self.peer, epoch)
        waited = self.portion.beats_before_claim(self.guest, self.peer)
        print(f"# controller 2 claimed after {waited} heartbeats")
        expect(waited <= HEARTBEATS_AT_ONCE, f"no window was waited for ({waited} heartbeats)")

    def active(self, *units: str) -> None:
        """All units are active; systemctl itself is content with one of them."""
        states = self.guest.run(f"systemctl is-active {' '.join(units)}", check=False).out.split()
        expect(states == ["active"] * len(units), f"{units} are active ({states})")

    def property(self, device: str, name: str) -> str:
        """A property that udev keeps of a device, empty if there is none."""
        command = f"udevadm info --query=property --property={name} --value {device}"
        return self.guest.run(command, check=False).out.strip()


def install(scene: Scene) -> None:
    """The packages install, and what they bring is found."""
    guest = scene.guest
    scene.install("1")
    guest.sh('test -z "$(dpkg --audit)"')
    guest.sh("modinfo dm_lease | grep -q '^filename:.*/updates/dm_lease.ko.xz'")
    guest.sh("leasectl --version && systemd-analyze verify --man=no dm-lease@alpha.service")
    guest.sh("udevadm verify /usr/lib/udev/rules.d/*-dm-lease*.rules")


def declare(scene: Scene) -> None:
    """Members are recognised when they are formatted, and a file makes them mapped devices."""
    guest = scene.guest
    disks = " ".join(f"/dev/disk/by-id/virtio-{member}" for member in MEMBERS)
    name = "$(basename $(readlink -f $disk))"
    schedulers = f"for disk in {disks}; do echo /sys/class/block/{name}/queue/scheduler; done"
    guest.sh(f"for file in $({schedulers}); do echo mq-deadline >$file; done")
    guest.sh(f"leasectl format --name alpha {FORMAT} {disks}")
    guest.sh("udevadm settle")
    for member in MEMBERS:
        device = f"/dev/disk/by-id/virtio-{member}"
        kind = scene.property(device, "ID_FS_TYPE")
        expect(kind == "dm_lease_member", f"{member} is recognised ({kind})")
    chosen = guest.sh(f"grep -l '\\[none\\]' $({schedulers}) | wc -l")
    expect(chosen == "3", f"no member has a scheduler ({chosen})")
    links = guest.sh("ls /dev/disk/by-id | grep -c ^dm-lease-")
    expect(links == "3", f"every member has a link ({links})")
    guest.push("/etc/dm-lease/alpha.toml", DECLARATION.encode())
    print(guest.sh("leasectl activate --dry-run"))
    guest.sh("systemctl start dm-lease@alpha.service")
    scene.owns(guest, 1)
    scene.portion.bring_up(scene.peer)
    scene.portion.wait(scene.peer, role="secondary", epoch=1)


def watched(scene: Scene) -> None:
    """Nothing that watches runs unless it is wanted; metrics are answered then."""
    guest = scene.guest
    units = "dm-lease-metrics.service dm-lease-ana.service"
    states = guest.run(f"systemctl is-enabled {units}", check=False).out.split()
    expect(states == ["disabled"] * 2, f"neither unit is enabled ({states})")
    guest.sh(f"systemd-analyze verify --man=no {units}")
    guest.sh("systemctl enable --now dm-lease-metrics.service")
    ask = (
        "exec 3<>/dev/tcp/127.0.0.1/9948; "
        r'printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3'
    )
    wanted = 'dm_lease_role{portion="alpha",controller="1",role="owner"} 1'
    answer = f"bash -c '{ask}'"
    until(lambda: wanted in guest.run(answer, check=False).out, "an answer")
    expect(guest.sh("leasectl owns alpha") == "owner", "and scripts are told")


def stack(scene: Scene) -> None:
    """A file system, a volume group and an array are made on the mapped devices."""
    guest = scene.guest
    guest.sh("mkfs.ext4 -q /dev/mapper/lease-alpha-0")
    guest.run("cat >>/etc/fstab", stdin=FSTAB.encode())
    guest.sh("systemctl daemon-reload && systemctl start srv.mount")
    guest.sh("pvcreate -q /dev/mapper/lease-alpha-1 && vgcreate -q vg /dev/mapper/lease-alpha-1")
    guest.sh("lvcreate -q -n lv -L 16M vg && mkfs.ext4 -q /dev/vg/lv && mount /dev/vg/lv /mnt")
    guest.sh("mdadm --create /dev/md/one --run --quiet --level=1 --force --raid-devices=1 "
             "/dev/mapper/lease-alpha-2")  # fmt: skip


def shutdown(scene: Scene) -> None:
    """A shutdown takes down what is above and gives the lease up; the peer does not wait."""
    scene.portion.settle(scene.peer, HEARTBEATS_IN_WINDOW)
    # Still in memory when it begins.
    scene.guest.sh("echo here | tee /srv/file /mnt/file")
    scene.guest.shut_down()
    scene.released(1)
    scene.taken_at_once(2)


def secondary(scene: Scene) -> None:
    """A machine that boots beside the owner has the devices, and nothing looks into them."""
    guest = scene.guest
    guest.start().wait_up()
    scene.active("dm-lease@alpha.service", "dm-lease-follow.service")
    scene.portion.wait(guest, role="secondary", epoch=2, owner=2)
    hidden(scene)


def hidden(scene: Scene) -> None:
    """What a machine must not use is not offered to anybody."""
    guest = scene.guest
    guest.sh("udevadm settle")
    state = guest.run(f"systemctl is-active '{READY}' srv.mount", check=False).out.split()
    expect(state == ["inactive", "inactive"], f"neither device nor mount are there ({state})")
    for device in ("/dev/vg/lv", "/dev/md/one", "/dev/md127"):
        expect(guest.run(f"test -e {device}", check=False).rc, f"{device} is not there")
    kind = scene.property("/dev/mapper/lease-alpha-0", "ID_FS_TYPE")
    expect(kind == "", f"the file system is not looked for ({kind})")


def promotion(scene: Scene) -> None:
    """With the role comes everything above, by itself."""
    guest = scene.guest
    scene.portion.settle(guest, HEARTBEATS_IN_WINDOW)
    scene.portion.hand_over(scene.peer, 1)
    scene.owns(guest, 3)
    until(lambda: guest.run("systemctl is-active srv.mount", check=False).rc == 0, "the mount")
    expect(guest.sh("cat /srv/file") == "here", "the file is there")
    until(lambda: guest.run("test -e /dev/vg/lv", check=False).rc == 0, "the volume")
    guest.sh("mount /dev/vg/lv /mnt")
    expect(guest.sh("cat /mnt/file") == "here", "and that on the volume")
    until(lambda: guest.run("test -e /dev/md/one", check=False).rc == 0, "the array")
    state = guest.sh("mdadm --detail /dev/md/one | sed -n 's/^ *State : //p'").strip()
    expect(state == "clean", f"the array was stopped in time ({state})")
    errors = guest.run("journalctl -k -b -1 | grep -iE 'I/O error|EXT4-fs (error|warning)|lost'",
                       check=False).out  # fmt: skip
    expect(errors == "", f"nothing failed at the shutdown ({errors})")


def upgrade(scene: Scene) -> None:
    """An upgrade leaves module, devices and lease as they are."""
    guest = scene.guest
    writer = guest.spawn("while echo x >>/srv/log && sync /srv/log; do echo ok; done")
    writer.wait_for("ok")
    said = scene.install("2")
    expect("stays, with its leases" in said, "dpkg says that the loaded module stays")
    version = guest.sh("dpkg-query -f '${Version}' -W dm-lease-tools")
    expect(version.endswith("2"), f"the new version is installed ({version})")
    status = scene.portion.status(guest)
    expect(status.role == "owner" and status.epoch == 3, f"the lease is the same ({status})")
    expect(status.refused == 0 and status.late == 0, f"no write was refused ({status})")
    expect(not writer.done, "the writer still writes")
    writer.kill()
    scene.active("dm-lease@alpha.service", "dm-lease-follow.service", "srv.mount")


def reboot(scene: Scene) -> None:
    """A reboot with everything mounted gives the lease up as well."""
    scene.portion.settle(scene.peer, HEARTBEATS_IN_WINDOW)
    scene.guest.shut_down("reboot")
    scene.released(3)
    scene.taken_at_once(4)
    scene.guest.start().wait_up()
    hidden(scene)


def power_cut(scene: Scene) -> None:
    """A peer without power is waited for: the count that judges a shutdown can be another."""
    guest, peer = scene.guest, scene.peer
    scene.portion.settle(guest, HEARTBEATS_IN_WINDOW)
    peer.power_cut()
    scene.owns(guest, 5)
    waited = scene.portion.beats_before_claim(peer, guest)
    print(f"# controller 1 claimed after {waited} heartbeats")
    expect(waited > HEARTBEATS_AT_ONCE, f"a window was waited for ({waited} heartbeats)")
    until(lambda: guest.run("mountpoint /srv", check=False).rc == 0, "the mount")
    peer.start().wait_up()
    scene.portion.bring_up(peer)
    scene.portion.settle(peer, HEARTBEATS_IN_WINDOW)


def demotion(scene: Scene) -> None:
    """Without the role everything is hidden again, and it comes back with the role."""
    guest = scene.guest
    guest.sh("systemctl stop srv.mount && vgchange -q -an vg")
    # As leasectl does: the event of the last close would assemble the array again.
    guest.sh("mkdir -p /run/dm-lease && touch /run/dm-lease/alpha")
    guest.sh("mdadm --stop --quiet /dev/md/one && udevadm settle && rm /run/dm-lease/alpha")
    expect(guest.run("grep -q ^md /proc/mdstat", check=False).rc, "the array stays stopped")
    scene.portion.hand_over(guest, 2)
    scene.owns(scene.peer, 6)
    scene.portion.wait(guest, role="secondary", epoch=6)
    device = "/dev/mapper/lease-alpha-2"
    until(lambda: scene.property(device, "DM_LEASE_ROLE") == "secondary", "the role in udev")
    hidden(scene)
    scene.portion.hand_over(scene.peer, 1)
    scene.owns(guest, 7)
    until(lambda: guest.run("mountpoint /srv", check=False).rc == 0, "the mount")


def locks_lost(scene: Scene) -> None:
    """lvmlockd loses its locks and fences the portion; all above is taken down, and returns."""
    guest = scene.guest
    until(lambda: guest.run("test -e /dev/vg/lv", check=False).rc == 0, "the volume")
    guest.sh("mount /dev/vg/lv /mnt")
    command = 'global { lvmlockctl_kill_command = "/usr/libexec/dm-lease/lvmlockd" }\n'
    guest.run("cat >/etc/lvm/lvmlocal.conf", stdin=command.encode())
    # What sanlock runs. There is no lvmlockd to be told that its locks may go.
    print(guest.run("lvmlockctl --kill vg", check=False).out)
    expect(scene.portion.status(guest).reason == "fence", "it fences before anything else")
    # A window later either of them owns.
    until(lambda: is_owner(scene, guest) or is_owner(scene, scene.peer), "an owner")
    if is_owner(scene, scene.peer):
        until(lambda: closed(scene), "everything closed")
        scene.portion.settle(guest, HEARTBEATS_IN_WINDOW)
        scene.portion.hand_over(scene.peer, 1)
        scene.last += 1
    scene.last += 1
    scene.owns(guest, scene.last)
    until(lambda: guest.run("mountpoint /mnt", check=False).rc, "the end of the other mount")
    until(lambda: guest.run("mountpoint /srv", check=False).rc == 0, "the mount")
    until(lambda: guest.run("test -e /dev/vg/lv", check=False).rc == 0, "the volume")
    until(lambda: guest.run("test -e /dev/md/one", check=False).rc == 0, "the array")


def is_owner(scene: Scene, vm: Vm) -> bool:
    """Whether a controller owns the portion now."""
    return scene.portion.status(vm).role == "owner"


def closed(scene: Scene) -> bool:
    """Whether nobody has a device of the portion open."""
    opens = scene.guest.sh("dmsetup info -c --noheadings -o open -S 'uuid=~LEASE-.*'")
    return set(opens.split()) == {"0"}


def remove(scene: Scene) -> None:
    """Removal gives the lease up and leaves nothing; purging not even the declarations."""
    guest = scene.guest
    module = guest.sh("dpkg-query -f '${Package}' -W 'dm-lease-modules-*'")
    guest.sh(f"dpkg -r dm-lease-tools {module}", 120)
    scene.released(scene.last)
    expect(guest.run("dmsetup ls --target lease", check=False).out.startswith("No devices"),
           "nothing is mapped")  # fmt: skip
    expect(guest.run("test -d /sys/module/dm_lease", check=False).rc, "the module is unloaded")
    guest.sh("test -e /etc/dm-lease/alpha.toml")
    guest.sh(f"dpkg -P dm-lease-tools {module}")
    left = guest.run(f"ls -d {LEFT} 2>/dev/null", check=False).out
    expect(left == "", f"nothing is left ({left})")
    expect(guest.run("modinfo dm_lease", check=False).rc, "and nothing is known of the module")
    state = guest.sh("systemctl is-system-running")
    expect(state == "running", f"the system is well ({state})")
    scene.taken_at_once(scene.last + 1)


STEPS: list[Callable[[Scene], None]] = [
    install,
    declare,
    watched,
    stack,
    shutdown,
    secondary,
    promotion,
    upgrade,
    reboot,
    power_cut,
    demotion,
    locks_lost,
    remove,
]


def build(directory: Path) -> dict[str, list[Path]]:
    """The packages of this checkout, in two versions."""
    leasectl()
    packages = {}
    for version in ("1", "2"):
        place = directory / f"deb-{version}"
        environment = os.environ | {"DM_LEASE_VERSION": f"0~test{version}"}
        subprocess.run([SOURCE / "scripts/deb", place], check=True, env=environment)
        packages[version] = sorted(place.glob("*.deb"))
    return packages


@contextmanager
def stage() -> Iterator[Scene]:
    """Both machines, and the packages."""
    lab = Lab("install", controllers=2)
    guest = Debian("c1", lab.directory, lab.vm(1).disks)
    lab.vms[0] = guest
    packages = build(lab.directory)
    with lab:
        yield Scene(lab, guest, packages)


def main() -> None:
    arguments_of(__doc__).parse_args()
    run_steps(STEPS, stage)
