#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Counting by stripe rows: what is limited is how many members have operations open in one row; rows
# are independent, and an operation on many rows counts for each of them [R16, R17, R19].
#
# The kernel's own block trace below the gate tells what was open together; the module is not asked.

. ./lib.sh
plan 51

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'trace_off'
load_module
modprobe dm-delay

tracefs=/sys/kernel/tracing
[ -d $tracefs/events ] || mount -t tracefs trace $tracefs
events="$tracefs/events/block/block_bio_queue $tracefs/events/block/block_bio_complete"
chunk=65536

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

# The most members that had operations of controller 1 open in one row at once; the most operations
# that were open in all rows; how many there were.
rows() {
	trace_off
	for index in 0 1 2; do
		echo "$(lsblk -ndo MAJ:MIN "/dev/mapper/p0m${index}d1" | tr -d ' ' | tr : ,) $index"
	done >"$work/paths"
	awk -v sectors=$((chunk / 512)) 'NR == FNR { member[$1] = $2; next }
		{
			for (i = 1; i <= NF && $i !~ /^block_bio_/; i++)
				continue
			device = $(i + 1)
			if (!(device in member) || $(i + 2) !~ /^W/)
				next
			for (j = i + 2; j <= NF && $j != "+"; j++)
				continue
			row = int(($(j - 1) - 16384) / sectors)
			key = row " " member[device]
			if ($i ~ /complete/) {
				all--
				if (--open[key] == 0)
					members[row]--
				next
			}
			count++
			if (++all > most_open)
				most_open = all
			if (++open[key] == 1 && ++members[row] > most_members)
				most_members = members[row]
		}
		END { print most_members + 0, most_open + 0, count + 0 }' "$work/paths" $tracefs/trace
}

# begin NAME MEMBER OPERATION ROW [OFFSET [LENGTH]]: in the background, its answer in a file
begin() {
	bio "/dev/mapper/p0m$2c1" "$3" $(($4 * chunk + ${5:-0})) "${6:-4096}" direct >"$work/$1" &
}

answer() {
	eventually 20 [ -s "$work/$1" ] && cat "$work/$1"
}

ended() {
	[ -s "$work/$1" ]
}

permits_are() {
	[ "$(status_field p0m0c1 permits)" = "$1" ]
}

pending_is() {
	[ "$(status_field p0m0c1 pending)" -eq "$1" ]
}

waits() {
	eventually 20 pending_is "$1"
}

hold_all() {
	hold_data 1 0 0 && hold_data 1 0 1 && hold_data 1 0 2
}

let_all_go() {
	resume_data 1 0 0 && resume_data 1 0 1 && resume_data 1 0 2
}

require "a portion that counts rows of 64 KiB" format_portion 0 --redundancy parity:2 --detect yes \
	--count stripe:$((chunk / 1024))
require "controller 1 owns it" map_as_owner 1 0
check "one member in each row" permits_are 0/1

# Rows are independent, and a row is one member's until that has nothing open there.
require "data hangs at the members" hold_all
begin a0 0 write 0
begin b1 1 write 1
begin c2 2 write 2
begin a0b 0 write 0 8192
begin a0c 0 write 0 16384
check "five writes are open" eventually 20 permits_are 1/1
begin b0 1 write 0
check "another member waits for its row" waits 1
begin a1 0 write 1
check "in another row likewise" waits 2
check_equal "one that must not wait does not" EAGAIN \
	"$(bio /dev/mapper/p0m2c1 write 0 4096 direct nowait)"
check_equal "a read passes the gate" ok \
	"$(bio "$(member 0 0)" read 0 4096 direct)"
check "member 0 goes on" resume_data 1 0 0
check_equal "its three writes end well" "ok ok ok" "$(answer a0) $(answer a0b) $(answer a0c)"
check "and one waits still" waits 1
check_fails "the one that was let in hangs at its member" ended b0
check "the others go on" resume_data 1 0 1
resume_data 1 0 2
check_equal "all end well" "ok ok ok ok" "$(answer b0) $(answer b1) $(answer c2) $(answer a1)"
wait
check "nothing is open" eventually 20 permits_are 0/1
check "nothing waits" pending_is 0

