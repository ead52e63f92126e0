# SPDX-License-Identifier: GPL-2.0
"""The controllers: two portions, exported by both machines, and owned by one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from rig import Job, Lab, Portion, Vm, until
from rig.lease import MODULE, member_disks, show

from . import manual

# Timings suit emulated machines that share two processors; lease and window follow from them.
TIMINGS = (
    "--heartbeat-ms 200 --lost-heartbeats 2 --write-ms 200 --read-ms 150 --jitter-ms 100 "
    "--device-delay-ms 400"
)
# From the service number of a portion to that of its exports for reading.
READS = 10


@dataclass(frozen=True)
class ExportedPortion(Portion):
    """A portion that is exported: its member m is disk `p<index>m<m>` and mapped device
    `<name>-<m + 1>`."""

    index: int = 0
    group: int = 0
    service: int = 0

    def uuid(self, number: int) -> str:
        """Of its namespace, from 1: what clients know it by."""
        return f"6c656173-6500-4000-8000-{self.group:06x}{number:06x}"

    def read_uuid(self, number: int) -> str:
        """Of the second export of a member, for reading."""
        return f"6c656173-6500-4000-9000-{self.service + READS:06x}{number:06x}"


def exported(index: int, name: str, group: int, service: int) -> ExportedPortion:
    """A portion of three members, at home on the controller of its place."""
    disks = member_disks(index)
    devices = tuple(f"{name}-{member + 1}" for member in range(len(disks)))
    return ExportedPortion(name, disks, devices, index + 1, index, group, service)


ALPHA = exported(0, "alpha", group=2, service=4420)
BETA = exported(1, "beta", group=3, service=4421)
PORTIONS = (ALPHA, BETA)


class Appliance:
    """Both controllers of a lab with one client."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.services: dict[str, Job] = {}

    def number(self, vm: Vm) -> int:
        """The number of a controller, from 1."""
        return self.lab.vms.index(vm) + 1

    def address(self, vm: Vm) -> str:
        """Where clients reach a controller: each has a cable, and a network, of its own."""
        return f"10.7.{self.number(vm)}.1"

    def other(self, vm: Vm) -> Vm:
        """The other controller."""
        one, two = self.lab.vms
        return two if vm is one else one

    def format(self) -> float:
        """Formats both portions; returns the takeover window in milliseconds."""
        # Nothing repairs a stray here: only time protects.
        options = f"--controllers 1,2 --redundancy external {TIMINGS}"
        for portion in PORTIONS:
            name = f"--name {portion.name} --home {portion.home}"
            paths = " ".join(portion.members)
            self.lab.vms[0].sh(f"leasectl format {name} {options} {paths}")
        shown = show([self.lab.store.image(ALPHA.disks[0])])[0]
        return float(shown["timing"]["window_ms"])

    def bring_up(self, vm: Vm) -> None:
        """Everything a controller does after it has booted."""
        vm.sh(
            f"insmod {MODULE}\nmodprobe virtio_net\n"
            "modprobe configfs\nmount -t configfs config /sys/kernel/config\n"
            f"ip addr add {self.address(vm)}/24 dev eth0\nip link set eth0 up"
        )
        for portion in PORTIONS:
            settings = (
                f"portion={portion.name} group={portion.group} trsvcid={portion.service} "
                f'members="{" ".join(portion.members)}"'
            )
            vm.sh(manual.export(self.number(vm), self.address(vm), settings))
        self.start_service(vm)

    def export_reads(self, vm: Vm, portion: ExportedPortion, number: int) -> None:
        """Exports a member of a portion a second time, for reading by all controllers at once."""
        settings = f"portion={portion.name} trsvcid={portion.service + READS} number={number}"
        vm.sh(manual.export_reads(self.number(vm), self.address(vm), settings))

    def start_service(self, vm: Vm) -> None:
        """Starts what keeps ANA states and ownership in step."""
        self.services[vm.name] = vm.spawn(f"exec {manual.service()}")

    def kill_service(self, vm: Vm) -> None:
        """Ends it without warning."""
        job = self.services[vm.name]
        job.kill()
        job.wait()

    def summary(self) -> str:
        """All portions on all controllers that run, in a line."""
        found = []
        for vm in self.lab.vms:
            if vm.running:
                lines = vm.run("dmsetup status --noflush", check=False).out.splitlines()
                found += [f"{vm.name} {line}" for line in lines if "-1: " in line]
        return " | ".join(found)

    def owner(self, portion: ExportedPortion, among: list[Vm] | None = None) -> Vm | None:
        """Who owns a portion now, of these controllers."""
        for vm in among or self.lab.vms:
            if portion.status(vm).role == "owner":
                return vm
        return None

    def wait_owner(self, portion: ExportedPortion, among: list[Vm] | None = None) -> Vm:
        """Waits for a portion to have an owner, of these controllers."""
        return until(lambda: self.owner(portion, among), f"{portion.name} has an owner")

    def wait_secondary(self, vm: Vm, portion: ExportedPortion) -> None:
        """Waits for a controller to watch a portion."""
        until(
            lambda: portion.status(vm).role in ("secondary", "owner"),
            f"{vm.name} watches {portion.name}",
        )

    def hand_over(self, portion: ExportedPortion, to: Vm) -> None:
        """Gives a portion to a controller; it may need to listen for a while before it can."""

        def handed() -> bool:
            if self.owner(portion) is to:
                return True
            portion.ask(self.other(to), f"handoff {self.number(to)}")
            return False

        until(handed, f"{portion.name} is handed over to {to.name}", 60)

    def ana(self, vm: Vm, portion: ExportedPortion) -> str:
        """What a controller tells clients about a portion."""
        group = f"/sys/kernel/config/nvmet/ports/{portion.service}/ana_groups/{portion.group}"
        return vm.sh(f"cat {group}/ana_state")
