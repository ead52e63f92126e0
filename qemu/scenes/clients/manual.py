# SPDX-License-Identifier: GPL-2.0
"""The commands of scripts/doc/exports.md, as they are printed: what users copy is tested here.

Only lines that name a machine's own things (its number, address, devices) are replaced.
"""

from __future__ import annotations

from rig.manual import blocks, replaced

PAGE = "scripts/doc/exports.md"
# What the section "Set-up" prints, in its order.
EXPORT, SERVICE, CONNECT = range(3)


def printed(which: int) -> str:
    """A block of the section that sets the exports up."""
    return blocks(PAGE, "Set-up")[which]


def export(controller: int, address: str, settings: str) -> str:
    """What exports a portion, with these settings, on a controller."""
    return replaced(
        printed(EXPORT),
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def service() -> str:
    """What keeps the exports in step with ownership."""
    return printed(SERVICE).strip()


def export_reads(controller: int, address: str, settings: str) -> str:
    """What exports a member a second time, for reading."""
    return replaced(
        blocks(PAGE, "Reads through every controller")[0],
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def connect(settings: str, addresses: list[str]) -> str:
    """What connects a client to a portion on all controllers."""
    return replaced(
        printed(CONNECT),
        {"portion=": settings, "for address": f"for address in {' '.join(addresses)}; do"},
    )
