# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a filesystem without a journal: after a flush what was written, filled and zeroed is on the disk
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh
mib=64

# The host's filesystem is on a device of its own, so that the disk below has only what was
# written to it, and no page cache of ours.
host()
{
	disk=$(disk 0)
	dmsetup create host --table "0 $((mib * 2048)) linear $disk 0"
	mkfs.ext4 -F -q -O ^has_journal "$@" /dev/mapper/host
	mkdir -p /mnt/host /mnt/after
	mount /dev/mapper/host /mnt/host
}

# after_cut OFFSET MIB: what the image has there when the power is cut now
after_cut()
{
	local loop
	dd if="$disk" of="$state/disk" bs=1M count=$mib iflag=direct status=none
	e2fsck -fy "$state/disk" >/dev/null 2>&1 || true
	loop=$(losetup -f --show "$state/disk")
	mount "$loop" /mnt/after
	dd if=/mnt/after/image bs=1M skip="$1" count="$2" status=none | sha256sum
	umount /mnt/after
	losetup -d "$loop"
}

# same_as_device TEXT: all that the device has, the disk has
same_as_device()
{
	same "$1" "$(after_cut 0 16)" "$(dd if="$dev" bs=1M iflag=direct status=none | sha256sum)"
}

put()
{
	pattern write "$1" 0 $((1 << 20)) | dd of="$dev" bs=1M seek="$2" iflag=fullblock oflag=direct conv=notrunc status=none
}

flush()
{
	xfs_io -d -c fsync "$dev"
}

without_journal()
{
	note "$*"
	host "$@"
	pattern write 1 0 $((4 << 20)) >/mnt/host/image
	[ $# -gt 0 ] || fallocate -o 4M -l 4M /mnt/host/image
	truncate -s 16M /mnt/host/image
	sync -f /mnt/host
	dev=$(loop_dev x /mnt/host/image)
	same "mode" "$(status_field x mode)" mapped
	put 2 1
	put 3 5
	flush
	same_as_device "blocks that were preallocated"
	put 4 9
	flush
	same_as_device "a hole"
	xfs_io -d -c "pwrite -q -V 1 -D -S 7 6m 64k" "$dev"
	same_as_device "FUA"
	fallocate -p -o 2M -l 1M "$dev"
	flush
	same_as_device "zeroes"
	blkdiscard -o 0 -l 1M "$dev"
	flush
	same_as_device "a discard"
	dmsetup remove x
	umount /mnt/host
	dmsetup remove host
}

delalloc() { filefrag -v /mnt/host/image | grep -q delalloc; }

has_blocks() { ! delalloc; }

# The flusher has written the file, so that its inode is clean; where the inode says that its
# blocks are is still in memory, as that changed by it.
not_synced()
{
	note "a file that was just written"
	host
	mount -o remount,lazytime /mnt/host
	truncate -s 16M /mnt/host/image
	sync -f /mnt/host
	# The disk is forgotten as one that has something to be written.
	sysctl -q vm.dirty_expire_centisecs=1 vm.dirty_writeback_centisecs=10
	sleep 1
	sysctl -q vm.dirty_expire_centisecs=30000 vm.dirty_writeback_centisecs=50
	pattern write 1 0 $((16 << 20)) | dd of=/mnt/host/image bs=1M iflag=fullblock conv=notrunc status=none
	check "there are no blocks yet" delalloc
	sysctl -q vm.dirty_expire_centisecs=1
	soon "the flusher has written it" has_blocks
	sysctl -q vm.dirty_writeback_centisecs=0
	dev=$(loop_dev x /mnt/host/image)
	same "mode" "$(status_field x mode)" mapped
	put 2 1
	flush
	same_as_device "what was flushed"
	dmsetup remove x
	umount /mnt/host
	dmsetup remove host
}

not_synced
without_journal
without_journal -O ^extent,^64bit
without_journal -t ext2
