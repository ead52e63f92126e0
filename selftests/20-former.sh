#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A member is replaced, and the disk that it was is found again: it is no member any more, whatever
# a controller has mapped first [R56].

. ./lib.sh

plan 27
work=$(mktemp -d)
on_exit 'rm -rf "$work"'
on_exit clean_up
former=$(member 0 1)
new=$(member 1 0)

# map CONTROLLER INDEX DEVICE: the controller maps a device as this member
map() {
	line=$(leasectl table --controller "$1" "$3") || return 1
	dmsetup create "p0m$2c$1" --table "$line"
}

is_refused() {
	! map 2 1 "$former" 2>"$work/refused"
}

load_module
require "a portion of three members" format_portion 0
require "controller 1 owns it" map_as_owner 1 0
check_equal "a write to member 1" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 1 leaves" unmap_portion 1 0

# shellcheck disable=SC2046 # devices have no blanks
require "member 1 is replaced" leasectl format --replace 1 --force=member,signature \
	"$new" "$(member 0 0)" "$(member 0 2)" >/dev/null
check_equal "the replacement has the next generation" 2 \
	"$(leasectl show --json "$new" | sed -n 's/^ *"generation": \([0-9]*\),*$/\1/p' | head -n 1)"
require "controller 1 maps member 0" map 1 0 "$(member 0 0)"
require "and the replacement" map 1 1 "$new"
require "and member 2" map 1 2 "$(member 0 2)"
require "it owns" eventually 60 role_is 1 0 owner
epoch=$(status_field p0m0c1 epoch)
knows() {
	leasectl check "$(member 0 0)" "$(member 0 2)" "$former" | grep -q 'a former member 1'
}
check "the members that are left say that there is a replacement" eventually 60 knows

# Controller 2 knows of the replacement before it finds the former disk.
require "controller 2 maps member 0" map 2 0 "$(member 0 0)"
require "and member 2" map 2 2 "$(member 0 2)"
require "it is secondary" eventually 60 role_is 2 0 secondary
mark_log
expect_warning "generation 1, the member has 2"
check "it may not map the former disk" is_refused
check "because it was replaced" log_has "former disk of its member"
require "it maps the replacement" map 2 1 "$new"

# Controller 3 finds the former disk first, and reads of the replacement later.
mark_log
expect_warning "the device of member 1 is a former disk"
require "controller 3 maps the former disk" map 3 1 "$former"
require "and member 0" map 3 0 "$(member 0 0)"
outdated() {
	[ "$(status_field p0m1c3 reason)" = outdated ]
}
check "it learns that the disk was replaced" eventually 60 outdated
check_equal "a read there fails" EIO "$(bio /dev/mapper/p0m1c3 read 0 4096 direct)"
fails_to_write() {
	case $(bio /dev/mapper/p0m1c3 write 0 4096 direct) in
	EIO | EBADE) return 0 ;;
	esac
	return 1
}
check "a write there fails" fails_to_write
check "with one member of three it joins nothing" role_is 3 0 joining
check "controller 1 owns" role_is 1 0 owner
check_equal "in the same epoch" "$epoch" "$(status_field p0m0c1 epoch)"
check_equal "and writes to the replacement" ok "$(bio /dev/mapper/p0m1c1 write 0 4096 direct)"
require "controller 1 hands over to controller 2" eventually 60 send_message 1 0 handoff 2

finish
