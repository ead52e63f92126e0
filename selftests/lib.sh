# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Functions that the selftests of dm-lease share. A test begins with `. ./lib.sh`.
#
# Cases. The name of a case is a whole statement that names its subject. The report adds the topic of
# the test, which it takes from the file name: `ok 12 lapse: controller 2 owns epoch 2`.
#
#   plan N                      announces N cases
#   check TEXT COMMAND...       a case that passes if the command succeeds
#   check_fails TEXT COMMAND... a case that passes if the command fails
#   check_equal TEXT A B        a case that passes if A, the expected string, and B are equal
#   require TEXT COMMAND...     as `check`, but a failure ends the test: later cases depend on it
#   eventually S COMMAND...     repeats the command until it succeeds; fails after 20 attempts for
#                               each of S seconds
#   fails COMMAND...            succeeds if the command fails
#   print_note TEXT...          adds a line to the report
#   skip_all TEXT...            ends the test as skipped, for this reason. In the runs of this
#                               project a skipped test counts as failed
#   on_exit COMMAND             runs the command when the test ends, also by a signal. The command
#                               that was added last runs first
#   finish                      ends the test with its verdict
#
# Portions. Portion P is 0 (named alpha) or 1 (named beta). It has members M = 0, 1, 2.
#
#   load_module [PARAMETER...]  loads dm_lease unless it is loaded
#   member P M                  prints the device of one member
#   members P                   prints the devices of all members
#   format_portion P OPTION...  runs `leasectl format`; without other options the portion is for
#                               controllers 1-3, with leases of 2 s and the redundancy `external`,
#                               which has no limit
#   make_path C P M             creates the path of controller C to a member (see below)
#   map_portion C P [OPTION...] maps the portion for controller C; options as of `leasectl table`
#   map_as_owner C P [OPTION...] as `map_portion`, and waits until C owns the portion
#   unmap_portion C P           removes the mapped devices and the paths of controller C
#   send_message C P WORD...    sends a message to a mapped device of controller C
#   clean_up                    removes all devices of device-mapper and unloads the module
#
# Status.
#
#   status_field NAME FIELD     prints one field of the status of the mapped device NAME
#   status_field_is NAME FIELD VALUE   succeeds if the field has the value
#   role_is C P ROLE            succeeds if controller C has the role in the portion
#   reason_is C P REASON        succeeds if its status has the reason
#   heartbeats_written C P      prints how many heartbeat records C has written, as member 0 shows
#   has_written_more_than N C P succeeds if C has written more than N heartbeat records
#
# Faults. Held I/O hangs below the gate until it is resumed.
#
#   hold_mailboxes C P          holds the mailbox I/O of C at two of three members: an owner
#                               loses its lease
#   resume_mailboxes C P        lets this I/O continue
#   hold_data C P M             holds the data I/O of C at a member
#   resume_data C P M           lets this I/O continue
#
# The kernel's log.
#
#   mark_log                    writes a mark into the log
#   log_since_mark              prints the log behind the last mark
#   log_has TEXT                succeeds if the log has the text behind the last mark
#   expect_warning TEXT         announces one line of the module, at level warning or above, that has
#                               the text. The run fails if the line does not come, or if such a line
#                               comes without an announcement
#
# Each controller reaches each member by a path of its own. A path has one part for mailboxes and one
# for data. So a test can hold the mailbox I/O or the data I/O of one controller. The devices of a
# path, from top to bottom:
#
#   pPmMcC   the mapped device of controller C: the target lease on pPmMwC (p0m1c2: portion 0,
#            member 1, controller 2)
#   pPmMwC   the path: the target linear on pPmMhC and pPmMdC
#   pPmMhC   the part for mailboxes: the whole member, of which the path uses head and tail
#   pPmMdC   the part for data: the whole member, of which the path uses the rest
#
# The members are the devices p0m0..p0m2 and p1m0..p1m2 in /dev/lease/, where qemu/ links disks by
# their serial numbers. scsi0, nvme0 and four0 (with sectors of 4096 bytes) are there, too. The
# variable LEASE_DEVICES names another directory.

KTAP_HELPERS=${KTAP_HELPERS:-../kselftest/ktap_helpers.sh}
# shellcheck source=/dev/null
. "$KTAP_HELPERS"

# A small guest has no udev, and libdevmapper would wait for it.
[ -S /run/udev/control ] || export DM_DISABLE_UDEV=1

devices=${LEASE_DEVICES:-/dev/lease}
# The Makefile builds the test programs in tools/. A guest has them in its PATH already.
PATH=$PATH:$PWD/tools
exit_commands=

# The topic of 04-lapse.sh is `lapse`.
topic=${0##*/}
topic=${topic#*-}
topic=${topic%.sh}

plan() {
	ktap_print_header
	ktap_set_plan "$1"
}

print_note() {
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
		ktap_test_pass "$topic: $text"
	else
		ktap_test_fail "$topic: $text"
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

require() {
	text=$1
	shift
	if "$@"; then
		ktap_test_pass "$topic: $text"
	else
		ktap_test_fail "$topic: $text"
		exit 1
	fi
}

check_equal() {
	[ "$2" = "$3" ] || print_note "$1: expected '$2', got '$3'"
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
trap run_exit_commands EXIT
# A signal runs the exit commands, too.
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

# A guest of the rig has the module as a file; on another machine it is installed.
load_module() {
	[ -d /sys/module/dm_lease ] && return 0
	if [ -e /usr/lib/rig/modules/dm_lease.ko ]; then
		insmod /usr/lib/rig/modules/dm_lease.ko "$@"
	else
		modprobe dm_lease "$@"
	fi
}

# A line of `dmsetup status`: dm core prints <start> <length> lease, and the target
# <portion> <member>/<members> <role> <epoch> <owner> <lease_ms_left> <heartbeat_seq> <open>/<limit>
# <pending> <refused> <late> <members_ok> <reason> <charged> <peak> <degraded>.
status_field() {
	case $2 in
	portion) n=4 ;; member) n=5 ;; role) n=6 ;; epoch) n=7 ;; owner) n=8 ;; left_ms) n=9 ;;
	heartbeat) n=10 ;; permits) n=11 ;; pending) n=12 ;; refused) n=13 ;; late) n=14 ;;
	members_ok) n=15 ;; reason) n=16 ;; charged) n=17 ;; peak) n=18 ;;
	degraded) n=19 ;;
	*) echo "status_field: the status has no field '$2'" >&2; return 2 ;;
	esac
	dmsetup status "$1" --noflush | cut -d ' ' -f "$n"
}

