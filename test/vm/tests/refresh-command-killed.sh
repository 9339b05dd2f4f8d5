# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# DESCRIPTION: dmlosetup that is killed at any step of --refresh, -c, --snapshot leaves the device in use and whole
# LONG: runs the commands some hundred times on each filesystem
# TIMEOUT: 2400

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

size()
{
	blockdev --getsize64 /dev/mapper/disk
}

# resized SIZE: what the next command is to make of it, and what it was
resized()
{
	had="$(size) $(stat -c %s image)" wanted=$1
}

# usable TEXT: after whatever happened the device does I/O, and is as it was or as it should be
usable()
{
	local dev file
	wait_guard
	same "$1" "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" Active:Live
	writer_goes_on
	dev=$(size) file=$(stat -c %s image)
	matches "device and file are as before, or all is done: $dev $file" " $had, $wanted $wanted," " $dev $file,"
	table_is_right disk
}

do_refresh()
{
	shift
	resized "$(size)"
	"$@" dmlosetup --refresh disk >/dev/null 2>&1
}

do_grow()
{
	shift
	resized $((wanted + 65536))
	"$@" dmlosetup -c disk --size "$wanted" >/dev/null 2>&1
}

do_shrink()
{
	shift
	resized $((wanted - 65536))
	"$@" dmlosetup -c disk --size "$wanted" --shrink >/dev/null 2>&1
}

# The file is longer than the device, which becomes larger while the file is cut.
do_fit()
{
	shift
	within dmsetup suspend disk
	truncate -s $(($(size) + (1 << 20))) image
	within dmsetup resume disk
	resized $(($(size) + 65536))
	"$@" dmlosetup -c disk --size "$wanted" --shrink >/dev/null 2>&1
}

# complete TEXT: usable, and the snapshot is of one moment, or there is none
complete()
{
	usable "$1"
	[ ! -e clone ] || check "the snapshot is complete" \
		instants check clone "$writer_bytes" "$writer_log" >/dev/null
}

do_snapshot()
{
	shift
	resized "$(size)"
	rm -f clone
	"$@" dmlosetup --snapshot disk clone >/dev/null 2>&1
}

# begin MIB [OPTION...]: a device in use, with as much room behind what is written
begin()
{
	dmlosetup --prepare image --size $((4 + $1))M
	dmlosetup "${@:2}" disk image
	wanted=$(size)
	writer_start /dev/mapper/disk $((4 << 20))
}

end()
{
	writer_stop
	dmlosetup -D
	rm -f image clone
}

# begin_fs MIB [OPTION...]: the same, but what is written lies in a filesystem, which tells its size
begin_fs()
{
	dmlosetup --prepare image --size $((16 + $1))M
	dmlosetup "${@:2}" disk image
	wanted=$(size)
	inner_mount ext4 /dev/mapper/disk 16M 4
	writer_start "$inner/data" $((4 << 20))
}

end_fs()
{
	writer_stop
	inner_check
	dmlosetup -D
	rm image
}

# snapshots FS: killed at each step
snapshots()
{
	local calls="ioctl ftruncate pwrite64 linkat fsync"
	[ "$1" != xfs ] || calls="ioctl linkat fsync"
	# with its name it is complete, and too late for ^C
	[ "${kill_signal:-KILL}" != INT ] || calls=${calls/linkat /}
	kill_each "--snapshot" "$calls" complete do_snapshot
}

# each_step FS: of what leaves a device as large as it is or makes it larger
each_step()
{
	begin 0
	kill_each "--refresh" ioctl usable do_refresh
	kill_each "-c" "ioctl ftruncate fallocate fsync" usable do_grow
	snapshots "$1"
	end
}

killed()
{
	local fs=$1 dir=$2 had wanted
	cd "$dir"
	each_step "$fs"
	begin_fs 8
	kill_each "-c --shrink" "ioctl ftruncate fsync" usable do_shrink
	kill_each "-c, file longer" "ioctl ftruncate fsync" usable do_fit
	end_fs
	cd /
}

