#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# An md array that has lost a member has no redundancy left for strays, and the rebuild that would
# bring it back consists of writes. With the policy `stop` they are held until somebody accepts the
# risk, with `window` they go on; afterwards the limit is what it was [R14, R15].

. ./lib.sh
plan 68

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'mdadm --stop --quiet /dev/md0 2>/dev/null'
load_module
md=/sys/block/md0/md

permits_are() {
	[ "$(status_field p0m0c1 permits)" = "$1" ]
}

is_rebuilt() {
	[ "$(cat $md/degraded) $(cat $md/sync_action)" = "0 idle" ]
}

is_idle() {
	[ "$(cat $md/sync_action)" = idle ]
}

waits() {
	[ "$(status_field p0m0c1 pending)" -gt 0 ]
}

# create LEVEL DEVICES: an array over the lease devices of that many members
create() {
	level=$1 count=$2 list=
	for index in $(seq 0 $((count - 1))); do
		list="$list /dev/mapper/p0m${index}c1"
	done
	# shellcheck disable=SC2086 # devices have no blanks
	yes | mdadm --create /dev/md0 --run --quiet --level="$level" --raid-devices="$count" \
		--assume-clean --bitmap=none --size=8M --data-offset=1M $list >/dev/null 2>&1
}

fill() {
	dd if=/dev/urandom of="$work/data" bs=1M count=8 2>/dev/null &&
		dd if="$work/data" of=/dev/md0 bs=64k oflag=direct 2>/dev/null
}

is_whole() {
	dd if=/dev/md0 bs=64k count=128 iflag=direct 2>/dev/null | cmp -s - "$work/data"
}

lose() {
	mdadm --quiet /dev/md0 --fail /dev/mapper/p0m1c1 &&
		mdadm --quiet /dev/md0 --remove /dev/mapper/p0m1c1 &&
		mdadm --quiet --zero-superblock /dev/mapper/p0m1c1
}

# What md says of differences between copies, or data and parity, when it compares all of it.
differences() {
	echo check >$md/sync_action && eventually 60 is_idle && cat $md/mismatch_cnt
}

# rebuild NAME POLICY LEVEL MEMBERS REDUNDANCY
rebuild() {
	what="$1, $2"
	require "$what: a portion" format_portion 0 --redundancy "$5" --detect yes --exhausted "$2"
	require "$what: controller 1 owns it" map_as_owner 1 0
	check "$what: one stray is repairable" permits_are 0/1
	require "$what: an array" create "$3" "$4"
	require "$what: is filled" fill
	require "$what: loses a member" lose
	check "$what: the message says so" send_message 1 0 degraded 1
	mdadm --quiet /dev/md0 --add /dev/mapper/p0m1c1 &
	adder=$!
	case $2 in
	stop)
		check "$what: nothing may be open" permits_are 0/0
		check "$what: the rebuild waits" eventually 60 waits
		check_equal "$what: and is not there yet" 1 "$(cat $md/degraded)"
		check "$what: somebody accepts the risk" send_message 1 0 accept_risk 1
		;;
	esac
	check "$what: the lease alone protects" eventually 60 permits_are_window
	check "$what: the array is rebuilt" eventually 240 is_rebuilt
	check "$what: and told so" wait $adder
	check "$what: the message says so, too" send_message 1 0 degraded 0
	check "$what: one stray is repairable again" eventually 60 permits_are 0/1
	check "$what: what was written is there" is_whole
	check_equal "$what: everywhere" 0 "$(differences)"
	check_equal "$what: nothing failed at the gate" "0 0" \
		"$(status_field p0m0c1 refused) $(status_field p0m0c1 late)"
	mdadm --stop --quiet /dev/md0
	unmap_portion 1 0
}

permits_are_window() {
	[ "$(status_field p0m0c1 permits | cut -d / -f 2)" = window ]
}

rebuild "RAID-5" stop 5 3 parity:1
rebuild "RAID-5" window 5 3 parity:1
rebuild "RAID-1" stop 1 2 mirror:2
rebuild "RAID-1" window 1 2 mirror:2

finish
