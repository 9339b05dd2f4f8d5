# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: power cuts under ext4 on a device on a sparse, fallocated or reflinked file: both filesystems are whole, and so is what was synced
# LONG: eighty power cuts and more, each with two filesystems mounted and checked
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
	if [ -n "$clone" ] && [ "$(digest /mnt/host/clone)" != "$clone" ]; then
		echo "the clone has changed"
		status=1
	fi
	return $status
}

# image_becomes KIND: what it is before the device is in use, on which is a filesystem by now
image_becomes()
{
	local bytes
	bytes=$(stat -c %s /mnt/host/image)
	crash_mode=mapped clone=
	case $1 in
	sparse) fallocate --dig-holes /mnt/host/image ;;
	fallocated)
		fallocate --dig-holes /mnt/host/image
		fallocate -l "$bytes" /mnt/host/image
		;;
	reflinked)
		crash_mode="file"
		cp --reflink=always /mnt/host/image /mnt/host/clone
		clone=$(digest /mnt/host/clone)
		;;
	esac
}

# crash_inner FS KIND CUTS
crash_inner()
{
	local fs=$1 kind=$2 cuts=$3 seed clone
	note "ext4 on $fs, $kind image"
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
	image_becomes "$kind"
	crash_log
	loop_dev disk /mnt/host/image >/dev/null
	same "mode" "$(status_field disk mode)" "$crash_mode"
	mount /dev/mapper/disk /mnt/inner
	random seed $((1 << 30))
	dmsetup message log 0 mark begin
	crash write /mnt/inner/file "$state/trace" "$seed" 240 log >&2
	umount /mnt/inner
	dmsetup status disk >&2
	dmsetup remove disk
	check "all that was written" crash_look all
	crash_log_end
	crash_replay "$cuts"
	modprobe -r brd
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	crash_inner ext4 sparse 20
	crash_inner ext4 fallocated 16
	crash_inner xfs sparse 16
	crash_inner xfs fallocated 16
	crash_inner xfs reflinked 16
done
