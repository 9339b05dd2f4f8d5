# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: reload, suspend, resume and remove in every order, and what makes a resume fail
# TIMEOUT: 300

# shellcheck disable=SC2154 # state is set in lib.sh

size=$((4 << 20))

free()
{
	same "pin of the suspended device" "$(status_field r pin)" none
	check "the file can be written" dd if=/dev/null of="$1" conv=notrunc status=none
	truncate -s +4096 "$1"
	truncate -s "$size" "$1"
}

pinned()
{
	fails ETXTBSY truncate -s 0 "$1"
}

state_of()
{
	dmsetup info -c --noheadings -o suspended,tables_loaded r
}

# Writes the device over and over, each time with another pattern, until told to stop.
writer()
{
	local key=0
	while [ ! -e "$state/stop" ]; do
		key=$((key + 1))
		pattern write "$key" 0 "$size" | dd of="$dev" bs=256K iflag=fullblock oflag=direct status=none
		pattern check "$key" 0 "$size" <"$dev"
	done
	echo "$key" >"$state/key"
}

# waits PID: for its I/O
waits() { grep -q '(dd) D' "/proc/$1/stat"; }

is_syncing()
{
	grep -q '(sync) D' "/proc/$1/stat"
}

# What is written back waits for the resume, under a lock of the block layer.
with_sync()
{
	local file=$1 pid status=0
	note "sync(2) waits for a device that is reloaded"
	exec 8<>"$dev"
	dmsetup suspend r
	pattern write 9 0 $((1 << 20)) | dd of="$dev" bs=64K iflag=fullblock conv=notrunc status=none
	sync &
	pid=$!
	soon "it waits" is_syncing $pid
	dmsetup table r | dmsetup load r
	timeout $((20 * ${DMLOOP_TIME_FACTOR:-1})) dmsetup resume r || status=$?
	same "resume" "$status" 0
	wait $pid
	exec 8<&-
	check "what was written" pattern check 9 0 $((1 << 20)) < <(head -c 1M "$file")
}

with_io()
{
	local file=$1 pid i
	rm -f "$state/stop"
	writer &
	pid=$!
	for ((i = 0; i < 4; i++)); do
		dmsetup table r | dmsetup load r
		sleep 0.3
		dmsetup resume r
		dmsetup suspend r
		dmsetup table r | dmsetup load r
		dmsetup resume r
	done
	: >"$state/stop"
	wait "$pid"
	same "mode" "$(status_field r mode)" mapped
	matches "the table is the filesystem's" "$(dmsetup message r 0 check)" '^ok'
	drop_caches
	check "what was written last" pattern check "$(cat "$state/key")" 0 "$size" <"$file"
}

reload()
{
	local file=$2/image other=$2/other pid table
	written_file "$file" "$size"
	written_file "$other" "$size"
	dev=$(loop_dev r "$file")
	table=$(dmsetup table r)

	note "reload while there is I/O"
	with_io "$file"
	with_sync "$file"
	# Filled through the old table between load and resume: the new one must know.
	dmsetup remove r
	truncate -s 0 "$file"
	truncate -s "$size" "$file"
	dev=$(loop_dev r "$file")
	dmsetup load r --table "$table"
	pattern write 5 0 "$size" | dd of="$dev" bs=256K iflag=fullblock oflag=direct conv=fsync status=none
	dmsetup resume r
	check "what was filled before the resume" pattern check 5 0 "$size" <"$dev"

	note "load, suspend"
	dmsetup load r --table "$table"
	pinned "$file"
	dmsetup suspend r
	free "$file"
	dmsetup resume r
	pinned "$file"
	note "suspend, load"
	dmsetup suspend r
	free "$file"
	dmsetup load r --table "$table"
	free "$file"
	dmsetup clear r
	free "$file"
	dmsetup resume r
	pinned "$file"
	check "the data" pattern check 5 0 "$size" <"$dev"

	note "I/O waits while it is suspended"
	dmsetup suspend r
	pattern write 6 0 "$size" | dd of="$dev" bs=256K iflag=fullblock oflag=direct status=none &
	pid=$!
	soon "it waits" waits "$pid"
	free "$file"
	dmsetup resume r
	wait "$pid"
	check "then it is done" pattern check 6 0 "$size" <"$dev"

	note "grow"
	dmsetup suspend r
	truncate -s $((2 * size)) "$file"
	dmsetup load r --table "$(loop_table "$file")"
	dmsetup resume r
	same "size" "$(blockdev --getsize64 "$dev")" $((2 * size))
	check "the old part" pattern check 6 0 "$size" <"$dev"
	pattern write 6 "$size" "$size" | dd of="$dev" bs=256K seek=$((size / 262144)) iflag=fullblock oflag=direct status=none
	check "all of it" pattern check 6 0 $((2 * size)) <"$dev"
	note "shrink"
	dmsetup suspend r
	truncate -s "$size" "$file"
	dmsetup load r --table "$table"
	dmsetup resume r
	same "size" "$(blockdev --getsize64 "$dev")" "$size"

	note "another file"
	dmsetup load r --table "$(loop_table "$other")"
	fails ETXTBSY truncate -s +4096 "$file"
	fails ETXTBSY truncate -s +4096 "$other"
	dmsetup suspend r
	check "the second file is free, too" truncate -s +4096 "$other"
	truncate -s "$size" "$other"
	dmsetup resume r
	same "the data" "$(digest "$dev")" "$(digest "$other")"
	check "the first file is free" truncate -s "$size" "$file"
	fails ETXTBSY truncate -s +4096 "$other"
	dmsetup load r --table "$table"
	dmsetup resume r
	check "the first file again" pattern check 6 0 "$size" <"$dev"

	note "a resume that fails"
	failing_resumes "$file"

	note "remove while it is suspended"
	dmsetup suspend r
	dmsetup remove r
	pattern check 6 0 "$size" <"$file"
	dd if=/dev/null of="$file" conv=notrunc status=none
	dev=$(loop_dev r "$file")
	dmsetup suspend r
	dmsetup load r --table "$table"
	dmsetup remove r
	rm "$file"
	dev=$(loop_dev r "$other")
	dmsetup load r --table "$(loop_table "$other")"
	dmsetup remove r
	rm "$other"
}

