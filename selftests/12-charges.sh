#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A new owner is charged for the operations that an old owner may still have under way, until the
# old owner has drained and an operator has repaired the redundancy. So several stale owners in a
# row never have more operations open than the redundancy repairs. When the limit is exhausted, the
# policy decides whether the owner may continue [R14, R15, R20, R21].
#
# The operations of a stale owner exist here: they hang below its gate, in a device that is held.

. ./lib.sh
plan 74

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# refuses WORDS C MESSAGE...: succeeds if controller C refuses the message and the log has the words
refuses() {
	words=$1 controller=$2
	shift 2
	mark_log
	! send_message "$controller" 0 "$@" 2>/dev/null && log_has "$words"
}

permits_are() {
	[ "$(status_field "p0m0c$1" permits)" = "$2" ]
}

pending_is() {
	[ "$(status_field "p0m0c$1" pending)" -eq "$2" ]
}

epoch() {
	status_field "p0m0c$1" epoch
}

# published_charges C: prints the charges in the ballot record of controller C on the disk
published_charges() {
	leasectl show "$(member 0 0)" | sed -n "/^  controller $1:/,/^  controller/s/.*, charged //p" |
		head -n 1
}

# start_writers C N: starts N writers of controller C; each writes one block
start_writers() {
	for writer in $(seq "$2"); do
		bio "/dev/mapper/p0m$((writer % 3))c$1" write $((writer * 4096)) 4096 direct \
			>"$work/$1.$writer" &
	done
}

# count_results C WORD: prints how many writers of controller C ended with the word
count_results() {
	count=0
	for answer in "$work/$1".*; do
		[ "$(cat "$answer")" != "$2" ] || count=$((count + 1))
	done
	rm -f "$work/$1".*
	echo $count
}

# make_stale C N: lets N operations of the owner C hang below its gate, and its mailbox I/O too
make_stale() {
	for index in 0 1 2; do
		hold_data "$1" 0 $index || return 1
	done
	start_writers "$1" "$2"
	eventually 20 permits_are "$1" "$2/2" && hold_mailboxes "$1" 0
}

resume_all_data() {
	for index in 0 1 2; do
		resume_data "$1" 0 $index || return 1
	done
}

send_repaired() {
	send_message "$1" 0 repaired "$2" 2>/dev/null
}

require "a portion with parity:4 and a batch limit of two is formatted" \
	format_portion 0 --redundancy parity:4 \
	--detect yes --batch 2
require "controller 1 owns the portion" map_as_owner 1 0
check "controller 1 may have two operations open" permits_are 1 0/2
check "controller 1 is charged nothing" status_field_is p0m0c1 charged 0
require "controller 2 maps the portion" map_portion 2 0
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
require "controller 3 maps the portion with claim manual" map_portion 3 0 --claim-manual
require "controller 3 is secondary" eventually 60 role_is 3 0 secondary

mark_log
require "two operations and the mailbox I/O of controller 1 hang" make_stale 1 2
require "controller 2 owns the portion" eventually 60 role_is 2 0 owner
check "controller 2 is charged two [R21]" status_field_is p0m0c2 charged 2
check "the log reports the charge of controller 2" \
	eventually 20 log_has "alpha controller 2: limit 2, 2 charged"
check "controller 2 may have two operations open in spite of the charge" permits_are 2 0/2
check_equal "the ballot record of controller 2 contains the charge for epoch 1" \
	"2 for epoch 1 of controller 1" "$(published_charges 2)"
check "controller 2 refuses message repaired before controller 1 has drained" \
	refuses "the old owner is not known to have drained" \
	2 repaired 1
check "controller 2 is still charged two" status_field_is p0m0c2 charged 2

mark_log
require "two operations and the mailbox I/O of controller 2 hang" make_stale 2 2
check "controller 3 accepts message claim" send_message 3 0 claim
require "controller 3 owns the portion" eventually 60 role_is 3 0 owner
check "controller 3 is charged four" status_field_is p0m0c3 charged 4
check "the limit of controller 3 is zero [R15]" permits_are 3 0/0
check "the reason of controller 3 is the exhausted limit" reason_is 3 0 exhausted
check "the log reports the exhausted limit of controller 3" eventually 20 log_has \
	"alpha controller 3: limit 0, 4 charged: the batch limit is exhausted"
start_writers 3 2
check "two writes of controller 3 are pending" eventually 20 pending_is 3 2
check_equal "a read of controller 3 passes [R22]" ok "$(bio /dev/mapper/p0m0c3 read 0 4096 direct)"
written=$(heartbeats_written 3 0)
check "controller 3 writes thirty heartbeats under the exhausted limit" \
	eventually 60 has_written_more_than $((written + 30)) 3 0
