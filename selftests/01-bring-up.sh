#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The whole life of a portion in short: home claims it, the owner writes, a secondary reads and is
# refused, a hand-over needs no window, the end releases it [R22, R30, R34, R40].

. ./lib.sh
plan 16

on_exit clean_up
load_module
mark_log

require "a portion of three members is formatted" format_portion 0 --home 1
require "controller 1 maps it" map_portion 1 0
require "it owns, because it is home" eventually 60 role_is 1 0 owner
check "but listened first" log_has "alpha controller 1: joining -> secondary"
check_equal "epoch 1" 1 "$(status_field p0m0c1 epoch)"
check_equal "it writes" ok "$(bio /dev/mapper/p0m0c1 write 0 65536 direct)"
require "controller 2 maps it, too" map_portion 2 0
require "and is secondary" eventually 60 role_is 2 0 secondary
check_equal "it reads" ok "$(bio /dev/mapper/p0m0c2 read 0 65536 direct)"
check_equal "what the other wrote, nothing but the letter w" 65536 \
	"$(dd if=/dev/mapper/p0m0c2 bs=64k count=1 iflag=direct 2>/dev/null | tr -cd w | wc -c)"
check_equal "it does not write" EBADE "$(bio /dev/mapper/p0m0c2 write 0 4096 direct)"
# It writes no ballot before it has listened for a window more: until then it is not handed to.
check "controller 1 hands over" eventually 60 send_message 1 0 handoff 2
check "controller 2 owns" eventually 20 role_is 2 0 owner
check_equal "epoch 2" 2 "$(status_field p0m0c2 epoch)"
check "it goes" unmap_portion 2 0
check "controller 1 owns again" eventually 20 role_is 1 0 owner

finish
