# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: dmsetup wait wakes for what somebody must see to, and udev follows a device that grows or gets another file
# LONG: makes filesystems, fills them, and waits for events that do not come
# TIMEOUT: 400

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

write_fails()
{
	fails "$1" dd if=/dev/zero of=/dev/mapper/disk bs=64K seek="$2" count=1 oflag=direct status=none
}

full()
{
	local dir=$2 image=$2/image
	truncate -s 16M "$image"
	loop_dev disk "$image" >/dev/null
	dd if=/dev/zero of=/dev/mapper/disk bs=1M count=4 oflag=direct status=none
	fill_up "$dir"
	# More than a filesystem finds for one that is stubborn
	wakes disk fails ENOSPC dd if=/dev/zero of=/dev/mapper/disk bs=4M seek=2 count=1 oflag=direct status=none
	wakes disk fails ENOSPC dd if=/dev/zero of=/dev/mapper/disk bs=4M seek=3 count=1 oflag=direct status=none
	same "it is counted" "$(($(status_field disk nospc) >= 2))" 1
	quiet
	rm "$dir"/full.*
	sync -f "$dir"
	check "then there is space" dd if=/dev/zero of=/dev/mapper/disk bs=1M count=16 oflag=direct status=none
	quiet
	within dmsetup suspend disk
	truncate -s 15M "$image"
	no_resume disk "File is shorter than the table says"
	truncate -s 16M "$image"
	within dmsetup resume disk
	within dmsetup remove disk
	rm "$image"
}

# There is no event, whatever is written. One would come by a worker, soon after.
quiet()
{
	local number
	number=$(events disk)
	dd if=/dev/zero of=/dev/mapper/disk bs=64K count=4 oflag=direct,dsync status=none
	sleep 1
	same "number of events" "$(events disk)" "$number"
}

break_ext4()
{
	# shellcheck disable=SC2154 # errno_text is set in lib.sh
	allow 'EXT4-fs error' 'EXT4-fs .*Remounting filesystem read-only' 'Aborting journal' \
		'dm-loop: inode [0-9]+: cannot' "cannot verify .*: ${errno_text[EIO]}" "cannot verify .*: ${errno_text[EROFS]}"
	echo 1 >"/sys/fs/ext4/$(basename "$(findmnt -n -o SOURCE "$1")")/trigger_fs_error"
}
break_xfs() { shut_down "$1"; }

# A filesystem that found an error in itself gives no blocks any more.
broken()
{
	local fs=$1 dir=$2 image=$2/image
	mount -o remount,errors=remount-ro "$dir" 2>/dev/null || true
	written_file "$image" $((8 << 20))
	truncate -s 16M "$image"
	loop_dev disk "$image" >/dev/null
	dd if=/dev/mapper/disk of="$state/before" bs=1M skip=1 count=4 iflag=direct status=none
	"break_$fs" "$dir"
	wakes disk write_fails EIO 200
	write_fails EIO 210
	check "it can be read" cmp "$state/before" <(dd if=/dev/mapper/disk bs=1M skip=1 count=4 iflag=direct status=none)
	within dmsetup suspend disk
	# On 6.1 ext4 with an aborted journal has nothing against it
	if [[ "$fs $(uname -r)" = "ext4 6.1."* ]]; then
		within dmsetup resume disk
		write_fails EIO 200
	else
		wakes disk fails 'cannot resume: .*(EIO|EROFS|error|read-only|sync|[(]-[0-9]+[)])' within dmsetup resume disk
	fi
	within dmsetup remove disk
}

# The link, when udev has settled, leads to the device.
leads_to()
{
	udevadm settle
	same "$1" "$(readlink -f "$1")" "$(readlink -f "$2")"
}

# uevents COMMAND...: the actions that udev saw of dm devices
uevents()
{
	local pid
	stdbuf -oL udevadm monitor --udev --subsystem-match=block >"$state/uevents" 2>/dev/null &
	pid=$!
	soon "the monitor runs" grep -q UDEV "$state/uevents"
	"$@"
	udevadm settle
	# which need not be there at once
	soon "there is a change" grep -q ' change ' "$state/uevents"
	kill "$pid"
	wait "$pid" || true
	awk -v dev="/$(basename "$(readlink -f /dev/mapper/disk)") " '$1 == "UDEV" && /^UDEV *\[/ && index($0, dev) { print $3 }' "$state/uevents" | sort | uniq -c | awk '{ print $2 }' | paste -sd ' '
}

grow()
{
	within dmsetup suspend disk
	truncate -s 64M "$1"
	within dmsetup load disk --table "$(loop_table "$1")"
	within dmsetup resume disk
}

replace()
{
	within dmsetup load disk --table "$(loop_table "$1")"
	within dmsetup suspend disk
	within dmsetup resume disk
}

with_udev()
{
	local dir=$2 a=$2/a b=$2/b node=/dev/mapper/disk
	truncate -s 48M "$a" "$b"
	mkfs.ext4 -q -F -L first "$a"
	mkfs.ext4 -q -F -L second -U 00000000-1111-2222-3333-444444444444 "$b"
	start_udev
	loop_dev disk "$a" >/dev/null
	leads_to /dev/disk/by-label/first "$node"
	leads_to /dev/disk/by-id/dm-name-disk "$node"
	matches "the node is udev's" "$(readlink "$node")" '^\.\./dm-[0-9]+$'

	matches "a change when it has grown" " $(uevents grow "$a") " ' change '
	same "size" "$(blockdev --getsize64 "$node")" $((64 << 20))
	same "size in sysfs" "$(<"/sys/block/$(basename "$(readlink -f "$node")")/size")" $((128 << 10))
	leads_to /dev/disk/by-label/first "$node"

	matches "a change when the file is another" " $(uevents replace "$b") " ' change '
	leads_to /dev/disk/by-label/second "$node"
	leads_to /dev/disk/by-uuid/00000000-1111-2222-3333-444444444444 "$node"
	check "the old link is gone" test ! -e /dev/disk/by-label/first
	check "the old file is free" truncate -s 64M "$a"
	fails ETXTBSY truncate -s 64M "$b"

	note "a suspended device does not hang udev"
	within dmsetup suspend disk
	udevadm trigger --action=change "$(readlink -f "$node")"
	check "settled" within udevadm settle --timeout=30
	within dmsetup resume disk
	leads_to /dev/disk/by-label/second "$node"
	within dmsetup remove disk
	udevadm settle
	check "the links are gone" test ! -e /dev/disk/by-label/second
	stop_udev
}

on_fs()
{
	note "full, on $1"
	full "$@"
	note "with udev, on $1"
	with_udev "$@"
	note "broken, on $1"
	broken "$@"
	# A filesystem that is shut down unmounts like any other
	umount "$2"
}
for_each_fs on_fs ext4 xfs
