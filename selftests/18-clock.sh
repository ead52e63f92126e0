#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Clocks: a sleep that nothing has announced ends the lease before any write passes, and a clock that
# is steered changes nothing [R10, R43].

. ./lib.sh
plan 28

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit all_processors
on_exit stop_load
on_exit 'busybox adjtimex -q -t 10000'
load_module

tracefs=/sys/kernel/tracing
[ -d $tracefs/events ] || mount -t tracefs trace $tracefs
events=$tracefs/events/dm_lease
cpus=/sys/devices/system/cpu

# The system sleeps with one processor.
one_processor() {
	for cpu in "$cpus"/cpu[1-9]*/online; do
		[ ! -e "$cpu" ] || echo 0 >"$cpu"
	done
}

all_processors() {
	for cpu in "$cpus"/cpu[1-9]*/online; do
		[ ! -e "$cpu" ] || echo 1 >"$cpu"
	done
}

# Writers that go on whatever they are told.
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

# nap MS: nothing announces the sleep. What the raw clock showed at its end is in $work/raw.
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

# permits EPOCH: how many operations were admitted in an epoch since the raw clock was at $work/raw.
permits() {
	awk -v epoch="epoch=$1" -v raw="$(cat "$work/raw")" '
		/dm_lease_permit:/ && index($0, epoch " ") {
			match($0, /checked=[0-9]+/)
			if (substr($0, RSTART + 8, RLENGTH - 8) + 0 > raw + 0)
				count++
		}
		END { print count + 0 }' $tracefs/trace
}

is_later() {
	role_is 1 0 owner && [ "$(status_field p0m0c1 epoch)" -gt "$1" ]
}

require "the module says how it sees the sleep of a system" [ -d "$events" ]
require "alpha is formatted" format_portion 0
one_processor
require "controller 1 owns a portion" map_as_owner 1 0
echo mono_raw >$tracefs/trace_clock
echo 1 >"$events/dm_lease_permit/enable"
start_load
# A short sleep, after which the lease would be valid still, and one that is longer than the lease.
for ms in 5 5 5 3000; do
	: >$tracefs/trace
	epoch=$(status_field p0m0c1 epoch)
	refused=$(status_field p0m0c1 refused)
	count=$(cat "$work"/load? | grep -c '^ok$')
	check "it is written in epoch $epoch" eventually 60 wrote "$count"
	expect_warning "controller 1: owner -> "
	check "the system sleeps for $ms ms" nap "$ms"
	check "controller 1 owns again" eventually 60 is_later "$epoch"
	check_equal "nothing was admitted under the old lease after it" 0 "$(permits "$epoch")"
	check "what came first was refused" [ "$(status_field p0m0c1 refused)" -gt "$refused" ]
	check "the log says why" log_has "the machine slept"
done
stop_load
echo 0 >"$events/dm_lease_permit/enable"
all_processors

epoch=$(status_field p0m0c1 epoch)
for tick in 9000 11000; do
	busybox adjtimex -q -t "$tick"
	sleep 5
done
busybox adjtimex -q -t 10000
check_equal "an owner whose clocks are steered by a tenth keeps its lease [R10]" \
	"owner $epoch" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"
finish
