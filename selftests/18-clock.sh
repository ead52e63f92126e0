#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Clocks: a system sleep without an announcement ends the lease before any write passes, and the
# steering of the clock does not change the lease [R10, R43].

. ./lib.sh
plan 33

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit use_all_processors
on_exit stop_load
on_exit 'busybox adjtimex -q -t 10000'
load_module

tracefs=/sys/kernel/tracing
[ -d $tracefs/events ] || mount -t tracefs trace $tracefs
events=$tracefs/events/dm_lease
cpus=/sys/devices/system/cpu

# The sleep of the module dm_lease_nap needs a system with one processor.
use_one_processor() {
	for cpu in "$cpus"/cpu[1-9]*/online; do
		[ ! -e "$cpu" ] || echo 0 >"$cpu"
	done
}

use_all_processors() {
	for cpu in "$cpus"/cpu[1-9]*/online; do
		[ ! -e "$cpu" ] || echo 1 >"$cpu"
	done
}

# Starts writers that continue after errors.
start_load() {
	rm -f "$work/stop"
	for writer in 0 1 2; do
		(
			while [ ! -e "$work/stop" ]; do
				bio "/dev/mapper/p0m${writer}c1" write $((writer * 65536)) 4096 direct
			done
		) >"$work/load$writer" 2>&1 &
	done
}

stop_load() {
	touch "$work/stop"
	wait
}

wrote() {
	[ "$(cat "$work"/load? | grep -c '^ok$')" -gt "$1" ]
}

# nap MS: lets the system sleep without an announcement, and stores the raw clock at its end in
# $work/raw
nap() {
	mark_log
	if [ -e /usr/lib/rig/modules/dm_lease_nap.ko ]; then
		insmod /usr/lib/rig/modules/dm_lease_nap.ko "ms=$1" 2>"$work/error"
	else
		modprobe dm_lease_nap "ms=$1" 2>"$work/error"
	fi
	dmesg | sed -n 's/.*dm_lease_nap: slept, raw \([0-9]*\)$/\1/p' | tail -n 1 >"$work/raw"
	log_has "dm_lease_nap: slept"
}

# count_permits EPOCH: prints how many operations were admitted in an epoch after the raw clock
# showed $work/raw
count_permits() {
	awk -v epoch="epoch=$1" -v raw="$(cat "$work/raw")" '
		/dm_lease_permit:/ && index($0, epoch " ") {
			match($0, /checked=[0-9]+/)
			if (substr($0, RSTART + 8, RLENGTH - 8) + 0 > raw + 0)
				count++
		}
		END { print count + 0 }' $tracefs/trace
}

refused_more_than() {
	[ "$(status_field p0m0c1 refused)" -gt "$1" ]
}

owns_epoch_after() {
	role_is 1 0 owner && [ "$(status_field p0m0c1 epoch)" -gt "$1" ]
}

require "the kernel has trace events of dm_lease" [ -d "$events" ]
require "portion alpha is formatted" format_portion 0
use_one_processor
# The controller claims on the message only. So there is a time without an owner after each sleep.
require "controller 1 maps the portion with claim manual" map_portion 1 0 --claim-manual
owns_on_message() {
	eventually 60 send_message 1 0 claim && eventually 60 role_is 1 0 owner
}
require "controller 1 owns the portion" owns_on_message
echo mono_raw >$tracefs/trace_clock
echo 1 >"$events/dm_lease_permit/enable"
start_load
# Three short sleeps, after which the lease would still be valid, and one that is longer than it.
for ms in 5 5 5 3000; do
	: >$tracefs/trace
	epoch=$(status_field p0m0c1 epoch)
	refused=$(status_field p0m0c1 refused)
	count=$(cat "$work"/load? | grep -c '^ok$')
	check "a write is acknowledged in epoch $epoch" eventually 60 wrote "$count"
	expect_warning "controller 1: owner -> "
	check "the system sleeps for $ms ms without an announcement" nap "$ms"
	check "an operation is refused after the sleep in epoch $epoch" \
		eventually 60 refused_more_than "$refused"
	check "controller 1 owns again after the sleep in epoch $epoch" owns_on_message
	check "the epoch is later than $epoch" owns_epoch_after "$epoch"
	check_equal "no operation was admitted in epoch $epoch after the sleep" \
		0 "$(count_permits "$epoch")"
	check "the log names the sleep in epoch $epoch" log_has "the host slept"
done
stop_load
echo 0 >"$events/dm_lease_permit/enable"
use_all_processors

epoch=$(status_field p0m0c1 epoch)
for tick in 9000 11000; do
	busybox adjtimex -q -t "$tick"
	sleep 5
done
busybox adjtimex -q -t 10000
check_equal "controller 1 keeps its lease while its clocks are steered by a tenth [R10]" \
	"owner $epoch" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"
finish
