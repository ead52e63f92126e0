#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A machine without memory writes through its lease devices to get some: swap and a file system lie on
# them, with a limit of one operation. Neither the limit nor a heartbeat may need memory that only a
# write behind the gate would bring [R17, R44]; nor may the resume of a device with a new table, or
# a constructor that runs meanwhile hold up that resume [R60].

. ./lib.sh
plan 18

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'umount "$work/mnt" 2>/dev/null'
on_exit 'swapoff /dev/mapper/p0m0c1 /dev/mapper/p0m2c1 2>/dev/null'
load_module
mark_log

mib() {
	awk -v name="$1:" '$1 == name { print int($2 / 1024) }' /proc/meminfo
}

swapped_out() {
	awk '$1 == "pswpout" { print $2 }' /proc/vmstat
}

# fill MIB: fills so much memory, looks at all of it three times, and finds what it wrote
fill() {
	perl -e '
		my $mib = shift;
		my $part = "lease" x 209_714;
		# Strings that are equal would share their memory.
		my @memory = map { $_ . $part } 1 .. $mib;
		for (1 .. 3) {
			for my $at (1 .. $mib) {
				exit 1 if $memory[$at - 1] ne $at . $part;
			}
		}' "$1"
}

# Files are written and synced all the time until somebody says that it is enough.
write_files() {
	while [ ! -e "$work/enough" ]; do
		dd if=/dev/zero of="$work/mnt/file" bs=64k count=32 conv=fsync 2>/dev/null || return 1
		echo one >>"$work/files"
	done
}

# Tables are exchanged and other tables loaded all the time, until somebody says that it is enough.
# The device of swap is suspended and resumed within one call: there is no program between the two
# that might be swapped out.
exchange_tables() {
	while [ ! -e "$work/enough" ]; do
		dmsetup load spare --table "$(cat "$work/table")" &&
			dmsetup load p0m2c1 --table "$(cat "$work/table")" &&
			timeout 100 dmsetup resume --noflush --nolockfs p0m2c1 || return 1
		echo one >>"$work/tables"
	done
}

# More swap than is ever filled: what is on its way to a slow disk still has its place in memory and
# one in the swap, and when the swap has none left the kernel gives up instead of waiting.
make_swap() {
	for name in p0m0c1 p0m2c1; do
		mkswap "/dev/mapper/$name" >/dev/null && swapon "/dev/mapper/$name" || return 1
	done
}

require "a portion with a limit of one" format_portion 0 --redundancy parity:2 --detect yes
require "controller 1 owns it" map_as_owner 1 0
check_equal "one operation at a time" 0/1 "$(status_field p0m0c1 permits)"
require "swap on two members" make_swap
require "a file system on another" mkfs.ext4 -q /dev/mapper/p0m1c1
mkdir "$work/mnt"
require "is mounted" mount -t ext4 /dev/mapper/p0m1c1 "$work/mnt"

beaten=$(heartbeats_written 1 0)
before=$(swapped_out)
write_files &
writer=$!
dmsetup table p0m2c1 >"$work/table"
dmsetup create spare --notable
exchange_tables &
exchanger=$!
# Perl and the writers need some, too, so this is more than there is.
size=$(mib MemAvailable)
print_note "$size MiB are filled, $(mib SwapFree) of swap are free"
check "the memory is filled, and comes back as it was" fill "$size"
touch "$work/enough"
check "files were written meanwhile" wait $writer
check "tables were exchanged meanwhile [R60]" wait $exchanger
dmsetup remove spare
print_note "$(wc -l <"$work/files") files of 2 MiB, $(($(swapped_out) - before)) pages swapped out"
check "at least one" [ -s "$work/files" ]
print_note "$(wc -l <"$work/tables") tables"
check "at least one table" [ -s "$work/tables" ]
check "at least a thousand pages were swapped out" [ $(($(swapped_out) - before)) -ge 1000 ]
check "heartbeats went on" eventually 60 has_written_more_than $((beaten + 10)) 1 0
check_equal "the lease was kept [R44]" "owner 1" "$(status_field p0m0c1 role) $(status_field p0m0c1 epoch)"
check_equal "nothing was refused [R17]" "0 0" "$(status_field p0m0c1 refused) $(status_field p0m0c1 late)"
check_equal "never more than one was open [R16]" 1 "$(status_field p0m0c1 peak)"

check "the files are given back" umount "$work/mnt"
check "so is the swap" swapoff /dev/mapper/p0m0c1 /dev/mapper/p0m2c1
finish
