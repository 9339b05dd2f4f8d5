# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: flush and FUA reach the disk below the filesystem, which is called only after a fill
# TIMEOUT: 120

tracing=/sys/kernel/tracing

# Flushes that the disk has done. Without num_flush_bios in loop_ctr() none of ours is.
flushes()
{
	awk '{ print $16 }' "/sys/block/${disk#/dev/}/stat"
}

# flushed WANTED COMMAND...: does it make the disk flush?
flushed()
{
	local wanted=$1 before after
	shift
	before=$(flushes)
	"$@"
	after=$(flushes)
	if [ "$wanted" = yes ]; then
		check "a flush reaches the disk ($before, $after): $*" test "$after" -gt "$before"
	else
		# The journal of the filesystem flushes for itself, now and then.
		for _ in 1 2 3; do
			[ "$after" != "$before" ] || break
			before=$(flushes)
			"$@"
			after=$(flushes)
		done
		same "no flush: $*" "$after" "$before"
	fi
}

# wrote KIB [FLAGS OF DD...]: write 64 KiB from there on
wrote()
{
	local at=$1
	shift
	pattern write "$at" 0 65536 | dd of="$dev" bs=64K seek=$((at / 64)) iflag=fullblock conv=notrunc status=none "$@"
}

# One write with FUA and nothing else. On a raw device dsync asks for both.
fua()
{
	xfs_io -d -c "pwrite -q -V 1 -D ${1}k 4k" "$dev"
}

# The bios that came to the disk: F before the W is a flush, behind it FUA.
traced()
{
	local regex=$1
	shift
	trace_begin
	"$@"
	trace_end
	matches "at the disk $(tr : , <"/sys/block/${disk#/dev/}/dev"): $*" \
		"$(grep -F ": block_bio_queue: $(tr : , <"/sys/block/${disk#/dev/}/dev") " "$tracing/trace" | sed 's/.*queue: //')" "$regex"
}

flush()
{
	local file=$2/image
	disk=$(findmnt -no SOURCE "$2")
	# Nothing else is to make the disk flush.
	mount -o remount,noatime "$2"
	[ "$1" != ext4 ] || mount -o remount,commit=300 "$2"
	written_file "$file" $((4 << 20))
	dev=$(loop_dev x "$file")
	sync -f "$2"

	note "all is written: the filesystem has nothing to do"
	flushed no wrote 0 oflag=direct
	flushed yes wrote 0 oflag=direct conv=notrunc,fsync
	flushed yes sync "$dev"
	flushed yes wrote 64 conv=notrunc,fsync
	flushed yes fua 128
	traced '^[0-9,]+ WF' fua 128
	traced '^[0-9,]+ F' wrote 0 oflag=direct conv=notrunc,fsync
	same "calls of the filesystem" "$(status_field x fsyncs)" 0
	dmsetup remove x

	note "with holes"
	truncate -s 8M "$file"
	dev=$(loop_dev x "$file")
	flushed yes wrote 0 oflag=direct conv=notrunc,fsync
	same "no fill, no call of the filesystem" "$(status_field x fsyncs)" 0
	wrote 4096 oflag=direct
	flushed yes wrote 0 oflag=direct conv=notrunc,fsync
	fsyncs=$(status_field x fsyncs)
	check "the first flush after a fill calls it" test "$fsyncs" -ge 1
	flushed yes wrote 0 oflag=direct conv=notrunc,fsync
	flushed yes wrote 4096 oflag=direct conv=notrunc,fsync
	same "the next ones do not" "$(status_field x fsyncs)" "$fsyncs"
	flushed yes fua 5120
	check "FUA to a hole calls it" test "$(status_field x fsyncs)" -gt "$fsyncs"
	# On xfs what is written is committed after a second even if nobody asks.
	fsyncs=$(status_field x fsyncs)
	flushed yes fua 5120
	traced '^[0-9,]+ WF' fua 0
	same "FUA to a block with data does not" "$(status_field x fsyncs)" "$fsyncs"
	dmsetup remove x
	matches "and the data is there" "$(pattern check 4096 0 65536 < <(tail -c +4194305 "$file") && echo yes)" yes

	note "for reading"
	dev=$(loop_dev -r x "$file")
	was=$(digest "$dev")
	# A device above may be writable, and the block layer lets it.
	dmsetup create top --table "0 $(sectors "$dev") linear $dev 0"
	fails EIO xfs_io -d -c "pwrite -q 0 4k" /dev/mapper/top
	fails EIO xfs_io -d -c "pwrite -q 3m 4k" /dev/mapper/top
	dmsetup remove top
	same "what it has" "$(digest "$dev")" "$was"
	same "calls of the filesystem" "$(status_field x fsyncs)" 0
	dmsetup remove x
	note "for reading, beside one for writing"
	dmsetup create x --table "0 2048 loop $file 0"
	dmsetup create y -r --table "0 2048 loop $file 1048576"
	dmsetup create top --table "0 2048 linear /dev/mapper/y 0"
	fails EIO xfs_io -d -c "pwrite -q 0 4k" /dev/mapper/top
	same "the other one is written" "$(xfs_io -d -c "pwrite -q 0 4k" /dev/mapper/x 2>&1)" ''
	dmsetup remove top
	dmsetup remove y
	dmsetup remove x

	note "mapped: no call ever"
	truncate -s 4M "$file"
	dev=$(loop_dev x "$file" 0 mapped)
	flushed yes wrote 0 oflag=direct conv=notrunc,fsync
	flushed yes fua 128
	same "calls of the filesystem" "$(status_field x fsyncs)" 0
	dmsetup remove x
}
trace_events block/block_bio_queue
for_each_fs flush ext4 xfs
