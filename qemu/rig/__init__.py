# SPDX-License-Identifier: GPL-2.0
"""Virtual machines that share disks, and everything that can go wrong with them.

    Lab       several controllers on one Store, all of it in one run directory
    Vm        one guest: run commands, stop it, cut its power, send it to sleep
    Store     the shared disks: faults per controller and member, and the log
    Console   what the guest's kernel said, and whether it complained
    History   the store's log as records, and what can be asked of it; Log: as it grows
    stamp     blocks that say who wrote them
    Portion   devices that are owned together, and their Status; LabPortion: in the guests of a lab
    Nexus     a controller at a disk of an array with reservations; see array
    Debian    a guest with systemd on a disk of its own
    run_steps a run that is a row of steps; expect, until: what they check and wait for

See qemu/README.md. Everything here runs inside the toolchain root (scripts/enter).
"""

from . import stamp
from .agent import Job, Result
from .array import WEAR, WERO, Nexus
from .console import Console
from .debian import Debian
from .history import History, Log, Request
from .host import RigError, patience
from .lab import Lab
from .lease import LabPortion, Portion, Status
from .steps import expect, run_steps, until
from .store import Rule, Store
from .vm import Disk, Link, Memory, Vm

__all__ = [
    "WEAR",
    "WERO",
    "Console",
    "Debian",
    "Disk",
    "History",
    "Job",
    "Lab",
    "LabPortion",
    "Link",
    "Log",
    "Memory",
    "Nexus",
    "Portion",
    "Request",
    "Result",
    "RigError",
    "Rule",
    "Status",
    "Store",
    "Vm",
    "expect",
    "patience",
    "run_steps",
    "stamp",
    "until",
]
