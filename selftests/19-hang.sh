#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A member with a full queue blocks the thread that submits to it. Operations to this member wait
# then, and pending operations to other members do not [R17].

. ./lib.sh
plan 19

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit 'rmmod scsi_debug'
on_exit clean_up
load_module

# begin NUMBER MEMBER N: starts a write of 4 KiB with a place of its own, and succeeds when N writes
# are pending; its result goes to $work/NUMBER
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

# Puts the data of member 1 on a disk that takes one command at a time.
use_disk_without_queue() {
	modprobe scsi_debug fake_rw=1 dev_size_mb=128 max_queue=1 delay=0 &&
		eventually 20 find_disk && echo none >"/sys/block/$disk/queue/scheduler" &&
		dmsetup create p0m1d1 \
			--table "0 $(blockdev --getsz "$(member 0 1)") linear /dev/$disk 0"
}

find_disk() {
	disk=$(basename /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*)
	[ -b "/dev/$disk" ]
}

# Delays each command of the disk by 5000 jiffies, which are 20 seconds at 250 Hz.
slow_down() {
	echo 5000 >/sys/bus/pseudo/drivers/scsi_debug/delay
}

require "a portion with a limit of four is formatted" \
	format_portion 0 --redundancy parity:4 --detect yes --batch 4
require "the data of member 1 is on a disk that takes one command at a time" use_disk_without_queue
require "controller 1 owns the portion" map_as_owner 1 0
require "the disk of member 1 is slow" slow_down
check "message degraded 4 succeeds" send_message 1 0 degraded 4
check "the limit with four degraded members is zero" permits_are 0/0
check "a write to the slow member is pending" begin 1 1 1
check "a second write to the slow member is pending" begin 2 1 2
check "a write to member 0 is pending" begin 3 0 3
check "a write to member 2 is pending" begin 4 2 4
check "message degraded 0 succeeds" send_message 1 0 degraded 0
check "the write to member 0 ends" eventually 15 ended 3
check "the write to member 2 ends" eventually 15 ended 4
check_fails "the second write to the slow member has not ended" ended 2
check_fails "the first write to the slow member has not ended" ended 1
check_equal "the writes to members 0 and 2 are acknowledged" \
	"ok ok" "$(cat "$work/3") $(cat "$work/4")"
check "no write is pending any more" pending_is 0
wait
check_equal "both writes to the slow member are acknowledged" \
	"ok ok" "$(cat "$work/1") $(cat "$work/2")"
check "no permit is open at the end" permits_are 0/4

finish
