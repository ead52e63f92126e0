# SPDX-License-Identifier: GPL-2.0
"""A guest's console log: what its kernel said, and whether it complained."""

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
        """The lines on which the kernel complained.

        `allow` is a pattern of complaints that the run provokes on purpose: a guest that was
        stopped for seconds may report a stall of RCU.
        """
        allowed = re.compile(allow) if allow else None
        return [
            line
            for line in self.text().splitlines()
            if COMPLAINTS.search(line)
            and not HARMLESS.search(line)
            and not (allowed and allowed.search(line))
        ]
