# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the measurements in this folder are written with. Sourced in the guest.
# Prints lines for ../report, fields separated by tabs; the first names the kind.

# shellcheck source=test/vm/lib.sh
. /dmloop/vm/lib.sh

# shellcheck disable=SC2034 # for the script that sources this file
clock=${DMLOOP_BENCH_CLOCK:?}
# The clock that counts leaps on while all there is to do is to wait for the host's disk.
[ "$clock" != icount ] || export DMLOOP_TIME_FACTOR=100
rounds=${DMLOOP_BENCH_ROUNDS:-3}
dir=/mnt/bench
image=$dir/image
# Of the device, where it is one of device-mapper.
device_name=bench
# All devices have the same; in file mode they are ordinary ones of 512 bytes.
sector=4096
attached=
mounted=
mkdir -p "$dir"
trap 'err_trap $? "$BASH_COMMAND"; tail -n 5 /tmp/fio.* 2>/dev/null' ERR

emit()
{
	local IFS=$'\t'
	printf '%s\n' "$*"
}

# null_disks N GIB WRITTEN [OPTIONS...]: /dev/nullb0... in memory, the first WRITTEN GiB written
# once, as a page that null_blk allocates at the first touch would cost more than the path.
null_disks()
{
	local n=$1 gib=$2 written=$3 i
	shift 3
	modprobe -r null_blk
	modprobe null_blk nr_devices="$n" gb="$gib" bs=$sector memory_backed=1 queue_mode=2 irqmode=0 "$@"
	for ((i = 0; i < n; i++)); do
		check_device "/dev/nullb$i"
		dd if=/dev/zero of="/dev/nullb$i" bs=1M oflag=direct status=none count=$((written * 1024))
	done
}

# It must be a device, or fio makes a file of that name.
check_device()
{
	[ -b "$1" ] || fail "$1 is no block device"
	[ "$(blockdev --getss "$1")" = $sector ] || fail "$1 has sectors of $(blockdev --getss "$1")"
}

# new_fs TYPE [DEVICE]: a new filesystem in $dir. No discard: it would take the pages of null_blk away.
new_fs()
{
	local options=()
	[ -z "$mounted" ] || umount "$dir"
	case $1 in
	ext4 | xfs) sector=4096 ;;
	*) sector=512 ;;
	esac
	case $1 in
	tmpfs)
		mount -t tmpfs -o size=1G tmpfs "$dir"
		;;
	*)
		case $1 in
		ext4) options=(-E 'nodiscard,lazy_itable_init=0,lazy_journal_init=0') ;;
		btrfs) options=(-K) ;;
		esac
		make_fs "$1" "$2" "${options[@]}"
		mount -t "$1" "$2" "$dir"
		;;
	esac
	mounted=1
}

drop_image()
{
	detach
	rm -f "$image" "$image.origin"
	drop_caches
}

# fresh_image ALLOCATION MIB: sparse, fallocated, written (by dd; nocow: without checksums on
# btrfs), shared (a clone of a written one, which is kept), or prepared (by dmlosetup).
fresh_image()
{
	drop_image
	if [ "$1" = nocow ]; then
		touch "$image"
		chattr +C "$image"
	fi
	case $1 in
	sparse) truncate -s "$2M" "$image" ;;
	fallocated) fallocate -l "$2M" "$image" ;;
	written | nocow) dd if=/dev/zero of="$image" bs=1M count="$2" conv=fsync status=none ;;
	shared)
		dd if=/dev/zero of="$image.origin" bs=1M count="$2" conv=fsync status=none
		cp --reflink=always "$image.origin" "$image"
		;;
	prepared) dmlosetup --prepare "$image" --size "$2M" >/dev/null 2>&1 ;;
	esac
	drop_caches
}

detach()
{
	case $attached in
	'') ;;
	dm-loop | unshare) dmsetup remove "$device_name" ;;
	*) losetup -d "$dev" ;;
	esac
	attached=
}

