# SPDX-License-Identifier: GPL-2.0
"""Rounds, drawn from a seed, batch after batch.

What a round is depends on the seed and its number only, so that one of them can be repeated by
itself. A batch has new guests and disks, with one processor or two; it ends early when a round does
not come to its end, and the next one begins with the round after that.
"""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field

from rig import RigError

from .arena import CAST, PERIOD, WINDOW, WINDOW_MS, Arena
from .exact import EXACT, Disturbed
from .faults import KINDS, LostError, Scene

# So many of those events that can happen on a ground have one, and so many victims own nothing.
PAIRS, BYSTANDERS = 0.5, 0.2
# So often an exact round begins anew when a loaded machine disturbs it.
ATTEMPTS = 3


@dataclass
class Round:
    """One round: what was done, and what the judge found."""

    number: int
    kinds: list[str]
    cpus: int = 1
    controllers: int = 3
    portion: str = ""
    victim: int = 0
    epoch: int = 0
    length_ms: int = 0
    what: str = ""
    takeovers: int = 0
    strays: int = 0
    refused: int = 0
    late: int = 0
    pause_ms: float = 0
    silent_ms: float = 0
    """The longest time in which the array heard nobody."""
    back: int = 0
    """Heartbeats of the last winner from the end of the fault to its lease."""
    starved: bool = False
    lost: bool = False
    """The machine did not wake up: only safety is judged, and the batch ends."""
    resumed: list[tuple[int, float]] = field(default_factory=list)
    """Where clocks stood still: the writes that landed after the resume, and until when, in ms."""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def draw(seed: str, count: int, kinds: list[str], batch: int) -> list[Round]:
    """What will happen: every kind as often as the others, and the exact ones always. Guests have
    two processors in every second batch, and there are two of them in every third."""
    rng = random.Random(seed)
    names: list[str] = []
    while len(names) < count:
        turn = [*kinds]
        rng.shuffle(turn)
        turn.sort(key=lambda name: name not in EXACT)
        turn = turn[: count - len(names)]
        rng.shuffle(turn)
        names += turn
    grounds = [name for name in kinds if name in KINDS and KINDS[name].ground]
    rounds = []
    for number, name in enumerate(names, 1):
        index = (number - 1) // batch
        cpus, controllers = 2 - index % 2, 2 if index % 3 == 2 else 3
        chosen = [name]
        if name in KINDS and KINDS[name].pairs and grounds and rng.random() < PAIRS:
            chosen.insert(0, rng.choice(grounds))
        rounds.append(Round(number, chosen, cpus, controllers))
    return rounds


class Play:
    """One batch."""

    def __init__(self, arena: Arena, seed: str, rounds: list[Round]) -> None:
        self.arena = arena
        self.seed = seed
        self.rounds = rounds
        self.done: list[Round] = []

    def run(self) -> list[str]:
        """Plays all rounds; what is wrong with the batch itself."""
        wrong: list[str] = []
        try:
            self.arena.set_up()
            for one in self.rounds:
                self.done.append(one)
                self.play(one)
            self.arena.finish()
        except LostError as error:
            self.done[-1].lost = True
            self.done[-1].notes.append(f"the machine is lost: {error}")
        except RigError as error:
            self.blame(wrong, str(error))
        except Exception:
            self.blame(wrong, traceback.format_exc())
        finally:
            self.arena.save()
            for name, lines in self.arena.lab.complaints().items():
                wrong += [f"kernel of {name}: {line}" for line in lines]
            self.arena.lab.close()
            self.arena.lock.close()
        return wrong

    def blame(self, wrong: list[str], text: str) -> None:
        """An error belongs to the round in which it came."""
        if self.done:
            self.done[-1].failures.append(text)
        else:
            wrong.append(text)

    def play(self, one: Round) -> None:
        """One round, to the moment when everything goes on."""
        arena = self.arena
        begun = time.monotonic()
        with arena.span("round", number=one.number) as fact:
            for attempt in range(ATTEMPTS):
                scene = self.scene(one)
                # As much of a heartbeat period goes by as chance wants.
                time.sleep(scene.rng.random() * PERIOD)
                try:
                    self.happens(one, scene)
                    break
                except Disturbed as error:
                    one.notes.append(f"attempt {attempt + 1} was disturbed: {error}")
                    arena.goes_on(arena.attempts())
            fact["healed"] = time.monotonic_ns()
            arena.goes_on(arena.attempts())
        arena.repaired()
        arena.say(
            f"round {one.number}: {'+'.join(one.kinds)} of c{one.victim}, {one.what}; "
            f"{time.monotonic() - begun:.1f} s"
        )

    def happens(self, one: Round, scene: Scene) -> None:
        """What the round is about."""
        if one.kinds[0] in EXACT:
            EXACT[one.kinds[0]][0](scene)
            return
        heals = [KINDS[name].begin(scene) for name in one.kinds]
        time.sleep(scene.length)
        for heal in heals[::-1]:
            heal()

    def scene(self, one: Round) -> Scene:
        """Who it happens to, for how long."""
        rng = random.Random(f"{self.seed}/{one.number}")
        exact = one.kinds[0] in EXACT
        cast = EXACT[one.kinds[0]][1] if exact else CAST
        portion = rng.choice(cast)
        owner, epoch = self.arena.owners()[portion.name]
        victim = owner
        kinds = [] if exact else [KINDS[name] for name in one.kinds]
        others = [c for c in self.arena.controllers if c is not owner]
        if kinds and not any(k.of_owner for k in kinds) and rng.random() < BYSTANDERS:
            victim = rng.choice(others)
        length = max((rng.uniform(k.shortest, k.longest) for k in kinds), default=0) * WINDOW
        one.portion, one.victim, one.epoch = portion.name, victim.number, epoch
        one.length_ms = int(length * 1000)
        role = "owner" if victim is owner else "bystander"
        one.what = f"{role} of {portion.name} epoch {epoch}, {one.length_ms / WINDOW_MS:.1f} W"
        return Scene(self.arena, rng, portion, owner, epoch, victim, length)
