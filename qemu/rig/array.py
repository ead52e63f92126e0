# SPDX-License-Identifier: GPL-2.0
"""A guest that is a disk array with reservations: it exports the disks of a lab over a network.

    with Lab("example", model="nvmet") as lab:      # or "lio"
        one = Nexus(lab.vm(1), "m0", key=0xA1)
        one.register(); one.reserve(WEAR)      # a type of reservation, see below

`nvmet` is NVMe over TCP: a subsystem for each member, each with reservations. `lio` is iSCSI: a
target for each member, with a list of the initiators that may log in. Both are those of the kernel
under test. A controller connects at the end of each boot (`Vm.on_up`), and its disks are
/dev/lease/<member> as in every lab. A controller has one network card for the array, numbered after
its cards for clients. Only the controller and the array are on that network.

The disks of the array come from the store, so the store's log is below the targets: what is in it
has passed the reservations. The store sees all requests as requests of `array`. From the first
bytes of a block the store tells which controller has written it (`authors`). This works for stamped
blocks, ledger records and mailbox records. A write of such a block counts as one of the controller,
in the log and for the faults. Reads, flushes and other writes stay those of `array`.

A reboot of the array ends all reservations. LIO saves registrations in a file (APTPL), but the
files of the array are in its memory, and nothing reads that file back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import evidence, mailbox, stamp
from .host import RigError
from .vm import Vm

NAME = "array"
NQN = "nqn.2026-11.com.example"
IQN = "iqn.2026-11.com.example"
NVME_PORT, ISCSI_PORT = 4420, 3260

# Types of reservations in linux/pr.h. WERO: write exclusive, registrants only; one registrant is
# the holder. WEAR: write exclusive, all registrants; each registrant is a holder.
WERO, WEAR = 3, 5

# nvmet ends a connection on which it has heard nothing for this long. A PREEMPT AND ABORT may wait
# for data that a paused controller has not sent. It ends when that connection has ended.
KATO_S = 10
# How long commands wait for an array that does not answer, before they fail.
LOSS_S = 600

# What a controller needs for tools and connections, in MiB.
MEMORY = 64

MOUNT = "mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config"
SUBSYSTEMS = "/sys/kernel/config/nvmet/subsystems"
APTPL = "/var/target/pr"

ISCSID = f"""
node.startup = manual
node.session.timeo.replacement_timeout = {LOSS_S}
node.conn[0].timeo.noop_out_interval = 10
node.conn[0].timeo.noop_out_timeout = 20
node.session.initial_login_retry_max = 20
node.session.scan = auto
"""


def authors(controllers: int) -> dict[str, list[str]]:
    """For each controller: the first bytes of the blocks that only this controller writes."""
    return {
        f"c{number}": [
            stamp.beginning(number),
            evidence.beginning(number),
            *mailbox.beginnings(number),
        ]
        for number in range(1, controllers + 1)
    }


def network(number: int) -> str:
    """The network of a controller and the array, without its last number: the array is 1 in it,
    the controller 2."""
    return f"10.8.{number}"


def interface(address: str, index: int) -> list[str]:
    """Commands that give a network card its address."""
    return [f"ip addr add {address}/24 dev eth{index}", f"ip link set eth{index} up"]


def subsystem(nqn: str, disk: str, port: str, reserve: bool) -> list[str]:
    """Commands by which nvmet exports a disk, as the only namespace of a subsystem."""
    place = f"{SUBSYSTEMS}/{nqn}"
    space = f"{place}/namespaces/1"
    return [
        f"mkdir {place}", f"echo 1 >{place}/attr_allow_any_host",
        f"mkdir {space}", f"echo -n {disk} >{space}/device_path",
        # A namespace that is enabled does not change any more.
        f"echo {int(reserve)} >{space}/resv_enable", f"echo 1 >{space}/enable",
        f"ln -s {place} {port}/subsystems/",
    ]  # fmt: skip


class Nvmet:
    """NVMe over TCP."""

    @staticmethod
    def export(members: Sequence[str], controllers: int) -> list[str]:
        """Commands of the array that export its disks."""
        port = "/sys/kernel/config/nvmet/ports/1"
        lines = [
            "modprobe -a nvmet nvmet-tcp", MOUNT,
            f"mkdir {port}", f"echo tcp >{port}/addr_trtype", f"echo ipv4 >{port}/addr_adrfam",
            f"echo 0.0.0.0 >{port}/addr_traddr", f"echo {NVME_PORT} >{port}/addr_trsvcid",
        ]  # fmt: skip
        for member in members:
            nqn = f"{NQN}:{member}"
            lines += subsystem(nqn, f"/dev/lease/{member}", port, reserve=True)
            lines.append(f"echo -n {member} >{SUBSYSTEMS}/{nqn}/attr_serial")
        return lines

    @staticmethod
    def connect(members: Sequence[str], number: int) -> list[str]:
        """Commands of a controller that connect it to the array."""
        host = f"6c656173-6500-4000-8000-{number:012x}"
        options = (
            f"--transport=tcp --traddr={network(number)}.1 --trsvcid={NVME_PORT} "
            f"--hostnqn=nqn.2014-08.org.nvmexpress:uuid:{host} --hostid={host} "
            f"--keep-alive-tmo={KATO_S} --reconnect-delay=1 --ctrl-loss-tmo={LOSS_S}"
        )
        return [
            "modprobe nvme-tcp",
            *(f"nvme connect --nqn={NQN}:{member} {options} >/dev/null" for member in members),
        ]


class Lio:
    """iSCSI."""

    @staticmethod
    def export(members: Sequence[str], controllers: int) -> list[str]:
        """Commands of the array that export its disks."""
        core, iscsi = (f"/sys/kernel/config/target/{it}" for it in ("core/iblock_0", "iscsi"))
        lines = [
            # The directory in which LIO saves registrations (APTPL). REGISTER answers an error if
            # the directory is missing.
            f"mkdir -p {APTPL}",
            "modprobe -a target_core_mod target_core_iblock iscsi_target_mod", MOUNT,
            f"mkdir {core}", f"mkdir {iscsi}",
        ]  # fmt: skip
        for member in members:
            disk, group = f"{core}/{member}", f"{iscsi}/{IQN}:{member}/tpgt_1"
            lines += [
                f"mkdir {disk}", f"echo udev_path=/dev/lease/{member} >{disk}/control",
                f"echo {member} >{disk}/wwn/vpd_unit_serial", f"echo 1 >{disk}/enable",
                # The store's disks have no FUA. LIO would offer it all the same and forget it;
                # without the offer initiators flush after a durable write.
                f"echo 0 >{disk}/attrib/emulate_fua_write",
                f"mkdir {iscsi}/{IQN}:{member}", f"mkdir {group}", f"mkdir {group}/lun/lun_0",
                f"ln -s {disk} {group}/lun/lun_0/disk",
                f"mkdir {group}/np/0.0.0.0:{ISCSI_PORT}",
                f"echo 0 >{group}/attrib/authentication",
            ]  # fmt: skip
            # An initiator without an entry of its own would lose its registration with its session.
            for number in range(1, controllers + 1):
                entry = f"{group}/acls/{IQN}:c{number}"
                lines += [f"mkdir {entry}", f"mkdir {entry}/lun_0",
                          f"ln -s {group}/lun/lun_0 {entry}/lun_0/lun"]  # fmt: skip
            lines.append(f"echo 1 >{group}/enable")
        return lines

    @staticmethod
    def connect(members: Sequence[str], number: int) -> list[str]:
        """Commands of a controller that connect it to the array."""
        return [
            "modprobe iscsi_tcp", "mkdir -p /etc/iscsi /var/lib/iscsi /run/lock",
            f"echo InitiatorName={IQN}:c{number} >/etc/iscsi/initiatorname.iscsi",
            f"cat >/etc/iscsi/iscsid.conf <<'END'\n{ISCSID}END",
            "iscsid",
            f"iscsiadm -m discovery -t sendtargets -p {network(number)}.1 >/dev/null",
            # iscsid numbers its sessions, and LIO identifies a registration by the nexus, which
            # includes this number. Logins in a fixed order keep the number, and so the nexus, over
            # a reboot.
            *(f"iscsiadm -m node -T {IQN}:{member} --login >/dev/null" for member in members),
        ]  # fmt: skip


MODELS: dict[str, type[Nvmet | Lio]] = {"nvmet": Nvmet, "lio": Lio}


def export_script(model: str, members: Sequence[str], controllers: int) -> str:
    """What the array does at the end of each boot."""
    lines = ["set -e", "modprobe virtio_net"]
    for number in range(1, controllers + 1):
        lines += interface(f"{network(number)}.1", number - 1)
    for member in members:
        queue = f"/sys/class/block/$(basename $(readlink /dev/lease/{member}))/queue"
        # Writes of two controllers must never become one request.
        lines += [f"echo none >{queue}/scheduler", f"echo 2 >{queue}/nomerges"]
    return "\n".join([*lines, *MODELS[model].export(members, controllers)])


def connect_script(model: str, members: Sequence[str], number: int, index: int) -> str:
    """What a controller does at the end of each boot; `index` is that of its network card."""
    lines = ["set -e", "modprobe virtio_net", *interface(f"{network(number)}.2", index)]
    lines += MODELS[model].connect(members, number)
    return "\n".join([*lines, link_script(members)])


def link_script(members: Sequence[str]) -> str:
    """Gives the disks of a controller their names, as soon as there are all of them."""
    return f"link-disks {len(members)}"


def forget(array: Vm, member: str) -> None:
    """Disables a namespace of nvmet and enables it again, which loses its reservations."""
    switch = f"{SUBSYSTEMS}/{NQN}:{member}/namespaces/1/enable"
    array.sh(f"echo 0 >{switch} && echo 1 >{switch}")


@dataclass(frozen=True)
class Nexus:
    """A controller at a member, with the key under which it registers there.

    The answer of a command is `good`, `conflict`, `status-<n>` or `errno-<n>`."""

    vm: Vm
    member: str
    key: int

    @property
    def device(self) -> str:
        """The disk in the guest."""
        return f"/dev/lease/{self.member}"

    def command(self, *words: object) -> str:
        """A command for the guest's shell (qemu/guest/reserve.c)."""
        return " ".join(["reserve", self.device, *map(str, words)])

    def ask(self, *words: object) -> str:
        """Sends a command; the answer."""
        said = self.vm.run(self.command(*words), check=False).out.strip()
        if not re.fullmatch(r"good|conflict|(status|errno)-\d+", said):
            raise RigError(f"{self.vm.name}: {self.command(*words)}: {said}")
        return said

    def register(self, old: int = 0) -> str:
        """Registers, in the place of a former key of this nexus if there is one."""
        return self.ask("register", old, f"{self.key:#x}")

    def reserve(self, kind: int) -> str:
        """Takes a reservation of a type."""
        return self.ask("reserve", f"{self.key:#x}", kind)

    def preempt(self, victim: int, kind: int) -> str:
        """Removes the registration of a key. If that key holds the reservation, this nexus becomes
        the holder."""
        return self.ask("preempt", f"{self.key:#x}", f"{victim:#x}", kind)

    def abort(self, victim: int, kind: int) -> str:
        """The same with PREEMPT AND ABORT."""
        return self.ask("preempt-abort", f"{self.key:#x}", f"{victim:#x}", kind)

    def evict_command(self, victim: int, kind: int, abort: bool) -> str:
        """PREEMPT AND ABORT or PREEMPT, for the guest's shell."""
        name = "preempt-abort" if abort else "preempt"
        return self.command(name, f"{self.key:#x}", f"{victim:#x}", kind)

    def registered(self) -> list[int]:
        """All registered keys."""
        return [int(line, 16) for line in self.vm.sh(self.command("keys")).splitlines()]

    def held(self) -> tuple[int, int]:
        """Key and type of the reservation; the type is 0 if there is none."""
        key, kind = self.vm.sh(self.command("held")).split()
        return int(key, 16), int(kind)
