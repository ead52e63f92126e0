#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What an operator watches: how long heartbeats take and how close each was, events as lines of JSON,
# metrics [R47].

. ./lib.sh
plan 38

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# asked C NAME N: number N of a line of the histograms of controller C
asked() {
	dmsetup message "p0m0c$1" 0 histogram | sed -n "s/^$2 //p" | cut -d ' ' -f "$3"
}

more() {
	[ "$(asked "$1" "$2" 1)" -gt "$3" ]
}

# balanced C NAME: whether its buckets have as much as its count, which are of one moment
balanced() {
	dmsetup message "p0m0c$1" 0 histogram | awk -v name="$2" '
		$1 == name { for (i = 4; i <= NF; i++) sum += $i; wrong = sum != $2 }
		END { exit wrong || !sum }'
}

# event TEXT...: whether an event was told that has each of these
event() {
	lines=$(cat "$work/events")
	for part in "$@"; do
		lines=$(echo "$lines" | grep -F -- "$part") || return 1
	done
}

# Longer leases than elsewhere: one that is lost by chance would be counted, and rightly.
require "a portion is formatted" format_portion 0 --lease-ms 6000
require "controller 1 owns it" map_as_owner 1 0
require "controller 2 comes" map_portion 2 0
require "as a secondary" eventually 60 role_is 2 0 secondary

check_equal "the timings are those that were formatted" "6000000000 100000000" \
	"$(asked 1 timing 1) $(asked 1 timing 3)"
check_equal "no lease was lost" 0 "$(asked 1 lost 1)"
check "heartbeats are counted" eventually 20 more 1 latency 5
check "and their margins" eventually 20 more 1 margin 5
check "each is in one bucket" balanced 1 latency
check "each margin, too" balanced 1 margin
# below_lease C NAME: whether its values are some, and below a lease on the average
below_lease() {
	dmsetup message "p0m0c$1" 0 histogram |
		awk -v name="$2" '$1 == name { exit !($3 > 0 && $3 / $2 < 6e9) }'
}
check "a margin is less than a lease" below_lease 1 margin
check_equal "a secondary has none" 0 "$(asked 2 margin 1)"
# Of one write in 256 the gate keeps how much of the lease was left.
check_equal "no write was checked yet" 0 "$(asked 1 check 1)"
check "thousands of writes pass" \
	dd if=/dev/zero of=/dev/mapper/p0m0c1 bs=4k count=4000 oflag=direct 2>/dev/null
check "a sample of them is kept" more 1 check 0
check "which is a small one" [ "$(asked 1 check 1)" -lt 200 ]
check "each is in one bucket, too" balanced 1 check
check "what was left is less than a lease" below_lease 1 check
check_equal "of a secondary's nothing is" 0 "$(asked 2 check 1)"
mark_log
check_fails "the message has one word" send_message 1 0 histogram latency
check "and says so" log_has "more words than the message takes"

trace=/sys/kernel/tracing
on_exit "echo 0 >$trace/events/dm_lease/enable"
: >$trace/trace
for event in role heartbeat refuse; do
	echo 1 >"$trace/events/dm_lease/dm_lease_$event/enable"
done
leasectl events --interval-ms 1000 >"$work/events" &
on_exit "kill $! 2>/dev/null"
check "what there is is told" eventually 20 event '"portion":"alpha"' '"controller":1' \
	'"what":"role","old":null,"new":"owner"'
check_equal "a secondary is refused" EBADE "$(bio /dev/mapper/p0m1c2 write 4096 4096 direct)"
check "the events say so" eventually 20 event '"controller":2' '"what":"refused"' '"new":1'
check "a hand-over is" eventually 60 send_message 1 0 handoff 2
check "a change of role" eventually 20 event '"controller":1' '"what":"role"' '"new":"secondary"'
check_fails "and no loss" event '"what":"lost"'
require "controller 2 owns" eventually 60 role_is 2 0 owner
check "which is told, with the epoch" eventually 20 event '"controller":2' \
	'"what":"epoch","old":1,"new":2'

check "the owner stalls" hold_mailboxes 2 0
check "its loss is told" eventually 60 event '"controller":2' '"what":"lost","old":"owner"'
check_equal "and counted" 1 "$(asked 2 lost 1)"
resume_mailboxes 2 0

leasectl metrics >"$work/metrics"
check "metrics have the loss" grep -qx \
	'dm_lease_lost_total{portion="alpha",controller="2"} 1' "$work/metrics"
check "and the heartbeats of who owned first" grep -q \
	'^dm_lease_heartbeat_margin_seconds_count{portion="alpha",controller="1"} [1-9]' "$work/metrics"

# One picture of what was told and of what was traced.
for event in role heartbeat refuse; do
	echo 0 >"$trace/events/dm_lease/dm_lease_$event/enable"
done
cp $trace/trace "$work/trace"
check "what was recorded is drawn" \
	leasectl timeline --output "$work/svg" "$work/events" "$work/trace"
check "in one lane for each controller" \
	[ "$(grep -c '>alpha<' "$work/svg")" -eq 2 ]
check "with heartbeats" grep -q '<title>heartbeat</title>' "$work/svg"
check "and what was refused" grep -q '<title>1 refused or late</title>' "$work/svg"

finish
