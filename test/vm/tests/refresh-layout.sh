# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: while a device with a filesystem and writers on it is suspended, its file moves on the disk; then all goes on
# LONG: blocks move sixteen times, with a filesystem and writers above
# TIMEOUT: 600

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# An image in many pieces: something else lies between them.
fragmented_image()
{
	local file=$1 mib=$2 i
	: >"$file"
	for ((i = 0; i < 16; i++)); do
		fallocate -o $((i << 20)) -l 1M "$file"
		fallocate -l 64K "$file.between.$i"
	done
	truncate -s "${mib}M" "$file"
	rm "$file".between.*
	sync -f "$file"
}

# Not cp: before 6.9 SEEK_DATA takes data for a hole in an xfs file that shares blocks.
copy()
{
	dd if="$1" of="$2" bs=64K conv=sparse status=none
	truncate -r "$1" "$2"
}

# ------------------------------------------------ ways to change a file, $1 --

defrag_ext4() { e4defrag "$1" >/dev/null; }
defrag_xfs() { xfs_fsr -d "$1" 2>/dev/null; }

copy_over()
{
	copy "$1" "$1.copy"
	truncate -s 0 "$1"
	sync -f "$1"
	# What was its own just now belongs to another file
	fallocate -l 24M "$1.between"
	copy "$1.copy" "$1"
	truncate -s "$size" "$1"
	rm "$1.copy" "$1.between"
}

# Without the file ever being short
write_over()
{
	dd if="$1" of="$1.copy" bs=1M count=16 status=none
	fallocate -p -o 0 -l 16M "$1"
	fallocate -l 24M "$1.between"
	dd if="$1.copy" of="$1" bs=256K conv=notrunc,fsync status=none
	rm "$1.copy" "$1.between"
}

punch_and_restore()
{
	copy "$1" "$1.copy"
	fallocate -p -o 3M -l 5M "$1"
	fallocate -l 24M "$1.between"
	dd if="$1.copy" of="$1" bs=1M skip=3 seek=3 count=5 conv=notrunc,fsync status=none
	rm "$1.copy" "$1.between"
}

# The end of the device, which the filesystem on it does not use.
punch_free()
{
	local key
	random key 1000000
	pattern write "$key" 0 $((4 << 20)) |
		dd of="$1" bs=1M seek=$((size / 1048576 - 4)) iflag=fullblock conv=notrunc,fsync status=none
	places "$1" >/dev/null
	fallocate -p -o $((size - (3 << 20))) -l 2M "$1"
}

collapse_and_restore()
{
	copy "$1" "$1.copy"
	fallocate --collapse-range -o 2M -l 4M "$1"
	fallocate --insert-range -o 2M -l 4M "$1"
	dd if="$1.copy" of="$1" bs=1M skip=2 seek=2 count=4 conv=notrunc,fsync status=none
	rm "$1.copy"
}

# The blocks of a copy come back, and are the file's own when the copy goes
clone_back()
{
	copy "$1" "$1.copy"
	cp --reflink=always "$1.copy" "$1"
	rm "$1.copy"
}

# They belong to both
clone_and_keep()
{
	clone=$1.clone
	cp --reflink=always "$1" "$clone"
	cp --reflink=always "$clone" "$1"
}

# ------------------------------------------------------------------ the test --

change_layout()
{
	local how=$1 image=$2 before
	note "$how"
	suspend disk
	before=$(places "$image")
	"$how" "$image"
	if [ "$(places "$image")" = "$before" ]; then
		# The filesystem may have had nothing better than the old places
		[[ "$how" != @(defrag*|copy_over|clone_back) ]] || fail "$how: the blocks are where they were"
		note "$how: the blocks are where they were"
	fi
	resume disk
	writer_goes_on
	churn_goes_on
}

# With the other filesystem above; xfs is not made smaller than 300 MiB
layout()
{
	local fs=$1 image=$2/image above=ext4 how
	size=$((64 << 20))
	[ "$fs" = xfs ] || above=xfs size=$((308 << 20))
	fragmented_image "$image" $((size >> 20))
	inner_mount "$above" "$(loop_dev disk "$image")" $(((size >> 20) - 4))M
	same "mode" "$(status_field disk mode)" mapped
	churn_start "$inner"
	writer_start "$inner/data" $((8 << 20))
	for how in defrag_"$fs" copy_over write_over punch_and_restore punch_free collapse_and_restore; do
		change_layout "$how" "$image"
		same "mode" "$(status_field disk mode)" mapped
	done
	if [ "$fs" = xfs ]; then
		change_layout clone_back "$image"
		change_layout clone_and_keep "$image"
		same "shared blocks: only xfs can write them" "$(status_field disk mode)" file
		change_layout punch_and_restore "$image"
		rm "$clone"
		change_layout copy_over "$image"
		same "all its own again" "$(status_field disk mode)" mapped
	fi
	churn_stop
	writer_stop
	inner_check
	dmsetup remove disk
	check "the file is free" truncate -s 0 "$image"
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	for_each_fs layout ext4 xfs
done
