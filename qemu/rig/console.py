# SPDX-License-Identifier: GPL-2.0
"""A guest's console log: what its kernel said, and whether it complained.

A line of the module above notice level is a complaint, too, unless the run announced it in the
log itself before it provoked it (`Vm.provokes`, and `expect_warning` in selftests/lib.sh). Each
announcement stands for one line, and a line that did not come is a complaint as well.

While a test says that it denies memory, the kernel may say where it asked in vain for a stack.
"""

from __future__ import annotations

import re
from pathlib import Path

COMPLAINTS = re.compile(
    r"""WARNING: | BUG: | \bOops\b | Call\ Trace | Kernel\ panic | general\ protection\ fault |
    kernel\ BUG\ at | Unable\ to\ handle | possible\ (recursive|circular)\ locking |
    suspicious\ RCU\ usage | inconsistent\ lock\ state | sleeping\ function\ called |
    scheduling\ while\ atomic | hung\ task | blocked\ for\ more\ than | rcu.*\ stall |
    soft\ lockup | hard\ LOCKUP | workqueue\ lockup | KFENCE: | KASAN: | UBSAN: | KCSAN: |
    refcount_t: | list_(add|del)\ corruption | ODEBUG: | DEBUG_LOCKS_WARN | Out\ of\ memory |
    page\ allocation\ failure | segfault\ at | rust_kernel:\ panicked | init:\ FATAL |
    Initramfs\ unpacking\ failed""",
    re.VERBOSE,
)

# "KFENCE: initialized" and the like: a tool that introduces itself has not found anything.
HARMLESS = re.compile(r"(kfence|KASAN|KCSAN).*(initialized|init)", re.IGNORECASE)

# A line of the module, with its level (below 5: warning, error, ...); the kernel puts the module's
# name before its own remark that it comes from elsewhere.
OURS = re.compile(
    r"^<(\d+)>\[[ \d.]+\] dm_lease: (?!loading out-of-tree module|module verification)"
)
NOTICE = 5

# What is written into the log: where a selftest begins, and what is about to be provoked.
BEGINS = re.compile(r"dm-lease selftest \d+: begins")
PROVOKES = re.compile(r"dm-lease (?:selftest \d+|rig): provokes (.+)")
DENIES = re.compile(r"dm-lease selftest \d+: denies memory, (begin|end)")

# mm/vmalloc.c, __vmalloc_node_range_noprof(): what it says without a stack to give, and then
# mm/page_alloc.c, warn_alloc(): who asked, three lines further.
REFUSED = "vmalloc error: "
REFUSAL_LINES = 6


class Console:
    """The log of one guest, over all its boots."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        """Everything so far, without the carriage returns."""
        if not self.path.exists():
            return ""
        return self.path.read_text(errors="replace").replace("\r", "")

    def tail(self, lines: int = 25) -> str:
        """The end of the log, indented for a message."""
        return "".join(f"    | {line}\n" for line in self.text().splitlines()[-lines:])

    def complaints(self, allow: str | None = None) -> list[str]:
        """The lines on which the kernel complained, or the module said more than a notice.

        `allow` is a pattern of complaints that the run provokes on purpose: a guest that was
        stopped for seconds may report a stall of RCU, and its leases end as often as they do.
        """
        allowed = re.compile(allow) if allow else None
        found = [*self._complaints(), *self._warnings()]
        return [line for line in found if not (allowed and allowed.search(line))]

    def _complaints(self) -> list[str]:
        found: list[str] = []
        denies, trace_until = False, 0
        for number, line in enumerate(self.text().splitlines()):
            if BEGINS.search(line):
                denies = False
            elif state := DENIES.search(line):
                denies = state[1] == "begin"
            elif denies and REFUSED in line:
                trace_until = number + REFUSAL_LINES
            elif "Call Trace" in line and number < trace_until:
                trace_until = 0
            elif COMPLAINTS.search(line) and not HARMLESS.search(line):
                found.append(line)
        return found

    def _warnings(self) -> list[str]:
        found: list[str] = []
        due: list[str] = []
        for line in self.text().splitlines():
            if BEGINS.search(line):
                found += [f"nothing said: {text}" for text in due]
                due.clear()
            elif announcement := PROVOKES.search(line):
                due.append(announcement[1])
            elif (ours := OURS.match(line)) and int(ours[1]) % 8 < NOTICE:
                expected = next((text for text in due if text in line), None)
                if expected is None:
                    found.append(line)
                else:
                    due.remove(expected)
        return found + [f"nothing said: {text}" for text in due]
