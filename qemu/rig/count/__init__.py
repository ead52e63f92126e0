# SPDX-License-Identifier: GPL-2.0
"""A guest whose instructions are counted: see ../../README.md, "Counting what a bio costs"."""
