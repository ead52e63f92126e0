#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The reservation commands of src/dm, tested by the target example_reserve on a namespace of nvmet.
# Two hosts are connected to the namespace through the loop transport, host 1 with the key 11 and
# host 2 with the key 22. An evicted host cannot write until it registers again [R48].

. ./lib.sh
plan 88

work=$(mktemp -d)
config=/sys/kernel/config/nvmet
subsystem=$config/subsystems/dm-lease-reserve
port=$config/ports/21
# The numbers of `enum pr_type`: write exclusive, registrants only, all registrants.
we=1 wero=3 wear=5

# With multipath both hosts would be paths to one disk.
multipath=/sys/module/nvme_core/parameters/multipath
modprobe -a nvme-loop nvmet || skip_all "no nvme-loop"
modprobe loop || skip_all "no loop device"
[ -d $config ] || mount -t configfs config /sys/kernel/config
[ ! -e $multipath ] || [ "$(cat $multipath)" = N ] || skip_all "nvme_core needs multipath=N"
modprobe null_blk nr_devices=0 || skip_all "no null_blk"
null=$config/../nullb/reserve_null

clean_up_reservations() {
	dmsetup resume reserve_store 2>/dev/null
	for name in host1 host2 small hang above below; do
		dmsetup remove --retry $name 2>/dev/null
	done
	disconnect 2>/dev/null
	rm -f $port/subsystems/dm-lease-reserve
	rmdir $port $subsystem/namespaces/1 $subsystem 2>/dev/null
	dmsetup remove --retry reserve_store 2>/dev/null
	rmdir "$null" 2>/dev/null
	rmmod dm_example_reserve 2>/dev/null
	rm -rf "$work"
}
on_exit clean_up_reservations

load_example() {
	if [ -e /usr/lib/rig/modules/dm_example_reserve.ko ]; then
		insmod /usr/lib/rig/modules/dm_example_reserve.ko
	else
		modprobe dm_example_reserve
	fi
}

# export_store: makes a namespace with reservations of the device reserve_store
export_store() {
	mkdir $subsystem && echo 1 >$subsystem/attr_allow_any_host && mkdir $subsystem/namespaces/1 &&
		echo /dev/mapper/reserve_store >$subsystem/namespaces/1/device_path &&
		echo 1 >$subsystem/namespaces/1/resv_enable && echo 1 >$subsystem/namespaces/1/enable &&
		mkdir $port && echo loop >$port/addr_trtype && ln -s $subsystem $port/subsystems/
}

# host_nqn HOST: prints the name of a host
host_nqn() {
	echo "nqn.2014-08.org.nvmexpress:uuid:5e0d7f3c-2a51-4a6b-9d1e-00000000000$1"
}

connect() {
	nqn=$(host_nqn "$1")
	echo "transport=loop,nqn=dm-lease-reserve,hostnqn=$nqn,hostid=${nqn##*uuid:}" \
		>/dev/nvme-fabrics
}

# Disconnects both hosts.
disconnect() {
	for controller in /sys/class/nvme/nvme*; do
		[ "$(cat "$controller/subsysnqn")" != dm-lease-reserve ] ||
			echo 1 >"$controller/delete_controller"
	done
}

# disk HOST: prints the disk through which a host reaches the namespace
disk() {
	for controller in /sys/class/nvme/nvme*; do
		[ "$(cat "$controller/hostnqn" 2>/dev/null)" = "$(host_nqn "$1")" ] || continue
		for namespace in "$controller"/nvme*n*; do
			[ ! -b "/dev/${namespace##*/}" ] || echo "/dev/${namespace##*/}"
		done
	done
}

has_disk() {
	[ -n "$(disk "$1")" ]
}

# create NAME DEVICE [KEYS [MILLISECONDS]]: creates a target on a device
create() {
	echo "0 2048 example_reserve $2 ${3:-8} ${4:-20000}" | dmsetup create "$1" 2>"$work/error"
}

# Another test may have loaded null_blk, so the device is made through configfs.
make_null() {
	mkdir "$null" && echo 64 >"$null/size" && echo 1 >"$null/power"
}

# refused MESSAGE DEVICE [KEYS]: succeeds if the constructor fails and the log has the message
refused() {
	mark_log
	! create refused "$2" "${3:-8}" && log_has "$1"
}

# send NAME WORD...: sends a command and prints the answer
send() {
	name=$1
	shift
	dmsetup message "$name" 0 "$@"
}

# keys NAME: prints the number of registrations and the keys
keys() {
	send "$1" keys | cut -d ' ' -f 1,3-
}

# reservation NAME: prints `none`, or the type of the reservation
reservation() {
	send "$1" reservation | cut -d ' ' -f 1,2
}

