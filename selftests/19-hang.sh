#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A member whose queue is full makes whoever sends to it wait. That holds up what is sent to this
# member, and nothing that waited at the gate for another one [R17].

. ./lib.sh
plan 19

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit 'rmmod scsi_debug'
on_exit clean_up
load_module

# A write is one of 4 KiB to a member, at a place of its own; what became of it is in $work/NAME.
begin() {
	bio "/dev/mapper/p0m$2c1" write $(($1 * 4096)) 4096 direct >"$work/$1" &
	eventually 20 pending_is "$3"
}

ended() {
	[ -s "$work/$1" ]
}

pending_is() {
	[ "$(status_field p0m0c1 pending)" -eq "$1" ]
}

permits_are() {
	[ "$(status_field p0m0c1 permits)" = "$1" ]
}

# The data of member 1 goes to a disk that has room for one command at a time.
clog() {
	modprobe scsi_debug fake_rw=1 dev_size_mb=128 max_queue=1 delay=0 &&
		eventually 20 found && echo none >"/sys/block/$disk/queue/scheduler" &&
		dmsetup create p0m1d1 \
			--table "0 $(blockdev --getsz "$(member 0 1)") linear /dev/$disk 0"
}

found() {
	disk=$(basename /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*)
	[ -b "/dev/$disk" ]
}

# From now on the disk takes twenty seconds for a command, where a jiffy is four milliseconds.
slow() {
	echo 5000 >/sys/bus/pseudo/drivers/scsi_debug/delay
}

require "a portion with a limit of four" format_portion 0 --redundancy parity:4 --detect yes --batch 4
require "the data of one member goes to a disk without a queue" clog
require "controller 1 owns the portion" map_as_owner 1 0
require "the disk is slow" slow
check "four members are degraded" send_message 1 0 degraded 4
check "so that there is no permit" permits_are 0/0
check "a write to the slow member waits" begin 1 1 1
check "so does another" begin 2 1 2
check "so do writes to each of the other members" begin 3 0 3
check "which are last" begin 4 2 4
check "the members are back" send_message 1 0 degraded 0
check "the write to one member ends" eventually 15 ended 3
check "so does that to the other" eventually 15 ended 4
check_fails "while the second one to the slow member is held up" ended 2
check_fails "by the first" ended 1
check_equal "both ended well" "ok ok" "$(cat "$work/3") $(cat "$work/4")"
check "all have permits that were sent" pending_is 0
wait
check_equal "the others end well, too" "ok ok" "$(cat "$work/1") $(cat "$work/2")"
check "and all permits are back" permits_are 0/4

finish