mapped()
{
	local dir=$2 had wanted
	cd "$dir"
	begin_fs 8 --mapped
	kill_each "-c --shrink, mapped" "ioctl ftruncate fsync" usable do_shrink
	kill_each "-c, mapped" "ioctl fallocate ftruncate pwrite64 fsync" usable do_grow
	end_fs
	cd /
}

# nth_suspend N COMMAND...: the number of the ioctl that suspends (1) or resumes (2)
nth_suspend()
{
	strace -qq -o "$state/calls" -e trace=ioctl "${@:2}" >/dev/null 2>&1
	awk -v n="$1" '/DM_DEV_SUSPEND/ && ++k == n { print NR; exit }' "$state/calls"
}

# guard_killed STATUS N WHERE COMMAND...: its guard is killed while the device is suspended,
# and the command waits at the WHERE (enter, exit) of ioctl N; then it ends with STATUS
guard_killed()
{
	local wanted_status=$1 call=$2 where=$3 try pid hit status
	shift 3
	check "it has such an ioctl" test -n "$call"
	for ((try = 0; try < 10; try++)); do
		hit='' status=0
		strace -qq -o /dev/null -e trace=ioctl -e "inject=ioctl:delay_$where=3000000:when=$call" \
			"$@" >"$state/said" 2>&1 &
		pid=$!
		until is_suspended || ! kill -0 $pid; do
			:
		done
		# suspended before and after it
		! pkill -KILL dmloop-guard || ! is_suspended || hit=1
		wait $pid || status=$?
		[ -z "$hit" ] || break
	done
	check "the guard was killed while the device was suspended" test -n "$hit"
	same "the command" "$status" "$wanted_status"
}

none_is_left() { ! pgrep -x 'dmlosetup|strace' >/dev/null; }

# group_killed INJECTION COMMAND...: the command, which waits there for a minute, and all its group
group_killed()
{
	local pid status=0 injection=$1
	shift
	setsid strace -qq -o /dev/null -e "trace=${injection%%:*}" -e "inject=$injection" \
		"$@" >/dev/null 2>&1 &
	pid=$!
	soon "it is suspended" is_suspended
	kill -KILL -- "-$pid"
	wait $pid || status=$?
	same "it was killed" "$status" 137
	soon "none of it is left" none_is_left
}

guards()
{
	local dir=$2 had wanted grow
	cd "$dir"
	begin 0

	note "the guard is killed, and the command goes on"
	resized "$(size)"
	guard_killed 1 "$(nth_suspend 1 dmlosetup --refresh disk)" exit dmlosetup --refresh disk
	matches "it says so" "$(<"$state/said")" "nothing is changed on .*: the guard process was killed"
	usable "without its guard"
	guard_killed 0 "$(nth_suspend 2 dmlosetup --refresh disk)" enter dmlosetup --refresh disk
	usable "without its guard at the end"
	grow=$(nth_suspend 2 dmlosetup -c disk --size 5M)
	resized $((6 << 20))
	guard_killed 0 "$grow" enter dmlosetup -c disk --size 6M
	usable "grown without its guard"
	same "the device" "$(size)" $((6 << 20))

	note "the process group is killed"
	resized "$(size)"
	group_killed "ioctl:delay_exit=60000000:when=$(nth_suspend 1 dmlosetup --refresh disk)" \
		dmlosetup --refresh disk
	usable "--refresh, and the group is gone"
	resized $((7 << 20))
	group_killed "fsync:delay_enter=60000000" dmlosetup -c disk --size 7M
	usable "-c, and the group is gone"
	same "the device has its old size" "$(size)" $((6 << 20))
	end
	cd /
}

# ^C
interrupted()
{
	local fs=$1 dir=$2 had wanted kill_signal=INT
	cd "$dir"
	each_step "$fs"
	cd /
}

# All of it takes ten minutes. So these are on one filesystem, by chance, and in the debug kernel,
# where a step takes half a minute, all are.
for part in killed guards interrupted mapped; do
	types=(ext4 xfs)
	random n 2
	case $part:$(rounds 2):${DMLOOP_ALL:+all} in
	killed:2:* | guards:2:* | *:all) ;;
	*) types=("${types[n]}") ;;
	esac
	for_each_fs $part "${types[@]}"
done
