#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The module of this build loads and unloads in this kernel, and the kernel is not tainted
# otherwise.

. ./lib.sh
plan 5

check "the module loads" load_module
check "only an unsigned out-of-tree module taints the kernel" \
	[ $(($(cat /proc/sys/kernel/tainted) & ~(1 << 12 | 1 << 13))) -eq 0 ]
check "the last disk of the rig exists" [ -b "$(member 1 2)" ]
check "the module unloads" rmmod dm_lease
check "the module loads a second time" load_module

finish
