#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A virtual machine learns that it was copied, or returned to a snapshot of its memory. Its
# controllers latch every portion and join anew. Data that is cached above a device which was open
# then is not written into a later epoch [R31, R58].

. ./lib.sh
plan 16

on_exit clean_up
load_module

# Loads a module that tells the kernel that this machine is a copy.
report_copy() {
	mark_log
	if [ -e /usr/lib/rig/modules/dm_lease_fork.ko ]; then
		insmod /usr/lib/rig/modules/dm_lease_fork.ko 2>/dev/null
	else
		modprobe dm_lease_fork 2>/dev/null
	fi
	log_has "dm_lease_fork: this machine is a copy"
}

# owns_epoch_above P N: succeeds if controller 1 owns portion P in an epoch above N
owns_epoch_above() {
	epoch=$(status_field "p$1m0c1" epoch)
	[ "${epoch:--}" != - ] && [ "$epoch" -gt "$2" ] && role_is 1 "$1" owner
}

require "portion alpha is formatted" format_portion 0
require "portion beta is formatted" format_portion 1
require "controller 1 owns alpha" map_as_owner 1 0
require "controller 1 owns beta" map_as_owner 1 1
exec 7</dev/mapper/p1m0c1
expect_warning "alpha controller 1: owner -> "
expect_warning "beta controller 1: owner -> "
check "the kernel is told that the machine is a copy" report_copy
check "the log says that the host was copied" eventually 20 log_has "this host was copied"
check "controller 1 joins alpha anew and owns a later epoch [R58]" \
	eventually 60 owns_epoch_above 0 1
check_equal "a write to alpha passes in the later epoch" \
	ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "controller 1 does not claim beta while a device is open [R31]" \
	eventually 60 reason_is 1 1 stale_openers
check_equal "a write to beta is refused while a device is open" \
	EBADE "$(bio /dev/mapper/p1m1c1 write 0 4096 direct)"
exec 7<&-
check "controller 1 owns beta when its device is closed" eventually 60 owns_epoch_above 1 1
check_equal "a write to beta passes when its device is closed" \
	ok "$(bio /dev/mapper/p1m1c1 write 0 4096 direct)"
check "the test announces a second copy" expect_warning "alpha controller 1: owner -> "
expect_warning "beta controller 1: owner -> "
check "the kernel is told a second time that the machine is a copy" report_copy
check "controller 1 owns alpha in a later epoch after the second copy" \
	eventually 60 owns_epoch_above 0 2
check "controller 1 owns beta in a later epoch after the second copy" \
	eventually 60 owns_epoch_above 1 2

finish
