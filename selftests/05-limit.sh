#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The batch limit M: never more operations open than the redundancy can repair; what is beyond waits
# and does not fail while the lease is valid [R14, R15, R16, R17].
#
# The members are slow (dm-delay), and the kernel's own block trace below the gate counts what is
# open there; the module is not asked.

. ./lib.sh
plan 58

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'trace_off'
load_module
modprobe dm-delay
mark_log

tracefs=/sys/kernel/tracing
[ -d $tracefs/events ] || mount -t tracefs trace $tracefs
events="$tracefs/events/block/block_bio_queue $tracefs/events/block/block_bio_complete"

trace_on() {
	echo mono >$tracefs/trace_clock
	: >$tracefs/trace
	for event in $events; do
		echo 1 >"$event/enable"
	done
}

trace_off() {
	for event in $events; do
		echo 0 >"$event/enable"
	done
}

# A write that controller 1 sends to its members begins with block_bio_queue and ends with
# block_bio_complete. The most that were open at once, how many there were, how many are open still.
peak() {
	trace_off
	for index in 0 1 2; do
		lsblk -ndo MAJ:MIN "/dev/mapper/p0m${index}d1" | tr -d ' ' | tr : ,
	done >"$work/paths"
	awk 'NR == FNR { path[$1] = 1; next }
		{
			for (i = 1; i <= NF && $i !~ /^block_bio_/; i++)
				continue
			if (!path[$(i + 1)] || $(i + 2) !~ /^W/)
				next
			if ($i ~ /complete/) {
				open--
				next
			}
			count++
			if (++open > most)
				most = open
		}
		END { print most + 0, count + 0, open + 0 }' "$work/paths" $tracefs/trace
}

count_open() {
	peak >"$work/peak"
	read -r most count left <"$work/peak"
}

# slow MS: controller 1 waits so long for each write of data
slow() {
	for index in 0 1 2; do
		device=$(member 0 $index)
		dmsetup create "p0m${index}d1" --table \
			"0 $(blockdev --getsz "$device") delay $device 0 0 $device 0 $1" || return 1
	done
}

# writers N: N writers at once, each of one block of one of the members
writers() {
	for writer in $(seq "$1"); do
		bio "/dev/mapper/p0m$((writer % 3))c1" write $((writer * 4096)) 4096 direct \
			>"$work/writer$writer" &
	done
}

# How many of N writers were told WORD.
told() {
	word=$1 count=0
	for writer in $(seq "$2"); do
		[ "$(cat "$work/writer$writer")" != "$word" ] || count=$((count + 1))
	done
	echo $count
}

forget() {
	rm -f "$work"/writer*
}

permits_are() {
	[ "$(status_field p0m0c1 permits)" = "$1" ]
}

pending_is() {
	[ "$(status_field p0m0c1 pending)" -eq "$1" ]
}

refused_is() {
	[ "$(status_field p0m0c1 refused)" -eq "$1" ]
}

# fill M N: M writes are at the members and stay there, N more wait
fill() {
	for index in 0 1 2; do
		hold_data 1 0 $index || return 1
	done
	writers $(($1 + $2))
	eventually 20 permits_are "$1/$1" && eventually 20 pending_is "$2"
}

go_on() {
	for index in 0 1 2; do
		resume_data 1 0 $index || return 1
	done
}

require "redundancy of four that detects has a limit of four" format_portion 0 --redundancy parity:4 \
	--detect yes --batch 4
require "the members are slow" slow 60
require "controller 1 owns it" map_as_owner 1 0
check "the limit is four" permits_are 0/4
trace_on
check "four writes stay at the members, twenty wait" fill 4 20
check "they go on" go_on
wait
count_open
check_equal "four writes are open at once, and not more [R16]" 4 "$most"
check_equal "all of 24 were written" 24 "$count"
check_equal "none is open" 0 "$left"
check_equal "all were told so [R17]" 24 "$(told ok 24)"
check "nothing was refused" refused_is 0
check "no permit is open" permits_are 0/4
check "nothing waits" pending_is 0
check_equal "all in epoch 1" 1 "$(status_field p0m0c1 epoch)"
forget

check "two members are degraded" send_message 1 0 degraded 2
check "the limit is two [R14]" permits_are 0/2
trace_on
check "two writes stay at the members, ten wait" fill 2 10
check "they go on" go_on
wait
count_open
check_equal "two writes are open at once, and not more" 2 "$most"
check_equal "all of 12 were written" 12 "$count"
check_equal "and told so" 12 "$(told ok 12)"
forget

check "four members are degraded" send_message 1 0 degraded 4
check "the limit is none [R15]" permits_are 0/0
writers 3
check "writes wait" eventually 20 pending_is 3
check_equal "reads pass" ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
beaten=$(heartbeats_written 1 0)
check "thirty heartbeats" eventually 60 has_written_more_than $((beaten + 30)) 1 0
check "and they still wait" pending_is 3
check "the owner owns" role_is 1 0 owner
check "the members are back" send_message 1 0 degraded 0
wait
check_equal "the writes end well [R17]" 3 "$(told ok 3)"
check "the limit is four again" eventually 20 permits_are 0/4
forget

check "four writes stay at the members, six wait" fill 4 6
check "they go on" go_on
wait
check_equal "all ten end well" 10 "$(told ok 10)"
check "nothing was refused so far" refused_is 0
forget

trace_on
check "again" fill 4 6
check "and the heartbeats stall" hold_mailboxes 1 0
check "the lease lapses" eventually 60 role_is 1 0 secondary
check "all that waited failed, together [R17]" refused_is 6
check "nothing waits" pending_is 0
check "the four at the members keep their permits [R16]" permits_are 4/4
resume_mailboxes 1 0
go_on
wait
check_equal "none of the ten is acknowledged [R18]" 10 "$(told EBADE 10)"
count_open
check_equal "none of the six was issued" 4 "$count"
check_equal "the four completed too late" 4 "$(status_field p0m0c1 late)"
check "and gave their permits back" eventually 20 permits_are 0/4
forget
check "controller 1 goes" unmap_portion 1 0

# What else may happen beyond the limit.
require "the default limit" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns" map_as_owner 1 0
check "half of two is one" permits_are 0/1
hold_data 1 0 1
writers 1
require "one write is open" eventually 20 permits_are 1/1
check_equal "a write that must not wait does not" EAGAIN \
	"$(bio /dev/mapper/p0m0c1 write 0 4096 direct nowait)"
check "which is no refusal" refused_is 0
on_full_fail() {
	dmsetup table p0m0c1 | sed 's/$/ 2 on_full fail/' | dmsetup reload p0m0c1 &&
		dmsetup suspend --noflush --nolockfs p0m0c1 && dmsetup resume p0m0c1
}
check "a table that fails what is beyond the limit" on_full_fail
check_equal "does so" EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "and counts it" refused_is 1
resume_data 1 0 1
wait
check_equal "the first write ends well" 1 "$(told ok 1)"
check_fails "a table cannot raise the limit" dmsetup create wrong --table "$(dmsetup table p0m0c1 |
	sed 's/ lease \([^ ]*\).*/ lease \1 1 2 batch 3/')"
check "and is told so" log_has "Feature batch may only lower the limit of the portion"

finish
