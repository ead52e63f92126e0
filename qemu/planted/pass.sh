#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that passes: the rig must say so, or its other verdicts prove nothing.
echo "TAP version 13"
echo "1..1"
echo "ok 1 all is well"
