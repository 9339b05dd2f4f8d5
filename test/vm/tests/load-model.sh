# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: threads compare a device on a sparse image with a model of it, also while the file is read
# LONG: two minutes of load
# TIMEOUT: 900

# shellcheck disable=SC2154 # state is set in lib.sh

# Two minutes in all; DMLOOP_SOAK is how many seconds it may be instead.
seconds=$((${DMLOOP_SOAK:-120} / 4))
[ -z "${DMLOOP_SOAK:-}" ] || note "soak: four times $seconds s"

phase()
{
	local seed said what
	random seed $((1 << 30))
	note "model, seed $seed $*"
	said=$(model run -s "$seed" -t "$seconds" -d 4096 "$@" /dev/mapper/disk "$state/model")
	note "$said"
	# Without them it has compared less than it is to.
	for what in '[0-9]* discards' '[0-9]* of what is being written' '[0-9]* flushes'; do
		matches "$what" "$said" "[ (][1-9]$what"
	done
	dmsetup status disk >&2
}

reader()
{
	while cat "$1" >/dev/null; do
		sleep 0.02
	done
}

load()
{
	local dir=$2 image=$2/image pid
	truncate -s 64M "$image"
	loop_dev disk "$image" >/dev/null
	same "mode" "$(status_field disk mode)" mapped
	same "sectors with data at first" "$(status_field disk mapped)" 0
	phase
	# On xfs who reads the file sees what was flushed, or written a second ago.
	sync /dev/mapper/disk
	check "the file, while it is attached" model check "$image" "$state/model"

	# Pages of the file come and go while it is written through the device.
	reader "$image" &
	pid=$!
	phase -c -h 8
	kill "$pid"
	wait "$pid" || true
	sync /dev/mapper/disk
	check "pages were dropped" test "$(status_field disk invalidates)" -gt 0
	check "the file from the page cache" model check "$image" "$state/model"

	dmsetup remove disk
	check "the file" model check "$image" "$state/model"
	drop_caches
	check "the file, from the disk" model check "$image" "$state/model"
	loop_dev disk "$image" >/dev/null
	check "the device, attached again" model check /dev/mapper/disk "$state/model"
	dmsetup remove disk
	check "its filesystem" fsck_host "$1" "$dir"
}

fsck_host()
{
	local dev
	dev=$(findmnt -no SOURCE "$2")
	umount "$2"
	case $1 in
	ext*) e2fsck -fn "$dev" ;;
	xfs) xfs_repair -n "$dev" ;;
	esac
}
for_each_fs load ext4 xfs
