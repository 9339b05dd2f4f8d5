# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a dmlosetup --defrag that is killed at any step leaves the device in use and whole
# LONG: runs the command some fifty times on each filesystem
# TIMEOUT: 600

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

whole()
{
	same "$1" "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" Active:Live
	writer_goes_on
	active
	same "no donor is left" "$(ls -A "$folder")" image
}

do_defrag()
{
	shift
	"$@" dmlosetup --defrag disk >/dev/null 2>&1
}

killed()
{
	local folder=$2/folder image=$2/folder/image
	mkdir "$folder"
	scattered "$image" 4
	writer_start "$(loop_dev disk "$image")" $((4 << 20))
	kill_each "--defrag" "fallocate fsync" whole do_defrag
	writer_stop
	dmlosetup -d disk
	rm "$image"
	scattered "$image" 4
	writer_start "$(loop_dev disk "$image")" $((4 << 20))
	kill_each "--defrag" ioctl whole do_defrag
	check "then it is not scattered" test "$(pieces "$image")" -le 4
	writer_stop
	dmlosetup -d disk
}

for_each_fs killed