# attach WHO: the image as $dev.
attach()
{
	local dio=off options=()
	case $1 in
	dm-loop | unshare)
		read -r -a options <<<"${DMLOOP_BENCH_OPTIONS:-}"
		[ "$1" = dm-loop ] || options+=(unshare)
		dev=$(loop_dev "$device_name" "$image" 0 ${options[@]+"${options[@]}"})
		;;
	loop | loop-dio)
		[ "$1" = loop ] || dio=on
		dev=$(losetup --sector-size $sector --direct-io=$dio -f --show "$image")
		# Where the file cannot do it, the driver does not complain.
		case $dio$(<"/sys/block/${dev##*/}/loop/dio") in
		off0 | on1) ;;
		*) fail "$1 is not direct-io=$dio" ;;
		esac
		;;
	esac
	attached=$1
	[[ "$1" = loop* ]] || check_mode "$1"
	# In file mode the device has sectors of 512 bytes, wherever the file is.
	[[ "$1" != loop* && "$(status_field "$device_name" mode)" = file ]] || check_device "$dev"
}

# check_mode WHO: what is measured is what is said to be: mapped on ext4 and xfs, but for a clone
check_mode()
{
	local wanted='file' mode
	mode=$(status_field "$device_name" mode)
	[[ "$(stat -f -c %T "$dir")" != @(ext2/ext3|xfs) ]] || wanted=mapped
	[ "$1" = unshare ] || [ ! -e "$image.origin" ] || wanted='file'
	[ "$mode" = $wanted ] || fail "$image: mode $mode"
}

# measure CASE WHO ROUND TARGET FIO-OPTIONS...: run fio, and tell what it took.
measure()
{
	local case=$1 who=$2 round=$3 target=$4 took status='-'
	shift 4
	fio --output-format=json --output=/tmp/fio.json --name=bench --filename="$target" \
		--direct=1 --ioengine=libaio "$@" >/tmp/fio.log 2>&1
	took=$(jq -r '.jobs[0] | (.read, .write) | select(.total_ios > 0) | "\(.runtime) \(.total_ios) \(.io_bytes)"' /tmp/fio.json)
	[[ "$attached" == @(|loop*) ]] || status=$(dmsetup status "$device_name")
	# shellcheck disable=SC2086 # three words: milliseconds, I/Os, bytes
	emit sample "$case" "$who" "$round" $took "$status"
}

# wanted CASE: was it asked for? C is a list of shell patterns with commas between.
wanted()
{
	local glob globs
	[ -n "${DMLOOP_BENCH_CASES:-}" ] || return 0
	IFS=, read -r -a globs <<<"$DMLOOP_BENCH_CASES"
	for glob in "${globs[@]}"; do
		# shellcheck disable=SC2053 # a pattern it is
		[[ "$1" != $glob ]] || return 0
	done
	return 1
}

# compare CASE FUNCTION WHO...: all of them, interleaved; each run is "FUNCTION CASE WHO ROUND".
# To and fro, so that it is not always the same one that comes first.
compare()
{
	local case=$1 function=$2 round who whos back
	shift 2
	emit note "$case"
	whos=("$@")
	for ((round = 1; round <= rounds; round++)); do
		back=()
		for who in "${whos[@]}"; do
			"$function" "$case" "$who" "$round"
			back=("$who" "${back[@]}")
		done
		whos=("${back[@]}")
	done
}

# target CASE A B RATIO: A shall be so many times as fast as B.
target()
{
	emit target "$@"
}

# ratio CASE A B: how many times as fast A is as B; no target
ratio()
{
	emit target "$@"
}

# Khugepaged would come along now and then, and be counted.
echo never >/sys/kernel/mm/transparent_hugepage/enabled

modprobe dm-loop
emit kernel "$(uname -r)" "$(sha256sum "$(modinfo -n dm-loop)" | cut -c1-8)"
