# SPDX-License-Identifier: GPL-2.0
"""Counts what a bio costs, in instructions of the guest kernel, and compares.

One guest with one processor measures every target in turn, in several rounds; a second one with
three looks for cache lines that all of them write. Tables, JSON and a plot are left in
.build/run/bench. Exits with 0 when every bar holds, else with 1.
"""

from __future__ import annotations

import shutil
import sys

from rig.count.machine import CountingVm
from rig.host import BUILD, RigError, arguments_of, build

from .judge import judge
from .measure import measure
from .report import report
from .sharing import machine, measure_sharing


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--bios", type=int, default=1000, help="in one window")
    parser.add_argument("--rounds", type=int, default=5, help="of all targets")
    parser.add_argument("--quick", action="store_true", help="only leases, only what has bars")
    parser.add_argument("--no-sharing", action="store_true", help="without the second guest")
    arguments = parser.parse_args()
    directory = BUILD / "run/bench"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        vm = CountingVm("bench", directory, build("bench"))
        results = measure(vm, arguments.bios, arguments.rounds, arguments.quick)
        if not arguments.no_sharing:
            results.sharing = measure_sharing(machine(directory))
    except RigError as error:
        sys.exit(f"bench: FAIL: {error}")
    verdicts = judge(results)
    report(results, verdicts, directory)
    sys.exit(0 if all(verdict.holds for verdict in verdicts) else 1)
