#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Who must not claim although the portion is free: a controller whose device has been open since
# before another's epoch, one with read-only tables, and one whose number another machine uses
# [R31, R36, R37].

. ./lib.sh
plan 67

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

# Keeps a mapped device open until `close_it`.
open_it() {
	mkfifo "$work/close"
	(
		exec 3<"/dev/mapper/$1"
		: >"$work/opened"
		read -r _ <"$work/close"
	) &
	opener=$!
	eventually 20 [ -e "$work/opened" ]
}

close_it() {
	echo >"$work/close"
	wait $opener
	rm "$work/close" "$work/opened"
}

# Whether controller 1 has written N more heartbeats and still does not own.
stays_out() {
	written=$(heartbeats_written 1 0)
	eventually 60 has_written_more_than $((written + $1)) 1 0 && fails role_is 1 0 owner
}

epoch() {
	status_field "p0m0c$1" epoch
}

require "a portion is formatted" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
require "controller 2 comes, and claims when it is told to" map_portion 2 0 --claim-manual
require "as a secondary" eventually 60 role_is 2 0 secondary
check "a device of controller 1 is opened" open_it p0m1c1
check "controller 1 loses the portion" hold_mailboxes 1 0
send_message 2 0 claim
require "to controller 2" eventually 60 role_is 2 0 owner
resume_mailboxes 1 0
check_equal "with epoch 2" 2 "$(epoch 2)"
mark_log
check_fails "controller 2 does not hand over to it [R34]" send_message 2 0 handoff 1
check "because it may not claim" log_has "the successor may not claim"
check "controller 2 goes on" role_is 2 0 owner
check "and gives it up to anybody" send_message 2 0 release
check "controller 1 hears of it, but stays out" stays_out 40
check "because of who has the device open [R31]" reason_is 1 0 stale_openers
check_equal "nobody owns a later epoch" 2 "$(epoch 1)"
mark_log
check_fails "told to claim, it refuses" send_message 1 0 claim
check "and says why" log_has "a device is open since before another's epoch"
check_equal "and may not write" EBADE "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
check "the device is closed" close_it
check "controller 1 owns" eventually 60 role_is 1 0 owner
check_equal "the next epoch" 3 "$(epoch 1)"

check "a device is opened now" open_it p0m1c1
check "controller 1 releases" send_message 1 0 release
check "controller 2 is told to claim" send_message 2 0 claim
check "and owns" eventually 60 role_is 2 0 owner
check "controller 1 takes tables for who caches nothing" sh -c '
	for m in 0 1 2; do
		dmsetup table p0m${m}c1 | sed "s/\$/ 1 stateless/" | dmsetup reload p0m${m}c1 &&
			dmsetup suspend --noflush --nolockfs p0m${m}c1 &&
			dmsetup resume p0m${m}c1 || exit 1
	done'
# Its next heartbeat says that it may claim.
check "controller 2 hands over to it" eventually 20 send_message 2 0 handoff 1
check "controller 1 owns although the device is open" eventually 60 role_is 1 0 owner
check "it is closed" close_it
unmap_portion 1 0
unmap_portion 2 0

# Consecutive epochs of one controller are exempt.
require "a controller alone" format_portion 0
require "owns" map_as_owner 1 0
check "with a device open" open_it p0m1c1
check "it stalls" hold_mailboxes 1 0
check "and loses the lease" eventually 60 role_is 1 0 secondary
resume_mailboxes 1 0
check "it owns again, as nobody else did between" eventually 60 role_is 1 0 owner
check "it is closed" close_it
unmap_portion 1 0

# Read-only tables observe.
require "a free portion" format_portion 0
for index in 0 1 2; do
	make_path 1 0 $index
	leasectl table --controller 1 /dev/mapper/p0m${index}w1 |
		dmsetup create --readonly p0m${index}c1
done
check "a controller with read-only tables is secondary" eventually 60 role_is 1 0 secondary
check "and does not claim" stays_out 60
check "for that reason [R31]" reason_is 1 0 read_only
check_fails "and may not be told to" send_message 1 0 claim
check "it reads" dd if=/dev/mapper/p0m0c1 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null
check "another controller claims" map_as_owner 2 0
unmap_portion 1 0
unmap_portion 2 0

# Two machines with one number: what the other one writes is what another life of this controller
# wrote, on a portion with the same uuid, twice.
uuid=5eaf00d5-0000-4000-8000-000000000001

# save NAME: what the mailbox of controller 1 holds on each member
save() {
	for index in 0 1 2; do
		dd if="$(member 0 $index)" of="$work/$1$index" bs=4k skip=256 count=4 iflag=direct \
			2>/dev/null || return 1
	done
}

# forge NAME INDEX: the other machine writes that to a member
forge() {
	dd if="$work/$1$2" of="$(member 0 "$2")" bs=4k seek=256 count=4 oflag=direct \
		conv=notrunc 2>/dev/null
}

# The other machine writes to a member all the time, until $work/quiet is there or $work is not.
keep_forging() {
	while [ ! -e "$work/quiet" ] && forge early "$1" && forge late "$1"; do
		:
	done
}

# What it writes must change on a majority within each window, in a slow guest, too: nothing there
# waits for another member.
other_machine() {
	rm -f "$work/quiet"
	for index in 0 1 2; do
		keep_forging $index &
	done
	wait
}

require "a portion" format_portion 0 --uuid $uuid
require "which controller 1 joins" map_portion 1 0 --claim-manual --heartbeat-ms 20
for name in early late last; do
	written=$(heartbeats_written 1 0)
	require "its mailbox is saved: $name" eventually 60 has_written_more_than $((${written:-0} + 100)) 1 0
	save $name
done
unmap_portion 1 0

require "the portion is formatted again" format_portion 0 --uuid $uuid
require "controller 2 owns it" map_as_owner 2 0
other_machine &
other=$!
check "controller 1 comes" map_portion 1 0 --claim-manual
written=$(heartbeats_written 2 0)
check "for several windows" eventually 120 has_written_more_than $((written + 100)) 2 0
check "while another machine writes its mailbox it joins nothing [R36]" role_is 1 0 joining
check "and says why" reason_is 1 0 duplicate
: >"$work/quiet"
wait $other
require "the other machine ends: controller 1 joins" eventually 60 role_is 1 0 secondary
# It writes no ballot before it has listened for a window more: until then it cannot follow.
check "and listens once more" eventually 120 has_written_more_than $(($(heartbeats_written 1 0) + 60)) 1 0
check "it is told to claim" send_message 1 0 claim
check "it gets the portion" eventually 20 send_message 2 0 handoff 1
check "and owns" eventually 60 role_is 1 0 owner
expect_warning "controller 1: owner -> failed"
for index in 0 1 2; do
	check "the other machine begins again, on member $index" forge last $index
done
check "controller 1 withdraws [R36]" eventually 60 role_is 1 0 failed
check "and says why" reason_is 1 0 foreign_incarnation
check_equal "it does not write" EBADE "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)"
mark_log
check_fails "nor claim" send_message 1 0 claim
check "as it says" log_has "another machine writes the own mailbox"

finish
