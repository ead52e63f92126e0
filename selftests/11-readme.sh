#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The README's quick start as it is printed: its commands are run, and must say what it says.
#
# README.md lies beside the tests. Its disks sdb, sdc and sdd are links to the members of a portion.

. ./lib.sh
plan 14

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'rm -f /dev/sdb /dev/sdc /dev/sdd'
clean_up
readme=$PWD/README.md

# printed N: the Nth indented block of the section "Quick start"
printed() {
	awk -v want="$1" '
		/^## / { here = $0 == "## Quick start" }
		!here || /^$/ { next }
		!/^    / { inside = 0; next }
		{
			count += !inside
			inside = 1
			if (count == want)
				print substr($0, 5)
		}' "$readme"
}

# says_all FILE: FILE has every line that is read
says_all() {
	while IFS= read -r line; do
		grep -qxF -- "$line" "$1" || { print_note "nothing said: $line"; return 1; }
	done
}

# A disk as it comes: nothing at its start, nothing at its end.
blank() {
	size=$(blockdev --getsz "$1")
	dd if=/dev/zero of="$1" bs=1M count=9 oflag=direct 2>/dev/null &&
		dd if=/dev/zero of="$1" bs=512 seek=$((size - 18432)) count=18432 2>/dev/null
}

for disk in 'sdb 0' 'sdc 1' 'sdd 2'; do
	name=/dev/${disk% *} device=$(member 0 "${disk#* }")
	[ ! -e "$name" ] || skip_all "$name is a disk of this machine"
	require "$name is blank" blank "$device"
	ln -s "$(readlink -f "$device")" "$name"
done

# The commands stand where the module is.
[ ! -e /usr/lib/rig/modules/dm_lease.ko ] || cd /usr/lib/rig/modules || exit 1
printed 1 >"$work/commands"
check "there are commands" grep -q '^insmod dm_lease.ko$' "$work/commands"
require "they run" sh -ec ". $work/commands >$work/said 2>&1"
printed 2 >"$work/explained"
check "format explains what it chose, in these words and numbers" \
	says_all "$work/said" <"$work/explained"
check "a controller listens first" grep -q '^lease-sdb: .* joining ' "$work/said"
check "then the home controller owns" eventually 60 status_field_is lease-sdb role owner

# Of the status two numbers are another one at each moment: the time left, and the heartbeats.
moment() {
	sed 's/^\(.* owner 1 1\) [0-9]* [0-9]* /\1 LEFT BEATS /'
}
dmsetup status | moment >"$work/status"
printed 3 | moment >"$work/owner"
check "with the status that is printed" says_all "$work/status" <"$work/owner"
print_note "$(dmsetup status lease-sdb)"
check_equal "a write passes" ok "$(bio /dev/mapper/lease-sdb write 0 4096 direct)"

printed 4 >"$work/messages"
check_equal "three messages" 3 "$(grep -c '^dmsetup message ' "$work/messages")"
# A hand-over needs somebody who takes it: controller 2, which could be on another machine.
comes() {
	for disk in sdb sdc sdd; do
		leasectl table --controller 2 "/dev/$disk" | dmsetup create "other-$disk" || return 1
	done
}
follows() {
	[ "$(status_field other-sdb role)" = secondary ]
}
# It may claim only when it has listened once more, so a message may have to be sent again.
obeyed() {
	while read -r line; do
		eventually 60 sh -c "$line" </dev/null || return 1
	done <"$work/messages"
}
require "controller 2 comes" comes
require "as a secondary" eventually 60 follows
check "are obeyed" obeyed

finish
