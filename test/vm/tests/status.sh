# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: what status and table say; a sparse file that is only read gives zeroes
# LONG: compares each number with what the filesystem says
# TIMEOUT: 300

key=
random key 1000000

# states DEVICE: mapped hole unwritten shared extents
states()
{
	echo "$(status_field "$1" mapped) $(status_field "$1" hole) $(status_field "$1" unwritten) $(status_field "$1" shared) $(status_field "$1" extents)"
}

# words FIRST LAST: of the status line, the target's own being counted from 1
words()
{
	dmsetup status s | cut -d' ' -f$(($1 + 3))-$(($2 + 3))
}

zeroes()
{
	cmp -n "$2" -i "$1:0" "$dev" /dev/zero
}

# A MiB each of data, hole, unwritten, data.
status()
{
	local fs=$1 dir=$2 file=$2/image swap='' place count disk
	[ "$fs" != xfs ] || swap=+swap
	pattern write "$key" 0 $((1 << 20)) >"$file"
	truncate -s 4M "$file"
	fallocate -o 2M -l 1M "$file"
	pattern write "$key" $((3 << 20)) $((1 << 20)) | dd of="$file" bs=1M seek=3 iflag=fullblock conv=notrunc status=none
	sync -f "$file"
	# What lies in the unwritten blocks is not to be seen. Make sure that it would be.
	place=$(filefrag -e -b4096 "$file" | awk '/unwritten/ { sub(/\.\./, "", $4); print $4; exit }')
	disk=$(findmnt -no SOURCE "$dir")
	pattern write 7 0 65536 | dd of="$disk" bs=4096 seek="$place" iflag=fullblock oflag=direct conv=notrunc status=none
	drop_caches

	note "for reading"
	dev=$(loop_dev -r s "$file")
	same "mode, filesystem, pin" "$(words 1 3)" "mapped $fs read$swap"
	same "sectors per state" "$(states s)" "4096 2048 2048 0 4"
	count=$(words 9 9)
	same "number of words" "$(dmsetup status s | cut -d' ' -f13- | wc -w)" "$count"
	check "data before" pattern check "$key" 0 $((1 << 20)) <"$dev"
	check "the hole" zeroes $((1 << 20)) $((1 << 20))
	check "unwritten blocks" zeroes $((2 << 20)) $((1 << 20))
	check "data behind" pattern check "$key" $((3 << 20)) $((1 << 20)) < <(tail -c +$(((3 << 20) + 1)) "$dev")
	check "reads of zeroes are counted" test "$(status_field s zero_reads)" -gt 0
	same "all of it" "$(digest "$dev")" "$(digest "$file")"
	fails "" dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct
	dmsetup remove s

	note "only a part"
	dmsetup create s -r --table "0 4088 loop $file 1046528"
	same "sectors per state" "$(states s)" "4 2048 2036 0 3"
	same "the data" "$(digest /dev/mapper/s)" "$(tail -c +1046529 "$file" | head -c $((4088 * 512)) | sha256sum | cut -d' ' -f1)"
	dmsetup remove s

	note "for writing"
	dev=$(loop_dev s "$file")
	same "mode, filesystem, pin" "$(words 1 3)" "mapped $fs write$swap"
	same "sectors per state" "$(states s)" "4096 2048 2048 0 4"
	dmsetup suspend s
	same "when it is suspended" "$(words 1 8)" "released $fs none 0 0 0 0 0"
	dmsetup resume s
	same "when it is resumed" "$(words 1 3)" "mapped $fs write$swap"
	pattern write "$key" $((1 << 20)) 65536 | dd of="$dev" bs=64K seek=16 iflag=fullblock oflag=direct conv=fsync status=none
	same "all sectors are in one state" "$(($(states s | sed 's/ [0-9]*$//; s/ /+/g')))" 8192
	check "the filled ones are mapped" test "$(status_field s mapped)" -ge 4224
	check "fills are counted" test "$(status_field s fills)" -gt 0
	check "and promotes" test "$(status_field s promotes)" -gt 0
	dmsetup remove s

	# TABLE and IMA
	dev=$(loop_dev s "$file" 3145728 chunk 131072 no_discard unshare)
	same "table" "$(dmsetup table s)" "0 2048 loop $file 3145728 4 no_discard unshare chunk 131072"
	dmsetup table s | dmsetup load s
	dmsetup resume s
	same "table after it was loaded again" "$(dmsetup table s)" "0 2048 loop $file 3145728 4 no_discard unshare chunk 131072"
	same "IMA" "$(dmsetup measure s)" \
		"0 2048 loop target_name=loop,target_version=1.0.0,path=$file,offset=3145728,options= 4 no_discard unshare chunk 131072;"
	dmsetup remove s
	dev=$(loop_dev s "$file" 3145728 mapped)
	same "table" "$(dmsetup table s)" "0 2048 loop $file 3145728 1 mapped"
	same "mode, filesystem, pin" "$(words 1 3)" "mapped $fs write+swap"
	dmsetup remove s

	if [ "$fs" = xfs ]; then
		note "shared"
		xfs_io -f -c "reflink $file 0 0 65536" "$dir/clone" >/dev/null
		sync -f "$dir"
		dev=$(loop_dev -r s "$file")
		# 128 KiB have been filled: 64 above, and what is allocated at once is unwritten.
		same "shared sectors" "$(status_field s shared)" 128
		same "all sectors are in one state" "$(($(states s | sed 's/ [0-9]*$//; s/ /+/g')))" 8192
		same "the data" "$(digest "$dev")" "$(digest "$file")"
		dmsetup remove s
		dev=$(loop_dev s "$file")
		same "mode, filesystem, pin" "$(words 1 3)" "file xfs write"
		same "sectors per state" "$(states s)" "0 0 0 0 0"
		dmsetup remove s
	fi
}
for_each_fs status ext4 xfs

tmpfs=$(mkfs_mount tmpfs)
written_file "$tmpfs/image" 65536
dev=$(loop_dev s "$tmpfs/image")
same "mode, filesystem, pin" "$(words 1 8)" "file tmpfs write 0 0 0 0 0"
dmsetup suspend s
same "when it is suspended" "$(words 1 3)" "released tmpfs none"
dmsetup remove s
