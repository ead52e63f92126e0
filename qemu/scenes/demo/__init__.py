# SPDX-License-Identifier: GPL-2.0
"""The demonstration: five scenes with two controllers, and the checker that judges them.

    stage     the set-up: portions, controllers and what is done on them, writers
    acts      the scenes
    evidence  what is left of a run, read back: disks, store's log, acknowledgements, traces
    checker   what must be true of the evidence
    timeline  the run as a picture, as text and as JSON

The first two act, the last three judge; they share nothing but files in the run directory.
"""
