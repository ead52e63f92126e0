#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Allocations that fail, one after the other, in all that the module does for a user: each attempt
# succeeds or fails with ENOMEM, the same again succeeds, and a lease that is held stays held. What
# leaks is found at the end of the run (guest/run-selftests), what is used wrongly at once.
#
# Only a kernel with fault injection can do that (scripts/debug-kernel).

. ./lib.sh
plan 37

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'nowhere'

faults=/sys/kernel/debug
module=/usr/lib/rig/modules/dm_lease.ko

# to_both FILE VALUE: a setting of both kinds of allocations
to_both() {
	for kind in failslab fail_page_alloc; do
		echo "$2" >$faults/$kind/"$1" || return 1
	done
}

# between START END: allocations count that come from code at these addresses
between() {
	to_both require-start "$1" && to_both require-end "$2"
}

# Anything else would say so much of each injection that the log drowns.
prepare() {
	to_both verbose 0 && to_both ignore-gfp-wait 0 && echo 0 >$faults/fail_page_alloc/min-order
}

everywhere() {
	between 0 0xffffffffffffffff
}

nowhere() {
	to_both probability 0 && everywhere
}

# in_function NAME: those that come from a function of the kernel
in_function() {
	sort /proc/kallsyms | grep -A 1 "^[0-9a-f]* [tT] $1\$" | cut -d ' ' -f 1 >"$work/range"
	{ read -r start && read -r end; } <"$work/range" && between "0x$start" "0x$end"
}

# in_module: those that come from the module. All modules lie in the last 4 GiB of the addresses,
# and only the lower half of one is a number to the shell.
in_module() {
	sed -n 's/^dm_lease \([0-9]*\) .* 0xffffffff\([0-9a-f]*\) .*/\1 \2/p' /proc/modules \
		>"$work/module"
	read -r size start <"$work/module" &&
		between "0xffffffff$start" "$(printf '0xffffffff%x' $((0x$start + size)))"
}

# The table line of a member for a controller.
line() {
	leasectl table --controller "$1" "/dev/mapper/p0m${2}w$1"
}

# A heartbeat that is owed to nobody's memory.
beats_on() {
	written=$(heartbeats_written 1 0)
	eventually 120 has_written_more_than $((written + $1)) 1 0
}

owns() {
	role_is 1 0 owner && [ "$(status_field p0m0c1 epoch)" = 1 ]
}

require "this kernel can let allocations fail" prepare
check "the module's start" in_function do_init_module
check "fails cleanly, whichever allocation fails" fail_nth insmod $module dm_lease
everywhere
require "and succeeds when none does" load_module

require "a portion" format_portion 0 --home 1
for index in 0 1 2; do
	make_path 1 0 $index
	make_path 2 0 $index
done

# Device-mapper itself makes hundreds of allocations for a table; what counts is below the module.
in_module
first=$(line 1 0)
check "the constructor of the first table" fail_nth load first "$first"
check "the first device becomes live" fail_nth resume first "$first"
everywhere
# The kernel shows where it asked for a thread's stack in vain.
echo "dm-lease selftest $$: denies memory, begin" >/dev/kmsg
check "while the kernel fails to make threads" fail_nth -t 2 resume first "$first"
echo "dm-lease selftest $$: denies memory, end" >/dev/kmsg
check "a device goes" fail_nth remove first "$first"

require "nothing of all that stays: controller 1 owns" map_as_owner 1 0
check_equal "in the first epoch" 1 "$(status_field p0m0c1 epoch)"
other=$(line 2 0)
in_module
check "the constructor of another controller's table" fail_nth load other "$other"
check "its device becomes live" fail_nth resume other "$other"
everywhere
check "a live device gets another table" fail_nth reload p0m1c1 "$(dmsetup table p0m1c1)"
check "the other device goes" fail_nth remove other "$other"

for message in degraded_0 claim drop handoff_1 heartbeat_ms_90 heartbeat_ms_100; do
	text=$(echo "$message" | sed 's/_\([0-9]*\)$/ \1/')
	check "message $text" fail_nth message p0m0c1 "$text"
done
for form in INFO TABLE IMA; do
	check "status $form" fail_nth status p0m0c1 $form
done
check "controller 1 owned all the time" owns

# From here on all that the module asks for is denied, in all its threads and for ever.
nothing_for_the_module() {
	in_module && to_both times 1000000 && to_both probability 100
}

# Whether anything was asked for and denied since then.
denied() {
	for kind in failslab fail_page_alloc; do
		[ "$(cat $faults/$kind/times)" -eq 1000000 ] || return 0
	done
	return 1
}

# The heart needs no memory of its own: a lease is not lost for want of it.
require "the module gets no memory" nothing_for_the_module
beats_on 50
check "fifty heartbeats while all that the module asks for is denied" owns
nowhere

# Nor is somebody overlooked who has a device open.
require "controller 2 comes, and claims when it is told to" map_portion 2 0 --claim-manual
require "as a secondary" eventually 120 role_is 2 0 secondary
exec 3</dev/mapper/p0m1c2
check "a device of it is opened, and controller 1 releases" send_message 1 0 release
check "to begin another epoch" send_message 1 0 claim
require "which it owns" eventually 120 role_is 1 0 owner
mark_log
require "the module gets no memory again" nothing_for_the_module
send_message 1 0 handoff 2
send_message 2 0 claim 2>/dev/null
written=$(heartbeats_written 2 0)
check "controller 2 may claim and has no memory" eventually 120 has_written_more_than $((written + 30)) 2 0
check "it asked for some in vain" denied
check "but does not claim, for the device is open [R31]" fails log_has "controller 2: claiming"
nowhere
exec 3<&-
claimed() {
	send_message 1 0 handoff 2 2>/dev/null
	send_message 2 0 claim 2>/dev/null
	role_is 2 0 owner
}
check "it is closed, and controller 2 owns" eventually 120 claimed

finish
