# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What all selftests of dm-lease share; a test begins with `. ./lib.sh`.
#
#   plan N                      N cases follow
#   check TEXT COMMAND...       a case: passes if the command succeeds
#   check_fails TEXT COMMAND... a case: passes if it fails
#   check_equal TEXT A B        a case: passes if the strings are equal
#   eventually S COMMAND...     succeeds as soon as the command does, fails after S seconds
#   note TEXT...                a line for who reads the report
#   skip_all TEXT...            ends the test as skipped (a failure in our own runs: say why)
#   on_exit COMMAND             at the end, however it comes; the last one first
#   finish                      the end: exits with the verdict
#
#   member P M                  device of member M of portion P; `members P` all of them
#   load_module [PARAMETER...]  makes sure that dm_lease is loaded
#   field NAME FIELD            one field of the status of a mapped device, by its name
#
# Devices come from /dev/lease/, where qemu/ links them by serial number: p0m0..p0m2 and p1m0..p1m2
# (portions), scsi0, nvme0, four0 (4096-byte sectors). LEASE_DEVICES names another directory.

KTAP_HELPERS=${KTAP_HELPERS:-../kselftest/ktap_helpers.sh}
# shellcheck source=/dev/null
. "$KTAP_HELPERS"

# Libdevmapper waits for a udev that a small guest does not have.
[ -S /run/udev/control ] || export DM_DISABLE_UDEV=1

devices=${LEASE_DEVICES:-/dev/lease}
exit_commands=

plan() {
	ktap_print_header
	ktap_set_plan "$1"
}

note() {
	ktap_print_msg "$@"
}

skip_all() {
	ktap_skip_all "$@"
	exit "$KSFT_SKIP"
}

check() {
	text=$1
	shift
	if "$@"; then
		ktap_test_pass "$text"
	else
		ktap_test_fail "$text"
	fi
}

fails() {
	! "$@"
}

check_fails() {
	text=$1
	shift
	check "$text" fails "$@"
}

check_equal() {
	[ "$2" = "$3" ] || note "$1: '$2' is not '$3'"
	check "$1" [ "$2" = "$3" ]
}

eventually() {
	tries=$(($1 * 20))
	shift
	until "$@"; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.05
	done
}

on_exit() {
	exit_commands="$1
$exit_commands"
}

run_exit_commands() {
	code=$?
	trap - EXIT
	eval "$exit_commands"
	exit "$code"
}
# A signal ends the test through the same door.
trap run_exit_commands EXIT
trap 'exit 1' HUP INT TERM

finish() {
	ktap_finished
}

member() {
	echo "$devices/p$1m$2"
}

members() {
	echo "$(member "$1" 0) $(member "$1" 1) $(member "$1" 2)"
}

# In the guest the module is a file of the initramfs; elsewhere it is installed, or loaded already.
load_module() {
	[ -d /sys/module/dm_lease ] && return 0
	if [ -e /usr/lib/rig/modules/dm_lease.ko ]; then
		insmod /usr/lib/rig/modules/dm_lease.ko "$@"
	else
		modprobe dm_lease "$@"
	fi
}

# <portion> <member>/<members> <role> <epoch> <owner> <lease_ms_left> <heartbeat_seq> <open>/<limit>
# <pending> <refused> <late> <members_ok> <reason>, after dm's own <start> <length> lease
field() {
	case $2 in
	portion) n=4 ;; member) n=5 ;; role) n=6 ;; epoch) n=7 ;; owner) n=8 ;; left_ms) n=9 ;;
	heartbeat) n=10 ;; permits) n=11 ;; pending) n=12 ;; refused) n=13 ;; late) n=14 ;;
	members_ok) n=15 ;; reason) n=16 ;;
	*) echo "field: there is no '$2'" >&2; return 2 ;;
	esac
	dmsetup status "$1" --noflush | cut -d ' ' -f "$n"
}
