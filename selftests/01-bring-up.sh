#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The whole life of a portion in short: home claims it, the owner writes, a secondary reads and is
# refused, a hand-over needs no window, the end releases it [R22, R30, R34, R40].

. ./lib.sh
plan 16

on_exit clean_up
load_module
mark

need "a portion of three members is formatted" format 0 --home 1
need "controller 1 maps it" up 1 0
need "it owns, because it is home" eventually 60 is 1 0 owner
check "but listened first" said "alpha controller 1: joining -> secondary"
check_equal "epoch 1" 1 "$(field p0m0c1 epoch)"
check_equal "it writes" ok "$(bio /dev/mapper/p0m0c1 write 0 65536 direct)"
need "controller 2 maps it, too" up 2 0
need "and is secondary" eventually 60 is 2 0 secondary
check_equal "it reads" ok "$(bio /dev/mapper/p0m0c2 read 0 65536 direct)"
check_equal "what the other wrote, nothing but the letter w" 65536 \
	"$(dd if=/dev/mapper/p0m0c2 bs=64k count=1 iflag=direct 2>/dev/null | tr -cd w | wc -c)"
check_equal "it does not write" EBADE "$(bio /dev/mapper/p0m0c2 write 0 4096 direct)"
# It writes no ballot before it has listened for a window more: until then it is not handed to.
check "controller 1 hands over" eventually 60 tell 1 0 handoff 2
check "controller 2 owns" eventually 20 is 2 0 owner
check_equal "epoch 2" 2 "$(field p0m0c2 epoch)"
check "it goes" down 2 0
check "controller 1 owns again" eventually 20 is 1 0 owner

finish
