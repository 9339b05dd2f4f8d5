# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: who reads the backing file sees what the device has written; the times move
# TIMEOUT: 400

# shellcheck disable=SC2154 # state, host_disk and host_size are set in lib.sh
seed=
random seed 1000000

# changed FILE FORMAT OLD: the new value, when it is another (soon: it should be at once)
changed()
{
	local now i
	for ((i = 0; i < 200 * ${DMLOOP_TIME_FACTOR:-1}; i++)); do
		now=$(stat -c "$2" "$1")
		if [ "$now" != "$3" ]; then
			printf '%s\n' "$now"
			return
		fi
		sleep 0.05
	done
	fail "$2 of $1 does not change"
}

# The nanoseconds in a time as stat prints it.
ns()
{
	printf '%d\n' "$((10#${1/./}))"
}

write_one()
{
	dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct conv=notrunc status=none "$@"
}

times()
{
	local file=$1 atime m0 m1 c0 n start end i
	# The second of a write before this is over, and its times are written.
	sleep 1.3
	m0=$(stat -c %.9Y "$file") c0=$(stat -c %.9Z "$file") atime=$(stat -c %.9X "$file")
	digest "$dev" >/dev/null
	sleep 0.2
	same "mtime after a read" "$(stat -c %.9Y "$file")" "$m0"

	start=$(date +%s.%N)
	write_one
	m1=$(changed "$file" %.9Y "$m0")
	check "mtime moves at the first write" test "$(ns "$m1")" -gt $(($(ns "$start") - 10000000))
	same "ctime moves with it" "$(changed "$file" %.9Z "$c0")" "$m1"

	# At most once a second, and one for what is left behind.
	start=${EPOCHREALTIME/./}
	n=$(status_field x times)
	for ((i = 0; i < 20 || ${EPOCHREALTIME/./} - start < 1300000; i++)); do
		write_one
	done
	n=$(($(status_field x times) - n))
	end=${EPOCHREALTIME/./}
	check "$n updates in $((end - start)) us of writing" test "$n" -ge 1
	check "not more than one a second" test "$n" -le $(((end - start) / 1000000 + 1))

	# A flush does not wait for the second to be over; on a slow machine it may be over anyway.
	for ((i = 0; i < 10; i++)); do
		m0=$(stat -c %.9Y "$file")
		write_one
		m0=$(changed "$file" %.9Y "$m0")
		write_one conv=notrunc,fsync
		m1=$(changed "$file" %.9Y "$m0")
		[ $(($(ns "$m1") - $(ns "$m0"))) -ge 900000000 ] || break
	done
	check "a flush moves the time" test $(($(ns "$m1") - $(ns "$m0"))) -lt 900000000

	sleep 1.3
	m1=$(stat -c %.9Y "$file")
	blkdiscard -z -l 64K "$dev"
	m1=$(changed "$file" %.9Y "$m1")

	write_one
	m0=$(changed "$file" %.9Y "$m1")
	start=$(date +%s.%N)
	write_one
	dmsetup remove x
	check "mtime is later than the last write" test "$(ns "$(stat -c %.9Y "$file")")" -gt $(($(ns "$start") - 10000000))
	same "atime" "$(stat -c %.9X "$file")" "$atime"
}

