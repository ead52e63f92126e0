# SPDX-License-Identifier: GPL-2.0
"""Two controllers, six shared disks, and everything that can go wrong, to watch.

Plays five scenes with two virtual machines, then lets a checker that knows nothing of the module
judge what reached the disks. The verdict is the last line and the exit status. It leaves
timeline.svg, timeline.json and report.txt in .build/run/demo/. With --self-test no machine is
started: the checker is shown histories in which something is wrong and must find it.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from rig import RigError
from rig.evidence import Evidence, Reader
from rig.host import arguments_of
from rig.lease import show
from rig.media import file_records, raw_blocks
from rig.stage import RING, Stage

from . import timeline
from .acts import Play
from .checker import Checker, Findings
from .portions import BETA, PORTIONS, TIMINGS
from .report import report


def play(stage: Stage) -> list[str]:
    """Plays all scenes; returns what went wrong."""
    wrong = []
    try:
        Play(stage).run()
    except RigError as error:
        wrong.append(f"scene: {error}")
    except Exception:
        wrong.append(f"scene: {traceback.format_exc()}")
    finally:
        stage.save()
        for name, lines in stage.lab.complaints().items():
            wrong += [f"kernel of {name}: {line}" for line in lines]
        stage.lab.close()
    return wrong


def judge(directory: Path) -> tuple[Evidence, Findings]:
    """Reads a run directory and applies all rules to it."""
    images = {disk: directory / f"{disk}.raw" for portion in PORTIONS for disk in portion.disks}
    shown = {portion.name: show([images[portion.disks[0]]])[0] for portion in PORTIONS}
    evidence = Reader(directory, shown).read()
    blocks = {
        (BETA.name, member, number): record
        for member, disk in enumerate(BETA.disks)
        for number, record in enumerate(raw_blocks(images[disk], RING))
    }
    files = {}
    wrong = []
    for portion in PORTIONS:
        if portion is not BETA:
            copies = [file_records(images[disk], "/ledger") for disk in portion.disks]
            files[portion.name] = [records for records, _ in copies]
            wrong += [
                f"file system on {d}: {w}"
                for d, (_, w) in zip(portion.disks, copies, strict=True)
                if w
            ]
    found = Checker(evidence, blocks, files).check()
    found.failures += wrong
    return evidence, found


def main() -> None:
    arguments_of(__doc__).parse_args()
    verdict = 1
    try:
        verdict = run()
    finally:
        print("PASS" if verdict == 0 else "FAIL", flush=True)
    sys.exit(verdict)


def run() -> int:
    """The whole demonstration; 0 is a pass."""
    try:
        stage = Stage("demo", PORTIONS, TIMINGS)
    except RigError as error:
        print(error)
        return 1
    wrong = play(stage)
    try:
        evidence, found = judge(stage.directory)
    except Exception:
        print("\n".join(wrong))
        print(f"the evidence cannot be judged: {traceback.format_exc()}")
        return 1
    failures = wrong + found.failures
    picture = timeline.Timeline(evidence, found)
    lines = ["", *picture.text(), "", *report(evidence, found), ""]
    lines += [f"  FAILURE: {failure}" for failure in failures]
    lines.append(f"  verdict: {'FAIL' if failures else 'PASS'}, {len(failures)} failures")
    print("\n".join(lines))
    (stage.directory / "report.txt").write_text("\n".join(lines) + "\n")
    picture.save(stage.directory, failures)
    stage.say(
        f"timeline.svg, timeline.json and report.txt are in {stage.directory.relative_to('/src')}"
    )
    return 1 if failures else 0
