# SPDX-License-Identifier: GPL-2.0
"""What a bio costs.

    targets       the devices, `reservations` those behind a reservation of nvmet
    measure       the guest, and its records as costs
    sharing       cache lines that several processors write
    judge         the bars
    report        tables, with `lines` (of the source) and `plot`

The guest that counts, its symbols and its windows are in `rig.count`.
"""