cache()
{
	local file=$2/image
	mount -o remount,noatime "$2"
	written_file "$file" $((1 << 20))
	dev=$(loop_dev x "$file")
	note "all is written"
	check "each write is seen" coherence "$dev" "$file" 100 "$seed"
	check "pages were dropped" test "$(status_field x invalidates)" -gt 0
	same "the data when nothing is cached" "$(drop_caches; digest "$file")" "$(digest "$dev")"
	note "the times"
	times "$file"

	note "holes"
	truncate -s 0 "$file"
	truncate -s 1M "$file"
	dev=$(loop_dev x "$file")
	if [ "$1" = ext4 ]; then
		check "each write is seen" coherence "$dev" "$file" 40 "$seed"
	else
		# What is filled is seen when it is committed: after a flush, or a second.
		cat "$file" >/dev/null
		pattern write "$seed" 0 65536 | dd of="$dev" bs=64K iflag=fullblock oflag=direct conv=notrunc,fsync status=none
		check "seen after a flush" pattern check "$seed" 0 65536 <"$file"
		cat "$file" >/dev/null
		pattern write "$seed" 0 65536 | dd of="$dev" bs=64K seek=8 iflag=fullblock oflag=direct conv=notrunc status=none
		for ((i = 0; i < 40; i++)); do
			! pattern check "$seed" 0 65536 < <(tail -c +524289 "$file") || break
			sleep 0.1
		done
		check "seen without one" pattern check "$seed" 0 65536 < <(tail -c +524289 "$file")
		# A load: it ends where a write is not seen at once, which is not promised here
		coherence "$dev" "$file" 20 "$seed" || true
		sync "$dev"
	fi
	same "the data" "$(digest "$file")" "$(digest "$dev")"
	same "the data when nothing is cached" "$(drop_caches; digest "$file")" "$(digest "$dev")"
	dmsetup remove x
}
for_each_fs cache ext4 xfs

# A lease to read says that nobody writes the file: it is taken back when the device does.
lease()
{
	local i
	note "a lease"
	written_file "$2/image" 65536
	dev=$(loop_dev x "$2/image")
	# shellcheck disable=SC2016,SC2154 # perl's; state is set in lib.sh
	perl -e 'open(F, "<", $ARGV[0]) or die "$!\n";
		$SIG{IO} = sub { exit 0 };
		fcntl(F, 1024, 0) or die "$!\n";
		system("touch", $ARGV[1]);
		sleep 60; exit 1' "$2/image" "$state/leased" &
	for ((i = 0; i < 300; i++)); do
		[ ! -e "$state/leased" ] || break
		sleep 0.1
	done
	check "it was given" test -e "$state/leased"
	write_one
	check "it is taken back" wait $!
	rm "$state/leased"
	dmsetup remove x
}
for_each_fs lease ext4 xfs tmpfs

# sector_of BYTE: is that on the disk
sector_of()
{
	drop_caches
	cmp <(head -c 512 /dev/zero | tr '\0' "$1") <(dd if="$dev" bs=512 skip=2048 count=1 iflag=direct status=none)
}

# verity BLOCK-SIZE. When fs-verity is enabled ext4 writes zeroes behind the end to the block there,
# before there is room for the tree. That block must not come to the disk over what is written after it was read.
verity()
{
	local image=/mnt/host/image kib n writer
	note "fs-verity fails, blocks of $1"
	host_fs ext4 -O verity -b "$1"
	# The sector that is written is in the last block, and where that has several pages not in the last page.
	written_file "$image" $(((1 << 20) + $1 / 2 + 512))
	kib=$((host_size / 4))
	for ((n = 0; kib >= 4; n++)); do
		fallocate -l "${kib}K" "/mnt/host/filler$n" 2>/dev/null || kib=$((kib / 2))
	done
	sync -f /mnt/host
	dev=$(loop_dev x "$image")
	fails ENOSPC fileop verity "$image"
	xfs_io -d -c "pwrite -q -S 7 1m 512" -c fsync "$dev"
	sync -f /mnt/host
	check "what was written then" sector_of '\7'

	note "and while that is written"
	sync -f /mnt/host
	host_is 0 "$host_size" delay "$host_disk" 0 0 "$host_disk" 0 $((8000 * ${DMLOOP_TIME_FACTOR:-1}))
	xfs_io -d -c "pwrite -q -S 6 1m 512" "$dev" >"$state/said" 2>&1 &
	writer=$!
	soon "it is on its way" writes_in_flight 1
	fails ENOSPC fileop verity "$image"
	check "it is on its way still" writes_in_flight 1
	wait "$writer" || true
	matches "it fails" "$(<"$state/said")" 'Input/output error'
	fails EIO xfs_io -d -c "pwrite -q 0 4k" "$dev"
	host_is 0 "$host_size" linear "$host_disk" 0
	dmsetup remove x
	host_gone
}
modprobe dm-delay
verity 4096
# 6.1 and 6.12 have no blocks larger than a page.
[[ "$(uname -r)" == 6.* ]] || verity 16384
