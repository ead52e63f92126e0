# SPDX-License-Identifier: GPL-2.0
"""Runs that are a row of steps, each of which builds on the one before: the first failure ends it.

The report is that of the kernel's selftests, with a line "N passed, N failed" at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from .host import RigError, patience


def expect(condition: object, what: str) -> None:
    """A check of a step."""
    if not condition:
        sys.stdout.flush()
        raise RigError(f"not so: {what}")


def until[R](
    condition: Callable[[], R | None],
    what: str | Callable[[], str],
    timeout: float = 60,
    pause: float = 0.1,
) -> R:
    """Waits for something that sends no event: asks again and again. Returns the first answer that
    counts as true; `what` describes the wait if it ends in vain."""
    deadline = time.monotonic() + patience(timeout)
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise RigError(f"waited in vain: {what if isinstance(what, str) else what()}")
        time.sleep(pause)
    return answer


def run_steps[S](
    steps: Sequence[Callable[[S], None]], stage: Callable[[], AbstractContextManager[S]]
) -> NoReturn:
    """Plays the steps on what `stage` sets up, and ends the program."""
    begun = time.monotonic()
    print(f"1..{len(steps)}", flush=True)
    done = 0
    try:
        with stage() as scene:
            for step in steps:
                step(scene)
                done += 1
                print(f"ok {done} {step.__name__} # {time.monotonic() - begun:.0f} s", flush=True)
    except RigError as error:
        print(f"not ok {done + 1} {steps[min(done, len(steps) - 1)].__name__}\n# {error}")
    print(f"{done} passed, {len(steps) - done} failed")
    sys.exit(0 if done == len(steps) else 1)
