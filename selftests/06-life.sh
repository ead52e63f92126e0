#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Changes to mapped devices in use: suspend, resume and reload keep the lease and fail no operation;
# a hand-over under load leaves no permit open; removal of one device releases the portion at once;
# system sleep releases it; the module loads and unloads many times [R34, R43].

. ./lib.sh
plan 66

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit stop_load
load_module

# Starts writers that continue until stop_load or an error; their results go to $work/load*.
start_load() {
	rm -f "$work"/load* "$work/stop"
	for writer in 0 1 2; do
		(
			while [ ! -e "$work/stop" ]; do
				bio "/dev/mapper/p0m${writer}c1" write $((writer * 65536)) 16384 \
					direct || break
			done
		) >"$work/load$writer" &
	done
	eventually 60 wrote "$work/load0" 3 && eventually 60 wrote "$work/load1" 3 &&
		eventually 60 wrote "$work/load2" 3 && return 0
	print_note "$(dmsetup status --target lease)" "$(cat "$work"/load?)"
	return 1
}

wrote() {
	[ "$(grep -c '^ok$' "$1")" -ge "$2" ]
}

stop_load() {
	touch "$work/stop"
	wait
}

all_writes_succeeded() {
	! grep -v '^ok$' "$work"/load?
}

suspend_resume() {
	for index in 0 1 2; do
		dmsetup suspend "$@" p0m${index}c1 && dmsetup resume p0m${index}c1 || return 1
	done
}

# reload OPTION...: gives all devices a new table with these features, without a flush
reload() {
	for index in 0 1 2; do
		dmsetup table p0m${index}c1 | sed "s/ lease \\([^ ]*\\) 1.*/ lease \\1 1 $*/" |
			dmsetup reload p0m${index}c1 || return 1
		dmsetup suspend --noflush --nolockfs p0m${index}c1 &&
			dmsetup resume p0m${index}c1 || return 1
	done
}

open_is() {
	[ "$(status_field p0m0c1 permits | cut -d / -f 1)" -eq "$1" ]
}

pending_is() {
	[ "$(status_field p0m0c1 pending)" -eq "$1" ]
}

module_is_unloaded() {
	[ ! -e "/sys/module/dm_lease" ]
}

# The host reaches this guest by a channel that closes when devices sleep. The channel must be open
# again before the next sleep (qemu/guest/agent counts how often it was opened).
openings=/run/rig/openings

is_reachable() {
	[ ! -e $openings ] || [ "$(cat $openings)" -gt "$1" ]
}

require "a portion with a limit of one is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns the portion" map_as_owner 1 0
require "controller 2 maps the portion" map_portion 2 0

require "three writers write" start_load
for round in 1 2 3; do
	check "all devices are suspended with a flush and resumed, round $round" suspend_resume
	check "all devices are suspended without a flush and resumed, round $round" \
		suspend_resume --noflush --nolockfs
	check "all devices get a new table, round $round" reload 4 claim auto lapse_hold_ms $round
done
stop_load
check "no write failed during the suspends and reloads" all_writes_succeeded
check_equal "the epoch is still 1 after the suspends and reloads" 1 "$(status_field p0m0c1 epoch)"
check "controller 1 still owns the portion after the suspends and reloads" role_is 1 0 owner
check_equal "no write was refused during the suspends and reloads" \
	0 "$(status_field p0m0c1 refused)"
check_equal "no write was late during the suspends and reloads" 0 "$(status_field p0m0c1 late)"
check "no permit is open after the suspends and reloads" open_is 0
check "no write is pending after the suspends and reloads" pending_is 0

# A noflush suspend does not wait for pending operations.
hold_data 1 0 1
bio /dev/mapper/p0m1c1 write 0 4096 direct >"$work/open" &
eventually 20 open_is 1
bio /dev/mapper/p0m0c1 write 0 4096 direct >"$work/pending" &
require "a write is pending at the gate" eventually 20 pending_is 1
check "a noflush suspend of a device with a pending write succeeds" \
	dmsetup suspend --noflush --nolockfs p0m0c1
check "dm core took the pending write back" pending_is 0
check "the device with the requeued write is resumed" dmsetup resume p0m0c1
check "the requeued write is pending again" eventually 20 pending_is 1
resume_data 1 0 1
wait
check_equal "the requeued write is acknowledged" ok "$(cat "$work/pending")"
check_equal "the write that held the permit is acknowledged" ok "$(cat "$work/open")"
check "a flushing suspend of an idle device succeeds" dmsetup suspend p0m0c1
written=$(heartbeats_written 1 0)
check "the owner writes thirty heartbeats while a device is suspended" \
	eventually 60 has_written_more_than $((written + 30)) 1 0
