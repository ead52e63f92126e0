#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Failing allocations, one after the other, in everything that the module does for a user: each
# attempt succeeds or fails with ENOMEM, the next attempt succeeds, and a lease is not lost. The
# kernel reports a wrong use of memory at once, and guest/run-selftests finds leaks at the end of
# the run.
#
# This test needs a kernel with fault injection (scripts/debug-kernel).

. ./lib.sh
plan 37

work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
on_exit 'stop_failures'

faults=/sys/kernel/debug
module=/usr/lib/rig/modules/dm_lease.ko

# set_both FILE VALUE: changes a setting of both kinds of allocations
set_both() {
	for kind in failslab fail_page_alloc; do
		echo "$2" >$faults/$kind/"$1" || return 1
	done
}

# limit_to_range START END: only allocations by code at these addresses can fail
limit_to_range() {
	set_both require-start "$1" && set_both require-end "$2"
}

# Without `verbose 0` the reports of the injections would fill the log.
prepare() {
	set_both verbose 0 && set_both ignore-gfp-wait 0 &&
		echo 0 >$faults/fail_page_alloc/min-order
}

remove_limit() {
	limit_to_range 0 0xffffffffffffffff
}

stop_failures() {
	set_both probability 0 && remove_limit
}

# limit_to_function NAME: only allocations by a function of the kernel can fail
limit_to_function() {
	sort /proc/kallsyms | grep -A 1 "^[0-9a-f]* [tT] $1\$" | cut -d ' ' -f 1 >"$work/range"
	{ read -r start && read -r end; } <"$work/range" && limit_to_range "0x$start" "0x$end"
}

# limit_to_module: only allocations by the module can fail. All modules lie in the last 4 GiB of the
# address space; the arithmetic of the shell can handle only the lower half of such an address.
limit_to_module() {
	sed -n 's/^dm_lease \([0-9]*\) .* 0xffffffff\([0-9a-f]*\) .*/\1 \2/p' /proc/modules \
		>"$work/module"
	read -r size start <"$work/module" &&
		limit_to_range "0xffffffff$start" "$(printf '0xffffffff%x' $((0x$start + size)))"
}

# line C M: prints the table line of a member for a controller
line() {
	leasectl table --controller "$1" "/dev/mapper/p0m${2}w$1"
}

# wait_for_heartbeats N: waits until controller 1 has written N more heartbeats
wait_for_heartbeats() {
	written=$(heartbeats_written 1 0)
	eventually 120 has_written_more_than $((written + $1)) 1 0
}

owns_first_epoch() {
	role_is 1 0 owner && [ "$(status_field p0m0c1 epoch)" = 1 ]
}

require "the kernel can inject allocation failures" prepare
check "the injection is limited to the start of the module" \
	limit_to_function do_init_module
check "the module fails to load cleanly, whichever allocation fails" \
	fail_nth insmod $module dm_lease
remove_limit
require "the module loads when no allocation fails" load_module

require "a portion is formatted" format_portion 0 --home 1
for index in 0 1 2; do
	make_path 1 0 $index
	make_path 2 0 $index
done

# Device-mapper itself makes hundreds of allocations for a table. Only those of the module are
# tested.
limit_to_module
first=$(line 1 0)
check "loading the first table survives each failed allocation" fail_nth load first "$first"
check "resuming the first device survives each failed allocation" fail_nth resume first "$first"
remove_limit
# The kernel prints a stack trace when it cannot allocate a thread's stack.
echo "dm-lease selftest $$: denies memory, begin" >/dev/kmsg
check "resuming the first device survives failures to create kernel threads" \
	fail_nth -t 2 resume first "$first"
echo "dm-lease selftest $$: denies memory, end" >/dev/kmsg
check "removing the first device survives each failed allocation" fail_nth remove first "$first"

require "controller 1 owns the portion after all failures" map_as_owner 1 0
check_equal "controller 1 owns epoch 1" 1 "$(status_field p0m0c1 epoch)"
other=$(line 2 0)
limit_to_module
check "loading a table of controller 2 survives each failed allocation" fail_nth load other "$other"
check "resuming a device of controller 2 survives each failed allocation" \
	fail_nth resume other "$other"
remove_limit
check "reloading a live device survives each failed allocation" \
	fail_nth reload p0m1c1 "$(dmsetup table p0m1c1)"
check "removing a device of controller 2 survives each failed allocation" \
	fail_nth remove other "$other"

for message in degraded_0 claim drop handoff_1 heartbeat_ms_90 heartbeat_ms_100; do
	text=$(echo "$message" | sed 's/_\([0-9]*\)$/ \1/')
	check "message $text survives each failed allocation" fail_nth message p0m0c1 "$text"
done
for form in INFO TABLE IMA; do
	check "status $form survives each failed allocation" fail_nth status p0m0c1 $form
done
check "controller 1 kept its lease in epoch 1" owns_first_epoch

# From now on each allocation of the module fails, in all its threads.
deny_all() {
	limit_to_module && set_both times 1000000 && set_both probability 100
}

# Succeeds if an allocation failed since deny_all.
any_denied() {
	for kind in failslab fail_page_alloc; do
		[ "$(cat $faults/$kind/times)" -eq 1000000 ] || return 0
	done
	return 1
}

# Heartbeats allocate nothing, so a lease is not lost for lack of memory.
require "all allocations of the module are denied" deny_all
wait_for_heartbeats 50
check "controller 1 keeps its lease for fifty heartbeats without memory" owns_first_epoch
stop_failures

# The check for openers works without memory, too.
require "controller 2 maps the portion with claim manual" map_portion 2 0 --claim-manual
require "controller 2 is secondary" eventually 120 role_is 2 0 secondary
exec 3</dev/mapper/p0m1c2
check "controller 1 releases the portion while a device of controller 2 is open" \
	send_message 1 0 release
check "controller 1 accepts message claim" send_message 1 0 claim
require "controller 1 owns the next epoch" eventually 120 role_is 1 0 owner
mark_log
require "all allocations of the module are denied again" deny_all
send_message 1 0 handoff 2
send_message 2 0 claim 2>/dev/null
written=$(heartbeats_written 2 0)
check "controller 2 writes thirty heartbeats without memory" \
	eventually 120 has_written_more_than $((written + 30)) 2 0
check "an allocation of the module was denied" any_denied
check "controller 2 does not claim while its device is open [R31]" \
	fails log_has "controller 2: claiming"
stop_failures
exec 3<&-
hand_over_to_2() {
	send_message 1 0 handoff 2 2>/dev/null
	send_message 2 0 claim 2>/dev/null
	role_is 2 0 owner
}
check "controller 2 owns the portion when its device is closed" \
	eventually 120 hand_over_to_2

finish
