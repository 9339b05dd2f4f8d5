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

# slow_defrag SECONDS: in the background, and so slow while the device is suspended
slow_defrag()
{
	# In a process group of its own, as in a terminal: in an orphaned one ^Z does nothing
	set -m
	strace -qq -o /dev/null -e trace=fsync -e "inject=fsync:delay_enter=${1}000000:when=1" \
		dmlosetup --defrag disk >/dev/null 2>&1 &
	slow=$!
	set +m
	soon "it is suspended" is_suspended
}

interrupted()
{
	local folder=$2/folder image=$2/folder/image mark slow
	mkdir "$folder"
	scattered "$image" 4
	writer_start "$(loop_dev disk "$image")" $((4 << 20))

	note "killed while another has the file open"
	slow_defrag 60
	exec 7<>"$image"
	mark=$(kmsg_mark)
	pkill -KILL -x dmlosetup
	# The end of a process waits for who traces it
	kill -KILL "$slow"
	soon "the guard tries" kmsg_has "cannot resume: File is open for writing elsewhere" "$mark"
	same "in vain" "$(state_of disk)" Suspended
	exec 7>&-
	soon "until it is closed" is_active
	wait "$slow" || true
	wait_guard
	whole "killed, and the file open"

	note "a ^Z waits until it is resumed"
	slow_defrag 2
	pkill -TSTP -x dmlosetup
	soon "it is resumed" is_active
	pkill -CONT -x dmlosetup || true
	check "and ends well" wait "$slow"
	whole "stopped"
	writer_stop
	dmlosetup -d disk
}

for_each_fs killed
for_each_fs interrupted ext4
