# SPDX-License-Identifier: GPL-2.0
"""Every scene can be listed, has one function `main`, and parses its arguments there."""

from __future__ import annotations

import ast
import unittest

from .__main__ import SCENES, names, summary

# With its name a line of the list fits 100 columns.
WIDTH = 87


class Scenes(unittest.TestCase):
    """What qemu/run expects of a scene."""

    def test_every_folder_is_a_scene(self) -> None:
        folders = {path.parent.name for path in SCENES.glob("*/*.py")}
        self.assertEqual(set(names()), folders)

    def test_every_scene_says_what_it_does(self) -> None:
        for name in names():
            with self.subTest(name):
                self.assertTrue(0 < len(summary(name)) <= WIDTH, summary(name))

    def test_every_scene_parses_its_arguments(self) -> None:
        for name in names():
            tree = ast.parse((SCENES / name / "__main__.py").read_text())
            found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            starts = [node for node in found if node.name == "main"]
            with self.subTest(name):
                self.assertEqual(len(starts), 1)
                self.assertIn("parse_args", ast.unparse(starts[0]))
