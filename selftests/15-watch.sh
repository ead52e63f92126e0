#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The tools of an operator: histograms of heartbeat latencies and margins, events as lines of JSON,
# and metrics [R47].

. ./lib.sh
plan 38

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# histogram_field C NAME N: prints number N of the line NAME in the histograms of controller C
histogram_field() {
	dmsetup message "p0m0c$1" 0 histogram | sed -n "s/^$2 //p" | cut -d ' ' -f "$3"
}

# count_is_above C NAME N: succeeds if the first number of the line is above N
count_is_above() {
	[ "$(histogram_field "$1" "$2" 1)" -gt "$3" ]
}

# is_balanced C NAME: succeeds if the buckets of one reading add up to its count
is_balanced() {
	dmsetup message "p0m0c$1" 0 histogram | awk -v name="$2" '
		$1 == name { for (i = 4; i <= NF; i++) sum += $i; wrong = sum != $2 }
		END { exit wrong || !sum }'
}

# has_event TEXT...: succeeds if an event was printed that contains each of these texts
has_event() {
	lines=$(cat "$work/events")
	for part in "$@"; do
		lines=$(echo "$lines" | grep -F -- "$part") || return 1
	done
}

# The leases are longer than in other tests, because a lease that a slow guest loses would be
# counted.
require "a portion with leases of 6 s is formatted" format_portion 0 --lease-ms 6000
require "controller 1 owns the portion" map_as_owner 1 0
require "controller 2 maps the portion" map_portion 2 0
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary

check_equal "the histogram message prints the timings of the portion" "6000000000 100000000" \
	"$(histogram_field 1 timing 1) $(histogram_field 1 timing 3)"
check_equal "no lease of controller 1 was lost" 0 "$(histogram_field 1 lost 1)"
check "the latencies of more than five heartbeats are counted" \
	eventually 20 count_is_above 1 latency 5
check "the margins of more than five heartbeats are counted" eventually 20 count_is_above 1 margin 5
check "each heartbeat latency is in one bucket" is_balanced 1 latency
check "each heartbeat margin is in one bucket" is_balanced 1 margin
# mean_is_below_lease C NAME: succeeds if the histogram has values and their mean is below a lease
mean_is_below_lease() {
	dmsetup message "p0m0c$1" 0 histogram |
		awk -v name="$2" '$1 == name { exit !($3 > 0 && $3 / $2 < 6e9) }'
}
check "the mean margin is less than a lease" mean_is_below_lease 1 margin
check_equal "a secondary has no margins" 0 "$(histogram_field 2 margin 1)"
# For one write in 256 the gate records how much time was left of the lease.
check_equal "no write was sampled before the first write" 0 "$(histogram_field 1 check 1)"
check "four thousand writes pass" \
	dd if=/dev/zero of=/dev/mapper/p0m0c1 bs=4k count=4000 oflag=direct 2>/dev/null
check "a sample of the writes is counted" count_is_above 1 check 0
check "the sample has less than two hundred writes" [ "$(histogram_field 1 check 1)" -lt 200 ]
check "each sampled write is in one bucket" is_balanced 1 check
check "the mean time left at a sampled write is less than a lease" mean_is_below_lease 1 check
check_equal "a secondary has no sampled writes" 0 "$(histogram_field 2 check 1)"
mark_log
check_fails "message histogram refuses an argument" send_message 1 0 histogram latency
check "the log says that the message has too many words" log_has "more words than the message takes"

trace=/sys/kernel/tracing
on_exit "echo 0 >$trace/events/dm_lease/enable"
: >$trace/trace
for event in role heartbeat refuse; do
	echo 1 >"$trace/events/dm_lease/dm_lease_$event/enable"
done
leasectl events --interval-ms 1000 >"$work/events" &
on_exit "kill $! 2>/dev/null"
check "leasectl events prints the present role of controller 1" \
	eventually 20 has_event '"portion":"alpha"' '"controller":1' \
	'"what":"role","old":null,"new":"owner"'
check_equal "a write of the secondary is refused" \
	EBADE "$(bio /dev/mapper/p0m1c2 write 4096 4096 direct)"
check "leasectl events prints the refused write" \
	eventually 20 has_event '"controller":2' '"what":"refused"' '"new":1'
check "controller 1 hands over to controller 2" eventually 60 send_message 1 0 handoff 2
check "leasectl events prints the new role of controller 1" \
	eventually 20 has_event '"controller":1' '"what":"role"' '"new":"secondary"'
check_fails "leasectl events prints no loss for a hand-over" has_event '"what":"lost"'
require "controller 2 owns the portion" eventually 60 role_is 2 0 owner
check "leasectl events prints the new epoch of controller 2" \
	eventually 20 has_event '"controller":2' \
	'"what":"epoch","old":1,"new":2'

check "the mailbox I/O of controller 2 hangs" hold_mailboxes 2 0
check "leasectl events prints the loss of controller 2" \
	eventually 60 has_event '"controller":2' '"what":"lost","old":"owner"'
check_equal "the histogram message counts the loss of controller 2" 1 "$(histogram_field 2 lost 1)"
resume_mailboxes 2 0

leasectl metrics >"$work/metrics"
check "leasectl metrics prints the loss of controller 2" grep -qx \
	'dm_lease_lost_total{portion="alpha",controller="2"} 1' "$work/metrics"
check "leasectl metrics prints the heartbeat margins of controller 1" grep -q \
	'^dm_lease_heartbeat_margin_seconds_count{portion="alpha",controller="1"} [1-9]' "$work/metrics"

# One drawing of the printed events and of the trace.
for event in role heartbeat refuse; do
	echo 0 >"$trace/events/dm_lease/dm_lease_$event/enable"
done
cp $trace/trace "$work/trace"
check "leasectl timeline draws the events and the trace" \
	leasectl timeline --output "$work/svg" "$work/events" "$work/trace"
check "the drawing has one lane for each controller" \
	[ "$(grep -c '>alpha<' "$work/svg")" -eq 2 ]
check "the drawing has heartbeats" grep -q '<title>heartbeat</title>' "$work/svg"
check "the drawing has the refused write" grep -q '<title>1 refused or late</title>' "$work/svg"

finish
