# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: first writes of neighbours are one write; space is allocated in chunks, inside the file; no more pieces than with loop
# LONG: writes tens of thousands of blocks to count the extents
# TIMEOUT: 600

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing

# write_together FILE FOLDER OFFSET: bios that wait together, as the host is frozen: 64 of 4 KiB, in any order
write_together()
{
	local pid
	truncate -s 0 "$1"
	truncate -s 16M "$1"
	dev=$(loop_dev x "$1")
	fsfreeze -f "$2"
	fio --name=x --filename="$dev" --rw=randwrite --bs=4k --size=256k --direct=1 --ioengine=libaio \
		--offset="$3" --randseed="$seed" --iodepth=64 --iodepth_batch=64 --output="$state/fio.log" &
	pid=$!
	soon "64 writes wait" writes_in_flight 64
	trace_begin
	fsfreeze -u "$2"
	wait "$pid"
	trace_end
	note "$(grep -o 'dm_loop_fill: .*' "$tracing/trace")"
}

batch()
{
	local dir=$1 offset=$2 file=$1/image try seed
	note "neighbours at $offset"
	# If the thaw comes while the worker looks through them, they are two batches.
	for ((try = 0; try < 4; try++)); do
		[ "$try" = 0 ] || dmsetup remove x
		random seed $((1 << 30))
		write_together "$file" "$dir" "$offset"
		[ "$(status_field x fills)" -gt 4 ] || break
	done
	check "64 neighbours are a few writes" test "$(status_field x fills)" -le 4
	same "each is traced" "$(grep -c 'dm_loop_fill: ' "$tracing/trace")" "$(status_field x fills)"
	same "they are what was written" "$(awk '/dm_loop_fill: / { sub(/.*sectors /, ""); n += $1 } END { print n }' "$tracing/trace")" 512
	dmsetup remove x
	rm "$file"
}

# A hole is shorter than it was when map() looked, as its end was being written then. One write goes
# over that end, others lie far apart within it: what is between them are no zeroes.
over_an_end()
{
	local file=/mnt/host/image i within=() pids=()
	note "a write over the end of a hole, and others in it"
	echo 2 >/proc/sys/vm/nr_hugepages
	check "there are huge pages" test "$(</proc/sys/vm/nr_hugepages)" -gt 0
	for ((i = 0; i < 20; i++)); do
		within+=("$((8 * i + 4)):1:3")
	done
	host_fs "$1"
	# Its journal must not begin to write while the disk waits: the worker would wait for that.
	[ "$1" != ext4 ] || mount -o remount,commit=300,noinit_itable /mnt/host
	truncate -s 16M "$file"
	dev=$(loop_dev x "$file")
	# What the filesystem has to read for it is in memory then.
	writes "$dev" 8192:8:1
	dmsetup suspend --noflush --nolockfs host
	writes "$dev" 2040:8:1 &
	pids+=($!)
	soon "the worker writes" has_filled 2
	writes "$dev" 0:2048:2 "${within[@]}" 2001:1:3 &
	pids+=($!)
	soon "others wait" writes_in_flight 23
	dmsetup resume host
	for i in "${pids[@]}"; do
		wait "$i"
	done
	echo 0 >/proc/sys/vm/nr_hugepages
	check "what is there" only '\1\2\3' head -c 1M "$dev"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	host_gone
}

has_filled() { [ "$(status_field x fills)" = "$1" ]; }

# What a flush commits it commits in one call; others come each second after a first write.
commits()
{
	local file=$1/image before i seconds commands=()
	note "commits"
	for ((i = 0; i < 64; i++)); do
		commands+=(-c "pwrite -q -b 4k $((256 * i + 16))k 4k")
	done
	truncate -s 16M "$file"
	dev=$(loop_dev x "$file")
	before=$(status_field x commits)
	seconds=$SECONDS
	xfs_io -d "${commands[@]}" -c fsync "$dev"
	seconds=$((SECONDS - seconds))
	same "fills" "$(status_field x fills)" 64
	before=$(($(status_field x commits) - before))
	check "commits of 64 fills: $before, in $seconds s" test "$before" -ge 1 -a "$before" -le $((seconds + 2))
	dmsetup remove x
	rm "$file"
}

blocks()
{
	stat -c '%b' "$1"
}

# Thinly spread: in each other MiB a write or two. What is allocated for it, in sectors of
# 512 bytes. touches FILE WRITES [OPTIONS OF THE TABLE...]
touches()
{
	local file=$1 writes=$2 i j commands=()
	for ((i = 0; i < 8; i++)); do
		for ((j = 0; j < writes; j++)); do
			commands+=(-c "pwrite -q -b 4k $((2048 * i + 16 + 12 * j))k 4k")
		done
	done
	truncate -s 16M "$file"
	shift 2
	dev=$(loop_dev x "$file" 0 "$@")
	xfs_io -d "${commands[@]}" "$dev"
	sync "$dev"
	touched=$(blocks "$file")
	dmsetup remove x
	rm "$file"
}

