# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: a model of discards at every offset
# DESCRIPTION: discard and write zeroes free exactly the whole blocks, which the device then no longer touches
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh
key=
random key 1000000

kib()
{
	du -k "$1" | cut -f1
}

# What a filesystem in the image allocates, and gives back: in $full and $trimmed.
use_and_trim()
{
	mkfs.ext4 -F -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$1"
	mkdir -p /mnt/top
	mount "$1" /mnt/top
	pattern write "$key" 0 $((12 << 20)) >/mnt/top/data
	pattern write "$key" 0 65536 >/mnt/top/stays
	sync -f /mnt/top
	full=$(kib "$2")
	rm /mnt/top/data
	sync -f /mnt/top
	fstrim /mnt/top
	check "what stays in it" pattern check "$key" 0 65536 </mnt/top/stays
	umount /mnt/top
	sync "$1"
	trimmed=$(kib "$2")
}

trim()
{
	local loop theirs freed full trimmed
	note "fstrim on $1"
	truncate -s 32M "$2/ours" "$2/theirs"
	loop=$(losetup -f --show --direct-io=on "$2/theirs")
	use_and_trim "$loop" "$2/theirs"
	losetup -d "$loop"
	theirs=$trimmed freed=$((full - trimmed))
	note "loop: $full KiB, then $trimmed"
	dev=$(loop_dev x "$2/ours")
	use_and_trim "$dev" "$2/ours"
	note "dm-loop: $full KiB, then $trimmed"
	check "as much is given back" test $((full - trimmed)) -ge $((freed - 64))
	check "what is left, with 64 KiB for what was written around data" test "$trimmed" -le $((theirs + 64))
	check "punches are counted" test "$(status_field x punches)" -gt 0
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	check "the filesystem in it" e2fsck -fn "$2/ours" >/dev/null 2>&1

	dev=$(loop_dev x "$2/ours" 0 no_discard)
	same "no_discard: limit" "$(cat "$(sysfs /dev/mapper/x)/queue/discard_max_bytes")" 0
	full=$(kib "$2/ours")
	fails EOPNOTSUPP blkdiscard "$dev"
	fails unsupported fallocate -p -l 1M "$dev"
	blkdiscard -z -l 2M "$dev"
	check "no_discard: zeroes" cmp -n 2M "$dev" /dev/zero
	sync "$dev"
	check "no_discard: KiB" test "$(kib "$2/ours")" -ge "$full"
	dmsetup remove x
}

# to_model OPERATION FIRST SECTORS: what it does, the blocks being 8 sectors, counted in the file.
# The block layer cuts a discard where blocks of the device would begin, and only whole
# blocks of the file in one piece are given back.
to_model()
{
	local first=$(($2 + offset)) end=$(($2 + offset + $3))
	if [ "$1" = discard ]; then
		first=$((($2 + 7) / 8 * 8 + offset))
		first=$(((first + 7) / 8 * 8)) end=$((end / 8 * 8))
	fi
	[ "$first" -ge "$end" ] ||
		dd if=/dev/zero of="$state/model" bs=512 seek="$first" count=$((end - first)) conv=notrunc status=none
}

to_device()
{
	local range=(-o $(($2 * 512)) -l $(($3 * 512)))
	case $1 in
	discard) blkdiscard "${range[@]}" "$dev" ;;
	zero) blkdiscard -z "${range[@]}" "$dev" ;;
	punch) fallocate -p "${range[@]}" "$dev" ;;
	esac
}

