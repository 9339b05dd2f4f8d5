# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: udev hears of a resize and of a new file, and its links follow
# TIMEOUT: 120

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# changed TEXT COMMAND...: it makes a change event of the device, which udev has handled when it ends
changed()
{
	local text=$1 pid
	shift
	udevadm settle
	udevadm monitor --udev --subsystem-match=block >"$state/monitor" &
	pid=$!
	soon "the monitor runs" grep -q "^UDEV" "$state/monitor"
	within "$@"
	soon "$text: a change event" grep -qE "^UDEV +\[[0-9.]+\] change .*/$kernel_name " "$state/monitor"
	udevadm settle
	kill "$pid"
	wait "$pid" || true
	check "$text: no other event" test "$(grep -E "^UDEV +\[" "$state/monitor" | grep -vcE " change .*/$kernel_name ")" = 0
}

# links: where the links of the filesystem and of the device lead
links()
{
	readlink -f "/dev/disk/by-uuid/$uuid" "/dev/disk/by-id/dm-name-disk" /dev/mapper/disk | sort -u
}

uuid_of()
{
	udevadm info --query=property --name=/dev/mapper/disk | sed -n 's/^ID_FS_UUID=//p'
}

start_udev
ext4=$(mkfs_mount ext4)
xfs=$(mkfs_mount xfs)
truncate -s 32M "$ext4/image"
dmlosetup disk "$ext4/image"
kernel_name=$(dmsetup info -c --noheadings -o blkdevname disk)
uuid=$(cat /proc/sys/kernel/random/uuid)
mkfs.ext4 -q -U "$uuid" /dev/mapper/disk
udevadm settle
mkdir /mnt/inner
mount /dev/mapper/disk /mnt/inner
same "the links" "$(links)" "/dev/$kernel_name"

changed "resize" dmlosetup -c disk --size 64M
same "the links" "$(links)" "/dev/$kernel_name"
resize2fs /dev/mapper/disk 2>/dev/null

changed "replace" dmlosetup --replace disk "$xfs/image"
same "the links" "$(links)" "/dev/$kernel_name"
same "the filesystem" "$(uuid_of)" "$uuid"
soon "its disk has it" test -e "/sys/block/$(basename "$(findmnt -n -o SOURCE "$xfs")")/holders/$kernel_name"
same "its old disk has it not" "$(ls "/sys/block/$(basename "$(findmnt -n -o SOURCE "$ext4")")/holders")" ""
same "mounted by the link" "$(findmnt -n -o TARGET "/dev/disk/by-uuid/$uuid")" /mnt/inner

umount /mnt/inner
same "no cookie is left" "$(dmsetup udevcookies | grep -c 0x || true)" 0
dmlosetup -d disk
udevadm settle
check "no link is left" test ! -e "/dev/disk/by-uuid/$uuid" -a ! -e /dev/disk/by-id/dm-name-disk