check "both writes of controller 3 are still pending [R17]" pending_is 3 2
check "controller 3 still owns the portion under the exhausted limit" role_is 3 0 owner

# Controller 1 returns. At first its operations still hang.
check "the mailbox I/O of controller 1 resumes" resume_mailboxes 1 0
check "controller 1 is secondary again" eventually 60 role_is 1 0 secondary
written=$(heartbeats_written 1 0)
check "controller 1 writes three heartbeats" eventually 60 has_written_more_than $((written + 3)) 1 0
check "controller 3 refuses message repaired while controller 1 has open permits" \
	refuses "the old owner is not known to have drained" 3 repaired 1
check "the data I/O of controller 1 resumes" resume_all_data 1
check "controller 3 accepts message repaired once controller 1 has drained [R21]" \
	eventually 60 send_repaired 3 1
check_equal "neither operation of controller 1 is acknowledged [R18]" 2 "$(count_results 1 EBADE)"
check "controller 3 is still charged two for controller 2" status_field_is p0m0c3 charged 2
check "controller 3 may have two operations open after the next heartbeat [R14]" \
	eventually 20 permits_are 3 0/2
check "no write of controller 3 is pending" eventually 20 pending_is 3 0
check_equal "both pending writes of controller 3 are acknowledged" 2 "$(count_results 3 ok)"
check_equal "the ballot record of controller 3 contains the charge for epoch 2" \
	"2 for epoch 2 of controller 2" "$(published_charges 3)"
check "controller 3 refuses message repaired for its own epoch" \
	refuses "the message names another epoch" \
	3 repaired "$(epoch 3)"
check "a secondary refuses message repaired" refuses "it does not own the portion" 1 repaired 1

# A hand-over adds no charge, and passes the earlier charges on.
require "controller 3 hands over to controller 1" eventually 20 send_message 3 0 handoff 1
require "controller 1 owns the portion after the hand-over" eventually 60 role_is 1 0 owner
check "controller 1 is charged for controller 2 and not for controller 3" \
	status_field_is p0m0c1 charged 2
check "the mailbox I/O of controller 2 resumes" resume_mailboxes 2 0
check "the data I/O of controller 2 resumes" resume_all_data 2
check "controller 1 accepts message repaired once controller 2 has drained" \
	eventually 60 send_repaired 1 3
check "controller 1 is charged nothing after the repair" status_field_is p0m0c1 charged 0
check_equal "neither operation of controller 2 is acknowledged [R18]" 2 "$(count_results 2 EBADE)"
check_equal "controllers 1 and 2 had two operations open at once [R16]" \
	"2 2" "$(status_field p0m0c1 peak) $(status_field p0m0c2 peak)"
check "controller 3 never had more than two operations open" [ "$(status_field p0m0c3 peak)" -le 2 ]
check "all three controllers unmap the portion" \
	unmap_portion 1 0 && unmap_portion 2 0 && unmap_portion 3 0

# The limit is exhausted without an old owner: a rebuild, with the policy `stop`.
require "a portion with parity:2 is formatted" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns the portion with parity:2" map_as_owner 1 0
check "message accept_risk is refused while the limit is not exhausted" \
	refuses "the limit is not exhausted" 1 accept_risk 1
check "message degraded 2 succeeds" send_message 1 0 degraded 2
check "the limit with two degraded members is zero" permits_are 1 0/0
start_writers 1 1
check "a write is pending under a limit of zero" eventually 20 pending_is 1 1
check "message accept_risk is refused for another epoch" refuses "the message names another epoch" \
	1 accept_risk 2
check "message accept_risk succeeds for the epoch of the owner" send_message 1 0 accept_risk 1
check "the lease alone limits operations after message accept_risk [R15]" \
	eventually 20 permits_are 1 0/window
wait
check_equal "the pending write is acknowledged after message accept_risk" 1 "$(count_results 1 ok)"
check "message degraded 0 succeeds" send_message 1 0 degraded 0
check "the limit returns when no member is degraded" eventually 20 permits_are 1 0/1
check "message degraded 2 succeeds a second time" send_message 1 0 degraded 2
check "the accepted risk does not apply to the second degradation" permits_are 1 0/0
check "controller 1 unmaps the portion with parity:2" unmap_portion 1 0

# The same with the policy `window`.
require "a portion with the policy window is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes --exhausted window
require "controller 1 owns the portion with the policy window" map_as_owner 1 0
mark_log
check "message degraded 2 succeeds under the policy window" send_message 1 0 degraded 2
check "the lease alone limits operations under the policy window" \
	eventually 20 permits_are 1 0/window
check "the log reports the exhausted limit under the policy window" eventually 20 log_has \
	"alpha controller 1: limit window, 0 charged: the batch limit is exhausted"
check_equal "a write passes under the policy window" \
	ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"

finish
