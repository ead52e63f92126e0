#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The module of this build goes into this kernel and comes out again, and nothing else is tainted.

. ./lib.sh
plan 5

check "the module loads" load_module
check "the kernel is tainted by an unsigned out-of-tree module only" \
	[ $(($(cat /proc/sys/kernel/tainted) & ~(1 << 12 | 1 << 13))) -eq 0 ]
check "all disks of the rig are there" [ -b "$(member 1 2)" ]
check "the module unloads" rmmod dm_lease
check "and loads again" load_module

finish
