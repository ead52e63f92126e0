#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What passes the gate, per operation: everything on the owner, reads and empty flushes everywhere,
# nothing else without a lease [R12, R22, R23, R40].

. ./lib.sh
plan 62

# Operations that change state. Each way to ask makes another bio: `write direct dsync` has FUA,
# `write dsync` goes through the page cache and is followed by a flush.
changing='write direct
write direct dsync
write direct nowait
write dsync
zeroes
discard'

# try TEXT EXPECTED DEVICE OPERATION OFFSET LENGTH [FLAG...]: how an operation ends
try() {
	text=$1 expected=$2 device=$3
	shift 3
	check_equal "$text" "$expected" "$(bio "/dev/mapper/$device" "$@")"
}

# The page cache knows only one error.
error_of() {
	case $1 in
	"write dsync") echo EIO ;;
	*) echo EBADE ;;
	esac
}

change_owner() {
	while read -r operation flags; do
		# shellcheck disable=SC2086 # flags are words
		try "owner: $operation $flags" ok p0m0c1 "$operation" 65536 8192 $flags
	done <<-END
		$changing
	END
	check_equal "owner: none of them was refused" 0 "$(status_field p0m0c1 refused)"
}

change_secondary() {
	while read -r operation flags; do
		refused=$(status_field p0m0c2 refused)
		# shellcheck disable=SC2086 # flags are words
		try "secondary: $operation $flags [R40]" "$(error_of "$operation $flags")" \
			p0m0c2 "$operation" 65536 8192 $flags
		check "secondary: it was counted" [ "$(status_field p0m0c2 refused)" -gt "$refused" ]
	done <<-END
		$changing
	END
}

# passive ROLE DEVICE: what passes without a lease
passive() {
	try "$1: read [R22]" ok "$2" read 65536 8192
	try "$1: read direct [R22]" ok "$2" read 65536 8192 direct
	try "$1: read direct nowait [R22]" ok "$2" read 65536 8192 direct nowait
	try "$1: empty flush" ok "$2" flush 0 0
	try "$1: write of nothing" ok "$2" write 0 0 direct
}

# edges ROLE DEVICE: what never reaches the gate
edges() {
	size=$(blockdev --getsize64 "/dev/mapper/$2")
	try "$1: unaligned write" EINVAL "$2" write 100 512 direct
	try "$1: write past the end" ENOSPC "$2" write "$size" 4096 direct
	try "$1: read past the end" short "$2" read "$size" 4096 direct
	try "$1: discard past the end" EINVAL "$2" discard "$size" 4096
	try "$1: zeroes past the end" EINVAL "$2" zeroes "$size" 4096
	try "$1: secure erase, which no member has" EOPNOTSUPP "$2" secure 65536 8192
	try "$1: SG_IO, which would pass no gate" ENOTTY "$2" sgio 0 0
}

# What the data area of the members holds.
sum() {
	for index in 0 1 2; do
		dd if="$(member 0 $index)" bs=64k skip=128 iflag=direct 2>/dev/null | md5sum
	done
}

# A member whose device can be polled. dm hands that on by itself.
pollable() {
	modprobe null_blk nr_devices=0
	[ -d /sys/kernel/config/nullb ] || mount -t configfs config /sys/kernel/config
	polled=/sys/kernel/config/nullb/polled
	mkdir $polled
	for setting in size=64 memory_backed=1 submit_queues=1 poll_queues=1 queue_mode=2 power=1; do
		echo "${setting#*=}" >"$polled/${setting%%=*}" || return 1
	done
	on_exit "rmdir $polled"
	polled=/dev/polled
	[ -b "$polled" ]
}

on_exit clean_up
load_module
require "a portion is formatted" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
check "controller 2 looks on" map_portion 2 0
require "as a secondary" eventually 60 role_is 2 0 secondary

change_owner
passive owner p0m0c1
edges owner p0m0c1

before=$(sum)
change_secondary
passive secondary p0m0c2
edges secondary p0m0c2
check_fails "a file system cannot be made on a secondary" \
	mkfs.ext4 -q -F /dev/mapper/p0m1c2 2>/dev/null
check_equal "nothing of all that changed a member [R40]" "$before" "$(sum)"

check "the owner makes a file system" mkfs.ext4 -q /dev/mapper/p0m1c1
mkdir -p /mnt/lease
modprobe ext4
check "and mounts it" mount -t ext4 /dev/mapper/p0m1c1 /mnt/lease
check "a journal commits: a flush with data, and FUA" \
	dd if=/dev/zero of=/mnt/lease/file bs=64k count=16 conv=fsync 2>/dev/null
check "it is unmounted" umount /mnt/lease
check "and clean" sh -c "e2fsck -fn /dev/mapper/p0m1c1 >/dev/null 2>&1"
check_equal "nothing was refused" 0 "$(status_field p0m0c1 refused)"
check_equal "nor late" 0 "$(status_field p0m0c1 late)"

require "a member that can be polled" pollable
check_equal "reads it by polling" ok "$(bio "$polled" read 0 4096 direct polled)"
leasectl format --force=member,signature,redundancy --name polled --controllers 1 --device-delay-ms 100 --heartbeat-ms 100 \
	--redundancy external "$polled" >/dev/null
dmsetup create polled --table "$(leasectl table --controller 1 "$polled")"
on_exit "dmsetup remove --retry polled"

polled_is() {
	[ "$(status_field polled role)" = "$1" ]
}
require "becomes a portion with an owner" eventually 60 polled_is owner
check_equal "it is written" ok "$(bio /dev/mapper/polled write 0 4096 direct)"
check_equal "who wants to poll for it need not: a poller could keep a permit for ever" ok \
	"$(bio /dev/mapper/polled write 0 4096 direct polled)"
check_equal "and no permit is left open" 0 "$(status_field polled permits | cut -d / -f 1)"

finish
