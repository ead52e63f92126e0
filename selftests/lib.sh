# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What all selftests of dm-lease share; a test begins with `. ./lib.sh`.
#
#   plan N                      N cases follow
#   check TEXT COMMAND...       a case: passes if the command succeeds
#   check_fails TEXT COMMAND... a case: passes if it fails
#   check_equal TEXT A B        a case: passes if the strings are equal
#   need TEXT COMMAND...        a case without which the others mean nothing: it ends the test
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
#   format P OPTION...          formats portion P, `alpha` (0) or `beta` (1), for controllers 1-3,
#                               with leases of 2 s and no redundancy unless an option says so
#   up C P [OPTION...]          maps portion P for controller C, with options of leasectl table
#   down C P                    removes that
#   owner C P                   the same as `up`, and waits until C owns P
#   is C P ROLE                 whether the role is that; `reason_is C P REASON` likewise
#   stall C P                   holds what C sends to the mailboxes of two of the members of P, so
#                               that C loses P if it owns it
#   unstall C P                 lets it go on
#   hold C P M                  holds what C sends to the data of a member
#   let_go C P M                lets it go on
#   beats C P                   how many heartbeat records C has written, as the disk says
#   after N C P                 whether that is more than N
#   tell C P WORD...            sends a message
#   mark                        what `said` looks for begins here
#   said TEXT                   whether the kernel's log has TEXT since the mark
#   provokes TEXT               the module will say this once above notice level; whatever else it
#                               says there, and its silence, are failures of the run
#   clean_up                    removes all of it and unloads the module
#
# Controller C reaches member M of portion P by a path of its own, the linear device pPmMwC, and
# maps it as pPmMcC. The path has two parts, pPmMhC for mailboxes and pPmMdC for data. So each of
# several controllers in one kernel can be stalled alone, and its heartbeats or its data alone.
#
# Devices come from /dev/lease/, where qemu/ links them by serial number: p0m0..p0m2 and p1m0..p1m2
# (portions), scsi0, nvme0, four0 (4096-byte sectors). LEASE_DEVICES names another directory.

KTAP_HELPERS=${KTAP_HELPERS:-../kselftest/ktap_helpers.sh}
# shellcheck source=/dev/null
. "$KTAP_HELPERS"

# Libdevmapper waits for a udev that a small guest does not have.
[ -S /run/udev/control ] || export DM_DISABLE_UDEV=1

devices=${LEASE_DEVICES:-/dev/lease}
# Where the makefile leaves bio and reseal; in the guest they are installed.
PATH=$PATH:$PWD/tools
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

need() {
	text=$1
	shift
	if "$@"; then
		ktap_test_pass "$text"
	else
		ktap_test_fail "$text"
		exit 1
	fi
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
# <pending> <refused> <late> <members_ok> <reason> <charged> <peak> <degraded>, after dm's own
# <start> <length> lease
field() {
	case $2 in
	portion) n=4 ;; member) n=5 ;; role) n=6 ;; epoch) n=7 ;; owner) n=8 ;; left_ms) n=9 ;;
	heartbeat) n=10 ;; permits) n=11 ;; pending) n=12 ;; refused) n=13 ;; late) n=14 ;;
	members_ok) n=15 ;; reason) n=16 ;; charged) n=17 ;; peak) n=18 ;;
	degraded) n=19 ;;
	*) echo "field: there is no '$2'" >&2; return 2 ;;
	esac
	dmsetup status "$1" --noflush | cut -d ' ' -f "$n"
}

format() {
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
	# shellcheck disable=SC2046 # devices have no blanks
	leasectl format --force=member,signature,redundancy --name "$name" --device-delay-ms 100 --heartbeat-ms 100 "$@" \
		$(members "$portion") >/dev/null
}

# The path of controller $1 to member $3 of portion $2.
way() {
	device=$(member "$2" "$3") name=p$2m$3
	[ ! -e "/dev/mapper/${name}w$1" ] || return 0
	size=$(blockdev --getsz "$device")
	for part in h d; do
		[ -e "/dev/mapper/$name$part$1" ] ||
			dmsetup create "$name$part$1" --table "0 $size linear $device 0" || return 1
	done
	# The first and the last 8 MiB are not data.
	tail=$((size - 16392))
	dmsetup create "${name}w$1" <<-END
		0 16384 linear /dev/mapper/${name}h$1 0
		16384 $((tail - 16384)) linear /dev/mapper/${name}d$1 16384
		$tail 16392 linear /dev/mapper/${name}h$1 $tail
	END
}

up() {
	controller=$1 portion=$2
	shift 2
	for index in 0 1 2; do
		way "$controller" "$portion" $index || return 1
		line=$(leasectl table --controller "$controller" "$@" \
			"/dev/mapper/p${portion}m${index}w$controller") || return 1
		dmsetup create "p${portion}m${index}c$controller" --table "$line" || return 1
	done
}

down() {
	for part in c w h d; do
		for index in 0 1 2; do
			dmsetup remove --retry "p$2m$index$part$1" || return 1
		done
	done
}

owner() {
	up "$@" && eventually 60 is "$1" "$2" owner
}

is() {
	[ "$(field "p$2m0c$1" role)" = "$3" ]
}

reason_is() {
	[ "$(field "p$2m0c$1" reason)" = "$3" ]
}

stall() {
	is "$1" "$2" owner && provokes "controller $1: owner -> secondary"
	for index in 1 2; do
		dmsetup suspend --noflush --nolockfs "p$2m${index}h$1" || return 1
	done
}

unstall() {
	is "$1" "$2" owner && provokes "controller $1: owner -> secondary"
	for index in 1 2; do
		dmsetup resume "p$2m${index}h$1" || return 1
	done
}

hold() {
	dmsetup suspend --noflush --nolockfs "p$2m$3d$1"
}

let_go() {
	dmsetup resume "p$2m$3d$1"
}

beats() {
	leasectl show "$(member "$2" 0)" |
		sed -n "s/^  controller $1: .*heartbeat [0-9]* (write \([0-9]*\)).*/\1/p"
}

after() {
	count=$(beats "$2" "$3")
	[ "${count:-0}" -gt "$1" ]
}

tell() {
	controller=$1 portion=$2
	shift 2
	dmsetup message "p${portion}m0c$controller" 0 "$@"
}

marks=0
mark() {
	marks=$((marks + 1))
	echo "dm-lease selftest $$: mark $marks" >/dev/kmsg
}
# The log must not lose a mark.
echo on >/proc/sys/kernel/printk_devkmsg
echo "dm-lease selftest $$: begins" >/dev/kmsg

provokes() {
	echo "dm-lease selftest $$: provokes $*" >/dev/kmsg
}

said() {
	dmesg | sed "1,/selftest $$: mark $marks\$/d" | grep -qF -- "$*"
}

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
