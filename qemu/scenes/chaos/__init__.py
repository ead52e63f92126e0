# SPDX-License-Identifier: GPL-2.0
"""Chaos: controllers in real kernels, faults by chance, and what must be true nevertheless.

    arena    the lab of a batch of rounds: two portions, writers everywhere, when service goes on
    faults   what can happen for a while: to machines, to members, to the load, by messages
    exact    rounds whose strays are known beforehand, to the last one
    play     rounds, drawn from a seed, batch after batch
    judge    S1 to S4 over the histories of all controllers, and how long it took to go on
    report   the table, and the file with all rounds

Evidence is the store's log, what writers were told, the kernels' traces, and the raw images
(`rig.evidence`); the rules are those of `scenes.demo.checker`, and some of its own.
"""
