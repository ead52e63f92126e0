#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that passes while the kernel warns: with panic_on_warn that ends the guest.
echo "TAP version 13"
echo "1..1"
insmod /usr/lib/rig/modules/planted.ko defect=warn && rmmod planted &&
	echo "ok 1 nothing to see here"
