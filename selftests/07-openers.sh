#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Controllers that must not claim a free portion: one whose device has been open since before an
# epoch of another controller, one with read-only tables, and one whose number another host uses
# [R31, R36, R37].

. ./lib.sh
plan 67

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# open_device NAME: keeps a mapped device open until close_device
open_device() {
	mkfifo "$work/close"
	(
		exec 3<"/dev/mapper/$1"
		: >"$work/opened"
		read -r _ <"$work/close"
	) &
	opener=$!
	eventually 20 [ -e "$work/opened" ]
}

close_device() {
	echo >"$work/close"
	wait $opener
	rm "$work/close" "$work/opened"
}

# does_not_claim N: succeeds if controller 1 writes N more heartbeats and does not own the portion
# then
does_not_claim() {
	written=$(heartbeats_written 1 0)
	eventually 60 has_written_more_than $((written + $1)) 1 0 && fails role_is 1 0 owner
}

epoch() {
	status_field "p0m0c$1" epoch
}

require "a portion is formatted" format_portion 0
require "controller 1 owns the portion" map_as_owner 1 0
require "controller 2 maps the portion with claim manual" map_portion 2 0 --claim-manual
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
check "a device of controller 1 is opened" open_device p0m1c1
check "the mailbox I/O of controller 1 hangs" hold_mailboxes 1 0
send_message 2 0 claim
require "controller 2 owns the portion after message claim" eventually 60 role_is 2 0 owner
resume_mailboxes 1 0
check_equal "controller 2 owns epoch 2" 2 "$(epoch 2)"
mark_log
check_fails "controller 2 refuses a hand-over to controller 1 [R34]" send_message 2 0 handoff 1
check "the log says that the successor may not claim" log_has "the successor may not claim"
check "controller 2 still owns the portion after the refused hand-over" role_is 2 0 owner
check "controller 2 releases the portion" send_message 2 0 release
check "controller 1 writes forty heartbeats and does not claim" does_not_claim 40
check "the reason of controller 1 is stale openers [R31]" reason_is 1 0 stale_openers
check_equal "controller 1 still sees epoch 2 as the latest one" 2 "$(epoch 1)"
mark_log
check_fails "controller 1 refuses message claim" send_message 1 0 claim
check "the log names the open device as the reason of the refusal" \
	log_has "a device is open since before another's epoch"
check_equal "a write of controller 1 is refused" \
	EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check "the device of controller 1 is closed" close_device
check "controller 1 owns the portion after its device was closed" eventually 60 role_is 1 0 owner
check_equal "controller 1 owns epoch 3" 3 "$(epoch 1)"

check "a device of controller 1 is opened again" open_device p0m1c1
check "controller 1 releases the portion" send_message 1 0 release
check "controller 2 accepts message claim" send_message 2 0 claim
check "controller 2 owns the portion after the release" eventually 60 role_is 2 0 owner
check "controller 1 loads tables with the feature stateless" sh -c '
	for m in 0 1 2; do
		dmsetup table p0m${m}c1 | sed "s/\$/ 1 stateless/" | dmsetup reload p0m${m}c1 &&
			dmsetup suspend --noflush --nolockfs p0m${m}c1 &&
			dmsetup resume p0m${m}c1 || exit 1
	done'
# The next heartbeat of controller 1 says that it may claim.
check "controller 2 hands over to controller 1" eventually 20 send_message 2 0 handoff 1
check "controller 1 owns the portion although its device is open" eventually 60 role_is 1 0 owner
check "the device of controller 1 is closed again" close_device
unmap_portion 1 0
unmap_portion 2 0

# An open device does not prevent consecutive epochs of the same controller.
require "a portion for a single controller is formatted" format_portion 0
require "the single controller owns the portion" map_as_owner 1 0
check "a device of the single controller is opened" open_device p0m1c1
check "the mailbox I/O of the single controller hangs" hold_mailboxes 1 0
check "the single controller loses its lease" eventually 60 role_is 1 0 secondary
resume_mailboxes 1 0
check "the single controller owns again although its device is open" eventually 60 role_is 1 0 owner
check "the device of the single controller is closed" close_device
unmap_portion 1 0

