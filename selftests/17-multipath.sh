#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# dm-multipath below: a path that fails costs neither a write nor a heartbeat; all paths to a
# minority of the members cost nothing; all paths to a majority cost the lease, and the portion is
# owned again when a path is back [R6, R42].

. ./lib.sh
plan 22

on_exit clean_up
load_module
modprobe dm-multipath && modprobe dm-round-robin || skip_all "no dm-multipath"

# Two paths to each member, and the multipath device where `up` looks for the way to it.
multipath() {
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

# sever INDEX PATH, mend INDEX PATH: the path answers with errors; it is whole, and tried again
sever() {
	change "$1" "$2" "error"
}

mend() {
	change "$1" "$2" "linear $(member 0 "$1") 0" &&
		dmsetup message "p0m${1}w1" 0 reinstate_path "$(dmsetup info -c --noheadings \
			--separator : -o major,minor "p0m$1$2")"
}

change() {
	size=$(blockdev --getsz "/dev/mapper/p0m$1$2")
	dmsetup load "p0m$1$2" --table "0 $size $3" &&
		dmsetup suspend --noflush --nolockfs "p0m$1$2" && dmsetup resume "p0m$1$2"
}

# failed INDEX N: whether N paths to a member are known as failed
failed() {
	[ "$(dmsetup status "p0m${1}w1" | grep -o ' F ' | wc -l)" -eq "$2" ]
}

beaten() {
	[ "$(status_field p0m0c1 heartbeat)" -gt "$1" ]
}

# Some heartbeats from now.
goes_on() {
	eventually 20 beaten $(($(status_field p0m0c1 heartbeat) + 3))
}

write() {
	bio "/dev/mapper/p0m${1}c1" write $((4096 * $2)) 4096 direct
}

# A lease that is lost by chance would be a failure here.
require "a portion is formatted" format_portion 0 --lease-ms 4000
require "each member has two paths" multipath
require "controller 1 owns, by multipath devices" map_as_owner 1 0
check_equal "with all members" 3 "$(status_field p0m0c1 members_ok)"
epoch=$(status_field p0m0c1 epoch)

for index in 0 1 2; do
	check "a path to member $index is severed" sever $index a
	check_equal "a write finds the other one" ok "$(write $index 1)"
done
check "so do the heartbeats" goes_on
check "dm-multipath has noticed" eventually 20 failed 0 1

check "the other path to one member is severed" sever 0 b
check_equal "writes to that fail as they would without a lease" EIO "$(write 0 2)"
check "the owner goes on with a majority" goes_on
check_equal "writes to the others pass" "ok ok" "$(write 1 2) $(write 2 2)"
check_equal "in the same epoch" "$epoch" "$(status_field p0m0c1 epoch)"

expect_warning "controller 1: owner -> secondary"
check "the other path to a second member is severed" sever 1 b
check "the lease ends" eventually 60 role_is 1 0 secondary
check_equal "and member 2 is not written any more" EBADE "$(write 2 3)"
check "a path is mended" mend 1 b
check "controller 1 owns again" eventually 60 role_is 1 0 owner

finish
