# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: moves the blocks of a file under load
# DESCRIPTION: dmlosetup --defrag moves the blocks of a file in use together, and nothing is lost
# TIMEOUT: 300

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# scattered FILE MIB: a file of zeroes with an extent for each half MiB of its first part, and a hole
scattered()
{
	local file=$1 mib=$2 i
	dd if=/dev/zero of="$file" bs=1M count=$((2 * mib)) conv=fsync status=none
	for ((i = mib - 1; i >= 1; i--)); do
		fallocate -c -o $((i << 20)) -l 512K "$file"
	done
	fallocate -p -o $((mib << 19)) -l 1M "$file"
	truncate -s "${mib}M" "$file"
	sync "$file"
}

# pieces FILE: how many there are on the disk, as filefrag counts them
pieces()
{
	filefrag "$1" | sed 's/.*: \([0-9]*\) extent.*/\1/'
}

active()
{
	same "it is in use" "$(state_of disk)" Active
	table_is_right disk
}

in_use()
{
	local image=$2/image before text inode
	scattered "$image" 32
	before=$(pieces "$image")
	check "it is scattered ($before)" test "$before" -gt 24
	inode=$(stat -c '%i %U %a %h' "$image")
	# a discard would take the blocks away
	inner_mount ext4 "$(loop_dev disk "$image" 0 no_discard)" 24M
	churn_start "$inner"
	writer_start "$inner/data" $((8 << 20))
	text=$(within dmlosetup --defrag disk)
	printf '%s\n' "$text" >&2
	matches "what it says" "$text" "^/dev/mapper/disk: [0-9]+ extents before, [0-9]+ now; it was suspended for [0-9.]+ ms"
	active
	check "fewer pieces ($(pieces "$image"))" test "$(pieces "$image")" -le 5
	same "the file is the same" "$(stat -c '%i %U %a %h' "$image")" "$inode"
	churn_goes_on
	writer_goes_on
	churn_stop
	writer_stop

	note "once more"
	umount "$inner"
	before=$(pieces "$image")
	matches "nothing is done" "$(dmlosetup --defrag disk)" "extents; (no two of them|the filesystem has no better place)"
	same "as many as before" "$(pieces "$image")" "$before"
	drop_caches
	mount "$inner_dev" "$inner"
	inner_check
	same "device and file are one" "$(digest /dev/mapper/disk)" "$(digest "$image")"
	dmlosetup -d disk
	rm "$image"
}

refused()
{
	local image=$2/image
	note "no space"
	scattered "$image" 16
	loop_dev disk "$image" >/dev/null
	fill_up "$2"
	fails "as much free space" within dmlosetup --defrag disk
	active
	rm "$2"/full.*
	sync -f "$2"

	note "suspended"
	dmsetup suspend disk
	fails "it is suspended" dmlosetup --defrag disk
	dmlosetup --refresh disk

	note "another device on the file"
	dmlosetup -d disk
	dmlosetup disk "$image" --sizelimit 8M
	dmlosetup other "$image" --offset 8M
	fails "another device or program uses it" dmlosetup --defrag disk
	active
	dmlosetup -D
	rm "$image"
}

# As many extents as an inode of xfs has room for, if it keeps none for attributes, and some
# more or less.
few()
{
	local image=$2/image mib
	note "few extents"
	for mib in 8 12 15 18 21; do
		scattered "$image" $mib
		loop_dev disk "$image" >/dev/null
		matches "$(pieces "$image") extents" "$(dmlosetup --defrag disk)" "extents before, [0-9]+ now"
		dmlosetup -d disk
		rm "$image"
	done
}

all()
{
	few "$@"
	in_use "$@"
	refused "$@"
}

nothing_offered()
{
	note "a filesystem that cannot"
	truncate -s 4M "$1/image"
	loop_dev disk "$1/image" >/dev/null
	fails "its filesystem, tmpfs, offers no way to do it" dmlosetup --defrag disk
	dmlosetup -d disk
}

for_each_fs all
nothing_offered "$(mkfs_mount tmpfs)"
