# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a write sent while flushes fail fails even if it ends later; a flush sent after that succeeds
# LONG: waits three times for the half minute in which flushes fail
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh

# fail_once: a flush fails, and all is well with the disk again
fail_once()
{
	xfs_io -d -c "pwrite -q 0 4k" "$dev"
	host_is 0 "$host_size" error
	fails "Input/output error" xfs_io -d -c fsync "$dev"
	host_is 0 "$host_size" linear "$host_disk" 0
}

put_fua()
{
	dd if=/dev/zero of="$dev" bs=4096 count=1 oflag=direct,dsync conv=notrunc status=none
}

allow 'Buffer I/O error' 'dm-loop: inode [0-9]+: cannot'
host_fs vfat
image=/mnt/host/image
dd if=/dev/zero of="$image" bs=1M count=8 conv=fsync status=none
dev=$(loop_dev x "$image")

# It may be the half of a write whose other half has failed.
note "a FUA write that comes soon and ends late"
fail_once
dmsetup suspend --noflush --nolockfs host
put_fua 2>"$state/said" &
writer=$!
xfs_io -d -c fsync "$dev" 2>/dev/null &
flush=$!
# More than DM_LOOP_LOST_TIME
sleep 33
check "it waits" kill -0 $writer
dmsetup resume host
! wait $writer || fail "it did not fail"
matches "it says so" "$(<"$state/said")" "Input/output error"
! wait $flush || fail "the flush did not fail"
check "a flush that comes now does not" xfs_io -d -c fsync "$dev"
check "nor does a FUA write" put_fua

note "nobody asks for half a minute"
fail_once
sleep 33
dmsetup suspend x
dmsetup resume x
check "a flush" xfs_io -d -c fsync "$dev"
check "a FUA write" put_fua

note "half of a write may wait in a device that is suspended"
fail_once
dmsetup suspend x
sleep 33
dmsetup resume x
fails "Input/output error" xfs_io -d -c fsync "$dev"
dmsetup remove x
host_gone
