# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: copies an image four times under load
# DESCRIPTION: dmlosetup --replace moves the image of a device in use, and nothing is lost
# TIMEOUT: 300

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# table_word N: of the table of disk
table_word()
{
	dmsetup table disk | cut -d' ' -f"$1"
}

# is_below DISK: and no other
is_below()
{
	[ "$(ls "/sys/block/$(dmsetup info -c --noheadings -o blkdevname disk)/slaves")" = "$1" ]
}

# the disk below a folder
disk_of()
{
	basename "$(findmnt -n -o SOURCE -T "$1")"
}

# replaced OLD NEW: the device has the one and not the other
replaced()
{
	same "its file" "$(table_word 4)" "$(escape "$2")"
	same "it is in use" "$(state_of disk)" Active
	table_is_right disk
	soon "the disk below" is_below "$(disk_of "$2")"
	check "the old file is free" truncate -s +1 "$1"
	fails ETXTBSY truncate -s +1 "$2"
}

moves()
{
	local from=$1/image to=$2/image text
	note "from $1 to $2, mounted and written to"
	truncate -s 64M "$from"
	chmod 640 "$from"
	chown daemon:daemon "$from"
	inner_mount ext4 "$(loop_dev disk "$from" 0 chunk 65536)"
	mount -o remount,discard "$inner"
	churn_start "$inner"
	writer_start "$inner/data" $((8 << 20))
	text=$(within dmlosetup --replace disk "$to")
	matches "what it says" "$text" "^$to: replaces $from of /dev/mapper/disk, .* suspended for [0-9.]+ ms"
	replaced "$from" "$to"
	same "the options stay" "$(dmsetup table disk | cut -d' ' -f5-)" "0 2 chunk 65536"
	same "owner and mode stay" "$(stat -c %U:%a "$to")" daemon:640
	check "it stays sparse" test "$(stat -c %b "$to")" -lt $((48 << 11))
	churn_goes_on
	writer_goes_on

	note "and back, by a relative name with a blank"
	(cd "$1" && within dmlosetup --replace disk "its image" >/dev/null)
	replaced "$to" "$1/its image"
	churn_goes_on
	churn_stop
	writer_stop
	drop_caches
	inner_check
	same "device and file are one" "$(digest /dev/mapper/disk)" "$(digest "$1/its image")"
	dmlosetup -d disk
	rm "$from" "$to" "$1/its image"
}

kinds()
{
	local image=$1/image new=$2/new
	note "a part of a file"
	written_file "$image" $((8 << 20))
	loop_dev disk "$image" $((1 << 20)) >/dev/null
	dmlosetup --replace disk "$new" >/dev/null
	same "from its beginning" "$(table_word 2,5)" "$((7 << 11)) 0"
	check "data" cmp "$new" <(tail -c +$(((1 << 20) + 1)) "$image")
	dmlosetup -d disk
	rm "$new"

	note "read-only"
	loop_dev -r disk "$image" >/dev/null
	dmlosetup --replace disk "$new" >/dev/null
	same "it stays so" "$(blockdev --getro /dev/mapper/disk)" 1
	check "data" cmp "$new" "$image"
	dmlosetup -d disk
	rm "$new"

	note "fully written, though half of it is zeroes"
	fallocate -p -o 0 -l 4M "$image"
	dmlosetup --prepare "$image"
	dmlosetup --mapped disk "$image"
	dmlosetup --replace disk "$new" >/dev/null
	same "it stays so" "$(status_field disk mapped)" $((8 << 11))
	check "data" cmp "$new" "$image"
	dmlosetup -d disk
	rm "$new"

	note "preallocated"
	rm "$image"
	fallocate -l 8M "$image"
	loop_dev disk "$image" >/dev/null
	dmlosetup --replace disk "$new" >/dev/null
	same "it stays so" "$(status_field disk unwritten)" $((8 << 11))
	dmlosetup -d disk

	note "larger sectors"
	there=$(mkfs_mount -d 4k xfs)
	loop_dev disk "$new" >/dev/null
	fails "larger sectors, of 4096 bytes" dmlosetup --replace disk "$there/image"
	check "none is left" test ! -e "$there/image"
	dmlosetup -d disk
	rm "$image" "$new"
}

ext4=$(mkfs_mount ext4)
xfs=$(mkfs_mount xfs)
moves "$ext4" "$xfs"
moves "$xfs" "$ext4"
kinds "$ext4" "$xfs"
