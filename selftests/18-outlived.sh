#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A refused operation is never issued, and none is issued in a later term than it arrived in if
# another controller owned in between: whether it was kept after its refusal, waited for a permit,
# or was deferred by dm core during a suspend [R55]. All tables are stateless, so that openers do
# not keep a controller from claiming.

. ./lib.sh
plan 77

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# Starts an operation on a mapped device; what became of it is in $work/NAME.
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

ends_with() {
	eventually 20 ended "$1"
	check_equal "$2" "$3" "$(result "$1")"
}

quiesce() {
	dmsetup suspend --noflush --nolockfs "$1"
}

# The first letter of the data of member 1.
letter() {
	dd if="$(member 0 1)" bs=4096 skip=2048 count=1 iflag=direct 2>/dev/null | head -c 1
}

# Controller 2 writes the letter n where the writes of controller 1 go.
write_new() {
	tr '\0' n </dev/zero |
		dd of=/dev/mapper/p0m1c2 bs=4096 count=1 oflag=direct iflag=fullblock 2>/dev/null
}

# owns C: controller C is told to claim, and owns once the term of the other is over
owns() {
	send_message "$1" 0 claim
	eventually 60 role_is "$1" 0 owner
}

# A term of controller 2, in which it writes. Controller 1 owns before and afterwards.
other_term() {
	send_message 1 0 fence && owns 2 && write_new && [ "$(letter)" = n ] && send_message 2 0 fence && owns 1
}

# both OPTION...: controller 1 owns and controller 2 watches
both() {
	map_portion 1 0 --stateless --claim-manual "$@" && eventually 60 role_is 1 0 secondary &&
		send_message 1 0 claim && eventually 60 role_is 1 0 owner &&
		map_portion 2 0 --stateless --claim-manual && eventually 60 role_is 2 0 secondary
}

neither() {
	unmap_portion 1 0 && unmap_portion 2 0
}

# Kept after the refusal.
require "a portion" format_portion 0
require "controller 1 owns it, and keeps what it refuses" both --lapse-hold-ms 600000
check "it is fenced" send_message 1 0 fence
begin kept /dev/mapper/p0m1c1 write 0 4096 direct
check "a write is refused" eventually 20 status_field_is p0m0c1 refused 1
check_fails "and kept" ended kept
check "another device is suspended" quiesce p0m0c1
check "and resumed" dmsetup resume p0m0c1
check_fails "which does not end what is kept of this one" ended kept
check "this one is suspended" quiesce p0m1c1
check_equal "the refused write has ended [R55]" EBADE "$(result kept)"
check "it was refused once, not over and over" status_field_is p0m0c1 refused 1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "controller 2 owns, and writes" owns 2
check "new data" write_new
check "it is fenced" send_message 2 0 fence
require "controller 1 owns again" owns 1
check_fails "a write that was sent during the suspend waits" ended deferred
check "the device is resumed" dmsetup resume p0m1c1
ends_with deferred "that write fails [R55]" EBADE
check "which was counted" status_field_is p0m0c1 refused 2
check_equal "the new data is still there [R55]" n "$(letter)"
check_equal "a write that is sent now" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check_equal "is written" w "$(letter)"

# Late, and kept.
hold_data 1 0 1
begin late /dev/mapper/p0m1c1 write 0 4096 direct
check "a write is at the member" eventually 20 status_field_is p0m0c1 permits 1/unlimited
send_message 1 0 fence
resume_data 1 0 1
check "it completes late" eventually 20 status_field_is p0m0c1 late 1
check_fails "and is kept" ended late
check "another device is suspended" quiesce p0m0c1
check "and resumed" dmsetup resume p0m0c1
check_fails "which does not end it" ended late
check "its own device is suspended" quiesce p0m1c1
ends_with late "which ends it" EBADE
dmsetup resume p0m1c1
neither

