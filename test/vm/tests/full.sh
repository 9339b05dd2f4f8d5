# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: when the host is full or over quota only writes that need space fail, it cannot be made read-only, and nothing hangs
# LONG: fills filesystems
# TIMEOUT: 500

# shellcheck disable=SC2154 # state is set in lib.sh
# Seconds until what waits for nothing hangs
patience=$((20 * ${DMLOOP_TIME_FACTOR:-1}))

# small_fs TYPE [-o MOUNT OPTIONS] [MKFS OPTIONS...]
small_fs()
{
	local type=$1 opts=defaults
	shift
	if [ "${1:-}" = -o ]; then
		opts=$2
		shift 2
	fi
	disk=$(disk 1)
	case $type in
	ext4) mkfs.ext4 -F -q -m 0 "$@" "$disk" 64M ;;
	xfs) mkfs.xfs -f -q -K -d size=320m "$@" "$disk" ;;
	esac
	mkdir -p /mnt/small
	mount -o "$opts" "$disk" /mnt/small
}

# image [MODE]: a MiB with data, a MiB with blocks, and holes.
image()
{
	local file=/mnt/small/image
	pattern write 1 0 $((1 << 20)) >"$file"
	fallocate -o 1M -l 1M "$file"
	truncate -s 16M "$file"
	sync -f /mnt/small
	dev=$(loop_dev x "$file")
	same "mode" "$(status_field x mode)" "${1:-mapped}"
}

fill_up()
{
	local n
	n=$(df -k --output=avail /mnt/small | tail -n 1)
	[ "$n" -lt 8192 ] || fallocate -l $((n - 4096))K /mnt/small/filler
	dd if=/dev/zero of=/mnt/small/filler2 bs=64k status=none 2>/dev/null || true
	dd if=/dev/zero of=/mnt/small/filler3 bs=4k status=none 2>/dev/null || true
	sync -f /mnt/small
}

space_again()
{
	rm -f /mnt/small/filler*
	sync -f /mnt/small
}

# put KEY MIB: 64 KiB from there on
put()
{
	pattern write "$1" 0 65536 | dd of="$dev" bs=64K seek=$(($2 * 16)) iflag=fullblock oflag=direct conv=notrunc status=none
}

has()
{
	pattern check "$1" 0 65536 < <(dd if="$dev" bs=64K skip=$(($2 * 16)) count=1 iflag=direct status=none)
}

# A write of which a part got blocks before the space was gone: those are in the file, and so in the table.
partly()
{
	local was
	note "half a write, $1"
	disk=$(disk 1)
	mkfs.ext4 -F -q -m 0 -t "$1" "$disk" 64M
	mkdir -p /mnt/small
	mount "$disk" /mnt/small
	pattern write 1 0 $((1 << 20)) >/mnt/small/image
	truncate -s 16M /mnt/small/image
	sync -f /mnt/small
	dev=$(loop_dev x /mnt/small/image)
	same "mode" "$(status_field x mode)" mapped
	put 9 8
	dd if=/dev/zero of=/mnt/small/filler2 bs=64k status=none 2>/dev/null || true
	dd if=/dev/null of=/mnt/small/filler2 bs=1 seek=$(($(stat -c %s /mnt/small/filler2) - 400 * 1024)) status=none
	sync -f /mnt/small
	pattern write 8 0 $((1 << 20)) >"$state/data"
	fails "No space left" dd if="$state/data" of="$dev" bs=1M count=1 seek=4 oflag=direct conv=notrunc
	check "a flush" xfs_io -d -c fsync "$dev"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	was=$(digest "$dev")
	dmsetup suspend x
	dmsetup resume x
	same "what it has when it is mapped anew" "$(digest "$dev")" "$was"
	dmsetup remove x
	umount /mnt/small
}

# Writes to what has data, until told to stop; each must succeed.
go_on_writing()
{
	rm -f "$state/stop" "$state/count"
	(
		n=0
		until [ -e "$state/stop" ]; do
			xfs_io -d -c "pwrite -q -b 64k 64k 256k" "$dev" >"$state/output" 2>&1
			# It succeeds whatever becomes of its commands.
			[ ! -s "$state/output" ] || exit 1
			n=$((n + 1))
			echo "$n" >"$state/count.new"
			mv "$state/count.new" "$state/count"
		done
	) &
	writer=$!
	soon "writes go on" test -s "$state/count"
}

