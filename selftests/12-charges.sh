#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What old owners may still put on the disks is charged to whoever follows them, until they have
# drained and somebody has repaired it: several stale owners in a row never have more open than
# the redundancy repairs. What happens when nothing is left, and who may go on then
# [R14, R15, R20, R21].
#
# A stale owner's operations are really there: they hang below its gate, in a device that is held.

. ./lib.sh
plan 74

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# refuses WORDS C MESSAGE...: controller C refuses it, and says why
refuses() {
	words=$1 controller=$2
	shift 2
	mark_log
	! send_message "$controller" 0 "$@" 2>/dev/null && log_has "$words"
}

permits_are() {
	[ "$(status_field "p0m0c$1" permits)" = "$2" ]
}

charged_is() {
	[ "$(status_field "p0m0c$1" charged)" = "$2" ]
}

pending_is() {
	[ "$(status_field "p0m0c$1" pending)" -eq "$2" ]
}

epoch() {
	status_field "p0m0c$1" epoch
}

# What the ballot record of controller $1 on the disk says of charges.
published() {
	leasectl show "$(member 0 0)" | sed -n "/^  controller $1:/,/^  controller/s/.*, charged //p" |
		head -n 1
}

# writers C N: N writers of controller C, each of one block
writers() {
	for writer in $(seq "$2"); do
		bio "/dev/mapper/p0m$((writer % 3))c$1" write $((writer * 4096)) 4096 direct \
			>"$work/$1.$writer" &
	done
}

# told C WORD: how many writers of C were told that
told() {
	count=0
	for answer in "$work/$1".*; do
		[ "$(cat "$answer")" != "$2" ] || count=$((count + 1))
	done
	rm -f "$work/$1".*
	echo $count
}

# stale C N: N operations of the owner C hang below its gate, and it loses its lease
stale() {
	for index in 0 1 2; do
		hold_data "$1" 0 $index || return 1
	done
	writers "$1" "$2"
	eventually 20 permits_are "$1" "$2/2" && hold_mailboxes "$1" 0
}

let_all_go() {
	for index in 0 1 2; do
		resume_data "$1" 0 $index || return 1
	done
}

repaired() {
	send_message "$1" 0 repaired "$2" 2>/dev/null
}

require "redundancy of four that detects, at most two open" format_portion 0 --redundancy parity:4 \
	--detect yes --batch 2
require "controller 1 owns it" map_as_owner 1 0
check "it may have two open" permits_are 1 0/2
check "and is charged nothing" charged_is 1 0
require "controller 2 comes" map_portion 2 0
require "as a secondary" eventually 60 role_is 2 0 secondary
require "controller 3 comes, and claims when it is told to" map_portion 3 0 --claim-manual
require "as a secondary" eventually 60 role_is 3 0 secondary

mark_log
require "two operations of controller 1 hang, and its heartbeats" stale 1 2
require "controller 2 takes over" eventually 60 role_is 2 0 owner
check "it is charged two [R21]" charged_is 2 2
check "the log says so" eventually 20 log_has "alpha controller 2: limit 2, 2 charged"
check "and may have two open all the same" permits_are 2 0/2
check_equal "whoever comes next reads it on the disk" "2 for epoch 1 of controller 1" "$(published 2)"
check "the old owner has not drained" refuses "the old owner is not known to have drained" \
	2 repaired 1
check "it is charged still" charged_is 2 2

mark_log
require "two operations of controller 2 hang, and its heartbeats" stale 2 2
check "controller 3 is told to claim" send_message 3 0 claim
require "and takes over" eventually 60 role_is 3 0 owner
check "it is charged four" charged_is 3 4
check "nothing is left [R15]" permits_are 3 0/0
check "the status names it" reason_is 3 0 exhausted
check "the log says so" eventually 20 log_has \
	"alpha controller 3: limit 0, 4 charged: the batch limit is exhausted"
