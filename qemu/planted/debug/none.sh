#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that passes on a kernel that watches itself: or the other verdicts prove nothing.
echo "TAP version 13"
echo "1..1"
insmod /usr/lib/rig/modules/planted.ko defect=none && rmmod planted &&
	echo "ok 1 nothing to see here"
