#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Messages: the effect of each one, each refusal with its text, and the traces of both in status,
# log, dm events and trace events [R34, R47].

. ./lib.sh
plan 82

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# refuses ERRNO WORDS C MESSAGE...: succeeds if controller C refuses the message for portion alpha
# with this error, and the log has the words
refuses() {
	errno=$1 words=$2 controller=$3
	shift 3
	mark_log
	! send_message "$controller" 0 "$@" 2>"$work/error" &&
		grep -q "$errno" "$work/error" && log_has "$words"
}

epoch() {
	status_field "p0m0c$1" epoch
}

period_is() {
	leasectl show "$(member 0 0)" | grep -q "^  controller $1: .* period $2 ms,"
}

# Messages with unknown, missing or wrong words.
refuse_words() {
	while IFS='|' read -r message words; do
		# shellcheck disable=SC2086 # messages are words
		check "message '$message' is refused: $words" \
			refuses "Invalid argument" "$words" 1 $message
	done <<-END
		sing|unknown message
		Claim|unknown message
		claim now|more words than the message takes
		handoff|controller number is missing
		handoff him|controller must be a number from 1 to 64
		handoff 0|controller is out of range: from 1 to 64
		handoff 65|controller is out of range: from 1 to 64
		handoff 2 3|more words than the message takes
		confirm_dead|controller number is missing
		confirm_dead 2|epoch is missing
		confirm_dead 2 last|epoch must be a number
		confirm_dead 2 0|epoch is out of range: at least 1, below 2^64
		confirm_dead 2 18446744073709551616|epoch is out of range: at least 1, below 2^64
		confirm_dead 2 1 please|only the word force may stand behind the epoch
		confirm_dead 2 1 force again|more words than the message takes
		accept_risk|epoch is missing
		accept_risk all|epoch must be a number
		repaired|epoch is missing
		repaired 0|epoch is out of range: at least 1, below 2^64
		degraded|number of degraded members is missing
		degraded some|degraded members must be a number from 0 to 16
		degraded 17|degraded members are out of range: from 0 to 16
		heartbeat_ms|period is missing
		heartbeat_ms fast|period must be a number from 1 to 60000
		heartbeat_ms 0|period is out of range: from 1 to 60000
	END
}

require "a portion is formatted" format_portion 0
require "controller 1 owns the portion" map_as_owner 1 0
require "controller 2 maps the portion with claim manual" map_portion 2 0 --claim-manual
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
refuse_words

# A message that asks for the present state succeeds.
check "the owner accepts message claim" send_message 1 0 claim
check "the owner accepts message handoff to itself" send_message 1 0 handoff 1
check "a secondary accepts message release" send_message 2 0 release
check "message drop succeeds when no operation is kept" send_message 1 0 drop
check "a secondary accepts message fence" send_message 2 0 fence
check "message degraded 0 succeeds when no member is degraded" send_message 1 0 degraded 0
check_equal "these messages did not change the epoch" 1 "$(epoch 1)"
check "controller 1 still owns the portion after these messages" role_is 1 0 owner

check "the owner refuses message handoff to an unknown controller" \
	refuses "Invalid argument" "the portion knows no such controller" 1 handoff 9
check "a secondary refuses message handoff" \
	refuses "Operation not permitted" "it does not own the portion" 2 handoff 3
check "message accept_risk is refused when the limit is not exhausted" \
	refuses "busy" "the limit is not exhausted" 1 accept_risk 1
check "message repaired is refused for an epoch without a charge" \
	refuses "Invalid argument" "the message names another epoch" 1 repaired 1
check "message heartbeat_ms is refused for a period that does not fit the lease [R10]" \
	refuses "out of range" "the period does not fit the portion's timings" 1 heartbeat_ms 101
check "message heartbeat_ms 50 succeeds" send_message 1 0 heartbeat_ms 50
check "controller 1 heartbeats every 50 ms [R1]" eventually 20 period_is 1 50
check "controller 2 still heartbeats every 100 ms" period_is 2 100

check "message confirm_dead is refused when the owner was heard lately" \
	refuses "busy" "the owner was heard lately" 2 confirm_dead 1 1
check "message confirm_dead is refused for another epoch" \
	refuses "Invalid argument" "the message names another epoch" 2 confirm_dead 1 2
