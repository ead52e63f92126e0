#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Operations that pass the gate: all operations on the owner; on a secondary, reads and empty
# flushes alone [R12, R22, R23, R40].

. ./lib.sh
plan 62

# State-changing operations. Their flags lead to different bios: `write direct dsync` has FUA,
# `write dsync` goes through the page cache and is followed by a flush.
changing='write direct
write direct dsync
write direct nowait
write dsync
zeroes
discard'

# try TEXT EXPECTED DEVICE OPERATION OFFSET LENGTH [FLAG...]: a case that passes if the operation
# ends as expected
try() {
	text=$1 expected=$2 device=$3
	shift 3
	check_equal "$text" "$expected" "$(bio "/dev/mapper/$device" "$@")"
}

# The page cache reports each failed write as EIO.
error_of() {
	case $1 in
	"write dsync") echo EIO ;;
	*) echo EBADE ;;
	esac
}

try_changes_on_owner() {
	while read -r operation flags; do
		# shellcheck disable=SC2086 # flags are words
		try "owner: $operation $flags passes" ok p0m0c1 "$operation" 65536 8192 $flags
	done <<-END
		$changing
	END
	check_equal "owner: no operation was refused" 0 "$(status_field p0m0c1 refused)"
}

try_changes_on_secondary() {
	while read -r operation flags; do
		refused=$(status_field p0m0c2 refused)
		# shellcheck disable=SC2086 # flags are words
		try "secondary: $operation $flags is refused [R40]" \
			"$(error_of "$operation $flags")" \
			p0m0c2 "$operation" 65536 8192 $flags
		check "secondary: $operation $flags is counted as refused" \
			[ "$(status_field p0m0c2 refused)" -gt "$refused" ]
	done <<-END
		$changing
	END
}

# try_passive ROLE DEVICE: operations that need no lease
try_passive() {
	try "$1: a buffered read passes [R22]" ok "$2" read 65536 8192
	try "$1: a direct read passes [R22]" ok "$2" read 65536 8192 direct
	try "$1: a direct nowait read passes [R22]" ok "$2" read 65536 8192 direct nowait
	try "$1: an empty flush passes" ok "$2" flush 0 0
	try "$1: a write of zero bytes passes" ok "$2" write 0 0 direct
}

# try_edges ROLE DEVICE: operations that fail before they reach the gate
try_edges() {
	size=$(blockdev --getsize64 "/dev/mapper/$2")
	try "$1: an unaligned write is invalid" EINVAL "$2" write 100 512 direct
	try "$1: a write past the end fails" ENOSPC "$2" write "$size" 4096 direct
	try "$1: a read past the end is short" short "$2" read "$size" 4096 direct
	try "$1: a discard past the end is invalid" EINVAL "$2" discard "$size" 4096
	try "$1: zeroes past the end are invalid" EINVAL "$2" zeroes "$size" 4096
	try "$1: a secure erase is not supported, because no member supports it" \
		EOPNOTSUPP "$2" secure 65536 8192
	try "$1: SG_IO, which would bypass the gate, is not supported" ENOTTY "$2" sgio 0 0
}

# Prints a checksum of each member's data area.
checksums() {
	for index in 0 1 2; do
		dd if="$(member 0 $index)" bs=64k skip=128 iflag=direct 2>/dev/null | md5sum
	done
}

# Creates a device that supports polling. Device-mapper offers polling if the devices below do.
create_pollable() {
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
require "controller 1 owns the portion" map_as_owner 1 0
check "controller 2 maps the portion" map_portion 2 0
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary

try_changes_on_owner
try_passive owner p0m0c1
try_edges owner p0m0c1

before=$(checksums)
try_changes_on_secondary
try_passive secondary p0m0c2
try_edges secondary p0m0c2
check_fails "mkfs fails on a secondary" \
	mkfs.ext4 -q -F /dev/mapper/p0m1c2 2>/dev/null
check_equal "no refused operation changed a member [R40]" "$before" "$(checksums)"

check "mkfs succeeds on the owner" mkfs.ext4 -q /dev/mapper/p0m1c1
mkdir -p /mnt/lease
modprobe ext4
check "the file system is mounted on the owner" mount -t ext4 /dev/mapper/p0m1c1 /mnt/lease
check "a journal commit, with a flush and FUA, succeeds on the owner" \
	dd if=/dev/zero of=/mnt/lease/file bs=64k count=16 conv=fsync 2>/dev/null
check "the file system is unmounted" umount /mnt/lease
check "the file system is clean" sh -c "e2fsck -fn /dev/mapper/p0m1c1 >/dev/null 2>&1"
check_equal "the owner refused no operation" 0 "$(status_field p0m0c1 refused)"
check_equal "no operation of the owner was late" 0 "$(status_field p0m0c1 late)"

require "a device that supports polling is created" create_pollable
check_equal "a polled read of the raw device passes" ok "$(bio "$polled" read 0 4096 direct polled)"
leasectl format --force=member,signature,redundancy --name polled --controllers 1 \
	--device-delay-ms 100 --heartbeat-ms 100 --redundancy external "$polled" >/dev/null
dmsetup create polled --table "$(leasectl table --controller 1 "$polled")"
on_exit "dmsetup remove --retry polled"
require "the portion on the pollable device has an owner" \
	eventually 60 status_field_is polled role owner
check_equal "a write to the pollable portion passes" \
	ok "$(bio /dev/mapper/polled write 0 4096 direct)"
# The target does not offer polling, because a submitter that does not poll could keep a permit
# open.
check_equal "a polled write to the pollable portion passes without polling" ok \
	"$(bio /dev/mapper/polled write 0 4096 direct polled)"
check_equal "no permit is open after the polled write" \
	0 "$(status_field polled permits | cut -d / -f 1)"

finish
