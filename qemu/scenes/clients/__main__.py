# SPDX-License-Identifier: GPL-2.0
"""A client of two controllers over NVMe/TCP sees pauses and no errors, whatever happens.

Two controllers export two portions by the commands of scripts/doc/exports.md; a client with native
multipath runs a database, fio with verification and two writers. Stall, hand-over, power cut and
return come first, then N faults by chance (20), and at last two mistakes that the client must
notice. The verdict is the last line and the exit status. Everything of the run is in
.build/run/clients/.
"""

from __future__ import annotations

import argparse
import sys
import time

from rig import Lab, RigError
from rig.host import arguments_of

from .play import Play

# A guest that was stopped may blame RCU; leases end, and that is said as a warning.
ALLOW = r"rcu.* stall|soft lockup|controller \d: owner -> secondary"


def play(options: argparse.Namespace) -> list[str]:
    """The whole run; what is wrong."""
    wrong: list[str] = []
    try:
        with Lab(
            "clients", portions=2, allow=ALLOW, profile="export", clients=1, client_memory=640
        ) as lab:
            run = Play(lab, options.seed)
            run.set_up()
            run.reads()
            run.planned()
            run.rounds(options.rounds)
            wrong = run.finish()
            run.planted()
    except RigError as error:
        wrong.append(str(error))
    return wrong


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="faults by chance (20)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000, help="their seed")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    wrong = ["the run ended early"]
    try:
        wrong = play(options)
    finally:
        for failure in wrong:
            print(f"  FAILURE: {failure}")
        print("FAIL" if wrong else "PASS", flush=True)
    sys.exit(1 if wrong else 0)
