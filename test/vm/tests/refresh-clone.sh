# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: an image that shares blocks is copied whole, though xfs sets blocks aside; on btrfs a snapshot shares them
# TIMEOUT: 120

# shellcheck disable=SC2154 # state is set in lib.sh

# A hole of 16 KiB, then 48 KiB of data, and so on; a clone shares it all.
cloned_image()
{
	local i commands=()
	for ((i = 0; i < 64; i++)); do
		commands+=(-c "pwrite -q -S $((i + 1)) $((64 * i + 16))k 48k")
	done
	xfs_io -f -c "truncate 4m" "${commands[@]}" -c fsync "$1"
	cp --reflink=always "$1" "$1.clone"
}

# In each piece of data one block is written: what lies around it is set aside, the hole too.
write_blocks()
{
	local i commands=()
	for ((i = 0; i < 64; i++)); do
		commands+=(-c "pwrite -q -S $((i + 101)) -b 4k $((64 * i + 20))k 4k")
	done
	xfs_io -d "${commands[@]}" -c fsync "$1"
}

xfs=$(mkfs_mount xfs)
ext4=$(mkfs_mount ext4)
image=$xfs/image
cloned_image "$image"
node=$(loop_dev disk "$image")
same "mode" "$(status_field disk mode)" file
write_blocks "$node"
want=$(digest "$node")

note "a snapshot, which has to be copied to another filesystem"
dmlosetup --snapshot disk "$ext4/snapshot" >/dev/null
same "its data" "$(digest "$ext4/snapshot")" "$want"

note "to another filesystem, in use"
dmlosetup --replace disk "$ext4/new" >/dev/null
same "the data of the device" "$(digest "$node")" "$want"
same "the data of the file" "$(digest "$ext4/new")" "$want"
dmsetup remove disk
same "the clone is as it was" "$(cmp -l "$image" "$image.clone" | wc -l)" $((64 * 4096))

note "a snapshot on btrfs, of an image in file mode"
btrfs=$(mkfs_mount btrfs)
truncate -s 8M "$btrfs/image"
node=$(loop_dev disk "$btrfs/image")
pattern write 1 0 $((4 << 20)) | dd of="$node" bs=64k oflag=direct iflag=fullblock status=none
want=$(digest "$node")
matches "how it was made" "$(dmlosetup --snapshot disk "$btrfs/snapshot")" "snapshot: clone of "
pattern write 2 0 $((4 << 20)) | dd of="$node" bs=64k oflag=direct iflag=fullblock status=none
same "its data" "$(digest "$btrfs/snapshot")" "$want"
check "the device has what was written since" pattern check 2 0 $((4 << 20)) <"$node"
