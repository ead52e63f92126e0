#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The commands of install.md, "Without packages", run as they are printed and must print what the
# page shows.
#
# install.md lies beside the tests. Its disks sdb, sdc and sdd are links to members of a portion.

. ./lib.sh
plan 14

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'rm -f /dev/sdb /dev/sdc /dev/sdd'
clean_up
page=$PWD/install.md

# printed N: prints block N of the indented blocks in the section "Without packages"
printed() {
	awk -v want="$1" '
		/^## / { here = $0 == "## Without packages" }
		!here || /^$/ { next }
		!/^    / { inside = 0; next }
		{
			count += !inside
			inside = 1
			if (count == want)
				print substr($0, 5)
		}' "$page"
}

# has_all_lines FILE: succeeds if FILE has every line of the standard input
has_all_lines() {
	while IFS= read -r line; do
		grep -qxF -- "$line" "$1" || { print_note "this line is missing: $line"; return 1; }
	done
}

# clear_ends DEVICE: writes zeroes to its start and its end, as on a new disk
clear_ends() {
	size=$(blockdev --getsz "$1")
	dd if=/dev/zero of="$1" bs=1M count=9 oflag=direct 2>/dev/null &&
		dd if=/dev/zero of="$1" bs=512 seek=$((size - 18432)) count=18432 2>/dev/null
}

for disk in 'sdb 0' 'sdc 1' 'sdd 2'; do
	name=/dev/${disk% *} device=$(member 0 "${disk#* }")
	[ ! -e "$name" ] || skip_all "$name is a disk of this machine"
	require "the disk for $name is blank" clear_ends "$device"
	ln -s "$(readlink -f "$device")" "$name"
done

# The commands expect the module in the current directory.
[ ! -e /usr/lib/rig/modules/dm_lease.ko ] || cd /usr/lib/rig/modules || exit 1
printed 1 >"$work/commands"
check "the page contains the command insmod" grep -q '^insmod dm_lease.ko$' "$work/commands"
require "the first commands of the page succeed" sh -ec ". $work/commands >$work/output 2>&1"
printed 2 >"$work/explained"
check "format prints the explanation that the page shows" \
	has_all_lines "$work/output" <"$work/explained"
check "the first status shows the role joining" grep -q '^lease-sdb: .* joining ' "$work/output"
check "the home controller owns the portion" eventually 60 status_field_is lease-sdb role owner

# Replaces the two numbers of a status that change all the time: the time left, and the heartbeats.
mask_status() {
	sed 's/^\(.* owner 1 1\) [0-9]* [0-9]* /\1 LEFT BEATS /'
}
dmsetup status | mask_status >"$work/status"
printed 3 | mask_status >"$work/owner"
check "the status is the one that the page shows" has_all_lines "$work/status" <"$work/owner"
print_note "$(dmsetup status lease-sdb)"
check_equal "a write of the owner passes" ok "$(bio /dev/mapper/lease-sdb write 0 4096 direct)"

printed 4 >"$work/messages"
check_equal "the page shows three messages" 3 "$(grep -c '^dmsetup message ' "$work/messages")"
# A hand-over needs a second controller. Here it is in the same kernel.
map_second_controller() {
	for disk in sdb sdc sdd; do
		leasectl table --controller 2 "/dev/$disk" | dmsetup create "other-$disk" || return 1
	done
}
# Controller 2 may claim only after it has listened for another window. Until then the messages are
# refused, so each one is repeated.
send_printed_messages() {
	while read -r line; do
		eventually 60 sh -c "$line" </dev/null || return 1
	done <"$work/messages"
}
require "controller 2 maps the portion" map_second_controller
require "controller 2 is secondary" eventually 60 status_field_is other-sdb role secondary
check "the portion obeys the three messages of the page" send_printed_messages

finish
