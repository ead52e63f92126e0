# SPDX-License-Identifier: GPL-2.0
"""Runs the selftests of dm-lease in one virtual machine.

Prints the TAP of the kernel's runner; exits with 0 only if the guest itself said, over a port of
its own, that every test passed and none was skipped, and its kernel did not complain.
"""

from __future__ import annotations

import sys

from rig.host import arguments_of
from rig.kselftest import Run


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("tests", nargs="*", metavar="TEST", help="such as 00-smoke.sh; all if none")
    parser.add_argument("--cpus", type=int, default=2, help="of the guest")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    arguments = parser.parse_args()
    run = Run("kselftest", arguments.tests, append=arguments.append, cpus=arguments.cpus)
    outcome = run.outcome()
    if outcome.reason:
        print(f"# end of the console:\n{run.vm.console.tail()}", end="", file=sys.stderr)
    print(f"{outcome.passed} passed, {outcome.failed} failed")
    print(f"kselftest: {f'FAIL: {outcome.reason}' if outcome.reason else 'PASS'}")
    sys.exit(1 if outcome.reason else 0)
