#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Two controllers, two portions: losing one does not touch the other, and the survivor owns both
# without a gap in its own [R37, R38, R42].

. ./lib.sh
plan 39

on_exit clean_up
load_module

epoch() {
	status_field "p$1m0c$2" epoch
}

ok_is() {
	[ "$(status_field p0m0c1 members_ok)" -eq "$1" ]
}

writes() {
	[ "$(bio "/dev/mapper/p$2m0c$1" write 0 4096 direct)" = ok ]
}

require "portion alpha, home of controller 1" format_portion 0 --home 1
require "portion beta, home of controller 2" format_portion 1 --home 2
require "controller 2 comes to beta, with a period of its own [R1]" map_portion 2 1 --heartbeat-ms 50
require "controller 1 comes to alpha" map_portion 1 0 --heartbeat-ms 100
require "and to beta" map_portion 1 1
require "controller 2 comes to alpha" map_portion 2 0
require "controller 1 owns alpha" eventually 60 role_is 1 0 owner
require "controller 2 owns beta" eventually 60 role_is 2 1 owner
check "controller 1 is secondary of beta" role_is 1 1 secondary
check "controller 2 is secondary of alpha" role_is 2 0 secondary

# One member of three is gone: nothing changes.
check "one member of alpha hangs for controller 1" dmsetup suspend --noflush --nolockfs p0m2h1
written=$(heartbeats_written 1 0)
check "it heartbeats" eventually 60 has_written_more_than $((written + 60)) 1 0
check "and owns [R42]" role_is 1 0 owner
check_equal "in the same epoch" 1 "$(epoch 0 1)"
dmsetup resume p0m2h1

# One member of three fails everything: it is missed, and nothing else changes.
healthy=$(dmsetup table p0m2h1)
check "one member fails all I/O" dmsetup wipe_table --noflush --nolockfs p0m2h1
check "it is missed" eventually 60 ok_is 2
written=$(heartbeats_written 1 0)
check "controller 1 heartbeats" eventually 60 has_written_more_than $((written + 30)) 1 0
check "and owns [R42]" role_is 1 0 owner
check_equal "in the same epoch" 1 "$(epoch 0 1)"
dmsetup reload p0m2h1 --table "$healthy" && dmsetup resume p0m2h1
check "the member is back" eventually 60 ok_is 3

# One portion is lost, the other one is not.
check "controller 1 stalls on alpha" hold_mailboxes 1 0
check "controller 2 takes it over" eventually 60 role_is 2 0 owner
check_equal "and kept beta without a gap [R38]" 1 "$(epoch 1 2)"
check "which it writes" writes 2 1
check "and alpha" writes 2 0
resume_mailboxes 1 0
check "beta goes to controller 1" send_message 2 1 handoff 1
check "which owns it" eventually 60 role_is 1 1 owner
check "while controller 2 has alpha" role_is 2 0 owner
check "controller 1 writes beta" writes 1 1
check_fails "but not alpha" writes 1 0

# A second controller of the three dies; a hang of alpha does not touch beta.
check "controller 2 stalls on alpha" hold_mailboxes 2 0
check "controller 1 takes it over" eventually 60 role_is 1 0 owner
check_equal "and had beta all the time [R37]" 2 "$(epoch 1 1)"
check "it writes alpha" writes 1 0
check "and beta" writes 1 1
resume_mailboxes 2 0

# Neither majority: the owner loses its lease and nobody takes over.
check "two members of alpha hang for both" hold_mailboxes 1 0
hold_mailboxes 2 0
check "nobody owns alpha [R42]" eventually 60 role_is 1 0 secondary
check_fails "not controller 2" role_is 2 0 owner
check "beta goes on" writes 1 1
resume_mailboxes 1 0
resume_mailboxes 2 0

finish
