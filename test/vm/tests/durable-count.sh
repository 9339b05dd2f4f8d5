# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a flush after a fill ends when the journal is committed; one that follows none leaves the filesystem alone
# LONG: each flush is traced
# TIMEOUT: 300

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing

# traced COMMAND...: what comes before the first flush or FUA write of the device ends, a line
# each: fsync (the filesystem was called), journal (its commit is on the disk), disk-flush, ended
traced()
{
	local node ours disks
	node=$(dmsetup info -c --noheadings -o blkdevname x)
	ours=$(tr : , <"/sys/block/$node/dev")
	disks=$(<"/sys/block/${disk#/dev/}/dev")
	trace_begin
	"$@"
	trace_end
	awk -v ours="$ours" -v dev="${disks/:/,} " -v xfsdev="dev $disks " '
		/ext4_sync_file_enter:/ && index($0, "dev " dev) || /xfs_file_fsync:/ && index($0, xfsdev) { print "fsync" }
		/jbd2_end_commit:/ && index($0, "dev " dev) || /xlog_iclog_sync_done:/ && index($0, xfsdev) { print "journal" }
		/block_rq_complete:/ && index($0, "complete: " dev) && / F/ { print "disk-flush" }
		index($0, "block_bio_complete: " ours " ") && / [A-Z]*F[A-Z]* [0-9]/ { print "ended"; exit }
	' "$tracing/trace" | uniq >"$state/traced"
	tr '\n' ' ' <"$state/traced" >&2
	echo >&2
	check "its end was seen" has ended
}

has()
{
	grep -qx "$1" "$state/traced"
}

# calls COMMAND...: how often the filesystem is called for it, by its own account and by ours
calls()
{
	local before
	before=$(status_field x fsyncs)
	traced "$@"
	ours=$(($(status_field x fsyncs) - before))
}

# put KIB [XFS_IO FLAGS]: one write of 4 KiB
put()
{
	xfs_io -d -c "pwrite -q -b 4k ${2:-} ${1}k 4k" "$dev"
}

# Without a flush first, as sync(1) of the device writes pages too.
flush()
{
	xfs_io -d -c fsync "$dev"
}

# As many flushes as there are jobs, at once.
flush_all()
{
	local pid pids=()
	for _ in 1 2 3 4 5 6; do
		flush &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
}

# The trace has the write as well, as in change_and_flush().
put_and_flush_all()
{
	put 6144
	flush_all
}

# after WHAT COMMAND...: what it has changed must be committed by the next flush; and no other
after()
{
	changes=("${@:2}")
	calls change_and_flush
	same "$1: the filesystem was called" "$ours" 1
	check "$1: by its own account" has fsync
	check "$1: the journal was on the disk before it ended" has journal
	check "$1: the disk was flushed" has disk-flush
	calls flush
	same "$1, the next: not called" "$ours" 0
	check "$1, the next: by its own account" not has fsync
	check "$1, the next: the disk was flushed" has disk-flush
}

put_both()
{
	put 4096
	put 8
}

# The trace has the change as well: a second after it xfs commits without being asked.
change_and_flush()
{
	"${changes[@]}"
	flush
}

not()
{
	! "$@"
}

