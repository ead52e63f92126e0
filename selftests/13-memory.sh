#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A machine that is short of memory writes through its lease devices to free memory: swap and a file
# system lie on them, with a limit of one operation. Neither the limit nor a heartbeat may wait for
# memory that only a write through the gate would free [R17, R44]. The same holds for the resume of
# a device with a new table, and for a constructor that could delay this resume [R60].

. ./lib.sh
plan 18

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'umount "$work/mnt" 2>/dev/null'
on_exit 'swapoff /dev/mapper/p0m0c1 /dev/mapper/p0m2c1 2>/dev/null'
load_module
mark_log

# mib NAME: prints one value of /proc/meminfo in MiB
mib() {
	awk -v name="$1:" '$1 == name { print int($2 / 1024) }' /proc/meminfo
}

swapped_out() {
	awk '$1 == "pswpout" { print $2 }' /proc/vmstat
}

# fill_memory MIB: fills this much memory, and reads all of it three times
fill_memory() {
	perl -e '
		my $mib = shift;
		my $part = "lease" x 209_714;
		# Equal strings would share their memory.
		my @memory = map { $_ . $part } 1 .. $mib;
		for (1 .. 3) {
			for my $at (1 .. $mib) {
				exit 1 if $memory[$at - 1] ne $at . $part;
			}
		}' "$1"
}

# Files are written and synced until $work/enough exists.
write_files() {
	while [ ! -e "$work/enough" ]; do
		dd if=/dev/zero of="$work/mnt/file" bs=64k count=32 conv=fsync 2>/dev/null || return 1
		echo one >>"$work/files"
	done
}

# Tables are exchanged and other tables are loaded until $work/enough exists. One call suspends and
# resumes the swap device: no program that might be swapped out has to run between the two.
exchange_tables() {
	while [ ! -e "$work/enough" ]; do
		dmsetup load spare --table "$(cat "$work/table")" &&
			dmsetup load p0m2c1 --table "$(cat "$work/table")" &&
			timeout 100 dmsetup resume --noflush --nolockfs p0m2c1 || return 1
		echo one >>"$work/tables"
	done
}

# The swap is larger than needed. A page on its way to a slow disk occupies memory and swap, and the
# kernel gives up instead of waiting when the swap is full.
make_swap() {
	for name in p0m0c1 p0m2c1; do
		mkswap "/dev/mapper/$name" >/dev/null && swapon "/dev/mapper/$name" || return 1
	done
}

require "a portion with a limit of one is formatted" \
	format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns the portion" map_as_owner 1 0
check_equal "the owner may have one operation open" 0/1 "$(status_field p0m0c1 permits)"
require "members 0 and 2 serve as swap" make_swap
require "member 1 has a file system" mkfs.ext4 -q /dev/mapper/p0m1c1
mkdir "$work/mnt"
require "the file system of member 1 is mounted" mount -t ext4 /dev/mapper/p0m1c1 "$work/mnt"

written=$(heartbeats_written 1 0)
before=$(swapped_out)
write_files &
writer=$!
dmsetup table p0m2c1 >"$work/table"
dmsetup create spare --notable
exchange_tables &
exchanger=$!
# Perl and the writers need memory, too. So this is more than the machine has.
size=$(mib MemAvailable)
print_note "$size MiB are filled, $(mib SwapFree) of swap are free"
check "the memory is filled and read back through swap" fill_memory "$size"
touch "$work/enough"
check "all files were written while memory was short" wait $writer
check "all tables were exchanged while memory was short [R60]" wait $exchanger
dmsetup remove spare
print_note "$(wc -l <"$work/files") files of 2 MiB, $(($(swapped_out) - before)) pages swapped out"
check "at least one file was written" [ -s "$work/files" ]
print_note "$(wc -l <"$work/tables") tables were exchanged"
check "at least one table was exchanged" [ -s "$work/tables" ]
check "at least a thousand pages were swapped out" [ $(($(swapped_out) - before)) -ge 1000 ]
check "controller 1 wrote ten heartbeats while memory was short" \
	eventually 60 has_written_more_than $((written + 10)) 1 0
check_equal "controller 1 kept its lease while memory was short [R44]" \
	"owner 1" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"
check_equal "no operation was refused or late while memory was short [R17]" \
	"0 0" "$(status_field p0m0c1 refused) $(status_field p0m0c1 late)"
check_equal "never more than one operation was open [R16]" 1 "$(status_field p0m0c1 peak)"

check "the file system of member 1 is unmounted" umount "$work/mnt"
check "the swap on members 0 and 2 is switched off" swapoff /dev/mapper/p0m0c1 /dev/mapper/p0m2c1
finish
