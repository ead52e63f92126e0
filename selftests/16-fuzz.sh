#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Random mutations of table lines and messages, thousands of them, and single flipped bits of a
# superblock and of another controller's mailbox. They never lead to a wrong owner, nor to a warning
# of the kernel that the test does not expect [R26, R39, R47].
#
# FUZZ_RUNS (default 1000) is the number of lines, and of messages. A tenth of it, a fifth from
# 10000 on, is the number of flipped bits. FUZZ_SEED (default 1) selects the mutations. In a guest
# the kernel's command line may set both, as rig.fuzz_runs= and rig.fuzz_seed=.

. ./lib.sh
plan 22

# option NAME: prints an option that the host set on the kernel's command line
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

# The lines name paths that mutations turn into each other, so that the mutants name members, too.
fuzz_tables() {
	disk=$(member 0 0)
	length=$(leasectl table --controller 1 "$disk" | cut -d ' ' -f 2)
	all="heartbeat_ms 50 claim manual batch 2 on_full fail fail_with medium lapse_hold_ms 7 stateless"
	fuzz tables wrong "$runs" "$seed" "$length" "$disk 1" "$disk 64" "$(member 0 1) 2 0" \
		"$(member 1 2) 3 1 stateless" "$disk 1 2 heartbeat_ms 100" "$disk 2 2 claim manual" \
		"$disk 1 4 on_full fail fail_with ioerr" "$disk 1 2 lapse_hold_ms 600000" \
		"$disk 1 13 $all"
}

# Mutants of messages that do not release the portion.
fuzz_mild_messages() {
	fuzz messages p0m0c1 "$runs" "$1" "claim" "handoff 1" "drop" "degraded 0" "degraded 1" \
		"heartbeat_ms 100" "heartbeat_ms 50" "accept_risk 1" "repaired 1" "histogram" \
		"confirm_dead 1 1" "confirm_dead 2 1 force"
}

# Mutants of all messages: the owner releases the portion and claims it again.
fuzz_all_messages() {
	fuzz messages p0m0c1 "$((runs / 10))" "$seed" "claim" "release" "handoff 1" "fence" "drop" \
		"claim" "degraded 2" "heartbeat_ms 50" "accept_risk 2" "repaired 1" "histogram" \
		"confirm_dead 1 1" "confirm_dead 2 1 force" "claim"
}

claim_again() {
	send_message 1 0 claim
	eventually 60 role_is 1 0 owner
}

require "portion alpha is formatted for all controllers" \
	format_portion 0 --controllers 1-64 --redundancy parity:8 --detect yes
require "portion beta is formatted for all controllers" \
	format_portion 1 --controllers 1-64 --redundancy parity:8 --detect yes
check "each mutated table line is refused, or TABLE prints it in canonical form" fuzz_tables
check "no device with a mutated table is left" [ -z "$(dmsetup ls | grep wrong)" ]

require "controller 1 owns the portion" map_as_owner 1 0
epoch=$(status_field p0m0c1 epoch)
check "mutated messages that keep the portion never lower the epoch" \
	fuzz_mild_messages "$seed"
check "controller 1 owns the portion after messages that keep it" claim_again
check "message degraded 0 succeeds after mutated messages" send_message 1 0 degraded 0
check "mutated messages that release the portion never lower the epoch" \
	fuzz_all_messages
check "controller 1 owns the portion after messages that release it" claim_again
check "the epoch never decreased" [ "$(status_field p0m0c1 epoch)" -ge "$epoch" ]
check "a write passes after all mutated messages" \
	[ "$(bio /dev/mapper/p0m0c1 write 0 4096 direct)" = ok ]
check "controller 1 unmaps the portion" unmap_portion 1 0

# The checksum of a superblock covers all 4096 bytes, so no bit may change.
fuzz_superblock() {
	line=$(leasectl table --controller 1 "$disk" | cut -d ' ' -f 4-)
	fuzz superblock wrong "$flips" "$seed" "$length" "$line" "$disk"
}
check "each superblock with a flipped bit is refused, and the log says why" fuzz_superblock

# A portion of one member: the owner has no other copy of the mailbox of controller 2, whose records
# are still there when it has gone.
alone=$(member 1 0)
map_alone() {
	leasectl table --controller "$1" "$alone" | dmsetup create "alone$1"
}
# The mailbox of controller 2: src/proto/codec/layout.rs.
mailbox=$(((1 << 20) + 16384))
has_written() {
	[ "$(dd if="$alone" bs=4096 skip=$((mailbox / 4096)) count=4 iflag=direct 2>/dev/null |
		grep -aoE 'dmLsB(ALT|EAT)' | wc -l)" -eq 4 ]
}

require "a portion of one member is formatted" \
	leasectl format --force=member,signature,redundancy --name alone --controllers 1,2 \
	--home 1 --redundancy external --device-delay-ms 100 --heartbeat-ms 5 --lease-ms 2000 "$alone"
require "controller 1 maps the portion of one member" map_alone 1
require "controller 1 owns the portion of one member" \
	eventually 60 status_field_is alone1 role owner
require "controller 2 maps the portion of one member" map_alone 2
require "controller 2 writes all blocks of its mailbox" eventually 60 has_written
require "controller 2 unmaps the portion of one member" dmsetup remove --retry alone2
check "controller 1 keeps its role and epoch when it reads a mailbox with flipped bits" \
	fuzz mailbox alone1 "$flips" "$seed" "$mailbox" "$alone"
check "a write passes after the flipped bits" \
	[ "$(bio /dev/mapper/alone1 write 0 4096 direct)" = ok ]
dmsetup remove --retry alone1

finish
