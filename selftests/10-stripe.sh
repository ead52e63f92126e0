#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Counting by stripe rows: the limit is the number of members with open operations in one row. Rows
# are independent, and an operation on many rows counts in each of them [R16, R17, R19].
#
# The kernel's block trace below the gate shows which operations were open together, independently
# of the module.

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

# Prints three numbers from the trace of controller 1's writes: the most members with open
# operations in one row, the most operations open at once in all rows, and how many operations there
# were.
count_rows() {
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

# begin NAME MEMBER OPERATION ROW [OFFSET [LENGTH]]: starts an operation; its result goes to
# $work/NAME
begin() {
	bio "/dev/mapper/p0m$2c1" "$3" $(($4 * chunk + ${5:-0})) "${6:-4096}" direct >"$work/$1" &
}

# result NAME: waits until the operation has ended, and prints its result
result() {
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

becomes_pending() {
	eventually 20 pending_is "$1"
}

hold_all_data() {
	hold_data 1 0 0 && hold_data 1 0 1 && hold_data 1 0 2
}

resume_all_data() {
	resume_data 1 0 0 && resume_data 1 0 1 && resume_data 1 0 2
}

require "a portion that counts stripe rows of 64 KiB is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes \
	--count stripe:$((chunk / 1024))
require "controller 1 owns the portion" map_as_owner 1 0
check "the limit is one member in each row" permits_are 0/1

# Rows are independent. A row belongs to one member until this member has no operation open in it.
require "data I/O at all members is held for the first rows" hold_all_data
begin a0 0 write 0
begin b1 1 write 1
begin c2 2 write 2
begin a0b 0 write 0 8192
begin a0c 0 write 0 16384
check "five writes are open, with one member in each row" eventually 20 permits_are 1/1
begin b0 1 write 0
check "a write of a second member in row 0 is pending" becomes_pending 1
begin a1 0 write 1
check "a write of a second member in row 1 is pending" becomes_pending 2
check_equal "a nowait write of a third member in row 0 ends with EAGAIN" EAGAIN \
	"$(bio /dev/mapper/p0m2c1 write 0 4096 direct nowait)"
check_equal "a read of the raw member passes" ok \
	"$(bio "$(member 0 0)" read 0 4096 direct)"
check "the data I/O of member 0 resumes" resume_data 1 0 0
check_equal "the three writes of member 0 are acknowledged" \
	"ok ok ok" "$(result a0) $(result a0b) $(result a0c)"
check "one of the two pending writes is still pending" becomes_pending 1
check_fails "the write that was admitted to row 0 hangs at its member" ended b0
check "the data I/O of member 1 resumes" resume_data 1 0 1
resume_data 1 0 2
check_equal "the other four writes are acknowledged" \
	"ok ok ok ok" "$(result b0) $(result b1) $(result c2) $(result a1)"
wait
check "no permit is open after the first rows" eventually 20 permits_are 0/1
check "no write is pending after the first rows" pending_is 0

# A write is split at the end of a row [R19].
require "data I/O at all members is held for a write across two rows" hold_all_data
begin across 0 write 3 $((chunk - 4096)) 8192
check "a write across two rows is open" eventually 20 permits_are 1/1
begin first 1 write 3
begin second 1 write 4
check "writes of other members in both rows are pending" becomes_pending 2
require "the data I/O of all members resumes after the write across two rows" resume_all_data
check_equal "the write across two rows and the two pending writes are acknowledged" \
	"ok ok ok" "$(result across) $(result first) $(result second)"
wait

# An operation on many rows waits for each of them, and later operations wait for it.
require "data I/O at all members is held for a discard" hold_all_data
begin b5 1 write 5
check "a write of member 1 is open in row 5" eventually 20 permits_are 1/1
begin many 0 discard 0 0 $((64 * chunk))
check "a discard of many rows is pending while row 5 is in use" becomes_pending 1
begin c9 2 write 9
check "a write to a free row is pending behind the discard" becomes_pending 2
check "the data I/O of member 1 resumes and frees row 5" resume_data 1 0 1
check_equal "the write to row 5 is acknowledged" ok "$(result b5)"
check "the discard is open and one write is pending" becomes_pending 1
begin a9 0 write 9 4096
check "a write of member 0 in row 9 is pending behind the write of member 2" becomes_pending 2
check_fails "the discard still hangs at its member" ended many
check "the data I/O of member 0 resumes after the discard" resume_data 1 0 0
resume_data 1 0 2
check_equal "the discard and both writes are acknowledged" \
	"ok ok ok" "$(result many) $(result c9) $(result a9)"
wait
check "no permit is open after the discard" eventually 20 permits_are 0/1

# The lease is lost while operations are pending in several rows.
before=$(status_field p0m0c1 refused)
require "data I/O at all members is held for the lapse" hold_all_data
begin a6 0 write 6
begin b7 1 write 7
eventually 20 permits_are 1/1
begin b6 1 write 6
begin c7 2 write 7
begin wide 2 discard 0 0 $((64 * chunk))
require "two writes and a discard are pending" becomes_pending 3
check "the mailbox I/O of controller 1 hangs" hold_mailboxes 1 0
check "controller 1 loses its lease" eventually 60 role_is 1 0 secondary
check_equal "all three pending operations failed together [R17]" \
	$((before + 3)) "$(status_field p0m0c1 refused)"
check "no operation is pending after the lapse" pending_is 0
check "the two hanging writes keep their permits after the lapse [R16]" permits_are 1/1
resume_mailboxes 1 0
resume_all_data
wait
check_equal "none of the five operations is acknowledged after the lapse [R18]" \
	"EBADE EBADE EBADE EBADE EBADE" \
	"$(cat "$work/a6" "$work/b7" "$work/b6" "$work/c7" "$work/wide" | tr '\n' ' ' | sed 's/ $//')"
require "controller 1 owns the portion again" eventually 60 role_is 1 0 owner
check "no permit is open in the new epoch" eventually 20 permits_are 0/1
require "controller 1 unmaps the portion" unmap_portion 1 0

# Many writers and few rows on slow members: below the gate no row ever has two members open.
slow_down() {
	for index in 0 1 2; do
		device=$(member 0 $index)
		dmsetup create "p0m${index}d1" --table \
			"0 $(blockdev --getsz "$device") delay $device 0 0 $device 0 30" || return 1
	done
}
require "each member delays writes by 30 ms" slow_down
require "controller 1 owns the portion with slow members" map_as_owner 1 0
trace_on
write_blocks() {
	for step in 0 1 2 3 4 5 6 7; do
		bio "/dev/mapper/p0m$((($1 + step) % 3))c1" write \
			$((($1 * 5 + step * 3) % 8 * chunk + $1 * 4096 % chunk)) 4096 direct
	done >"$work/writer$1"
}
for number in $(seq 12); do
	write_blocks "$number" &
done
wait
count_rows >"$work/rows"
read -r most_members most_open count <"$work/rows"
print_note "members in a row $most_members, open at once $most_open, writes $count"
check_equal "no row had two members open at once [R16]" 1 "$most_members"
check "more than two operations were open at once" [ "$most_open" -gt 2 ]
check_equal "all 96 writes reached the members" 96 "$count"
check_equal "all 96 writes were acknowledged [R17]" 96 "$(cat "$work"/writer* | grep -c '^ok$')"

finish
