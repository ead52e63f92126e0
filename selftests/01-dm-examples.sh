#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The device-mapper abstractions of src/dm, tested by their two examples: example_linear (a plain
# mapping) and example_relay (held bios and completions, own I/O, threads, handles).

. ./lib.sh
plan 48

disk=$(member 0 0)
sectors=65536
work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit 'rmmod dm_example_relay dm_example_linear 2>/dev/null'
on_exit 'dmsetup remove --retry example 2>/dev/null'

load_example() {
	if [ -e "/usr/lib/rig/modules/$1.ko" ]; then
		insmod "/usr/lib/rig/modules/$1.ko"
	else
		modprobe "$1"
	fi
}

# create ARGUMENTS: creates the device with a table of one target
create() {
	echo "0 $sectors $*" | dmsetup create example
}

# refused MESSAGE ARGUMENTS: succeeds if the constructor fails and the log has the message
refused() {
	message=$1
	shift
	dmesg --clear 2>/dev/null || dmesg -c >"$work/dropped"
	! create "$@" 2>"$work/error" && dmesg | grep -qF "$message"
}

# node: prints the path of the device; its minor number changes
node() {
	echo "/dev/dm-$(dmsetup info -c --noheadings -o minor example)"
}

# word N: prints one word of the status line
word() {
	dmsetup status example --noflush | cut -d ' ' -f "$1"
}

eight_held() {
	[ "$(word 7)" -ge 8 ]
}

write_pattern() {
	dd if="$work/pattern" of="$(node)" bs=64k oflag=direct conv=fsync 2>"$work/dd"
}

holds_pattern() {
	dd if="$1" bs=64k skip="$2" count=64 iflag=direct 2>"$work/dd" | cmp - "$work/pattern"
}

# start_writers COUNT SIZE: starts writers in the background, each in an area of its own
start_writers() {
	for writer in $(seq "$1"); do
		dd if="$work/pattern" of="$(node)" bs="$2" count=16 seek=$((writer * 16)) \
			oflag=direct 2>"$work/writer$writer" &
	done
}

# is_written COUNT SIZE: succeeds if the device has the data of all writers
is_written() {
	for writer in $(seq "$1"); do
		dd if="$(node)" bs="$2" count=16 skip=$((writer * 16)) iflag=direct \
			2>"$work/dd" | cmp -n $((16 * $2)) - "$work/pattern" || return 1
	done
}

file_system_is_clean() {
	e2fsck -fn "$(node)" >"$work/fsck" 2>&1
}

suspend_resume() {
	dmsetup suspend "$@" example && dmsetup resume example
}

# reload ARGUMENTS: replaces the table without a flush
reload() {
	echo "0 $sectors $*" | dmsetup reload example &&
		dmsetup suspend --noflush --nolockfs example && dmsetup resume example
}

head -c 4194304 /dev/urandom >"$work/pattern"

check "the linear example loads" load_example dm_example_linear
check "the linear target is registered" sh -c 'dmsetup targets | grep -q "^example_linear *v1.0.0"'

check "a table without a device is refused" \
	refused "example_linear: Missing device (-EINVAL)" example_linear
check "a table without a sector is refused" \
	refused "Invalid device sector (-EINVAL)" example_linear "$disk"
check "a table whose sector is not a number is refused" \
	refused "Invalid device sector (-EINVAL)" example_linear "$disk" -1
check "a table with an extra word is refused" \
	refused "Invalid argument count (-EINVAL)" example_linear "$disk" 0 0
check "a table with a missing device is refused" \
	refused "Device lookup failed (-ENOENT)" example_linear /dev/none 0
check "dm core refuses a table that ends beyond its device" \
	refused "too small for target" example_linear "$disk" 99999999

check "a correct table is accepted" create example_linear "$disk" 2048
number=$(lsblk -ndo MAJ:MIN "$disk" | tr -d ' ')
check_equal "TABLE prints the arguments of the constructor" \
	"0 $sectors example_linear $number 2048" "$(dmsetup table example)"
