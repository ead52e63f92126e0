#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Two controllers and two portions: the loss of one portion does not touch the other one, and the
# surviving controller owns both, without a gap in its own [R37, R38, R42].

. ./lib.sh
plan 40

on_exit clean_up
load_module

epoch() {
	status_field "p$1m0c$2" epoch
}

# write_passes C P: succeeds if a write of controller C passes
write_passes() {
	[ "$(bio "/dev/mapper/p$2m0c$1" write 0 4096 direct)" = ok ]
}

require "portion alpha is formatted with home controller 1" format_portion 0 --home 1
require "portion beta is formatted with home controller 2" format_portion 1 --home 2
require "controller 2 maps beta with its own heartbeat period [R1]" \
	map_portion 2 1 --heartbeat-ms 50
require "controller 1 maps alpha with its own heartbeat period" map_portion 1 0 --heartbeat-ms 100
require "controller 1 maps beta" map_portion 1 1
require "controller 2 maps alpha" map_portion 2 0
require "controller 1 owns alpha" eventually 60 role_is 1 0 owner
require "controller 2 owns beta" eventually 60 role_is 2 1 owner
check "controller 1 is secondary of beta" role_is 1 1 secondary
check "controller 2 is secondary of alpha" role_is 2 0 secondary

# One member of three hangs. Nothing changes.
check "the mailbox I/O of controller 1 to one member of alpha hangs" \
	dmsetup suspend --noflush --nolockfs p0m2h1
written=$(heartbeats_written 1 0)
check "controller 1 writes sixty heartbeats without this member" \
	eventually 60 has_written_more_than $((written + 60)) 1 0
check "controller 1 still owns alpha while one member hangs [R42]" role_is 1 0 owner
check_equal "alpha still has epoch 1 while one member hangs" 1 "$(epoch 0 1)"
dmsetup resume p0m2h1

# One member of three fails all I/O. The number of members changes, and nothing else.
healthy=$(dmsetup table p0m2h1)
check "one member of alpha fails all mailbox I/O of controller 1" \
	dmsetup wipe_table --noflush --nolockfs p0m2h1
check "controller 1 counts two members of alpha" eventually 60 status_field_is p0m0c1 members_ok 2
written=$(heartbeats_written 1 0)
check "controller 1 writes thirty heartbeats without the failed member" \
	eventually 60 has_written_more_than $((written + 30)) 1 0
check "controller 1 still owns alpha without the failed member [R42]" role_is 1 0 owner
check_equal "alpha still has epoch 1 without the failed member" 1 "$(epoch 0 1)"
dmsetup reload p0m2h1 --table "$healthy" && dmsetup resume p0m2h1
check "controller 1 counts three members of alpha again" \
	eventually 60 status_field_is p0m0c1 members_ok 3

# Controller 1 loses alpha. Beta is not touched.
check "the mailbox I/O of controller 1 to alpha hangs" hold_mailboxes 1 0
check "controller 2 owns alpha after controller 1 stalled" eventually 60 role_is 2 0 owner
check_equal "controller 2 kept epoch 1 of beta while it claimed alpha [R38]" 1 "$(epoch 1 2)"
check "controller 2 writes to beta" write_passes 2 1
check "controller 2 writes to alpha" write_passes 2 0
resume_mailboxes 1 0
check "controller 2 hands beta over to controller 1" send_message 2 1 handoff 1
check "controller 1 owns beta" eventually 60 role_is 1 1 owner
check "controller 2 still owns alpha" role_is 2 0 owner
check "controller 1 writes to beta" write_passes 1 1
check_fails "a write of controller 1 to alpha is refused" write_passes 1 0

# Controller 2 loses alpha in turn. Again beta is not touched.
check "the mailbox I/O of controller 2 to alpha hangs" hold_mailboxes 2 0
check "controller 1 owns alpha after controller 2 stalled" eventually 60 role_is 1 0 owner
check_equal "controller 1 kept epoch 2 of beta while it claimed alpha [R37]" 2 "$(epoch 1 1)"
check "controller 1 writes to alpha after it claimed alpha" write_passes 1 0
check "controller 1 writes to beta after it claimed alpha" write_passes 1 1
resume_mailboxes 2 0

# No controller has a majority: the owner loses its lease, and no other controller takes over. The
# mailboxes of controller 2 are held first, so that it cannot claim alpha before they are.
check "the mailbox I/O of controller 2 to alpha hangs again" hold_mailboxes 2 0
check "the mailbox I/O of controller 1 to alpha hangs, too" hold_mailboxes 1 0
check "controller 1 loses alpha without a majority [R42]" eventually 60 role_is 1 0 secondary
check_fails "controller 2 does not own alpha without a majority" role_is 2 0 owner
check "controller 1 still writes to beta" write_passes 1 1
resume_mailboxes 1 0
resume_mailboxes 2 0

finish
