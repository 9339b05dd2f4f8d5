# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: file mode with hardly any memory: what is written above and below the device goes on, and nothing is lost
# TIMEOUT: 240

# shellcheck disable=SC2154 # state is set in lib.sh
seed=
random seed 1000000
mib=256
left=32
[ -z "${DMLOOP_TIME_FACTOR:-}" ] || { mib=128; left=64; }
event=/sys/kernel/tracing/events/vmscan/mm_vmscan_direct_reclaim_begin

# leave MIB: the rest of the memory is in a file of a tmpfs, and there is no swap.
leave()
{
	local available
	available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
	mkdir -p /mnt/hog
	mount -t tmpfs -o "size=${available}M" tmpfs /mnt/hog
	fallocate -l $((available - $1))M /mnt/hog/all
}

# Pages that were taken from somebody because others wanted one.
reclaimed()
{
	awk '/^pgsteal_(kswapd|direct) / { n += $2 } END { print n }' /proc/vmstat
}

# A line for each time that somebody had to free memory himself: how, and for whom.
trace_reclaim()
{
	echo stacktrace >"$event/trigger"
	echo 1 >"$event/enable"
	: >/sys/kernel/tracing/trace
}

end_trace()
{
	echo 0 >"$event/enable"
	echo '!stacktrace' >"$event/trigger"
}

# reclaim_of_ours [MUST]: when our workers have to free memory, they must not wait for I/O, as
# that may be their own.
reclaim_of_ours()
{
	awk '/mm_vmscan_direct_reclaim_begin: / { task = $1; sub(/.*gfp_flags=/, ""); flags[task] = $1 }
	     /<stack trace>/ { task = $1 }
	     / => dm_loop_/ { print flags[task] }' /sys/kernel/tracing/trace | sort | uniq -c >"$state/ours"
	note "$(<"$state/ours")"
	[ -z "${1:-}" ] || check "it was so in our workers" test -s "$state/ours"
	same "and waited for I/O" "$(grep -E '\<GFP_(KERNEL|USER|HIGHUSER|NOFS)|__GFP_(IO|FS)' "$state/ours" || true)" ''
}

# Through the page cache of a filesystem on the device, several times what is left.
write_a_lot()
{
	local was
	note "$1: $mib MiB, $2"
	dev=$(loop_dev x "$dir/image")
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file $3"
	make_fs ext4 "$dev"
	mkdir -p /mnt/top
	mount "$dev" /mnt/top
	leave $left
	was=$(reclaimed)
	trace_reclaim
	check "it is written" timeout 150 pattern write "$seed" 0 $((mib << 20)) >/mnt/top/data
	check "and on the disk" timeout 60 sync -f /mnt/top
	end_trace
	was=$(($(reclaimed) - was))
	note "$((was / 256)) MiB were reclaimed"
	check "memory was short" test $((was / 256)) -ge $((mib / 2))
	reclaim_of_ours "${4:-}"
	check "it is read" timeout 60 pattern check "$seed" 0 $((mib << 20)) </mnt/top/data
	umount /mnt/hog /mnt/top
	check "the filesystem in it" e2fsck -fn "$dev" >/dev/null 2>&1
	dmsetup remove x
}

dir=$(mkfs_mount btrfs)
truncate -s 512M "$dir/image"
write_a_lot btrfs "through two page caches" 0 must
cleanup_devices

dir=$(mkfs_mount xfs)
written_file "$dir/image" $((16 << 20))
cp --reflink=always "$dir/image" "$dir/clone"
truncate -s 512M "$dir/image"
write_a_lot xfs "a clone, by direct I/O" 1
