#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A member is replaced, and the former disk returns. It is no member any more, in whatever order a
# controller maps its disks [R56].

. ./lib.sh

plan 29
work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
former=$(member 0 1)
new=$(member 1 0)

# map CONTROLLER INDEX DEVICE: maps a device as this member for the controller
map() {
	line=$(leasectl table --controller "$1" "$3") || return 1
	dmsetup create "p0m$2c$1" --table "$line"
}

# flushes DEVICE: how many flushes the device has completed
flushes() {
	awk '{ print $16 }' "/sys/class/block/$(basename "$(readlink -f "$1")")/stat"
}

is_refused() {
	! map 2 1 "$former" 2>"$work/refused"
}

load_module
require "a portion of three members is formatted" format_portion 0
require "controller 1 owns the portion" map_as_owner 1 0
check_equal "a write to member 1 is acknowledged" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 1 unmaps the portion" unmap_portion 1 0

before_0=$(flushes "$(member 0 0)")
before_2=$(flushes "$(member 0 2)")
# shellcheck disable=SC2046 # devices have no blanks
require "member 1 is replaced" leasectl format --replace 1 --force=member,signature \
	"$new" "$(member 0 0)" "$(member 0 2)" >/dev/null
# Heartbeats are not on the medium before a flush, and the replacement relies on them.
check "leasectl flushed member 0" test "$(flushes "$(member 0 0)")" -gt "$before_0"
check "leasectl flushed member 2" test "$(flushes "$(member 0 2)")" -gt "$before_2"
check_equal "the replacement has generation 2" 2 \
	"$(leasectl show --json "$new" | sed -n 's/^ *"generation": \([0-9]*\),*$/\1/p' | head -n 1)"
require "controller 1 maps member 0" map 1 0 "$(member 0 0)"
require "controller 1 maps the replacement" map 1 1 "$new"
require "controller 1 maps member 2" map 1 2 "$(member 0 2)"
require "controller 1 owns the portion with the replacement" eventually 60 role_is 1 0 owner
epoch=$(status_field p0m0c1 epoch)
knows_replacement() {
	leasectl check "$(member 0 0)" "$(member 0 2)" "$former" | grep -q 'a former member 1'
}
check "leasectl check calls the replaced disk a former member" eventually 60 knows_replacement

# Controller 2 reads of the replacement before it finds the former disk.
require "controller 2 maps member 0" map 2 0 "$(member 0 0)"
require "controller 2 maps member 2" map 2 2 "$(member 0 2)"
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
mark_log
expect_warning "generation 1, the member has 2"
check "controller 2 may not map the former disk" is_refused
check "the log says that the disk is a former one" log_has "former disk of its member"
require "controller 2 maps the replacement" map 2 1 "$new"

# Controller 3 finds the former disk first, and reads of the replacement later.
mark_log
expect_warning "the device of member 1 is a former disk"
require "controller 3 maps the former disk" map 3 1 "$former"
require "controller 3 maps member 0" map 3 0 "$(member 0 0)"

check "controller 3 learns that the disk was replaced" eventually 60 status_field_is p0m1c3 reason outdated
check_equal "a read from the former disk fails" EIO "$(bio /dev/mapper/p0m1c3 read 0 4096 direct)"
# A write ends with EIO from the former disk, or with EBADE from the gate.
write_fails() {
	case $(bio /dev/mapper/p0m1c3 write 0 4096 direct) in
	EIO | EBADE) return 0 ;;
	esac
	return 1
}
check "a write to the former disk fails" write_fails
check "controller 3 does not join with one member of three" role_is 3 0 joining
check "controller 1 still owns the portion" role_is 1 0 owner
check_equal "the epoch did not change" "$epoch" "$(status_field p0m0c1 epoch)"
check_equal "a write of controller 1 to the replacement is acknowledged" \
	ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 1 hands over to controller 2" eventually 60 send_message 1 0 handoff 2

finish
