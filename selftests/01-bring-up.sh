#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The life of a portion in short: the home controller claims it and writes; a secondary reads, and
# its writes are refused; a hand-over needs no window; unmapping releases the portion
# [R22, R30, R34, R40].

. ./lib.sh
plan 16

on_exit clean_up
load_module
mark_log

require "a portion of three members is formatted" format_portion 0 --home 1
require "controller 1 maps the portion" map_portion 1 0
require "controller 1, the home controller, owns the portion" eventually 60 role_is 1 0 owner
check "controller 1 was secondary before it claimed" \
	log_has "alpha controller 1: joining -> secondary"
check_equal "controller 1 owns epoch 1" 1 "$(status_field p0m0c1 epoch)"
check_equal "a write of the owner passes" ok "$(bio /dev/mapper/p0m0c1 write 0 65536 direct)"
require "controller 2 maps the portion" map_portion 2 0
require "controller 2 is secondary" eventually 60 role_is 2 0 secondary
check_equal "a read of the secondary passes" ok "$(bio /dev/mapper/p0m0c2 read 0 65536 direct)"
check_equal "the secondary reads the letters that the owner wrote" 65536 \
	"$(dd if=/dev/mapper/p0m0c2 bs=64k count=1 iflag=direct 2>/dev/null | tr -cd w | wc -c)"
check_equal "a write of the secondary is refused" \
	EBADE "$(bio /dev/mapper/p0m0c2 write 0 4096 direct)"
# Controller 2 writes no ballot before it has listened for another window. Until then the hand-over
# is refused.
check "controller 1 hands over to controller 2" eventually 60 send_message 1 0 handoff 2
check "controller 2 owns the portion" eventually 20 role_is 2 0 owner
check_equal "controller 2 owns epoch 2" 2 "$(status_field p0m0c2 epoch)"
check "controller 2 unmaps the portion" unmap_portion 2 0
check "controller 1 owns the portion again" eventually 20 role_is 1 0 owner

finish
