# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: in file mode a bio that direct I/O cannot do comes to its end while direct reads go on
# TIMEOUT: 240

# shellcheck disable=SC2154 # state is set in lib.sh

# reads: how many the device has done
reads()
{
	awk '{ print $1 }' "/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor x)/stat"
}

reads_on()
{
	kill -0 "$stream" 2>/dev/null || fail "the stream has ended"
	[ "$(reads)" -ge $((was + 128)) ]
}

# Until as many have ended as are under way at a time.
wait_reads()
{
	local was i
	was=$(reads)
	for ((i = 0; i < 200; i++)); do
		if reads_on; then
			return
		fi
		sleep 0.1
	done
	fail "the reads do not go on"
}

# The disk is slow for the reads alone, and lets a dozen of 128 go at a time, so that there is never
# none under way. What waits for that waits until the stream ends, after a minute.
unaligned()
{
	local fs=$1 image=$2/image offset=$3 stream seed begin ms
	random seed $((1 << 30))
	dev=$(loop_dev x "$image" "$offset")
	matches "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" '^file 1$'
	slow_disk "$(findmnt -no SOURCE "$2")"
	slowly fio --name=x --filename="$dev" --direct=1 --ioengine=libaio --iodepth=128 --rw=randread --bs=4k \
		--offset=$((4096 - offset)) --size=3M --randseed="$seed" --time_based --runtime=$((60 * ${DMLOOP_TIME_FACTOR:-1})) --output="$state/fio.log" &
	stream=$!
	note "$fs, reads with seed $seed"
	wait_reads
	begin=${EPOCHREALTIME/./}
	pattern write "$seed" 0 512 | dd of="$dev" bs=512 seek=9001 iflag=fullblock oflag=direct conv=notrunc status=none
	ms=$(((${EPOCHREALTIME/./} - begin) / 1000))
	wait_reads
	check "a write of 512 bytes took $ms ms" test "$ms" -lt 20000
	begin=${EPOCHREALTIME/./}
	check "it reads right" pattern check "$seed" 0 512 < <(dd if="$dev" bs=512 skip=9001 count=1 iflag=direct status=none)
	ms=$(((${EPOCHREALTIME/./} - begin) / 1000))
	wait_reads
	check "a read of 512 bytes took $ms ms" test "$ms" -lt 20000
	xargs kill </sys/fs/cgroup/slow/cgroup.procs
	wait "$stream" || true
	dmsetup remove x
	check "the file has it" pattern check "$seed" 0 512 < <(tail -c +$((9001 * 512 + offset + 1)) "$image" | head -c 512)
}

dir=$(mkfs_mount -d 4k ext4)
written_file "$dir/image" $((8 << 20))
unaligned ext4 "$dir" 512
cleanup_devices

dir=$(mkfs_mount -d 4k xfs)
written_file "$dir/image" $((8 << 20))
cp --reflink=always "$dir/image" "$dir/clone"
sync -f "$dir"
unaligned xfs "$dir" 0