check "message confirm_dead is refused for another owner" \
	refuses "Invalid argument" "the message names another epoch" 2 confirm_dead 3 1
check "message confirm_dead is refused for the controller itself" \
	refuses "Invalid argument" "" 1 confirm_dead 1 1

# Each change of role raises an event.
trace=/sys/kernel/tracing/events/dm_lease
check "the kernel has trace events of dm_lease" [ -d $trace ]
: >/sys/kernel/tracing/trace
echo 1 >$trace/enable
events=$(dmsetup info -c --noheadings -o events p0m2c2)
timeout 60 dmsetup wait p0m2c2 "$events" &
waiter=$!
mark_log
check "a hand-over to a controller with claim manual is refused [R34]" \
	refuses "busy" "the successor may not claim" 1 handoff 2
check "controller 1 still owns the portion after the refused hand-over" role_is 1 0 owner
check "controller 2 accepts message claim" send_message 2 0 claim
check "controller 1 hands over to controller 2" eventually 20 send_message 1 0 handoff 2
require "controller 2 owns the portion" eventually 20 role_is 2 0 owner
check "a dm event reported the change of role [R47]" wait $waiter
check "the log reports the change of role" \
	log_has "alpha controller 2: claiming -> owner, epoch 2 of 2"
check "the log names the hand-over as reason" log_has "the portion was handed over"
check "the trace has the change of role" grep -q \
	"dm_lease_role: .*controller=2 old=claiming new=owner epoch=2" /sys/kernel/tracing/trace
check "the trace has the heartbeats of controller 2" grep -q \
	"dm_lease_heartbeat: .*controller=2 seq=[1-9]" /sys/kernel/tracing/trace
check_equal "a write of controller 1 is refused" \
	EBADE "$(bio /dev/mapper/p0m1c1 write 4096 4096 direct)"
check "the trace has the refused write" grep -q \
	"dm_lease_refuse: .*controller=1 .*sector=16392 sectors=8 refused" /sys/kernel/tracing/trace
echo 0 >$trace/enable
check "leasectl status prints the portion" sh -c 'leasectl status | grep -q alpha'
check_equal "the reason of controller 1 is the hand-over" handoff "$(status_field p0m0c1 reason)"

dmsetup create above --table '0 8 linear /dev/mapper/p0m1c2 0'
on_exit 'dmsetup remove above 2>/dev/null'
check_fails "leasectl fence refuses a device that lies on no lease" leasectl fence /dev/lease/scsi0
check "leasectl fence succeeds on a device that lies on a lease" leasectl fence /dev/mapper/above
dmsetup remove above
check "controller 2 is secondary just after leasectl fence" role_is 2 0 secondary
check_equal "the reason of controller 2 is the fence" fence "$(status_field p0m0c2 reason)"
check_equal "a write of controller 2 is refused after the fence" \
	EBADE "$(bio /dev/mapper/p0m1c2 write 4096 4096 direct)"
check "a second fence succeeds" send_message 2 0 fence
require "controller 1 owns the portion after the fence" eventually 60 role_is 1 0 owner
check_equal "controller 1 owns epoch 3" 3 "$(epoch 1)"

check "controller 2 accepts message claim before the release" send_message 2 0 claim
check "controller 1 releases the portion" send_message 1 0 release
require "controller 2 owns the portion after the release" eventually 60 role_is 2 0 owner
check "a hand-over to a controller that is not mapped times out [R34]" \
	refuses "timed out" "the successor did not prepare itself in time" 2 handoff 3
check "controller 2 still owns the portion after the timeout" role_is 2 0 owner
check "controller 2 releases the portion" send_message 2 0 release
check "controller 1 owns the portion after the second release" eventually 60 role_is 1 0 owner

confirm_dead() {
	send_message 2 0 confirm_dead 1 "$(epoch 2)" 2>/dev/null
}
check "the mailbox I/O of controller 1 hangs" hold_mailboxes 1 0
check "message confirm_dead succeeds as soon as the lease must have ended" \
	eventually 60 confirm_dead
check "controller 2 owns the portion after confirm_dead" eventually 60 role_is 2 0 owner
resume_mailboxes 1 0

finish
