# SPDX-License-Identifier: GPL-2.0
"""The commands of the README, as they are printed: what users copy is what is tested here.

Only lines that name a machine's own things (its number, address, devices) are replaced.
"""

from __future__ import annotations

from rig.manual import blocks, replaced


def export(controller: int, address: str, settings: str) -> str:
    """What exports a portion, with these settings, on a controller."""
    return replaced(
        blocks("Exports")[0],
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def service() -> str:
    """What keeps the exports in step with ownership."""
    return blocks("Exports")[1].strip()


def export_reads(controller: int, address: str, settings: str) -> str:
    """What exports a member a second time, for reading."""
    return replaced(
        blocks("Exports")[3],
        {
            "controller=": f"controller={controller} address={address}",
            "portion=": settings,
        },
    )


def connect(settings: str, addresses: list[str]) -> str:
    """What connects a client to a portion on all controllers."""
    return replaced(
        blocks("Exports")[2],
        {"portion=": settings, "for address": f"for address in {' '.join(addresses)}; do"},
    )
