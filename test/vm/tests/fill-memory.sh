# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: first writes of whole sectors from memory that does not begin at one, on a disk with sectors of 4096 bytes
# TIMEOUT: 240

# shellcheck disable=SC2154 # state is set in lib.sh

# write_from BYTES: the memory begins so many bytes after a page
write_from()
{
	local fio=(fio --name=writes --filename="$dev" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite
		--bsrange=4k-64k --blockalign=4k --size=4M --randseed="$seed" --verify=crc32c --output="$state/fio")
	check "writes from byte $1 of a page" "${fio[@]}" --iomem_align="$1" --do_verify=0 --fsync=16
	drop_caches
	check "they are on the disk" "${fio[@]}" --verify_only
}

writes()
{
	local file=$2/image seed offset
	note "$1"
	random seed $((1 << 30))
	truncate -s 16M "$file"
	fallocate -o 8M -l 8M "$file"
	for offset in 0 8388608; do
		dev=$(loop_dev x "$file" "$offset")
		same "sectors" "$(blockdev --getss "$dev")" 4096
		same "mode" "$(status_field x mode)" mapped
		write_from 512
		write_from 4096
		dmsetup remove x
	done
}

dir=$(mkfs_mount -d 4k ext4)
writes ext4 "$dir"
cleanup_devices
dir=$(mkfs_mount -d 4k xfs)
writes xfs "$dir"