stop_writing()
{
	local begin=${1:-0}
	: >"$state/stop"
	check "writes to what has data went on" wait "$writer"
	check "all the time ($begin, $(<"$state/count"))" test "$(<"$state/count")" -gt "$begin"
}

# no_hang [MODE]
no_hang()
{
	check "suspend does not hang" timeout "$patience" dmsetup suspend x
	check "resume does not hang" timeout "$patience" dmsetup resume x
	same "mode" "$(status_field x mode)" "${1:-mapped}"
}

# without_space MODE: only what needs space fails. 2 is written, 4 has its space, 3 has none.
without_space()
{
	local nospc
	fill_up
	go_on_writing
	wait_event
	fails ENOSPC put 3 9
	event_came "no space"
	check "it is counted" test "$(status_field x nospc)" -ge 1
	check "what has its space is written" put 4 1
	nospc=$(<"$state/count")
	fails ENOSPC put 3 9
	check "a flush works" sync "$dev"
	has 4 1
	has 2 4
	stop_writing "$nospc"
	check "what failed reads as zeroes" cmp -n 65536 -i $((9 << 20)):0 "$dev" /dev/zero
	no_hang "$1"
	fails ENOSPC put 3 9
}

# reserved BLOCKS: that xfs keeps for itself, or all there are
reserved() { xfs_io -x -c "resblks $1" /mnt/small; }

full()
{
	local nospc seed reserve
	note "full: $1"
	small_fs "$1"
	[ "$1" != xfs ] || reserve=$(xfs_io -x -c resblks /mnt/small | sed -n 's/^reserved blocks = //p')
	image
	put 2 4
	# The next write to that chunk is not the first.
	xfs_io -d -c "pwrite -q -b 4k 13376k 4k" "$dev"
	fallocate -l 512K /mnt/small/spare
	without_space mapped
	# xfs may need a block to punch; what it sets aside for itself it takes from what is left.
	[ "$1" != xfs ] || reserved 1000000
	check "zeroes need no space" fallocate -p -o 512K -l 64K "$dev"
	[ "$1" != xfs ] || reserved "$reserve"
	check "they are read" cmp -n 65536 -i $((512 << 10)):0 "$dev" /dev/zero
	# More than the worker takes in one piece, with space for the last piece only.
	rm /mnt/small/spare
	sync -f /mnt/small
	same "a block fits where a chunk does not" "$(xfs_io -d -c "pwrite -q -b 4k 13824k 4k" "$dev" 2>&1)" ''
	fails ENOSPC dd if=/dev/zero of="$dev" bs=1088K seek=12 count=1 oflag=direct conv=notrunc
	space_again
	check "there is space again" put 3 9
	check "and the data" has 3 9
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'

	note "many at once, full: $1"
	fill_up
	# What this gives back is all there is.
	blkdiscard "$dev"
	random seed $((1 << 30))
	nospc=$(status_field x nospc)
	check "model, seed $seed" model run -e -n -s "$seed" -t $((4 * ${DMLOOP_TIME_FACTOR:-1})) "$dev" "$state/model" >&2
	check "some found no space" test "$(status_field x nospc)" -gt "$nospc"
	space_again
	check "model, with space, seed $seed" model run -c -n -s "$seed" -t 3 "$dev" "$state/model" >&2
	fill_up
	check "remove does not hang" timeout "$patience" dmsetup remove x
	check "the file" model check /mnt/small/image "$state/model"
	umount /mnt/small
}