# write_block HOST: writes a block as a host
write_block() {
	dd if=/dev/zero of="$(disk "$1")" bs=4096 count=1 oflag=direct 2>"$work/error"
}

# write_conflicts HOST: succeeds if a write fails with EBADE, the errno of a conflict
write_conflicts() {
	! write_block "$1" && grep -q "Invalid exchange" "$work/error"
}

# make_partition DISK: makes a partition of 1 MiB by a partition table of MS-DOS
make_partition() {
	printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\010\0\0' >"$work/entry"
	dd if="$work/entry" of="$1" bs=1 seek=446 conv=notrunc 2>"$work/error" &&
		printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc 2>"$work/error" &&
		blockdev --rereadpt "$1"
}

remove_partition() {
	dd if=/dev/zero of="$1" bs=512 count=1 conv=notrunc,fsync 2>"$work/error" &&
		blockdev --rereadpt "$1"
}

# Succeeds if a write of host 1 is under way.
write_is_under_way() {
	[ "$(awk '{ print $2 }' "/sys/block/$(basename "$(disk 1)")/inflight")" -ge 1 ]
}

require "the example of reservations loads" load_example

# Devices that are refused.
check "virtio-blk has no reservations" refused "Device has no reservations" "$(member 0 1)"
require "a null_blk device is made" make_null
check "null_blk has no reservations" refused "Device has no reservations" /dev/reserve_null
truncate -s 4M "$work/image"
losetup /dev/loop0 "$work/image"
check "loop has no reservations" refused "Device has no reservations" /dev/loop0
losetup -d /dev/loop0
nvme_disk=$(readlink -f "${LEASE_DEVICES:-/dev/lease}/nvme0")
scsi_disk=$(readlink -f "${LEASE_DEVICES:-/dev/lease}/scsi0")
require "an NVMe disk gets a partition" make_partition "$nvme_disk"
check "a partition is refused" refused "Device is a partition" "${nvme_disk}p1"
check "the partition is removed" remove_partition "$nvme_disk"
check "a list without room for a key is refused" refused "Cannot start worker" "$nvme_disk" 0

# Devices that have the functions, but do not support the commands.
check "the whole NVMe disk is accepted" create small "$nvme_disk"
check_equal "a command to an NVMe device without reservations is answered as unsupported" \
	unsupported "$(send small register 0 11)"
dmsetup remove small
check "a SCSI disk is accepted" create small "$scsi_disk"
# sd hides the reason.
check_equal "a command to a SCSI device without reservations is in doubt" "doubt 2" \
	"$(send small register 0 11)"
dmsetup remove small

# Two hosts.
size=$(blockdev --getsz "$(member 0 0)")
dmsetup create reserve_store --table "0 $size linear $(member 0 0) 0"
require "nvmet exports a namespace with reservations" export_store
require "host 1 connects" connect 1
require "host 2 connects" connect 2
require "host 1 has a disk" eventually 30 has_disk 1
require "host 2 has a disk" eventually 30 has_disk 2
require "a target is created on the disk of host 1" create host1 "$(disk 1)"
require "a target is created on the disk of host 2" create host2 "$(disk 2)"

check_equal "no key is registered at first" "keys 0" "$(keys host1)"
check_equal "no reservation is held at first" none "$(send host1 reservation)"
check_equal "a host that is not registered cannot reserve" conflict "$(send host1 reserve 11 $wear)"
check_equal "host 1 registers" good "$(send host1 register 0 11)"
check_equal "a registration without the old key is refused" conflict "$(send host1 register 0 12)"
check_equal "a registration with a wrong old key is refused" conflict \
	"$(send host1 register 10 12)"
check_equal "READ KEYS lists the key of host 1" "keys 1 11" "$(keys host2)"
check "host 2 writes while no reservation is held" write_block 2
check_equal "host 1 reserves for all registrants" good "$(send host1 reserve 11 $wear)"
check_equal "READ RESERVATION names the type" "held $wear" "$(reservation host2)"
check_equal "READ RESERVATION names a holder" 11 "$(send host2 reservation | cut -d ' ' -f 3)"
check "host 1 writes" write_block 1
check "a write of host 2, which is not registered, conflicts" write_conflicts 2
check_equal "host 2 registers" good "$(send host2 register 0 22)"
check "host 2 writes when it is registered" write_block 2
check_equal "nvmet refuses RESERVE of a host that did not make the reservation" conflict \
	"$(send host2 reserve 22 $wear)"
check_equal "READ KEYS lists both keys" "keys 2 11 22" "$(keys host1)"
generation=$(send host1 keys | cut -d ' ' -f 2)
check "a list with room for one key is created" create small "$(disk 1)" 1
check_equal "a list that is too short says so" "keys $generation 2 11 and more" "$(send small keys)"
dmsetup remove small

