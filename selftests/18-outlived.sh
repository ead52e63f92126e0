#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A refused operation is never issued. No operation is issued in a later term than the one in which
# it arrived if another controller owned the portion in between. This holds for operations that were
# kept after their refusal, that waited for a permit, or that dm core deferred during a suspend
# [R55]. All tables are stateless, so that openers do not prevent a claim.

. ./lib.sh
plan 77

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

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

# ends_with NAME TEXT RESULT: a case that passes if the operation ends with this result
ends_with() {
	eventually 20 ended "$1"
	check_equal "$2" "$3" "$(result "$1")"
}

suspend_noflush() {
	dmsetup suspend --noflush --nolockfs "$1"
}

# Prints the first letter of the data of member 1.
letter() {
	dd if="$(member 0 1)" bs=4096 skip=2048 count=1 iflag=direct 2>/dev/null | head -c 1
}

# Controller 2 writes the letter n over the data of controller 1, which is the letter w.
write_new() {
	tr '\0' n </dev/zero |
		dd of=/dev/mapper/p0m1c2 bs=4096 count=1 oflag=direct iflag=fullblock 2>/dev/null
}

# claim C: controller C gets message claim, and owns the portion once the other term is over
claim() {
	send_message "$1" 0 claim
	eventually 60 role_is "$1" 0 owner
}

# Controller 2 owns the portion for one term and writes. Controller 1 owns it before and afterwards.
other_term() {
	send_message 1 0 fence && claim 2 && write_new && [ "$(letter)" = n ] &&
		send_message 2 0 fence && claim 1
}

# map_both OPTION...: controller 1 owns the portion and controller 2 is secondary
map_both() {
	map_portion 1 0 --stateless --claim-manual "$@" && eventually 60 role_is 1 0 secondary &&
		send_message 1 0 claim && eventually 60 role_is 1 0 owner &&
		map_portion 2 0 --stateless --claim-manual && eventually 60 role_is 2 0 secondary
}

unmap_both() {
	unmap_portion 1 0 && unmap_portion 2 0
}

# A write is refused and kept.
require "a portion is formatted" format_portion 0
require "controller 1 owns the portion with lapse_hold_ms 600000" map_both --lapse-hold-ms 600000
check "controller 1 is fenced" send_message 1 0 fence
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
check "a write after the fence is counted as refused" eventually 20 status_field_is p0m0c1 refused 1
check_fails "the refused write is kept" ended kept
check "another device of the portion is suspended" suspend_noflush p0m0c1
check "another device of the portion is resumed" dmsetup resume p0m0c1
check_fails "the suspend of another device does not end the kept write" ended kept
check "the device of the kept write is suspended" suspend_noflush p0m1c1
check_equal "the suspend ends the kept write with a conflict [R55]" EBADE "$(result kept)"
check "the kept write was refused once" status_field_is p0m0c1 refused 1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "controller 2 owns the portion while the device is suspended" claim 2
check "controller 2 writes new data" write_new
check "controller 2 is fenced" send_message 2 0 fence
require "controller 1 owns the portion again" claim 1
check_fails "the write that was sent during the suspend is deferred" ended deferred
check "the device of the deferred write is resumed" dmsetup resume p0m1c1
ends_with deferred "the deferred write fails in the later term [R55]" EBADE
check "the deferred write is counted as refused" status_field_is p0m0c1 refused 2
check_equal "the data of controller 2 survives the deferred write [R55]" n "$(letter)"
check_equal "a write in the later term is acknowledged" \
	ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check_equal "the write in the later term reaches the member" w "$(letter)"

# A write completes late and is kept.
hold_data 1 0 1
begin late /dev/mapper/p0m1c1 write 0 4096 direct
check "a write hangs at the member" eventually 20 status_field_is p0m0c1 permits 1/unlimited
send_message 1 0 fence
resume_data 1 0 1
check "the hanging write completes late" eventually 20 status_field_is p0m0c1 late 1
check_fails "the late write is kept" ended late
check "another device is suspended while a late write is kept" suspend_noflush p0m0c1
check "another device is resumed while a late write is kept" dmsetup resume p0m0c1
check_fails "the suspend of another device does not end the late write" ended late
check "the device of the late write is suspended" suspend_noflush p0m1c1
ends_with late "the suspend ends the late write with a conflict" EBADE
dmsetup resume p0m1c1
unmap_both

# A read-only table refuses writes and keeps none, because no lapse would end the waiting.
require "controller 1 owns the portion again with lapse_hold_ms 600000" \
	map_both --lapse-hold-ms 600000
