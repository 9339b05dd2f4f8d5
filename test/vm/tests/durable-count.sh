# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a flush after a fill ends when the journal is committed; one that follows none leaves the filesystem alone
# LONG: each flush is traced
# TIMEOUT: 120

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing

# traced COMMAND...: what comes between the beginning and the end of the command, a line each:
# fsync (the filesystem was called), journal (it has committed), disk-flush
traced()
{
	trace_begin
	echo begin >"$tracing/trace_marker"
	"$@"
	echo end >"$tracing/trace_marker"
	trace_end
	awk -v dev="$(tr : , <"/sys/block/${disk#/dev/}/dev") " -v fsdev="dev $(tr : , <"/sys/block/${disk#/dev/}/dev") " \
		-v xfsdev="dev $(<"/sys/block/${disk#/dev/}/dev") " '
		/tracing_mark_write: begin/ { on = 1 }
		/tracing_mark_write: end/ { on = 0 }
		!on { next }
		(/ext4_sync_file_enter:/ && index($0, fsdev)) || (/xfs_file_fsync:/ && index($0, xfsdev)) { print "fsync" }
		(/jbd2_end_commit:/ && index($0, fsdev)) || (/xfs_log_force:/ && index($0, xfsdev)) { print "journal" }
		/block_rq_complete:/ && index($0, "complete: " dev) && / F/ { print "disk-flush" }
	' "$tracing/trace" | uniq >"$state/traced"
	tr '\n' ' ' <"$state/traced" >&2
	echo >&2
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
	for _ in 1 2 3 4 5 6; do
		flush &
	done
	wait
}

# A fill must be committed by the next flush; and no other.
after() # WHAT
{
	calls flush
	same "$1: the filesystem was called" "$ours" 1
	check "$1: by its own account" has fsync
	check "$1: the journal was committed before it ended" has journal
	check "$1: the disk was flushed" has disk-flush
	calls flush
	same "$1, the next: not called" "$ours" 0
	check "$1, the next: by its own account" not has fsync
	check "$1, the next: the disk was flushed" has disk-flush
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
		trace_events ext4/ext4_sync_file_enter jbd2/jbd2_end_commit block/block_rq_complete
		;;
	xfs) trace_events xfs/xfs_file_fsync xfs/xfs_log_force ;;
	esac
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

	put 4096
	after "a fill of a hole"
	put 1024
	after "a fill of unwritten blocks"
	blkdiscard -o 0 -l 64K "$dev"
	after "a discard"
	put 4096
	put 8
	calls flush
	same "writes to what has data and to a block that was given back" "$ours" 1

	note "FUA"
	calls put 5120 '-V 1 -D'
	check "to a hole: called" test "$ours" -ge 1
	check "by its own account" has fsync
	check "the journal was committed before it ended" has journal
	flush
	calls put 5120 '-V 1 -D'
	same "to a block with data: not called" "$ours" 0
	check "by its own account" not has fsync

	note "many flushes"
	put 6144
	calls flush_all
	check "one fill: called once, or twice when it was under way" test "$ours" -ge 1 -a "$ours" -le 2
	calls flush_all
	same "no fill: not called" "$ours" 0
	dmsetup remove x
}
# A device that gets no flushes later: what others have filled is committed before it is there.
joins()
{
	local file=$2/image
	note "a device with mapped joins"
	truncate -s 8M "$file"
	sync -f "$2"
	dmsetup create x --table "0 8192 loop $file 0"
	dmsetup create y --table "0 8192 loop $file 4194304"
	xfs_io -d -c "pwrite -q -b 1m 0 4m" /dev/mapper/y
	# Not lib.sh's, which compares table and file before, and that commits
	command dmsetup remove y
	same "not committed yet" "$(status_field x fsyncs)" 0
	dmsetup create y --table "0 8192 loop $file 4194304 1 mapped"
	same "committed" "$(status_field x fsyncs)" 1
	dmsetup remove y
	dmsetup remove x
}
for_each_fs durable ext4 xfs
for_each_fs joins
