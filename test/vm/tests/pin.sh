# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: nobody can remap the file while it is attached; suspend and remove give it back
# TIMEOUT: 400

key=
random key 1000000
size=$((4 << 20))

# The file in pieces, so that a defragmenter would have work to do.
make_image()
{
	local file=$1 i
	for ((i = 0; i < 16; i++)); do
		fallocate -o $((i * size / 16)) -l $((size / 16)) "$file"
		fallocate -o $((i * size / 16)) -l $((size / 16)) "$file.other"
	done
	pattern write "$key" 0 "$size" | dd of="$file" bs=1M iflag=fullblock conv=notrunc,fsync status=none
	rm "$file.other"
	cp --reflink=never "$file" "$file.same"
	sync -f "$file"
}

intact()
{
	matches "the table is the filesystem's" "$(dmsetup message p 0 check)" '^ok [0-9]+$'
	check "the data of the device" pattern check "$key" 0 "$size" <"$dev"
	check "the data of the file" pattern check "$key" 0 "$size" <"$1"
}

# What whoever could write the file would do.
writers()
{
	local file=$1 loop
	fails ETXTBSY dd if=/dev/zero of="$file" bs=4k count=1 conv=notrunc
	fails ETXTBSY truncate -s 0 "$file"
	fails ETXTBSY truncate -s 65536 "$file"
	fails ETXTBSY truncate -s +1M "$file"
	fails ETXTBSY fallocate -o "$size" -l 1M "$file"
	fails ETXTBSY fallocate -p -l 64K "$file"
	fails ETXTBSY fallocate -c -l 64K "$file"
	fails ETXTBSY xfs_io -c "copy_range $file.same" "$file"
	# swapon(8) would first look for a swap header.
	# shellcheck disable=SC2016 # perl's
	fails ETXTBSY perl -e 'syscall(167, $ARGV[0], 0) == 0 or die "$!\n"' "$file"
	fails ETXTBSY losetup -f "$file"
	loop=$(losetup -r -f --show "$file")
	fails "" blkdiscard "$loop"
	fails "" blkdiscard -z "$loop"
	losetup -d "$loop"
}

# What needs no more than to read it, on a filesystem that can share blocks.
sharers()
{
	local file=$1
	fails ETXTBSY cp --reflink=always "$file" "$file.clone"
	fails ETXTBSY cp --reflink=always "$file.same" "$file"
	# xfs_io succeeds whatever becomes of its commands.
	matches "no dedupe into it" "$(xfs_io -r -c "dedupe $file.same 0 0 65536" "$file" 2>&1)" "Text file busy"
	matches "no dedupe from it" "$(xfs_io -r -c "dedupe $file 0 0 65536" "$file.same" 2>&1)" "Text file busy"
	matches "no copy_file_range from it" "$(xfs_io -f -c "copy_range $file" "$file.copy" 2>&1)" "Text file busy"
	rm -f "$file.copy" "$file.clone"
}

names()
{
	local file=$1
	fails EPERM rm -f "$file"
	fails EPERM mv "$file" "$file.moved"
	fails EPERM mv -f "$file.same" "$file"
}

freed()
{
	local type=$1 file=$2
	pattern write "$key" 0 65536 | dd of="$file" bs=64K iflag=fullblock conv=notrunc status=none
	truncate -s +1M "$file"
	truncate -s "$size" "$file"
	fallocate -o "$size" -l 64K "$file"
	truncate -s "$size" "$file"
	mv "$file" "$file.moved"
	mv "$file.moved" "$file"
	if [ "$type" = xfs ]; then
		cp --reflink=always "$file" "$file.clone"
		xfs_io -r -c "dedupe $file.same 0 0 65536" "$file"
		# The copies go, or the file would be done by file I/O from now on.
		fallocate -u -l "$size" "$file" 2>/dev/null || xfs_io -c "funshare 0 $size" "$file"
		rm "$file.clone"
		check "xfs_fsr" xfs_fsr "$file"
	else
		check "e4defrag" e4defrag "$file"
	fi >&2
}

