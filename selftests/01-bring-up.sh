#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A portion of three members: home claims it, heartbeats, writes; a secondary is refused and reads
# [R22, R40]; a hand-over needs no window [R34].

. ./lib.sh
plan 9

load_module
# shellcheck disable=SC2046
leasectl format --name alpha --controllers 1,2 --home 1 --redundancy external \
	--device-delay-ms 100 --heartbeat-ms 100 --write-ms 100 --read-ms 100 $(members 0) >/dev/null ||
	skip_all "leasectl format failed"

up() {
	for m in 0 1 2; do
		leasectl table --controller "$1" "$(member 0 $m)" | dmsetup create "c$1m$m"
	done
}

role_is() {
	[ "$(field "$1" role)" = "$2" ]
}

check "controller 1 comes up" up 1
check "and owns the portion it is home to" eventually 20 role_is c1m0 owner
dmsetup status
check "it writes" dd if=/dev/zero of=/dev/mapper/c1m0 bs=4k count=16 oflag=direct
check "controller 2 comes up" up 2
check "as secondary" eventually 20 role_is c2m0 secondary
check_fails "which cannot write" dd if=/dev/zero of=/dev/mapper/c2m0 bs=4k count=1 oflag=direct
check "but reads" dd if=/dev/mapper/c2m0 of=/dev/null bs=4k count=16 iflag=direct
check "controller 1 hands over" dmsetup message c1m0 0 handoff 2
check "controller 2 owns" eventually 5 role_is c2m0 owner
dmsetup status
dmesg | tail -30
for m in 0 1 2; do dmsetup remove c1m$m; dmsetup remove c2m$m; done
dmesg | tail -8

finish
