#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Table lines: each refusal has a message of its own, and TABLE prints each feature back [R10, R39].
# Superblocks that are damaged or disagree are refused. Other tools find nothing on a raw member.

. ./lib.sh

accepted=14 refusals=38 damages=27
plan $((accepted * 2 + refusals + damages + 40))

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
load_module

disk=$(member 0 0)

# refused WORDS LINE: succeeds if the line is refused and the log has the words
refused() {
	mark_log
	! dmsetup create wrong --table "$2" 2>/dev/null && log_has "$1"
}

# All features but `stateless`, in reverse order and in the order of TABLE.
backwards="lapse_hold_ms 1 fail_with medium on_full fail batch 2 claim manual heartbeat_ms 10"
forwards="heartbeat_ms 10 claim manual batch 2 on_full fail fail_with medium lapse_hold_ms 1"

# Sets `result` to what TABLE prints for a line. TABLE leaves out features with their default value.
accept() {
	dmsetup create right --table "0 $length lease $number $1"
	result=$(dmsetup table right)
	dmsetup remove --retry right
}

accept_all() {
	while IFS='|' read -r line canonical; do
		accept "$line"
		check_equal "TABLE prints the line '$line' in its canonical form" \
			"0 $length lease $number $canonical" "$result"
		accept "$canonical"
		check_equal "TABLE prints the canonical form of '$line' unchanged" \
			"0 $length lease $number $canonical" "$result"
	done <<-END
		1|1
		07|7
		64|64
		1 0|1
		1 2 heartbeat_ms 50|1 2 heartbeat_ms 50
		1 2 claim auto|1
		1 2 claim manual|1 2 claim manual
		1 2 batch 1|1 2 batch 1
		1 2 on_full hold|1
		1 2 on_full fail|1 2 on_full fail
		1 2 fail_with ioerr|1 2 fail_with ioerr
		1 2 lapse_hold_ms 600000|1 2 lapse_hold_ms 600000
		1 1 stateless|1 1 stateless
		1 13 stateless $backwards|1 13 $forwards stateless
	END
}

refuse_all() {
	range='is out of range: must be a number from'
	while IFS='|' read -r line words; do
		check "the line '$line' is refused: $words" \
			refused "lease: $words" "0 $length lease $line"
	done <<-END
		|Device is missing
		$disk|Controller number is missing
		$disk one|Controller must be a number from 1 to 64
		$disk -1|Controller must be a number from 1 to 64
		$disk 0|Controller is out of range: must be a number from 1 to 64
		$disk 65|Controller is out of range: must be a number from 1 to 64
		$disk 1 many|Number of feature arguments must be a number from 0 to 13
		$disk 1 14|Number of feature arguments is out of range: at most 13
		$disk 1 2 stateless|Fewer feature arguments than their number says
		$disk 1 0 stateless|More arguments than the number of feature arguments says
		$disk 1 1 reckless|Unknown feature
		$disk 1 2 stateless stateless|Feature stateless is given twice
		$disk 1 4 claim auto claim auto|Feature claim is given twice
		$disk 1 4 claim auto claim manual|Feature claim is given twice, with different values
		$disk 1 1 heartbeat_ms|Feature heartbeat_ms needs a number from 1 to 60000 within the count
		$disk 1 1 claim|Feature claim needs auto or manual within the count
		$disk 1 1 batch|Feature batch needs a number from 1 to 65535 within the count
		$disk 1 1 on_full|Feature on_full needs hold or fail within the count
		$disk 1 1 fail_with|Feature fail_with needs resv_conflict, ioerr or medium within the count
		$disk 1 1 lapse_hold_ms|Feature lapse_hold_ms needs a number from 0 to 600000 within the count
		$disk 1 2 heartbeat_ms fast|Feature heartbeat_ms must be a number from 1 to 60000
		$disk 1 2 claim Auto|Feature claim must be auto or manual
		$disk 1 2 batch x|Feature batch must be a number from 1 to 65535
		$disk 1 2 on_full wait|Feature on_full must be hold or fail
		$disk 1 2 fail_with enospc|Feature fail_with must be resv_conflict, ioerr or medium
		$disk 1 2 lapse_hold_ms -5|Feature lapse_hold_ms must be a number from 0 to 600000
		$disk 1 2 heartbeat_ms 0|Feature heartbeat_ms $range 1 to 60000
		$disk 1 2 heartbeat_ms 60001|Feature heartbeat_ms $range 1 to 60000
		$disk 1 2 heartbeat_ms 99999999999999999999|Feature heartbeat_ms $range 1 to 60000
		$disk 1 2 batch 0|Feature batch $range 1 to 65535
		$disk 1 2 batch 65536|Feature batch $range 1 to 65535
		$disk 1 2 lapse_hold_ms 600001|Feature lapse_hold_ms $range 0 to 600000
		$disk 63|Portion is not formatted for this controller
		$disk 1 2 batch 3|Feature batch may only lower the limit of the portion
		$disk 1 2 heartbeat_ms 101|Heartbeat period does not fit the portion's timings
		/dev/none 1|Device cannot be opened
	END
	check "a length that differs from the data area is refused" \
		refused "Length must be that of the member's data area" \
		"0 $((length - 8)) lease $disk 1"
	check "a start that is not 0 is refused" refused "" "8 $length lease $disk 1"
}