# A read-only table refuses, and keeps nothing: no lapse ends that.
require "controller 1 owns" both --lapse-hold-ms 600000
read_only() {
	dmsetup reload --readonly p0m1c1 --table "$(dmsetup table p0m1c1)" && quiesce p0m1c1 &&
		dmsetup resume p0m1c1
}
exec 3<>/dev/mapper/p0m1c1
check "a device that is open gets a read-only table" read_only
(
	dd if=/dev/zero bs=4096 count=1 conv=fsync >&3 2>/dev/null
	echo "$?" >"$work/readonly"
) &
ends_with readonly "a write fails at once" 1
check "controller 1 owns all the while" role_is 1 0 owner
exec 3>&-
neither

# Deferred by dm core, or waiting for a permit when the suspend begins.
require "a portion with a limit of one" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns it" both
check "its device is suspended" quiesce p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
require "a term of controller 2" other_term
check "the device is resumed" dmsetup resume p0m1c1
ends_with deferred "a write that was deferred before fails [R55]" EBADE
check_equal "the new data is still there" n "$(letter)"
check_equal "a write that is sent now" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
hold_data 1 0 0
begin first /dev/mapper/p0m0c1 write 0 4096 direct
check "a write is at another member" eventually 20 status_field_is p0m0c1 permits 1/1
begin waits /dev/mapper/p0m1c1 write 0 4096 direct
check "a write waits for its permit" eventually 20 status_field_is p0m0c1 pending 1
check "its device is suspended" quiesce p0m1c1
check "it waits no more" status_field_is p0m0c1 pending 0
check_fails "and has not ended" ended waits
resume_data 1 0 0
ends_with first "the first write ends" ok
require "a term of controller 2" other_term
check "the device is resumed" dmsetup resume p0m1c1
ends_with waits "the write that has waited fails [R55]" EBADE
check_equal "the new data is still there" n "$(letter)"

# With a new table.
check "its device is suspended" quiesce p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
require "a term of controller 2" other_term
check "a new table" dmsetup reload p0m1c1 --table \
	"$(dmsetup table p0m1c1 | sed 's/ 1 3 / 1 5 fail_with ioerr /')"
check "is resumed" dmsetup resume p0m1c1
ends_with deferred "a write that was deferred before fails there, too [R55]" EIO
check_equal "the new data is still there" n "$(letter)"
check_equal "a write that is sent now" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"

# Nobody owned in between.
check "its device is suspended" quiesce p0m1c1
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "controller 2 goes" unmap_portion 2 0
check "controller 1 is fenced" send_message 1 0 fence
epoch=$(status_field p0m0c1 epoch)
check "and owns the next term as well" owns 1
check_equal "which is the next" $((epoch + 1)) "$(status_field p0m0c1 epoch)"
check "the device is resumed" dmsetup resume p0m1c1
ends_with deferred "a write that was deferred before is written" ok
check_equal "on the member" w "$(letter)"

# A suspend that fails: dm core waits for a write at the member, and is interrupted.
require "controller 2 watches" map_portion 2 0 --stateless --claim-manual
require "as secondary" eventually 60 role_is 2 0 secondary
hold_data 1 0 1
begin first /dev/mapper/p0m1c1 write 0 4096 direct
check "a write is at the member" eventually 20 status_field_is p0m0c1 permits 1/1
dmsetup suspend --nolockfs p0m1c1 2>/dev/null &
pid=$!
waits_for_bios() {
	grep -q "__dm_suspend\|dm_wait_for" "/proc/$pid/stack"
}
require "a suspend waits for it" eventually 20 waits_for_bios
begin deferred /dev/mapper/p0m1c1 write 0 4096 direct
check "is interrupted" kill "$pid"
wait "$pid"
resume_data 1 0 1
ends_with first "the write ends" ok
ends_with deferred "and one that was deferred meanwhile is written" ok
require "a term of controller 2" other_term
check_equal "a write that is sent after it is not refused" ok \
	"$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check "the portion is left" neither

finish
