# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a flush that the disk fails, for a device that needs no commit or when it is suspended, is a loss like others; a first write that it fails keeps no blocks
# LONG: not worth three kernels
# TIMEOUT: 120

# shellcheck disable=SC2154 # state is set in lib.sh

# while_broken COMMAND...: with a disk that fails all writes and flushes
while_broken()
{
	host_is 0 "$host_size" flakey "$host_disk" 0 0 60 1 error_writes
	"$@"
	host_is 0 "$host_size" linear "$host_disk" 0
}

flush()
{
	xfs_io -d -c fsync "$dev"
}

moved() { [ "$(status_field x times)" -gt 0 ]; }

allow 'Buffer I/O error' 'dm-loop: inode [0-9]+: cannot'
# Nothing else is to be written when the disk fails.
host_fs -o noatime,commit=300 ext4
image=/mnt/host/image
written_file "$image" $((4 << 20))
dev=$(loop_dev x "$image")
same "mode" "$(status_field x mode)" mapped

note "a flush that needs no commit"
check "at first" flush
while_broken fails "Input/output error" flush
fails "Input/output error" flush
dmsetup remove x

note "when it is suspended"
dev=$(loop_dev x "$image")
check "another device on it knows nothing of that" flush
xfs_io -d -c "pwrite -q 0 4k" "$dev"
soon "its times have moved" moved
sync -f /mnt/host
mark=$(kmsg_mark)
while_broken dmsetup suspend x
check "the kernel log" kmsg_has "cannot sync" "$mark"
dmsetup resume x
fails "Input/output error" flush
dmsetup remove x
host_gone

note "a first write on xfs"
host_fs xfs
truncate -s 64M "$image"
dev=$(loop_dev x "$image")
while_broken fails "Input/output error" xfs_io -d -c "pwrite -q 10m 4k" "$dev"
same "the place that it got, in sectors" "$(status_field x unwritten)" 8
same "check" "$(dmsetup message x 0 check | cut -d ' ' -f 1)" ok
check "a discard" blkdiscard -o 10M -l 4k "$dev"
same "blocks that the file keeps" "$(stat -c %b "$image")" 0
check "written again" xfs_io -d -c "pwrite -q 10m 4k" -c fsync "$dev"
dmsetup remove x
host_gone