# cannot ERRNO TEXT: the resume fails, and the device stays as it is
cannot()
{
	fails "$1:cannot resume: $2 \(-[0-9]+\)" dmsetup resume r
	same "state" "$(state_of)" "Suspended:Live"
	same "mode" "$(status_field r mode)" released
}

failing_resumes()
{
	local file=$1
	dmsetup suspend r
	truncate -s $((size - 4096)) "$file"
	cannot EINVAL "File is shorter than the table says"
	truncate -s 0 "$file"
	cannot EINVAL "Offset is past the end of the file"
	pattern write 6 0 "$size" >"$file"
	exec 5<>"$file"
	cannot ETXTBSY "File is open for writing elsewhere"
	exec 5>&-
	mkswap -q "$file" 2>/dev/null
	sync -f "$file"
	chmod 600 "$file"
	swapon "$file"
	cannot EBUSY "File is in use as swap"
	swapoff "$file"
	pattern write 6 0 "$size" >"$file"
	mv "$file" "$file.old"
	cp "$file.old" "$file"
	cannot ESTALE "Another file is in its place"
	mv "$file.old" "$file"
	dmsetup resume r
	same "state" "$(state_of)" "Active:Live"
	check "after it was mended it works" pattern check 6 0 "$size" <"$dev"
	pinned "$file"

	# Deleted: what is open is still there, but nobody would find it again.
	dmsetup suspend r
	ln "$file" "$file.second"
	rm "$file"
	mv "$file.second" "$file"
	dmsetup resume r
	check "with another link in its place" pattern check 6 0 "$size" <"$dev"
}
for_each_fs reload ext4 xfs

# Loaded while it is suspended, a table is taken for what it says itself
other_kind()
{
	local file
	note "what another kind of table takes the place of"
	file=$(mkfs_mount -o nodelalloc ext4)/image
	written_file "$file" "$size"
	chattr +j "$file"
	dev=$(loop_dev r "$file")
	same "journalled" "$(status_field r mode)" file
	dmsetup suspend r
	chattr -j "$file"
	dmsetup resume r
	same "resumed without a new table" "$(status_field r mode)" file
	dmsetup suspend r
	dmsetup load r --table "$(loop_table "$file" 0 mapped)"
	dmsetup resume r
	same "with one" "$(status_field r mode) $(status_field r pin)" "mapped write+swap"
	dmsetup suspend r
	truncate -s $((2 * size)) "$file"
	dmsetup load r --table "$(loop_table "$file")"
	dmsetup resume r
	same "without the option mapped" "$(status_field r mode) $(status_field r hole)" "mapped $((size / 512))"
	xfs_io -d -c "pwrite -q -S 7 -b 1m $size $size" -c fsync "$dev"
	dmsetup remove r
	cleanup_devices
}
other_kind

note "deleted while it was suspended"
dir=$(mkfs_mount ext4)
written_file "$dir/image" "$size"
dev=$(loop_dev r "$dir/image")
dmsetup suspend r
rm "$dir/image"
cannot ENOENT "File was deleted"
dmsetup remove r
check "the filesystem can be unmounted" umount "$dir"
