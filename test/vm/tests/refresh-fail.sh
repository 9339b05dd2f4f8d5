# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a resume that cannot be fails with the reason and leaves the device as it was; frozen and full hosts hang nobody
# LONG: some steps wait for seconds, and each is checked
# TIMEOUT: 900

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# Of the filesystem on our device, when that of the host is full.
allow 'EXT4-fs .*dm-[0-9]' 'Buffer I/O error on dev(ice)? dm-' 'JBD2: .*dm-' 'Aborting journal on device dm-'

goes_on()
{
	resume disk
	same "mode" "$(status_field disk mode)" mapped
	writer_goes_on
}

# ------------------------------------------ what may be wrong with the file --

bad_file()
{
	local dir=$2/images image=$2/images/image
	mkdir "$dir"
	truncate -s 24M "$image"
	writer_start "$(loop_dev disk "$image")" $((8 << 20))

	note "too short"
	suspend disk
	truncate -s 20M "$image"
	no_resume disk "File is shorter than the table says"
	no_resume disk "File is shorter than the table says"
	truncate -s 24M "$image"
	within dmlosetup --refresh disk
	writer_goes_on
	suspend disk
	cp --reflink=never "$image" "$image.copy"
	: >"$image"
	no_resume disk "Offset is past the end of the file"
	# cat may clone, and shared blocks are not mapped
	dd if="$image.copy" of="$image" bs=1M conv=notrunc status=none
	goes_on

	note "renamed, and found by its other name"
	suspend disk
	mv "$image" "$image.other"
	goes_on
	suspend disk
	mv "$image.other" "$image"
	goes_on

	note "deleted"
	suspend disk
	cp --reflink=never "$image" "$image.copy"
	rm "$image"
	no_resume disk "File was deleted"
	mv "$image.copy" "$image"
	no_resume disk "File was deleted"
	reload disk "$image"
	goes_on

	note "replaced"
	suspend disk
	mv "$image" "$image.old"
	cp --reflink=never "$image.old" "$image"
	no_resume disk "Another file is in its place"
	mv "$image.old" "$image"
	goes_on

	note "another filesystem is mounted over it"
	suspend disk
	mkdir "$dir.over"
	mount -t tmpfs over "$dir.over"
	cp "$image" "$dir.over/image"
	mount --bind "$dir.over" "$dir"
	no_resume disk "Another file is in its place"
	umount "$dir" "$dir.over"
	goes_on

	note "open for writing"
	suspend disk
	exec 7<>"$image"
	no_resume disk "File is open for writing elsewhere"
	exec 7>&-
	goes_on
	suspend disk
	losetup /dev/loop7 "$image"
	no_resume disk "File is open for writing elsewhere"
	losetup -d /dev/loop7
	goes_on

	note "removed where it stands"
	writer_stop
	suspend disk
	truncate -s 20M "$image"
	no_resume disk "File is shorter than the table says"
	within dmsetup remove disk
	check "the file is free" truncate -s 0 "$image"
}

# ------------------------------------------------------ loads come when they like --

orders()
{
	local image=$2/image
	truncate -s 24M "$image"
	writer_start "$(loop_dev disk "$image")" $((8 << 20))

	note "load, suspend, change, resume"
	reload disk "$image" 0 no_discard
	suspend disk
	move_blocks "$image"
	goes_on
	same "the new table is live" "$(dmsetup table disk)" "$(loop_table "$image" 0 no_discard)"

	note "suspend, change, load, resume"
	suspend disk
	move_blocks "$image"
	reload disk "$image"
	same "the file is still its owner's" "$(status_field disk mode)" released
	move_blocks "$image"
	goes_on
	same "the new table is live" "$(dmsetup table disk)" "$(loop_table "$image")"

	note "load, clear, suspend, load, clear, resume"
	reload disk "$image" 0 no_discard
	within dmsetup clear disk
	suspend disk
	reload disk "$image" 0 no_discard
	within dmsetup clear disk
	move_blocks "$image"
	goes_on
	same "the old table is live" "$(dmsetup table disk)" "$(loop_table "$image")"

	note "load, suspend, too short, resume"
	reload disk "$image" 0 no_discard
	suspend disk
	truncate -s 20M "$image"
	no_resume disk "File is shorter than the table says"
	truncate -s 24M "$image"
	goes_on
	same "the new table is live" "$(dmsetup table disk)" "$(loop_table "$image" 0 no_discard)"

	note "suspend, too short, load"
	suspend disk
	truncate -s 20M "$image"
	fails "File is shorter than the table says" within dmsetup load disk --table "0 $((24 << 11)) loop $image 0"
	no_resume disk "File is shorter than the table says"
	truncate -s 24M "$image"
	goes_on

	note "loaded, suspended, removed"
	writer_stop
	reload disk "$image"
	suspend disk
	check "the file is free" dd if="$image" of="$image" bs=1M count=1 conv=notrunc status=none
	within dmsetup remove disk
	check "the file is free" truncate -s 0 "$image"
}

