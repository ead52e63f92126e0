#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The life of a session in adverse conditions: a table becomes live while others are removed and a
# member hangs; messages arrive on a busy machine; disks hang when the system goes to sleep; a
# member returns under another device number; first tables disagree [R1, R39, R43, R44, R60, R61].

. ./lib.sh
plan 50

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# threads NAME: prints how many kernel threads have the name
threads() {
	cat /proc/[0-9]*/comm 2>/dev/null | grep -cx "$1"
}

threads_are() {
	[ "$(threads "$1")" -eq "$2" ]
}

# --- A table becomes live while the last of the other devices is removed and a member hangs.

# Member 2 is a disk that takes one command at a time. While each command takes long, the next one
# waits in its submission, so that the member thread hangs there.
create_slow_disk() {
	modprobe scsi_debug dev_size_mb=32 max_queue=1 sector_size=512 || return 1
	mkdir "$work/disks" && ln -s "$devices/p0m0" "$devices/p0m1" "$work/disks"
	eventually 20 find_slow_disk && ln -s "/dev/$slow" "$work/disks/p0m2" &&
		echo none >"/sys/block/$slow/queue/scheduler"
}

find_slow_disk() {
	slow=$(cd /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block && echo *)
	[ -b "/dev/$slow" ]
}

# set_delay JIFFIES: delays each later command of the disk
set_delay() {
	echo "$1" 2>/dev/null >/sys/bus/pseudo/drivers/scsi_debug/delay
}

# The delay can be changed only while the disk is idle, so its mailbox I/O is held meanwhile.
make_fast() {
	dmsetup suspend --noflush --nolockfs p0m2h1 || return 1
	eventually 60 set_delay 0
	fast=$?
	dmsetup resume p0m2h1
	return $fast
}

# The stack of a thread that waits for a tag of a disk contains blk_mq_get_tag.
hangs_in_submission() {
	for task in /proc/[0-9]*; do
		grep -qx dm_lease_io "$task/comm" 2>/dev/null &&
			grep -q blk_mq_get_tag "$task/stack" && return 0
	done
	return 1
}

is_live() {
	dmsetup info -c --noheadings -o suspended p0m0x1 | grep -q Active
}

on_exit 'rmmod scsi_debug 2>/dev/null'
all_devices=$devices
require "a disk that takes one command at a time is created" create_slow_disk
devices=$work/disks
require "a portion with this disk as member 2 is formatted" format_portion 0
require "controller 1 owns the portion with the slow disk" map_as_owner 1 0
check_equal "a session has one dispatcher" 1 "$(threads dm_lease_turn)"
check_equal "a session has one portion thread" 1 "$(threads dm_lease)"
check_equal "a session has one thread for each member" 3 "$(threads dm_lease_io)"
dmsetup create p0m0x1 --notable
require "another table of member 0 is loaded" dmsetup load p0m0x1 --table "$(dmsetup table p0m0c1)"
require "each command of the disk takes long" eventually 20 set_delay 1500
require "a member thread hangs in a submission" eventually 60 hangs_in_submission
for index in 1 2 0; do
	dmsetup remove --retry "p0m${index}c1"
done &
removal=$!
check "the other table becomes live while the last device is removed" \
	timeout 20 dmsetup resume p0m0x1
check "the other device is active" is_live
check "the member thread still hangs" hangs_in_submission
check_equal "the session still has one dispatcher [R60]" 1 "$(threads dm_lease_turn)"
check_equal "the session still has one portion thread" 1 "$(threads dm_lease)"
require "the commands of the disk become fast again" make_fast
check "the removal of the three devices ends" wait $removal

# A controller owns a portion only with a majority of its members. Now it has one device of three.
check "the controller gives the portion up with one member of three" \
	eventually 60 status_field_is p0m0x1 reason removed
for index in 1 2; do
	line=$(leasectl table --controller 1 "/dev/mapper/p0m${index}w1") &&
		dmsetup create "p0m${index}c1" --table "$line"
done

check "the controller owns the portion again with all members" \
	eventually 60 status_field_is p0m0x1 role owner
check_equal "a write to the other device passes" ok "$(bio /dev/mapper/p0m0x1 write 0 4096 direct)"
for name in p0m1c1 p0m2c1 p0m0x1; do
	check "the device $name is removed" dmsetup remove --retry "$name"
done
check "all dispatchers have ended with the last device" eventually 20 threads_are dm_lease_turn 0
for part in w h d; do
	for index in 0 1 2; do
		dmsetup remove --retry "p0m$index${part}1"
	done
done
check "the slow disk is removed" eventually 20 rmmod scsi_debug
devices=$all_devices

# --- Messages arrive while the processors are busy.

# The senders of messages get little processor time, and are preempted at any point.
send_messages_under_load() {
	hogs='' storms=''
	for _ in $(seq $(($(nproc) * 4))); do
		nice -n -20 sh -c 'while :; do :; done' &
		hogs="$hogs $!"
	done
	for storm in 1 2 3 4; do
		nice -n 5 storm p0m0c1 30 degraded 0 >"$work/storm$storm" &
		storms="$storms $!"
	done
	for storm in $storms; do
		wait "$storm" || return 1
	done
}

