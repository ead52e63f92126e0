#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Messages: what each does, what each refuses and says then, and what of all that can be observed:
# status, log, dm events and trace events [R34, R47].

. ./lib.sh
plan 82

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# refuses ERRNO WORDS C MESSAGE...: controller C refuses it for portion alpha, and says why
refuses() {
	errno=$1 words=$2 controller=$3
	shift 3
	mark_log
	! send_message "$controller" 0 "$@" 2>"$work/error" && grep -q "$errno" "$work/error" && log_has "$words"
}

epoch() {
	status_field "p0m0c$1" epoch
}

period_is() {
	leasectl show "$(member 0 0)" | grep -q "^  controller $1: .* period $2 ms,"
}

# Words that are no message.
refuse_words() {
	while IFS='|' read -r message words; do
		# shellcheck disable=SC2086 # messages are words
		check "'$message': $words" refuses "Invalid argument" "$words" 1 $message
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
require "controller 1 owns it" map_as_owner 1 0
require "controller 2 comes, and claims when it is told to" map_portion 2 0 --claim-manual
require "as a secondary" eventually 60 role_is 2 0 secondary
refuse_words

# Asking for what is already so is a success.
check "claim, to the owner" send_message 1 0 claim
check "handoff to itself" send_message 1 0 handoff 1
check "release, to a secondary" send_message 2 0 release
check "drop, with nothing kept" send_message 1 0 drop
check "fence, to a secondary" send_message 2 0 fence
check "degraded 0" send_message 1 0 degraded 0
check_equal "nothing of it changed the epoch" 1 "$(epoch 1)"
check "nor the owner" role_is 1 0 owner

check "handoff to a controller that the portion does not know" \
	refuses "Invalid argument" "the portion knows no such controller" 1 handoff 9
check "handoff by a secondary" \
	refuses "Operation not permitted" "it does not own the portion" 2 handoff 3
check "a limit that is not exhausted needs no risk" \
	refuses "busy" "the limit is not exhausted" 1 accept_risk 1
check "no term needs to be repaired" \
	refuses "Invalid argument" "the message names another epoch" 1 repaired 1
check "a period that does not fit the lease [R10]" \
	refuses "out of range" "the period does not fit the portion's timings" 1 heartbeat_ms 101
check "a period that does" send_message 1 0 heartbeat_ms 50
check "is used [R1]" eventually 20 period_is 1 50
check "and not by the other" period_is 2 100

check "confirm_dead of an owner that is heard" \
	refuses "busy" "the owner was heard lately" 2 confirm_dead 1 1
check "of another epoch" \
	refuses "Invalid argument" "the message names another epoch" 2 confirm_dead 1 2
check "of another owner" \
	refuses "Invalid argument" "the message names another epoch" 2 confirm_dead 3 1
check "of itself" refuses "Invalid argument" "" 1 confirm_dead 1 1

# Each transition is an event.
trace=/sys/kernel/tracing/events/dm_lease
check "there are trace events" [ -d $trace ]
: >/sys/kernel/tracing/trace
echo 1 >$trace/enable
events=$(dmsetup info -c --noheadings -o events p0m2c2)
timeout 60 dmsetup wait p0m2c2 "$events" &
waiter=$!
mark_log
check "a controller that claims when it is told to is not handed to before that [R34]" \
	refuses "busy" "the successor may not claim" 1 handoff 2
check "controller 1 goes on" role_is 1 0 owner
check "controller 2 is told to claim" send_message 2 0 claim
check "controller 1 hands over to controller 2" eventually 20 send_message 1 0 handoff 2
require "which owns" eventually 20 role_is 2 0 owner
check "a dm event told so [R47]" wait $waiter
check "the log did" log_has "alpha controller 2: claiming -> owner, epoch 2 of 2"
check "and named the reason" log_has "the portion was handed over"
check "the trace did" grep -q \
	"dm_lease_role: .*controller=2 old=claiming new=owner epoch=2" /sys/kernel/tracing/trace
check "and has the heartbeats" grep -q \
	"dm_lease_heartbeat: .*controller=2 seq=[1-9]" /sys/kernel/tracing/trace
check_equal "controller 1 is refused" EBADE "$(bio /dev/mapper/p0m1c1 write 4096 4096 direct)"
check "the trace has that, too" grep -q \
	"dm_lease_refuse: .*controller=1 .*sector=16392 sectors=8 refused" /sys/kernel/tracing/trace
echo 0 >$trace/enable
check "leasectl reads the status" sh -c 'leasectl status | grep -q alpha'
check_equal "the reason is the hand-over" handoff "$(status_field p0m0c1 reason)"

dmsetup create above --table '0 8 linear /dev/mapper/p0m1c2 0'
on_exit 'dmsetup remove above 2>/dev/null'
check_fails "what lies on no lease is not fenced" leasectl fence /dev/lease/scsi0
check "what lies on one is" leasectl fence /dev/mapper/above
dmsetup remove above
check "latches at once" role_is 2 0 secondary
check_equal "for that reason" fence "$(status_field p0m0c2 reason)"
check_equal "and refuses" EBADE "$(bio /dev/mapper/p0m1c2 write 4096 4096 direct)"
check "a second fence is as good" send_message 2 0 fence
require "controller 1 owns after the window" eventually 60 role_is 1 0 owner
check_equal "with epoch 3" 3 "$(epoch 1)"

check "controller 2 is told to claim" send_message 2 0 claim
check "controller 1 releases" send_message 1 0 release
require "and controller 2 takes it" eventually 60 role_is 2 0 owner
check "a controller that is not there is not handed to [R34]" \
	refuses "timed out" "the successor did not prepare itself in time" 2 handoff 3
check "controller 2 goes on" role_is 2 0 owner
check "and releases" send_message 2 0 release
check "controller 1 takes it" eventually 60 role_is 1 0 owner

dead() {
	send_message 2 0 confirm_dead 1 "$(epoch 2)" 2>/dev/null
}
check "controller 1 dies" hold_mailboxes 1 0
check "its death is confirmed as soon as its lease must be over" eventually 60 dead
check "controller 2 owns" eventually 60 role_is 2 0 owner
resume_mailboxes 1 0

finish
