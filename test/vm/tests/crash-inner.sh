# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: power cuts under ext4 on a device on a file: both filesystems are whole, and so is what was synced
# LONG: eighty power cuts, each with two filesystems mounted and checked
# TIMEOUT: 900

# shellcheck source=test/vm/tests/crash-common.bash
. /dmloop/vm/tests/crash-common.bash

# The file that was written to lies in the image.
crash_look()
{
	local node status=0
	node=$(losetup -f --show /mnt/host/image) || return
	mount "$node" /mnt/inner || return
	crash check /mnt/inner/file $((6 << 20)) "$state/trace" "$1" || status=1
	umount /mnt/inner || return
	e2fsck -fn "$node" >"$state/fsck-inner" 2>&1 || { status=1; cat "$state/fsck-inner"; }
	losetup -d "$node" || return
	return $status
}

crash_inner()
{
	local fs=$1 seed
	note "ext4 on $fs"
	mkdir -p /mnt/inner
	crash_begin "$fs"
	crash_image sparse
	loop_dev disk /mnt/host/image >/dev/null
	make_fs ext4 /dev/mapper/disk -J size=1 -E nodiscard
	# Blocks that the inner filesystem has written and the host's has not: what is
	# written to them with O_DSYNC is safe by FUA alone, and has to be filled.
	mount /dev/mapper/disk /mnt/inner
	dd if=/dev/zero of=/mnt/inner/file bs=1M count=6 oflag=direct conv=fsync status=none
	umount /mnt/inner
	dmsetup remove disk
	fallocate --dig-holes /mnt/host/image
	crash_log
	loop_dev disk /mnt/host/image >/dev/null
	mount /dev/mapper/disk /mnt/inner
	random seed $((1 << 30))
	dmsetup message log 0 mark begin
	crash write /mnt/inner/file "$state/trace" "$seed" 240 log >&2
	umount /mnt/inner
	dmsetup status disk >&2
	dmsetup remove disk
	check "all that was written" crash_look all
	crash_log_end
	crash_replay 40
	modprobe -r brd
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	crash_inner ext4
	crash_inner xfs
done
