# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: file mode with hardly any memory: what is written above and below the device goes on, and nothing is lost
# TIMEOUT: 240
# SKIPS: 6.1 6.12 7.2 debug

# shellcheck disable=SC2154 # state is set in lib.sh
# In make soak only, until it is known how seldom the OOM killer takes part.
[ "${DMLOOP_SOAK:-0}" -gt 0 ] || skip "make soak has it"

seed=
random seed 1000000
mib=256
# With less the OOM killer ends a writer now and then: what is in the page cache is dirty, and
# all the rest is the tmpfs.
left=80
[ -z "${DMLOOP_TIME_FACTOR:-}" ] || mib=128

available()
{
	awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo
}

# leave MIB: the rest of the memory is in a file of a tmpfs, and there is no swap. Not all at
# once: what is available is an estimate, and better the less there is.
leave()
{
	local i
	drop_caches
	mkdir -p /mnt/hog
	mount -t tmpfs -o size=100% tmpfs /mnt/hog
	for ((i = 0; $(available) > $1; i++)); do
		fallocate -l $((($(available) - $1 + 1) / 2 + 1))M "/mnt/hog/$i"
	done
	note "$(available) MiB are left"
}

# Pages that were taken from somebody because others wanted one.
reclaimed()
{
	awk '/^pgsteal_(kswapd|direct) / { n += $2 } END { print n }' /proc/vmstat
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
	check "it is written" timeout 150 pattern write "$seed" 0 $((mib << 20)) >/mnt/top/data
	check "and on the disk" timeout 60 sync -f /mnt/top
	was=$(($(reclaimed) - was))
	note "$((was / 256)) MiB were reclaimed"
	check "memory was short" test $((was / 256)) -ge $((mib / 2))
	check "it is read" timeout 60 pattern check "$seed" 0 $((mib << 20)) </mnt/top/data
	umount /mnt/hog /mnt/top
	check "the filesystem in it" e2fsck -fn "$dev" >/dev/null 2>&1
	dmsetup remove x
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	dir=$(mkfs_mount btrfs)
	truncate -s 512M "$dir/image"
	write_a_lot btrfs "through two page caches" 0
	cleanup_devices

	dir=$(mkfs_mount xfs)
	written_file "$dir/image" $((16 << 20))
	cp --reflink=always "$dir/image" "$dir/clone"
	truncate -s 512M "$dir/image"
	write_a_lot xfs "a clone, by direct I/O" 1
	cleanup_devices
done