# edges OFFSET FILE: of the device in the file, in sectors
edges()
{
	local file=$2 op first n i operations=(discard zero punch)
	offset=$1
	note "edges, from sector $offset on"
	written_file "$file" $((1 << 20))
	cp "$file" "$state/model"
	dev=$(loop_dev x "$file" $((offset * 512)))
	for ((i = 0; i < 15; i++)); do
		op=${operations[i % 3]}
		random first 2000
		random n $((i % 2 ? 40 : 9))
		to_device "$op" "$first" $((n + 1))
		to_model "$op" "$first" $((n + 1))
		cmp "$dev" <(tail -c +$((offset * 512 + 1)) "$state/model") >&2 ||
			fail "after $op of $((n + 1)) sectors from $first on"
	done
	# First writes again, into what was given back.
	for first in 1 9 400 1000 1999; do
		random_bytes 1024 >"$state/data"
		dd if="$state/data" of="$dev" bs=512 seek="$first" oflag=direct conv=notrunc status=none
		dd if="$state/data" of="$state/model" bs=512 seek=$((first + offset)) conv=notrunc status=none
	done
	sync "$dev"
	check "the device" cmp "$dev" <(tail -c +$((offset * 512 + 1)) "$state/model")
	check "the file" cmp "$file" "$state/model"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	uncache "$file"
	check "the file, given back" cmp "$file" "$state/model"
}

uncache()
{
	sync "$1"
	dd if="$1" iflag=nocache count=0 status=none
}

# What uses blocks, and what does not.
space()
{
	local file=$1 all
	note "space"
	# Direct, or xfs would take more than the file has, for what may come.
	rm "$file"
	truncate -s 1M "$file"
	pattern write "$key" 0 $((1 << 20)) |
		dd of="$file" bs=1M iflag=fullblock oflag=direct conv=notrunc,fsync status=none
	all=$(kib "$file")
	dev=$(loop_dev x "$file")
	blkdiscard -o 0 -l 65536 "$dev"
	check "discard frees" test "$(kib "$file")" -le $((all - 64))
	fallocate -p -o 131072 -l 65536 "$dev"
	check "a punch frees" test "$(kib "$file")" -le $((all - 128))
	all=$(kib "$file")
	blkdiscard -z -o 262144 -l 65536 "$dev"
	same "blkdiscard -z keeps the blocks" "$(kib "$file")" "$all"
	blkdiscard "$dev"
	check "all of it" test "$(kib "$file")" -le 16
	dmsetup remove x
}

neighbours()
{
	local seed
	note "neighbours"
	random seed $((1 << 30))
	written_file "$1" $((4 << 20))
	blkdiscard "$(loop_dev x "$1")"
	check "model, seed $seed" model run -s "$seed" -t 5 -d 4096 /dev/mapper/x "$state/model"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	check "the file" model check "$1" "$state/model"
}

edges_and_all()
{
	edges 0 "$2/image"
	[ "$1" = ext2 ] || edges 3 "$2/image"
	space "$2/image"
	[ "$1" = ext2 ] || neighbours "$2/image"
}

# --- who has the blocks next ---

# under_way: is there I/O to the device x?
under_way()
{
	local n
	read -r -a n <"$(sysfs /dev/mapper/x)/inflight"
	[ $((n[0] + n[1])) != 0 ]
}

in_flight()
{
	soon "something is under way" under_way
}

# A file that wants the blocks, as soon as they are there.
grab()
{
	local i
	for ((i = 0; i < 600; i++)); do
		# What is freed can be used when it is committed.
		sync -f "$1"
		rm -f "$1/other"
		! pattern write 2 0 $((768 << 10)) 2>/dev/null |
			dd of="$1/other" bs=768K iflag=fullblock oflag=direct conv=fsync status=none 2>/dev/null || return 0
		sleep 0.1
	done
	fail "the blocks are not given back"
}

