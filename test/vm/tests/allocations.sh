# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: with the option mapped the I/O path allocates no memory, under reads, writes, flushes and as swap
# LONG: counts every allocation of the kernel, with its stack
# TIMEOUT: 400
# SKIPS: debug

# shellcheck disable=SC2154 # state is set in lib.sh
# Its stacks and objects are allocated wherever something is watched, in our name.
[ ! -w /sys/kernel/debug/kmemleak ] || skip "a debug kernel allocates for itself"

# Every allocation of the kernel is counted by the calls that led to it.
tracing=/sys/kernel/tracing
hist=hist:keys=stacktrace:size=16384
events=()
for event in "$tracing"/events/{kmem/kmalloc*,kmem/kmem_cache_alloc*,kmem/mm_page_alloc,percpu/percpu_alloc_percpu,vmalloc/alloc_vmap_area}; do
	[ ! -e "$event/trigger" ] || events+=("$event")
done

count_all()
{
	local event
	# It would patch the scheduler.
	echo 0 >"$tracing/options/record-cmd"
	for event in "${events[@]}"; do
		echo "$hist" >"$event/trigger"
	done
	trap count_none EXIT
}

# The next tests do without.
count_none()
{
	local event
	for event in "${events[@]}"; do
		echo "!$hist" >"$event/trigger"
	done
}

# ours FILE: how often, and in what functions, for each stack with one of the module; the innermost
# is first. Not what an interrupt does meanwhile, or the disk with a bio that it got from us. A
# third is left out: a work item, which no bio waits for, moves the times of the file once a second.
ours()
{
	local event dropped
	for event in "${events[@]}"; do
		cat "$event/hist"
	done >"$state/hist"
	dropped=$(awk '/Dropped:/ { n += $2 } END { print n + 0 }' "$state/hist")
	# An interrupt on top of another's count loses its own; a table that is full loses thousands
	check "$dropped were not counted" test "$dropped" -lt 100
	awk '
		/^\{/ { text = ""; hit = other = touch = 0; next }
		/^\}/ {
			if (hit && !touch)
				print $NF text
			next
		}
		/^#/ || NF == 0 { next }
		/ (asm_[a-z]|__do_softirq|handle_softirqs|submit_bio)/ && !hit { other = 1 }
		/ dm_loop_(file_)?touch\+/ { touch = 1 }
		/\[dm_loop\]/ && !other { hit = 1 }
		{ sub(/\+.*/, "", $1); text = text " " $1 }' "$state/hist" | sort >"$1"
	note "$(grep -c '^}' "$state/hist") stacks, $(wc -l <"$1") of them ours"
}

# allocated COMMAND...: what we allocate until it is done, since the last look, in $allocated
allocated()
{
	"$@"
	mv "$state/after" "$state/before"
	ours "$state/after"
	allocated=$(comm -13 "$state/before" "$state/after")
}

# stat_of DEVICE FIELD: what the kernel has counted; 1 reads, 5 writes, 16 flushes
stat_of()
{
	awk -v n="$2" '{ print $n }' "/sys/dev/block/$(lsblk -dnro MAJ:MIN "$1")/stat"
}

# none COMMAND...: it makes the device do I/O, for which we allocate nothing
none()
{
	local reads writes
	reads=$(stat_of "$dev" 1) writes=$(stat_of "$dev" 5)
	allocated "$@"
	reads=$(($(stat_of "$dev" 1) - reads)) writes=$(($(stat_of "$dev" 5) - writes))
	check "$reads reads, $writes writes" test $((reads + writes)) -gt 100
	same "what we have allocated" "$allocated" ''
}

direct()
{
	# with FUA
	xfs_io -d -c "pwrite -q -V 1 -D 0 64k" "$dev"
	fio --name=x --filename="$dev" --direct=1 --ioengine=libaio --iodepth=16 --size=16M --rw=randrw --io_size=8M \
		--bsrange=4k-64k --blockalign=4k --randseed="$1" --verify=crc32c --verify_backlog=64 --fsync=4 \
		--output="$state/fio.log"
}

cached()
{
	pattern write "$1" 0 $((8 << 20)) | dd of="$dev" bs=64K iflag=fullblock conv=fsync,notrunc status=none
	drop_caches
	head -c $((8 << 20)) "$dev" | pattern check "$1" 0 $((8 << 20))
}

# What is read of the file stands in the way of a write: each goes to the worker.
while_read()
{
	local i writes=()
	for ((i = 0; i < 16; i++)); do
		writes+=(-c "pwrite -q -b 4k $((i * 64))k 4k")
	done
	for ((i = 0; i < 8; i++)); do
		dd if="$image" of=/dev/null bs=1M count=1 status=none
		xfs_io -d "${writes[@]}" "$dev"
	done
}

swapped()
{
	(
		echo "$BASHPID" >/sys/fs/cgroup/small/cgroup.procs
		exec fileop memory 20
	)
}

swap()
{
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control
	mkdir -p /sys/fs/cgroup/small
	echo $((16 << 20)) >/sys/fs/cgroup/small/memory.max
	mkswap -q "$dev"
	swapon "$dev"
	none swapped
	swapoff "$dev"
	rmdir /sys/fs/cgroup/small
}

mapped()
{
	local image=$2/image seed flushes disk
	disk=$(findmnt -no SOURCE "$2")
	random seed $((1 << 30))
	note "a first write shows"
	truncate -s 8M "$image"
	dev=$(loop_dev x "$image")
	ours "$state/after"
	allocated xfs_io -d -c "pwrite -q -b 4k 0 1m" -c fsync "$dev"
	matches "what we have allocated" "$allocated" ' dm_loop_work( |$)'
	dmsetup remove x
	rm "$image"

	written_file "$image" $((64 << 20))
	dev=$(loop_dev x "$image" 0 mapped)
	ours "$state/after"
	note "direct I/O and flushes, seed $seed"
	flushes=$(stat_of "$disk" 16)
	none direct "$seed"
	flushes=$(($(stat_of "$disk" 16) - flushes))
	check "$flushes flushes came to the disk" test "$flushes" -gt 20
	note "through the page cache of the device"
	none cached "$seed"
	note "while the file is read"
	none while_read
	check "writes dropped pages of it" test "$(status_field x invalidates)" -gt 100
	note "swap"
	swap
	same "calls of the filesystem" "$(status_field x fsyncs) $(status_field x fills) $(status_field x file_ios)" "0 0 0"
	dmsetup remove x
	rm "$image"
}

modprobe dm-loop
count_all
for_each_fs mapped
