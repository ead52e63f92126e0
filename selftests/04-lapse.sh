#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A controller whose mailbox I/O hangs loses its lease by time. Its writes are refused, its late
# completions are not acknowledged, another controller takes over, and later heartbeats do not
# revive the lease [R6, R9, R17, R18, R24].

. ./lib.sh
plan 66

# begin NAME DEVICE OPERATION...: starts an operation; its result goes to $work/NAME
begin() {
	name=$1
	shift
	bio "$@" >"$work/$name" &
}

ended() {
	[ -s "$work/$1" ]
}

result() {
	cat "$work/$1"
}

open_is() {
	[ "$(status_field p0m0c1 permits | cut -d / -f 1)" -eq "$1" ]
}

late_is() {
	[ "$(status_field p0m0c1 late)" -eq "$1" ]
}

refused_is() {
	[ "$(status_field p0m0c1 refused)" -eq "$1" ]
}

# Controller 1 loses its lease while one write hangs at member 0. The write is named `held`.
lose_with_write() {
	hold_data 1 0 0
	begin held /dev/mapper/p0m0c1 write 4096 4096 direct
	eventually 20 open_is 1 && hold_mailboxes 1 0 && eventually 60 role_is 1 0 secondary
}

# map_alone OPTION...: controller 1 maps a new portion, and claims it on message only
map_alone() {
	format_portion 0 && map_portion 1 0 --claim-manual "$@" &&
		eventually 60 role_is 1 0 secondary
}

claim() {
	send_message 1 0 claim && eventually 60 role_is 1 0 owner
}

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

require "a portion is formatted" format_portion 0
require "controller 1 owns the portion" map_as_owner 1 0
check "controller 2 maps the portion" map_portion 2 0
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
check_equal "controller 2 sees epoch 1" 1 "$(status_field p0m0c2 epoch)"
require "controller 1 loses its lease while a write hangs at a member" lose_with_write
check "the reason of the demotion is a lapse" reason_is 1 0 lapse
check "the hanging write keeps its permit [R16]" open_is 1
check_equal "a write after the lapse is refused" \
	EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 2 owns the portion" eventually 60 role_is 2 0 owner
check_equal "controller 2 owns a new epoch, number 2 [R28]" 2 "$(status_field p0m0c2 epoch)"
check_equal "controller 2 is the owner of epoch 2" 2 "$(status_field p0m0c2 owner)"
check_equal "a write of controller 2 passes [R30]" \
	ok "$(bio /dev/mapper/p0m1c2 write 0 4096 direct)"
check_fails "the write at the member still hangs" ended held
resume_data 1 0 0
check "the write of controller 1 ends when the member answers" eventually 20 ended held
check_equal "the late write of controller 1 is not acknowledged [R18]" EBADE "$(result held)"
check "the late write is counted as late" late_is 1
check "the permit of the late write is closed" open_is 0
check_equal "controller 1 refused one write" 1 "$(status_field p0m0c1 refused)"
check_equal "a read of controller 1 passes [R22]" ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
resume_mailboxes 1 0
written=$(heartbeats_written 1 0)
check "controller 1 writes ten heartbeats as secondary" \
	eventually 60 has_written_more_than $((written + 10)) 1 0
check "controller 1 stays secondary after ten heartbeats [R9]" role_is 1 0 secondary
check_equal "controller 1 sees epoch 2" 2 "$(status_field p0m0c1 epoch)"
check_equal "controller 1 sees controller 2 as owner" 2 "$(status_field p0m0c1 owner)"
check "heartbeats of a secondary do not disturb the owner [R32]" role_is 2 0 owner
check "the mailbox I/O of controller 2 hangs" hold_mailboxes 2 0
check "controller 1 owns the portion after controller 2 stalled" eventually 60 role_is 1 0 owner
check_equal "controller 1 owns epoch 3" 3 "$(status_field p0m0c1 epoch)"
resume_mailboxes 2 0
unmap_portion 2 0
unmap_portion 1 0

require "a single controller with claim manual is secondary" map_alone
written=$(heartbeats_written 1 0)
check "the single controller writes thirty heartbeats" \
	eventually 60 has_written_more_than $((written + 30)) 1 0
check "the single controller does not claim by itself" role_is 1 0 secondary
require "the single controller owns the portion after message claim" claim
check "the mailbox I/O of the single controller hangs" hold_mailboxes 1 0
check "the single controller loses its lease without any data I/O" \
	eventually 60 role_is 1 0 secondary
resume_mailboxes 1 0
written=$(heartbeats_written 1 0)
check "the single controller writes thirty heartbeats after the lapse" \
	eventually 60 has_written_more_than $((written + 30)) 1 0
check "healthy heartbeats do not revive a lapsed lease [R9]" role_is 1 0 secondary
check_equal "the epoch is still 1 after the lapse" 1 "$(status_field p0m0c1 epoch)"
check_equal "a write without a lease is refused" \
	EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
require "the single controller owns the portion again after message claim" claim
check_equal "the single controller owns epoch 2" 2 "$(status_field p0m0c1 epoch)"
unmap_portion 1 0

for error in 'ioerr EIO' 'medium ENODATA' 'resv_conflict EBADE'; do
	require "a portion is mapped with fail_with ${error% *}" map_alone --fail-with "${error% *}"
	check_equal "a write refused with fail_with ${error% *} ends with ${error#* }" \
		"${error#* }" \
		"$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
	unmap_portion 1 0
done

# Refused and late operations are kept for lapse_hold_ms, or until message drop.
require "a portion is mapped with lapse_hold_ms 600000" map_alone --lapse-hold-ms 600000
require "the controller with lapse_hold_ms owns the portion" claim
check "the controller with lapse_hold_ms loses its lease while a write hangs" lose_with_write
resume_data 1 0 0
check "the hanging write completes late" eventually 20 late_is 1
before=$(dd if="$(member 0 1)" bs=64k skip=128 count=1 iflag=direct 2>/dev/null | md5sum)
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
check "a write after the lapse is counted as refused" eventually 20 refused_is 1
check_equal "a read passes while failed writes are kept" \
	ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
check_equal "a nowait write fails at once while failed writes are kept" EBADE \
	"$(bio /dev/mapper/p0m1c1 write 0 4096 direct nowait)"
check_fails "the refused write is kept" ended kept
check_fails "the late write is kept" ended held
check "message drop succeeds" send_message 1 0 drop
check "message drop ends the refused write" eventually 20 ended kept
check "message drop ends the late write" eventually 20 ended held
check_equal "the refused write ends with the error of a reservation conflict" EBADE "$(result kept)"
check_equal "the late write ends with the error of a reservation conflict" EBADE "$(result held)"
check_equal "no refused write changed the member [R17]" "$before" \
	"$(dd if="$(member 0 1)" bs=64k skip=128 count=1 iflag=direct 2>/dev/null | md5sum)"
check_equal "a write after message drop fails at once" \
	EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
resume_mailboxes 1 0
unmap_portion 1 0

require "a portion is mapped with lapse_hold_ms 1000" map_alone --lapse-hold-ms 1000
require "the controller with lapse_hold_ms 1000 owns the portion" claim
hold_data 1 0 1
hold_mailboxes 1 0
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
eventually 60 role_is 1 0 secondary
check_equal "a write after the lapse fails by itself when lapse_hold_ms is over" EBADE \
	"$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
resume_data 1 0 1
eventually 20 ended kept
check_equal "a write that was under way at the lapse is not acknowledged" EBADE "$(result kept)"

finish