full_fs()
{
	local n
	disk=$(disk 1)
	case $1 in
	ext4) mkfs.ext4 -F -q -m 0 "$disk" 48M ;;
	xfs) mkfs.xfs -f -q -K -d size=320m "$disk" ;;
	esac
	mkdir -p /mnt/full
	mount "$disk" /mnt/full
	# No blocks that are free and that only the filesystem itself may use.
	case $1 in
	ext4) echo 0 >"/sys/fs/ext4/${disk#/dev/}/reserved_clusters" ;;
	xfs) xfs_io -x -c 'resblks 1' /mnt/full >/dev/null ;;
	esac
	pattern write 1 0 $((1 << 20)) >/mnt/full/image
	sync -f /mnt/full
	# Nothing is free but what the image gives back.
	n=$(df -k --output=avail /mnt/full | tail -n 1)
	fallocate -l $((n - 4096))K /mnt/full/filler
	dd if=/dev/zero of=/mnt/full/filler2 bs=64k status=none 2>/dev/null || true
	dd if=/dev/zero of=/mnt/full/filler3 bs=4k status=none 2>/dev/null || true
	sync -f /mnt/full
}

# The blocks of a file, a number each line.
blocks_of()
{
	filefrag -e -b4096 "$1" | awk '$1 ~ /^[0-9]+:$/ { gsub(/[.:]/, "", $4); gsub(/:/, "", $6)
		sub(/\.\./, "", $4); for (i = 0; i < $6 + 0; i++) print $4 + i }' | sort
}

# written_again: the image has all its blocks, and they are as at first
written_again()
{
	pattern write 1 0 $((1 << 20)) | dd of=/mnt/full/image bs=1M iflag=fullblock conv=notrunc,fsync status=none
}

# The worker waits for whoever is on the way to the blocks.
is_draining()
{
	# Processes come and go
	[ -n "$({ grep -ls synchronize_srcu /proc/[0-9]*/stack || true; } | xargs -r grep -ls dm_loop)" ]
}

# are_reading N: so many reads of the device are in flight
are_reading()
{
	local n
	read -r n _ <"$(sysfs /dev/mapper/x)/inflight"
	[ "$n" = "$1" ]
}

# I/O that comes when the worker waits must not go to blocks that it is about to give back.
comes_late()
{
	local first second discard
	note "a read that comes while a discard waits"
	dev=$(loop_dev x /mnt/full/image)
	# The block layer keeps a lock of the device while it discards.
	dmsetup create top --table "0 2048 linear $dev 0"
	slow_disk "$disk" $((16384 / ${DMLOOP_TIME_FACTOR:-1}))
	slowly dd if="$dev" of="$state/first" bs=256K count=1 iflag=direct status=none &
	first=$!
	in_flight
	blkdiscard -f -o 0 -l 1M "$dev" &
	discard=$!
	soon "the worker waits for the read" is_draining
	slowly dd if=/dev/mapper/top of="$state/second" bs=256K count=1 skip=262144 iflag=direct,skip_bytes status=none &
	second=$!
	soon "the second read is on its way" are_reading 2
	check "the worker still waits" is_draining
	grab /mnt/full
	wait $first
	wait $second
	check "the discard" wait $discard
	check "it read zeroes" only '\0' cat "$state/second"
	check "the other file" pattern check 2 0 $((768 << 10)) </mnt/full/other
	dmsetup remove top
	dmsetup remove x
	rm /mnt/full/other
	sync -f /mnt/full
}

# next_owner WHAT COMMAND...: the command is in flight when its blocks are given back
next_owner()
{
	local pid discard what=$1 cached=${cached:-}
	shift
	blocks_of /mnt/full/image >"$state/before"
	dev=$(loop_dev x /mnt/full/image)
	# What is cached is left to the worker
	[ -z "$cached" ] || cat /mnt/full/image >/dev/null
	slowly "$@" &
	pid=$!
	in_flight
	blkdiscard -o 0 -l 1M "$dev" &
	discard=$!
	soon "the worker waits for it" is_draining
	grab /mnt/full
	wait "$pid"
	check "the discard" wait "$discard"
	check "another file has such blocks" test "$(blocks_of /mnt/full/other | comm -12 - "$state/before" | wc -l)" -ge 64
	check "the other file after $what" pattern check 2 0 $((768 << 10)) </mnt/full/other
	uncache /mnt/full/other
	check "read again" pattern check 2 0 $((768 << 10)) </mnt/full/other
	dmsetup remove x
	rm /mnt/full/other
	sync -f /mnt/full
}