# ----------------------------------------------- with a filesystem on the device --

kinds_of_suspend()
{
	local image=$2/image how
	truncate -s 48M "$image"
	inner_mount ext4 "$(loop_dev disk "$image")"
	churn_start "$inner"
	writer_start "$inner/data" $((8 << 20))
	for how in --noflush --nolockfs '--noflush --nolockfs'; do
		note "suspend $how"
		# shellcheck disable=SC2086
		suspend disk $how
		move_blocks "$image"
		goes_on
		churn_goes_on
	done
	churn_stop
	writer_stop
	inner_check
}

# ------------------------------------------------------------------ a full host --

full()
{
	local dir=$2 image=$2/image node
	dd if=/dev/zero of="$image" bs=1M count=4 conv=fsync status=none
	truncate -s 12M "$image"
	node=$(loop_dev disk "$image")
	fill_up "$dir"
	fails ENOSPC dd if=/dev/zero of="$node" bs=1M seek=4 oflag=direct status=none
	writer_start "$node" $((4 << 20))
	suspend disk
	goes_on
	suspend disk
	reload disk "$image" 0 no_discard
	goes_on
	fails ENOSPC dd if=/dev/zero of="$node" bs=1M seek=4 oflag=direct status=none
	rm "$dir"/full.*
	sync -f "$dir"
	goes_on
	check "there is space again" dd if=/dev/zero of="$node" bs=1M seek=4 count=8 oflag=direct status=none
	writer_stop
}

# What a filesystem above has not written yet has no place
full_mounted()
{
	local dir=$2 image=$2/image nospc how
	truncate -s 48M "$image"
	inner_mount ext4 "$(loop_dev disk "$image")"
	sync -f "$inner"
	fill_up "$dir"
	nospc=$(status_field disk nospc)
	for how in --nolockfs --noflush ''; do
		note "suspend $how"
		{ pattern write 8 0 $((6 << 20)) >"$inner/lost$how"; } 2>/dev/null || note "it takes no more"
		# It cannot be frozen when it cannot write
		# shellcheck disable=SC2086
		within dmsetup suspend disk $how || note "not suspended"
		within dmsetup resume disk
		same "as it was" "$(state_of disk) $(status_field disk mode)" "Active mapped"
	done
	same "there was no space" "$(($(status_field disk nospc) > nospc))" 1
	rm "$dir"/full.*
	sync -f "$dir"
	within dmsetup suspend --nolockfs disk
	resume disk
	umount "$inner"
	# The journal, and then it is as it should be
	mount "$inner_dev" "$inner"
	umount "$inner"
	e2fsck -fn "$inner_dev" >"$state/fsck" 2>&1 || fail "e2fsck: $(<"$state/fsck")"
	mount "$inner_dev" "$inner"
	check "there is space again" dd if=/dev/zero of="$inner/new" bs=1M count=4 conv=fsync status=none
	inner_check
}

# ---------------------------------------------------------------- a frozen host --

is_free() { [ "$(status_field disk mode)" = released ]; }
can_write() { { : >>"$1"; } 2>/dev/null; }

frozen()
{
	local dir=$2 image=$2/image node pid waits held
	truncate -s 24M "$image"
	node=$(loop_dev disk "$image")

	note "suspend and resume"
	pattern write 5 0 $((8 << 20)) | dd of="$node" bs=1M oflag=direct iflag=fullblock status=none
	fsfreeze -f "$dir"
	within dmsetup suspend disk
	within dmsetup resume disk
	same "as it was" "$(state_of disk) $(status_field disk mode)" "Active mapped"
	within dmsetup suspend disk
	fsfreeze -u "$dir"
	soon "given back" is_free
	move_blocks "$image"
	resume disk
	check "data" pattern check 5 0 $((8 << 20)) < <(dd if="$node" bs=1M count=8 iflag=direct status=none)

	note "with writes that wait"
	fsfreeze -f "$dir"
	pattern write 6 0 $((16 << 20)) | dd of="$node" bs=1M oflag=direct iflag=fullblock status=none &
	pid=$!
	held=$(status_field disk held)
	soon "writes are held" held_more "$held"
	within dmsetup suspend --noflush disk
	within dmsetup resume disk
	within dmsetup suspend --noflush disk
	reload disk "$image" 0 no_discard
	within dmsetup resume disk
	# One that waits for them ends when they do
	within dmsetup suspend --nolockfs disk &
	waits=$!
	sleep 0.2
	fsfreeze -u "$dir"
	check "the suspend ends" wait "$waits"
	within dmsetup resume disk
	check "the writes are done" wait "$pid"
	check "data" pattern check 6 0 $((16 << 20)) < <(dd if="$node" bs=1M count=16 iflag=direct status=none)
	table_is_right disk

	note "remove"
	dd if=/dev/zero of="$node" bs=4K count=1 seek=5000 oflag=direct status=none
	fsfreeze -f "$dir"
	within dmsetup remove disk
	fsfreeze -u "$dir"
	soon "given back" can_write "$image"
	check "data" pattern check 6 0 $((16 << 20)) <"$image"

	note "remove while suspended"
	node=$(loop_dev disk "$image")
	dd if=/dev/zero of="$node" bs=4K count=1 seek=5000 oflag=direct status=none
	fsfreeze -f "$dir"
	within dmsetup suspend disk
	within dmsetup remove disk
	fsfreeze -u "$dir"
	soon "given back" can_write "$image"
	check "data" pattern check 6 0 $((16 << 20)) <"$image"
}

