#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Members on dm-multipath: the failure of one path loses neither a write nor a heartbeat; the
# failure of all paths to a minority of the members keeps the lease; the failure of all paths to a
# majority ends it, and the controller owns the portion again when a path is restored [R6, R42].

. ./lib.sh
plan 22

on_exit clean_up
load_module
modprobe dm-multipath && modprobe dm-round-robin || skip_all "no dm-multipath"

# Creates two paths to each member, and a multipath device under the name that map_portion expects
# for the path to the member.
create_multipath() {
	for index in 0 1 2; do
		device=$(member 0 $index) name=p0m$index
		size=$(blockdev --getsz "$device")
		for path in a b; do
			dmsetup create $name$path --table "0 $size linear $device 0" || return 1
		done
		dmsetup create ${name}w1 --table "0 $size multipath 2 queue_mode bio 0 1 1 \
			round-robin 0 2 1 /dev/mapper/${name}a 1 /dev/mapper/${name}b 1" || return 1
	done
}

# fail_path INDEX PATH: lets the path end all I/O with errors
fail_path() {
	replace_table "$1" "$2" "error"
}

# restore_path INDEX PATH: repairs the path, and lets dm-multipath use it again
restore_path() {
	replace_table "$1" "$2" "linear $(member 0 "$1") 0" &&
		dmsetup message "p0m${1}w1" 0 reinstate_path "$(dmsetup info -c --noheadings \
			--separator : -o major,minor "p0m$1$2")"
}

replace_table() {
	size=$(blockdev --getsz "/dev/mapper/p0m$1$2")
	dmsetup load "p0m$1$2" --table "0 $size $3" &&
		dmsetup suspend --noflush --nolockfs "p0m$1$2" && dmsetup resume "p0m$1$2"
}

# failed_paths_are INDEX N: succeeds if dm-multipath knows N failed paths to the member
failed_paths_are() {
	[ "$(dmsetup status "p0m${1}w1" | grep -o ' F ' | wc -l)" -eq "$2" ]
}

heartbeats_exceed() {
	[ "$(status_field p0m0c1 heartbeat)" -gt "$1" ]
}

# Succeeds when controller 1 has completed three more heartbeats.
heartbeats_continue() {
	eventually 20 heartbeats_exceed $(($(status_field p0m0c1 heartbeat) + 3))
}

write() {
	bio "/dev/mapper/p0m${1}c1" write $((4096 * $2)) 4096 direct
}

# The leases are longer than in other tests, because a lease that a slow guest loses fails this
# test.
require "a portion with leases of 4 s is formatted" format_portion 0 --lease-ms 4000
require "each member gets a multipath device with two paths" create_multipath
require "controller 1 owns the portion on multipath devices" map_as_owner 1 0
check_equal "controller 1 counts three members" 3 "$(status_field p0m0c1 members_ok)"
epoch=$(status_field p0m0c1 epoch)

for index in 0 1 2; do
	check "path a to member $index fails" fail_path $index a
	check_equal "a write to member $index passes by path b" ok "$(write $index 1)"
done
check "controller 1 heartbeats by the second paths" heartbeats_continue
check "dm-multipath reports one failed path to member 0" eventually 20 failed_paths_are 0 1

check "path b to member 0 fails" fail_path 0 b
check_equal "a write to a member without a path ends with EIO" EIO "$(write 0 2)"
check "controller 1 heartbeats with a majority of the members" heartbeats_continue
check_equal "writes to members 1 and 2 pass" "ok ok" "$(write 1 2) $(write 2 2)"
check_equal "controller 1 is still in its first epoch" "$epoch" "$(status_field p0m0c1 epoch)"

expect_warning "controller 1: owner -> secondary"
check "path b to member 1 fails" fail_path 1 b
check "controller 1 loses its lease without a majority" eventually 60 role_is 1 0 secondary
check_equal "a write to member 2 is refused after the lapse" EBADE "$(write 2 3)"
check "path b to member 1 is restored" restore_path 1 b
check "controller 1 owns the portion again" eventually 60 role_is 1 0 owner

finish
