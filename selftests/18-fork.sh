#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A virtual machine that is told that it was copied, or put back to a snapshot of its memory: it
# latches every portion and joins anew, and what a device that was open then has cached is not written
# into a later epoch [R31, R58].

. ./lib.sh
plan 16

on_exit clean_up
load_module

fork() {
	mark_log
	if [ -e /usr/lib/rig/modules/dm_lease_fork.ko ]; then
		insmod /usr/lib/rig/modules/dm_lease_fork.ko 2>/dev/null
	else
		modprobe dm_lease_fork 2>/dev/null
	fi
	log_has "dm_lease_fork: this machine is a copy"
}

epoch_is_above() {
	epoch=$(status_field "p$1m0c1" epoch)
	[ "${epoch:--}" != - ] && [ "$epoch" -gt "$2" ] && role_is 1 "$1" owner
}

require "a portion is formatted" format_portion 0
require "and another" format_portion 1
require "controller 1 owns one" map_as_owner 1 0
require "and the other" map_as_owner 1 1
exec 7</dev/mapper/p1m0c1
expect_warning "alpha controller 1: owner -> "
expect_warning "beta controller 1: owner -> "
check "the machine is told that it is a copy" fork
check "it says why it gave the portions up" eventually 20 log_has "this machine was copied"
check "it joins one anew, and owns it in a later epoch [R58]" eventually 60 epoch_is_above 0 1
check_equal "a write passes" ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "what is open is not claimed [R31]" eventually 60 reason_is 1 1 stale_openers
check_equal "a write to it is refused" EBADE "$(bio /dev/mapper/p1m1c1 write 0 4096 direct)"
exec 7<&-
check "when it was closed it is" eventually 60 epoch_is_above 1 1
check_equal "a write passes" ok "$(bio /dev/mapper/p1m1c1 write 0 4096 direct)"
check "the next copy" expect_warning "alpha controller 1: owner -> "
expect_warning "beta controller 1: owner -> "
check "is noticed, too" fork
check "and owns one again" eventually 60 epoch_is_above 0 2
check "and the other" eventually 60 epoch_is_above 1 2

finish