check "a suspended device accepts a message" dmsetup message p0m0c1 0 degraded 0
dmsetup resume p0m0c1
check_equal "the epoch is still 1 after the suspend" 1 "$(status_field p0m0c1 epoch)"

# A hand-over under load: pending operations fail, no permit is open, and there is no window [R34].
require "three writers write before the hand-over" start_load
check "controller 1 hands over to controller 2 under load" send_message 1 0 handoff 2
check "no permit is open after the hand-over [R34]" open_is 0
stop_load
check "each of the three writers ended with a conflict" \
	[ "$(cat "$work"/load? | grep -c '^EBADE$')" -eq 3 ]
check "controller 2 owns the portion" eventually 20 role_is 2 0 owner
check_equal "no acknowledged write became late by the hand-over" 0 "$(status_field p0m0c1 late)"
check_equal "controller 2 owns epoch 2" 2 "$(status_field p0m0c2 epoch)"

# A release while a permit does not close.
hold_data 2 0 1
bio /dev/mapper/p0m1c2 write 0 4096 direct >"$work/open" &
eventually 20 sh -c "dmsetup status p0m0c2 --noflush | grep -q ' 1/1 '"
check_fails "a release with a hanging write fails" send_message 2 0 release
check "controller 2 keeps its lease after the failed release" role_is 2 0 owner
resume_data 2 0 1
wait
check_equal "the write that hung during the release is acknowledged" ok "$(cat "$work/open")"
check "controller 2 hands over to controller 1" send_message 2 0 handoff 1
check "controller 1 owns the portion after the hand-over" eventually 20 role_is 1 0 owner

# The devices are removed one after the other.
check "one of three devices of controller 1 is removed" dmsetup remove --retry p0m2c1
check "controller 2 owns the portion as soon as a device is removed" eventually 20 role_is 2 0 owner
check_equal "controller 2 owns epoch 4" 4 "$(status_field p0m0c2 epoch)"
check "the second device of controller 1 is removed" dmsetup remove --retry p0m1c1
check "the third device of controller 1 is removed" dmsetup remove --retry p0m0c1
check "controller 2 unmaps the portion" unmap_portion 2 0

# The sleep test freezer: the PM notifiers run and processes are frozen, but the machine stays on.
require "controller 1 owns the portion alone" map_as_owner 1 0
epoch=$(status_field p0m0c1 epoch)
echo freezer >/sys/power/pm_test
mark_log
check "the system enters and leaves the sleep test freezer" sh -c 'echo freeze >/sys/power/state'
echo none >/sys/power/pm_test
check "the log says that the system suspends [R43]" log_has "the system suspends"
check "controller 1 owns the portion after the sleep test freezer" eventually 60 role_is 1 0 owner
check "controller 1 owns a later epoch after the sleep test freezer" \
	[ "$(status_field p0m0c1 epoch)" -gt "$epoch" ]

# The sleep test processors: disks are suspended before the other processors are stopped, which
# waits for the I/O that was sent in between.
echo processors >/sys/power/pm_test
echo 0 >/sys/module/suspend/parameters/pm_test_delay
for round in 1 2 3; do
	opened=$(cat $openings 2>/dev/null)
	check "the system enters and leaves the sleep test processors, round $round" \
		sh -c 'echo mem >/sys/power/state'
	check "controller 1 owns the portion after the sleep test processors, round $round" \
		eventually 60 role_is 1 0 owner
	require "the host reaches this guest after the sleep test, round $round" \
		eventually 60 is_reachable "$opened"
done
echo none >/sys/power/pm_test
check "controller 1 unmaps the portion after the sleep tests" unmap_portion 1 0

rounds=0
for round in $(seq 100); do
	rmmod dm_lease && module_is_unloaded && load_module && rounds=$((rounds + 1))
done
check_equal "the module is unloaded and loaded 100 times" 100 "$rounds"
rounds=0
for round in 1 2 3 4 5; do
	map_portion 1 0 && unmap_portion 1 0 && rmmod dm_lease && load_module &&
		rounds=$((rounds + 1))
done
check_equal "the module is unloaded and loaded 5 times just after a session began" 5 "$rounds"

finish
