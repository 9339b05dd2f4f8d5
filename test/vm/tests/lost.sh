# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: what a suspend could not commit, the next flush tells of, and that once
# TIMEOUT: 120

put()
{
	xfs_io -d -c "pwrite -q -S 0x5a $(($1 * 4096)) 4096" "$dev"
}

disk=$(disk 0)
size=$((128 << 11))
dmsetup create host --table "0 $size linear $disk 0"
make_fs vfat /dev/mapper/host
mkdir -p /mnt/host
mount /dev/mapper/host /mnt/host
image=/mnt/host/image
dd if=/dev/zero of="$image" bs=1M count=1 conv=fsync status=none
dev=$(loop_dev x "$image")
put 0
check "a flush" xfs_io -d -c fsync "$dev"

note "a write that is in the page cache of a disk that is gone"
put 1
host_is 0 $size error
mark=$(kmsg_mark)
dmsetup suspend x
check "the kernel log" kmsg_has "cannot commit what was not flushed" "$mark"
host_is 0 $size linear "$disk" 0
dmsetup resume x
fails "Input/output error" xfs_io -d -c fsync "$dev"
check "once" xfs_io -d -c fsync "$dev"
put 2
check "and it goes on" xfs_io -d -c fsync "$dev"
dmsetup remove x
umount /mnt/host
dmsetup remove host