owners()
{
	note "the next owner of a block, on $1"
	full_fs "$1"
	slow_disk "$disk" $((131072 / ${DMLOOP_TIME_FACTOR:-1}))

	next_owner "a write" xfs_io -d -c 'pwrite -q -S 0xee -b 1m 0 1m' /dev/mapper/x
	written_again
	next_owner "a read" dd if=/dev/mapper/x of="$state/read" bs=1M count=1 iflag=direct status=none
	tr -d '\0' <"$state/read" >"$state/read.some"
	[ ! -s "$state/read.some" ] || cmp -s "$state/read.some" <(pattern write 1 0 $((1 << 20)) | tr -d '\0') ||
		fail "what was read is neither what was there nor zeroes"
	written_again
	cached=yes next_owner "a write that the worker sends" xfs_io -d -c 'pwrite -q -S 0xee -b 1m 0 1m' /dev/mapper/x
	written_again
	comes_late
	cleanup_devices
}

# A punch of btrfs does not wait for direct reads that go on by themselves.
btrfs_reads()
{
	local dir reader
	note "a discard beside a direct read, on btrfs"
	dir=$(mkfs_mount btrfs)
	touch "$dir/image"
	chattr +C "$dir/image"
	written_file "$dir/image" $((1 << 20))
	dev=$(loop_dev x "$dir/image")
	# Where the blocks are is in memory, and no read has waited just now.
	dd if="$dev" of=/dev/null bs=4K count=70 iflag=direct status=none
	dd if="$dev" of=/dev/null bs=4K count=1 iflag=direct status=none
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file 1"
	slow_disk "$(findmnt -no SOURCE "$dir")" $((1024 / ${DMLOOP_TIME_FACTOR:-1}))
	slowly dd if="$dev" of=/dev/null bs=4K count=1 iflag=direct status=none &
	reader=$!
	in_flight
	blkdiscard -f -o 0 -l 64K "$dev"
	check "the read has ended before" are_reading 0
	wait "$reader"
	cleanup_devices
}

# The ext4 of 6.1 gives back nothing behind what a file without extents can have.
far_away()
{
	local file far=$((17 << 30))
	note "17 GiB into a file"
	file=$(mkfs_mount ext4 -b 1024)/image
	truncate -s 20G "$file"
	dev=$(loop_dev x "$file")
	xfs_io -d -c "pwrite -q -S 7 -b 1m $far 2m" -c fsync "$dev"
	fallocate -p -o "$far" -l 1M "$dev"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup suspend x
	dmsetup resume x
	check "zeroes" only '\0' dd if="$dev" iflag=direct,skip_bytes skip="$far" bs=1M count=1 status=none
	blkdiscard -o $((far + (1 << 20))) -l 1M "$dev"
	matches "the table, after a discard" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	cleanup_devices
}

# And each ext4 keeps the last block that a file without extents can have.
last_of_all()
{
	local file last=$(((12 + 256 + 256 ** 2 + 256 ** 3 - 1) << 10))
	note "the last block that a file without extents can have"
	file=$(mkfs_mount ext4 -b 1024 -O ^extents,^64bit)/image
	truncate -s $((last + 1024)) "$file"
	dev=$(loop_dev x "$file")
	xfs_io -d -c "pwrite -q -S 7 -b 1k $last 1k" -c fsync "$dev"
	fallocate -p -o "$last" -l 1024 "$dev"
	sync "$dev"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	check "zeroes" only '\0' tail -c 1024 "$file"
	cleanup_devices
}

for_each_fs trim
far_away
last_of_all
btrfs_reads
for_each_fs edges_and_all ext2 ext4 xfs
owners ext4
owners xfs