# A write is split at the end of a row [R19].
require "data hangs at the members" hold_all
begin across 0 write 3 $((chunk - 4096)) 8192
check "a write across two rows is open in both" eventually 20 permits_are 1/1
begin first 1 write 3
begin second 1 write 4
check "another member waits for both" waits 2
require "all go on" let_all_go
check_equal "and all end well" "ok ok ok" "$(answer across) $(answer first) $(answer second)"
wait

# An operation on many rows waits for each of them, and whoever comes later waits for it.
require "data hangs at the members" hold_all
begin b5 1 write 5
check "a row is in use" eventually 20 permits_are 1/1
begin many 0 discard 0 0 $((64 * chunk))
check "a discard of many rows waits for it" waits 1
begin c9 2 write 9
check "a write of a free row waits for the discard" waits 2
check "the row is free" resume_data 1 0 1
check_equal "its write ends well" ok "$(answer b5)"
check "the discard is open" waits 1
begin a9 0 write 9 4096
check "a write of its own row goes behind who waits there" waits 2
check_fails "as the discard is not over" ended many
check "all go on" resume_data 1 0 0
resume_data 1 0 2
check_equal "and all end well" "ok ok ok" "$(answer many) $(answer c9) $(answer a9)"
wait
check "nothing is open" eventually 20 permits_are 0/1

# Lost with operations waiting in several rows.
before=$(status_field p0m0c1 refused)
require "data hangs at the members" hold_all
begin a6 0 write 6
begin b7 1 write 7
eventually 20 permits_are 1/1
begin b6 1 write 6
begin c7 2 write 7
begin wide 2 discard 0 0 $((64 * chunk))
require "three wait" waits 3
check "the heartbeats stall" hold_mailboxes 1 0
check "the lease lapses" eventually 60 role_is 1 0 secondary
check_equal "all that waited failed, together [R17]" $((before + 3)) "$(status_field p0m0c1 refused)"
check "nothing waits" pending_is 0
check "what is at the members keeps its permits [R16]" permits_are 1/1
resume_mailboxes 1 0
let_all_go
wait
check_equal "nothing is acknowledged [R18]" "EBADE EBADE EBADE EBADE EBADE" \
	"$(cat "$work/a6" "$work/b7" "$work/b6" "$work/c7" "$work/wide" | tr '\n' ' ' | sed 's/ $//')"
require "controller 1 owns again" eventually 60 role_is 1 0 owner
check "with nothing open" eventually 20 permits_are 0/1
require "it goes" unmap_portion 1 0

# Slow members, many writers, few rows: below the gate no row has two members open.
slow() {
	for index in 0 1 2; do
		device=$(member 0 $index)
		dmsetup create "p0m${index}d1" --table \
			"0 $(blockdev --getsz "$device") delay $device 0 0 $device 0 30" || return 1
	done
}
require "the members are slow" slow
require "controller 1 owns" map_as_owner 1 0
trace_on
writer() {
	for step in 0 1 2 3 4 5 6 7; do
		bio "/dev/mapper/p0m$((($1 + step) % 3))c1" write \
			$((($1 * 5 + step * 3) % 8 * chunk + $1 * 4096 % chunk)) 4096 direct
	done >"$work/writer$1"
}
for number in $(seq 12); do
	writer "$number" &
done
wait
rows >"$work/rows"
read -r most_members most_open count <"$work/rows"
print_note "members in a row $most_members, open at once $most_open, writes $count"
check_equal "never two members of a row [R16]" 1 "$most_members"
check "but many rows at once" [ "$most_open" -gt 2 ]
check_equal "all were written" 96 "$count"
check_equal "and told so [R17]" 96 "$(cat "$work"/writer* | grep -c '^ok$')"

finish
