# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: the guest has what the other tests rely on
# TIMEOUT: 120

check "disk0 is a block device" test -b "$(disk 0)"
same "sectors of disk4k" "$(blockdev --getss "$(disk 4k)")" 4096

scratch()
{
	local fs=$1 dir=$2
	same "filesystem on $dir" "$(stat -f -c %T "$dir" | sed 's/ext2.ext3/ext4/')" "$fs"
	random_bytes 100000 >"$dir/file"
	same "size of a file" "$(stat -c %s "$dir/file")" 100000
}
for_each_fs scratch ext4 xfs btrfs f2fs

number=
random number 1000
check "random numbers stay in their range" test "$number" -lt 1000
# shellcheck disable=SC2016
check "a pattern is recognized" bash -c 'pattern write 3 4096 10000 | pattern check 3 4096 10000'
# shellcheck disable=SC2016
fails "wrong at offset 4096" bash -c 'pattern write 3 0 10000 | pattern check 3 4096 10000'
fails ENOENT cat /nothing
fails "ENOENT:/nothing" cat /nothing
for program in fio jq xfs_io cryptsetup lvm dmsetup kpartx filefrag lsattr; do
	check "the guest has $program" command -v "$program"
done
