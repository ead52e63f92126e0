#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The life of a session while something is in its way: tables that come while others go and a member
# hangs, a busy machine, hanging disks when the system goes to sleep, first tables that disagree, and
# a member that returns under another device number [R1, R39, R43, R44, R60, R61].

. ./lib.sh
plan 50

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# threads NAME: how many kernel threads have that name
threads() {
	cat /proc/[0-9]*/comm 2>/dev/null | grep -cx "$1"
}

threads_are() {
	[ "$(threads "$1")" -eq "$2" ]
}

# --- A table becomes live while the last of the others goes away and a member hangs.

# Member 2 is a disk that takes one command at a time. While each command takes long, the next one
# waits in its submission: there the member thread hangs.
slow_disk() {
	modprobe scsi_debug dev_size_mb=32 max_queue=1 sector_size=512 || return 1
	mkdir "$work/disks" && ln -s "$devices/p0m0" "$devices/p0m1" "$work/disks"
	eventually 20 find_slow_disk && ln -s "/dev/$slow" "$work/disks/p0m2" &&
		echo none >"/sys/block/$slow/queue/scheduler"
}

find_slow_disk() {
	slow=$(cd /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block && echo *)
	[ -b "/dev/$slow" ]
}

# delay JIFFIES: of each command from now on
delay() {
	echo "$1" 2>/dev/null >/sys/bus/pseudo/drivers/scsi_debug/delay
}

# The delay can only be changed while the disk has nothing to do: its mailboxes are held back.
make_fast() {
	dmsetup suspend --noflush --nolockfs p0m2h1 || return 1
	eventually 60 delay 0
	fast=$?
	dmsetup resume p0m2h1
	return $fast
}

# Each thread that waits for a tag of a disk says so.
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
lab=$devices
require "a slow disk" slow_disk
devices=$work/disks
require "a portion has it as a member" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
check_equal "a session has one dispatcher" 1 "$(threads dm_lease_turn)"
check_equal "one portion thread" 1 "$(threads dm_lease)"
check_equal "and one thread for each member" 3 "$(threads dm_lease_io)"
dmsetup create p0m0x1 --notable
require "another table of a member is loaded" dmsetup load p0m0x1 --table "$(dmsetup table p0m0c1)"
require "the disk becomes slow" eventually 20 delay 1500
require "its thread hangs" eventually 60 hangs_in_submission
for index in 1 2 0; do
	dmsetup remove --retry "p0m${index}c1"
done &
removal=$!
check "the other table becomes live meanwhile" timeout 20 dmsetup resume p0m0x1
check "it is live" is_live
check "while the member still hangs" hangs_in_submission
check_equal "there still is one dispatcher [R60]" 1 "$(threads dm_lease_turn)"
check_equal "and one portion thread" 1 "$(threads dm_lease)"
require "the disk is fast again" make_fast
check "the removal comes to its end" wait $removal

# A controller owns a portion with a majority of its members, and has one device of three now.
reason_of_the_last() {
	[ "$(status_field p0m0x1 reason)" = "$1" ]
}
check "with one member of three the controller owns nothing" eventually 60 reason_of_the_last removed
for index in 1 2; do
	line=$(leasectl table --controller 1 "/dev/mapper/p0m${index}w1") &&
		dmsetup create "p0m${index}c1" --table "$line"
done
is_owner_again() {
	[ "$(status_field p0m0x1 role)" = owner ]
}
check "with all three it owns again" eventually 60 is_owner_again
check_equal "a write passes" ok "$(bio /dev/mapper/p0m0x1 write 0 4096 direct)"
for name in p0m1c1 p0m2c1 p0m0x1; do
	check "$name is removed" dmsetup remove --retry "$name"
done
check "and all threads with it" eventually 20 threads_are dm_lease_turn 0
for part in w h d; do
	for index in 0 1 2; do
		dmsetup remove --retry "p0m$index${part}1"
	done
done
check "the disk goes" eventually 20 rmmod scsi_debug
devices=$lab

# --- Messages arrive while nobody has time for those that send them.

