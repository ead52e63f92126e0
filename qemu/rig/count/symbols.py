# SPDX-License-Identifier: GPL-2.0
"""Which function an address of the guest kernel belongs to."""

from __future__ import annotations

import bisect
import re
import subprocess
from typing import NamedTuple

VMLINUX = "vmlinux"
LEASE_MODULE = "dm_lease"
# The compiler's hash of a crate: the same in every line that one build prints, and no use to a
# reader.
CRATE_HASH = re.compile(r"\[[0-9a-f]{16}\]")


class Symbol(NamedTuple):
    """A function. `module` is VMLINUX or the name of a module."""

    name: str
    module: str

    def __str__(self) -> str:
        return self.name if self.module == VMLINUX else f"{self.name} [{self.module}]"


class Symbols:
    """All functions of a running kernel, from its /proc/kallsyms."""

    def __init__(self, kallsyms: str) -> None:
        found: dict[int, Symbol] = {}
        for line in kallsyms.splitlines():
            address, kind, name, *module = line.split()
            if kind in "tTwW":
                # Of several names of one place the first will do.
                symbol = Symbol(name, module[0].strip("[]") if module else VMLINUX)
                found.setdefault(int(address, 16), symbol)
        self.starts = sorted(found)
        self.symbols = [found[start] for start in self.starts]

    def at(self, address: int) -> Symbol:
        """The function that contains an address."""
        place = bisect.bisect(self.starts, address) - 1
        return self.symbols[place] if place >= 0 else Symbol("?", VMLINUX)

    def is_start(self, address: int) -> bool:
        """Whether a function begins there: then executions are calls."""
        place = bisect.bisect(self.starts, address) - 1
        return place >= 0 and self.starts[place] == address


def readable(symbols: list[Symbol]) -> dict[Symbol, str]:
    """Names of functions for people: Rust's without mangling, crate hashes and outer brackets."""
    if not symbols:
        return {}
    text = "\n".join(symbol.name for symbol in symbols)
    result = subprocess.run(["c++filt"], input=text, stdout=subprocess.PIPE, text=True, check=True)
    names = [CRATE_HASH.sub("", name) for name in result.stdout.splitlines()]
    return {
        symbol: str(symbol._replace(name=name)) for symbol, name in zip(symbols, names, strict=True)
    }
