# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: each tracepoint comes when what it tells of is done, with its device, inode, range and error
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing

# all_events COMMAND...: what the module traces meanwhile, in $events
all_events()
{
	trace_begin
	"$@"
	trace_end
	events=$(sed -n 's/^.*: \(dm_loop_[a-z]*: .*\)/\1/p' "$tracing/trace")
}

# event NAME FILE RANGE [ERROR]: one of $events
event()
{
	matches "$1 $3" "$events" "^dm_loop_$1: dev $(stat -c %Hd:%Ld "$2") ino $(stat -c %i "$2") $3 error ${4:-0}\$"
}

# no_event NAME...: not one of $events
no_event()
{
	local name
	for name; do
		same "events $name" "$(grep -c "^dm_loop_$name:" <<<"$events" || true)" 0
	done
}

# put SECTOR SECTORS: in one bio
put()
{
	xfs_io -d -c "pwrite -q -S 0x5a -b $(($2 * 512)) $(($1 * 512)) $(($2 * 512))" "$dev"
}

# The same, and read it. On ext4 nobody asks where new blocks are before that, or a quiet moment.
put_and_read()
{
	put "$@"
	local start=$(($1 / 8 * 8)) end=$((($1 + $2 + 7) / 8 * 8))
	xfs_io -d -c "pread -q -b 64k $((start * 512)) $(((end - start) * 512))" "$dev"
}

put_and_sync()
{
	put_and_read "$@"
	sync "$dev"
}

mapped()
{
	local file=$2/image
	truncate -s 8M "$file"
	dev=$(loop_dev x "$file")
	all_events true
	same "events without I/O" "$events" ''

	note "a first write"
	all_events put_and_read 4096 16
	event fill "$file" 'sector 4096 sectors 16'
	event promote "$file" 'sector 4096 sectors 16'
	no_event punch fallback

	note "a part of a block"
	all_events put_and_read 8195 1
	event fill "$file" 'sector 8192 sectors 8'
	event promote "$file" 'sector 8192 sectors 8'

	if [ "$1" = ext4 ]; then
		note "in a quiet moment it is asked for where new blocks are"
		trace_begin
		put 4608 8
		check "a promotion that nobody waits for" timeout 60 grep -q -m 1 \
			'dm_loop_promote: .* sector 4608 sectors 8 error 0' "$tracing/trace_pipe"
		trace_end
	fi

	note "a flush"
	# On xfs it may be committed by the clock before the flush comes.
	all_events put_and_sync 4352 8
	event commit "$file" 'sector 0 sectors 16384'
	no_event punch fallback
	all_events sync "$dev"
	same "events of a flush with nothing to commit" "$events" ''

	note "a write to what has data"
	all_events put 4096 16
	same "events" "$events" ''

	note "while the file is read"
	dd if="$file" of=/dev/null bs=1M status=none
	all_events put 4100 3
	event invalidate "$file" 'sector 4100 sectors 3'
	no_event fill promote punch commit fallback

	note "discard"
	all_events blkdiscard -o $((4097 * 512)) -l $((22 * 512)) "$dev"
	event punch "$file" 'sector 4104 sectors 8'
	no_event fill promote commit fallback

	note "no space"
	# On xfs it fails before there is a write, as nothing is there to be written.
	if [ "$1" = ext4 ]; then
		dd if=/dev/zero of="$2/filler" bs=1M status=none 2>/dev/null || true
		dd if=/dev/zero of="$2/filler2" bs=4k status=none 2>/dev/null || true
		sync -f "$2"
		all_events fails ENOSPC dd if=/dev/zero of="$dev" bs=64K seek=100 count=1 oflag=direct conv=notrunc
		event fill "$file" 'sector 12800 sectors 128' -28
		no_event promote
	fi
	dmsetup remove x
	rm -f "$file" "$2"/filler*
}

by_file()
{
	local file
	file=$(mkfs_mount tmpfs)/image
	truncate -s 1M "$file"
	dev=$(loop_dev x "$file")
	all_events put 24 8
	event fallback "$file" 'sector 24 sectors 8'
	no_event fill promote punch commit invalidate
	all_events blkdiscard -o 65536 -l 65536 "$dev"
	event fallback "$file" 'sector 128 sectors 128'
	all_events sync "$dev"
	event commit "$file" 'sector 0 sectors 2048'
	dmsetup remove x
}

same "all that docs/loop.rst names" "$(modprobe dm-loop; cd "$tracing/events/dm_loop" && echo *_*)" \
	"dm_loop_commit dm_loop_fallback dm_loop_fill dm_loop_invalidate dm_loop_promote dm_loop_punch"
trace_events dm_loop
for type in ext4 xfs; do
	note "$type"
	disk=$(disk 0)
	case $type in
	ext4) mkfs.ext4 -F -q -b 4096 "$disk" 64M ;;
	xfs) mkfs.xfs -f -q -K -d size=320m "$disk" ;;
	esac
	mkdir -p /mnt/small
	mount -o noatime "$disk" /mnt/small
	mapped "$type" /mnt/small
	cleanup_devices
done
note "by file I/O"
by_file

# recorded EVENT COMMAND...: what docs/loop.rst says records it
recorded()
{
	check "trace-cmd record" trace-cmd record -o "$state/trace.dat" -e "dm_loop:dm_loop_$1" "${@:2}" >/dev/null
	trace-cmd report -i "$state/trace.dat" >"$state/report"
	matches "trace-cmd report" "$(<"$state/report")" "dm_loop_$1: +dev .* ino [0-9]+ sector [0-9]+ sectors [0-9]+ error 0"
}

with_trace_cmd()
{
	local file=$2/image
	truncate -s 8M "$file"
	dev=$(loop_dev x "$file")
	export dev
	export -f put put_and_read put_and_sync
	recorded fill bash -c 'put 4096 16'
	recorded promote bash -c 'put_and_read 8192 16'
	recorded commit bash -c 'put_and_sync 4352 8'
	dd if="$file" of=/dev/null bs=1M status=none
	recorded invalidate bash -c 'put 4100 3'
	recorded punch blkdiscard "$dev"
	dmsetup remove x
}

note "with trace-cmd, which takes long"
types=(ext4 xfs)
random n 2
for_each_fs with_trace_cmd "${types[n]}"
dev=$(loop_dev x "$(written_file "$(mkfs_mount tmpfs)/image" 65536; echo /mnt/tmpfs/image)")
recorded fallback bash -c 'put 24 8'
dmsetup remove x
