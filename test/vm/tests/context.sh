# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: while the filesystem works for the device it waits for no I/O to get memory, and where it can it is first asked not to wait
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing
pages=$tracing/events/kmem/mm_page_alloc
# ___GFP_IO: who allocates so may have to wait until somebody else's pages are written.
may_wait='gfp_flags & 0x40'
# Others make so many that they would push these out of the buffer.
workers='(COMM ~ "kworker*" || COMM ~ "dm-loop*")'

seed=
random seed $((1 << 30))

# through REGEX [BUT]: of the trace, the allocations of pages that came through such a function, and through
# none of the others. There are stacks of allocations too that the filter has left out.
through()
{
	awk -v by="$1" -v but="${2:-^$}" '
		function ends() { if (now != "" && hit && !miss) print now; now = "" }
		/mm_page_alloc: / { ends(); flags[$1] = $0; sub(/.*gfp_flags=/, "", flags[$1]) }
		/<stack trace>/ { ends(); now = flags[$1]; delete flags[$1]; hit = miss = 0 }
		/ => / { if ($2 ~ by) hit = 1; if ($2 ~ but) miss = 1 }
		END { ends() }' "$tracing/trace"
}

# allocations FILTER COMMAND...: of ours, those that match
allocations()
{
	printf '%s' "$1" >"$pages/filter"
	shift
	trace_begin
	"$@" >&2
	trace_end
	through dm_loop_
}

use()
{
	drop_caches
	xfs_io -d -c "pwrite -q -b 64k $1 1m" -c fsync "$dev"
	fio --name=a --filename="$dev" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k \
		--offset=$(($1 + (1 << 20))) --size=1m --randseed="$seed" --output="$state/fio"
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
	allocations "$workers && $may_wait" use 2097152 >"$state/all"
	same "that wait for I/O" "$(<"$state/all")" ''
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

# not_waiting FILE, the only one on an xfs: IOCB_NOWAIT is 8, and ki_flags the fifth field of struct kiocb
not_waiting()
{
	local flags=+32\(%di\):x32 name asked
	for name in read write; do
		echo "p:context_$name xfs_file_${name}_iter flags=$flags" >>"$tracing/kprobe_events"
		echo 1 >"$tracing/events/kprobes/context_$name/enable"
	done
	dev=$(loop_dev x "$1")
	trace_begin
	xfs_io -d -c "pread -q 0 4k" -c "pwrite -q 1m 128k" -c "pwrite -q 1m 128k" "$dev"
	trace_end
	for name in read write; do
		asked=$(sed -n "s/.*context_$name: .*flags=//p" "$tracing/trace" | head -n 1)
		check "the first $name may not wait ($asked)" test $((asked & 8)) != 0
		echo 0 >"$tracing/events/kprobes/context_$name/enable"
	done
	echo >"$tracing/kprobe_events"
	dmsetup remove x
}

# Who writes what is dirty waits for no dirty pages of others: they may be on our device.
throttled()
{
	local image=/mnt/host/image pid
	note "in the flusher"
	host_fs ext4
	truncate -s 8M "$image"
	dev=$(loop_dev x "$image")
	xfs_io -d -c "pwrite -q -b 64k 0 1m" "$dev"
	dmsetup suspend --noflush --nolockfs host
	sync "$dev" &
	pid=$!
	workers_marked 'kworker.*dm-loop'
	dmsetup resume host
	wait "$pid"
	dmsetup remove x
	host_gone

	note "in the writer"
	host_fs -o data=journal ext4
	written_file "$image" $((8 << 20))
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" file
	drop_caches
	dmsetup suspend --noflush --nolockfs host
	# a part of a block, which has to be read
	dd if=/dev/zero of="$dev" bs=512 count=1 seek=9000 oflag=direct conv=notrunc status=none &
	pid=$!
	workers_marked dm-loop-writer
	dmsetup resume host
	wait "$pid"
	dmsetup remove x
	host_gone
}

# pages_of_file FILTER: how many allocations dd makes for pages when it reads $image
pages_of_file()
{
	drop_caches
	printf '%s' "COMM == \"dd\"$1" >"$pages/filter"
	trace_begin
	dd if="$image" of=/dev/null bs=64K status=none
	trace_end
	# not those of the program, nor for bios
	through '^filemap_get_pages' 'slab|kmem_cache' | wc -l
}

# Who reads the file has locks for which a discard and some writes wait.
readers()
{
	local image=$2/read loop inode
	written_file "$image" $((4 << 20))
	echo 'stacktrace if COMM == "dd"' >"$pages/trigger"
	check "memory for the file may wait for I/O" test "$(pages_of_file " && $may_wait")" -gt 0
	dev=$(loop_dev x "$image")
	check "it is seen under a device too" test "$(pages_of_file "")" -gt 0
	same "where it may not" "$(pages_of_file " && $may_wait")" 0
	dmsetup suspend x
	check "when it is given back it may" test "$(pages_of_file " && $may_wait")" -gt 0
	dmsetup resume x
	dmsetup remove x
	# It limits the file as we do. The inode must stay, as a new one has no limit.
	exec {inode}<"$image"
	loop=$(losetup -r -f --show "$image")
	dev=$(loop_dev x "$image")
	losetup -d "$loop"
	dmsetup remove x
	check "and when a loop device was there, and went first" test "$(pages_of_file " && $may_wait")" -gt 0
	exec {inode}<&-
	echo '!stacktrace if COMM == "dd"' >"$pages/trigger"
}

throttled
trace_events kmem/mm_page_alloc
echo "stacktrace if $workers" >"$pages/trigger"
for_each_fs on_fs ext4 xfs tmpfs btrfs f2fs
echo "!stacktrace if $workers" >"$pages/trigger"
for_each_fs readers ext4 btrfs
echo 0 >"$pages/filter"
echo 0 >"$pages/enable"
