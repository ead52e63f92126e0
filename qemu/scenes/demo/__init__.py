# SPDX-License-Identifier: GPL-2.0
"""The demonstration: five scenes with two controllers, and the checker that judges them.

    portions  the two portions and their timings
    database  what is written to one of them
    acts      the scenes, on the stage that `rig.stage` sets up
    checker   what must be true of the evidence, which `rig.evidence` reads back
    report    what the checker counted
    timeline  the run as a picture, as text and as JSON

The first three act, the others judge; they share nothing but files in the run directory.
"""
