# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a dmlosetup --defrag that is killed at any step leaves the device in use and whole
# LONG: runs the command some fifty times on each filesystem
# TIMEOUT: 1200

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

# is_scattered FILE: is it still in pieces wherever scattered() has cut its first part?
is_scattered()
{
	filefrag -v -b4096 "$1" | awk -F '[:.]+ *' '
		/^ *[0-9]+:/ {
			cut[$2 + 0] = $4 != end + 1
			end = $5
		}
		END { exit !(cut[256] && cut[384]) }'
}

# What was moved by a command that was killed later is scattered again, with the data that it has
scattered_again()
{
	! is_scattered "$image" || return 0
	note "it is scattered again"
	within dmsetup suspend disk
	cp --sparse=always "$image" "$state/image"
	scattered "$image" 4
	dd if="$state/image" of="$image" bs=64k conv=notrunc,sparse,fsync status=none
	within dmsetup resume disk
	is_scattered "$image" || fail "it is not scattered"
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

# Each time there is all to do, so that it comes to the step before which it is killed
do_defrag()
{
	scattered_again
	shift
	"$@" dmlosetup --defrag disk >"$state/said" 2>&1
}

killed()
{
	local folder=$2/folder image=$2/folder/image call i
	mkdir "$folder"
	scattered "$image" 4
	writer_start "$(loop_dev disk "$image")" $((4 << 20))
	for call in fallocate fsync ioctl; do
		kill_each "--defrag" "$call" whole do_defrag
		# Where there is no better place now there may be one the next time.
		for ((i = 0; i < 5; i++)); do
			! grep -q "no better place" "$state/said" || do_defrag - env
		done
		# and not for want of something to do
		matches "the last one has done it" "$(<"$state/said")" ' extents before, [0-9]+ now'
		fails '' is_scattered "$image"
	done
	kill_signal=INT kill_each "--defrag" ioctl whole do_defrag
	writer_stop
	dmlosetup -d disk
}

# The kernel calls it suspended a moment before that
is_given_back() { [ "$(status_field disk mode)" = released ]; }

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
	soon "its file is given back" is_given_back
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
	scattered_again
	slow_defrag $((5 * ${DMLOOP_TIME_FACTOR:-1}))
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