check "a pattern is written" write_pattern
check "the pattern is read back" holds_pattern "$(node)" 0
check "the pattern is at the sector that the table names" holds_pattern "$disk" 16
check "a discard passes" blkdiscard -o 33554432 -l 1048576 "$(node)"
check_equal "a message returns the number of reads" "$(word 4)" "$(dmsetup message example 0 reads)"
check_fails "an unknown message fails" dmsetup message example 0 nonsense 2>"$work/error"
check_fails "a module whose target is in use does not unload" \
	rmmod dm_example_linear 2>"$work/error"
check "the linear device is removed" dmsetup remove example
check "the linear example unloads" rmmod dm_example_linear

check "the relay example loads" load_example dm_example_relay
check "a table of the relay is accepted" create example_relay "$disk" 0 400
start_writers 8 4096
check "the relay holds eight writes" eventually 10 eight_held
check "a noflush suspend does not wait for held writes" suspend_resume --noflush --nolockfs
check "the noflush suspend returned held writes to dm core" [ "$(word 6)" -ge 1 ]
check "a flushing suspend waits for all held writes" dmsetup suspend example
check_equal "no write is held after a flushing suspend" 0 "$(word 7)"
dmsetup resume example
check "a table is replaced while writes are under way" reload example_relay "$disk" 0 1
wait
check "no write was lost when the table was replaced" is_written 8 4096

start_writers 4 65536
for round in 1 2 3 4 5; do
	suspend_resume && suspend_resume --noflush --nolockfs && reload example_relay "$disk" 0 $round
done
wait
check "no write was lost in five rounds of suspends and reloads" is_written 4 65536

check "own I/O of the target is durable and is read back" \
	sh -c 'dmsetup message example 0 io 16000 | grep -q "^ok "'
check_fails "own I/O beyond the end of the device is refused" \
	dmsetup message example 0 io 99999999 2>"$work/error"
check_fails "own I/O beyond the largest sector number is refused" \
	dmsetup message example 0 io 4611686018427387904 2>"$work/error"
check "own I/O works after a refused transfer" \
	sh -c 'dmsetup message example 0 io 16000 | grep -q "^ok "'

check "a message makes the relay drop the next bio" dmsetup message example 0 fail 1
check_fails "the writer of a dropped bio gets an error" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"
check "the write after a dropped bio passes" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"

# The target completes the write inside end_io and stays there: dm core no longer waits for the
# write.
dmsetup message example 0 linger 3000
dmsetup message example 0 fail 1
check_fails "a write is completed inside end_io with an error" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"
check "a table is replaced while end_io runs" reload example_relay "$disk" 0 1
check_fails "the old target is not destroyed before end_io returns" \
	sh -c 'dmesg | grep -q "destroyed inside of end_io"'

events=$(dmsetup info -c --noheadings -o events example)
timeout 30 dmsetup wait example "$events" &
waiter=$!
dmsetup message example 0 event
check "an event that the target's thread raised reaches dmsetup wait" wait $waiter

modprobe ext4
mkfs.ext4 -q "$(node)" && mkdir "$work/mount" && mount -t ext4 "$(node)" "$work/mount"
cp "$work/pattern" "$work/mount/file"
for round in 1 2 3; do
	suspend_resume && reload example_relay "$disk" 0 "$round"
done
umount "$work/mount"
check "a file system is clean after suspends and reloads" file_system_is_clean
mount -t ext4 -o ro "$(node)" "$work/mount"
check "a file in that file system has its data" cmp "$work/mount/file" "$work/pattern"
umount "$work/mount"

check "the relay device is removed" dmsetup remove example
again=0
for round in $(seq 20); do
	create example_relay "$disk" 0 1 && dmsetup message example 0 io 3 >"$work/io" &&
		dmsetup remove example && rmmod dm_example_relay &&
		load_example dm_example_relay && again=$((again + 1))
done
check_equal "the relay is loaded, used, removed and unloaded 20 times" 20 "$again"
create example_relay "$disk" 0 1
check "a message keeps a transfer until the module unloads" dmsetup message example 0 keep
dmsetup remove example
check "the relay example unloads with a kept transfer" rmmod dm_example_relay
check "the kept transfer returned before the module was gone" \
	sh -c 'dmesg | grep -q "the last transfer has come back: 0"'
check "the relay example loads again" load_example dm_example_relay
rmmod dm_example_relay

finish
