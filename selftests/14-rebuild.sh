#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# An md array that has lost a member has no redundancy left for strays, and its rebuild consists of
# writes. The policy `stop` holds these writes until an operator accepts the risk; the policy
# `window` lets them pass. After the rebuild the limit is the one from before [R14, R15].

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

has_pending() {
	[ "$(status_field p0m0c1 pending)" -gt 0 ]
}

# create_array LEVEL N: creates an array on the lease devices of the first N members
create_array() {
	level=$1 count=$2 list=
	for index in $(seq 0 $((count - 1))); do
		list="$list /dev/mapper/p0m${index}c1"
	done
	# shellcheck disable=SC2086 # devices have no blanks
	yes | mdadm --create /dev/md0 --run --quiet --level="$level" --raid-devices="$count" \
		--assume-clean --bitmap=none --size=8M --data-offset=1M $list >/dev/null 2>&1
}

fill_array() {
	dd if=/dev/urandom of="$work/data" bs=1M count=8 2>/dev/null &&
		dd if="$work/data" of=/dev/md0 bs=64k oflag=direct 2>/dev/null
}

has_all_data() {
	dd if=/dev/md0 bs=64k count=128 iflag=direct 2>/dev/null | cmp -s - "$work/data"
}

remove_member() {
	mdadm --quiet /dev/md0 --fail /dev/mapper/p0m1c1 &&
		mdadm --quiet /dev/md0 --remove /dev/mapper/p0m1c1 &&
		mdadm --quiet --zero-superblock /dev/mapper/p0m1c1
}

# Lets md compare all copies, or all data with its parity, and prints how many sectors differ.
differences() {
	echo check >$md/sync_action && eventually 60 is_idle && cat $md/mismatch_cnt
}

# test_rebuild NAME POLICY LEVEL MEMBERS REDUNDANCY
test_rebuild() {
	what="$1, $2"
	require "$what: a portion is formatted" \
		format_portion 0 --redundancy "$5" --detect yes --exhausted "$2"
	require "$what: controller 1 owns the portion" map_as_owner 1 0
	check "$what: the limit is one operation" permits_are 0/1
	require "$what: an array is created" create_array "$3" "$4"
	require "$what: the array is filled" fill_array
	require "$what: member 1 is removed from the array" remove_member
	check "$what: message degraded 1 succeeds" send_message 1 0 degraded 1
	mdadm --quiet /dev/md0 --add /dev/mapper/p0m1c1 &
	adder=$!
	case $2 in
	stop)
		check "$what: the limit of the degraded portion is zero" permits_are 0/0
		check "$what: the writes of the rebuild are pending" eventually 60 has_pending
		check_equal "$what: the array is still degraded" 1 "$(cat $md/degraded)"
		check "$what: message accept_risk succeeds" send_message 1 0 accept_risk 1
		;;
	esac
	check "$what: the lease alone limits operations during the rebuild" \
		eventually 60 permits_are_window
	check "$what: the array is rebuilt" eventually 240 is_rebuilt
	check "$what: mdadm adds the member without an error" wait $adder
	check "$what: message degraded 0 succeeds" send_message 1 0 degraded 0
	check "$what: the limit is one operation again" eventually 60 permits_are 0/1
	check "$what: the array contains the data" has_all_data
	check_equal "$what: md finds no difference between the members" 0 "$(differences)"
	check_equal "$what: no operation was refused or late" "0 0" \
		"$(status_field p0m0c1 refused) $(status_field p0m0c1 late)"
	mdadm --stop --quiet /dev/md0
	unmap_portion 1 0
}

permits_are_window() {
	[ "$(status_field p0m0c1 permits | cut -d / -f 2)" = window ]
}

test_rebuild "RAID-5" stop 5 3 parity:1
test_rebuild "RAID-5" window 5 3 parity:1
test_rebuild "RAID-1" stop 1 2 mirror:2
test_rebuild "RAID-1" window 1 2 mirror:2

finish
