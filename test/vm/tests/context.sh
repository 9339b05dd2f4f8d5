# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: while the filesystem works for the device it waits for no I/O to get memory, and where it can it is first asked not to wait
# TIMEOUT: 180

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing
pages=$tracing/events/kmem/mm_page_alloc
# ___GFP_IO: who allocates so may have to wait until somebody else's pages are written.
may_wait='gfp_flags & 0x40'
# Others make so many that they would push these out of the buffer.
workers='(COMM ~ "kworker*" || COMM ~ "dm-loop*")'

# ours: of the trace, the allocations of pages that came from the module. There are stacks of
# allocations by workers too that the filter has left out.
ours()
{
	awk '/mm_page_alloc: / { flags[$1] = $0; sub(/.*gfp_flags=/, "", flags[$1]) }
	     /<stack trace>/ { now = flags[$1]; delete flags[$1] }
	     / => .*dm_loop_/ && now != "" { print now; now = "" }' "$tracing/trace"
}

# allocations FILTER COMMAND...: of ours, those that match
allocations()
{
	printf '%s' "$1" >"$pages/filter"
	shift
	trace_begin
	"$@" >&2
	trace_end
	ours
}

use()
{
	drop_caches
	xfs_io -d -c "pwrite -q -b 64k $1 1m" -c fsync "$dev"
	fio --name=a --filename="$dev" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k \
		--offset=$(($1 + (1 << 20))) --size=1m --randseed=1 --output="$state/fio"
	blkdiscard -f -o $(($1 + 65536)) -l 64k "$dev" 2>/dev/null
	xfs_io -d -c "pwrite -q -b 512 $(($1 + 65536)) 16k" -c fsync "$dev"
}

# by_mode FILESYSTEM MODE FILE
by_mode()
{
	dev=$(loop_dev x "$3")
	same "mode" "$(status_field x mode)" "$2"
	allocations "$workers" use 0 >"$state/all"
	note "$(wc -l <"$state/all") allocations, $(sort "$state/all" | uniq -c | sort -rn | head -n 1)"
	# Those that xfs makes for a fill come from a slab with room, mostly.
	[ "$1 $2" = "xfs mapped" ] || check "the filesystem allocates for the device" test -s "$state/all"
	same "that wait for I/O" "$(allocations "$workers && $may_wait" use 2097152)" ''
	dmsetup remove x
}

on_fs()
{
	local mode=file
	truncate -s 8M "$2/image"
	case $1 in
	ext4 | xfs) mode=mapped ;;
	esac
	by_mode "$1" "$mode" "$2/image"
	[ "$1" = xfs ] || return 0
	note "a clone"
	cp --reflink=always "$2/image" "$2/clone"
	by_mode "$1" file "$2/image"
	not_waiting "$2/clone"
}

# not_waiting FILE: IOCB_NOWAIT is 8, and ki_flags the fifth field of struct kiocb
not_waiting()
{
	local flags=+32\(%di\):x32 name
	if [ ! -e "$tracing/kprobe_events" ]; then
		note "a kernel without probes: how it is asked is not seen"
		return 0
	fi
	for name in read write; do
		echo "p:context_$name xfs_file_${name}_iter flags=$flags" >>"$tracing/kprobe_events"
		echo 'flags & 8' >"$tracing/events/kprobes/context_$name/filter"
		echo 1 >"$tracing/events/kprobes/context_$name/enable"
	done
	dev=$(loop_dev x "$1")
	trace_begin
	xfs_io -d -c "pread -q 0 4k" -c "pwrite -q 1m 128k" -c "pwrite -q 1m 128k" "$dev"
	trace_end
	for name in read write; do
		check "a $name that may not wait comes first" grep -q "context_$name:" "$tracing/trace"
		echo 0 >"$tracing/events/kprobes/context_$name/enable"
	done
	echo >"$tracing/kprobe_events"
	dmsetup remove x
}

trace_events kmem/mm_page_alloc
echo "stacktrace if $workers" >"$pages/trigger"
for_each_fs on_fs ext4 xfs tmpfs btrfs f2fs
echo "!stacktrace if $workers" >"$pages/trigger"
echo 0 >"$pages/filter"
echo 0 >"$pages/enable"