attached()
{
	local type=$1 file=$2/image
	shift 2
	make_image "$file"
	dev=$(loop_dev p "$file" 0 "$@")
	intact "$file"
	writers "$file"
	if [ "$type" = xfs ]; then
		sharers "$file"
		xfs_fsr -v "$file" >&2 || true
	else
		e4defrag -v "$file" >&2 || true
	fi
	if [[ "$(status_field p pin)" == *+swap ]]; then
		names "$file"
	else
		# No harm is done: the blocks belong to the inode.
		ln "$file" "$file.second"
		rm "$file"
		mv "$file.second" "$file"
	fi
	intact "$file"
	dmsetup suspend p
	same "pin" "$(status_field p pin)" none
	freed "$type" "$file"
	dmsetup resume p
	same "mode" "$(status_field p mode)" mapped
	intact "$file"
	fails ETXTBSY dd if=/dev/zero of="$file" bs=4k count=1 conv=notrunc
	fails ETXTBSY truncate -s 0 "$file"
	[ "$type" != xfs ] || fails ETXTBSY cp --reflink=always "$file" "$file.clone"
	intact "$file"
	dmsetup remove p
	freed "$type" "$file"
	check "the data after all" pattern check "$key" 0 "$size" <"$file"
	rm "$file"
}

ext4=$(mkfs_mount ext4)
xfs=$(mkfs_mount xfs)
note ext4
attached ext4 "$ext4"
note xfs
attached xfs "$xfs"
note "xfs, mapped"
attached xfs "$xfs" mapped

note "ext4, mapped: the name is protected too"
make_image "$ext4/image"
dev=$(loop_dev p "$ext4/image" 0 mapped)
same "pin" "$(status_field p pin)" write+swap
names "$ext4/image"
intact "$ext4/image"
dmsetup remove p

note "only for reading"
dev=$(loop_dev -r p "$ext4/image")
same "pin" "$(status_field p pin)" read
fails ETXTBSY dd if=/dev/zero of="$ext4/image" bs=4k count=1 conv=notrunc
fails ETXTBSY truncate -s 0 "$ext4/image"
intact "$ext4/image"
dmsetup remove p

note "a table that is loaded and taken away, while the device is suspended"
dev=$(loop_dev p "$ext4/image" 0)
dmsetup suspend p
dmsetup create other --notable
truncate -s $((2 * size)) "$ext4/image"
dmsetup load other --table "0 8 loop $ext4/image $size"
fails ETXTBSY truncate -s $size "$ext4/image"
dmsetup clear other
check "the file is its owner's again" truncate -s $size "$ext4/image"
dmsetup resume p
dmsetup remove other
intact "$ext4/image"
dmsetup remove p

note "a table that is loaded, and others that fail, or are taken away"
truncate -s $((2 * size)) "$ext4/image"
dmsetup create p --table "0 8 zero"
dmsetup load p --table "0 8 loop $ext4/image 0"
dmsetup create other --notable
fails "shorter than the table says" dmsetup load other --table "0 80000 loop $ext4/image 4096"
fails ETXTBSY truncate -s $size "$ext4/image"
dmsetup load other --table "0 8 loop $ext4/image 4096"
dmsetup clear other
fails ETXTBSY truncate -s $size "$ext4/image"
dmsetup load other --table "0 8 zero"
dmsetup resume other
dmsetup suspend other
dmsetup load other --table "0 8 loop $ext4/image 4096"
fails ETXTBSY truncate -s $size "$ext4/image"
dmsetup remove other
dmsetup resume p
dmsetup remove p
truncate -s $size "$ext4/image"

# chattr +j asks nobody. It moves no block; but what is filled would go through the journal.
# (Not with delayed allocation: there it does nothing.)
note "a journal of the data, while it is attached"
disk=$(findmnt -no SOURCE "$ext4")
umount "$ext4"
mount -o nodelalloc "$disk" "$ext4"
truncate -s $((2 * size)) "$ext4/image"
dev=$(loop_dev p "$ext4/image")
chattr +j "$ext4/image"
check "blocks that have data are written as ever" \
	dd if="$ext4/image.same" of="$dev" bs=64K count=1 oflag=direct conv=notrunc status=none
fails EIO dd if="$ext4/image.same" of="$dev" bs=64K count=1 seek=$((size / 65536)) oflag=direct conv=notrunc
# Nor are there new holes, which could not be filled again.
blkdiscard -o 65536 -l 65536 "$dev"
check "what was to be given back can be written" \
	dd if="$ext4/image.same" of="$dev" bs=64K skip=1 count=1 seek=1 oflag=direct conv=notrunc status=none
chattr -j "$ext4/image"
check "and holes too when it is off again" \
	dd if="$ext4/image.same" of="$dev" bs=64K count=1 seek=$((size / 65536)) oflag=direct conv=notrunc status=none
matches "the table is the filesystem's" "$(dmsetup message p 0 check)" '^ok'
dmsetup remove p
check "the data" pattern check "$key" 0 "$size" <"$ext4/image"