by_file()
{
	local nospc seed
	note "full, by file I/O: tmpfs"
	mkdir -p /mnt/small
	mount -t tmpfs -o size=8m tmpfs /mnt/small
	image file
	put 2 4
	without_space file
	space_again
	check "there is space again" put 3 9
	check "and the data" has 3 9

	note "many at once, full: tmpfs"
	blkdiscard "$dev"
	pattern write 5 0 $((4 << 20)) >/mnt/small/filler
	random seed $((1 << 30))
	nospc=$(status_field x nospc)
	check "model, seed $seed" model run -e -n -s "$seed" -t $((4 * ${DMLOOP_TIME_FACTOR:-1})) "$dev" "$state/model" >&2
	check "some found no space" test "$(status_field x nospc)" -gt "$nospc"
	rm /mnt/small/filler
	mount -o remount,size=32m /mnt/small
	check "model, with space, seed $seed" model run -c -n -s "$seed" -t 3 "$dev" "$state/model" >&2
	check "remove does not hang" timeout "$patience" dmsetup remove x
	check "the file" model check /mnt/small/image "$state/model"
	umount /mnt/small
}

quota()
{
	note "quota: xfs"
	small_fs xfs -o uquota
	truncate -s 16M /mnt/small/image
	chown 1000 /mnt/small/image
	xfs_quota -x -c 'limit -u bhard=4m 1000' /mnt/small
	dev=$(loop_dev x /mnt/small/image)
	put 1 0
	wait_event
	fails ENOSPC dd if=/dev/zero of="$dev" bs=64K seek=32 oflag=direct conv=notrunc status=none
	event_came "over quota"
	check "what has data is written" put 2 0
	no_hang
	xfs_quota -x -c 'limit -u bhard=0 1000' /mnt/small
	check "without the limit" put 3 12
	has 2 0
	has 3 12
	check "remove does not hang" timeout "$patience" dmsetup remove x
	umount /mnt/small
}

# On ext4 root may go over a limit (ignore_hardlimit()), and so do we; it is counted.
quota_of_root()
{
	note "quota: ext4"
	small_fs ext4 -o usrquota -O quota -E quotatype=usrquota
	truncate -s 16M /mnt/small/image
	touch /mnt/small/other
	chown 1000 /mnt/small/image /mnt/small/other
	setquota -u 1000 0 4096 0 0 /mnt/small
	dev=$(loop_dev x /mnt/small/image)
	check "more than the limit" dd if=/dev/zero of="$dev" bs=64K count=128 oflag=direct conv=notrunc,fsync status=none
	fails "quota exceeded" setpriv --reuid 1000 dd if=/dev/zero of=/mnt/small/other bs=64K count=1 conv=notrunc,fsync status=none
	dmsetup remove x
	check "it is counted" test "$(repquota -n -O csv -u /mnt/small | awk -F, '$1 == "#1000" { print $4 }')" -ge 8192
	umount /mnt/small
}

readonly_refused()
{
	note "remount read-only: $1"
	small_fs "$1"
	image
	put 1 8
	fails 'busy' mount -o remount,ro /mnt/small
	check "writes go on" put 2 9
	dmsetup remove x
	dev=$(loop_dev -r x /mnt/small/image)
	check "not refused when it is only read" mount -o remount,ro /mnt/small
	has 2 9
	dmsetup remove x
	umount /mnt/small
}

# Of each 64 KiB of a preallocated image 4 are written, and there is no block for what ext4 notes of that.
no_block_for_tree()
{
	local unwritten
	note "no space for extents"
	small_fs ext4 -b 1024
	echo 0 >"/sys/fs/ext4/${disk#/dev/}/reserved_clusters"
	fallocate -l 40M /mnt/small/image
	fill_up
	# What is left by itself, and not later when the page cache is written back
	dd if=/dev/zero of=/mnt/small/filler4 bs=1k oflag=direct status=none 2>/dev/null || true
	sync -f /mnt/small
	same "free blocks" "$(stat -f -c %f /mnt/small)" 0
	dev=$(loop_dev x /mnt/small/image)
	check "all that was written is there" fio --name=x --filename="$dev" --size=40M --rw=write:60k --bs=4k \
		--number_ios=600 --direct=1 --ioengine=libaio --iodepth=64 --iodepth_batch=64 \
		--verify=crc32c --output="$state/fio.log"
	unwritten=$(filefrag -v /mnt/small/image | awk '/unwritten/ { n += $6 } END { print n + 0 }')
	check "and zeroes around some of it" test $((40960 - unwritten)) -gt 2400
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	umount /mnt/small
}

full ext4
full xfs
partly ext2
partly ext3
partly ext4
no_block_for_tree
by_file
quota
quota_of_root
readonly_refused ext4
readonly_refused xfs