writers 3 2
check "its writes wait" eventually 20 pending_is 3 2
check_equal "reads pass [R22]" ok "$(bio /dev/mapper/p0m0c3 read 0 4096 direct)"
beaten=$(heartbeats_written 3 0)
check "thirty heartbeats" eventually 60 has_written_more_than $((beaten + 30)) 3 0
check "and they still wait, none failed [R17]" pending_is 3 2
check "the owner owns" role_is 3 0 owner

# Controller 1 comes back, first without its operations.
check "controller 1 goes on" resume_mailboxes 1 0
check "as a secondary" eventually 60 role_is 1 0 secondary
beaten=$(heartbeats_written 1 0)
check "three records of it" eventually 60 has_written_more_than $((beaten + 3)) 1 0
check "say that two are open" refuses "the old owner is not known to have drained" 3 repaired 1
check "they go on" let_all_go 1
check "which drains it: it may be repaired [R21]" eventually 60 repaired 3 1
check_equal "none of the two was acknowledged [R18]" 2 "$(told 1 EBADE)"
check "two are charged still" charged_is 3 2
check "two may be open from the next heartbeat on [R14]" eventually 20 permits_are 3 0/2
check "nothing waits" eventually 20 pending_is 3 0
check_equal "what waited ended well" 2 "$(told 3 ok)"
check_equal "the charge of controller 2 is left" "2 for epoch 2 of controller 2" "$(published 3)"
check "repaired is not for the present epoch" refuses "the message names another epoch" \
	3 repaired "$(epoch 3)"
check "nor for a secondary" refuses "it does not own the portion" 1 repaired 1

# A hand-over charges nobody and carries the list.
require "controller 3 hands over to controller 1" eventually 20 send_message 3 0 handoff 1
require "which owns" eventually 60 role_is 1 0 owner
check "and is charged for controller 2, not for controller 3" charged_is 1 2
check "controller 2 goes on" resume_mailboxes 2 0
check "with its operations" let_all_go 2
check "it has drained" eventually 60 repaired 1 3
check "nothing is charged" charged_is 1 0
check_equal "none of the two was acknowledged [R18]" 2 "$(told 2 EBADE)"
check_equal "two were open at once [R16]" "2 2" "$(status_field p0m0c1 peak) $(status_field p0m0c2 peak)"
check "never more" [ "$(status_field p0m0c3 peak)" -le 2 ]
check "all go" unmap_portion 1 0 && unmap_portion 2 0 && unmap_portion 3 0

# Nothing left without any old owner: a group that is being rebuilt, with the policy `stop`.
require "redundancy of two" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns" map_as_owner 1 0
check "nothing is exhausted" refuses "the limit is not exhausted" 1 accept_risk 1
check "two members are rebuilt" send_message 1 0 degraded 2
check "nothing may be open" permits_are 1 0/0
writers 1 1
check "a write waits" eventually 20 pending_is 1 1
check "the risk is not taken for another epoch" refuses "the message names another epoch" \
	1 accept_risk 2
check "it is for this one" send_message 1 0 accept_risk 1
check "the lease alone protects now [R15]" eventually 20 permits_are 1 0/window
wait
check_equal "the write ends well" 1 "$(told 1 ok)"
check "the members are back" send_message 1 0 degraded 0
check "and so is the limit" eventually 20 permits_are 1 0/1
check "the risk is not taken for ever" send_message 1 0 degraded 2
check "nothing may be open" permits_are 1 0/0
check "controller 1 goes" unmap_portion 1 0

# The same with the policy `window`.
require "a portion that goes on" format_portion 0 --redundancy parity:2 --detect yes --exhausted window
require "controller 1 owns" map_as_owner 1 0
mark_log
check "two members are rebuilt" send_message 1 0 degraded 2
check "the lease alone protects" eventually 20 permits_are 1 0/window
check "the log says so" eventually 20 log_has \
	"alpha controller 1: limit window, 0 charged: the batch limit is exhausted"
check_equal "writes go on" ok "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"

finish