held_more() { [ "$(status_field disk held)" -gt "$1" ]; }

# What a filesystem above has not written yet is written by the suspend, after the thaw
frozen_mounted()
{
	local dir=$2 image=$2/image mapped written held pid
	truncate -s 48M "$image"
	inner_mount ext4 "$(loop_dev disk "$image")"
	# What it would yet write zeroes to would be mapped no more
	mount -o remount,noinit_itable "$inner"
	sync -f "$inner"
	mapped=$(status_field disk mapped)
	held=$(status_field disk held)
	fsfreeze -f "$dir"
	pattern write 8 0 $((4 << 20)) >"$inner/dirty"
	within dmsetup suspend disk &
	pid=$!
	soon "what is written is held" held_more "$held"
	check "the suspend waits" kill -0 "$pid"
	same "for blocks" "$(status_field disk mapped)" "$mapped"
	fsfreeze -u "$dir"
	check "the suspend ends" wait "$pid"
	same "suspended" "$(state_of disk)" Suspended
	soon "given back" is_free
	resume disk
	written=$(($(status_field disk mapped) - mapped))
	# A part may be where zeroes were written around something else
	check "$written sectors are written" test "$written" -gt 4096
	suspend disk
	move_blocks "$image"
	resume disk
	drop_caches
	check "data" pattern check 8 0 $((4 << 20)) <"$inner/dirty"
	inner_check
}

# --------------------------------------------------- while holes are being filled --

# In an order that leaves holes between what is filled
place() { echo $(($1 * 29 % 512)); }

# fill_holes NODE: a MiB after the other until $state/enough is there; $state/filled says how many
fill_holes()
{
	local n
	for ((n = 0; n < 512; n++)); do
		[ ! -e "$state/enough" ] || break
		pattern write 9 $(($(place $n) << 20)) $((1 << 20)) |
			dd of="$1" bs=32K seek="$(place $n)M" oflag=direct,seek_bytes iflag=fullblock status=none
	done
	echo "$n" >"$state/filled"
}

# each_filled FILE: is what was filled there?
each_filled()
{
	local n filled
	filled=$(<"$state/filled")
	for ((n = 0; n < filled; n++)); do
		dd if="$1" bs=1M skip="$(place $n)" count=1 status=none |
			pattern check 9 $(($(place $n) << 20)) $((1 << 20)) || return
	done
}

fills_more() { [ "$(status_field disk fills)" -gt "$1" ]; }

while_filling()
{
	local image=$2/image node pid n fills=0 options=('' '--noflush' '--nolockfs')
	truncate -s 512M "$image"
	node=$(loop_dev disk "$image")
	rm -f "$state/enough"
	fill_holes "$node" &
	pid=$!
	for ((n = 0; n < 12; n++)); do
		# Neither before the first of them nor after the last
		soon "holes are filled" fills_more "$fills"
		check "and more are to come" kill -0 "$pid"
		# shellcheck disable=SC2086
		suspend disk ${options[n % 3]}
		move_blocks "$image"
		resume disk
		fills=$(status_field disk fills)
	done
	: >"$state/enough"
	check "all is written" wait "$pid"
	note "$(<"$state/filled") MiB, $(status_field disk fills) fills"
	table_is_right disk
	drop_caches
	check "data" each_filled "$node"
	within dmsetup remove disk
	check "data in the file" each_filled "$image"
}

on_fs()
{
	local fs=$1 dir=$2 part nth=0
	for part in bad_file orders kinds_of_suspend while_filling full full_mounted frozen frozen_mounted; do
		nth=$((nth + 1))
		is_drawn "$1" "$nth" || continue
		note "$part on $fs"
		mkdir "$dir/$part"
		"$part" "$fs" "$dir/$part"
		! dmsetup info disk >/dev/null 2>&1 || within dmsetup remove disk
		rm -rf "${dir:?}/$part"
	done
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	draw_parts
	for_each_fs on_fs ext4 xfs
done