durable()
{
	local file=$2/image
	disk=$(findmnt -no SOURCE "$2")
	# Nothing else is to call the filesystem, or to commit.
	mount -o remount,noatime "$2"
	case $1 in
	ext4)
		mount -o remount,commit=300 "$2"
		trace_events ext4/ext4_sync_file_enter jbd2/jbd2_end_commit
		;;
	xfs) trace_events xfs/xfs_file_fsync xfs/xlog_iclog_sync_done ;;
	esac
	trace_events block/block_rq_complete block/block_bio_complete
	pattern write 1 0 $((1 << 20)) >"$file"
	fallocate -o 1M -l 1M "$file"
	truncate -s 8M "$file"
	sync -f "$2"
	dev=$(loop_dev x "$file")

	note "no fill"
	put 0
	calls flush
	same "the filesystem was not called" "$ours" 0
	check "by its own account" not has fsync
	check "the disk was flushed" has disk-flush
	digest "$dev" >/dev/null
	calls flush
	same "nor after a read" "$ours" 0

	after "a fill of a hole" put 4096
	after "a fill of unwritten blocks" put 1024
	after "a discard" blkdiscard -o 0 -l 64K "$dev"
	changes=(put_both)
	calls change_and_flush
	same "writes to what has data and to a block that was given back" "$ours" 1

	note "FUA"
	calls put 5120 '-V 1 -D'
	check "to a hole: called" test "$ours" -ge 1
	check "by its own account" has fsync
	check "the journal was on the disk before it ended" has journal
	flush
	calls put 5120 '-V 1 -D'
	same "to a block with data: not called" "$ours" 0
	check "by its own account" not has fsync

	note "many flushes"
	calls put_and_flush_all
	check "one fill: called once, or twice when it was under way" test "$ours" -ge 1 -a "$ours" -le 2
	calls flush_all
	same "no fill: not called" "$ours" 0
	dmsetup remove x
}
# A device that gets no flushes later: what others have filled is committed before it is there.
joins()
{
	local file=$2/image fsyncs try
	note "a device with mapped joins"
	for ((try = 0; try < 5; try++)); do
		rm -f "$file"
		truncate -s 8M "$file"
		sync -f "$2"
		dmsetup create x --table "0 8192 loop $file 0"
		dmsetup create y --table "0 8192 loop $file 4194304"
		xfs_io -d -c "pwrite -q -b 1m 0 4m" /dev/mapper/y
		# Not lib.sh's, which compares table and file before, and that commits
		command dmsetup remove y
		fsyncs=$(status_field x fsyncs)
		dmsetup create y --table "0 8192 loop $file 4194304 1 mapped"
		[ "$fsyncs" != 0 ] || same "committed" "$(status_field x fsyncs)" 1
		dmsetup remove y
		dmsetup remove x
		# On xfs it may have been, a second after the write, or a part of it.
		[ "$fsyncs" != 0 ] || return 0
	done
	fail "it was committed before, each time"
}

# The last device goes before anything was flushed, and then the filesystem is shut down.
teardown()
{
	local file=$2/image fsyncs try
	note "removed without a flush"
	pattern write 7 0 65536 >"$state/data"
	for ((try = 0; try < 5; try++)); do
		rm -f "$file"
		truncate -s 8M "$file"
		fallocate -o 4M -l 4M "$file"
		sync -f "$2"
		dmsetup create x --table "$(loop_table "$file")"
		xfs_io -d -c "pwrite -q -b 64k -i $state/data 1m 64k" -c "pwrite -q -b 64k -i $state/data 5m 64k" \
			/dev/mapper/x
		fsyncs=$(status_field x fsyncs)
		command dmsetup remove x
		# On xfs a second after the write would have been enough.
		[ "$fsyncs" != 0 ] || break
	done
	same "committed before it is removed" "$fsyncs" 0
	shut_down "$2"
	umount "$2"
	mount -t "$1" "$disk" "$2"
	check "what was a hole" cmp "$state/data" <(tail -c +$(((1 << 20) + 1)) "$file" | head -c 65536)
	check "what was unwritten" cmp "$state/data" <(tail -c +$(((5 << 20) + 1)) "$file" | head -c 65536)
}
# What nobody has synced is committed when it is mapped: later flushes know nothing of it.
not_synced()
{
	local file=$2/image
	note "a file that was just written"
	[ "$1" != ext4 ] || mount -o remount,commit=300 "$2"
	: >"$file"
	sync -f "$2"
	dd if=/dev/zero of="$file" bs=1M count=4 status=none
	loop_dev x "$file" >/dev/null
	same "mode" "$(status_field x mode)" mapped
	pattern write 3 0 65536 >"$state/data"
	xfs_io -d -c "pwrite -q -b 64k -i $state/data 1m 64k" -c fsync /dev/mapper/x
	shut_down "$2"
	command dmsetup remove x
	umount "$2"
	mount -t "$1" "$disk" "$2"
	check "what was flushed" cmp "$state/data" <(tail -c +$(((1 << 20) + 1)) "$file" | head -c 65536)
}
for_each_fs durable
for_each_fs joins
for_each_fs teardown
for_each_fs not_synced