stop_hogs() {
	# shellcheck disable=SC2086 # numbers have no blanks
	kill $hogs
	wait
}

require "a portion is formatted" format_portion 0
require "controller 1 owns the portion" map_as_owner 1 0
check "each message on a busy machine is answered" send_messages_under_load
stop_hogs
sent=$(cat "$work"/storm? | awk '{ sum += $1 } END { print sum }')
print_note "$sent messages were sent"
check "more than twenty messages were sent" [ "$sent" -gt 20 ]
check_equal "controller 1 kept its lease on a busy machine [R44, R61]" \
	"owner 1" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"

# --- Disks of two portions hang when the system goes to sleep.

# suspend_mailboxes P: as hold_mailboxes, but the notifier demotes the controller, not a lapse
suspend_mailboxes() {
	for index in 1 2; do
		dmsetup suspend --noflush --nolockfs "p$1m${index}h1" || return 1
	done
}

resume_suspended_mailboxes() {
	for index in 1 2; do
		dmsetup resume "p$1m${index}h1" || return 1
	done
}

# line TEXT: prints the number of the first line with the text in the log since the mark
line() {
	log_since_mark | grep -nF -- "$1" | head -n 1 | cut -d : -f 1
}

# The release of alpha began first. The release of beta must begin before that of alpha has failed.
began_together() {
	[ "$(line "beta controller 1: owner -> ")" -lt \
		"$(line "alpha controller 1: the system suspends, but not released")" ]
}

check "controller 1 unmaps the portion" unmap_portion 1 0
require "portion alpha is formatted with long leases" format_portion 0 --lease-ms 8000
require "portion beta is formatted with long leases" format_portion 1 --lease-ms 8000
require "controller 1 owns alpha" map_as_owner 1 0
require "controller 1 owns beta" map_as_owner 1 1
echo freezer >/sys/power/pm_test
mark_log
check "the mailbox I/O of alpha hangs" suspend_mailboxes 0
check "the mailbox I/O of beta hangs" suspend_mailboxes 1
# The echo of the shell does not report the error of a write; dd does.
go_to_sleep() {
	echo freeze | dd of=/sys/power/state 2>"$work/error"
}
check_fails "the suspend of the system fails while mailbox I/O hangs" go_to_sleep
check "the suspend fails with EBUSY" grep -q "Device or resource busy" "$work/error"
check "the release of both portions began before one had failed [R43]" began_together
echo none >/sys/power/pm_test
resume_suspended_mailboxes 0
resume_suspended_mailboxes 1
check "controller 1 owns alpha after the failed suspend" eventually 60 role_is 1 0 owner
check "controller 1 owns beta after the failed suspend" eventually 60 role_is 1 1 owner
check "controller 1 unmaps beta" unmap_portion 1 1

# --- A member returns under another device number while its mapped device is in use.

load_under_other_number() {
	size=$(blockdev --getsz "$(member 0 0)")
	dmsetup create p0m0y1 --table "0 $size linear $(member 0 0) 0" &&
		leasectl table --controller 1 /dev/mapper/p0m0y1 >"$work/line" &&
		dmsetup load p0m0c1 --table "$(cat "$work/line")"
}

# has_heartbeats_there N: succeeds if the other path shows more than N heartbeats of controller 1
has_heartbeats_there() {
	now=$(leasectl show /dev/mapper/p0m0y1 |
		sed -n "s/^  controller 1: .*heartbeat [0-9]* (write \([0-9]*\)).*/\1/p")
	[ "${now:-0}" -gt "$1" ]
}

exec 7</dev/mapper/p0m0c1
check "an open mapped device loads a table with another device number [R39]" load_under_other_number
check_fails "a second mapped device of the same member is refused" dmsetup create p0m0z1 --table \
	"$(cat "$work/line")"
check "the table with another device number becomes live" dmsetup resume --noflush --nolockfs p0m0c1
exec 7<&-
written=$(heartbeats_written 1 0)
check "controller 1 heartbeats through the other device number" \
	eventually 60 has_heartbeats_there $((written + 10))
check_equal "a write through the other device number passes" \
	ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "controller 1 unmaps alpha" unmap_portion 1 0
check "the other path to member 0 is removed" dmsetup remove --retry p0m0y1

# --- Two first tables of a controller, at the same time, with different periods [R1].

# load_first PORTION MS: loads a first table of controller 2, which never becomes live
load_first() {
	dmsetup create "first$1" --notable && dmsetup load "first$1" --table \
		"$(leasectl table --controller 2 --heartbeat-ms "$2" "$(member "$1" 0)")" 2>/dev/null
}

disagreements=0
for _ in $(seq 40); do
	load_first 0 50 &
	one=$!
	load_first 1 60
	two=$?
	wait $one && [ "$two" -eq 0 ] && disagreements=$((disagreements + 1))
	dmsetup remove first0
	dmsetup remove first1
done
check_equal "one of two periods of a controller is refused, 40 times" 0 "$disagreements"

finish