reload_read_only() {
	dmsetup reload --readonly p0m1c1 --table "$(dmsetup table p0m1c1)" &&
		suspend_noflush p0m1c1 && dmsetup resume p0m1c1
}
exec 3<>/dev/mapper/p0m1c1
check "an open device gets a read-only table" reload_read_only
(
	dd if=/dev/zero bs=4096 count=1 conv=fsync >&3 2>/dev/null
	echo "$?" >"$work/readonly"
) &
ends_with readonly "a write to the read-only device fails at once" 1
check "controller 1 still owns the portion with a read-only table" role_is 1 0 owner
exec 3>&-
unmap_both

# A write is deferred by dm core, or is pending when the suspend begins.
require "a portion with a limit of one is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns the portion with a limit of one" map_both
check "the device of member 1 is suspended" suspend_noflush p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
require "controller 2 owns and writes in a term during the suspend" other_term
check "the device of member 1 is resumed" dmsetup resume p0m1c1
ends_with deferred "a write deferred before the term of controller 2 fails [R55]" EBADE
check_equal "the data of controller 2 survives the failed deferred write" n "$(letter)"
check_equal "a write after the failed deferred write is acknowledged" \
	ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
hold_data 1 0 0
begin first /dev/mapper/p0m0c1 write 0 4096 direct
check "a write hangs at member 0 and holds the only permit" \
	eventually 20 status_field_is p0m0c1 permits 1/1
begin waits /dev/mapper/p0m1c1 write 0 4096 direct
check "a write to member 1 is pending" eventually 20 status_field_is p0m0c1 pending 1
check "the device of the pending write is suspended" suspend_noflush p0m1c1
check "no write is pending during the suspend" status_field_is p0m0c1 pending 0
check_fails "the requeued write has not ended" ended waits
resume_data 1 0 0
ends_with first "the write that held the permit is acknowledged" ok
require "controller 2 owns and writes in a term while the write is requeued" other_term
check "the device of the requeued write is resumed" dmsetup resume p0m1c1
ends_with waits "the requeued write fails in the later term [R55]" EBADE
check_equal "the data of controller 2 survives the requeued write" n "$(letter)"

# The same with a new table.
check "the device is suspended for a new table" suspend_noflush p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
require "controller 2 owns and writes in a term before the new table" other_term
check "a table with fail_with ioerr is loaded" dmsetup reload p0m1c1 --table \
	"$(dmsetup table p0m1c1 | sed 's/ 1 3 / 1 5 fail_with ioerr /')"
check "the device is resumed with the new table" dmsetup resume p0m1c1
ends_with deferred "a write deferred under the old table fails under the new one [R55]" EIO
check_equal "the data of controller 2 survives the write deferred under the old table" n "$(letter)"
check_equal "a write under the new table is acknowledged" \
	ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"

# No other controller owned the portion in between.
check "the device is suspended before controller 2 leaves" suspend_noflush p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "controller 2 unmaps the portion" unmap_portion 2 0
check "controller 1 is fenced during the suspend" send_message 1 0 fence
epoch=$(status_field p0m0c1 epoch)
check "controller 1 owns the next term as well" claim 1
check_equal "the next term of controller 1 is the next epoch" \
	$((epoch + 1)) "$(status_field p0m0c1 epoch)"
check "the device is resumed in the next term of controller 1" dmsetup resume p0m1c1
ends_with deferred "a write deferred between two terms of controller 1 is acknowledged" ok
check_equal "the deferred write reaches the member" w "$(letter)"

# A suspend fails, because it is interrupted while dm core waits for a write at the member.
require "controller 2 maps the portion again" map_portion 2 0 --stateless --claim-manual
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
hold_data 1 0 1
begin first /dev/mapper/p0m1c1 write 0 4096 direct
check "a write hangs at member 1 and holds the only permit" \
	eventually 20 status_field_is p0m0c1 permits 1/1
dmsetup suspend --nolockfs p0m1c1 2>/dev/null &
pid=$!
waits_for_bios() {
	grep -q "__dm_suspend\|dm_wait_for" "/proc/$pid/stack"
}
require "a flushing suspend waits for the hanging write" eventually 20 waits_for_bios
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "the waiting suspend is interrupted" kill "$pid"
wait "$pid"
resume_data 1 0 1
ends_with first "the hanging write is acknowledged after the interrupted suspend" ok
ends_with deferred "a write deferred during the interrupted suspend is acknowledged" ok
require "controller 2 owns and writes in a term after the interrupted suspend" other_term
check_equal "a write after the term of controller 2 is acknowledged" ok \
	"$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check "both controllers unmap the portion" unmap_both

finish
