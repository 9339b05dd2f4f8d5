# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# DESCRIPTION: dmlosetup that is killed at any step of --refresh, -c, --snapshot leaves the device in use and whole
# LONG: runs the commands some hundred times on each filesystem
# TIMEOUT: 600

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

size()
{
	blockdev --getsize64 /dev/mapper/disk
}

# among TEXT GOT WORD...: it must be one of them
among()
{
	local text=$1 got=$2
	shift 2
	matches "$text: $got" " $* " " $got "
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
	among "the device is the old or the new one" "$dev" "${had% *}" "$wanted"
	among "so is the file" "$file" "${had#* }" "$wanted"
	check "it is not too short" test "$file" -ge "$dev"
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

# snapshots FS: killed at each step
snapshots()
{
	local calls="ioctl ftruncate pwrite64 fsync"
	[ "$1" != xfs ] || calls="ioctl fsync"
	kill_each "--snapshot" "$calls" usable do_snapshot
}

killed()
{
	local fs=$1 dir=$2 had wanted
	cd "$dir"
	begin 0
	kill_each "--refresh" ioctl usable do_refresh
	kill_each "-c" "ioctl ftruncate fallocate fsync" usable do_grow
	snapshots "$fs"
	end
	begin 8
	kill_each "-c --shrink" "ioctl ftruncate fsync" usable do_shrink
	end
	cd /
}

for_each_fs killed
