# SPDX-License-Identifier: GPL-2.0
"""Proves that a run of selftests can pass, fail, skip, hang, panic and lie.

Each case of qemu/planted runs in a guest of its own, and the verdict must be the expected one, for
the expected reason. On a kernel that watches itself the cases are those of qemu/planted/debug: each
watcher must be heard.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.host import DEBUG, SOURCE, arguments_of, build
from rig.kselftest import Run

PLANTED = SOURCE / "qemu/planted" / ("debug" if DEBUG else "")

# The reason each case must end for; the empty one is success.
SILENT = "the guest never said that it passed"
EXPECTED = {
    "pass": r"",
    "fail": SILENT,
    "skip": SILENT,
    "part": SILENT,
    "slow": SILENT,
    "stuck": r"the run hangs; .*stuck\.sh",
    "panic": r"the kernel complained: .*(panic|sysrq|BUG|Oops)",
    "warn": r"the kernel complained: .*planted",
    "liar": SILENT,
    "mute": r"(the guest ended|the kernel complained: .*the agent ended)",
}
EXPECTED_DEBUG = {
    "none": r"",
    "warn": r"the kernel complained: .*WARNING: .*Kernel panic.*panic_on_warn",
    "locks": r"the kernel complained: .*possible circular locking",
    "atomic": r"the kernel complained: .*(sleeping function|scheduling while atomic)",
    "freed": r"the kernel complained: .*KASAN: slab-use-after-free",
    "active": r"the kernel complained: .*ODEBUG: free active",
    "leak": SILENT,
}
if DEBUG:
    EXPECTED = EXPECTED_DEBUG


def verify(case: str, initramfs: Path) -> str:
    """Runs one case; what is wrong with the verdict, or nothing."""
    tests = [f"{case}.sh"]
    run = Run(f"planted-{case}", tests, PLANTED, 60, quiet=True, cpus=1, initramfs=initramfs)
    reason, expected = run.outcome().reason, EXPECTED[case]
    # An empty pattern is success, and nothing else is.
    if bool(reason) == bool(expected) and re.match(expected, reason, re.DOTALL):
        return ""
    return f"expected '{expected}', got '{reason}'"


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {' '.join(EXPECTED)}")
    cases = parser.parse_args().cases or list(EXPECTED)
    initramfs = build("selftest")
    print(f"1..{len(cases)}")
    failed = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = pool.map(lambda case: verify(case, initramfs), cases)
        for number, (case, wrong) in enumerate(zip(cases, results, strict=True), 1):
            failed += bool(wrong)
            print(f"{'not ok' if wrong else 'ok'} {number} rig: {case}", flush=True)
            if wrong:
                print(f"# {wrong}")
    print(f"{len(cases) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
