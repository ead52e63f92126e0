#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What users may send and disks may hold, mutated by chance: thousands of table lines and messages,
# and single flipped bits of a superblock and of another controller's mailbox. Never a wrong owner,
# never a warning of the kernel that was not due [R26, R39, R47].
#
# FUZZ_RUNS (1000) is the number of lines and of messages; a tenth of it (a fifth from 10000 on) are
# flips. FUZZ_SEED (1) makes other ones. In a guest the kernel's command line may say both, as
# rig.fuzz_runs= and rig.fuzz_seed=.

. ./lib.sh
plan 22

# option NAME: what the host says on the kernel's command line.
option() {
	sed -n "s/.*rig\.$1=\([0-9]*\).*/\1/p" /proc/cmdline
}

runs=${FUZZ_RUNS:-$(option fuzz_runs)}
runs=${runs:-1000}
seed=${FUZZ_SEED:-$(option fuzz_seed)}
seed=${seed:-1}
flips=$((runs < 10000 ? runs / 10 : runs / 5))
print_note "$runs lines and messages, $flips flips, seed $seed"

on_exit clean_up
load_module

# The lines name paths that mutation turns into each other, so that all of them are members.
table_lines() {
	disk=$(member 0 0)
	length=$(leasectl table --controller 1 "$disk" | cut -d ' ' -f 2)
	all="heartbeat_ms 50 claim manual batch 2 on_full fail fail_with medium lapse_hold_ms 7 stateless"
	fuzz tables wrong "$runs" "$seed" "$length" "$disk 1" "$disk 64" "$(member 0 1) 2 0" \
		"$(member 1 2) 3 1 stateless" "$disk 1 2 heartbeat_ms 100" "$disk 2 2 claim manual" \
		"$disk 1 4 on_full fail fail_with ioerr" "$disk 1 2 lapse_hold_ms 600000" \
		"$disk 1 13 $all"
}

# Messages that leave the lease alone, and whatever mutation makes of them.
mild_messages() {
	fuzz messages p0m0c1 "$runs" "$1" "claim" "handoff 1" "drop" "degraded 0" "degraded 1" \
		"heartbeat_ms 100" "heartbeat_ms 50" "accept_risk 1" "repaired 1" "histogram" \
		"confirm_dead 1 1" "confirm_dead 2 1 force"
}

# All of them: the portion is given up, and taken again, in between.
all_messages() {
	fuzz messages p0m0c1 "$((runs / 10))" "$seed" "claim" "release" "handoff 1" "fence" "drop" \
		"claim" "degraded 2" "heartbeat_ms 50" "accept_risk 2" "repaired 1" "histogram" \
		"confirm_dead 1 1" "confirm_dead 2 1 force" "claim"
}

owns_again() {
	send_message 1 0 claim
	eventually 60 role_is 1 0 owner
}

require "a portion for all controllers" format_portion 0 --controllers 1-64 --redundancy parity:8 --detect yes
require "and another" format_portion 1 --controllers 1-64 --redundancy parity:8 --detect yes
check "mutated table lines are refused, or print as what they are" table_lines
check "none of them is left" [ -z "$(dmsetup ls | grep wrong)" ]

require "controller 1 owns the portion" map_as_owner 1 0
epoch=$(status_field p0m0c1 epoch)
check "mutated messages do what they say, or nothing" mild_messages "$seed"
check "it owns the portion" owns_again
check "members that may fail are counted from 0 again" send_message 1 0 degraded 0
check "messages that give the portion up, too" all_messages
check "it owns the portion" owns_again
check "in a later epoch, or the same" [ "$(status_field p0m0c1 epoch)" -ge "$epoch" ]
check "a write passes" [ "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)" = ok ]
check "it is removed" unmap_portion 1 0

# The superblock: the checksum covers all of its 4096 bytes, so no bit of it may change.
superblock_flips() {
	line=$(leasectl table --controller 1 "$disk" | cut -d ' ' -f 4-)
	fuzz superblock wrong "$flips" "$seed" "$length" "$line" "$disk"
}
check "a superblock with a flipped bit is refused, and told why" superblock_flips

# One member, so nothing else can tell the owner what is true. What controller 2 wrote is still there.
alone=$(member 1 0)
up_alone() {
	leasectl table --controller "$1" "$alone" | dmsetup create "alone$1"
}
# The mailbox of controller 2: src/proto/codec/layout.rs.
mailbox=$(((1 << 20) + 16384))
has_written() {
	[ "$(dd if="$alone" bs=4096 skip=$((mailbox / 4096)) count=4 iflag=direct 2>/dev/null |
		grep -aoE 'dmLsB(ALT|EAT)' | wc -l)" -eq 4 ]
}
require "a portion of one member" leasectl format --force=member,signature,redundancy --name alone --controllers 1,2 --home 1 \
	--redundancy external --device-delay-ms 100 --heartbeat-ms 5 --lease-ms 2000 "$alone"
require "controller 1 owns it" up_alone 1
require "soon" eventually 60 status_field_is alone1 role owner
require "controller 2 comes" up_alone 2
require "and writes all blocks of its mailbox" eventually 60 has_written
require "and goes" dmsetup remove --retry alone2
check "the owner reads flipped bits there, and stays owner in its epoch" \
	fuzz mailbox alone1 "$flips" "$seed" "$mailbox" "$alone"
check "a write passes" [ "$(bio /dev/mapper/alone1 write 0 4096 direct)" = ok ]
dmsetup remove --retry alone1

finish