# A controller with read-only tables only observes.
require "a portion for read-only tables is formatted" format_portion 0
for index in 0 1 2; do
	make_path 1 0 $index
	leasectl table --controller 1 /dev/mapper/p0m${index}w1 |
		dmsetup create --readonly p0m${index}c1
done
check "a controller with read-only tables is secondary" eventually 60 role_is 1 0 secondary
check "a controller with read-only tables writes sixty heartbeats and does not claim" \
	does_not_claim 60
check "the reason of the controller is its read-only tables [R31]" reason_is 1 0 read_only
check_fails "a controller with read-only tables refuses message claim" send_message 1 0 claim
check "a controller with read-only tables reads" \
	dd if=/dev/mapper/p0m0c1 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null
check "controller 2 owns the portion beside read-only tables" map_as_owner 2 0
unmap_portion 1 0
unmap_portion 2 0

# Two hosts with the same controller number. The records that the other host writes are those that
# controller 1 itself wrote in an earlier incarnation, on a portion with the same uuid.
uuid=5eaf00d5-0000-4000-8000-000000000001

# save NAME: saves the mailbox of controller 1 on each member
save() {
	for index in 0 1 2; do
		dd if="$(member 0 $index)" of="$work/$1$index" bs=4k skip=256 count=4 iflag=direct \
			2>/dev/null || return 1
	done
}

# forge NAME INDEX: the other host writes a saved mailbox to a member
forge() {
	dd if="$work/$1$2" of="$(member 0 "$2")" bs=4k seek=256 count=4 oflag=direct \
		conv=notrunc 2>/dev/null
}

# The other host writes its early and its late mailbox to a member again and again, until
# $work/quiet exists or $work does not.
keep_forging() {
	while [ ! -e "$work/quiet" ] && forge early "$1" && forge late "$1"; do
		:
	done
}

# The records must change on a majority within each window, in a slow guest, too. Therefore the
# writer of one member does not wait for another one.
run_other_host() {
	rm -f "$work/quiet"
	for index in 0 1 2; do
		keep_forging $index &
	done
	wait
}

require "a portion with a fixed uuid is formatted" format_portion 0 --uuid $uuid
require "controller 1 joins the portion with the fixed uuid" \
	map_portion 1 0 --claim-manual --heartbeat-ms 20
for name in early late last; do
	written=$(heartbeats_written 1 0)
	require "controller 1 writes heartbeats until its mailbox is saved as $name" \
		eventually 60 has_written_more_than $((${written:-0} + 100)) 1 0
	save $name
done
unmap_portion 1 0

require "the portion with the fixed uuid is formatted again" format_portion 0 --uuid $uuid
require "controller 2 owns the new portion" map_as_owner 2 0
run_other_host &
other=$!
check "controller 1 maps the new portion" map_portion 1 0 --claim-manual
written=$(heartbeats_written 2 0)
check "controller 2 writes a hundred heartbeats, for several windows" \
	eventually 120 has_written_more_than $((written + 100)) 2 0
check "controller 1 does not join while another host writes its mailbox [R36]" role_is 1 0 joining
check "the reason of controller 1 is a duplicate" reason_is 1 0 duplicate
: >"$work/quiet"
wait $other
require "controller 1 joins when the other host stops" eventually 60 role_is 1 0 secondary
# Controller 1 writes no ballot before it has listened for another window. It cannot claim until
# then.
check "controller 1 writes sixty heartbeats, for one more window" \
	eventually 120 has_written_more_than $(($(heartbeats_written 1 0) + 60)) 1 0
check "controller 1 accepts message claim" send_message 1 0 claim
check "controller 2 hands over to the joined controller 1" eventually 20 send_message 2 0 handoff 1
check "controller 1 owns the new portion" eventually 60 role_is 1 0 owner
expect_warning "controller 1: owner -> failed"
for index in 0 1 2; do
	check "the other host writes an old record of controller 1 to member $index" \
		forge last $index
done
check "controller 1 fails [R36]" eventually 60 role_is 1 0 failed
check "the reason of controller 1 is a foreign incarnation" reason_is 1 0 foreign_incarnation
check_equal "a write of the failed controller is refused" \
	EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
mark_log
check_fails "the failed controller refuses message claim" send_message 1 0 claim
check "the log says that another host writes the mailbox of controller 1" \
	log_has "another host writes the own mailbox"

finish
