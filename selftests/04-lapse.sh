#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A controller that is stalled below loses its lease by time: it may not write, what completes late
# is not acknowledged, somebody else takes over, and nothing revives it [R6, R9, R17, R18, R24].

. ./lib.sh
plan 66

# Starts an operation on a mapped device of controller 1; what became of it is in $work/NAME.
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

# Controller 1 loses the lease of an epoch while one write is at its member, which then completes.
lose_with_write() {
	hold_data 1 0 0
	begin held /dev/mapper/p0m0c1 write 4096 4096 direct
	eventually 20 open_is 1 && hold_mailboxes 1 0 && eventually 60 role_is 1 0 secondary
}

# alone OPTION...: controller 1 on a new portion, as the owner only when it is told to
alone() {
	format_portion 0 && map_portion 1 0 --claim-manual "$@" && eventually 60 role_is 1 0 secondary
}

claim() {
	send_message 1 0 claim && eventually 60 role_is 1 0 owner
}

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

require "a portion is formatted" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
check "controller 2 watches" map_portion 2 0
require "as a secondary" eventually 60 role_is 2 0 secondary
check_equal "in epoch 1" 1 "$(status_field p0m0c2 epoch)"
require "a write is at the member, and the heartbeats stall" lose_with_write
check "the reason is the lapse" reason_is 1 0 lapse
check "its permit stays open [R16]" open_is 1
check_equal "nothing is written any more" EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 2 takes over" eventually 60 role_is 2 0 owner
check_equal "with a new epoch [R28]" 2 "$(status_field p0m0c2 epoch)"
check_equal "and its number" 2 "$(status_field p0m0c2 owner)"
check_equal "and writes [R30]" ok "$(bio /dev/mapper/p0m1c2 write 0 4096 direct)"
check_fails "the write at the member has not ended" ended held
resume_data 1 0 0
check "it completes" eventually 20 ended held
check_equal "and is not acknowledged [R18]" EBADE "$(result held)"
check "which was counted" late_is 1
check "its permit is closed" open_is 0
check_equal "it was the only one refused besides the next" 1 "$(status_field p0m0c1 refused)"
check_equal "reads pass [R22]" ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
resume_mailboxes 1 0
written=$(heartbeats_written 1 0)
check "controller 1 heartbeats again" eventually 60 has_written_more_than $((written + 10)) 1 0
check "and stays secondary [R9]" role_is 1 0 secondary
check_equal "of epoch 2" 2 "$(status_field p0m0c1 epoch)"
check_equal "owned by the other" 2 "$(status_field p0m0c1 owner)"
check "which is not disturbed [R32]" role_is 2 0 owner
check "controller 2 stalls, too" hold_mailboxes 2 0
check "controller 1 takes over again" eventually 60 role_is 1 0 owner
check_equal "in epoch 3" 3 "$(status_field p0m0c1 epoch)"
resume_mailboxes 2 0
unmap_portion 2 0
unmap_portion 1 0

require "alone, with claims left to messages, it is a secondary" alone
written=$(heartbeats_written 1 0)
check "and stays one" eventually 60 has_written_more_than $((written + 30)) 1 0
check "without a claim" role_is 1 0 secondary
require "told to claim, it owns" claim
check "it stalls" hold_mailboxes 1 0
check "and loses the lease, without any operation" eventually 60 role_is 1 0 secondary
resume_mailboxes 1 0
written=$(heartbeats_written 1 0)
check "thirty healthy heartbeats" eventually 60 has_written_more_than $((written + 30)) 1 0
check "do not revive it [R9]" role_is 1 0 secondary
check_equal "the epoch is the same" 1 "$(status_field p0m0c1 epoch)"
check_equal "a write is refused" EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
require "told to claim, it owns again" claim
check_equal "the next epoch, not the old one" 2 "$(status_field p0m0c1 epoch)"
unmap_portion 1 0

for error in 'ioerr EIO' 'medium ENODATA' 'resv_conflict EBADE'; do
	require "a table for it" alone --fail-with "${error% *}"
	check_equal "fail_with ${error% *}" "${error#* }" \
		"$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
	unmap_portion 1 0
done

# What is refused or late is kept for as long as the table says, or until it is dropped.
require "a table keeps what fails after a lapse" alone --lapse-hold-ms 600000
require "of a lease" claim
check "the lease is lost with a write at the member" lose_with_write
resume_data 1 0 0
check "it completes late" eventually 20 late_is 1
before=$(dd if="$(member 0 1)" bs=64k skip=128 count=1 iflag=direct 2>/dev/null | md5sum)
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
check "another is refused" eventually 20 refused_is 1
check_equal "reads pass at once" ok "$(bio /dev/mapper/p0m0c1 read 0 4096 direct)"
check_equal "a bio that must not wait fails at once" EBADE \
	"$(bio /dev/mapper/p0m1c1 write 0 4096 direct nowait)"
check_fails "neither fails yet" ended kept
check_fails "nor is acknowledged" ended held
check "message drop" send_message 1 0 drop
check "ends the refused one" eventually 20 ended kept
check "and the late one" eventually 20 ended held
check_equal "with the error of a conflict" EBADE "$(result kept)"
check_equal "both" EBADE "$(result held)"
check_equal "nothing was written [R17]" "$before" \
	"$(dd if="$(member 0 1)" bs=64k skip=128 count=1 iflag=direct 2>/dev/null | md5sum)"
check_equal "after the drop nothing is kept" EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
resume_mailboxes 1 0
unmap_portion 1 0

require "a table keeps it for a second" alone --lapse-hold-ms 1000
require "of a lease" claim
hold_data 1 0 1
hold_mailboxes 1 0
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
eventually 60 role_is 1 0 secondary
check_equal "a write just after the lapse is kept, and fails by itself" EBADE \
	"$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
resume_data 1 0 1
eventually 20 ended kept
check_equal "what was on its way is not acknowledged" EBADE "$(result kept)"

finish