# Preempt. The keys show in which order the driver sends its arguments.
check_equal "a preempt by a key that is not the own one is refused" conflict \
	"$(send host2 preempt 11 22 $wear)"
check_equal "a preempt of a key that is not registered is refused" conflict \
	"$(send host2 preempt 22 33 $wear)"
check_equal "host 2 preempts host 1" good "$(send host2 preempt 22 11 $wear)"
check_equal "the preempt has removed the key of the victim" "keys 1 22" "$(keys host1)"
check "the generation has changed" [ "$(send host1 keys | cut -d ' ' -f 2)" -gt "$generation" ]
check_equal "the reservation remains" "held $wear" "$(reservation host1)"
check "a write of the evicted host conflicts" write_conflicts 1
check "host 2 still writes" write_block 2
check_equal "host 1 registers again" good "$(send host1 register 0 11)"
check "host 1 writes again" write_block 1
check_equal "host 1 replaces its key" good "$(send host1 register 11 12)"
check_equal "host 2 preempts with abort" good "$(send host2 abort 22 12 $wear)"
check_equal "the preempt with abort has removed the key" "keys 1 22" "$(keys host2)"

# Release and clear.
check_equal "a release with another type is refused" conflict "$(send host2 release 22 $we)"
check_equal "host 2 releases the reservation" good "$(send host2 release 22 $wear)"
check_equal "no reservation is held after the release" none "$(send host2 reservation)"
check_equal "host 2 reserves with another type" good "$(send host2 reserve 22 $wero)"
check_equal "READ RESERVATION names the other type" "held $wero" "$(reservation host1)"
check_equal "host 2 unregisters" good "$(send host2 register 22 0)"
check_equal "nvmet keeps a registration with the key 0" "keys 1 0" "$(keys host1)"
check_equal "host 1 registers beside the registration with the key 0" good \
	"$(send host1 register 0 11)"
check_equal "host 1 clears all registrations" good "$(send host1 clear 11)"
check_equal "no key is registered after the clear" "keys 0" "$(keys host1)"

# Through device-mapper.
size=$(blockdev --getsz "$(disk 2)")
dmsetup create below --table "0 $size linear $(disk 2) 0"
require "a mapped device is accepted" create above /dev/mapper/below
check_equal "host 2 registers through the mapped device" good "$(send above register 0 22)"
check_equal "the disk below has the key" "keys 1 22" "$(keys host2)"
check_equal "an abort is refused, because dm core would drop it" unsupported \
	"$(send above abort 22 11 $wear)"
dmsetup load below --table "0 $size error"
dmsetup suspend --noflush --nolockfs below
check_equal "a command to a suspended mapped device is in doubt" "doubt -11" \
	"$(send above register 22 23)"
dmsetup resume below
check_equal "dm core reports success without a device below" good "$(send above register 22 23)"
check_equal "READ KEYS without a device below is in doubt" "doubt 0" "$(send above keys)"
check_equal "nothing was registered without a device below" "keys 1 22" "$(keys host2)"
dmsetup remove above
dmsetup remove below

# A command that hangs: nvmet waits for a write of the victim.
check_equal "host 1 registers for a write that hangs" good "$(send host1 register 0 11)"
check_equal "host 1 reserves for a write that hangs" good "$(send host1 reserve 11 $wear)"
check "a target with a limit of one second is created" create hang "$(disk 2)" 8 1000
dmsetup suspend --noflush --nolockfs reserve_store
write_block 1 &
writer=$!
check "a write of host 1 hangs" eventually 20 write_is_under_way
mark_log
check_equal "an abort that hangs times out" timeout "$(send hang abort 22 11 $wear)"
check_equal "the command is still under way" busy "$(dmsetup status hang | cut -d ' ' -f 4)"
check_fails "another command is refused meanwhile" send hang keys 2>"$work/error"
dmsetup remove host1
dmsetup remove host2
check "the target is removed while its command hangs" timeout 60 dmsetup remove hang
check_fails "the module does not unload while a command hangs" \
	rmmod dm_example_reserve 2>"$work/error"
check_fails "the command has no answer yet" log_has "answer 1: "
dmsetup resume reserve_store
check "the write of host 1, which came first, succeeds" wait $writer
check "the answer is delivered after the target was removed" eventually 30 log_has "answer 1: good"
check "the module unloads after the answer" eventually 10 rmmod dm_example_reserve
check "a write of host 1 after the abort conflicts" write_conflicts 1
check "the example of reservations loads again" load_example

# A host without a path.
check "a target is created before host 2 is disconnected" create host2 "$(disk 2)"
check_equal "READ KEYS lists the key of host 2" "keys 1 22" "$(keys host2)"
disconnect
check_equal "a command without a path is in doubt" "doubt -19" "$(send host2 keys)"
dmsetup remove host2

finish
