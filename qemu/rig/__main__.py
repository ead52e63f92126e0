# SPDX-License-Identifier: GPL-2.0
"""Starts a scene by its name: `qemu/run NAME [ARGUMENT...]`.

A scene is a folder of qemu/scenes. Its `__main__.py` has a function `main`, which reads the
arguments and ends the program. The first line of the file's docstring is the line in the list. With
`--self-test` as the only argument the unit tests in the folder (`test_*.py`) are run instead.
"""

from __future__ import annotations

import ast
import importlib
import sys
import unittest
from pathlib import Path
from typing import NoReturn

from .host import SOURCE, RigError, require_root

HERE = SOURCE / "qemu"
SCENES = HERE / "scenes"


def names() -> list[str]:
    """The names of all scenes."""
    return sorted(path.parent.name for path in SCENES.glob("*/__main__.py"))


def summary(name: str) -> str:
    """The first line of a scene's docstring."""
    text = (SCENES / name / "__main__.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def self_test(directory: Path) -> NoReturn:
    """Runs the unit tests in a directory and ends the program."""
    if not list(directory.glob("test_*.py")):
        sys.exit(f"qemu/run: no unit tests in {directory.relative_to(SOURCE)}")
    suite = unittest.defaultTestLoader.discover(str(directory), "test_*.py", str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    sys.exit(1 if bad or not result.testsRun else 0)


def main() -> None:
    """Starts the scene that the command line names."""
    require_root()
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print("usage: qemu/run NAME [ARGUMENT...]\n")
        print("\n".join(f"{each:12} {summary(each)}" for each in names()))
        return
    if name == "--self-test":
        self_test(HERE / "rig")
    if name not in names():
        sys.exit(f"qemu/run: no scene is called {name!r}; there are: {' '.join(names())}")
    if arguments == ["--self-test"]:
        self_test(SCENES / name)
    sys.argv = [f"qemu/run {name}", *arguments]
    scene = importlib.import_module(f"scenes.{name}.__main__")
    try:
        scene.main()
    except RigError as error:
        sys.exit(f"qemu/run {name}: FAIL: {error}")


if __name__ == "__main__":
    main()