# damage WORDS [OFFSET=HEX]...: succeeds if a superblock with these changes is refused with the
# words
damage() {
	words=$1
	shift
	reseal "$disk" "$@" || return 1
	expect_warning "$words"
	refused "$words" "0 $length lease $disk 1"
	result=$?
	dd if="$work/superblock" of="$disk" bs=4k seek=1 oflag=direct 2>/dev/null
	return $result
}

# The offsets are those of src/proto/codec/superblock.rs.
damage_all() {
	while IFS='|' read -r words changes; do
		# shellcheck disable=SC2086 # changes are words
		check "a changed superblock is refused: $words" damage "$words" $changes
	done <<-END
		no superblock: wrong magic|0=00
		unknown on-disk version 2|8=0200
		unknown incompatible features 0x4|24=05000000
		on-disk format 1|24=00000000
		an upgrade was cut short|24=02000000
		the portion uuid is zero|32=00000000000000000000000000000000
		the portion name is not 1 to 32 letters|48=2f
		impossible value of replacement|82=02
		the home controller is not among the formatted controllers|83=3f
		the home controller is not among the formatted controllers|83=00
		the number of members is not 1 to 16|80=0011
		the member index is not below the number of members|80=03
		no controller is formatted|88=0000000000000000
		reserved bytes of the superblock are not zero|28=01
		reserved bytes of the superblock are not zero|4095=01
		the lease time is zero|96=0000000000000000
		the takeover window is zero|104=0000000000000000
		the takeover window is too short|104=0094357700000000
		the lease time is below two heartbeat periods|96=00c2eb0b00000000
		the clock drift bound is above 100000 ppm|160=ffffffff
		more than 1000 lost heartbeats|164=ffffffff
		the device delay is longer than one day|112=ffffffffffffffff
		the longest heartbeat period is below 1 ms|120=0000000000000000
		impossible value of redundancy|168=09
		parity must be at least 1|169=00
		impossible value of exhausted|171=00
		the batch limit is above 4|176=05000000
		the data area does not lie between head and tail|192=0800000000000000
		impossible value of generation|216=0000000000000000
	END
}

is_accepted() {
	dmsetup create right --table "0 $length lease $number 1" && dmsetup remove --retry right
}

require "a portion for all controllers but 63 is formatted" format_portion 0 --controllers 1-62,64 \
	--redundancy parity:4 --detect yes
length=$(leasectl table --controller 1 "$disk" | cut -d ' ' -f 2)
number=$(lsblk -ndo MAJ:MIN "$disk" | tr -d ' ')
accept_all
refuse_all

dd if="$disk" of="$work/superblock" bs=4k skip=1 count=1 iflag=direct 2>/dev/null
damage_all
check "the restored superblock is accepted" is_accepted
dd if=/dev/zero of="$disk" bs=4k seek=1 count=1 oflag=direct 2>/dev/null
expect_warning "the block is blank"
check "a blank superblock is refused" \
	refused "no superblock: the block is blank" "0 $length lease $disk 1"
dd if="$work/superblock" bs=4k 2>/dev/null | tr '\001' '\003' |
	dd of="$disk" bs=4k seek=1 oflag=direct 2>/dev/null
expect_warning "superblock checksum mismatch"
check "a superblock with a wrong checksum is refused" \
	refused "superblock checksum mismatch" "0 $length lease $disk 1"