status_field_is() {
	[ "$(status_field "$1" "$2")" = "$3" ]
}

format_portion() {
	portion=$1
	shift
	name=alpha
	[ "$portion" = 0 ] || name=beta
	for default in --redundancy=external --lease-ms=2000 --controllers=1-3; do
		case " $* " in
		*" ${default%=*} "*) ;;
		*) set -- "$default" "$@" ;;
		esac
	done
	# shellcheck disable=SC2046 # names of devices have no blanks
	leasectl format --force=member,signature,redundancy --name "$name" --device-delay-ms 100 \
		--heartbeat-ms 100 "$@" $(members "$portion") >/dev/null
}

# A test may already have created the device for the mailboxes or for the data, with another target.
make_path() {
	device=$(member "$2" "$3") name=p$2m$3
	[ ! -e "/dev/mapper/${name}w$1" ] || return 0
	size=$(blockdev --getsz "$device")
	for part in h d; do
		[ -e "/dev/mapper/$name$part$1" ] ||
			dmsetup create "$name$part$1" --table "0 $size linear $device 0" || return 1
	done
	# In sectors: the head of a member is 8 MiB long, its tail 8 MiB + 4 KiB.
	tail=$((size - 16392))
	dmsetup create "${name}w$1" <<-END
		0 16384 linear /dev/mapper/${name}h$1 0
		16384 $((tail - 16384)) linear /dev/mapper/${name}d$1 16384
		$tail 16392 linear /dev/mapper/${name}h$1 $tail
	END
}

map_portion() {
	controller=$1 portion=$2
	shift 2
	for index in 0 1 2; do
		make_path "$controller" "$portion" $index || return 1
		line=$(leasectl table --controller "$controller" "$@" \
			"/dev/mapper/p${portion}m${index}w$controller") || return 1
		dmsetup create "p${portion}m${index}c$controller" --table "$line" || return 1
	done
}

map_as_owner() {
	map_portion "$@" && eventually 60 role_is "$1" "$2" owner
}

unmap_portion() {
	for part in c w h d; do
		for index in 0 1 2; do
			dmsetup remove --retry "p$2m$index$part$1" || return 1
		done
	done
}

send_message() {
	controller=$1 portion=$2
	shift 2
	dmsetup message "p${portion}m0c$controller" 0 "$@"
}

role_is() {
	status_field_is "p$2m0c$1" role "$3"
}

reason_is() {
	status_field_is "p$2m0c$1" reason "$3"
}

heartbeats_written() {
	leasectl show "$(member "$2" 0)" |
		sed -n "s/^  controller $1: .*heartbeat [0-9]* (write \([0-9]*\)).*/\1/p"
}

has_written_more_than() {
	count=$(heartbeats_written "$2" "$3")
	[ "${count:-0}" -gt "$1" ]
}

# An owner whose mailbox I/O is held, or was held for long, will lose its lease.
expect_demotion_of_owner() {
	role_is "$1" "$2" owner && expect_warning "controller $1: owner -> secondary"
}

hold_mailboxes() {
	expect_demotion_of_owner "$1" "$2"
	for index in 1 2; do
		dmsetup suspend --noflush --nolockfs "p$2m${index}h$1" || return 1
	done
}

resume_mailboxes() {
	expect_demotion_of_owner "$1" "$2"
	for index in 1 2; do
		dmsetup resume "p$2m${index}h$1" || return 1
	done
}

hold_data() {
	dmsetup suspend --noflush --nolockfs "p$2m$3d$1"
}

resume_data() {
	dmsetup resume "p$2m$3d$1"
}

# Without this setting the kernel drops messages of programs that write many of them.
echo on >/proc/sys/kernel/printk_devkmsg
echo "dm-lease selftest $$: begins" >/dev/kmsg

marks=0
mark_log() {
	marks=$((marks + 1))
	echo "dm-lease selftest $$: mark $marks" >/dev/kmsg
}

log_since_mark() {
	dmesg | sed "1,/selftest $$: mark $marks\$/d"
}

log_has() {
	log_since_mark | grep -qF -- "$*"
}

# qemu/rig/console.py reads these announcements.
expect_warning() {
	echo "dm-lease selftest $$: provokes $*" >/dev/kmsg
}

# Held I/O would keep the devices above it from being removed.
clean_up() {
	for name in $(dmsetup ls | sed -n 's/^\(p[0-9]m[0-9][hd][0-9]\)[ \t].*/\1/p'); do
		dmsetup resume "$name"
	done
	for name in $(dmsetup ls | sed -n 's/^\(p[0-9]m[0-9]c[0-9]\)[ \t].*/\1/p'); do
		dmsetup remove --retry "$name"
	done
	dmsetup remove_all
	rmmod dm_lease 2>/dev/null
}