# The senders of messages hardly ever run, and are interrupted at any point.
busy() {
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

quiet() {
	# shellcheck disable=SC2086 # numbers have no blanks
	kill $hogs
	wait
}

require "a portion is formatted" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
check "all messages of a busy machine are answered" busy
quiet
sent=$(cat "$work"/storm? | awk '{ sum += $1 } END { print sum }')
print_note "$sent messages"
check "there were some" [ "$sent" -gt 20 ]
check_equal "the lease was kept [R44, R61]" "owner 1" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"

# --- Disks of two portions hang when the system goes to sleep.

hang() {
	for index in 1 2; do
		dmsetup suspend --noflush --nolockfs "p$1m${index}h1" || return 1
	done
}

go_on() {
	for index in 1 2; do
		dmsetup resume "p$1m${index}h1" || return 1
	done
}

# line TEXT: the number of the first line with it since the mark
line() {
	# shellcheck disable=SC2154 # lib.sh assigns it
	dmesg | sed "1,/selftest $$: mark $marks\$/d" | grep -nF -- "$1" | head -n 1 | cut -d : -f 1
}

# Alpha began first. Beta must not wait until alpha has been given up in vain.
began_together() {
	[ "$(line "beta controller 1: owner -> ")" -lt \
		"$(line "alpha controller 1: the system suspends, but not released")" ]
}

check "all of it goes" unmap_portion 1 0
require "two portions are formatted" format_portion 0 --lease-ms 8000
require "with long leases" format_portion 1 --lease-ms 8000
require "controller 1 owns one" map_as_owner 1 0
require "and the other" map_as_owner 1 1
echo freezer >/sys/power/pm_test
mark_log
check "the disks of one hang" hang 0
check "those of the other, too" hang 1
# The shell's own echo does not say which error a write had.
go_to_sleep() {
	echo freeze | dd of=/sys/power/state 2>"$work/error"
}
check_fails "the system does not go to sleep" go_to_sleep
check "because something is busy" grep -q "Device or resource busy" "$work/error"
check "both portions began to be given up before either was [R43]" began_together
echo none >/sys/power/pm_test
go_on 0
go_on 1
check "controller 1 owns one again" eventually 60 role_is 1 0 owner
check "and the other" eventually 60 role_is 1 1 owner
check "one goes" unmap_portion 1 1

# --- A member returns under another device number while its mapped device is in use.

move() {
	size=$(blockdev --getsz "$(member 0 0)")
	dmsetup create p0m0y1 --table "0 $size linear $(member 0 0) 0" &&
		leasectl table --controller 1 /dev/mapper/p0m0y1 >"$work/line" &&
		dmsetup load p0m0c1 --table "$(cat "$work/line")"
}

heartbeats_there() {
	now=$(leasectl show /dev/mapper/p0m0y1 |
		sed -n "s/^  controller 1: .*heartbeat [0-9]* (write \([0-9]*\)).*/\1/p")
	[ "${now:-0}" -gt "$1" ]
}

exec 7</dev/mapper/p0m0c1
check "a member is loaded under another number while it is open [R39]" move
check_fails "another mapped device of it would not be" dmsetup create p0m0z1 --table \
	"$(cat "$work/line")"
check "it becomes live" dmsetup resume --noflush --nolockfs p0m0c1
exec 7<&-
written=$(heartbeats_written 1 0)
check "it heartbeats there" eventually 60 heartbeats_there $((written + 10))
check_equal "a write passes" ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "all of it goes" unmap_portion 1 0
check "so does the other path" dmsetup remove --retry p0m0y1

# --- Two first tables of a controller, at the same time, with different periods [R1].

# first PORTION MS: a table that is loaded and never becomes live
first() {
	dmsetup create "first$1" --notable && dmsetup load "first$1" --table \
		"$(leasectl table --controller 2 --heartbeat-ms "$2" "$(member "$1" 0)")" 2>/dev/null
}

disagreements=0
for _ in $(seq 40); do
	first 0 50 &
	one=$!
	first 1 60
	two=$?
	wait $one && [ "$two" -eq 0 ] && disagreements=$((disagreements + 1))
	dmsetup remove first0
	dmsetup remove first1
done
check_equal "one of two periods is refused, 40 times" 0 "$disagreements"

finish
