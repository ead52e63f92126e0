# SPDX-License-Identifier: GPL-2.0
"""What a bio costs, counted in guest instructions: see ../bench and ../README.md."""