dd if="$work/superblock" of="$disk" bs=4k seek=1 oflag=direct 2>/dev/null
check "the superblock gets an unknown compatible feature" reseal "$disk" 12=80000000
check "a superblock with an unknown compatible feature is accepted" is_accepted

# Members of the same portion, and others.
require "portion alpha is formatted" format_portion 0
require "portion beta is formatted" format_portion 1
line() {
	echo "0 $length lease $1 1"
}
check "the first member is mapped" dmsetup create first --table "$(line "$disk")"
cp_superblock() {
	dd if="$1" of="$2" bs=4k skip=1 seek=1 count=1 iflag=direct oflag=direct 2>/dev/null
}
check "the superblock of the first member is copied to another device" \
	cp_superblock "$disk" "$(member 1 0)"
check "a second device with the same member is refused" \
	refused "Another device is this member already" "$(line "$(member 1 0)")"
check "the superblock of the second member gets another timing" \
	reseal "$(member 0 1)" 152=8096980000000000
expect_warning "members disagree"
check "a member whose superblock disagrees with the others is refused" \
	refused "Member does not fit the others of its portion" \
	"$(line "$(member 0 1)")"
check "the log names the timings as the difference" \
	log_has "members disagree about the portion's timings"
check "the third member is mapped" \
	dmsetup create second --table "$(line "$(member 0 2)")"
check "a table with another heartbeat period of the same controller is refused" \
	refused "Feature heartbeat_ms differs from the controller's period" \
	"$(line "$(member 0 2)") 2 heartbeat_ms 60"
check "two of three members are a majority that elects an owner" \
	eventually 60 status_field_is first role owner
check_equal "the status counts two members" 2 "$(status_field first members_ok)"
check_equal "the status names member 0 of 3" 0/3 "$(status_field first member)"
check_equal "the status names member 2 of 3" 2/3 "$(status_field second member)"
check_equal "the status names the portion" alpha "$(status_field first portion)"
check_equal "the status names the owner" 1 "$(status_field first owner)"
check_equal "the status names the epoch" 1 "$(status_field first epoch)"
check_equal "the status names the limit" 0/unlimited "$(status_field first permits)"
dmsetup remove --retry first
dmsetup remove --retry second

# One member is no majority.
require "portion alpha is formatted again" format_portion 0
check "one member of three is mapped" dmsetup create first --table "$(line "$disk")"
check "a controller with one member of three stays in the role joining [R42]" \
	status_field_is first role joining
dmsetup remove --retry first

# A disk with sectors of 4096 bytes.
# shellcheck disable=SC2154 # lib.sh assigns it
four=$devices/four0
leasectl format --force=member,signature,redundancy --name four --controllers 1 \
	--device-delay-ms 100 --heartbeat-ms 100 --redundancy external "$four" >/dev/null
check "a disk with sectors of 4096 bytes is mapped" \
	dmsetup create four --table "$(leasectl table --controller 1 "$four")"
check "the portion with sectors of 4096 bytes has an owner" \
	eventually 60 status_field_is four role owner
check_equal "a write of 512 bytes to sectors of 4096 bytes is invalid" EINVAL \
	"$(bio /dev/mapper/four write 512 512 direct)"
check_equal "a write of 4096 bytes to sectors of 4096 bytes passes" \
	ok "$(bio /dev/mapper/four write 4096 4096 direct)"

# Other tools find nothing on a raw member.
check_equal "wipefs finds no signature on a raw member" "" "$(wipefs "$disk")"
check_equal "blkid finds no signature on a raw member" "" "$(blkid -p "$disk")"
check_fails "mdadm finds no array on a raw member" mdadm --examine "$disk" 2>/dev/null
# pvcreate prints each signature that it would wipe.
pv=$(lvm pvcreate --test --yes --config 'devices { use_devicesfile = 0 }' "$disk" 2>&1)
print_note "$pv"
check "pvcreate accepts a raw member" [ "${pv#*successfully created}" != "$pv" ]
check "pvcreate finds no signature on a raw member" [ "${pv#*signature}" = "$pv" ]
check "leasectl check finds the portion on raw members" \
	sh -c "leasectl check $(members 0) >/dev/null"
check "the first sector of a raw member contains a text for people" \
	sh -c "head -c 512 $disk | grep -aq 'dm-lease'"
dmsetup remove --retry four

finish