chunk()
{
	local file=$2/image size behind
	note "space for a touch"
	touches "$file" 1
	# The tree of extents may have a block too.
	check "8 touches ($touched sectors)" test "$touched" -le $((8 * 8 + 8))
	if [ "$1" = xfs ]; then
		for size in default 65536 262144; do
			if [ "$size" = default ]; then
				size=$((1 << 20))
				touches "$file" 2
			else
				touches "$file" 2 chunk "$size"
			fi
			# From the first touch on; the tree of extents may have blocks too.
			check "twice 8 touches, chunk $size ($touched sectors)" \
				test "$touched" -ge $((8 * (size - 16384) / 512)) -a "$touched" -le $((8 * size / 512 + 32))
		done
	fi

	note "inside the file"
	truncate -s $((5 * 512 * 1024 + 4096)) "$file"
	dev=$(loop_dev x "$file")
	xfs_io -d -c "pwrite -q -b 4k $((5 * 512 * 1024)) 4k" "$dev"
	sync "$dev"
	behind=$(filefrag -b512 -v "$file" | awk '$1 ~ /^[0-9]+:$/ { sub(/:.*/, "", $3); if ($3 + 0 > 5128 - 1) n++ } END { print n + 0 }')
	same "extents behind the end" "$behind" 0
	check "nor too much before it" test "$(blocks "$file")" -le 2064
	dmsetup remove x
	check "the size is as it was" test "$(stat -c %s "$file")" = $((5 * 512 * 1024 + 4096))
	rm "$file"
}

pieces()
{
	sync -f "$1"
	filefrag "$1" | sed -n 's/.*: \([0-9]*\) extents* found.*/\1/p'
}

# Every block once, in the same order.
write_all()
{
	fio --name=x --filename="$1" --rw=randwrite --bs=4k --size="$2" --direct=1 --ioengine=libaio --iodepth=32 \
		--randseed="$seed" --end_fsync=1 --output="$state/fio.log"
}

# with_loop DIRECT DIR SIZE: in how many pieces a file is that is written through loop
with_loop()
{
	local loop
	truncate -s "$3" "$2/theirs"
	loop=$(losetup -f --show --direct-io="$1" "$2/theirs")
	write_all "$loop" "$3"
	losetup -d "$loop"
	pieces "$2/theirs"
	rm "$2/theirs"
	sync -f "$2"
}

fragments()
{
	local dir=$2 size=$((192 << 20)) ours theirs buffered seed
	random seed $((1 << 30))
	# The debug kernel takes too long for that.
	[ "$(rounds 2)" = 2 ] || size=$((12 << 20))
	[ -z "${DMLOOP_ALL:-}${DMLOOP_SOAK:-}" ] || size=$((1 << 30))
	note "pieces after $((size >> 20)) MiB of random first writes"
	theirs=$(with_loop on "$dir" "$size")
	if [ "$size" -ge $((1 << 30)) ]; then
		buffered=$(with_loop off "$dir" "$size")
		note "with buffered loop: $buffered"
	fi
	truncate -s "$size" "$dir/ours"
	dev=$(loop_dev x "$dir/ours")
	write_all "$dev" "$size"
	dmsetup remove x
	ours=$(pieces "$dir/ours")
	# In which order writes come to the allocator is different each time.
	check "not a tenth more than with loop: $ours, $theirs" test "$ours" -le $((theirs + theirs / 10 + 4))
}

# Where filled blocks are is asked soon, however far they are from each other: a read of one does
# not have to. MiB by MiB it would take a minute or more to get to the last ones.
far_apart()
{
	local file=$1/image i ino asked='' commands=()
	note "64 writes, a GiB from each other"
	for ((i = 0; i < 64; i++)); do
		commands+=(-c "pwrite -q -b 4k ${i}g 4k")
	done
	truncate -s 64G "$file"
	ino=$(stat -c %i "$file")
	dev=$(loop_dev x "$file")
	trace_events ext4/ext4_es_lookup_extent_enter
	trace_begin
	xfs_io -d "${commands[@]}" "$dev"
	trace_end
	check "the trace shows who asks" grep -q " ino $ino " "$tracing/trace"
	for ((i = 63; i >= 43; i--)); do
		trace_begin
		xfs_io -d -c "pread -q ${i}g 4k" "$dev"
		trace_end
		asked=$(grep -c " ino $ino " "$tracing/trace") || break
		sleep 0.5
	done
	same "times that a read had to ask, in the end" "$asked" 0
	dmsetup remove x
	rm "$file"
}

all()
{
	[ "$1" != ext4 ] || far_apart "$2"
	[ "$1" != ext4 ] || trace_events dm_loop/dm_loop_fill
	# At the edge of a hole and within it.
	batch "$2" 0
	batch "$2" 5m
	over_an_end "$1"
	[ "$1" != xfs ] || commits "$2"
	chunk "$@"
	fragments "$@"
}
for_each_fs all
