# SPDX-License-Identifier: GPL-2.0
"""Controllers in real kernels, and everything that can go wrong with them, by chance.

Every round is one fault, or two at once, drawn from the seed; a checker that knows nothing of the
module then judges what reached the disks. The verdict is the last line and the exit status;
every round is in .build/run/chaos/chaos.json. `--self-test` shows the rules histories in which
something is wrong; `--planted` does so with machines.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from rig import RigError
from rig.evidence import Reader
from rig.host import BUILD, SUFFIX, arguments_of
from rig.lease import show
from rig.media import raw_blocks
from rig.stage import RING

from .arena import CAST, Arena
from .exact import EXACT
from .faults import KINDS
from .judge import Judge
from .play import Play, Round, draw
from .report import save, shortcomings, summary, table

# So many batches one after the other that do not even begin end the run.
FRUITLESS = 3


def judge(directory: Path, rounds: list[Round]) -> tuple[list[str], dict[str, int]]:
    """Reads what a batch left behind and applies all rules to it."""
    shown = {portion.name: show([directory / f"{portion.disks[0]}.raw"])[0] for portion in CAST}
    evidence = Reader(directory, shown).read()
    blocks = {
        (portion.name, disk, number): record
        for portion in CAST
        for disk in evidence.all_disks(portion.name)
        for number, record in enumerate(raw_blocks(directory / f"{disk}.raw", RING))
    }
    court = Judge(evidence, blocks, rounds)
    return court.judge(), court.found.counts


def batch(seed: str, rounds: list[Round]) -> tuple[list[Round], list[str], dict[str, int]]:
    """One batch: the rounds that were played, what belongs to none of them, and what was judged."""
    try:
        arena = Arena(rounds[0].controllers, rounds[0].cpus)
    except RigError as error:
        return [], [str(error)], {}
    play = Play(arena, seed, rounds)
    wrong = play.run()
    try:
        found, counts = judge(arena.directory, play.done)
    except Exception:
        found, counts = [f"the evidence cannot be judged: {traceback.format_exc()}"], {}
    if found or wrong or any(one.failures for one in play.done):
        keep(arena.directory, seed, rounds[0].number)
    return play.done, wrong + found, counts


def keep(directory: Path, seed: str, number: int) -> None:
    """Keeps the evidence of a batch in which something is wrong."""
    kept = BUILD / "run" / f"chaos-{seed}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(directory, kept)
    print(f"its evidence is in {kept.relative_to('/src')}", flush=True)


def told(one: Round) -> str:
    """What the judge says of a round."""
    verdict = "FAIL" if one.failures else "ok"
    words = [
        f"# {one.number} of {one.controllers}x{one.cpus} {verdict}"
        f"{' starved' * one.starved}{' lost' * one.lost}",
        f"{'+'.join(one.kinds)}: {one.takeovers} takeovers, {one.strays} strays, "
        f"{one.refused} refused, {one.late} late, pause {one.pause_ms:.0f} ms, "
        f"back after {one.back} heartbeats",
        *(note if len(note) < 160 else f"{note[:150]}..." for note in one.notes),
    ]
    return "; ".join(words) + "".join(f"\n  FAILURE: {text}" for text in one.failures)


def run(options: argparse.Namespace) -> int:
    """All batches; 0 is a pass."""
    begun = time.monotonic()
    plan = draw(options.seed, options.rounds, options.kinds.split(","), options.batch)
    if options.only:
        plan = [one for one in plan if one.number in options.only]
    done: list[Round] = []
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    rest = plan
    fruitless = 0
    while rest and fruitless < FRUITLESS:
        kind = (rest[0].cpus, rest[0].controllers)
        part = [one for one in rest[: options.batch] if (one.cpus, one.controllers) == kind]
        played, found, judged = batch(options.seed, part)
        for text in found:
            print(f"  FAILURE: {text}", flush=True)
        for one in played:
            print(told(one), flush=True)
        done += played
        wrong += found
        counts.update(judged)
        rest = rest[len(played) :]
        fruitless = 0 if played else fruitless + 1
    return conclude(options, done, wrong, counts, begun)


def conclude(
    options: argparse.Namespace, done: list[Round], wrong: list[str], counts: Counter[str],
    begun: float,
) -> int:  # fmt: skip
    """The report of the whole run."""
    wrong += shortcomings(done, counts, 0 if options.only else options.rounds)
    print("\n".join([*table(done), *summary(done)]) if done else "no round was played")
    print("judged: " + ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    print("\n".join(f"  FAILURE: {text}" for text in wrong))
    save(BUILD / "run" / f"chaos{SUFFIX}" / "chaos.json", options.seed, done, counts, wrong)
    failed = sum(bool(one.failures) for one in done)
    starved, lost = sum(one.starved for one in done), sum(one.lost for one in done)
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{len(done) - failed} passed, {failed} failed, {starved} starved, {lost} lost; "
        f"seed {options.seed}, {minutes:.0f} minutes"
    )
    return 1 if failed or wrong or not done else 0


def planted(seed: str) -> int:
    """One round with a writer that goes past the gate; 0 if the judge blames just that."""
    done, wrong, _ = batch(seed, [Round(1, ["bypass"])])
    found = [text for one in done for text in one.failures]
    print("\n".join(["the judge must find a write without a permit, and finds:", *found, *wrong]))
    return 0 if found and not wrong and all("permit" in text for text in found) else 1


def main() -> None:
    usual = [name for name, kind in KINDS.items() if not kind.planted]
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", default=str(time.time_ns() // 1000 % 100000), help="of the run")
    parser.add_argument("--kinds", default=",".join([*EXACT, *usual]), help="which, with commas")
    parser.add_argument("--batch", type=int, default=20, help="rounds in the same guests (20)")
    parser.add_argument("--only", type=int, nargs="*", help="rounds of that seed, by number")
    parser.add_argument("--planted", action="store_true", help="a fraud that must be found")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    verdict = 1
    try:
        verdict = planted(options.seed) if options.planted else run(options)
    finally:
        print("PASS" if verdict == 0 else "FAIL", flush=True)
    sys.exit(verdict)
