# SPDX-License-Identifier: GPL-2.0
"""Clients of two controllers, over NVMe/TCP, while the controllers go through everything.

    manual     the commands of scripts/doc/exports.md, which set all of it up
    appliance  two controllers: two portions, their exports, the service that keeps both in step
    client     one client: multipath, and three kinds of users who know what they were promised
    play       the scenes: stall, power cut, hand-over, return, and two that must fail
    faults     what else can happen, by chance
    judge      what must be true of the clients and of the disks, and how long the pauses were

Evidence is what users of the client were told, and the store's log; the module is not asked.
"""
