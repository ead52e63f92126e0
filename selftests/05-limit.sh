#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The batch limit M: never more operations are open than the redundancy can repair. Operations
# beyond the limit wait, and do not fail while the lease is valid [R14, R15, R16, R17].
#
# The members are slow (dm-delay). Open operations are counted by the kernel's block trace below the
# gate, independently of the module.

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

# Prints three numbers from the trace of controller 1's writes to its members: the most that were
# open at once, how many there were, and how many are still open. A write begins with
# block_bio_queue and ends with block_bio_complete.
count_writes() {
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

read_trace() {
	count_writes >"$work/counts"
	read -r most count left <"$work/counts"
}

# slow_down MS: delays each data write of controller 1
slow_down() {
	for index in 0 1 2; do
		device=$(member 0 $index)
		dmsetup create "p0m${index}d1" --table \
			"0 $(blockdev --getsz "$device") delay $device 0 0 $device 0 $1" || return 1
	done
}

# start_writers N: starts N writers; each writes one block to one of the members
start_writers() {
	for writer in $(seq "$1"); do
		bio "/dev/mapper/p0m$((writer % 3))c1" write $((writer * 4096)) 4096 direct \
			>"$work/writer$writer" &
	done
}

# count_results WORD N: prints how many of N writers ended with the word
count_results() {
	word=$1 count=0
	for writer in $(seq "$2"); do
		[ "$(cat "$work/writer$writer")" != "$word" ] || count=$((count + 1))
	done
	echo $count
}

forget_results() {
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

# fill_limit M N: starts M writes, which hang at the members, and N more, which are pending
fill_limit() {
	for index in 0 1 2; do
		hold_data 1 0 $index || return 1
	done
	start_writers $(($1 + $2))
	eventually 20 permits_are "$1/$1" && eventually 20 pending_is "$2"
}

resume_all_data() {
	for index in 0 1 2; do
		resume_data 1 0 $index || return 1
	done
}

require "a portion with a batch limit of four is formatted" format_portion 0 --redundancy parity:4 \
	--detect yes --batch 4
require "each member delays writes by 60 ms" slow_down 60
require "controller 1 owns the portion" map_as_owner 1 0
check "the status shows no open permit and a limit of four" permits_are 0/4
trace_on
check "four writes hang at the members and twenty are pending" fill_limit 4 20
check "the data I/O of all members resumes after 24 writes" resume_all_data
wait
read_trace
check_equal "four writes and never more were open at once [R16]" 4 "$most"
check_equal "all 24 writes reached the members" 24 "$count"
check_equal "none of the 24 writes is open at a member" 0 "$left"
check_equal "all 24 writes were acknowledged [R17]" 24 "$(count_results ok 24)"
check "none of the 24 writes was refused" refused_is 0
check "no permit is open after the 24 writes" permits_are 0/4
check "no write is pending after the 24 writes" pending_is 0
check_equal "all 24 writes were issued in epoch 1" 1 "$(status_field p0m0c1 epoch)"
forget_results

check "message degraded 2 succeeds" send_message 1 0 degraded 2
check "the limit with two degraded members is two [R14]" permits_are 0/2
trace_on
check "two writes hang at the members and ten are pending" fill_limit 2 10
check "the data I/O of all members resumes after 12 writes" resume_all_data
wait
read_trace
check_equal "two writes and never more were open at once" 2 "$most"
check_equal "all 12 writes reached the members" 12 "$count"
check_equal "all 12 writes were acknowledged" 12 "$(count_results ok 12)"
forget_results

check "message degraded 4 succeeds" send_message 1 0 degraded 4
check "the limit with four degraded members is zero [R15]" permits_are 0/0
start_writers 3
check "three writes are pending under a limit of zero" eventually 20 pending_is 3
check_equal "a read passes under a limit of zero" ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
written=$(heartbeats_written 1 0)
check "the owner writes thirty heartbeats under a limit of zero" \
	eventually 60 has_written_more_than $((written + 30)) 1 0
check "the three writes are still pending after thirty heartbeats" pending_is 3
check "controller 1 still owns the portion after thirty heartbeats" role_is 1 0 owner
check "message degraded 0 succeeds" send_message 1 0 degraded 0
wait
check_equal "the three pending writes are acknowledged when the limit returns [R17]" \
	3 "$(count_results ok 3)"
check "the limit is four again" eventually 20 permits_are 0/4
forget_results

check "four writes hang at the members and six are pending" fill_limit 4 6
check "the data I/O of all members resumes after ten writes" resume_all_data
wait
check_equal "all ten writes are acknowledged" 10 "$(count_results ok 10)"
check "no write was refused before the lapse" refused_is 0
forget_results

trace_on
check "four writes hang and six are pending before the lapse" fill_limit 4 6
check "the mailbox I/O of controller 1 hangs" hold_mailboxes 1 0
check "controller 1 loses its lease" eventually 60 role_is 1 0 secondary
check "all six pending writes failed together [R17]" refused_is 6
check "no write is pending after the lapse" pending_is 0
check "the four hanging writes keep their permits after the lapse [R16]" permits_are 4/4
resume_mailboxes 1 0
resume_all_data
wait
check_equal "none of the ten writes is acknowledged after the lapse [R18]" \
	10 "$(count_results EBADE 10)"
read_trace
check_equal "none of the six pending writes was issued" 4 "$count"
check_equal "the four hanging writes are counted as late" 4 "$(status_field p0m0c1 late)"
check "the four late writes gave their permits back" eventually 20 permits_are 0/4
forget_results

check "controller 1 unmaps the portion" unmap_portion 1 0

# Other ways to treat operations beyond the limit.
require "a portion with the default limit for parity:2 is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns the portion with the default limit" map_as_owner 1 0
check "the default limit for parity:2 is one" permits_are 0/1
hold_data 1 0 1
start_writers 1
require "one write hangs and holds the only permit" eventually 20 permits_are 1/1
check_equal "a nowait write beyond the limit ends with EAGAIN" EAGAIN \
	"$(bio /dev/mapper/p0m0c1 write 0 4096 direct nowait)"
check "a nowait write beyond the limit is not counted as refused" refused_is 0
on_full_fail() {
	dmsetup table p0m0c1 | sed 's/$/ 2 on_full fail/' | dmsetup reload p0m0c1 &&
		dmsetup suspend --noflush --nolockfs p0m0c1 && dmsetup resume p0m0c1
}
check "controller 1 loads a table with on_full fail" on_full_fail
check_equal "a write beyond the limit with on_full fail is refused" \
	EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
check "a write beyond the limit with on_full fail is counted as refused" refused_is 1
resume_data 1 0 1
wait
check_equal "the hanging write is acknowledged" 1 "$(count_results ok 1)"
check_fails "a table with a larger batch than the portion allows is refused" \
	dmsetup create wrong --table "$(dmsetup table p0m0c1 |
	sed 's/ lease \([^ ]*\).*/ lease \1 1 2 batch 3/')"
check "the log says that batch may only lower the limit" \
	log_has "Feature batch may only lower the limit of the portion"

finish
