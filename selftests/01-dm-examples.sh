#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The device-mapper abstractions of src/dm, through their two examples: example_linear (a plain
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

# create ARGUMENTS: makes the device out of a table of one target
create() {
	echo "0 $sectors $*" | dmsetup create example
}

# refused MESSAGE ARGUMENTS: the constructor fails, and the log says why
refused() {
	message=$1
	shift
	dmesg --clear 2>/dev/null || dmesg -c >"$work/dropped"
	! create "$@" 2>"$work/error" && dmesg | grep -qF "$message"
}

# node: the device; looked up each time because its minor changes
node() {
	echo "/dev/dm-$(dmsetup info -c --noheadings -o minor example)"
}

# word N: one word of the status line
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

# writers COUNT SIZE: starts writers, each to an area of its own, and returns at once
writers() {
	for writer in $(seq "$1"); do
		dd if="$work/pattern" of="$(node)" bs="$2" count=16 seek=$((writer * 16)) \
			oflag=direct 2>"$work/writer$writer" &
	done
}

# written COUNT SIZE: what the writers wrote is there
written() {
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

# reload ARGUMENTS: a new table under load, without flushing
reload() {
	echo "0 $sectors $*" | dmsetup reload example &&
		dmsetup suspend --noflush --nolockfs example && dmsetup resume example
}

head -c 4194304 /dev/urandom >"$work/pattern"

check "the linear example loads" load_example dm_example_linear
check "its target is registered" sh -c 'dmsetup targets | grep -q "^example_linear *v1.0.0"'

check "no device: refused" refused "example_linear: Missing device (-EINVAL)" example_linear
check "no sector: refused" refused "Invalid device sector (-EINVAL)" example_linear "$disk"
check "a sector that is no number: refused" \
	refused "Invalid device sector (-EINVAL)" example_linear "$disk" -1
check "a word too many: refused" \
	refused "Invalid argument count (-EINVAL)" example_linear "$disk" 0 0
check "no such device: refused" \
	refused "Device lookup failed (-ENOENT)" example_linear /dev/none 0
check "beyond the end: refused by dm core, which asked for the devices" \
	refused "too small for target" example_linear "$disk" 99999999

check "a correct table is accepted" create example_linear "$disk" 2048
number=$(lsblk -ndo MAJ:MIN "$disk" | tr -d ' ')
check_equal "TABLE gives back what the constructor got" \
	"0 $sectors example_linear $number 2048" "$(dmsetup table example)"
check "data is written" write_pattern
check "and read back" holds_pattern "$(node)" 0
check "and is where the table says" holds_pattern "$disk" 16
check "a discard passes" blkdiscard -o 33554432 -l 1048576 "$(node)"
check_equal "a message is answered" "$(word 4)" "$(dmsetup message example 0 reads)"
check_fails "an unknown message fails" dmsetup message example 0 nonsense 2>"$work/error"
check_fails "a module in use stays" rmmod dm_example_linear 2>"$work/error"
check "the device is removed" dmsetup remove example
check "and the module goes" rmmod dm_example_linear

check "the relay example loads" load_example dm_example_relay
check "a table is accepted" create example_relay "$disk" 0 400
writers 8 4096
check "writes are held" eventually 10 eight_held
check "a noflush suspend does not wait for them" suspend_resume --noflush --nolockfs
check "but gets them back" [ "$(word 6)" -ge 1 ]
check "a flushing suspend waits for all" dmsetup suspend example
check_equal "after which none is held" 0 "$(word 7)"
dmsetup resume example
check "a table is replaced under load" reload example_relay "$disk" 0 1
wait
check "no write was lost" written 8 4096

writers 4 65536
for round in 1 2 3 4 5; do
	suspend_resume && suspend_resume --noflush --nolockfs && reload example_relay "$disk" 0 $round
done
wait
check "nor under a row of suspends and reloads" written 4 65536

check "own I/O is durable and read back" \
	sh -c 'dmsetup message example 0 io 16000 | grep -q "^ok "'
check_fails "own I/O beyond the end is refused" \
	dmsetup message example 0 io 99999999 2>"$work/error"
check_fails "and beyond what a sector number can say" \
	dmsetup message example 0 io 4611686018427387904 2>"$work/error"
check "which costs the next transfer nothing" \
	sh -c 'dmsetup message example 0 io 16000 | grep -q "^ok "'

check "a dropped bio is asked for" dmsetup message example 0 fail 1
check_fails "and fails its submitter" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"
check "and only that one" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"

# The write is finished, so that dm core no longer waits for it, while end_io of its target goes on.
dmsetup message example 0 linger 3000
dmsetup message example 0 fail 1
check_fails "a completion is finished inside of end_io" \
	dd if="$work/pattern" of="$(node)" bs=4k count=1 oflag=direct 2>"$work/error"
check "the table is replaced while end_io goes on" reload example_relay "$disk" 0 1
check_fails "but its target exists until end_io returns" \
	sh -c 'dmesg | grep -q "destroyed inside of end_io"'

events=$(dmsetup info -c --noheadings -o events example)
timeout 30 dmsetup wait example "$events" &
waiter=$!
dmsetup message example 0 event
check "an event of the thread arrives" wait $waiter

modprobe ext4
mkfs.ext4 -q "$(node)" && mkdir "$work/mount" && mount -t ext4 "$(node)" "$work/mount"
cp "$work/pattern" "$work/mount/file"
for round in 1 2 3; do
	suspend_resume && reload example_relay "$disk" 0 "$round"
done
umount "$work/mount"
check "a filesystem is in order after suspends and reloads" file_system_is_clean
mount -t ext4 -o ro "$(node)" "$work/mount"
check "and has its data" cmp "$work/mount/file" "$work/pattern"
umount "$work/mount"

check "the device is removed" dmsetup remove example
again=0
for round in $(seq 20); do
	create example_relay "$disk" 0 1 && dmsetup message example 0 io 3 >"$work/io" &&
		dmsetup remove example && rmmod dm_example_relay &&
		load_example dm_example_relay && again=$((again + 1))
done
check_equal "load, use, remove and unload, 20 times" 20 "$again"
create example_relay "$disk" 0 1
check "a transfer is prepared for the end of the module" dmsetup message example 0 keep
dmsetup remove example
check "the module goes" rmmod dm_example_relay
check "the transfer has come back before" \
	sh -c 'dmesg | grep -q "the last transfer has come back: 0"'
check "and the module can be loaded again" load_example dm_example_relay
rmmod dm_example_relay

finish
