#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What happens to a mapped device while it is used: suspend, resume and reload keep the lease and
# fail nothing, a release under load leaves nothing behind, removal of one device gives the portion
# up at once, system sleep releases it, and the module comes and goes [R34, R43].

. ./lib.sh
plan 66

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit stop_load
load_module

# Writers that go on until they are stopped, or fail; what they were told is in $work/load.
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

# Whether every write that was ever started went well.
load_is_well() {
	! grep -v '^ok$' "$work"/load?
}

suspend_resume() {
	for index in 0 1 2; do
		dmsetup suspend "$@" p0m${index}c1 && dmsetup resume p0m${index}c1 || return 1
	done
}

# reload OPTION...: new tables, with other features, under load
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

is_gone() {
	[ ! -e "/sys/module/dm_lease" ]
}

# The rig's way into this machine is closed when devices sleep, and must be open before they do so
# again (qemu/guest/agent).
openings=/run/rig/openings

is_reachable() {
	[ ! -e $openings ] || [ "$(cat $openings)" -gt "$1" ]
}

require "a portion with a limit of one" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns it" map_as_owner 1 0
require "controller 2 watches" map_portion 2 0

require "writers write" start_load
for round in 1 2 3; do
	check "suspend and resume, flushing, round $round" suspend_resume
	check "without flushing, round $round" suspend_resume --noflush --nolockfs
	check "reload, round $round" reload 4 claim auto lapse_hold_ms $round
done
stop_load
check "no write failed" load_is_well
check_equal "the epoch is the same" 1 "$(status_field p0m0c1 epoch)"
check "controller 1 still owns" role_is 1 0 owner
check_equal "nothing was refused" 0 "$(status_field p0m0c1 refused)"
check_equal "nor late" 0 "$(status_field p0m0c1 late)"
check "no permit is left" open_is 0
check "and nothing waits" pending_is 0

# A noflush suspend does not wait for what waits at the gate.
hold_data 1 0 1
bio /dev/mapper/p0m1c1 write 0 4096 direct >"$work/open" &
eventually 20 open_is 1
bio /dev/mapper/p0m0c1 write 0 4096 direct >"$work/pending" &
require "a write waits at the gate" eventually 20 pending_is 1
check "its device is suspended without flushing" dmsetup suspend --noflush --nolockfs p0m0c1
check "dm took the write back" pending_is 0
check "after the resume" dmsetup resume p0m0c1
check "it waits again" eventually 20 pending_is 1
resume_data 1 0 1
wait
check_equal "and ends well" ok "$(cat "$work/pending")"
check_equal "as does the other" ok "$(cat "$work/open")"
check "suspended, a device keeps its lease" dmsetup suspend p0m0c1
written=$(heartbeats_written 1 0)
check "it heartbeats" eventually 60 has_written_more_than $((written + 30)) 1 0
check "and takes messages" dmsetup message p0m0c1 0 degraded 0
dmsetup resume p0m0c1
check_equal "the epoch is the same" 1 "$(status_field p0m0c1 epoch)"

# Release under load: what waits fails, nothing is left open, and there is no window [R34].
require "writers write" start_load
check "the portion is handed over under load" send_message 1 0 handoff 2
check "no permit is left [R34]" open_is 0
stop_load
check "each writer ended with a conflict" \
	[ "$(cat "$work"/load? | grep -c '^EBADE$')" -eq 3 ]
check "controller 2 owns" eventually 20 role_is 2 0 owner
check_equal "no success was taken back" 0 "$(status_field p0m0c1 late)"
check_equal "the next epoch" 2 "$(status_field p0m0c2 epoch)"

# A permit that does not close.
hold_data 2 0 1
bio /dev/mapper/p0m1c2 write 0 4096 direct >"$work/open" &
eventually 20 sh -c "dmsetup status p0m0c2 --noflush | grep -q ' 1/1 '"
check_fails "a release that cannot drain fails" send_message 2 0 release
check "and leaves the owner its lease" role_is 2 0 owner
resume_data 2 0 1
wait
check_equal "the write ends well" ok "$(cat "$work/open")"
check "then it can be released" send_message 2 0 handoff 1
check "and controller 1 owns" eventually 20 role_is 1 0 owner

# One device after the other.
check "one device of three is removed" dmsetup remove --retry p0m2c1
check "the portion is given up at once" eventually 20 role_is 2 0 owner
check_equal "in the next epoch" 4 "$(status_field p0m0c2 epoch)"
check "the second one goes" dmsetup remove --retry p0m1c1
check "and the third" dmsetup remove --retry p0m0c1
check "and all of controller 2" unmap_portion 2 0

# System sleep: the notifiers run, and the devices too, but the machine stays on.
require "controller 1 owns a portion" map_as_owner 1 0
epoch=$(status_field p0m0c1 epoch)
echo freezer >/sys/power/pm_test
mark_log
check "the system goes to sleep and comes back" sh -c 'echo freeze >/sys/power/state'
echo none >/sys/power/pm_test
check "the lease was given up before [R43]" log_has "the system suspends"
check "controller 1 owns again" eventually 60 role_is 1 0 owner
check "in a later epoch" [ "$(status_field p0m0c1 epoch)" -gt "$epoch" ]

# Disks sleep before the other processors end, and those wait for whatever was sent in between.
echo processors >/sys/power/pm_test
echo 0 >/sys/module/suspend/parameters/pm_test_delay
for round in 1 2 3; do
	opened=$(cat $openings 2>/dev/null)
	check "it sleeps with its disks and processors, round $round" \
		sh -c 'echo mem >/sys/power/state'
	check "controller 1 owns again" eventually 60 role_is 1 0 owner
	require "the rig reaches this machine again" eventually 60 is_reachable "$opened"
done
echo none >/sys/power/pm_test
check "it goes" unmap_portion 1 0

rounds=0
for round in $(seq 100); do
	rmmod dm_lease && is_gone && load_module && rounds=$((rounds + 1))
done
check_equal "the module comes and goes, 100 times" 100 "$rounds"
rounds=0
for round in 1 2 3 4 5; do
	map_portion 1 0 && unmap_portion 1 0 && rmmod dm_lease && load_module && rounds=$((rounds + 1))
done
check_equal "with a session that just began, 5 times" 5 "$rounds"

finish
