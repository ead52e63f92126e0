# SPDX-License-Identifier: GPL-2.0
"""The portions of the demonstration and their timings."""

from __future__ import annotations

from rig.stage import stage_portion

# Timings suit an emulated machine that shares two processors with another one: a mailbox write
# takes milliseconds, now and then hundreds. `leasectl format` computes lease and window.
TIMINGS = (
    "--heartbeat-ms 200 --lost-heartbeats 2 --write-ms 200 --read-ms 150 --jitter-ms 100 "
    "--device-delay-ms 400"
).split()

# Three copies without checksums: one stray at an unknown place is outvoted by the two other copies,
# so M = floor(2 / 2) = 1. After an unclean takeover that budget is used up by the old owner; the
# new one goes on under time alone until `repaired`, and its status says so.
ALPHA = stage_portion(
    0, "alpha", 1, ("--redundancy", "mirror:3", "--detect", "no", "--exhausted", "window")
)

# Nothing repairs a stray here: only time protects. Its user caches nothing: `stateless`.
BETA = stage_portion(1, "beta", 2, ("--redundancy", "external"), "--stateless")

PORTIONS = (ALPHA, BETA)
